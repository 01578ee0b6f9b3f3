/* SPDX-License-Identifier: MIT */
/* The trie against a plain list of prefixes, searched from end to end. */
#include "packet/allowedips.h"

#include "check.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MODEL_MAX 600

#ifdef __SANITIZE_ADDRESS__
/* Of ASan's run-time; gcc installs no header for it. */
size_t __sanitizer_get_current_allocated_bytes(void);
#else
/* Built without: what takes memory is not looked at. */
static size_t __sanitizer_get_current_allocated_bytes(void)
{
	return 0;
}
#endif

struct prefix {
	uint8_t family, cidr;
	uint8_t ip[16];
	int32_t peer;
};

static struct prefix model[MODEL_MAX];
static size_t model_count;

static bool covers(const uint8_t *prefix, unsigned cidr, const uint8_t *ip)
{
	if (memcmp(prefix, ip, cidr / 8))
		return false;
	return cidr % 8 == 0 || (prefix[cidr / 8] ^ ip[cidr / 8]) >> (8 - cidr % 8) == 0;
}

static int32_t model_lookup(uint8_t family, const uint8_t *ip)
{
	int32_t peer = -1;
	int longest = -1;

	for (size_t i = 0; i < model_count; i++) {
		if (model[i].family == family && model[i].cidr > longest &&
		    covers(model[i].ip, model[i].cidr, ip)) {
			longest = model[i].cidr;
			peer = model[i].peer;
		}
	}
	return peer;
}

static bool model_insert(struct prefix prefix)
{
	for (size_t i = 0; i < model_count; i++) {
		if (model[i].family == prefix.family && model[i].cidr == prefix.cidr &&
		    covers(model[i].ip, prefix.cidr, prefix.ip)) {
			model[i].peer = prefix.peer;
			return true;
		}
	}
	if (model_count == MODEL_MAX)
		return false;
	model[model_count++] = prefix;
	return true;
}

static size_t model_remove(int32_t peer)
{
	size_t kept = 0, before = model_count;

	for (size_t i = 0; i < before; i++)
		if (model[i].peer != peer)
			model[kept++] = model[i];
	model_count = kept;
	return before - kept;
}

/* Few distinct bits, at the ends of the words too, so that prefixes nest, meet and repeat. */
static void random_ip(uint8_t family, uint8_t ip[16])
{
	uint64_t draw = check_random();

	memset(ip, draw & 1 ? 0x00 : 0xff, 16);
	for (int i = 0; i < 6; i++) {
		unsigned bit = (unsigned)(check_random() % (family == 4 ? 32 : 128));

		if (draw >> (8 + i) & 1 && family == 6)
			bit = 56 + bit % 16;
		ip[bit / 8] ^= 1 << bit % 8;
	}
	if (draw >> 20 & 1)
		ip[family == 4 ? 3 : 15] = (uint8_t)(draw >> 32);
}

static int32_t lookup(const struct ws_allowedips *table, uint8_t family, const uint8_t *ip)
{
	return family == 4 ? ws_allowedips_lookup4(table, ip) : ws_allowedips_lookup6(table, ip);
}

static void compare(const struct ws_allowedips *table, int lookups)
{
	uint8_t ip[16];

	for (int i = 0; i < lookups; i++) {
		uint8_t family = check_random() & 1 ? 4 : 6;

		random_ip(family, ip);
		if (model_count && check_random() % 4) {
			/* In or just beside a prefix that is there. */
			const struct prefix *near = &model[check_random() % model_count];
			unsigned bit = (unsigned)(check_random() % (near->family == 4 ? 32 : 128));

			family = near->family;
			memcpy(ip, near->ip, 16);
			ip[bit / 8] ^= 0x80 >> bit % 8;
		}
		CHECK_EQ(lookup(table, family, ip), model_lookup(family, ip));
	}
	CHECK_EQ(ws_allowedips_count(table), model_count);
}

static void against_model(int rounds, int peers)
{
	struct ws_allowedips *table = ws_allowedips_new();
	size_t empty_bytes = __sanitizer_get_current_allocated_bytes();

	model_count = 0;
	for (int round = 0; round < rounds; round++) {
		for (int i = 0; i < 40; i++) {
			struct prefix prefix = {.family = check_random() & 1 ? 4 : 6};

			prefix.cidr = (uint8_t)(check_random() % (prefix.family == 4 ? 33 : 129));
			prefix.peer = (int32_t)(check_random() % (unsigned)peers);
			random_ip(prefix.family, prefix.ip);
			if (model_insert(prefix))
				CHECK_EQ(ws_allowedips_insert(table, prefix.family, prefix.ip,
							      prefix.cidr, prefix.peer),
					 0);
		}
		compare(table, 300);
		for (int i = 0; i < 1 + round % 4; i++) {
			int32_t peer = (int32_t)(check_random() % (unsigned)peers);

			CHECK_EQ(ws_allowedips_remove_peer(table, peer), model_remove(peer));
		}
		compare(table, 300);
		/* MODEL_MAX prefixes are at most as many forks: nodes must be used again. */
		CHECK(__sanitizer_get_current_allocated_bytes() - empty_bytes < 2048 * 40 + 4096);
	}
	for (int32_t peer = 0; peer < peers; peer++)
		CHECK_EQ(ws_allowedips_remove_peer(table, peer), model_remove(peer));
	compare(table, 100);
	CHECK_EQ(ws_allowedips_count(table), 0);
	CHECK_EQ(__sanitizer_get_current_allocated_bytes(), empty_bytes);
	ws_allowedips_free(table);
}

