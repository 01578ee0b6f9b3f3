/* SPDX-License-Identifier: MIT */
/*
 * Each constant was varied over recorded LTE and 5G links and smooth ones (docs/decisions.md): but
 * for the targets, half and double of each change the goodput by 0.02 at most; SAME_PERMILLE was not varied.
 */
#include "multipath/window_internal.h"

#include <string.h>

#define TARGET_MOST_US 50000 /* of queue: what a fade takes from it must not empty it */
/* Of one path, where all others have more: a ping beside recorded LTE takes 28 ms more than idle, not 50,
 * and the bond carries a hundredth less. */
#define TARGET_BRIEF_US 20000
#define INTERVAL_NS (100 * MS_NS) /* what comes in lumps leaves nothing between them */
/* Of a greater swing half is taken over in an interval, as a fade is met at once; of a lesser one this part,
 * so that a fade is remembered for a second. */
#define SWING_FALL 8
#define EMPTY_PART 4 /* a round whose queue was below this part of the aim: there is more */
/* While nothing says that the path is full an inner TCP may double each round, and we hear of it an ACK's
 * interval later: its window stays ahead of that, or it would wait here and take that for a queue. */
#define START_TIMES 2
/* The queue that ends a start of the nearest path is longer by this part of its round trip: the longer a path,
 * the more it swings (RFC 9406 section 4.3). */
#define START_END_PART 8
#define MOST_BYTES (3500 * WS_PACKET_BYTES) /* what is in flight is remembered so far */
#define START_RTT_US 100000 /* nothing was measured yet */
#define SLOW_PART 4 /* of the growth, above what the last cut left */
#define BUFFER_GROWTH_PERMILLE 100 /* a second: it may be another by now */
#define BUFFER_LEAST_US 2000
#define SAME_PERMILLE 750 /* of a queue that stays, and of a rate that fell with the window */
/* Rates are over two intervals; half of the places are as many steps of it. */
#define RATE_STEP_NS (2 * (2 * INTERVAL_NS) / WS_WINDOW_RATES)

void ws_window_init(struct ws_window *w, uint32_t rtt_us, uint64_t next_number)
{
	*w = (struct ws_window){
		.bytes = ROUND_PACKETS * WS_PACKET_BYTES,
		.high_bytes = UINT64_MAX,
		.buffer_bytes = UINT64_MAX,
		.round_number = next_number,
		.round_end = next_number,
		.cut_number = next_number,
		.roomy = true,
		.starting = true,
		.srtt_us = rtt_us ? rtt_us : START_RTT_US,
	};
	w->rtt_us[0] = w->rtt_us[1] = w->srtt_us;
}

void ws_window_eager(struct ws_window *w, bool eager)
{
	if (eager && !w->eager && !w->seen)
		w->bytes = most(w->bytes, START_TIMES * ROUND_PACKETS * WS_PACKET_BYTES);
	w->eager = eager;
}

/* What was sent before the last cut arrives. */
static bool draining(const struct ws_window *w, const struct ws_window_ack *ack)
{
	return ack->highest < w->cut_number;
}

/* What was sent while it was let run empty (below) arrives. */
static bool emptying(const struct ws_window *w, const struct ws_window_ack *ack)
{
	return ack->highest < w->empty_number;
}

/* What an ACK frees leaves at once: between the first of it and the last the queue grows by the time between two
 * ACKs, less that of a packet. */
static uint64_t burst_us(const struct ws_window *w, uint64_t now_ns)
{
	uint64_t packet_us = WS_PACKET_BYTES * UINT64_C(8000000) / most(w->rate_bps, 1);
	uint64_t between_us = (now_ns - w->interval_ns) / 1000 / most(w->queue_count, 1);

	/* Half of the least target holds it, beside what else may come. */
	return least(between_us > packet_us ? between_us - packet_us : 0, TARGET_LEAST_US / 2);
}

