/* SPDX-License-Identifier: MIT */
/*
 * ChaCha20-Poly1305 (RFC 8439) as WireGuard uses it: nonce = 4 zero bytes and
 * the 64-bit little-endian counter, no associated data. Two implementations,
 * Intel ipsec-mb (x86-64) and OpenSSL EVP; tags are compared in constant time.
 * A context belongs to one thread and allocates nothing after ws_aead_new.
 */
#ifndef WS_AEAD_H
#define WS_AEAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WS_KEY_BYTES 32

struct ws_aead;

/*
 * cipher: enum ws_cipher. AUTO takes ipsec-mb if it is there and passes the self-test, else
 * OpenSSL. NULL and errno if it cannot be had: ENOSYS: built without it, ELIBACC: no library of the
 * version it was built for, ENOTSUP: it refuses (this processor), ENOMEM. ipsec-mb is loaded by the
 * first call, which therefore must not run in two threads at once. About 200 KiB with ipsec-mb.
 */
struct ws_aead *ws_aead_new(uint32_t cipher);
void ws_aead_free(struct ws_aead *aead); /* zeroes what it held */
/* After the end of a key: the context keeps nothing of the last one that it was used with. */
void ws_aead_forget(struct ws_aead *aead);
uint32_t ws_aead_cipher(const struct ws_aead *aead);
/*
 * RFC 8439 2.8.2 and A.5 vectors; every length 0..300 and some to 2048: equal to OpenSSL's,
 * round trip, a flipped bit refused. 0 or -EBADMSG. 1-2 ms.
 */
int ws_aead_selftest(struct ws_aead *aead);

/*
 * dst[0..len) = ciphertext, dst[len..len+16) = tag. dst == src or no overlap. len <= 65535. Should
 * the cipher ever fail, dst is all zero: no plaintext leaves.
 */
void ws_aead_seal(struct ws_aead *aead, const uint8_t key[WS_KEY_BYTES], uint64_t counter,
		  uint8_t *dst, const uint8_t *src, size_t len);
/*
 * The plaintext in two pieces and zero_padding zero bytes, sealed as one text
 * into dst, contiguously (header rewritten, payload straight from the read
 * buffer). Each piece lies in dst at its own place or does not overlap it; an
 * empty one may be NULL.
 */
void ws_aead_seal2(struct ws_aead *aead, const uint8_t key[WS_KEY_BYTES], uint64_t counter,
		   uint8_t *dst, const uint8_t *head, size_t head_len, const uint8_t *body,
		   size_t body_len, size_t zero_padding);
/*
 * src holds len bytes, the last 16 the tag. dst == src or no overlap. True and dst[0..len-16), or
 * false: then dst may hold text nobody vouched for, and must not be used.
 */
bool ws_aead_open(struct ws_aead *aead, const uint8_t key[WS_KEY_BYTES], uint64_t counter,
		  uint8_t *dst, const uint8_t *src, size_t len);

/* WireGuard's mac1 (keyed BLAKE2s-128, by OpenSSL): key = BLAKE2s("mac1----" || public key). */
struct ws_mac1;
struct ws_mac1 *ws_mac1_new(const uint8_t public_key[32]);
void ws_mac1_free(struct ws_mac1 *mac1);
/* The message with mac1 and mac2 as its last 32 bytes; constant-time compare. Allocates nothing. */
bool ws_mac1_check(struct ws_mac1 *mac1, const uint8_t *message, size_t len);

#endif
