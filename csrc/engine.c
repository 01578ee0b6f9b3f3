/* SPDX-License-Identifier: MIT */
/*
 * The engine: workers, their life, and the door through which the controlling
 * thread reaches them.
 */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

struct ws_command {
	int (*run)(struct ws_worker *worker, void *arg);
	void *arg;
	int result;
	sem_t done;
};

uint64_t ws_now_ns(void)
{
	struct timespec now;

	/* BOOTTIME goes on in suspend: keys must age there too. */
	clock_gettime(CLOCK_BOOTTIME, &now);
	return (uint64_t)now.tv_sec * WS_SECOND_NS + (uint64_t)now.tv_nsec;
}

/* the worker's thread */

static void run_command(struct ws_worker *worker)
{
	struct ws_command *command = atomic_exchange(&worker->command, NULL);

	if (!command)
		return;
	worker->now_ns = ws_now_ns();
	command->result = command->run(worker, command->arg);
	ws_send_flush(worker);
	sem_post(&command->done);
}

static void report_fatal(struct ws_worker *worker, int error)
{
	struct ws_upcall *upcall = ws_upcall_reserve(&worker->upcalls);

	if (!upcall)
		return;
	memset(upcall, 0, offsetof(struct ws_upcall, data));
	upcall->type = WS_UP_FATAL;
	upcall->peer = -1;
	upcall->reason = (uint32_t)-error;
	upcall->now_ns = worker->now_ns;
	ws_upcall_commit(&worker->upcalls);
}

static void *work(void *arg)
{
	struct ws_worker *worker = arg;
	int error = 0;

	while (!atomic_load_explicit(&worker->stop, memory_order_relaxed)) {
		if (error) {
			/* Nothing moves any more, but Python must still get through. */
			uint64_t count;
			ssize_t n = read(worker->wake_fd, &count, sizeof(count));

			if (n < 0)
				usleep(10000);
		} else {
			error = worker->io->turn(worker);
			ws_add(worker->stats.turns, 1);
			if (error)
				report_fatal(worker, error);
		}
		if (atomic_load_explicit(&worker->command, memory_order_relaxed))
			run_command(worker);
		if (worker->engine->workers > 1 && !error)
			ws_handoff_drain(worker);
	}
	if (worker->io->stop)
		worker->io->stop(worker);
	return NULL;
}

/* the controlling thread */

static void wake(struct ws_worker *worker)
{
	uint64_t one = 1;

	(void)!write(worker->wake_fd, &one, sizeof(one));
}

/* Runs on the worker between two turns; before the start and after the end, here. */
static int call(struct ws_worker *worker, int (*run)(struct ws_worker *, void *), void *arg)
{
	struct ws_command command = {.run = run, .arg = arg};

	if (!worker->running) {
		worker->now_ns = ws_now_ns();
		return run(worker, arg);
	}
	if (sem_init(&command.done, 0, 0))
		return -errno;
	atomic_store(&worker->command, &command);
	wake(worker);
	while (sem_wait(&command.done) && errno == EINTR)
		;
	sem_destroy(&command.done);
	return command.result;
}

/* The one worker that owns the peer. */
static struct ws_worker *owner(ws_engine *engine, int peer)
{
	return engine->worker[(uint32_t)peer % engine->workers];
}

static bool known(const ws_engine *engine, int peer)
{
	return peer >= 0 && peer < WS_MAX_PEERS && engine->peer_by_number[peer];
}

static void worker_free(struct ws_worker *worker)
{
	if (!worker)
		return;
	if (worker->io)
		worker->io->destroy(worker);
	for (int i = 0; i < WS_MAX_SOCKETS; i++)
		if (worker->sockets[i].fd >= 0)
			close(worker->sockets[i].fd);
	if (worker->tun_fd >= 0)
		close(worker->tun_fd);
	if (worker->wake_fd >= 0)
		close(worker->wake_fd);
	ws_aead_free(worker->aead);
	ws_mac1_free(worker->mac1);
	ws_coalesce_free(worker->coalesce);
	ws_allowedips_free(worker->allowedips);
	ws_index_free(&worker->indices);
	ws_stage_free(&worker->stage);
	ws_upcall_ring_free(&worker->upcalls);
	for (int i = 0; i < WS_MAX_WORKERS; i++)
		ws_handoff_free(&worker->inbox[i]);
	free(worker->scratch);
	free(worker);
}

