/* SPDX-License-Identifier: MIT */
/*
 * Each constant of the window, just below and just above: half or double of one turns a check red. ACKs are
 * made, of a path with a least round trip of 20 ms. SAME_PERMILLE shows in the model of test_window.c, and of
 * WS_WINDOW_RATES the exact number does not matter: as many places hold the same time in smaller steps.
 */
#ifndef WS_TEST_WINDOW_BOUNDS_H
#define WS_TEST_WINDOW_BOUNDS_H

#include "check.h"
#include "multipath/window.h"

struct made {
	struct ws_window w;
	struct ws_window_ack ack;
};

/* So many packets arrive in one ACK, after as many ms, and behind so much of a queue. The window is full. */
static void arrive(struct made *m, uint64_t packets, uint64_t lost, uint32_t queue_us, uint64_t ms)
{
	m->ack.now_ns += ms * MS_NS;
	m->ack.highest += packets;
	m->ack.next_number = m->ack.highest + 1;
	m->ack.lost += lost;
	m->ack.acked_bytes = (packets - lost) * WS_PACKET_BYTES;
	m->ack.delivered_bytes += m->ack.acked_bytes;
	m->ack.delay_us = 1000 + queue_us;
	m->ack.rtt_us = 20000 + queue_us;
	ws_window_used(&m->w, m->w.bytes);
	ws_window_ack(&m->w, &m->ack);
}

/* Its start is over, of 200 packets, the first round as well. */
static struct made settled(void)
{
	struct made m = {.ack = {.now_ns = S_NS, .waiting = true}};

	ws_window_init(&m.w, 0, 0);
	m.w.starting = false;
	arrive(&m, 100, 0, 0, 1);
	m.w.bytes = 200 * WS_PACKET_BYTES;
	m.w.roomy = false;
	m.w.round_least_us = UINT32_MAX;
	m.w.cut_number = m.ack.highest;
	m.w.swing_us = 0;
	m.w.interval_ns = m.ack.now_ns;
	return m;
}

/* By how much the window moves where this queue stands, bytes. */
static int moves(struct made m, uint32_t queue_us)
{
	uint64_t before;

	/* No round ends meanwhile, nor does the swing fade. */
	m.w.round_end = UINT64_MAX;
	for (int i = 0; i < 2; i++)
		m.w.standing_us[i] = queue_us;
	m.w.most_us = queue_us;
	before = m.w.bytes;
	arrive(&m, 20, 0, queue_us, 1);
	return (int)(m.w.bytes - before);
}

static void aims(void)
{
	static const struct {
		uint32_t brief, swing_us, below_us, above_us;
		uint64_t buffer_bytes;
	} aims[] = {
		{0, 0, 3500, 7000, UINT64_MAX}, /* TARGET_LEAST_US */
		{0, 100000, 35000, 70000, UINT64_MAX}, /* TARGET_MOST_US */
		{1, 100000, 14000, 28000, UINT64_MAX}, /* TARGET_BRIEF_US */
		{0, 0, 1400, 2800, 1}, /* BUFFER_LEAST_US */
	};

	for (uint32_t i = 0; i < sizeof(aims) / sizeof(*aims); i++) {
		struct made m = settled();

		m.ack.brief = aims[i].brief;
		m.w.swing_us = aims[i].swing_us;
		m.w.buffer_bytes = aims[i].buffer_bytes;
		m.w.buffer_ns = m.ack.now_ns;
		CHECK(moves(m, aims[i].below_us) > 0);
		CHECK(moves(m, aims[i].above_us) < 0);
	}
}

/* INTERVAL_NS: what is least stands for one to two of them. SWING_FALL: of the way down in each. */
static void intervals(void)
{
	struct made m = settled();
	uint64_t before = m.w.bytes;

	m.w.round_end = UINT64_MAX;
	arrive(&m, 1, 0, 0, 100); /* an interval begins */
	for (int ms = 0; ms < 150; ms += 10)
		arrive(&m, 1, 0, 30000, 10);
	CHECK(m.w.bytes >= before);
	before = m.w.bytes;
	for (int ms = 150; ms < 280; ms += 10)
		arrive(&m, 1, 0, 30000, 10);
	CHECK(m.w.bytes < before);
	m = settled();
	m.w.swing_us = 40000;
	arrive(&m, 1, 0, 0, 100);
	CHECK(m.w.swing_us > 32000 && m.w.swing_us < 37000);
}

