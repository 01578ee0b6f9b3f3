/* SPDX-License-Identifier: MIT */
#include "packet/gate.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "shared/ladder.h"

#define SECOND 1000000000ULL
#define WAYS 4
#define AWAIT_SETS 16384 /* of WAYS; a peer has one message out */
#define KNOWN_SETS 65536 /* of WAYS */

/* rate a second, burst of so many */
#define BUCKET(rate, burst)                                                                        \
	{                                                                                          \
		SECOND / (rate), SECOND / (rate) * (burst)                                         \
	}

static const struct ws_bucket verified_source = BUCKET(20, 200);
static const struct ws_bucket verified_all = BUCKET(200, 600);
static const struct ws_bucket known_source = BUCKET(5, 50);
static const struct ws_bucket known_all = BUCKET(100, 500);
static const struct ws_bucket known_ask_source = BUCKET(20, 50);
static const struct ws_bucket known_ask_all = BUCKET(500, 500);
/* What a flood may cost until it is known to be one, and then goes on to cost. */
static const struct ws_bucket strangers_all = BUCKET(20, 500);
/* Those that pass beside being asked. */
static const struct ws_bucket quiet_network = {2 * SECOND, 10 * SECOND};
static const struct ws_bucket quiet_all = BUCKET(10, 50);
static const struct ws_bucket bootstrap_source = BUCKET(5, 50);
static const struct ws_bucket bootstrap_all = BUCKET(50, 500);

struct ws_gate {
	uint64_t seed;
	/* The buckets' tokens are drawn as shared/ladder.h does it, by compare and swap. */
	__u64 verified, known, known_ask, strangers, quiet, bootstrap;
	__u64 verified_cell[WS_LADDER_CELLS], known_cell[WS_LADDER_CELLS];
	__u64 known_ask_cell[WS_LADDER_CELLS], quiet_cell[WS_LADDER_CELLS];
	__u64 bootstrap_cell[WS_LADDER_CELLS];
	struct ws_ladder ladder;
	/* id << 32 | the second it ends, 26 bits | answers left, 6 bits; 0: free */
	_Atomic uint64_t awaited[AWAIT_SETS][WAYS];
	/* The address's hash, never 0; 0: free. Two with one hash are both known: no harm. */
	_Atomic uint64_t address[KNOWN_SETS][WAYS];
};

