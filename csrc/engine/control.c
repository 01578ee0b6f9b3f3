/* SPDX-License-Identifier: MIT */
/*
 * What the controlling thread changes: sockets, peers, keypairs. Each change
 * is a function that runs on the worker concerned, between two turns.
 */
#include "worker/internal.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* sockets */

struct socket_change {
	int number;
	struct ws_socket socket;
};

/* The peer of this number, if there is one and the worker owns it. */
static struct ws_peer *owned_peer(struct ws_worker *worker, int number)
{
	return ws_owner(worker->engine, number) == worker ? ws_worker_peer(worker, number) : NULL;
}

static int add_socket(struct ws_worker *worker, void *arg)
{
	struct socket_change *change = arg;
	int error;

	worker->sockets[change->number] = change->socket;
	worker->port = change->socket.local.port;
	if (!worker->io)
		return 0;
	error = worker->io->socket_added(worker, change->number);
	if (error) {
		worker->sockets[change->number].fd = -1;
		return error;
	}
	/* It may fit a path better than the one that stood in for it. */
	for (int i = 0; i < worker->engine->next_peer; i++) {
		struct ws_peer *peer = owned_peer(worker, i);

		if (peer)
			ws_paths_socket_opened(worker, peer);
	}
	return 0;
}

static int remove_socket(struct ws_worker *worker, void *arg)
{
	struct socket_change *change = arg;
	int fd = worker->sockets[change->number].fd;

	if (worker->io)
		worker->io->socket_removed(worker, change->number);
	worker->sockets[change->number].fd = -1;
	close(fd);
	for (int i = 0; i < worker->engine->next_peer; i++) {
		struct ws_peer *peer = owned_peer(worker, i);

		if (!peer)
			continue;
		if (peer->way.socket == change->number)
			peer->way.socket = -1;
		ws_paths_socket_closed(peer, change->number);
	}
	return 0;
}

/* steering (bpf/): never required, so what fails here is left to the hand-off */

int ws_engine_use_bpf(ws_engine *engine, ws_bpf *bpf)
{
	pthread_mutex_lock(&engine->control);
	engine->bpf = bpf;
	pthread_mutex_unlock(&engine->control);
	return 0;
}

static void steer_socket(ws_engine *engine, int number)
{
	int fds[WS_MAX_WORKERS];

	if (!engine->bpf || engine->workers == 1)
		return;
	for (uint32_t i = 0; i < engine->workers; i++)
		fds[i] = engine->worker[i]->sockets[number].fd;
	engine->steer_group[number] = ws_bpf_steer_attach(engine->bpf, fds, engine->workers);
}

static void unsteer_socket(ws_engine *engine, int number)
{
	if (engine->bpf && engine->steer_group[number] >= 0)
		(void)ws_bpf_steer_detach(engine->bpf, engine->steer_group[number]);
	engine->steer_group[number] = -1;
}

static bool same_prefix(const struct ws_prefix *a, const struct ws_prefix *b)
{
	return a->family == b->family && a->cidr == b->cidr &&
	       !memcmp(a->ip, b->ip, a->family == 4 ? 4 : 16);
}

static bool holds(const struct ws_peer *peer, const struct ws_prefix *prefix)
{
	for (size_t i = 0; i < peer->prefix_count; i++)
		if (same_prefix(&peer->prefixes[i], prefix))
			return true;
	return false;
}

/* The peer's packets go to the queue of its worker. */
static void steer_packets(ws_engine *engine, struct ws_peer *peer, const struct ws_prefix *prefixes,
			  size_t count)
{
	struct ws_prefix *old = peer->prefixes;
	size_t old_count = peer->prefix_count;

	if (!engine->bpf || engine->workers == 1)
		return;
	peer->prefix_count = 0;
	peer->prefixes = count ? calloc(count, sizeof(*prefixes)) : NULL;
	if (peer->prefixes) {
		memcpy(peer->prefixes, prefixes, count * sizeof(*prefixes));
		peer->prefix_count = count;
	}
	for (size_t i = 0; i < old_count; i++) {
		bool held = false;

		/* One that moved over to another peer is that one's now. */
		for (int p = 0; p < engine->next_peer && !held; p++)
			held = engine->peer_by_number[p] &&
			       holds(engine->peer_by_number[p], &old[i]);
		if (!held)
			(void)ws_bpf_tunsteer_remove(engine->bpf, &old[i]);
	}
	for (size_t i = 0; i < count; i++)
		(void)ws_bpf_tunsteer_set(engine->bpf, &prefixes[i],
					  (uint32_t)peer->number % engine->workers);
	free(old);
}