/* What an ACK frees leaves at once: a queue that moves by no more than that, between two, does not swing. One
 * packet is no burst. */
static void own_bursts_are_no_swing(void)
{
	static const struct {
		uint64_t packets, ms;
		int64_t least_us, most_us;
	} bursts[] = {
		{20, 1, 2000, 2800}, {20, 3, 400, 700}, {20, 8, 400, 700}, {1, 4, 2900, 3100}};

	for (uint32_t i = 0; i < sizeof(bursts) / sizeof(*bursts); i++) {
		struct made m = settled();

		m.w.round_end = UINT64_MAX;
		for (int n = 0; n < 1000; n++)
			arrive(&m, bursts[i].packets, 0, 5000 + n % 2 * 3000, bursts[i].ms);
		CHECK(m.w.swing_us >= bursts[i].least_us);
		CHECK(m.w.swing_us <= bursts[i].most_us);
	}
}

/* A queue that stood for WS_MEMORY_NS and more is let run empty before what was less is forgotten; what that
 * shows is no swing of the path's, no room, and moves no window. */
static void runs_empty(void)
{
	for (uint32_t queue_us = 500; queue_us <= 5000; queue_us += 4500) {
		struct made m = settled();
		uint64_t before;

		for (int ms = 0; ms < 9900; ms += 100)
			arrive(&m, 1, 0, queue_us, 100);
		CHECK_EQ(ws_window_may(&m.w), m.w.bytes);
		before = m.w.bytes;
		m.w.swing_us = 0;
		m.w.rest_until_ns = UINT64_MAX;
		arrive(&m, 1, 0, queue_us, 200);
		CHECK_EQ(ws_window_may(&m.w) < before, queue_us == 5000);
		if (queue_us < 5000)
			continue;
		CHECK_EQ(ws_window_may(&m.w), before * 20 / 30);
		m.w.rest_until_ns = 0;
		arrive(&m, 1, 0, 0, 20);
		CHECK_EQ(ws_window_may(&m.w), before * 20 / 30 + WS_PACKET_BYTES);
		for (int i = 0; i < 10; i++)
			arrive(&m, 16, 0, i * 500, 20);
		CHECK_EQ(ws_window_may(&m.w), before);
		CHECK_EQ(m.w.bytes, before);
		CHECK(!m.w.roomy);
		CHECK_EQ(m.w.swing_us, 0);
		CHECK_EQ(ws_window_base_us(&m.w), 20000);
		for (int i = 0; i < 10; i++)
			arrive(&m, 20, 0, 1000, 20);
		CHECK(m.w.bytes > before);
	}
}

/* EMPTY_PART: a round whose queue ran below it. */
static void rooms(void)
{
	for (uint32_t queue_us = 900; queue_us <= 1800; queue_us += 900) {
		struct made m = settled();

		m.w.rest_until_ns = UINT64_MAX; /* it stays as it is, and so is in use */
		arrive(&m, 20, 0, queue_us, 10);
		CHECK_EQ(m.w.roomy, queue_us == 900);
	}
}

/* START_RTT_US, WS_RTT_PART, ROUND_PACKETS, MOST_BYTES. */
static void begins(void)
{
	struct made m = {.ack = {.now_ns = S_NS}};

	ws_window_init(&m.w, 0, 0);
	CHECK_EQ(m.w.bytes, 16 * 1500);
	CHECK_EQ(ws_window_rate_bps(&m.w), 2ULL * 16 * WS_PACKET_BYTES * 8 * 10);
	arrive(&m, 1, 0, 0, 1);
	arrive(&m, 1, 0, 20000, 1);
	CHECK(m.w.srtt_us > 23000 && m.w.srtt_us < 28000);
	m = settled();
	arrive(&m, 12, 0, 0, 1); /* ends the last one */
	CHECK_EQ(m.w.round_number, 100);
	arrive(&m, 12, 0, 0, 1);
	CHECK_EQ(m.w.round_number, 124);
	for (int i = 0; i < 100; i++)
		arrive(&m, 1000, 0, 0, 20);
	CHECK_EQ(m.w.bytes, 3500 * WS_PACKET_BYTES);
}