/* Least queue, and its range, of each interval. Our own window moves it little in so
 * short a time, but for a start and what it left (`ours`). */
static void note_queue(struct ws_window *w, uint64_t now_ns, bool ours)
{
	int64_t range_us = w->most_us - w->standing_us[0], more_us;

	if (now_ns - w->interval_ns >= INTERVAL_NS) {
		/* A steady link, as far as others than we swing it. */
		if (range_us < TARGET_LEAST_US + (int64_t)burst_us(w, now_ns))
			range_us -= (int64_t)least(range_us, burst_us(w, now_ns));
		more_us = range_us - w->swing_us;
		w->swing_us += more_us / (more_us > 0 ? 2 : SWING_FALL);
		w->interval_ns = now_ns;
		if (w->queue_count)
			w->asked_least_us = (uint32_t)least(w->asked_least_us,
							    w->queue_sum_us / w->queue_count);
		w->queue_sum_us = w->queue_count = 0;
		w->standing_us[1] = w->standing_us[0];
		w->standing_us[0] = w->most_us = w->queue_us;
	}
	w->queue_sum_us += w->queue_us;
	w->queue_count++;
	if (w->queue_us < w->standing_us[0])
		w->standing_us[0] = w->queue_us;
	if (w->queue_us > w->most_us)
		w->most_us = w->queue_us;
	if (ours || w->ours)
		w->most_us = w->standing_us[0] = w->queue_us;
	w->ours = ours;
}

/* A queue of ours that never runs empty would count as the path's own delay once what was before it is
 * forgotten, and the next one would come on top: so before that the path is let run empty, for a round trip. */
static bool emptied(struct ws_window *w, const struct ws_window_ack *ack)
{
	uint64_t base_us = ws_window_base_us(w), aim_us = base_us + w->queue_us + TARGET_LEAST_US;

	if (w->empty_bytes) {
		if (ack->highest < w->empty_number)
			return false;
		/* And what fills it again. */
		w->empty_number = ack->next_number + w->bytes / WS_PACKET_BYTES;
		return true;
	}
	/* One that swings does by itself. */
	if (w->starting || w->doubt != WS_WINDOW_CALM || w->swing_us >= TARGET_LEAST_US ||
	    w->delay_us[0] - w->delay_us[1] < TARGET_LEAST_US / EMPTY_PART)
		return true;
	w->empty_bytes = most(w->bytes * base_us / aim_us, LEAST_BYTES);
	w->empty_number = ack->next_number;
	return false;
}

static void note_delay(struct ws_window *w, const struct ws_window_ack *ack)
{
	int64_t late_us;

	if (!w->seen) {
		w->seen = true;
		w->delay_now_us = w->delay_us[0] = w->delay_us[1] = ack->delay_us;
		w->rtt_us[0] = w->rtt_us[1] = w->srtt_us = ack->rtt_us;
		w->least_ns = ack->now_ns;
	}
	/* 24 bits of it are told, 17 s. It is later than the least by less than the round trip took, or else it
	 * is earlier: what a path delivers after ten seconds of silence is not six seconds early. */
	late_us = (ack->delay_us - (uint32_t)(ws_window_delay_us(w) & 0xffffff)) & 0xffffff;
	w->delay_now_us = ws_window_delay_us(w) + late_us;
	if (late_us > ack->rtt_us)
		w->delay_now_us -= 1 << 24;
	if (w->delay_now_us < w->delay_us[0])
		w->delay_us[0] = w->delay_now_us;
	if (ack->rtt_us < w->rtt_us[0])
		w->rtt_us[0] = ack->rtt_us;
	if (ack->now_ns - w->least_ns >= WS_MEMORY_NS && emptied(w, ack)) {
		w->least_ns = ack->now_ns;
		w->delay_us[1] = w->delay_us[0];
		w->rtt_us[1] = w->rtt_us[0];
		w->delay_us[0] = w->delay_now_us;
		w->rtt_us[0] = ack->rtt_us;
	}
	w->srtt_us = (uint32_t)(((WS_RTT_PART - 1ULL) * w->srtt_us + ack->rtt_us) / WS_RTT_PART);
	w->queue_us = (uint32_t)(w->delay_now_us - ws_window_delay_us(w));
	if (ack->idle) {
		int64_t more_us = (int64_t)w->queue_us - w->idle_us;

		w->idle_us += more_us / (more_us > 0 ? 2 : SWING_FALL);
	}
	/* Unless packets wait, the queue is what the flow inside makes of it. */
	note_queue(w, ack->now_ns,
		   w->starting || !ack->waiting || draining(w, ack) || emptying(w, ack));
	if (w->queue_us < w->round_least_us)
		w->round_least_us = w->queue_us;
	if (w->queue_us > w->round_queue_us)
		w->round_queue_us = w->queue_us;
}

