/* SPDX-License-Identifier: MIT */
/* Named cases, then random streams; coalesce_judge.h says what must come out. */
#include "packet/coalesce.h"

#include "check.h"
#include "coalesce_changes.h"
#include "coalesce_judge.h"
#include "packets.h"

#include <stdlib.h>

struct change {
	const char *name;
	const char *want; /* 2 packets, the change, 2 packets */
	void (*make)(struct model *m);
};

/* The third of five packets is unlike its neighbours. */
static void test_one_unlike(struct ws_coalesce *coalesce, struct model m,
			    const struct change *change)
{
	struct model other;

	put_next(coalesce, &m, 0);
	put_next(coalesce, &m, 0);
	other = m;
	change->make(&other);
	put(coalesce, &other, 0);
	m.seq += (uint32_t)m.payload_bytes;
	m.id++;
	put_next(coalesce, &m, 0);
	put_next(coalesce, &m, 0);
	expect(coalesce, change->name, change->want);
}

static void test_changes(struct ws_coalesce *coalesce)
{
	static const struct change tcp4[] = {
		{"tos", "2 1 2", tos},
		{"ttl", "2 1 2", ttl},
		{"df", "2 1 2", no_df},
		{"id under DF", "5", other_id},
		{"ip options", "2 1 2", ip_options},
	};
	static const struct change tcp4_no_df[] = {
		{"id", "2 1 2", other_id},
		{"df", "2 1 2", no_df},
	};
	static const struct change tcp[] = {
		{"ack", "2 1 2", ack},
		{"window", "2 1 2", window},
		{"urgent", "2 1 2", urgent},
		{"options", "2 1 2", options},
		{"gap", "2 1 2", gap},
		{"options length", "2 1 2", options_length},
		{"longer", "2 1 2", longer},
		{"retransmit", "2 1 2", retransmit},
		{"shorter", "3 2", shorter},
		{"ack only", "2 1 2", empty},
		{"psh", "3 2", psh},
		{"fin", "2 1 2", fin},
		{"syn", "2 1 2", syn},
		{"rst", "2 1 2", rst},
		{"without ack", "2 1 2", no_ack},
		{"urg", "2 1 2", urg},
		{"ece", "2 1 2", ece},
		{"cwr", "2 1 2", cwr},
		{"accurate ecn", "2 1 2", accurate_ecn},
	};
	static const struct change ipv6[] = {
		{"traffic class", "2 1 2", tos},
		{"hop limit", "2 1 2", ttl},
		{"flow label", "2 1 2", flow_label},
	};
	static const struct change udp[] = {
		{"udp longer", "2 3", longer}, {"udp shorter", "3 2", shorter},
		{"udp empty", "2 1 2", empty}, {"udp no checksum", "2 1 2", no_checksum},
		{"udp ttl", "2 1 2", ttl},
	};
	struct model m4 = base(), m4_no_df = base(), m6 = base(), u4 = base(), u6;

	m4_no_df.fragment = 0;
	m6.version = 6;
	u4.protocol = 17;
	u4.fragment = 0;
	u6 = u4;
	u6.version = 6;
	for (size_t i = 0; i < sizeof(tcp4) / sizeof(tcp4[0]); i++)
		test_one_unlike(coalesce, m4, &tcp4[i]);
	for (size_t i = 0; i < sizeof(tcp4_no_df) / sizeof(tcp4_no_df[0]); i++)
		test_one_unlike(coalesce, m4_no_df, &tcp4_no_df[i]);
	for (size_t i = 0; i < sizeof(tcp) / sizeof(tcp[0]); i++) {
		test_one_unlike(coalesce, m4, &tcp[i]);
		test_one_unlike(coalesce, m4_no_df, &tcp[i]);
		test_one_unlike(coalesce, m6, &tcp[i]);
	}
	for (size_t i = 0; i < sizeof(ipv6) / sizeof(ipv6[0]); i++) {
		test_one_unlike(coalesce, m6, &ipv6[i]);
		test_one_unlike(coalesce, u6, &ipv6[i]);
	}
	for (size_t i = 0; i < sizeof(udp) / sizeof(udp[0]); i++) {
		/* "longer" opens a run of its own, which then a shorter one closes. */
		struct change change = udp[i];

		if (change.make == longer)
			change.want = "2 2 1";
		test_one_unlike(coalesce, u4, &change);
		test_one_unlike(coalesce, u6, &change);
	}
}

