// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The relay of an anchor (docs/nat.md, "Relay"), at tc ingress, behind the shield and the path
 * counters: a transport message whose receiver index is bound goes on without a worker.
 *  1. parse: a plain UDP datagram, or a run of them; all else goes up, to the workers' relay
 *  2. find the binding: of the index, alive, to one of our ports and addresses
 *  3. judge: from one of the sender's places, short enough for the way, within its rate
 *  4. rewrite addresses, ports, hop limit and checksums, and redirect
 *
 * What cannot be told for sure here goes up: the rules of csrc/session/relay.c hold for it.
 */
#include <asm/byteorder.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "shared/maps.h"
#include "shared/wire.h"

#define COUNTS WS_RELAY_COUNTS
#include "bits.h"
#include "counts.h"

#define IP_FRAGMENT 0x3fff /* more fragments, or an offset */
#define IP_WHOLE 0x4000 /* DF */
#define FAMILY_INET 2
#define FAMILY_INET6 10
#define RUN_MAX 256 /* datagrams of one buffer; the kernel's own limit is 128 */
#define NS_PER_S 1000000000ULL
#define BURST_NS (NS_PER_S / 20)
#define BURST_BYTES 65536
#define TRIES 4 /* at a share that other CPUs draw on at the same time */
#define CHECKSUM_AT 6 /* in the UDP header */

BITS(ports, 65536);

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, WS_BPF_LOCALS);
	__type(key, struct ws_ip);
	__type(value, __u8);
} locals SEC(".maps");

/* Receiver index to slot. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, WS_BPF_RELAYS);
	__type(key, __u32);
	__type(value, __u32);
} bound SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, WS_BPF_RELAY_SLOTS);
	__type(key, __u32);
	__type(value, struct ws_relay_slot);
} slots SEC(".maps");

/* When a sender's share is used up to, CLOCK_BOOTTIME ns; the workers draw on the same. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, WS_BPF_RELAY_SHARES);
	__type(key, __u32);
	__type(value, __u64);
} shares SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ws_relay_state);
} state SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, WS_BPF_RELAYS);
	__type(key, __u32);
	__type(value, struct ws_relay_tally);
} tallies SEC(".maps");

struct head {
	__u32 type, index; /* as they stand: the machine is little endian */
};

struct ipv4 {
	struct iphdr ip;
	struct udphdr udp;
	struct head head;
};

struct ipv6 {
	struct ipv6hdr ip;
	struct udphdr udp;
	struct head head;
};

struct datagram {
	struct ws_ip source, destination;
	struct udphdr udp;
	__u32 index;
	__u32 network_bytes; /* of the IP header */
	__u32 bytes; /* of payload */
	__u32 stride; /* of a run's datagrams; bytes where it is one */
	__u32 count;
	__u8 tos, hops;
	bool v4;
	bool whole; /* may not be cut up */
};

static __always_inline void map_ipv4(struct ws_ip *ip, __u32 address)
{
	ip->word[0] = ip->word[1] = 0;
	ip->word[2] = bpf_htonl(0xffff);
	ip->word[3] = address;
}

static __always_inline bool is_ipv4(const struct ws_ip *ip)
{
	return !ip->word[0] && !ip->word[1] && ip->word[2] == bpf_htonl(0xffff);
}

static __always_inline bool same_ip(const struct ws_ip *a, const struct ws_ip *b)
{
	return a->word[3] == b->word[3] && a->word[2] == b->word[2] && a->word[1] == b->word[1] &&
	       a->word[0] == b->word[0];
}

static __always_inline __u16 folded(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* Parse */

static __always_inline bool parse_ipv4(struct __sk_buff *skb, struct datagram *d)
{
	struct ipv4 in;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &in, sizeof(in)) || in.ip.version != 4 ||
	    in.ip.ihl != 5 || in.ip.protocol != IPPROTO_UDP ||
	    in.ip.frag_off & bpf_htons(IP_FRAGMENT) || in.head.type != WS_MSG_TRANSPORT)
		return false;
	/* The header is written anew below, which must not make a broken one good. */
	if (folded(bpf_csum_diff(NULL, 0, (__be32 *)&in.ip, sizeof(in.ip), 0)))
		return false;
	if (bpf_ntohs(in.ip.tot_len) != sizeof(in.ip) + bpf_ntohs(in.udp.len))
		return false;
	map_ipv4(&d->source, in.ip.saddr);
	map_ipv4(&d->destination, in.ip.daddr);
	d->udp = in.udp;
	d->index = in.head.index;
	d->network_bytes = sizeof(in.ip);
	d->tos = in.ip.tos;
	d->hops = in.ip.ttl;
	d->v4 = true;
	d->whole = in.ip.frag_off & bpf_htons(IP_WHOLE);
	return true;
}