/* Each worker has a socket of its own under the same number, in one SO_REUSEPORT group. */
int ws_socket_open(ws_engine *engine, const struct ws_addr *local, uint32_t ifindex,
		   struct ws_addr *bound)
{
	struct socket_change change = {.number = 0};
	struct ws_addr wanted = *local;
	int error = 0;

	pthread_mutex_lock(&engine->control);
	while (change.number < WS_MAX_SOCKETS && engine->worker[0]->sockets[change.number].fd >= 0)
		change.number++;
	if (change.number == WS_MAX_SOCKETS) {
		pthread_mutex_unlock(&engine->control);
		return -ENFILE;
	}
	for (uint32_t i = 0; i < engine->workers && !error; i++) {
		error = ws_udp_open(engine, &wanted, ifindex, i > 0, &change.socket, bound);
		if (error)
			break;
		wanted = *bound; /* where port 0 was asked for */
		error = ws_worker_call(engine->worker[i], add_socket, &change);
		if (error)
			close(change.socket.fd);
	}
	if (!error) {
		steer_socket(engine, change.number);
		(void)ws_engine_follow_tun(engine);
	}
	for (uint32_t i = 0; i < engine->workers && error; i++)
		if (engine->worker[i]->sockets[change.number].fd >= 0)
			ws_worker_call(engine->worker[i], remove_socket, &change);
	pthread_mutex_unlock(&engine->control);
	return error ? error : change.number;
}

static int come_round(struct ws_worker *worker, void *arg)
{
	(void)worker;
	(void)arg;
	return 0;
}

void ws_engine_beat(ws_engine *engine)
{
	pthread_mutex_lock(&engine->control);
	for (uint32_t i = 0; i < engine->workers; i++)
		(void)ws_worker_call(engine->worker[i], come_round, NULL);
	pthread_mutex_unlock(&engine->control);
}

int ws_socket_close(ws_engine *engine, int socket)
{
	struct socket_change change = {.number = socket};
	int error = -EBADF;

	pthread_mutex_lock(&engine->control);
	if (socket >= 0 && socket < WS_MAX_SOCKETS && engine->worker[0]->sockets[socket].fd >= 0) {
		unsteer_socket(engine, socket);
		for (uint32_t i = 0; i < engine->workers; i++)
			error = ws_worker_call(engine->worker[i], remove_socket, &change);
	}
	pthread_mutex_unlock(&engine->control);
	return error;
}

int ws_set_fwmark(ws_engine *engine, uint32_t fwmark)
{
	int error = 0;

	pthread_mutex_lock(&engine->control);
	for (uint32_t w = 0; w < engine->workers; w++)
		for (int i = 0; i < WS_MAX_SOCKETS && !error; i++) {
			int fd = engine->worker[w]->sockets[i].fd;

			if (fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_MARK, &fwmark, sizeof(fwmark)))
				error = -errno;
		}
	if (!error)
		engine->config.fwmark = fwmark;
	pthread_mutex_unlock(&engine->control);
	return error;
}

static int set_mtu(struct ws_worker *worker, void *arg)
{
	worker->mtu = *(uint32_t *)arg;
	return 0;
}

int ws_set_mtu(ws_engine *engine, uint32_t mtu)
{
	if (mtu < 576 || mtu > 65535)
		return -EINVAL;
	pthread_mutex_lock(&engine->control);
	for (uint32_t i = 0; i < engine->workers; i++)
		ws_worker_call(engine->worker[i], set_mtu, &mtu);
	engine->config.mtu = mtu;
	pthread_mutex_unlock(&engine->control);
	return 0;
}

