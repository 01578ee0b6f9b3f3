/* SPDX-License-Identifier: MIT */
/*
 * The window of one path over a model of a bottleneck: it fills what the link carries, keeps the queue
 * at the target or at what the buffer holds, follows a rate that changes within some round trips, and
 * survives whatever an ACK may say.
 */
#include "check.h"
#include "multipath/window.h"
#include "window_bounds.h"

#include <string.h>

#define PACKET WS_PACKET_BYTES
#define US UINT64_C(1000)
#define MS UINT64_C(1000000)
#define S UINT64_C(1000000000)

#define RING (1 << 16)

/* A link that an endless queue is sent over, in steps of a millisecond. */
struct link {
	struct ws_window window;
	uint64_t now_ms;
	uint64_t bytes_per_ms, base_ms, buffer_packets;
	unsigned loss_percent;
	uint64_t foreign; /* packets of another flow that stand in its queue, come what may */
	bool nearest, brief;
	unsigned lump_ms; /* what may leave comes so seldom; 0: each ms */
	uint64_t sent, left, told; /* datagrams: numbers of the next one */
	uint64_t waiting; /* of those sent and not lost, at the link */
	uint64_t lost, delivered_bytes;
	double credit;
	uint32_t sent_ms[RING];
	bool gone[RING];
	/* what has left in each millisecond, and is acknowledged base_ms later */
	uint64_t left_at[RING], count_at[RING];
};

static void begin(struct link *l, uint64_t mbps, uint64_t base_ms, uint64_t buffer_packets)
{
	memset(l, 0, sizeof(*l));
	l->now_ms = 10000;
	l->bytes_per_ms = mbps * 125;
	l->base_ms = base_ms;
	l->buffer_packets = buffer_packets;
	ws_window_init(&l->window, 0, 0);
}

/* The link sends what it may of what waits. */
static void forward(struct link *l)
{
	uint64_t count = 0;

	if (!l->lump_ms)
		l->credit += (double)l->bytes_per_ms * (double)l->waiting /
			     (double)(l->waiting ? l->waiting + l->foreign : 1);
	else if (l->now_ms % l->lump_ms == 0)
		l->credit = (double)(l->bytes_per_ms * l->lump_ms);
	for (; l->waiting && l->credit >= PACKET; l->credit -= PACKET, l->waiting--, count++) {
		while (l->gone[l->left % RING])
			l->left++;
		l->left++;
	}
	if (!l->waiting)
		l->credit = 0;
	l->left_at[l->now_ms % RING] = l->left;
	l->count_at[l->now_ms % RING] = count;
}

static void acknowledge(struct link *l)
{
	uint64_t at = (l->now_ms - l->base_ms) % RING, number = l->left_at[at];
	struct ws_window_ack ack = {.now_ns = l->now_ms * MS};
	uint64_t age_ms;

	if (!l->count_at[at])
		return;
	for (; l->told < number; l->told++)
		l->lost += l->gone[l->told % RING];
	l->delivered_bytes += l->count_at[at] * PACKET;
	age_ms = l->now_ms - l->sent_ms[(number - 1) % RING];
	ack.acked_bytes = l->count_at[at] * PACKET;
	ack.delivered_bytes = l->delivered_bytes;
	ack.highest = number - 1;
	ack.lost = l->lost;
	ack.next_number = l->sent;
	ack.rtt_us = (uint32_t)age_ms * 1000;
	ack.delay_us = (uint32_t)(16000000 + age_ms * 1000 - l->base_ms * 500) & 0xffffff;
	ack.waiting = true;
	ack.nearest = l->nearest;
	ack.brief = l->brief;
	ws_window_ack(&l->window, &ack);
}

