/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* A program's counters, COUNTS of them: csrc/kernel/bpf_load.c finds the map by its name. */
#ifndef WS_COUNTS_H
#define WS_COUNTS_H

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTS);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

static __always_inline void count(__u32 what, __u64 n)
{
	__u64 *counter = bpf_map_lookup_elem(&counts, &what);

	if (counter)
		*counter += n;
}

#endif
