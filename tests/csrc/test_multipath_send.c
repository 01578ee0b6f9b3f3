/* SPDX-License-Identifier: MIT */
/*
 * What leaves at once, what waits, and what is sent again (docs/multipath.md
 * sections 6 to 8). All paths go nowhere.
 */
#include "check.h"

#include "multipath/ack.h"
#include "packet/frame.h"
#include "quiet.h"
#include "shared/wire.h"

#include <stdlib.h>
#include <string.h>

#define US 1000ULL
#define MS 1000000ULL

static uint64_t now_ns;

/* What takes the best path at once. */

static uint32_t sent_flags;

static uint32_t note_send(void *arg, uint32_t path, uint64_t number, const uint8_t *head,
			  uint8_t ecn, const uint8_t *packet, size_t len)
{
	(void)arg, (void)path, (void)number, (void)ecn, (void)packet;
	sent_flags = head[0] & WS_FRAME_FLAGS;
	return ws_message_bytes(ws_padded_bytes(WS_FRAME_HEADER_BYTES + len));
}

static const struct ws_multipath_ops ops = {
	.send = note_send,
	.control = quiet_control,
	.deliver = quiet_deliver,
	.flush = quiet_flush,
	.silent = quiet_silent,
};

static struct ws_multipath *noting(void)
{
	struct ws_multipath *mp = ws_multipath_new(1500, &ops, NULL);

	now_ns = 9000 * MS;
	CHECK(mp != NULL);
	ws_multipath_set_paths(mp, 3, 3, true, now_ns);
	return mp;
}

struct kind {
	const char *what;
	uint8_t version, dscp, protocol, tcp_flags;
	uint16_t fragment; /* IPv4 flags and offset */
	size_t len;
	bool more, urgent;
};

static void make_packet(uint8_t *packet, const struct kind *kind)
{
	uint8_t *l4 = packet + (kind->version == 4 ? 20 : 40);

	memset(packet, 0, 1500);
	if (kind->version == 4) {
		packet[0] = 0x45;
		packet[1] = (uint8_t)(kind->dscp << 2);
		packet[6] = (uint8_t)(kind->fragment >> 8);
		packet[7] = (uint8_t)kind->fragment;
		packet[9] = kind->protocol;
	} else {
		packet[0] = (uint8_t)(0x60 | kind->dscp >> 2);
		packet[1] = (uint8_t)(kind->dscp << 6);
		packet[6] = kind->protocol;
	}
	if (kind->protocol == 6) {
		l4[12] = 0x80; /* 32 bytes of header */
		l4[13] = kind->tcp_flags;
	}
}

static void urgent(void)
{
	enum { SYN = 0x02, FIN = 0x01, RST = 0x04, ACK = 0x10, EF = 46, AF41 = 34 };
	static const struct kind kinds[] = {
		{"a DNS question", 4, 0, 17, 0, 0, 60, false, true},
		{"... over IPv6", 6, 0, 17, 0, 0, 80, false, true},
		{"a voice packet", 4, 0, 17, 0, 0, 200, false, true},
		{"UDP of 256 bytes", 4, 0, 17, 0, 0, 256, false, true},
		{"... of 257", 4, 0, 17, 0, 0, 257, false, false},
		{"... of a super-packet", 4, 0, 17, 0, 0, 60, true, false},
		{"a first fragment", 4, 0, 17, 0, 0x2000, 60, false, false},
		{"a later one", 4, 0, 17, 0, 0x0010, 60, false, false},
		{"a ping", 4, 0, 1, 0, 0, 84, false, true},
		{"... of ICMPv6", 6, 0, 58, 0, 0, 104, false, true},
		{"a TCP ACK", 4, 0, 6, ACK, 0, 52, false, true},
		{"... over IPv6", 6, 0, 6, ACK, 0, 72, false, true},
		{"a SYN", 4, 0, 6, SYN, 0, 52, false, true},
		{"a FIN", 4, 0, 6, ACK | FIN, 0, 52, false, false},
		{"a RST", 4, 0, 6, RST, 0, 52, false, false},
		{"TCP with a byte of payload", 4, 0, 6, ACK, 0, 53, false, false},
		{"... marked EF", 4, EF, 6, ACK, 0, 53, false, true},
		{"... over IPv6", 6, EF, 6, ACK, 0, 73, false, true},
		{"... marked AF41", 4, AF41, 6, ACK, 0, 53, false, false},
		{"EF of 1,000 bytes", 4, EF, 17, 0, 0, 1000, false, false},
		{"another protocol", 4, 0, 47, 0, 0, 60, false, false},
		{"a header cut short", 4, 0, 17, 0, 0, 21, false, false},
	};
	uint8_t packet[1500];

	for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
		const struct kind *kind = &kinds[i];
		struct ws_multipath *mp = noting();
		bool got;

		make_packet(packet, kind);
		sent_flags = 0;
		ws_multipath_send(mp, packet, 20, packet + 20, kind->len - 20, 0, 0, kind->more,
				  now_ns);
		got = ws_multipath_stats(mp)->urgent == 1;
		CHECK_EQ(got, (sent_flags & WS_FRAME_URGENT) != 0);
		CHECK_EQ(got, kind->urgent);
		if (got != kind->urgent)
			fprintf(stderr, "%s\n", kind->what);
		ws_multipath_free(mp);
	}
}

