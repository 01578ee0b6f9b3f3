/* SPDX-License-Identifier: MIT */
/*
 * When what came is told of, and when it goes on (docs/multipath.md sections
 * 4.6 and 10): a loss at once, what a quick path brought when a slow one would have.
 */
#include "check.h"

#include "packet/frame.h"
#include "quiet.h"
#include "shared/wire.h"

#include <stdlib.h>
#include <string.h>

#define US 1000ULL
#define MS 1000000ULL

static uint64_t now_ns;
static uint32_t controls, control_path; /* how many; of the last one */
static uint64_t delivered_ns; /* the last packet */
static uint32_t delivered, nobodys;

static uint32_t given(void)
{
	return delivered - nobodys;
}

static uint32_t on_control(void *arg, uint32_t path, uint64_t number, const uint8_t *frame,
			   size_t len)
{
	(void)arg, (void)number, (void)frame;
	controls++;
	control_path = path;
	return (uint32_t)len;
}

static void on_deliver(void *arg, uint8_t *packet, size_t len, uint32_t flags)
{
	(void)arg, (void)packet, (void)len;
	nobodys += !!(flags & WS_MULTIPATH_VOID);
	delivered++;
	delivered_ns = now_ns;
}

static const struct ws_multipath_ops ops = {
	.send = quiet_send,
	.control = on_control,
	.deliver = on_deliver,
	.flush = quiet_flush,
	.silent = quiet_silent,
};

static struct ws_multipath *two_paths(void)
{
	struct ws_multipath *mp = ws_multipath_new(1500, &ops, NULL);
	struct ws_multipath_params tune = {.reorder_depth = 128,
					   .repair_age_us = 250000,
					   .loss_wait_us = 50000,
					   .path_idle_us = 500000,
					   .ack_interval_us = 50000,
					   .align = 1};
	struct ws_path_params path = {.cap_permille = 1000, .max_packet = 1500};

	now_ns = 9000 * MS;
	CHECK(mp != NULL);
	ws_multipath_set_paths(mp, 3, 3, true, now_ns);
	ws_multipath_tune(mp, &tune);
	for (uint32_t i = 0; i < 2; i++)
		ws_multipath_tune_path(mp, i, &path);
	ws_multipath_pump(mp, now_ns);
	return mp;
}

/* Data datagrams `first` to `last` of path 0 come, 100 us apart, each with its own seq. */
static void come(struct ws_multipath *mp, uint64_t first, uint64_t last)
{
	uint8_t packet[100] = {0x45, [9] = 47};

	for (uint64_t number = first; number <= last; number++, now_ns += 100 * US) {
		ws_multipath_received(mp, 0, number, 200, now_ns);
		ws_multipath_data(mp, 0, (uint32_t)(now_ns / US) & 0xffffff, (uint32_t)number,
				  WS_FRAME_FEEDBACK, packet, sizeof(packet), now_ns);
		ws_multipath_tick(mp, now_ns);
	}
}

/* A loss is told as soon as its own path shows it, whatever the other paths have brought. */
static void loss_is_told_at_once(void)
{
	struct ws_multipath *mp = two_paths();

	come(mp, 1, 10); /* the first ACK is due at once */
	now_ns += 50 * MS;
	come(mp, 11, 11);
	controls = 0;
	come(mp, 12, 14);
	CHECK_EQ(controls, 0);
	come(mp, 16, 17);
	now_ns += 2 * MS; /* the soonest that two ACKs follow each other */
	come(mp, 18, 18);
	/* 16 to 18 came behind 15: no reordering, a loss. */
	CHECK_EQ(controls, 1);
	CHECK_EQ(control_path, 0);
	come(mp, 19, 20);
	CHECK_EQ(controls, 1);
	/* Two close to each other: the first one is no reason to be silent of the second. */
	now_ns += 2 * MS;
	come(mp, 22, 22);
	come(mp, 24, 25);
	CHECK_EQ(controls, 2);
	now_ns += 2 * MS;
	come(mp, 26, 26);
	CHECK_EQ(controls, 3);
	come(mp, 27, 40);
	CHECK_EQ(controls, 3);
	/* So many are worth one whatever is missing. */
	come(mp, 41, 42);
	CHECK_EQ(controls, 4);
	ws_multipath_free(mp);
}

