/* SPDX-License-Identifier: MIT */
/* Messages from outside a session: handshakes, cookie replies, bootstrap. */
#ifndef WS_STRANGERS_H
#define WS_STRANGERS_H

#include "worker/worker.h"

/*
 * Anything but a transport message: exact lengths, then what tells a peer from a stranger. What
 * may pass goes up to Python, all else is counted.
 */
void ws_stranger(struct ws_worker *worker, const struct ws_rx *rx, const uint8_t *data, size_t len,
		 uint32_t type);

#endif