static struct ws_worker *worker_new(ws_engine *engine, uint32_t number)
{
	struct ws_worker *worker = aligned_alloc(64, (sizeof(*worker) + 63) & ~(size_t)63);
	uint32_t off = engine->chosen.offloads_off;
	bool gro = !(off & WS_NO_TUN_GRO);

	if (!worker)
		return NULL;
	memset(worker, 0, sizeof(*worker));
	worker->engine = engine;
	worker->number = number;
	worker->mtu = engine->config.mtu;
	worker->no_udp_gso = off & WS_NO_UDP_GSO;
	worker->tun_fd = -1;
	for (int i = 0; i < WS_MAX_SOCKETS; i++)
		worker->sockets[i].fd = -1;
	worker->wake_fd = eventfd(0, EFD_CLOEXEC);
	worker->aead = ws_aead_new(engine->chosen.cipher);
	worker->mac1 = ws_mac1_new(engine->config.public_key);
	worker->coalesce =
		ws_coalesce_new(gro, gro && !(off & WS_NO_TUN_USO), ws_receive_emit, worker);
	worker->allowedips = ws_allowedips_new();
	worker->scratch = malloc(WS_BUFFER_BYTES);
	if (worker->wake_fd < 0 || !worker->aead || !worker->mac1 || !worker->coalesce ||
	    !worker->allowedips || !worker->scratch || ws_index_init(&worker->indices) ||
	    ws_stage_init(&worker->stage) ||
	    ws_upcall_ring_init(&worker->upcalls, engine->upcall_fd)) {
		worker_free(worker);
		return NULL;
	}
	for (uint32_t i = 0; i < engine->workers; i++)
		if (i != number && ws_handoff_init(&worker->inbox[i])) {
			worker_free(worker);
			return NULL;
		}
	return worker;
}

int ws_cipher_selftest(uint32_t cipher)
{
	struct ws_aead *aead = ws_aead_new(cipher);
	int result;

	if (!aead)
		return -ENOTSUP;
	result = ws_aead_selftest(aead);
	ws_aead_free(aead);
	return result;
}

static uint32_t choose_cipher(uint32_t wanted)
{
	static const uint32_t order[] = {WS_CIPHER_IPSEC_MB, WS_CIPHER_OPENSSL};

	for (size_t i = 0; i < sizeof(order) / sizeof(order[0]); i++)
		if ((wanted == WS_CIPHER_AUTO || wanted == order[i]) &&
		    ws_cipher_selftest(order[i]) == 0)
			return order[i];
	return WS_CIPHER_AUTO;
}

ws_engine *ws_engine_new(const struct ws_config *config, char *error, size_t error_bytes)
{
	ws_engine *engine = NULL;
	const char *why = "out of memory";

	if (!config->workers || config->workers > WS_MAX_WORKERS) {
		why = "the number of workers must be 1 to 16";
		goto fail;
	}
	if (config->mtu < 576 || config->mtu > 65535) {
		why = "the MTU must be 576 to 65535 bytes";
		goto fail;
	}
	engine = calloc(1, sizeof(*engine));
	if (!engine)
		goto fail;
	engine->config = *config;
	engine->upcall_fd = -1;
	engine->workers = config->workers;
	engine->chosen.workers = config->workers;
	engine->chosen.offloads_off = config->offloads_off;
	engine->chosen.offloads_off |= ws_offload_selftest();
	engine->chosen.cipher = choose_cipher(config->cipher);
	pthread_mutex_init(&engine->control, NULL);
	engine->upcall_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (engine->upcall_fd < 0) {
		why = "no eventfd: too many open files";
		goto fail;
	}
	if (engine->chosen.cipher == WS_CIPHER_AUTO) {
		why = "no ChaCha20-Poly1305 implementation passes its self-test (ws doctor)";
		goto fail;
	}
	for (uint32_t i = 0; i < engine->workers; i++) {
		engine->worker[i] = worker_new(engine, i);
		if (!engine->worker[i])
			goto fail;
	}
	return engine;
fail:
	if (error && error_bytes)
		snprintf(error, error_bytes, "%s", why);
	ws_engine_free(engine);
	return NULL;
}

