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
	WS_BPF_KNOWN_CELLS = 16384, /* a bit each: whether any of them falls there */
	WS_BPF_SOURCES = 65536, /* sources of handshake messages under the limit */
	WS_BPF_AWAITED = 65536, /* messages of ours that are out */
	WS_BPF_AWAITED_CELLS = 1024, /* the last of the times of those that fall there */
	WS_BPF_PATHS = 16384,
	WS_BPF_GROUPS = 64, /* reuseport groups: one a local address */
	WS_BPF_WORKERS = 16,
	WS_BPF_PREFIXES = 262144, /* allowed IPs for the TUN device's queues */
	WS_BPF_RELAYS = 1024, /* bindings that the kernel relays; others are the workers' */
	WS_BPF_RELAY_SLOTS = 2048, /* of bindings: one that changes takes another slot */
	WS_BPF_RELAY_SHARES = 4096, /* senders, by number of the peer */
	WS_BPF_RELAY_PLACES = 8,
};

/* An IPv6 address, or IPv4 as ::ffff:a.b.c.d. */
struct ws_ip {
	__u32 word[4];
};

/*
 * Cells are asked before the maps of known addresses and awaited answers, which a flood from
 * everywhere meets in another place each time, so past every cache: these few KiB stay. The seed is
 * secret, so that nobody can aim at a cell.
 */
static inline __attribute__((always_inline)) __u32 ws_known_cell(const struct ws_ip *ip, __u64 seed)
{
	__u64 high = (__u64)ip->word[0] << 32 | ip->word[1];
	__u64 low = (__u64)ip->word[2] << 32 | ip->word[3];

	high = (high ^ seed) * 0x9e3779b97f4a7c15ULL;
	high = (high ^ high >> 32 ^ low) * 0xd6e8feb86659fd93ULL;
	return high >> 50;
}

static inline __attribute__((always_inline)) __u32 ws_awaited_cell(__u32 id, __u64 seed)
{
	return (id ^ seed) * 0x9e3779b97f4a7c15ULL >> 54;
}

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
	__u64 seed; /* of all cells */
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

/*
 * The relay (bpf/relay.bpf.c). Slots, shares and state are mapped into the agent. A slot does not
 * change while an index leads to it, but for until_ns, and is left alone for a while afterwards: a
 * program that still reads it never sees another binding's.
 */
struct ws_relay_place {
	struct ws_ip ip;
	__u16 port;
	__u16 pad;
	__u32 ifindex; /* of a link-local address: it comes in here; 0: anywhere */
};

struct ws_relay_slot {
	__u64 until_ns; /* CLOCK_BOOTTIME */
	__u32 index; /* receiver index */
	__u32 counter; /* number of its counters */
	__u32 share; /* the sender's number */
	__u32 ifindex; /* leaves here, to next_hop */
	__u32 mark;
	__u32 mtu; /* bytes of an IP packet on the way there */
	__u32 most_bytes; /* longer datagrams are the workers' to judge; 0: no limit */
	__u32 place_count;
	struct ws_ip local, remote, next_hop;
	__u16 local_port, remote_port;
	struct ws_relay_place places[WS_BPF_RELAY_PLACES];
	__u32 pad;
};

struct ws_relay_state {
	__u64 alive_until_ns; /* CLOCK_BOOTTIME: past it nothing is forwarded, the agent is gone */
	__u64 rate_bps; /* of one sender; 0: no limit */
};

/* Of one binding. */
struct ws_relay_tally {
	__u64 datagrams, bytes; /* sent on; UDP payload */
	__u64 elsewhere; /* dropped: not from the sender's places */
	__u64 over; /* dropped: over the sender's rate, or too long and not to be cut up */
};

/* Index into the relay's counters, of bound indices. */
enum ws_relay_counts {
	WS_RELAY_UP = 0, /* buffers left to the workers */
	WS_RELAY_FAILED = 1, /* buffers lost: no memory to change them */
	WS_RELAY_HOPS = 2, /* buffers dropped: over too many routers */
	WS_RELAY_SENT = 3, /* datagrams sent on */
	WS_RELAY_BYTES = 4, /* their UDP payload */
	WS_RELAY_ELSEWHERE = 5, /* datagrams dropped: not from the sender's places */
	WS_RELAY_OVER = 6, /* the same, as in struct ws_relay_tally */
	WS_RELAY_COUNTS = 7
};

/* The same to the programs and to every machine that loads them. */
_Static_assert(sizeof(struct ws_ip) == 16, "ws_ip");
_Static_assert(sizeof(struct ws_source_key) == 20, "ws_source_key");
_Static_assert(sizeof(struct ws_bucket) == 16, "ws_bucket");
_Static_assert(sizeof(struct ws_shield_limits) == 48, "ws_shield_limits");
_Static_assert(sizeof(struct ws_path_key) == 36, "ws_path_key");
_Static_assert(sizeof(struct ws_path_count) == 64, "ws_path_count");
_Static_assert(sizeof(struct ws_path_value) == 128, "ws_path_value");
_Static_assert(sizeof(struct ws_group_key) == 24, "ws_group_key");
_Static_assert(sizeof(struct ws_prefix_key) == 20, "ws_prefix_key");
_Static_assert(sizeof(struct ws_relay_place) == 24, "ws_relay_place");
_Static_assert(sizeof(struct ws_relay_slot) == 288, "ws_relay_slot");
_Static_assert(sizeof(struct ws_relay_state) == 16, "ws_relay_state");
_Static_assert(sizeof(struct ws_relay_tally) == 32, "ws_relay_tally");

#endif
