/* SPDX-License-Identifier: MIT */
/*
 * Outbound, in the order of a packet's way:
 *  1. ws_send_packet: virtio header and IP packet from the TUN device
 *  2. route: destination -> peer (allowed IPs)
 *  3. usable_keys: a current keypair within its limits, or stage and ask for one
 *  4. ws_segment_*: a super-packet becomes whole IP packets
 *  5. reserve: room in the open send buffer, which holds one run of datagrams
 *  6. seal: transport header, AEAD over header and payload in one pass
 *  7. ws_send_flush: to the backend, one UDP_SEGMENT send a run
 */
#include "internal.h"

#include "ecn.h"
#include "segment.h"

#include <errno.h>
#include <string.h>

/* The number of the peer whose allowed IPs hold the destination, or -1 (counted). */
static int32_t route(struct ws_worker *worker, const uint8_t *packet, size_t len)
{
	int32_t number;

	if (len >= 20 && packet[0] >> 4 == 4)
		number = ws_allowedips_lookup4(worker->allowedips, packet + 16);
	else if (len >= 40 && packet[0] >> 4 == 6)
		number = ws_allowedips_lookup6(worker->allowedips, packet + 24);
	else {
		ws_drop(worker, WS_DROP_TUN_MALFORMED, 1);
		return -1;
	}
	if (number < 0)
		ws_drop(worker, WS_DROP_NO_PEER, 1);
	return number;
}

static struct ws_keys *usable_keys(const struct ws_worker *worker, const struct ws_peer *peer)
{
	struct ws_keys *keys = peer->current;

	if (!keys || worker->now_ns >= keys->reject_at_ns ||
	    keys->tx_counter >= keys->reject_after_messages)
		return NULL;
	return keys;
}

/* Room for one datagram of `bytes` to the peer; counts it in. */
static uint8_t *reserve(struct ws_worker *worker, struct ws_peer *peer, uint32_t bytes, uint8_t ecn)
{
	struct ws_tx *tx = worker->open_tx;
	uint8_t *at;

	if (tx && (tx->peer != peer->number || tx->closed || tx->ecn != ecn || bytes > tx->stride ||
		   tx->count >= WS_TX_MAX_SEGMENTS || tx->len + bytes > WS_TX_MAX_BYTES)) {
		worker->open_tx = NULL;
		worker->io->tx_submit(worker, tx);
		tx = NULL;
	}
	if (!tx) {
		tx = worker->io->tx_get(worker);
		tx->len = 0;
		tx->count = 0;
		tx->stride = bytes;
		tx->peer = peer->number;
		tx->socket = peer->socket;
		tx->ecn = ecn;
		tx->closed = false;
		tx->no_gso = worker->no_udp_gso || worker->now_ns < peer->no_gso_until_ns;
		tx->local = peer->stats.local;
		tx->remote = peer->remote;
		tx->remote_bytes = peer->remote_bytes;
		worker->open_tx = tx;
	}
	at = tx->data + tx->len;
	tx->len += bytes;
	tx->count++;
	tx->closed = bytes < tx->stride;
	return at;
}

static void put32(uint8_t *at, uint32_t value)
{
	value = htole32(value);
	memcpy(at, &value, sizeof(value));
}

static void put_header(uint8_t *at, uint32_t receiver, uint64_t counter)
{
	counter = htole64(counter);
	put32(at, WS_MSG_TRANSPORT);
	put32(at + 4, receiver);
	memcpy(at + 8, &counter, sizeof(counter));
}

static void put_frame_header(const struct ws_worker *worker, struct ws_peer *peer, uint8_t *at,
			     uint32_t flags)
{
	uint64_t time_us = worker->now_ns / 1000;

	at[0] = (uint8_t)(WS_FRAME_DATA | flags);
	at[1] = (uint8_t)time_us;
	at[2] = (uint8_t)(time_us >> 8);
	at[3] = (uint8_t)(time_us >> 16);
	put32(at + 4, peer->data_seq++);
}

/* limit: padding must not make the plaintext longer than this. */
static void seal(struct ws_worker *worker, struct ws_peer *peer, struct ws_keys *keys, uint8_t ecn,
		 const uint8_t *head, size_t head_bytes, const uint8_t *body, size_t body_bytes,
		 size_t limit)
{
	size_t len = head_bytes + body_bytes;
	size_t padded = (len + WS_PADDING_BYTES - 1) & ~(size_t)(WS_PADDING_BYTES - 1);
	uint64_t counter = keys->tx_counter++;
	uint32_t bytes;
	uint8_t *at;

	if (padded > limit)
		padded = len > limit ? len : limit;
	bytes = (uint32_t)(WS_TRANSPORT_HEADER_BYTES + padded + WS_TAG_BYTES);
	at = reserve(worker, peer, bytes, ecn);
	put_header(at, keys->remote_index, counter);
	ws_aead_seal2(worker->aead, keys->send_key, counter, at + WS_TRANSPORT_HEADER_BYTES, head,
		      head_bytes, body, body_bytes, padded - len);
	ws_add(peer->stats.tx_bytes, bytes);
	ws_add(worker->stats.tx_bytes, bytes);
}

static void sent(struct ws_worker *worker, struct ws_peer *peer, struct ws_keys *keys, bool data)
{
	ws_set(peer->stats.tx_counter, keys->tx_counter);
	ws_peer_sent(worker, peer, data);
	if (keys->tx_counter > keys->rekey_after_messages ||
	    (keys->initiator && worker->now_ns >= keys->rekey_at_ns))
		ws_peer_ask_handshake(worker, peer, WS_ASK_REKEY);
}

