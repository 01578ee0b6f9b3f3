/* SPDX-License-Identifier: MIT */
/*
 * How a worker's turn goes beyond what its backend reads and writes: how long it may wait, what it
 * lets gather before, and what is due at the end.
 */
#ifndef WS_TURN_H
#define WS_TURN_H

#include "worker/worker.h"

/* Packets moved in this turn: with busy polling the next turns look for more and do not sleep. */
static inline void ws_turn_busy(struct ws_worker *worker)
{
	worker->busy_until_ns = worker->now_ns + worker->engine->config.busy_poll_us * 1000ULL;
}

static inline bool ws_turn_may_sleep(const struct ws_worker *worker)
{
	return worker->now_ns >= worker->busy_until_ns;
}

/* Before a turn: ns to let packets gather that come one by one; 0: do not. */
uint64_t ws_turn_gather_ns(struct ws_worker *worker);
void ws_turn_gather(uint64_t wait_ns);
/* How long the worker may wait for traffic, ns; UINT64_MAX: for ever. */
uint64_t ws_turn_wait_ns(const struct ws_worker *worker);
/* At the end of a turn: whatever is due. */
void ws_turn_end(struct ws_worker *worker);

#endif
