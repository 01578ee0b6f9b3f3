/* SPDX-License-Identifier: MIT */
/*
 * One peer: its endpoint, its previous, current and next keypair, and the timestamps that Python's
 * timers are computed from. All on the thread of the worker that owns it.
 */
#ifndef WS_PEER_H
#define WS_PEER_H

#include "multipath/multipath.h"
#include "udp/way.h"
#include "worker/worker.h"

/* What all who send to a peer with several paths know of these; paths.c has more. */
struct ws_paths {
	struct ws_multipath *core;
	struct ws_way way[WS_PATH_COUNT]; /* remote_bytes 0: not there */
	bool scheduled; /* data goes over the paths, and not to the peer's endpoint */
	bool kept; /* over one of them, in the core's order: another could take over */
	uint32_t only; /* not scheduled: over this one; 0: to the peer's endpoint */
	uint32_t spare; /* bits of ways without data: silence there says nothing of the peer */
	bool stay; /* the endpoint does not follow the peer */
	struct ws_paths *next; /* of the worker's active ones */
};

struct ws_peer {
	struct ws_peer_stats stats; /* read by Python */
	struct ws_keys *current, *previous, *next;
	struct ws_way way; /* the peer's endpoint */
	struct ws_paths *paths; /* NULL: it is not known to understand several */
	bool frames; /* extended mode: packets go as data frames */
	bool bundles; /* the peer takes several packets in one frame */
	bool heard; /* of its data frames some came before there were paths */
	uint32_t frame_max_bytes; /* longest inner packet that goes as a frame, 0: any */
	uint32_t data_seq; /* of the next data frame, low 32 bits */
	uint64_t control_window_ns; /* when the peer's control frames began to be counted */
	uint32_t control_count;
	uint8_t control_of[16]; /* control frames in that second, by type */
	uint64_t asked_ns; /* last WS_UP_NEED_HANDSHAKE */
	uint64_t roamed_ns; /* last WS_UP_ROAMED */
	uint64_t rx_serial; /* of the receive whose source was looked at last */
	int32_t number;
	/* What steering was told, so that it can be taken back; the controlling thread's. */
	struct ws_prefix *prefixes;
	size_t prefix_count;
	struct ws_stage_queue staged;
};

static inline struct ws_multipath *ws_paths_core(const struct ws_paths *paths)
{
	return paths->core;
}

static inline bool ws_paths_stay(const struct ws_paths *paths)
{
	return paths && (paths->scheduled || paths->stay || paths->only);
}

static inline bool ws_paths_scheduled(const struct ws_paths *paths)
{
	return paths && paths->scheduled;
}

/* Where data goes that is not scheduled. */
static inline uint32_t ws_peer_only(const struct ws_peer *peer)
{
	return peer->paths && peer->paths->only ? peer->paths->only : WS_WAY_PEER;
}

/* path: one of the peer's, or WS_WAY_PEER. */
static inline struct ws_way *ws_peer_way(struct ws_peer *peer, uint32_t path)
{
	return path < WS_PATH_COUNT && peer->paths ? &peer->paths->way[path] : &peer->way;
}

/* Its current keypair; NULL: there is none, or it is past its limits. */
static inline struct ws_keys *ws_peer_keys(const struct ws_worker *worker,
					   const struct ws_peer *peer)
{
	struct ws_keys *keys = peer->current;

	if (!keys || worker->now_ns >= keys->reject_at_ns ||
	    keys->tx_counter >= keys->reject_after_messages)
		return NULL;
	return keys;
}

/* The keypair that packets may be sent with: NULL while the one there is carries control alone. */
static inline struct ws_keys *ws_peer_data_keys(const struct ws_worker *worker,
						const struct ws_peer *peer)
{
	struct ws_keys *keys = ws_peer_keys(worker, peer);

	return keys && !keys->held ? keys : NULL;
}

/* remote.family 0 forgets the endpoint. */
void ws_peer_point(struct ws_worker *worker, struct ws_peer *peer, const struct ws_addr *remote,
		   const struct ws_addr *local);
/*
 * Rotates the keypairs as WireGuard does. What depends on a key, the staged packets and the paths,
 * is the caller's: receive.c and control.c.
 */
int ws_peer_install(struct ws_worker *worker, struct ws_peer *peer, struct ws_keys *keys);
void ws_peer_confirm(struct ws_worker *worker, struct ws_peer *peer); /* next becomes current */
void ws_peer_zero(struct ws_worker *worker, struct ws_peer *peer);
void ws_peer_forget_previous(struct ws_worker *worker, struct ws_peer *peer);
/* Why Python is asked for a handshake: the upcall's `reason`. */
enum ws_ask_reason { WS_ASK_NO_KEY = 1, WS_ASK_REKEY = 2 };
void ws_peer_ask_handshake(struct ws_worker *worker, struct ws_peer *peer, uint32_t reason);
/* A packet waits for a key. Where there is one that only holds it back, Python knows. */
void ws_peer_want_data_keys(struct ws_worker *worker, struct ws_peer *peer);
void ws_peer_sent(struct ws_worker *worker, struct ws_peer *peer, bool data);
void ws_peer_received(struct ws_worker *worker, struct ws_peer *peer, bool data);

#endif
