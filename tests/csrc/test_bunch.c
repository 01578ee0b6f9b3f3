/* SPDX-License-Identifier: MIT */
/*
 * Which packets are acknowledgements and nothing else, and that those that
 * wait do so for as long, as often and as many as was said.
 */
#include "multipath/bunch.h"

#include "check.h"
#include "packet/frame.h"
#include "quiet.h"

#include <stdlib.h>
#include <string.h>

#define MS UINT64_C(1000000)

static struct ws_bunch bunch;
static uint64_t now_ns;

static void start(void)
{
	struct ws_bunch_slot *slots = bunch.slots;

	bunch = (struct ws_bunch){.slots = slots};
	CHECK_EQ(ws_bunch_deadline(&bunch), UINT64_MAX);
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
		CHECK(ws_bunch_fits(packet, len));
		packet[ip + 13] = 0x50; /* with ECN's echo */
		CHECK(ws_bunch_fits(packet, len));
		len = acknowledge(packet, v6, 32);
		CHECK(ws_bunch_fits(packet, len));
		/* SACK, payload, cut off, SYN, FIN, RST, PSH, UDP */
		len = acknowledge(packet, v6, 36);
		CHECK(!ws_bunch_fits(packet, len));
		len = acknowledge(packet, v6, 20);
		CHECK(!ws_bunch_fits(packet, len + 1));
		CHECK(!ws_bunch_fits(packet, len - 1));
		for (uint32_t flag = 0; flag < 6; flag++) {
			packet[ip + 13] = (uint8_t)(0x10 ^ 1u << flag);
			CHECK(!ws_bunch_fits(packet, len));
		}
		len = acknowledge(packet, v6, 20);
		packet[v6 ? 6 : 9] = 17;
		CHECK(!ws_bunch_fits(packet, len));
	}
	/* Fragments, IPv4 options, header lengths that lie. */
	len = acknowledge(packet, false, 20);
	packet[7] = 1;
	CHECK(!ws_bunch_fits(packet, len));
	packet[7] = 0;
	packet[6] = 0x20;
	CHECK(!ws_bunch_fits(packet, len));
	packet[6] = 0x40;
	CHECK(ws_bunch_fits(packet, len));
	for (uint32_t words = 0; words < 16; words++) {
		packet[0] = (uint8_t)(0x40 | words);
		CHECK(words == 5 || !ws_bunch_fits(packet, len));
	}
	/* Whatever it is, only its own bytes are looked at (under ASan). */
	for (uint32_t i = 0; i < 200000; i++) {
		size_t size = check_random() % 128;
		uint8_t *exact = malloc(size ? size : 1);

		for (size_t k = 0; k < size; k++)
			exact[k] = (uint8_t)check_random();
		if (size && i & 1)
			exact[0] = i & 2 ? 0x60 : (uint8_t)(0x40 | check_random() % 16);
		if (ws_bunch_fits(exact, size))
			CHECK(size <= WS_BUNCH_PACKET_BYTES);
		free(exact);
	}
}

static void test_times(void)
{
	uint8_t packet[128];
	size_t len = acknowledge(packet, false, 32);
	uint64_t now = 1000 * MS;

	start();
	CHECK(!ws_bunch_hold(&bunch, packet, len, 0, 0, 100000, now));
	CHECK(ws_bunch_hold(&bunch, packet, len, 7, 15000, 100000, now));
	CHECK_EQ(ws_bunch_deadline(&bunch), now + 15 * MS);
	/* Those that follow wait for the same moment, whatever is asked by then. */
	CHECK(ws_bunch_hold(&bunch, packet, len, 0, 0, 100000, now + 14 * MS));
	CHECK_EQ(ws_bunch_deadline(&bunch), now + 15 * MS);
	CHECK_EQ(bunch.slots[0].flags, 7);
	CHECK_EQ(bunch.slots[1].len, len);
	CHECK_EQ(memcmp(bunch.slots[1].packet, packet, len), 0);
	CHECK(!ws_bunch_hold(&bunch, packet, len, 0, 15000, 100000, now + 15 * MS));
	bunch.count = 0;
	/* Not again before it is time. */
	CHECK(!ws_bunch_hold(&bunch, packet, len, 0, 15000, 100000, now + 99 * MS));
	CHECK(ws_bunch_hold(&bunch, packet, len, 0, 15000, 100000, now + 100 * MS));
	bunch.count = 0;
	/* An hour is more than anybody means. */
	CHECK(ws_bunch_hold(&bunch, packet, len, 0, UINT32_MAX, 1, now + 200 * MS));
	CHECK_EQ(bunch.due_ns, now + 200 * MS + WS_BUNCH_MAX_US * UINT64_C(1000));
}

