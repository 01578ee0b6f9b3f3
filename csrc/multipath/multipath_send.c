/* SPDX-License-Identifier: MIT */
/*
 * Outbound, in the order of a packet's way:
 *  1. ws_multipath_send: urgent packets leave at once, others wait with their flow (fairqueue.c) and
 *     get a seq when they leave; over the only path they get it at once, and wait in the ring
 *  2. multipath_pump.c: what waits goes to the paths
 *  3. mp_emit: frame header, the path's next number, sealed and sent by the caller
 *  4. the ring keeps the packet, so that it can be sent again: what an ACK shows as lost
 *     or a silent path left behind (multipath_pump.c), and what is late (mp_send_also)
 */
#include "multipath/multipath_internal.h"
#include "packet/ip.h"

#include <string.h>

/* Urgent packets go past window and pace, so they may not be many: in so long what all paths carry in a
 * burst, and a call's worth. */
#define URGENT_WINDOW_NS (10 * MS_NS)
#define URGENT_FREE_BYTES 2048
/* The only path: what goes over it is measured in such pieces. */
#define PIECE_NS (50 * MS_NS)
#define CATCH_UP_LEAST_BPS 10000000ULL
/* Of more packets in a piece the ring holds less than a silence, a piece, and the second sending take. */
#define RUSH_PACKETS (RING * PIECE_NS / (2 * (ONLY_SILENT_NS + PIECE_NS)))

static uint64_t take_number(struct ws_multipath *mp, uint32_t path, uint64_t seq,
			    uint32_t data_bytes, uint64_t now_ns)
{
	struct tx_path *tx = &mp->tx[path];
	uint64_t number = tx->next_number++;
	struct record *record = &tx->records[number % RECORDS];

	tx->data_bytes += data_bytes;
	if (data_bytes)
		tx->data_number = number + 1;
	*record = (struct record){
		.seq = seq,
		.sent_ns = now_ns,
		.data_bytes = tx->data_bytes,
		.data = data_bytes > 0,
	};
	/* So far behind that its records are overwritten: it will not be heard of any more. */
	if (number - tx->acked >= RECORDS)
		tx->acked = number + 1 - RECORDS;
	return number;
}

static void count_sent(struct ws_multipath *mp, uint32_t path, uint32_t bytes)
{
	struct ws_path_stats *stats = &mp->stats.paths[path];

	ws_add(stats->tx_bytes, bytes);
	mp->tx[path].bytes_ever += bytes;
}

uint64_t ws_multipath_number(struct ws_multipath *mp, uint32_t path, uint32_t bytes,
			     uint64_t now_ns)
{
	uint64_t number;

	if (!mp->schedule) {
		/* Nobody acknowledges these, so nothing need be known of them later. */
		struct tx_path *tx = &mp->tx[path];

		tx->unpublished++;
		tx->unpublished_bytes += bytes;
		tx->acked = tx->next_number + 1;
		return tx->next_number++;
	}
	count_sent(mp, path, bytes);
	number = take_number(mp, path, NO_SEQ, 0, now_ns);
	if (bytes > mp_wire_bytes(mp->sched.paths[path].max_packet_bytes)) {
		mp->tx[path].records[number % RECORDS].longer = true;
		mp->tx[path].longer_number = number + 1;
	}
	return number;
}

void ws_multipath_control(struct ws_multipath *mp, uint32_t path, const uint8_t *frame, size_t len,
			  uint64_t now_ns)
{
	uint64_t number = take_number(mp, path, NO_SEQ, 0, now_ns);

	count_sent(mp, path, mp->ops.control(mp->arg, path, number, frame, len));
}

void ws_multipath_publish(struct ws_multipath *mp, uint32_t packets)
{
	for (uint32_t i = 0; i < WS_PATH_COUNT; i++) {
		struct ws_path_stats *stats = &mp->stats.paths[i];
		struct tx_path *tx = &mp->tx[i];

		if (!tx->unpublished)
			continue;
		ws_add(stats->tx_bytes, tx->unpublished_bytes);
		tx->bytes_ever += tx->unpublished_bytes;
		tx->unpublished = tx->unpublished_bytes = 0;
	}
	ws_add(mp->stats.paths[mp->only].tx_packets, packets);
}

