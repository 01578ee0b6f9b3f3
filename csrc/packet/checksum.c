/* SPDX-License-Identifier: MIT */
#include "packet/checksum.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/*
 * 64-bit words are split in two halves with a total each: no carry to follow,
 * so the compiler vectorises it, and 2^32 is 1 modulo 2^16 - 1.
 */
static uint64_t sum_words(uint64_t sum, const uint8_t *p, size_t len)
{
	uint64_t low = 0, high = 0, word;

	for (; len >= 8; p += 8, len -= 8) {
		memcpy(&word, p, 8);
		low += word & 0xffffffff;
		high += word >> 32;
	}
	if (len) {
		word = 0;
		memcpy(&word, p, len);
		low += word & 0xffffffff;
		high += word >> 32;
	}
	return sum + low + high;
}

#if defined(__x86_64__)

/* The same in lanes of 64 bits, 64 bytes at a time. */
__attribute__((target("avx2"))) static uint64_t sum_avx2(uint64_t sum, const uint8_t *p, size_t len)
{
	const __m256i mask = _mm256_set1_epi64x(0xffffffff);
	__m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
	uint64_t lanes[4];

	for (; len >= 64; p += 64, len -= 64) {
		__m256i v = _mm256_loadu_si256((const __m256i *)p);
		__m256i w = _mm256_loadu_si256((const __m256i *)(p + 32));

		a = _mm256_add_epi64(a, _mm256_and_si256(v, mask));
		b = _mm256_add_epi64(b, _mm256_srli_epi64(v, 32));
		c = _mm256_add_epi64(c, _mm256_and_si256(w, mask));
		d = _mm256_add_epi64(d, _mm256_srli_epi64(w, 32));
	}
	a = _mm256_add_epi64(_mm256_add_epi64(a, b), _mm256_add_epi64(c, d));
	_mm256_storeu_si256((__m256i *)lanes, a);
	return sum_words(sum + lanes[0] + lanes[1] + lanes[2] + lanes[3], p, len);
}

#endif

uint64_t ws_csum_add(uint64_t sum, const void *data, size_t len)
{
#if defined(__x86_64__)
	if (len >= 128 && __builtin_cpu_supports("avx2"))
		return sum_avx2(sum, data, len);
#endif
	return sum_words(sum, data, len);
}
