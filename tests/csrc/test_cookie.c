/* SPDX-License-Identifier: MIT */
/*
 * With "vectors": lines from standard input, answered for test_cookie_vectors.py. All hex.
 *
 *  check SECRET IP PORT SCOPE MESSAGE   out: 1 if the message's mac2 is right, else 0
 *  reply PUBLIC SECRET IP PORT SCOPE MESSAGE   out: the cookie reply
 *  bootstrap KEY MESSAGE                out: 1 or 0
 */
#include "packet/cookie.h"

#include "check.h"

#include <stdlib.h>
#include <string.h>

static const uint8_t zero[32];

static size_t read_hex(const char *from, uint8_t *to, size_t room)
{
	size_t len = 0;
	unsigned byte;

	while (len < room && sscanf(from + 2 * len, "%2x", &byte) == 1)
		to[len++] = (uint8_t)byte;
	return len;
}

static struct ws_addr address(char **word)
{
	struct ws_addr addr = {0};

	addr.family = read_hex(word[0], addr.ip, sizeof(addr.ip)) == 16 ? 6 : 4;
	addr.port = (uint16_t)strtoul(word[1], NULL, 16);
	addr.scope_id = (uint32_t)strtoul(word[2], NULL, 16);
	return addr;
}

static int vectors(void)
{
	static char line[4096];
	uint8_t key[32], secret[32], message[256], reply[64];
	char *word[8];

	while (fgets(line, sizeof(line), stdin)) {
		size_t words = 0;

		for (char *at = strtok(line, " \n"); at && words < 8; at = strtok(NULL, " \n"))
			word[words++] = at;
		if (words == 6 && !strcmp(word[0], "check")) {
			struct ws_cookie *cookie = ws_cookie_new(zero, zero);
			struct ws_addr from = address(word + 2);

			read_hex(word[1], secret, 32);
			ws_cookie_set_secret(cookie, secret);
			printf("%d\n",
			       ws_cookie_check(cookie, &from, message,
					       read_hex(word[5], message, sizeof(message))));
			ws_cookie_free(cookie);
		} else if (words == 7 && !strcmp(word[0], "reply")) {
			struct ws_cookie *cookie;
			struct ws_addr from = address(word + 3);

			read_hex(word[1], key, 32);
			read_hex(word[2], secret, 32);
			cookie = ws_cookie_new(key, zero);
			ws_cookie_set_secret(cookie, secret);
			if (!ws_cookie_reply(cookie, &from, message,
					     read_hex(word[6], message, sizeof(message)), reply))
				return 1;
			for (size_t i = 0; i < sizeof(reply); i++)
				printf("%02x", reply[i]);
			printf("\n");
			ws_cookie_free(cookie);
		} else if (words == 3 && !strcmp(word[0], "bootstrap")) {
			struct ws_cookie *cookie;
			size_t len;

			read_hex(word[1], key, 32);
			cookie = ws_cookie_new(zero, key);
			len = read_hex(word[2], message, sizeof(message));
			if (len != 128)
				return 1;
			printf("%d\n", ws_cookie_bootstrap(cookie, message, len));
			ws_cookie_free(cookie);
		} else {
			return 1;
		}
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct ws_cookie *cookie = ws_cookie_new(zero, zero);
	struct ws_addr from = {.family = 4, .port = 7, .ip = {10, 0, 0, 1}};
	uint8_t message[148] = {1}, reply[64], again[64];

	if (argc > 1 && !strcmp(argv[1], "vectors")) {
		ws_cookie_free(cookie);
		return vectors();
	}
	CHECK(cookie);
	CHECK(!ws_cookie_check(cookie, &from, message, sizeof(message)));
	CHECK(!ws_cookie_check(cookie, &from, message, 31));
	CHECK(ws_cookie_reply(cookie, &from, message, sizeof(message), reply));
	CHECK(ws_cookie_reply(cookie, &from, message, sizeof(message), again));
	CHECK(memcmp(reply + 8, again + 8, 24)); /* a nonce of its own */
	CHECK(!ws_cookie_reply(cookie, &from, message, 39, reply));
	ws_cookie_free(cookie);
	return check_done();
}
