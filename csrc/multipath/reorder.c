/* SPDX-License-Identifier: MIT */
/*
 * What is known of each seq is one bit of a ring: behind the seq awaited it
 * says "delivered" (0: skipped), ahead of it "held". The packets themselves
 * lie in a pool of slots, taken last in first out, so that a buffer that holds
 * little touches little memory.
 */
#include "multipath/reorder.h"

#include "packet/counters.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define SPAN WS_REORDER_SPAN /* twice the depth: half of what is ahead may be lost */
#define BITS (4 * SPAN)
#define WORD_BITS 64
#define WORDS (BITS / WORD_BITS)
#define MEMORY WS_REORDER_MEMORY
/*
 * Delivered slots wait for their release besides the held ones. One insert
 * before ws_reorder_must_release says so takes at most one more.
 */
#define MUST_RELEASE (WS_REORDER_MAX_DEPTH / 4)
#define SLOTS (WS_REORDER_MAX_DEPTH + MUST_RELEASE)
#define SLOT_ALIGN 64
#define PAGE_MOST 65536 /* the largest page that a machine has */

#define US_NS UINT64_C(1000)

/* What comes into reach ahead is cleared in whole words. */
_Static_assert(MEMORY <= BITS - SPAN - WORD_BITS, "what is remembered is not cleared");
_Static_assert((SPAN & (SPAN - 1)) == 0, "seqs index the ring by their low bits");
_Static_assert(SPAN >= 2 * WS_REORDER_MAX_DEPTH, "a full buffer, and as many lost");

/*
 * When the seq awaited was first passed: the arrivals that raised the highest
 * seq, oldest first, those not behind the awaited one. At most SPAN, because
 * they rise. ANY is of all held packets, the others of one path.
 */
struct passes {
	uint32_t head, tail; /* free running */
	struct {
		uint64_t seq, ns;
	} ring[SPAN];
};

enum { ANY = WS_REORDER_PATHS, PASSES };

struct slot {
	uint64_t arrived_ns;
	uint32_t len, flags; /* WS_REORDER_LOOSE: delivered out of its turn */
};

struct ws_reorder {
	struct ws_reorder_settings settings;
	ws_reorder_deliver deliver;
	void *arg;
	uint32_t slot_bytes;
	bool started;
	uint64_t next; /* the seq awaited */
	uint64_t first; /* where it began: nobody knows whether what is before came */
	uint64_t top; /* one past the highest held seq, if any is held */
	uint32_t held;
	uint64_t deadline_ns, loose_ns; /* of the oldest gap, of the first loose one */
	uint32_t seen; /* bits of paths that brought anything */
	uint64_t last_ns[WS_REORDER_PATHS];
	uint64_t highest[WS_REORDER_PATHS];
	uint32_t refused_run;
	uint64_t refused_seq;
	uint32_t free_count, unreleased_count;
	uint8_t *data;
	size_t stride;
	struct ws_reorder_stats stats;
	uint64_t words[WORDS];
	uint16_t free[SLOTS], unreleased[SLOTS];
	uint16_t slot_of[SPAN];
	struct slot slots[SLOTS];
	/* Held packets with WS_REORDER_LOOSE, as they came; those behind the awaited seq are gone. */
	uint32_t loose_head, loose_tail; /* free running */
	uint64_t loose[SPAN];
	struct passes passes[PASSES];
};

static bool known(const struct ws_reorder *r, uint64_t seq)
{
	return r->words[seq / WORD_BITS % WORDS] >> (seq % WORD_BITS) & 1;
}

static void mark(struct ws_reorder *r, uint64_t seq)
{
	r->words[seq / WORD_BITS % WORDS] |= UINT64_C(1) << (seq % WORD_BITS);
}

/* The first seq in [seq, end) that is held (or is missing); end if none. Whole words at a time. */
static uint64_t find(const struct ws_reorder *r, uint64_t seq, uint64_t end, bool held)
{
	while (seq < end) {
		uint64_t word = r->words[seq / WORD_BITS % WORDS];

		word = (held ? word : ~word) >> (seq % WORD_BITS);
		if (word) {
			seq += (uint64_t)__builtin_ctzll(word);
			return seq < end ? seq : end;
		}
		seq = (seq / WORD_BITS + 1) * WORD_BITS;
	}
	return end;
}

/* The bits that come into reach ahead are cleared: they tell of seqs BITS before. */
static void await(struct ws_reorder *r, uint64_t seq)
{
	uint64_t from = (r->next + SPAN - 1) / WORD_BITS;
	uint64_t words = (seq + SPAN - 1) / WORD_BITS - from;

	if (words > WORDS)
		words = WORDS;
	for (uint64_t i = 1; i <= words; i++)
		r->words[(from + i) % WORDS] = 0;
	r->next = seq;
}