/* A flood of small packets goes past the queue for a tenth of the rate, and else waits in it. */
static void urgent_share(void)
{
	const struct kind kind = {.version = 4, .protocol = 17, .len = 100};
	struct ws_multipath *mp = noting();
	uint8_t packet[1500];
	uint64_t bytes;

	ws_multipath_pump(mp, now_ns);
	make_packet(packet, &kind);
	for (int i = 0; i < 20000; i++, now_ns += 5 * US) /* 100 ms, 160 Mbit/s */
		ws_multipath_send(mp, packet, 20, packet + 20, 80, 0, 0, false, now_ns);
	bytes = ws_multipath_stats(mp)->urgent * ws_message_bytes(ws_padded_bytes(108));
	/* In each window of 10 ms 2 KiB, and a tenth of what two paths are taken for that have 16 packets a
	 * round trip of 0.1 s; as others wait each is sent twice. */
	CHECK(bytes > 11 * 1000 && bytes < 11 * 2000);
	ws_multipath_free(mp);
}

static uint32_t copies;

static uint32_t count_copies(void *arg, uint32_t path, uint64_t number, const uint8_t *head,
			     uint8_t ecn, const uint8_t *packet, size_t len)
{
	(void)arg, (void)path, (void)number, (void)ecn, (void)packet;
	copies += (head[0] & WS_FRAME_AGAIN) != 0;
	return ws_message_bytes(ws_padded_bytes(WS_FRAME_HEADER_BYTES + len));
}

static void told(struct ws_multipath *mp, uint32_t highest, uint32_t datagrams);

/* As many packets as two paths take at first, 23 each, and no answer. */
static struct ws_multipath *under_way(void)
{
	struct ws_multipath_ops count = ops;
	uint8_t bulk[1000] = {0x45, [9] = 47};
	struct ws_multipath *mp;

	count.send = count_copies;
	mp = ws_multipath_new(1500, &count, NULL);
	now_ns = 9000 * MS;
	copies = 0;
	ws_multipath_set_paths(mp, 3, 3, true, now_ns);
	for (int i = 0; i < 46; i++)
		ws_multipath_send(mp, bulk, 20, bulk + 20, sizeof(bulk) - 20, 0, 0, true, now_ns);
	for (uint64_t at = now_ns + 20 * MS; now_ns < at; now_ns += MS)
		ws_multipath_pump(mp, now_ns);
	return mp;
}

/* How many packets are sent again in the next 50 ms, by path 0: there all that left has come. */
static uint32_t copies_of(struct ws_multipath *mp)
{
	told(mp, 22, 23);
	for (int i = 0; i < 50; i++, now_ns += MS)
		ws_multipath_pump(mp, now_ns);
	ws_multipath_free(mp);
	return copies;
}

/* A path is left so long after it fell silent: how many of its packets are sent again.
 * scheduled: as over several paths still, else by path 0 as it is. */