static void test_limits(struct ws_coalesce *coalesce)
{
	struct model m = base();

	m.payload_bytes = 1448;
	for (int i = 0; i < 100; i++)
		put_next(coalesce, &m, 0);
	expect(coalesce, "65,535 bytes", "45 45 10");
	m.payload_bytes = 64;
	for (int i = 0; i < 130; i++)
		put_next(coalesce, &m, 0);
	expect(coalesce, "64 segments", "64 64 2");
	m.seq = 0xffffff00;
	m.id = 0xfffe;
	m.fragment = 0;
	for (int i = 0; i < 10; i++)
		put_next(coalesce, &m, 0);
	expect(coalesce, "seq and id wrap", "10");
	m.payload_bytes = 65535 - 52;
	put_next(coalesce, &m, 0);
	m.payload_bytes = 1;
	put_next(coalesce, &m, 0);
	expect(coalesce, "full alone", "1 1");
	m.payload_bytes = 32742;
	put_next(coalesce, &m, 0);
	m.payload_bytes = 32741;
	put_next(coalesce, &m, 0);
	expect(coalesce, "exactly full", "2");
}

/* Flows side by side: pure acks of others change nothing, the oldest goes when a 17th opens. */
static void test_flows(struct ws_coalesce *coalesce)
{
	struct model m[20], ack_only;

	for (int i = 0; i < 20; i++) {
		m[i] = base();
		m[i].source_port += i;
		m[i].version = i & 1 ? 6 : 4;
	}
	ack_only = m[2];
	ack_only.payload_bytes = 0;
	for (int i = 0; i < 5; i++) {
		put_next(coalesce, &m[0], 0);
		put(coalesce, &ack_only, 2);
		put_next(coalesce, &m[1], 1);
	}
	expect(coalesce, "acks of others", "1 1 1 1 1 5 5");

	for (int round = 0; round < 3; round++)
		for (int i = 0; i < 16; i++)
			put_next(coalesce, &m[i], i);
	expect(coalesce, "16 flows", "3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3");
	for (int i = 0; i < 18; i++)
		put_next(coalesce, &m[i], i);
	CHECK(!strcmp(pattern, "1 1"));
	CHECK(sent[0].out && sent[1].out && !sent[2].out);
	expect(coalesce, "18 flows", "1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1");
}

static void test_checksums(struct ws_coalesce *coalesce)
{
	static uint8_t packet[2000];

	/* Of four packets one is broken: in L4, then in the IPv4 header. */
	for (int where = 0; where < 2; where++)
		for (int broken = 0; broken < 4; broken++) {
			static const char *const want[] = {"1 3", "1 1 2", "2 1 1", "3 1"};
			struct model m = base();

			for (int i = 0; i < 4; i++) {
				size_t len = model_build(&m, packet);
				struct sent *s;

				if (i == broken)
					packet[where ? 11 : len - 1] ^= 1;
				s = keep(packet, len, 0);
				ws_coalesce_add(coalesce, s->data, len, false);
				m.seq += 100;
				m.id++;
			}
			expect(coalesce, where ? "bad header" : "bad checksum", want[broken]);
		}
}

