/* SPDX-License-Identifier: MIT */
/*
 * Outbound, in the order of a packet's way:
 *  1. ws_send_packet: virtio header and IP packet from the TUN device
 *  2. route: destination -> peer (allowed IPs)
 *  3. usable_keys: a current keypair within its limits, or stage and ask for one
 *  4. ws_segment_*: a super-packet becomes whole IP packets
 *  5. reserve: room in the open send buffer, which holds one run of datagrams
 *  6. seal: transport header, AEAD over header and payload in one pass; seal_bundle: several
 *     small segments in one
 *  7. ws_send_flush: to the backend, one UDP_SEGMENT send a run
 *
 * With several paths the packets of step 4 go into the queue in front of them (multipath_send.c),
 * and come back to ws_seal by way of paths.c.
 */
#include "worker/internal.h"

#include "packet/ecn.h"
#include "packet/segment.h"

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

struct ws_keys *ws_usable_keys(const struct ws_worker *worker, const struct ws_peer *peer)
{
	struct ws_keys *keys = peer->current;

	if (!keys || worker->now_ns >= keys->reject_at_ns ||
	    keys->tx_counter >= keys->reject_after_messages)
		return NULL;
	return keys;
}

/* tx is to go to the peer by `path`, which is this way. */
static void direct(struct ws_tx *tx, const struct ws_peer *peer, uint32_t path,
		   const struct ws_way *way)
{
	tx->peer = peer->number;
	tx->path = path;
	tx->socket = way->socket;
	tx->ifindex = way->ifindex;
	tx->local = way->local;
	tx->remote = way->remote;
	tx->remote_bytes = way->remote_bytes;
}

