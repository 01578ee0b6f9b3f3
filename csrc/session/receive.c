/* SPDX-License-Identifier: MIT */
/*
 * Inbound, in the order of a datagram's way:
 *  1. ws_receive: one receive, unless it is from inside a tunnel (inside.c), split into its datagrams
 *  2. datagram: type; what is no transport message goes to strangers.c
 *  3. transport: receiver index -> keypair, within its limits; of no session of ours: relay.c
 *  4. a look at the replay window, AEAD, then the window for good
 *  5. authenticated: roam, confirm a new keypair, timestamps
 *  6. control frames to Python or paths.c; data frames of several paths to paths.c, which gives back
 *     in order what they bring (multipath_receive.c, reorder.c)
 *  7. deliver.c: IP lengths, source in the peer's allowed IPs, ECN; neighbours of a flow become one
 *     TUN write
 *
 * Nothing before step 5 changes state, and every refusal is a counter.
 */
#include "session/receive.h"

#include "packet/frame.h"
#include "session/deliver.h"
#include "session/inside.h"
#include "session/paths.h"
#include "session/relay.h"
#include "session/seal.h"
#include "session/send.h"
#include "session/strangers.h"
#include "worker/handoff.h"
#include "worker/upcall.h"

#include <endian.h>
#include <string.h>

#define CONTROL_PER_SECOND 200 /* of one peer to Python, and of each type so many of these: */
static const uint8_t control_most[16] = {
	[WS_CONTROL_OFFER & 15] = 8,
	[WS_CONTROL_PATH_ANNOUNCE & 15] = 4, /* one a second is taken, three at once */
	[WS_CONTROL_PATH_PROBE & 15] = 100,
	[WS_CONTROL_PATH_PROBE_REPLY & 15] = 100,
	[WS_CONTROL_HEARTBEAT & 15] = 100,
	[WS_CONTROL_GOSSIP_UPDATE & 15] = 50, /* as many as protocol/mesh/gossip.py looks at */
	[WS_CONTROL_MESH & 15] = 50,
	[WS_CONTROL_RELAY & 15] = 100, /* protocol/nat/relay.py looks at 20, after a burst */
	[WS_CONTROL_POST_QUANTUM & 15] = 24, /* a key or a ciphertext is three */
	[WS_CONTROL_RELAY_MESSAGE & 15] = 40, /* bounded by sender in protocol/nat */
};
#define ROAM_INTERVAL_NS (WS_SECOND_NS / 10)

static uint32_t get32(const uint8_t *at)
{
	uint32_t value;

	memcpy(&value, at, sizeof(value));
	return le32toh(value);
}

static uint64_t get64(const uint8_t *at)
{
	uint64_t value;

	memcpy(&value, at, sizeof(value));
	return le64toh(value);
}

static void roam(struct ws_worker *worker, struct ws_peer *peer, const struct ws_rx *rx)
{
	struct ws_upcall *upcall;
	struct ws_addr remote;

	/* All datagrams of one receive come from one address. */
	if (peer->rx_serial == worker->rx_serial)
		return;
	peer->rx_serial = worker->rx_serial;
	ws_sockaddr_to_addr(rx->from, &remote);
	if (!memcmp(&remote, &peer->stats.endpoint, sizeof(remote)) &&
	    !memcmp(&rx->local, &peer->stats.local, sizeof(rx->local)))
		return;
	ws_peer_point(worker, peer, &remote, &rx->local);
	/* Who changes address with every packet must not crowd the others out of the ring. */
	if (peer->roamed_ns && worker->now_ns - peer->roamed_ns < ROAM_INTERVAL_NS)
		return; /* Python finds it when it looks at the statistics next */
	peer->roamed_ns = worker->now_ns;
	upcall = ws_upcall_begin(worker, WS_UP_ROAMED, peer->number);
	if (!upcall)
		return; /* Python reads the endpoint from the statistics as well */
	upcall->remote = remote;
	upcall->local = rx->local;
	ws_upcall_commit(&worker->upcalls);
}

