/* SPDX-License-Identifier: MIT */
/* With several workers: what arrives comes to its owner at once. Nothing happens without bpf/. */
#ifndef WS_STEER_H
#define WS_STEER_H

#include "session/peer.h"

/* The sockets of this number, one a worker, were opened, or are about to be closed. */
void ws_steer_socket(ws_engine *engine, int number);
void ws_unsteer_socket(ws_engine *engine, int number);
/* The peer's packets go to the queue of its worker. */
void ws_steer_packets(ws_engine *engine, struct ws_peer *peer, const struct ws_prefix *prefixes,
		      size_t count);

#endif