static uint32_t rescued(uint64_t after_ns, uint32_t usable, bool scheduled)
{
	struct ws_multipath *mp = under_way();

	now_ns += after_ns;
	ws_multipath_set_paths(mp, 3, usable, scheduled, now_ns);
	return copies_of(mp);
}

/* What a silent path left behind is worth longer than one lost packet: none of it has come. */
static void rescue(void)
{
	CHECK_EQ(rescued(900 * MS, 1, true), 23);
	CHECK_EQ(rescued(1000 * MS, 1, true), 0);
	/* The paths end: what path 0 has under way, it still has. */
	CHECK_EQ(rescued(900 * MS, 0, false), 23);
	CHECK_EQ(rescued(1000 * MS, 0, false), 0);
}

/* The peer began anew: what the old one had under way is nothing that the new one asked for. */
static uint32_t rescued_and_reset(bool reset)
{
	struct ws_multipath *mp = under_way();

	CHECK(ws_multipath_rescue(mp, 1, now_ns) > 0);
	if (reset)
		ws_multipath_reset(mp, now_ns);
	return copies_of(mp);
}

/* One path alone: no pace and no window, and what is sent is kept for one that takes over. */

static struct {
	uint32_t count, again, unordered, paths, seq, told;
} went;

static uint32_t note_went(void *arg, uint32_t path, uint64_t number, const uint8_t *head,
			  uint8_t ecn, const uint8_t *packet, size_t len)
{
	(void)arg, (void)number, (void)ecn, (void)packet;
	went.count++;
	went.again += (head[0] & WS_FRAME_AGAIN) != 0;
	went.unordered += !(head[0] & WS_FRAME_FEEDBACK) || head[0] & WS_FRAME_URGENT;
	went.paths |= 1u << path;
	went.seq = ws_frame_seq(head);
	return ws_message_bytes(ws_padded_bytes(WS_FRAME_HEADER_BYTES + len));
}

static void note_told(void *arg, uint32_t path)
{
	(void)arg, (void)path;
	went.told++;
}

static void hand(struct ws_multipath *mp, uint32_t packets, uint16_t len)
{
	uint8_t packet[1000] = {0x45, [2] = (uint8_t)(len >> 8), [3] = (uint8_t)len, [9] = 17};

	for (uint32_t i = 0; i < packets; i++)
		ws_multipath_send(mp, packet, 20, packet + 20, len - 20u, 0, 0, false, now_ns);
	ws_multipath_pump(mp, now_ns);
}

/* Path 2 alone, of three. */
static struct ws_multipath *alone(void)
{
	struct ws_multipath_ops note = ops;
	struct ws_multipath_params tune = {.ack_interval_us = 10000, .repair_age_us = 1000000};
	struct ws_path_params path = {.cap_permille = 1, .max_packet = 1500, .rescue_us = 60000};
	struct ws_multipath *mp;

	note.send = note_went;
	note.silent = note_told;
	mp = ws_multipath_new(1500, &note, NULL);
	CHECK(mp != NULL);
	now_ns = 9000 * MS;
	ws_multipath_tune(mp, &tune);
	ws_multipath_set_paths(mp, 7, 4, WS_MULTIPATH_KEEP, now_ns);
	ws_multipath_tune_path(mp, 2, &path);
	memset(&went, 0, sizeof(went));
	return mp;
}

static void ticks(struct ws_multipath *mp, uint32_t ms)
{
	for (uint32_t i = 0; i < ms; i++, now_ns += MS)
		ws_multipath_tick(mp, now_ns);
}

static void the_only_path(void)
{
	struct ws_multipath *mp = alone();

	/* Small ones have their turn as well: nothing waits. */
	hand(mp, 300, 1000);
	hand(mp, 1, 100);
	CHECK_EQ(went.count, 301);
	CHECK_EQ(went.unordered, 0);
	CHECK_EQ(went.seq, 300);
	CHECK_EQ(went.paths, 1u << 2);
	CHECK_EQ(ws_multipath_stats(mp)->scheduling, 0);
	/* Silence is told once, and nothing goes there a second time. */
	ticks(mp, 110);
	CHECK_EQ(went.told, 0);
	ticks(mp, 90);
	CHECK_EQ(went.told, 1);
	CHECK_EQ(went.count, 301);
	ws_multipath_free(mp);
}

