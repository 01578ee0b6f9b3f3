/* SPDX-License-Identifier: MIT */
/*
 * The multipath core under random links and hostile feedback. Two cores, A and
 * B, joined by up to four links whose delay, loss and rate change as they run;
 * virtual time. Checked of every schedule: nothing is delivered twice, in order
 * unless late packets are delivered, nothing is made up, all that can drain
 * drains, a link that works is used, memory is what it was.
 */
#include "check.h"

#include "multipath/ack.h"
#include "multipath/multipath.h"
#include "packet/frame.h"
#include "shared/wire.h"

#include <stdlib.h>
#include <string.h>

#define LINKS 4
#define FLIGHT 8192
#define PACKETS 4096
#define US 1000ULL
#define MS 1000000ULL

struct datagram {
	uint64_t at_ns; /* of arrival; 0: none */
	uint64_t number;
	uint32_t path, len;
	bool control;
	uint8_t bytes[WS_FRAME_HEADER_BYTES + 256 > WS_ACK_MAX_BYTES ? WS_FRAME_HEADER_BYTES + 256
								     : WS_ACK_MAX_BYTES];
};

struct link {
	uint64_t delay_ns, byte_ns, busy_ns, jitter_ns;
	uint32_t loss; /* of 1,000 */
	bool dead;
	uint64_t carried;
};

struct node {
	struct ws_multipath *mp;
	struct node *other;
	struct link *links;
	struct datagram *flight; /* on their way to this node */
	uint32_t flight_next;
	uint32_t seen[PACKETS]; /* deliveries of packet i */
	uint32_t next, made, delivered, silent;
	bool ordered; /* the highest seen so far only grows */
};

static uint64_t now_ns;
static uint64_t aligned; /* over all seeds */

static uint32_t put(struct node *node, uint32_t path, uint64_t number, bool control,
		    const uint8_t *head, size_t head_len, const uint8_t *body, size_t len)
{
	struct link *link = &node->links[path];
	uint32_t bytes = ws_message_bytes(ws_padded_bytes(head_len + len));
	struct datagram *to = &node->other->flight[node->other->flight_next++ % FLIGHT];

	CHECK(path < LINKS);
	CHECK(head_len + len <= sizeof(to->bytes));
	if (link->dead || check_random() % 1000 < link->loss)
		return bytes;
	if (link->busy_ns < now_ns)
		link->busy_ns = now_ns;
	if (link->busy_ns - now_ns > 60 * MS)
		return bytes; /* its buffer is full */
	link->busy_ns += bytes * link->byte_ns;
	link->carried++;
	to->at_ns = link->busy_ns + link->delay_ns +
		    (link->jitter_ns ? check_random() % link->jitter_ns : 0);
	to->number = number;
	to->path = path;
	to->control = control;
	to->len = (uint32_t)(head_len + len);
	if (head_len)
		memcpy(to->bytes, head, head_len);
	memcpy(to->bytes + head_len, body, len);
	return bytes;
}

static uint32_t on_send(void *arg, uint32_t path, uint64_t number, const uint8_t *head, uint8_t ecn,
			const uint8_t *packet, size_t len)
{
	(void)ecn;
	return put(arg, path, number, false, head, WS_FRAME_HEADER_BYTES, packet, len);
}

static uint32_t on_control(void *arg, uint32_t path, uint64_t number, const uint8_t *frame,
			   size_t len)
{
	return put(arg, path, number, true, NULL, 0, frame, len);
}

static void on_deliver(void *arg, uint8_t *packet, size_t len, uint32_t flags)
{
	struct node *node = arg;
	uint32_t i;

	(void)flags;
	CHECK(len >= 24);
	memcpy(&i, packet + 20, sizeof(i));
	CHECK(i < node->other->made);
	if (i >= PACKETS)
		return;
	node->seen[i]++;
	CHECK_EQ(node->seen[i], 1);
	node->delivered++;
	if (packet[9] == 6)
		return; /* an acknowledgement takes no turn */
	if (i < node->next)
		node->ordered = false;
	else
		node->next = i + 1;
}

static void on_flush(void *arg)
{
	struct node *node = arg;

	ws_multipath_released(node->mp);
}

static void on_silent(void *arg, uint32_t path)
{
	struct node *node = arg;

	CHECK(path < LINKS);
	node->silent++;
}

static const struct ws_multipath_ops ops = {
	.send = on_send,
	.control = on_control,
	.deliver = on_deliver,
	.flush = on_flush,
	.silent = on_silent,
};

static void receive(struct node *node, struct datagram *d)
{
	uint32_t path = d->path;

	d->at_ns = 0;
	ws_multipath_received(node->mp, path, d->number, ws_message_bytes(d->len), now_ns);
	if (!d->control) {
		const uint8_t *h = d->bytes;

		ws_multipath_data(node->mp, path, ws_frame_time_us(h), ws_frame_seq(h),
				  h[0] & WS_FRAME_FLAGS, d->bytes + WS_FRAME_HEADER_BYTES,
				  d->len - WS_FRAME_HEADER_BYTES, now_ns);
	} else if (d->bytes[0] == WS_CONTROL_ACK) {
		CHECK(ws_multipath_ack(node->mp, d->bytes, d->len, now_ns));
	} else {
		ws_multipath_heartbeat(node->mp);
	}
}

