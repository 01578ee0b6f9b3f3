/* SPDX-License-Identifier: MIT */
/*
 * Packets that wait for a handshake: what goes in comes out in order and whole,
 * the oldest give way, and one queue cannot take the pool from the others.
 */
#include "worker/stage.h"

#include "check.h"
#include "udp/datagram.h"

#include <stdlib.h>
#include <string.h>

#define PEERS 40

static uint8_t packet[WS_BUFFER_BYTES], popped[WS_BUFFER_BYTES];

static void fill(uint32_t number, size_t len)
{
	for (size_t i = 0; i < len; i++)
		packet[i] = (uint8_t)(number * 31 + i * 7 + i / 256);
}

static uint32_t push(struct ws_stage_pool *pool, struct ws_stage_queue *queue, uint32_t number,
		     size_t len)
{
	fill(number, len);
	return ws_stage_push(pool, queue, packet, len);
}

static void expect(struct ws_stage_pool *pool, struct ws_stage_queue *queue, uint32_t number,
		   size_t len)
{
	CHECK_EQ(ws_stage_pop(pool, queue, popped), len);
	fill(number, len);
	CHECK(!memcmp(packet, popped, len));
}

static void in_order(struct ws_stage_pool *pool)
{
	static const size_t lengths[] = {1, 1430, 2031, 2032, 2033, 4064, 65545, WS_BUFFER_BYTES};
	const uint32_t count = sizeof(lengths) / sizeof(lengths[0]);
	uint32_t all = pool->free_count;
	struct ws_stage_queue queue;

	ws_stage_queue_init(&queue);
	CHECK_EQ(ws_stage_pop(pool, &queue, popped), 0);
	for (uint32_t i = 0; i < count; i++)
		CHECK_EQ(push(pool, &queue, i, lengths[i]), 0);
	for (uint32_t i = 0; i < count; i++)
		expect(pool, &queue, i, lengths[i]);
	CHECK_EQ(ws_stage_pop(pool, &queue, popped), 0);
	CHECK_EQ(pool->free_count, all);
	CHECK_EQ(queue.slots, 0);
}

/* 128 packets, as WireGuard keeps; then the oldest goes for each new one. */
static void oldest_gives_way(struct ws_stage_pool *pool)
{
	struct ws_stage_queue queue;

	ws_stage_queue_init(&queue);
	for (uint32_t i = 0; i < 200; i++)
		CHECK_EQ(push(pool, &queue, i, 100), i >= 128);
	CHECK_EQ(queue.packets, 128);
	for (uint32_t i = 72; i < 200; i++)
		expect(pool, &queue, i, 100);
}

/* The longest packets to peers that never answer: each still finds room for its own. */
static void one_cannot_fill_the_pool(struct ws_stage_pool *pool)
{
	uint32_t all = pool->free_count, lost = 0;
	struct ws_stage_queue greedy, other;

	ws_stage_queue_init(&greedy);
	ws_stage_queue_init(&other);
	for (uint32_t i = 0; i < 100; i++)
		lost += push(pool, &greedy, i, WS_BUFFER_BYTES);
	CHECK_EQ(greedy.packets, 100 - lost);
	CHECK(greedy.packets >= 1);
	CHECK(all - pool->free_count <= all / 8);
	/* The newest stayed. */
	for (uint32_t i = 0; i < 128; i++)
		CHECK_EQ(push(pool, &other, i, 1430), 0);
	for (uint32_t i = lost; i < 100; i++)
		expect(pool, &greedy, i, WS_BUFFER_BYTES);
	for (uint32_t i = 0; i < 128; i++)
		expect(pool, &other, i, 1430);
	CHECK_EQ(pool->free_count, all);
}

/* Many queues, any lengths, until the pool is full and beyond: nothing is lost unseen. */
static void crowd(struct ws_stage_pool *pool)
{
	static struct ws_stage_queue queues[PEERS];
	uint32_t all = pool->free_count, kept = 0, lost = 0, pushed = 0, held = 0, slots = 0;

	for (int i = 0; i < PEERS; i++)
		ws_stage_queue_init(&queues[i]);
	for (uint32_t round = 0; round < 20000; round++) {
		struct ws_stage_queue *queue = &queues[check_random() % PEERS];

		if (check_random() % 8) {
			lost += push(pool, queue, round, 1 + check_random() % WS_BUFFER_BYTES);
			pushed++;
		} else if (ws_stage_pop(pool, queue, popped)) {
			kept++;
		}
	}
	for (int i = 0; i < PEERS; i++) {
		held += queues[i].packets;
		slots += queues[i].slots;
	}
	CHECK_EQ(pushed, kept + lost + held);
	CHECK_EQ(pool->free_count + slots, all);
	for (int i = 0; i < PEERS; i++) {
		held -= ws_stage_clear(pool, &queues[i]);
		CHECK_EQ(queues[i].slots, 0);
	}
	CHECK_EQ(held, 0);
	CHECK_EQ(pool->free_count, all);
}

int main(void)
{
	struct ws_stage_pool pool;

	CHECK_EQ(ws_stage_init(&pool), 0);
	in_order(&pool);
	oldest_gives_way(&pool);
	one_cannot_fill_the_pool(&pool);
	crowd(&pool);
	ws_stage_free(&pool);
	ws_stage_free(&pool);
	return check_done();
}
