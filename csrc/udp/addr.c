/* SPDX-License-Identifier: MIT */
#include "udp/addr.h"

#include <string.h>

void ws_addr_to_sockaddr(const struct ws_addr *addr, union ws_sockaddr *out, socklen_t *len)
{
	memset(out, 0, sizeof(*out));
	if (addr->family == 6) {
		out->in6.sin6_family = AF_INET6;
		out->in6.sin6_port = htons(addr->port);
		out->in6.sin6_scope_id = addr->scope_id;
		memcpy(&out->in6.sin6_addr, addr->ip, 16);
		*len = sizeof(out->in6);
	} else {
		out->in.sin_family = AF_INET;
		out->in.sin_port = htons(addr->port);
		memcpy(&out->in.sin_addr, addr->ip, 4);
		*len = sizeof(out->in);
	}
}

void ws_sockaddr_to_addr(const union ws_sockaddr *from, struct ws_addr *out)
{
	memset(out, 0, sizeof(*out));
	if (from->sa.sa_family == AF_INET6) {
		out->family = 6;
		out->port = ntohs(from->in6.sin6_port);
		out->scope_id = from->in6.sin6_scope_id;
		memcpy(out->ip, &from->in6.sin6_addr, 16);
	} else if (from->sa.sa_family == AF_INET) {
		out->family = 4;
		out->port = ntohs(from->in.sin_port);
		memcpy(out->ip, &from->in.sin_addr, 4);
	}
}

bool ws_addr_any(const struct ws_addr *addr)
{
	static const uint8_t zero[16];

	return memcmp(addr->ip, zero, addr->family == 4 ? 4 : 16) == 0;
}