/* Room for one datagram of `bytes` to the peer by `path`; counts it in. */
static uint8_t *reserve(struct ws_worker *worker, struct ws_peer *peer, uint32_t path,
			uint32_t bytes, uint8_t ecn)
{
	struct ws_tx *tx = worker->open_tx;
	uint8_t *at;

	if (tx && (tx->peer != peer->number || tx->path != path || tx->closed || tx->ecn != ecn ||
		   bytes > tx->stride || tx->count >= WS_TX_MAX_SEGMENTS ||
		   tx->len + bytes > WS_TX_MAX_BYTES)) {
		worker->open_tx = NULL;
		worker->io->tx_submit(worker, tx);
		tx = NULL;
	}
	if (!tx) {
		const struct ws_way *way = ws_paths_way(peer, path);

		tx = worker->io->tx_get(worker);
		tx->len = 0;
		tx->count = 0;
		tx->stride = bytes;
		tx->ecn = ecn;
		tx->closed = false;
		tx->no_gso = worker->no_udp_gso || worker->now_ns < way->no_gso_until_ns;
		direct(tx, peer, path, way);
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

/* Of the peer's next data frame. */
static uint32_t next_seq(struct ws_peer *peer)
{
	return peer->paths ? ws_multipath_seq(ws_paths_core(peer->paths)) : peer->data_seq++;
}

/* limit: padding must not make the plaintext longer than this. */
static uint32_t text_bytes(size_t len, size_t limit)
{
	size_t padded = ws_padded_bytes(len);

	if (padded > limit)
		padded = len > limit ? len : limit;
	return (uint32_t)padded;
}

/*
 * The number of the next datagram of `bytes` by `path`. Those to the peer's endpoint are path 0's,
 * and go on when there are several paths.
 */
static uint64_t next_number(const struct ws_worker *worker, const struct ws_peer *peer,
			    const struct ws_keys *keys, uint32_t path, uint32_t bytes)
{
	if (!peer->paths)
		return keys->tx_counter;
	return ws_multipath_number(ws_paths_core(peer->paths), path < WS_PATH_COUNT ? path : 0,
				   bytes, worker->now_ns);
}

/* Datagram `number` of `path`, sealed to `at`. */
static void seal_at(struct ws_worker *worker, struct ws_peer *peer, struct ws_keys *keys,
		    uint32_t path, uint64_t number, uint8_t *at, uint32_t text, const uint8_t *head,
		    size_t head_bytes, const uint8_t *body, size_t body_bytes)
{
	uint32_t bytes = ws_message_bytes(text);
	uint64_t counter = number;

	if (path < WS_PATH_COUNT)
		counter |= (uint64_t)path << WS_PATH_SHIFT;
	keys->tx_counter++;
	put_header(at, keys->remote_index, counter);
	ws_aead_seal2(worker->aead, keys->send_key, counter, at + WS_TRANSPORT_HEADER_BYTES, head,
		      head_bytes, body, body_bytes, text - head_bytes - body_bytes);
	ws_add(peer->stats.tx_bytes, bytes);
	ws_add(worker->stats.tx_bytes, bytes);
}

uint32_t ws_seal(struct ws_worker *worker, struct ws_peer *peer, struct ws_keys *keys,
		 uint32_t path, uint64_t number, uint8_t ecn, const uint8_t *head,
		 size_t head_bytes, const uint8_t *body, size_t body_bytes, size_t limit)
{
	uint32_t text = text_bytes(head_bytes + body_bytes, limit);
	uint32_t bytes = ws_message_bytes(text);

	seal_at(worker, peer, keys, path, number, reserve(worker, peer, path, bytes, ecn), text,
		head, head_bytes, body, body_bytes);
	return bytes;
}

/* To the peer's endpoint. */
static void seal(struct ws_worker *worker, struct ws_peer *peer, struct ws_keys *keys, uint8_t ecn,
		 const uint8_t *head, size_t head_bytes, const uint8_t *body, size_t body_bytes,
		 size_t limit)
{
	uint32_t text = text_bytes(head_bytes + body_bytes, limit);
	uint32_t bytes = ws_message_bytes(text);
	uint64_t number = next_number(worker, peer, keys, WS_WAY_PEER, bytes);

	seal_at(worker, peer, keys, WS_WAY_PEER, number,
		reserve(worker, peer, WS_WAY_PEER, bytes, ecn), text, head, head_bytes, body,
		body_bytes);
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
	uint32_t text =
		text_bytes(WS_FRAME_HEADER_BYTES + count * bundled_bytes(segmenter) - shorter,
			   WS_FRAME_HEADER_BYTES + limit);
	uint32_t bytes = ws_message_bytes(text);
	uint64_t number = next_number(worker, peer, keys, WS_WAY_PEER, bytes);
	uint32_t seq = next_seq(peer);
	uint8_t *start, *at;

	start = reserve(worker, peer, WS_WAY_PEER, bytes, ecn) + WS_TRANSPORT_HEADER_BYTES;
	ws_frame_encode(start, WS_FRAME_BUNDLE | (segmenter->partial ? WS_FRAME_PARTIAL : 0),
			worker->now_ns, seq);
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
	seal_at(worker, peer, keys, WS_WAY_PEER, number, start - WS_TRANSPORT_HEADER_BYTES, text,
		start, (size_t)(at - start), NULL, 0);
}

void ws_sent(struct ws_worker *worker, struct ws_peer *peer, struct ws_keys *keys, bool data)
{
	ws_set(peer->stats.tx_counter, keys->tx_counter);
	ws_peer_sent(worker, peer, data);
	if (keys->tx_counter > keys->rekey_after_messages ||
	    (keys->initiator && worker->now_ns >= keys->rekey_at_ns))
		ws_peer_ask_handshake(worker, peer, WS_ASK_REKEY);
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
				  (segmenter->partial ? WS_FRAME_PARTIAL : 0) |
					  (k ? WS_FRAME_RUN : 0),
				  ecn, k + 1 < segmenter->count, worker->now_ns);
	}
	ws_add(peer->stats.tx_packets, k);
	ws_add(worker->stats.tx_packets, k);
	ws_paths_queued(worker, peer, k);
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
	uint32_t bundle = 1, bundle_limit = 0;
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
	if (ws_inside_returns(worker, peer, packet, len - WS_VNET_BYTES))
		return;
	keys = ws_usable_keys(worker, peer);
	if (!keys) {
		uint32_t lost = ws_stage_push(&worker->stage, &peer->staged, frame, len);

		if (lost)
			ws_drop(worker, WS_DROP_STAGE_FULL, lost);
		ws_set(peer->stats.staged, peer->staged.packets);
		ws_peer_ask_handshake(worker, peer, WS_ASK_NO_KEY);
		return;
	}
	if (!peer->way.remote_bytes && !ws_paths_scheduled(peer->paths)) {
		ws_drop(worker, WS_DROP_NO_ENDPOINT, 1);
		return;
	}
	if (ws_segment_begin(&segmenter, &vnet, packet, len - WS_VNET_BYTES, peer->frames))
		goto malformed;
	if (peer->frames && ws_paths_scheduled(peer->paths)) {
		schedule(worker, peer, &segmenter, ws_ecn_encapsulate(packet, len - WS_VNET_BYTES));
		return;
	}
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
	if (front && peer->bundles) {
		bundle_limit = limit < WS_BUNDLE_MAX_BYTES ? limit : WS_BUNDLE_MAX_BYTES;
		bundle = bundle_size(&segmenter, bundle_limit);
	}
	ecn = ws_ecn_encapsulate(packet, len - WS_VNET_BYTES);
	for (k = 0; k < segmenter.count && keys->tx_counter < keys->reject_after_messages; k++) {
		const uint8_t *body;
		size_t body_bytes;

		if (bundle > 1 && k + 1 < segmenter.count) {
			uint32_t left = segmenter.count - k;
			uint32_t count = left < bundle ? left : bundle;

			seal_bundle(worker, peer, keys, ecn, &segmenter, k, count, bundle_limit);
			k += count - 1;
			continue;
		}
		if (front)
			ws_frame_encode(head,
					(segmenter.partial ? WS_FRAME_PARTIAL : 0) |
						(k ? WS_FRAME_RUN : 0),
					worker->now_ns, next_seq(peer));
		ws_segment_get(&segmenter, k, head + front, &body, &body_bytes);
		seal(worker, peer, keys, ecn, head, front + segmenter.header_bytes, body,
		     body_bytes, limit + front);
	}
	ws_add(peer->stats.tx_packets, k);
	ws_add(worker->stats.tx_packets, k);
	if (peer->paths)
		ws_multipath_publish(ws_paths_core(peer->paths), k, worker->now_ns);
	if (k < segmenter.count)
		ws_drop(worker, WS_DROP_STAGE_FULL, segmenter.count - k);
	ws_sent(worker, peer, keys, true);
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

	direct(&tx, peer, path, ws_paths_way(peer, path));
	seal_at(worker, peer, keys, path, number, worker->scratch, text, data, len, zeros,
		text - len);
	return -ws_udp_send_whole(worker, &tx);
}

