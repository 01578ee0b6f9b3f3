// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * Drops what cannot be ours before it costs a socket, a worker or Python:
 *  1. parse: UDP to one of our ports and addresses, else hands off; fragments, extension headers
 *     and priority tags are no way round
 *  2. classify: type, reserved bytes and exact length (WireGuard paper 5.4)
 *  3. answers: only to messages of ours that are out
 *  4. limit: other handshake messages, per source and for all strangers together
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

#include "shared/ladder.h"
#include "shared/maps.h"
#include "shared/wire.h"

#define COUNTS WS_SHIELD_COUNT
#include "bits.h"
#include "counts.h"

#define IP_OFFSET 0x1fff /* of a fragment that is not the first */
#define IPV6_OFFSET 0xfff8
#define HEADERS_MAX 16 /* RFC 8504 5.3: a host may set a limit, by default 8 */
#define TAGS_MAX 4
#define VLAN_ID 0x0fff
#define NEAR 2048 /* how far into a buffer we read by pointer */
#define AGGREGATE_MAX 1024 /* of the shortest handshake message, in 65,535 bytes */

BITS(ports, 65536);

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

BITS(known_cells, WS_BPF_KNOWN_CELLS); /* asked first, see shared/maps.h */

/* When the source's bucket is full again, CLOCK_MONOTONIC ns (the generic cell rate algorithm). */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, WS_BPF_SOURCES);
	__type(key, struct ws_source_key);
	__type(value, __u64);
} sources SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, WS_KINDS);
	__type(key, __u32);
	__type(value, __u64);
} strangers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, WS_KINDS);
	__type(key, __u32);
	__type(value, struct ws_ladder);
} ladders SEC(".maps");

/* What answers to our messages name: until when, CLOCK_MONOTONIC ns. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, WS_BPF_AWAITED);
	__type(key, __u32);
	__type(value, __u64);
} awaited SEC(".maps");

/* Asked first too. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, WS_BPF_AWAITED_CELLS);
	__type(key, __u32);
	__type(value, __u64);
} awaited_cells SEC(".maps");

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

/*
 * The same, by pointer where that can be: a helper's call for each field is most of what a refused
 * datagram costs. `copy`: room for what is not linear.
 */
static __always_inline const void *peek(void *ctx, bool xdp, __u32 offset, void *copy, __u32 bytes)
{
	void *at, *end;

	if (xdp) {
		at = (void *)(long)((struct xdp_md *)ctx)->data;
		end = (void *)(long)((struct xdp_md *)ctx)->data_end;
	} else {
		at = (void *)(long)((struct __sk_buff *)ctx)->data;
		end = (void *)(long)((struct __sk_buff *)ctx)->data_end;
	}
	if (offset <= NEAR) {
		at += offset;
		if (at + bytes <= end)
			return at;
	}
	return load(ctx, xdp, offset, copy, bytes) ? copy : NULL;
}

static __always_inline void map_ipv4(struct ws_ip *ip, __u32 address)
{
	ip->word[0] = ip->word[1] = 0;
	ip->word[2] = bpf_htonl(0xffff);
	ip->word[3] = address;
}

enum parsed { PARSED_OTHER, PARSED_OURS, PARSED_DESTINATION, PARSED_HEADERS };

static __always_inline bool is_tag(__u16 protocol)
{
	return protocol == bpf_htons(ETH_P_8021Q) || protocol == bpf_htons(ETH_P_8021AD);
}

/* Tags with VLAN 0 carry a priority and nothing else: the stack takes what is inside as untagged. */
static __always_inline enum parsed untag(void *ctx, bool xdp, __u32 *network, __u16 *protocol)
{
	for (int i = 0; i < TAGS_MAX && is_tag(*protocol); i++) {
		__u16 tag[2];

		if (!load(ctx, xdp, *network, tag, sizeof(tag)) ||
		    tag[0] & bpf_htons(VLAN_ID)) /* a VLAN's own interface has a program too */
			return PARSED_OTHER;
		*network += sizeof(tag);
		*protocol = tag[1];
	}
	return is_tag(*protocol) ? PARSED_HEADERS : PARSED_OURS;
}

/*
 * The verifier follows a global function by itself, once for all its callers. With these two inlined,
 * the ways through the headers times those through what comes behind them took it 1.3 s at each
 * start of an agent.
 */
#define GLOBAL __noinline

