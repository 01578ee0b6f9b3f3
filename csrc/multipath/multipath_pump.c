/* SPDX-License-Identifier: MIT */
/*
 * What waits goes to the paths, as they have room and pace:
 *  1. pump_resend: what was lost (mp_send_again), or a silent path had under way (mp_copy)
 *  2. what the only path left waiting, as the scheduler says
 *  3. pump_fair: each flow in its turn
 *  4. each path's packets leave together (flush_run): datagrams of one path are one send
 */
#include "multipath/multipath_internal.h"

#include <string.h>

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

static void flush_runs(struct ws_multipath *mp, struct run runs[WS_PATH_COUNT], uint64_t now_ns)
{
	for (uint32_t i = 0; i < WS_PATH_COUNT; i++)
		flush_run(mp, i, &runs[i], now_ns);
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
	uint64_t soonest_ns = now_ns + WS_BURST_NS / 2;

	return wake_ns < soonest_ns ? soonest_ns : wake_ns;
}

static bool worth_resending(const struct ws_multipath *mp, uint64_t seq, uint64_t now_ns)
{
	const struct slot *slot = &mp->slots[seq % RING];
	const struct tx_path *tx = &mp->tx[slot->path];

	if (!mp_kept(mp, seq, now_ns))
		return false;
	/* The peer says what it awaits; over several paths what is not given up may have come by now. */
	return !mp->schedule ||
	       (seq >= mp->arrived_seq && (mp->keep || slot->lost || slot->number >= tx->acked ||
					   slot->number < tx->given_up));
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

/* A path that takes no packet so long would bring it far sooner than those that do: all behind it would wait.
 * Its sender hears of the tunnel's MTU, once that is known, when it sends it again. */
static bool is_too_long(const struct ws_multipath *mp, uint32_t bytes, uint64_t waited_ns)
{
	return waited_ns > mp_worth_ns(mp) / 2 && ws_sched_later_ns(&mp->sched, bytes) > STUCK_NS;
}

/* The seq at the head of what is sent again goes off. */
static void unqueue(struct ws_multipath *mp)
{
	uint64_t seq = mp->resend[mp->resend_head++ % RING];

	/* Else its place is another's by now. */
	if (seq >= mp->seq_base)
		mp->slots[seq % RING].queued = false;
}

/* What was lost, or a silent path left behind, as the paths have room. False: they have none. All of it has left
 * then: the oldest one's place in the ring is the next new packet's. */
static bool pump_resend(struct ws_multipath *mp, struct run runs[WS_PATH_COUNT], uint64_t now_ns)
{
	while (mp->resend_head != mp->resend_tail) {
		uint64_t seq = mp->resend[mp->resend_head % RING], wake, queued_bytes;
		const struct slot *slot = &mp->slots[seq % RING];
		uint32_t mask;

		if (!worth_resending(mp, seq, now_ns)) {
			unqueue(mp);
			continue;
		}
		queued_bytes =
			mp->queue_bytes + (uint64_t)(mp->resend_tail - mp->resend_head) * slot->len;
		mask = pick(mp, slot->len, queued_bytes, seq, now_ns, &wake);
		if (!mask && wake && is_too_long(mp, slot->len, now_ns - slot->sent_ns)) {
			unqueue(mp);
			continue;
		}
		if (!mask && wake) {
			mp->pump_ns = later(now_ns, wake);
			return false;
		}
		unqueue(mp);
		if (mask)
			give(mp, runs, mask & -mask, seq, true, now_ns);
	}
	flush_runs(mp, runs, now_ns);
	return true;
}

/* Marks it; the head goes on to the next one that waits. */
static void taken(struct ws_multipath *mp, uint64_t seq, uint64_t now_ns)
{
	struct slot *slot = &mp->slots[seq % RING];

	mp->queue_bytes -= slot->len;
	slot->sent_ns = now_ns;
	mp->seq_head = seq + 1;
}

/* It gets the next seq, and a place among what is kept. */
static uint64_t number_fair(struct ws_multipath *mp, const struct ws_fq_packet *packet,
			    const uint8_t *data)
{
	uint64_t seq = mp->seq_tail;

	if (seq - mp->seq_base >= RING)
		mp->seq_base = seq - RING + 1;
	mp->slots[seq % RING] = (struct slot){
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

/* A flow is told by one loss a round trip that its packets wait for too long, half of what they are worth:
 * were all dropped that come while a path fades, a TCP would have to begin anew. What it sends again waits
 * as long, and all behind it: so it is not told where it needs no loss for that, or does not listen.
 * What is worth nothing any more is so to all but a TCP: it would send it again, and begin anew. */
static bool waits_too_long(struct ws_multipath *mp, const struct ws_fq_packet *packet,
			   const uint8_t *data, uint64_t now_ns)
{
	struct ws_fq_flow *flow = ws_fq_flow(&mp->fair, packet);
	uint64_t waited_ns = now_ns - packet->queued_ns;

	/* What it sends again would be the next to reach the head when it is told again. */
	if (packet->again || waited_ns <= mp_worth_ns(mp) / 2)
		return false;
	if ((waited_ns <= mp_worth_ns(mp) || packet->tcp) &&
	    (now_ns - flow->told_ns <= waited_ns || !mp_inner_listens(mp, data, packet->len)))
		return false;
	flow->told_ns = now_ns;
	return true;
}

static uint64_t waiting_packets(const struct ws_multipath *mp)
{
	return mp->seq_tail - mp->seq_head + mp->fair.packets;
}

/* Each flow in its turn, as the paths have room. */
static void pump_fair(struct ws_multipath *mp, struct run runs[WS_PATH_COUNT], uint64_t now_ns)
{
	const struct ws_fq_packet *packet;
	const uint8_t *data;

	while ((packet = ws_fq_peek(&mp->fair, &data))) {
		uint64_t wake = UINT64_MAX, seq;
		uint32_t mask;

		if (waits_too_long(mp, packet, data, now_ns)) {
			ws_fq_take(&mp->fair);
			ws_add(mp->stats.queue_drops, 1);
			continue;
		}
		mask = pick(mp, packet->len, mp->fair.bytes, mp->seq_tail, now_ns, &wake);
		if (!mask && wake && !packet->again &&
		    is_too_long(mp, packet->len, now_ns - packet->queued_ns)) {
			ws_fq_take(&mp->fair);
			ws_add(mp->stats.queue_drops, 1);
			continue;
		}
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
		mp->again_credit++;
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

	for (uint32_t i = 0; i < WS_PATH_COUNT; i++)
		runs[i].count = 0;
	mp_load(mp, now_ns);
	mp->pump_ns = UINT64_MAX;
	if (!mp->schedule) {
		/* No longer over several paths: what waited goes the one way there is. */
		for (; mp->resend_head != mp->resend_tail; unqueue(mp)) {
			uint64_t seq = mp->resend[mp->resend_head % RING];
			const struct slot *slot = &mp->slots[seq % RING];

			/* What that one itself has under way, it still has. */
			if (worth_resending(mp, seq, now_ns) && slot->path != mp->only)
				give(mp, runs, 1u << mp->only, seq, true, now_ns);
		}
		flush_runs(mp, runs, now_ns);
		pump_all(mp, runs, now_ns);
	} else if (pump_resend(mp, runs, now_ns)) {
		while (mp->seq_head != mp->seq_tail) {
			const struct slot *slot = &mp->slots[mp->seq_head % RING];
			uint64_t wake = UINT64_MAX;
			uint32_t mask =
				pick(mp, slot->len, mp->queue_bytes, mp->seq_head, now_ns, &wake);

			if (!mask && wake) {
				mp->pump_ns = later(now_ns, wake);
				break;
			}
			if (mask)
				give(mp, runs, mask, mp->seq_head, false, now_ns);
			else
				ws_add(mp->stats.queue_drops, 1);
			taken(mp, mp->seq_head, now_ns);
			mp->again_credit++;
		}
		if (mp->seq_head == mp->seq_tail)
			pump_fair(mp, runs, now_ns);
		if (!mp_waiting(mp))
			mp->catching = false;
	}
	flush_runs(mp, runs, now_ns);
	/* A whole window that was lost. */
	if (mp->again_credit > RECORDS)
		mp->again_credit = RECORDS;
	ws_set(mp->stats.queue_packets, waiting_packets(mp));
	ws_set(mp->stats.queue_bytes, mp->queue_bytes + mp->fair.bytes);
}

/* True: it waits to be sent again. */
static bool queue_again(struct ws_multipath *mp, uint64_t seq)
{
	struct slot *slot = &mp->slots[seq % RING];

	if (slot->again >= AGAIN_MOST || slot->queued || mp->resend_tail - mp->resend_head >= RING)
		return false;
	slot->again++;
	slot->queued = true;
	mp->resend[mp->resend_tail++ % RING] = seq;
	return true;
}

void mp_send_again(struct ws_multipath *mp, uint64_t seq, uint64_t now_ns)
{
	struct slot *slot = &mp->slots[seq % RING];

	if (!slot->queued) {
		/* A buffer that runs over loses many at once. */
		if (!mp->again_credit || !queue_again(mp, seq))
			return;
		mp->again_credit--;
	}
	slot->lost = true;
	mp->pump_ns = now_ns;
}

uint32_t mp_copy(struct ws_multipath *mp, uint32_t path, uint64_t now_ns)
{
	struct tx_path *tx = &mp->tx[path];
	uint32_t count = 0;

	for (uint64_t number = tx->acked; number < tx->next_number; number++) {
		uint64_t seq = tx->records[number % RECORDS].seq;
		const struct slot *slot;

		if (seq == NO_SEQ || seq < mp->seq_base || seq >= mp->seq_tail)
			continue;
		slot = &mp->slots[seq % RING];
		if (slot->len && slot->path == path && slot->number == number)
			count += queue_again(mp, seq);
	}
	if (mp_pending(mp))
		mp->pump_ns = now_ns;
	return count;
}

uint32_t ws_multipath_rescue(struct ws_multipath *mp, uint32_t path, uint64_t now_ns)
{
	struct tx_path *tx = &mp->tx[path];
	uint32_t count = mp_copy(mp, path, now_ns);

	/* Nothing is known of these any more; were they to count, the path could never be used again. */
	tx->acked = tx->given_up = tx->next_number;
	mp->sched.paths[path].in_flight_bytes = 0;
	ws_set(mp->stats.paths[path].in_flight_bytes, 0);
	return count;
}
