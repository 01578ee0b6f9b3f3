/* SPDX-License-Identifier: MIT */
#include "bunch.h"

#include "ip.h"

#define TCP_PLAIN_WORDS 8 /* header with timestamps; SACK blocks make it longer */
#define TCP_KINDS 0x3f /* of the flags, all but those of ECN */

bool ws_bunch_fits(const uint8_t *packet, size_t len)
{
	size_t ip = WS_IPV6_BYTES;
	uint8_t protocol, words;

	if (len < WS_IPV4_BYTES + WS_TCP_BYTES || len > WS_BUNCH_PACKET_BYTES)
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

bool ws_bunch_hold(struct ws_bunch *bunch, const uint8_t *packet, size_t len, uint32_t flags,
		   uint32_t for_us, uint32_t every_us, uint64_t now_ns)
{
	struct ws_bunch_slot *slot = &bunch->slots[bunch->count];

	if (!bunch->count) {
		if (!for_us || !ws_bunch_fits(packet, len) ||
		    (bunch->begun_ns && now_ns - bunch->begun_ns < every_us * UINT64_C(1000)))
			return false;
		bunch->begun_ns = now_ns;
		bunch->due_ns =
			now_ns +
			UINT64_C(1000) * (for_us < WS_BUNCH_MAX_US ? for_us : WS_BUNCH_MAX_US);
	} else if (now_ns >= bunch->due_ns || bunch->count == WS_BUNCH_SLOTS ||
		   !ws_bunch_fits(packet, len)) {
		return false;
	}
	slot->len = (uint32_t)len;
	slot->flags = flags;
	memcpy(slot->packet, packet, len);
	bunch->count++;
	return true;
}
