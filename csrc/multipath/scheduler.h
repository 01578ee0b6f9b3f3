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

#include "multipath/units.h"
#include "shared/wire.h"

#include <stdbool.h>
#include <stdint.h>

#define WS_SCHED_PATHS WS_PATH_COUNT
#define WS_DELAY_MAX_US                                                                            \
	(2 * WS_MEMORY_NS / US_NS) /* nothing to compare it with is remembered longer */
#define WS_LATE_NS (10 * MS_NS) /* who is so late delays others by less than an ACK does */

enum ws_scheduler {
	WS_SCHED_EDF, /* earliest delivery first */
	WS_SCHED_WRR, /* credit-based weighted round robin */
	WS_SCHED_MINRTT,
	WS_SCHED_REDUNDANT, /* every path, the first copy wins */
	WS_SCHED_BACKUP /* the lowest tier that has a usable path, edf within it */
};

/*
 * One path's pace: a token bucket in time. What is sent moves next_ns ahead by
 * bytes / rate; a path may send while next_ns is not later than now, and saves
 * up WS_BURST_NS of silence at most. All zero but the rate is a fresh one.
 */
struct ws_pace {
	uint64_t next_ns;
	uint64_t rate_bps; /* taken as 1 bit/s .. 400 Gbit/s */
};

static inline bool ws_pace_ready(const struct ws_pace *pace, uint64_t now_ns)
{
	return pace->next_ns <= now_ns;
}

void ws_pace_sent(struct ws_pace *pace, uint32_t bytes, uint64_t now_ns);

/* What the scheduler is told of a path. */
struct ws_sched_path {
	bool usable; /* validated, not failed, not disabled */
	bool degraded; /* no urgent packets while another is healthy; wrr: counts a quarter */
	uint32_t tier; /* backup: lower first */
	uint32_t weight; /* wrr: in proportion to its rate; 0 is taken as 1 */
	uint32_t srtt_us;
	/* One-way, base: only differences to the other paths mean anything, up to 10 s. */
	int64_t delay_us;
	uint32_t queue_us; /* on top of that, by its last ACK */
	uint32_t stands_us; /* of it, whatever its rate says */
	uint64_t rate_bps; /* what it delivers */
	uint32_t base_us; /* round trip without queues */
	bool starting; /* what it carries is not known: a farther one is not used before it is full */
	uint32_t silent_us; /* nothing was heard for so much longer than expected */
	uint64_t in_flight_bytes;
	uint64_t window_bytes; /* no more in flight than this, but always one packet */
	uint32_t max_packet_bytes; /* longest packet it takes */
	/*
	 * wrr: newest seq sent on it, newest acknowledged. ws_sched_sent moves acked_seq to just
	 * before what it sends when nothing was in flight: an idle path holds nobody back.
	 */
	uint32_t last_seq, acked_seq;
	struct ws_pace pace;
};

struct ws_sched {
	enum ws_scheduler kind;
	uint32_t count; /* paths */
	/* wrr: how far ahead in seq of another path's acknowledged one while that has data out */
	uint32_t depth;
	struct ws_sched_path paths[WS_SCHED_PATHS];
	int64_t credit[WS_SCHED_PATHS]; /* wrr's own: what a path is owed, 1/4096 bytes */
};

/*
 * The paths (bits) that take the packet of `bytes` at the head of a queue of
 * `queued_bytes` (itself included) now; 0: wait, and ask again at *wake_ns
 * (UINT64_MAX: only an ACK or a change of the paths can help) or when an ACK
 * comes. More than one bit with WS_SCHED_REDUNDANT only.
 * A packet too long for every usable path: 0 with *wake_ns = 0: drop it. No usable
 * path: 0 with UINT64_MAX. A finite wake is later than now.
 * seq: the packet's (wrr).
 */
uint32_t ws_sched_pick(struct ws_sched *sched, uint32_t bytes, uint64_t queued_bytes, uint32_t seq,
		       uint64_t now_ns, uint64_t *wake_ns);
/*
 * The path for an urgent packet or a second copy: least expected delay now, window and
 * pace or not, healthy before degraded (backup: the lowest tier before both); paths in
 * `except` (bits) only if there is no other. -1: no usable path takes it.
 */
int ws_sched_urgent(const struct ws_sched *sched, uint32_t bytes, uint32_t except);
/* In what time the best of the paths but `except` (bits) that take a packet of `longest` would deliver `bytes`, ns;
 * UINT64_MAX: none. */
uint64_t ws_sched_soonest_ns(const struct ws_sched *sched, uint32_t longest, uint64_t bytes,
			     uint32_t except);
/* How much later the best of the paths that take so long a packet delivers it than one would that does not, ns;
 * 0: none takes it, or none does it sooner. */
uint64_t ws_sched_later_ns(const struct ws_sched *sched, uint32_t bytes);
/*
 * The picked path sent it: pace, credit, last_seq, in_flight. Once for each bit picked; the
 * same clock as the pick. seq of a packet that has none (urgent): the next one to be given.
 */
void ws_sched_sent(struct ws_sched *sched, uint32_t path, uint32_t bytes, uint32_t seq,
		   uint64_t now_ns);
/* Bits of the paths that could be used at all. */
uint32_t ws_sched_usable(const struct ws_sched *sched);

#endif