/* ACK_SOONEST_NS: who asks is answered so soon after the last ACK. ACK_REPEATS: the last one may be lost. */
static void answers(void)
{
	struct ws_multipath *mp = two_paths();

	come(mp, 1, 1);
	controls = 0;
	ws_multipath_heartbeat(mp);
	now_ns += 1300 * US;
	ws_multipath_tick(mp, now_ns);
	CHECK_EQ(controls, 0);
	now_ns += 1300 * US;
	ws_multipath_tick(mp, now_ns);
	CHECK_EQ(controls, 1);
	for (int i = 0; i < 100; i++, now_ns += 50 * MS)
		ws_multipath_tick(mp, now_ns);
	controls = 0;
	come(mp, 2, 2);
	for (int i = 0; i < 100; i++, now_ns += 50 * MS)
		ws_multipath_tick(mp, now_ns);
	CHECK_EQ(controls, 3);
	ws_multipath_free(mp);
}

/* Where copies are sent, what is lost is waited for as often as one may be sent again (AGAIN_MOST). */
static void copies_are_waited_for(void)
{
	for (uint32_t repair = 0; repair < 2; repair++) {
		struct ws_multipath *mp = two_paths();
		struct ws_multipath_params tune = {.reorder_depth = 128,
						   .repair = repair,
						   .repair_age_us = 1000000,
						   .loss_wait_us = 20000,
						   .path_idle_us = 500000,
						   .ack_interval_us = 50000};

		ws_multipath_tune(mp, &tune);
		ws_multipath_pump(mp, now_ns);
		come(mp, 0, 9);
		come(mp, 11, 11);
		delivered = 0;
		now_ns += (repair ? 70 : 15) * MS;
		ws_multipath_tick(mp, now_ns);
		CHECK_EQ(delivered, 0);
		now_ns += 12 * MS;
		ws_multipath_tick(mp, now_ns);
		CHECK_EQ(delivered, 1);
		ws_multipath_free(mp);
	}
}

/* A packet of 40 bytes that was sent delay_ns ago; for how long it waits. */
static uint64_t waits(struct ws_multipath *mp, uint32_t flags, uint8_t protocol, uint64_t delay_ns)
{
	static uint64_t number;
	static uint32_t seq = 100; /* in the middle */
	uint8_t packet[40] = {0x45, [3] = 40, [9] = protocol, [32] = 0x50, [33] = 0x02};
	uint64_t came_ns = now_ns, sent_us = (now_ns - delay_ns) / US;
	uint32_t before = delivered;

	ws_multipath_received(mp, 0, ++number, 100, now_ns);
	ws_multipath_data(mp, 0, sent_us & 0xffffff, flags & WS_FRAME_URGENT ? 0 : seq++,
			  flags | WS_FRAME_FEEDBACK, packet, sizeof(packet), now_ns);
	for (; delivered == before && now_ns < came_ns + 100 * MS; now_ns += MS / 4) {
		ws_multipath_tick(mp, now_ns);
		if (delivered != before)
			break;
	}
	CHECK_EQ(delivered, before + 1);
	return delivered_ns - came_ns;
}

/* The other path brings a packet that takes its turn (a copy from before all), so much later. */
static void other_path_comes(struct ws_multipath *mp, uint64_t delay_ns)
{
	static uint64_t number;
	uint8_t packet[40] = {0x45, [3] = 40, [9] = 17};

	ws_multipath_received(mp, 1, ++number, 100, now_ns);
	ws_multipath_data(mp, 1, ((now_ns - delay_ns) / US) & 0xffffff, 99, WS_FRAME_FEEDBACK,
			  packet, sizeof(packet), now_ns);
}

/* Over one path alone, which is kept for another that could take over, nothing waits, and a key that is
 * typed is worth one ACK. */
