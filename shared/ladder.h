/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Which strangers are heard while not all of them can be: token buckets and a
 * ladder of them. Plain C for the shield in the kernel and for csrc/packet/gate.c.
 *
 * Nothing in a first message tells a new peer from a forged one, but forged
 * sources fill the networks that they are taken from. A message is heard if
 * its source's network is quiet at one width at least: /8, /16, /24 or the
 * address itself, of IPv6 /12, /32, /48 or /64. Each width has a total of its
 * own, so that a flood which fills one leaves the others their share.
 */
#ifndef WS_LADDER_H
#define WS_LADDER_H

#include <linux/types.h>
#include <stdbool.h>

#include "shared/maps.h"

#define WS_LADDER_RUNGS 4
#define WS_LADDER_CELLS 16384 /* a power of two; networks that share one share its tokens */
#define WS_BUCKET_TRIES 4
#define WS_PER_SECOND(n) (1000000000ULL / (n))

struct ws_ladder {
	__u64 cell[WS_LADDER_RUNGS][WS_LADDER_CELLS];
	__u64 total[WS_LADDER_RUNGS];
};

#define WS_LADDER_INLINE static inline __attribute__((always_inline))

/* Whether n tokens are not there. full_at: when the bucket is full again, ns. */
WS_LADDER_INLINE bool ws_bucket_over(__u64 full_at, const struct ws_bucket *bucket, __u64 now,
				     __u32 n)
{
	return full_at + n * bucket->interval_ns > now + bucket->burst_ns;
}

/* Takes n tokens. A bucket that several CPUs draw from at once may give way only to winners. */
WS_LADDER_INLINE bool ws_bucket_take(__u64 *full_at, const struct ws_bucket *bucket, __u64 now,
				     __u32 n)
{
	__u64 cost = n * bucket->interval_ns;

	for (int i = 0; i < WS_BUCKET_TRIES; i++) {
		__u64 before = *(volatile __u64 *)full_at;
		__u64 after = (before > now ? before : now) + cost;

		if (after > now + bucket->burst_ns)
			return false;
		if (__sync_val_compare_and_swap(full_at, before, after) == before)
			return true;
	}
	return false;
}

/* A cell's number. The seed is secret, so that nobody can aim at another's cell. */
WS_LADDER_INLINE __u32 ws_ladder_mix(__u64 key, __u64 seed)
{
	key = (key ^ seed) * 0x9e3779b97f4a7c15ULL;
	key = (key ^ key >> 32) * 0xd6e8feb86659fd93ULL;
	return key >> 40 & (WS_LADDER_CELLS - 1);
}

/* shift4, shift6: the bits of an IPv4 address, of an IPv6 address's upper half, that are left out. */
WS_LADDER_INLINE __u32 ws_ladder_cell(const struct ws_ip *source, __u64 seed, __u32 rung,
				      __u32 shift4, __u32 shift6)
{
	const __u8 *byte = (const __u8 *)source;
	__u64 key;

	if (source->word[0] || source->word[1]) {
		key = (__u64)byte[0] << 56 | (__u64)byte[1] << 48 | (__u64)byte[2] << 40 |
		      (__u64)byte[3] << 32 | (__u64)byte[4] << 24 | (__u64)byte[5] << 16 |
		      (__u64)byte[6] << 8 | byte[7];
		key >>= shift6;
	} else {
		key = (__u64)byte[12] << 24 | (__u64)byte[13] << 16 | (__u64)byte[14] << 8 |
		      byte[15];
		key = ~(key >> shift4);
	}
	return ws_ladder_mix(key, seed + rung);
}

/* One rung: who asks, the network's width, and what it and all networks of that width get. */
struct ws_rung {
	__u32 number, shift4, shift6;
	struct ws_bucket own, all;
};

#define WS_RUNG(number, shift4, shift6, cell_rate, cell_burst, rate)                               \
	(struct ws_rung)                                                                           \
	{                                                                                          \
		number, shift4, shift6,                                                            \
			{WS_PER_SECOND(cell_rate), WS_PER_SECOND(cell_rate) * (cell_burst)},       \
		{                                                                                  \
			WS_PER_SECOND(rate), 1000000000ULL                                         \
		}                                                                                  \
	}

WS_LADDER_INLINE bool ws_ladder_rung(struct ws_ladder *l, const struct ws_ip *source, __u64 seed,
				     const struct ws_rung rung, __u64 now, __u32 n)
{
	__u64 *total = &l->total[rung.number], *cell;

	/* Most of a flood ends at one of these two looks, and writes nothing. */
	if (ws_bucket_over(*total, &rung.all, now, n))
		return false;
	cell = &l->cell[rung.number]
		       [ws_ladder_cell(source, seed, rung.number, rung.shift4, rung.shift6)];
	if (ws_bucket_over(*cell, &rung.own, now, n))
		return false;
	return ws_bucket_take(total, &rung.all, now, n) && ws_bucket_take(cell, &rung.own, now, n);
}

/* The width that vouches for the source, 1 (the widest) to WS_LADDER_RUNGS; 0: none does. */
WS_LADDER_INLINE int ws_ladder_climb(struct ws_ladder *l, const struct ws_ip *source, __u64 seed,
				     __u64 now, __u32 n)
{
	if (ws_ladder_rung(l, source, seed, WS_RUNG(0, 24, 52, 10, 10, 2500), now, n))
		return 1;
	if (ws_ladder_rung(l, source, seed, WS_RUNG(1, 16, 32, 4, 8, 500), now, n))
		return 2;
	if (ws_ladder_rung(l, source, seed, WS_RUNG(2, 8, 16, 2, 4, 500), now, n))
		return 3;
	if (ws_ladder_rung(l, source, seed, WS_RUNG(3, 0, 0, 1, 2, 500), now, n))
		return 4;
	return 0;
}

/* The same to the programs and to every machine that loads them. */
_Static_assert(sizeof(struct ws_ladder) == 524320, "ws_ladder");
_Static_assert(sizeof(struct ws_rung) == 48, "ws_rung");

#endif
