/* SPDX-License-Identifier: MIT */
#include "session/turn.h"

#include "session/paths.h"

#include <time.h>

/*
 * Paced datagrams come one by one, and each would wake the worker, be a receive and a write of its
 * own. Where many come (paths.c) they are let gather for a moment.
 */
#define GATHER_NS 200000
#define GATHER_MOST 4 /* receives of a turn, or TUN reads: more are no trickle */

uint64_t ws_turn_gather_ns(struct ws_worker *worker)
{
	uint64_t receives = worker->rx_serial - worker->gathered_serial;
	uint64_t reads = worker->stats.tun_reads - worker->gathered_reads;

	if (!worker->active)
		return 0;
	worker->gathered_serial = worker->rx_serial;
	worker->gathered_reads = worker->stats.tun_reads;
	/* Where the last turn had its hands full, others wait too. */
	if (receives > GATHER_MOST || reads > GATHER_MOST || worker->engine->config.busy_poll_us ||
	    atomic_load_explicit(&worker->stop, memory_order_relaxed) ||
	    atomic_load_explicit(&worker->command, memory_order_relaxed))
		return 0;
	return ws_paths_busy(worker) && ws_turn_wait_ns(worker) > GATHER_NS ? GATHER_NS : 0;
}

void ws_turn_gather(uint64_t wait_ns)
{
	const struct timespec wait = {.tv_nsec = (long)wait_ns};

	(void)clock_nanosleep(CLOCK_MONOTONIC, 0, &wait, NULL);
}

uint64_t ws_turn_wait_ns(const struct ws_worker *worker)
{
	uint64_t at = ws_paths_deadline(worker), now_ns;

	if (at == UINT64_MAX)
		return at;
	now_ns = ws_now_ns();
	return at > now_ns ? at - now_ns : 0;
}

void ws_turn_end(struct ws_worker *worker)
{
	ws_paths_tick(worker);
}
