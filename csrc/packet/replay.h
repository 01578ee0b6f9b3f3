/* SPDX-License-Identifier: MIT */
/*
 * Anti-replay window over 64-bit counters (RFC 6479). Accepts each counter
 * once, up to WS_REPLAY_WINDOW behind the highest one seen.
 */
#ifndef WS_REPLAY_H
#define WS_REPLAY_H

#include <stdbool.h>
#include <stdint.h>

#define WS_REPLAY_BITS 8256 /* 129 words: one word is always being cleared */
#define WS_REPLAY_WINDOW (WS_REPLAY_BITS - 64) /* 8192 */

struct ws_replay {
	uint64_t highest; /* next counter never seen (highest seen + 1), 0: none yet */
	uint64_t words[WS_REPLAY_BITS / 64];
};

void ws_replay_reset(struct ws_replay *replay);
/* True if the counter could still be accepted; changes nothing (a cheap look before the AEAD). */
bool ws_replay_check(const struct ws_replay *replay, uint64_t counter);
/* Call only after authentication. True if new (now marked), false if seen or too old. */
bool ws_replay_insert(struct ws_replay *replay, uint64_t counter);

#endif
