// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * Gives each datagram to the worker that owns its session, whatever path it
 * came by: worker = receiver index % workers. What has no receiver index
 * (initiations, bootstrap) goes to worker 0. The program sees the UDP header
 * first. Looked up without a datagram (GRO's look ahead) the kernel hashes.
 */
#include <asm/byteorder.h>
#include <linux/bpf.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "shared/maps.h"
#include "shared/wire.h"

#define COUNTS WS_STEER_COUNT
#include "counts.h"

#ifndef AF_INET
#define AF_INET 2
#endif

/* Of the group bound to this address: its place in `sockets`. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, WS_BPF_GROUPS);
	__type(key, struct ws_group_key);
	__type(value, __u32);
} groups SEC(".maps");

/* Group * WS_BPF_WORKERS + worker. The kernel takes closed sockets out. */
struct {
	__uint(type, BPF_MAP_TYPE_REUSEPORT_SOCKARRAY);
	__uint(max_entries, WS_BPF_GROUPS *WS_BPF_WORKERS);
	__type(key, __u32);
	__type(value, __u64);
} sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} workers SEC(".maps");

/* Every field is read, then some are used: the verifier takes no address chosen between two. */
static __always_inline void group_of(const volatile struct bpf_sock *sk, struct ws_group_key *key)
{
	__u32 ipv4 = sk->src_ip4, ipv6_end = sk->src_ip6[3];
	struct ws_ip ip = {{sk->src_ip6[0], sk->src_ip6[1], sk->src_ip6[2]}};

	if (sk->family == AF_INET) {
		ip.word[0] = ip.word[1] = 0;
		ip.word[2] = bpf_htonl(0xffff);
		ip.word[3] = ipv4;
	} else {
		ip.word[3] = ipv6_end;
	}
	key->local = ip;
	key->ifindex = sk->bound_dev_if;
	key->port = sk->src_port;
}

/* 0 where there is none. A response has the sender's index first. */
static __always_inline __u32 receiver(struct sk_reuseport_md *md)
{
	__u32 head[3] = {}; /* type, then sender or receiver, then perhaps the receiver */

	if (bpf_skb_load_bytes(md, sizeof(struct udphdr), head, sizeof(head)))
		return 0;
	switch (__le32_to_cpu(head[0])) {
	case WS_MSG_RESPONSE:
		return __le32_to_cpu(head[2]);
	case WS_MSG_COOKIE_REPLY:
	case WS_MSG_TRANSPORT:
		return __le32_to_cpu(head[1]);
	default:
		return 0;
	}
}

SEC("sk_reuseport")
int steer(struct sk_reuseport_md *md)
{
	struct ws_group_key key = {};
	__u32 zero = 0, slot, *group, *n;

	group_of(md->sk, &key);
	group = bpf_map_lookup_elem(&groups, &key);
	n = bpf_map_lookup_elem(&workers, &zero);
	if (!group || !n || !*n) {
		count(WS_STEER_FAILED, 1);
		return SK_PASS;
	}
	slot = *group * WS_BPF_WORKERS + receiver(md) % *n;
	/* SK_PASS without a choice leaves it to the kernel's hash: nothing is lost. */
	count(bpf_sk_select_reuseport(md, &sockets, &slot, 0) ? WS_STEER_FAILED : WS_STEER_SENT, 1);
	return SK_PASS;
}

char _license[] SEC("license") = "Dual MIT/GPL";