static int start_io(ws_engine *engine, struct ws_worker *worker)
{
	static const struct ws_io_ops *const order[] = {&ws_uring_ops, &ws_mmsg_ops};
	int error = -ENOTSUP;

	for (size_t i = 0; i < sizeof(order) / sizeof(order[0]); i++) {
		if (engine->config.backend != WS_BACKEND_AUTO &&
		    engine->config.backend != order[i]->backend)
			continue;
		worker->io = order[i];
		error = worker->io->init(worker);
		for (int s = 0; s < WS_MAX_SOCKETS && !error; s++)
			if (worker->sockets[s].fd >= 0)
				error = worker->io->socket_added(worker, s);
		if (!error) {
			engine->chosen.backend = worker->io->backend;
			return 0;
		}
		worker->io->destroy(worker);
		worker->io = NULL;
	}
	return error;
}

int ws_engine_set_tun(ws_engine *engine, uint32_t worker, int fd)
{
	if (worker >= engine->workers || engine->started)
		return -EINVAL;
	if (engine->worker[worker]->tun_fd >= 0)
		close(engine->worker[worker]->tun_fd);
	engine->worker[worker]->tun_fd = fd;
	return 0;
}

/* To the worker-th CPU that this process may use. */
static void pin(struct ws_worker *worker)
{
	cpu_set_t allowed, one;
	int nth = 0;

	if (sched_getaffinity(0, sizeof(allowed), &allowed))
		return;
	nth = (int)worker->number % CPU_COUNT(&allowed);
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &allowed) || nth-- > 0)
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		(void)pthread_setaffinity_np(worker->thread, sizeof(one), &one);
		return;
	}
}

int ws_engine_start(ws_engine *engine)
{
	if (engine->started)
		return -EALREADY;
	for (uint32_t i = 0; i < engine->workers; i++) {
		struct ws_worker *worker = engine->worker[i];
		int error = start_io(engine, worker);

		if (error)
			return error;
	}
	for (uint32_t i = 0; i < engine->workers; i++) {
		struct ws_worker *worker = engine->worker[i];
		int error = pthread_create(&worker->thread, NULL, work, worker);

		if (error)
			return -error;
		if (engine->config.pin_cpus)
			pin(worker);
		pthread_setname_np(worker->thread, "ws-worker");
		worker->running = true;
	}
	engine->started = true;
	return 0;
}

static int zero_peer(struct ws_worker *worker, void *arg)
{
	ws_peer_zero(worker, arg);
	return 0;
}

void ws_engine_free(ws_engine *engine)
{
	if (!engine)
		return;
	for (uint32_t i = 0; i < engine->workers; i++) {
		struct ws_worker *worker = engine->worker[i];

		if (!worker || !worker->running)
			continue;
		atomic_store(&worker->stop, true);
		wake(worker);
		pthread_join(worker->thread, NULL);
		worker->running = false;
	}
	for (int i = 0; i < engine->next_peer; i++)
		if (engine->peer_by_number[i]) {
			zero_peer(owner(engine, i), engine->peer_by_number[i]);
			free(engine->peer_by_number[i]);
		}
	for (uint32_t i = 0; i < engine->workers; i++)
		worker_free(engine->worker[i]);
	if (engine->upcall_fd >= 0)
		close(engine->upcall_fd);
	pthread_mutex_destroy(&engine->control);
	free(engine);
}

void ws_engine_chosen(const ws_engine *engine, struct ws_chosen *chosen)
{
	*chosen = engine->chosen;
}

const struct ws_stats *ws_engine_stats(const ws_engine *engine, uint32_t worker)
{
	return worker < engine->workers ? &engine->worker[worker]->stats : NULL;
}

/* sockets */

struct socket_change {
	int number;
	struct ws_socket socket;
};

