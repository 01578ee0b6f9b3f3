/* SPDX-License-Identifier: MIT */
/* What lies between two threads: one writes, the other reads (upcall.h, handoff.h). */
#ifndef WS_RINGS_H
#define WS_RINGS_H

#include <stdatomic.h>
#include <stdint.h>

#include "api/types.h"

/* From one worker to another, in bytes. */
struct ws_handoff {
	uint8_t *bytes;
	_Atomic uint32_t head; /* position of the next record to write */
	_Atomic uint32_t tail; /* of the next to read */
};

/* One producer (the worker), one consumer (Python). */
struct ws_upcall_ring {
	struct ws_upcall *slots;
	enum ws_drop full; /* what a message counts as for which there is no room */
	_Atomic uint32_t head; /* next to write */
	_Atomic uint32_t tail; /* next to read */
	int eventfd;
};

#endif
