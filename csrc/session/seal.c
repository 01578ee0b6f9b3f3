/* SPDX-License-Identifier: MIT */
#include "session/seal.h"

#include "packet/frame.h"

#include <endian.h>
#include <string.h>

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

uint32_t ws_seal_text_bytes(size_t len, size_t limit)
{
	size_t padded = ws_padded_bytes(len);

	if (padded > limit)
		padded = len > limit ? len : limit;
	return (uint32_t)padded;
}

uint64_t ws_seal_number(const struct ws_worker *worker, const struct ws_peer *peer,
			const struct ws_keys *keys, uint32_t path, uint32_t bytes)
{
	if (!peer->paths)
		return keys->tx_counter;
	return ws_multipath_number(ws_paths_core(peer->paths), path < WS_PATH_COUNT ? path : 0,
				   bytes, worker->now_ns);
}

uint8_t *ws_seal_reserve(struct ws_worker *worker, struct ws_peer *peer, uint32_t path,
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
		const struct ws_way *way = ws_peer_way(peer, path);

		tx = worker->io->tx_get(worker);
		tx->len = 0;
		tx->count = 0;
		tx->stride = bytes;
		tx->ecn = ecn;
		tx->closed = false;
		tx->no_gso = worker->no_udp_gso || worker->now_ns < way->no_gso_until_ns;
		ws_way_direct(way, tx, peer->number, path);
		worker->open_tx = tx;
	}
	at = tx->data + tx->len;
	tx->len += bytes;
	tx->count++;
	tx->closed = bytes < tx->stride;
	return at;
}

void ws_seal_at(struct ws_worker *worker, struct ws_peer *peer, struct ws_keys *keys, uint32_t path,
		uint64_t number, uint8_t *at, uint32_t text, const uint8_t *head, size_t head_bytes,
		const uint8_t *body, size_t body_bytes)
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
	uint32_t text = ws_seal_text_bytes(head_bytes + body_bytes, limit);
	uint32_t bytes = ws_message_bytes(text);

	ws_seal_at(worker, peer, keys, path, number,
		   ws_seal_reserve(worker, peer, path, bytes, ecn), text, head, head_bytes, body,
		   body_bytes);
	return bytes;
}

void ws_seal_next(struct ws_worker *worker, struct ws_peer *peer, struct ws_keys *keys, uint8_t ecn,
		  const uint8_t *head, size_t head_bytes, const uint8_t *body, size_t body_bytes,
		  size_t limit)
{
	uint32_t bytes = ws_message_bytes(ws_seal_text_bytes(head_bytes + body_bytes, limit));
	uint32_t path = ws_peer_only(peer);
	uint64_t number = ws_seal_number(worker, peer, keys, path, bytes);

	ws_seal(worker, peer, keys, path, number, ecn, head, head_bytes, body, body_bytes, limit);
}

static void sealed(struct ws_worker *worker, struct ws_peer *peer, struct ws_keys *keys, bool data,
		   uint64_t rekey_at_ns)
{
	ws_set(peer->stats.tx_counter, keys->tx_counter);
	ws_peer_sent(worker, peer, data);
	if (keys->tx_counter > keys->rekey_after_messages ||
	    (keys->initiator && worker->now_ns >= rekey_at_ns))
		ws_peer_ask_handshake(worker, peer, WS_ASK_REKEY);
}

void ws_sealed(struct ws_worker *worker, struct ws_peer *peer, struct ws_keys *keys)
{
	sealed(worker, peer, keys, true, keys->rekey_at_ns);
}

void ws_sealed_control(struct ws_worker *worker, struct ws_peer *peer, struct ws_keys *keys,
		       bool silent)
{
	uint64_t rekey_at_ns = peer->frames ? keys->receive_rekey_at_ns : keys->rekey_at_ns;

	sealed(worker, peer, keys, !silent, rekey_at_ns);
}

void ws_seal_flush(struct ws_worker *worker)
{
	struct ws_tx *tx = worker->open_tx;

	if (tx) {
		worker->open_tx = NULL;
		worker->io->tx_submit(worker, tx);
	}
	worker->io->tx_flush(worker);
}