uint64_t mp_catch_up_bps(const struct ws_multipath *mp, uint64_t now_ns)
{
	uint64_t elapsed_ns = now_ns - mp->carried_ns, bps = mp->carried_bps;

	/* A while that has hardly begun tells nothing. */
	if (elapsed_ns >= PIECE_NS / 2) {
		uint64_t now_bps = mp->carried_bytes * 8000 / (elapsed_ns / 1000000 + 1);

		if (now_bps > bps)
			bps = now_bps;
	}
	bps *= 2;
	return bps > CATCH_UP_LEAST_BPS ? bps : CATCH_UP_LEAST_BPS;
}

/* What comes to be sent, whether it leaves at once or not. */
static void note_carried(struct ws_multipath *mp, uint32_t bytes, uint64_t now_ns)
{
	uint64_t elapsed_ns = now_ns - mp->carried_ns;

	if (elapsed_ns >= PIECE_NS) {
		mp->carried_bps = mp->carried_bytes * 8000 / (elapsed_ns / 1000000 + 1);
		mp->carried_bytes = 0;
		mp->carried_ns = now_ns;
	}
	mp->carried_bytes += bytes;
}

bool ws_multipath_past(struct ws_multipath *mp, uint32_t packets, uint64_t now_ns)
{
	uint64_t elapsed_ns = now_ns - mp->rush_ns;

	if (elapsed_ns >= PIECE_NS) {
		mp->rush_before = elapsed_ns < 2 * PIECE_NS ? mp->rush_packets : 0;
		mp->rush_packets = 0;
		mp->rush_ns = now_ns;
	}
	mp->rush_packets += packets;
	mp->sampling = false;
	if (!mp->keep || (mp->rush_before < RUSH_PACKETS && mp->rush_packets < RUSH_PACKETS))
		return false;
	if (mp_waiting(mp))
		ws_multipath_pump(mp, now_ns);
	if (mp_pending(mp))
		return false;
	/* Of what is not kept some is acknowledged: silence shows. */
	mp->sampling = now_ns - mp->sample_ns >= PIECE_NS / 2;
	if (mp->sampling)
		mp->sample_ns = now_ns;
	return !mp->sampling;
}

uint32_t ws_multipath_seq(struct ws_multipath *mp)
{
	/* Nothing waits, and nothing is kept: of what was, in a rush, neither. */
	mp->seq_head = mp->seq_base = mp->seq_tail + 1;
	return (uint32_t)mp->seq_tail++;
}

/* told: what stands as the frame's seq. */
static void emit(struct ws_multipath *mp, uint32_t path, uint64_t seq, uint32_t told,
		 uint32_t flags, uint8_t ecn, const uint8_t *packet, uint32_t len, uint64_t now_ns)
{
	struct ws_path_stats *stats = &mp->stats.paths[path];
	uint8_t head[WS_FRAME_HEADER_BYTES];
	uint64_t number = take_number(mp, path, seq, mp_wire_bytes(len), now_ns);

	if (mp->keep && path == mp->only && !mp->tx[path].mark_ns) {
		mp->tx[path].mark_number = number;
		mp->tx[path].mark_ns = now_ns;
	}
	if (seq != NO_SEQ) {
		struct slot *slot = &mp->slots[seq % RING];

		slot->path = (uint8_t)path;
		slot->number = number;
		slot->lost = false;
		if (!(flags & WS_FRAME_AGAIN))
			slot->sent_ns = now_ns;
	}
	ws_frame_encode(head, WS_FRAME_FEEDBACK | flags, now_ns, told);
	count_sent(mp, path, mp->ops.send(mp->arg, path, number, head, ecn, packet, len));
	ws_add(stats->tx_packets, 1);
	if (flags & WS_FRAME_AGAIN)
		ws_add(mp->stats.again, 1);
	ws_set(stats->in_flight_bytes, mp->sched.paths[path].in_flight_bytes);
	ws_window_used(&mp->tx[path].window, mp->sched.paths[path].in_flight_bytes);
}

void mp_emit(struct ws_multipath *mp, uint32_t path, uint64_t seq, uint32_t flags, uint8_t ecn,
	     const uint8_t *packet, uint32_t len, uint64_t now_ns)
{
	emit(mp, path, seq, seq == NO_SEQ ? 0 : (uint32_t)seq, flags, ecn, packet, len, now_ns);
}