/* How far above its result `walk` has the UDP header's offset. */
#define WALKED_SHIFT 8

/* From `offset` to the UDP header, past what may stand before it. Returns an enum parsed. */
static __always_inline __u32 walk(void *ctx, bool xdp, __u32 offset, __u8 next)
{
	for (int i = 0; i < HEADERS_MAX; i++) {
		struct {
			__u8 next, length;
			__u16 fragment;
		} head;
		__u32 unit = 8, more = 1;

		switch (next) {
		case IPPROTO_UDP:
			return PARSED_OURS | offset << WALKED_SHIFT;
		case IPPROTO_HOPOPTS:
		case IPPROTO_ROUTING:
		case IPPROTO_DSTOPTS:
		case IPPROTO_FRAGMENT:
		case IPPROTO_MH:
			break;
		case IPPROTO_AH:
			unit = 4;
			more = 2;
			break;
		default:
			return PARSED_OTHER;
		}
		if (!load(ctx, xdp, offset, &head, sizeof(head)))
			return PARSED_OTHER;
		if (next == IPPROTO_FRAGMENT) {
			/* Without its first one, which is judged, a datagram stays in pieces. */
			if (head.fragment & bpf_htons(IPV6_OFFSET))
				return PARSED_OTHER;
			head.length = 0;
		}
		offset += (head.length + more) * unit;
		next = head.next;
	}
	return PARSED_HEADERS;
}

GLOBAL __u32 walk_tc(struct __sk_buff *skb, __u32 offset, __u8 next)
{
	return walk(skb, false, offset, next);
}

GLOBAL __u32 walk_xdp(struct xdp_md *xdp, __u32 offset, __u8 next)
{
	return walk(xdp, true, offset, next);
}

/* Of no host's: the worker drops what was sent to other groups, which a router may have to pass on. */
static __always_inline bool is_link_group(const struct ws_ip *ip)
{
	const __u8 *byte = (const __u8 *)ip;

	if (ip->word[0] || ip->word[1])
		return byte[0] == 0xff && (byte[1] & 15) <= 2;
	return ip->word[3] == 0xffffffff ||
	       (ip->word[3] & bpf_htonl(0xffffff00)) == bpf_htonl(0xe0000000);
}

/* OTHER: no UDP to us. */
static __always_inline enum parsed parse(void *ctx, bool xdp, __u32 network, __u16 protocol,
					 struct datagram *d)
{
	enum parsed found = untag(ctx, xdp, &network, &protocol);
	const struct udphdr *udp;
	struct udphdr udp_copy;
	__u8 *local;

	if (found != PARSED_OURS)
		return found;
	if (protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr copy;
		const struct iphdr *ip = peek(ctx, xdp, network, &copy, sizeof(copy));

		if (!ip || ip->protocol != IPPROTO_UDP || ip->frag_off & bpf_htons(IP_OFFSET) ||
		    ip->ihl < 5)
			return PARSED_OTHER;
		map_ipv4(&d->source, ip->saddr);
		map_ipv4(&d->destination, ip->daddr);
		d->payload = network + ip->ihl * 4;
	} else if (protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr copy;
		const struct ipv6hdr *ip = peek(ctx, xdp, network, &copy, sizeof(copy));
		__u32 walked;

		if (!ip)
			return PARSED_OTHER;
		__builtin_memcpy(&d->source, &ip->saddr, sizeof(d->source));
		__builtin_memcpy(&d->destination, &ip->daddr, sizeof(d->destination));
		walked = xdp ? walk_xdp(ctx, network + sizeof(*ip), ip->nexthdr)
			     : walk_tc(ctx, network + sizeof(*ip), ip->nexthdr);
		found = walked & ((1 << WALKED_SHIFT) - 1);
		walked >>= WALKED_SHIFT;
		/* The verifier sees bounds only if the compiler compares this number itself. */
		asm volatile("" : "+r"(walked));
		d->payload = walked;
		if (found == PARSED_HEADERS && !bpf_map_lookup_elem(&locals, &d->destination))
			return PARSED_OTHER;
		if (found != PARSED_OURS)
			return found;
	} else {
		return PARSED_OTHER;
	}
	udp = peek(ctx, xdp, d->payload, &udp_copy, sizeof(udp_copy));
	if (!udp || !has_bit(&ports, bpf_ntohs(udp->dest)))
		return PARSED_OTHER;
	d->bytes = bpf_ntohs(udp->len);
	if (is_link_group(&d->destination))
		return PARSED_DESTINATION;
	/* A router forwards other hosts' datagrams to the same port: the address decides. */
	local = bpf_map_lookup_elem(&locals, &d->destination);
	if (!local)
		return PARSED_OTHER;
	if (*local & WS_LOCAL_BROADCAST)
		return PARSED_DESTINATION;
	d->payload += sizeof(*udp);
	/* The stack refuses a length below the header's; aggregates may exceed 16 bits. */
	if (d->bytes < sizeof(*udp))
		return PARSED_OTHER;
	d->bytes -= sizeof(*udp);
	return PARSED_OURS;
}

