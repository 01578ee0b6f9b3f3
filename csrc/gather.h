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
 * Bounded: WS_GATHER_SLOTS packets, WS_GATHER_MAX_US; without room all that
 * wait leave at once.
 */
#ifndef WS_GATHER_H
#define WS_GATHER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WS_GATHER_SLOTS 256
#define WS_GATHER_MAX_US 50000
/* IPv6, TCP and its timestamps take 72. */
#define WS_GATHER_PACKET_BYTES 80

struct ws_gather_slot {
	uint32_t len, flags;
	uint8_t packet[WS_GATHER_PACKET_BYTES];
};

struct ws_gather {
	uint64_t due_ns; /* what waits leaves; not before `begun_ns`, if anything waits */
	uint64_t begun_ns; /* 0: never */
	uint32_t count;
	struct ws_gather_slot *slots; /* WS_GATHER_SLOTS */
};

/* An acknowledgement that says nothing else: no payload, no SACK, no FIN. */
bool ws_gather_fits(const uint8_t *packet, size_t len);
/*
 * Copies the packet, to wait for at most `for_us` (0: never) since the first one that waits; the
 * next time `every_us` after that one. False: it goes on now, behind what waits.
 */
bool ws_gather_hold(struct ws_gather *gather, const uint8_t *packet, size_t len, uint32_t flags,
		    uint32_t for_us, uint32_t every_us, uint64_t now_ns);
/* When what waits is due; UINT64_MAX: nothing does. */
static inline uint64_t ws_gather_deadline(const struct ws_gather *gather)
{
	return gather->count ? gather->due_ns : UINT64_MAX;
}

#endif
