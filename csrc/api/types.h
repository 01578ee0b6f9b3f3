/* SPDX-License-Identifier: MIT */
/* What the data plane and Python call the same: addresses, keys, messages, counters. */
#ifndef WS_API_TYPES_H
#define WS_API_TYPES_H

#include <stddef.h>
#include <stdint.h>

/* A UDP endpoint or a local address. family: 4, 6 or 0 (unset). */
struct ws_addr {
	uint8_t family;
	uint8_t pad;
	uint16_t port; /* host order */
	uint32_t scope_id; /* IPv6 link-local zone, an interface index */
	uint8_t ip[16]; /* network order; IPv4 in the first 4 bytes */
};

/* An allowed-IPs entry: ip/cidr, bits past cidr are ignored. */
struct ws_prefix {
	uint8_t family; /* 4 or 6 */
	uint8_t cidr;
	uint8_t ip[16];
};

enum ws_backend { WS_BACKEND_AUTO = 0, WS_BACKEND_MMSG = 1, WS_BACKEND_URING = 2 };
enum ws_cipher { WS_CIPHER_AUTO = 0, WS_CIPHER_IPSEC_MB = 1, WS_CIPHER_OPENSSL = 2 };

/* Offload switches, a bit set turns the offload OFF. */
enum ws_offload {
	WS_NO_TUN_TSO = 1, /* no super-packets from the TUN device */
	WS_NO_TUN_GRO = 2, /* no super-packets to the TUN device */
	WS_NO_UDP_GSO = 4,
	WS_NO_UDP_GRO = 8,
	WS_NO_TUN_USO = 16
};

struct ws_config {
	uint32_t workers; /* 1..WS_MAX_WORKERS */
	uint32_t backend; /* enum ws_backend */
	uint32_t cipher; /* enum ws_cipher */
	uint32_t offloads_off; /* bits of enum ws_offload */
	uint32_t fwmark; /* SO_MARK on every UDP socket, 0 for none */
	uint32_t mtu; /* of the TUN device, bytes */
	uint32_t pin_cpus; /* 1: worker i runs on the i-th CPU this process may use */
	uint32_t busy_poll_us; /* poll this long after the last traffic before sleeping, 0: never */
	uint8_t public_key[32]; /* our Noise static key (X25519): what mac1 is checked against */
	uint8_t bootstrap_key
		[32]; /* of our fingerprint: what bootstrap requests are checked against */
};

/* Keys of one direction pair, as the handshake derived them (copied, then the caller zeroes). */
struct ws_keypair {
	uint32_t local_index; /* what the other side writes into its messages */
	uint32_t remote_index; /* what we write */
	uint8_t send_key[32];
	uint8_t receive_key[32];
	uint64_t created_ns; /* CLOCK_BOOTTIME */
	uint64_t rekey_after_ns; /* REKEY_AFTER_TIME as a duration */
	uint64_t reject_after_ns; /* REJECT_AFTER_TIME as a duration */
	uint64_t rekey_after_messages;
	uint64_t reject_after_messages;
	uint32_t initiator; /* 1: becomes current at once; 0: next, until its first message */
	uint32_t held; /* 1: control frames go out with it, packets wait for the next one */
};

enum ws_upcall_type {
	/* a handshake or bootstrap message: data, remote, local; reason: enum ws_source_class */
	WS_UP_DATAGRAM = 1,
	WS_UP_NEED_HANDSHAKE =
		2, /* peer has something to send and no usable key, or its key is old */
	WS_UP_CONFIRMED = 3, /* index: a keypair installed as responder was used by the initiator */
	WS_UP_ROAMED = 4, /* remote, local: the peer's authenticated endpoint changed */
	WS_UP_CONTROL = 5, /* data: a control frame from inside the session */
	WS_UP_FATAL = 6, /* reason: an errno; the TUN device or a socket is gone */
	/* path: the peer's number of it; remote, local: it came from elsewhere than before */
	WS_UP_PATH_MOVED = 7,
	WS_UP_PATH_SILENT = 8, /* path: ours; in flight for longer than rescue_us */
	WS_UP_BUSY = 9 /* packets for several paths: they are worth sampling, from now on */
};

/* What the source of an initiation has shown (csrc/packet/gate.h). */
enum ws_source_class {
	WS_SOURCE_OTHER = 0, /* not an initiation */
	WS_SOURCE_STRANGER = 1,
	WS_SOURCE_KNOWN = 2, /* the address of a peer */
	WS_SOURCE_VERIFIED = 3 /* a right mac2 */
};

/* One message up to Python. `peer` is -1 where none is known. */
struct ws_upcall {
	uint32_t type; /* enum ws_upcall_type */
	int32_t peer;
	uint32_t index;
	uint32_t reason;
	uint64_t now_ns; /* CLOCK_BOOTTIME of its receipt */
	struct ws_addr remote;
	struct ws_addr local; /* local.port is the socket's; family 0 where unknown */
	uint32_t path; /* WS_UP_CONTROL: the peer's number of the path that it came by */
	uint32_t datagram_bytes; /* WS_UP_CONTROL: UDP payload that it came in */
	uint32_t len;
	uint8_t data[2048];
};