/* trusted: the inner L4 checksum may be left to our kernel (WS_FRAME_PARTIAL). */
static void deliver(struct ws_worker *worker, struct ws_peer *peer, const struct ws_rx *rx,
		    uint8_t *packet, size_t len, bool trusted)
{
	size_t total = ws_deliver_check(worker, peer, rx, packet, len);

	if (total)
		ws_deliver(worker, peer, packet, total, trusted, false);
}

/* The peer proved itself with this datagram. */
static void authenticated(struct ws_worker *worker, struct ws_keys *keys, const struct ws_rx *rx,
			  uint32_t path, bool data)
{
	struct ws_peer *peer = keys->peer;

	if (path == 0 && !ws_paths_stay(peer->paths))
		roam(worker, peer, rx);
	ws_peer_received(worker, peer, data);
	if (keys == peer->next) {
		ws_peer_confirm(worker, peer);
		if (peer->paths)
			ws_paths_wake(worker, peer);
		ws_send_staged(worker, peer);
	}
	/* Time to renew before the other side can no longer answer (whitepaper 6.2). */
	if (keys->initiator && keys == peer->current && worker->now_ns >= keys->receive_rekey_at_ns)
		ws_peer_ask_handshake(worker, peer, WS_ASK_REKEY);
}

/* A packet of a data frame, as if it had come in one of its own. */
static void data_packet(struct ws_worker *worker, struct ws_peer *peer, const struct ws_rx *rx,
			uint32_t path, const uint8_t *frame, uint32_t seq, uint8_t *packet,
			size_t len)
{
	size_t total = ws_deliver_check(worker, peer, rx, packet, len);
	uint32_t flags = frame[0] & WS_FRAME_FLAGS;

	if (!peer->paths && frame[0] & WS_FRAME_AGAIN) {
		/* Who began anew may have had the original, and has nothing to tell a copy by. */
		if (total)
			ws_drop(worker, WS_DROP_PATH, 1);
		return;
	}
	if (!peer->paths)
		peer->heard = true;
	if (!peer->paths || (!(frame[0] & WS_FRAME_FEEDBACK) &&
			     ws_multipath_pass(ws_paths_core(peer->paths), path, seq))) {
		if (total)
			ws_deliver(worker, peer, packet, total, frame[0] & WS_FRAME_PARTIAL, false);
		return;
	}
	/* What is dropped came all the same: nobody is to wait for it, or to send it again. */
	if (!total) {
		flags |= WS_MULTIPATH_VOID;
		total = 1;
	}
	ws_multipath_data(ws_paths_core(peer->paths), path, ws_frame_time_us(frame), seq, flags,
			  packet, total, worker->now_ns);
	ws_paths_data(worker, peer, frame[0] & WS_FRAME_FEEDBACK);
}

/* Packets of consecutive seqs with their lengths before them, then zeros. */
static void bundle(struct ws_worker *worker, struct ws_peer *peer, const struct ws_rx *rx,
		   uint32_t path, uint8_t *frame, size_t len)
{
	uint8_t *at = frame + WS_FRAME_HEADER_BYTES;
	const uint8_t *end = frame + len;
	uint32_t seq = ws_frame_seq(frame);
	bool empty = true;

	while (end - at >= 2 && (at[0] || at[1])) {
		size_t bytes = (size_t)at[0] | (size_t)at[1] << 8;

		at += 2;
		if (bytes > (size_t)(end - at)) {
			ws_drop(worker, WS_DROP_FRAME, 1);
			return;
		}
		data_packet(worker, peer, rx, path, frame, seq++, at, bytes);
		at += bytes;
		empty = false;
	}
	if (empty)
		ws_drop(worker, WS_DROP_FRAME, 1);
}

