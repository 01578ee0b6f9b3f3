// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * Drops what cannot be ours before it costs a socket, a worker or Python:
 *  1. parse: UDP to one of our ports and addresses, else hands off
 *  2. classify: type, reserved bytes and exact length (WireGuard paper 5.4)
 *  3. limit: handshake messages, per source and for all strangers together
 *
 * Two hooks. tc ingress (tcx) leaves the buffer as it is and knows aggregates
 * (GSO from a veth, GRO of a card). XDP sees raw frames: native XDP is before
 * the kernel's own buffer, generic XDP copies aggregates flat (see
 * docs/decisions.md), so tc is the usual one.
 */
#include <asm/byteorder.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "../csrc/wire.h"
#include "maps.h"

#define COUNTS WS_SHIELD_COUNT
#include "counts.h"

#define IP_FRAGMENT 0x3fff /* more fragments, or an offset */
#define AGGREGATE_MAX 1024 /* of the shortest handshake message, in 65,535 bytes */
#define RETRIES 4

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, WS_BPF_PORTS);
	__type(key, __u16);
	__type(value, __u8);
} ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, WS_BPF_LOCALS);
	__type(key, struct ws_ip);
	__type(value, __u8);
} locals SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, WS_BPF_KNOWN);
	__type(key, struct ws_ip);
	__type(value, __u8);
} known SEC(".maps");

/* When the source's bucket is full again, CLOCK_MONOTONIC ns (the generic cell rate algorithm). */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, WS_BPF_SOURCES);
	__type(key, struct ws_ip);
	__type(value, __u64);
} sources SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} strangers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ws_shield_limits);
} limits SEC(".maps");

/* A number that the verifier need not follow through every turn of a loop. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} scratch SEC(".maps");

/* What the rest needs of a datagram, or of an aggregate of datagrams. */
struct datagram {
	struct ws_ip source, destination;
	__u32 payload; /* its offset */
	__u32 bytes; /* of payload */
	__u32 stride; /* of an aggregate's datagrams, 0: it is none */
};

/* Reads what is not linear too, as an aggregate's payload is. */
static __always_inline bool load(void *ctx, bool xdp, __u32 offset, void *to, __u32 bytes)
{
	if (xdp)
		return !bpf_xdp_load_bytes(ctx, offset, to, bytes);
	return !bpf_skb_load_bytes(ctx, offset, to, bytes);
}

static __always_inline void map_ipv4(struct ws_ip *ip, __u32 address)
{
	ip->word[0] = ip->word[1] = 0;
	ip->word[2] = bpf_htonl(0xffff);
	ip->word[3] = address;
}

/* False: not UDP to us whole (fragments, extension headers and VLAN tags pass; a VLAN's own
 * interface has a program too). */
static __always_inline bool parse(void *ctx, bool xdp, __u32 network, __u16 protocol,
				  struct datagram *d)
{
	struct udphdr udp;
	__u16 port;

	if (protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr ip;

		if (!load(ctx, xdp, network, &ip, sizeof(ip)) || ip.protocol != IPPROTO_UDP ||
		    ip.frag_off & bpf_htons(IP_FRAGMENT) || ip.ihl < 5)
			return false;
		map_ipv4(&d->source, ip.saddr);
		map_ipv4(&d->destination, ip.daddr);
		d->payload = network + ip.ihl * 4;
	} else if (protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr ip;

		if (!load(ctx, xdp, network, &ip, sizeof(ip)) || ip.nexthdr != IPPROTO_UDP)
			return false;
		__builtin_memcpy(&d->source, &ip.saddr, sizeof(d->source));
		__builtin_memcpy(&d->destination, &ip.daddr, sizeof(d->destination));
		d->payload = network + sizeof(ip);
	} else {
		return false;
	}
	if (!load(ctx, xdp, d->payload, &udp, sizeof(udp)))
		return false;
	port = bpf_ntohs(udp.dest);
	/* A router forwards other hosts' datagrams to the same port: the address decides. */
	if (!bpf_map_lookup_elem(&ports, &port) || !bpf_map_lookup_elem(&locals, &d->destination))
		return false;
	d->payload += sizeof(udp);
	d->bytes = bpf_ntohs(udp.len);
	/* The stack refuses a length below the header's; aggregates may exceed 16 bits. */
	if (d->bytes < sizeof(udp))
		return false;
	d->bytes -= sizeof(udp);
	return true;
}

