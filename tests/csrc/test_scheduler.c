/* SPDX-License-Identifier: MIT */
/*
 * The schedulers against links that are fluid and a clock that is ours: random
 * sets of paths, a queue that is full, short or fed at a rate, ACKs that come
 * back after the delay. Then numbers that no honest peer would send. With
 * "vectors" as its argument it answers test_sched_vectors.py instead.
 */
#include "multipath/scheduler.h"

#include "check.h"
#include "sched_vectors.h"

#include <stdlib.h>
#include <string.h>

#define PACKETS_MAX 4000
#define START_NS UINT64_C(5000000000)
#define S_NS UINT64_C(1000000000)

struct link {
	uint64_t free_ns; /* when it has sent what it was given */
	uint64_t delay_ns;
	uint64_t bytes;
	uint32_t sent, acked; /* indices into the arrays below */
	uint64_t ack_ns[PACKETS_MAX];
	uint32_t ack_bytes[PACKETS_MAX], ack_seq[PACKETS_MAX];
};

struct source {
	uint32_t packets;
	uint32_t bytes[PACKETS_MAX];
	uint64_t arrival_ns[PACKETS_MAX];
};

struct outcome {
	uint64_t last_ns; /* delivery of whichever packet came last */
	uint64_t most_ns, most_bytes; /* when nine in ten were sent, and how much that is */
	uint64_t queue_max_bytes;
};

static struct link links[WS_SCHED_PATHS];
static struct source source;

static uint64_t between(uint64_t low, uint64_t high)
{
	return low + check_random() % (high - low + 1);
}

/* Each power of two is as likely as the others. */
static uint64_t log_between(uint64_t low, uint64_t high)
{
	uint64_t octaves = 0;

	while (low << octaves <= high / 2)
		octaves++;
	octaves = check_random() % (octaves + 1);
	return between(low << octaves, low << octaves <= high / 2 ? low << (octaves + 1) : high);
}

static uint64_t link_ns(uint64_t bytes, uint64_t rate_bps)
{
	return bytes * 8 * S_NS / rate_bps;
}

/* Honest paths: what Python and the core would set for these links. */
static void random_paths(struct ws_sched *sched, uint32_t count, bool windows)
{
	memset(sched, 0, sizeof(*sched));
	sched->count = count;
	sched->depth = 1u << 30;
	for (uint32_t i = 0; i < count; i++) {
		struct ws_sched_path *path = &sched->paths[i];
		struct link *link = &links[i];
		/* One-way delays over clocks that differ by an hour. */
		int64_t clocks_us = INT64_C(-3600000000);

		path->usable = true;
		path->max_packet_bytes = 1500;
		path->rate_bps = log_between(100000, UINT64_C(10000000000));
		path->pace.rate_bps = UINT64_MAX;
		path->weight = (uint32_t)(path->rate_bps / 1000);
		link->delay_ns = log_between(10, 300000) * 1000;
		path->delay_us = (int64_t)(link->delay_ns / 1000) + clocks_us;
		path->base_us = (uint32_t)(2 * link->delay_ns / 1000);
		path->srtt_us = path->base_us + (uint32_t)(link_ns(3000, path->rate_bps) / 1000);
		path->window_bytes = UINT64_MAX;
		if (windows)
			path->window_bytes =
				path->rate_bps / 8000 * path->srtt_us / 1000 * 2 + 6000;
	}
}

static void random_source(uint32_t packets, uint64_t rate_bps)
{
	uint64_t sum = 0;

	source.packets = packets;
	for (uint32_t i = 0; i < packets; i++) {
		source.bytes[i] = (uint32_t)between(60, 1500);
		source.arrival_ns[i] = START_NS + (rate_bps ? link_ns(sum, rate_bps) : 0);
		sum += source.bytes[i];
	}
}

static void take_acks(struct ws_sched *sched, uint64_t now_ns)
{
	for (uint32_t i = 0; i < sched->count; i++) {
		struct link *link = &links[i];

		for (; link->acked < link->sent && link->ack_ns[link->acked] <= now_ns;
		     link->acked++) {
			sched->paths[i].in_flight_bytes -= link->ack_bytes[link->acked];
			sched->paths[i].acked_seq = link->ack_seq[link->acked];
		}
	}
}

static uint64_t next_ack(const struct ws_sched *sched)
{
	uint64_t next_ns = UINT64_MAX;

	for (uint32_t i = 0; i < sched->count; i++)
		if (links[i].acked < links[i].sent && links[i].ack_ns[links[i].acked] < next_ns)
			next_ns = links[i].ack_ns[links[i].acked];
	return next_ns;
}

