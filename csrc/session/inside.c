/* SPDX-License-Identifier: MIT */
/*
 * The tunnel must not carry itself. Three looks, each before anything else is done with a datagram
 * or packet:
 *  - a datagram that came in by the tunnel's own device is somebody's inner packet, and is dropped
 *    whatever it holds: taken, it would make an address inside the tunnel the peer's endpoint
 *  - so is one whose source is an address inside a tunnel (Python says which: protocol/inside.py):
 *    an answer would go into that tunnel
 *  - an inner packet that is a datagram of ours to where the peer is has come back: it would be
 *    sealed again, and again
 */
#include "session/inside.h"

#include "packet/ip.h"

#include <string.h>

static bool is_inside(const struct ws_allowedips *table, const union ws_sockaddr *from)
{
	const uint8_t *ip;

	if (from->sa.sa_family == AF_INET)
		return ws_allowedips_lookup4(table, (const uint8_t *)&from->in.sin_addr) ==
		       WS_INSIDE;
	if (from->sa.sa_family != AF_INET6)
		return false;
	ip = from->in6.sin6_addr.s6_addr;
	if (IN6_IS_ADDR_V4MAPPED(&from->in6.sin6_addr))
		return ws_allowedips_lookup4(table, ip + 12) == WS_INSIDE;
	return ws_allowedips_lookup6(table, ip) == WS_INSIDE;
}

static bool same_host(const union ws_sockaddr *a, const union ws_sockaddr *b)
{
	if (a->sa.sa_family != b->sa.sa_family)
		return false;
	if (a->sa.sa_family == AF_INET)
		return a->in.sin_addr.s_addr == b->in.sin_addr.s_addr;
	return !memcmp(&a->in6.sin6_addr, &b->in6.sin6_addr, sizeof(a->in6.sin6_addr));
}

bool ws_inside_refuses(struct ws_worker *worker, const struct ws_rx *rx)
{
	uint32_t own = atomic_load_explicit(&worker->engine->tun_ifindex, memory_order_relaxed);
	uint64_t datagrams = 1;
	enum ws_drop reason;

	if (own && rx->ifindex == own) {
		reason = WS_DROP_TUNNEL;
	} else {
		if (!worker->inside || same_host(rx->from, &worker->passed))
			return false;
		if (!is_inside(worker->inside, rx->from)) {
			worker->passed = *rx->from;
			return false;
		}
		reason = WS_DROP_INSIDE;
	}
	if (rx->stride && rx->len > rx->stride)
		datagrams = (rx->len + rx->stride - 1) / rx->stride;
	ws_drop(worker, reason, datagrams);
	return true;
}

/* The UDP header of a packet or of its first fragment; NULL: there is none. */
static const uint8_t *udp_header(const uint8_t *packet, size_t len)
{
	size_t at = WS_IPV6_BYTES;
	uint8_t protocol;

	if (packet[0] >> 4 == 4) {
		at = (size_t)(packet[0] & 15) * 4;
		protocol = packet[WS_IPV4_PROTOCOL];
		if (ws_get16(packet + WS_IPV4_FRAGMENT) & 0x1fff)
			return NULL;
	} else {
		protocol = packet[WS_IPV6_NEXT];
		if (protocol == WS_IPV6_FRAGMENT && len >= at + 8) {
			if (ws_get16(packet + at + 2) & 0xfff8)
				return NULL;
			protocol = packet[at];
			at += 8;
		}
	}
	return protocol == WS_PROTOCOL_UDP && len >= at + WS_UDP_BYTES ? packet + at : NULL;
}

static bool goes_to(const uint8_t *packet, const uint8_t *udp, const union ws_sockaddr *remote)
{
	if (packet[0] >> 4 == 4)
		return remote->sa.sa_family == AF_INET &&
		       ws_get16(udp + 2) == ntohs(remote->in.sin_port) &&
		       !memcmp(packet + 16, &remote->in.sin_addr, 4);
	return remote->sa.sa_family == AF_INET6 &&
	       ws_get16(udp + 2) == ntohs(remote->in6.sin6_port) &&
	       !memcmp(packet + 24, &remote->in6.sin6_addr, 16);
}

bool ws_inside_returns(struct ws_worker *worker, struct ws_peer *peer, const uint8_t *packet,
		       size_t len)
{
	const uint8_t *udp = udp_header(packet, len);

	if (!udp || ws_get16(udp) != worker->port)
		return false;
	for (uint32_t path = 0; path <= WS_WAY_PEER; path++) {
		const struct ws_way *way = ws_peer_way(peer, path);

		if (way->remote_bytes && goes_to(packet, udp, &way->remote)) {
			ws_drop(worker, WS_DROP_LOOP, 1);
			return true;
		}
	}
	return false;
}
