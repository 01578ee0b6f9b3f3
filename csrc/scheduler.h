/* SPDX-License-Identifier: MIT */
/*
 * (Not sched.h: that would hide the C library's <sched.h>.)
 *
 * Which path takes the next packet (docs/multipath.md section 7), and when a
 * path may take one (pacing). Pure: no clock, no memory, no state but
 * struct ws_sched's own and the pacers'.
 */
#ifndef WS_SCHEDULER_H
#define WS_SCHEDULER_H

#include <stdbool.h>
#include <stdint.h>

#define WS_SCHED_PATHS 8

enum ws_scheduler {
	WS_SCHED_EDF = 0, /* earliest delivery first */
	WS_SCHED_WRR = 1, /* credit-based weighted round robin */
	WS_SCHED_MINRTT = 2,
	WS_SCHED_REDUNDANT = 3, /* every path, the first copy wins */
	WS_SCHED_BACKUP = 4 /* the lowest tier that has a usable path, edf within it */
};

/*
 * One path's pace: a token bucket in time. What is sent moves next_ns ahead by
 * bytes / rate; a path may send while next_ns is not later than now, and saves
 * up burst_ns of silence at most.
 */
struct ws_pace {
	uint64_t next_ns;
	uint64_t rate_bps; /* bits a second, > 0 */
	uint32_t burst_us;
};

static inline bool ws_pace_ready(const struct ws_pace *pace, uint64_t now_ns)
{
	return pace->next_ns <= now_ns;
}

void ws_pace_sent(struct ws_pace *pace, uint32_t bytes, uint64_t now_ns);

/* What the scheduler is told of a path. */
struct ws_sched_path {
	bool usable; /* validated, not failed, not disabled */
	bool degraded; /* its weight counts a quarter; no urgent packets while another is healthy */
	uint32_t tier; /* backup: lower first */
	uint32_t weight; /* wrr: > 0, in proportion to its rate */
	uint32_t srtt_us;
	int64_t delay_us; /* one-way, base, relative: only differences to the other paths mean anything */
	uint64_t in_flight_bytes;
	uint64_t window_bytes; /* no more in flight than this */
	uint32_t max_packet_bytes; /* longest packet it takes */
	uint32_t last_seq, acked_seq; /* wrr: newest seq sent on it, newest acknowledged */
	struct ws_pace pace;
};

struct ws_sched {
	enum ws_scheduler kind;
	uint32_t count; /* paths */
	uint32_t depth; /* wrr: how far ahead in seq of the slowest path's acknowledged one */
	uint32_t
		slack_us; /* edf: a slower path may be later than the fast one's drained queue by this */
	struct ws_sched_path paths[WS_SCHED_PATHS];
	int64_t credit[WS_SCHED_PATHS]; /* wrr's own */
};

/*
 * The paths (bits) that take the packet of `bytes` at the head of a queue of
 * `queued_bytes` (itself included) now; 0: wait, and ask again at *wake_ns
 * (UINT64_MAX: only an ACK or a change of the paths can help) or when an ACK
 * comes. More than one bit with WS_SCHED_REDUNDANT only.
 * A packet that fits no usable path at all: 0 with *wake_ns = 0: drop it.
 * seq: the packet's (wrr).
 */
uint32_t ws_sched_pick(struct ws_sched *sched, uint32_t bytes, uint64_t queued_bytes, uint32_t seq,
		       uint64_t now_ns, uint64_t *wake_ns);
/*
 * The path for an urgent packet or a second copy: least expected delay now, window and
 * pace or not; paths in `except` (bits) only if there is no other. -1: no usable path takes it.
 */
int ws_sched_urgent(const struct ws_sched *sched, uint32_t bytes, uint32_t except, uint64_t now_ns);
/* The picked path sent it: pace, credit, last_seq, in_flight. */
void ws_sched_sent(struct ws_sched *sched, uint32_t path, uint32_t bytes, uint32_t seq,
		   uint64_t now_ns);
/* Bits of the paths that could be used at all. */
uint32_t ws_sched_usable(const struct ws_sched *sched);

#endif
