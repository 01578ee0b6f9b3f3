/* SPDX-License-Identifier: MIT */
/*
 * Invariants: no counter is accepted twice; one ahead of the window or new
 * and inside it is accepted; a look (check) says what insert then does.
 *
 * Input: the first byte chooses where the counter space begins, then steps of
 * 3 bytes: a signed 16-bit distance from the highest counter, and how far to
 * scale it.
 */
#include "packet/replay.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define STEPS 4096

/* Every counter accepted, in order of acceptance. */
static uint64_t accepted[STEPS];
static size_t accepted_count;

static bool was_accepted(uint64_t counter)
{
	for (size_t i = accepted_count; i--;)
		if (accepted[i] == counter)
			return true;
	return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ws_replay replay;
	uint64_t highest = 0;

	if (size < 1)
		return 0;
	ws_replay_reset(&replay);
	accepted_count = 0;
	if (data[0] & 1)
		highest = UINT64_MAX - (uint64_t)(data[0] >> 1) * 1000;
	for (data++, size--; size >= 3 && accepted_count < STEPS; data += 3, size -= 3) {
		int16_t distance;
		uint64_t counter;
		bool seen, old, taken;

		memcpy(&distance, data, sizeof(distance));
		counter = highest + (uint64_t)((int64_t)distance * (1 + data[2] % 64));
		seen = was_accepted(counter);
		old = accepted_count && counter < highest && highest - counter > WS_REPLAY_WINDOW;
		taken = ws_replay_check(&replay, counter);
		if (ws_replay_insert(&replay, counter) != taken)
			abort();
		if (taken && (seen || old))
			abort();
		if (!taken && !seen && !old && counter != UINT64_MAX)
			abort();
		if (ws_replay_check(&replay, counter))
			abort();
		if (taken) {
			accepted[accepted_count++] = counter;
			if (accepted_count == 1 || counter > highest)
				highest = counter;
		}
	}
	return 0;
}
