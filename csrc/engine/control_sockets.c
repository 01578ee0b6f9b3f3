/* SPDX-License-Identifier: MIT */
/*
 * What the controlling thread changes of sockets, and the messages that it sends by them. A change
 * is a function that runs on each worker, between two turns.
 */
#include "engine/steer.h"
#include "engine/thread.h"
#include "session/paths.h"
#include "session/relay.h"

#include <endian.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

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
	ws_relay_sockets(worker);
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
	ws_relay_sockets(worker);
	return 0;
}

/* Each worker has a socket of its own under the same number, in one SO_REUSEPORT group. */
int ws_socket_open(ws_engine *engine, const struct ws_addr *local, uint32_t ifindex,
		   struct ws_addr *bound)
{
	struct socket_change change = {.number = 0};
	bool gro = !(engine->chosen.offloads_off & WS_NO_UDP_GRO);
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
		error = ws_udp_open(&wanted, ifindex, engine->config.fwmark, gro, i > 0,
				    &change.socket, bound);
		if (error)
			break;
		wanted = *bound; /* where port 0 was asked for */
		error = ws_worker_call(engine->worker[i], add_socket, &change);
		if (error)
			close(change.socket.fd);
	}
	if (!error) {
		ws_steer_socket(engine, change.number);
		(void)ws_engine_follow_tun(engine);
	}
	for (uint32_t i = 0; i < engine->workers && error; i++)
		if (engine->worker[i]->sockets[change.number].fd >= 0)
			ws_worker_call(engine->worker[i], remove_socket, &change);
	pthread_mutex_unlock(&engine->control);
	return error ? error : change.number;
}

int ws_socket_close(ws_engine *engine, int socket)
{
	struct socket_change change = {.number = socket};
	int error = -EBADF;

	pthread_mutex_lock(&engine->control);
	if (socket >= 0 && socket < WS_MAX_SOCKETS && engine->worker[0]->sockets[socket].fd >= 0) {
		ws_unsteer_socket(engine, socket);
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
		ws_way_point(engine->worker[0]->sockets, &way, remote, local, ifindex);
		tx.socket = way.socket;
		tx.ifindex = way.ifindex;
	}
	if (answer_id(data, len, &id)) {
		ws_gate_await(engine->gate, id, ws_now_ns());
		if (engine->bpf)
			(void)ws_bpf_await(engine->bpf, id);
	}
	error = ws_udp_send(engine->worker[0]->sockets, &tx, 0, tx.len);
	pthread_mutex_unlock(&engine->control);
	return -error;
}
