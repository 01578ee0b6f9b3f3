/* SPDX-License-Identifier: MIT */
/* The half of test_sched_vectors.py that asks the C leaf. */
#ifndef WS_SCHED_VECTORS_H
#define WS_SCHED_VECTORS_H

#include "multipath/scheduler.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static inline uint64_t number(void)
{
	uint64_t value;

	/* Signed ones come as their two's complement. */
	if (scanf("%" SCNu64, &value) != 1)
		exit(2);
	return value;
}

/* The states of test_sched_vectors.py on stdin, "picked wake" or the urgent path on stdout. */
static inline int answer_vectors(void)
{
	for (uint64_t left = number(); left; left--) {
		struct ws_sched sched = {.kind = (enum ws_scheduler)number()};
		uint64_t now_ns, queued_bytes, steps, wake_ns;
		uint32_t bytes, seq, except;

		sched.depth = (uint32_t)number();
		now_ns = number();
		bytes = (uint32_t)number();
		queued_bytes = number();
		seq = (uint32_t)number();
		except = (uint32_t)number();
		steps = number();
		sched.count = (uint32_t)number();
		for (uint32_t i = 0; i < sched.count && i < WS_SCHED_PATHS; i++) {
			struct ws_sched_path *path = &sched.paths[i];

			path->usable = number();
			path->degraded = number();
			path->tier = (uint32_t)number();
			path->weight = (uint32_t)number();
			path->srtt_us = (uint32_t)number();
			path->delay_us = (int64_t)number();
			path->queue_us = (uint32_t)number();
			path->in_flight_bytes = number();
			path->window_bytes = number();
			path->max_packet_bytes = (uint32_t)number();
			path->acked_seq = (uint32_t)number();
			path->rate_bps = number();
			path->base_us = (uint32_t)number();
			path->starting = number();
			path->silent_us = (uint32_t)number();
			path->pace.next_ns = number();
			path->pace.rate_bps = number();
		}
		if (!steps)
			printf("%d\n", ws_sched_urgent(&sched, bytes, except));
		for (; steps; steps--, seq++, queued_bytes -= bytes) {
			uint32_t picked =
				ws_sched_pick(&sched, bytes, queued_bytes, seq, now_ns, &wake_ns);

			printf("%" PRIu32 " %" PRIu64 "\n", picked, wake_ns);
			for (uint32_t i = 0; i < WS_SCHED_PATHS; i++)
				if (picked >> i & 1)
					ws_sched_sent(&sched, i, bytes, seq, now_ns);
		}
	}
	return 0;
}

#endif
