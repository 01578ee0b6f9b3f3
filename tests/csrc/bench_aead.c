/* SPDX-License-Identifier: MIT */
/* ns per packet of each cipher and of mac1; best of several rounds. */
#include "api/types.h"
#include "packet/aead.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#define ROUNDS 9
#define REPEATS 20000
#define HEAD 40

static uint8_t key[WS_KEY_BYTES] = {1, 2, 3};
static uint8_t text[2048], sealed[2048], opened[2048];

static uint64_t clock_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static double best_ns(void (*run)(void *, size_t), void *arg, size_t len)
{
	uint64_t best = UINT64_MAX;

	for (int round = 0; round < ROUNDS; round++) {
		uint64_t start = clock_ns(), took;

		for (int i = 0; i < REPEATS; i++)
			run(arg, len);
		took = clock_ns() - start;
		if (took < best)
			best = took;
	}
	return (double)best / REPEATS;
}

static void run_seal(void *aead, size_t len)
{
	ws_aead_seal(aead, key, 5, sealed, text, len);
}

static void run_seal2(void *aead, size_t len)
{
	ws_aead_seal2(aead, key, 5, sealed, text, HEAD, text + 64, len - HEAD, 0);
}

static void run_open(void *aead, size_t len)
{
	if (!ws_aead_open(aead, key, 5, opened, sealed, len + 16))
		puts("open failed");
}

static void run_mac1(void *mac1, size_t len)
{
	ws_mac1_check(mac1, text, len);
}

int main(void)
{
	static const size_t lengths[] = {64, 1420};
	struct ws_mac1 *mac1 = ws_mac1_new(key);

	for (uint32_t cipher = WS_CIPHER_IPSEC_MB; cipher <= WS_CIPHER_OPENSSL; cipher++) {
		const char *name = cipher == WS_CIPHER_IPSEC_MB ? "ipsec-mb" : "openssl";
		uint64_t start = clock_ns();
		struct ws_aead *aead = ws_aead_new(cipher);

		if (!aead) {
			printf("%s: not here\n", name);
			continue;
		}
		printf("%-8s  new %.1f ms", name, (double)(clock_ns() - start) / 1e6);
		start = clock_ns();
		if (ws_aead_selftest(aead))
			return 1;
		printf("  self-test %.1f ms\n", (double)(clock_ns() - start) / 1e6);
		for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
			double seal2 = best_ns(run_seal2, aead, lengths[i]);
			double seal = best_ns(run_seal, aead, lengths[i]);

			printf("%-8s  %4zu bytes: seal %5.0f  seal2 %5.0f  open %5.0f ns\n", name,
			       lengths[i], seal, seal2, best_ns(run_open, aead, lengths[i]));
		}
		ws_aead_free(aead);
	}
	if (!mac1)
		return 1;
	printf("mac1       148 bytes: check %.0f ns\n", best_ns(run_mac1, mac1, 148));
	ws_mac1_free(mac1);
	return 0;
}
