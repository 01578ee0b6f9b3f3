/* SPDX-License-Identifier: MIT */
/*
 * bpf/relay.bpf.c over whole frames (BPF_PROG_TEST_RUN), its maps filled as the agent fills them:
 * what goes on and how it looks then, what is dropped, what is left to the workers. Needs root.
 */
#include "kernel/bpf.h"
#include "kernel/bpf_relay.h"

#include "check.h"

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef BPF_FOLDER
#define BPF_FOLDER "whalescale/dataplane/bpf"
#endif

#define ETHER 14
#define FRAME_MAX 4096
#define US_PORT 5555
#define A_PORT 1111
#define B_PORT 2222
#define SECOND 1000000000ULL
#define FUZZ_RUNS 20000

static ws_bpf *bpf;
static struct ws_addr us[2], a[2], b[2]; /* IPv4, IPv6 */

/* Receiver indices, by families of A and B. */
static const uint32_t to_b[2][2] = {{0x10, 0x11}, {0x12, 0x13}};

static struct ws_addr addr(int v6, uint8_t last, uint16_t port)
{
	struct ws_addr v4_addr = {.family = 4, .port = port, .ip = {192, 0, 2, last}};
	struct ws_addr v6_addr = {.family = 6, .port = port, .ip = {0x20, 1, 0xd, 0xb8}};

	v6_addr.ip[15] = last;
	return v6 ? v6_addr : v4_addr;
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	return (uint64_t)now.tv_sec * SECOND + (uint64_t)now.tv_nsec;
}

static struct ws_bpf_relay_entry entry(int v6_in, int v6_out)
{
	struct ws_bpf_relay_entry e = {
		.until_ns = now_ns() + 60 * SECOND,
		.index = to_b[v6_in][v6_out],
		.sender = 7,
		.ifindex = 1,
		.mtu = 1500,
		.place_count = 2,
		.local = us[v6_out],
		.remote = b[v6_out],
		.next_hop = b[v6_out],
	};

	e.places[0] = addr(v6_in, 77, 77);
	e.places[1] = a[v6_in];
	return e;
}

static void set(const struct ws_bpf_relay_entry *e)
{
	CHECK_EQ(ws_bpf_relay_set(bpf, e), 0);
}

static void set_all(void)
{
	for (int in = 0; in < 2; in++)
		for (int out = 0; out < 2; out++) {
			struct ws_bpf_relay_entry e = entry(in, out);

			set(&e);
		}
}

static struct ws_relay_tally tally(uint32_t index)
{
	struct ws_relay_tally t;

	memset(&t, 0, sizeof(t));
	CHECK_EQ(ws_bpf_relay_tally(bpf, index, &t), 0);
	return t;
}

/* Frames */

struct frame {
	uint8_t data[FRAME_MAX];
	uint32_t len, gso;
};

struct spec {
	int v6;
	const struct ws_addr *from, *to;
	uint32_t index;
	uint32_t count, stride, last; /* datagrams of `stride` bytes, the last of `last` */
	uint8_t tos, hops;
};

static uint32_t sum(const uint8_t *data, uint32_t len, uint32_t start)
{
	for (uint32_t i = 0; i < len; i++)
		start += i & 1 ? data[i] : (uint32_t)data[i] << 8;
	return start;
}

static uint16_t fold(uint32_t s)
{
	while (s >> 16)
		s = (s & 0xffff) + (s >> 16);
	return (uint16_t)~s;
}

