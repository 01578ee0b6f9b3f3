// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * Chooses the TUN queue, and so the worker, by the peer that owns a packet's
 * destination: the longest allowed IP wins, as in csrc/packet/allowedips.c. Attached
 * with TUNSETSTEERINGEBPF; the packet begins with its IP header, what is
 * returned is the queue's number.
 */
#include <linux/bpf.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <stddef.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "shared/maps.h"

#define COUNTS WS_STEER_COUNT
#include "counts.h"

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, WS_BPF_PREFIXES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct ws_prefix_key);
	__type(value, __u32);
} owners SEC(".maps");

SEC("socket")
int tunsteer(struct __sk_buff *skb)
{
	struct ws_prefix_key key = {.bits = 128};
	__u32 *worker;
	__u8 version;
	long error;

	error = bpf_skb_load_bytes(skb, 0, &version, sizeof(version));
	if (!error && version >> 4 == 6) {
		error = bpf_skb_load_bytes(skb, offsetof(struct ipv6hdr, daddr), &key.ip,
					   sizeof(key.ip));
	} else if (!error) {
		key.ip.word[2] = bpf_htonl(0xffff);
		error = bpf_skb_load_bytes(skb, offsetof(struct iphdr, daddr), &key.ip.word[3],
					   sizeof(key.ip.word[3]));
	}
	worker = error ? NULL : bpf_map_lookup_elem(&owners, &key);
	count(worker ? WS_STEER_SENT : WS_STEER_FAILED, 1);
	return worker ? *worker : 0;
}

char _license[] SEC("license") = "Dual MIT/GPL";
