/* SPDX-License-Identifier: MIT */
/* Units and sizes that all files of the multipath core share. */
#ifndef WS_UNITS_H
#define WS_UNITS_H

#include <stddef.h>
#include <stdint.h>

#define US_NS UINT64_C(1000)
#define MS_NS UINT64_C(1000000)
#define S_NS UINT64_C(1000000000)
#define WS_BURST_NS MS_NS /* saved up by a path that is paced: its datagrams are one send */
#define WS_PACKET_BYTES 1500 /* of a link: what windows and turns are counted in */
#define WS_MEMORY_NS                                                                               \
	(5 * S_NS) /* of the least delays, and once more: clocks drift, routes change */
#define WS_LOST_AFTER 3 /* later numbers of its own path, and a datagram is lost (RFC 9002) */
#define WS_INNER_FLOWS 1024 /* TCPs that something is known of */
#define WS_RING 8192 /* packets that wait or are kept: a second of 100 Mbit/s */
#define WS_FLIGHT (WS_RING / 2) /* of one path in flight, or that wait for their order */
/* Of a new round trip in the window's own mean, and in the deviation (RFC 6298). */
#define WS_RTT_PART 4
#define WS_LINE_BYTES 64 /* a cache's */

/* Whole lines. */
static inline size_t ws_lines(size_t bytes)
{
	return (bytes + WS_LINE_BYTES - 1) / WS_LINE_BYTES * WS_LINE_BYTES;
}

#endif
