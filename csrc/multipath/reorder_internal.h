/* SPDX-License-Identifier: MIT */
/*
 * The inside of a reordering buffer, for the two files that are it.
 *
 * What is known of each seq is one bit of a ring: behind the seq awaited it
 * says "delivered" (0: skipped), ahead of it "held". The packets themselves
 * lie in a pool of slots, taken last in first out, so that a buffer that holds
 * little touches little memory.
 */
#ifndef WS_REORDER_INTERNAL_H
#define WS_REORDER_INTERNAL_H

#include "multipath/reorder.h"
#include "multipath/units.h"

#include <string.h>

#define SPAN WS_REORDER_SPAN
#define BITS WS_REORDER_BITS
#define WORDS (BITS / WORD_BITS)
#define MEMORY WS_REORDER_MEMORY
enum { WORD_BITS = 8 * sizeof(uint64_t) };

/*
 * Delivered slots wait for their release besides the held ones. One insert
 * before ws_reorder_must_release says so takes at most one more.
 */
#define MUST_RELEASE (WS_REORDER_MAX_DEPTH / 2)
#define SLOTS (WS_REORDER_MAX_DEPTH + MUST_RELEASE)

_Static_assert(MEMORY <= BITS - SPAN - WORD_BITS, "what is remembered is not cleared");
_Static_assert((SPAN & (SPAN - 1)) == 0, "seqs index the ring by their low bits");
_Static_assert(SPAN >= 2 * WS_REORDER_MAX_DEPTH, "a full buffer, and as many lost");

/*
 * When the seq awaited was first passed: the arrivals that raised the highest
 * seq, oldest first, those not behind the awaited one. At most SPAN, because
 * they rise. ANY is of all held packets, the others of one path.
 */
struct passes {
	uint32_t head, tail; /* free running */
	struct {
		uint64_t seq, ns;
	} ring[SPAN];
};

enum { ANY = WS_REORDER_PATHS, PASSES };

struct slot {
	uint64_t arrived_ns;
	uint32_t len, flags; /* WS_REORDER_LOOSE: delivered out of its turn */
};

struct ws_reorder {
	struct ws_reorder_settings settings;
	ws_reorder_deliver deliver;
	void *arg;
	uint32_t slot_bytes;
	bool started;
	uint64_t next; /* the seq awaited */
	uint64_t first; /* where it began: nobody knows whether what is before came */
	uint64_t top; /* one past the highest held seq, if any is held */
	uint32_t held;
	uint64_t deadline_ns, loose_ns; /* of the oldest gap, of the first loose one */
	uint32_t seen; /* bits of paths that brought anything */
	uint64_t last_ns[WS_REORDER_PATHS];
	uint64_t highest[WS_REORDER_PATHS];
	uint32_t refused_run;
	uint64_t refused_seq;
	uint32_t free_count, unreleased_count;
	uint8_t *data;
	size_t stride;
	struct ws_reorder_stats stats;
	uint64_t words[WORDS];
	uint16_t free[SLOTS], unreleased[SLOTS];
	uint16_t slot_of[SPAN];
	struct slot slots[SLOTS];
	/* Held packets with WS_REORDER_LOOSE, as they came; those behind the awaited seq are gone. */
	uint32_t loose_head, loose_tail; /* free running */
	uint64_t loose[SPAN];
	struct passes passes[PASSES];
};

static inline bool known(const struct ws_reorder *r, uint64_t seq)
{
	return r->words[seq / WORD_BITS % WORDS] >> (seq % WORD_BITS) & 1;
}

static inline void mark(struct ws_reorder *r, uint64_t seq)
{
	r->words[seq / WORD_BITS % WORDS] |= UINT64_C(1) << (seq % WORD_BITS);
}

/* The first seq in [seq, end) that is held (or is missing); end if none. Whole words at a time. */
static inline uint64_t find(const struct ws_reorder *r, uint64_t seq, uint64_t end, bool held)
{
	while (seq < end) {
		uint64_t word = r->words[seq / WORD_BITS % WORDS];

		word = (held ? word : ~word) >> (seq % WORD_BITS);
		if (word) {
			seq += (uint64_t)__builtin_ctzll(word);
			return seq < end ? seq : end;
		}
		seq = (seq / WORD_BITS + 1) * WORD_BITS;
	}
	return end;
}

/* The bits that come into reach ahead are cleared: they tell of seqs BITS before. */
static inline void await(struct ws_reorder *r, uint64_t seq)
{
	uint64_t from = (r->next + SPAN - 1) / WORD_BITS;
	uint64_t words = (seq + SPAN - 1) / WORD_BITS - from;

	if (words > WORDS)
		words = WORDS;
	for (uint64_t i = 1; i <= words; i++)
		r->words[(from + i) % WORDS] = 0;
	r->next = seq;
}

static inline void start_at(struct ws_reorder *r, uint64_t seq)
{
	memset(r->words, 0, sizeof(r->words));
	r->started = true;
	r->next = r->first = seq;
}

/*
 * Awaits `seq` or what is held from there on: delivers what is held before, skips what is missing.
 * full: counted as given up for lack of room.
 */
void ws_reorder_give_up(struct ws_reorder *r, uint64_t seq, bool full, uint64_t now_ns);
/* After every change: when the oldest gap and the first loose packet are due. */
void ws_reorder_settle(struct ws_reorder *r);

#endif