static void put16(uint8_t *at, uint32_t value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

static uint32_t get16(const uint8_t *at)
{
	return (uint32_t)at[0] << 8 | at[1];
}

static uint32_t ip_bytes(int v6)
{
	return v6 ? 40 : 20;
}

static uint8_t *udp_of(struct frame *f, int v6)
{
	return f->data + ETHER + ip_bytes(v6);
}

/* 0: right. */
static uint16_t udp_check(struct frame *f, int v6)
{
	uint8_t *udp = udp_of(f, v6);
	uint32_t len = get16(udp + 4), s;

	s = v6 ? sum(f->data + ETHER + 8, 32, len + 17) : sum(f->data + ETHER + 12, 8, len + 17);
	return fold(sum(udp, len, s));
}

static void seal(struct frame *f, int v6)
{
	uint8_t *udp = udp_of(f, v6);

	if (!v6) {
		put16(f->data + ETHER + 10, 0);
		put16(f->data + ETHER + 10, fold(sum(f->data + ETHER, 20, 0)));
	}
	put16(udp + 6, 0);
	put16(udp + 6, udp_check(f, v6));
}

static void build(struct frame *f, const struct spec *s)
{
	uint32_t payload = (s->count - 1) * s->stride + s->last;
	uint8_t *ip = f->data + ETHER, *udp = udp_of(f, s->v6);

	memset(f, 0, sizeof(*f));
	f->len = ETHER + ip_bytes(s->v6) + 8 + payload;
	f->gso = s->count > 1 ? s->stride : 0;
	put16(f->data + 12, s->v6 ? 0x86dd : 0x0800);
	if (s->v6) {
		ip[0] = (uint8_t)(0x60 | s->tos >> 4);
		ip[1] = (uint8_t)(s->tos << 4);
		put16(ip + 4, 8 + payload);
		ip[6] = 17;
		ip[7] = s->hops;
		memcpy(ip + 8, s->from->ip, 16);
		memcpy(ip + 24, s->to->ip, 16);
	} else {
		ip[0] = 0x45;
		ip[1] = s->tos;
		put16(ip + 2, 28 + payload);
		put16(ip + 4, 0x1234);
		ip[8] = s->hops;
		ip[9] = 17;
		memcpy(ip + 12, s->from->ip, 4);
		memcpy(ip + 16, s->to->ip, 4);
	}
	put16(udp, s->from->port);
	put16(udp + 2, s->to->port);
	put16(udp + 4, 8 + payload);
	for (uint32_t i = 0; i < payload; i++)
		udp[8 + i] = (uint8_t)check_random();
	for (uint32_t i = 0; i < s->count; i++) {
		uint8_t *message = udp + 8 + i * s->stride;
		uint32_t index = htole32(s->index);

		memcpy(message, (const uint8_t[]){4, 0, 0, 0}, 4);
		memcpy(message + 4, &index, 4);
	}
	seal(f, s->v6);
}

static struct spec usual(int v6_in, int v6_out)
{
	return (struct spec){
		.v6 = v6_in,
		.from = &a[v6_in],
		.to = &us[v6_in],
		.index = to_b[v6_in][v6_out],
		.count = 1,
		.stride = 1200,
		.last = 1200,
		.tos = 0xb9,
		.hops = 64,
	};
}

/* Returns what the program says; *out is the frame then. */
static int run(const struct frame *in, struct frame *out)
{
	struct __sk_buff ctx = {.gso_size = in->gso};
	union bpf_attr attr;

	if (in->gso)
		ctx.gso_segs = 2;
	memset(&attr, 0, sizeof(attr));
	attr.test.prog_fd = (uint32_t)bpf->program.relay;
	attr.test.data_in = (uintptr_t)in->data;
	attr.test.data_size_in = in->len;
	attr.test.data_out = (uintptr_t)out->data;
	attr.test.data_size_out = sizeof(out->data);
	attr.test.ctx_in = (uintptr_t)&ctx;
	attr.test.ctx_size_in = sizeof(ctx);
	if (syscall(SYS_bpf, BPF_PROG_TEST_RUN, &attr, sizeof(attr)))
		return -errno;
	out->len = attr.test.data_size_out;
	out->gso = in->gso;
	return (int)attr.test.retval;
}

enum { UP = TC_ACT_UNSPEC, DROPPED = TC_ACT_SHOT, ON = TC_ACT_REDIRECT };

static int judged(const struct frame *in)
{
	static struct frame out;

	return run(in, &out);
}

static int judge(const struct spec *s)
{
	struct frame f;

	build(&f, s);
	return judged(&f);
}

/* What left is what came, but for addresses, hop limit and checksums. The Ethernet header is written
 * by the redirection. */
static void check_sent(struct frame *in, struct frame *out, const struct spec *s, int v6_out)
{
	const uint8_t *ip = out->data + ETHER, *udp = udp_of(out, v6_out);
	const uint8_t *came = udp_of(in, s->v6);
	uint32_t payload = get16(came + 4) - 8;

	CHECK_EQ(out->len, ETHER + ip_bytes(v6_out) + 8 + payload);
	if (v6_out) {
		CHECK_EQ(ip[0] >> 4, 6);
		CHECK_EQ((ip[0] << 4 | ip[1] >> 4) & 0xff, s->tos);
		CHECK_EQ(get16(ip + 4), 8 + payload);
		CHECK_EQ(ip[6], 17);
		CHECK_EQ(ip[7], s->hops - 1);
		CHECK(!memcmp(ip + 8, us[1].ip, 16) && !memcmp(ip + 24, b[1].ip, 16));
	} else {
		CHECK_EQ(ip[0], 0x45);
		CHECK_EQ(ip[1], s->tos);
		CHECK_EQ(get16(ip + 2), 28 + payload);
		CHECK_EQ(get16(ip + 6), s->v6 ? 0 : get16(in->data + ETHER + 6));
		CHECK_EQ(ip[8], s->hops - 1);
		CHECK_EQ(ip[9], 17);
		CHECK_EQ(fold(sum(ip, 20, 0)), 0);
		CHECK(!memcmp(ip + 12, us[0].ip, 4) && !memcmp(ip + 16, b[0].ip, 4));
	}
	CHECK_EQ(get16(udp), US_PORT);
	CHECK_EQ(get16(udp + 2), B_PORT);
	CHECK_EQ(get16(udp + 4), 8 + payload);
	CHECK_EQ(udp_check(out, v6_out), 0);
	CHECK(get16(udp + 6) != 0);
	CHECK(!memcmp(udp + 8, came + 8, payload));
}

static void test_goes_on_as_it_came(void)
{
	static const uint32_t lengths[] = {32, 33, 64, 1200, 1452};
	struct frame in, out;

	for (int v6_in = 0; v6_in < 2; v6_in++)
		for (int v6_out = 0; v6_out < 2; v6_out++) {
			uint32_t index = to_b[v6_in][v6_out];
			struct ws_relay_tally before = tally(index), after;
			uint64_t bytes = 0;

			for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
				struct spec s = usual(v6_in, v6_out);

				s.stride = s.last = lengths[i];
				s.tos = (uint8_t)(0xb8 | i);
				build(&in, &s);
				CHECK_EQ(run(&in, &out), ON);
				check_sent(&in, &out, &s, v6_out);
				bytes += lengths[i];
			}
			after = tally(index);
			CHECK_EQ(after.datagrams - before.datagrams, 5);
			CHECK_EQ(after.bytes - before.bytes, bytes);
		}
}