static void put_on_link(struct ws_sched *sched, uint32_t path, uint32_t packet, uint64_t now_ns,
			struct outcome *outcome)
{
	struct link *link = &links[path];
	uint32_t bytes = source.bytes[packet], n = link->sent++;

	if (link->free_ns < now_ns)
		link->free_ns = now_ns;
	link->free_ns += link_ns(bytes, sched->paths[path].rate_bps);
	link->bytes += bytes;
	link->ack_ns[n] = link->free_ns + 2 * link->delay_ns;
	link->ack_bytes[n] = bytes;
	link->ack_seq[n] = packet;
	if (link->free_ns + link->delay_ns > outcome->last_ns)
		outcome->last_ns = link->free_ns + link->delay_ns;
	ws_sched_sent(sched, path, bytes, packet, now_ns);
}

/* A wait is for an ACK that is on its way: these paths have no pace. */
static void check_wait(const struct ws_sched *sched, uint64_t wake_ns)
{
	CHECK_EQ(wake_ns, UINT64_MAX);
	CHECK(next_ack(sched) != UINT64_MAX);
}

/* Sends the whole source. The links' delays, rates and free_ns are set already. */
static struct outcome run(struct ws_sched *sched)
{
	struct outcome outcome = {0};
	uint32_t arrived = 0, sent = 0;
	uint64_t now_ns = START_NS, queued_bytes = 0, sent_bytes = 0;

	for (uint32_t i = 0; i < WS_SCHED_PATHS; i++)
		links[i].sent = links[i].acked = 0, links[i].bytes = 0;
	while (sent < source.packets) {
		uint64_t wake_ns, next_ns;
		uint32_t picked;

		take_acks(sched, now_ns);
		for (; arrived < source.packets && source.arrival_ns[arrived] <= now_ns; arrived++)
			queued_bytes += source.bytes[arrived];
		if (queued_bytes > outcome.queue_max_bytes)
			outcome.queue_max_bytes = queued_bytes;
		if (sent == arrived) {
			now_ns = source.arrival_ns[arrived];
			continue;
		}
		picked = ws_sched_pick(sched, source.bytes[sent], queued_bytes, sent, now_ns,
				       &wake_ns);
		if (!picked) {
			check_wait(sched, wake_ns);
			next_ns = next_ack(sched);
			if (wake_ns < next_ns)
				next_ns = wake_ns;
			if (arrived < source.packets && source.arrival_ns[arrived] < next_ns)
				next_ns = source.arrival_ns[arrived];
			if (next_ns <= now_ns || next_ns == UINT64_MAX)
				return outcome; /* stuck: check_wait has said so */
			now_ns = next_ns;
			continue;
		}
		for (uint32_t i = 0; i < WS_SCHED_PATHS; i++)
			if (picked >> i & 1)
				put_on_link(sched, i, sent, now_ns, &outcome);
		queued_bytes -= source.bytes[sent];
		sent_bytes += source.bytes[sent];
		if (++sent == source.packets / 10 * 9) {
			outcome.most_ns = now_ns - START_NS;
			outcome.most_bytes = sent_bytes;
		}
	}
	return outcome;
}

static uint64_t sum_of_rates(const struct ws_sched *sched)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < sched->count; i++)
		sum += sched->paths[i].rate_bps;
	return sum;
}

/* A full queue and slack: all of every path, by all schedulers that spread. */
static void uses_all(enum ws_scheduler kind)
{
	for (unsigned round = 0; round < 400; round++) {
		struct ws_sched sched;
		struct outcome outcome;

		random_paths(&sched, (uint32_t)between(1, WS_SCHED_PATHS), true);
		sched.kind = kind;
		for (uint32_t i = 0; i < sched.count; i++) {
			links[i].free_ns = 0;
			sched.paths[i].delay_us = 0; /* edf waits for a path that is far quicker */
		}
		random_source(PACKETS_MAX, 0);
		outcome = run(&sched);
		CHECK(outcome.most_bytes > 0);
		CHECK(outcome.most_bytes >=
		      sum_of_rates(&sched) / 8 * outcome.most_ns / S_NS / 100 * 99);
	}
}