/* Why a datagram or packet was dropped; index into ws_stats.drops. */
enum ws_drop {
	WS_DROP_SHORT = 0, /* in: shorter than its type allows, or empty */
	WS_DROP_TYPE = 1, /* in: no message type of ours, or reserved bytes set */
	WS_DROP_LENGTH = 2, /* in: a length its type does not have, or too long */
	WS_DROP_MAC1 = 3, /* in: a handshake message whose mac1 is not for our key */
	WS_DROP_NO_KEY = 4, /* in: unknown receiver index */
	WS_DROP_EXPIRED = 5, /* in: the keypair is past REJECT_AFTER_TIME or _MESSAGES */
	WS_DROP_AUTH = 6, /* in: the AEAD tag does not match */
	WS_DROP_REPLAY = 7, /* in: counter seen before or behind the window */
	WS_DROP_MALFORMED = 8, /* in: the inner packet is not IP, or its lengths lie */
	WS_DROP_SOURCE = 9, /* in: inner source address is not in the peer's allowed IPs */
	WS_DROP_ECN = 10, /* in: outer CE on an inner packet that is not ECN-capable (RFC 6040) */
	WS_DROP_UPCALL_FULL =
		11, /* in: Python is behind, the ring of what peers and workers say is full */
	WS_DROP_NO_PEER = 12, /* out: no peer's allowed IPs hold the destination */
	WS_DROP_NO_ENDPOINT = 13, /* out: the peer's endpoint is not known */
	WS_DROP_STAGE_FULL = 14, /* out: waited for a handshake, pushed out by newer packets */
	WS_DROP_SEND = 15, /* out: the kernel refused the datagram */
	WS_DROP_TUN_WRITE = 16, /* in: the TUN device refused the packet */
	WS_DROP_TUN_MALFORMED = 17, /* out: what the TUN device gave is not an IP packet */
	WS_DROP_HANDOFF_FULL = 18, /* between workers: the owner is behind */
	WS_DROP_FRAME = 19, /* in: a frame of no type or flags that we know, or too short */
	WS_DROP_CONTROL_RATE = 20, /* in: more control frames than a peer may send */
	WS_DROP_PATH = 21, /* in: a path number that no peer may use, or not of this session */
	WS_DROP_TUNNEL = 22, /* in: came by the tunnel's own device */
	WS_DROP_INSIDE = 23, /* in: from an address inside a tunnel */
	WS_DROP_LOOP = 24, /* out: our own datagram to the peer, come back by the tunnel's device */
	WS_DROP_STRANGERS_FULL = 25, /* in: Python is behind with messages from outside sessions */
	WS_DROP_ASKED = 26, /* in: under load; a cookie reply went out for it */
	WS_DROP_LOAD = 27, /* in: under load, and too many to ask each for a cookie */
	WS_DROP_UNASKED = 28, /* in: an answer to no message of ours that is out */
	WS_DROP_BOOTSTRAP = 29, /* in: a bootstrap request that is not for our fingerprint */
	WS_DROP_DESTINATION = 30, /* in: sent to a broadcast or multicast address */
	WS_DROP_RELAY_SOURCE = 31, /* in: to be relayed, but not from where its sender is */
	WS_DROP_RELAY_RATE = 32, /* in: to be relayed, but over its sender's rate */
	WS_DROP_COUNT = 33
};

/* Counters of one worker; written by it alone, read by anyone at any time. */
struct ws_stats {
	uint64_t tx_packets, tx_bytes; /* inner packets sealed; bytes on the wire, UDP payload */
	uint64_t rx_packets, rx_bytes; /* inner packets delivered; bytes on the wire, UDP payload */
	uint64_t tx_batches, rx_batches; /* sends and receives asked of the kernel */
	uint64_t tun_reads, tun_writes;
	uint64_t keepalives_tx, keepalives_rx;
	uint64_t handshake_rx; /* datagrams given to Python */
	uint64_t control_rx; /* control frames given to Python */
	uint64_t turns; /* of the worker's loop */
	/* Came to this worker but belonged to another: 0 with steering (bpf/) */
	uint64_t foreign_rx, foreign_tx;
	uint64_t cookies_tx; /* cookie replies */
	uint64_t relayed, relayed_bytes; /* datagrams between others, UDP payload */
	uint64_t drops[33]; /* WS_DROP_COUNT */
};

/* What Python reads of one peer. Written by the owning worker alone. Times are CLOCK_BOOTTIME ns, 0: never. */
struct ws_peer_stats {
	uint64_t tx_packets, tx_bytes, rx_packets, rx_bytes;
	uint64_t last_sent_ns; /* any authenticated message of ours, keepalives too */
	uint64_t last_received_ns; /* any authenticated message from the peer */
	/* First data message received after our last send: the passive keepalive counts from here. */
	uint64_t unsent_since_ns;
	/* First data message sent after the last receive: "no answer" counts from here. */
	uint64_t unanswered_since_ns;
	uint64_t tx_counter; /* of the current keypair */
	uint32_t current_index, next_index, previous_index; /* local indices, 0: none */
	uint32_t staged; /* packets waiting for a handshake */
	uint32_t wrong_sources; /* packets whose inner source is not in its allowed IPs */
	uint32_t
		endpoint_serial; /* odd while the next two change: ws_peer_endpoint reads them whole */
	struct ws_addr endpoint, local; /* where the peer is now, and what we answer from */
};

#endif
