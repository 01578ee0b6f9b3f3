/* SPDX-License-Identifier: MIT */
#include "worker/stage.h"

#include "udp/datagram.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define SLOT_BYTES 2032
#define SLOTS 1024
#define QUEUE_PACKETS 128 /* as WireGuard stages */
#define QUEUE_SLOTS (SLOTS / 8) /* one peer that never answers must leave room for others */
#define PACKET_SLOTS ((WS_BUFFER_BYTES + SLOT_BYTES - 1) / SLOT_BYTES)

_Static_assert(PACKET_SLOTS <= QUEUE_SLOTS, "the longest packet must fit into an empty queue");

struct ws_stage_slot {
	int32_t next_packet; /* first slot of the next packet */
	int32_t next_piece; /* rest of this packet */
	uint32_t len; /* of the whole packet, in its first slot */
	uint32_t pad;
	uint8_t data[SLOT_BYTES];
};

int ws_stage_init(struct ws_stage_pool *pool)
{
	/* Touched only when used: an idle agent does not pay for it. */
	void *memory = mmap(NULL, SLOTS * sizeof(struct ws_stage_slot), PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED) {
		pool->slots = NULL;
		return -ENOMEM;
	}
	pool->slots = memory;
	pool->free_head = 0;
	pool->free_count = SLOTS;
	for (int32_t i = 0; i < SLOTS; i++)
		pool->slots[i].next_piece = i + 1 < SLOTS ? i + 1 : -1;
	return 0;
}

void ws_stage_free(struct ws_stage_pool *pool)
{
	if (pool->slots)
		munmap(pool->slots, SLOTS * sizeof(struct ws_stage_slot));
	pool->slots = NULL;
}

void ws_stage_queue_init(struct ws_stage_queue *queue)
{
	queue->head = queue->tail = -1;
	queue->packets = queue->slots = 0;
}

static void drop_oldest(struct ws_stage_pool *pool, struct ws_stage_queue *queue)
{
	int32_t slot = queue->head;

	queue->head = pool->slots[slot].next_packet;
	if (queue->head < 0)
		queue->tail = -1;
	queue->packets--;
	while (slot >= 0) {
		int32_t next = pool->slots[slot].next_piece;

		pool->slots[slot].next_piece = pool->free_head;
		pool->free_head = slot;
		pool->free_count++;
		queue->slots--;
		slot = next;
	}
}

uint32_t ws_stage_push(struct ws_stage_pool *pool, struct ws_stage_queue *queue,
		       const uint8_t *data, size_t len)
{
	uint32_t pieces = (uint32_t)((len + SLOT_BYTES - 1) / SLOT_BYTES);
	uint32_t lost = 0;
	int32_t first = -1, *link = &first;

	while (queue->packets &&
	       (queue->packets >= QUEUE_PACKETS || queue->slots + pieces > QUEUE_SLOTS ||
		pool->free_count < pieces)) {
		drop_oldest(pool, queue);
		lost++;
	}
	if (pool->free_count < pieces)
		return lost + 1;
	for (size_t at = 0; at < len; at += SLOT_BYTES) {
		size_t part = len - at < SLOT_BYTES ? len - at : SLOT_BYTES;
		int32_t slot = pool->free_head;

		pool->free_head = pool->slots[slot].next_piece;
		pool->free_count--;
		queue->slots++;
		memcpy(pool->slots[slot].data, data + at, part);
		pool->slots[slot].next_piece = -1;
		*link = slot;
		link = &pool->slots[slot].next_piece;
	}
	pool->slots[first].next_packet = -1;
	pool->slots[first].len = (uint32_t)len;
	if (queue->tail >= 0)
		pool->slots[queue->tail].next_packet = first;
	else
		queue->head = first;
	queue->tail = first;
	queue->packets++;
	return lost;
}

size_t ws_stage_pop(struct ws_stage_pool *pool, struct ws_stage_queue *queue, uint8_t *data)
{
	size_t len, at = 0;

	if (!queue->packets)
		return 0;
	len = pool->slots[queue->head].len;
	for (int32_t slot = queue->head; slot >= 0; slot = pool->slots[slot].next_piece) {
		size_t part = len - at < SLOT_BYTES ? len - at : SLOT_BYTES;

		memcpy(data + at, pool->slots[slot].data, part);
		at += part;
	}
	drop_oldest(pool, queue);
	return len;
}

uint32_t ws_stage_clear(struct ws_stage_pool *pool, struct ws_stage_queue *queue)
{
	uint32_t packets = queue->packets;

	while (queue->packets)
		drop_oldest(pool, queue);
	return packets;
}