static void data_frame(struct ws_worker *worker, struct ws_peer *peer, const struct ws_rx *rx,
		       uint32_t path, uint8_t *frame, size_t len)
{
	const uint8_t alone = WS_FRAME_AGAIN | WS_FRAME_URGENT | WS_FRAME_FEEDBACK;

	if (len <= WS_FRAME_HEADER_BYTES || frame[0] & ~(WS_FRAME_DATA | WS_FRAME_FLAGS) ||
	    (frame[0] & WS_FRAME_BUNDLE &&
	     (frame[0] & alone || len > WS_FRAME_HEADER_BYTES + WS_BUNDLE_MAX_BYTES)))
		ws_drop(worker, WS_DROP_FRAME, 1);
	else if (frame[0] & WS_FRAME_BUNDLE)
		bundle(worker, peer, rx, path, frame, len);
	else
		data_packet(worker, peer, rx, path, frame, ws_frame_seq(frame),
			    frame + WS_FRAME_HEADER_BYTES, len - WS_FRAME_HEADER_BYTES);
}

/* False: the peer has sent enough of these in this second. What is of no type costs Python as much. */
static bool control_taken(struct ws_peer *peer, uint8_t type)
{
	uint8_t most = control_most[type] ? control_most[type] : 4;

	if (peer->control_of[type] >= most || peer->control_count >= CONTROL_PER_SECOND)
		return false;
	peer->control_of[type]++;
	peer->control_count++;
	return true;
}

/* Up to Python, but no peer may crowd the others out of the ring. */
static void control_frame(struct ws_worker *worker, struct ws_peer *peer, const struct ws_rx *rx,
			  uint32_t path, const uint8_t *frame, size_t len, size_t datagram_bytes)
{
	struct ws_upcall *upcall;

	if (peer->paths && ws_paths_control(worker, peer, frame, len))
		return;
	/* Of a probe of the MTU the padding is no more than its length. */
	if (frame[0] == WS_CONTROL_PATH_PROBE && len > WS_PROBE_MAX_BYTES)
		len = WS_PROBE_MAX_BYTES;
	if (len > WS_CONTROL_MAX_BYTES) {
		ws_drop(worker, WS_DROP_FRAME, 1);
		return;
	}
	if (worker->now_ns - peer->control_window_ns >= WS_SECOND_NS) {
		peer->control_window_ns = worker->now_ns;
		peer->control_count = 0;
		memset(peer->control_of, 0, sizeof(peer->control_of));
	}
	if (!control_taken(peer, frame[0] & 15) || ws_upcall_crowded(&worker->upcalls, 2)) {
		ws_drop(worker, WS_DROP_CONTROL_RATE, 1);
		return;
	}
	upcall = ws_upcall_begin(worker, WS_UP_CONTROL, peer->number);
	if (!upcall)
		return;
	ws_upcall_fill(upcall, rx, frame, len);
	upcall->path = path;
	upcall->datagram_bytes = (uint32_t)datagram_bytes;
	ws_upcall_commit(&worker->upcalls);
	ws_add(worker->stats.control_rx, 1);
}

