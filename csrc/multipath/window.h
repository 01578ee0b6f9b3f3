/* SPDX-License-Identifier: MIT */
/*
 * How much may be in flight on one path (docs/multipath.md section 8): a window that is
 * moved at each ACK towards a queue of T at the path's bottleneck,
 *
 *     W += acked x clamp((T - q) / (base + q), -1, 1)
 *
 * with q the one-way delay above the least, and base the least round trip, of the last 5 to 10 s. T is
 * what the path's own delay swings by, or less where the bottleneck drops before it holds so much; to
 * shrink, the queue must stand: q is then the least of the last 0.1 to 0.2 s. Losses count where they
 * are more than the path loses by itself, which is what it goes on losing with half the window. Pure:
 * no clock, no memory. What comes in was said by a peer that may lie: it moves our window, and nothing
 * else.
 */
#ifndef WS_WINDOW_H
#define WS_WINDOW_H

#include "multipath/units.h"

#include <stdbool.h>
#include <stdint.h>

#define WS_QUEUE_LEAST_US 5000 /* that is aimed at */
#define WS_WINDOW_RATES 16

struct ws_window {
	uint64_t bytes; /* the window */
	uint64_t used_bytes, used_before_bytes; /* most in flight in this round and the last */
	/* Above it growth is slower: what the last cut left, or since, or what a policer lets pass. */
	uint64_t high_bytes;
	uint64_t buffer_bytes; /* of the bottleneck, as losses told; UINT64_MAX: not known */
	uint64_t buffer_ns; /* when that was last let grow */
	uint64_t round_end; /* the round is over when this number is acknowledged */
	uint64_t round_number, round_lost; /* highest number and losses when it began */
	uint64_t cut_number; /* what was sent before it belongs to the last cut */
	uint64_t empty_bytes; /* instead of the window, while it is let run empty; 0: it is not */
	uint64_t empty_number; /* what was sent before it belongs to that */
	uint64_t rest_until_ns; /* no growth until then */
	uint64_t policed_ns; /* a trial said so; 0: never */
	uint64_t lossy_ns; /* a round lost more than the path's own; 0: never */
	uint64_t begin_bytes, passed_bytes; /* the window when this round and the last one began */
	bool policed; /* that was lately */
	bool paced; /* there were such rounds lately, or the buffer is short */
	/* Is a loss ours? */
	enum { WS_WINDOW_CALM, WS_WINDOW_CUT, WS_WINDOW_TRIAL } doubt;
	uint32_t own_permille; /* lost whatever is sent */
	uint64_t own_ns; /* when that was found */
	uint32_t cut_permille; /* lost with the window that half of is tried */
	uint64_t before_bytes; /* the window before it was cut or doubted, */
	uint64_t trial_bytes; /* and before half of it was tried */
	uint64_t judge_number, judge_lost; /* from where losses are counted for this */
	uint32_t judge_rounds; /* that ended since then */
	uint32_t round_queue_us, round_least_us; /* most and least in this round */
	bool seen; /* a delay was measured */
	bool ours; /* the queue is what our own start left: no swing of the path's */
	bool counted; /* the peer has told what it has */
	bool starting; /* neither a queue nor losses yet: what it carries is not known */
	bool ahead; /* so, and it is the nearest: it must not be what limits a flow that begins */
	bool eager; /* those inside are BBRs (ws_window_eager) */
	bool brief; /* as the last ACK said */
	/* Is a queue that stands ours? As it was when that was last asked; 0: never, or there were losses. */
	uint64_t asked_bytes, asked_bps;
	uint32_t asked_queue_us, asked_least_us; /* its mean then, and the least since */
	uint64_t shared_ns; /* when it was last found to be another's; 0: never */
	bool shared; /* that was lately */
	bool roomy; /* the last round was full, and its queue ran empty */
	/* Least of this and of the last WS_MEMORY_NS; delays are the difference of two clocks. */
	uint64_t least_ns;
	uint32_t rtt_us[2];
	int64_t delay_us[2];
	int64_t delay_now_us;
	uint32_t srtt_us;
	uint32_t queue_us; /* now */
	/* Of this interval, and least of the last one. */
	uint64_t interval_ns;
	uint32_t standing_us[2], most_us;
	uint64_t queue_sum_us, queue_count; /* its mean, of this interval */
	int64_t swing_us; /* mean range of an interval */
	int64_t idle_us; /* what it swings by with nothing of ours on it */
	uint64_t rate_bps; /* delivered lately; 0: not measured */
	uint64_t mean_bps, mean_ns; /* its mean over some seconds, and until when */
	uint64_t rate_ns[WS_WINDOW_RATES], rate_bytes[WS_WINDOW_RATES];
	uint32_t rate_at;
};

/* What one ACK says of the path. */
struct ws_window_ack {
	uint64_t now_ns;
	uint64_t acked_bytes, delivered_bytes; /* by this ACK, and in all */
	uint64_t highest; /* number that arrived */
	uint64_t lost; /* datagrams missing below it, in all, but for a constant */
	uint64_t next_number; /* that will be sent */
	uint32_t rtt_us; /* 0: none, and no delay */
	uint32_t delay_us; /* 24 bits */
	bool idle; /* it was measured with nothing of ours on the path */
	bool waiting; /* packets wait for a path */
	bool nearest; /* no path has less delay: a flow begins here */
	bool brief; /* its queue stays short, for what is urgent */
};

/* rtt_us: by a probe; 0: not known. */
void ws_window_init(struct ws_window *window, uint32_t rtt_us, uint64_t next_number);
static inline void ws_window_used(struct ws_window *window, uint64_t in_flight_bytes)
{
	if (in_flight_bytes > window->used_bytes)
		window->used_bytes = in_flight_bytes;
}
void ws_window_ack(struct ws_window *window, const struct ws_window_ack *ack);
/* A BBR takes no longer round trip for a queue, as a CUBIC does, but ends its own start once three of them
 * have brought it nothing (tcp_bbr.c, bbr_full_bw_cnt): what begins beside a path that is full has to carry
 * something by then. */
void ws_window_eager(struct ws_window *window, bool eager);
/* Nothing was heard for so long that what was in flight is gone. */
void ws_window_collapse(struct ws_window *window, uint64_t next_number);

/* How much may be in flight. */
static inline uint64_t ws_window_may(const struct ws_window *window)
{
	return window->empty_bytes ? window->empty_bytes : window->bytes;
}
/* The least round trip. */
static inline uint32_t ws_window_base_us(const struct ws_window *window)
{
	return window->rtt_us[0] < window->rtt_us[1] ? window->rtt_us[0] : window->rtt_us[1];
}
/* The least one-way delay. */
static inline int64_t ws_window_delay_us(const struct ws_window *window)
{
	return window->delay_us[0] < window->delay_us[1] ? window->delay_us[0]
							 : window->delay_us[1];
}
/* Whether another path than `window`'s has to keep its queue short: this one will have a longer one than
 * that, or is so much longer. */
bool ws_window_longer(const struct ws_window *other, const struct ws_window *window);
/* To be sent no quicker, bit/s: a burst would not fit a buffer that is shorter than the window.
 * UINT64_MAX: as it comes. */
uint64_t ws_window_pace_bps(const struct ws_window *window);
/* What it delivers, bit/s; a guess until that is measured, never 0. */
uint64_t ws_window_rate_bps(const struct ws_window *window);

#endif