/* 0xffff for a TCP checksum of 0 is right, but cutting up would not bring it back. */
static void test_ffff(struct ws_coalesce *coalesce)
{
	static uint8_t packet[2000];

	for (int version = 4; version <= 6; version += 2)
		for (int other = 0; other < 2; other++) {
			struct model m = base();

			m.version = version;
			for (int i = 0; i < 4; i++) {
				size_t at = model_checksum_at(&m), len;
				uint8_t body[100];
				struct sent *s;

				memset(body, i, sizeof(body));
				memset(body + 98, 0, 2);
				m.payload = body;
				len = model_build(&m, packet);
				if (i == 2) {
					memcpy(packet + len - 2, packet + at, 2);
					memset(packet + at, other ? 0xff : 0, 2);
				}
				s = keep(packet, len, 0);
				ws_coalesce_add(coalesce, s->data, len, false);
				m.seq += 100;
				m.id++;
			}
			expect(coalesce, "checksum 0", other ? "2 1 1" : "4");
		}
}

/* A packet whose IP length is not its length is passed as it is. */
static void test_lying_length(struct ws_coalesce *coalesce)
{
	static uint8_t packet[2000];

	for (int which = 0; which < 4; which++) {
		struct model m = base();

		m.version = which & 1 ? 6 : 4;
		m.protocol = which & 2 ? 17 : 6;
		for (int i = 0; i < 4; i++) {
			size_t len = model_build(&m, packet);
			struct sent *s = keep(packet, len + 4, i == 1 ? 1 : 0);

			s->len = i == 1 ? len + 4 : len;
			ws_coalesce_add(coalesce, s->data, s->len, false);
			m.seq += i == 1 ? 0 : 100;
		}
		expect(coalesce, "lying length", "1 3");
	}
}

/* A TCP header longer than the packet: alone, like a fragment. */
static void test_cut_tcp_header(struct ws_coalesce *coalesce)
{
	struct model m = base();

	m.tcp_options = 0;
	m.payload_bytes = 20;
	put_next(coalesce, &m, 0);
	put_next(coalesce, &m, 0);
	m.reserved = 0xa0; /* over the data offset of 5: 15 */
	put_next(coalesce, &m, 0);
	put_next(coalesce, &m, 0);
	CHECK(!strcmp(pattern, "2 1 1"));
	expect(coalesce, "cut TCP header", "2 1 1");
}

/* What one peer left unchecked never carries what is to be checked, nor the other way round. */
static void test_trusted_mixed(struct ws_coalesce *coalesce)
{
	static uint8_t packet[2000];
	struct model m = base();

	for (int i = 0; i < 6; i++) {
		size_t len = model_build(&m, packet);
		struct sent *s = keep(packet, len, 0);

		if (i == 2 || i == 3)
			model_make_partial(&m, s->data, len);
		ws_coalesce_add(coalesce, s->data, len, i == 2 || i == 3);
		m.seq += 100;
	}
	expect(coalesce, "trusted between others", "2 2 2");
}

/* What has no flow: others at once, fragments and extension headers after their hosts' flows. */
static void test_opaque(struct ws_coalesce *coalesce)
{
	struct model m = base(), u = base(), other = base();
	uint8_t packet[300];
	struct sent *s;
	size_t len;

	other.host = 2;
	other.source_port++;
	put_next(coalesce, &m, 0);
	put_next(coalesce, &m, 0);
	put_next(coalesce, &other, 1);
	put_next(coalesce, &other, 1);
	u.protocol = 17;
	u.fragment = 0x2000;
	put(coalesce, &u, 2);
	CHECK(!strcmp(pattern, "2 1"));
	put_next(coalesce, &m, 0);
	len = model_build(&m, packet);
	packet[9] = 1; /* ICMP */
	s = keep(packet, len, 3);
	ws_coalesce_add(coalesce, s->data, len, false);
	CHECK(!strcmp(pattern, "2 1 1"));
	put_next(coalesce, &m, 0);
	expect(coalesce, "fragment, ICMP", "2 1 1 2 2");

	m.version = 6;
	u = m;
	u.extension = 60;
	put_next(coalesce, &m, 0);
	put_next(coalesce, &m, 0);
	put(coalesce, &u, 2);
	put_next(coalesce, &m, 0);
	expect(coalesce, "extension header", "2 1 1");
}