static void step(struct link *l)
{
	l->now_ms++;
	forward(l);
	acknowledge(l);
	/* All of a window was lost: as the core does, that counts no more. */
	if (l->told != l->sent && l->now_ms - l->sent_ms[(l->sent - 1) % RING] > 1000 &&
	    !l->waiting) {
		l->told = l->left = l->sent;
		ws_window_collapse(&l->window, l->sent);
	}
	while ((l->sent - l->told + 1) * PACKET <= ws_window_may(&l->window)) {
		l->sent_ms[l->sent % RING] = (uint32_t)l->now_ms;
		l->gone[l->sent % RING] =
			l->waiting >= l->buffer_packets || check_random() % 100 < l->loss_percent;
		l->waiting += !l->gone[l->sent % RING];
		l->sent++;
		ws_window_used(&l->window, (l->sent - l->told) * PACKET);
	}
}

static uint64_t mbps(struct link *l, unsigned ms)
{
	uint64_t before = l->delivered_bytes;

	for (unsigned i = 0; i < ms; i++)
		step(l);
	return (l->delivered_bytes - before) / 125 / ms;
}

static void fills_a_link(void)
{
	static struct link l;

	begin(&l, 100, 20, 100000);
	(void)mbps(&l, 500);
	(void)mbps(&l, 2000);
	CHECK(mbps(&l, 1000) >= 98);
	CHECK(l.window.queue_us > 1000);
	CHECK(l.window.queue_us < 20000); /* it does not swing: a ping waits no longer */
	CHECK(ws_window_rate_bps(&l.window) > 90000000);
	CHECK(ws_window_rate_bps(&l.window) < 110000000);
}

/* A queue of its own that stood while the least was forgotten would count as the path's delay, and the next
 * one come on top. */
static void a_long_flow_keeps_its_queue_short(void)
{
	static struct link l;

	begin(&l, 100, 20, 100000);
	(void)mbps(&l, 40000);
	CHECK(mbps(&l, 20000) >= 99);
	CHECK(ws_window_base_us(&l.window) <= 22000);
	CHECK(l.window.srtt_us < 35000);
}

static void keeps_within_a_shallow_buffer(void)
{
	static struct link l;

	begin(&l, 100, 20, 100); /* 12 ms */
	(void)mbps(&l, 1000);
	CHECK(mbps(&l, 3000) >= 90);
	CHECK(l.lost * 50 < l.told); /* below 2 % in all */
}

static void follows_the_rate(void)
{
	static struct link l;

	begin(&l, 100, 20, 100000);
	(void)mbps(&l, 1000);
	l.bytes_per_ms = 10 * 125;
	(void)mbps(&l, 1500); /* what was in flight takes half a second at the new rate */
	CHECK(l.window.queue_us < 100000);
	CHECK(mbps(&l, 500) >= 9);
	l.bytes_per_ms = 100 * 125;
	(void)mbps(&l, 400);
	CHECK(mbps(&l, 500) >= 95);
}

static void chance_losses_do_not_matter(void)
{
	static struct link l;

	begin(&l, 50, 20, 100000);
	l.loss_percent = 2;
	(void)mbps(&l, 1000);
	CHECK(mbps(&l, 2000) >= 48);
}

/* A tenth of few packets: with half the window it is still a tenth. */
static void many_chance_losses_are_the_links_own(void)
{
	for (unsigned percent = 8; percent <= 30; percent += 11) {
		static struct link l;

		begin(&l, 10, 40, 100000);
		l.loss_percent = percent;
		(void)mbps(&l, 6000);
		CHECK(mbps(&l, 6000) >= 9);
		CHECK(l.window.queue_us < 100000);
	}
}

/* What is above the rate is lost, and nothing waits. */
static void a_policer_is_not_chance(void)
{
	static struct link l;
	uint64_t lost, told;

	begin(&l, 30, 20, 16);
	(void)mbps(&l, 5000);
	lost = l.lost;
	told = l.told;
	CHECK(mbps(&l, 5000) >= 27);
	CHECK((l.lost - lost) * 20 < l.told - told);
	CHECK(l.window.own_permille < 25);
}

