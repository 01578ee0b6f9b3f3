/* SPDX-License-Identifier: MIT */
/*
 * What the controlling thread changes of peers. Each change is a function that runs on the worker
 * concerned, between two turns.
 */
#include "engine/kernel_relay.h"
#include "engine/steer.h"
#include "engine/thread.h"
#include "session/paths.h"
#include "session/send.h"

#include <errno.h>
#include <stdlib.h>

int ws_peer_add(ws_engine *engine)
{
	struct ws_peer *peer = calloc(1, sizeof(*peer));
	int number = 0;

	if (!peer)
		return -ENOMEM;
	pthread_mutex_lock(&engine->control);
	while (number < engine->next_peer && engine->peer_by_number[number])
		number++;
	if (number < WS_MAX_PEERS) {
		peer->number = number;
		peer->way.socket = -1;
		ws_stage_queue_init(&peer->staged);
		__atomic_store_n(&engine->peer_by_number[number], peer, __ATOMIC_RELEASE);
		if (number == engine->next_peer)
			engine->next_peer++;
	} else {
		free(peer);
		number = -ENOSPC;
	}
	pthread_mutex_unlock(&engine->control);
	return number;
}

static int unroute_peer(struct ws_worker *worker, void *arg)
{
	ws_allowedips_remove_peer(worker->allowedips, ((struct ws_peer *)arg)->number);
	return 0;
}

static int remove_peer(struct ws_worker *worker, void *arg)
{
	struct ws_peer *peer = arg;

	ws_paths_leave(worker, peer);
	ws_paths_forget(worker, peer);
	ws_peer_zero(worker, peer);
	ws_stage_clear(&worker->stage, &peer->staged);
	worker->engine->peer_by_number[peer->number] = NULL;
	return 0;
}

int ws_peer_remove(ws_engine *engine, int peer)
{
	struct ws_peer *gone;

	pthread_mutex_lock(&engine->control);
	gone = ws_engine_peer(engine, peer);
	if (gone) {
		ws_steer_packets(engine, gone, NULL, 0);
		for (uint32_t i = 0; i < engine->workers; i++)
			ws_worker_call(engine->worker[i], unroute_peer, gone);
		ws_worker_call(ws_owner(engine, peer), remove_peer, gone);
		ws_paths_free(gone->paths);
		free(gone);
	}
	pthread_mutex_unlock(&engine->control);
	return gone ? 0 : -ENOENT;
}

struct prefix_change {
	int peer;
	const struct ws_prefix *prefixes;
	size_t count;
};

static int set_allowed_ips(struct ws_worker *worker, void *arg)
{
	const struct prefix_change *change = arg;

	ws_allowedips_remove_peer(worker->allowedips, change->peer);
	for (size_t i = 0; i < change->count; i++) {
		const struct ws_prefix *prefix = &change->prefixes[i];
		int error = ws_allowedips_insert(worker->allowedips, prefix->family, prefix->ip,
						 prefix->cidr, change->peer);

		if (error)
			return error;
	}
	return 0;
}

int ws_peer_set_allowed_ips(ws_engine *engine, int peer, const struct ws_prefix *prefixes,
			    size_t count)
{
	struct prefix_change change = {.peer = peer, .prefixes = prefixes, .count = count};
	int error = -ENOENT;

	pthread_mutex_lock(&engine->control);
	if (ws_engine_peer(engine, peer)) {
		error = 0;
		/* Any worker may read a packet from the TUN device: each has the whole table. */
		for (uint32_t i = 0; i < engine->workers && !error; i++)
			error = ws_worker_call(engine->worker[i], set_allowed_ips, &change);
		if (!error)
			ws_steer_packets(engine, engine->peer_by_number[peer], prefixes, count);
	}
	pthread_mutex_unlock(&engine->control);
	return error;
}

struct endpoint_change {
	int peer;
	const struct ws_addr *remote, *local;
	uint32_t ifindex;
};

static int set_endpoint(struct ws_worker *worker, void *arg)
{
	const struct endpoint_change *change = arg;
	struct ws_peer *peer = ws_worker_peer(worker, change->peer);

	ws_peer_point(worker, peer, change->remote, change->local);
	if (change->ifindex)
		ws_way_point(worker->sockets, &peer->way, change->remote, change->local,
			     change->ifindex);
	return 0;
}

int ws_peer_set_endpoint(ws_engine *engine, int peer, const struct ws_addr *remote,
			 const struct ws_addr *local, uint32_t ifindex)
{
	struct endpoint_change change = {
		.peer = peer,
		.remote = remote,
		.local = local,
		.ifindex = ifindex,
	};

	return ws_owner_call(engine, peer, set_endpoint, &change);
}

