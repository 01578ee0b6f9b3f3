/* SPDX-License-Identifier: MIT */
/*
 * What the controlling thread changes of a peer that has several paths, as in control.c: most of
 * it by a function that runs on the worker that owns the peer.
 */
#include "engine/thread.h"
#include "session/paths.h"
#include "session/send.h"

#include <errno.h>
#include <stdlib.h>

#define KEYPAIRS 3 /* previous, current, next */

struct multipath_change {
	int peer;
	struct ws_paths *paths; /* taken, or NULL: those that are there begin anew */
	struct ws_replay *replays[KEYPAIRS]; /* taken where a keypair has none */
};

static int set_multipath(struct ws_worker *worker, void *arg)
{
	struct multipath_change *change = arg;
	struct ws_peer *peer = ws_worker_peer(worker, change->peer);
	struct ws_keys *keys[KEYPAIRS] = {peer->previous, peer->current, peer->next};
	uint64_t number = 0;

	if (!change->paths) {
		/* What its old process sent must not come in with the new one's numbers. */
		ws_peer_forget_previous(worker, peer);
		ws_multipath_reset(ws_paths_core(peer->paths), worker->now_ns);
		return 0;
	}
	for (int i = 0; i < KEYPAIRS; i++) {
		if (!keys[i])
			continue;
		if (keys[i]->tx_counter > number)
			number = keys[i]->tx_counter;
		if (!keys[i]->path_replay) {
			keys[i]->path_replay = change->replays[i];
			change->replays[i] = NULL;
		}
	}
	ws_multipath_start(ws_paths_core(change->paths), number, peer->stats.tx_bytes,
			   peer->data_seq, peer->heard);
	peer->paths = change->paths;
	ws_paths_set(worker, peer, NULL, 0, 0);
	return 0;
}

int ws_peer_multipath(ws_engine *engine, int peer, uint32_t packet_bytes, int reset)
{
	struct multipath_change change = {.peer = peer};
	struct ws_peer *to;
	bool made = false;
	int error = -ENOENT;

	if (packet_bytes < 576 || packet_bytes > 65535)
		return -EINVAL;
	pthread_mutex_lock(&engine->control);
	to = ws_engine_peer(engine, peer);
	if (to) {
		error = 0;
		if (!to->paths) {
			made = true;
			change.paths = ws_paths_new(to, packet_bytes);
			error = change.paths ? 0 : -ENOMEM;
			for (int i = 0; i < KEYPAIRS && !error; i++) {
				change.replays[i] = ws_path_replay_new();
				if (!change.replays[i])
					error = -ENOMEM;
			}
		}
		if (!error && (made || reset))
			error = ws_worker_call(ws_owner(engine, peer), set_multipath, &change);
		if (error)
			ws_paths_free(change.paths);
		for (int i = 0; i < KEYPAIRS; i++)
			free(change.replays[i]);
	}
	pthread_mutex_unlock(&engine->control);
	return error;
}

struct paths_change {
	int peer;
	const struct ws_path *paths;
	size_t count;
	uint32_t flags;
};

static int set_paths(struct ws_worker *worker, void *arg)
{
	const struct paths_change *change = arg;
	struct ws_peer *peer = ws_worker_peer(worker, change->peer);

	if (!peer->paths)
		return -EINVAL;
	ws_paths_set(worker, peer, change->paths, change->count, change->flags);
	return 0;
}

int ws_peer_set_paths(ws_engine *engine, int peer, const struct ws_path *paths, size_t count,
		      uint32_t flags)
{
	struct paths_change change = {peer, paths, count, flags};
	uint32_t seen = 0;

	for (size_t i = 0; i < count; i++) {
		if (paths[i].id >= WS_PATH_COUNT || seen >> paths[i].id & 1 ||
		    !paths[i].remote.family ||
		    (paths[i].local.family && paths[i].local.family != paths[i].remote.family))
			return -EINVAL;
		seen |= 1u << paths[i].id;
	}
	return ws_owner_call(engine, peer, set_paths, &change);
}

static struct ws_multipath *core_of(const ws_engine *engine, int peer)
{
	const struct ws_peer *known = ws_engine_peer(engine, peer);

	return known && known->paths ? ws_paths_core(known->paths) : NULL;
}

int ws_peer_tune_path(ws_engine *engine, int peer, uint32_t path,
		      const struct ws_path_params *params)
{
	struct ws_multipath *core = core_of(engine, peer);

	if (!core || path >= WS_PATH_COUNT)
		return -EINVAL;
	ws_multipath_tune_path(core, path, params);
	return 0;
}

int ws_peer_tune(ws_engine *engine, int peer, const struct ws_multipath_params *params)
{
	struct ws_multipath *core = core_of(engine, peer);

	if (!core)
		return -EINVAL;
	ws_multipath_tune(core, params);
	return 0;
}

struct path_message {
	int peer;
	uint32_t path;
	const uint8_t *data;
	size_t len;
	uint32_t datagram_bytes;
};

static int send_path_control(struct ws_worker *worker, void *arg)
{
	const struct path_message *message = arg;

	return ws_send_path_control(worker, ws_worker_peer(worker, message->peer), message->path,
				    message->data, message->len, message->datagram_bytes);
}

int ws_peer_send_path_control(ws_engine *engine, int peer, uint32_t path, const uint8_t *data,
			      size_t len, uint32_t datagram_bytes)
{
	struct path_message message = {peer, path, data, len, datagram_bytes};

	if (!ws_is_control(data, len))
		return -EMSGSIZE;
	if (path >= WS_PATH_COUNT || !core_of(engine, peer))
		return -EINVAL;
	return ws_owner_call(engine, peer, send_path_control, &message);
}

static int rescue_path(struct ws_worker *worker, void *arg)
{
	const struct path_message *message = arg;
	struct ws_peer *peer = ws_worker_peer(worker, message->peer);

	ws_paths_wake(worker, peer);
	return (int)ws_multipath_rescue(ws_paths_core(peer->paths), message->path, worker->now_ns);
}

int ws_peer_rescue_path(ws_engine *engine, int peer, uint32_t path)
{
	struct path_message message = {.peer = peer, .path = path};

	if (path >= WS_PATH_COUNT || !core_of(engine, peer))
		return -EINVAL;
	return ws_owner_call(engine, peer, rescue_path, &message);
}

const struct ws_multipath_stats *ws_peer_multipath_stats(const ws_engine *engine, int peer)
{
	const struct ws_multipath *core = core_of(engine, peer);

	return core ? ws_multipath_stats(core) : NULL;
}
