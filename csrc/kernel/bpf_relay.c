/* SPDX-License-Identifier: MIT */
/* The maps of bpf/relay.bpf.c: bindings in, counters out. On the controlling thread. */
#include "kernel/bpf_relay.h"

#include "kernel/bpf.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* Long past what any program takes that may still read a slot. */
#define REST_NS 1000000000ULL

struct binding {
	uint32_t index; /* 0: free; its number is that of its counters too */
	uint32_t slot;
};

struct ws_bpf_relay {
	struct ws_relay_slot *slots;
	struct ws_relay_state *state;
	uint32_t used;
	struct binding bindings[WS_BPF_RELAYS];
	uint64_t rests_until_ns[WS_BPF_RELAY_SLOTS]; /* UINT64_MAX: an index leads to it */
	uint32_t next_slot;
};

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now); /* the program's clock */
	return (uint64_t)now.tv_sec * 1000000000ULL + (uint64_t)now.tv_nsec;
}

static size_t mapped_bytes(size_t count, size_t bytes)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), all = count * ((bytes + 7) & ~(size_t)7);

	return (all + page - 1) & ~(page - 1);
}

static void *map_memory(int map, size_t bytes)
{
	void *memory;

	if (map < 0)
		return NULL;
	memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, map, 0);
	return memory == MAP_FAILED ? NULL : memory;
}

struct ws_bpf_relay *ws_bpf_relay_new(const struct ws_bpf *bpf)
{
	struct ws_bpf_relay *relay = calloc(1, sizeof(*relay));

	if (!relay)
		return NULL;
	relay->slots = map_memory(bpf->map.relay_slots,
				  mapped_bytes(WS_BPF_RELAY_SLOTS, sizeof(*relay->slots)));
	relay->state = map_memory(bpf->map.relay_state, mapped_bytes(1, sizeof(*relay->state)));
	if (relay->slots && relay->state)
		return relay;
	ws_bpf_relay_free(relay);
	return NULL;
}

void ws_bpf_relay_free(struct ws_bpf_relay *relay)
{
	if (!relay)
		return;
	if (relay->slots)
		munmap(relay->slots, mapped_bytes(WS_BPF_RELAY_SLOTS, sizeof(*relay->slots)));
	if (relay->state)
		munmap(relay->state, mapped_bytes(1, sizeof(*relay->state)));
	free(relay);
}

void *ws_bpf_relay_shares(const struct ws_bpf *bpf, size_t *bytes)
{
	*bytes = mapped_bytes(WS_BPF_RELAY_SHARES, sizeof(uint64_t));
	return map_memory(bpf->map.relay_shares, *bytes);
}

bool ws_bpf_relay_ready(const struct ws_bpf *bpf)
{
	return bpf->relay != NULL;
}

void ws_bpf_relay_beat(struct ws_bpf *bpf, uint64_t until_ns, uint64_t rate_bps)
{
	if (!bpf->relay)
		return;
	__atomic_store_n(&bpf->relay->state->rate_bps, rate_bps, __ATOMIC_RELAXED);
	__atomic_store_n(&bpf->relay->state->alive_until_ns, until_ns, __ATOMIC_RELAXED);
}

static struct binding *find(struct ws_bpf_relay *relay, uint32_t index)
{
	for (uint32_t i = 0; i < WS_BPF_RELAYS; i++)
		if (relay->bindings[i].index == index)
			return &relay->bindings[i];
	return NULL;
}

static void put_place(struct ws_ip *ip, __u16 *port, const struct ws_addr *addr)
{
	ws_ip_from_addr(addr, ip);
	*port = addr->port;
}

static void fill(struct ws_relay_slot *slot, const struct ws_bpf_relay_entry *entry,
		 uint32_t counter)
{
	memset(slot, 0, sizeof(*slot));
	slot->until_ns = entry->until_ns;
	slot->index = entry->index;
	slot->counter = counter;
	slot->share = entry->sender;
	slot->ifindex = entry->ifindex;
	slot->mark = entry->mark;
	slot->mtu = entry->mtu;
	slot->most_bytes = entry->most_bytes;
	slot->place_count = entry->place_count;
	put_place(&slot->local, &slot->local_port, &entry->local);
	put_place(&slot->remote, &slot->remote_port, &entry->remote);
	ws_ip_from_addr(&entry->next_hop, &slot->next_hop);
	for (uint32_t i = 0; i < entry->place_count; i++) {
		put_place(&slot->places[i].ip, &slot->places[i].port, &entry->places[i]);
		slot->places[i].ifindex = entry->places[i].scope_id;
	}
}