static uint32_t standing_us(const struct ws_window *w)
{
	return (uint32_t)least(w->standing_us[0], w->standing_us[1]);
}

static bool in_use(const struct ws_window *w)
{
	uint64_t used = most(w->used_bytes, w->used_before_bytes);

	return (w->ahead ? START_TIMES * used : used) + 2 * WS_PACKET_BYTES >= w->bytes;
}

static void note_mean(struct ws_window *w, uint64_t now_ns)
{
	uint64_t all_ms = WS_MEMORY_NS / MS_NS, ms = least((now_ns - w->mean_ns) / MS_NS, all_ms);

	if (!w->mean_bps)
		w->mean_bps = w->rate_bps;
	else if (!ms)
		return;
	w->mean_bps = (w->mean_bps * (all_ms - ms) + w->rate_bps * ms) / all_ms;
	w->mean_ns = now_ns;
}

/* Over the last 2 * INTERVAL_NS. What a path delivers that is not full is no rate of its own, unless it
 * is more than was thought. */
static void note_rate(struct ws_window *w, const struct ws_window_ack *ack)
{
	uint32_t from = w->rate_at;

	/* The peer counts anew. */
	if (ack->delivered_bytes < w->rate_bytes[w->rate_at]) {
		memset(w->rate_ns, 0, sizeof(w->rate_ns));
		memset(w->rate_bytes, 0, sizeof(w->rate_bytes));
	}
	for (uint32_t n = 1; n < WS_WINDOW_RATES; n++) {
		uint32_t before = (from + WS_WINDOW_RATES - 1) % WS_WINDOW_RATES;

		if (!w->rate_ns[before] || ack->now_ns - w->rate_ns[from] >= 2 * INTERVAL_NS)
			break;
		from = before;
	}
	if (w->rate_ns[from] && ack->now_ns > w->rate_ns[from]) {
		uint64_t span_us = (ack->now_ns - w->rate_ns[from]) / 1000, rate_bps;

		if (span_us >= ROUND_LEAST_US) {
			rate_bps = (ack->delivered_bytes - w->rate_bytes[from]) * 8000000 / span_us;
			if (rate_bps > w->rate_bps || in_use(w) || standing_us(w) > TARGET_LEAST_US)
				w->rate_bps = rate_bps;
		}
	}
	if (!w->rate_ns[w->rate_at] || ack->now_ns - w->rate_ns[w->rate_at] >= RATE_STEP_NS) {
		w->rate_at = (w->rate_at + 1) % WS_WINDOW_RATES;
		w->rate_ns[w->rate_at] = ack->now_ns;
		w->rate_bytes[w->rate_at] = ack->delivered_bytes;
	}
	note_mean(w, ack->now_ns);
}