void ws_send_packet(struct ws_worker *worker, uint8_t *frame, size_t len)
{
	uint8_t head[WS_FRAME_HEADER_BYTES + WS_SEGMENT_MAX_HEADER];
	struct ws_segmenter segmenter;
	struct virtio_net_hdr vnet;
	struct ws_keys *keys;
	struct ws_peer *peer;
	uint8_t *packet = frame + WS_VNET_BYTES;
	uint32_t k, owner, longest, front = 0, limit = worker->mtu;
	int32_t number;
	uint8_t ecn;

	if (len <= WS_VNET_BYTES || len > WS_BUFFER_BYTES) {
		ws_drop(worker, WS_DROP_TUN_MALFORMED, 1);
		return;
	}
	memcpy(&vnet, frame, WS_VNET_BYTES);
	number = route(worker, packet, len - WS_VNET_BYTES);
	if (number < 0)
		return;
	owner = (uint32_t)number % worker->engine->workers;
	if (owner != worker->number) {
		ws_handoff_packet(worker, worker->engine->worker[owner], frame, len);
		return;
	}
	peer = ws_worker_peer(worker, number);
	if (!peer) { /* removed between hand-off and here */
		ws_drop(worker, WS_DROP_NO_PEER, 1);
		return;
	}
	keys = usable_keys(worker, peer);
	if (!keys) {
		uint32_t lost = ws_stage_push(&worker->stage, &peer->staged, frame, len);

		if (lost)
			ws_drop(worker, WS_DROP_STAGE_FULL, lost);
		ws_set(peer->stats.staged, peer->staged.packets);
		ws_peer_ask_handshake(worker, peer, WS_ASK_NO_KEY);
		return;
	}
	if (!peer->remote_bytes) {
		ws_drop(worker, WS_DROP_NO_ENDPOINT, 1);
		return;
	}
	if (ws_segment_begin(&segmenter, &vnet, packet, len - WS_VNET_BYTES, peer->frames))
		goto malformed;
	if (peer->frames) {
		longest = (uint32_t)(segmenter.header_bytes
					     ? segmenter.header_bytes + segmenter.segment_bytes
					     : segmenter.len);
		if (!peer->frame_max_bytes || longest <= peer->frame_max_bytes) {
			front = WS_FRAME_HEADER_BYTES;
			/* Nor may the padding make it longer than the longest frame. */
			if (peer->frame_max_bytes && peer->frame_max_bytes < limit)
				limit = peer->frame_max_bytes;
		} else if (segmenter.partial && ws_segment_begin(&segmenter, &vnet, packet,
								 len - WS_VNET_BYTES, false)) {
			goto malformed;
		}
	}
	ecn = ws_ecn_encapsulate(packet, len - WS_VNET_BYTES);
	for (k = 0; k < segmenter.count && keys->tx_counter < keys->reject_after_messages; k++) {
		const uint8_t *body;
		size_t body_bytes;

		if (front)
			put_frame_header(worker, peer, head,
					 (segmenter.partial ? WS_FRAME_PARTIAL : 0) |
						 (k ? WS_FRAME_RUN : 0));
		ws_segment_get(&segmenter, k, head + front, &body, &body_bytes);
		seal(worker, peer, keys, ecn, head, front + segmenter.header_bytes, body,
		     body_bytes, limit + front);
	}
	ws_add(peer->stats.tx_packets, k);
	ws_add(worker->stats.tx_packets, k);
	if (k < segmenter.count)
		ws_drop(worker, WS_DROP_STAGE_FULL, segmenter.count - k);
	sent(worker, peer, keys, true);
	return;
malformed:
	ws_drop(worker, WS_DROP_TUN_MALFORMED, 1);
}

void ws_send_staged(struct ws_worker *worker, struct ws_peer *peer)
{
	uint32_t packets = peer->staged.packets;

	/* Counted beforehand: what cannot go is staged again at the end. */
	while (packets-- > 0) {
		size_t len = ws_stage_pop(&worker->stage, &peer->staged, worker->scratch);

		ws_send_packet(worker, worker->scratch, len);
	}
	ws_set(peer->stats.staged, peer->staged.packets);
}

int ws_send_keepalive(struct ws_worker *worker, struct ws_peer *peer)
{
	struct ws_keys *keys = usable_keys(worker, peer);

	if (!keys)
		return -ENOKEY;
	if (!peer->remote_bytes)
		return -EDESTADDRREQ;
	seal(worker, peer, keys, 0, NULL, 0, NULL, 0, 0);
	ws_add(worker->stats.keepalives_tx, 1);
	sent(worker, peer, keys, false);
	return 0;
}

int ws_send_control(struct ws_worker *worker, struct ws_peer *peer, const uint8_t *data, size_t len)
{
	struct ws_keys *keys = usable_keys(worker, peer);

	if (!keys)
		return -ENOKEY;
	if (!peer->remote_bytes)
		return -EDESTADDRREQ;
	seal(worker, peer, keys, 0, NULL, 0, data, len, WS_CONTROL_MAX_BYTES);
	sent(worker, peer, keys, true);
	return 0;
}

void ws_send_flush(struct ws_worker *worker)
{
	struct ws_tx *tx = worker->open_tx;

	if (tx) {
		worker->open_tx = NULL;
		worker->io->tx_submit(worker, tx);
	}
	worker->io->tx_flush(worker);
}
