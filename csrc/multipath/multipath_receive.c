/* SPDX-License-Identifier: MIT */
/*
 * Inbound: numbers and delays per path, packets into order, and the ACKs that
 * say so (docs/multipath.md sections 4.6, 8 and 10).
 */
#include "multipath/multipath_internal.h"

#include <string.h>

void ws_multipath_received(struct ws_multipath *mp, uint32_t path, uint64_t number, uint32_t bytes,
			   uint64_t now_ns)
{
	struct ws_path_stats *stats = &mp->stats.paths[path];
	struct rx_path *rx = &mp->rx[path];

	ws_add(stats->rx_datagrams, 1);
	ws_add(stats->rx_bytes, bytes);
	if (number > stats->rx_highest) {
		if (stats->rx_highest && number > stats->rx_highest + 1) {
			rx->hole_next = number - 1 + WS_LOST_AFTER;
			if (!rx->hole_at)
				rx->hole_at = rx->hole_next;
		}
		ws_set(stats->rx_highest, number);
	}
	/* Each path keeps its order, so this need not wait for the other ones to pass it. */
	if (rx->hole_at && number >= rx->hole_at) {
		rx->hole_at = rx->hole_next > number ? rx->hole_next : 0;
		mp->ack_soon = true;
	}
	rx->arrived_ns = now_ns;
	rx->changed = true;
	mp->unacked++;
}

/* From the reference. 24 bits of it are told: later than the least by up to three quarters of what they can
 * say, for a path may deliver after ten seconds of silence, else earlier. */
static int64_t later_than_least(const struct rx_path *rx, uint32_t raw)
{
	int64_t least = mp_least_us(rx);
	int64_t late = (raw - rx->delay_ref_us - (uint32_t)least) & 0xffffff;

	return least + (late < 0xc00000 ? late : late - 0x1000000);
}

/* One-way delay by two clocks that agree on nothing but their pace. */
static void note_delay(struct rx_path *rx, uint32_t time_us, uint64_t now_ns)
{
	uint32_t raw = (mp_time_us(now_ns) - time_us) & 0xffffff;
	int64_t delay;

	if (!rx->seen) {
		*rx = (struct rx_path){
			.seen = true,
			.changed = true,
			.delay_ref_us = raw,
			.window_ns = now_ns,
			.arrived_ns = rx->arrived_ns,
		};
	}
	delay = later_than_least(rx, raw);
	if (now_ns - rx->window_ns >= WS_MEMORY_NS) {
		rx->window_ns = now_ns;
		rx->delay_min_us[1] = rx->delay_min_us[0];
		rx->delay_min_us[0] = delay;
	}
	if (delay < rx->delay_min_us[0])
		rx->delay_min_us[0] = delay;
	rx->delay_last_us = delay;
	rx->delay_us += (delay - rx->delay_us) / 8;
	rx->delay_least_us = (uint32_t)(rx->delay_ref_us + mp_least_us(rx)) & 0xffffff;
	rx->echo_us = time_us;
	rx->data_arrived_ns = now_ns;
}

bool mp_one_path(const struct ws_multipath *mp, uint32_t path, uint64_t now_ns)
{
	if (mp->schedule && !mp->keep)
		return false;
	for (uint32_t i = 0; i < WS_PATH_COUNT; i++)
		if (i != path && mp->rx[i].seen &&
		    now_ns - mp->rx[i].data_arrived_ns <= 2 * WS_MEMORY_NS)
			return false;
	return true;
}

void ws_multipath_moved(struct ws_multipath *mp, uint32_t path)
{
	/* Another way has another delay. */
	mp->rx[path].seen = false;
}

bool ws_multipath_pass(struct ws_multipath *mp, uint32_t path, uint32_t seq)
{
	if (ws_multipath_expiry(mp) != UINT64_MAX)
		return false; /* what is held goes first */
	if (mp->schedule && !mp->keep)
		return false; /* it may tell a TCP here how much it may send over our paths */
	ws_add(mp->stats.paths[path].rx_packets, 1);
	mp->begun = true;
	if (!mp->passed) {
		mp->pass_first = seq;
		mp->pass_next = seq + 1;
	} else if ((int32_t)(seq + 1 - mp->pass_next) > 0) {
		mp->pass_next = seq + 1;
	} else if ((int32_t)(seq - mp->pass_first) < 0) {
		mp->pass_first = seq;
	}
	if (mp->pass_next - mp->pass_first > WS_REORDER_MEMORY)
		mp->pass_first = mp->pass_next - WS_REORDER_MEMORY;
	mp->passed = true;
	return true;
}

/* Whether an urgent packet with this number is the first that came of its two. What is behind the window
 * came so late that the other did; a number far off is of a peer that counts anew. */