static __always_inline bool parse_ipv6(struct __sk_buff *skb, struct datagram *d)
{
	struct ipv6 in;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &in, sizeof(in)) || in.ip.version != 6 ||
	    in.ip.nexthdr != IPPROTO_UDP || in.ip.payload_len != in.udp.len ||
	    in.head.type != WS_MSG_TRANSPORT)
		return false;
	__builtin_memcpy(&d->source, &in.ip.saddr, sizeof(d->source));
	__builtin_memcpy(&d->destination, &in.ip.daddr, sizeof(d->destination));
	/* Never on the wire: it would be taken for IPv4 here. */
	if (is_ipv4(&d->source) || is_ipv4(&d->destination))
		return false;
	d->udp = in.udp;
	d->index = in.head.index;
	d->network_bytes = sizeof(in.ip);
	d->tos = in.ip.priority << 4 | in.ip.flow_lbl[0] >> 4;
	d->hops = in.ip.hop_limit;
	d->v4 = false;
	return true;
}

/* Its first message is a transport message, and nothing about it is out of the ordinary. */
static __always_inline bool parse(struct __sk_buff *skb, struct datagram *d)
{
	if (skb->vlan_present || skb->pkt_type != PACKET_HOST)
		return false;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (!parse_ipv4(skb, d))
			return false;
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		if (!parse_ipv6(skb, d))
			return false;
	} else {
		return false;
	}
	d->bytes = bpf_ntohs(d->udp.len);
	/* Without a checksum, what IPv6 forbids, it cannot be told whether it came whole. */
	if (d->bytes < sizeof(d->udp) + WS_TRANSPORT_MIN_BYTES || !d->udp.check ||
	    skb->len != ETH_HLEN + d->network_bytes + d->bytes)
		return false;
	d->bytes -= sizeof(d->udp);
	d->stride = skb->gso_size;
	if (!d->stride || d->stride > d->bytes)
		d->stride = d->bytes;
	if (d->stride < WS_TRANSPORT_MIN_BYTES)
		return false;
	d->count = (d->bytes + d->stride - 1) / d->stride;
	return true;
}

struct look {
	struct __sk_buff *skb;
	__u32 at, stride, index, same;
};

static long look_at(__u32 i, struct look *look)
{
	struct head head;

	if (bpf_skb_load_bytes(look->skb, look->at + (i + 1) * look->stride, &head, sizeof(head)) ||
	    head.type != WS_MSG_TRANSPORT || head.index != look->index)
		return 1;
	look->same++;
	return 0;
}

/* All datagrams of the run are transport messages for one index: GRO goes by addresses alone. */
static __always_inline bool alike(struct __sk_buff *skb, const struct datagram *d)
{
	struct look look = {
		.skb = skb,
		.at = ETH_HLEN + d->network_bytes + sizeof(d->udp),
		.stride = d->stride,
		.index = d->index,
	};
	__u32 last = d->bytes - (d->count - 1) * d->stride;

	if (d->count == 1)
		return true;
	if (d->count > RUN_MAX || last < WS_TRANSPORT_MIN_BYTES)
		return false;
	bpf_loop(d->count - 1, look_at, &look, 0);
	return look.same == d->count - 1;
}

/* Find */

static __always_inline const struct ws_relay_slot *find(const struct datagram *d, __u64 now)
{
	const struct ws_relay_slot *slot;
	__u32 index = d->index, *number = bpf_map_lookup_elem(&bound, &index);

	if (!number)
		return NULL;
	slot = bpf_map_lookup_elem(&slots, number);
	if (!slot || slot->index != index || slot->until_ns <= now)
		return NULL;
	return slot;
}

static __always_inline bool for_us(const struct datagram *d)
{
	__u16 port = bpf_ntohs(d->udp.dest);
	const __u8 *local;

	if (!has_bit(&ports, port))
		return false;
	local = bpf_map_lookup_elem(&locals, &d->destination);
	return local && !(*local & WS_LOCAL_BROADCAST);
}

/* Judge */