static void lumps_are_no_queue(void)
{
	static struct link l;
	uint32_t least_us = UINT32_MAX;

	begin(&l, 12, 30, 100000);
	l.lump_ms = 100;
	(void)mbps(&l, 3000);
	CHECK(mbps(&l, 3000) >= 11);
	/* Not what stands at a moment: that may be the lump that was tried. */
	for (unsigned i = 0; i < 10; i++, (void)mbps(&l, 100))
		if (l.window.standing_us[0] < least_us)
			least_us = l.window.standing_us[0];
	CHECK(least_us < 100000);
}

/* 12 Mbit/s, and 3 for a fifth of a second: what it carries, and its mean queue. */
static uint64_t fading_mbps(bool brief, uint64_t *mean_queue_us)
{
	static struct link l;
	uint64_t sum_us = 0, got;

	begin(&l, 12, 40, 100000);
	l.brief = brief;
	(void)mbps(&l, 2000);
	got = l.delivered_bytes;
	for (unsigned ms = 0; ms < 20000; ms++) {
		l.bytes_per_ms = (ms % 600 < 200 ? 3 : 12) * 125;
		step(&l);
		sum_us += l.window.queue_us;
	}
	*mean_queue_us = sum_us / 20000;
	return (l.delivered_bytes - got) / 125 / 20000;
}

static void a_brief_path_keeps_its_queue_short(void)
{
	uint64_t usual_us, brief_us;
	uint64_t usual_mbps = fading_mbps(false, &usual_us);

	CHECK(fading_mbps(true, &brief_us) + 1 >= usual_mbps);
	CHECK(usual_mbps >= 8);
	CHECK(brief_us * 10 < usual_us * 8);
}

/* Bursts of a flow that leaves room: twice the target of a queue, and none, each 40 ms. */
static void what_the_flow_makes_is_no_swing(void)
{
	struct ws_window w;

	for (unsigned waits = 0; waits < 2; waits++) {
		struct ws_window_ack ack = {.acked_bytes = PACKET, .waiting = waits};

		ws_window_init(&w, 40000, 0);
		ws_window_collapse(&w, 0);
		w.starting = false;
		for (unsigned n = 1; n <= 200; n++) {
			ack.now_ns = S + n * 20 * MS;
			ack.highest = n;
			ack.next_number = n + 1;
			ack.delivered_bytes += PACKET;
			ack.delay_us = 1000 + n % 2 * 10000;
			ack.rtt_us = 40000 + n % 2 * 10000;
			ws_window_ack(&w, &ack);
		}
		CHECK(waits ? w.swing_us > 8000 : w.swing_us < 1000);
	}
}

/* Somebody else's download keeps 120 ms of queue at the same link. */
static void anothers_queue_leaves_it_a_share(void)
{
	static struct link l;

	begin(&l, 20, 40, 100000);
	(void)mbps(&l, 3000);
	l.foreign = 200;
	(void)mbps(&l, 5000);
	CHECK(mbps(&l, 10000) >= 2);
	l.foreign = 0;
	(void)mbps(&l, 15000);
	CHECK(mbps(&l, 1000) >= 19);
	CHECK(l.window.queue_us < 20000);
}

/* The rate falls to a quarter in so long, and the window with it, so that the queue stays: it is no other's. */
static void a_fade_is_no_others_queue(void)
{
	static struct link l;

	for (unsigned ms = 600; ms <= 4800; ms *= 2) {
		uint32_t most_us = 0;

		begin(&l, 200, 40, 100000);
		(void)mbps(&l, 3000);
		for (unsigned i = 0; i < ms; i++) {
			l.bytes_per_ms = 25000 - 18750 * i / ms;
			step(&l);
			if (l.window.queue_us > most_us)
				most_us = l.window.queue_us;
		}
		CHECK(most_us < 120000);
	}
}

/* A path that keeps the order of what comes late delivers all of a load as late as the latest: so much stands
 * with any window, and what arrives grows with that. On a full link it is the queue that grows. */