static bool first_of_two(struct ws_multipath *mp, uint32_t number)
{
	int32_t ahead = (int32_t)(number - mp->urgent_highest);
	uint8_t *byte = &mp->urgent_seen[number % URGENT_SEEN / 8];
	uint8_t bit = (uint8_t)(1 << number % 8);

	if (!number)
		return true;
	if (ahead > URGENT_SEEN || ahead < -2 * URGENT_SEEN) {
		memset(mp->urgent_seen, 0, sizeof(mp->urgent_seen));
		mp->urgent_highest = number;
	} else if (ahead > 0) {
		while (mp->urgent_highest != number) {
			uint32_t next = ++mp->urgent_highest % URGENT_SEEN;

			mp->urgent_seen[next / 8] &= (uint8_t) ~(1 << next % 8);
		}
	} else if (ahead <= -URGENT_SEEN || *byte & bit) {
		return false;
	}
	*byte |= bit;
	return true;
}

/* A sender begins with 0: what is missing of its first packets was lost, or is on a longer way. */
static void begin_order(struct ws_multipath *mp, uint32_t seq, uint32_t flags)
{
	if (mp->begun || flags & (WS_FRAME_URGENT | WS_FRAME_AGAIN))
		return;
	mp->begun = true;
	if (flags & WS_FRAME_FEEDBACK && seq < BEGIN_SEQS)
		ws_reorder_start(mp->reorder, 0);
}

void ws_multipath_data(struct ws_multipath *mp, uint32_t path, uint32_t time_us, uint32_t seq,
		       uint32_t flags, uint8_t *packet, size_t len, uint64_t now_ns)
{
	ws_add(mp->stats.paths[path].rx_packets, 1);
	mp->inner.now_ns = now_ns;
	if (flags & WS_FRAME_FEEDBACK) {
		note_delay(&mp->rx[path], time_us, now_ns);
		mp->ack_wanted = true;
		/* Over one path its sender asks, should this be lost: no three ACKs for each key. */
		mp->ack_repeats = mp->gap_known || !mp_one_path(mp, path, now_ns) ? ACK_REPEATS : 0;
	} else {
		mp_inner_release(mp, now_ns);
	}
	if (mp->passed) {
		mp->passed = false;
		ws_reorder_went_by(mp->reorder, mp->pass_first, mp->pass_next);
	}
	begin_order(mp, seq, flags);
	if (!(flags & WS_FRAME_URGENT) && !mp_is_tcp(packet, len))
		flags |= WS_REORDER_LOOSE;
	if (flags & WS_FRAME_URGENT && !first_of_two(mp, seq))
		flags |= WS_MULTIPATH_VOID;
	if (!(flags & WS_MULTIPATH_VOID) && !mp_inner_narrow(mp, packet, len, flags))
		return;
	mp->direct = packet;
	if (flags & WS_FRAME_URGENT) {
		/* What somebody waits for goes on at once. */
		if (!(flags & WS_MULTIPATH_VOID) &&
		    !mp_inner_hold_urgent(mp, path, packet, len, flags, now_ns))
			mp->ops.deliver(mp->arg, packet, len, flags);
	} else if (!(flags & WS_FRAME_FEEDBACK)) {
		ws_reorder_pass(mp->reorder, path, seq, packet, len, flags, now_ns);
	} else if (flags & (WS_FRAME_AGAIN | WS_MULTIPATH_VOID) ||
		   !mp_inner_hold_ordered(mp, path, seq, flags, packet, len, now_ns)) {
		ws_reorder_insert(mp->reorder, path, seq, flags & WS_FRAME_AGAIN, packet, len,
				  flags, now_ns);
	}
	mp->direct = NULL;
	if (ws_reorder_must_release(mp->reorder))
		mp->ops.flush(mp->arg);
}

void ws_multipath_heartbeat(struct ws_multipath *mp)
{
	/* Who asks doubts the path: answer at once, but no more often than ACKs go. */
	mp->ack_wanted = true;
	if (!mp->ack_repeats)
		mp->ack_repeats = 1;
	mp->ack_soon = true;
}

/* A path to answer on: the quickest, in every other turn the next one, so that an ACK path that
 * died without a word costs one interval and not the feedback. What is urgent takes the quickest, but
 * not for longer than two turns. */
static uint32_t ack_path(struct ws_multipath *mp, uint64_t now_ns)
{
	uint64_t turns_ns = 2 * US_NS * ws_get(mp->tune.ack_interval_us);
	bool next = mp->ack_soon ? now_ns - mp->ack_other_ns > turns_ns : mp->ack_turn & 1;
	uint32_t best = ws_multipath_best(mp);
	int other;

	if (!next || !(ws_sched_usable(&mp->sched) & ~(1u << best)))
		return best;
	other = ws_sched_urgent(&mp->sched, WS_ACK_MAX_BYTES, 1u << best);
	if (other < 0)
		return best;
	mp->ack_other_ns = now_ns;
	return (uint32_t)other;
}

