/* SPDX-License-Identifier: MIT */
/*
 * How much a TCP inside may have under way: the windows that come for it (RFC 9293 section 3.8.6)
 * are made smaller, so that what waits here of it is as long as it has to be, and no loss need tell it.
 * A window's right edge never moves behind what was sent, so none closes; where all is acknowledged it is
 * left as it is, for no ACK would come to open it again. Only where both SYNs were seen: the windows'
 * scale stands there (RFC 7323). Not with signed headers (RFC 2385, RFC 5925), nor MPTCP, whose windows
 * are the connection's, nor without SACK, where a duplicate ACK is known by its window (RFC 5681).
 *
 * Pure: memory is the caller's, and zeroed it is empty. `salt` differs from peer to peer, so that nobody
 * can choose a flow that shares another's place.
 */
#ifndef WS_INNERWINDOW_H
#define WS_INNERWINDOW_H

#include "multipath/units.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WS_SENDERS WS_INNER_FLOWS

/* Of two that meet in one place the later is known. */
struct ws_sender {
	uint32_t key; /* the whole hash of its addresses and ports */
	uint32_t isn; /* of the first SYN: a copy of it says nothing new */
	uint32_t sent; /* behind the last byte that it sent */
	uint32_t acked, told; /* by the last ACK, by the last one that it got */
	uint32_t round_end, part; /* of its round trip; bytes that are worth an ACK in it, 0: any */
	uint64_t told_ns;
	uint16_t queue; /* the caller's */
	uint8_t scale; /* of the windows that come for it */
	uint8_t syns; /* that were seen */
	uint8_t rounds; /* of more than few packets */
	bool sends; /* data was seen */
	bool again; /* it sent something twice */
	bool own, bbr; /* the caller's */
};

/* A whole packet leaves, to wait in `queue`; anything but a TCP's is left alone. */
void ws_inner_leaves(struct ws_sender *senders, uint32_t salt, const uint8_t *packet, size_t len,
		     uint32_t queue, bool own, bool bbr);
/* Whether who sent this can be told by its windows. */
bool ws_inner_known(const struct ws_sender *senders, uint32_t salt, const uint8_t *packet,
		    size_t len);
/* Of whom this came for. NULL: nothing is known of it, or there is nothing to make smaller. */
struct ws_sender *ws_inner_comes(struct ws_sender *senders, uint32_t salt, const uint8_t *packet,
				 size_t len);
/* It may send `room` bytes more than it has. `packet`: one that ws_inner_comes found it by; partial: its
 * checksum is still to be made. True: it was told less than its receiver would take. */
bool ws_inner_narrow(const struct ws_sender *sender, uint8_t *packet, size_t len, uint64_t room,
		     bool partial);

#endif
