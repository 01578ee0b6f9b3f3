/* SPDX-License-Identifier: MIT */
/*
 * The windows that come for a TCP inside are made as small as its queue has room, and no smaller: with the
 * scale of both SYNs, a right checksum, and never so that nothing would open them again.
 */
#include "check.h"

#include "multipath/innerwindow.h"
#include "packet/ip.h"

#include <string.h>

enum { SYN = 0x02, ACK = 0x10, RST = 0x04, WHOLE = 1400, MOST = 0xffff, SALT = 99 };

static struct ws_sender senders[WS_SENDERS];
static bool six;

struct segment {
	bool out; /* from here */
	uint16_t port;
	uint8_t flags;
	uint32_t seq, acked;
	uint16_t window;
	const char *options; /* whole words; of a SYN, SACK comes behind them */
	size_t option_bytes, payload;
	bool no_sack;
};

static size_t make(uint8_t packet[WHOLE], struct segment s)
{
	static const char sack[4] = {4, 2, 1, 1};
	size_t bytes = six ? 16 : 4, ip = six ? WS_IPV6_BYTES : WS_IPV4_BYTES;
	size_t more = s.flags & SYN && !s.no_sack ? sizeof(sack) : 0;
	size_t header = WS_TCP_BYTES + s.option_bytes + more, rest = header + s.payload;
	uint8_t *tcp = packet + ip;

	memset(packet, 0, WHOLE);
	packet[0] = six ? 0x60 : 0x45;
	ws_put16(packet + (six ? WS_IPV6_LENGTH : WS_IPV4_LENGTH),
		 (uint16_t)(six ? rest : ip + rest));
	packet[six ? WS_IPV6_NEXT : WS_IPV4_PROTOCOL] = WS_PROTOCOL_TCP;
	*(tcp - (s.out ? bytes : 2 * bytes)) = 10;
	ws_put16(tcp + (s.out ? 0 : 2), s.port);
	ws_put16(tcp + (s.out ? 2 : 0), 443);
	ws_put32(tcp + WS_TCP_SEQ, s.seq);
	ws_put32(tcp + WS_TCP_ACK, s.acked);
	tcp[WS_TCP_DATA_OFFSET] = (uint8_t)(header / 4 << 4);
	tcp[WS_TCP_FLAGS] = s.flags;
	ws_put16(tcp + WS_TCP_WINDOW, s.window);
	if (s.option_bytes)
		memcpy(tcp + WS_TCP_BYTES, s.options, s.option_bytes);
	memcpy(tcp + WS_TCP_BYTES + s.option_bytes, sack, more);
	for (size_t i = 0; i < s.payload; i++)
		tcp[header + i] = (uint8_t)check_random();
	return ip + rest;
}

static uint8_t *tcp_of(uint8_t *packet)
{
	return packet + (six ? WS_IPV6_BYTES : WS_IPV4_BYTES);
}