struct keypair_change {
	int peer;
	struct ws_keys *keys;
};

static int install_keypair(struct ws_worker *worker, void *arg)
{
	const struct keypair_change *change = arg;
	struct ws_peer *peer = ws_worker_peer(worker, change->peer);
	int error = ws_peer_install(worker, peer, change->keys);

	if (error)
		return error;
	/* What waited for a key. */
	if (peer->paths)
		ws_paths_wake(worker, peer);
	if (change->keys->initiator)
		ws_send_staged(worker, peer);
	return 0;
}

int ws_peer_install_keypair(ws_engine *engine, int peer, const struct ws_keypair *keypair)
{
	struct keypair_change change = {.peer = peer, .keys = NULL};
	const struct ws_peer *to = ws_engine_peer(engine, peer);
	int error;

	if (peer < 0 || keypair->local_index % engine->workers != (uint32_t)peer % engine->workers)
		return -EINVAL; /* its datagrams would go to a worker that does not own the peer */
	change.keys = ws_keys_new(keypair);
	if (!change.keys)
		return -ENOMEM;
	/* Only this thread gives a peer its paths. */
	if (to && to->paths) {
		change.keys->path_replay = ws_path_replay_new();
		if (!change.keys->path_replay) {
			ws_keys_free(change.keys);
			return -ENOMEM;
		}
	}
	error = ws_owner_call(engine, peer, install_keypair, &change);
	if (error)
		ws_keys_free(change.keys);
	else
		ws_kernel_relay_yield(engine, keypair->local_index);
	return error;
}

static int clear_keypairs(struct ws_worker *worker, void *arg)
{
	struct ws_peer *peer = ws_worker_peer(worker, *(int *)arg);

	ws_paths_forget(worker, peer);
	ws_peer_zero(worker, peer);
	return 0;
}

int ws_peer_clear_keypairs(ws_engine *engine, int peer)
{
	return ws_owner_call(engine, peer, clear_keypairs, &peer);
}

static int drop_staged(struct ws_worker *worker, void *arg)
{
	struct ws_peer *peer = ws_worker_peer(worker, *(int *)arg);
	uint32_t dropped = ws_stage_clear(&worker->stage, &peer->staged);

	ws_drop(worker, WS_DROP_STAGE_FULL, dropped);
	ws_set(peer->stats.staged, 0);
	return (int)dropped;
}

int ws_peer_drop_staged(ws_engine *engine, int peer)
{
	return ws_owner_call(engine, peer, drop_staged, &peer);
}

static int send_keepalive(struct ws_worker *worker, void *arg)
{
	return ws_send_keepalive(worker, ws_worker_peer(worker, *(int *)arg));
}

int ws_peer_send_keepalive(ws_engine *engine, int peer)
{
	return ws_owner_call(engine, peer, send_keepalive, &peer);
}

struct control_message {
	int peer;
	const uint8_t *data;
	size_t len;
};

static int send_control(struct ws_worker *worker, void *arg)
{
	const struct control_message *message = arg;

	return ws_send_control(worker, ws_worker_peer(worker, message->peer), message->data,
			       message->len);
}

int ws_peer_send_control(ws_engine *engine, int peer, const uint8_t *data, size_t len)
{
	struct control_message message = {.peer = peer, .data = data, .len = len};

	if (!ws_is_control(data, len))
		return -EMSGSIZE;
	return ws_owner_call(engine, peer, send_control, &message);
}

struct frames_change {
	int peer;
	uint32_t mode;
	uint32_t max_packet;
};

static int set_frames(struct ws_worker *worker, void *arg)
{
	const struct frames_change *change = arg;
	struct ws_peer *peer = ws_worker_peer(worker, change->peer);

	peer->frames = change->mode != WS_FRAMES_OFF;
	peer->bundles = change->mode == WS_FRAMES_BUNDLES;
	peer->frame_max_bytes = change->max_packet;
	return 0;
}

int ws_peer_set_frames(ws_engine *engine, int peer, uint32_t mode, uint32_t max_packet)
{
	struct frames_change change = {.peer = peer, .mode = mode, .max_packet = max_packet};

	return ws_owner_call(engine, peer, set_frames, &change);
}

const struct ws_peer_stats *ws_peer_stats(const ws_engine *engine, int peer)
{
	const struct ws_peer *known = ws_engine_peer(engine, peer);

	return known ? &known->stats : NULL;
}