static void test_switched_off(void)
{
	for (int which = 0; which < 3; which++) {
		struct ws_coalesce *c = ws_coalesce_new(which == 1, which == 2, on_write, pattern);
		struct model m = base(), u = base();

		u.protocol = 17;
		for (int i = 0; i < 3; i++) {
			put_next(c, &m, 0);
			put_next(c, &u, 1);
		}
		expect(c, "switched off", which == 0 ? "1 1 1 1 1 1" : "1 1 1 3");
		ws_coalesce_free(c);
	}
}

/* ---- random streams ---- */

#define STREAMS 24

struct stream {
	struct model m;
	size_t mss;
};

static void start_stream(struct stream *s, int i)
{
	s->m = base();
	s->m.version = i & 1 ? 6 : 4;
	s->m.protocol = i & 2 ? 17 : 6;
	s->m.host = i % 5;
	s->m.source_port = 2000 + i;
	s->m.fragment = i & 4 ? 0x4000 : 0;
	s->m.tcp_options = 4 * (int)(check_random() % 4);
	s->m.seq = (uint32_t)check_random();
	s->m.id = (uint16_t)check_random();
	s->mss = check_random() % 4 ? 64 + check_random() % 1400 : 1 + check_random() % 8;
}

/* The stream's next packet, now and then a strange one. */
static struct model next_packet(struct stream *s)
{
	static void (*const changes[])(struct model *) = {
		tos,	      ttl,	   flow_label,
		no_df,	      other_id,	   ack,
		window,	      options,	   options_length,
		longer,	      shorter,	   empty,
		psh,	      fin,	   syn,
		rst,	      ece,	   cwr,
		urg,	      gap,	   retransmit,
		urgent,	      no_checksum, ip_options,
		accurate_ecn,
	};
	uint64_t dice = check_random() % 100;
	struct model m;

	s->m.payload = filler + check_random() % 4096;
	s->m.payload_bytes = s->mss;
	m = s->m;
	if (dice < 12) {
		changes[check_random() % (sizeof(changes) / sizeof(changes[0]))](&m);
	} else if (dice < 16) { /* from here on */
		if (check_random() % 2)
			ack(&s->m);
		else
			tos(&s->m);
		m = s->m;
	}
	if (m.protocol == 6)
		m.no_checksum = false;
	s->m.seq += (uint32_t)m.payload_bytes;
	s->m.id++;
	return m;
}

/* Any byte that leaves the packet in its flow. */
static size_t flip_place(const struct model *m, size_t len)
{
	static const size_t ipv4[] = {1, 4, 5, 8, 10, 11}, ipv6[] = {2, 3, 7};
	size_t l4 = model_l4_offset(m);

	if (check_random() % 3)
		return l4 + 4 + check_random() % (len - l4 - 4);
	return m->version == 4 ? ipv4[check_random() % 6] : ipv6[check_random() % 3];
}

static void send_random(struct ws_coalesce *coalesce, struct stream *s, int flow)
{
	static uint8_t packet[MODEL_MAX_PACKET];
	struct model m = next_packet(s);
	uint64_t dice = check_random() % 100;
	struct sent *record;
	size_t len;

	if (dice == 0 && m.version == 6 && !trusted_run)
		m.extension = 60;
	if (dice == 0 && m.version == 4)
		m.fragment = check_random() % 2 ? 0x2000 : 0x0010;
	len = model_build(&m, packet);
	if ((dice == 1 || dice == 2) && !trusted_run)
		packet[flip_place(&m, len)] ^= (uint8_t)(1 << check_random() % 8);
	record = keep(packet, len, flow);
	record->hosts = m.host << 1 | (m.version == 6);
	record->opaque = m.extension || m.fragment & 0x3fff;
	if (trusted_run && !record->opaque && !m.no_checksum) {
		record->checksum_at = model_checksum_at(&m);
		if (check_random() % 8) /* some are complete all the same */
			model_make_partial(&m, record->data, len);
	}
	ws_coalesce_add(coalesce, record->data, len, trusted_run);
}

