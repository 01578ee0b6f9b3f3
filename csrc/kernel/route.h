/* SPDX-License-Identifier: MIT */
/* Where the routing table sends a datagram, asked of the kernel (rtnetlink(7)). */
#ifndef WS_ROUTE_H
#define WS_ROUTE_H

#include "api/types.h"

/* What decides: addresses with their ports, SO_MARK, and the interface a socket is bound to or 0. */
struct ws_route_key {
	struct ws_addr remote, local; /* local.family 0: any */
	uint32_t mark, ifindex;
};

struct ws_route {
	uint32_t ifindex;
	uint32_t mtu; /* of the route where it has one of its own, else of the interface */
	struct ws_addr next_hop; /* the gateway, or the remote itself */
	struct ws_addr source; /* that the kernel would choose; family 0: it says none */
};

/* A socket for ws_route_find, or -errno. */
int ws_route_open(void);
/* -ENETUNREACH: none, or none to another host. Else what the kernel or the socket says, negative. */
int ws_route_find(int fd, const struct ws_route_key *key, struct ws_route *route);

#endif
