/* SPDX-License-Identifier: MIT */
/*
 * One peer: its endpoint, its previous, current and next keypair, and the
 * timestamps that Python's timers are computed from.
 */
#include "session/peer.h"

#include "packet/counters.h"
#include "worker/upcall.h"

#include <errno.h>
#include <string.h>

/* Python answers a "need a handshake" once; said again only if nothing came of it. */
#define ASK_INTERVAL_NS (WS_SECOND_NS)

enum { ADDR_WORDS = sizeof(struct ws_addr) / sizeof(uint32_t) };
_Static_assert(sizeof(struct ws_addr) % sizeof(uint32_t) == 0, "copied by words");

static void put_words(struct ws_addr *to, const struct ws_addr *from)
{
	uint32_t words[ADDR_WORDS];

	memcpy(words, from, sizeof(words));
	for (int i = 0; i < ADDR_WORDS; i++)
		ws_set(((uint32_t *)(void *)to)[i], words[i]);
}

static void get_words(struct ws_addr *to, const struct ws_addr *from)
{
	uint32_t words[ADDR_WORDS];

	for (int i = 0; i < ADDR_WORDS; i++)
		words[i] = ws_get(((const uint32_t *)(const void *)from)[i]);
	memcpy(to, words, sizeof(words));
}

/* A reader that sees the serial odd, or another afterwards, reads again. */
static void publish_endpoint(struct ws_peer_stats *stats, const struct ws_addr *remote,
			     const struct ws_addr *local)
{
	uint32_t serial = ws_get(stats->endpoint_serial);

	ws_set(stats->endpoint_serial, serial + 1);
	atomic_thread_fence(memory_order_release);
	put_words(&stats->endpoint, remote);
	put_words(&stats->local, local);
	__atomic_store_n(&stats->endpoint_serial, serial + 2, __ATOMIC_RELEASE);
}

void ws_peer_endpoint(const struct ws_peer_stats *stats, struct ws_addr *remote,
		      struct ws_addr *local)
{
	uint32_t before, after;

	do {
		before = __atomic_load_n(&stats->endpoint_serial, __ATOMIC_ACQUIRE);
		get_words(remote, &stats->endpoint);
		get_words(local, &stats->local);
		atomic_thread_fence(memory_order_acquire);
		after = ws_get(stats->endpoint_serial);
	} while (before != after || before & 1);
}

/* remote.family 0 forgets the endpoint. */
void ws_peer_point(struct ws_worker *worker, struct ws_peer *peer, const struct ws_addr *remote,
		   const struct ws_addr *local)
{
	publish_endpoint(&peer->stats, remote, local);
	ws_way_point(worker->sockets, &peer->way, remote, local, 0);
}

static void update_indices(struct ws_peer *peer)
{
	ws_set(peer->stats.current_index, peer->current ? peer->current->local_index : 0);
	ws_set(peer->stats.next_index, peer->next ? peer->next->local_index : 0);
	ws_set(peer->stats.previous_index, peer->previous ? peer->previous->local_index : 0);
}

static void discard(struct ws_worker *worker, struct ws_keys **slot)
{
	if (!*slot)
		return;
	ws_index_remove(&worker->indices, *slot);
	if (worker->last_keys == *slot)
		worker->last_keys = NULL;
	ws_keys_free(*slot);
	ws_aead_forget(worker->aead);
	*slot = NULL;
}

int ws_peer_install(struct ws_worker *worker, struct ws_peer *peer, struct ws_keys *keys)
{
	int error;

	keys->peer = peer;
	error = ws_index_insert(&worker->indices, keys);
	if (error)
		return error;
	if (keys->initiator) {
		/* The responder confirmed it already: it is current at once. */
		discard(worker, &peer->previous);
		if (peer->next) {
			peer->previous = peer->next;
			peer->next = NULL;
			discard(worker, &peer->current);
		} else {
			peer->previous = peer->current;
		}
		peer->current = keys;
	} else {
		/* Not ours to use before the initiator did. */
		discard(worker, &peer->next);
		discard(worker, &peer->previous);
		peer->next = keys;
	}
	peer->asked_ns = 0;
	/* A handshake is something received and something sent: what waited before is answered. */
	ws_set(peer->stats.unanswered_since_ns, 0);
	ws_set(peer->stats.unsent_since_ns, 0);
	update_indices(peer);
	return 0;
}

void ws_peer_confirm(struct ws_worker *worker, struct ws_peer *peer)
{
	struct ws_upcall *upcall;

	discard(worker, &peer->previous);
	peer->previous = peer->current;
	peer->current = peer->next;
	peer->next = NULL;
	peer->asked_ns = 0;
	update_indices(peer);
	upcall = ws_upcall_begin(worker, WS_UP_CONFIRMED, peer->number);
	if (!upcall)
		return;
	upcall->index = peer->current->local_index;
	ws_upcall_commit(&worker->upcalls);
}

void ws_peer_forget_previous(struct ws_worker *worker, struct ws_peer *peer)
{
	discard(worker, &peer->previous);
	update_indices(peer);
}

void ws_peer_zero(struct ws_worker *worker, struct ws_peer *peer)
{
	discard(worker, &peer->current);
	discard(worker, &peer->previous);
	discard(worker, &peer->next);
	update_indices(peer);
}

void ws_peer_ask_handshake(struct ws_worker *worker, struct ws_peer *peer, uint32_t reason)
{
	struct ws_upcall *upcall;

	if (peer->asked_ns && worker->now_ns - peer->asked_ns < ASK_INTERVAL_NS)
		return;
	upcall = ws_upcall_begin(worker, WS_UP_NEED_HANDSHAKE, peer->number);
	if (!upcall)
		return; /* asked again by the next packet */
	peer->asked_ns = worker->now_ns;
	upcall->reason = reason;
	ws_upcall_commit(&worker->upcalls);
}

void ws_peer_want_data_keys(struct ws_worker *worker, struct ws_peer *peer)
{
	const struct ws_keys *keys = ws_peer_keys(worker, peer);

	if (!keys)
		ws_peer_ask_handshake(worker, peer, WS_ASK_NO_KEY);
	else if (keys->initiator && worker->now_ns >= keys->rekey_at_ns)
		ws_peer_ask_handshake(worker, peer, WS_ASK_REKEY);
}

void ws_peer_sent(struct ws_worker *worker, struct ws_peer *peer, bool data)
{
	ws_set(peer->stats.last_sent_ns, worker->now_ns);
	ws_set(peer->stats.unsent_since_ns, 0);
	if (data && !peer->stats.unanswered_since_ns)
		ws_set(peer->stats.unanswered_since_ns, worker->now_ns);
}

void ws_peer_received(struct ws_worker *worker, struct ws_peer *peer, bool data)
{
	ws_set(peer->stats.last_received_ns, worker->now_ns);
	ws_set(peer->stats.unanswered_since_ns, 0);
	if (data && !peer->stats.unsent_since_ns)
		ws_set(peer->stats.unsent_since_ns, worker->now_ns);
}
