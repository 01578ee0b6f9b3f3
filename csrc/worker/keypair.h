/* SPDX-License-Identifier: MIT */
/* Transport keys of one session, and who owns which receiver index. */
#ifndef WS_KEYPAIR_H
#define WS_KEYPAIR_H

#include <stdbool.h>

#include "api/types.h"
#include "packet/aead.h"
#include "packet/replay.h"

struct ws_peer;

struct ws_keys {
	uint8_t send_key[WS_KEY_BYTES];
	uint8_t receive_key[WS_KEY_BYTES];
	uint64_t tx_counter; /* messages sent under this key */
	uint64_t rekey_at_ns;
	uint64_t reject_at_ns;
	uint64_t receive_rekey_at_ns; /* initiator: ask for a new key on receiving past this */
	uint64_t rekey_after_messages;
	uint64_t reject_after_messages;
	uint32_t local_index;
	uint32_t remote_index;
	bool initiator;
	bool held; /* packets wait for the next one */
	struct ws_peer *peer;
	struct ws_replay replay; /* path 0 */
	struct ws_replay *path_replay; /* paths 1..; NULL unless the peer has several */
};

struct ws_index_table {
	struct ws_keys **slots; /* open addressing, linear probing */
	uint32_t mask;
	uint32_t used;
};

int ws_index_init(struct ws_index_table *table);
void ws_index_free(struct ws_index_table *table);
int ws_index_insert(struct ws_index_table *table, struct ws_keys *keys); /* -EEXIST, -ENOMEM */
void ws_index_remove(struct ws_index_table *table, const struct ws_keys *keys);
struct ws_keys *ws_index_find(const struct ws_index_table *table, uint32_t index);
struct ws_keys *ws_keys_new(const struct ws_keypair *keypair);
struct ws_replay *ws_path_replay_new(void); /* for a keypair of a peer with several paths */
void ws_keys_free(struct ws_keys *keys); /* zeroes */

#endif
