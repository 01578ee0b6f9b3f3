/* SPDX-License-Identifier: MIT */
#include "session/relay.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SLOTS (2U * WS_RELAY_MOST) /* a power of two: half of it stays free */
#define BURST_NS (WS_SECOND_NS / 20)
#define BURST_BYTES 65536

struct ws_relay_table {
	struct ws_relay_entry *last; /* of the last datagram: bulk comes in runs */
	uint32_t used;
	struct ws_relay_entry *slots[SLOTS]; /* open addressing, linear probing */
};

struct ws_relay_table *ws_relay_table_new(void)
{
	return calloc(1, sizeof(struct ws_relay_table));
}

void ws_relay_table_free(struct ws_relay_table *table)
{
	if (!table)
		return;
	for (uint32_t i = 0; i < SLOTS; i++)
		free(table->slots[i]);
	free(table);
}

/* Who binds chooses the index: mix. */
static uint32_t home(uint32_t index)
{
	return (uint32_t)((index * 0x9E3779B97F4A7C15ULL) >> 32) & (SLOTS - 1);
}

struct ws_relay_entry *ws_relay_find(const struct ws_relay_table *table, uint32_t index)
{
	for (uint32_t at = home(index); table->slots[at]; at = (at + 1) & (SLOTS - 1))
		if (table->slots[at]->index == index)
			return table->slots[at];
	return NULL;
}

static void place(struct ws_relay_table *table, struct ws_relay_entry *entry)
{
	uint32_t at = home(entry->index);

	while (table->slots[at])
		at = (at + 1) & (SLOTS - 1);
	table->slots[at] = entry;
}

int ws_relay_insert(struct ws_relay_table *table, struct ws_relay_entry *entry)
{
	if (table->used >= WS_RELAY_MOST)
		return -ENOSPC;
	place(table, entry);
	table->used++;
	return 0;
}

struct ws_relay_entry *ws_relay_take(struct ws_relay_table *table, uint32_t index)
{
	struct ws_relay_entry *found = ws_relay_find(table, index);
	uint32_t at = home(index);

	if (!found)
		return NULL;
	while (table->slots[at] != found)
		at = (at + 1) & (SLOTS - 1);
	table->slots[at] = NULL;
	table->used--;
	if (table->last == found)
		table->last = NULL;
	/* Close the gap: move back what probing would no longer reach. */
	for (at = (at + 1) & (SLOTS - 1); table->slots[at]; at = (at + 1) & (SLOTS - 1)) {
		struct ws_relay_entry *moved = table->slots[at];

		table->slots[at] = NULL;
		place(table, moved);
	}
	return found;
}

size_t ws_relay_count(const struct ws_relay_table *table, struct ws_relay_count *counts,
		      size_t most)
{
	size_t count = 0;

	for (uint32_t i = 0; i < SLOTS && count < most; i++)
		if (table->slots[i])
			counts[count++] = (struct ws_relay_count){table->slots[i]->index,
								  table->slots[i]->stats};
	return count;
}

void ws_relay_sockets(struct ws_worker *worker)
{
	if (!worker->relay)
		return;
	for (uint32_t i = 0; i < SLOTS; i++) {
		struct ws_relay_entry *entry = worker->relay->slots[i];

		if (!entry)
			continue;
		entry->way.socket = -1;
		ws_way_choose(worker->sockets, &entry->way);
	}
}

static bool same_place(const union ws_sockaddr *a, const union ws_sockaddr *b)
{
	if (a->sa.sa_family != b->sa.sa_family)
		return false;
	if (a->sa.sa_family == AF_INET)
		return a->in.sin_port == b->in.sin_port &&
		       a->in.sin_addr.s_addr == b->in.sin_addr.s_addr;
	if (a->in6.sin6_port != b->in6.sin6_port ||
	    memcmp(&a->in6.sin6_addr, &b->in6.sin6_addr, sizeof(a->in6.sin6_addr)))
		return false;
	return !IN6_IS_ADDR_LINKLOCAL(&a->in6.sin6_addr) ||
	       a->in6.sin6_scope_id == b->in6.sin6_scope_id;
}

