/* SPDX-License-Identifier: MIT */
#include "udp/way.h"

#include <string.h>

/* For this address, best one that is bound to the interface, then one that is bound to none. */
static int find_socket(const struct ws_socket *sockets, const struct ws_addr *local,
		       uint32_t ifindex)
{
	int best = -1, best_fit = -1;

	for (int i = 0; i < WS_MAX_SOCKETS; i++) {
		const struct ws_socket *socket = &sockets[i];
		int fit;

		if (socket->fd < 0 || socket->local.family != local->family)
			continue;
		if (local->port && socket->local.port != local->port)
			continue;
		if (socket->wildcard)
			fit = 0;
		else if (!ws_addr_any(local) && !memcmp(socket->local.ip, local->ip, 16) &&
			 (!local->scope_id || socket->local.scope_id == local->scope_id))
			fit = socket->ifindex == ifindex ? 3 : !socket->ifindex ? 2 : 1;
		else
			continue;
		if (fit > best_fit) {
			best = i;
			best_fit = fit;
		}
	}
	return best;
}

void ws_way_point(const struct ws_socket *sockets, struct ws_way *way, const struct ws_addr *remote,
		  const struct ws_addr *local, uint32_t ifindex)
{
	way->local = *local;
	way->ifindex = ifindex;
	way->no_gso_until_ns = 0;
	way->remote_bytes = 0;
	way->socket = -1;
	if (!remote->family)
		return;
	ws_addr_to_sockaddr(remote, &way->remote, &way->remote_bytes);
	ws_way_choose(sockets, way);
}

void ws_way_choose(const struct ws_socket *sockets, struct ws_way *way)
{
	if (way->remote_bytes &&
	    way->local.family == (way->remote.sa.sa_family == AF_INET6 ? 6 : 4))
		way->socket = find_socket(sockets, &way->local, way->ifindex);
}

void ws_way_direct(const struct ws_way *way, struct ws_tx *tx, int32_t peer, uint32_t path)
{
	tx->peer = peer;
	tx->path = path;
	tx->socket = way->socket;
	tx->ifindex = way->ifindex;
	tx->local = way->local;
	tx->remote = way->remote;
	tx->remote_bytes = way->remote_bytes;
}