/* Every value that a checksum can have, the one that may not be sent among them. */
static void test_checksums(void)
{
	struct spec s = usual(0, 1);
	struct frame in, out;

	s.stride = s.last = 40;
	build(&in, &s);
	for (uint32_t value = 0; value < 65536; value += 1 + value % 3) {
		put16(udp_of(&in, 0) + 8 + 20, value);
		seal(&in, 0);
		if (!get16(udp_of(&in, 0) + 6))
			put16(udp_of(&in, 0) + 6, 0xffff);
		CHECK_EQ(run(&in, &out), ON);
		CHECK_EQ(udp_check(&out, 1), 0);
		CHECK(get16(udp_of(&out, 1) + 6) != 0);
	}
	/* A broken datagram leaves as broken: who gets it finds out. */
	udp_of(&in, 0)[20] ^= 0x10;
	CHECK_EQ(run(&in, &out), ON);
	CHECK(udp_check(&out, 1) != 0);
	/* None at all: the workers' socket says whether it is whole. */
	put16(udp_of(&in, 0) + 6, 0);
	CHECK_EQ(judged(&in), UP);
	/* A broken IP header is not made good. */
	build(&in, &s);
	in.data[ETHER + 8]--;
	CHECK_EQ(judged(&in), UP);
}

static void test_what_is_not_plain_goes_up(void)
{
	struct spec s = usual(0, 0), six = usual(1, 1);
	struct frame f, g;

	for (int i = 0; i < 3; i++) { /* the first, a middle and the last fragment */
		static const uint32_t offsets[] = {0x2000, 0x2010, 0x0010};

		build(&f, &s);
		put16(f.data + ETHER + 6, offsets[i]);
		seal(&f, 0);
		CHECK_EQ(judged(&f), UP);
	}
	/* Not to be cut up: it goes on, and may not be cut up behind us either. */
	build(&f, &s);
	put16(f.data + ETHER + 6, 0x4000);
	seal(&f, 0);
	CHECK_EQ(run(&f, &g), ON);
	check_sent(&f, &g, &s, 0);
	/* Options. */
	build(&f, &s);
	memmove(f.data + ETHER + 24, f.data + ETHER + 20, f.len - ETHER - 20);
	f.len += 4;
	f.data[ETHER] = 0x46;
	memcpy(f.data + ETHER + 20, (const uint8_t[]){1, 1, 1, 0}, 4);
	put16(f.data + ETHER + 2, f.len - ETHER);
	put16(f.data + ETHER + 10, 0);
	put16(f.data + ETHER + 10, fold(sum(f.data + ETHER, 24, 0)));
	CHECK_EQ(judged(&f), UP);
	/* Tags: a VLAN, priority alone, two of them. */
	for (int i = 0; i < 3; i++) {
		static const uint32_t tags[][2] = {{0x8100, 5}, {0x8100, 0xe000}, {0x88a8, 7}};

		build(&f, &s);
		memmove(f.data + 16, f.data + 12, f.len - 12);
		f.len += 4;
		put16(f.data + 12, tags[i][0]);
		put16(f.data + 14, tags[i][1]);
		CHECK_EQ(judged(&f), UP);
	}
	/* Extension headers: destination options, a fragment, hop by hop. */
	for (int i = 0; i < 3; i++) {
		static const uint8_t kinds[] = {60, 44, 0};

		build(&f, &six);
		memmove(f.data + ETHER + 48, f.data + ETHER + 40, f.len - ETHER - 40);
		f.len += 8;
		memset(f.data + ETHER + 40, 0, 8);
		f.data[ETHER + 40] = 17;
		f.data[ETHER + 6] = kinds[i];
		put16(f.data + ETHER + 4, f.len - ETHER - 40);
		CHECK_EQ(judged(&f), UP);
	}
	/* An IPv6 address that stands for IPv4. */
	build(&f, &six);
	memset(f.data + ETHER + 8, 0, 10);
	memset(f.data + ETHER + 18, 0xff, 2);
	CHECK_EQ(judged(&f), UP);
	/* Lengths that do not agree, padding, and frames cut short. */
	for (int v6 = 0; v6 < 2; v6++) {
		const struct spec *spec = v6 ? &six : &s;

		build(&f, spec);
		put16(udp_of(&f, v6) + 4, 8 + 1199);
		CHECK_EQ(judged(&f), UP);
		build(&f, spec);
		f.len += 3;
		CHECK_EQ(judged(&f), UP);
		build(&f, spec);
		f.len -= 1;
		CHECK_EQ(judged(&f), UP);
		for (uint32_t len = ETHER + 1; len < ETHER + ip_bytes(v6) + 16; len++) {
			int result;

			build(&f, spec);
			f.len = len;
			result = judged(&f);
			CHECK(result == UP ||
			      result == -EINVAL); /* shorter than the kernel takes */
		}
	}
	/* Another's frame, as a promiscuous interface sees them. */
	build(&f, &s);
	f.data[5] = 9;
	CHECK_EQ(judged(&f), UP);
	/* No transport message; reserved bytes. */
	build(&f, &s);
	udp_of(&f, 0)[8] = 1;
	seal(&f, 0);
	CHECK_EQ(judged(&f), UP);
	build(&f, &s);
	udp_of(&f, 0)[9] = 1;
	seal(&f, 0);
	CHECK_EQ(judged(&f), UP);
	s.stride = s.last = 31;
	CHECK_EQ(judge(&s), UP);
}

