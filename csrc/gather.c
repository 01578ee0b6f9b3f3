/* SPDX-License-Identifier: MIT */
#include "gather.h"

#include "ip.h"

#define TCP_PLAIN_WORDS 8 /* header with timestamps; SACK blocks make it longer */
#define TCP_KINDS 0x3f /* of the flags, all but those of ECN */

bool ws_gather_fits(const uint8_t *packet, size_t len)
{
	size_t ip = WS_IPV6_BYTES;
	uint8_t protocol, words;

	if (len < WS_IPV4_BYTES + WS_TCP_BYTES || len > WS_GATHER_PACKET_BYTES)
		return false;
	if (packet[0] >> 4 == 4) {
		ip = (size_t)(packet[0] & 15) * 4;
		protocol = packet[WS_IPV4_PROTOCOL];
		if (ip < WS_IPV4_BYTES || (packet[WS_IPV4_FRAGMENT] & 0x3f) ||
		    packet[WS_IPV4_FRAGMENT + 1])
			return false;
	} else {
		protocol = packet[WS_IPV6_NEXT];
	}
	if (protocol != WS_PROTOCOL_TCP || len < ip + WS_TCP_BYTES)
		return false;
	packet += ip;
	words = packet[WS_TCP_DATA_OFFSET] >> 4;
	return words <= TCP_PLAIN_WORDS && len == ip + words * 4u &&
	       (packet[WS_TCP_FLAGS] & TCP_KINDS) == WS_TCP_ACKED;
}

bool ws_gather_hold(struct ws_gather *gather, const uint8_t *packet, size_t len, uint32_t flags,
		    uint32_t for_us, uint32_t every_us, uint64_t now_ns)
{
	struct ws_gather_slot *slot = &gather->slots[gather->count];

	if (!gather->count) {
		if (!for_us || !ws_gather_fits(packet, len) ||
		    (gather->begun_ns && now_ns - gather->begun_ns < every_us * UINT64_C(1000)))
			return false;
		gather->begun_ns = now_ns;
		gather->due_ns =
			now_ns +
			UINT64_C(1000) * (for_us < WS_GATHER_MAX_US ? for_us : WS_GATHER_MAX_US);
	} else if (now_ns >= gather->due_ns || gather->count == WS_GATHER_SLOTS ||
		   !ws_gather_fits(packet, len)) {
		return false;
	}
	slot->len = (uint32_t)len;
	slot->flags = flags;
	memcpy(slot->packet, packet, len);
	gather->count++;
	return true;
}
