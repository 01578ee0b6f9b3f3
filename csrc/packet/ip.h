/* SPDX-License-Identifier: MIT */
/*
 * What is known of IP, TCP and UDP headers: where the fields are, and unaligned
 * loads and stores in network order.
 */
#ifndef WS_IP_H
#define WS_IP_H

#include <endian.h>
#include <linux/virtio_net.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#ifndef VIRTIO_NET_HDR_GSO_UDP_L4
#define VIRTIO_NET_HDR_GSO_UDP_L4 5 /* Linux 6.2 */
#endif

enum {
	WS_IPV4_BYTES = 20, /* without options */
	WS_IPV6_BYTES = 40,
	WS_TCP_BYTES = 20, /* without options */
	WS_UDP_BYTES = 8,

	/* Byte offsets: RFC 791, 8200, 9293, 768. */
	WS_IPV4_TOS = 1,
	WS_IPV4_LENGTH = 2,
	WS_IPV4_ID = 4,
	WS_IPV4_FRAGMENT = 6,
	WS_IPV4_TTL = 8,
	WS_IPV4_PROTOCOL = 9,
	WS_IPV4_CHECKSUM = 10,
	WS_IPV4_ADDRESSES = 12,
	WS_IPV6_LENGTH = 4,
	WS_IPV6_NEXT = 6,
	WS_IPV6_HOP_LIMIT = 7,
	WS_IPV6_ADDRESSES = 8,
	WS_TCP_SEQ = 4,
	WS_TCP_ACK = 8,
	WS_TCP_DATA_OFFSET = 12,
	WS_TCP_FLAGS = 13,
	WS_TCP_WINDOW = 14,
	WS_TCP_CHECKSUM = 16,
	WS_TCP_URGENT = 18,
	WS_UDP_LENGTH = 4,
	WS_UDP_CHECKSUM = 6,

	WS_IPV4_DF = 0x40, /* in the first fragment byte */
	WS_IPV4_MF_OFFSET = 0x3fff, /* in the fragment word: any bit set, it is a fragment */

	WS_TCP_FIN = 0x01,
	WS_TCP_SYN = 0x02,
	WS_TCP_RST = 0x04,
	WS_TCP_PSH = 0x08,
	WS_TCP_ACKED = 0x10,
	WS_TCP_CWR = 0x80,

	/* RFC 4594, RFC 5865 */
	WS_DSCP_CS5 = 40,
	WS_DSCP_VOICE_ADMIT = 44,
	WS_DSCP_EF = 46,
	WS_DSCP_CS6 = 48,
	WS_DSCP_CS7 = 56,

	WS_PROTOCOL_ICMP = 1,
	WS_PROTOCOL_TCP = 6,
	WS_PROTOCOL_UDP = 17,
	WS_PROTOCOL_ICMPV6 = 58,
	WS_IPV6_HOP_BY_HOP = 0,
	WS_IPV6_ROUTING = 43,
	WS_IPV6_FRAGMENT = 44,
	WS_IPV6_AUTHENTICATION = 51,
	WS_IPV6_DESTINATION = 60
};

static inline uint16_t ws_get16(const uint8_t *p)
{
	uint16_t v;

	memcpy(&v, p, sizeof(v));
	return be16toh(v);
}

static inline uint32_t ws_get32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return be32toh(v);
}

static inline void ws_put16(uint8_t *p, uint16_t v)
{
	v = htobe16(v);
	memcpy(p, &v, sizeof(v));
}

static inline void ws_put32(uint8_t *p, uint32_t v)
{
	v = htobe32(v);
	memcpy(p, &v, sizeof(v));
}

/* RFC 2474; an IP packet that ws_ip_l4 took. */
static inline uint8_t ws_ip_dscp(const uint8_t *packet)
{
	return packet[0] >> 4 == 4 ? packet[WS_IPV4_TOS] >> 2
				   : (uint8_t)((packet[0] & 15) << 2 | packet[1] >> 6);
}

/* Whether it comes from its maker, and nobody has forwarded it: whole TTLs as hosts give them. Of a packet that
 * ws_ip_l4 took. */
static inline bool ws_ip_ttl_is_whole(const uint8_t *packet)
{
	uint8_t ttl = packet[packet[0] >> 4 == 4 ? WS_IPV4_TTL : WS_IPV6_HOP_LIMIT];

	return ttl == 64 || ttl == 128 || ttl == 255;
}

/* Both addresses: where they begin, and their bytes. */
static inline size_t ws_ip_addresses(const uint8_t *packet, size_t *bytes)
{
	bool six = packet[0] >> 4 == 6;

	*bytes = six ? 32 : 8;
	return six ? WS_IPV6_ADDRESSES : WS_IPV4_ADDRESSES;
}

/* One word more in the hash of a flow. */
static inline uint32_t ws_flow_mix(uint32_t hash, uint32_t word)
{
	hash = (hash ^ word) * 0x9e3779b1u;
	return hash ^ hash >> 16; /* the upper half of the last word shows in the lower bits too */
}

/* With its options; `tcp`: WS_TCP_BYTES at least. */
static inline size_t ws_tcp_header_bytes(const uint8_t *tcp)
{
	return (size_t)(tcp[WS_TCP_DATA_OFFSET] >> 4) * 4;
}

/* Where L4 begins and what it is; IPv6 extension headers count as L4. False: cut off, a fragment. */
static inline bool ws_ip_l4(const uint8_t *packet, size_t len, size_t *ip_bytes, uint8_t *protocol)
{
	if (len < WS_IPV4_BYTES)
		return false;
	if (packet[0] >> 4 == 4) {
		*ip_bytes = (size_t)(packet[0] & 15) * 4;
		*protocol = packet[WS_IPV4_PROTOCOL];
		return *ip_bytes >= WS_IPV4_BYTES && *ip_bytes <= len &&
		       !(ws_get16(packet + WS_IPV4_FRAGMENT) & WS_IPV4_MF_OFFSET);
	}
	*ip_bytes = WS_IPV6_BYTES;
	*protocol = packet[WS_IPV6_NEXT];
	return len >= WS_IPV6_BYTES;
}

/* A TCP's header, with *len bytes from there on; NULL: it is none, or not all there. */
static inline const uint8_t *ws_ip_tcp(const uint8_t *packet, size_t *len)
{
	uint8_t protocol = 0;
	const uint8_t *tcp;
	size_t ip = 0;

	if (!ws_ip_l4(packet, *len, &ip, &protocol) || protocol != WS_PROTOCOL_TCP ||
	    *len < ip + WS_TCP_BYTES)
		return NULL;
	tcp = packet + ip;
	if (ws_tcp_header_bytes(tcp) < WS_TCP_BYTES || ws_tcp_header_bytes(tcp) > *len - ip)
		return NULL;
	*len -= ip;
	return tcp;
}

#endif