static void test_who_and_where(void)
{
	struct ws_addr elsewhere[2] = {addr(0, 66, A_PORT), addr(1, 66, A_PORT)};
	struct ws_addr other_port[2] = {addr(0, 10, A_PORT + 1), addr(1, 10, A_PORT + 1)};

	for (int v6 = 0; v6 < 2; v6++) {
		struct spec s = usual(v6, v6);
		struct ws_addr not_us = addr(v6, 200, US_PORT), not_port = us[v6];
		struct ws_relay_tally before = tally(s.index), after;

		s.from = &elsewhere[v6];
		CHECK_EQ(judge(&s), DROPPED);
		s.from = &other_port[v6];
		CHECK_EQ(judge(&s), DROPPED);
		s.from = &a[!v6];
		s = usual(v6, v6);
		s.index++; /* bound for the other family's sender */
		CHECK_EQ(judge(&s), v6 ? UP : ON);
		s.index = 0xdeadbeef;
		CHECK_EQ(judge(&s), UP);
		s = usual(v6, v6);
		s.to = &not_us;
		CHECK_EQ(judge(&s), UP);
		not_port.port++;
		s.to = &not_port;
		CHECK_EQ(judge(&s), UP);
		after = tally(to_b[v6][v6]);
		CHECK_EQ(after.elsewhere - before.elsewhere, 2);
		CHECK_EQ(after.datagrams - before.datagrams, 0);
	}
}