struct ws_gate *ws_gate_new(void)
{
	struct ws_gate *gate = mmap(NULL, sizeof(*gate), PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (gate == MAP_FAILED)
		return NULL;
	if (getrandom(&gate->seed, sizeof(gate->seed), 0) != sizeof(gate->seed)) {
		ws_gate_free(gate);
		return NULL;
	}
	return gate;
}

void ws_gate_free(struct ws_gate *gate)
{
	if (gate)
		munmap(gate, sizeof(*gate));
}

static void to_ip(const struct ws_addr *addr, struct ws_ip *ip)
{
	memset(ip, 0, sizeof(*ip));
	if (addr->family == 6) {
		memcpy(ip, addr->ip, sizeof(*ip));
	} else {
		memset((uint8_t *)ip + 10, 0xff, 2);
		memcpy(&ip->word[3], addr->ip, 4);
	}
}

/* Both, or neither that can be told. */
static bool take2(__u64 *all, const struct ws_bucket *all_bucket, __u64 *cell,
		  const struct ws_bucket *cell_bucket, uint64_t now)
{
	return !ws_bucket_over(*(volatile __u64 *)cell, cell_bucket, now, 1) &&
	       ws_bucket_take(all, all_bucket, now, 1) && ws_bucket_take(cell, cell_bucket, now, 1);
}

static uint32_t stranger(struct ws_gate *gate, const struct ws_ip *ip, uint64_t now)
{
	uint32_t verdict = WS_GATE_ASK;
	int rung;

	if (ws_bucket_take(&gate->strangers, &strangers_all, now, 1))
		return WS_GATE_PASS;
	rung = ws_ladder_climb(&gate->ladder, ip, gate->seed, now, 1);
	if (!rung)
		return WS_GATE_REFUSE;
	if (rung == 1) {
		__u64 *cell = &gate->quiet_cell[ws_ladder_cell(ip, gate->seed, 0, 24, 52)];

		if (take2(&gate->quiet, &quiet_all, cell, &quiet_network, now))
			verdict |= WS_GATE_PASS;
	}
	return verdict;
}

uint32_t ws_gate_initiation(struct ws_gate *gate, const struct ws_addr *source, bool verified,
			    uint64_t now_ns, uint32_t *source_class)
{
	struct ws_ip ip;
	uint32_t cell;

	to_ip(source, &ip);
	cell = ws_ladder_cell(&ip, gate->seed, 3, 0, 0);
	if (verified) {
		*source_class = WS_SOURCE_VERIFIED;
		return take2(&gate->verified, &verified_all, &gate->verified_cell[cell],
			     &verified_source, now_ns)
			       ? WS_GATE_PASS
			       : WS_GATE_REFUSE;
	}
	if (!ws_gate_knows(gate, source)) {
		*source_class = WS_SOURCE_STRANGER;
		return stranger(gate, &ip, now_ns);
	}
	*source_class = WS_SOURCE_KNOWN;
	if (take2(&gate->known, &known_all, &gate->known_cell[cell], &known_source, now_ns))
		return WS_GATE_PASS;
	return take2(&gate->known_ask, &known_ask_all, &gate->known_ask_cell[cell],
		     &known_ask_source, now_ns)
		       ? WS_GATE_ASK
		       : WS_GATE_REFUSE;
}

void ws_gate_genuine(struct ws_gate *gate, uint32_t source_class)
{
	if (source_class == WS_SOURCE_STRANGER)
		__sync_fetch_and_sub(&gate->strangers, strangers_all.interval_ns);
	else if (source_class == WS_SOURCE_KNOWN)
		__sync_fetch_and_sub(&gate->known, known_all.interval_ns);
	else if (source_class == WS_SOURCE_VERIFIED)
		__sync_fetch_and_sub(&gate->verified, verified_all.interval_ns);
}

bool ws_gate_bootstrap(struct ws_gate *gate, const struct ws_addr *source, uint64_t now_ns)
{
	struct ws_ip ip;

	to_ip(source, &ip);
	return take2(&gate->bootstrap, &bootstrap_all,
		     &gate->bootstrap_cell[ws_ladder_cell(&ip, gate->seed, 3, 0, 0)],
		     &bootstrap_source, now_ns);
}

/* addresses of peers */

static uint64_t hash(const struct ws_gate *gate, const struct ws_addr *addr)
{
	struct ws_ip ip;
	uint64_t h = gate->seed;

	to_ip(addr, &ip);
	for (int i = 0; i < 4; i++) {
		h = (h ^ ip.word[i]) * 0x9e3779b97f4a7c15ULL;
		h ^= h >> 29;
	}
	return h | 1;
}

/* The slot that has it, else NULL. */
static _Atomic uint64_t *find(const struct ws_gate *gate, uint64_t h)
{
	/* Atomics have no const reads in C11. */
	_Atomic uint64_t *set =
		((struct ws_gate *)(uintptr_t)gate)->address[(h >> 32) % KNOWN_SETS];

	for (int i = 0; i < WAYS; i++)
		if (atomic_load_explicit(&set[i], memory_order_relaxed) == h)
			return &set[i];
	return NULL;
}

void ws_gate_know(struct ws_gate *gate, const struct ws_addr *addr)
{
	uint64_t h = hash(gate, addr);
	_Atomic uint64_t *set = gate->address[(h >> 32) % KNOWN_SETS];

	if (find(gate, h))
		return;
	for (int i = 0; i < WAYS; i++)
		if (!atomic_load_explicit(&set[i], memory_order_relaxed)) {
			atomic_store_explicit(&set[i], h, memory_order_relaxed);
			return;
		}
	/* Another gives way: it is then a stranger's, which cookies let in. */
	atomic_store_explicit(&set[h >> 1 & (WAYS - 1)], h, memory_order_relaxed);
}

void ws_gate_forget(struct ws_gate *gate, const struct ws_addr *addr)
{
	_Atomic uint64_t *slot = find(gate, hash(gate, addr));

	if (slot)
		atomic_store_explicit(slot, 0, memory_order_relaxed);
}

bool ws_gate_knows(const struct ws_gate *gate, const struct ws_addr *addr)
{
	return find(gate, hash(gate, addr)) != NULL;
}

/* answers */

#define ANSWERS_MASK 63u
#define END_MASK 0x3ffffffu

static _Atomic uint64_t *awaited_set(struct ws_gate *gate, uint32_t id)
{
	return gate->awaited[ws_ladder_mix(id, gate->seed) % AWAIT_SETS];
}

static uint32_t seconds(uint64_t now_ns)
{
	return (uint32_t)(now_ns / SECOND) & END_MASK;
}

/* Seconds left; 0: over, or of another time. A worker's clock may be a little behind. */
static uint32_t left(uint64_t entry, uint64_t now_ns)
{
	uint32_t s = ((uint32_t)entry >> 6) - seconds(now_ns);

	s &= END_MASK;
	return entry && s <= WS_AWAIT_NS / SECOND + 2 ? s : 0;
}

void ws_gate_await(struct ws_gate *gate, uint32_t id, uint64_t now_ns)
{
	_Atomic uint64_t *set = awaited_set(gate, id);
	uint32_t end = seconds(now_ns + WS_AWAIT_NS), least = UINT32_MAX;
	int chosen = 0;

	/* One writer: the controlling thread. */
	for (int i = 0; i < WAYS; i++) {
		uint64_t entry = atomic_load_explicit(&set[i], memory_order_relaxed);
		uint32_t s = left(entry, now_ns);

		if (s && entry >> 32 == id) {
			chosen = i;
			break;
		}
		if (s < least) {
			least = s;
			chosen = i;
		}
	}
	atomic_store_explicit(&set[chosen],
			      (uint64_t)id << 32 | (uint64_t)end << 6 | WS_AWAIT_ANSWERS,
			      memory_order_release);
}

bool ws_gate_awaited(struct ws_gate *gate, uint32_t id, uint64_t now_ns)
{
	_Atomic uint64_t *set = awaited_set(gate, id);

	for (int i = 0; i < WAYS; i++) {
		uint64_t entry = atomic_load_explicit(&set[i], memory_order_acquire);

		if (entry >> 32 != id || !left(entry, now_ns) || !(entry & ANSWERS_MASK))
			continue;
		return atomic_compare_exchange_strong(&set[i], &entry, entry - 1);
	}
	return false;
}