/* By size and kind (docs/multipath.md section 7): what somebody waits for. */
static bool is_urgent(const struct ws_multipath *mp, const uint8_t *packet, size_t len)
{
	size_t header;
	uint8_t dscp, protocol;

	/* Fragments keep their order. */
	if (len > URGENT_MAX_BYTES || !ws_ip_l4(packet, len, &header, &protocol))
		return false;
	dscp = ws_ip_dscp(packet);
	if (dscp == WS_DSCP_EF || dscp == WS_DSCP_VOICE_ADMIT || dscp == WS_DSCP_CS5 ||
	    dscp == WS_DSCP_CS6 || dscp == WS_DSCP_CS7)
		return true;
	if (len < header + WS_UDP_BYTES)
		return false;
	switch (protocol) {
	case WS_PROTOCOL_ICMP:
	case WS_PROTOCOL_ICMPV6:
	case WS_PROTOCOL_UDP:
		return true;
	case WS_PROTOCOL_TCP:
		return mp_inner_is_urgent(mp, packet, len);
	default:
		return false;
	}
}

static bool in_debt(const struct ws_multipath *mp, uint32_t path, uint64_t now_ns)
{
	/* Else a path that is paced would send nothing else. */
	return mp->sched.paths[path].pace.next_ns > now_ns + 2 * URGENT_WINDOW_NS;
}

static void emit_urgent(struct ws_multipath *mp, uint32_t path, uint32_t told,
			const uint8_t *packet, uint32_t len, uint32_t flags, uint8_t ecn,
			uint64_t now_ns)
{
	uint32_t bytes = mp_wire_bytes(len);

	mp->urgent_bytes += bytes;
	ws_sched_sent(&mp->sched, path, bytes, (uint32_t)mp->seq_head, now_ns);
	emit(mp, path, NO_SEQ, told, flags | WS_FRAME_URGENT, ecn, packet, len, now_ns);
}

/* While others wait for a path both have a queue, and whichever fades next is not known. Where a copy goes
 * as well; -1: none. */
static int second_path(const struct ws_multipath *mp, uint32_t len, uint32_t first, bool begins)
{
	const struct ws_sched_path *other;
	int path;

	if (!(mp_waiting(mp) || begins) || !(ws_sched_usable(&mp->sched) & ~(1u << first)))
		return -1;
	path = ws_sched_urgent(&mp->sched, len, 1u << first);
	if (path < 0 || path == (int)first)
		return -1;
	other = &mp->sched.paths[path];
	/* A slow path would send nothing else. */
	return other->in_flight_bytes > other->window_bytes + URGENT_FREE_BYTES ? -1 : path;
}

/* True: gone (or dropped, counted). False: no room among the urgent ones. */
static bool send_urgent(struct ws_multipath *mp, const uint8_t *packet, uint32_t len,
			uint32_t flags, uint8_t ecn, uint64_t now_ns)
{
	uint64_t rate_bps = 0, share;
	uint32_t bytes = mp_wire_bytes(len), told = 0;
	/* Also of one that waits with others. */
	bool begins = mp_inner_begins(mp, packet, len, now_ns);
	int path, second;

	if (now_ns - mp->urgent_window_ns >= URGENT_WINDOW_NS) {
		mp->urgent_window_ns = now_ns;
		mp->urgent_bytes = 0;
	}
	for (uint32_t i = 0; i < WS_PATH_COUNT; i++)
		if (mp->sched.paths[i].usable)
			rate_bps += mp->sched.paths[i].rate_bps / 8;
	share = rate_bps * WS_BURST_NS / S_NS;
	if (mp->urgent_bytes + bytes > URGENT_FREE_BYTES + share)
		return false;
	path = ws_sched_urgent(&mp->sched, len, 0);
	if (path < 0 || in_debt(mp, (uint32_t)path, now_ns))
		return false;
	second = second_path(mp, len, (uint32_t)path, begins);
	if (second >= 0) {
		/* Of two that share a number the peer delivers one; 0 is none. */
		mp->urgent_number += mp->urgent_number == UINT32_MAX ? 2 : 1;
		told = mp->urgent_number;
	}
	emit_urgent(mp, (uint32_t)path, told, packet, len, flags, ecn, now_ns);
	if (second >= 0)
		emit_urgent(mp, (uint32_t)second, told, packet, len, flags, ecn, now_ns);
	ws_add(mp->stats.urgent, 1);
	return true;
}