static uint16_t sum_of(const uint8_t *packet, size_t len)
{
	size_t bytes, at = ws_ip_addresses(packet, &bytes), l4 = at + bytes;
	uint32_t sum = WS_PROTOCOL_TCP + (uint32_t)(len - l4);

	for (size_t i = at; i < len; i += 2)
		sum += (uint32_t)packet[i] << 8 | (i + 1 < len ? packet[i + 1] : 0);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

static void leaves(struct segment s)
{
	uint8_t packet[WHOLE];
	size_t len;

	s.out = true;
	len = make(packet, s);
	ws_inner_leaves(senders, SALT, packet, len, 7, true, s.port == 5);
}

/* What its window is when it has gone by, with room for so much more. */
static uint16_t comes(struct segment s, uint64_t room, bool partial)
{
	uint8_t packet[WHOLE];
	size_t len = make(packet, s);
	const struct ws_sender *sender;
	uint16_t before;

	ws_put16(tcp_of(packet) + WS_TCP_CHECKSUM, sum_of(packet, len));
	before = ws_get16(tcp_of(packet) + WS_TCP_CHECKSUM);
	sender = ws_inner_comes(senders, SALT, packet, len);
	if (sender) {
		uint16_t after;

		CHECK_EQ(sender->queue, 7);
		CHECK(sender->bbr);
		CHECK_EQ(ws_inner_narrow(sender, packet, len, room, partial),
			 ws_get16(tcp_of(packet) + WS_TCP_WINDOW) != s.window);
		after = ws_get16(tcp_of(packet) + WS_TCP_CHECKSUM);
		/* Where it was not made, it stays as it is. */
		if (partial)
			CHECK_EQ(after, before);
		else
			CHECK_EQ(sum_of(packet, len), 0);
	}
	return ws_get16(tcp_of(packet) + WS_TCP_WINDOW);
}

static bool known(uint16_t port)
{
	uint8_t packet[WHOLE];
	size_t len = make(packet, (struct segment){.out = true, .port = port, .payload = 100});

	return ws_inner_known(senders, SALT, packet, len);
}

#define SCALED .options = "\x01\x03\x03\x04", .option_bytes = 4

/* It has sent 10,000 bytes, and 4,000 of them are acknowledged; the windows that come are in units of 2^n. */
static void a_sender(const char *theirs)
{
	memset(senders, 0, sizeof(senders));
	leaves((struct segment){.port = 5,
				.flags = SYN,
				.seq = 999,
				.options = "\x01\x03\x03\x02",
				.option_bytes = 4});
	(void)comes((struct segment){.port = 5,
				     .flags = SYN | ACK,
				     .acked = 1000,
				     .window = MOST,
				     .options = theirs,
				     .option_bytes = 4},
		    0, false);
	for (uint32_t at = 0; at < 10000; at += 1000)
		leaves((struct segment){
			.port = 5, .flags = ACK, .seq = 1000 + at, .payload = 1000});
}

static const struct segment told = {.port = 5, .flags = ACK, .acked = 5000, .window = MOST};

static void as_much_as_there_is_room(void)
{
	a_sender("\x01\x03\x03\x04");
	/* 6,000 under way; in units of 16, up to the next one. */
	CHECK_EQ(comes(told, 0, false), 6000 / 16);
	CHECK_EQ(comes(told, 1, false), 6000 / 16 + 1);
	CHECK_EQ(comes(told, 10000, false), 1000);
	CHECK_EQ(comes(told, 10000, true), 1000);
	CHECK_EQ(comes(told, UINT32_MAX, false), MOST);
	CHECK_EQ(comes(told, (uint64_t)MOST * 16 - 6000, false), MOST);
	CHECK_EQ(comes(told, (uint64_t)MOST * 16 - 6000 - 16, false), MOST - 1);
	/* With what it is sent as well. */
	CHECK_EQ(comes((struct segment){.port = 5,
					.flags = ACK,
					.acked = 5000,
					.window = MOST,
					.payload = 333},
		       10000, false),
		 1000);
	/* What its receiver takes, if that is less. */
	CHECK_EQ(comes((struct segment){.port = 5, .flags = ACK, .acked = 5000, .window = 999},
		       10000, false),
		 999);
	CHECK_EQ(comes((struct segment){.port = 5, .flags = ACK, .acked = 5000, .window = 0}, 10000,
		       false),
		 0);
	/* What it sends again is no more. */
	leaves((struct segment){.port = 5, .flags = ACK, .seq = 6000, .payload = 1000});
	CHECK_EQ(comes(told, 0, false), 6000 / 16);
	leaves((struct segment){.port = 5, .flags = ACK, .seq = 11000, .payload = 1000});
	CHECK_EQ(comes(told, 0, false), 7000 / 16 + 1);
}

/* No ACK would come after that one, and a window that stays closed is asked for after a second. */
static void open_where_all_is_acknowledged(void)
{
	a_sender("\x01\x03\x03\x04");
	CHECK_EQ(comes((struct segment){.port = 5, .flags = ACK, .acked = 11000, .window = MOST}, 0,
		       false),
		 MOST);
	CHECK_EQ(comes((struct segment){.port = 5, .flags = ACK, .acked = 10999, .window = MOST}, 0,
		       false),
		 1);
	/* A number from nowhere. */
	CHECK_EQ(comes((struct segment){.port = 5, .flags = ACK, .acked = 12000, .window = MOST}, 0,
		       false),
		 MOST);
}

/* Numbers begin anew at 2^32. */
static void around_the_end_of_the_numbers(void)
{
	memset(senders, 0, sizeof(senders));
	leaves((struct segment){.port = 5,
				.flags = SYN,
				.seq = UINT32_MAX - 5000,
				.options = "\x01\x03\x03\x02",
				.option_bytes = 4});
	(void)comes((struct segment){.port = 5,
				     .flags = SYN | ACK,
				     .acked = UINT32_MAX - 4999,
				     .window = MOST,
				     .options = "\x01\x03\x03\x04",
				     .option_bytes = 4},
		    0, false);
	for (uint32_t at = 0; at < 10000; at += 1000)
		leaves((struct segment){
			.port = 5, .flags = ACK, .seq = UINT32_MAX - 4999 + at, .payload = 1000});
	CHECK_EQ(comes((struct segment){.port = 5,
					.flags = ACK,
					.acked = UINT32_MAX - 999,
					.window = MOST},
		       0, false),
		 6000 / 16);
	CHECK_EQ(comes((struct segment){.port = 5, .flags = ACK, .acked = 4000, .window = MOST}, 0,
		       false),
		 1000 / 16 + 1);
}

/* Who began it, and without that nothing is touched. */
static void what_the_syns_say(void)
{
	static const struct {
		const char *ours, *theirs;
		size_t bytes;
		uint16_t window;
	} all[] = {
		{"\x01\x03\x03\x00", "\x01\x03\x03\x00", 4, 6000},
		{"\x01\x03\x03\x0e", "\x01\x03\x03\x0e", 4, 1},
		/* More than there is (RFC 7323 section 2.3). */
		{"\x01\x03\x03\x0e", "\x01\x03\x03\x1f", 4, 1},
		/* None, at one end or both: no scale at all, and left alone. */
		{"\x02\x04\x05\xb4", "\x01\x03\x03\x04", 4, MOST},
		{"\x01\x03\x03\x04", "\x02\x04\x05\xb4", 4, MOST},
		{"\x01\x03\x03\x04", "\x00\x03\x03\x04", 4, MOST},
		/* Cut short, of no length, longer than the header. */
		{"\x01\x03\x03\x04", "\x01\x01\x01\x03", 4, MOST},
		{"\x01\x03\x03\x04", "\x05\x00\x03\x03", 4, MOST},
		{"\x01\x03\x03\x04", "\x05\x09\x03\x03", 4, MOST},
		/* Behind others; signed (RFC 5925, RFC 2385). */
		{"\x02\x04\x05\xb4\x01\x03\x03\x04", "\x04\x02\x01\x01\x01\x03\x03\x04", 8, 375},
		{"\x1d\x04\x01\x01\x01\x03\x03\x04", "\x1d\x04\x01\x01\x01\x03\x03\x04", 8, MOST},
		{"\x01\x03\x03\x04\x1d\x04\x01\x01", "\x01\x03\x03\x04\x01\x01\x01\x01", 8, MOST},
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		for (int begun_here = 0; begun_here < 2; begun_here++) {
			struct segment ours = {.port = 5,
					       .acked = 1,
					       .flags = SYN,
					       .options = all[i].ours,
					       .option_bytes = all[i].bytes};
			struct segment theirs = {.port = 5,
						 .acked = 1,
						 .flags = SYN,
						 .window = MOST,
						 .options = all[i].theirs,
						 .option_bytes = all[i].bytes};

			memset(senders, 0, sizeof(senders));
			*(begun_here ? &theirs.flags : &ours.flags) |= ACK;
			if (begun_here)
				leaves(ours);
			CHECK_EQ(comes(theirs, 0, false), MOST);
			if (!begun_here)
				leaves(ours);
			leaves((struct segment){
				.port = 5, .flags = ACK, .seq = 10000, .payload = 1000});
			CHECK_EQ(comes(told, 0, false), all[i].window);
		}
}

/* Each SYN leaves twice, and comes twice. */
static void copies_and_forgeries(void)
{
	struct segment first = {.port = 5, .flags = SYN, .seq = 999, SCALED};
	struct segment answer = {.port = 5,
				 .flags = SYN | ACK,
				 .seq = 4000,
				 .acked = 1000,
				 .options = "\x01\x03\x03\x07",
				 .option_bytes = 4};
	struct segment forged = answer;

	for (int begun_here = 0; begun_here < 2; begun_here++) {
		memset(senders, 0, sizeof(senders));
		for (int copy = 0; copy < 2; copy++) {
			if (begun_here)
				leaves(first);
			else
				(void)comes(first, 0, false);
			if (begun_here)
				(void)comes(answer, 0, false);
			else
				leaves(answer);
		}
		CHECK(known(5));
		leaves((struct segment){.port = 5, .flags = ACK, .seq = 1000, .payload = 1280});
		/* In units of 128 or 16, as the other end said. */
		CHECK_EQ(comes(
				 (struct segment){
					 .port = 5, .flags = ACK, .acked = 1000, .window = MOST},
				 0, false),
			 begun_here ? 10 : 80);
		/* Of that connection another one says nothing. */
		forged.options = "\x01\x03\x03\x0e";
		(void)comes(forged, 0, false);
		CHECK_EQ(comes(
				 (struct segment){
					 .port = 5, .flags = ACK, .acked = 1000, .window = MOST},
				 0, false),
			 begun_here ? 10 : 80);
		/* One of another connection ends what was known. */
		forged.acked = 77;
		(void)comes(forged, 0, false);
		CHECK(!known(5));
		forged = answer;
	}
	/* Without SACK, or for MPTCP. */
	for (int kind = 0; kind < 2; kind++) {
		struct segment plain = first;

		memset(senders, 0, sizeof(senders));
		plain.no_sack = !kind;
		if (kind) {
			plain.options = "\x1e\x04\x01\x01\x01\x03\x03\x07";
			plain.option_bytes = 8;
		}
		leaves(plain);
		(void)comes(answer, 0, false);
		CHECK(!known(5));
	}
}

/* What another pair of ports would come to, if both were only mixed. */
static void nobody_shares_a_place_by_choice(void)
{
	uint8_t packet[WHOLE];
	size_t len;

	a_sender("\x01\x03\x03\x04");
	len = make(packet, (struct segment){.out = true, .port = 5 ^ 443 ^ 22, .payload = 100});
	ws_put16(tcp_of(packet) + 2, 22);
	CHECK(!ws_inner_known(senders, SALT, packet, len));
	/* The same two ends, turned round. */
	len = make(packet, (struct segment){.port = 5, .payload = 100});
	CHECK(!ws_inner_known(senders, SALT, packet, len));
}

static void who_is_not_known(void)
{
	struct segment other = told, half = {.port = 5, .flags = SYN, .acked = 1, SCALED};

	a_sender("\x01\x03\x03\x04");
	other.port = 6;
	CHECK_EQ(comes(other, 0, false), MOST);
	CHECK(known(5));
	CHECK(!known(6));
	/* Nothing is acknowledged by it. */
	other = told;
	other.flags = RST;
	CHECK_EQ(comes(other, 0, false), MOST);
	/* One that receives only. */
	memset(senders, 0, sizeof(senders));
	leaves(half);
	half.flags |= ACK;
	(void)comes(half, 0, false);
	leaves((struct segment){.port = 5, .flags = ACK, .seq = 1000});
	CHECK_EQ(comes(told, 0, false), MOST);
	/* One SYN alone, and one that began before. */
	memset(senders, 0, sizeof(senders));
	(void)comes(half, 0, false);
	leaves((struct segment){.port = 5, .flags = ACK, .seq = 10000, .payload = 1000});
	CHECK_EQ(comes(told, 0, false), MOST);
	/* The same ports once more: what was known of the first is gone. */
	a_sender("\x01\x03\x03\x04");
	half.flags = SYN;
	leaves(half);
	CHECK_EQ(comes(told, 0, false), MOST);
	CHECK(!known(5));
	/* Another that has its place. */
	a_sender("\x01\x03\x03\x04");
	senders[0] = (struct ws_sender){0};
	for (uint32_t port = 1000; port < 1000 + 20 * WS_SENDERS; port++) {
		half.port = (uint16_t)port;
		leaves(half);
	}
	CHECK_EQ(comes(told, 0, false), MOST);
}

/* Whatever comes. */
static void anything(void)
{
	uint8_t packet[128];

	memset(senders, 0, sizeof(senders));
	for (unsigned i = 0; i < check_rounds(200000, 5000000); i++) {
		size_t len = check_random() % sizeof(packet) + 1;
		const struct ws_sender *sender;

		for (size_t k = 0; k < len; k++)
			packet[k] = (uint8_t)check_random();
		packet[0] = check_random() & 1 ? 0x45 : 0x60;
		if (len > WS_IPV4_PROTOCOL) {
			memset(packet + 1, 0, WS_IPV4_TTL - 1);
			packet[packet[0] == 0x45 ? WS_IPV4_PROTOCOL : WS_IPV6_NEXT] = 6;
		}
		/* Few flows, so that they meet. */
		if (len > WS_IPV6_BYTES + 4)
			memset(packet + WS_IPV4_ADDRESSES, 0, WS_IPV6_BYTES - 8);
		if (check_random() & 1) {
			ws_inner_leaves(senders, SALT, packet, len, 7, true, true);
			continue;
		}
		sender = ws_inner_comes(senders, SALT, packet, len);
		if (sender)
			(void)ws_inner_narrow(sender, packet, len, check_random() % 100000,
					      check_random() & 1);
	}
	CHECK(true);
}

int main(void)
{
	for (int i = 0; i < 2; i++, six = !six) {
		as_much_as_there_is_room();
		open_where_all_is_acknowledged();
		around_the_end_of_the_numbers();
		what_the_syns_say();
		copies_and_forgeries();
		nobody_shares_a_place_by_choice();
		who_is_not_known();
	}
	anything();
	return check_done();
}
