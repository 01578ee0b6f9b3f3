/* SPDX-License-Identifier: MIT */
/* The engine: workers and their life. */
#include "engine/kernel_relay.h"
#include "engine/thread.h"
#include "io/io.h"
#include "session/deliver.h"
#include "session/paths.h"
#include "session/relay.h"
#include "worker/handoff.h"
#include "worker/upcall.h"

#include <errno.h>
#include <sodium/randombytes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* Of so many upcalls one is a stranger's first; of the others what peers say. */
#define STRANGERS_EACH 8

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
	ws_cookie_free(worker->cookie);
	ws_coalesce_free(worker->coalesce);
	ws_allowedips_free(worker->allowedips);
	ws_allowedips_free(worker->inside);
	ws_index_free(&worker->indices);
	ws_relay_table_free(worker->relay);
	ws_stage_free(&worker->stage);
	ws_upcall_ring_free(&worker->upcalls);
	ws_upcall_ring_free(&worker->strangers);
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
	worker->cookie = ws_cookie_new(engine->config.public_key, engine->config.bootstrap_key);
	worker->coalesce =
		ws_coalesce_new(gro, gro && !(off & WS_NO_TUN_USO), ws_deliver_emit, worker);
	worker->allowedips = ws_allowedips_new();
	worker->scratch = malloc(WS_BUFFER_BYTES);
	if (worker->wake_fd < 0 || !worker->aead || !worker->mac1 || !worker->cookie ||
	    !worker->coalesce || !worker->allowedips || !worker->scratch ||
	    ws_index_init(&worker->indices) || ws_stage_init(&worker->stage) ||
	    ws_upcall_ring_init(&worker->upcalls, WS_DROP_UPCALL_FULL, engine->upcall_fd) ||
	    ws_upcall_ring_init(&worker->strangers, WS_DROP_STRANGERS_FULL, engine->upcall_fd)) {
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
		return -errno;
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
	uint8_t secret[32];

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
	for (int i = 0; i < WS_MAX_SOCKETS; i++)
		engine->steer_group[i] = -1;
	engine->workers = config->workers;
	engine->chosen.workers = config->workers;
	engine->chosen.offloads_off = config->offloads_off;
	engine->chosen.offloads_off |= ws_offload_selftest(NULL);
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
	engine->gate = ws_gate_new();
	if (!engine->gate)
		goto fail;
	for (uint32_t i = 0; i < engine->workers; i++) {
		engine->worker[i] = worker_new(engine, i);
		if (!engine->worker[i])
			goto fail;
	}
	/* Any worker takes the cookies that any of them gave. */
	randombytes_buf(secret, sizeof(secret));
	ws_set_cookie_secret(engine, secret);
	explicit_bzero(secret, sizeof(secret));
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
		int error = ws_thread_start(engine->worker[i]);

		if (error)
			return error;
	}
	engine->started = true;
	if (engine->bpf && engine->workers > 1)
		(void)ws_bpf_tunsteer_attach(engine->bpf, engine->worker[0]->tun_fd);
	return 0;
}

static int zero_peer(struct ws_worker *worker, void *arg)
{
	ws_paths_forget(worker, arg);
	ws_peer_zero(worker, arg);
	return 0;
}

void ws_engine_free(ws_engine *engine)
{
	if (!engine)
		return;
	for (uint32_t i = 0; i < engine->workers; i++)
		if (engine->worker[i])
			ws_thread_stop(engine->worker[i]);
	/* Peers go one by one below, and no list may name one that is gone. */
	for (uint32_t i = 0; i < engine->workers; i++)
		if (engine->worker[i])
			engine->worker[i]->active = NULL;
	for (int i = 0; i < engine->next_peer; i++)
		if (engine->peer_by_number[i]) {
			zero_peer(ws_owner(engine, i), engine->peer_by_number[i]);
			ws_paths_free(engine->peer_by_number[i]->paths);
			free(engine->peer_by_number[i]->prefixes);
			free(engine->peer_by_number[i]);
		}
	for (uint32_t i = 0; i < engine->workers; i++)
		worker_free(engine->worker[i]);
	ws_kernel_relay_free(engine);
	free(engine->relay_shares);
	ws_gate_free(engine->gate);
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

int ws_upcall_fd(const ws_engine *engine)
{
	return engine->upcall_fd;
}

/* From the peers' rings or the strangers', the workers in turn. */
static bool take(ws_engine *engine, bool strangers, struct ws_upcall *upcall)
{
	for (uint32_t i = 0; i < engine->workers; i++) {
		uint32_t number = (engine->upcall_next + i) % engine->workers;
		struct ws_worker *worker = engine->worker[number];

		if (ws_upcall_take(strangers ? &worker->strangers : &worker->upcalls, upcall)) {
			engine->upcall_next = number + 1;
			return true;
		}
	}
	return false;
}

int ws_upcall_next(ws_engine *engine, struct ws_upcall *upcall)
{
	bool strangers = ++engine->upcalls_taken % STRANGERS_EACH == 0;

	return take(engine, strangers, upcall) || take(engine, !strangers, upcall);
}
