/* SPDX-License-Identifier: MIT */
/*
 * Which packets are acknowledgements and nothing else, and that those that
 * wait do so for as long, as often and as many as was said.
 */
#include "gather.h"

#include "check.h"

#include <stdlib.h>
#include <string.h>

#define MS UINT64_C(1000000)

static struct ws_gather gather;

static void start(void)
{
	struct ws_gather_slot *slots = gather.slots;

	gather = (struct ws_gather){.slots = slots};
	CHECK_EQ(ws_gather_deadline(&gather), UINT64_MAX);
}

/* An acknowledgement of so many bytes of TCP header; its length. */
static size_t acknowledge(uint8_t *packet, bool v6, size_t header)
{
	size_t ip = v6 ? 40 : 20;

	memset(packet, 0, 128);
	packet[0] = v6 ? 0x60 : 0x45;
	packet[v6 ? 6 : 9] = 6;
	packet[ip + 12] = (uint8_t)(header / 4 << 4);
	packet[ip + 13] = 0x10;
	return ip + header;
}

static void test_kinds(void)
{
	uint8_t packet[128];
	size_t len;

	for (uint32_t v6 = 0; v6 < 2; v6++) {
		size_t ip = v6 ? 40 : 20;

		len = acknowledge(packet, v6, 20);
		CHECK(ws_gather_fits(packet, len));
		packet[ip + 13] = 0x50; /* with ECN's echo */
		CHECK(ws_gather_fits(packet, len));
		len = acknowledge(packet, v6, 32);
		CHECK(ws_gather_fits(packet, len));
		/* SACK, payload, cut off, SYN, FIN, RST, PSH, UDP */
		len = acknowledge(packet, v6, 36);
		CHECK(!ws_gather_fits(packet, len));
		len = acknowledge(packet, v6, 20);
		CHECK(!ws_gather_fits(packet, len + 1));
		CHECK(!ws_gather_fits(packet, len - 1));
		for (uint32_t flag = 0; flag < 6; flag++) {
			packet[ip + 13] = (uint8_t)(0x10 ^ 1u << flag);
			CHECK(!ws_gather_fits(packet, len));
		}
		len = acknowledge(packet, v6, 20);
		packet[v6 ? 6 : 9] = 17;
		CHECK(!ws_gather_fits(packet, len));
	}
	/* Fragments, IPv4 options, header lengths that lie. */
	len = acknowledge(packet, false, 20);
	packet[7] = 1;
	CHECK(!ws_gather_fits(packet, len));
	packet[7] = 0;
	packet[6] = 0x20;
	CHECK(!ws_gather_fits(packet, len));
	packet[6] = 0x40;
	CHECK(ws_gather_fits(packet, len));
	for (uint32_t words = 0; words < 16; words++) {
		packet[0] = (uint8_t)(0x40 | words);
		CHECK(words == 5 || !ws_gather_fits(packet, len));
	}
	/* Whatever it is, only its own bytes are looked at (under ASan). */
	for (uint32_t i = 0; i < 200000; i++) {
		size_t size = check_random() % 128;
		uint8_t *exact = malloc(size ? size : 1);

		for (size_t k = 0; k < size; k++)
			exact[k] = (uint8_t)check_random();
		if (size && i & 1)
			exact[0] = i & 2 ? 0x60 : (uint8_t)(0x40 | check_random() % 16);
		if (ws_gather_fits(exact, size))
			CHECK(size <= WS_GATHER_PACKET_BYTES);
		free(exact);
	}
}

static void test_times(void)
{
	uint8_t packet[128];
	size_t len = acknowledge(packet, false, 32);
	uint64_t now = 1000 * MS;

	start();
	CHECK(!ws_gather_hold(&gather, packet, len, 0, 0, 100000, now));
	CHECK(ws_gather_hold(&gather, packet, len, 7, 15000, 100000, now));
	CHECK_EQ(ws_gather_deadline(&gather), now + 15 * MS);
	/* Those that follow wait for the same moment, whatever is asked by then. */
	CHECK(ws_gather_hold(&gather, packet, len, 0, 0, 100000, now + 14 * MS));
	CHECK_EQ(ws_gather_deadline(&gather), now + 15 * MS);
	CHECK_EQ(gather.slots[0].flags, 7);
	CHECK_EQ(gather.slots[1].len, len);
	CHECK_EQ(memcmp(gather.slots[1].packet, packet, len), 0);
	CHECK(!ws_gather_hold(&gather, packet, len, 0, 15000, 100000, now + 15 * MS));
	gather.count = 0;
	/* Not again before it is time. */
	CHECK(!ws_gather_hold(&gather, packet, len, 0, 15000, 100000, now + 99 * MS));
	CHECK(ws_gather_hold(&gather, packet, len, 0, 15000, 100000, now + 100 * MS));
	gather.count = 0;
	/* An hour is more than anybody means. */
	CHECK(ws_gather_hold(&gather, packet, len, 0, UINT32_MAX, 1, now + 200 * MS));
	CHECK_EQ(gather.due_ns, now + 200 * MS + WS_GATHER_MAX_US * UINT64_C(1000));
}

static void test_room(void)
{
	uint8_t packet[128];
	size_t len = acknowledge(packet, true, 32);

	start();
	for (uint32_t i = 0; i < WS_GATHER_SLOTS; i++)
		CHECK(ws_gather_hold(&gather, packet, len, 0, 15000, 0, 1000 * MS));
	CHECK(!ws_gather_hold(&gather, packet, len, 0, 15000, 0, 1000 * MS));
	CHECK_EQ(gather.count, WS_GATHER_SLOTS);
}

int main(void)
{
	gather.slots = malloc(sizeof(*gather.slots) * WS_GATHER_SLOTS);
	CHECK(gather.slots != NULL);
	if (!gather.slots)
		return check_done();
	test_kinds();
	test_times();
	test_room();
	free(gather.slots);
	return check_done();
}
