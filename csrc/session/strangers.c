/* SPDX-License-Identifier: MIT */
#include "session/strangers.h"

#include "session/seal.h"
#include "shared/wire.h"
#include "worker/upcall.h"

#include <endian.h>
#include <string.h>

static uint32_t get32(const uint8_t *at)
{
	uint32_t value;

	memcpy(&value, at, sizeof(value));
	return le32toh(value);
}

/* Up to Python, as far as there is room. */
static void up(struct ws_worker *worker, const struct ws_rx *rx, const uint8_t *data, size_t len,
	       uint32_t source_class)
{
	/* Who is not known to receive what is sent to his address gets half of the room at most. */
	bool proven = source_class == WS_SOURCE_VERIFIED || source_class == WS_SOURCE_OTHER;
	struct ws_upcall *upcall = ws_upcall_stranger(worker, proven ? 1 : 2);

	if (!upcall)
		return;
	ws_upcall_fill(upcall, rx, data, len);
	upcall->reason = source_class;
	ws_upcall_commit(&worker->strangers);
	ws_add(worker->stats.handshake_rx, 1);
}

/* A cookie reply: shorter than what it answers. */
static void ask(struct ws_worker *worker, const struct ws_rx *rx, const struct ws_addr *from,
		const uint8_t *data, size_t len)
{
	uint8_t reply[WS_COOKIE_REPLY_BYTES];
	struct ws_tx *tx;

	if (!ws_cookie_reply(worker->cookie, from, data, len, reply))
		return;
	ws_seal_flush(worker); /* a buffer that is being filled goes first */
	tx = worker->io->tx_get(worker);
	memcpy(tx->data, reply, sizeof(reply));
	tx->len = tx->stride = WS_COOKIE_REPLY_BYTES;
	tx->count = 1;
	tx->peer = -1;
	tx->path = WS_WAY_PEER;
	tx->ifindex = 0;
	tx->socket = rx->socket;
	tx->ecn = 0;
	tx->closed = true;
	tx->no_gso = true;
	tx->local = rx->local;
	ws_addr_to_sockaddr(from, &tx->remote, &tx->remote_bytes);
	worker->io->tx_submit(worker, tx);
	ws_add(worker->stats.cookies_tx, 1);
}

/*
 * mac1 keeps out who does not know our key. A right mac2 shows that the sender is where its address
 * says, and lets it pass the limits; without it the gate decides.
 */
static void initiation(struct ws_worker *worker, const struct ws_rx *rx, const uint8_t *data,
		       size_t len)
{
	static const uint8_t none[WS_MAC_BYTES];
	struct ws_addr from;
	uint32_t verdict, source_class;
	bool verified;

	if (!ws_mac1_check(worker->mac1, data, len)) {
		ws_drop(worker, WS_DROP_MAC1, 1);
		return;
	}
	ws_sockaddr_to_addr(rx->from, &from);
	verified = memcmp(data + len - WS_MAC_BYTES, none, WS_MAC_BYTES) &&
		   ws_cookie_check(worker->cookie, &from, data, len);
	verdict = ws_gate_initiation(worker->engine->gate, &from, verified, worker->now_ns,
				     &source_class);
	if (verdict & WS_GATE_ASK)
		ask(worker, rx, &from, data, len);
	if (verdict & WS_GATE_PASS)
		up(worker, rx, data, len, source_class);
	else
		ws_drop(worker, verdict & WS_GATE_ASK ? WS_DROP_ASKED : WS_DROP_LOAD, 1);
}

/* `id` stands `at` so many bytes in the message; whoever does not know it was not asked. */
static bool awaited(struct ws_worker *worker, const uint8_t *data, size_t at)
{
	if (ws_gate_awaited(worker->engine->gate, get32(data + at), worker->now_ns))
		return true;
	ws_drop(worker, WS_DROP_UNASKED, 1);
	return false;
}

/* A bootstrap request, or a PRESENT. */
static void bootstrap_request(struct ws_worker *worker, const struct ws_rx *rx, const uint8_t *data,
			      size_t len)
{
	struct ws_addr from;

	if (!ws_cookie_bootstrap(worker->cookie, data, len)) {
		ws_drop(worker, WS_DROP_BOOTSTRAP, 1);
		return;
	}
	ws_sockaddr_to_addr(rx->from, &from);
	if (ws_gate_bootstrap(worker->engine->gate, &from, worker->now_ns))
		up(worker, rx, data, len, WS_SOURCE_STRANGER);
	else
		ws_drop(worker, WS_DROP_LOAD, 1);
}

void ws_stranger(struct ws_worker *worker, const struct ws_rx *rx, const uint8_t *data, size_t len,
		 uint32_t type)
{
	size_t expected = ws_exact_bytes(type);

	if (!expected) {
		ws_drop(worker, WS_DROP_TYPE, 1);
		return;
	}
	if (len != expected) {
		ws_drop(worker, WS_DROP_LENGTH, 1);
		return;
	}
	switch (type) {
	case WS_MSG_INITIATION:
		initiation(worker, rx, data, len);
		break;
	case WS_MSG_RESPONSE:
		/* The id first: it costs less, and a flood does not know it. */
		if (!awaited(worker, data, 8))
			return;
		if (ws_mac1_check(worker->mac1, data, len))
			up(worker, rx, data, len, WS_SOURCE_OTHER);
		else
			ws_drop(worker, WS_DROP_MAC1, 1);
		break;
	case WS_MSG_BOOTSTRAP_REQUEST:
	case WS_MSG_PRESENT:
		bootstrap_request(worker, rx, data, len);
		break;
	default: /* cookie and bootstrap replies */
		if (awaited(worker, data, 4))
			up(worker, rx, data, len, WS_SOURCE_OTHER);
	}
}
