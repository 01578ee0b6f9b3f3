/* SPDX-License-Identifier: MIT */
/*
 * What waits goes to the paths, as they have room and pace:
 *  1. pump_resend: what a silent path had under way (mp_copy, ws_multipath_rescue put it there)
 *  2. the scheduler gives the head of the queue to a path, again and again; a slower path takes what
 *     is due when it would deliver (further_back)
 *  3. pump_fair: with windows each flow in its turn
 *  4. each path's packets leave together (flush_run): datagrams of one path are one send
 */
#include "multipath/multipath_internal.h"

#include <string.h>

/* Share of the packets that may be sent again for loss, in 1/100, and what may be saved up. */
#define AGAIN_PERCENT 5
#define AGAIN_PERCENT_WINDOWED 20 /* a fade takes a window, and what drops is told by losses */
#define AGAIN_SAVED (100 * RUN_MAX)
#define AGAIN_SAVED_WINDOWED (20 * RECORDS) /* a whole window that was lost */
#define PUMP_INTERVAL_NS (MS_NS / 2)
/* What a silent path left behind is sent again up to this age: nothing of it has come, so the inner
 * TCP waits for it as long as the peer's buffer does. */
#define RESCUE_AGE_NS (400 * MS_NS)
#define RESCUE_AGE_WINDOWED_NS (1000 * MS_NS)
#define RESCUE_AGE_KEPT_NS (1000 * MS_NS)
/* Packets may wait for so many times as long as where their flow is told of it. */
#define QUEUE_TIMES 2
/* Paths that are closer than this take their turns at the head; how far a search goes. */
#define AHEAD_LEAST_US 2000
#define AHEAD_MOST_US 1000000
#define AHEAD_LOOK 512

/* The waiting packet at the head goes to the paths in `mask`. */
struct run {
	uint64_t seq[RUN_MAX];
	bool again[RUN_MAX];
	uint32_t count;
};

static void flush_run(struct ws_multipath *mp, uint32_t path, struct run *run, uint64_t now_ns)
{
	for (uint32_t i = 0; i < run->count; i++) {
		const struct slot *slot = &mp->slots[run->seq[i] % RING];

		mp_emit(mp, path, run->seq[i], slot->flags | (run->again[i] ? WS_FRAME_AGAIN : 0),
			slot->ecn, mp_packet(mp, run->seq[i]), slot->len, now_ns);
	}
	run->count = 0;
}

static void give(struct ws_multipath *mp, struct run runs[WS_PATH_COUNT], uint32_t mask,
		 uint64_t seq, bool again, uint64_t now_ns)
{
	uint32_t bytes = mp_wire_bytes(mp->slots[seq % RING].len);

	for (uint32_t i = 0; i < WS_PATH_COUNT; i++) {
		if (!(mask >> i & 1))
			continue;
		if (runs[i].count == RUN_MAX)
			flush_run(mp, i, &runs[i], now_ns);
		runs[i].seq[runs[i].count] = seq;
		/* Of redundant copies the first is the original. */
		runs[i].again[runs[i].count++] = again || (mask & ((1u << i) - 1));
		ws_sched_sent(&mp->sched, i, bytes, (uint32_t)seq, now_ns);
	}
}

/* A pace of tens of microseconds is no reason to wake as often: the burst that may be saved up
 * covers it, and datagrams that leave together are one send. */
static uint64_t later(uint64_t now_ns, uint64_t wake_ns)
{
	return wake_ns < now_ns + PUMP_INTERVAL_NS ? now_ns + PUMP_INTERVAL_NS : wake_ns;
}

static bool worth_resending(const struct ws_multipath *mp, uint64_t seq, uint64_t now_ns)
{
	const struct slot *slot = &mp->slots[seq % RING];

	if (seq < mp->seq_base || !slot->len)
		return false;
	/* The peer says what it awaits; nothing else would send it again. */
	if (mp->keep)
		return seq >= mp->arrived_seq && now_ns - slot->sent_ns <= RESCUE_AGE_KEPT_NS;
	/* With windows it waits for its path as well, and may have come by now. */
	if (mp_windowed(mp) && mp->schedule)
		return seq >= mp->arrived_seq && slot->number >= mp->tx[slot->path].acked &&
		       now_ns - slot->sent_ns <= RESCUE_AGE_WINDOWED_NS;
	return now_ns - slot->sent_ns <= RESCUE_AGE_NS;
}