/* One step of virtual time: what arrived by now, in order of arrival, then what is due. */
static void step(struct node *node)
{
	for (;;) {
		struct datagram *first = NULL;

		for (uint32_t i = 0; i < FLIGHT; i++) {
			struct datagram *d = &node->flight[i];

			if (d->at_ns && d->at_ns <= now_ns && (!first || d->at_ns < first->at_ns))
				first = d;
		}
		if (!first)
			break;
		receive(node, first);
	}
	ws_multipath_tick(node->mp, now_ns);
	on_flush(node);
}

static struct node *node_new(struct link *links)
{
	struct node *node = calloc(1, sizeof(*node));

	node->flight = calloc(FLIGHT, sizeof(*node->flight));
	node->links = links;
	node->ordered = true;
	node->mp = ws_multipath_new(256, &ops, node);
	CHECK(node->mp != NULL);
	return node;
}

static void node_free(struct node *node)
{
	ws_multipath_free(node->mp);
	free(node->flight);
	free(node);
}

static void tune(struct node *node, uint32_t paths, bool late, uint32_t scheduler)
{
	struct ws_multipath_params peer = {
		.scheduler = scheduler,
		.repair = check_random() & 1,
		.repair_age_us = 10000 + (uint32_t)(check_random() % 400000),
		.reorder_depth = 1 + (uint32_t)(check_random() % 1024),
		.loss_wait_us = (uint32_t)(check_random() % 20000),
		.path_idle_us = 200000,
		.deliver_late = late,
		.ack_interval_us = 10000,
		.align = check_random() & 1,
	};

	ws_multipath_tune(node->mp, &peer);
	for (uint32_t i = 0; i < paths; i++) {
		struct ws_path_params path = {
			.srtt_us = (uint32_t)(2 * node->links[i].delay_ns / 1000),
			.cap_permille =
				check_random() % 4 ? 1000 : (uint32_t)(check_random() % 1000),
			.tier = (uint32_t)(check_random() % 3),
			.max_packet = 256,
			.rescue_us = 3 * (uint32_t)(2 * node->links[i].delay_ns / 1000) + 60000,
		};

		ws_multipath_tune_path(node->mp, i, &path);
	}
}

static void offer(struct node *node, uint32_t count)
{
	while (count-- && node->made < PACKETS) {
		uint8_t packet[200] = {0x45, 0, 0, 200};
		uint32_t i = node->made++;
		size_t len = sizeof(packet);

		packet[9] = 47; /* of no urgent kind */
		memcpy(packet + 20, &i, sizeof(i));
		if (!count && check_random() & 1) { /* an inner TCP's acknowledgement */
			packet[9] = 6;
			packet[32] = 5 << 4;
			packet[33] = 0x10;
			len = 40;
		}
		ws_multipath_send(node->mp, packet, 20, packet + 20, len - 20, 0, 0, count > 0,
				  now_ns);
	}
	ws_multipath_pump(node->mp, now_ns);
}

