/* SPDX-License-Identifier: MIT */
/* Runs of datagrams as they come and go, and how long they may be. */
#ifndef WS_DATAGRAM_H
#define WS_DATAGRAM_H

#include <stdbool.h>
#include <stddef.h>

#include "udp/addr.h"

#define WS_BUFFER_BYTES 66048 /* one UDP or TUN super-packet of up to 65535 and a virtio header */
#define WS_TX_MAX_BYTES 65507 /* UDP payload over IPv4 */
#define WS_TX_MAX_SEGMENTS 64 /* UDP_MAX_SEGMENTS of older kernels */

/* A receive, perhaps many datagrams of `stride` bytes (UDP_GRO). */
struct ws_rx {
	uint8_t *data;
	size_t len;
	size_t stride; /* 0: one datagram */
	const union ws_sockaddr *from;
	struct ws_addr local; /* family 0: not told */
	int socket;
	uint32_t ifindex; /* it came in by; 0: not told */
	uint8_t tos;
	bool group; /* sent to a broadcast or multicast address */
};

/* A send: datagrams of `stride` bytes, the last may be shorter, all to one endpoint. */
struct ws_tx {
	uint8_t *data; /* WS_BUFFER_BYTES */
	uint32_t len;
	uint32_t stride;
	uint32_t count;
	int32_t peer; /* -1: none */
	uint32_t path; /* of the peer's, or WS_WAY_PEER */
	uint32_t ifindex;
	int socket;
	uint8_t ecn;
	bool closed; /* holds a shorter last datagram: nothing may follow */
	bool no_gso;
	struct ws_addr local;
	union ws_sockaddr remote;
	socklen_t remote_bytes;
};

#endif
