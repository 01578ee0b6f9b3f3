/* SPDX-License-Identifier: MIT */
/* Addresses as the kernel has them, and as Python and the rest of the data plane have them. */
#ifndef WS_ADDR_H
#define WS_ADDR_H

#include <netinet/in.h>
#include <stdbool.h>
#include <sys/socket.h>

#include "api/types.h"

union ws_sockaddr {
	struct sockaddr sa;
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
};

void ws_addr_to_sockaddr(const struct ws_addr *addr, union ws_sockaddr *out, socklen_t *len);
void ws_sockaddr_to_addr(const union ws_sockaddr *from, struct ws_addr *out);

/* The wildcard of its family, or nothing at all. */
bool ws_addr_any(const struct ws_addr *addr);

#endif
