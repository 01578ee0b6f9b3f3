/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * What stands on the wire, shared with bpf/. Includes nothing; integers are
 * little endian. Source: WireGuard whitepaper section 5.4.
 */
#ifndef WS_WIRE_H
#define WS_WIRE_H

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "Whalescale is for little-endian machines: keys, counters and eBPF maps are read as they stand"
#endif

enum {
	WS_MSG_INITIATION = 1,
	WS_MSG_RESPONSE = 2,
	WS_MSG_COOKIE_REPLY = 3,
	WS_MSG_TRANSPORT = 4,
	/* Pre-session bootstrap (docs/wire.md): a WireGuard peer drops these unharmed. */
	WS_MSG_BOOTSTRAP_REQUEST = 0x57,
	WS_MSG_BOOTSTRAP_REPLY = 0x58,
	WS_MSG_PRESENT = 0x59, /* "this member record is mine": docs/mesh.md section 8.1 */

	WS_INITIATION_BYTES = 148,
	WS_RESPONSE_BYTES = 92,
	WS_COOKIE_REPLY_BYTES = 64,
	WS_BOOTSTRAP_BYTES = 128, /* both: a reply is never longer than its request */
	WS_PRESENT_BYTES = 580, /* never answered */

	WS_TRANSPORT_HEADER_BYTES = 16, /* type, 3 reserved, receiver u32, counter u64 */
	WS_TAG_BYTES = 16,
	WS_TRANSPORT_MIN_BYTES = 32,
	WS_PADDING_BYTES = 16, /* plaintext is padded to a multiple of this */
	WS_MAC_BYTES = 16,

	/* Inside a transport message (docs/multipath.md sections 1 and 3). */
	WS_FRAME_DATA = 0x80, /* set in the first byte; flags in the rest of it */
	WS_FRAME_PARTIAL = 0x01,
	WS_FRAME_AGAIN = 0x04, /* a copy of a packet sent before */
	WS_FRAME_URGENT = 0x08, /* outside the seq: delivered at once */
	WS_FRAME_FEEDBACK = 0x10, /* the sender schedules over paths: it wants ACKs, and order */
	WS_FRAME_BUNDLE =
		0x20, /* several packets of consecutive seqs, a u16 of length before each */
	WS_FRAME_FLAGS = WS_FRAME_PARTIAL | WS_FRAME_AGAIN | WS_FRAME_URGENT | WS_FRAME_FEEDBACK |
			 WS_FRAME_BUNDLE, /* those we take */
	WS_FRAME_HEADER_BYTES = 8, /* flags, time u24, seq u32 */
	WS_BUNDLE_MAX_BYTES = 1192, /* behind that header: crosses every IPv6 link (1,280) */
	WS_FRAME_CONTROL_NIBBLE = 1, /* 0x10..0x1f */
	WS_CONTROL_MAX_BYTES = 1024,
	WS_PROBE_MAX_BYTES = 64, /* of a probe's text, as Python sees it */
	WS_CONTROL_OFFER = 0x10,
	WS_CONTROL_PATH_ANNOUNCE = 0x11,
	WS_CONTROL_PATH_PROBE_REPLY = 0x13,
	WS_CONTROL_PATH_PROBE =
		0x12, /* the one that may be longer: it is padded to probe the MTU */
	WS_CONTROL_HEARTBEAT = 0x14,
	WS_HEARTBEAT_BYTES = 8,
	WS_HEARTBEAT_ASK = 1, /* its byte 3: send an ACK; answered in C */
	WS_CONTROL_ACK = 0x15, /* produced and consumed in C */
	WS_CONTROL_GOSSIP_UPDATE = 0x16,
	WS_CONTROL_MESH = 0x17,
	WS_CONTROL_RELAY = 0x19,
	WS_CONTROL_POST_QUANTUM = 0x1a,
	WS_CONTROL_KEEP = 0x1b,
	WS_CONTROL_RELAY_MESSAGE = 0x18,
	WS_CONTROL_VERSION = 1,
	WS_PATH_COUNT = 8, /* of one peer and direction */
	WS_PATH_SHIFT = 56 /* the path's number is the high byte of message 4's counter */
};

/* The one length that a message of this type has; 0: a type without one, or none of ours. */
static inline unsigned int ws_exact_bytes(unsigned int type)
{
	switch (type) {
	case WS_MSG_INITIATION:
		return WS_INITIATION_BYTES;
	case WS_MSG_RESPONSE:
		return WS_RESPONSE_BYTES;
	case WS_MSG_COOKIE_REPLY:
		return WS_COOKIE_REPLY_BYTES;
	case WS_MSG_BOOTSTRAP_REQUEST:
	case WS_MSG_BOOTSTRAP_REPLY:
		return WS_BOOTSTRAP_BYTES;
	case WS_MSG_PRESENT:
		return WS_PRESENT_BYTES;
	default:
		return 0;
	}
}

#endif