/* A link-local address is a place on its link alone; frames come in by interface 1 here. */
static void test_link_local(void)
{
	struct ws_bpf_relay_entry e = entry(1, 0);
	struct ws_addr from = {.family = 6, .port = A_PORT, .ip = {0xfe, 0x80}};
	struct spec s = usual(1, 0);

	from.ip[15] = 10;
	from.scope_id = 1;
	e.places[1] = from;
	s.from = &from;
	set(&e);
	CHECK_EQ(judge(&s), ON);
	e.places[1].scope_id = 2;
	set(&e);
	CHECK_EQ(judge(&s), DROPPED);
	e = entry(1, 0);
	set(&e);
}

static void test_limits(void)
{
	struct ws_bpf_relay_entry e = entry(0, 0);
	struct spec s = usual(0, 0);
	uint64_t *shares;
	size_t bytes;

	/* Longer than the way carries: 28 bytes of headers here, 48 in IPv6. */
	s.stride = s.last = 1472;
	CHECK_EQ(judge(&s), ON);
	s.stride = s.last = 1473;
	CHECK_EQ(judge(&s), UP);
	{
		/* One that may not be cut up: lost, so that who probes the MTU finds out. */
		struct ws_relay_tally before = tally(s.index);
		struct frame f;

		build(&f, &s);
		put16(f.data + ETHER + 6, 0x4000);
		seal(&f, 0);
		CHECK_EQ(judged(&f), DROPPED);
		CHECK_EQ(tally(s.index).over - before.over, 1);
	}
	s = usual(0, 1);
	s.stride = s.last = 1453;
	CHECK_EQ(judge(&s), UP);
	e.most_bytes = 1199;
	set(&e);
	s = usual(0, 0);
	CHECK_EQ(judge(&s), UP);
	s.stride = s.last = 1199;
	CHECK_EQ(judge(&s), ON);
	/* Hops. */
	s.hops = 2;
	CHECK_EQ(judge(&s), ON);
	s.hops = 1;
	CHECK_EQ(judge(&s), DROPPED);
	s.hops = 0;
	CHECK_EQ(judge(&s), DROPPED);
	/* Expired. */
	s = usual(0, 0);
	e.most_bytes = 0;
	e.until_ns = now_ns() - 1;
	set(&e);
	CHECK_EQ(judge(&s), UP);
	e.until_ns = now_ns() + 60 * SECOND;
	set(&e);
	CHECK_EQ(judge(&s), ON);
	/* The agent is gone. */
	ws_bpf_relay_beat(bpf, now_ns() - 1, 0);
	CHECK_EQ(judge(&s), UP);
	/* The rate: 8 Mbit/s is 1 MB/s; 64 KiB may come at once. */
	ws_bpf_relay_beat(bpf, now_ns() + 600 * SECOND, 8000000);
	shares = ws_bpf_relay_shares(bpf, &bytes);
	CHECK(shares != NULL);
	if (shares) {
		struct ws_relay_tally before = tally(s.index), after;
		int on = 0, over = 0;

		shares[7] = 0;
		for (int i = 0; i < 80; i++) {
			int result = judge(&s);

			on += result == ON;
			over += result == DROPPED;
		}
		after = tally(s.index);
		CHECK_EQ(on + over, 80);
		CHECK(on >= 54 && on < 80); /* and what came in meanwhile */
		CHECK_EQ(after.over - before.over, over);
		/* What the workers draw counts here. */
		shares[7] = now_ns() + 10 * SECOND;
		CHECK_EQ(judge(&s), DROPPED);
		/* Of a run they take what is within. */
		s.count = 2;
		s.stride = s.last = 600;
		CHECK_EQ(judge(&s), UP);
		shares[7] = 0;
		CHECK_EQ(judge(&s), ON);
	}
	ws_bpf_relay_beat(bpf, now_ns() + 600 * SECOND, 0);
}

