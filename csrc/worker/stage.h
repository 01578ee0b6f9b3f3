/* SPDX-License-Identifier: MIT */
/* Packets that wait for a handshake, in slots of a fixed pool. */
#ifndef WS_STAGE_H
#define WS_STAGE_H

#include <stddef.h>
#include <stdint.h>

struct ws_stage_slot;
struct ws_stage_pool {
	struct ws_stage_slot *slots;
	int32_t free_head;
	uint32_t free_count;
};
struct ws_stage_queue {
	int32_t head, tail; /* slot numbers, -1 none */
	uint32_t packets;
	uint32_t slots; /* of the pool, capped so that other queues find room */
};

int ws_stage_init(struct ws_stage_pool *pool);
void ws_stage_free(struct ws_stage_pool *pool);
void ws_stage_queue_init(struct ws_stage_queue *queue);
/* Keeps a copy; the oldest of this queue give way. Returns how many packets were lost. */
uint32_t ws_stage_push(struct ws_stage_pool *pool, struct ws_stage_queue *queue,
		       const uint8_t *data, size_t len);
/* Copies the oldest to `data` (WS_BUFFER_BYTES); its length, or 0 when empty. */
size_t ws_stage_pop(struct ws_stage_pool *pool, struct ws_stage_queue *queue, uint8_t *data);
uint32_t ws_stage_clear(struct ws_stage_pool *pool, struct ws_stage_queue *queue);

#endif