static __always_inline bool from_sender(const struct datagram *d, __u32 ifindex,
					const struct ws_relay_slot *slot)
{
	__u16 port = bpf_ntohs(d->udp.source);

	for (__u32 i = 0; i < WS_BPF_RELAY_PLACES; i++) {
		if (i >= slot->place_count)
			break;
		if (slot->places[i].port == port && same_ip(&slot->places[i].ip, &d->source) &&
		    (!slot->places[i].ifindex || slot->places[i].ifindex == ifindex))
			return true;
	}
	return false;
}

static __always_inline bool fits(const struct datagram *d, const struct ws_relay_slot *slot)
{
	__u32 headers = sizeof(struct udphdr) +
			(is_ipv4(&slot->remote) ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));

	return d->stride + headers <= slot->mtu &&
	       (!slot->most_bytes || d->stride <= slot->most_bytes);
}

enum rate { RATE_WITHIN, RATE_OVER, RATE_BUSY };

/* As within_rate of csrc/session/relay.c, on the same share. */
static __always_inline enum rate draw(const struct datagram *d, __u32 number, __u64 rate, __u64 now)
{
	__u64 cost, burst, before, after, *share = bpf_map_lookup_elem(&shares, &number);

	if (!share)
		return RATE_BUSY;
	cost = d->bytes * 8 * NS_PER_S / rate;
	burst = BURST_BYTES * 8 * NS_PER_S / rate;
	if (burst < BURST_NS)
		burst = BURST_NS;
	for (int i = 0; i < TRIES; i++) {
		before = *(volatile __u64 *)share;
		after = (before > now ? before : now) + cost;
		if (after - now > burst)
			return RATE_OVER;
		if (__sync_val_compare_and_swap(share, before, after) == before)
			return RATE_WITHIN;
	}
	return RATE_BUSY;
}

/* Rewrite */

static __always_inline bool write_ipv4(struct __sk_buff *skb, const struct datagram *d,
				       const struct ws_relay_slot *slot)
{
	struct iphdr ip = {
		.version = 4,
		.ihl = 5,
		.tos = d->tos,
		.tot_len = bpf_htons(sizeof(ip) + sizeof(d->udp) + d->bytes),
		.ttl = d->hops - 1,
		.protocol = IPPROTO_UDP,
		.saddr = slot->local.word[3],
		.daddr = slot->remote.word[3],
	};

	if (d->v4) {
		struct {
			__be16 id, frag_off;
		} kept;

		/* A probe of the MTU may not be cut up behind us either. */
		if (bpf_skb_load_bytes(skb, ETH_HLEN + 4, &kept, sizeof(kept)))
			return false;
		ip.frag_off = kept.frag_off;
	} else if (bpf_skb_change_proto(skb, bpf_htons(ETH_P_IP), 0)) {
		return false;
	}
	/* Several senders leave by one address of ours: their own numbers would meet. */
	ip.id = bpf_get_prandom_u32();
	ip.check = folded(bpf_csum_diff(NULL, 0, (__be32 *)&ip, sizeof(ip), 0));
	return !bpf_skb_store_bytes(skb, ETH_HLEN, &ip, sizeof(ip), BPF_F_RECOMPUTE_CSUM);
}

static __always_inline bool write_ipv6(struct __sk_buff *skb, const struct datagram *d,
				       const struct ws_relay_slot *slot)
{
	struct ipv6hdr ip = {
		.version = 6,
		.priority = d->tos >> 4,
		.flow_lbl = {(__u8)(d->tos << 4)},
		.payload_len = bpf_htons(sizeof(d->udp) + d->bytes),
		.nexthdr = IPPROTO_UDP,
		.hop_limit = d->hops - 1,
	};

	__builtin_memcpy(&ip.saddr, &slot->local, sizeof(ip.saddr));
	__builtin_memcpy(&ip.daddr, &slot->remote, sizeof(ip.daddr));
	if (d->v4 && bpf_skb_change_proto(skb, bpf_htons(ETH_P_IPV6), 0))
		return false;
	return !bpf_skb_store_bytes(skb, ETH_HLEN, &ip, sizeof(ip), BPF_F_RECOMPUTE_CSUM);
}

/*
 * What the UDP checksum covers changes by addresses and ports. Nothing but the checksum itself is
 * read, so a datagram that came broken leaves as broken.
 */