static void who_takes_over(void)
{
	struct ws_multipath *mp = alone();
	uint32_t at_once;

	/* 8 Mbit/s for 0.2 s; a second before, what nobody waits for any more. */
	hand(mp, 5, 1000);
	now_ns += 1000 * MS;
	for (uint32_t i = 0; i < 200; i++) {
		hand(mp, 1, 1000);
		ticks(mp, 1);
	}
	memset(&went, 0, sizeof(went));
	/* Whose MTU is not searched yet: there is no other to go by. */
	ws_multipath_tune_path(mp, 1, &(struct ws_path_params){.max_packet = 900});
	ws_multipath_set_paths(mp, 7, 2, WS_MULTIPATH_KEEP, now_ns);
	/* Not as one burst, and what comes meanwhile goes behind it. */
	at_once = went.count;
	CHECK(at_once > 0 && at_once < 20);
	hand(mp, 10, 1000);
	CHECK(went.count < 20);
	ticks(mp, 50);
	CHECK(went.count < 200);
	ticks(mp, 150);
	CHECK_EQ(went.paths, 1u << 1);
	CHECK_EQ(went.again, 200);
	CHECK_EQ(went.count, 210);
	CHECK_EQ(went.seq, 214);
	/* As before then. */
	hand(mp, 100, 1000);
	CHECK_EQ(went.count, 310);
	ws_multipath_free(mp);
}

/* CATCH_UP_LEAST_BPS: what was hardly used is no reason to be slow, nor to burst. WS_RING: half of it may be in
 * flight, and goes again. */
static void what_is_left_behind(void)
{
	struct ws_multipath *mp = alone();

	for (int i = 0; i < 90; i++) {
		hand(mp, 1, 1000);
		ticks(mp, 5);
	}
	memset(&went, 0, sizeof(went));
	ws_multipath_set_paths(mp, 7, 2, WS_MULTIPATH_KEEP, now_ns);
	ticks(mp, 40);
	CHECK(went.again > 30 && went.again < 70);
	ws_multipath_free(mp);

	mp = alone();
	hand(mp, 12000, 40);
	memset(&went, 0, sizeof(went));
	ws_multipath_set_paths(mp, 7, 2, WS_MULTIPATH_KEEP, now_ns);
	ticks(mp, 900);
	CHECK(went.again > 3000 && went.again < 6000);
	ws_multipath_free(mp);
}

/* More than could be kept for long enough goes by itself; of a sample it is told that it came, and nobody
 * waits behind it for what did not. */
static void too_many_to_keep(void)
{
	struct ws_multipath *mp = alone();
	uint32_t past = 0, samples = 0, seq = 0;

	CHECK(!ws_multipath_past(mp, 100, now_ns));
	for (uint32_t i = 0; i < 100; i++, now_ns += MS) {
		bool by_itself = ws_multipath_past(mp, 40, now_ns);

		past += by_itself;
		for (uint32_t k = 0; by_itself && k < 40; k++, seq++) {
			CHECK_EQ(ws_multipath_seq(mp), seq);
			(void)ws_multipath_number(mp, 2, 1000, now_ns);
		}
		if (by_itself)
			continue;
		went.unordered = went.count = 0;
		hand(mp, 40, 1000);
		CHECK_EQ(went.count, 40);
		if (went.unordered) {
			samples++;
			CHECK_EQ(went.unordered, 40);
			continue;
		}
		CHECK_EQ(past, 0);
		seq += 40;
		CHECK_EQ(went.seq, seq - 1);
	}
	CHECK(past > 60 && past < 80);
	CHECK(samples >= 3 && samples <= 5);
	/* Nobody answers the samples: that is silence too, however many went since. */
	CHECK_EQ(went.told, 0);
	for (uint32_t i = 0; i < 100; i++)
		(void)ws_multipath_number(mp, 2, 1000, now_ns);
	ticks(mp, 100);
	CHECK_EQ(went.told, 1);
	ws_multipath_free(mp);
	/* Elsewhere than with one path nothing goes past the ring. */
	mp = noting();
	for (uint32_t i = 0; i < 100; i++)
		CHECK(!ws_multipath_past(mp, 1000, now_ns));
	ws_multipath_free(mp);
}

