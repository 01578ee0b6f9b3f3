/* SPDX-License-Identifier: MIT */
#include "multipath/align.h"

#include "multipath/units.h"

#include <string.h>

#define GRID_NS (WS_BURST_NS / 2) /* wake-ups are so far apart; a wait below two is not worth one */

size_t ws_align_bytes(size_t stride)
{
	return WS_ALIGN_SLOTS * (sizeof(struct ws_align_packet) + stride);
}

void ws_align_init(struct ws_align *align, void *memory, size_t stride)
{
	*align = (struct ws_align){
		.slots = memory,
		.data = (uint8_t *)memory + WS_ALIGN_SLOTS * sizeof(struct ws_align_packet),
		.stride = stride,
	};
}

bool ws_align_hold(struct ws_align *align, uint32_t path, uint32_t seq, uint32_t flags,
		   const uint8_t *packet, size_t len, uint32_t wait_us, uint64_t now_ns)
{
	uint32_t at = align->tail % WS_ALIGN_SLOTS;
	uint64_t due_ns = (now_ns + wait_us * US_NS) / GRID_NS * GRID_NS;

	if (path >= WS_ALIGN_PATHS || (wait_us * US_NS < 2 * GRID_NS && !align->waiting[path]))
		return false;
	if (align->tail - align->head >= WS_ALIGN_SLOTS || len > align->stride)
		return false;
	if (ws_align_waits(align)) {
		uint64_t last_ns = align->slots[(align->tail - 1) % WS_ALIGN_SLOTS].due_ns;

		if (due_ns < last_ns)
			due_ns = last_ns;
	}
	align->slots[at] = (struct ws_align_packet){
		.due_ns = due_ns, .path = path, .seq = seq, .flags = flags, .len = (uint32_t)len};
	memcpy(align->data + at * align->stride, packet, len);
	align->waiting[path]++;
	align->tail++;
	return true;
}

const struct ws_align_packet *ws_align_take(struct ws_align *align, uint64_t now_ns,
					    uint8_t **packet)
{
	uint32_t at = align->head % WS_ALIGN_SLOTS;

	if (!ws_align_waits(align) || align->slots[at].due_ns > now_ns)
		return NULL;
	align->head++;
	align->waiting[align->slots[at].path]--;
	*packet = align->data + at * align->stride;
	return &align->slots[at];
}

bool ws_align_has(const struct ws_align *align, uint32_t first, uint32_t count)
{
	for (uint32_t i = align->head; i != align->tail; i++)
		if (align->slots[i % WS_ALIGN_SLOTS].seq - first < count)
			return true;
	return false;
}

uint64_t ws_align_deadline(const struct ws_align *align)
{
	return ws_align_waits(align) ? align->slots[align->head % WS_ALIGN_SLOTS].due_ns
				     : UINT64_MAX;
}
