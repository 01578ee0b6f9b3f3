/* SPDX-License-Identifier: MIT */
/*
 * Invariants, whatever comes in whatever order: no seq is delivered twice; what
 * is delivered is what came, and ascends but for late ones; no more is held
 * than set; what waits has a deadline within the hold, and all is out then;
 * gaps are missing seqs ahead; slots are whole until their release.
 *
 * Input: 6 bytes of settings, then operations: a byte that says which one and
 * over which path, a byte of microseconds, a signed 16-bit distance from the
 * seq awaited, a byte of how far to scale it (bits 0..4) and of the length.
 */
#include "multipath/reorder.h"

#include <stdlib.h>
#include <string.h>

#define STEPS 1024
#define OUT (STEPS + 64)
#define SLOT_BYTES 70
#define LONGEST 80

struct packet {
	uint8_t *data; /* NULL: not in a slot */
	size_t len;
	uint32_t number;
};

static uint32_t seq_of[STEPS]; /* of the packet of each step */
static struct packet out[OUT]; /* since the last release */
static size_t out_count;
static uint32_t delivered[STEPS]; /* seqs, since the last reset */
static size_t delivered_count;
static const uint8_t *given;

static void check(bool condition)
{
	if (!condition)
		abort();
}

static uint8_t byte_of(uint32_t number, size_t i)
{
	return (uint8_t)(number * 31 + i);
}

static void check_intact(const uint8_t *data, size_t len, uint32_t number)
{
	for (size_t i = 0; i < len; i++)
		check(data[i] == byte_of(number, i));
}

static void deliver(void *arg, uint8_t *data, size_t len, uint32_t flags)
{
	(void)arg;
	check_intact(data, len, flags);
	check(out_count < OUT && delivered_count < STEPS);
	out[out_count++] = (struct packet){data == given ? NULL : data, len, flags};
	for (size_t i = 0; i < delivered_count; i++)
		check(delivered[i] != seq_of[flags]);
	delivered[delivered_count++] = seq_of[flags];
}

static void release(struct ws_reorder *reorder)
{
	for (size_t i = 0; i < out_count; i++)
		if (out[i].data)
			check_intact(out[i].data, out[i].len, out[i].number);
	ws_reorder_released(reorder);
	out_count = 0;
}

static void check_gaps(const struct ws_reorder *reorder, uint64_t now_ns)
{
	struct ws_reorder_gap gaps[WS_REORDER_MAX_GAPS];
	uint32_t count = ws_reorder_gaps(reorder, gaps, WS_REORDER_MAX_GAPS, now_ns);
	uint32_t at = ws_reorder_next(reorder), reach = 0;

	check(count <= WS_REORDER_MAX_GAPS);
	for (uint32_t i = 0; i < count; i++) {
		uint32_t ahead = gaps[i].first - at;

		check(gaps[i].count > 0 && (i == 0 ? ahead == 0 : ahead > reach));
		reach = ahead + gaps[i].count;
		check(reach < WS_REORDER_SPAN);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ws_reorder_settings settings;
	const struct ws_reorder_stats *stats;
	struct ws_reorder *reorder;
	uint64_t now_ns = 1000000;

	if (size < 6)
		return 0;
	settings = (struct ws_reorder_settings){
		.depth = 1 + data[0] % 64,
		.hold_us = data[1] * 64u,
		.loss_wait_us = data[2] * 32u,
		.path_idle_us = data[3] * 128u,
		.deliver_late = data[4] & 1,
	};
	reorder = ws_reorder_new(SLOT_BYTES, deliver, NULL);
	check(reorder != NULL);
	ws_reorder_set(reorder, &settings);
	stats = ws_reorder_stats(reorder);
	out_count = delivered_count = 0;
	data += 6;
	size -= 6;
	for (uint32_t step = 0; step < STEPS && size >= 5; step++, data += 5, size -= 5) {
		uint8_t packet[LONGEST];
		int16_t distance;
		uint32_t next = ws_reorder_next(reorder);
		size_t before = delivered_count, len = data[4] / 32 * 11;
		uint64_t late = stats->late;
		uint32_t depth = stats->depth; /* may be more than newly set */

		memcpy(&distance, data + 2, sizeof(distance));
		now_ns += data[1] * UINT64_C(8000);
		seq_of[step] = next + (uint32_t)(distance * (1 << (data[4] % 32 % 9)));
		for (size_t i = 0; i < len; i++)
			packet[i] = byte_of(step, i);
		given = packet;
		switch (data[0] % 16) {
		case 0:
			ws_reorder_expire(reorder, now_ns);
			check(ws_reorder_deadline(reorder) > now_ns);
			break;
		case 1:
			release(reorder);
			break;
		case 2:
			check_gaps(reorder, now_ns);
			break;
		case 3:
			settings.depth = 1 + data[2] % 64;
			settings.hold_us = data[3] * 64u;
			ws_reorder_set(reorder, &settings);
			break;
		case 4:
			if (data[1] % 8)
				break;
			ws_reorder_reset(reorder);
			check(stats->depth == 0);
			before = delivered_count = 0;
			break;
		case 5:
			ws_reorder_pass(reorder, data[0] / 16 % 8, seq_of[step], packet, len, step,
					now_ns);
			break;
		default:
			ws_reorder_insert(reorder, data[0] / 16 % 8, seq_of[step],
					  data[0] % 16 == 6, packet, len, step, now_ns);
		}
		memset(packet, 0xee, sizeof(packet));
		check(stats->depth <= (depth > settings.depth ? depth : settings.depth));
		if (stats->late == late)
			for (size_t i = before; i < delivered_count; i++)
				check(i == 0 || (int32_t)(delivered[i] - next) >= 0);
		for (size_t i = before + 1; i < delivered_count; i++)
			check((int32_t)(delivered[i] - delivered[i - 1]) > 0);
		check((stats->depth != 0) == (ws_reorder_deadline(reorder) != UINT64_MAX));
		check(!stats->depth ||
		      ws_reorder_deadline(reorder) <= now_ns + settings.hold_us * UINT64_C(1000));
		check(stats->delivered >= stats->in_order);
		check(stats->gaps >= stats->gaps_filled);
		check(stats->skipped >= stats->skipped_full);
	}
	ws_reorder_expire(reorder, now_ns + settings.hold_us * UINT64_C(1000));
	check(stats->depth == 0);
	release(reorder);
	ws_reorder_free(reorder);
	return 0;
}