/* SLOW_PART: of the growth above what a cut left. */
static void slowly(void)
{
	struct made m = settled();

	m.w.swing_us = 100000;
	CHECK_EQ(moves(m, 0), 20 * WS_PACKET_BYTES);
	m.w.high_bytes = m.w.bytes - 1;
	CHECK(moves(m, 0) > 3 * WS_PACKET_BYTES && moves(m, 0) < 8 * WS_PACKET_BYTES);
}

/* What a round of `sent` packets with this loss, and this queue, makes of the window. */
static struct made lossy(struct made m, uint64_t sent, uint64_t lost, uint32_t queue_us)
{
	arrive(&m, sent, lost, queue_us, 20);
	return m;
}

static void losses(void)
{
	static const struct {
		uint32_t own_permille, sent, lost;
		bool ours;
	} rounds[] = {
		{0, 20, 2, false}, /* LOSSES */
		{0, 20, 4, true},     {0, 100, 4, false}, /* LOSS_PERMILLE */
		{0, 100, 7, true},    {100, 100, 17, false}, /* CHANCE_PERMILLE */
		{100, 100, 24, true},
	};

	for (uint32_t i = 0; i < sizeof(rounds) / sizeof(*rounds); i++) {
		struct made m = settled();

		m.w.own_permille = rounds[i].own_permille;
		m.w.own_ns = m.ack.now_ns;
		m = lossy(m, rounds[i].sent, rounds[i].lost, 6000);
		CHECK_EQ(m.w.doubt == WS_WINDOW_CUT, rounds[i].ours);
		CHECK_EQ(m.w.bytes < 190 * WS_PACKET_BYTES, rounds[i].ours);
	}
}

/* CUT_PERMILLE; BUFFER_PERMILLE, BUFFER_GROWTH_PERMILLE: of 200 packets 60 stand in the buffer. */
static void cuts(void)
{
	struct made m = settled();
	uint64_t buffer;

	m.w.used_before_bytes = m.w.bytes;
	m = lossy(m, 100, 10, 8571);
	CHECK(m.w.bytes > 150 * WS_PACKET_BYTES && m.w.bytes < 190 * WS_PACKET_BYTES);
	/* Of a round that lost more, what arrived. */
	CHECK(lossy(settled(), 100, 40, 8571).w.bytes < 135 * WS_PACKET_BYTES);
	CHECK(lossy(settled(), 100, 40, 8571).w.bytes > 105 * WS_PACKET_BYTES);
	buffer = m.w.buffer_bytes;
	CHECK(buffer > 33 * WS_PACKET_BYTES && buffer < 52 * WS_PACKET_BYTES);
	for (int ms = 0; ms <= 1000; ms += 100)
		arrive(&m, 1, 0, 6000, 100);
	CHECK(m.w.buffer_bytes * 100 > buffer * 107);
	CHECK(m.w.buffer_bytes * 100 < buffer * 118);
}

/* PROBE_NS: it looks up by a packet, then by ever more; what that loses it gives back, and rests. What is lost
 * while it rests it takes off, and asks anew if that does not help. */
static void looks_up(struct made m)
{
	uint64_t high = m.w.high_bytes;

	arrive(&m, 40, 0, 0, 20);
	CHECK(m.w.bytes > high && m.w.bytes <= high + WS_PACKET_BYTES);
	for (int round = 0; round < 5; round++)
		arrive(&m, 40, 0, 0, 20);
	CHECK(m.w.bytes > high + 4 * WS_PACKET_BYTES);
	CHECK(m.w.high_bytes > high && m.w.high_bytes < m.w.bytes);
	high = m.w.high_bytes;
	arrive(&m, 50, 10, 0, 20);
	CHECK_EQ(m.w.bytes, high);
	for (int ms = 20; ms < 1900; ms += 20)
		arrive(&m, 40, 0, 0, 20);
	CHECK_EQ(m.w.bytes, high);
	for (int ms = 1900; ms < 2200; ms += 20)
		arrive(&m, 40, 0, 0, 20);
	CHECK(m.w.bytes > high);
	m.w.bytes = m.w.high_bytes = high;
	m.w.rest_until_ns = m.ack.now_ns + S_NS;
	arrive(&m, 40, 8, 0, 20);
	CHECK_EQ(m.w.bytes, high * 800 / 1000);
	for (int round = 0; round < 3; round++) {
		CHECK_EQ(m.w.doubt, WS_WINDOW_CUT);
		arrive(&m, 40, 8, 0, 20);
	}
	CHECK_EQ(m.w.doubt, WS_WINDOW_TRIAL);
}

