/* SPDX-License-Identifier: MIT */
#include "session/rescue.h"

#include "session/peer.h"
#include "session/relay.h"

#include <errno.h>
#include <poll.h>

#define SEND_WAIT_MS 5
#define NO_GSO_NS (60 * WS_SECOND_NS) /* then the path's MTU may be another */

static int send_piece(struct ws_worker *worker, struct ws_tx *tx, uint32_t at, uint32_t len)
{
	for (;;) {
		int error = ws_udp_send(worker->sockets, tx, at, len);
		const struct ws_socket *socket = ws_udp_socket(worker->sockets, tx);
		struct pollfd wait = {.fd = socket ? socket->fd : -1, .events = POLLOUT};

		ws_add(worker->stats.tx_batches, 1);
		/* A full buffer is waited for once a turn: other peers must not stand still. */
		if ((error != EAGAIN && error != ENOBUFS) ||
		    worker->send_waited_ns == worker->now_ns)
			return error;
		worker->send_waited_ns = worker->now_ns;
		(void)poll(&wait, 1, SEND_WAIT_MS);
	}
}

void ws_rescue(struct ws_worker *worker, struct ws_tx *tx, int error)
{
	struct ws_peer *peer = tx->peer >= 0 ? ws_worker_peer(worker, tx->peer) : NULL;
	bool had_local = tx->local.family, had_socket = tx->socket >= 0, sent = false;
	/* A device without checksum offload (EIO), or a path MTU below the stride. */
	bool refused = tx->count > 1 && (error == EIO || error == EINVAL || error == EMSGSIZE);

	for (uint32_t at = 0; at < tx->len;) {
		uint32_t len = tx->len - at < tx->stride ? tx->len - at : tx->stride;

		error = send_piece(worker, tx, at, len);
		if ((error == EAGAIN || error == ENOBUFS) && tx->len - at > len) {
			/* No room for the rest either: UDP may lose it, the worker must go on. */
			ws_drop(worker, WS_DROP_SEND, (tx->len - at + tx->stride - 1) / tx->stride);
			break;
		}
		if (error)
			ws_drop(worker, WS_DROP_SEND, 1);
		else
			sent = true;
		at += len;
	}
	/* Piece by piece it went, and from the same source: so it was the run that was refused. */
	if (peer && refused && sent && had_local == (tx->local.family != 0))
		ws_peer_way(peer, tx->path)->no_gso_until_ns = worker->now_ns + NO_GSO_NS;
	if (tx->peer == WS_TX_RELAY && refused && sent)
		ws_relay_refused_run(worker, tx->path, worker->now_ns + NO_GSO_NS);
	if (peer && had_local && !tx->local.family) {
		/* What comes next need not find out again. */
		struct ws_addr none = {0};

		ws_peer_point(worker, peer, &peer->stats.endpoint, &none);
	} else if (peer && sent && had_socket && tx->socket < 0) {
		ws_peer_way(peer, tx->path)->socket = -1;
	}
}