static void pass_push(struct ws_reorder *r, unsigned who, uint64_t seq, uint64_t now_ns)
{
	struct passes *passes = &r->passes[who];

	while (passes->head != passes->tail && passes->ring[passes->head % SPAN].seq <= r->next)
		passes->head++;
	passes->ring[passes->tail % SPAN].seq = seq;
	passes->ring[passes->tail++ % SPAN].ns = now_ns;
}

/* When the seq awaited was passed, or UINT64_MAX. */
static uint64_t passed_ns(struct ws_reorder *r, unsigned who)
{
	struct passes *passes = &r->passes[who];

	while (passes->head != passes->tail && passes->ring[passes->head % SPAN].seq <= r->next)
		passes->head++;
	return passes->head == passes->tail ? UINT64_MAX : passes->ring[passes->head % SPAN].ns;
}

/* The seq of the first loose one that waits, or 0. */
static uint64_t first_loose(struct ws_reorder *r)
{
	while (r->loose_head != r->loose_tail && r->loose[r->loose_head % SPAN] < r->next)
		r->loose_head++;
	return r->loose_head == r->loose_tail ? 0 : r->loose[r->loose_head % SPAN];
}

static uint64_t loose_due_ns(struct ws_reorder *r)
{
	uint64_t seq = first_loose(r);

	if (!seq || !r->settings.loose_hold_us)
		return UINT64_MAX;
	return r->slots[r->slot_of[seq % SPAN]].arrived_ns + r->settings.loose_hold_us * US_NS;
}

/*
 * The deadline of the oldest gap. A path in use that has not passed it may do
 * so until it is idle, so the deadline is known without asking the clock.
 */
static void settle(struct ws_reorder *r)
{
	uint64_t opened, passed, loss;

	if (!r->held) {
		if (r->deadline_ns != UINT64_MAX)
			for (unsigned i = 0; i < PASSES; i++)
				r->passes[i].head = r->passes[i].tail = 0;
		r->deadline_ns = r->loose_ns = UINT64_MAX;
		r->loose_head = r->loose_tail;
		return;
	}
	opened = passed = passed_ns(r, ANY);
	for (uint32_t paths = r->seen; paths; paths &= paths - 1) {
		unsigned path = (unsigned)__builtin_ctz(paths);
		uint64_t ns = passed_ns(r, path);

		if (ns == UINT64_MAX)
			ns = r->last_ns[path] + r->settings.path_idle_us * US_NS;
		if (ns > passed)
			passed = ns;
	}
	r->deadline_ns = opened + r->settings.hold_us * US_NS;
	loss = passed + r->settings.loss_wait_us * US_NS;
	if (loss < r->deadline_ns)
		r->deadline_ns = loss;
	r->loose_ns = loose_due_ns(r);
}

static void deliver_held(struct ws_reorder *r, uint64_t now_ns)
{
	uint16_t number = r->slot_of[r->next % SPAN];
	struct slot *slot = &r->slots[number];
	uint64_t waited = now_ns > slot->arrived_ns ? (now_ns - slot->arrived_ns) / US_NS : 0;

	ws_add(r->stats.wait_us, waited);
	if (waited > r->stats.wait_max_us)
		ws_set(r->stats.wait_max_us, waited < UINT32_MAX ? (uint32_t)waited : UINT32_MAX);
	await(r, r->next + 1);
	ws_set(r->stats.depth, --r->held);
	if (!(slot->flags & WS_REORDER_LOOSE)) {
		ws_add(r->stats.delivered, 1);
		r->deliver(r->arg, r->data + number * r->stride, slot->len, slot->flags);
	}
	/* Only now: deliver may release what came before. */
	r->unreleased[r->unreleased_count++] = number;
}

static void drain(struct ws_reorder *r, uint64_t now_ns)
{
	while (r->held && known(r, r->next))
		deliver_held(r, now_ns);
}

/* Awaits `seq` or what is held from there on: delivers what is held before, skips what is missing. */
static void give_up(struct ws_reorder *r, uint64_t seq, bool full, uint64_t now_ns)
{
	while (r->next < seq) {
		uint64_t to = seq;

		drain(r, now_ns);
		if (r->next >= seq)
			return;
		if (r->held)
			to = find(r, r->next, seq < r->top ? seq : r->top, true);
		ws_add(r->stats.skipped, to - r->next);
		if (full)
			ws_add(r->stats.skipped_full, to - r->next);
		await(r, to);
	}
	drain(r, now_ns);
}

