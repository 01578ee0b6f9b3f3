/* SPDX-License-Identifier: MIT */
/* A peer's paths between the core (multipath.h) and the worker. */
#ifndef WS_PATHS_H
#define WS_PATHS_H

#include "session/peer.h"

struct ws_paths *ws_paths_new(struct ws_peer *peer, uint32_t packet_bytes);
void ws_paths_free(struct ws_paths *paths);
/* On the worker's thread: the peer goes away. */
void ws_paths_leave(struct ws_worker *worker, struct ws_peer *peer);
/* Its keys are gone. */
void ws_paths_forget(struct ws_worker *worker, struct ws_peer *peer);
void ws_paths_set(struct ws_worker *worker, struct ws_peer *peer, const struct ws_path *list,
		  size_t count, uint32_t flags);
void ws_paths_socket_opened(struct ws_worker *worker, struct ws_peer *peer);
void ws_paths_socket_closed(struct ws_peer *peer, int number);

/* The peer's paths have something to do, at the latest at the end of the turn. */
void ws_paths_wake(struct ws_worker *worker, struct ws_peer *peer);
/* So many packets were given to the peer's paths; wakes them. */
void ws_paths_queued(struct ws_worker *worker, struct ws_peer *peer, uint32_t packets);
/* An authenticated datagram came in under the peer's path number. */
void ws_paths_received(struct ws_worker *worker, struct ws_peer *peer, uint32_t path,
		       uint64_t number, const struct ws_rx *rx, uint32_t bytes);
/* A data frame came; feedback: its sender wants order and ACKs. */
void ws_paths_data(struct ws_worker *worker, struct ws_peer *peer, bool feedback);
/* ACKs and heartbeats that ask for one. False: it is for Python. */
bool ws_paths_control(struct ws_worker *worker, struct ws_peer *peer, const uint8_t *frame,
		      size_t len);
/* What was delivered goes to the TUN device, so its bytes are free again. */
void ws_paths_flush(struct ws_worker *worker);
/* At the end of a turn: whatever is due. */
void ws_paths_tick(struct ws_worker *worker);
/* When the worker must wake at the latest, UINT64_MAX: on traffic only. */
uint64_t ws_paths_deadline(const struct ws_worker *worker);
/* Packets come in order at a rate at which they are worth letting gather. */
bool ws_paths_busy(const struct ws_worker *worker);

#endif
