/* SPDX-License-Identifier: MIT */
/* The engine: its life, sockets, peers, and messages in both directions. */
#ifndef WS_API_ENGINE_H
#define WS_API_ENGINE_H

#include "api/multipath.h"
#include "api/types.h"

typedef struct ws_engine ws_engine;

/* What the engine chose after its self-tests, for status and doctor. */
struct ws_chosen {
	uint32_t backend; /* enum ws_backend */
	uint32_t cipher; /* enum ws_cipher */
	uint32_t offloads_off; /* bits of enum ws_offload: asked off, or failed its self-test */
	uint32_t workers;
};

/* `error` (may be NULL) gets a line for the user where NULL is returned. */
ws_engine *ws_engine_new(const struct ws_config *config, char *error, size_t error_bytes);
/* One TUN queue for worker `worker`; the engine takes the descriptor over. Before ws_engine_start. */
int ws_engine_set_tun(ws_engine *engine, uint32_t worker, int fd);
int ws_engine_start(ws_engine *engine);
/* Stops the workers, zeroes keys, closes descriptors, frees. */
void ws_engine_free(ws_engine *engine);
void ws_engine_chosen(const ws_engine *engine, struct ws_chosen *chosen);
const struct ws_stats *ws_engine_stats(const ws_engine *engine, uint32_t worker);
/*
 * Returns when every worker has come round once more: one that is stuck keeps the caller waiting, so
 * that a watchdog hears nothing.
 */
void ws_engine_beat(ws_engine *engine);

/*
 * Opens a UDP socket. local.family 4/6 with ip all zero is the wildcard, port
 * 0 lets the kernel choose. A wildcard must not be taken (-EADDRINUSE);
 * sockets of single local addresses may then stand beside it on its port.
 * Returns a socket number >= 0; *bound gets the address.
 */
int ws_socket_open(ws_engine *engine, const struct ws_addr *local, uint32_t ifindex,
		   struct ws_addr *bound);
int ws_socket_close(ws_engine *engine, int socket);
/*
 * Looks again which interface the TUN device is where the sockets are: what comes in by it is
 * dropped. Done by ws_socket_open; to be called when interfaces change. Its index, 0: it is not
 * there. -EBADF, -EBADFD: there is no device.
 */
int ws_engine_follow_tun(ws_engine *engine);
/*
 * Replaces the networks inside tunnels, and those that are not though a wider one of these holds
 * them (the longest match counts, then outside). Datagrams from inside are dropped.
 */
int ws_engine_set_inside(ws_engine *engine, const struct ws_prefix *inside, size_t inside_count,
			 const struct ws_prefix *outside, size_t outside_count);
int ws_set_fwmark(ws_engine *engine, uint32_t fwmark);
int ws_set_mtu(ws_engine *engine, uint32_t mtu);

/*
 * Returns the peer's number >= 0. The worker number % workers owns it, and its receiver indices
 * must be congruent to it too. Memory: about 1 KiB a peer.
 */
int ws_peer_add(ws_engine *engine);
int ws_peer_remove(ws_engine *engine, int peer);
/* Replaces the peer's prefixes; one held by another peer moves over (as `wg set` does). */
int ws_peer_set_allowed_ips(ws_engine *engine, int peer, const struct ws_prefix *prefixes,
			    size_t count);
/*
 * local.family 0: let the routing table choose the source. ifindex: leave by this interface until
 * the peer or this call says otherwise; 0: as the routing table says.
 */
int ws_peer_set_endpoint(ws_engine *engine, int peer, const struct ws_addr *remote,
			 const struct ws_addr *local, uint32_t ifindex);
/* Rotates previous/current/next as WireGuard does and sends what was staged (if current). */
int ws_peer_install_keypair(ws_engine *engine, int peer, const struct ws_keypair *keypair);
/* Zeroes every keypair of the peer. */
int ws_peer_clear_keypairs(ws_engine *engine, int peer);
/* Drops what was staged for the peer (handshake given up). Returns how many packets. */
int ws_peer_drop_staged(ws_engine *engine, int peer);
/* An empty transport message; -ENOKEY without a usable current keypair. */
int ws_peer_send_keepalive(ws_engine *engine, int peer);
/* A control frame inside the session; first byte 0x10..0x1f. -ENOKEY as above, -EMSGSIZE. */
int ws_peer_send_control(ws_engine *engine, int peer, const uint8_t *data, size_t len);
/*
 * Extended mode (docs/multipath.md): send data frames from here on, or plain packets again.
 * Inner packets longer than max_packet stay plain. Received frames are always taken.
 */
