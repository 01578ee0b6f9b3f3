/* SPDX-License-Identifier: MIT */
/*
 * Random messages there and back, and what is refused. With "decode": hex
 * lines from standard input, each decoded and told field by field, for
 * test_ack_vectors.py.
 */
#include "multipath/ack.h"

#include "check.h"

#include <inttypes.h>
#include <string.h>

#define U24 0xffffffu

static struct ws_ack random_ack(void)
{
	struct ws_ack ack = {.time_us = (uint32_t)check_random(),
			     .next_seq = (uint32_t)check_random(),
			     .path_count = (uint8_t)(check_random() % (WS_ACK_MAX_PATHS + 1)),
			     .gap_count = (uint8_t)(check_random() % (WS_ACK_MAX_GAPS + 1))};
	unsigned first = (unsigned)check_random();

	for (unsigned i = 0; i < ack.path_count; i++)
		ack.paths[i] = (struct ws_ack_path){
			.path = (uint8_t)((first + i * 3) % WS_ACK_MAX_PATHS),
			.hold_16us = (uint16_t)check_random(),
			.highest = (uint32_t)check_random(),
			.datagrams = (uint32_t)check_random(),
			.bytes = check_random(),
			.arrived_us = (uint32_t)check_random(),
			.echo_us = (uint32_t)check_random() & U24,
			.delay_us = (uint32_t)check_random() & U24,
			.delay_min_us = (uint32_t)check_random() & U24,
		};
	for (unsigned i = 0; i < ack.gap_count; i++)
		ack.gaps[i] = (struct ws_ack_gap){.first = (uint32_t)check_random(),
						  .count = (uint16_t)check_random()};
	return ack;
}

static void check_same(const struct ws_ack *got, const struct ws_ack *want)
{
	CHECK_EQ(got->time_us, want->time_us);
	CHECK_EQ(got->next_seq, want->next_seq);
	CHECK_EQ(got->path_count, want->path_count);
	CHECK_EQ(got->gap_count, want->gap_count);
	for (unsigned i = 0; i < want->path_count; i++) {
		CHECK_EQ(got->paths[i].path, want->paths[i].path);
		CHECK_EQ(got->paths[i].hold_16us, want->paths[i].hold_16us);
		CHECK_EQ(got->paths[i].highest, want->paths[i].highest);
		CHECK_EQ(got->paths[i].datagrams, want->paths[i].datagrams);
		CHECK_EQ(got->paths[i].bytes, want->paths[i].bytes);
		CHECK_EQ(got->paths[i].arrived_us, want->paths[i].arrived_us);
		CHECK_EQ(got->paths[i].echo_us, want->paths[i].echo_us);
		CHECK_EQ(got->paths[i].delay_us, want->paths[i].delay_us);
		CHECK_EQ(got->paths[i].delay_min_us, want->paths[i].delay_min_us);
	}
	for (unsigned i = 0; i < want->gap_count; i++) {
		CHECK_EQ(got->gaps[i].first, want->gaps[i].first);
		CHECK_EQ(got->gaps[i].count, want->gaps[i].count);
	}
}

static void there_and_back(void)
{
	for (unsigned i = 0; i < 20000; i++) {
		struct ws_ack ack = random_ack(), got;
		uint8_t frame[WS_ACK_MAX_BYTES + 8];
		size_t len = ws_ack_encode(&ack, frame);
		/* An exact copy: a byte read past its end is seen by ASan. */
		size_t kept = check_random() % (len + 1);
		uint8_t cut[kept ? kept : 1];

		CHECK_EQ(len, WS_ACK_HEAD_BYTES + ack.path_count * WS_ACK_PATH_BYTES +
				      ack.gap_count * WS_ACK_GAP_BYTES);
		CHECK(ws_ack_decode(frame, len, &got));
		check_same(&got, &ack);
		memset(frame + len, 0xff, sizeof(frame) - len);
		CHECK(ws_ack_decode(frame, sizeof(frame), &got));
		check_same(&got, &ack);
		memcpy(cut, frame, kept);
		CHECK_EQ(ws_ack_decode(cut, kept, &got), kept == len);
	}
}

