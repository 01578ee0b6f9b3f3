/* SPDX-License-Identifier: MIT */
/* The relay in the kernel, for engine/kernel_relay.c. On the controlling thread. */
#ifndef WS_BPF_RELAY_H
#define WS_BPF_RELAY_H

#include "api/bpf.h"
#include "shared/maps.h"

#include <stdbool.h>

/* Transport messages for `index` from one of `places` leave by `ifindex` for `remote`. */
struct ws_bpf_relay_entry {
	uint64_t until_ns; /* CLOCK_BOOTTIME */
	uint32_t index; /* not 0 */
	uint32_t sender; /* below WS_BPF_RELAY_SHARES */
	uint32_t ifindex, mark, mtu, most_bytes, place_count;
	struct ws_addr local, remote, next_hop;
	struct ws_addr
		places[WS_BPF_RELAY_PLACES]; /* scope_id: from there by this interface only */
};

struct ws_bpf;

bool ws_bpf_relay_ready(const struct ws_bpf *bpf);
/* WS_BPF_RELAY_SHARES times 8 bytes, for munmap with *bytes; they outlive the program. Or NULL. */
void *ws_bpf_relay_shares(const struct ws_bpf *bpf, size_t *bytes);
/* Until then the program forwards. */
void ws_bpf_relay_beat(struct ws_bpf *bpf, uint64_t until_ns, uint64_t rate_bps);
/* Adds or changes; counters go on. -EINVAL, -ENOTSUP; -ENOSPC: no room just now. */
int ws_bpf_relay_set(struct ws_bpf *bpf, const struct ws_bpf_relay_entry *entry);
/* -ENOENT: it is not there. */
int ws_bpf_relay_remove(struct ws_bpf *bpf, uint32_t index, struct ws_relay_tally *last);
int ws_bpf_relay_tally(struct ws_bpf *bpf, uint32_t index, struct ws_relay_tally *tally);
uint32_t ws_bpf_relay_used(const struct ws_bpf *bpf);
int ws_bpf_relay_totals(struct ws_bpf *bpf, uint64_t totals[WS_RELAY_COUNTS]);

#endif