static uint64_t oldest_held(const struct ws_reorder *r)
{
	return find(r, r->next, r->top, true);
}

static void start_at(struct ws_reorder *r, uint64_t seq)
{
	memset(r->words, 0, sizeof(r->words));
	r->started = true;
	r->next = r->first = seq;
}

/* The 64-bit seq; false: refused. */
static bool locate(struct ws_reorder *r, uint32_t low, uint64_t now_ns, uint64_t *seq)
{
	if (!r->started)
		start_at(r, (UINT64_C(1) << 32) | low); /* room for what is behind it */
	*seq = r->next + (uint64_t)(int64_t)(int32_t)(low - (uint32_t)r->next);
	if (*seq < r->next) {
		if (r->next - *seq <= WS_REORDER_RANGE)
			return true;
		ws_add(r->stats.refused, 1);
		return false;
	}
	if (*seq - r->next <= WS_REORDER_RANGE) {
		r->refused_run = 0;
		return true;
	}
	if (*seq + WS_REORDER_RANGE < r->refused_seq || *seq > r->refused_seq + WS_REORDER_RANGE)
		r->refused_run = 0;
	r->refused_seq = *seq;
	if (++r->refused_run < WS_REORDER_FOLLOW) {
		ws_add(r->stats.refused, 1);
		return false;
	}
	/* The sender went on without us, long ago. */
	r->refused_run = 0;
	give_up(r, *seq, false, now_ns);
	return true;
}

/* A seq behind the awaited one. */
static void behind(struct ws_reorder *r, uint64_t seq, uint8_t *packet, size_t len, uint32_t flags,
		   bool deliver)
{
	if (r->next - seq > MEMORY) { /* might be a copy */
		ws_add(r->stats.late, 1);
		return;
	}
	if (known(r, seq)) {
		ws_add(r->stats.duplicates, 1);
		return;
	}
	ws_add(r->stats.late, 1);
	if (!deliver)
		return;
	mark(r, seq);
	ws_add(r->stats.delivered, 1);
	r->deliver(r->arg, packet, len, flags & ~WS_REORDER_LOOSE);
}

static void straight(struct ws_reorder *r, uint8_t *packet, size_t len, uint32_t flags,
		     uint64_t now_ns)
{
	if (r->held && known(r, r->next + 1))
		ws_add(r->stats.gaps_filled, 1);
	mark(r, r->next);
	await(r, r->next + 1);
	ws_add(r->stats.in_order, 1);
	ws_add(r->stats.delivered, 1);
	r->deliver(r->arg, packet, len, flags & ~WS_REORDER_LOOSE);
	drain(r, now_ns);
}

/* False: no slot, because nothing was released. */
static bool hold(struct ws_reorder *r, uint64_t seq, const uint8_t *packet, size_t len,
		 uint32_t flags, uint64_t now_ns)
{
	uint16_t number;
	bool last = !r->held || seq >= r->top;

	if (!r->free_count)
		return false;
	number = r->free[--r->free_count];
	if (last) {
		if (!r->held || seq > r->top)
			ws_add(r->stats.gaps, 1);
		r->top = seq + 1;
		pass_push(r, ANY, seq, now_ns);
	} else { /* cuts a gap in two, or fills it, or shortens it */
		bool before = known(r, seq - 1), after = known(r, seq + 1);

		if (!before && !after)
			ws_add(r->stats.gaps, 1);
		if (before && after)
			ws_add(r->stats.gaps_filled, 1);
	}
	memcpy(r->data + number * r->stride, packet, len);
	r->slots[number] = (struct slot){
		.arrived_ns = now_ns, .len = (uint32_t)len, .flags = flags & ~WS_REORDER_LOOSE};
	if (flags & WS_REORDER_LOOSE && r->settings.loose_hold_us) {
		if (r->loose_tail - r->loose_head == SPAN)
			r->loose_head++;
		r->loose[r->loose_tail++ % SPAN] = seq;
	}
	r->slot_of[seq % SPAN] = number;
	mark(r, seq);
	ws_add(r->stats.held, 1);
	ws_set(r->stats.depth, ++r->held);
	if (r->held > r->stats.depth_max)
		ws_set(r->stats.depth_max, r->held);
	return true;
}

