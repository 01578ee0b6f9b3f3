/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Keys and values of the maps that the programs and csrc/kernel/bpf.c share. Fields
 * are in host byte order, addresses in network order.
 */
#ifndef WS_MAPS_H
#define WS_MAPS_H

#include <linux/types.h>

enum {
	WS_BPF_PORTS = 16, /* UDP ports of ours */
	WS_BPF_LOCALS = 1024, /* local addresses; more are left alone */
	WS_BPF_KNOWN = 65536, /* addresses of peers, the least recently used give way */
	WS_BPF_SOURCES = 65536, /* sources of handshake messages under the limit */
	WS_BPF_AWAITED = 65536, /* messages of ours that are out */
	WS_BPF_PATHS = 16384,
	WS_BPF_GROUPS = 64, /* reuseport groups: one a local address */
	WS_BPF_WORKERS = 16,
	WS_BPF_PREFIXES = 262144, /* allowed IPs for the TUN device's queues */
};

/* An IPv6 address, or IPv4 as ::ffff:a.b.c.d. */
struct ws_ip {
	__u32 word[4];
};

/* Index into the shield's counters. Datagrams to our ports and addresses only. */
enum ws_shield_count {
	WS_SHIELD_TRANSPORT = 0, /* let through */
	WS_SHIELD_HANDSHAKE = 1, /* let through: every message that goes up to Python */
	WS_SHIELD_SHORT = 2, /* the rest was dropped: shorter than any message */
	WS_SHIELD_TYPE = 3, /* no message type of ours, or reserved bytes set */
	WS_SHIELD_LENGTH = 4, /* a length that its type does not have */
	WS_SHIELD_SOURCE_LIMIT = 5, /* too many handshake messages from this source */
	WS_SHIELD_GLOBAL_LIMIT = 6, /* too many from sources that are not known */
	WS_SHIELD_UNASKED = 7, /* an answer to no message of ours that is out */
	WS_SHIELD_DESTINATION = 8, /* to a broadcast or link-local multicast address */
	WS_SHIELD_HEADERS = 9, /* more extension headers or priority tags than anybody sends */
	WS_SHIELD_COUNT = 10
};

/* Value of a local address: a generation, and whether it is a broadcast address of our networks. */
enum { WS_LOCAL_BROADCAST = 0x80 };

/* Handshake messages that have their buckets to themselves. */
enum ws_shield_kind {
	WS_KIND_INITIATION = 0,
	WS_KIND_COOKIE = 1, /* an initiation with a mac2, which may be a right one */
	WS_KIND_OTHER = 2, /* bootstrap, and all that nobody awaits where `awaited` is off */
	WS_KINDS = 3
};

struct ws_source_key {
	struct ws_ip ip;
	__u32 kind;
};

/* A token every interval_ns, at most burst_ns worth of them saved up. interval_ns 0: no limit. */
struct ws_bucket {
	__u64 interval_ns;
	__u64 burst_ns;
};

struct ws_shield_limits {
	struct ws_bucket source; /* of each IPv4 address or IPv6 /64, and kind */
	struct ws_bucket global; /* of all sources that are not known, together, of a kind */
	__u64 seed; /* of the ladder's cells */
	__u32 ladder; /* 1: strangers past the global limit may climb it (shared/ladder.h) */
	__u32 awaited; /* 1: responses and replies pass if they name a message of ours, and only then */
};

enum ws_path_type {
	WS_PATH_OTHER = 0,
	WS_PATH_INITIATION = 1, /* the wire's own numbers up to 4 */
	WS_PATH_RESPONSE = 2,
	WS_PATH_COOKIE_REPLY = 3,
	WS_PATH_TRANSPORT = 4,
	WS_PATH_BOOTSTRAP = 5,
	WS_PATH_TYPES = 6
};

struct ws_path_key {
	struct ws_ip local, remote;
	__u16 local_port, remote_port;
};

struct ws_path_count {
	__u64 packets, bytes; /* datagrams, their UDP payload */
	__u64 types[WS_PATH_TYPES]; /* datagrams by type; of an aggregate the first one's */
};

struct ws_path_value {
	struct ws_path_count rx, tx;
};

/* The address that the sockets of a reuseport group are bound to. */
struct ws_group_key {
	struct ws_ip local; /* all zero: the IPv4 wildcard is ::ffff:0.0.0.0 */
	__u32 ifindex; /* the device it is bound to, 0: none */
	__u16 port;
	__u16 pad;
};

/* Index into the steering programs' counters. */
enum ws_steer_count {
	WS_STEER_SENT = 0, /* by receiver index, or to worker 0 */
	WS_STEER_FAILED = 1, /* no such group or socket: left to the kernel's hash */
	WS_STEER_COUNT = 2
};

struct ws_prefix_key {
	__u32 bits; /* of the address as IPv6: IPv4 counts from 96 */
	struct ws_ip ip;
};

#endif
