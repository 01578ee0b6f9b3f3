/* SPDX-License-Identifier: MIT */
/*
 * Outbound, in the order of a packet's way:
 *  1. ws_send_packet: virtio header and IP packet from the TUN device
 *  2. route: destination -> peer (allowed IPs); to another worker if the peer is that one's
 *  3. to_peer: a current keypair within its limits, or stage and ask for one
 *  4. ws_segment_*: a super-packet becomes whole IP packets
 *  5. send_plain, send_frames, send_bundles: to the peer's endpoint, by seal.c
 *     schedule: into the queue in front of several paths (multipath_send.c), which come to seal.c by
 *     way of paths.c
 *  6. ws_seal_flush: to the backend, one UDP_SEGMENT send a run
 */
#include "session/send.h"

#include "packet/ecn.h"
#include "packet/frame.h"
#include "packet/segment.h"
#include "session/inside.h"
#include "session/paths.h"
#include "session/seal.h"
#include "worker/handoff.h"

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

/* Without a key: it waits for one. */
static void stage(struct ws_worker *worker, struct ws_peer *peer, const uint8_t *frame, size_t len)
{
	uint32_t lost = ws_stage_push(&worker->stage, &peer->staged, frame, len);

	if (lost)
		ws_drop(worker, WS_DROP_STAGE_FULL, lost);
	ws_set(peer->stats.staged, peer->staged.packets);
	ws_peer_want_data_keys(worker, peer);
}

/* Of the peer's next data frame. */
static uint32_t next_seq(struct ws_peer *peer)
{
	return peer->paths ? ws_multipath_seq(ws_paths_core(peer->paths)) : peer->data_seq++;
}

static uint8_t frame_flags(const struct ws_segmenter *segmenter)
{
	return segmenter->partial ? WS_FRAME_PARTIAL : 0;
}

/* The keypair takes one datagram more. */
static bool lasts(const struct ws_keys *keys)
{
	return keys->tx_counter < keys->reject_after_messages;
}

/* As WireGuard sends. Returns how many of the segments went. */
static uint32_t send_plain(struct ws_worker *worker, struct ws_peer *peer, struct ws_keys *keys,
			   const struct ws_segmenter *segmenter, uint8_t ecn)
{
	uint8_t head[WS_SEGMENT_MAX_HEADER];
	uint32_t k;

	for (k = 0; k < segmenter->count && lasts(keys); k++) {
		const uint8_t *body;
		size_t body_bytes;

		ws_segment_get(segmenter, k, head, &body, &body_bytes);
		ws_seal_next(worker, peer, keys, ecn, head, segmenter->header_bytes, body,
			     body_bytes, worker->mtu);
	}
	return k;
}

/* In a data frame. `limit`: of the packet with its padding. */
static void send_frame(struct ws_worker *worker, struct ws_peer *peer, struct ws_keys *keys,
		       const struct ws_segmenter *segmenter, uint8_t ecn, uint32_t k,
		       uint32_t limit)
{
	uint8_t head[WS_FRAME_HEADER_BYTES + WS_SEGMENT_MAX_HEADER];
	const uint8_t *body;
	size_t body_bytes;

	ws_frame_encode(head, frame_flags(segmenter), worker->now_ns, next_seq(peer));
	ws_segment_get(segmenter, k, head + WS_FRAME_HEADER_BYTES, &body, &body_bytes);
	ws_seal_next(worker, peer, keys, ecn, head, WS_FRAME_HEADER_BYTES + segmenter->header_bytes,
		     body, body_bytes, limit + WS_FRAME_HEADER_BYTES);
}

static uint32_t send_frames(struct ws_worker *worker, struct ws_peer *peer, struct ws_keys *keys,
			    const struct ws_segmenter *segmenter, uint8_t ecn, uint32_t limit)
{
	uint32_t k;

	for (k = 0; k < segmenter->count && lasts(keys); k++)
		send_frame(worker, peer, keys, segmenter, ecn, k, limit);
	return k;
}

static size_t bundled_bytes(const struct ws_segmenter *segmenter)
{
	return sizeof(uint16_t) + segmenter->header_bytes + segmenter->segment_bytes;
}