uint64_t ws_window_rate_bps(const struct ws_window *w)
{
	uint64_t floor_bps =
		2 * WS_PACKET_BYTES * UINT64_C(8000000) / most(w->srtt_us, ROUND_LEAST_US);

	/* What did not fill it says nothing of what it carries. */
	if (!w->rate_bps || w->ahead)
		return most(w->rate_bps, START_TIMES * w->bytes * 8000000 / most(w->srtt_us, 1000));
	if (w->starting || standing_us(w) < TARGET_LEAST_US / EMPTY_PART)
		floor_bps = most(floor_bps, w->bytes * 8000000 / most(w->srtt_us, 1000));
	return most(w->rate_bps, floor_bps);
}

uint64_t ws_window_pace_bps(const struct ws_window *w)
{
	uint64_t times = w->starting && w->doubt == WS_WINDOW_CALM ? START_TIMES : 1;

	/* A burst is lost where the window itself would pass, and would be taken for it. */
	if (!w->paced)
		return UINT64_MAX;
	return times * w->bytes * 8000000 / most(ws_window_base_us(w), 1);
}

/* So that what the path's own swings take does not empty it. */
static uint64_t wanted_us(const struct ws_window *w)
{
	return TARGET_LEAST_US + most((uint64_t)w->swing_us, (uint64_t)w->idle_us);
}

/* The queue that a start makes: so much more than what the path swings by at rest. */
static uint64_t start_us(const struct ws_window *w)
{
	return TARGET_MOST_US + (uint64_t)w->idle_us;
}

void ws_window_end_start(struct ws_window *w, const struct ws_window_ack *ack)
{
	uint64_t base_us = ws_window_base_us(w), aim_us = base_us + wanted_us(w);

	if (!w->starting)
		return;
	w->starting = w->ahead = false;
	w->bytes = least(w->bytes, most(w->used_bytes, w->used_before_bytes)) * aim_us /
		   most(base_us + w->round_queue_us, aim_us);
	w->cut_number = ack->next_number;
	w->swing_us = 0;
}

static uint64_t most_us(const struct ws_window *w)
{
	return w->brief ? TARGET_BRIEF_US : TARGET_MOST_US;
}

static uint64_t aim(const struct ws_window *w)
{
	/* Whoever fills a buffer leaves no room to one that keeps out of it. */
	if (w->shared)
		return most_us(w);
	return least(wanted_us(w), most_us(w));
}

bool ws_window_longer(const struct ws_window *other, const struct ws_window *window)
{
	return wanted_us(other) + ws_window_base_us(other) / 2 >
	       TARGET_BRIEF_US + (uint64_t)ws_window_base_us(window) / 2;
}

static void end_round(struct ws_window *w, const struct ws_window_ack *ack)
{
	uint64_t sent = ack->highest - w->round_number;
	uint64_t lost = lost_since(ack, w->round_lost);

	if (sent < ROUND_PACKETS && w->doubt != WS_WINDOW_TRIAL) { /* too few to tell */
		w->round_end = ack->next_number;
		return;
	}
	/* Bursts into a short buffer look like it while the window is small: it is asked again. */
	if (ack->now_ns - w->own_ns > 2 * WS_MEMORY_NS)
		w->own_permille = 0;
	if (w->round_number >= w->cut_number)
		ws_window_losses(w, ack, sent, lost);
	if (w->doubt == WS_WINDOW_CALM || w->round_number < w->cut_number) {
		w->judge_number = ack->highest;
		w->judge_lost = ack->lost;
		w->judge_rounds = 0;
	} else {
		w->judge_rounds++;
	}
	/* What a farther one swings by is not known before it is used. */
	if (w->ahead && w->round_least_us != UINT32_MAX &&
	    w->round_least_us > wanted_us(w) + ws_window_base_us(w) / START_END_PART)
		ws_window_end_start(w, ack);
	w->roomy = in_use(w) && w->round_least_us < aim(w) / EMPTY_PART &&
		   w->bytes <= w->high_bytes && w->round_number >= w->empty_number;
	w->passed_bytes = w->begin_bytes;
	w->begin_bytes = w->bytes;
	w->round_number = ack->highest;
	w->round_lost = ack->lost;
	w->round_end = ack->next_number;
	w->round_queue_us = 0;
	w->round_least_us = UINT32_MAX;
	w->used_before_bytes = w->used_bytes;
	w->used_bytes = 0;
}

