/* SPDX-License-Identifier: MIT */
/*
 * Both ciphers: RFC 8439's vectors (ws_aead_selftest), each against the other
 * on every length, random splits, flipped bits, no allocation per packet; and
 * mac1 against digests made with Python's hashlib; and no key left where it was forgotten.
 */
#include "packet/aead.h"

#include "api/types.h"
#include "check.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define TAG 16
#define LONGEST 2000

static unsigned long allocations;

/* What OpenSSL holds at the moment: malloc gives each block its length in front. */
#define MAX_BLOCKS 65536
#define FRONT 16
static uint8_t *blocks[MAX_BLOCKS];
static size_t block_count;

static void *keep(uint8_t *block, size_t bytes)
{
	if (!block || block_count == MAX_BLOCKS)
		abort();
	memcpy(block, &bytes, sizeof(bytes));
	blocks[block_count++] = block;
	return block + FRONT;
}

static uint8_t *let_go(void *at)
{
	uint8_t *block = (uint8_t *)at - FRONT;

	for (size_t i = block_count; i-- > 0;)
		if (blocks[i] == block) {
			blocks[i] = blocks[--block_count];
			return block;
		}
	abort();
}

static void *counting_malloc(size_t bytes, const char *file, int line)
{
	(void)file, (void)line;
	allocations++;
	return keep(malloc(bytes + FRONT), bytes);
}

static void *counting_realloc(void *old, size_t bytes, const char *file, int line)
{
	(void)file, (void)line;
	allocations++;
	return keep(realloc(old ? let_go(old) : NULL, bytes + FRONT), bytes);
}

static void counting_free(void *old, const char *file, int line)
{
	(void)file, (void)line;
	if (old)
		free(let_go(old));
}

static bool openssl_holds(const uint8_t *bytes, size_t len)
{
	for (size_t i = 0; i < block_count; i++) {
		size_t size;

		memcpy(&size, blocks[i], sizeof(size));
		if (memmem(blocks[i] + FRONT, size, bytes, len))
			return true;
	}
	return false;
}

/* Blocks of the exact size, so that ASan sees a byte too many. */
static uint8_t *random_block(size_t bytes)
{
	uint8_t *block = malloc(bytes ? bytes : 1);

	if (!block)
		abort();
	for (size_t i = 0; i < bytes; i++)
		block[i] = (uint8_t)check_random();
	return block;
}

static void one_length(struct ws_aead *a, struct ws_aead *b, size_t len)
{
	uint8_t *key = random_block(WS_KEY_BYTES), *text = random_block(len);
	uint8_t *by_a = random_block(len + TAG), *by_b = random_block(len + TAG);
	uint8_t *opened = random_block(len), *in_place = random_block(len + TAG);
	uint64_t counter = check_random();
	size_t flip = check_random() % (len + TAG);

	ws_aead_seal(a, key, counter, by_a, text, len);
	ws_aead_seal(b, key, counter, by_b, text, len);
	CHECK(!memcmp(by_a, by_b, len + TAG));
	CHECK(len < 16 || memcmp(by_a, text, len));

	CHECK(ws_aead_open(a, key, counter, opened, by_b, len + TAG));
	CHECK(!memcmp(opened, text, len));
	memset(opened, 0, len);
	CHECK(ws_aead_open(b, key, counter, opened, by_a, len + TAG));
	CHECK(!memcmp(opened, text, len));

	memcpy(in_place, text, len);
	ws_aead_seal(a, key, counter, in_place, in_place, len);
	CHECK(!memcmp(in_place, by_a, len + TAG));
	CHECK(ws_aead_open(a, key, counter, in_place, in_place, len + TAG));
	CHECK(!memcmp(in_place, text, len));

	/* One bit anywhere; the neighbouring counter; another key; a byte short. */
	by_a[flip] ^= 1 << check_random() % 8;
	CHECK(!ws_aead_open(a, key, counter, opened, by_a, len + TAG));
	CHECK(!ws_aead_open(b, key, counter, opened, by_a, len + TAG));
	CHECK(!ws_aead_open(a, key, counter + 1, opened, by_b, len + TAG));
	CHECK(!ws_aead_open(a, key, counter ^ UINT64_C(1) << 63, opened, by_b, len + TAG));
	if (len)
		CHECK(!ws_aead_open(a, key, counter, opened, by_b, len + TAG - 1));
	key[check_random() % WS_KEY_BYTES] ^= 1;
	CHECK(!ws_aead_open(a, key, counter, opened, by_b, len + TAG));
	key[0] ^= 1;

	free(key);
	free(text);
	free(by_a);
	free(by_b);
	free(opened);
	free(in_place);
}