static __always_inline bool is_known(const struct ws_ip *ip, __u64 seed)
{
	return has_bit(&known_cells, ws_known_cell(ip, seed)) && bpf_map_lookup_elem(&known, ip);
}

/*
 * Handshake messages cost the worker a MAC or two. A source that is over its
 * limit is refused before it can use up the strangers' common bucket; a flood
 * from random sources is refused by that bucket before it can fill the map of
 * sources, and then those of quiet networks are let in by the ladder. Known
 * peers do not draw from the common one.
 */
GLOBAL __u32 limit(const struct ws_ip *from, __u32 kind, __u32 n)
{
	const struct ws_shield_limits *limit;
	struct ws_source_key source = {.kind = kind};
	struct ws_ip address; /* Linux 6.1 takes no key of a map from memory that is an argument */
	/* Some milliseconds late, and no clock is read for each of a flood. */
	__u64 *full_at, *common = NULL, now = bpf_ktime_get_coarse_ns(), fresh = 0;
	__u32 zero = 0;

	limit = bpf_map_lookup_elem(&limits, &zero);
	if (!limit || !from)
		return WS_SHIELD_HANDSHAKE;
	address = source.ip = *from;
	if (source.ip.word[0] || source.ip.word[1])
		source.ip.word[2] = source.ip.word[3] =
			0; /* an IPv6 host has a whole /64 to choose from */
	if (limit->global.interval_ns && !is_known(&address, limit->seed)) {
		common = bpf_map_lookup_elem(&strangers, &kind);
		/* In a flood from random sources this is all that a message costs. */
		if (!common || ws_bucket_over(*common, &limit->global, now, n)) {
			struct ws_ladder *ladder =
				limit->ladder ? bpf_map_lookup_elem(&ladders, &kind) : NULL;

			return ladder && ws_ladder_climb(ladder, &address, limit->seed, now, n)
				       ? WS_SHIELD_HANDSHAKE
				       : WS_SHIELD_GLOBAL_LIMIT;
		}
	}
	full_at = bpf_map_lookup_elem(&sources, &source);
	if (full_at && ws_bucket_over(*full_at, &limit->source, now, n))
		return WS_SHIELD_SOURCE_LIMIT;
	if (common && !ws_bucket_take(common, &limit->global, now, n))
		return WS_SHIELD_GLOBAL_LIMIT;
	if (!limit->source.interval_ns)
		return WS_SHIELD_HANDSHAKE;
	if (!full_at) {
		bpf_map_update_elem(&sources, &source, &fresh, BPF_NOEXIST);
		full_at = bpf_map_lookup_elem(&sources, &source);
	}
	if (full_at && !ws_bucket_take(full_at, &limit->source, now, n))
		return WS_SHIELD_SOURCE_LIMIT;
	return WS_SHIELD_HANDSHAKE;
}

/* A response, a cookie reply or a bootstrap reply. `at`: where it names what it answers. */
static __always_inline __u32 answer(void *ctx, bool xdp, const struct datagram *d, __u32 at,
				    __u32 kind, __u32 n)
{
	const struct ws_shield_limits *limits_now;
	__u64 *until, now = bpf_ktime_get_coarse_ns();
	__u32 zero = 0, copy, id, cell;
	const __u32 *found;

	limits_now = bpf_map_lookup_elem(&limits, &zero);
	if (!limits_now || !limits_now->awaited)
		return limit(&d->source, kind, n);
	found = peek(ctx, xdp, d->payload + at, &copy, sizeof(copy));
	if (!found)
		return WS_SHIELD_SHORT;
	id = __le32_to_cpu(*found);
	cell = ws_awaited_cell(id, limits_now->seed);
	until = bpf_map_lookup_elem(&awaited_cells, &cell);
	if (!until || *until <= now)
		return WS_SHIELD_UNASKED;
	until = bpf_map_lookup_elem(&awaited, &id);
	return until && *until > now ? WS_SHIELD_HANDSHAKE : WS_SHIELD_UNASKED;
}

