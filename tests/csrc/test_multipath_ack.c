/* SPDX-License-Identifier: MIT */
/*
 * What an ACK makes the sender do, at the bounds (docs/multipath.md section 9): each constant of
 * multipath_ack.c and of second copies, just below and just above.
 */
#include "check.h"

#include "multipath/multipath_internal.h"
#include "quiet.h"

#include <string.h>

#define LEN 1000
#define DATAGRAM (1000 * 8 + 66 * 8) /* bits on the wire, about */

static uint64_t now_ns;
static uint32_t copies;

static uint32_t count_copies(void *arg, uint32_t path, uint64_t number, const uint8_t *head,
			     uint8_t ecn, const uint8_t *packet, size_t len)
{
	(void)arg, (void)path, (void)number, (void)ecn, (void)packet;
	copies += (head[0] & WS_FRAME_AGAIN) != 0;
	return mp_wire_bytes((uint32_t)len);
}

static const struct ws_multipath_ops ops = {
	.send = count_copies,
	.control = quiet_control,
	.deliver = quiet_deliver,
	.flush = quiet_flush,
	.silent = quiet_silent,
};

/* So many packets leave over path 0 of two, whose windows take them all. */
static struct ws_multipath *under_way(uint32_t packets)
{
	struct ws_multipath_params tune = {
		.repair = 1, .repair_age_us = 1000000, .ack_interval_us = 10000};
	struct ws_path_params path = {.cap_permille = 1000, .max_packet = 1500, .srtt_us = 20000};
	uint8_t bulk[LEN] = {0x45, [9] = 47};
	struct ws_multipath *mp = ws_multipath_new(1500, &ops, NULL);

	CHECK(mp != NULL);
	now_ns = 9000 * MS_NS;
	copies = 0;
	ws_multipath_tune(mp, &tune);
	ws_multipath_set_paths(mp, 3, 3, WS_MULTIPATH_SPREAD, now_ns);
	for (uint32_t i = 0; i < 2; i++) {
		ws_multipath_tune_path(mp, i, &path);
		mp->tx[i].window.bytes = UINT32_MAX;
		mp->tx[i].window.starting = false;
	}
	/* Nothing leaves over the other one. */
	path.max_packet = LEN - 1;
	ws_multipath_tune_path(mp, 1, &path);
	for (uint32_t i = 0; i < packets; i++) {
		ws_multipath_send(mp, bulk, 20, bulk + 20, LEN - 20, 0, 0, true, now_ns);
		ws_multipath_pump(mp, now_ns);
	}
	CHECK_EQ(mp->tx[0].next_number, packets);
	path.max_packet = 1500;
	ws_multipath_tune_path(mp, 1, &path);
	return mp;
}

/* Datagrams of path 0 came up to `highest`, but for `count` seqs from `first` on. No round trip is told. */
static void told(struct ws_multipath *mp, uint32_t highest, uint32_t first, uint16_t count)
{
	uint8_t frame[WS_ACK_MAX_BYTES];
	struct ws_ack ack = {.path_count = 1, .gap_count = 1, .next_seq = first};

	ack.paths[0] = (struct ws_ack_path){
		.highest = highest, .datagrams = highest + 1 - count, .hold_16us = UINT16_MAX};
	ack.gaps[0] = (struct ws_ack_gap){first, count};
	CHECK(ws_multipath_ack(mp, frame, ws_ack_encode(&ack, frame), now_ns));
	ws_multipath_pump(mp, now_ns);
}

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

/* STUCK_NS: 40 packets are ahead at a rate at which they take as long, less a round trip of 20 ms; the other
 * path takes half of that. */
static void stuck(void)
{
	for (uint32_t ms = 70; ms <= 140; ms += 70) {
		struct ws_multipath *mp = under_way(42);
		struct ws_window *w = &mp->tx[0].window;

		w->srtt_us = w->rtt_us[0] = w->rtt_us[1] = 20000;
		w->bytes = 50 * WS_PACKET_BYTES;
		w->standing_us[0] = w->standing_us[1] = 5000;
		w->rate_bps = 40ULL * DATAGRAM * 1000 / (ms + 30);
		w->high_bytes = 1;
		told(mp, 0, 40, 1);
		CHECK_EQ(copies, ms == 140);
		ws_multipath_free(mp);
	}
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

int main(void)
{
	one_later_number();
	stuck();
	many_are_lost();
	second_copies();
	the_slowest_is_brief();
	return check_done();
}
