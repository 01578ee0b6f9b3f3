/* SPDX-License-Identifier: MIT */
/*
 * The line keeps what it was given: each packet once, not before it is due, each path's in order.
 */
#include "multipath/align.h"

#include "check.h"

#include <stdlib.h>
#include <string.h>

#define MS UINT64_C(1000000)
#define STRIDE 128

static struct ws_align align;
static uint8_t *memory;

static void start(void)
{
	memset(memory, 0, ws_align_bytes(STRIDE));
	ws_align_init(&align, memory, STRIDE);
	CHECK_EQ(ws_align_deadline(&align), UINT64_MAX);
}

static void test_room(void)
{
	uint8_t packet[STRIDE + 1] = {0}, *out;
	uint64_t now = 1000 * MS;

	start();
	/* Too short a wait, too long a packet, no path of ours. */
	CHECK(!ws_align_hold(&align, 0, 1, 0, packet, 64, 999, now));
	CHECK(!ws_align_hold(&align, 0, 1, 0, packet, STRIDE + 1, 30000, now));
	CHECK(ws_align_hold(&align, 0, 1, 0, packet, 64, 1400, now));
	CHECK(ws_align_take(&align, now + 2 * MS, &out) != NULL);
	CHECK(!ws_align_hold(&align, WS_ALIGN_PATHS, 1, 0, packet, 64, 30000, now));
	for (uint32_t i = 0; i < WS_ALIGN_SLOTS; i++)
		CHECK(ws_align_hold(&align, 0, i, 0, packet, 64, 30000, now));
	CHECK(!ws_align_hold(&align, 0, 1, 0, packet, 64, 30000, now));
	CHECK_EQ(ws_align_deadline(&align), now + 30 * MS);
	CHECK(!ws_align_take(&align, now + 30 * MS - 1, &out));
	CHECK(ws_align_take(&align, now + 30 * MS, &out) != NULL);
	CHECK(ws_align_hold(&align, 0, 1, 0, packet, 64, 0, now));
}

static void test_order(void)
{
	uint32_t given[WS_ALIGN_PATHS] = {0}, taken[WS_ALIGN_PATHS] = {0};
	static uint64_t earliest[WS_ALIGN_PATHS][1 << 16];
	uint64_t now = 1000 * MS;
	uint8_t packet[STRIDE], *out;

	start();
	for (int i = 0; i < 200000; i++) {
		const struct ws_align_packet *next;
		uint32_t path = (uint32_t)(check_random() % WS_ALIGN_PATHS);
		uint32_t wait = (uint32_t)(check_random() % 50000);
		uint32_t seq = given[path];

		now += check_random() % MS;
		memset(packet, (int)(seq & 0xff), sizeof(packet));
		if (ws_align_hold(&align, path, seq, path, packet, 1 + seq % STRIDE, wait, now)) {
			earliest[path][seq & 0xffff] = now + wait * UINT64_C(1000) - MS / 2;
			given[path]++;
		} else {
			/* Out of room, or with nothing of its path to wait for. */
			CHECK(align.tail - align.head == WS_ALIGN_SLOTS ||
			      (wait < 2000 && given[path] == taken[path]));
		}
		while ((next = ws_align_take(&align, now, &out))) {
			CHECK(next->due_ns <= now);
			CHECK_EQ(next->seq, taken[next->path]);
			CHECK_EQ(next->flags, next->path);
			CHECK_EQ(next->len, 1 + next->seq % STRIDE);
			CHECK_EQ(out[next->len - 1], next->seq & 0xff);
			CHECK(now >= earliest[next->path][next->seq & 0xffff]);
			taken[next->path]++;
		}
	}
	while (ws_align_take(&align, UINT64_MAX, &out))
		taken[0]++;
	CHECK_EQ(ws_align_deadline(&align), UINT64_MAX);
	for (uint32_t i = 1; i < WS_ALIGN_PATHS; i++)
		CHECK(given[i] > 1000 && align.waiting[i] == 0);
}

static void test_has(void)
{
	uint8_t packet[64] = {0};

	start();
	CHECK(!ws_align_has(&align, 0, UINT32_MAX));
	CHECK(ws_align_hold(&align, 0, 0xffffffff, 0, packet, 64, 5000, 1000 * MS));
	CHECK(ws_align_hold(&align, 0, 2, 0, packet, 64, 5000, 1000 * MS));
	CHECK(ws_align_has(&align, 0xfffffffe, 2));
	CHECK(ws_align_has(&align, 1, 2));
	CHECK(!ws_align_has(&align, 0, 2));
	CHECK(!ws_align_has(&align, 3, 100));
}

int main(void)
{
	memory = malloc(ws_align_bytes(STRIDE));
	CHECK(memory != NULL);
	if (!memory)
		return check_done();
	test_room();
	test_order();
	test_has();
	free(memory);
	return check_done();
}
