/* SPDX-License-Identifier: MIT */
#include "packet/gate.h"

#include "check.h"

#include <stdlib.h>
#include <string.h>

#define SECOND UINT64_C(1000000000)
#define FLOOD_PER_SECOND 200000
#define START (1000 * SECOND)

static struct ws_addr ipv4(uint32_t ip)
{
	return (struct ws_addr){
		.family = 4,
		.port = 1000,
		.ip = {(uint8_t)(ip >> 24), (uint8_t)(ip >> 16), (uint8_t)(ip >> 8), (uint8_t)ip}};
}

static struct ws_addr ipv6(uint64_t high, uint64_t low)
{
	struct ws_addr addr = {.family = 6, .port = 1000};

	for (int i = 0; i < 8; i++) {
		addr.ip[i] = (uint8_t)(high >> (56 - 8 * i));
		addr.ip[8 + i] = (uint8_t)(low >> (56 - 8 * i));
	}
	return addr;
}

struct counted {
	uint32_t passed, asked;
};

static struct counted *count(struct counted *c, uint32_t verdict)
{
	c->passed += !!(verdict & WS_GATE_PASS);
	c->asked += !!(verdict & WS_GATE_ASK);
	return c;
}

/* So many seconds of a flood whose sources are base + a random part of mask. */
static struct counted flood(struct ws_gate *gate, uint64_t *now, unsigned seconds, uint32_t base,
			    uint32_t mask)
{
	struct counted c = {0, 0};
	uint32_t class;

	for (uint32_t i = 0; i < seconds * FLOOD_PER_SECOND; i++) {
		struct ws_addr from = ipv4(base | ((uint32_t)check_random() & mask));

		*now += SECOND / FLOOD_PER_SECOND;
		count(&c, ws_gate_initiation(gate, &from, false, *now, &class));
		CHECK_EQ(class, WS_SOURCE_STRANGER);
	}
	return c;
}

static uint32_t ask(struct ws_gate *gate, struct ws_addr from, bool verified, uint64_t now)
{
	uint32_t class;

	return ws_gate_initiation(gate, &from, verified, now, &class);
}

/* What a flood costs, and who gets in beside it. */
static void floods(void)
{
	static const struct {
		uint32_t base, mask, newcomer;
	} cases[] = {
		{0xc6120000, 0x1ffff, 0x0ac90102}, /* 198.18/15, from elsewhere */
		{0xc6120000, 0x1ffff, 0xc6330102}, /* 198.18/15, the newcomer in the same /8 */
		{0x0b000000, 0xffffff, 0x0ac90102}, /* a whole /8 */
		{0x0ac90100, 0x7f, 0x0ac901fe}, /* half of the newcomer's own /24 */
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct ws_gate *gate = ws_gate_new();
		uint64_t now = START;
		struct counted c = flood(gate, &now, 2, cases[i].base, cases[i].mask);

		CHECK(c.passed <= 500 + 100);
		c = flood(gate, &now, 3, cases[i].base, cases[i].mask);
		/* Once it is known to be one: 20 a second and a few, and few replies. */
		CHECK(c.passed <= 3 * 30);
		CHECK(c.asked <= 3 * 4100);
		CHECK(ask(gate, ipv4(cases[i].newcomer), false, now) & WS_GATE_ASK);
		CHECK_EQ(ask(gate, ipv4(cases[i].newcomer), true, now), WS_GATE_PASS);
		CHECK(ask(gate, ipv6(0x20010db800000000, 1), false, now) ==
		      (WS_GATE_ASK | WS_GATE_PASS));
		ws_gate_free(gate);
	}
}

/* A flood from everywhere: what it costs is bounded, that is all. */
static void from_everywhere(void)
{
	struct ws_gate *gate = ws_gate_new();
	uint64_t now = START;
	struct counted c = flood(gate, &now, 1, 0, 0xffffffff);

	c = flood(gate, &now, 2, 0, 0xffffffff);
	CHECK(c.passed <= 2 * 100);
	CHECK(c.asked >= 2 * 1000);
	CHECK(c.asked <= 2 * 4100);
	CHECK_EQ(ask(gate, ipv4(0x0ac90102), true, now), WS_GATE_PASS);
	ws_gate_free(gate);
}

static void a_thousand_peers_at_once(void)
{
	struct ws_gate *gate = ws_gate_new();
	uint64_t now = START;
	uint32_t passed = 0, class;

	for (int i = 0; i < 1000; i++) {
		struct ws_addr from = ipv4(0x0a000001);

		if (ws_gate_initiation(gate, &from, false, now += 1000, &class) & WS_GATE_PASS) {
			passed++;
			ws_gate_genuine(gate, class); /* Python is quick here */
		}
	}
	CHECK_EQ(passed, 1000);
	ws_gate_free(gate);
}

