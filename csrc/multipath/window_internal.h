/* SPDX-License-Identifier: MIT */
/* What window.c and window_loss.c share. */
#ifndef WS_WINDOW_INTERNAL_H
#define WS_WINDOW_INTERNAL_H

#include "multipath/window.h"

#define TARGET_LEAST_US WS_QUEUE_LEAST_US
#define LEAST_BYTES ((WS_LOST_AFTER + 1) * WS_PACKET_BYTES) /* so that losses show */
#define ROUND_PACKETS 16 /* a round has so many at least: of fewer a share says little */
#define CHANCE_PERMILLE 1500 /* half as much again is lost, or arrives, by chance */
#define ROUND_LEAST_US 20000

static inline uint64_t most(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static inline uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* Lost since the count was `before`: it falls where a path brings late what was missing. */
static inline uint64_t lost_since(const struct ws_window_ack *ack, uint64_t before)
{
	return (int64_t)(ack->lost - before) > 0 ? ack->lost - before : 0;
}

/* What was in flight, less the queue that it made. */
void ws_window_end_start(struct ws_window *window, const struct ws_window_ack *ack);
/* Of a round, all of it sent after the last cut. */
void ws_window_losses(struct ws_window *window, const struct ws_window_ack *ack, uint64_t sent,
		      uint64_t lost);

#endif