static void one_path_is_as_it_is(void)
{
	const uint32_t kinds[] = {0, WS_FRAME_URGENT};

	for (uint32_t k = 0; k < 2; k++) {
		struct ws_multipath *mp = two_paths();

		ws_multipath_set_paths(mp, 3, 1, WS_MULTIPATH_KEEP, now_ns);
		for (int i = 0; i < 60; i++, now_ns += 10 * MS)
			CHECK_EQ(waits(mp, kinds[k], 6, i & 1 ? 18 * MS : 22 * MS), 0);
		now_ns += 100 * MS;
		ws_multipath_tick(mp, now_ns);
		controls = 0;
		(void)waits(mp, kinds[k], 6, 20 * MS);
		for (int i = 0; i < 10; i++, now_ns += 50 * MS)
			ws_multipath_tick(mp, now_ns);
		CHECK_EQ(controls, 1);
		other_path_comes(mp, 40 * MS);
		CHECK(waits(mp, kinds[k], 6, 20 * MS) > 0);
		ws_multipath_free(mp);
	}
}

/* A TCP inside sees one round trip, that of the slower path, whichever its packets take. */
static void what_is_quick_waits(void)
{
	const uint32_t kinds[] = {0, WS_FRAME_URGENT};

	for (uint32_t k = 0; k < 2; k++) {
		struct ws_multipath *mp = two_paths();
		struct ws_multipath_params tune = {.reorder_depth = 128,
						   .repair_age_us = 250000,
						   .path_idle_us = 500000,
						   .ack_interval_us = 50000};

		CHECK_EQ(waits(mp, kinds[k], 6, 20 * MS), 0);
		other_path_comes(mp, 35 * MS);
		now_ns += MS;
		/* As much as it is quicker, to the next half of a millisecond. */
		CHECK_EQ(waits(mp, kinds[k], 6, 20 * MS), 15 * MS);
		CHECK_EQ(waits(mp, kinds[k], 6, 30 * MS), 5 * MS);
		CHECK_EQ(waits(mp, kinds[k], 6, 40 * MS), 0);
		/* What was stuck for longer than half of the clock says nothing of the least. */
		other_path_comes(mp, 8800 * MS);
		CHECK_EQ(waits(mp, kinds[k], 6, 20 * MS), 15 * MS);
		/* Who asks a question, or speaks, does not. */
		CHECK_EQ(waits(mp, WS_FRAME_URGENT, 17, 20 * MS), 0);
		CHECK(ws_multipath_stats(mp)->aligned >= 2);
		/* Switched off. */
		ws_multipath_tune(mp, &tune);
		CHECK_EQ(waits(mp, kinds[k], 6, 20 * MS), 0);
		tune.align = 1;
		ws_multipath_tune(mp, &tune);
		CHECK_EQ(waits(mp, kinds[k], 6, 20 * MS), 15 * MS);
		/* The slower one brings nothing more. */
		now_ns += 500 * MS;
		CHECK_EQ(waits(mp, kinds[k], 6, 20 * MS), 0);
		ws_multipath_free(mp);
	}
}

/* Paths that are farther apart are not made one. */
static void what_is_far_quicker_goes_on(void)
{
	struct ws_multipath *mp = two_paths();

	CHECK_EQ(waits(mp, WS_FRAME_URGENT, 6, 20 * MS), 0);
	other_path_comes(mp, 75 * MS);
	now_ns += MS;
	CHECK_EQ(waits(mp, WS_FRAME_URGENT, 6, 20 * MS), 0);
	ws_multipath_free(mp);
}

/* Datagram `number` of a path with this seq. True: it was delivered. */
static bool brought(struct ws_multipath *mp, uint32_t path, uint64_t number, uint32_t seq,
		    uint32_t flags)
{
	uint8_t packet[100] = {0x45, [9] = 47};
	uint32_t before = delivered;

	ws_multipath_received(mp, path, number, 200, now_ns);
	if (!(flags & WS_FRAME_FEEDBACK) && ws_multipath_pass(mp, path, seq))
		return true;
	ws_multipath_data(mp, path, (uint32_t)(now_ns / US) & 0xffffff, seq, flags, packet,
			  sizeof(packet), now_ns);
	now_ns += 100 * US;
	ws_multipath_tick(mp, now_ns);
	return delivered > before;
}

