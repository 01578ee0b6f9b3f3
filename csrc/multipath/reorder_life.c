/* SPDX-License-Identifier: MIT */
/*
 * A reordering buffer is made, set, and begins: with the first packet, where its peer says, or
 * behind what went another way.
 */
#include "multipath/reorder_internal.h"

#include <stdlib.h>
#include <sys/mman.h>

#define PAGE_MOST 65536 /* the largest page that a machine has */

_Static_assert(SLOTS *WS_LINE_BYTES % PAGE_MOST == 0, "whole pages");

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
	ws_reorder_settle(r);
}

void ws_reorder_reset(struct ws_reorder *r)
{
	if (r->held)
		ws_reorder_give_up(r, r->top, false, 0);
	ws_reorder_settle(r);
	r->started = false;
	r->next = 0;
	r->seen = 0;
	r->refused_run = 0;
}

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
	r->stride = ws_lines(slot_bytes);
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
	r->settings.depth = 1;
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
