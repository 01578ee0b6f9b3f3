/* SPDX-License-Identifier: MIT */
/*
 * The smallest test harness: CHECK counts, prints file:line on failure and
 * goes on; `return check_done();` ends main with 0 or 1.
 */
#ifndef WS_CHECK_H
#define WS_CHECK_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define CHECK_MAX_PRINTED 20

static unsigned long check_count, check_failures;

#define CHECK(condition)                                                                           \
	do {                                                                                       \
		check_count++;                                                                     \
		if (!(condition) && check_failures++ < CHECK_MAX_PRINTED)                          \
			fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition);    \
	} while (0)

/* As CHECK, with the two values (cast to long long) in the message. */
#define CHECK_EQ(got, want)                                                                        \
	do {                                                                                       \
		long long check_got = (long long)(got), check_want = (long long)(want);            \
		check_count++;                                                                     \
		if (check_got != check_want && check_failures++ < CHECK_MAX_PRINTED)               \
			fprintf(stderr, "%s:%d: failed: %s is %lld, want %s = %lld\n", __FILE__,   \
				__LINE__, #got, check_got, #want, check_want);                     \
	} while (0)

/* A fixed-seed generator (splitmix64): a failure repeats itself. */
static uint64_t check_seed = 0x5eed;

static inline uint64_t check_random(void)
{
	uint64_t z = check_seed += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

/* How often something random is tried: `few` times, `many` where the long tests ask for it. */
static inline unsigned check_rounds(unsigned few, unsigned many)
{
	return getenv("WS_TEST_WHOLE") ? many : few;
}

static inline int check_done(void)
{
	printf("%lu checks, %lu failed\n", check_count, check_failures);
	return check_failures || !check_count;
}

#endif
