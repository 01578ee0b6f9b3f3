/* SPDX-License-Identifier: MIT */
/*
 * An anchor's relay: a transport message whose receiver index is bound goes on as it came. Asked
 * only where the index is no session's, so who does not relay pays nothing.
 */
#ifndef WS_SESSION_RELAY_H
#define WS_SESSION_RELAY_H

#include "api/relay.h"
#include "udp/way.h"
#include "worker/worker.h"

#define WS_TX_RELAY (-2) /* tx->peer: no peer's; tx->path is the receiver index */

/* When a member's share is used up to, CLOCK_BOOTTIME ns (the generic cell rate algorithm). */
struct ws_relay_share {
	_Atomic uint64_t full_at_ns;
};

struct ws_relay_entry {
	struct ws_relay_stats stats;
	uint32_t index;
	uint32_t place_count;
	uint32_t most_bytes;
	uint64_t passed_serial; /* the receive whose source was looked at last, and found right */
	struct ws_relay_share *share; /* of the sender, among all workers */
	union ws_sockaddr places[WS_RELAY_PLACES];
	struct ws_way way;
};

/* Of one worker, which owns the indices that are congruent to its number. */
struct ws_relay_table;

struct ws_relay_table *ws_relay_table_new(void);
void ws_relay_table_free(struct ws_relay_table *table);

/* On the worker's thread. */
struct ws_relay_entry *ws_relay_find(const struct ws_relay_table *table, uint32_t index);
int ws_relay_insert(struct ws_relay_table *table, struct ws_relay_entry *entry); /* -ENOSPC */
struct ws_relay_entry *ws_relay_take(struct ws_relay_table *table, uint32_t index);
/* Of each binding, `most` of them at most; returns of how many. */
size_t ws_relay_count(const struct ws_relay_table *table, struct ws_relay_count *counts,
		      size_t most);
/* Sockets came or went: ways choose anew. */
void ws_relay_sockets(struct ws_worker *worker);

/* A transport message for an index that is no session's. False: it is not bound either. */
bool ws_relay_forward(struct ws_worker *worker, const struct ws_rx *rx, uint32_t index,
		      const uint8_t *data, size_t len);
/* The kernel refused a run of datagrams for this index, but takes them one by one. */
void ws_relay_refused_run(struct ws_worker *worker, uint32_t index, uint64_t until_ns);

#endif