static void test_runs(void)
{
	struct frame in, out;

	for (int v6_in = 0; v6_in < 2; v6_in++)
		for (int v6_out = 0; v6_out < 2; v6_out++) {
			struct spec s = usual(v6_in, v6_out);
			struct ws_relay_tally before = tally(s.index), after;
			uint8_t *first;

			s.count = 5;
			s.stride = 400;
			s.last = 33;
			build(&in, &s);
			CHECK_EQ(run(&in, &out), ON);
			check_sent(&in, &out, &s, v6_out);
			after = tally(s.index);
			CHECK_EQ(after.datagrams - before.datagrams, 5);
			CHECK_EQ(after.bytes - before.bytes, 4 * 400 + 33);
			/* One of them for another index, or no transport message, or too short. */
			for (uint32_t i = 0; i < 5; i++) {
				build(&in, &s);
				first = udp_of(&in, v6_in) + 8;
				first[i * 400 + 4] ^= 0xff;
				seal(&in, v6_in);
				CHECK_EQ(judged(&in), UP);
				build(&in, &s);
				first[i * 400] = 1;
				seal(&in, v6_in);
				CHECK_EQ(judged(&in), UP);
			}
			s.last = 31;
			CHECK_EQ(judge(&s), UP);
		}
}

static void test_bindings(void)
{
	struct ws_bpf_relay_entry e = entry(0, 0);
	struct spec s = usual(0, 0);
	struct ws_relay_tally last, before = tally(s.index);
	uint32_t used = ws_bpf_relay_used(bpf);

	/* Renewed and moved: its counters go on. */
	e.until_ns += SECOND;
	set(&e);
	e.mtu = 1400;
	set(&e);
	e.mtu = 1500;
	set(&e);
	CHECK_EQ(judge(&s), ON);
	CHECK_EQ(tally(s.index).datagrams, before.datagrams + 1);
	CHECK_EQ(ws_bpf_relay_used(bpf), used);
	CHECK_EQ(ws_bpf_relay_remove(bpf, s.index, &last), 0);
	CHECK_EQ(last.datagrams, before.datagrams + 1);
	CHECK_EQ(ws_bpf_relay_remove(bpf, s.index, &last), -ENOENT);
	CHECK_EQ(judge(&s), UP);
	CHECK_EQ(ws_bpf_relay_used(bpf), used - 1);
	/* Another one at its place begins at nothing. */
	set(&e);
	CHECK_EQ(tally(s.index).datagrams, 0);
	/* As many as there is room for, and changed as fast as it goes. */
	for (uint32_t i = 0; i < WS_BPF_RELAYS + 10; i++) {
		int error;

		e.index = 0x1000 + i;
		error = ws_bpf_relay_set(bpf, &e);
		CHECK_EQ(error, i < WS_BPF_RELAYS - used ? 0 : -ENOSPC);
	}
	e.index = 0x1000;
	for (uint32_t i = 0; i < 2 * WS_BPF_RELAY_SLOTS; i++) {
		int error;

		e.mtu = 1300 + i % 2;
		error = ws_bpf_relay_set(bpf, &e);
		CHECK(error == 0 || error == -ENOSPC); /* what was given up rests for a while */
	}
	for (uint32_t i = 0; i < WS_BPF_RELAYS - used; i++)
		CHECK_EQ(ws_bpf_relay_remove(bpf, 0x1000 + i, &last), 0);
	e.place_count = 0;
	CHECK_EQ(ws_bpf_relay_set(bpf, &e), -EINVAL);
	e.place_count = WS_BPF_RELAY_PLACES + 1;
	CHECK_EQ(ws_bpf_relay_set(bpf, &e), -EINVAL);
	e.place_count = 1;
	e.sender = WS_BPF_RELAY_SHARES;
	CHECK_EQ(ws_bpf_relay_set(bpf, &e), -EINVAL);
}

