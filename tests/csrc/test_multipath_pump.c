/* SPDX-License-Identifier: MIT */
/*
 * What is sent again waits as all else does, but before it (docs/multipath.md section 9), and what fits
 * only a far slower path blocks nobody (section 7).
 */
#include "flight.h"

static uint32_t queued(const struct ws_multipath *mp)
{
	return mp->resend_tail - mp->resend_head;
}

/* 60 are under way, of which the peer has 50 but for five; no path has room. */
static struct ws_multipath *five_lost(void)
{
	struct ws_multipath *mp = under_way(60);

	give_room(mp, 1, 0);
	tell(mp, 49, 10, 10, 5);
	give_room(mp, 0, 0);
	return mp;
}

static void what_is_lost_waits_for_room(void)
{
	struct ws_multipath *mp = five_lost();
	uint64_t credit = mp->again_credit;

	/* However often it is told of. */
	for (uint32_t i = 0; i < 10; i++, now_ns += 2 * MS_NS) {
		tell(mp, 50 + i / 2, 10, 10, 5);
		give_room(mp, 0, 0);
		ws_multipath_pump(mp, now_ns);
		CHECK_EQ(queued(mp), 5);
		CHECK_EQ(mp->slots[10].again, 1);
		CHECK_EQ(mp->again_credit, credit);
	}
	CHECK_EQ(went_count, 0);
	/* What comes now waits behind it. */
	hand(mp, 10, LEN);
	CHECK_EQ(went_count, 0);
	CHECK_EQ(mp->pump_ns, UINT64_MAX);
	/* Two of them have room on the other path, then all and as many more. */
	give_room(mp, 1, 2);
	ws_multipath_pump(mp, now_ns);
	CHECK_EQ(went_count, 2);
	CHECK_EQ(queued(mp), 3);
	give_room(mp, 1, 5);
	ws_multipath_pump(mp, now_ns);
	CHECK_EQ(queued(mp), 0);
	CHECK_EQ(went_count, 7);
	CHECK_EQ(copies, 5);
	for (uint32_t i = 0; i < 7; i++) {
		CHECK_EQ(went[i].seq, i < 5 ? 10 + i : 60 + i - 5);
		CHECK_EQ(went[i].again, i < 5);
		CHECK_EQ(went[i].path, 1);
	}
	CHECK(mp->sched.paths[1].in_flight_bytes <= mp->sched.paths[1].window_bytes);
	ws_multipath_free(mp);
}

/* An ACK that makes room wakes it, though nothing else waits. */
static void an_ack_makes_room(void)
{
	struct ws_multipath *mp = five_lost();

	ws_multipath_pump(mp, now_ns);
	CHECK_EQ(mp->pump_ns, UINT64_MAX);
	now_ns += MS_NS / 4; /* too soon to look for losses */
	tell(mp, 50, 10, 10, 5);
	CHECK(mp->pump_ns <= now_ns);
	/* Also while another path's pace is waited for. */
	ws_multipath_pump(mp, now_ns);
	mp->pump_ns = now_ns + 100 * MS_NS;
	now_ns += MS_NS / 4;
	tell(mp, 51, 10, 10, 5);
	CHECK(mp->pump_ns <= now_ns);
	ws_multipath_free(mp);
}

/* It came late, or by a copy: what waits of it goes nowhere. */
static void it_has_come(void)
{
	struct ws_multipath *mp = five_lost();

	tell(mp, 49, 13, 13, 2);
	give_room(mp, 0, 9);
	ws_multipath_pump(mp, now_ns);
	CHECK_EQ(went_count, 2);
	CHECK_EQ(went[0].seq, 13);
	CHECK_EQ(queued(mp), 0);
	ws_multipath_free(mp);
}

/* It waits already when its path is left, or when a path that was silent tells that it is lost. */
static void it_waits_already(void)
{
	struct ws_multipath *mp = five_lost();

	(void)mp_copy(mp, 0, now_ns);
	CHECK_EQ(queued(mp), 5 + 10);
	/* These five among them, as if nothing had come behind them. */
	mp->tx[0].acked = 10;
	(void)mp_copy(mp, 0, now_ns);
	CHECK_EQ(queued(mp), 60 - 10);
	ws_multipath_free(mp);

	mp = under_way(60);
	give_room(mp, 1, 0);
	CHECK_EQ(mp_copy(mp, 0, now_ns), 60);
	tell(mp, 49, 10, 10, 5);
	give_room(mp, 0, 0);
	ws_multipath_pump(mp, now_ns);
	/* The others up to there have come; ten may have come by now. */
	give_room(mp, 0, 60);
	ws_multipath_pump(mp, now_ns);
	CHECK_EQ(went_count, 5 + 10);
	CHECK_EQ(went[0].seq, 10);
	CHECK_EQ(went[5].seq, 50);
	ws_multipath_free(mp);
}

