/* SPDX-License-Identifier: MIT */
/*
 * Invariants: whatever the state, a pick names paths that fit, are usable and
 * whose pace is ready; one only, but for redundant; a wait is for a later time at
 * which the packet is taken, or for an ACK where a window is full or a depth
 * reached, or a better path's window; credits stay bounded.
 *
 * Input: the scheduler's number, now (8 bytes), depth, nothing (4 each), count,
 * then the paths as struct raw_path, then steps of 12 bytes.
 */
#include "multipath/scheduler.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define CREDIT_BOUND (INT64_C(1) << 29)

struct raw_path {
	uint64_t delay_us, in_flight_bytes, window_bytes, next_ns, rate_bps;
	uint32_t flags, tier, weight, srtt_us, max_packet_bytes, acked_seq, base_us;
} __attribute__((packed));

struct raw_head {
	uint8_t kind, count;
	uint64_t now_ns;
	uint32_t depth, spare;
} __attribute__((packed));

struct raw_step {
	uint32_t bytes, seq;
	uint16_t queued_packets, pass_us;
} __attribute__((packed));

static uint32_t fitting(const struct ws_sched *sched, uint32_t bytes)
{
	uint32_t paths = 0;

	for (uint32_t i = 0; i < sched->count; i++)
		if (sched->paths[i].usable && bytes <= sched->paths[i].max_packet_bytes)
			paths |= 1u << i;
	return paths;
}

static bool something_in_flight(const struct ws_sched *sched)
{
	for (uint32_t i = 0; i < sched->count; i++)
		if (sched->paths[i].usable && sched->paths[i].in_flight_bytes)
			return true;
	return false;
}

static void check_wait(const struct ws_sched *sched, const struct raw_step *step,
		       uint64_t queued_bytes, uint64_t now_ns, uint64_t wake_ns)
{
	struct ws_sched later = *sched;
	uint64_t again_ns;

	if (!fitting(sched, step->bytes)) {
		if (wake_ns != (ws_sched_usable(sched) ? 0 : UINT64_MAX))
			abort();
		return;
	}
	if (wake_ns == UINT64_MAX) {
		for (uint32_t i = 0; i < sched->count; i++)
			if (sched->paths[i].pace.next_ns == UINT64_MAX)
				return; /* never comes round, as it was told */
		if (!something_in_flight(sched))
			abort();
		return;
	}
	if (wake_ns <= now_ns)
		abort();
	/* Taken then, or an ACK is on its way that a nearer path is waited for with. */
	if (!ws_sched_pick(&later, step->bytes, queued_bytes, step->seq, wake_ns, &again_ns) &&
	    !something_in_flight(sched))
		abort();
}

static void take(struct ws_sched *sched, const struct raw_step *step, uint64_t now_ns)
{
	uint64_t queued_bytes = (uint64_t)step->bytes * step->queued_packets, wake_ns;
	uint32_t picked =
		ws_sched_pick(sched, step->bytes, queued_bytes, step->seq, now_ns, &wake_ns);
	int urgent = ws_sched_urgent(sched, step->bytes, step->seq);

	if (picked & ~fitting(sched, step->bytes))
		abort();
	if (sched->kind != WS_SCHED_REDUNDANT && picked & (picked - 1))
		abort();
	if ((urgent >= 0) != (fitting(sched, step->bytes) != 0))
		abort();
	if (!picked)
		check_wait(sched, step, queued_bytes, now_ns, wake_ns);
	for (uint32_t i = 0; i < WS_SCHED_PATHS; i++) {
		if (picked >> i & 1 && !ws_pace_ready(&sched->paths[i].pace, now_ns))
			abort();
		if (picked >> i & 1)
			ws_sched_sent(sched, i, step->bytes, step->seq, now_ns);
	}
	if (urgent >= 0 && step->pass_us & 1)
		ws_sched_sent(sched, (uint32_t)urgent, step->bytes, step->seq, now_ns);
	for (uint32_t i = 0; i < WS_SCHED_PATHS; i++)
		if (sched->credit[i] > CREDIT_BOUND || sched->credit[i] < -CREDIT_BOUND)
			abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ws_sched sched = {0};
	struct raw_head head;
	struct raw_step step;
	uint64_t now_ns;

	if (size < sizeof(head))
		return 0;
	memcpy(&head, data, sizeof(head));
	data += sizeof(head), size -= sizeof(head);
	sched.kind = (enum ws_scheduler)(head.kind % 5);
	sched.count = head.count % (WS_SCHED_PATHS + 1);
	sched.depth = head.depth;
	now_ns = head.now_ns;
	for (uint32_t i = 0; i < sched.count; i++) {
		struct ws_sched_path *path = &sched.paths[i];
		struct raw_path raw;

		if (size < sizeof(raw))
			return 0;
		memcpy(&raw, data, sizeof(raw));
		data += sizeof(raw), size -= sizeof(raw);
		path->usable = raw.flags & 1;
		path->degraded = raw.flags & 2;
		path->tier = raw.tier;
		path->weight = raw.weight;
		path->srtt_us = raw.srtt_us;
		path->delay_us = (int64_t)raw.delay_us;
		path->in_flight_bytes = raw.in_flight_bytes;
		path->window_bytes = raw.window_bytes;
		path->max_packet_bytes = raw.max_packet_bytes;
		path->acked_seq = raw.acked_seq;
		path->starting = raw.flags & 4;
		path->silent_us = raw.flags & 8 ? raw.srtt_us : 0;
		path->rate_bps = raw.rate_bps;
		path->base_us = raw.base_us;
		path->pace = (struct ws_pace){.next_ns = raw.next_ns, .rate_bps = raw.rate_bps};
	}
	for (; size >= sizeof(step); data += sizeof(step), size -= sizeof(step)) {
		memcpy(&step, data, sizeof(step));
		take(&sched, &step, now_ns);
		now_ns += step.pass_us * UINT64_C(1000);
	}
	return 0;
}