/* TRIAL_LOST are gone before half of what a round sends is tried, and again would be of the path's own;
 * OWN_PART: of 180 permille 70 are, 45 are not, and 100 are soon. */
static void trials(void)
{
	for (uint32_t own = 0; own < 3; own++) {
		struct made m = lossy(settled(), 100, 18, 0);

		CHECK_EQ(m.w.doubt, WS_WINDOW_CUT);
		arrive(&m, 20, 0, 0, 1); /* sent before it */
		arrive(&m, 60, 11, 0, 1);
		CHECK_EQ(m.w.doubt, WS_WINDOW_CUT);
		arrive(&m, 40, 7, 0, 1);
		CHECK_EQ(m.w.doubt, WS_WINDOW_TRIAL);
		CHECK_EQ(m.w.trial_bytes, 50 * WS_PACKET_BYTES);
		arrive(&m, 20, 0, 0, 1);
		arrive(&m, 60, own == 2 ? 6 : own ? 4 : 2, 0, 1);
		CHECK_EQ(m.w.doubt == WS_WINDOW_TRIAL, own < 2);
		if (own < 2)
			arrive(&m, 45, own ? 3 : 2, 0, 1);
		CHECK_EQ(m.w.doubt, WS_WINDOW_CALM);
		CHECK_EQ(m.w.policed_ns > 0, !own);
		if (own) {
			CHECK_EQ(m.w.bytes, m.w.before_bytes);
			continue;
		}
		CHECK_EQ(m.w.bytes, m.w.trial_bytes * (1000 - 180 + m.w.own_permille) / 1000);
		looks_up(m);
	}
}

/* What loses is paced, so that bursts are not what loses; for two WS_MEMORY_NS. */
static void paces(void)
{
	struct made m = settled();

	CHECK_EQ(ws_window_pace_bps(&m.w), UINT64_MAX);
	m = lossy(m, 100, 18, 0);
	for (uint64_t ms = 0; ms < 9900; ms += 100) {
		arrive(&m, 20, 0, 0, 100);
		CHECK_EQ(ws_window_pace_bps(&m.w), m.w.bytes * 8 * 50);
	}
	m.w.starting = true;
	CHECK_EQ(ws_window_pace_bps(&m.w), 2 * m.w.bytes * 8 * 50);
	arrive(&m, 20, 0, 0, 200);
	CHECK_EQ(ws_window_pace_bps(&m.w), UINT64_MAX);
}

/* What was missing may come late: fewer are lost than were. */
static void late_ones(void)
{
	for (int doubt = WS_WINDOW_CUT; doubt <= WS_WINDOW_TRIAL; doubt++) {
		struct made m = settled();

		m.w.doubt = doubt;
		m.w.trial_bytes = m.w.before_bytes = m.w.bytes;
		m.w.cut_permille = 100;
		m.w.judge_lost = m.ack.lost + 30;
		m.w.round_lost = m.ack.lost;
		m.w.cut_number = m.w.round_number = m.ack.highest;
		arrive(&m, 200, 24, 0, 20);
		CHECK(m.w.bytes > 100 * WS_PACKET_BYTES);
		CHECK(m.w.own_permille < 500);
	}
}

/* A path that was silent starts again, whatever it did before. */
static void starts_again(void)
{
	struct made m = settled();
	uint64_t before;

	m.w.policed_ns = m.ack.now_ns;
	m.w.rest_until_ns = m.ack.now_ns + 20 * S_NS;
	ws_window_collapse(&m.w, m.ack.next_number);
	before = m.w.bytes;
	arrive(&m, 20, 0, 0, 20);
	CHECK(m.w.bytes > before);
	CHECK_EQ(m.w.policed_ns, 0);
}