static void run(uint64_t seed)
{
	struct link out[LINKS] = {{0}}, back[LINKS] = {{0}};
	uint32_t paths, scheduler, moves = 0, quiet = 0;
	struct node *a, *b;
	bool late, intact = true;

	check_seed = seed;
	now_ns = 1000 * MS + check_random() % (20000 * MS);
	paths = 1 + (uint32_t)(check_random() % LINKS);
	scheduler = (uint32_t)(check_random() % 5);
	late = check_random() & 1;
	for (uint32_t i = 0; i < paths; i++) {
		out[i].delay_ns = MS / 2 + check_random() % (60 * MS);
		out[i].byte_ns = 20 + check_random() % 2000; /* 400 .. 4 Mbit/s */
		out[i].loss = check_random() % 4 ? 0 : (uint32_t)(check_random() % 50);
		out[i].jitter_ns = check_random() % 3 ? 0 : check_random() % (5 * MS);
		back[i] = out[i];
		intact = intact && !out[i].loss;
	}
	a = node_new(out);
	b = node_new(back);
	a->other = b;
	b->other = a;
	ws_multipath_set_paths(a->mp, (1u << paths) - 1, (1u << paths) - 1, true, now_ns);
	ws_multipath_set_paths(b->mp, (1u << paths) - 1, (1u << paths) - 1, true, now_ns);
	tune(a, paths, late, scheduler);
	tune(b, paths, late, scheduler);
	for (uint32_t turn = 0; turn < 1500; turn++) {
		now_ns += 500 * US;
		if (turn < 1000 && turn % 4 == 0)
			offer(a, (uint32_t)(check_random() % 12));
		if (turn < 1000 && turn % 50 == 0)
			offer(b, (uint32_t)(check_random() % 3));
		/* Links die and come back, but for one; paths come, go and are tuned anew. */
		if (turn < 1000 && check_random() % 200 == 0 && paths > 1) {
			uint32_t i = 1 + (uint32_t)(check_random() % (paths - 1));

			out[i].dead = back[i].dead = !out[i].dead;
			intact = false;
			moves++;
		}
		if (turn < 1000 && check_random() % 300 == 0 && paths > 1) {
			uint32_t usable = 1 | (uint32_t)(check_random() & ((1u << paths) - 1));

			ws_multipath_set_paths(a->mp, (1u << paths) - 1, usable, true, now_ns);
			tune(a, paths, late, scheduler);
		}
		step(b);
		step(a);
	}
	for (uint32_t i = 0; i < 400; i++) {
		now_ns += 5 * MS;
		step(b);
		step(a);
		quiet = ws_multipath_deadline(b->mp) == UINT64_MAX;
	}
	/* Nothing waits any more, anywhere. */
	CHECK_EQ(ws_multipath_stats(b->mp)->depth, 0);
	CHECK_EQ(ws_multipath_stats(a->mp)->queue_packets, 0);
	CHECK(quiet);
	CHECK_EQ(ws_multipath_stats(a->mp)->ack_refused, 0);
	CHECK(out[0].carried || a->made == 0 || paths > 1);
	if (!late) {
		CHECK(a->ordered);
		CHECK(b->ordered);
	}
	/* What did not get lost, nor was too late or too much, came. */
	if (intact && late && !moves && !ws_multipath_stats(a->mp)->queue_drops)
		CHECK(b->delivered + ws_multipath_stats(b->mp)->skipped >= a->made);
	CHECK(b->delivered > 0 || a->made == 0);
	aligned += ws_multipath_stats(a->mp)->aligned + ws_multipath_stats(b->mp)->aligned;
	node_free(a);
	node_free(b);
}

/* An authenticated peer that lies: no claim moves anything, none crashes, bounds hold. */
static void hostile(void)
{
	struct link out[LINKS] = {{0}}, back[LINKS] = {{0}};
	struct node *a = node_new(out), *b = node_new(back);
	uint64_t refused = 0;

	a->other = b;
	b->other = a;
	now_ns = 5000 * MS;
	ws_multipath_set_paths(a->mp, 3, 3, true, now_ns);
	tune(a, 2, true, 0);
	offer(a, 20);
	for (uint32_t i = 0; i < check_rounds(50000, 200000); i++) {
		uint8_t frame[WS_ACK_MAX_BYTES];
		struct ws_ack ack = {.next_seq = (uint32_t)check_random()};
		size_t len;

		now_ns += check_random() % (2 * MS);
		ack.path_count = (uint8_t)(check_random() % 4);
		ack.gap_count = (uint8_t)(check_random() % 8);
		for (uint32_t k = 0; k < ack.path_count; k++)
			ack.paths[k] = (struct ws_ack_path){
				.path = (uint8_t)k,
				.hold_16us = (uint16_t)check_random(),
				.highest = (uint32_t)(check_random() >> check_random() % 60),
				.datagrams = (uint32_t)(check_random() >> check_random() % 60),
				.bytes = check_random() >> check_random() % 60,
				.arrived_us = (uint32_t)check_random(),
				.echo_us = (uint32_t)check_random() & 0xffffff,
				.delay_us = (uint32_t)check_random() & 0xffffff,
				.delay_min_us = (uint32_t)check_random() & 0xffffff,
			};
		for (uint32_t k = 0; k < ack.gap_count; k++)
			ack.gaps[k] = (struct ws_ack_gap){
				(uint32_t)(check_random() >> check_random() % 60),
				(uint16_t)check_random(),
			};
		len = ws_ack_encode(&ack, frame);
		refused += !ws_multipath_ack(a->mp, frame, len - check_random() % 2, now_ns);
		if (i % 64 == 0)
			offer(a, 1);
		ws_multipath_tick(a->mp, now_ns);
		for (uint32_t k = 0; k < 2; k++) {
			const struct ws_path_stats *stats = ws_multipath_path_stats(a->mp, k);

			CHECK(stats->acked_bytes <= stats->tx_bytes);
			CHECK(stats->in_flight_bytes <= stats->tx_bytes);
			CHECK(stats->srtt_us <= 10000000);
		}
	}
	CHECK(refused > check_rounds(25000, 100000));
	/* Nothing is sent again without end: a share of what was sent at all. */
	CHECK(ws_multipath_stats(a->mp)->again <= a->made);
	node_free(a);
	node_free(b);
}

int main(int argc, char **argv)
{
	uint64_t count = argc > 1 ? strtoull(argv[1], NULL, 10) : check_rounds(20, 60);

	for (uint64_t seed = 1; seed <= count; seed++) {
		unsigned long before = check_failures;

		run(seed);
		if (check_failures != before)
			fprintf(stderr, "seed %llu\n", (unsigned long long)seed);
	}
	CHECK(aligned > 0);
	hostile();
	return check_done();
}