/*
 * The paths for a packet, as a mask; 0 and *wake_ns: they have room then; 0 and 0: there is none. One that
 * is too long for all, as far as is known of a path that came into use just now, goes by the roomiest.
 */
static uint32_t pick(struct ws_multipath *mp, uint32_t bytes, uint64_t queued_bytes, uint64_t seq,
		     uint64_t now_ns, uint64_t *wake_ns)
{
	uint32_t most = 0;
	uint32_t mask =
		ws_sched_pick(&mp->sched, bytes, queued_bytes, (uint32_t)seq, now_ns, wake_ns);

	if (mask || *wake_ns)
		return mask;
	for (uint32_t i = 0; i < WS_PATH_COUNT; i++)
		if (mp->sched.paths[i].usable && mp->sched.paths[i].max_packet_bytes > most)
			most = mp->sched.paths[i].max_packet_bytes;
	if (!most || most >= bytes)
		return 0;
	return ws_sched_pick(&mp->sched, most, queued_bytes, (uint32_t)seq, now_ns, wake_ns);
}

/* What a silent path left behind, as the paths have room. False: they have none. */
static bool pump_resend(struct ws_multipath *mp, struct run runs[WS_PATH_COUNT], uint64_t now_ns)
{
	while (mp->resend_head != mp->resend_tail) {
		uint64_t seq = mp->resend[mp->resend_head % RING], wake;
		const struct slot *slot = &mp->slots[seq % RING];
		uint32_t mask;

		if (!worth_resending(mp, seq, now_ns)) {
			mp->resend_head++;
			continue;
		}
		mask = pick(mp, slot->len, mp->queue_bytes + slot->len, seq, now_ns, &wake);
		if (!mask && wake) {
			mp->pump_ns = later(now_ns, wake);
			return false;
		}
		mp->resend_head++;
		if (mask)
			give(mp, runs, mask & -mask, seq, true, now_ns);
	}
	return true;
}

/* How long packets wait while a path is at its pace or window. */
static void note_limits(struct ws_multipath *mp, uint64_t now_ns)
{
	bool waiting = mp_waiting(mp);

	for (uint32_t i = 0; i < WS_PATH_COUNT; i++) {
		const struct ws_sched_path *path = &mp->sched.paths[i];
		struct tx_path *tx = &mp->tx[i];

		if (tx->limited_at_ns)
			ws_add(mp->stats.paths[i].limited_us, (now_ns - tx->limited_at_ns) / 1000);
		tx->limited_at_ns = 0;
		if (waiting && path->usable &&
		    (!ws_pace_ready(&path->pace, now_ns) ||
		     path->in_flight_bytes + mp->stride > path->window_bytes))
			tx->limited_at_ns = now_ns;
	}
}

/* Marks it; the head goes on to the next one that waits. */
static void taken(struct ws_multipath *mp, uint64_t seq, uint64_t now_ns)
{
	struct slot *slot = &mp->slots[seq % RING];

	mp->queue_bytes -= slot->len;
	slot->sent_ns = now_ns;
	mp->ahead++;
	while (mp->seq_head != mp->seq_tail && mp->slots[mp->seq_head % RING].sent_ns) {
		mp->seq_head++;
		mp->ahead--;
	}
}

/* It gets the next seq, and a place among what is kept. */
static uint64_t number_fair(struct ws_multipath *mp, const struct ws_fq_packet *packet,
			    const uint8_t *data)
{
	uint64_t seq = mp->seq_tail;

	if (seq - mp->seq_base >= RING)
		mp->seq_base = seq - RING + 1;
	mp->slots[seq % RING] = (struct slot){
		.queued_ns = packet->queued_ns,
		.len = packet->len,
		.flags = packet->flags,
		.ecn = packet->ecn,
	};
	memcpy(mp_packet(mp, seq), data, packet->len);
	mp->queue_bytes += packet->len;
	mp->seq_tail++;
	ws_fq_take(&mp->fair);
	return seq;
}

/* A flow is told by one loss a round trip that its packets wait for too long: were all dropped that
 * come while a path fades, a TCP would have to begin anew. Who does not listen is stopped all the same. */
static bool waits_too_long(struct ws_multipath *mp, const struct ws_fq_packet *packet,
			   uint64_t now_ns)
{
	struct ws_fq_flow *flow = ws_fq_flow(&mp->fair, packet);
	uint64_t most_ns = 1000ULL * ws_get(mp->tune.queue_us);
	uint64_t waited_ns = now_ns - packet->queued_ns;

	if (waited_ns <= most_ns)
		return false;
	if (waited_ns <= QUEUE_TIMES * most_ns && now_ns - flow->told_ns <= waited_ns)
		return false;
	flow->told_ns = now_ns;
	return true;
}