static void transport(struct ws_worker *worker, const struct ws_rx *rx, uint8_t *data, size_t len)
{
	struct ws_keys *keys = worker->last_keys;
	uint32_t index = get32(data + 4);
	uint64_t counter = get64(data + 8), number = counter;
	uint32_t path = (uint32_t)(counter >> WS_PATH_SHIFT);
	struct ws_replay *replay;
	uint8_t *text = data + WS_TRANSPORT_HEADER_BYTES;
	size_t text_len = len - WS_TRANSPORT_HEADER_BYTES;

	if (!keys || keys->local_index != index) {
		keys = ws_index_find(&worker->indices, index);
		if (!keys) {
			if (!worker->relay || !ws_relay_forward(worker, rx, index, data, len))
				ws_drop(worker, WS_DROP_NO_KEY, 1);
			return;
		}
		worker->last_keys = keys;
	}
	replay = &keys->replay;
	if (path) {
		/* Path 0's window must never see it: all that path 0 brings would be behind. */
		if (path >= WS_PATH_COUNT || !keys->path_replay) {
			ws_drop(worker, WS_DROP_PATH, 1);
			return;
		}
		replay = &keys->path_replay[path - 1];
		number = counter & ((UINT64_C(1) << WS_PATH_SHIFT) - 1);
	}
	if (worker->now_ns >= keys->reject_at_ns || number >= keys->reject_after_messages) {
		ws_drop(worker, WS_DROP_EXPIRED, 1);
		return;
	}
	if (!ws_replay_check(replay, number)) {
		ws_drop(worker, WS_DROP_REPLAY, 1);
		return;
	}
	if (!ws_aead_open(worker->aead, keys->receive_key, counter, text, text, text_len)) {
		ws_drop(worker, WS_DROP_AUTH, 1);
		return;
	}
	if (!ws_replay_insert(replay, number)) {
		ws_drop(worker, WS_DROP_REPLAY, 1);
		return;
	}
	text_len -= WS_TAG_BYTES;
	authenticated(worker, keys, rx, path, ws_frame_wants_answer(text, text_len));
	ws_add(keys->peer->stats.rx_bytes, len);
	if (keys->peer->paths)
		ws_paths_received(worker, keys->peer, path, number, rx, (uint32_t)len);
	if (text_len == 0) {
		ws_add(worker->stats.keepalives_rx, 1);
		return;
	}
	if (text[0] & WS_FRAME_DATA)
		data_frame(worker, keys->peer, rx, path, text, text_len);
	else if (text[0] >> 4 == WS_FRAME_CONTROL_NIBBLE)
		control_frame(worker, keys->peer, rx, path, text, text_len, len);
	else
		deliver(worker, keys->peer, rx, text, text_len, false);
}

static void datagram(struct ws_worker *worker, const struct ws_rx *rx, uint8_t *data, size_t len)
{
	uint32_t type;

	ws_add(worker->stats.rx_bytes, len);
	if (len < 4) {
		ws_drop(worker, WS_DROP_SHORT, 1);
		return;
	}
	type = get32(data); /* the three reserved bytes must be zero */
	if (type != WS_MSG_TRANSPORT)
		ws_stranger(worker, rx, data, len, type);
	else if (len < WS_TRANSPORT_MIN_BYTES)
		ws_drop(worker, WS_DROP_SHORT, 1);
	else
		transport(worker, rx, data, len);
}

/* The worker that owns a transport message's session, NULL if it is this one. */
static struct ws_worker *foreign(const struct ws_worker *worker, const uint8_t *data, size_t len)
{
	const struct ws_engine *engine = worker->engine;
	uint32_t number;

	if (engine->workers == 1 || len < WS_TRANSPORT_MIN_BYTES || get32(data) != WS_MSG_TRANSPORT)
		return NULL;
	number = get32(data + 4) % engine->workers;
	return number == worker->number ? NULL : engine->worker[number];
}

void ws_receive(struct ws_worker *worker, const struct ws_rx *rx)
{
	size_t stride = rx->stride ? rx->stride : rx->len;

	if (!worker->handing_off) { /* who handed it over has looked at it, and counted it */
		ws_add(worker->stats.rx_batches, 1);
		if (ws_inside_refuses(worker, rx))
			return;
	}
	worker->rx_serial++;
	if (!rx->len) {
		ws_drop(worker, WS_DROP_SHORT, 1);
		return;
	}
	if (rx->group) {
		ws_drop(worker, WS_DROP_DESTINATION, (rx->len + stride - 1) / stride);
		return;
	}
	for (size_t at = 0; at < rx->len;) {
		size_t len = rx->len - at < stride ? rx->len - at : stride;
		struct ws_worker *other = foreign(worker, rx->data + at, len);

		if (!other) {
			datagram(worker, rx, rx->data + at, len);
		} else {
			/* As much of the run as belongs there, in one piece. */
			while (at + len < rx->len &&
			       foreign(worker, rx->data + at + len, rx->len - at - len) == other)
				len += rx->len - at - len < stride ? rx->len - at - len : stride;
			ws_handoff_datagram(worker, other, rx, rx->data + at, len);
		}
		at += len;
	}
}

void ws_receive_flush(struct ws_worker *worker)
{
	ws_paths_flush(worker);
}
