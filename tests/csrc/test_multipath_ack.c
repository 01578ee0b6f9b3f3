/* SPDX-License-Identifier: MIT */
/*
 * What an ACK makes the sender do, at the bounds (docs/multipath.md section 9): each constant of
 * multipath_ack.c and of second copies, just below and just above.
 */
#include "flight.h"

#define DATAGRAM (1000 * 8 + 66 * 8) /* bits on the wire, about */

/* LATE_PART: with one later number a quarter more than a round trip is late. */
static void one_later_number(void)
{
	for (uint32_t ms = 118; ms <= 136; ms += 18) {
		struct ws_multipath *mp = under_way(10);

		mp->stats.paths[0].srtt_us = 100000;
		now_ns += ms * MS_NS;
		told(mp, 1, 0, 1);
		CHECK_EQ(copies, ms == 136);
		ws_multipath_free(mp);
	}
}

/* What a path carries that is known to have a queue of 5 ms: so many packets in so many ms. */
static void carries(struct ws_multipath *mp, uint32_t path, uint64_t packets, uint64_t ms)
{
	struct ws_window *w = &mp->tx[path].window;

	w->seen = true;
	w->srtt_us = w->rtt_us[0] = w->rtt_us[1] = 20000;
	w->bytes = 50 * WS_PACKET_BYTES;
	w->standing_us[0] = w->standing_us[1] = 5000;
	w->rate_bps = packets * 8 * mp_wire_bytes(LEN) * 1000 / ms;
	w->high_bytes = 1;
}

/* Twice WS_LATE_NS: 40 packets are ahead at a rate at which they take as long, less a round trip of 20 ms; the other
 * path takes half of that. Before them nothing is missing: the last one is late, not the first. */
static void late(void)
{
	for (uint64_t ms = 14; ms <= 28; ms += 14) {
		struct ws_multipath *mp = under_way(42);

		carries(mp, 0, 40, ms + 30);
		told(mp, 0, 40, 1);
		CHECK_EQ(copies, ms == 28);
		ws_multipath_free(mp);
	}
}

/* AGAIN_LATE_COST: 40 packets come after 210 ms. The other path would bring five times as many after 160 ms, or
 * after 230. */
static void late_is_worth_its_copies(void)
{
	for (uint64_t ms = 170; ms <= 240; ms += 70) {
		struct ws_multipath *mp = under_way(42);

		carries(mp, 0, 40, 230);
		carries(mp, 1, 200, ms);
		told(mp, 0, 40, 1);
		CHECK_EQ(copies, ms == 170);
		ws_multipath_free(mp);
	}
}

/* The first of a path is in time, and those behind it are not. */
static void the_first_is_in_time(void)
{
	struct ws_multipath *mp = under_way(42);

	mp->again_credit = 1000;
	carries(mp, 0, 40, 400);
	told(mp, 0, 1, 40);
	CHECK(copies > 30 && copies < 40);
	CHECK_EQ(went[copies - 1].seq, 40);
	ws_multipath_free(mp);
}

/* GAP_SEQS_MAX: however many a peer asks for. */
static void many_are_lost(void)
{
	struct ws_multipath *mp = under_way(1500);

	told(mp, 1499, 0, 900);
	CHECK(copies > 300 && copies < 900);
	ws_multipath_free(mp);
}

/* AGAIN_MOST: of one packet. AGAIN_LATE_COST: of what every packet earns; what is lost costs one. */
static void second_copies(void)
{
	struct ws_multipath *mp = under_way(60);

	for (int i = 0; i < 20; i++) {
		mp_send_again(mp, 0, now_ns);
		ws_multipath_pump(mp, now_ns);
	}
	CHECK_EQ(copies, 4);
	copies = 0;
	mp->again_credit = 20;
	for (uint64_t seq = 1; seq < 50; seq++)
		mp_send_also(mp, seq, 1, now_ns);
	CHECK_EQ(copies, 4);
	mp->again_credit = 20;
	for (uint64_t seq = 20; seq < 60; seq++)
		mp_send_again(mp, seq, now_ns);
	ws_multipath_pump(mp, now_ns);
	CHECK_EQ(copies, 24);
	ws_multipath_free(mp);
}