/* Bytes that the last segment has less than the others. */
static size_t last_is_shorter(const struct ws_segmenter *segmenter)
{
	return segmenter->header_bytes + segmenter->count * segmenter->segment_bytes -
	       segmenter->len;
}

/* How many of the segments one frame takes; 1: each goes alone. */
static uint32_t bundle_size(const struct ws_segmenter *segmenter, uint32_t limit)
{
	size_t most = limit / bundled_bytes(segmenter);

	return segmenter->count > 1 && most > 1 ? (uint32_t)most : 1;
}

/*
 * The segments from k on, `count` of them, in one frame: a small packet costs much more to seal
 * than to carry.
 */
static void seal_bundle(struct ws_worker *worker, struct ws_peer *peer, struct ws_keys *keys,
			uint8_t ecn, const struct ws_segmenter *segmenter, uint32_t k,
			uint32_t count, uint32_t limit)
{
	size_t shorter = k + count < segmenter->count ? 0 : last_is_shorter(segmenter);
	uint32_t text = ws_seal_text_bytes(WS_FRAME_HEADER_BYTES +
						   count * bundled_bytes(segmenter) - shorter,
					   WS_FRAME_HEADER_BYTES + limit);
	uint32_t bytes = ws_message_bytes(text), path = ws_peer_only(peer);
	uint64_t number = ws_seal_number(worker, peer, keys, path, bytes);
	uint32_t seq = next_seq(peer);
	uint8_t *start, *at;

	start = ws_seal_reserve(worker, peer, path, bytes, ecn) + WS_TRANSPORT_HEADER_BYTES;
	ws_frame_encode(start, WS_FRAME_BUNDLE | frame_flags(segmenter), worker->now_ns, seq);
	at = start + WS_FRAME_HEADER_BYTES;
	for (uint32_t i = 0; i < count; i++) {
		uint8_t *packet = at + sizeof(uint16_t);
		const uint8_t *body;
		size_t body_bytes, len;

		ws_segment_get(segmenter, k + i, packet, &body, &body_bytes);
		memcpy(packet + segmenter->header_bytes, body, body_bytes);
		len = segmenter->header_bytes + body_bytes;
		at[0] = (uint8_t)len;
		at[1] = (uint8_t)(len >> 8);
		at = packet + len;
		if (i)
			(void)next_seq(peer);
	}
	ws_seal_at(worker, peer, keys, path, number, start - WS_TRANSPORT_HEADER_BYTES, text, start,
		   (size_t)(at - start), NULL, 0);
}

/* `each` segments a frame; what is left for the last one goes alone. */
static uint32_t send_bundles(struct ws_worker *worker, struct ws_peer *peer, struct ws_keys *keys,
			     const struct ws_segmenter *segmenter, uint8_t ecn, uint32_t limit,
			     uint32_t each, uint32_t bundle_limit)
{
	uint32_t k = 0;

	while (k < segmenter->count && lasts(keys)) {
		uint32_t left = segmenter->count - k;
		uint32_t count = left < each ? left : each;

		if (count > 1)
			seal_bundle(worker, peer, keys, ecn, segmenter, k, count, bundle_limit);
		else
			send_frame(worker, peer, keys, segmenter, ecn, k, limit);
		k += count;
	}
	return k;
}

/* Extended mode: frames, or bundles where the peer takes them and the segments are small. */
static uint32_t send_extended(struct ws_worker *worker, struct ws_peer *peer, struct ws_keys *keys,
			      const struct ws_segmenter *segmenter, uint8_t ecn)
{
	uint32_t limit = worker->mtu, bundle_limit, each;

	/* Nor may the padding make it longer than the longest frame. */
	if (peer->frame_max_bytes && peer->frame_max_bytes < limit)
		limit = peer->frame_max_bytes;
	bundle_limit = limit < WS_BUNDLE_MAX_BYTES ? limit : WS_BUNDLE_MAX_BYTES;
	each = peer->bundles ? bundle_size(segmenter, bundle_limit) : 1;
	if (each > 1)
		return send_bundles(worker, peer, keys, segmenter, ecn, limit, each, bundle_limit);
	return send_frames(worker, peer, keys, segmenter, ecn, limit);
}