/* Whatever comes: what goes on was a datagram of A's for a bound index, and is unchanged. */
static void test_mutated(void)
{
	struct frame in, out;
	unsigned long sent = 0, dropped = 0;

	for (int i = 0; i < FUZZ_RUNS; i++) {
		int v6 = (int)(check_random() & 1), v6_out = (int)(check_random() & 1), result;
		struct spec s = usual(v6, v6_out);
		uint32_t changes = (uint32_t)(check_random() % 4);

		s.count = 1 + (uint32_t)(check_random() % 4);
		s.stride = s.last = 32 + (uint32_t)(check_random() % 200);
		build(&in, &s);
		while (changes--) {
			uint32_t room = in.len < 100 ? in.len : 100;
			uint32_t most = check_random() & 1 ? room : in.len;
			uint32_t at = (uint32_t)(check_random() % most);

			in.data[at] = (uint8_t)check_random();
		}
		if (check_random() % 8 == 0)
			in.len = ETHER + 1 + (uint32_t)(check_random() % (in.len - ETHER));
		if (check_random() % 8 == 0)
			in.gso = (uint32_t)(check_random() % 300);
		if (check_random() % 4 == 0 && in.len > ETHER + 60 &&
		    get16(udp_of(&in, v6) + 4) <= in.len - ETHER - ip_bytes(v6))
			seal(&in, v6);
		result = run(&in, &out);
		CHECK(result == UP || result == DROPPED || result == ON || result == -EINVAL);
		dropped += result == DROPPED;
		if (result != ON)
			continue;
		sent++;
		v6 = get16(in.data + 12) == 0x86dd;
		{
			const uint8_t *udp = udp_of(&in, v6);
			uint32_t index, payload = get16(udp + 4) - 8, at = ip_bytes(v6) + ETHER + 8;
			uint32_t stride = in.gso && in.gso < payload ? in.gso : payload;
			int to = -1;

			memcpy(&index, in.data + at + 4, 4);
			for (int k = 0; k < 2; k++)
				if (le32toh(index) == to_b[v6][k])
					to = k;
			CHECK(to >= 0);
			CHECK_EQ(in.len, at + payload);
			CHECK_EQ(get16(udp), A_PORT);
			CHECK_EQ(get16(udp + 2), US_PORT);
			if (to < 0 || in.len != at + payload)
				continue;
			for (uint32_t k = 0; k < payload; k += stride)
				CHECK(!memcmp(in.data + at + k, in.data + at, 8));
			CHECK(!memcmp(udp_of(&out, to) + 8, in.data + at, payload));
			CHECK(!memcmp(out.data + ETHER + (to ? 24 : 16), b[to].ip, to ? 16 : 4));
		}
	}
	CHECK(sent > FUZZ_RUNS / 20 && dropped > FUZZ_RUNS / 200);
}

int main(void)
{
	const uint16_t port = US_PORT;
	struct ws_addr locals[3];
	char error[512];

	if (geteuid() || access(BPF_FOLDER "/relay.bpf.o", R_OK)) {
		printf("skipped: needs root, and %s/relay.bpf.o (clang)\n", BPF_FOLDER);
		return 0;
	}
	bpf = ws_bpf_open(BPF_FOLDER, WS_BPF_RELAY, 1, error, sizeof(error));
	if (!bpf) {
		fprintf(stderr, "%s\n", error);
		return 1;
	}
	CHECK_EQ(ws_bpf_loaded(bpf), WS_BPF_RELAY);
	CHECK_EQ(ws_bpf_check(bpf), 0);
	for (int v6 = 0; v6 < 2; v6++) {
		us[v6] = addr(v6, 1, US_PORT);
		a[v6] = addr(v6, 10, A_PORT);
		b[v6] = addr(v6, 20, B_PORT);
		locals[v6] = us[v6];
	}
	locals[2] = addr(0, 255, 0);
	CHECK_EQ(ws_bpf_set_ports(bpf, &port, 1), 0);
	CHECK_EQ(ws_bpf_set_locals(bpf, locals, 3, 1), 0);
	ws_bpf_relay_beat(bpf, now_ns() + 600 * SECOND, 0);
	set_all();
	test_goes_on_as_it_came();
	test_checksums();
	test_what_is_not_plain_goes_up();
	test_who_and_where();
	test_link_local();
	test_limits();
	test_runs();
	test_mutated();
	test_bindings();
	ws_bpf_free(bpf);
	return check_done();
}
