/* SPDX-License-Identifier: MIT */
/*
 * A delay line in front of the reordering buffer, and beside it for what takes no turn (docs/multipath.md
 * section 10): what a quick path brought waits for as long as a slow one takes.
 *
 * Bounded: WS_ALIGN_SLOTS packets; without room nothing is held back.
 */
#ifndef WS_ALIGN_H
#define WS_ALIGN_H

#include "multipath/units.h"
#include "shared/wire.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WS_ALIGN_PATHS WS_PATH_COUNT
#define WS_ALIGN_SLOTS (WS_FLIGHT / 2) /* 25 ms at 1 Gbit/s, 50 at 490 Mbit/s */

struct ws_align_packet {
	uint64_t due_ns;
	uint32_t path, seq, flags, len;
};

struct ws_align {
	uint32_t head, tail; /* of the slots; free running */
	uint32_t waiting[WS_ALIGN_PATHS];
	struct ws_align_packet *slots;
	uint8_t *data;
	size_t stride;
};

/* Of memory that ws_align_init wants, for packets up to `stride` bytes (a multiple of 64). */
size_t ws_align_bytes(size_t stride);
void ws_align_init(struct ws_align *align, void *memory, size_t stride);
static inline bool ws_align_waits(const struct ws_align *align)
{
	return align->head != align->tail;
}
/*
 * Copies the packet, to be due in wait_us; later if another is before it. False: it need not wait,
 * or there is no room. What a path brings keeps its order.
 */
bool ws_align_hold(struct ws_align *align, uint32_t path, uint32_t seq, uint32_t flags,
		   const uint8_t *packet, size_t len, uint32_t wait_us, uint64_t now_ns);
/* The oldest packet that is due, or NULL; its bytes stay until WS_ALIGN_SLOTS others were held. */
const struct ws_align_packet *ws_align_take(struct ws_align *align, uint64_t now_ns,
					    uint8_t **packet);
/* Whether one of these seqs waits. */
bool ws_align_has(const struct ws_align *align, uint32_t first, uint32_t count);
/* When the next one is due; UINT64_MAX: none waits. */
uint64_t ws_align_deadline(const struct ws_align *align);

#endif