/* Who forges a peer's address makes it prove itself, and no more. */
static void a_known_address_is_forged(void)
{
	struct ws_gate *gate = ws_gate_new();
	struct ws_addr peer = ipv4(0x0ac90102);
	uint64_t now = START;
	struct counted c = {0, 0};
	uint32_t class;

	ws_gate_know(gate, &peer);
	for (int i = 0; i < FLOOD_PER_SECOND; i++) {
		peer.port = (uint16_t)check_random(); /* whatever the port */
		now += SECOND / FLOOD_PER_SECOND;
		count(&c, ws_gate_initiation(gate, &peer, false, now, &class));
		CHECK_EQ(class, WS_SOURCE_KNOWN);
	}
	CHECK(c.passed >= 50 && c.passed <= 60);
	CHECK(c.asked >= 50 && c.asked <= 80);
	CHECK_EQ(ws_gate_initiation(gate, &peer, true, now, &class), WS_GATE_PASS);
	CHECK_EQ(class, WS_SOURCE_VERIFIED);
	ws_gate_forget(gate, &peer);
	CHECK(!ws_gate_knows(gate, &peer));
	ws_gate_free(gate);
}

static void a_verified_source_is_limited(void)
{
	struct ws_gate *gate = ws_gate_new();
	struct counted c = {0, 0};

	for (int i = 0; i < 10 * FLOOD_PER_SECOND; i++)
		count(&c, ask(gate, ipv4(0x0ac90102), true,
			      START + (uint64_t)i * SECOND / FLOOD_PER_SECOND));
	CHECK(c.passed >= 350 && c.passed <= 410);
	CHECK_EQ(ask(gate, ipv4(0x0ac90103), true, START + 10 * SECOND), WS_GATE_PASS);
	ws_gate_free(gate);
}

static void bootstrap_requests(void)
{
	struct ws_gate *gate = ws_gate_new();
	uint32_t passed = 0;

	for (uint32_t i = 0; i < FLOOD_PER_SECOND; i++) {
		struct ws_addr from = ipv4(i);

		passed += ws_gate_bootstrap(gate, &from,
					    START + (uint64_t)i * SECOND / FLOOD_PER_SECOND);
	}
	CHECK(passed >= 500 && passed <= 560);
	ws_gate_free(gate);
}

static void known_addresses(void)
{
	enum { MANY = 65536 };
	struct ws_gate *gate = ws_gate_new();
	uint32_t known = 0, strangers = 0;

	for (uint32_t i = 0; i < MANY; i++) {
		struct ws_addr addr = i & 1 ? ipv4(i * 977) : ipv6(i * UINT64_C(977977977), i);

		ws_gate_know(gate, &addr);
		ws_gate_know(gate, &addr);
	}
	for (uint32_t i = 0; i < MANY; i++) {
		struct ws_addr addr = i & 1 ? ipv4(i * 977) : ipv6(i * UINT64_C(977977977), i);
		struct ws_addr other = ipv4(0xf0000000 + i);

		known += ws_gate_knows(gate, &addr);
		strangers += ws_gate_knows(gate, &other);
		ws_gate_forget(gate, &addr);
		CHECK(!ws_gate_knows(gate, &addr));
	}
	/* A few sets are full: their oldest are strangers again, which cookies let in. */
	CHECK(known > MANY * 99 / 100);
	CHECK_EQ(strangers, 0);
	ws_gate_free(gate);
}

static void answers(void)
{
	struct ws_gate *gate = ws_gate_new();
	uint64_t now = START;
	uint32_t guessed = 0;

	CHECK(!ws_gate_awaited(gate, 0, now));
	CHECK(!ws_gate_awaited(gate, 77, now));
	ws_gate_await(gate, 77, now);
	for (int i = 0; i < WS_AWAIT_ANSWERS; i++)
		CHECK(ws_gate_awaited(gate, 77, now + SECOND));
	CHECK(!ws_gate_awaited(gate, 77, now + SECOND));
	ws_gate_await(gate, 77, now); /* asked again */
	CHECK(ws_gate_awaited(gate, 77, now + SECOND));
	CHECK(!ws_gate_awaited(gate, 77, now + WS_AWAIT_NS + SECOND));
	CHECK(!ws_gate_awaited(gate, 77, now + (UINT64_C(1) << 26) * SECOND / 2));
	CHECK(!ws_gate_awaited(gate, 78, now));
	ws_gate_await(gate, 0, now);
	CHECK(ws_gate_awaited(gate, 0, now));
	/* A thousand that are out at once, and a flood that guesses. */
	for (uint32_t i = 0; i < 1000; i++)
		ws_gate_await(gate, i * 4294967, now);
	for (uint32_t i = 0; i < 1000; i++)
		CHECK(ws_gate_awaited(gate, i * 4294967, now));
	for (int i = 0; i < 1000000; i++)
		guessed += ws_gate_awaited(gate, (uint32_t)check_random(), now);
	CHECK(guessed <= 3);
	ws_gate_free(gate);
}

int main(void)
{
	floods();
	from_everywhere();
	a_thousand_peers_at_once();
	a_known_address_is_forged();
	a_verified_source_is_limited();
	bootstrap_requests();
	known_addresses();
	answers();
	return check_done();
}