/* False: refused, and no evidence of anything. */
static bool place(struct ws_reorder *r, uint64_t seq, uint8_t *packet, size_t len, uint32_t flags,
		  uint64_t now_ns)
{
	if (seq != r->next && len > r->slot_bytes)
		return false;
	if (seq < r->next) {
		behind(r, seq, packet, len, flags, r->settings.deliver_late);
		return true;
	}
	if (seq - r->next >= SPAN)
		give_up(r, seq - SPAN + 1, true, now_ns);
	if (seq > r->next && known(r, seq)) {
		ws_add(r->stats.duplicates, 1);
		return true;
	}
	while (r->held >= r->settings.depth && seq > r->next) {
		uint64_t oldest = oldest_held(r);

		give_up(r, oldest < seq ? oldest : seq, true, now_ns);
	}
	if (seq == r->next) {
		straight(r, packet, len, flags, now_ns);
		return true;
	}
	return hold(r, seq, packet, len, flags, now_ns);
}

static void brought(struct ws_reorder *r, uint32_t path, uint64_t seq, uint64_t now_ns)
{
	if (path >= WS_REORDER_PATHS)
		return;
	r->last_ns[path] = now_ns;
	if (r->seen >> path & 1 && seq <= r->highest[path])
		return;
	r->seen |= 1u << path;
	r->highest[path] = seq;
	if (seq > r->next)
		pass_push(r, path, seq, now_ns);
}

void ws_reorder_insert(struct ws_reorder *r, uint32_t path, uint32_t low, bool again,
		       uint8_t *packet, size_t len, uint32_t flags, uint64_t now_ns)
{
	uint64_t seq;

	if (again && !r->started) {
		ws_add(r->stats.duplicates, 1);
		return;
	}
	if (locate(r, low, now_ns, &seq)) {
		if (again && seq < r->first)
			ws_add(r->stats.duplicates, 1);
		else if (!place(r, seq, packet, len, flags, now_ns))
			ws_add(r->stats.refused, 1);
		else if (!again)
			brought(r, path, seq, now_ns);
	}
	settle(r);
}

void ws_reorder_pass(struct ws_reorder *r, uint32_t path, uint32_t low, uint8_t *packet, size_t len,
		     uint32_t flags, uint64_t now_ns)
{
	uint64_t seq;

	if (r->held) {
		ws_reorder_insert(r, path, low, false, packet, len, flags, now_ns);
		return;
	}
	if (!locate(r, low, now_ns, &seq))
		return;
	if (seq < r->next) {
		behind(r, seq, packet, len, flags, true);
	} else {
		give_up(r, seq, false, now_ns);
		straight(r, packet, len, flags, now_ns);
	}
	brought(r, path, seq, now_ns);
}

/* They stay where they are: their seq is known, and their turn passes without them. */
static void let_loose(struct ws_reorder *r, uint64_t now_ns)
{
	for (; loose_due_ns(r) <= now_ns; r->loose_head++) {
		uint16_t number = r->slot_of[r->loose[r->loose_head % SPAN] % SPAN];
		struct slot *slot = &r->slots[number];
		uint32_t flags = slot->flags;

		slot->flags |= WS_REORDER_LOOSE;
		ws_add(r->stats.delivered, 1);
		ws_add(r->stats.loose, 1);
		r->deliver(r->arg, r->data + number * r->stride, slot->len, flags);
	}
	r->loose_ns = loose_due_ns(r);
}

void ws_reorder_expire(struct ws_reorder *r, uint64_t now_ns)
{
	while (r->held && now_ns >= r->deadline_ns) {
		give_up(r, oldest_held(r), false, now_ns);
		settle(r);
	}
	if (r->held && now_ns >= r->loose_ns)
		let_loose(r, now_ns);
}

uint64_t ws_reorder_deadline(const struct ws_reorder *r)
{
	return r->deadline_ns < r->loose_ns ? r->deadline_ns : r->loose_ns;
}

void ws_reorder_released(struct ws_reorder *r)
{
	memcpy(r->free + r->free_count, r->unreleased, r->unreleased_count * sizeof(*r->free));
	r->free_count += r->unreleased_count;
	r->unreleased_count = 0;
}

bool ws_reorder_must_release(const struct ws_reorder *r)
{
	return r->unreleased_count >= MUST_RELEASE;
}

uint32_t ws_reorder_next(const struct ws_reorder *r)
{
	return (uint32_t)r->next;
}

static uint32_t ranges(const struct ws_reorder *r, uint64_t end, struct ws_reorder_gap *gaps,
		       uint32_t max)
{
	uint64_t seq = r->next;
	uint32_t count = 0;

	if (max > WS_REORDER_MAX_GAPS)
		max = WS_REORDER_MAX_GAPS;
	while (count < max && (seq = find(r, seq, end, false)) < end) {
		uint64_t past = find(r, seq, end, true);

		gaps[count].first = (uint32_t)seq;
		gaps[count++].count = (uint16_t)(past - seq); /* < SPAN */
		seq = past;
	}
	return count;
}