int ws_send_path_control(struct ws_worker *worker, struct ws_peer *peer, uint32_t path,
			 const uint8_t *data, size_t len, uint32_t datagram_bytes)
{
	struct ws_keys *keys = ws_usable_keys(worker, peer);
	uint32_t bytes = datagram_bytes;
	uint64_t number;
	int error = 0;

	if (!keys)
		return -ENOKEY;
	if (!ws_paths_way(peer, path)->remote_bytes)
		return -EDESTADDRREQ;
	if (bytes && (bytes < ws_message_bytes(len) || bytes > WS_TX_MAX_BYTES))
		return -EMSGSIZE;
	if (!bytes)
		bytes = ws_message_bytes(text_bytes(len, WS_CONTROL_MAX_BYTES));
	number = next_number(worker, peer, keys, path, bytes);
	if (datagram_bytes)
		error = send_padded(worker, peer, keys, path, number, data, len, bytes);
	else
		ws_seal(worker, peer, keys, path, number, 0, NULL, 0, data, len,
			WS_CONTROL_MAX_BYTES);
	if (peer->paths)
		ws_multipath_publish(ws_paths_core(peer->paths), 0, worker->now_ns);
	ws_sent(worker, peer, keys, len > 0);
	return error;
}

int ws_send_control(struct ws_worker *worker, struct ws_peer *peer, const uint8_t *data, size_t len)
{
	uint32_t path = WS_WAY_PEER;

	if (ws_paths_scheduled(peer->paths))
		path = ws_multipath_best(ws_paths_core(peer->paths), worker->now_ns);
	return ws_send_path_control(worker, peer, path, data, len, 0);
}

int ws_send_keepalive(struct ws_worker *worker, struct ws_peer *peer)
{
	int error = ws_send_control(worker, peer, NULL, 0);

	if (!error)
		ws_add(worker->stats.keepalives_tx, 1);
	return error;
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