/* BRIEF_SLOWER_PART: the slowest path keeps its queue short; one that is slower by less does not take over. */
static void the_slowest_is_brief(void)
{
	for (uint64_t mbps = 75; mbps <= 86; mbps += 11) {
		struct ws_multipath *mp = under_way(10);

		mp->brief = 1;
		mp->tx[0].window.mean_bps = mp->tx[0].window.rate_bps = mbps * 1000000;
		mp->tx[0].window.mean_ns = now_ns;
		mp->tx[1].window.mean_bps = 100000000;
		told(mp, 1, 0, 1);
		CHECK_EQ(mp->brief, mbps == 75 ? 0 : 1);
		ws_multipath_free(mp);
	}
}

/* Nothing has come behind the fifth packet, which path 0 alone has: with a round trip of 70 ms path 1, of 20,
 * brings it and those behind it 25 ms sooner, with 50 not. What path 0 has brought is not sent, though the peer
 * awaits it: it may be held there. */
static void no_gap_tells_of_it(void)
{
	for (uint32_t ms = 50; ms <= 70; ms += 20) {
		struct ws_multipath *mp = under_way(10);

		mp->again_credit = 100;
		tune_path(mp, 0, 1500, 1000 * ms);
		tell(mp, 6, 4, 0, 0);
		CHECK_EQ(copies, ms == 70 ? 3 : 0);
		for (uint32_t i = 0; i < went_count; i++) {
			CHECK_EQ(went[i].seq, 7 + i);
			CHECK_EQ(went[i].path, 1);
		}
		/* Once. */
		forget_went();
		now_ns += 2 * MS_NS;
		tell(mp, 6, 4, 0, 0);
		CHECK_EQ(went_count, 0);
		ws_multipath_free(mp);
	}
}

/* Of ten the peer has the last one, and not the one before it: that is no loss yet, and none any more when its
 * path is left, for nobody waits for what it brings then. */
static void lost_before_its_path_was_left(void)
{
	struct ws_multipath *mp = under_way(10);

	told(mp, 9, 8, 1);
	CHECK_EQ(copies, 0);
	ws_multipath_set_paths(mp, 3, 2, WS_MULTIPATH_SPREAD, now_ns);
	for (uint32_t i = 0; i < 5; i++) {
		now_ns += 2 * MS_NS;
		told(mp, 9, 8, 1);
		CHECK_EQ(copies, 1);
	}
	ws_multipath_free(mp);
}

/* How much later path 1 is than path 0, by a clock that is ahead by so much; rtt_us: of each, at least. */
static int64_t later_us(int64_t first_us, int64_t second_us, uint32_t rtt_us, int64_t clock_us)
{
	struct ws_multipath *mp = under_way(1);
	int64_t delay_us[2] = {first_us, second_us}, later_us;

	for (uint32_t i = 0; i < 2; i++) {
		struct ws_window *w = &mp->tx[i].window;

		w->seen = true;
		w->delay_us[0] = w->delay_us[1] = (delay_us[i] + clock_us) & 0xffffff;
		w->rtt_us[0] = w->rtt_us[1] =
			delay_us[i] > rtt_us ? (uint32_t)delay_us[i] + rtt_us : rtt_us;
	}
	mp_load(mp, now_ns);
	later_us = mp->sched.paths[1].delay_us - mp->sched.paths[0].delay_us;
	ws_multipath_free(mp);
	return later_us;
}

/* Of 24 bits half is 8.4 s. */
static void nine_seconds_later(void)
{
	for (int64_t clock_us = 0; clock_us < 1 << 24; clock_us += 1000000) {
		CHECK_EQ(later_us(10000, 9010000, 20000, clock_us), 9000000);
		CHECK_EQ(later_us(9010000, 10000, 20000, clock_us), -9000000);
		CHECK_EQ(later_us(10000, 60000, 20000, clock_us), 50000);
		CHECK_EQ(later_us(60000, 10000, 20000, clock_us), -50000);
		/* Since the least was seen clocks drifted by more than a short round trip. */
		CHECK_EQ(later_us(-300, 200, 400, clock_us), 500);
		CHECK_EQ(later_us(200, -300, 400, clock_us), -500);
	}
}

int main(void)
{
	one_later_number();
	late();
	late_is_worth_its_copies();
	the_first_is_in_time();
	many_are_lost();
	second_copies();
	the_slowest_is_brief();
	no_gap_tells_of_it();
	lost_before_its_path_was_left();
	nine_seconds_later();
	return check_done();
}