/* The longest of the segments goes as a frame. */
static bool fits_frame(const struct ws_peer *peer, const struct ws_segmenter *segmenter)
{
	size_t longest = segmenter->header_bytes
				 ? segmenter->header_bytes + segmenter->segment_bytes
				 : segmenter->len;

	return !peer->frame_max_bytes || longest <= peer->frame_max_bytes;
}

/* Over the peer's paths: into the queue in front of them. */
static void schedule(struct ws_worker *worker, struct ws_peer *peer,
		     const struct ws_segmenter *segmenter, uint8_t ecn)
{
	struct ws_multipath *core = ws_paths_core(peer->paths);
	uint8_t head[WS_SEGMENT_MAX_HEADER];
	uint32_t k;

	for (k = 0; k < segmenter->count; k++) {
		const uint8_t *body;
		size_t body_bytes;

		ws_segment_get(segmenter, k, head, &body, &body_bytes);
		ws_multipath_send(core, head, segmenter->header_bytes, body, body_bytes,
				  frame_flags(segmenter), ecn, segmenter->count > 1,
				  worker->now_ns);
	}
	ws_add(peer->stats.tx_packets, k);
	ws_add(worker->stats.tx_packets, k);
	ws_paths_queued(worker, peer, k);
}

static void to_endpoint(struct ws_worker *worker, struct ws_peer *peer, struct ws_keys *keys,
			const struct ws_segmenter *segmenter, uint8_t ecn, bool framed)
{
	uint32_t sent = framed ? send_extended(worker, peer, keys, segmenter, ecn)
			       : send_plain(worker, peer, keys, segmenter, ecn);

	ws_add(peer->stats.tx_packets, sent);
	ws_add(worker->stats.tx_packets, sent);
	if (peer->paths)
		ws_multipath_publish(ws_paths_core(peer->paths), sent);
	if (sent < segmenter->count)
		ws_drop(worker, WS_DROP_STAGE_FULL, segmenter->count - sent);
	ws_sealed(worker, peer, keys);
}

/* Over one path, and kept until the peer has it. */
static bool keeps(const struct ws_worker *worker, const struct ws_peer *peer, uint32_t packets)
{
	return peer->paths && peer->paths->kept &&
	       !ws_multipath_past(ws_paths_core(peer->paths), packets, worker->now_ns);
}

static void to_peer(struct ws_worker *worker, struct ws_peer *peer, uint8_t *frame, size_t len)
{
	struct ws_keys *keys = ws_peer_data_keys(worker, peer);
	bool scheduled = ws_paths_scheduled(peer->paths), framed = peer->frames;
	uint8_t *packet = frame + WS_VNET_BYTES;
	size_t packet_bytes = len - WS_VNET_BYTES;
	struct ws_segmenter segmenter;
	struct virtio_net_hdr vnet;
	int error;

	if (!keys) {
		stage(worker, peer, frame, len);
		return;
	}
	if (!ws_peer_way(peer, ws_peer_only(peer))->remote_bytes && !scheduled) {
		ws_drop(worker, WS_DROP_NO_ENDPOINT, 1);
		return;
	}
	memcpy(&vnet, frame, WS_VNET_BYTES);
	error = ws_segment_begin(&segmenter, &vnet, packet, packet_bytes, framed);
	if (!error && framed && !scheduled && !fits_frame(peer, &segmenter)) {
		framed = false;
		/* A plain packet's checksum is whole. */
		if (segmenter.partial)
			error = ws_segment_begin(&segmenter, &vnet, packet, packet_bytes, false);
	}
	if (error)
		ws_drop(worker, WS_DROP_TUN_MALFORMED, 1);
	else if (framed && (scheduled || keeps(worker, peer, segmenter.count)))
		schedule(worker, peer, &segmenter, ws_ecn_encapsulate(packet, packet_bytes));
	else
		to_endpoint(worker, peer, keys, &segmenter,
			    ws_ecn_encapsulate(packet, packet_bytes), framed);
}