/* What comes behind the awaited seq for the first time is delivered. */
static struct ws_multipath *two_paths_with_late_ones(void)
{
	struct ws_multipath *mp = two_paths();
	struct ws_multipath_params tune = {.reorder_depth = 128,
					   .repair_age_us = 250000,
					   .loss_wait_us = 50000,
					   .path_idle_us = 500000,
					   .deliver_late = 1};

	ws_multipath_tune(mp, &tune);
	return mp;
}

/* A sender goes from several paths to one and back: what came meanwhile does not come again. */
static void copies_of_what_passed(uint32_t gone)
{
	struct ws_multipath *mp = two_paths_with_late_ones();
	uint32_t seq;

	ws_multipath_pump(mp, now_ns);
	come(mp, 101, 110);
	for (seq = 112; seq < 112 + gone; seq++)
		CHECK(brought(mp, 0, seq, seq, 0));
	/* The newest are remembered, however many went by, and so is what is older. */
	CHECK(!brought(mp, 1, 1, seq - 1, WS_FRAME_FEEDBACK | WS_FRAME_AGAIN));
	CHECK(!brought(mp, 1, 2, 112 + gone / 2, WS_FRAME_FEEDBACK | WS_FRAME_AGAIN));
	CHECK(!brought(mp, 1, 3, 112, WS_FRAME_FEEDBACK));
	CHECK(!brought(mp, 1, 4, 105, WS_FRAME_FEEDBACK | WS_FRAME_AGAIN));
	/* One that was on its way by the slower path all the time is late, and no copy. */
	CHECK_EQ(brought(mp, 1, 5, 111, WS_FRAME_FEEDBACK | WS_FRAME_AGAIN), gone < 20000);
	CHECK(brought(mp, 0, seq, seq, WS_FRAME_FEEDBACK));
	ws_multipath_free(mp);
}

/* Who began anew after a restart: its memory begins with what came first, copies are older. */
static void copies_of_what_came_before(void)
{
	struct ws_multipath *mp = two_paths_with_late_ones();
	const uint32_t again = WS_FRAME_FEEDBACK | WS_FRAME_AGAIN;

	CHECK(brought(mp, 0, 1, 105, WS_FRAME_FEEDBACK));
	ws_multipath_reset(mp, now_ns);
	/* The first that comes is a copy: it had no memory when the original came, perhaps to it. */
	CHECK(!brought(mp, 1, 2, 140, again));
	CHECK(brought(mp, 0, 3, 150, WS_FRAME_FEEDBACK));
	CHECK(!brought(mp, 1, 4, 145, again));
	/* An original that comes late is none. */
	CHECK(brought(mp, 1, 5, 144, WS_FRAME_FEEDBACK));
	CHECK(!brought(mp, 1, 6, 144, again));
	/* What is lost from here on is made up for as ever. */
	CHECK(brought(mp, 1, 7, 151, again));
	ws_multipath_free(mp);
}

/* The first packets of all take their turn too, one that was lost or is on a longer way before those that
 * came; a sender that its peer has forgotten goes on with later seqs. */
static void a_sender_begins_with_none_missing(void)
{
	struct ws_multipath *mp = two_paths_with_late_ones();
	const uint32_t again = WS_FRAME_FEEDBACK | WS_FRAME_AGAIN;

	CHECK(!brought(mp, 0, 1, 2, WS_FRAME_FEEDBACK));
	CHECK(brought(mp, 1, 2, 0, WS_FRAME_FEEDBACK));
	delivered = 0;
	CHECK(brought(mp, 0, 3, 1, again));
	CHECK_EQ(delivered, 2);
	/* RUN_MAX: it leaves so many at once. */
	ws_multipath_reset(mp, now_ns);
	CHECK(!brought(mp, 0, 4, 63, WS_FRAME_FEEDBACK));
	ws_multipath_reset(mp, now_ns);
	CHECK(brought(mp, 0, 5, 64, WS_FRAME_FEEDBACK));
	ws_multipath_free(mp);
	/* What came before there were paths is not awaited, and ours go on where they were. */
	mp = two_paths_with_late_ones();
	ws_multipath_start(mp, 0, 0, 7, true);
	CHECK(brought(mp, 0, 1, 2, WS_FRAME_FEEDBACK));
	CHECK(!brought(mp, 1, 2, 0, again));
	CHECK_EQ(ws_multipath_seq(mp), 7);
	ws_multipath_free(mp);
}

