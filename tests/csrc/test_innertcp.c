/* SPDX-License-Identifier: MIT */
/* What comes for a BBR of this host's own is held from its SYN on (docs/multipath.md section 10). */
#include "check.h"

#include "multipath/multipath_internal.h"
#include "packet/frame.h"
#include "quiet.h"
#include "shared/wire.h"

#include <string.h>

#define US 1000ULL
#define MS 1000000ULL

enum {
	FIN = 0x01,
	SYN = 0x02,
	ACK = 0x10,
	QUICK_MS = 20,
	FAR_MS = 60,
	HOLD_MS = FAR_MS / 2 + 10 - QUICK_MS
};

static uint64_t now_ns;
static uint32_t delivered, last_len, seq, window;
static uint8_t ttl = 64; /* of what leaves */
static bool six;

static void on_deliver(void *arg, uint8_t *packet, size_t len, uint32_t flags)
{
	(void)arg, (void)flags;
	delivered++;
	window = ws_get16(packet + (six ? 40 : 20) + 14);
	last_len = (uint32_t)len;
}

static const struct ws_multipath_ops ops = {
	.send = quiet_send,
	.control = quiet_control,
	.deliver = on_deliver,
	.flush = quiet_flush,
	.silent = quiet_silent,
};

static void tune(struct ws_multipath *mp, uint32_t align, uint32_t far_ms)
{
	struct ws_multipath_params all = {.reorder_depth = 1024,
					  .repair_age_us = 1000000,
					  .path_idle_us = 500000,
					  .ack_interval_us = 10000,
					  .align = align};
	struct ws_path_params path = {.cap_permille = 1000, .max_packet = 1500};

	ws_multipath_tune(mp, &all);
	for (uint32_t i = 0; i < 2; i++) {
		path.srtt_us = 1000 * (i ? far_ms : QUICK_MS);
		ws_multipath_tune_path(mp, i, &path);
	}
	ws_multipath_pump(mp, now_ns);
}

static struct ws_multipath *two_paths(uint32_t align, uint32_t far_ms)
{
	struct ws_multipath *mp = ws_multipath_new(1500, &ops, NULL);

	CHECK(mp != NULL);
	now_ns = 9000 * MS;
	seq = 0;
	ws_multipath_set_paths(mp, 3, 3, WS_MULTIPATH_SPREAD, now_ns);
	tune(mp, align, far_ms);
	return mp;
}

/* Of the flow from this port of ours to 443, in either direction. */
static uint32_t make(uint8_t packet[1400], uint16_t port, bool out, uint8_t flags, uint32_t payload)
{
	static const uint8_t here[16] = {10, 0, 0, 1, [15] = 1},
			     there[16] = {10, 0, 0, 2, [15] = 2};
	uint32_t bytes = six ? 16 : 4, ip = six ? 40 : 20, len = ip + 20 + payload;
	uint8_t *tcp = packet + ip;

	memset(packet, 0, 1400);
	packet[0] = six ? 0x60 : 0x45;
	packet[six ? 4 : 2] = (uint8_t)((six ? len - ip : len) >> 8);
	packet[six ? 5 : 3] = (uint8_t)(six ? len - ip : len);
	packet[six ? 7 : 8] = out ? ttl : 50;
	packet[six ? 6 : 9] = 6;
	memcpy(tcp - 2 * bytes, out ? here : there, bytes);
	memcpy(tcp - bytes, out ? there : here, bytes);
	tcp[out ? 0 : 2] = (uint8_t)(port >> 8);
	tcp[out ? 1 : 3] = (uint8_t)port;
	tcp[out ? 2 : 0] = 1;
	tcp[out ? 3 : 1] = 187;
	tcp[12] = 0x50;
	tcp[13] = flags;
	return len;
}

static void leaves(struct ws_multipath *mp, uint16_t port, uint8_t flags)
{
	uint8_t packet[1400];
	uint32_t len = make(packet, port, true, flags, 0);

	ws_multipath_send(mp, packet, 20, packet + 20, len - 20, 0, 0, false, now_ns);
}

