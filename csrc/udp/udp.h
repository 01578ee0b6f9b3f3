/* SPDX-License-Identifier: MIT */
/*
 * UDP sockets: opening, what the kernel tells with a receive, what we tell it with a send. Knows
 * neither workers nor peers.
 */
#ifndef WS_UDP_H
#define WS_UDP_H

#include "api/probe.h"
#include "udp/datagram.h"

#define WS_MAX_SOCKETS 64
#define WS_CONTROL_BYTES 128 /* of control data beside a datagram */

struct ws_socket {
	int fd; /* -1: free */
	uint32_t ifindex;
	struct ws_addr local;
	bool wildcard;
	bool gro;
};

/* The buffers that a socket of ours gets, and whether past the system's limit. */
void ws_udp_probe_buffers(int fd, struct ws_udp_parts *parts);
/*
 * Opens a socket on `local`, bound to interface `ifindex` if not 0. gro: ask for receives of
 * several datagrams. share: the wildcard's port may be held by another of our sockets, else
 * -EADDRINUSE. *bound gets the address.
 */
int ws_udp_open(const struct ws_addr *local, uint32_t ifindex, uint32_t fwmark, bool gro,
		bool share, struct ws_socket *out, struct ws_addr *bound);
/* Reads local address, TOS and GRO stride from the control data of a receive. */
void ws_udp_read_control(const struct ws_socket *socket, struct msghdr *msg, struct ws_rx *rx);
/* The socket of WS_MAX_SOCKETS to send tx from, or NULL. */
const struct ws_socket *ws_udp_socket(const struct ws_socket *sockets, const struct ws_tx *tx);
/* Fills msg for tx: name, one iov over [data, data+len), control. gso: as one UDP_SEGMENT send. */
void ws_udp_fill(const struct ws_socket *sockets, struct ws_tx *tx, struct msghdr *msg,
		 struct iovec *iov, uint8_t control[WS_CONTROL_BYTES], bool gso);
/*
 * Sends tx->data[at, at+len) as one datagram, without waiting; any thread that keeps the sockets.
 * Where the address that was spoken to is gone from this host: from any other, and tx->local and
 * tx->socket say so afterwards. 0 or an errno.
 */
int ws_udp_send(const struct ws_socket *sockets, struct ws_tx *tx, uint32_t at, uint32_t len);
/* tx as one datagram that no router may cut up and the kernel's idea of the MTU does not stop. Errno. */
int ws_udp_send_whole(const struct ws_socket *sockets, struct ws_tx *tx);

#endif
