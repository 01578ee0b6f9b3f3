/* SPDX-License-Identifier: MIT */
/* What the controlling thread says of the relay (session/relay.c). */
#include "engine/kernel_relay.h"
#include "engine/thread.h"
#include "session/relay.h"

#include <errno.h>
#include <stdlib.h>

struct relay_change {
	struct ws_relay_table *table; /* for a worker that has none yet; taken: NULL afterwards */
	struct ws_relay_entry *entry; /* the new one; afterwards what is to be freed */
	const struct ws_addr *remote, *local;
	uint32_t index;
};

static struct ws_worker *owner_of(ws_engine *engine, uint32_t index)
{
	return engine->worker[index % engine->workers];
}

static int set_relay(struct ws_worker *worker, void *arg)
{
	struct relay_change *change = arg;
	struct ws_relay_entry *entry = change->entry, *before;
	int error;

	if (ws_index_find(&worker->indices, entry->index))
		return -EEXIST;
	if (!worker->relay) {
		worker->relay = change->table;
		change->table = NULL;
	}
	ws_way_point(worker->sockets, &entry->way, change->remote, change->local, 0);
	before = ws_relay_take(worker->relay, entry->index);
	if (before)
		entry->stats = before->stats;
	error = ws_relay_insert(worker->relay, entry);
	if (!error)
		change->entry = before;
	return error;
}

static bool usable(const struct ws_relay *relay)
{
	if (!relay->index || !relay->place_count || relay->place_count > WS_RELAY_PLACES)
		return false;
	if (relay->sender < 0 || relay->sender >= WS_MAX_PEERS)
		return false;
	for (uint32_t i = 0; i < relay->place_count; i++)
		if (relay->places[i].family != 4 && relay->places[i].family != 6)
			return false;
	return relay->remote.family == 4 || relay->remote.family == 6;
}

/* One for each peer there can be: pages that nobody touches cost nothing. */
static bool have_shares(ws_engine *engine)
{
	if (!engine->relay_shares)
		engine->relay_shares = calloc(WS_MAX_PEERS, sizeof(*engine->relay_shares));
	return engine->relay_shares != NULL;
}

int ws_relay_set(ws_engine *engine, const struct ws_relay *relay)
{
	struct relay_change change = {.remote = &relay->remote, .local = &relay->local};
	struct ws_relay_entry *entry;
	int error = -ENOMEM;

	if (!usable(relay))
		return -EINVAL;
	entry = calloc(1, sizeof(*entry));
	if (!entry)
		return -ENOMEM;
	entry->index = relay->index;
	entry->most_bytes = relay->most_bytes;
	entry->place_count = relay->place_count;
	for (uint32_t i = 0; i < relay->place_count; i++) {
		socklen_t bytes;

		ws_addr_to_sockaddr(&relay->places[i], &entry->places[i], &bytes);
	}
	change.entry = entry;
	pthread_mutex_lock(&engine->control);
	/* Only this thread gives a worker its table. */
	if (!owner_of(engine, relay->index)->relay)
		change.table = ws_relay_table_new();
	if (have_shares(engine) && (owner_of(engine, relay->index)->relay || change.table)) {
		/* Which of the two it is changes with the programs; entries keep theirs. */
		entry->share = ws_kernel_relay_share(engine, (uint32_t)relay->sender);
		if (!entry->share)
			entry->share = &engine->relay_shares[relay->sender];
		error = ws_worker_call(owner_of(engine, relay->index), set_relay, &change);
		if (!error)
			ws_kernel_relay_set(engine, relay);
	}
	pthread_mutex_unlock(&engine->control);
	free(change.entry);
	ws_relay_table_free(change.table);
	return error;
}

static int remove_relay(struct ws_worker *worker, void *arg)
{
	struct relay_change *change = arg;

	change->entry = worker->relay ? ws_relay_take(worker->relay, change->index) : NULL;
	return change->entry ? 0 : -ENOENT;
}

int ws_relay_remove(ws_engine *engine, uint32_t index, struct ws_relay_stats *last)
{
	struct relay_change change = {.index = index};
	int error;

	pthread_mutex_lock(&engine->control);
	error = ws_worker_call(owner_of(engine, index), remove_relay, &change);
	if (change.entry)
		ws_kernel_relay_remove(engine, index, &change.entry->stats);
	pthread_mutex_unlock(&engine->control);
	if (last && change.entry)
		*last = change.entry->stats;
	free(change.entry);
	return error;
}

struct relay_list {
	struct ws_relay_count *counts;
	size_t most, count;
};

static int list_relays(struct ws_worker *worker, void *arg)
{
	struct relay_list *list = arg;

	if (worker->relay)
		list->count += ws_relay_count(worker->relay, list->counts + list->count,
					      list->most - list->count);
	return 0;
}

int ws_relay_list(ws_engine *engine, struct ws_relay_count *counts, size_t most)
{
	struct relay_list list = {.counts = counts, .most = most};

	pthread_mutex_lock(&engine->control);
	for (uint32_t i = 0; i < engine->workers; i++)
		(void)ws_worker_call(engine->worker[i], list_relays, &list);
	for (size_t i = 0; i < list.count; i++)
		ws_kernel_relay_add(engine, &counts[i]);
	pthread_mutex_unlock(&engine->control);
	return (int)list.count;
}

int ws_relay_rate(ws_engine *engine, uint64_t bits_per_second)
{
	atomic_store_explicit(&engine->relay_bps, bits_per_second, memory_order_relaxed);
	return 0;
}
