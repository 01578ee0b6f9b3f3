/* SPDX-License-Identifier: MIT */
#include "multipath/bunch.h"

#include "packet/ip.h"

#define TCP_PLAIN_WORDS 8 /* header with timestamps; SACK blocks make it longer */
#define TCP_KINDS 0x3f /* of the flags, all but those of ECN */

bool ws_bunch_fits(const uint8_t *packet, size_t len)
{
	size_t ip;
	uint8_t protocol, words;

	if (len > WS_BUNCH_PACKET_BYTES || !ws_ip_l4(packet, len, &ip, &protocol) ||
	    protocol != WS_PROTOCOL_TCP || len < ip + WS_TCP_BYTES)
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

	if (bunch->count ? now_ns >= bunch->due_ns || bunch->count == WS_BUNCH_SLOTS
			 : !for_us || (bunch->begun_ns &&
				       now_ns - bunch->begun_ns < every_us * UINT64_C(1000)))
		return false;
	if (!ws_bunch_fits(packet, len))
		return false;
	if (!bunch->count) {
		bunch->begun_ns = now_ns;
		bunch->due_ns =
			now_ns +
			UINT64_C(1000) * (for_us < WS_BUNCH_MAX_US ? for_us : WS_BUNCH_MAX_US);
	}
	slot->len = (uint32_t)len;
	slot->flags = flags;
	memcpy(slot->packet, packet, len);
	bunch->count++;
	return true;
}