/* Fed at four fifths of the sum: the queue stays short, whatever the paths. */
static void keeps_up(enum ws_scheduler kind)
{
	for (unsigned round = 0; round < 200; round++) {
		struct ws_sched sched;
		struct outcome outcome;
		uint64_t slowest_bps = UINT64_MAX, rate_bps;

		random_paths(&sched, (uint32_t)between(1, WS_SCHED_PATHS), true);
		sched.kind = kind;
		for (uint32_t i = 0; i < sched.count; i++) {
			links[i].free_ns = 0;
			sched.paths[i].delay_us = 0;
			if (sched.paths[i].rate_bps < slowest_bps)
				slowest_bps = sched.paths[i].rate_bps;
		}
		rate_bps = sum_of_rates(&sched) / 5 * 4;
		random_source(PACKETS_MAX, rate_bps);
		outcome = run(&sched);
		CHECK(outcome.most_bytes > 0);
		/* edf lets wait what a quicker path brings in 10 ms. */
		CHECK(outcome.queue_max_bytes < 20 * 1500 + sum_of_rates(&sched) / 8 / 100);
	}
}

/* Nobody gets more than a packet ahead of its share, or behind. */
static void shares_follow_weights(void)
{
	for (unsigned round = 0; round < 200; round++) {
		struct ws_sched sched;
		double served[WS_SCHED_PATHS] = {0}, total = 0, weights = 0;
		uint64_t wake_ns, top = log_between(1, UINT32_MAX);
		double share[WS_SCHED_PATHS];

		random_paths(&sched, (uint32_t)between(2, WS_SCHED_PATHS), false);
		sched.kind = WS_SCHED_WRR;
		for (uint32_t i = 0; i < sched.count; i++) {
			sched.paths[i].weight = (uint32_t)between(top / 50, top);
			sched.paths[i].degraded = check_random() % 4 == 0;
			share[i] = sched.paths[i].weight ? sched.paths[i].weight : 1;
			share[i] /= sched.paths[i].degraded ? 4 : 1;
			weights += share[i];
		}
		for (uint32_t seq = 0; seq < 2000; seq++) {
			uint32_t bytes = (uint32_t)between(40, 1500), picked;

			/* So slow a clock that every path is always ready. */
			picked = ws_sched_pick(&sched, bytes, bytes, seq, START_NS + seq * S_NS,
					       &wake_ns);
			for (uint32_t i = 0; i < sched.count; i++)
				if (picked == 1u << i) {
					ws_sched_sent(&sched, i, bytes, seq, START_NS + seq * S_NS);
					served[i] += bytes;
					total += bytes;
				}
			for (uint32_t i = 0; i < sched.count; i++) {
				double lead = served[i] - total * share[i] / weights;

				CHECK(lead < 1501 && lead > -1501);
			}
		}
		CHECK(total > 2000 * 40);
	}
}

/* wrr: nobody leads what another has out by more than the depth; who idles holds nobody back. */
static void depth_holds(void)
{
	struct ws_sched sched;
	uint64_t wake_ns;

	random_paths(&sched, 2, false);
	sched.kind = WS_SCHED_WRR;
	sched.depth = 10;
	sched.paths[0].weight = 1000000;
	sched.paths[1].weight = 1;
	/* Its last ACK is long ago: from 900 on it has one packet out. */
	sched.paths[1].acked_seq = 3;
	ws_sched_sent(&sched, 1, 1500, 900, START_NS);
	CHECK_EQ(sched.paths[1].acked_seq, 899);
	CHECK_EQ(sched.paths[1].last_seq, 900);
	for (uint32_t seq = 901; seq < 910; seq++) {
		CHECK_EQ(ws_sched_pick(&sched, 1500, 1500, seq, START_NS + seq * S_NS, &wake_ns),
			 1);
		ws_sched_sent(&sched, 0, 1500, seq, START_NS + seq * S_NS);
		sched.paths[0].acked_seq = seq;
	}
	/* 910 would lead by 11: only the slow one may take it. */
	CHECK_EQ(ws_sched_pick(&sched, 1500, 1500, 910, START_NS + 910 * S_NS, &wake_ns), 2);
	sched.paths[1].window_bytes = 0;
	CHECK_EQ(ws_sched_pick(&sched, 1500, 1500, 910, START_NS + 910 * S_NS, &wake_ns), 0);
	CHECK(wake_ns == UINT64_MAX);
	/* Both behind: both wait for an ACK. */
	sched.paths[1].window_bytes = UINT64_MAX;
	sched.paths[0].acked_seq = 880;
	CHECK_EQ(ws_sched_pick(&sched, 1500, 1500, 910, START_NS + 910 * S_NS, &wake_ns), 0);
	/* The ACK empties it. */
	sched.paths[0].acked_seq = 909;
	sched.paths[1].in_flight_bytes = 0;
	CHECK_EQ(ws_sched_pick(&sched, 1500, 1500, 910, START_NS + 910 * S_NS, &wake_ns), 1);
	/* Over the wrap of the 32 bits. */
	sched.paths[1].in_flight_bytes = 1;
	sched.paths[1].acked_seq = UINT32_MAX - 2;
	sched.paths[0].acked_seq = 7;
	CHECK_EQ(ws_sched_pick(&sched, 1500, 1500, 7, START_NS + 920 * S_NS, &wake_ns), 1);
	CHECK_EQ(ws_sched_pick(&sched, 1500, 1500, 8, START_NS + 920 * S_NS, &wake_ns), 2);
}

