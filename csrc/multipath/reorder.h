/* SPDX-License-Identifier: MIT */
/*
 * The reordering buffer of one peer and direction (docs/multipath.md section
 * 10). Packets go in as they come over any path, and come out in the order of
 * their seq, each at most once. A gap is waited for until its deadline; then it
 * is skipped. Never allocates after ws_reorder_new, never blocks; the caller
 * owns the clock.
 *
 * Seqs are 64 bits inside; callers give the low 32, which are taken as the seq
 * nearest to the one awaited. The first seq ever given starts the buffer.
 * What was delivered is remembered for at least WS_REORDER_MEMORY seqs behind
 * the awaited one: copies in there are told; what is older is always dropped.
 */
#ifndef WS_REORDER_H
#define WS_REORDER_H

#include "multipath/ack.h"
#include "multipath/units.h"
#include "shared/wire.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WS_REORDER_MAX_DEPTH WS_FLIGHT /* a power of two */
#define WS_REORDER_PATHS WS_PATH_COUNT
#define WS_REORDER_RANGE (1u << 20) /* seqs farther from the one awaited are refused */
/* So many refused in a row, all far ahead but near each other: starts anew there. */
#define WS_REORDER_FOLLOW 32
#define WS_REORDER_SPANS 4 /* remembered: one ahead, the others behind */
#define WS_REORDER_MAX_GAPS WS_ACK_MAX_GAPS /* that ws_reorder_gaps tells of */

enum {
	WS_REORDER_LOOSE = 0x20000000, /* flag: its reader asks for no order (UDP): loose_hold_us */
	/* Held ones are less than this ahead, or the oldest are skipped: half of them may be lost. */
	WS_REORDER_SPAN = 2 * WS_REORDER_MAX_DEPTH,
	WS_REORDER_BITS = WS_REORDER_SPANS * WS_REORDER_SPAN,
	/* What comes into reach ahead is cleared in whole words. */
	WS_REORDER_MEMORY = WS_REORDER_BITS - WS_REORDER_SPAN - 8 * sizeof(uint64_t),
};

/* What may change while it runs. */
struct ws_reorder_settings {
	uint32_t
		depth; /* packets held at most, 1..WS_REORDER_MAX_DEPTH; full: the oldest gap is skipped */
	uint32_t hold_us; /* how long the packet behind a gap waits at most */
	/* So long where every path in use has brought a later seq: the missing one is lost, not late. */
	uint32_t loss_wait_us;
	/* A packet with WS_REORDER_LOOSE is delivered out of its turn when it has waited so long; 0: never. */
	uint32_t loose_hold_us;
	/* A path that brought nothing for so long is not "in use". */
	uint32_t path_idle_us;
	bool deliver_late; /* packets behind a skipped gap: deliver, or drop */
};

/* Written by one thread, may be read by others at any time (plain counters, no torn values). */
struct ws_reorder_stats {
	uint64_t delivered; /* in order or late */
	uint64_t in_order; /* went through without waiting */
	uint64_t held; /* waited in the buffer */
	uint64_t gaps; /* ranges that were missing; one cut in two counts twice */
	uint64_t gaps_filled; /* by the packet itself */
	uint64_t loose; /* of those held, delivered out of their turn */
	uint64_t skipped; /* seqs given up */
	uint64_t skipped_full; /* of the skipped ones, because the buffer was full */
	uint64_t late; /* came behind a skip, or is too old to tell: dropped or delivered as set */
	uint64_t duplicates;
	uint64_t refused; /* outside WS_REORDER_RANGE, too long to hold, or nothing was released */
	uint64_t wait_us; /* summed over held packets */
	uint32_t wait_max_us;
	uint32_t depth; /* held now */
	uint32_t depth_max;
};

struct ws_reorder;

/*
 * packet is writable; one that waited is valid until the next ws_reorder_released, one that did not
 * is the caller's own. May call ws_reorder_released, and nothing else of this file.
 */
typedef void (*ws_reorder_deliver)(void *arg, uint8_t *packet, size_t len, uint32_t flags);

/* slot_bytes: the longest packet. NULL: no memory. Pages are touched only when used. */
struct ws_reorder *ws_reorder_new(uint32_t slot_bytes, ws_reorder_deliver deliver, void *arg);
void ws_reorder_free(struct ws_reorder *reorder);
/* Forget everything (the peer restarted); the next seq starts anew. Held packets are delivered. */
void ws_reorder_reset(struct ws_reorder *reorder);
/* Begin at this seq; for a buffer that holds nothing. */
void ws_reorder_start(struct ws_reorder *reorder, uint32_t seq);
/*
 * Seqs from `first` to before `next` went to their reader by another way: await `next`, and take
 * them for copies from here on. For a buffer that holds nothing.
 */
void ws_reorder_went_by(struct ws_reorder *reorder, uint32_t first, uint32_t next);
/* Until it is called all is zero: one packet waits at most, and nothing for long. */
void ws_reorder_set(struct ws_reorder *reorder, const struct ws_reorder_settings *settings);

/*
 * One packet over `path` (< WS_REORDER_PATHS). It is delivered before the call
 * returns, or copied, or dropped and counted. `flags` come out again with it, but for
 * WS_REORDER_LOOSE.
 * again: a second copy; it says nothing about what its path has brought.
 * len > slot_bytes: delivered at once if in order, else dropped as refused.
 */
void ws_reorder_insert(struct ws_reorder *reorder, uint32_t path, uint32_t seq, bool again,
		       uint8_t *packet, size_t len, uint32_t flags, uint64_t now_ns);
/*
 * A packet from a sender that uses one path only: no wait. Delivered at once
 * and the awaited seq moves past it, unless packets wait: then as insert. One
 * behind the awaited seq is delivered too, if it is not a copy.
 */
void ws_reorder_pass(struct ws_reorder *reorder, uint32_t path, uint32_t seq, uint8_t *packet,
		     size_t len, uint32_t flags, uint64_t now_ns);
/* Skips what is past its deadline and delivers what that sets free. */
void ws_reorder_expire(struct ws_reorder *reorder, uint64_t now_ns);
/* When ws_reorder_expire has something to do next; UINT64_MAX: nothing waits. */
uint64_t ws_reorder_deadline(const struct ws_reorder *reorder);
/* Nothing of past packets stays in memory; without effect while one is held or not released. */
void ws_reorder_forget(struct ws_reorder *reorder);
/* Delivered slots may be reused from here on (call after the coalescer's flush). */
void ws_reorder_released(struct ws_reorder *reorder);
/* True if so much was delivered since the last release that slots run short: flush, then release. */
bool ws_reorder_must_release(const struct ws_reorder *reorder);

/* The seq awaited, low 32 bits. */
uint32_t ws_reorder_next(const struct ws_reorder *reorder);

struct ws_reorder_gap {
	uint32_t first; /* low 32 bits */
	uint16_t count;
};

/*
 * The oldest ranges that are missing and that all paths in use have passed
 * (lost, as far as can be told). Returns how many, at most max.
 */
uint32_t ws_reorder_gaps(const struct ws_reorder *reorder, struct ws_reorder_gap *gaps,
			 uint32_t max, uint64_t now_ns);
/* The oldest ranges that are missing at all, lost or on their way: the sender can tell. */
uint32_t ws_reorder_missing(const struct ws_reorder *reorder, struct ws_reorder_gap *gaps,
			    uint32_t max);
const struct ws_reorder_stats *ws_reorder_stats(const struct ws_reorder *reorder);

#endif
