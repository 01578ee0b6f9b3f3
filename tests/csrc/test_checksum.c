/* SPDX-License-Identifier: MIT */
#include "packet/checksum.h"

#include "check.h"
#include "packets.h"

#include <stdlib.h>

static uint16_t as_number(uint16_t memory_order)
{
	return be16toh(memory_order);
}

static void fill(uint8_t *p, size_t len, int how)
{
	for (size_t i = 0; i < len; i++)
		p[i] = how == 0 ? 0xff : how == 1 ? 0 : (uint8_t)check_random();
}

static void test_rfc1071_example(void)
{
	static const uint8_t example[] = {0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7};

	CHECK_EQ(as_number(ws_csum_fold(ws_csum_add(0, example, sizeof(example)))), 0xddf2);
	CHECK_EQ(as_number(ws_csum_fold(ws_csum_add_header(0, example, sizeof(example)))), 0xddf2);
	CHECK_EQ(as_number(ws_csum_fold(ws_csum_add(0, example, 3))), 0xf201);
	CHECK_EQ(ws_csum_fold(0), 0);
	CHECK_EQ(ws_csum_fold(UINT64_MAX), 0xffff);
}

/* Exactly sized buffers: a read past the end is ASan's to report. */
static void test_every_length(void)
{
	for (size_t len = 0; len <= 1600; len++)
		for (int how = 0; how < 4; how++) {
			size_t shift = check_random() % 9;
			uint8_t *whole = malloc(len + shift), *p = whole + shift;

			fill(p, len, how);
			CHECK_EQ(as_number(ws_csum_fold(ws_csum_add(0, p, len))),
				 model_sum(0, p, len));
			free(whole);
		}
}

static void test_big(void)
{
	static uint8_t big[1 << 20];

	for (int how = 0; how < 3; how++)
		for (int i = 0; i < 20; i++) {
			size_t len = i ? check_random() % sizeof(big) : sizeof(big);

			fill(big, sizeof(big), how);
			CHECK_EQ(as_number(ws_csum_fold(ws_csum_add(0, big, len))),
				 model_sum(0, big, len));
		}
}

/* Short pieces never take the vector way, so this compares the two ways as well. */
static void test_pieces(void)
{
	static uint8_t data[65536];

	for (int i = 0; i < 300; i++) {
		size_t len = check_random() % sizeof(data), at = 0;
		uint64_t sum = 0;

		fill(data, len, i % 5 ? 2 : 0);
		while (at < len) {
			size_t piece = 2 * (1 + check_random() % 60);

			if (piece > len - at)
				piece = len - at;
			sum = ws_csum_add(sum, data + at, piece);
			at += piece;
		}
		CHECK_EQ(ws_csum_fold(sum), ws_csum_fold(ws_csum_add(0, data, len)));
	}
}

static void test_pseudo(void)
{
	uint8_t packet[128], payload[40];
	struct model m = {.protocol = 6, .payload = payload};

	for (int i = 0; i < 1000; i++) {
		size_t l4_bytes = check_random() & 0xffff;

		m.version = i % 2 ? 4 : 6;
		m.protocol = i % 3 ? 6 : 17;
		m.host = i & 0xff;
		model_build(&m, packet);
		CHECK_EQ(as_number(ws_csum_fold(
				 ws_csum_pseudo(packet, (uint8_t)m.protocol, (uint16_t)l4_bytes))),
			 model_pseudo(&m, packet, l4_bytes));
	}
}

static void test_replace(void)
{
	uint8_t header[20];
	uint16_t before, after;

	for (int i = 0; i < 20000; i++) {
		size_t at = 2 * (check_random() % 5);

		fill(header, sizeof(header), 2);
		ws_csum_write_ipv4(header, sizeof(header));
		CHECK_EQ(model_sum(0, header, sizeof(header)), 0xffff);
		memcpy(&before, header + at, 2);
		after = i % 7 ? (uint16_t)check_random() : i % 2 ? 0 : 0xffff;
		memcpy(header + at, &after, 2);
		ws_csum_replace(header + WS_IPV4_CHECKSUM, before, after);
		CHECK_EQ(model_sum(0, header, sizeof(header)), 0xffff);
	}
}

int main(void)
{
	test_rfc1071_example();
	test_every_length();
	test_big();
	test_pieces();
	test_pseudo();
	test_replace();
	return check_done();
}