static void redundant_takes_all(void)
{
	for (unsigned round = 0; round < 2000; round++) {
		struct ws_sched sched;
		uint64_t wake_ns;
		uint32_t want = 0;

		random_paths(&sched, (uint32_t)between(1, WS_SCHED_PATHS), false);
		sched.kind = WS_SCHED_REDUNDANT;
		for (uint32_t i = 0; i < sched.count; i++) {
			struct ws_sched_path *path = &sched.paths[i];

			path->usable = check_random() % 8 != 0;
			path->degraded = check_random() % 4 == 0;
			path->max_packet_bytes = check_random() % 8 ? 1500 : 1000;
			path->pace.next_ns = check_random() % 4 ? START_NS : START_NS + 1;
			path->in_flight_bytes = 1000;
			path->window_bytes = check_random() % 8 ? 2400 : 2399;
			if (path->usable && path->max_packet_bytes == 1500 &&
			    path->pace.next_ns == START_NS && path->window_bytes == 2400)
				want |= 1u << i;
		}
		CHECK_EQ(ws_sched_pick(&sched, 1400, 1400, 0, START_NS, &wake_ns), want);
	}
}

/* A path that is full, and one `by_us` behind it with room. */
static struct ws_sched full_and_behind(int64_t by_us)
{
	struct ws_sched sched = {.kind = WS_SCHED_EDF, .count = 2};

	for (uint32_t i = 0; i < 2; i++)
		sched.paths[i] = (struct ws_sched_path){
			.usable = true,
			.max_packet_bytes = 1500,
			.rate_bps = 20000000,
			.pace.rate_bps = UINT64_MAX,
			.base_us = 20000,
			.window_bytes = 60000,
			.in_flight_bytes = i ? 0 : 60000,
			.delay_us = i ? by_us : 0,
		};
	return sched;
}

static uint32_t beside_a_full_one(int64_t by_us, uint64_t queued_bytes)
{
	struct ws_sched sched = full_and_behind(by_us);
	uint64_t wake_ns;

	return ws_sched_pick(&sched, 1500, queued_bytes, 0, START_NS, &wake_ns);
}

static void a_far_path_is_for_long_queues(void)
{
	CHECK_EQ(beside_a_full_one(10000, 1500), 2);
	/* 10 ms are nothing, 4 the full one has in its own queue: at 20 Mbit/s 31 are 78 kB. */
	CHECK_EQ(beside_a_full_one(20000, 1500), 0);
	CHECK_EQ(beside_a_full_one(45000, 1500), 0);
	CHECK_EQ(beside_a_full_one(45000, 90000), 2);
	CHECK_EQ(beside_a_full_one(75000, 90000), 0);
	CHECK_EQ(beside_a_full_one(75000, 190000), 2);
}

/* What a path carries that has not been full yet is not known, so it is waited for. */
static void a_nearer_one_that_starts_is_waited_for(void)
{
	struct ws_sched sched = full_and_behind(10000);
	uint64_t wake_ns = 0;

	CHECK_EQ(ws_sched_pick(&sched, 1500, 1500, 0, START_NS, &wake_ns), 2);
	sched.paths[0].starting = true;
	CHECK_EQ(ws_sched_pick(&sched, 1500, 1500, 0, START_NS, &wake_ns), 0);
	CHECK_EQ(wake_ns, UINT64_MAX);
	/* Not while it is silent, nor where nothing would make room. */
	sched.paths[0].silent_us = 1;
	CHECK_EQ(ws_sched_pick(&sched, 1500, 1500, 0, START_NS, &wake_ns), 2);
	sched.paths[0].silent_us = 0;
	sched.paths[1].delay_us = 700;
	CHECK_EQ(ws_sched_pick(&sched, 1500, 1500, 0, START_NS, &wake_ns), 2);
	sched.paths[1].delay_us = 1400;
	CHECK_EQ(ws_sched_pick(&sched, 1500, 1500, 0, START_NS, &wake_ns), 0);
}

