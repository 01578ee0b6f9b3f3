/* SPDX-License-Identifier: MIT */
/*
 * From plaintext to a datagram in the open send buffer, which holds one run of datagrams to one
 * place: header, number, AEAD. Every message 4 goes through here.
 */
#ifndef WS_SEAL_H
#define WS_SEAL_H

#include "session/peer.h"

/* Plaintext of so many bytes as it is padded, but to no more than `limit`. */
uint32_t ws_seal_text_bytes(size_t len, size_t limit);
/*
 * The number of the next datagram of `bytes` by `path`. Those to the peer's endpoint are path 0's,
 * and go on when there are several paths.
 */
uint64_t ws_seal_number(const struct ws_worker *worker, const struct ws_peer *peer,
			const struct ws_keys *keys, uint32_t path, uint32_t bytes);
/* Room for one datagram of `bytes` to the peer by `path`; counts it in. */
uint8_t *ws_seal_reserve(struct ws_worker *worker, struct ws_peer *peer, uint32_t path,
			 uint32_t bytes, uint8_t ecn);
/* Seals head, body and padding, `text` bytes of plaintext, to `at`. head may be its place there. */
void ws_seal_at(struct ws_worker *worker, struct ws_peer *peer, struct ws_keys *keys, uint32_t path,
		uint64_t number, uint8_t *at, uint32_t text, const uint8_t *head, size_t head_bytes,
		const uint8_t *body, size_t body_bytes);
/* Seals head and body as datagram `number` of `path`; returns the UDP payload's bytes. */
uint32_t ws_seal(struct ws_worker *worker, struct ws_peer *peer, struct ws_keys *keys,
		 uint32_t path, uint64_t number, uint8_t ecn, const uint8_t *head,
		 size_t head_bytes, const uint8_t *body, size_t body_bytes, size_t limit);
/* The same, as the next datagram to the peer's endpoint. */
void ws_seal_next(struct ws_worker *worker, struct ws_peer *peer, struct ws_keys *keys, uint8_t ecn,
		  const uint8_t *head, size_t head_bytes, const uint8_t *body, size_t body_bytes,
		  size_t limit);
/* After datagrams of a keypair were sealed: timestamps, renewal. */
void ws_sealed(struct ws_worker *worker, struct ws_peer *peer, struct ws_keys *keys);
/*
 * After a control frame or a keepalive; silent: no answer is waited for. To a peer that speaks of
 * frames it renews keys only just before their end: a session without data is kept by Python's timers.
 */
void ws_sealed_control(struct ws_worker *worker, struct ws_peer *peer, struct ws_keys *keys,
		       bool silent);
/* Gives the backend what was sealed. */
void ws_seal_flush(struct ws_worker *worker);

#endif