/* The type and three zero bytes, read as a number. */
static __always_inline __u32 exact_bytes(__u32 type)
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
	default:
		return 0;
	}
}

static __always_inline bool is_over(__u64 full_at, const struct ws_bucket *bucket, __u64 now,
				    __u32 n)
{
	return full_at + n * bucket->interval_ns > now + bucket->burst_ns;
}

/* Takes n tokens. A bucket that several CPUs draw from at once may give way only to winners. */
static __always_inline bool take(__u64 *full_at, const struct ws_bucket *bucket, __u64 now, __u32 n)
{
	__u64 cost = n * bucket->interval_ns;

	for (int i = 0; i < RETRIES; i++) {
		__u64 before = *(volatile __u64 *)full_at;
		__u64 after = (before > now ? before : now) + cost;

		if (after > now + bucket->burst_ns)
			return false;
		if (__sync_val_compare_and_swap(full_at, before, after) == before)
			return true;
	}
	return false;
}

/*
 * Handshake messages cost Python time. A source that is over its limit is
 * refused before it can use up the strangers' common bucket; a flood from
 * random sources is refused by that bucket before it can fill the map of
 * sources. Known peers do not draw from the common one.
 */
static __always_inline __u32 limit(const struct datagram *d, __u32 n)
{
	const struct ws_shield_limits *limit;
	struct ws_ip source = d->source;
	__u64 *full_at, *common = NULL, now = bpf_ktime_get_ns(), fresh = 0;
	__u32 zero = 0;

	limit = bpf_map_lookup_elem(&limits, &zero);
	if (!limit)
		return WS_SHIELD_HANDSHAKE;
	if (source.word[0] || source.word[1])
		source.word[2] = source.word[3] =
			0; /* an IPv6 host has a whole /64 to choose from */
	if (limit->global.interval_ns && !bpf_map_lookup_elem(&known, &d->source)) {
		common = bpf_map_lookup_elem(&strangers, &zero);
		/* In a flood from random sources this is all that a message costs. */
		if (!common || is_over(*common, &limit->global, now, n))
			return WS_SHIELD_GLOBAL_LIMIT;
	}
	full_at = bpf_map_lookup_elem(&sources, &source);
	if (full_at && is_over(*full_at, &limit->source, now, n))
		return WS_SHIELD_SOURCE_LIMIT;
	if (common && !take(common, &limit->global, now, n))
		return WS_SHIELD_GLOBAL_LIMIT;
	if (!limit->source.interval_ns)
		return WS_SHIELD_HANDSHAKE;
	if (!full_at) {
		bpf_map_update_elem(&sources, &source, &fresh, BPF_NOEXIST);
		full_at = bpf_map_lookup_elem(&sources, &source);
	}
	if (full_at && !take(full_at, &limit->source, now, n))
		return WS_SHIELD_SOURCE_LIMIT;
	return WS_SHIELD_HANDSHAKE;
}

static __always_inline bool is_handshake_size(__u32 bytes)
{
	return bytes == WS_INITIATION_BYTES || bytes == WS_RESPONSE_BYTES ||
	       bytes == WS_COOKIE_REPLY_BYTES || bytes == WS_BOOTSTRAP_BYTES;
}

struct look {
	struct __sk_buff *skb;
	__u32 *found;
	__u32 at, stride;
};