/* So many of these go on: URGENT frames with this number, by turns over both paths. */
static uint32_t go_on(struct ws_multipath *mp, uint32_t number, uint32_t frames)
{
	uint8_t packet[84] = {0x45, [9] = 1};

	delivered = 0;
	for (uint32_t i = 0; i < frames; i++)
		ws_multipath_data(mp, i % 2, 0, number, WS_FRAME_FEEDBACK | WS_FRAME_URGENT, packet,
				  sizeof(packet), now_ns);
	return delivered;
}

static void of_two_one_goes_on(void)
{
	struct ws_multipath *mp = two_paths();

	CHECK_EQ(go_on(mp, 0, 3), 3); /* none: each was sent once */
	CHECK_EQ(go_on(mp, 1, 2), 1);
	CHECK_EQ(go_on(mp, 5, 1), 1);
	CHECK_EQ(go_on(mp, 3, 2), 1); /* overtaken */
	CHECK_EQ(go_on(mp, 5, 1), 0);
	CHECK_EQ(go_on(mp, 4000, 2), 1);
	CHECK_EQ(go_on(mp, 1300, 2), 1); /* of URGENT_SEEN */
	CHECK_EQ(go_on(mp, 4098, 1), 1);
	CHECK_EQ(go_on(mp, 2, 1), 0); /* so late that the other one came */
	CHECK_EQ(go_on(mp, 3, 1), 0);
	CHECK_EQ(go_on(mp, 4097, 2), 1);
	/* All numbers, and over their end: a place is free again when its turn comes. */
	for (uint32_t number = 4099; number < 20000; number++)
		CHECK_EQ(go_on(mp, number, 2), 1);
	ws_multipath_reset(mp, now_ns);
	CHECK_EQ(go_on(mp, UINT32_MAX - 2, 2), 1);
	for (uint32_t number = UINT32_MAX - 1; number != 3; number += number == UINT32_MAX ? 2 : 1)
		CHECK_EQ(go_on(mp, number, 2), 1);
	/* A peer that begins anew. */
	ws_multipath_reset(mp, now_ns);
	CHECK_EQ(go_on(mp, 1, 2), 1);
	ws_multipath_free(mp);
}

/* What its reader drops is no gap that others wait for, and is told of as what came. */
static void what_nobody_gets_came_all_the_same(void)
{
	struct ws_multipath *mp = two_paths();
	uint8_t packet[100] = {0x45, [9] = 47};

	come(mp, 0, 9);
	delivered = controls = 0;
	ws_multipath_received(mp, 1, 0, 200, now_ns);
	ws_multipath_data(mp, 1, (uint32_t)(now_ns / US) & 0xffffff, 10,
			  WS_FRAME_FEEDBACK | WS_MULTIPATH_VOID, packet, 1, now_ns);
	ws_multipath_tick(mp, now_ns + 100 * MS);
	CHECK_EQ(given(), 0);
	CHECK(controls > 0);
	come(mp, 11, 11);
	CHECK_EQ(given(), 1);
	delivered = 0;
	ws_multipath_data(mp, 1, 0, 1, WS_FRAME_FEEDBACK | WS_FRAME_URGENT | WS_MULTIPATH_VOID,
			  packet, 1, now_ns);
	CHECK_EQ(delivered, 0);
	ws_multipath_free(mp);
}

int main(void)
{
	what_nobody_gets_came_all_the_same();
	copies_of_what_came_before();
	a_sender_begins_with_none_missing();
	loss_is_told_at_once();
	copies_of_what_passed(8);
	copies_of_what_passed(15000);
	copies_of_what_passed(40000);
	copies_of_what_passed(60000);
	answers();
	copies_are_waited_for();
	one_path_is_as_it_is();
	what_is_quick_waits();
	what_is_far_quicker_goes_on();
	of_two_one_goes_on();
	return check_done();
}
