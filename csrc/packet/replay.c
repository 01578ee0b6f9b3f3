/* SPDX-License-Identifier: MIT */
#include "packet/replay.h"

#include <string.h>

#define WORD_BITS 64
#define WORDS (WS_REPLAY_BITS / WORD_BITS)

_Static_assert(WS_REPLAY_BITS % WORD_BITS == 0, "the window is whole words");

void ws_replay_reset(struct ws_replay *replay)
{
	memset(replay, 0, sizeof(*replay));
}

/*
 * highest is one past the highest counter seen, so 2^64-1 has no successor: it
 * is refused. It lies past REJECT_AFTER_MESSAGES (2^64-2^13-1) in any case.
 */
bool ws_replay_check(const struct ws_replay *replay, uint64_t counter)
{
	if (counter == UINT64_MAX)
		return false;
	if (counter >= replay->highest)
		return true;
	if (replay->highest - 1 - counter > WS_REPLAY_WINDOW)
		return false;
	return !(replay->words[counter / WORD_BITS % WORDS] >> (counter % WORD_BITS) & 1);
}

bool ws_replay_insert(struct ws_replay *replay, uint64_t counter)
{
	if (!ws_replay_check(replay, counter))
		return false;
	if (counter >= replay->highest) {
		/*
		 * RFC 6479: whole words are cleared as the window moves into them. The word of
		 * the highest counter is in use already; before the first counter word 0 is,
		 * and is clear.
		 */
		uint64_t from = replay->highest ? (replay->highest - 1) / WORD_BITS : 0;
		uint64_t moved = counter / WORD_BITS - from;

		if (moved > WORDS)
			moved = WORDS;
		for (uint64_t i = 1; i <= moved; i++)
			replay->words[(from + i) % WORDS] = 0;
		replay->highest = counter + 1;
	}
	replay->words[counter / WORD_BITS % WORDS] |= UINT64_C(1) << (counter % WORD_BITS);
	return true;
}
