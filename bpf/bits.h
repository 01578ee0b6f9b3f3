/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Sets of small numbers, a bit for each that there is: an array's look-up costs no hash. */
#ifndef WS_BITS_H
#define WS_BITS_H

#define BITS(name, count)                                                                          \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_ARRAY);                                                  \
		__uint(max_entries, (count) / 64);                                                 \
		__type(key, __u32);                                                                \
		__type(value, __u64);                                                              \
	} name SEC(".maps")

static __always_inline bool has_bit(void *map, __u32 number)
{
	__u32 word = number >> 6;
	const __u64 *bits = bpf_map_lookup_elem(map, &word);

	return bits && *bits >> (number & 63) & 1;
}

#endif