/* A packet for it comes: for how long it waits, ms. */
static uint32_t waits_ms(struct ws_multipath *mp, uint16_t port, uint8_t flags, uint32_t payload)
{
	static uint64_t number;
	uint8_t packet[1400];
	uint32_t len = make(packet, port, false, flags, payload), before = delivered, waited = 0;
	bool urgent = !payload;

	ws_multipath_received(mp, 0, ++number, 200, now_ns);
	ws_multipath_data(mp, 0, (uint32_t)(now_ns / US) & 0xffffff, urgent ? 0 : seq++,
			  WS_FRAME_FEEDBACK | (urgent ? WS_FRAME_URGENT : 0), packet, len, now_ns);
	for (; delivered == before && waited < 1000; waited++, now_ns += MS)
		ws_multipath_tick(mp, now_ns);
	CHECK_EQ(last_len, len);
	/* Nothing else is on its way. */
	now_ns += 60 * MS;
	ws_multipath_tick(mp, now_ns);
	return waited ? waited - 1 : 0;
}

/* Whoever began it. All that comes for it: an answer carries its acknowledgement as well. */
static void held_from_the_first_packet_on(void)
{
	struct ws_multipath *mp = two_paths(WS_ALIGN_BBR, FAR_MS);

	leaves(mp, 1000, SYN);
	CHECK_EQ(waits_ms(mp, 1000, SYN | ACK, 0), HOLD_MS);
	CHECK_EQ(waits_ms(mp, 1000, ACK, 0), HOLD_MS);
	CHECK_EQ(waits_ms(mp, 1000, ACK, 1300), HOLD_MS);
	CHECK_EQ(waits_ms(mp, 1000, ACK, 50), HOLD_MS);
	CHECK_EQ(waits_ms(mp, 2000, SYN, 0), 0);
	leaves(mp, 2000, SYN | ACK);
	CHECK_EQ(waits_ms(mp, 2000, ACK, 0), HOLD_MS);
	/* One whose beginning was not seen. */
	CHECK_EQ(waits_ms(mp, 3000, ACK, 0), 0);
	CHECK_EQ(waits_ms(mp, 3000, ACK, 1300), 0);
	/* Switched off. */
	tune(mp, WS_ALIGN_TCP, FAR_MS);
	CHECK_EQ(waits_ms(mp, 1000, ACK, 0), 0);
	CHECK_EQ(waits_ms(mp, 1000, ACK, 1300), 0);
	ws_multipath_free(mp);
}

/* A round trip that grew would be more than twice the least. */
static void as_long_as_at_first(void)
{
	struct ws_multipath *mp = two_paths(WS_ALIGN_BBR, QUICK_MS);

	leaves(mp, 1000, SYN);
	CHECK_EQ(waits_ms(mp, 1000, SYN | ACK, 0), 0);
	tune(mp, WS_ALIGN_BBR, FAR_MS);
	leaves(mp, 2000, SYN);
	CHECK_EQ(waits_ms(mp, 1000, ACK, 0), 0);
	CHECK_EQ(waits_ms(mp, 2000, ACK, 0), HOLD_MS);
	tune(mp, WS_ALIGN_BBR, FAR_MS + 20);
	CHECK_EQ(waits_ms(mp, 2000, ACK, 0), HOLD_MS);
	/* The same line, so the same time, until nobody has it any more. */
	leaves(mp, 3000, SYN);
	CHECK_EQ(waits_ms(mp, 3000, ACK, 0), HOLD_MS);
	now_ns += 7000 * MS;
	leaves(mp, 3500, SYN);
	CHECK_EQ(waits_ms(mp, 3500, ACK, 0), HOLD_MS);
	now_ns += 11000 * MS;
	leaves(mp, 4000, SYN);
	CHECK_EQ(waits_ms(mp, 4000, ACK, 0), HOLD_MS + 10);
	ws_multipath_free(mp);
}