static struct {
	uint32_t count, urgent, paths, number;
} left;

static uint32_t note_left(void *arg, uint32_t path, uint64_t number, const uint8_t *head,
			  uint8_t ecn, const uint8_t *packet, size_t len)
{
	(void)arg, (void)number, (void)ecn, (void)packet;
	left.count++;
	if (head[0] & WS_FRAME_URGENT) {
		left.urgent++;
		left.paths |= 1u << path;
		left.number = ws_frame_seq(head);
	}
	return ws_message_bytes(ws_padded_bytes(WS_FRAME_HEADER_BYTES + len));
}

/* Two paths, and so many packets for them. */
static struct ws_multipath *windowed_for(uint32_t packets, uint8_t ttl, uint8_t protocol)
{
	struct ws_multipath_ops note = ops;
	struct ws_multipath_params tune = {.repair_age_us = 1000000, .align = 1};
	struct ws_path_params path = {.max_packet = 1500, .cap_permille = 1000};
	uint8_t packet[1400] = {0x45, [8] = ttl, [9] = protocol, [32] = 0x50};
	struct ws_multipath *mp;

	memset(&left, 0, sizeof(left));
	note.send = note_left;
	mp = ws_multipath_new(1500, &note, NULL);
	now_ns = 9000 * MS;
	CHECK(mp != NULL);
	ws_multipath_set_paths(mp, 3, 3, true, now_ns);
	ws_multipath_tune(mp, &tune);
	for (uint32_t i = 0; i < 2; i++)
		ws_multipath_tune_path(mp, i, &path);
	ws_multipath_pump(mp, now_ns);
	for (uint32_t i = 0; i < packets; i++) {
		packet[24] = (uint8_t)(i >> 8); /* of a TCP its number: it sends none again */
		packet[25] = (uint8_t)i;
		ws_multipath_send(mp, packet, 20, packet + 20, 1380, 0, 0, true, now_ns);
	}
	return mp;
}

static struct ws_multipath *windowed(uint32_t packets)
{
	return windowed_for(packets, 64, 47);
}

static void for_ms(struct ws_multipath *mp, uint32_t ms)
{
	for (uint32_t i = 0; i < 2 * ms; i++, now_ns += MS / 2)
		ws_multipath_pump(mp, now_ns);
}

/* A flow that waits is told by one loss, and not again while no more time has passed than its packets had
 * waited; a BBR of this host is not. After a second all that waits is dropped, but for a TCP's. */
static void who_waits_is_told(uint32_t align, uint8_t ttl, uint8_t protocol, uint32_t told)
{
	uint32_t packets = 200;
	struct ws_multipath *mp = windowed_for(packets, ttl, protocol);
	struct ws_multipath_params tune = {.repair_age_us = 1000000, .align = align};

	ws_multipath_tune(mp, &tune);
	for_ms(mp, 499);
	CHECK_EQ(ws_multipath_stats(mp)->queue_drops, 0);
	for_ms(mp, 4);
	CHECK_EQ(ws_multipath_stats(mp)->queue_drops, told);
	for_ms(mp, 490);
	CHECK_EQ(ws_multipath_stats(mp)->queue_drops, told);
	for_ms(mp, 20);
	CHECK_EQ(ws_multipath_stats(mp)->queue_drops, protocol == 6 ? told : packets - left.count);
	ws_multipath_free(mp);
}

/* While others wait, what is urgent leaves over both paths, with one number; else over one. */
static void urgent_leaves_twice(void)
{
	uint8_t ping[84] = {0x45, [9] = 1};
	struct ws_multipath *mp = windowed(0);

	ws_multipath_send(mp, ping, 20, ping + 20, 64, 0, 0, false, now_ns);
	CHECK_EQ(left.urgent, 1);
	CHECK_EQ(left.number, 0);
	ws_multipath_free(mp);
	mp = windowed(100);
	for_ms(mp, 60);
	for (uint32_t i = 1; i <= 3; i++) {
		left.paths = 0;
		ws_multipath_send(mp, ping, 20, ping + 20, 64, 0, 0, false, now_ns);
		CHECK_EQ(left.urgent, 2 * i);
		CHECK_EQ(left.paths, 3);
		CHECK_EQ(left.number, i);
	}
	CHECK_EQ(ws_multipath_stats(mp)->urgent, 3);
	/* Windows of 16 packets are full by then: a few more, and copies are no longer worth their room. */
	for (uint32_t i = 0; i < 40; i++, now_ns += 10 * MS)
		ws_multipath_send(mp, ping, 20, ping + 20, 64, 0, 0, false, now_ns);
	CHECK(left.urgent > 46);
	CHECK(left.urgent < 70);
	ws_multipath_free(mp);
}