static __always_inline bool write_udp(struct __sk_buff *skb, const struct datagram *d,
				      const struct ws_relay_slot *slot, __u32 at)
{
	struct {
		__be16 source, dest;
	} port = {bpf_htons(slot->local_port), bpf_htons(slot->remote_port)};
	struct {
		struct ws_ip source, destination;
	} before = {d->source, d->destination}, after = {slot->local, slot->remote};
	__u32 old_ports, new_ports;
	__s64 change;

	/* The prefix that makes IPv4 an IPv6 address is no part of the checksum. */
	if (d->v4)
		before.source.word[2] = before.destination.word[2] = 0;
	if (is_ipv4(&slot->remote))
		after.source.word[2] = after.destination.word[2] = 0;
	change = bpf_csum_diff((__be32 *)&before, sizeof(before), (__be32 *)&after, sizeof(after),
			       0);
	__builtin_memcpy(&old_ports, &d->udp, sizeof(old_ports));
	__builtin_memcpy(&new_ports, &port, sizeof(new_ports));
	return !bpf_l4_csum_replace(skb, at + CHECKSUM_AT, 0, change,
				    BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0) &&
	       !bpf_l4_csum_replace(skb, at + CHECKSUM_AT, old_ports, new_ports,
				    BPF_F_MARK_MANGLED_0 | sizeof(new_ports)) &&
	       !bpf_skb_store_bytes(skb, at, &port, sizeof(port), 0);
}

static __always_inline long forward(struct __sk_buff *skb, const struct datagram *d,
				    const struct ws_relay_slot *slot)
{
	struct bpf_redir_neigh next = {};
	bool v4 = is_ipv4(&slot->remote);
	__u32 at = ETH_HLEN + (v4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));

	if (!(v4 ? write_ipv4(skb, d, slot) : write_ipv6(skb, d, slot)) ||
	    !write_udp(skb, d, slot, at)) {
		count(WS_RELAY_FAILED, 1);
		return TC_ACT_SHOT;
	}
	skb->mark = slot->mark;
	if (is_ipv4(&slot->next_hop)) {
		next.nh_family = FAMILY_INET;
		next.ipv4_nh = slot->next_hop.word[3];
	} else {
		next.nh_family = FAMILY_INET6;
		__builtin_memcpy(next.ipv6_nh, &slot->next_hop, sizeof(next.ipv6_nh));
	}
	return bpf_redirect_neigh(slot->ifindex, &next, sizeof(next), 0);
}

/* TC_ACT_UNSPEC and TCX_NEXT are one: it goes up. */
SEC("tc")
int relay_tc(struct __sk_buff *skb)
{
	const struct ws_relay_slot *slot;
	const struct ws_relay_state *now_state;
	struct ws_relay_tally *tally;
	struct datagram d = {};
	__u64 now;
	__u32 zero = 0, number;

	if (!parse(skb, &d))
		return TC_ACT_UNSPEC;
	now = bpf_ktime_get_boot_ns();
	slot = find(&d, now);
	now_state = bpf_map_lookup_elem(&state, &zero);
	if (!slot || !now_state || now_state->alive_until_ns <= now || !for_us(&d))
		return TC_ACT_UNSPEC;
	number = slot->counter;
	tally = bpf_map_lookup_elem(&tallies, &number);
	if (!tally || !alike(skb, &d)) {
		count(WS_RELAY_UP, 1);
		return TC_ACT_UNSPEC;
	}
	if (!from_sender(&d, skb->ifindex, slot)) {
		tally->elsewhere += d.count;
		count(WS_RELAY_ELSEWHERE, d.count);
		return TC_ACT_SHOT;
	}
	if (!fits(&d, slot)) {
		/* A probe of the MTU: a worker would send it in pieces. */
		if (d.whole && d.count == 1) {
			tally->over++;
			count(WS_RELAY_OVER, 1);
			return TC_ACT_SHOT;
		}
		count(WS_RELAY_UP, 1);
		return TC_ACT_UNSPEC;
	}
	/* A router's rule: what two anchors were made to send to each other ends by it. */
	if (d.hops <= 1) {
		count(WS_RELAY_HOPS, 1);
		return TC_ACT_SHOT;
	}
	if (now_state->rate_bps) {
		enum rate rate = draw(&d, slot->share, now_state->rate_bps, now);

		if (rate == RATE_OVER && d.count == 1) {
			tally->over++;
			count(WS_RELAY_OVER, 1);
			return TC_ACT_SHOT;
		}
		/* Of a run the workers take what is still within. */
		if (rate != RATE_WITHIN) {
			count(WS_RELAY_UP, 1);
			return TC_ACT_UNSPEC;
		}
	}
	tally->datagrams += d.count;
	tally->bytes += d.bytes;
	count(WS_RELAY_SENT, d.count);
	count(WS_RELAY_BYTES, d.bytes);
	return forward(skb, &d, slot);
}

char _license[] SEC("license") = "Dual MIT/GPL";
