/* SPDX-License-Identifier: MIT */
/*
 * From decrypted IP packets to TUN super-packets (GRO in software): neighbours
 * of one TCP or UDP flow become one write with a virtio header. The packets
 * are not copied: they must stay valid and writable until the flush. Order
 * within a flow is never changed.
 */
#ifndef WS_COALESCE_H
#define WS_COALESCE_H

#include <linux/virtio_net.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define WS_COALESCE_FLOWS 16 /* open at once; the oldest goes out when a new flow needs the room */
#define WS_COALESCE_SEGMENTS 64 /* per super-packet */

/*
 * One write to the TUN device: iov[0] is the virtio header (10 bytes, `vnet` of this very struct:
 * who copies the struct points it anew), iov[1..] packet pieces.
 *
 * One packet: vnet is zero, the packet unchanged, but that the checksum of a `trusted` TCP or UDP
 * packet is finished. A merged one: NEEDS_CSUM, the gso fields and hdr_len; its
 * headers are the first packet's with new lengths, IPv4 header checksum, PSH of the last packet.
 */
struct ws_tun_write {
	struct virtio_net_hdr vnet;
	uint32_t packets; /* inner IP packets in it */
	uint32_t bytes; /* without the virtio header */
	uint32_t iov_count;
	struct iovec iov[WS_COALESCE_SEGMENTS + 1];
};

/* Valid for the time of the call only. */
typedef void (*ws_tun_emit)(void *arg, const struct ws_tun_write *write);

struct ws_coalesce;

/* tcp, udp: which flows may be merged (udp needs a kernel with USO on TUN). max_bytes: 65535. */
struct ws_coalesce *ws_coalesce_new(bool tcp, bool udp, ws_tun_emit emit, void *arg);
void ws_coalesce_free(struct ws_coalesce *coalesce);
/*
 * A whole IP packet (len = its own total length, checked by the caller). Merged only if its
 * checksums are right (L4: or `trusted`: sealed by a peer that leaves it partial), it has payload,
 * no IP fragment or options, the same flow, headers (TTL, TOS, ECN, DF, flow label, TCP window,
 * options, ack) and next sequence number; all segments equal in length but the last. IPv4 ids must
 * count up by one, but with DF any will do: the one thing that cutting the super-packet up again
 * does not bring back. TCP: PSH or a short segment closes the run; SYN/FIN/RST/URG/CWR/ECE never
 * merge. Anything else passes alone: a packet of a flow after what the flow has open, a fragment
 * or extension header after all that its hosts have open, other protocols at once.
 */
void ws_coalesce_add(struct ws_coalesce *coalesce, uint8_t *packet, size_t len, bool trusted);
/* Emits all that is open, oldest first. */
void ws_coalesce_flush(struct ws_coalesce *coalesce);

#endif
