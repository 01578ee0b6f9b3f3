/* SPDX-License-Identifier: MIT */
/*
 * Acknowledgements of an inner TCP, let through in bunches now and then
 * (docs/multipath.md section 10). An inner BBR allows itself twice the least
 * round trip in flight, that of the quick path; in order, its packets take the
 * slow path's. But it also measures by how much acknowledgements come in
 * bunches (Wi-Fi's do), and allows itself as much more for the next 5 to 10
 * round trips. So once in so many the pure acknowledgements of a few
 * milliseconds wait for each other.
 *
 * Bounded: WS_BUNCH_SLOTS packets, WS_BUNCH_MAX_US; without room all that
 * wait leave at once.
 */
#ifndef WS_BUNCH_H
#define WS_BUNCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WS_BUNCH_SLOTS 256
#define WS_BUNCH_MAX_US 50000
/* IPv6, TCP and its timestamps take 72. */
#define WS_BUNCH_PACKET_BYTES 80

struct ws_bunch_slot {
	uint32_t len, flags;
	uint8_t packet[WS_BUNCH_PACKET_BYTES];
};

struct ws_bunch {
	uint64_t due_ns; /* what waits leaves; not before `begun_ns`, if anything waits */
	uint64_t begun_ns; /* 0: never */
	uint32_t count;
	struct ws_bunch_slot *slots; /* WS_BUNCH_SLOTS */
};

/* An acknowledgement that says nothing else: no payload, no SACK, no FIN. */
bool ws_bunch_fits(const uint8_t *packet, size_t len);
/*
 * Copies the packet, to wait for at most `for_us` (0: never) since the first one that waits; the
 * next time `every_us` after that one. False: it goes on now, behind what waits.
 */
bool ws_bunch_hold(struct ws_bunch *bunch, const uint8_t *packet, size_t len, uint32_t flags,
		   uint32_t for_us, uint32_t every_us, uint64_t now_ns);
/* When what waits is due; UINT64_MAX: nothing does. */
static inline uint64_t ws_bunch_deadline(const struct ws_bunch *bunch)
{
	return bunch->count ? bunch->due_ns : UINT64_MAX;
}

#endif
