/* SPDX-License-Identifier: MIT */
/*
 * Which messages from outside a session may cost Python a computation. One for
 * all workers of an engine; every function may be called from any thread, none
 * takes a lock, and nothing but ws_gate_new allocates. Times are ns of any one clock.
 *
 * Initiations whose mac1 is right, by what their source has shown:
 *  verified: a right mac2, so it receives what is sent to its address. Up to Python, 20 a second
 *	a source.
 *  known: the address of a peer, which others may forge. Some pass, the rest is asked for a cookie.
 *  stranger: 500 at once and 20 a second pass, more if they prove to be peers; the rest is asked for
 *	a cookie as far as the ladder (shared/ladder.h) reaches.
 */
#ifndef WS_GATE_H
#define WS_GATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/types.h"

struct ws_gate;

enum ws_gate_verdict {
	WS_GATE_REFUSE = 0,
	WS_GATE_PASS = 1,
	WS_GATE_ASK = 2, /* send a cookie reply */
	/* both: the source's network is quiet, and a WireGuard peer sends again after 5 s only */
};

struct ws_gate *ws_gate_new(void); /* NULL: no memory. About 4 MB, touched as sources turn up. */
void ws_gate_free(struct ws_gate *gate);

/* Bits of enum ws_gate_verdict; *class gets enum ws_source_class. */
uint32_t ws_gate_initiation(struct ws_gate *gate, const struct ws_addr *source, bool verified,
			    uint64_t now_ns, uint32_t *source_class);
/* An initiation of this class proved to be a peer's: it need not have cost a token. */
void ws_gate_genuine(struct ws_gate *gate, uint32_t source_class);
/* Whether a bootstrap request with a right MAC may go up. */
bool ws_gate_bootstrap(struct ws_gate *gate, const struct ws_addr *source, uint64_t now_ns);

/* Addresses of peers, whatever their port. */
void ws_gate_know(struct ws_gate *gate, const struct ws_addr *addr);
void ws_gate_forget(struct ws_gate *gate, const struct ws_addr *addr);
bool ws_gate_knows(const struct ws_gate *gate, const struct ws_addr *addr);

/*
 * A message of ours is out whose answer will name `id`: the sender index of an initiation or a
 * response, the first four bytes of a bootstrap request's nonce. For WS_AWAIT_NS.
 */
#define WS_AWAIT_NS 20000000000ULL
void ws_gate_await(struct ws_gate *gate, uint32_t id, uint64_t now_ns);
/* Whether an answer is awaited; each is, WS_AWAIT_ANSWERS times: who sees `id` go by may flood. */
#define WS_AWAIT_ANSWERS 16
bool ws_gate_awaited(struct ws_gate *gate, uint32_t id, uint64_t now_ns);

#endif
