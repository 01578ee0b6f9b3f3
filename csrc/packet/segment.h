/* SPDX-License-Identifier: MIT */
/*
 * From a TUN super-packet to whole, checksummed IP packets (TSO and USO in
 * software). The header of each segment is made new, its payload stays where
 * the TUN device put it, so that sealing can read both in one pass.
 */
#ifndef WS_SEGMENT_H
#define WS_SEGMENT_H

#include <linux/virtio_net.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WS_SEGMENT_MAX_HEADER 512 /* IP with options/extension headers + L4; longer is refused */

struct ws_segmenter {
	const uint8_t *packet;
	size_t len;
	size_t header_bytes; /* made new for each segment; 0: the packet goes out as it is */
	size_t segment_bytes; /* payload of every segment but the last */
	uint32_t count;
	bool partial; /* the L4 checksums hold no more than a pseudo-header sum */
	/* private to segment.c */
	uint64_t ip_base; /* sum of the IPv4 header without length, id and checksum */
	uint64_t l4_base; /* sum of pseudo and L4 header without what differs per segment */
	uint32_t tcp_seq;
	uint16_t ip_id;
	uint16_t l4_offset;
	uint8_t version;
	uint8_t protocol;
	uint8_t tcp_flags;
};

/*
 * Reads vnet (host byte order, as TUN gives it) and the packet's headers,
 * trusting neither. A packet that needs no splitting but a checksum
 * (NEEDS_CSUM) gets it in place and count = 1, header_bytes = 0, len = its own
 * length (bytes behind it are left out). 0, or -EBADMSG (lengths or headers lie), -EPROTONOSUPPORT
 * (a gso_type we never asked for).
 *
 * vnet->hdr_len is not looked at: the kernel sets it to the whole linear part for forwarded
 * packets. Nor is the sum in the checksum field, except behind IPv6 extension headers, where the
 * pseudo header may be another than the IP header says (routing header).
 *
 * leave_partial: TCP and UDP checksums that the kernel left to us stay undone and `partial` says
 * so; for a receiver that asks its own kernel for them (ws_coalesce_add's `trusted`).
 */
int ws_segment_begin(struct ws_segmenter *segmenter, const struct virtio_net_hdr *vnet,
		     uint8_t *packet, size_t len, bool leave_partial);
/*
 * Segment k < count: writes header_bytes bytes to head (IP lengths, IPv4 id and checksum, TCP
 * seq and flags: CWR on the first only, FIN/PSH on the last only; UDP length; L4 checksum
 * complete) and points *body at its payload. IPv4 ids count up from the packet's, with DF too.
 */
void ws_segment_get(const struct ws_segmenter *segmenter, uint32_t k, uint8_t *head,
		    const uint8_t **body, size_t *body_bytes);

#endif