uint32_t ws_multipath_best(const struct ws_multipath *mp)
{
	int path = ws_sched_urgent(&mp->sched, WS_ACK_MAX_BYTES, 0);

	if (path >= 0)
		return (uint32_t)path;
	/* None takes data: any that is there, path 0 first. */
	return mp->present ? (uint32_t)__builtin_ctz(mp->present) : 0;
}

static void fill(struct ws_multipath *mp, struct ws_ack *ack, uint64_t now_ns)
{
	struct ws_reorder_gap gaps[WS_REORDER_MAX_GAPS];
	uint32_t missing, count = 0;

	missing = ws_reorder_missing(mp->reorder, gaps, WS_ACK_MAX_GAPS);
	/* What waits for an inner TCP's sake has come. */
	for (uint32_t i = 0; i < missing; i++)
		if (!mp_inner_has(mp, gaps[i].first, gaps[i].count))
			gaps[count++] = gaps[i];
	ack->time_us = mp_time_us(now_ns);
	ack->next_seq = ws_reorder_next(mp->reorder);
	ack->path_count = 0;
	ack->gap_count = (uint8_t)count;
	for (uint32_t i = 0; i < count; i++)
		ack->gaps[i] = (struct ws_ack_gap){gaps[i].first, gaps[i].count};
	for (uint32_t i = 0; i < WS_PATH_COUNT; i++) {
		const struct ws_path_stats *stats = &mp->stats.paths[i];
		const struct rx_path *rx = &mp->rx[i];
		struct ws_ack_path *entry = &ack->paths[ack->path_count];
		uint64_t hold;

		if (!stats->rx_datagrams || !rx->seen)
			continue;
		hold = (now_ns - rx->data_arrived_ns) / US_NS / WS_ACK_HOLD_US;
		*entry = (struct ws_ack_path){
			.path = (uint8_t)i,
			.hold_16us = (uint16_t)(hold > UINT16_MAX ? UINT16_MAX : hold),
			.highest = (uint32_t)stats->rx_highest,
			.datagrams = (uint32_t)stats->rx_datagrams,
			.bytes = stats->rx_bytes,
			.arrived_us = mp_time_us(rx->arrived_ns),
			.echo_us = rx->echo_us,
			.delay_us = (uint32_t)(rx->delay_ref_us + rx->delay_us) & 0xffffff,
			.delay_min_us = rx->delay_least_us,
		};
		/* All that lately spoke: one lost ACK then costs nothing. */
		if (rx->changed || now_ns - rx->arrived_ns < US_NS * ws_get(mp->tune.path_idle_us))
			ack->path_count++;
	}
}

uint64_t mp_ack_deadline(const struct ws_multipath *mp)
{
	uint64_t interval_ns = 1000ULL * ws_get(mp->tune.ack_interval_us);

	if (!mp->ack_wanted && !mp->ack_repeats)
		return UINT64_MAX;
	if (mp->ack_soon)
		interval_ns = ACK_SOONEST_NS;
	if (mp->unacked >= ACK_PACKETS)
		return mp->acked_at_ns + ACK_SOONEST_NS / 2;
	return mp->acked_at_ns + (interval_ns < ACK_SOONEST_NS ? ACK_SOONEST_NS : interval_ns);
}

void mp_send_ack(struct ws_multipath *mp, uint64_t now_ns)
{
	uint8_t frame[WS_ACK_MAX_BYTES];
	struct ws_ack ack;
	struct ws_reorder_gap gap;
	uint32_t path;
	size_t len;

	if (!mp->ack_wanted && !mp->ack_repeats)
		return;
	/* A newly lost packet is worth an ACK before its turn. */
	if (mp->ack_wanted && !mp->ack_soon && ws_reorder_gaps(mp->reorder, &gap, 1, now_ns) &&
	    (!mp->gap_known || gap.first != mp->gap_told))
		mp->ack_soon = true;
	if (now_ns < mp_ack_deadline(mp))
		return;
	fill(mp, &ack, now_ns);
	mp->gap_known = ws_reorder_gaps(mp->reorder, &gap, 1, now_ns) > 0;
	if (mp->gap_known)
		mp->gap_told = gap.first;
	if (!mp->ack_wanted)
		mp->ack_repeats--;
	path = ack_path(mp, now_ns);
	mp->ack_turn += !mp->ack_soon;
	mp->ack_wanted = mp->ack_soon = false;
	mp->unacked = 0;
	mp->acked_at_ns = now_ns;
	if (!ack.path_count)
		return;
	for (uint32_t i = 0; i < WS_PATH_COUNT; i++)
		mp->rx[i].changed = false;
	len = ws_ack_encode(&ack, frame);
	ws_multipath_control(mp, path, frame, len, now_ns);
	ws_add(mp->stats.acks_tx, 1);
}