/*
 * The counter's place and byte order in the nonce (WireGuard whitepaper 5.4.6). From Python:
 * ChaCha20Poly1305(bytes(range(32))).encrypt(bytes(4) + (0x0102030405060708).to_bytes(8, "little"),
 * b"sixteen bytes ok", None).
 */
static void nonce(struct ws_aead *aead)
{
	static const uint8_t want[16 + TAG] = {0x83, 0x20, 0xd5, 0x90, 0xce, 0x5c, 0x84, 0x38,
					       0x06, 0xd2, 0x5e, 0xa9, 0x00, 0x58, 0x0e, 0xd3,
					       0x32, 0x0a, 0xc9, 0x37, 0xc2, 0x4c, 0x29, 0x82,
					       0x64, 0x3b, 0x93, 0x88, 0xf9, 0x1b, 0x71, 0x31};
	uint8_t key[WS_KEY_BYTES], got[16 + TAG];

	for (int i = 0; i < WS_KEY_BYTES; i++)
		key[i] = (uint8_t)i;
	ws_aead_seal(aead, key, UINT64_C(0x0102030405060708), got,
		     (const uint8_t *)"sixteen bytes ok", 16);
	CHECK(!memcmp(got, want, sizeof(want)));
}

/*
 * Assembly is beyond ASan's sight: buffers that end where an unmapped page begins catch a read or
 * write past their end.
 */
static uint8_t *guarded_end(void)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	uint8_t *map =
		mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (map == MAP_FAILED || mprotect(map + page, page, PROT_NONE))
		abort();
	return map + page;
}

static void past_the_end(struct ws_aead *aead)
{
	uint8_t *key = guarded_end() - WS_KEY_BYTES, *text_end = guarded_end();
	uint8_t *sealed_end = guarded_end(), *opened_end = guarded_end();

	for (size_t len = 0; len <= LONGEST; len++) {
		uint8_t *sealed = sealed_end - len - TAG, *opened = opened_end - len;
		uint8_t *text = text_end - len;

		for (size_t i = 0; i < len; i++)
			text[i] = (uint8_t)(i * 7 + len);
		ws_aead_seal(aead, key, len, sealed, text, len);
		CHECK(ws_aead_open(aead, key, len, opened, sealed, len + TAG));
		CHECK(!memcmp(opened, text, len));
		ws_aead_seal2(aead, key, len, sealed, text, len / 2, text + len / 2, len - len / 2,
			      0);
		CHECK(ws_aead_open(aead, key, len, sealed, sealed, len + TAG));
		CHECK(!memcmp(sealed, text, len));
	}
}

/* Every bit of one small datagram, the tag's too. */
static void every_bit(struct ws_aead *aead)
{
	uint8_t key[WS_KEY_BYTES] = {1}, sealed[48 + TAG], text[48] = {2}, opened[48];

	ws_aead_seal(aead, key, 7, sealed, text, sizeof(text));
	for (size_t bit = 0; bit < sizeof(sealed) * 8; bit++) {
		sealed[bit / 8] ^= 1 << bit % 8;
		CHECK(!ws_aead_open(aead, key, 7, opened, sealed, sizeof(sealed)));
		sealed[bit / 8] ^= 1 << bit % 8;
	}
	CHECK(ws_aead_open(aead, key, 7, opened, sealed, sizeof(sealed)));
	for (size_t len = 0; len < TAG; len++)
		CHECK(!ws_aead_open(aead, key, 7, opened, sealed, len));
}

