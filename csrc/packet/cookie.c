/* SPDX-License-Identifier: MIT */
#include "packet/cookie.h"

#include "shared/wire.h"

#include <errno.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#define KEY_BYTES 32
#define COOKIE_BYTES 16
#define NONCE_BYTES 24
#define SOURCE_MAX_BYTES 22 /* IPv6 address, port, zone */

_Static_assert(8 + NONCE_BYTES + COOKIE_BYTES + crypto_aead_xchacha20poly1305_ietf_ABYTES ==
		       WS_COOKIE_REPLY_BYTES,
	       "whitepaper 5.4.7");

struct ws_cookie {
	EVP_MAC_CTX *mac;
	uint8_t seal_key[KEY_BYTES];
	uint8_t bootstrap_key[KEY_BYTES];
	uint8_t secret[2][KEY_BYTES]; /* the one in use, the one before it */
};

struct ws_cookie *ws_cookie_new(const uint8_t public_key[32], const uint8_t bootstrap_key[32])
{
	static const char label[8] = "cookie--";
	size_t size = WS_MAC_BYTES;
	const OSSL_PARAM params[] = {OSSL_PARAM_construct_size_t("size", &size), OSSL_PARAM_END};
	struct ws_cookie *cookie = calloc(1, sizeof(*cookie));
	EVP_MAC *mac = EVP_MAC_fetch(NULL, "BLAKE2SMAC", NULL);
	uint8_t input[sizeof(label) + KEY_BYTES];
	int error = ENOTSUP;

	if (!cookie) {
		error = ENOMEM;
		goto fail;
	}
	/* Picks the fastest code for this CPU; again is no harm. */
	if (!mac || sodium_init() < 0)
		goto fail;
	memcpy(cookie->bootstrap_key, bootstrap_key, KEY_BYTES);
	randombytes_buf(cookie->secret, sizeof(cookie->secret));
	memcpy(input, label, sizeof(label));
	memcpy(input + sizeof(label), public_key, KEY_BYTES);
	if (!EVP_Digest(input, sizeof(input), cookie->seal_key, NULL, EVP_blake2s256(), NULL))
		goto fail;
	cookie->mac = EVP_MAC_CTX_new(mac); /* holds its own reference to mac */
	if (!cookie->mac || !EVP_MAC_init(cookie->mac, cookie->seal_key, KEY_BYTES, params))
		goto fail;
	EVP_MAC_free(mac);
	return cookie;
fail:
	EVP_MAC_free(mac);
	ws_cookie_free(cookie);
	errno = error;
	return NULL;
}

void ws_cookie_free(struct ws_cookie *cookie)
{
	if (!cookie)
		return;
	EVP_MAC_CTX_free(cookie->mac);
	OPENSSL_cleanse(cookie, sizeof(*cookie));
	free(cookie);
}

void ws_cookie_set_secret(struct ws_cookie *cookie, const uint8_t secret[32])
{
	memcpy(cookie->secret[1], cookie->secret[0], KEY_BYTES);
	memcpy(cookie->secret[0], secret, KEY_BYTES);
}

/* The whitepaper's Mac: keyed BLAKE2s of 16 bytes. */
static bool keyed(struct ws_cookie *cookie, const uint8_t *key, size_t key_len, const uint8_t *data,
		  size_t len, uint8_t out[WS_MAC_BYTES])
{
	size_t written;

	/* A new init starts over; the output size set at first stays. */
	return EVP_MAC_init(cookie->mac, key, key_len, NULL) &&
	       EVP_MAC_update(cookie->mac, data, len) &&
	       EVP_MAC_final(cookie->mac, out, &written, WS_MAC_BYTES) && written == WS_MAC_BYTES;
}

/* A cookie is bound to the address, the port and the zone (`source_bytes` of cookie.py). */
static bool make(struct ws_cookie *cookie, const uint8_t *secret, const struct ws_addr *source,
		 uint8_t out[COOKIE_BYTES])
{
	uint8_t bytes[SOURCE_MAX_BYTES];
	size_t len = source->family == 6 ? 16 : 4;

	memcpy(bytes, source->ip, len);
	bytes[len++] = (uint8_t)source->port;
	bytes[len++] = (uint8_t)(source->port >> 8);
	for (int shift = 0; shift < 32; shift += 8)
		bytes[len++] = (uint8_t)(source->scope_id >> shift);
	return keyed(cookie, secret, KEY_BYTES, bytes, len, out);
}

bool ws_cookie_check(struct ws_cookie *cookie, const struct ws_addr *source, const uint8_t *message,
		     size_t len)
{
	uint8_t value[COOKIE_BYTES], right[WS_MAC_BYTES];
	bool found = false;

	if (len < 2 * WS_MAC_BYTES)
		return false;
	for (int i = 0; i < 2 && !found; i++)
		found = make(cookie, cookie->secret[i], source, value) &&
			keyed(cookie, value, sizeof(value), message, len - WS_MAC_BYTES, right) &&
			!CRYPTO_memcmp(right, message + len - WS_MAC_BYTES, WS_MAC_BYTES);
	OPENSSL_cleanse(value, sizeof(value));
	OPENSSL_cleanse(right, sizeof(right));
	return found;
}

bool ws_cookie_reply(struct ws_cookie *cookie, const struct ws_addr *source, const uint8_t *message,
		     size_t len, uint8_t reply[64])
{
	const uint8_t head[4] = {WS_MSG_COOKIE_REPLY};
	const uint8_t *mac1 = message + len - 2 * WS_MAC_BYTES;
	uint8_t *nonce = reply + 8, *sealed = nonce + NONCE_BYTES;
	uint8_t value[COOKIE_BYTES];
	bool done;

	if (len < 8 + 2 * WS_MAC_BYTES)
		return false;
	memcpy(reply, head, sizeof(head));
	memcpy(reply + 4, message + 4, 4); /* its sender is our receiver */
	randombytes_buf(nonce, NONCE_BYTES);
	done = make(cookie, cookie->secret[0], source, value) &&
	       !crypto_aead_xchacha20poly1305_ietf_encrypt(sealed, NULL, value, sizeof(value), mac1,
							   WS_MAC_BYTES, NULL, nonce,
							   cookie->seal_key);
	OPENSSL_cleanse(value, sizeof(value));
	return done;
}

bool ws_cookie_bootstrap(struct ws_cookie *cookie, const uint8_t *message, size_t len)
{
	const size_t covered = len - WS_MAC_BYTES;
	uint8_t right[WS_MAC_BYTES];

	return len > WS_MAC_BYTES &&
	       keyed(cookie, cookie->bootstrap_key, KEY_BYTES, message, covered, right) &&
	       !CRYPTO_memcmp(right, message + covered, WS_MAC_BYTES);
}
