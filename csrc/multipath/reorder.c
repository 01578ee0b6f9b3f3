/* SPDX-License-Identifier: MIT */
/* Packets come, wait, are delivered in order or given up: docs/multipath.md section 10. */
#include "multipath/reorder_internal.h"

#include "packet/counters.h"

#include <string.h>

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
void ws_reorder_settle(struct ws_reorder *r)
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

void ws_reorder_give_up(struct ws_reorder *r, uint64_t seq, bool full, uint64_t now_ns)
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
	ws_reorder_give_up(r, *seq, false, now_ns);
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
		ws_reorder_give_up(r, seq - SPAN + 1, true, now_ns);
	if (seq > r->next && known(r, seq)) {
		ws_add(r->stats.duplicates, 1);
		return true;
	}
	while (r->held >= r->settings.depth && seq > r->next) {
		uint64_t oldest = oldest_held(r);

		ws_reorder_give_up(r, oldest < seq ? oldest : seq, true, now_ns);
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
	ws_reorder_settle(r);
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
		ws_reorder_give_up(r, seq, false, now_ns);
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
		ws_reorder_give_up(r, oldest_held(r), false, now_ns);
		ws_reorder_settle(r);
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