/* What it is sent it has at once, in its order. */
static void who_receives_is_let_go(void)
{
	struct ws_multipath *mp = two_paths(WS_ALIGN_BBR, FAR_MS);
	uint8_t packet[1400];
	uint32_t len, before;

	leaves(mp, 1000, SYN);
	for (int i = 0; i < 16; i++)
		CHECK_EQ(waits_ms(mp, 1000, ACK, 1300), HOLD_MS);
	/* Small ones are no download. */
	for (int i = 0; i < 50; i++)
		CHECK_EQ(waits_ms(mp, 1000, ACK, 200), HOLD_MS);
	leaves(mp, 2000, SYN);
	before = delivered;
	len = make(packet, 1000, false, ACK, 200);
	ws_multipath_data(mp, 0, 0, seq++, WS_FRAME_FEEDBACK, packet, len, now_ns);
	len = make(packet, 1000, false, ACK, 1300);
	ws_multipath_data(mp, 0, 0, seq++, WS_FRAME_FEEDBACK, packet, len, now_ns);
	CHECK_EQ(delivered, before);
	now_ns += HOLD_MS * MS;
	ws_multipath_tick(mp, now_ns);
	CHECK_EQ(delivered, before + 2);
	CHECK_EQ(last_len, len);
	ws_multipath_data(mp, 0, 0, seq++, WS_FRAME_FEEDBACK, packet, len, now_ns);
	CHECK_EQ(delivered, before + 3);
	ws_multipath_free(mp);
}

/* No BBR, paths that need none of it, one path: nobody waits, nor does who began there later. */
static void who_needs_it(void)
{
	struct ws_multipath *mp = two_paths(WS_ALIGN_TCP, FAR_MS);

	leaves(mp, 1000, SYN);
	CHECK_EQ(waits_ms(mp, 1000, SYN | ACK, 0), 0);
	ws_multipath_free(mp);

	mp = two_paths(WS_ALIGN_BBR, QUICK_MS);
	leaves(mp, 1000, SYN);
	CHECK_EQ(waits_ms(mp, 1000, SYN | ACK, 0), 0);
	ws_multipath_free(mp);

	mp = two_paths(WS_ALIGN_BBR, QUICK_MS + 101);
	leaves(mp, 1000, SYN);
	CHECK_EQ(waits_ms(mp, 1000, SYN | ACK, 0), 0);
	ws_multipath_free(mp);

	/* Others', that we forward. */
	mp = two_paths(WS_ALIGN_BBR, FAR_MS);
	leaves(mp, 1000, SYN);
	ttl = 63;
	leaves(mp, 1000, SYN);
	leaves(mp, 2000, SYN | ACK);
	CHECK_EQ(waits_ms(mp, 1000, SYN | ACK, 0), 0);
	CHECK_EQ(waits_ms(mp, 2000, ACK, 0), 0);
	ttl = 64;
	ws_multipath_free(mp);

	mp = two_paths(WS_ALIGN_BBR, FAR_MS);
	leaves(mp, 1000, SYN);
	CHECK_EQ(waits_ms(mp, 1000, ACK, 0), HOLD_MS);
	ws_multipath_set_paths(mp, 3, 1, WS_MULTIPATH_KEEP, now_ns);
	leaves(mp, 1000, SYN);
	CHECK_EQ(waits_ms(mp, 1000, ACK, 0), 0);
	ws_multipath_set_paths(mp, 3, 3, WS_MULTIPATH_SPREAD, now_ns);
	tune(mp, WS_ALIGN_BBR, FAR_MS);
	CHECK_EQ(waits_ms(mp, 1000, ACK, 0), 0);
	ws_multipath_free(mp);
}

/* WS_INNER_FLOWS: of as many flows two thirds have a place of their own. */
static void places(void)
{
	struct ws_multipath *mp = two_paths(WS_ALIGN_BBR, FAR_MS);
	uint32_t held = 0;

	for (int i = 0; i < 1024; i++)
		leaves(mp, (uint16_t)check_random(), SYN);
	for (uint32_t i = 0; i < WS_INNER_FLOWS; i++)
		held += mp->inner.flows[i].held;
	CHECK(held > 550 && held < 750);
	ws_multipath_free(mp);
}

static void with_scale(uint8_t packet[1400], uint32_t len)
{
	static const uint8_t option[8] = {4, 2, 1, 3, 3, 7, 1, 1};
	uint8_t *tcp = packet + len - 28;

	tcp[12] = 0x70;
	if (tcp[13] & ACK)
		ws_put32(tcp + 8, 1);
	memcpy(tcp + 20, option, sizeof(option));
}