/* AGAIN_MOST, also where the window is full all the time between; then each one has to earn it. */
static void so_often_and_so_many(void)
{
	struct ws_multipath *mp = under_way(60);

	give_room(mp, 1, 0);
	for (uint32_t i = 0; i < 20; i++) {
		give_room(mp, 0, 0);
		mp_send_again(mp, 7, now_ns);
		ws_multipath_pump(mp, now_ns);
		CHECK_EQ(queued(mp), i < 4);
		give_room(mp, 0, 1);
		ws_multipath_pump(mp, now_ns);
	}
	CHECK_EQ(copies, 4);
	CHECK_EQ(mp->again_credit, 60 - 4);
	mp->again_credit = 3;
	give_room(mp, 0, 0);
	for (uint64_t seq = 20; seq < 60; seq++)
		mp_send_again(mp, seq, now_ns);
	CHECK_EQ(queued(mp), 3);
	CHECK_EQ(mp->again_credit, 0);
	ws_multipath_free(mp);
}

/* A copy that waited until its place in the ring was another's, which then waits there as well. */
static void the_ring_moved_on(void)
{
	struct ws_multipath *mp = five_lost();

	while (mp->seq_tail < RING + 12)
		(void)ws_multipath_seq(mp);
	mp->slots[10].sent_ns = now_ns;
	mp->slots[10].again = 0;
	mp->slots[10].queued = false;
	mp->slots[10].number = 58;
	mp->seq_base = RING + 10;
	mp_send_again(mp, RING + 10, now_ns);
	CHECK_EQ(queued(mp), 6);
	ws_multipath_pump(mp, now_ns);
	CHECK_EQ(queued(mp), 1);
	/* It still knows that it waits. */
	mp_send_again(mp, RING + 10, now_ns);
	CHECK_EQ(queued(mp), 1);
	give_room(mp, 0, 9);
	ws_multipath_pump(mp, now_ns);
	CHECK_EQ(went_count, 1);
	CHECK_EQ(went[0].seq, RING + 10);
	ws_multipath_free(mp);
}

/* A copy of the oldest one that is kept leaves before the next packet, which takes its place. `usable`: of one
 * path alone what another left behind does. */
static void the_oldest_and_the_newest(uint32_t usable)
{
	struct ws_multipath *mp = five_lost();

	mp->seq_base = 10;
	mp->seq_head = mp->seq_tail = RING + 10;
	give_room(mp, 1, 9);
	if (usable == 2)
		ws_multipath_set_paths(mp, 3, 0, WS_MULTIPATH_SPREAD, now_ns);
	hand(mp, 3, LEN - 100);
	if (usable == 2)
		ws_multipath_set_paths(mp, 3, 2, WS_MULTIPATH_ALONE, now_ns);
	CHECK(went_count >= 8);
	for (uint32_t i = 0; i < went_count; i++) {
		CHECK_EQ(went[i].again, went[i].seq < RING);
		CHECK_EQ(went[i].len, went[i].seq < RING ? LEN : LEN - 100);
	}
	ws_multipath_free(mp);
}

/* What a path left behind is queued as it is left: ACKs that still miss it queue nothing a second time. */
static void what_is_left_behind_leaves_once(void)
{
	struct ws_multipath *mp = under_way(40);

	tell(mp, 0, 1, 0, 0);
	give_room(mp, 1, 0);
	ws_multipath_set_paths(mp, 3, 2, WS_MULTIPATH_SPREAD, now_ns);
	CHECK_EQ(queued(mp), 39);
	for (uint32_t i = 1; i <= 10; i++) {
		now_ns += 2 * MS_NS;
		tell(mp, 0, 1, 1, 39);
		give_room(mp, 1, 5);
		ws_multipath_pump(mp, now_ns);
		CHECK_EQ(copies, i < 8 ? 5 * i : 39);
	}
	CHECK_EQ(queued(mp), 0);
	ws_multipath_free(mp);
}