static void test_random(struct ws_coalesce *coalesce, int rounds)
{
	static struct stream streams[STREAMS];

	for (int round = 0; round < rounds; round++) {
		int active = round % 3 ? 1 + (int)(check_random() % STREAMS) : 3, flow = 0;
		int count = 20 + (int)(check_random() % (MAX_PACKETS - 20));

		if (round % 10 == 0)
			for (int i = 0; i < STREAMS; i++)
				start_stream(&streams[i], i);
		for (int i = 0; i < count; i++) {
			/* Runs of one flow, as a sender makes them. */
			if (check_random() % 6 == 0)
				flow = (int)(check_random() % (uint64_t)active);
			send_random(coalesce, &streams[flow], flow);
			if (check_random() % 150 == 0)
				ws_coalesce_flush(coalesce);
		}
		ws_coalesce_flush(coalesce);
		CHECK_EQ(out_count, sent_count);
		forget();
	}
}

/* Cut and flipped packets in exactly sized buffers: each comes out once, whatever it is. */
static unsigned long garbage_packets;

static void count_write(void *arg, const struct ws_tun_write *write)
{
	size_t len = 0;

	(void)arg;
	for (uint32_t i = 1; i < write->iov_count; i++)
		len += write->iov[i].iov_len;
	CHECK_EQ(len, write->bytes);
	garbage_packets += write->packets;
}

static void test_garbage(void)
{
	struct ws_coalesce *coalesce = ws_coalesce_new(true, true, count_write, NULL);
	uint8_t packet[400];
	unsigned long given = 0;

	for (unsigned round = 0; round < check_rounds(1000, 3000); round++) {
		for (int i = 0; i < 60; i++) {
			struct stream s;
			struct sent *record;
			size_t len;

			start_stream(&s, (int)(check_random() % 8));
			s.m.payload_bytes = check_random() % 120;
			len = model_build(&s.m, packet);
			if (check_random() % 2)
				packet[check_random() % len] = (uint8_t)check_random();
			if (check_random() % 2)
				len = check_random() % (len + 1);
			if (len >= 4 && check_random() % 2)
				model_put(packet + (packet[0] >> 4 == 4 ? 2 : 4),
					  (uint32_t)(packet[0] >> 4 == 4 ? len : len - 40), 2);
			record = keep(packet, len, 0);
			ws_coalesce_add(coalesce, record->data, len, check_random() % 2);
			given++;
		}
		ws_coalesce_flush(coalesce);
		CHECK_EQ(garbage_packets, given);
		forget();
	}
	ws_coalesce_free(coalesce);
}

int main(void)
{
	struct ws_coalesce *coalesce = ws_coalesce_new(true, true, on_write, pattern);

	for (size_t i = 0; i < sizeof(filler); i++)
		filler[i] = (uint8_t)check_random();
	test_changes(coalesce);
	test_limits(coalesce);
	test_flows(coalesce);
	test_checksums(coalesce);
	test_ffff(coalesce);
	test_lying_length(coalesce);
	test_cut_tcp_header(coalesce);
	test_trusted_mixed(coalesce);
	test_opaque(coalesce);
	test_switched_off();
	test_garbage();
	merged_packets = merged_writes = 0;
	test_random(coalesce, (int)check_rounds(700, 2000));
	CHECK(merged_packets > check_rounds(35000, 100000) && merged_packets > 4 * merged_writes);
	trusted_run = true;
	test_random(coalesce, (int)check_rounds(350, 1000));
	ws_coalesce_free(coalesce);
	return check_done();
}