/* What a TCP of ours is told that it may send, with 20 packets of it waiting and nothing acknowledged. */
static uint32_t told(uint32_t align, uint32_t flows, uint64_t mean_bps)
{
	struct ws_multipath *mp = two_paths(align, QUICK_MS);
	uint8_t packet[1400];
	uint32_t len;

	mp->tx[1].window.mean_bps = mean_bps;
	for (uint16_t port = 1000; port < 1000 + flows; port++) {
		len = make(packet, port, true, SYN, 8);
		with_scale(packet, len);
		ws_multipath_send(mp, packet, 20, packet + 20, len - 20, 0, 0, false, now_ns);
		len = make(packet, port, false, SYN | ACK, 8);
		with_scale(packet, len);
		ws_multipath_data(mp, 0, 0, 0, WS_FRAME_FEEDBACK | WS_FRAME_URGENT, packet, len,
				  now_ns);
		for (uint32_t i = 0; i < 20; i++) {
			len = make(packet, port, true, ACK, 1300);
			ws_put32(packet + len - 1320 + 4, 1000 + 1300 * i);
			ws_multipath_send(mp, packet, 20, packet + 20, len - 20, 0, 0, false,
					  now_ns);
		}
	}
	len = make(packet, 1000, false, ACK, 0);
	ws_put32(packet + len - 20 + 8, 1000);
	ws_put16(packet + len - 20 + 14, 0xffff);
	window = 0;
	ws_multipath_data(mp, 0, 0, 0, WS_FRAME_FEEDBACK | WS_FRAME_URGENT, packet, len, now_ns);
	for (int i = 0; i < 100; i++, now_ns += MS)
		ws_multipath_tick(mp, now_ns);
	CHECK_EQ(ws_multipath_stats(mp)->queue_narrowed, align != WS_ALIGN_NOBODY);
	ws_multipath_free(mp);
	return window;
}

/* Two windows of 16 packets, or 125 ms of what the paths carry where that is more, among the flows that wait, less what waits of it (in units of 128): BBR_TIMES as
 * much for a BBR of this host's own. */
static void no_more_waits_than_the_windows(void)
{
	uint32_t under_way = 20 * 1300, waits = 20 * 1340, windows = 2 * 16 * 1500;
	uint32_t eager = 2 * windows; /* of a host of BBRs */

	CHECK_EQ(told(WS_ALIGN_TCP, 1, 0), (under_way + windows - waits + 127) / 128);
	/* Two packets at least, or its sender waits for all that is under way. */
	CHECK_EQ(told(WS_ALIGN_TCP, 2, 0), (under_way + 2 * 1500 + 127) / 128);
	CHECK_EQ(told(WS_ALIGN_BBR, 1, 0), (under_way + 4 * eager - waits + 127) / 128);
	CHECK_EQ(told(WS_ALIGN_TCP, 1, 3072000), (under_way + windows - waits + 127) / 128);
	CHECK_EQ(told(WS_ALIGN_TCP, 1, 16000000), (under_way + 250000 - waits + 127) / 128);
	ttl = 63;
	CHECK_EQ(told(WS_ALIGN_BBR, 1, 0), (under_way + eager - waits + 127) / 128);
	ttl = 64;
	CHECK_EQ(told(WS_ALIGN_NOBODY, 1, 0), 0xffff);
}

#define MSS 1300

/* Data of ours, from this packet on. */
static void sends(struct ws_multipath *mp, uint16_t port, uint32_t from, uint32_t count)
{
	uint8_t packet[1400];

	for (uint32_t i = from; i < from + count; i++) {
		uint32_t len = make(packet, port, true, ACK, MSS);

		ws_put32(packet + len - MSS - 20 + 4, 1000 + MSS * i);
		ws_multipath_send(mp, packet, 20, packet + 20, len - 20, 0, 0, false, now_ns);
	}
}

/* Whether an acknowledgement up to this packet is passed on. */
static bool hears(struct ws_multipath *mp, uint16_t port, uint32_t packets, uint8_t flags,
		  uint32_t payload)
{
	uint8_t packet[1400];
	uint32_t len = make(packet, port, false, flags, payload), before = delivered;

	ws_put32(packet + len - payload - 20 + 8, 1000 + MSS * packets);
	ws_put16(packet + len - payload - 20 + 14, 0xffff);
	ws_multipath_data(mp, 0, 0, 0, WS_FRAME_FEEDBACK | WS_FRAME_URGENT, packet, len, now_ns);
	return delivered > before;
}