/* The queue to aim at: less where the bottleneck holds less. */
static uint64_t target_us(struct ws_window *w, uint64_t now_ns)
{
	uint64_t holds_us, aim_us = aim(w);

	if (w->starting)
		aim_us = start_us(w);
	else if (w->roomy)
		aim_us = most_us(w);
	if (w->buffer_bytes == UINT64_MAX)
		return aim_us;
	if (now_ns - w->buffer_ns >= 1000 * MS_NS) {
		w->buffer_ns = now_ns;
		w->buffer_bytes += w->buffer_bytes * BUFFER_GROWTH_PERMILLE / 1000;
	}
	holds_us = w->buffer_bytes * (ws_window_base_us(w) + w->queue_us) / w->bytes;
	return least(most(holds_us, BUFFER_LEAST_US), aim_us);
}

/* acked x by / (base + q), acked at most */
static uint64_t move(uint64_t acked, uint64_t by_us, uint64_t base_us, uint64_t queue_us)
{
	return least(acked * by_us / most(base_us + queue_us, 1), acked);
}

static uint64_t growth(const struct ws_window *w, const struct ws_window_ack *ack, uint64_t acked,
		       uint64_t target)
{
	uint64_t base_us = ws_window_base_us(w), by_us = target - w->queue_us, whole;
	uint64_t grown = move(acked, by_us, base_us, w->queue_us);

	/* Where packets wait for it, it is what limits, and doubles as all else does. */
	if (w->ahead && !ack->waiting)
		grown *= START_TIMES;
	/* A start doubles in a round trip, however long that is. */
	whole = move(acked, by_us, least(base_us, target), w->queue_us);
	if (w->eager && !w->ahead)
		whole *= START_TIMES;
	return w->starting ? most(grown, whole) : grown;
}

/* By a packet in the first round, and what is above what passes doubles: little of it is lost. */
static uint64_t look_up(const struct ws_window *w, uint64_t acked)
{
	if (w->bytes < w->high_bytes)
		return acked;
	return acked * (w->bytes - w->high_bytes + WS_PACKET_BYTES) / w->bytes;
}

/* The queue is another's, or what a path that jitters and keeps the order makes of any load. Until less is
 * seen it counts as the path's own delay. */
static void share(struct ws_window *w, uint64_t now_ns)
{
	uint32_t queue_us = standing_us(w);

	for (unsigned i = 0; i < 2; i++) {
		w->delay_us[i] += queue_us;
		w->rtt_us[i] += queue_us;
	}
	w->least_ns = w->shared_ns = now_ns;
	w->queue_us = (uint32_t)(w->delay_now_us - ws_window_delay_us(w));
	w->standing_us[0] = w->standing_us[1] = w->most_us = w->queue_us;
	w->queue_sum_us = w->queue_count = 0;
}

/* Half the window brings less, or half as much again more, and the queue is what it was all the time: it is
 * not ours, for that moves with the window. (Where the path's rate falls it grows, or what arrives stays the
 * same; where it rises the queue runs empty first.) */
