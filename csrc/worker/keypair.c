/* SPDX-License-Identifier: MIT */
#include "worker/keypair.h"

#include "shared/wire.h"
#include "worker/clock.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

#define INDEX_START 64

/* Indices are random numbers from the handshake, but the sender could choose ours: mix. */
static uint32_t home(const struct ws_index_table *table, uint32_t index)
{
	return (uint32_t)((index * 0x9E3779B97F4A7C15ULL) >> 32) & table->mask;
}

int ws_index_init(struct ws_index_table *table)
{
	table->slots = calloc(INDEX_START, sizeof(*table->slots));
	table->mask = INDEX_START - 1;
	table->used = 0;
	return table->slots ? 0 : -ENOMEM;
}

void ws_index_free(struct ws_index_table *table)
{
	free(table->slots);
	table->slots = NULL;
}

static void place(struct ws_index_table *table, struct ws_keys *keys)
{
	uint32_t at = home(table, keys->local_index);

	while (table->slots[at])
		at = (at + 1) & table->mask;
	table->slots[at] = keys;
}

static int grow(struct ws_index_table *table)
{
	struct ws_index_table bigger = {.mask = table->mask * 2 + 1, .used = table->used};

	bigger.slots = calloc((size_t)bigger.mask + 1, sizeof(*bigger.slots));
	if (!bigger.slots)
		return -ENOMEM;
	for (uint32_t i = 0; i <= table->mask; i++)
		if (table->slots[i])
			place(&bigger, table->slots[i]);
	free(table->slots);
	*table = bigger;
	return 0;
}

int ws_index_insert(struct ws_index_table *table, struct ws_keys *keys)
{
	if (ws_index_find(table, keys->local_index))
		return -EEXIST;
	if (table->used * 2 > table->mask) {
		int error = grow(table);

		if (error)
			return error;
	}
	place(table, keys);
	table->used++;
	return 0;
}

struct ws_keys *ws_index_find(const struct ws_index_table *table, uint32_t index)
{
	uint32_t at = home(table, index);

	while (table->slots[at]) {
		if (table->slots[at]->local_index == index)
			return table->slots[at];
		at = (at + 1) & table->mask;
	}
	return NULL;
}

void ws_index_remove(struct ws_index_table *table, const struct ws_keys *keys)
{
	uint32_t at = home(table, keys->local_index);
	uint32_t next;

	while (table->slots[at] != keys) {
		if (!table->slots[at])
			return;
		at = (at + 1) & table->mask;
	}
	table->slots[at] = NULL;
	table->used--;
	/* Close the gap: move back what probing would no longer reach. */
	for (next = (at + 1) & table->mask; table->slots[next]; next = (next + 1) & table->mask) {
		struct ws_keys *moved = table->slots[next];

		table->slots[next] = NULL;
		place(table, moved);
	}
}

struct ws_keys *ws_keys_new(const struct ws_keypair *keypair)
{
	/* KEEPALIVE_TIMEOUT + REKEY_TIMEOUT, whitepaper section 6.2. */
	const uint64_t slack_ns = 15 * WS_SECOND_NS;
	struct ws_keys *keys = calloc(1, sizeof(*keys));

	if (!keys)
		return NULL;
	memcpy(keys->send_key, keypair->send_key, WS_KEY_BYTES);
	memcpy(keys->receive_key, keypair->receive_key, WS_KEY_BYTES);
	keys->local_index = keypair->local_index;
	keys->remote_index = keypair->remote_index;
	keys->rekey_at_ns = keypair->created_ns + keypair->rekey_after_ns;
	keys->reject_at_ns = keypair->created_ns + keypair->reject_after_ns;
	keys->receive_rekey_at_ns = keypair->reject_after_ns > slack_ns
					    ? keys->reject_at_ns - slack_ns
					    : keys->rekey_at_ns;
	keys->rekey_after_messages = keypair->rekey_after_messages;
	keys->reject_after_messages = keypair->reject_after_messages;
	keys->initiator = keypair->initiator != 0;
	keys->held = keypair->held != 0;
	ws_replay_reset(&keys->replay);
	return keys;
}

struct ws_replay *ws_path_replay_new(void)
{
	return calloc(WS_PATH_COUNT - 1, sizeof(struct ws_replay));
}

void ws_keys_free(struct ws_keys *keys)
{
	if (!keys)
		return;
	free(keys->path_replay);
	OPENSSL_cleanse(keys, sizeof(*keys));
	free(keys);
}