static void test_room(void)
{
	uint8_t packet[128];
	size_t len = acknowledge(packet, true, 32);

	start();
	for (uint32_t i = 0; i < WS_BUNCH_SLOTS; i++)
		CHECK(ws_bunch_hold(&bunch, packet, len, 0, 15000, 0, 1000 * MS));
	CHECK(!ws_bunch_hold(&bunch, packet, len, 0, 15000, 0, 1000 * MS));
	CHECK_EQ(bunch.count, WS_BUNCH_SLOTS);
}

/* In the core: who holds them, and when they go on. */

static uint32_t acks[1024], ack_count, flushes;

static void note_ack(void *arg, uint8_t *packet, size_t len, uint32_t flags)
{
	(void)arg;
	CHECK(len == 40 && ack_count < 1024);
	memcpy(&acks[ack_count], packet + 28, 4);
	/* With whom it came in, or from where it waited. */
	CHECK_EQ(!(flags & WS_MULTIPATH_HELD), acks[ack_count] >= 1000);
	ack_count++;
}

static void note_flush(void *arg)
{
	(void)arg;
	flushes++;
}

static void receive_ack(struct ws_multipath *mp, uint32_t ack)
{
	uint8_t packet[40] = {0x45, [9] = 6, [32] = 5 << 4, [33] = 0x10};

	memcpy(packet + 28, &ack, 4);
	ws_multipath_data(mp, 0, 0, 0, WS_FRAME_FEEDBACK | WS_FRAME_URGENT, packet, 40, now_ns);
}

/* All that were noted, in order, from `first` on. */
static void check_bunch(uint32_t first, uint32_t count)
{
	CHECK_EQ(ack_count, count);
	for (uint32_t i = 0; i < ack_count; i++)
		CHECK_EQ(acks[i], first + i);
	ack_count = 0;
}

static void test_core(void)
{
	static const struct ws_multipath_ops note = {
		.send = quiet_send,
		.control = quiet_control,
		.deliver = note_ack,
		.flush = note_flush,
		.silent = quiet_silent,
	};
	struct ws_multipath_params tune = {.align = 1, .bunch_us = 15000, .bunch_every_us = 100000};
	struct ws_multipath *mp = ws_multipath_new(1500, &note, NULL);

	now_ns = 9000 * MS;
	ws_multipath_set_paths(mp, 3, 3, true, now_ns);
	ws_multipath_tune(mp, &tune);
	/* They leave together when it is time, and whoever asks is told when that is. */
	receive_ack(mp, 0);
	now_ns += 14 * MS;
	receive_ack(mp, 1);
	CHECK_EQ(ws_multipath_expiry(mp), now_ns + MS);
	ws_multipath_expire(mp, now_ns);
	check_bunch(0, 0);
	now_ns += MS;
	flushes = 0;
	ws_multipath_expire(mp, now_ns);
	check_bunch(0, 2);
	CHECK_EQ(flushes, 1);
	CHECK_EQ(ws_multipath_expiry(mp), UINT64_MAX);
	/* Not again yet. */
	now_ns += 84 * MS;
	receive_ack(mp, 1000);
	check_bunch(1000, 1);
	/* One that comes late, before anybody looked, goes behind them. */
	now_ns += MS;
	receive_ack(mp, 999);
	now_ns += 15 * MS;
	receive_ack(mp, 1000);
	check_bunch(999, 2);
	/* Without room all leave. */
	now_ns += 100 * MS;
	for (uint32_t i = 0; i <= 256; i++)
		receive_ack(mp, 744 + i);
	check_bunch(744, 257);
	/* Nothing is lost with a peer that begins anew, nor with keys that end. */
	now_ns += 100 * MS;
	receive_ack(mp, 7);
	ws_multipath_reset(mp, now_ns);
	check_bunch(7, 1);
	now_ns += 100 * MS;
	receive_ack(mp, 8);
	ws_multipath_forget(mp, now_ns);
	check_bunch(8, 1);
	CHECK_EQ(ws_multipath_stats(mp)->bunched, 2 + 1 + 256 + 2);
	ws_multipath_free(mp);
}

int main(void)
{
	bunch.slots = malloc(sizeof(*bunch.slots) * WS_BUNCH_SLOTS);
	CHECK(bunch.slots != NULL);
	if (!bunch.slots)
		return check_done();
	test_kinds();
	test_times();
	test_room();
	test_core();
	free(bunch.slots);
	return check_done();
}