static void ask_whose(struct ws_window *w, uint64_t now_ns)
{
	uint64_t base_us = ws_window_base_us(w), before_us = w->asked_queue_us;
	uint64_t queue_us = most(w->srtt_us, base_us) - base_us;
	bool less = w->bytes <= w->asked_bytes / 2,
	     more = w->bytes / CHANCE_PERMILLE >= w->asked_bytes / 1000;
	bool moved = less ? w->rate_bps <= w->asked_bps / 1000 * SAME_PERMILLE
			  : w->asked_bps <= w->rate_bps / 1000 * SAME_PERMILLE;

	if (w->asked_bytes && !less && !more)
		return;
	if (w->asked_bytes && moved && standing_us(w) > TARGET_LEAST_US &&
	    least(queue_us, w->asked_least_us) >= before_us * SAME_PERMILLE / 1000 &&
	    before_us >= queue_us * SAME_PERMILLE / 1000)
		share(w, now_ns);
	w->asked_bytes = w->bytes;
	w->asked_bps = w->rate_bps;
	base_us = ws_window_base_us(w);
	w->asked_queue_us = (uint32_t)(most(w->srtt_us, base_us) - base_us);
	w->asked_least_us = UINT32_MAX;
}

/* It ran empty, and gets back what was taken; not as one burst, for which the buffer may be too short. */
static void fill(struct ws_window *w, const struct ws_window_ack *ack, uint64_t acked)
{
	if (!w->empty_bytes || ack->now_ns - w->least_ns >= WS_MEMORY_NS)
		return;
	w->empty_bytes += acked;
	if (w->empty_bytes >= w->bytes)
		w->empty_bytes = 0;
}

void ws_window_ack(struct ws_window *w, const struct ws_window_ack *ack)
{
	uint64_t acked = least(ack->acked_bytes, w->bytes), target, standing, moved;

	/* What is missing at the first one was sent before the peer counted. */
	if (!w->counted) {
		w->counted = true;
		w->round_lost = w->judge_lost = ack->lost;
		w->round_number = w->judge_number = ack->highest;
	}
	if (ack->rtt_us)
		note_delay(w, ack);
	w->ahead = w->starting && ack->nearest;
	w->brief = ack->brief;
	w->shared = w->shared_ns && ack->now_ns - w->shared_ns < WS_MEMORY_NS;
	w->policed = w->policed_ns && ack->now_ns - w->policed_ns < 2 * WS_MEMORY_NS;
	w->paced = w->buffer_bytes < w->bytes ||
		   (w->lossy_ns && ack->now_ns - w->lossy_ns < 2 * WS_MEMORY_NS);
	note_rate(w, ack);
	target = target_us(w, ack->now_ns);
	standing = standing_us(w);
	fill(w, ack, acked);
	if (emptying(w, ack)) {
		moved = 0; /* the queue tells nothing */
	} else if (w->queue_us < target) {
		moved = growth(w, ack, acked, target);
		if (w->policed) {
			moved = least(moved, look_up(w, acked));
		} else if (w->bytes > w->high_bytes) {
			moved = least(moved, acked / SLOW_PART);
			w->high_bytes = w->bytes;
		}
		if (in_use(w) && ack->now_ns >= w->rest_until_ns && w->doubt != WS_WINDOW_TRIAL)
			w->bytes += moved;
	} else if (standing > target && !w->starting && !draining(w, ack)) {
		moved = move(acked, standing - target, ws_window_base_us(w), standing);
		w->bytes -= least(moved, w->bytes / 2);
	}
	ask_whose(w, ack->now_ns);
	if (standing > start_us(w) || w->bytes >= MOST_BYTES)
		ws_window_end_start(w, ack);
	if (ack->highest >= w->round_end)
		end_round(w, ack);
	w->bytes = most(w->bytes, LEAST_BYTES);
	w->bytes = least(w->bytes, MOST_BYTES);
}

void ws_window_collapse(struct ws_window *w, uint64_t next_number)
{
	w->bytes = LEAST_BYTES;
	w->empty_bytes = w->empty_number = 0;
	w->cut_number = w->round_end = next_number;
	w->used_bytes = w->used_before_bytes = 0;
	w->doubt = WS_WINDOW_CALM;
	/* What it carries is another by now. */
	w->starting = true;
	w->high_bytes = UINT64_MAX;
	w->rest_until_ns = w->policed_ns = 0;
}