/* Behind what waits of its flow, whose longest gives way if there is no room. */
static void queue_fair(struct ws_multipath *mp, const uint8_t *head, size_t head_bytes,
		       const uint8_t *body, size_t body_bytes, uint32_t flags, uint8_t ecn,
		       bool part, uint64_t now_ns)
{
	uint32_t len = (uint32_t)(head_bytes + body_bytes);
	uint8_t *packet = ws_fq_place(&mp->fair);

	if (!packet) {
		(void)ws_fq_cut(&mp->fair);
		ws_add(mp->stats.queue_drops, 1);
		packet = ws_fq_place(&mp->fair);
	}
	memcpy(packet, head, head_bytes);
	memcpy(packet + head_bytes, body, body_bytes);
	if (!part && is_urgent(mp, packet, len) && send_urgent(mp, packet, len, flags, ecn, now_ns))
		return;
	if (!mp_waiting(mp))
		mp->pump_ns = now_ns;
	mp_inner_queued(mp, packet, len, ws_fq_put(&mp->fair, len, (uint8_t)flags, ecn, now_ns));
}

void ws_multipath_send(struct ws_multipath *mp, const uint8_t *head, size_t head_bytes,
		       const uint8_t *body, size_t body_bytes, uint32_t flags, uint8_t ecn,
		       bool part, uint64_t now_ns)
{
	size_t len = head_bytes + body_bytes;
	struct slot *slot;
	uint8_t *packet;

	if (!len || len > mp->stride) {
		ws_add(mp->stats.queue_drops, 1);
		return;
	}
	note_carried(mp, (uint32_t)len, now_ns);
	if (mp->sampling) {
		/* Acknowledged, and not in order: what went past before it may be lost, and nobody
		 * sends that again. */
		slot = &mp->slots[mp->seq_tail % RING];
		slot->len = 0;
		packet = mp_packet(mp, mp->seq_tail);
		memcpy(packet, head, head_bytes);
		memcpy(packet + head_bytes, body, body_bytes);
		emit(mp, mp->only, NO_SEQ, 0, flags | WS_FRAME_URGENT, ecn, packet, (uint32_t)len,
		     now_ns);
		return;
	}
	if (!mp->keep) {
		queue_fair(mp, head, head_bytes, body, body_bytes, flags, ecn, part, now_ns);
		return;
	}
	/* Over the only path nothing waits for another, so nothing need overtake. */
	slot = &mp->slots[mp->seq_tail % RING];
	packet = mp_packet(mp, mp->seq_tail);
	if (mp->seq_tail - mp->seq_base >= RING)
		mp->seq_base = mp->seq_tail - RING + 1;
	if (mp->seq_head < mp->seq_base) { /* the ring is full of waiting packets */
		mp->seq_base = mp->seq_head;
		ws_add(mp->stats.queue_drops, 1);
		return;
	}
	memcpy(packet, head, head_bytes);
	memcpy(packet + head_bytes, body, body_bytes);
	*slot = (struct slot){
		.len = (uint32_t)len,
		.flags = (uint8_t)flags,
		.ecn = ecn,
	};
	/* Behind others that wait for pace or room it waits with them. */
	if (mp->seq_head == mp->seq_tail)
		mp->pump_ns = now_ns;
	mp->seq_tail++;
	mp->queue_bytes += len;
}

void mp_send_also(struct ws_multipath *mp, uint64_t seq, uint32_t except, uint64_t now_ns)
{
	struct slot *slot = &mp->slots[seq % RING];
	int path;

	if (slot->again >= AGAIN_MOST || mp->again_credit < AGAIN_LATE_COST)
		return;
	path = ws_sched_urgent(&mp->sched, slot->len, except);
	if (path < 0 || in_debt(mp, (uint32_t)path, now_ns))
		return;
	slot->again++;
	mp->again_credit -= AGAIN_LATE_COST;
	ws_sched_sent(&mp->sched, (uint32_t)path, mp_wire_bytes(slot->len), (uint32_t)seq, now_ns);
	mp_emit(mp, (uint32_t)path, seq, slot->flags | WS_FRAME_AGAIN, slot->ecn,
		mp_packet(mp, seq), slot->len, now_ns);
}
