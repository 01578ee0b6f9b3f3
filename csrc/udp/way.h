/* SPDX-License-Identifier: MIT */
/* Where datagrams go, and by which socket they leave. */
#ifndef WS_WAY_H
#define WS_WAY_H

#include "shared/wire.h"
#include "udp/udp.h"

struct ws_way {
	union ws_sockaddr remote;
	socklen_t remote_bytes; /* 0: unknown */
	int socket; /* number of the socket to send from, -1: by family */
	uint32_t ifindex; /* leaves through this interface and no other; 0: as routed */
	struct ws_addr local;
	uint64_t no_gso_until_ns; /* the kernel refused a GSO send on this way */
};

#define WS_WAY_PEER WS_PATH_COUNT /* not one of the paths: the peer's endpoint */

/* remote.family 0: nowhere. `sockets`: WS_MAX_SOCKETS of them. */
void ws_way_point(const struct ws_socket *sockets, struct ws_way *way, const struct ws_addr *remote,
		  const struct ws_addr *local, uint32_t ifindex);
/* The socket that fits its local address best, of those that are open. */
void ws_way_choose(const struct ws_socket *sockets, struct ws_way *way);
/* tx is to go by this way, as the peer's `path`. */
void ws_way_direct(const struct ws_way *way, struct ws_tx *tx, int32_t peer, uint32_t path);

#endif