static void a_queue_that_does_not_grow_with_the_window_is_not_ours(void)
{
	for (int full = 0; full <= 1; full++) {
		struct made m = settled();
		uint32_t queue_us = 12000;
		uint64_t grew = 0;

		for (int i = 0; i < 120; i++) {
			uint64_t packets = m.w.bytes / PACKET * 8 / 32;

			if (full) { /* 200 packets in 32 ms */
				queue_us = (uint32_t)(m.w.bytes / PACKET * 160);
				queue_us = queue_us > 20000 ? queue_us - 20000 : 0;
				packets = 50;
				m.w.roomy = true;
			}
			m.w.swing_us = 10000;
			arrive(&m, packets, 0, queue_us, 8);
			if (m.w.bytes > grew)
				grew = m.w.bytes;
		}
		CHECK_EQ(m.w.shared_ns != 0, !full);
		CHECK(full ? grew > 350 * PACKET : grew > 1000 * PACKET);
	}
}

/* What its delay swings by with nothing on it is no queue, and no reason to end its start. */
static void what_a_path_swings_by_at_rest_is_its_own(void)
{
	for (int swings = 0; swings <= 1; swings++) {
		struct made m = {.ack = {.now_ns = S, .idle = true, .nearest = true}};

		ws_window_init(&m.w, 0, 0);
		for (uint32_t i = 0; i < 20; i++)
			arrive(&m, 0, 0, (uint32_t)swings * (i % 4 * 5000), 100);
		m.ack.idle = false;
		m.ack.waiting = true;
		for (int i = 0; i < 6; i++)
			arrive(&m, m.w.bytes / PACKET / 2, 0, 12000, 16);
		CHECK_EQ(m.w.starting, swings);
	}
}

/* A path that starts is not known to be slow by what little was sent on it, though its delay swings. */
static void a_start_counts_by_its_window(void)
{
	struct made m = {.ack = {.now_ns = S}};

	ws_window_init(&m.w, 0, 0);
	arrive(&m, 1, 0, 0, 20);
	for (int i = 0; i < 10; i++)
		arrive(&m, 1, 0, 4000, 20);
	CHECK(m.w.starting);
	CHECK(ws_window_rate_bps(&m.w) >= m.w.bytes * 8 * 1000 / 25);
}

/* By satellite: in each round trip twice as much, as a TCP sends. */
static void a_far_path_starts_as_quick(void)
{
	static struct link l;

	begin(&l, 50, 560, 100000);
	(void)mbps(&l, 9 * 560);
	CHECK(l.window.bytes >= 600 * PACKET);
	CHECK(l.window.queue_us < 560000);
}

static void grows_only_where_it_is_used(void)
{
	struct ws_window w;
	struct ws_window_ack ack = {
		.now_ns = S, .acked_bytes = PACKET, .rtt_us = 20000, .delay_us = 7};

	ws_window_init(&w, 0, 0);
	for (unsigned i = 0; i < 1000; i++) {
		ack.now_ns += 10000 * US;
		ack.highest = i;
		ack.next_number = i + 1;
		ack.delivered_bytes += PACKET;
		ws_window_used(&w, PACKET);
		ws_window_ack(&w, &ack);
	}
	CHECK_EQ(w.bytes, 16 * PACKET);
	ws_window_collapse(&w, 1000);
	CHECK_EQ(w.bytes, 4 * PACKET);
}

/* A TCP in slow start sends twice as much each round: while there is no queue it has room on the nearest
 * path, and not much more than that. */
static void a_flow_that_begins_has_room(void)
{
	struct ws_window w;
	struct ws_window_ack ack = {.now_ns = S, .rtt_us = 40000, .delay_us = 7, .nearest = true};
	uint64_t number = 0;

	ws_window_init(&w, 0, 0);
	for (uint64_t flight = 10; flight < 1000; flight *= 2) {
		CHECK(w.bytes >= flight * PACKET);
		for (uint64_t i = 1; i <= flight; i++)
			ws_window_used(&w, i * PACKET);
		ack.now_ns += 40 * MS;
		ack.next_number = number + flight;
		for (uint64_t i = 0; i < flight; i += 10) {
			ack.now_ns += US;
			ack.acked_bytes = 10 * PACKET;
			ack.delivered_bytes += 10 * PACKET;
			ack.highest = number + i + 9;
			ws_window_ack(&w, &ack);
		}
		number += flight;
	}
	CHECK(w.starting && w.ahead);
	CHECK(w.bytes < 2000 * PACKET);
}

