/* SPDX-License-Identifier: MIT */
/* Outbound: from the TUN device, or from Python inside a session. */
#ifndef WS_SEND_H
#define WS_SEND_H

#include "session/peer.h"

void ws_send_packet(struct ws_worker *worker, uint8_t *frame, size_t len); /* vnet header first */
void ws_send_staged(struct ws_worker *worker, struct ws_peer *peer);
int ws_send_keepalive(struct ws_worker *worker, struct ws_peer *peer);
int ws_send_control(struct ws_worker *worker, struct ws_peer *peer, const uint8_t *data,
		    size_t len);
/*
 * A control frame on a path (WS_WAY_PEER: the path in use), padded to datagram_bytes if not 0.
 * Without any text it is a keepalive.
 */
int ws_send_path_control(struct ws_worker *worker, struct ws_peer *peer, uint32_t path,
			 const uint8_t *data, size_t len, uint32_t datagram_bytes);

/* Whether the controlling thread may send it inside a session. */
static inline bool ws_is_control(const uint8_t *frame, size_t len)
{
	return len && len <= WS_CONTROL_MAX_BYTES && frame[0] >> 4 == WS_FRAME_CONTROL_NIBBLE;
}

#endif