static int insert(struct ws_allowedips *table, const char *text, uint8_t cidr, int32_t peer)
{
	uint8_t ip[16] = {0};
	uint8_t family = strchr(text, ':') ? 6 : 4;

	CHECK(inet_pton(family == 6 ? AF_INET6 : AF_INET, text, ip) == 1);
	return ws_allowedips_insert(table, family, ip, cidr, peer);
}

static int32_t find(const struct ws_allowedips *table, const char *text)
{
	uint8_t ip[16] = {0};
	uint8_t family = strchr(text, ':') ? 6 : 4;

	CHECK(inet_pton(family == 6 ? AF_INET6 : AF_INET, text, ip) == 1);
	return lookup(table, family, ip);
}

static void known(void)
{
	struct ws_allowedips *table = ws_allowedips_new();

	CHECK(table);
	CHECK_EQ(find(table, "10.0.0.1"), -1);
	CHECK_EQ(find(table, "::"), -1);
	CHECK_EQ(insert(table, "10.77.0.99", 24, 1), 0); /* bits past the prefix are ignored */
	CHECK_EQ(insert(table, "10.77.0.2", 32, 2), 0);
	CHECK_EQ(insert(table, "0.0.0.0", 0, 3), 0);
	CHECK_EQ(insert(table, "fd77::", 16, 4), 0);
	CHECK_EQ(insert(table, "fd77::1", 128, 5), 0);
	CHECK_EQ(insert(table, "fd77:0:0:1::", 64, 6), 0);
	CHECK_EQ(find(table, "10.77.0.1"), 1);
	CHECK_EQ(find(table, "10.77.0.2"), 2);
	CHECK_EQ(find(table, "10.77.1.1"), 3);
	CHECK_EQ(find(table, "255.255.255.255"), 3);
	CHECK_EQ(find(table, "fd77::1"), 5);
	CHECK_EQ(find(table, "fd77::2"), 4);
	CHECK_EQ(find(table, "fd77:0:0:1:ffff::"), 6);
	CHECK_EQ(find(table, "fd78::"), -1); /* 0.0.0.0/0 is not ::/0 */
	CHECK_EQ(ws_allowedips_count(table), 6);

	/* Another holder takes the prefix over; the old one has lost it. */
	CHECK_EQ(insert(table, "10.77.0.0", 24, 2), 0);
	CHECK_EQ(ws_allowedips_count(table), 6);
	CHECK_EQ(find(table, "10.77.0.1"), 2);
	CHECK_EQ(ws_allowedips_remove_peer(table, 1), 0);
	CHECK_EQ(ws_allowedips_remove_peer(table, 2), 2);
	CHECK_EQ(find(table, "10.77.0.2"), 3);
	/* The same holder again is no change. */
	CHECK_EQ(insert(table, "0.0.0.0", 0, 3), 0);
	CHECK_EQ(ws_allowedips_count(table), 4);

	CHECK_EQ(insert(table, "1.2.3.4", 33, 1), -EINVAL);
	CHECK_EQ(insert(table, "::", 129, 1), -EINVAL);
	CHECK_EQ(insert(table, "1.2.3.4", 32, -1), -EINVAL);
	CHECK_EQ(insert(table, "1.2.3.4", 32, WS_ALLOWEDIPS_MAX_PEERS), -EINVAL);
	CHECK_EQ(insert(table, "1.2.3.4", 32, WS_ALLOWEDIPS_MAX_PEERS - 1), 0);
	CHECK_EQ(find(table, "1.2.3.4"), WS_ALLOWEDIPS_MAX_PEERS - 1);
	CHECK_EQ(ws_allowedips_insert(table, 5, (const uint8_t *)"abcd", 8, 1), -EINVAL);
	CHECK_EQ(ws_allowedips_remove_peer(table, -1), 0);
	CHECK_EQ(ws_allowedips_remove_peer(table, INT32_MAX), 0);
	CHECK_EQ(ws_allowedips_count(table), 5);
	ws_allowedips_free(table);
	ws_allowedips_free(NULL);
}

/* 65,536 peers with an address each (WS_MAX_PEERS), removed one by one. */
static void many_peers(void)
{
	struct ws_allowedips *table = ws_allowedips_new();

	for (uint32_t peer = 0; peer < 65536; peer++) {
		uint8_t ip[4] = {10, 77, (uint8_t)(peer >> 8), (uint8_t)peer};

		CHECK_EQ(ws_allowedips_insert(table, 4, ip, 32, (int32_t)peer), 0);
	}
	for (uint32_t peer = 0; peer < 65536; peer++) {
		uint8_t ip[4] = {10, 77, (uint8_t)(peer >> 8), (uint8_t)peer};

		CHECK_EQ(ws_allowedips_lookup4(table, ip), peer);
		CHECK_EQ(ws_allowedips_remove_peer(table, (int32_t)peer), 1);
		CHECK_EQ(ws_allowedips_lookup4(table, ip), -1);
	}
	CHECK_EQ(ws_allowedips_count(table), 0);
	ws_allowedips_free(table);
}

int main(void)
{
	known();
	against_model(300, 12);
	against_model(200, 100);
	against_model(100, 2);
	many_peers();
	return check_done();
}