static void a_start_ends_with_a_queue(void)
{
	static struct link l;

	begin(&l, 50, 10, 100000);
	l.nearest = true;
	(void)mbps(&l, 300);
	CHECK(!l.window.starting);
	CHECK(mbps(&l, 500) >= 48);
	CHECK(l.window.queue_us < 20000);
}

/* What did not fill a path says nothing of what it could carry; what stands in its queue does. */
static void a_rate_that_left_room_is_no_capacity(void)
{
	struct ws_window w;
	struct ws_window_ack ack = {.now_ns = S,
				    .acked_bytes = PACKET,
				    .rtt_us = 20000,
				    .delay_us = 7,
				    .nearest = true};

	ws_window_init(&w, 0, 0);
	for (unsigned i = 0; i < 100; i++) {
		ack.now_ns += 10000 * US;
		ack.highest = i;
		ack.next_number = i + 1;
		ack.delivered_bytes += PACKET;
		ack.waiting = true; /* for another path */
		ws_window_used(&w, PACKET);
		ws_window_ack(&w, &ack);
	}
	CHECK(ws_window_rate_bps(&w) >= UINT64_C(16) * PACKET * 8 * 50);
	for (unsigned i = 0; i < 100; i++) {
		ack.now_ns += 10000 * US;
		ack.delay_us = 30007;
		ack.rtt_us = 50000;
		ack.highest++;
		ack.next_number++;
		ack.delivered_bytes += PACKET;
		ws_window_used(&w, 5 * PACKET);
		ws_window_ack(&w, &ack);
	}
	CHECK(ws_window_rate_bps(&w) < 2000000);
}

/* Only there: elsewhere a pace would cost a flow its start. */
static void a_short_buffer_is_not_met_with_bursts(void)
{
	static struct link l;

	begin(&l, 20, 40, 13);
	CHECK(ws_window_pace_bps(&l.window) == UINT64_MAX);
	(void)mbps(&l, 2000);
	CHECK(ws_window_pace_bps(&l.window) > 20000000);
	CHECK(ws_window_pace_bps(&l.window) < 80000000);
	begin(&l, 20, 40, 300);
	(void)mbps(&l, 2000);
	CHECK(ws_window_pace_bps(&l.window) == UINT64_MAX);
}

/* Sent before the peer counted. */
static void what_was_before_is_no_loss(void)
{
	static struct link l;

	begin(&l, 50, 20, 400);
	l.lost = 5;
	(void)mbps(&l, 200);
	CHECK(l.window.doubt == WS_WINDOW_CALM);
	CHECK(l.window.high_bytes == UINT64_MAX && l.window.buffer_bytes == UINT64_MAX);
	CHECK(mbps(&l, 500) >= 45);
}

/* A delay is told by 24 bits, of which half are 8.4 s. */
static void late_by_ten_seconds_is_not_early(void)
{
	struct ws_window_ack ack = {.now_ns = S, .acked_bytes = PACKET, .rtt_us = 60000};
	struct ws_window w;

	/* Wherever the two clocks stand. */
	for (uint32_t base = 0; base < 1 << 24; base += 1 << 20) {
		ws_window_init(&w, 60000, 0);
		ack.rtt_us = 60000;
		for (int i = 0; i < 3; i++, ack.now_ns += S / 10) {
			ack.delay_us = (base + 1000) & 0xffffff;
			ws_window_ack(&w, &ack);
		}
		for (uint32_t late = 1000; late < 9900000; late += 990000, ack.now_ns += S / 10) {
			ack.rtt_us = 60000 + late;
			ack.delay_us = (base + 1000 + late) & 0xffffff;
			ws_window_ack(&w, &ack);
			CHECK_EQ(w.queue_us, late);
		}
		ack.rtt_us = 59000;
		ack.delay_us = base & 0xffffff;
		ws_window_ack(&w, &ack);
		CHECK_EQ(w.queue_us, 0);
		ack.delay_us = (base + 1000) & 0xffffff;
		ws_window_ack(&w, &ack);
		CHECK_EQ(w.queue_us, 1000);
	}
}