static __always_inline __u32 initiation(void *ctx, bool xdp, const struct datagram *d, __u32 n)
{
	__u64 copy[WS_MAC_BYTES / 8];
	const __u64 *mac2 =
		peek(ctx, xdp, d->payload + WS_INITIATION_BYTES - WS_MAC_BYTES, copy, sizeof(copy));

	return limit(&d->source, mac2 && mac2[0] | mac2[1] ? WS_KIND_COOKIE : WS_KIND_INITIATION,
		     n);
}

static __always_inline bool is_handshake_size(__u32 bytes)
{
	return bytes == WS_INITIATION_BYTES || bytes == WS_RESPONSE_BYTES ||
	       bytes == WS_COOKIE_REPLY_BYTES || bytes == WS_BOOTSTRAP_BYTES ||
	       bytes == WS_PRESENT_BYTES;
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
	__u32 n = 1, bytes = d->bytes, copy, type, expected, verdict;
	const __u32 *head;

	if (!xdp && d->stride) {
		n = (bytes + d->stride - 1) / d->stride;
		bytes = d->stride < bytes ? d->stride : bytes;
	}
	head = peek(ctx, xdp, d->payload, &copy, sizeof(copy));
	if (bytes < WS_TRANSPORT_MIN_BYTES || !head) {
		count(WS_SHIELD_SHORT, n);
		return true;
	}
	/* The type and three zero bytes, read as a number. */
	type = __le32_to_cpu(*head);
	if (type == WS_MSG_TRANSPORT) {
		__u32 disguised = !xdp && d->stride ? hidden(ctx, d) : 0;

		verdict = disguised ? limit(&d->source, WS_KIND_INITIATION, disguised)
				    : WS_SHIELD_TRANSPORT;
		if (verdict == WS_SHIELD_HANDSHAKE)
			verdict = WS_SHIELD_TRANSPORT;
		count(verdict, n);
		return verdict != WS_SHIELD_TRANSPORT;
	}
	expected = ws_exact_bytes(type);
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
	if (type == WS_MSG_INITIATION)
		verdict = initiation(ctx, xdp, d, n);
	else if (type == WS_MSG_RESPONSE)
		verdict = answer(ctx, xdp, d, 8, WS_KIND_INITIATION, n);
	else if (type == WS_MSG_BOOTSTRAP_REQUEST || type == WS_MSG_PRESENT)
		verdict = limit(&d->source, WS_KIND_OTHER, n);
	else
		verdict = answer(ctx, xdp, d, 4, WS_KIND_OTHER, n);
	count(verdict, n);
	return verdict != WS_SHIELD_HANDSHAKE;
}

/* Whether to drop it. */
static __always_inline bool judged(void *ctx, bool xdp, enum parsed found, const struct datagram *d)
{
	switch (found) {
	case PARSED_OURS:
		return refuse(ctx, xdp, d);
	case PARSED_DESTINATION:
		count(WS_SHIELD_DESTINATION, 1);
		return true;
	case PARSED_HEADERS:
		count(WS_SHIELD_HEADERS, 1);
		return true;
	default:
		return false;
	}
}

/* TC_ACT_UNSPEC and TCX_NEXT are one: what is not dropped goes on to other programs. */
static __always_inline int judge(struct __sk_buff *skb, __u32 network)
{
	struct datagram d = {};
	enum parsed found;

	if (skb->vlan_present && skb->vlan_tci & VLAN_ID)
		return TC_ACT_UNSPEC;
	found = parse(skb, false, network, skb->protocol, &d);
	d.stride = skb->gso_size;
	return judged(skb, false, found, &d) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
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
	enum parsed found;
	__u16 protocol;

	if (bpf_xdp_load_bytes(xdp, ETH_HLEN - sizeof(protocol), &protocol, sizeof(protocol)))
		return XDP_PASS;
	found = parse(xdp, true, ETH_HLEN, protocol, &d);
	return judged(xdp, true, found, &d) ? XDP_DROP : XDP_PASS;
}

char _license[] SEC("license") = "Dual MIT/GPL";
