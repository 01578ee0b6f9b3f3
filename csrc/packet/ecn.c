/* SPDX-License-Identifier: MIT */
#include "packet/ecn.h"

#include "packet/checksum.h"

/* The IPv6 traffic class is bits 4..11 of the header; its two ECN bits are bits 4, 5 of byte 1. */
#define IPV6_ECN_SHIFT 4

/* 4, 6, or 0 where there is no whole header. */
static int ip_version(const uint8_t *packet, size_t len)
{
	if (len >= WS_IPV4_BYTES && packet[0] >> 4 == 4)
		return 4;
	if (len >= WS_IPV6_BYTES && packet[0] >> 4 == 6)
		return 6;
	return 0;
}

static uint8_t inner_ecn(const uint8_t *packet, int version)
{
	if (version == 4)
		return packet[WS_IPV4_TOS] & WS_ECN_MASK;
	return packet[1] >> IPV6_ECN_SHIFT & WS_ECN_MASK;
}

static void set_inner_ecn(uint8_t *packet, int version, uint8_t ecn)
{
	uint16_t before, after;

	if (version == 6) {
		packet[1] = (uint8_t)((packet[1] & ~(WS_ECN_MASK << IPV6_ECN_SHIFT)) |
				      ecn << IPV6_ECN_SHIFT);
		return;
	}
	memcpy(&before, packet, 2);
	packet[WS_IPV4_TOS] = (uint8_t)((packet[WS_IPV4_TOS] & ~WS_ECN_MASK) | ecn);
	memcpy(&after, packet, 2);
	ws_csum_replace(packet + WS_IPV4_CHECKSUM, before, after);
}

uint8_t ws_ecn_encapsulate(const uint8_t *packet, size_t len)
{
	int version = ip_version(packet, len);

	return version ? inner_ecn(packet, version) : WS_ECN_NOT_ECT;
}

bool ws_ecn_decapsulate(uint8_t outer_tos, uint8_t *packet, size_t len)
{
	uint8_t outer = outer_tos & WS_ECN_MASK;
	int version = ip_version(packet, len);
	uint8_t inner;

	/* By far the most packets: nothing to carry over. */
	if (outer == WS_ECN_NOT_ECT || outer == WS_ECN_ECT0 || !version)
		return true;
	inner = inner_ecn(packet, version);
	if (inner == WS_ECN_NOT_ECT)
		return outer != WS_ECN_CE;
	if (outer == WS_ECN_CE && inner != WS_ECN_CE)
		set_inner_ecn(packet, version, WS_ECN_CE);
	else if (outer == WS_ECN_ECT1 && inner == WS_ECN_ECT0)
		set_inner_ecn(packet, version, WS_ECN_ECT1);
	return true;
}