/* The peer's process began anew: what it has got is less than before, and no rate. */
static void who_counts_anew(void)
{
	struct ws_window_ack ack = {.now_ns = S,
				    .acked_bytes = PACKET,
				    .rtt_us = 20000,
				    .delay_us = 7,
				    .waiting = true};
	struct ws_window w;

	ws_window_init(&w, 20000, 0);
	for (int i = 0; i < 400; i++, ack.now_ns += S / 100) {
		ack.delivered_bytes =
			i < 200 ? 500000000 + (uint64_t)i * 125000 : (uint64_t)(i - 200) * 125000;
		ack.next_number = ack.highest + 10;
		ack.highest++;
		ws_window_used(&w, w.bytes);
		ws_window_ack(&w, &ack);
		if (i > 50)
			CHECK(w.rate_bps > 50000000 && w.rate_bps < 200000000);
		CHECK(w.mean_bps < 200000000);
	}
}

/* Each of them may be a lie. */
static void survives_anything(void)
{
	struct ws_window w;

	for (unsigned round = 0; round < 200; round++) {
		uint64_t now_ns = check_random();

		ws_window_init(&w, (uint32_t)check_random(), check_random());
		for (unsigned i = 0; i < 200; i++) {
			struct ws_window_ack ack = {
				.now_ns = now_ns += check_random() % (20 * 1000 * US),
				.acked_bytes = check_random() >> check_random() % 64,
				.delivered_bytes = check_random() >> check_random() % 64,
				.highest = check_random() >> check_random() % 64,
				.lost = check_random() >> check_random() % 64,
				.next_number = check_random() >> check_random() % 64,
				.rtt_us = (uint32_t)check_random() % 10000001,
				.delay_us = (uint32_t)check_random() & 0xffffff,
				.waiting = check_random() & 1,
				.idle = check_random() & 1,
			};
			uint64_t before = w.bytes;

			ws_window_used(&w, check_random() >> check_random() % 64);
			ws_window_ack(&w, &ack);
			CHECK(w.bytes >= 4 * PACKET);
			/* Doubled, or back from the half that was tried. */
			CHECK(w.bytes <= 2 * before || w.bytes <= 2 * w.before_bytes);
			CHECK(ws_window_rate_bps(&w) > 0);
		}
	}
}

int main(void)
{
	bounds();
	fills_a_link();
	a_long_flow_keeps_its_queue_short();
	keeps_within_a_shallow_buffer();
	follows_the_rate();
	chance_losses_do_not_matter();
	many_chance_losses_are_the_links_own();
	a_policer_is_not_chance();
	lumps_are_no_queue();
	a_brief_path_keeps_its_queue_short();
	what_the_flow_makes_is_no_swing();
	anothers_queue_leaves_it_a_share();
	a_fade_is_no_others_queue();
	a_queue_that_does_not_grow_with_the_window_is_not_ours();
	what_a_path_swings_by_at_rest_is_its_own();
	a_start_counts_by_its_window();
	a_far_path_starts_as_quick();
	grows_only_where_it_is_used();
	a_flow_that_begins_has_room();
	a_start_ends_with_a_queue();
	a_rate_that_left_room_is_no_capacity();
	a_short_buffer_is_not_met_with_bursts();
	what_was_before_is_no_loss();
	late_by_ten_seconds_is_not_early();
	who_counts_anew();
	survives_anything();
	return check_done();
}