static long look_at(__u32 i, struct look *look)
{
	__u32 type;

	if (!load(look->skb, false, look->at + i * look->stride, &type, sizeof(type)))
		return 1;
	*look->found += type != bpf_htonl(WS_MSG_TRANSPORT << 24);
	return 0;
}

/* How many handshake messages hide in an aggregate behind a transport message. */
static __always_inline __u32 hidden(struct __sk_buff *skb, const struct datagram *d)
{
	struct look look = {.skb = skb, .at = d->payload, .stride = d->stride};
	__u32 whole = d->bytes / d->stride, last = d->bytes % d->stride, zero = 0;

	if (!is_handshake_size(d->stride) && !is_handshake_size(last))
		return 0;
	look.found = bpf_map_lookup_elem(&scratch, &zero);
	if (!look.found)
		return 0;
	*look.found = 0;
	if (is_handshake_size(d->stride))
		bpf_loop(whole < AGGREGATE_MAX ? whole : AGGREGATE_MAX, look_at, &look, 0);
	if (is_handshake_size(last))
		look_at(whole, &look);
	return *look.found;
}

/* Whether to drop it; counts what became of it. */
static __always_inline bool refuse(void *ctx, bool xdp, const struct datagram *d)
{
	__u32 n = 1, bytes = d->bytes, type, expected, verdict;

	if (!xdp && d->stride) {
		n = (bytes + d->stride - 1) / d->stride;
		bytes = d->stride < bytes ? d->stride : bytes;
	}
	if (bytes < WS_TRANSPORT_MIN_BYTES || !load(ctx, xdp, d->payload, &type, sizeof(type))) {
		count(WS_SHIELD_SHORT, n);
		return true;
	}
	type = __le32_to_cpu(type);
	if (type == WS_MSG_TRANSPORT) {
		__u32 disguised = !xdp && d->stride ? hidden(ctx, d) : 0;

		verdict = disguised ? limit(d, disguised) : WS_SHIELD_TRANSPORT;
		if (verdict == WS_SHIELD_HANDSHAKE)
			verdict = WS_SHIELD_TRANSPORT;
		count(verdict, n);
		return verdict != WS_SHIELD_TRANSPORT;
	}
	expected = exact_bytes(type);
	if (!expected) {
		count(WS_SHIELD_TYPE, n);
		return true;
	}
	/* At the generic XDP hook an aggregate cannot be told from a long datagram. */
	if (xdp && bytes > expected && !(bytes % expected)) {
		n = bytes / expected;
		bytes = expected;
	}
	if (bytes != expected) {
		count(WS_SHIELD_LENGTH, n);
		return true;
	}
	verdict = limit(d, n);
	count(verdict, n);
	return verdict != WS_SHIELD_HANDSHAKE;
}

/* TC_ACT_UNSPEC and TCX_NEXT are one: what is not dropped goes on to other programs. */
static __always_inline int judge(struct __sk_buff *skb, __u32 network)
{
	struct datagram d = {};

	if (skb->vlan_present || !parse(skb, false, network, skb->protocol, &d))
		return TC_ACT_UNSPEC;
	d.stride = skb->gso_size;
	return refuse(skb, false, &d) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

SEC("tc")
int shield_tc(struct __sk_buff *skb)
{
	return judge(skb, ETH_HLEN);
}

/* For devices without a link-layer header: tunnels, PPP. */
SEC("tc")
int shield_tc_bare(struct __sk_buff *skb)
{
	return judge(skb, 0);
}

SEC("xdp")
int shield_xdp(struct xdp_md *xdp)
{
	struct datagram d = {};
	__u16 protocol;

	if (bpf_xdp_load_bytes(xdp, ETH_HLEN - sizeof(protocol), &protocol, sizeof(protocol)) ||
	    !parse(xdp, true, ETH_HLEN, protocol, &d))
		return XDP_PASS;
	return refuse(xdp, true, &d) ? XDP_DROP : XDP_PASS;
}

char _license[] SEC("license") = "Dual MIT/GPL";