/* From one of the sender's places. All datagrams of one receive come from one address. */
static bool from_sender(const struct ws_worker *worker, struct ws_relay_entry *entry,
			const struct ws_rx *rx)
{
	if (entry->passed_serial == worker->rx_serial)
		return true;
	for (uint32_t i = 0; i < entry->place_count; i++)
		if (same_place(&entry->places[i], rx->from)) {
			entry->passed_serial = worker->rx_serial;
			return true;
		}
	return false;
}

/* Within the sender's share of the rate, which it uses up. Several workers may ask at once. */
static bool within_rate(const struct ws_worker *worker, struct ws_relay_entry *entry, size_t len)
{
	uint64_t rate = atomic_load_explicit(&worker->engine->relay_bps, memory_order_relaxed);
	uint64_t now = worker->now_ns, burst, cost, before, after;

	if (!rate)
		return true;
	cost = len * 8 * WS_SECOND_NS / rate;
	burst = BURST_BYTES * 8 * WS_SECOND_NS / rate;
	if (burst < BURST_NS)
		burst = BURST_NS;
	before = atomic_load_explicit(&entry->share->full_at_ns, memory_order_relaxed);
	do {
		after = (before > now ? before : now) + cost;
		if (after - now > burst)
			return false;
	} while (!atomic_compare_exchange_weak_explicit(&entry->share->full_at_ns, &before, after,
							memory_order_relaxed,
							memory_order_relaxed));
	return true;
}

/* Room for one more datagram behind those of the same run, or in a buffer of its own. */
static uint8_t *reserve(struct ws_worker *worker, const struct ws_relay_entry *entry, uint32_t len,
			uint8_t tos)
{
	struct ws_tx *tx = worker->open_tx;
	uint8_t *at;

	if (tx && (tx->peer != WS_TX_RELAY || tx->path != entry->index || tx->closed ||
		   tx->ecn != tos || len > tx->stride || tx->count >= WS_TX_MAX_SEGMENTS ||
		   tx->len + len > WS_TX_MAX_BYTES)) {
		worker->open_tx = NULL;
		worker->io->tx_submit(worker, tx);
		tx = NULL;
	}
	if (!tx) {
		tx = worker->io->tx_get(worker);
		tx->len = 0;
		tx->count = 0;
		tx->stride = len;
		tx->ecn = tos;
		tx->no_gso = worker->no_udp_gso || worker->now_ns < entry->way.no_gso_until_ns;
		ws_way_direct(&entry->way, tx, WS_TX_RELAY, entry->index);
		worker->open_tx = tx;
	}
	at = tx->data + tx->len;
	tx->len += len;
	tx->count++;
	tx->closed = len < tx->stride;
	return at;
}

bool ws_relay_forward(struct ws_worker *worker, const struct ws_rx *rx, uint32_t index,
		      const uint8_t *data, size_t len)
{
	struct ws_relay_table *table = worker->relay;
	struct ws_relay_entry *entry = table->last;

	if (!entry || entry->index != index) {
		entry = ws_relay_find(table, index);
		if (!entry)
			return false;
		table->last = entry;
	}
	if (!from_sender(worker, entry, rx)) {
		ws_add(entry->stats.elsewhere, 1);
		ws_drop(worker, WS_DROP_RELAY_SOURCE, 1);
		return true;
	}
	if (len > WS_TX_MAX_BYTES || (entry->most_bytes && len > entry->most_bytes)) {
		ws_add(entry->stats.over, 1);
		ws_drop(worker, WS_DROP_LENGTH, 1);
		return true;
	}
	if (!within_rate(worker, entry, len)) {
		ws_add(entry->stats.over, 1);
		ws_drop(worker, WS_DROP_RELAY_RATE, 1);
		return true;
	}
	memcpy(reserve(worker, entry, (uint32_t)len, rx->tos), data, len);
	ws_add(entry->stats.datagrams, 1);
	ws_add(entry->stats.bytes, len);
	ws_add(worker->stats.relayed, 1);
	ws_add(worker->stats.relayed_bytes, len);
	return true;
}

void ws_relay_refused_run(struct ws_worker *worker, uint32_t index, uint64_t until_ns)
{
	struct ws_relay_entry *entry = worker->relay ? ws_relay_find(worker->relay, index) : NULL;

	if (entry)
		entry->way.no_gso_until_ns = until_ns;
}