static int add_socket(struct ws_worker *worker, void *arg)
{
	struct socket_change *change = arg;
	int error;

	worker->sockets[change->number] = change->socket;
	if (!worker->io)
		return 0;
	error = worker->io->socket_added(worker, change->number);
	if (error)
		worker->sockets[change->number].fd = -1;
	return error;
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
		struct ws_peer *peer = ws_worker_peer(worker, i);

		if (peer && owner(worker->engine, i) == worker && peer->socket == change->number)
			peer->socket = -1;
	}
	return 0;
}

/* Each worker has a socket of its own under the same number, in one SO_REUSEPORT group. */
int ws_socket_open(ws_engine *engine, const struct ws_addr *local, uint32_t ifindex,
		   struct ws_addr *bound)
{
	struct socket_change change = {.number = 0};
	struct ws_addr wanted = *local;
	bool share = engine->workers > 1;
	int error = 0;

	pthread_mutex_lock(&engine->control);
	while (change.number < WS_MAX_SOCKETS && engine->worker[0]->sockets[change.number].fd >= 0)
		change.number++;
	if (change.number == WS_MAX_SOCKETS) {
		pthread_mutex_unlock(&engine->control);
		return -ENFILE;
	}
	if (share)
		error = ws_udp_probe(&wanted);
	for (uint32_t i = 0; i < engine->workers && !error; i++) {
		error = ws_udp_open(engine, &wanted, ifindex, share, &change.socket, bound);
		if (error)
			break;
		wanted = *bound; /* where port 0 was asked for */
		error = call(engine->worker[i], add_socket, &change);
		if (error)
			close(change.socket.fd);
	}
	for (uint32_t i = 0; i < engine->workers && error; i++)
		if (engine->worker[i]->sockets[change.number].fd >= 0)
			call(engine->worker[i], remove_socket, &change);
	pthread_mutex_unlock(&engine->control);
	return error ? error : change.number;
}

int ws_socket_close(ws_engine *engine, int socket)
{
	struct socket_change change = {.number = socket};
	int error = -EBADF;

	pthread_mutex_lock(&engine->control);
	if (socket >= 0 && socket < WS_MAX_SOCKETS && engine->worker[0]->sockets[socket].fd >= 0)
		for (uint32_t i = 0; i < engine->workers; i++)
			error = call(engine->worker[i], remove_socket, &change);
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
		call(engine->worker[i], set_mtu, &mtu);
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
		peer->socket = -1;
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

	ws_peer_zero(worker, peer);
	ws_stage_clear(&worker->stage, &peer->staged);
	worker->engine->peer_by_number[peer->number] = NULL;
	return 0;
}

int ws_peer_remove(ws_engine *engine, int peer)
{
	struct ws_peer *gone;

	pthread_mutex_lock(&engine->control);
	gone = known(engine, peer) ? engine->peer_by_number[peer] : NULL;
	if (gone) {
		for (uint32_t i = 0; i < engine->workers; i++)
			call(engine->worker[i], unroute_peer, gone);
		call(owner(engine, peer), remove_peer, gone);
		free(gone);
	}
	pthread_mutex_unlock(&engine->control);
	return gone ? 0 : -ENOENT;
}

/* Calls `run` on the peer's worker; arg's first member must be the peer's number. */
static int call_peer(ws_engine *engine, int peer, int (*run)(struct ws_worker *, void *), void *arg)
{
	int error = -ENOENT;

	pthread_mutex_lock(&engine->control);
	if (known(engine, peer))
		error = call(owner(engine, peer), run, arg);
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
	if (known(engine, peer)) {
		error = 0;
		/* Any worker may read a packet from the TUN device: each has the whole table. */
		for (uint32_t i = 0; i < engine->workers && !error; i++)
			error = call(engine->worker[i], set_allowed_ips, &change);
	}
	pthread_mutex_unlock(&engine->control);
	return error;
}

struct endpoint_change {
	int peer;
	const struct ws_addr *remote, *local;
};

static int set_endpoint(struct ws_worker *worker, void *arg)
{
	const struct endpoint_change *change = arg;

	ws_peer_point(worker, ws_worker_peer(worker, change->peer), change->remote, change->local);
	return 0;
}

