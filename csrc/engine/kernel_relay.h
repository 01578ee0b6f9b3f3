/* SPDX-License-Identifier: MIT */
/*
 * Which bindings the kernel relays (bpf/relay.bpf.c) beside the workers. With engine->control held,
 * but for ws_kernel_relay_free.
 */
#ifndef WS_KERNEL_RELAY_H
#define WS_KERNEL_RELAY_H

#include "api/relay.h"
#include "session/relay.h"
#include "worker/worker.h"

/* The sender's share of the rate, where workers and kernel both draw on it; NULL: workers alone. */
struct ws_relay_share *ws_kernel_relay_share(ws_engine *engine, uint32_t sender);
/* The workers have it now. Whether the kernel takes it too shows ws_relay_beat. */
void ws_kernel_relay_set(ws_engine *engine, const struct ws_relay *relay);
/* Adds what the kernel counted of it. */
void ws_kernel_relay_remove(ws_engine *engine, uint32_t index, struct ws_relay_stats *last);
void ws_kernel_relay_add(ws_engine *engine, struct ws_relay_count *count);
/* Another set of programs is in use, or none is: begins anew with it. */
void ws_kernel_relay_reset(ws_engine *engine);
/* A session of ours has this receiver index: it is nobody else's. Takes engine->control. */
void ws_kernel_relay_yield(ws_engine *engine, uint32_t index);
void ws_kernel_relay_free(ws_engine *engine);

#endif