static void pieces(struct ws_aead *aead, struct ws_aead *reference)
{
	size_t len = check_random() % (LONGEST + 1), padding = check_random() % 17;
	size_t split = check_random() % 4 ? check_random() % (len + 1) : (len < 40 ? len : 40);
	uint8_t *key = random_block(WS_KEY_BYTES), *head = random_block(split);
	uint8_t *body = random_block(len - split), *whole = random_block(len + padding);
	uint8_t *got = random_block(len + padding + TAG), *want = random_block(len + padding + TAG);
	uint64_t counter = check_random() % 1000;

	memcpy(whole, head, split);
	memcpy(whole + split, body, len - split);
	memset(whole + len, 0, padding);
	ws_aead_seal(reference, key, counter, want, whole, len + padding);
	ws_aead_seal2(aead, key, counter, got, head, split, body, len - split, padding);
	CHECK(!memcmp(got, want, len + padding + TAG));
	/* The body where it belongs already. */
	memcpy(got + split, body, len - split);
	ws_aead_seal2(aead, key, counter, got, head, split, got + split, len - split, padding);
	CHECK(!memcmp(got, want, len + padding + TAG));
	CHECK(!memcmp(whole, head, split));
	CHECK(!memcmp(whole + split, body, len - split));
	/* Empty pieces may be NULL. */
	ws_aead_seal2(aead, key, counter, got, NULL, 0, whole, len + padding, 0);
	CHECK(!memcmp(got, want, len + padding + TAG));
	ws_aead_seal2(aead, key, counter, got, whole, len + padding, NULL, 0, 0);
	CHECK(!memcmp(got, want, len + padding + TAG));

	free(key);
	free(head);
	free(body);
	free(whole);
	free(got);
	free(want);
}

static void nothing_allocated(struct ws_aead *aead)
{
	uint8_t key[WS_KEY_BYTES] = {3}, text[1420] = {4}, sealed[1420 + TAG];
	unsigned long before = allocations;

	for (uint64_t i = 0; i < 1000; i++) {
		key[0] = (uint8_t)i;
		ws_aead_seal(aead, key, i, sealed, text, sizeof(text));
		CHECK(ws_aead_open(aead, key, i, text, sealed, sizeof(sealed)));
		sealed[i] ^= 1;
		CHECK(!ws_aead_open(aead, key, i, sealed, sealed, sizeof(sealed)));
	}
	CHECK_EQ(allocations, before);
}

/* After ws_aead_forget nothing of the last key is left in what OpenSSL keeps. */
static void forget(struct ws_aead *aead)
{
	uint8_t key[WS_KEY_BYTES], stream[1000 + TAG] = {0}, text[1000];
	const size_t last = 1000 - 1000 % 64; /* where the block begins that is not used up */
	bool openssl = ws_aead_cipher(aead) == WS_CIPHER_OPENSSL;

	for (int way = 0; way < 3; way++) {
		for (size_t i = 0; i < sizeof(key); i++)
			key[i] = (uint8_t)check_random();
		memset(stream, 0, sizeof(stream));
		/* Over zeros: the text is the keystream. */
		if (way != 1)
			ws_aead_seal(aead, key, 7, stream, stream, 1000);
		if (way != 0)
			(void)ws_aead_open(aead, key, 7, text, stream, sizeof(stream));
		/* Else this would pass whatever ws_aead_forget did. */
		CHECK_EQ(openssl_holds(key, sizeof(key)), openssl);
		ws_aead_forget(aead);
		CHECK(!openssl_holds(key, sizeof(key)));
		CHECK(!openssl_holds(key, 16));
		CHECK(!openssl_holds(key + 16, 16));
		if (way != 1)
			CHECK(!openssl_holds(stream + last, 16));
	}
	CHECK_EQ(ws_aead_selftest(aead), 0);
}

/* The lengths where a datagram could still stand: 65,535 bytes is the contract's end. */
static void longest(struct ws_aead *aead, struct ws_aead *reference)
{
	one_length(aead, reference, 9000);
	one_length(aead, reference, 65535 - TAG);
	one_length(aead, reference, 65535);
}

static void whole_cipher(struct ws_aead *aead, struct ws_aead *reference)
{
	CHECK_EQ(ws_aead_selftest(aead), 0);
	for (size_t len = 0; len <= LONGEST; len++)
		one_length(aead, reference, len);
	longest(aead, reference);
	for (int i = 0; i < 3000; i++)
		pieces(aead, reference);
	nonce(aead);
	past_the_end(aead);
	every_bit(aead);
	nothing_allocated(aead);
	forget(aead);
}