int ws_peer_set_endpoint(ws_engine *engine, int peer, const struct ws_addr *remote,
			 const struct ws_addr *local)
{
	struct endpoint_change change = {.peer = peer, .remote = remote, .local = local};

	return call_peer(engine, peer, set_endpoint, &change);
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
	int error;

	if (peer < 0 || keypair->local_index % engine->workers != (uint32_t)peer % engine->workers)
		return -EINVAL; /* its datagrams would go to a worker that does not own the peer */
	change.keys = ws_keys_new(keypair);
	if (!change.keys)
		return -ENOMEM;
	error = call_peer(engine, peer, install_keypair, &change);
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
	return call_peer(engine, peer, clear_keypairs, &peer);
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
	return call_peer(engine, peer, drop_staged, &peer);
}

static int send_keepalive(struct ws_worker *worker, void *arg)
{
	return ws_send_keepalive(worker, ws_worker_peer(worker, *(int *)arg));
}

int ws_peer_send_keepalive(ws_engine *engine, int peer)
{
	return call_peer(engine, peer, send_keepalive, &peer);
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

	if (!len || len > WS_CONTROL_MAX_BYTES || data[0] >> 4 != WS_FRAME_CONTROL_NIBBLE)
		return -EMSGSIZE;
	return call_peer(engine, peer, send_control, &message);
}

struct frames_change {
	int peer;
	int on;
	uint32_t max_packet;
};

static int set_frames(struct ws_worker *worker, void *arg)
{
	const struct frames_change *change = arg;
	struct ws_peer *peer = ws_worker_peer(worker, change->peer);

	peer->frames = change->on != 0;
	peer->frame_max_bytes = change->max_packet;
	return 0;
}

int ws_peer_set_frames(ws_engine *engine, int peer, int on, uint32_t max_packet)
{
	struct frames_change change = {.peer = peer, .on = on, .max_packet = max_packet};

	return call_peer(engine, peer, set_frames, &change);
}

const struct ws_peer_stats *ws_peer_stats(const ws_engine *engine, int peer)
{
	return known(engine, peer) ? &engine->peer_by_number[peer]->stats : NULL;
}

/* messages */

/*
 * Straight from the controlling thread: the kernel takes sends from any
 * thread, and sockets come and go under the same lock.
 */
int ws_send(ws_engine *engine, const struct ws_addr *remote, const struct ws_addr *local,
	    const uint8_t *data, size_t len)
{
	struct ws_worker *worker = engine->worker[0];
	_Alignas(struct cmsghdr) uint8_t control[WS_CONTROL_BYTES];
	struct ws_tx tx = {.len = (uint32_t)len, .stride = (uint32_t)len, .count = 1, .peer = -1};
	const struct ws_socket *socket;
	struct msghdr msg;
	struct iovec iov;
	int error = 0;

	if (!len || len > WS_TX_MAX_BYTES || !remote->family)
		return -EINVAL;
	tx.data = (uint8_t *)(uintptr_t)data; /* only read */
	tx.socket = -1;
	ws_addr_to_sockaddr(remote, &tx.remote, &tx.remote_bytes);
	pthread_mutex_lock(&engine->control);
	/* First from where we were spoken to; if that address is gone, from anywhere. */
	for (int attempt = 0; attempt < 2; attempt++) {
		if (attempt == 0 && local->family == remote->family)
			tx.local = *local;
		else
			tx.local.family = 0;
		socket = ws_udp_socket(worker, &tx);
		if (!socket) {
			error = -EAFNOSUPPORT;
			break;
		}
		ws_udp_fill(worker, &tx, &msg, &iov, control, false);
		error = sendmsg(socket->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -errno : 0;
		if (!error || !tx.local.family)
			break;
	}
	pthread_mutex_unlock(&engine->control);
	return error;
}

int ws_upcall_fd(const ws_engine *engine)
{
	return engine->upcall_fd;
}

int ws_upcall_next(ws_engine *engine, struct ws_upcall *upcall)
{
	for (uint32_t i = 0; i < engine->workers; i++) {
		uint32_t number = (engine->upcall_next + i) % engine->workers;

		if (ws_upcall_take(&engine->worker[number]->upcalls, upcall)) {
			engine->upcall_next = number + 1;
			return 1;
		}
	}
	return 0;
}
