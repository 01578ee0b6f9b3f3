/* SPDX-License-Identifier: MIT */
/* The tunnel must not carry itself; what is refused is counted. */
#ifndef WS_INSIDE_H
#define WS_INSIDE_H

#include "session/peer.h"

enum { WS_OUTSIDE = 0, WS_INSIDE = 1 }; /* of worker->inside, where the allowed IPs have the peer */

/* A receive that came by the tunnel, or from an address inside one. */
bool ws_inside_refuses(struct ws_worker *worker, const struct ws_rx *rx);
/* A packet for the peer (its IP header is there) that is our own datagram to the peer. */
bool ws_inside_returns(struct ws_worker *worker, struct ws_peer *peer, const uint8_t *packet,
		       size_t len);

#endif