static void mac1(void)
{
	/*
	 * public key = bytes 0..31; key = blake2s(b"mac1----" + public key);
	 * mac = blake2s(bytes(i % 251 for i in range(n)), key=key, digest_size=16), n = 116, 60, 0
	 */
	static const struct {
		size_t covered;
		uint8_t mac[16];
	} cases[] = {
		{116,
		 {0x3a, 0x7d, 0x1b, 0x86, 0x5f, 0x06, 0x2f, 0x4a, 0xf4, 0x67, 0x7f, 0x1d, 0x88,
		  0xd7, 0xea, 0x74}},
		{60,
		 {0x80, 0x05, 0xf0, 0xec, 0x50, 0x9e, 0xde, 0x69, 0xd8, 0x1a, 0x48, 0xd2, 0xb1,
		  0xb6, 0x97, 0x7c}},
		{0,
		 {0xf3, 0x74, 0x6d, 0x88, 0x04, 0xac, 0x15, 0xd1, 0x09, 0xb1, 0xd4, 0x9a, 0xda,
		  0x51, 0xcc, 0xee}},
	};
	uint8_t public_key[32], message[116 + 32];
	struct ws_mac1 *mac1;
	unsigned long before;

	for (int i = 0; i < 32; i++)
		public_key[i] = (uint8_t)i;
	mac1 = ws_mac1_new(public_key);
	CHECK(mac1);
	if (!mac1)
		return;
	before = allocations;
	for (int round = 0; round < 3; round++) {
		for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
			size_t covered = cases[i].covered, len = covered + 32;

			for (size_t k = 0; k < covered; k++)
				message[k] = (uint8_t)(k % 251);
			memcpy(message + covered, cases[i].mac, 16);
			memset(message + covered + 16, round, 16); /* mac2: not covered */
			CHECK(ws_mac1_check(mac1, message, len));
			for (size_t bit = 0; bit < (covered + 16) * 8; bit++) {
				message[bit / 8] ^= 1 << bit % 8;
				CHECK(!ws_mac1_check(mac1, message, len));
				message[bit / 8] ^= 1 << bit % 8;
			}
			CHECK(ws_mac1_check(mac1, message, len));
		}
	}
	CHECK_EQ(allocations, before);
	for (size_t len = 0; len < 32; len++)
		CHECK(!ws_mac1_check(mac1, message, len));
	ws_mac1_free(mac1);

	public_key[5] ^= 1;
	mac1 = ws_mac1_new(public_key);
	CHECK(mac1 && !ws_mac1_check(mac1, message, 32));
	ws_mac1_free(mac1);
	ws_mac1_free(NULL);
}

int main(void)
{
	struct ws_aead *openssl, *ipsec, *chosen;

	/* First of all: OpenSSL takes these only before it has allocated anything. */
	CHECK(CRYPTO_set_mem_functions(counting_malloc, counting_realloc, counting_free));
	openssl = ws_aead_new(WS_CIPHER_OPENSSL);
	errno = 0;
	ipsec = ws_aead_new(WS_CIPHER_IPSEC_MB);
	CHECK(openssl);
	/* Where there is a header there is its library. */
	CHECK(ipsec || errno == ENOTSUP || errno == ENOSYS);
	CHECK(allocations);
	if (!openssl)
		return check_done();
	CHECK_EQ(ws_aead_cipher(openssl), WS_CIPHER_OPENSSL);
	whole_cipher(openssl, ipsec ? ipsec : openssl);
	if (ipsec) {
		CHECK_EQ(ws_aead_cipher(ipsec), WS_CIPHER_IPSEC_MB);
		whole_cipher(ipsec, openssl);
	} else {
		printf("ipsec-mb is not here: OpenSSL tested against itself\n");
	}
	chosen = ws_aead_new(WS_CIPHER_AUTO);
	CHECK(chosen);
	if (chosen)
		CHECK_EQ(ws_aead_cipher(chosen), ipsec ? WS_CIPHER_IPSEC_MB : WS_CIPHER_OPENSSL);
	ws_aead_free(chosen);
	ws_aead_free(ipsec);
	ws_aead_free(openssl);
	ws_aead_free(NULL);
	errno = 0;
	CHECK(!ws_aead_new(99) && errno == ENOTSUP);
	mac1();
	return check_done();
}