/* A handshake too: what is urgent is not sent again, and one that is lost costs a second. */
static void a_handshake_leaves_twice(void)
{
	uint8_t syn[40] = {0x45, [3] = 40, [9] = 6, [32] = 0x50, [33] = 0x02};
	struct ws_multipath *mp = windowed(0);

	ws_multipath_send(mp, syn, 20, syn + 20, 20, 0, 0, false, now_ns);
	CHECK_EQ(left.urgent, 2);
	CHECK_EQ(left.paths, 3);
	CHECK_EQ(left.number, 1);
	syn[33] = 0x10;
	ws_multipath_send(mp, syn, 20, syn + 20, 20, 0, 0, false, now_ns);
	CHECK_EQ(left.urgent, 3);
	CHECK_EQ(left.number, 0);
	ws_multipath_free(mp);
}

/* So many of a path's datagrams have come, and the highest. */
static void told(struct ws_multipath *mp, uint32_t highest, uint32_t datagrams)
{
	uint8_t frame[WS_ACK_MAX_BYTES];
	struct ws_ack ack = {.path_count = 1};

	now_ns += 10 * MS;
	ack.paths[0] = (struct ws_ack_path){
		.highest = highest,
		.datagrams = datagrams,
		.echo_us = (uint32_t)((now_ns - 10 * MS) / US),
	};
	CHECK(ws_multipath_ack(mp, frame, ws_ack_encode(&ack, frame), now_ns));
}

/* Of 40 datagrams four of `bytes` are lost, eight times, behind 20 of which the peer counted `counted`. */
static uint64_t window_after(uint32_t bytes, uint32_t counted)
{
	struct ws_multipath *mp = windowed(0);
	uint32_t sent = 20;
	uint64_t window;

	for (uint32_t i = 0; i < sent; i++)
		(void)ws_multipath_number(mp, 0, 100, now_ns);
	told(mp, sent - 1, counted);
	for (uint32_t round = 0; round < 8; round++) {
		for (uint32_t i = 0; i < 40; i++)
			(void)ws_multipath_number(mp, 0, i % 10 == 3 ? bytes : 100, now_ns);
		sent += 40;
		counted += 36;
		told(mp, sent - 1, counted);
	}
	(void)ws_multipath_number(mp, 0, 100, now_ns);
	told(mp, sent, counted + 1);
	window = ws_multipath_path_stats(mp, 0)->window_bytes;
	ws_multipath_free(mp);
	return window;
}

/* What the peer did not count before it spoke of the path, and what was longer than the path takes, is no
 * loss. */
static void no_losses(void)
{
	uint64_t whole = window_after(1600, 20);

	CHECK(window_after(1500, 20) < whole);
	CHECK_EQ(window_after(1600, 15), whole);
}

int main(void)
{
	no_losses();
	a_handshake_leaves_twice();
	CHECK_EQ(rescued_and_reset(false), 23);
	CHECK_EQ(rescued_and_reset(true), 0);
	rescue();
	urgent();
	urgent_share();
	for (uint8_t protocol = 6; protocol < 50; protocol += 41) {
		who_waits_is_told(WS_ALIGN_TCP, 64, protocol, 1);
		who_waits_is_told(WS_ALIGN_BBR, 64, protocol, 0);
		who_waits_is_told(WS_ALIGN_BBR, 63, protocol, 1);
	}
	urgent_leaves_twice();
	the_only_path();
	who_takes_over();
	what_is_left_behind();
	too_many_to_keep();
	return check_done();
}