static uint64_t waiting_packets(const struct ws_multipath *mp)
{
	return mp->seq_tail - mp->seq_head - mp->ahead + mp->fair.packets;
}

static uint64_t nearest_waiting(const struct ws_multipath *mp, uint64_t seq)
{
	for (uint64_t i = 0; i < AHEAD_LOOK && seq + i < mp->seq_tail; i++)
		if (!mp->slots[(seq + i) % RING].sent_ns)
			return seq + i;
	for (uint64_t i = 0; i < AHEAD_LOOK && seq - i > mp->seq_head; i++)
		if (!mp->slots[(seq - i) % RING].sent_ns)
			return seq - i;
	return mp->seq_head;
}

/*
 * Which of the waiting packets the path in `mask` shall take. What a slower path gets arrives when
 * the quicker ones have delivered what stands in the queue for as long; were it the head, all that
 * follows would wait for it in the peer's buffer. A queue that is somewhat shorter gives its last one,
 * one of less than three quarters its head.
 */
static uint64_t further_back(const struct ws_multipath *mp, uint32_t mask)
{
	uint32_t path = (uint32_t)__builtin_ctz(mask);
	uint64_t waiting = mp->seq_tail - mp->seq_head - mp->ahead, bps = 0, bytes, back, seq;
	int64_t lag_us = 0;

	if ((mask & (mask - 1)) || waiting < 2 ||
	    (mp->sched.kind != WS_SCHED_EDF && mp->sched.kind != WS_SCHED_BACKUP))
		return mp->seq_head;
	for (uint32_t i = 0; i < WS_PATH_COUNT; i++) {
		const struct ws_sched_path *other = &mp->sched.paths[i];
		int64_t by_us = (int64_t)mp->sched.paths[path].delay_us - other->delay_us;

		if (!other->usable || by_us <= 0)
			continue;
		bps += other->pace.rate_bps;
		if (by_us > lag_us)
			lag_us = by_us;
	}
	if (lag_us < AHEAD_LEAST_US)
		return mp->seq_head;
	if (lag_us > AHEAD_MOST_US)
		lag_us = AHEAD_MOST_US;
	bytes = bps / 8000 * (uint64_t)lag_us / 1000;
	if (bytes / 4 * 3 > mp->queue_bytes)
		return mp->seq_head;
	back = bytes * waiting / mp->queue_bytes;
	if (back >= waiting)
		back = waiting - 1;
	seq = nearest_waiting(mp, mp->seq_head + back);
	/* Room was found for the head; another may be longer. */
	if (mp->slots[seq % RING].len > mp->sched.paths[path].max_packet_bytes)
		return mp->seq_head;
	return seq;
}

/* With windows: each flow in its turn, as the paths have room. */
static void pump_fair(struct ws_multipath *mp, struct run runs[WS_PATH_COUNT], uint64_t now_ns)
{
	const struct ws_fq_packet *packet;
	const uint8_t *data;

	while ((packet = ws_fq_peek(&mp->fair, &data))) {
		uint64_t wake = UINT64_MAX, seq;
		uint32_t mask;

		if (waits_too_long(mp, packet, now_ns)) {
			ws_fq_take(&mp->fair);
			ws_add(mp->stats.queue_drops, 1);
			continue;
		}
		mask = pick(mp, packet->len, mp->fair.bytes, mp->seq_tail, now_ns, &wake);
		if (!mask && wake) {
			mp->pump_ns = later(now_ns, wake);
			return;
		}
		seq = number_fair(mp, packet, data);
		if (mask)
			give(mp, runs, mask, seq, false, now_ns);
		else
			ws_add(mp->stats.queue_drops, 1);
		taken(mp, seq, now_ns);
		mp->again_credit += AGAIN_PERCENT_WINDOWED;
	}
}

/* What waited goes the one way that there is. */
static void pump_all(struct ws_multipath *mp, struct run runs[WS_PATH_COUNT], uint64_t now_ns)
{
	const struct ws_fq_packet *packet;
	const uint8_t *data;

	while (mp->seq_head != mp->seq_tail) {
		give(mp, runs, 1u << mp->only, mp->seq_head, false, now_ns);
		taken(mp, mp->seq_head, now_ns);
	}
	while ((packet = ws_fq_peek(&mp->fair, &data))) {
		uint64_t seq = number_fair(mp, packet, data);

		give(mp, runs, 1u << mp->only, seq, false, now_ns);
		taken(mp, seq, now_ns);
	}
}

