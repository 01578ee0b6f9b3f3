// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * Counts our datagrams per path (local address and port, remote address and
 * port), at tc ingress and egress, so after the shield. Only what we send
 * makes a path: a flood from random sources finds none and is counted as one.
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

#include "shared/maps.h"
#include "shared/wire.h"

#include "bits.h"

#define IP_OFFSET 0x1fff

BITS(ports, 65536);

struct {
	__uint(type, BPF_MAP_TYPE_LRU_PERCPU_HASH);
	__uint(max_entries, WS_BPF_PATHS);
	__type(key, struct ws_path_key);
	__type(value, struct ws_path_value);
} paths SEC(".maps");

/* Received from where we never sent to. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ws_path_count);
} strangers SEC(".maps");

static __always_inline bool load(struct __sk_buff *skb, __u32 offset, void *to, __u32 bytes)
{
	return !bpf_skb_load_bytes(skb, offset, to, bytes);
}

static __always_inline void map_ipv4(struct ws_ip *ip, __u32 address)
{
	ip->word[0] = ip->word[1] = 0;
	ip->word[2] = bpf_htonl(0xffff);
	ip->word[3] = address;
}

/* Fills the key; returns the offset of the payload, 0: not ours. */
static __always_inline __u32 parse(struct __sk_buff *skb, bool out, __u32 network,
				   struct ws_path_key *key, __u32 *bytes)
{
	struct ws_ip *source = out ? &key->local : &key->remote;
	struct ws_ip *destination = out ? &key->remote : &key->local;
	struct udphdr udp;
	__u32 offset;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr ip;

		if (!load(skb, network, &ip, sizeof(ip)) || ip.protocol != IPPROTO_UDP ||
		    ip.frag_off & bpf_htons(IP_OFFSET) || ip.ihl < 5)
			return 0;
		map_ipv4(source, ip.saddr);
		map_ipv4(destination, ip.daddr);
		offset = network + ip.ihl * 4;
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr ip;

		if (!load(skb, network, &ip, sizeof(ip)) || ip.nexthdr != IPPROTO_UDP)
			return 0;
		__builtin_memcpy(source, &ip.saddr, sizeof(*source));
		__builtin_memcpy(destination, &ip.daddr, sizeof(*destination));
		offset = network + sizeof(ip);
	} else {
		return 0;
	}
	if (!load(skb, offset, &udp, sizeof(udp)))
		return 0;
	key->local_port = bpf_ntohs(out ? udp.source : udp.dest);
	key->remote_port = bpf_ntohs(out ? udp.dest : udp.source);
	if (!has_bit(&ports, key->local_port))
		return 0;
	*bytes = bpf_ntohs(udp.len);
	if (*bytes < sizeof(udp))
		return 0;
	*bytes -= sizeof(udp);
	return offset + sizeof(udp);
}

static __always_inline void add(struct __sk_buff *skb, struct ws_path_count *count, __u32 offset,
				__u32 bytes)
{
	__u32 n = skb->gso_size ? (bytes + skb->gso_size - 1) / skb->gso_size : 1, type = 0;

	if (!load(skb, offset, &type, sizeof(type)))
		type = 0;
	type = __le32_to_cpu(type);
	if (type >= WS_MSG_BOOTSTRAP_REQUEST && type <= WS_MSG_PRESENT)
		type = WS_PATH_BOOTSTRAP;
	else if (type > WS_MSG_TRANSPORT)
		type = WS_PATH_OTHER;
	count->packets += n;
	count->bytes += bytes;
	/* Linux 6.1 knows no bounds from above: the compiler compared another register. */
	asm volatile("" : "+r"(type));
	if (type < WS_PATH_TYPES)
		count->types[type] += n;
}

static __always_inline int received(struct __sk_buff *skb, __u32 network)
{
	struct ws_path_key key = {};
	struct ws_path_value *path;
	__u32 bytes, zero = 0, offset;

	if (skb->vlan_present)
		return TC_ACT_UNSPEC;
	offset = parse(skb, false, network, &key, &bytes);
	if (!offset)
		return TC_ACT_UNSPEC;
	path = bpf_map_lookup_elem(&paths, &key);
	if (path) {
		add(skb, &path->rx, offset, bytes);
	} else {
		struct ws_path_count *count = bpf_map_lookup_elem(&strangers, &zero);

		if (count)
			add(skb, count, offset, bytes);
	}
	return TC_ACT_UNSPEC;
}

static __always_inline int sent(struct __sk_buff *skb, __u32 network)
{
	static const struct ws_path_value fresh;
	struct ws_path_key key = {};
	struct ws_path_value *path;
	__u32 bytes, offset;

	/* Without a socket it is forwarded, not ours. A VLAN's interface has counted it. */
	if (!skb->sk || skb->vlan_present)
		return TC_ACT_UNSPEC;
	offset = parse(skb, true, network, &key, &bytes);
	if (!offset)
		return TC_ACT_UNSPEC;
	path = bpf_map_lookup_elem(&paths, &key);
	if (!path) {
		bpf_map_update_elem(&paths, &key, &fresh, BPF_NOEXIST);
		path = bpf_map_lookup_elem(&paths, &key);
	}
	if (path)
		add(skb, &path->tx, offset, bytes);
	return TC_ACT_UNSPEC;
}

SEC("tc")
int paths_in(struct __sk_buff *skb)
{
	return received(skb, ETH_HLEN);
}

SEC("tc")
int paths_out(struct __sk_buff *skb)
{
	return sent(skb, ETH_HLEN);
}

/* For devices without a link-layer header: tunnels, PPP. */
SEC("tc")
int paths_in_bare(struct __sk_buff *skb)
{
	return received(skb, 0);
}

SEC("tc")
int paths_out_bare(struct __sk_buff *skb)
{
	return sent(skb, 0);
}

char _license[] SEC("license") = "Dual MIT/GPL";
