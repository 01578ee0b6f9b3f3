/* SPDX-License-Identifier: MIT */
/*
 * mac2, cookie replies (WireGuard whitepaper 5.4.4 and 5.4.7) and the MAC of
 * bootstrap requests. Keyed BLAKE2s is OpenSSL's, XChaCha20-Poly1305 libsodium's.
 * A context belongs to one thread and allocates nothing after ws_cookie_new.
 * The same bytes as whalescale/protocol/cookie.py and bootstrap.py.
 */
#ifndef WS_COOKIE_H
#define WS_COOKIE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/types.h"

struct ws_cookie;

/* public_key: our static key; bootstrap_key: of our own fingerprint. NULL and errno. */
struct ws_cookie *ws_cookie_new(const uint8_t public_key[32], const uint8_t bootstrap_key[32]);
void ws_cookie_free(struct ws_cookie *cookie); /* zeroes what it held */
/* What cookies are made of from here on; those of the secret before it are still taken. */
void ws_cookie_set_secret(struct ws_cookie *cookie, const uint8_t secret[32]);
/*
 * Whether the message (mac1 and mac2 as its last 32 bytes) has a mac2 made with a cookie that we
 * gave to this source. Constant-time compare.
 */
bool ws_cookie_check(struct ws_cookie *cookie, const struct ws_addr *source, const uint8_t *message,
		     size_t len);
/* The 64 bytes of message 3, an answer to a message whose mac1 is right. */
bool ws_cookie_reply(struct ws_cookie *cookie, const struct ws_addr *source, const uint8_t *message,
		     size_t len, uint8_t reply[64]);
/* Whether a bootstrap request or a PRESENT, `len` bytes, was made by who knows our fingerprint. */
bool ws_cookie_bootstrap(struct ws_cookie *cookie, const uint8_t *message, size_t len);

#endif