/* peers */

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
		steer_packets(engine, gone, NULL, 0);
		for (uint32_t i = 0; i < engine->workers; i++)
			ws_worker_call(engine->worker[i], unroute_peer, gone);
		ws_worker_call(ws_owner(engine, peer), remove_peer, gone);
		ws_paths_free(gone->paths);
		free(gone);
	}
	pthread_mutex_unlock(&engine->control);
	return gone ? 0 : -ENOENT;
}

int ws_owner_call(ws_engine *engine, int peer, int (*run)(struct ws_worker *, void *), void *arg)
{
	int error = -ENOENT;

	pthread_mutex_lock(&engine->control);
	if (ws_engine_peer(engine, peer))
		error = ws_worker_call(ws_owner(engine, peer), run, arg);
	pthread_mutex_unlock(&engine->control);
	return error;
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
			steer_packets(engine, engine->peer_by_number[peer], prefixes, count);
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
		ws_way_point(worker, &peer->way, change->remote, change->local, change->ifindex);
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

	if (!error && change->keys->initiator)
		ws_send_staged(worker, peer);
	return error;
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
	return error;
}

static int clear_keypairs(struct ws_worker *worker, void *arg)
{
	ws_peer_zero(worker, ws_worker_peer(worker, *(int *)arg));
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

/* messages */

/* What answers to the message will name (ws_gate_await); false: it has none. */
static bool answer_id(const uint8_t *data, size_t len, uint32_t *id)
{
	if (len < 8 || data[1] || data[2] || data[3])
		return false;
	memcpy(id, data + 4, sizeof(*id));
	*id = le32toh(*id);
	return data[0] == WS_MSG_INITIATION || data[0] == WS_MSG_RESPONSE ||
	       data[0] == WS_MSG_BOOTSTRAP_REQUEST;
}

static int set_secret(struct ws_worker *worker, void *arg)
{
	ws_cookie_set_secret(worker->cookie, arg);
	return 0;
}

void ws_set_cookie_secret(ws_engine *engine, const uint8_t secret[32])
{
	pthread_mutex_lock(&engine->control);
	for (uint32_t i = 0; i < engine->workers; i++)
		(void)ws_worker_call(engine->worker[i], set_secret, (void *)(uintptr_t)secret);
	pthread_mutex_unlock(&engine->control);
}

void ws_know(ws_engine *engine, const struct ws_addr *addr)
{
	ws_gate_know(engine->gate, addr);
}

void ws_forget(ws_engine *engine, const struct ws_addr *addr)
{
	ws_gate_forget(engine->gate, addr);
}

void ws_genuine(ws_engine *engine, uint32_t source_class)
{
	ws_gate_genuine(engine->gate, source_class);
}

/*
 * Straight from the controlling thread: the kernel takes sends from any
 * thread, and sockets come and go under the same lock.
 */
int ws_send(ws_engine *engine, const struct ws_addr *remote, const struct ws_addr *local,
	    uint32_t ifindex, const uint8_t *data, size_t len)
{
	struct ws_way way;
	struct ws_tx tx = {
		.len = (uint32_t)len,
		.stride = (uint32_t)len,
		.count = 1,
		.peer = -1,
		.path = WS_WAY_PEER,
	};
	uint32_t id;
	int error;

	if (!len || len > WS_TX_MAX_BYTES || !remote->family)
		return -EINVAL;
	tx.data = (uint8_t *)(uintptr_t)data; /* only read */
	tx.socket = -1;
	if (local->family == remote->family)
		tx.local = *local;
	ws_addr_to_sockaddr(remote, &tx.remote, &tx.remote_bytes);
	pthread_mutex_lock(&engine->control);
	if (tx.local.family && (ifindex || tx.local.scope_id)) {
		ws_way_point(engine->worker[0], &way, remote, local, ifindex);
		tx.socket = way.socket;
		tx.ifindex = way.ifindex;
	}
	if (answer_id(data, len, &id)) {
		ws_gate_await(engine->gate, id, ws_now_ns());
		if (engine->bpf)
			(void)ws_bpf_await(engine->bpf, id);
	}
	error = ws_udp_send(engine->worker[0], &tx, 0, tx.len);
	pthread_mutex_unlock(&engine->control);
	return -error;
}