static void largest(void)
{
	struct ws_ack ack = {.path_count = WS_ACK_MAX_PATHS, .gap_count = WS_ACK_MAX_GAPS};
	uint8_t frame[WS_ACK_MAX_BYTES];

	for (uint8_t i = 0; i < WS_ACK_MAX_PATHS; i++) {
		ack.paths[i].path = i;
		/* 24 bits go, whatever the caller had above them. */
		ack.paths[i].echo_us = ack.paths[i].delay_us = UINT32_MAX;
	}
	CHECK_EQ(ws_ack_encode(&ack, frame), WS_ACK_MAX_BYTES);
	CHECK(ws_ack_decode(frame, sizeof(frame), &ack));
	CHECK_EQ(ack.paths[7].path, 7);
	CHECK_EQ(ack.paths[7].echo_us, U24);
	CHECK_EQ(ack.paths[7].delay_min_us, 0);
}

/* Every byte that decides is changed to every value. */
static void refused(void)
{
	struct ws_ack ack = {.path_count = 2, .gap_count = 1, .paths = {{.path = 1}, {.path = 6}}};
	uint8_t frame[WS_ACK_MAX_BYTES] = {0};
	size_t len = ws_ack_encode(&ack, frame);
	struct ws_ack got;

	for (unsigned value = 0; value < 256; value++) {
		const struct {
			size_t at;
			bool taken;
		} cases[] = {
			{0, value == 0x15},
			{1, value == 1},
			{2, value <= 2},
			{3, value <= 1},
			{WS_ACK_HEAD_BYTES, value < 8 && value != 6},
			{WS_ACK_HEAD_BYTES + WS_ACK_PATH_BYTES, value < 8 && value != 1},
		};

		for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
			uint8_t kept = frame[cases[i].at];

			frame[cases[i].at] = (uint8_t)value;
			CHECK_EQ(ws_ack_decode(frame, len, &got), cases[i].taken);
			frame[cases[i].at] = kept;
		}
	}
	/* Enough bytes for counts above the limits do not make them right. */
	frame[2] = WS_ACK_MAX_PATHS + 1;
	frame[3] = 0;
	CHECK(!ws_ack_decode(frame, sizeof(frame), &got));
	frame[2] = 0;
	frame[3] = WS_ACK_MAX_GAPS + 1;
	CHECK(!ws_ack_decode(frame, sizeof(frame), &got));
	frame[3] = WS_ACK_MAX_GAPS;
	CHECK(ws_ack_decode(frame, sizeof(frame), &got));
}

static int decode(void)
{
	char line[2 * 2048 + 2];
	uint8_t frame[2048], again[WS_ACK_MAX_BYTES];

	while (fgets(line, sizeof(line), stdin)) {
		size_t len = strcspn(line, "\n") / 2;
		struct ws_ack ack;

		for (size_t i = 0; i < len; i++) {
			unsigned byte;

			if (sscanf(line + 2 * i, "%2x", &byte) != 1)
				return 2;
			frame[i] = (uint8_t)byte;
		}
		if (!ws_ack_decode(frame, len, &ack)) {
			puts("refused");
			continue;
		}
		printf("%u %u", ack.time_us, ack.next_seq);
		for (unsigned i = 0; i < ack.path_count; i++) {
			const struct ws_ack_path *path = &ack.paths[i];

			printf(" | %u %u %u %u %" PRIu64 " %u %u %u %u", path->path,
			       path->hold_16us, path->highest, path->datagrams, path->bytes,
			       path->arrived_us, path->echo_us, path->delay_us, path->delay_min_us);
		}
		for (unsigned i = 0; i < ack.gap_count; i++)
			printf(" + %u %u", ack.gaps[i].first, ack.gaps[i].count);
		printf(" = ");
		len = ws_ack_encode(&ack, again);
		for (size_t i = 0; i < len; i++)
			printf("%02x", again[i]);
		puts("");
	}
	return 0;
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "decode"))
		return decode();
	there_and_back();
	largest();
	refused();
	return check_done();
}