/* A guess of what it carries hides a queue that was measured. */
static void what_stands_counts_whatever_the_rate(void)
{
	struct ws_sched sched = full_and_behind(30000);
	uint64_t wake_ns = 0;

	sched.paths[0].window_bytes = UINT64_MAX;
	sched.paths[0].rate_bps = UINT64_C(1000000000);
	for (uint32_t i = 0; i < 2; i++) {
		CHECK_EQ(ws_sched_pick(&sched, 1500, 1500, 0, START_NS, &wake_ns), 1 << i);
		sched.paths[0].stands_us = 31000;
	}
}

/* WS_DELAY_MAX_US: whoever says so. (Of FAR_NS the exact number does not matter: two of it add up to less than
 * 2^64 ns, and no wait comes near.) */
static void no_path_takes_ages(void)
{
	struct ws_sched sched = full_and_behind(INT64_C(3600000000));
	uint64_t ns = ws_sched_soonest_ns(&sched, 1500, 1500, 1);

	CHECK(ns > 7 * S_NS && ns < 14 * S_NS);
}

/* Credits are so fine that a path of a 300,000th is not sent three times as much (CREDIT_SHIFT). */
static void a_small_share_is_kept(void)
{
	struct ws_sched sched = full_and_behind(0);
	uint32_t small = 0;
	uint64_t wake_ns;

	sched.kind = WS_SCHED_WRR;
	sched.depth = 1u << 30;
	sched.paths[0].weight = 1;
	sched.paths[1].weight = 300000;
	for (uint32_t seq = 0; seq < 150000; seq++) {
		uint64_t now_ns = START_NS + seq * 1000;
		uint32_t path;

		sched.paths[0].in_flight_bytes = sched.paths[1].in_flight_bytes = 0;
		path = ws_sched_pick(&sched, 1500, 1500, seq, now_ns, &wake_ns);
		small += path == 1;
		ws_sched_sent(&sched, path >> 1, 1500, seq, now_ns);
	}
	CHECK_EQ(small, 1);
}

static void paces(void)
{
	static const uint64_t rates[] = {0, 1, 999, 8000, 1000000000, 400000000000, UINT64_MAX};
	struct ws_pace pace = {.rate_bps = 12000000};
	uint64_t now_ns = START_NS;

	/* 1,500 bytes a millisecond: after silence one burst of two, the second ends the credit. */
	CHECK(ws_pace_ready(&pace, now_ns));
	ws_pace_sent(&pace, 1500, now_ns);
	CHECK(ws_pace_ready(&pace, now_ns));
	ws_pace_sent(&pace, 1500, now_ns);
	CHECK(!ws_pace_ready(&pace, now_ns));
	CHECK_EQ(pace.next_ns - now_ns, 1000000);

	for (size_t i = 0; i < sizeof(rates) / sizeof(*rates); i++) {
		uint64_t before_ns;

		pace = (struct ws_pace){.rate_bps = rates[i]};
		for (unsigned step = 0; step < 100; step++) {
			before_ns = pace.next_ns;
			ws_pace_sent(&pace, step % 2 ? 1500 : UINT32_MAX, step * S_NS);
			CHECK(pace.next_ns > before_ns || pace.next_ns == UINT64_MAX);
		}
		ws_pace_sent(&pace, 1500, UINT64_MAX);
		CHECK(pace.next_ns >= UINT64_MAX - 1000000);
	}
	/* 400 Gbit/s and 1 bit/s are kept, not only survived. */
	pace = (struct ws_pace){.rate_bps = UINT64_MAX, .next_ns = 1};
	ws_pace_sent(&pace, 1500, 1);
	CHECK_EQ(pace.next_ns, 31);
	pace = (struct ws_pace){.rate_bps = 0, .next_ns = 1};
	ws_pace_sent(&pace, 1500, 1);
	CHECK_EQ(pace.next_ns, 1 + 12000 * S_NS);
	pace = (struct ws_pace){.rate_bps = 400000000000, .next_ns = 1};
	ws_pace_sent(&pace, UINT32_MAX, 1);
	CHECK_EQ((pace.next_ns - 1) / 1000, 85899); /* 4 GiB in 85.9 ms */
}