/* ROUND_LEAST_US: what came in less tells no rate. */
static void rates(void)
{
	for (uint64_t ms = 14; ms <= 28; ms += 14) {
		struct made m = {.ack = {.now_ns = S_NS}};

		ws_window_init(&m.w, 0, 0);
		arrive(&m, 1, 0, 0, 1);
		arrive(&m, 100, 0, 0, ms);
		CHECK_EQ(m.w.rate_bps > 0, ms == 28);
	}
}

/* WS_MEMORY_NS: the least is forgotten after one to two of them. */
static void remembers(void)
{
	struct made m = settled();

	for (int ms = 0; ms < 9500; ms += 100)
		arrive(&m, 1, 0, 5000, 100);
	CHECK_EQ(ws_window_base_us(&m.w), 20000);
	for (int ms = 9500; ms < 10500; ms += 100)
		arrive(&m, 1, 0, 5000, 100);
	CHECK_EQ(ws_window_base_us(&m.w), 25000);
}

/* START_TIMES: what a host of BBRs begins with, and what a round trip then adds. */
static void eager_starts(void)
{
	for (int eager = 0; eager <= 1; eager++) {
		struct made m = {.ack = {.now_ns = S_NS, .waiting = true}};

		ws_window_init(&m.w, 0, 0);
		ws_window_eager(&m.w, eager);
		CHECK_EQ(m.w.bytes, (eager ? 32 : 16) * WS_PACKET_BYTES);
		arrive(&m, m.w.bytes / WS_PACKET_BYTES, 0, 0, 20);
		CHECK_EQ(m.w.bytes, (eager ? 96 : 32) * WS_PACKET_BYTES);
		/* It is another's by now. */
		m.w.bytes = 10 * WS_PACKET_BYTES;
		ws_window_eager(&m.w, 0);
		ws_window_eager(&m.w, 1);
		CHECK_EQ(m.w.bytes, 10 * WS_PACKET_BYTES);
	}
}

/* Of a path that is not the nearest it takes TARGET_MOST_US of queue, for what it swings by is not known; of the
 * nearest what it does not swing by. */
static void far_starts_end_late(void)
{
	for (int nearest = 0; nearest <= 1; nearest++) {
		struct made m = {.ack = {.now_ns = S_NS, .waiting = true, .nearest = nearest}};

		ws_window_init(&m.w, 0, 0);
		arrive(&m, 16, 0, 0, 20);
		for (int i = 0; i < 20; i++)
			arrive(&m, 40, 0, 35000, 20);
		CHECK_EQ(m.w.starting, !nearest);
		for (int i = 0; i < 20; i++)
			arrive(&m, 40, 0, 55000, 20);
		CHECK(!m.w.starting);
	}
	/* START_END_PART: of a round trip of 20 ms. */
	for (int ended = 0; ended <= 1; ended++) {
		struct made m = {.ack = {.now_ns = S_NS, .waiting = true, .nearest = true}};

		ws_window_init(&m.w, 0, 0);
		arrive(&m, 16, 0, 0, 20);
		for (int i = 0; i < 20; i++)
			arrive(&m, 40, 0, ended ? 9000 : 7000, 20);
		CHECK_EQ(m.w.starting, !ended);
	}
	/* Nor by what it swings by at rest and those together. */
	for (int idle = 0; idle <= 1; idle++) {
		struct made m = {.ack = {.now_ns = S_NS, .waiting = true}};

		ws_window_init(&m.w, 0, 0);
		arrive(&m, 16, 0, 0, 20);
		m.w.idle_us = 30000;
		for (int i = 0; i < 20; i++)
			arrive(&m, 40, 0, idle ? 75000 : 85000, 20);
		CHECK_EQ(m.w.starting, idle);
	}
}

static void bounds(void)
{
	eager_starts();
	far_starts_end_late();
	aims();
	intervals();
	own_bursts_are_no_swing();
	runs_empty();
	rooms();
	begins();
	slowly();
	losses();
	cuts();
	trials();
	paces();
	late_ones();
	starts_again();
	rates();
	remembers();
}

#endif