static void begins(struct ws_multipath *mp, uint16_t port)
{
	uint8_t packet[1400];
	uint32_t len = make(packet, port, true, SYN, 8);

	with_scale(packet, len);
	ws_multipath_send(mp, packet, 20, packet + 20, len - 20, 0, 0, false, now_ns);
	len = make(packet, port, false, SYN | ACK, 8);
	with_scale(packet, len);
	ws_multipath_data(mp, 0, 0, 0, WS_FRAME_FEEDBACK | WS_FRAME_URGENT, packet, len, now_ns);
}

/* Of a round's packets, each acknowledged, how often it hears. */
static uint32_t heard(struct ws_multipath *mp, uint32_t from, uint32_t count)
{
	uint32_t times = 0;

	sends(mp, 1000, from, count);
	for (uint32_t i = from + 1; i <= from + count; i++)
		times += hears(mp, 1000, i, ACK, 0);
	return times;
}

/* The first of a round, each fourth part of it, and the last of all. */
static void a_start_is_told_in_few_acknowledgements(void)
{
	struct ws_multipath *mp = two_paths(WS_ALIGN_TCP, QUICK_MS);
	uint32_t from = 0;

	begins(mp, 1000);
	/* Fewer than HyStart judges, also when they are twice as many. */
	CHECK_EQ(heard(mp, from, 9), 9);
	for (int round = 0; round < 8; round++)
		CHECK_EQ(heard(mp, from += round ? 40 : 9, 40), 5);
	/* By then it has all that there may be. */
	CHECK_EQ(heard(mp, from += 40, 40), 40);
	ws_multipath_free(mp);

	/* A BBR, what others send, and with all of it switched off. */
	for (int i = 0; i < 3; i++) {
		mp = two_paths(i == 1 ? WS_ALIGN_BBR
			       : i    ? WS_ALIGN_NOBODY
				      : WS_ALIGN_TCP,
			       QUICK_MS);
		ttl = i ? 64 : 63;
		begins(mp, 1000);
		CHECK_EQ(heard(mp, 0, 40), 40);
		ws_multipath_free(mp);
	}
}

/* What tells of a loss, of an end, or comes with data; and nothing is held back from one that may be losing
 * patience. */
static void what_it_must_hear(void)
{
	struct ws_multipath *mp = two_paths(WS_ALIGN_TCP, QUICK_MS);
	uint8_t packet[1400];
	uint32_t len, before;

	begins(mp, 1000);
	sends(mp, 1000, 0, 80);
	CHECK(hears(mp, 1000, 1, ACK, 0));
	CHECK(!hears(mp, 1000, 3, ACK, 0));
	CHECK(hears(mp, 1000, 3, ACK, 0));
	CHECK(!hears(mp, 1000, 4, ACK, 0));
	CHECK(hears(mp, 1000, 2, ACK, 0));
	CHECK(hears(mp, 1000, 5, ACK | FIN, 0));
	CHECK(hears(mp, 1000, 6, ACK, 100));
	CHECK(!hears(mp, 1000, 7, ACK, 0));
	CHECK(hears(mp, 1000, 26, ACK, 0));
	now_ns += 99 * MS;
	CHECK(!hears(mp, 1000, 27, ACK, 0));
	now_ns += 1 * MS;
	CHECK(hears(mp, 1000, 28, ACK, 0));
	/* One that takes its turn leaves no hole there. */
	before = delivered;
	len = make(packet, 1000, false, ACK, 0);
	ws_put32(packet + len - 20 + 8, 1000 + MSS * 29);
	ws_multipath_data(mp, 0, 0, seq++, WS_FRAME_FEEDBACK, packet, len, now_ns);
	CHECK_EQ(delivered, before + 1);
	/* It has seen a loss: its start is over. */
	sends(mp, 1000, 40, 1);
	for (uint32_t i = 30; i < 40; i++)
		CHECK(hears(mp, 1000, i, ACK, 0));
	ws_multipath_free(mp);
}

int main(void)
{
	a_start_is_told_in_few_acknowledgements();
	what_it_must_hear();
	no_more_waits_than_the_windows();
	places();
	held_from_the_first_packet_on();
	six = true;
	held_from_the_first_packet_on();
	six = false;
	as_long_as_at_first();
	who_receives_is_let_go();
	who_needs_it();
	return check_done();
}
