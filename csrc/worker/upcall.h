/* SPDX-License-Identifier: MIT */
/*
 * Messages from a worker to Python. Two rings a worker: what strangers send cannot take room from
 * what peers and workers say.
 */
#ifndef WS_UPCALL_H
#define WS_UPCALL_H

#include "worker/worker.h"

int ws_upcall_ring_init(struct ws_upcall_ring *ring, enum ws_drop full, int eventfd);
void ws_upcall_ring_free(struct ws_upcall_ring *ring);
/*
 * An upcall to fill further (the rest of it is zero, but for the data) and to commit. NULL: the
 * ring is full. ws_upcall_begin counts that, who tries again reserves. In the peers' ring, but for
 * ws_upcall_stranger.
 */
struct ws_upcall *ws_upcall_begin(struct ws_worker *worker, uint32_t type, int32_t peer);
struct ws_upcall *ws_upcall_reserve(struct ws_worker *worker, uint32_t type, int32_t peer);
/* share: no more once 1/share of the ring is taken. */
struct ws_upcall *ws_upcall_stranger(struct ws_worker *worker, uint32_t share);
/* What came in, from where. */
void ws_upcall_fill(struct ws_upcall *upcall, const struct ws_rx *rx, const uint8_t *data,
		    size_t len);
/* 1/share of the ring is taken: no more of what others must not crowd out. */
bool ws_upcall_crowded(struct ws_upcall_ring *ring, uint32_t share);
void ws_upcall_commit(struct ws_upcall_ring *ring);
bool ws_upcall_take(struct ws_upcall_ring *ring, struct ws_upcall *out);

#endif