void ws_send_packet(struct ws_worker *worker, uint8_t *frame, size_t len)
{
	uint8_t *packet = frame + WS_VNET_BYTES;
	struct ws_peer *peer;
	uint32_t owner;
	int32_t number;

	if (len <= WS_VNET_BYTES || len > WS_BUFFER_BYTES) {
		ws_drop(worker, WS_DROP_TUN_MALFORMED, 1);
		return;
	}
	number = route(worker, packet, len - WS_VNET_BYTES);
	if (number < 0)
		return;
	owner = (uint32_t)number % worker->engine->workers;
	if (owner != worker->number) {
		ws_handoff_packet(worker, worker->engine->worker[owner], frame, len);
		return;
	}
	peer = ws_worker_peer(worker, number);
	if (!peer) /* removed between hand-off and here */
		ws_drop(worker, WS_DROP_NO_PEER, 1);
	else if (!ws_inside_returns(worker, peer, packet, len - WS_VNET_BYTES))
		to_peer(worker, peer, frame, len);
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

/* Sent by itself, not to be cut up on its way: it asks how much the path takes (RFC 8899). */
static int send_padded(struct ws_worker *worker, struct ws_peer *peer, struct ws_keys *keys,
		       uint32_t path, uint64_t number, const uint8_t *data, size_t len,
		       uint32_t datagram_bytes)
{
	static const uint8_t zeros[WS_BUFFER_BYTES];
	uint32_t text = datagram_bytes - ws_message_bytes(0);
	struct ws_tx tx = {
		.data = worker->scratch,
		.len = datagram_bytes,
		.stride = datagram_bytes,
		.count = 1,
	};

	ws_way_direct(ws_peer_way(peer, path), &tx, peer->number, path);
	ws_seal_at(worker, peer, keys, path, number, worker->scratch, text, data, len, zeros,
		   text - len);
	return -ws_udp_send_whole(worker->sockets, &tx);
}

/* Whether silence after it is a reason to ask for a new session. */
static bool wants_answer(const struct ws_peer *peer, uint32_t path, const uint8_t *data, size_t len)
{
	bool spare = peer->paths && path < WS_PATH_COUNT && peer->paths->spare >> path & 1;

	return ws_frame_wants_answer(data, len) && !spare;
}

int ws_send_path_control(struct ws_worker *worker, struct ws_peer *peer, uint32_t path,
			 const uint8_t *data, size_t len, uint32_t datagram_bytes)
{
	struct ws_keys *keys = ws_peer_keys(worker, peer);
	uint32_t bytes = datagram_bytes;
	uint64_t number;
	int error = 0;

	if (!keys)
		return -ENOKEY;
	if (!ws_peer_way(peer, path)->remote_bytes)
		return -EDESTADDRREQ;
	if (bytes && (bytes < ws_message_bytes(len) || bytes > WS_TX_MAX_BYTES))
		return -EMSGSIZE;
	if (!bytes)
		bytes = ws_message_bytes(ws_seal_text_bytes(len, WS_CONTROL_MAX_BYTES));
	number = ws_seal_number(worker, peer, keys, path, bytes);
	if (datagram_bytes)
		error = send_padded(worker, peer, keys, path, number, data, len, bytes);
	else
		ws_seal(worker, peer, keys, path, number, 0, NULL, 0, data, len,
			WS_CONTROL_MAX_BYTES);
	if (peer->paths)
		ws_multipath_publish(ws_paths_core(peer->paths), 0);
	ws_sealed_control(worker, peer, keys, !wants_answer(peer, path, data, len));
	return error;
}

int ws_send_control(struct ws_worker *worker, struct ws_peer *peer, const uint8_t *data, size_t len)
{
	uint32_t path = ws_peer_only(peer);

	if (ws_paths_scheduled(peer->paths))
		path = ws_multipath_best(ws_paths_core(peer->paths));
	return ws_send_path_control(worker, peer, path, data, len, 0);
}

int ws_send_keepalive(struct ws_worker *worker, struct ws_peer *peer)
{
	int error = ws_send_control(worker, peer, NULL, 0);

	if (!error)
		ws_add(worker->stats.keepalives_tx, 1);
	return error;
}