void ws_multipath_pump(struct ws_multipath *mp, uint64_t now_ns)
{
	struct run runs[WS_PATH_COUNT];
	uint64_t again_most;

	for (uint32_t i = 0; i < WS_PATH_COUNT; i++)
		runs[i].count = 0;
	mp_load(mp, now_ns);
	mp->pump_ns = UINT64_MAX;
	if (!mp->schedule) {
		/* No longer over several paths: what waited goes the one way there is. */
		for (; mp->resend_head != mp->resend_tail; mp->resend_head++) {
			uint64_t seq = mp->resend[mp->resend_head % RING];
			const struct slot *slot = &mp->slots[seq % RING];

			/* What that one itself has under way, it still has. */
			if (worth_resending(mp, seq, now_ns) && slot->path != mp->only)
				give(mp, runs, 1u << mp->only, seq, true, now_ns);
		}
		pump_all(mp, runs, now_ns);
	} else if (pump_resend(mp, runs, now_ns)) {
		while (mp->seq_head != mp->seq_tail) {
			const struct slot *slot = &mp->slots[mp->seq_head % RING];
			uint64_t wake = UINT64_MAX, seq = mp->seq_head;
			uint32_t mask =
				pick(mp, slot->len, mp->queue_bytes, mp->seq_head, now_ns, &wake);

			if (!mask && wake) {
				mp->pump_ns = later(now_ns, wake);
				break;
			}
			if (mask)
				seq = further_back(mp, mask);
			if (mask)
				give(mp, runs, mask, seq, false, now_ns);
			else
				ws_add(mp->stats.queue_drops, 1);
			taken(mp, seq, now_ns);
			mp->again_credit += AGAIN_PERCENT;
		}
		if (mp->seq_head == mp->seq_tail)
			pump_fair(mp, runs, now_ns);
		if (!mp_waiting(mp))
			mp->catching = false;
	}
	for (uint32_t i = 0; i < WS_PATH_COUNT; i++)
		flush_run(mp, i, &runs[i], now_ns);
	again_most = mp_windowed(mp) ? AGAIN_SAVED_WINDOWED : AGAIN_SAVED;
	if (mp->again_credit > again_most)
		mp->again_credit = again_most;
	note_limits(mp, now_ns);
	ws_set(mp->stats.queue_packets, waiting_packets(mp));
	ws_set(mp->stats.queue_bytes, mp->queue_bytes + mp->fair.bytes);
}

uint32_t mp_copy(struct ws_multipath *mp, uint32_t path, uint64_t now_ns)
{
	struct tx_path *tx = &mp->tx[path];
	uint32_t count = 0;

	for (uint64_t number = tx->acked; number < tx->next_number; number++) {
		uint64_t seq = tx->records[number % RECORDS].seq;
		struct slot *slot;

		if (seq == NO_SEQ || seq < mp->seq_base || seq >= mp->seq_tail)
			continue;
		slot = &mp->slots[seq % RING];
		if (!slot->len || slot->again >= (mp->keep ? AGAIN_MOST_WINDOWED : AGAIN_MOST) ||
		    slot->path != path || slot->number != number ||
		    mp->resend_tail - mp->resend_head >= RING)
			continue;
		if (mp_windowed(mp) || mp->keep)
			slot->again++;
		else
			slot->again = AGAIN_MOST; /* no ACK asks for another while it waits */
		mp->resend[mp->resend_tail++ % RING] = seq;
		count++;
	}
	if (count || mp_waiting(mp))
		mp->pump_ns = now_ns;
	return count;
}

uint32_t ws_multipath_rescue(struct ws_multipath *mp, uint32_t path, uint64_t now_ns)
{
	struct tx_path *tx = &mp->tx[path];
	uint32_t count = mp_copy(mp, path, now_ns);

	/* Nothing is known of these any more; were they to count, the path could never be used again. */
	tx->acked = tx->next_number;
	mp->sched.paths[path].in_flight_bytes = 0;
	ws_set(mp->stats.paths[path].in_flight_bytes, 0);
	if (count || mp_waiting(mp))
		mp->pump_ns = now_ns;
	return count;
}