static uint64_t hostile(void)
{
	static const uint64_t edges[] = {0,	     1,		1500,	   INT32_MAX,
					 UINT32_MAX, INT64_MAX, INT64_MIN, UINT64_MAX - 1,
					 UINT64_MAX};
	uint64_t draw = check_random();

	if (draw % 3 == 0)
		return edges[draw / 4 % (sizeof(edges) / sizeof(*edges))];
	return check_random() >> draw / 4 % 64;
}

/* What a lying peer or a wrong caller could bring about; the sanitizers watch. */
static void survives(void)
{
	for (unsigned round = 0; round < check_rounds(10000, 40000); round++) {
		struct ws_sched sched = {0};
		uint64_t now_ns = hostile();

		sched.kind = (enum ws_scheduler)(check_random() % 5);
		sched.count = (uint32_t)(check_random() % 10);
		sched.depth = (uint32_t)hostile();
		for (uint32_t i = 0; i < WS_SCHED_PATHS; i++)
			sched.paths[i] = (struct ws_sched_path){
				.usable = check_random() % 4 != 0,
				.degraded = check_random() % 4 == 0,
				.tier = (uint32_t)hostile(),
				.weight = (uint32_t)hostile(),
				.srtt_us = (uint32_t)hostile(),
				.delay_us = (int64_t)hostile(),
				.in_flight_bytes = hostile(),
				.window_bytes = hostile(),
				.rate_bps = hostile(),
				.base_us = (uint32_t)hostile(),
				.silent_us = (uint32_t)hostile(),
				.starting = check_random() % 4 == 0,
				.max_packet_bytes = (uint32_t)hostile(),
				.last_seq = (uint32_t)hostile(),
				.acked_seq = (uint32_t)hostile(),
				.pace = {.next_ns = hostile(), .rate_bps = hostile()},
			};
		for (unsigned step = 0; step < 20; step++) {
			uint32_t bytes = (uint32_t)hostile(), seq = (uint32_t)hostile(), fits = 0;
			uint32_t except = (uint32_t)hostile(), picked, usable;
			uint64_t wake_ns;
			int urgent;

			usable = ws_sched_usable(&sched);
			for (uint32_t i = 0; i < WS_SCHED_PATHS; i++)
				if (usable >> i & 1 && bytes <= sched.paths[i].max_packet_bytes)
					fits |= 1u << i;
			picked = ws_sched_pick(&sched, bytes, hostile(), seq, now_ns, &wake_ns);
			urgent = ws_sched_urgent(&sched, bytes, except);
			CHECK(!(picked & ~fits));
			CHECK(sched.kind == WS_SCHED_REDUNDANT || !(picked & (picked - 1)));
			if (!picked)
				CHECK(!fits && usable ? wake_ns == 0 : wake_ns >= now_ns);
			if (!fits)
				CHECK_EQ(urgent, -1);
			else
				CHECK(urgent >= 0 &&
				      (fits & ~except ? fits & ~except : fits) >> urgent & 1);
			for (uint32_t i = 0; i < WS_SCHED_PATHS; i++) {
				if (picked >> i & 1)
					CHECK(ws_pace_ready(&sched.paths[i].pace, now_ns));
				if (picked >> i & 1 || (int)i == urgent)
					ws_sched_sent(&sched, i, bytes, seq, now_ns);
				CHECK(sched.credit[i] <= INT64_C(1) << 29 &&
				      sched.credit[i] >= -(INT64_C(1) << 29));
			}
			ws_sched_sent(&sched, (uint32_t)hostile() | 8, bytes, seq, now_ns);
			if (step % 4 == 3)
				now_ns += hostile() % S_NS;
		}
	}
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "vectors"))
		return answer_vectors();
	paces();
	no_path_takes_ages();
	a_small_share_is_kept();
	a_nearer_one_that_starts_is_waited_for();
	what_stands_counts_whatever_the_rate();
	a_far_path_is_for_long_queues();
	redundant_takes_all();
	depth_holds();
	shares_follow_weights();
	for (unsigned kind = WS_SCHED_EDF; kind <= WS_SCHED_MINRTT; kind++) {
		uses_all((enum ws_scheduler)kind);
		keeps_up((enum ws_scheduler)kind);
	}
	survives();
	return check_done();
}
