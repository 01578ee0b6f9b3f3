/* SPDX-License-Identifier: MIT */
/*
 * A multipath core with packets under way over path 0 of two, both of 20 ms, and what left since.
 */
#ifndef WS_TEST_FLIGHT_H
#define WS_TEST_FLIGHT_H

#include "check.h"

#include "multipath/multipath_internal.h"
#include "quiet.h"

#include <string.h>

#define LEN 1000

static uint64_t now_ns;
static uint32_t copies;

/* What left since `copies` was set to 0 last, as far as there is room. */
static struct went {
	uint32_t seq, len;
	uint8_t path;
	bool again;
} went[256];

static uint32_t went_count;

static uint32_t note_went(void *arg, uint32_t path, uint64_t number, const uint8_t *head,
			  uint8_t ecn, const uint8_t *packet, size_t len)
{
	bool again = head[0] & WS_FRAME_AGAIN;

	(void)arg, (void)number, (void)ecn, (void)packet;
	copies += again;
	if (went_count < sizeof(went) / sizeof(*went))
		went[went_count++] =
			(struct went){ws_frame_seq(head), (uint32_t)len, (uint8_t)path, again};
	return mp_wire_bytes((uint32_t)len);
}

static inline void forget_went(void)
{
	copies = went_count = 0;
}

static const struct ws_multipath_ops ops = {
	.send = note_went,
	.control = quiet_control,
	.deliver = quiet_deliver,
	.flush = quiet_flush,
	.silent = quiet_silent,
};

static inline void tune_path(struct ws_multipath *mp, uint32_t path, uint32_t max_packet,
			     uint32_t srtt_us)
{
	struct ws_path_params params = {
		.cap_permille = 1000, .max_packet = (uint16_t)max_packet, .srtt_us = srtt_us};

	ws_multipath_tune_path(mp, path, &params);
}

/* So many packets, which nobody waits for. */
static inline void hand(struct ws_multipath *mp, uint32_t packets, size_t len)
{
	uint8_t bulk[LEN] = {0x45, [9] = 47};

	for (uint32_t i = 0; i < packets; i++) {
		ws_multipath_send(mp, bulk, 20, bulk + 20, len - 20, 0, 0, true, now_ns);
		ws_multipath_pump(mp, now_ns);
	}
}

/* So many packets leave over path 0 of two, whose windows take them all. */
static inline struct ws_multipath *under_way(uint32_t packets)
{
	struct ws_multipath_params tune = {
		.repair = 1, .repair_age_us = 1000000, .ack_interval_us = 10000};
	struct ws_multipath *mp = ws_multipath_new(1500, &ops, NULL);

	CHECK(mp != NULL);
	now_ns = 9000 * MS_NS;
	ws_multipath_tune(mp, &tune);
	ws_multipath_set_paths(mp, 3, 3, WS_MULTIPATH_SPREAD, now_ns);
	for (uint32_t i = 0; i < 2; i++) {
		tune_path(mp, i, 1500, 20000);
		mp->tx[i].window.bytes = UINT32_MAX;
		mp->tx[i].window.starting = false;
	}
	/* Nothing leaves over the other one. */
	tune_path(mp, 1, LEN - 1, 20000);
	hand(mp, packets, LEN);
	CHECK_EQ(mp->tx[0].next_number, packets);
	tune_path(mp, 1, 1500, 20000);
	forget_went();
	return mp;
}

/* Datagrams of path 0 came up to `highest`, but for `count` seqs from `first` on; awaited is `next`. No round
 * trip is told. */
static inline void tell(struct ws_multipath *mp, uint32_t highest, uint32_t next, uint32_t first,
			uint16_t count)
{
	uint8_t frame[WS_ACK_MAX_BYTES];
	struct ws_ack ack = {.path_count = 1, .gap_count = count > 0, .next_seq = next};

	ack.paths[0] = (struct ws_ack_path){
		.highest = highest,
		.datagrams = highest + 1 - (count < highest ? count : highest),
		.hold_16us = UINT16_MAX,
	};
	ack.gaps[0] = (struct ws_ack_gap){first, count};
	CHECK(ws_multipath_ack(mp, frame, ws_ack_encode(&ack, frame), now_ns));
}

/* The same, and what may leave does. */
static inline void told(struct ws_multipath *mp, uint32_t highest, uint32_t first, uint16_t count)
{
	tell(mp, highest, first, first, count);
	ws_multipath_pump(mp, now_ns);
}

/* The path has room for so many packets more, and something in flight: else it always has for one. It
 * carries 100 Mbit/s. */
static inline void give_room(struct ws_multipath *mp, uint32_t path, uint32_t packets)
{
	struct ws_sched_path *sched = &mp->sched.paths[path];

	if (!sched->in_flight_bytes)
		sched->in_flight_bytes = 1;
	mp->tx[path].window.rate_bps = 100000000;
	mp->tx[path].window.bytes = sched->in_flight_bytes + (uint64_t)packets * mp_wire_bytes(LEN);
}

#endif
