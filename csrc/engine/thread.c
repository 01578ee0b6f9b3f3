/* SPDX-License-Identifier: MIT */
/* What a worker's thread does, and how the controlling thread gets in between two of its turns. */
#include "engine/thread.h"

#include "session/receive.h"
#include "session/seal.h"
#include "session/send.h"
#include "session/turn.h"
#include "worker/handoff.h"
#include "worker/upcall.h"

#include <errno.h>
#include <sched.h>
#include <semaphore.h>
#include <sys/prctl.h>
#include <unistd.h>

struct ws_command {
	int (*run)(struct ws_worker *worker, void *arg);
	void *arg;
	int result;
	sem_t done;
};

static void wake(struct ws_worker *worker)
{
	uint64_t one = 1;

	(void)!write(worker->wake_fd, &one, sizeof(one));
}

static void run_command(struct ws_worker *worker)
{
	struct ws_command *command = atomic_exchange(&worker->command, NULL);

	if (!command)
		return;
	worker->now_ns = ws_now_ns();
	command->result = command->run(worker, command->arg);
	ws_seal_flush(worker);
	sem_post(&command->done);
}

/* False: no room in the ring, try again. */
static bool report_fatal(struct ws_worker *worker, int error)
{
	struct ws_upcall *upcall = ws_upcall_reserve(worker, WS_UP_FATAL, -1);

	if (!upcall)
		return false;
	upcall->reason = (uint32_t)-error;
	ws_upcall_commit(&worker->upcalls);
	return true;
}

/* One ring's backlog as it stands. Returns whether more came meanwhile. */
static bool drain(struct ws_worker *worker, struct ws_handoff *ring)
{
	struct ws_handoff_reader reader;
	struct ws_handed handed;

	if (!ws_handoff_open(ring, &reader))
		return false;
	ws_turn_busy(worker);
	/* The bytes are the writer's again when this returns. */
	worker->borrowed = worker->handing_off = true;
	while (ws_handoff_next(&reader, &handed)) {
		if (handed.packet)
			ws_send_packet(worker, handed.rx.data, handed.rx.len);
		else
			ws_receive(worker, &handed.rx);
	}
	ws_receive_flush(worker);
	worker->borrowed = worker->handing_off = false;
	return ws_handoff_taken(&reader);
}

/*
 * Once around: a writer that never rests must not keep us from our own
 * sockets and from Python. What it wrote meanwhile keeps the next turn short.
 */
void ws_drain(struct ws_worker *worker)
{
	bool more = false;

	for (uint32_t from = 0; from < worker->engine->workers; from++)
		if (from != worker->number)
			more |= drain(worker, &worker->inbox[from]);
	ws_seal_flush(worker);
	if (more)
		wake(worker);
}

static void *work(void *arg)
{
	struct ws_worker *worker = arg;
	bool told = false;
	int error = 0;

	/* By the thread itself: from outside it takes a file of /proc, which the sandbox refuses. */
	(void)prctl(PR_SET_NAME, "ws-worker", 0, 0, 0);
	while (!atomic_load_explicit(&worker->stop, memory_order_relaxed)) {
		if (error) {
			/* Nothing moves any more, but Python must still get through. */
			uint64_t count;

			told = told || report_fatal(worker, error);
			if (!told || read(worker->wake_fd, &count, sizeof(count)) < 0)
				usleep(10000);
		} else {
			error = worker->io->turn(worker);
			ws_add(worker->stats.turns, 1);
			if (error)
				told = report_fatal(worker, error);
		}
		if (atomic_load_explicit(&worker->command, memory_order_relaxed))
			run_command(worker);
		if (worker->engine->workers > 1 && !error)
			ws_drain(worker);
		if (!error)
			ws_turn_end(worker);
	}
	if (worker->io->stop)
		worker->io->stop(worker);
	return NULL;
}

int ws_worker_call(struct ws_worker *worker, int (*run)(struct ws_worker *, void *), void *arg)
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

int ws_thread_start(struct ws_worker *worker)
{
	int error = pthread_create(&worker->thread, NULL, work, worker);

	if (error)
		return -error;
	if (worker->engine->config.pin_cpus)
		pin(worker);
	worker->running = true;
	return 0;
}

void ws_thread_stop(struct ws_worker *worker)
{
	if (!worker->running)
		return;
	atomic_store(&worker->stop, true);
	wake(worker);
	pthread_join(worker->thread, NULL);
	worker->running = false;
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