uint32_t ws_reorder_missing(const struct ws_reorder *r, struct ws_reorder_gap *gaps, uint32_t max)
{
	return r->held ? ranges(r, r->top, gaps, max) : 0;
}

uint32_t ws_reorder_gaps(const struct ws_reorder *r, struct ws_reorder_gap *gaps, uint32_t max,
			 uint64_t now_ns)
{
	uint64_t end = r->top;

	if (!r->held)
		return 0;
	for (uint32_t paths = r->seen; paths; paths &= paths - 1) {
		unsigned path = (unsigned)__builtin_ctz(paths);

		if (now_ns > r->last_ns[path] + r->settings.path_idle_us * US_NS)
			continue;
		if (r->highest[path] < end)
			end = r->highest[path];
	}
	return ranges(r, end, gaps, max);
}

const struct ws_reorder_stats *ws_reorder_stats(const struct ws_reorder *r)
{
	return &r->stats;
}

void ws_reorder_set(struct ws_reorder *r, const struct ws_reorder_settings *settings)
{
	r->settings = *settings;
	if (r->settings.depth < 1)
		r->settings.depth = 1;
	if (r->settings.depth > WS_REORDER_MAX_DEPTH)
		r->settings.depth = WS_REORDER_MAX_DEPTH;
	settle(r);
}

void ws_reorder_reset(struct ws_reorder *r)
{
	if (r->held)
		give_up(r, r->top, false, 0);
	settle(r);
	r->started = false;
	r->next = 0;
	r->seen = 0;
	r->refused_run = 0;
}

_Static_assert(SLOTS *SLOT_ALIGN % PAGE_MOST == 0, "whole pages");

void ws_reorder_forget(struct ws_reorder *r)
{
	if (r->free_count == SLOTS)
		(void)madvise(r->data, r->stride * SLOTS, MADV_DONTNEED);
}

void ws_reorder_start(struct ws_reorder *r, uint32_t low)
{
	ws_reorder_reset(r);
	start_at(r, (UINT64_C(1) << 32) | low);
	r->top = r->next;
}

void ws_reorder_went_by(struct ws_reorder *r, uint32_t first, uint32_t next)
{
	int64_t ahead = (int32_t)(first - (uint32_t)r->next);
	uint32_t count = next - first;
	uint64_t seq;

	if (!r->started || count >= MEMORY || ahead > WS_REORDER_RANGE ||
	    ahead < -(int64_t)WS_REORDER_RANGE) {
		ws_reorder_start(r, next);
		if (count > MEMORY)
			count = MEMORY;
		for (seq = r->next - count; seq < r->next; seq++)
			mark(r, seq);
		return;
	}
	seq = r->next + (uint64_t)ahead;
	/* What is missing before the first may still come: it is behind now, and unknown. */
	if (seq > r->next)
		await(r, seq);
	for (; count; count--, seq++) {
		if (seq + MEMORY >= r->next)
			mark(r, seq);
		if (seq >= r->next)
			await(r, seq + 1);
	}
	r->top = r->next;
	r->seen = 0;
	r->refused_run = 0;
}

struct ws_reorder *ws_reorder_new(uint32_t slot_bytes, ws_reorder_deliver deliver, void *arg)
{
	struct ws_reorder *r = calloc(1, sizeof(*r));
	uint8_t *data;

	if (!r)
		return NULL;
	r->stride = ((size_t)slot_bytes + SLOT_ALIGN - 1) / SLOT_ALIGN * SLOT_ALIGN;
	/* So large that the allocator maps it afresh: no page is there before it is written. */
	data = aligned_alloc(PAGE_MOST, r->stride * SLOTS);
	if (!data) {
		free(r);
		return NULL;
	}
	r->data = data;
	r->slot_bytes = slot_bytes;
	r->deliver = deliver;
	r->arg = arg;
	r->deadline_ns = r->loose_ns = UINT64_MAX;
	r->settings = (struct ws_reorder_settings){
		.depth = 128, .hold_us = 50000, .loss_wait_us = 5000, .path_idle_us = 200000};
	for (uint32_t i = 0; i < SLOTS; i++)
		r->free[i] = (uint16_t)(SLOTS - 1 - i);
	r->free_count = SLOTS;
	return r;
}

void ws_reorder_free(struct ws_reorder *r)
{
	if (!r)
		return;
	free(r->data);
	free(r);
}