/* A packet that only the farther of two paths takes, which has no room; behind it 20 that both take. How
 * many were dropped after so long. most: what path 0 takes. */
static uint32_t dropped(uint32_t usable, uint32_t far_us, uint32_t most, uint64_t after_ns)
{
	struct ws_multipath_params tune = {.repair = 1,
					   .repair_age_us = 1000000,
					   .ack_interval_us = 10000,
					   .align = WS_ALIGN_BBR};
	/* Of a BBR of this host's own: no loss tells it that it waits. */
	uint8_t bulk[LEN] = {0x45, [8] = 64, [9] = 6, [32] = 0x50};
	struct ws_multipath *mp = under_way(1);
	uint32_t drops;

	ws_multipath_tune(mp, &tune);
	ws_multipath_set_paths(mp, 3, usable, WS_MULTIPATH_SPREAD, now_ns);
	tell(mp, 0, 1, 0, 0); /* what is silent is later for that */
	tune_path(mp, 0, most, far_us);
	tune_path(mp, 1, LEN - 1, 20000);
	give_room(mp, 0, 0);
	give_room(mp, 1, 20);
	for (uint32_t i = 0; i < 20; i++) {
		size_t len = i ? LEN - 100 : LEN;

		bulk[25] = (uint8_t)i; /* its number: it sends none again */
		ws_multipath_send(mp, bulk, 20, bulk + 20, len - 20, 0, 0, true, now_ns);
	}
	for (uint64_t end_ns = now_ns + after_ns; now_ns < end_ns; now_ns += 10 * MS_NS) {
		ws_multipath_pump(mp, now_ns);
		if (mp->stats.queue_drops)
			break;
	}
	ws_multipath_pump(mp, now_ns);
	drops = (uint32_t)mp->stats.queue_drops;
	/* Those behind it go, or wait as long. */
	CHECK_EQ(went_count, drops * 19);
	ws_multipath_free(mp);
	return drops;
}

static void too_long_for_the_near_path(void)
{
	CHECK_EQ(dropped(3, 400000, LEN, 520 * MS_NS), 1);
	CHECK_EQ(dropped(3, 400000, LEN, 490 * MS_NS), 0); /* half of what it is worth */
	CHECK_EQ(dropped(3, 130000, LEN, 520 * MS_NS), 1); /* STUCK_NS: of delay and way back */
	CHECK_EQ(dropped(3, 110000, LEN, 900 * MS_NS), 0);
	CHECK_EQ(dropped(3, 20000, LEN, 900 * MS_NS), 0); /* they are alike */
	CHECK_EQ(dropped(1, 400000, LEN, 900 * MS_NS), 0); /* there is no other */
	/* None takes it: it goes by the roomiest, as WireGuard would send it. */
	CHECK_EQ(dropped(1, 400000, LEN - 1, 900 * MS_NS), 0);
}

/* The same of a copy. */
static void a_copy_that_is_too_long(void)
{
	for (uint32_t far_us = 20000; far_us <= 400000; far_us += 380000) {
		struct ws_multipath *mp = under_way(60);

		tune_path(mp, 0, LEN, far_us);
		tune_path(mp, 1, LEN - 1, 20000);
		give_room(mp, 1, 20);
		tell(mp, 59, 10, 10, 5);
		give_room(mp, 0, 0);
		now_ns += 490 * MS_NS;
		ws_multipath_pump(mp, now_ns);
		hand(mp, 3, LEN - 100);
		CHECK_EQ(queued(mp), 5);
		CHECK_EQ(went_count, 0);
		now_ns += 20 * MS_NS;
		ws_multipath_pump(mp, now_ns);
		CHECK_EQ(queued(mp), far_us == 20000 ? 5 : 0);
		CHECK_EQ(went_count, far_us == 20000 ? 0 : 3);
		CHECK_EQ(copies, 0);
		ws_multipath_free(mp);
	}
}

int main(void)
{
	what_is_lost_waits_for_room();
	an_ack_makes_room();
	it_has_come();
	it_waits_already();
	so_often_and_so_many();
	the_ring_moved_on();
	the_oldest_and_the_newest(3);
	the_oldest_and_the_newest(2);
	what_is_left_behind_leaves_once();
	too_long_for_the_near_path();
	a_copy_that_is_too_long();
	return check_done();
}
