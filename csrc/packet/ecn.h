/* SPDX-License-Identifier: MIT */
/*
 * Explicit congestion notification through the tunnel (RFC 6040, normal
 * mode): the outer header starts with the inner ECN field, and a mark set on
 * the way is carried into the inner packet.
 */
#ifndef WS_ECN_H
#define WS_ECN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { WS_ECN_NOT_ECT = 0, WS_ECN_ECT1 = 1, WS_ECN_ECT0 = 2, WS_ECN_CE = 3, WS_ECN_MASK = 3 };

/*
 * The TOS or traffic class byte for the outer header of this inner packet: its ECN field, DSCP 0
 * (the inner DSCP is nobody's business on the way). 0 for what is no whole IP header.
 */
uint8_t ws_ecn_encapsulate(const uint8_t *packet, size_t len);

/*
 * Combines the received outer TOS or traffic class byte into the inner packet (RFC 6040 figure 4;
 * IPv4 header checksum kept right). False: drop the packet (CE outside, not ECN-capable inside).
 * What is no whole IP header is left as it is.
 */
bool ws_ecn_decapsulate(uint8_t outer_tos, uint8_t *packet, size_t len);

#endif