/* One that nobody reads any more; -1: none yet. */
static int free_slot(struct ws_bpf_relay *relay)
{
	uint64_t now = now_ns();

	for (uint32_t i = 0; i < WS_BPF_RELAY_SLOTS; i++) {
		uint32_t slot = (relay->next_slot + i) % WS_BPF_RELAY_SLOTS;

		if (relay->rests_until_ns[slot] <= now) {
			relay->next_slot = slot + 1;
			return (int)slot;
		}
	}
	return -1;
}

static void let_rest(struct ws_bpf_relay *relay, uint32_t slot)
{
	__atomic_store_n(&relay->slots[slot].until_ns, 0, __ATOMIC_RELAXED);
	relay->rests_until_ns[slot] = now_ns() + REST_NS;
}

static int forget_tally(const struct ws_bpf *bpf, uint32_t number)
{
	memset(bpf->per_cpu, 0, (size_t)bpf->cpus * sizeof(struct ws_relay_tally));
	return ws_map_update(bpf->map.relay_tallies, &number, bpf->per_cpu);
}

int ws_bpf_relay_set(struct ws_bpf *bpf, const struct ws_bpf_relay_entry *entry)
{
	struct ws_bpf_relay *relay = bpf->relay;
	struct ws_relay_slot slot;
	struct binding *binding;
	bool fresh = false;
	uint32_t number;
	int at, error;

	if (!relay)
		return -ENOTSUP;
	if (!entry->index || !entry->place_count || entry->place_count > WS_BPF_RELAY_PLACES ||
	    entry->sender >= WS_BPF_RELAY_SHARES)
		return -EINVAL;
	binding = find(relay, entry->index);
	if (!binding) {
		fresh = true;
		binding = find(relay, 0);
		if (!binding)
			return -ENOSPC;
	}
	number = (uint32_t)(binding - relay->bindings);
	fill(&slot, entry, number);
	if (!fresh) {
		struct ws_relay_slot *now = &relay->slots[binding->slot];

		slot.until_ns = now->until_ns;
		if (!memcmp(&slot, now, sizeof(slot))) {
			__atomic_store_n(&now->until_ns, entry->until_ns, __ATOMIC_RELAXED);
			return 0;
		}
		slot.until_ns = entry->until_ns;
	}
	at = free_slot(relay);
	if (at < 0)
		return -ENOSPC;
	if (fresh) {
		error = forget_tally(bpf, number);
		if (error)
			return error;
	}
	memcpy(&relay->slots[at], &slot, sizeof(slot));
	atomic_thread_fence(memory_order_seq_cst);
	number = (uint32_t)at;
	error = ws_map_update(bpf->map.relay_bound, &entry->index, &number);
	if (error) {
		let_rest(relay, number);
		return error;
	}
	relay->rests_until_ns[at] = UINT64_MAX;
	if (fresh)
		relay->used++;
	else
		let_rest(relay, binding->slot);
	*binding = (struct binding){entry->index, number};
	return 0;
}

int ws_bpf_relay_tally(struct ws_bpf *bpf, uint32_t index, struct ws_relay_tally *tally)
{
	struct binding *binding = bpf->relay && index ? find(bpf->relay, index) : NULL;
	uint32_t number;

	if (!binding)
		return -ENOENT;
	number = (uint32_t)(binding - bpf->relay->bindings);
	return ws_map_sum(bpf, bpf->map.relay_tallies, &number, (uint64_t *)tally,
			  sizeof(*tally) / 8);
}

int ws_bpf_relay_remove(struct ws_bpf *bpf, uint32_t index, struct ws_relay_tally *last)
{
	struct binding *binding = bpf->relay && index ? find(bpf->relay, index) : NULL;

	if (!binding)
		return -ENOENT;
	(void)ws_map_delete(bpf->map.relay_bound, &index);
	let_rest(bpf->relay, binding->slot);
	if (ws_bpf_relay_tally(bpf, index, last))
		memset(last, 0, sizeof(*last));
	binding->index = 0;
	bpf->relay->used--;
	return 0;
}

uint32_t ws_bpf_relay_used(const struct ws_bpf *bpf)
{
	return bpf->relay ? bpf->relay->used : 0;
}

int ws_bpf_relay_totals(struct ws_bpf *bpf, uint64_t totals[WS_RELAY_COUNTS])
{
	if (!bpf->relay)
		return -ENOTSUP;
	for (uint32_t i = 0; i < WS_RELAY_COUNTS; i++) {
		int error = ws_map_sum(bpf, bpf->map.relay_counts, &i, &totals[i], 1);

		if (error)
			return error;
	}
	return 0;
}