enum ws_frames {
	WS_FRAMES_OFF = 0,
	WS_FRAMES_SINGLE = 1, /* one packet each */
	WS_FRAMES_BUNDLES = 2, /* small packets cut from one super-packet share a frame */
};

int ws_peer_set_frames(ws_engine *engine, int peer, uint32_t mode, uint32_t max_packet);

/*
 * Several paths (docs/multipath.md). ws_peer_multipath: from here on received frames are put in
 * order and acknowledged where their sender asks for it; `packet_bytes` is the longest packet.
 * 0, or -ENOMEM. Again with reset: the peer restarted, its seqs and numbers begin anew.
 */
int ws_peer_multipath(ws_engine *engine, int peer, uint32_t packet_bytes, int reset);
/*
 * Replaces the peer's paths (ids 0..WS_MAX_PATHS-1, each once). None, or path 0 alone and not
 * scheduled: packets go to the endpoint as ws_peer_set_endpoint or the peer's moves say.
 * One usable path and not scheduled: packets go by that one as they come, at no pace.
 * WS_PATHS_SCHEDULE: spread data over the usable paths, with the parameters given. WS_PATHS_STAY: path
 * 0 goes to the endpoint as ws_peer_set_endpoint says, wherever the peer's packets come from.
 * WS_PATHS_KEEP: another path could take over from the only usable one, so what is sent is
 * acknowledged and, up to some rate, kept for a second sending. -EINVAL.
 */
enum { WS_PATHS_SCHEDULE = 1, WS_PATHS_STAY = 2, WS_PATHS_KEEP = 4 };
int ws_peer_set_paths(ws_engine *engine, int peer, const struct ws_path *paths, size_t count,
		      uint32_t flags);
/* New parameters of one path; taken at once, without the worker's help. */
int ws_peer_tune_path(ws_engine *engine, int peer, uint32_t path,
		      const struct ws_path_params *params);
int ws_peer_tune(ws_engine *engine, int peer, const struct ws_multipath_params *params);
/* A control frame over one path, valid or not, padded with zeros to a UDP payload of datagram_bytes (0: not). */
int ws_peer_send_path_control(ws_engine *engine, int peer, uint32_t path, const uint8_t *data,
			      size_t len, uint32_t datagram_bytes);
/* The path failed: what is in flight on it is sent again elsewhere where its deadline stands. Returns how many. */
int ws_peer_rescue_path(ws_engine *engine, int peer, uint32_t path);
/* Valid until ws_peer_remove; NULL before ws_peer_multipath. */
const struct ws_multipath_stats *ws_peer_multipath_stats(const ws_engine *engine, int peer);

/* Valid until ws_peer_remove. */
const struct ws_peer_stats *ws_peer_stats(const ws_engine *engine, int peer);

/* stats.endpoint and stats.local, both of one moment. */
void ws_peer_endpoint(const struct ws_peer_stats *stats, struct ws_addr *remote,
		      struct ws_addr *local);

/*
 * Sends a handshake or bootstrap message as it is. From here on its answer is let in: responses,
 * cookie replies and bootstrap replies that nothing asked for are dropped. ifindex: by this interface, 0: any.
 */
int ws_send(ws_engine *engine, const struct ws_addr *remote, const struct ws_addr *local,
	    uint32_t ifindex, const uint8_t *data, size_t len);

/* What cookies are made of from here on (whitepaper 5.4.7); the secret before it stays valid. */
void ws_set_cookie_secret(ws_engine *engine, const uint8_t secret[32]);
/* An address of a peer: its initiations are no stranger's, whatever their port. */
void ws_know(ws_engine *engine, const struct ws_addr *addr);
void ws_forget(ws_engine *engine, const struct ws_addr *addr);
/* An initiation of this class (enum ws_source_class) proved to be a peer's. */
void ws_genuine(ws_engine *engine, uint32_t source_class);

/* An eventfd that becomes readable when an upcall waits. Read it, then drain until 0. */
int ws_upcall_fd(const ws_engine *engine);
/* 1 and *upcall filled, or 0 when there is none. */
int ws_upcall_next(ws_engine *engine, struct ws_upcall *upcall);

#endif
