/* SPDX-License-Identifier: MIT */
#ifndef WS_THREAD_H
#define WS_THREAD_H

#include "worker/worker.h"

int ws_thread_start(struct ws_worker *worker);
void ws_thread_stop(struct ws_worker *worker);

/* Runs on the worker between two turns; before the start and after the end, here. */
int ws_worker_call(struct ws_worker *worker, int (*run)(struct ws_worker *, void *), void *arg);
/* The same on the peer's worker. -ENOENT: there is no such peer. */
int ws_owner_call(ws_engine *engine, int peer, int (*run)(struct ws_worker *, void *), void *arg);

/* What other workers handed to this one. */
void ws_drain(struct ws_worker *worker);

#endif
