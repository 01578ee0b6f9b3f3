/* SPDX-License-Identifier: MIT */
/*
 * The public API of the data plane. One engine owns the TUN queues, the UDP
 * sockets, the sessions' transport keys and the worker threads. Python
 * decides (handshakes, endpoints, timers); the workers move packets and never
 * take the interpreter's lock.
 *
 * Threading: every function may be called from one controlling thread. Calls
 * that change state are carried out by the owning worker between two turns of
 * its loop and have taken effect when they return. Unless said otherwise
 * functions return 0 (or a non-negative result) or a negative errno.
 *
 * cffi reads the headers of api/ as they stand, without their directives, so they keep to plain
 * declarations.
 */
#ifndef WHALESCALE_H
#define WHALESCALE_H

#include "api/bpf.h"
#include "api/confine.h"
#include "api/engine.h"
#include "api/multipath.h"
#include "api/probe.h"
#include "api/relay.h"
#include "api/types.h"

/*
 * Python reads their structures where they lie. Their members are at the same places on every
 * machine with these sizes and natural alignment (x86-64, arm64).
 */
_Static_assert(sizeof(void *) == 8 && sizeof(long) == 8 && sizeof(int) == 4,
	       "Whalescale is for 64-bit Linux");
_Static_assert(_Alignof(uint64_t) == 8 && _Alignof(uint32_t) == 4,
	       "Whalescale needs natural alignment");

#define WS_IS_BYTES(name, bytes) _Static_assert(sizeof(struct name) == (bytes), "laid out elsewise")
WS_IS_BYTES(ws_shield_stats, 80);
WS_IS_BYTES(ws_shield_rates, 24);
WS_IS_BYTES(ws_path_counts, 64);
WS_IS_BYTES(ws_bpf_path, 176);
WS_IS_BYTES(ws_may, 16);
WS_IS_BYTES(ws_chosen, 16);
WS_IS_BYTES(ws_path, 60);
WS_IS_BYTES(ws_path_params, 24);
WS_IS_BYTES(ws_multipath_params, 40);
WS_IS_BYTES(ws_path_stats, 176);
WS_IS_BYTES(ws_multipath_stats, 1608);
WS_IS_BYTES(ws_uring_parts, 24);
WS_IS_BYTES(ws_udp_parts, 32);
WS_IS_BYTES(ws_relay, 264);
WS_IS_BYTES(ws_relay_stats, 48);
WS_IS_BYTES(ws_relay_program, 72);
WS_IS_BYTES(ws_relay_count, 56);
WS_IS_BYTES(ws_addr, 24);
WS_IS_BYTES(ws_prefix, 18);
WS_IS_BYTES(ws_config, 96);
WS_IS_BYTES(ws_keypair, 120);
WS_IS_BYTES(ws_upcall, 2136);
WS_IS_BYTES(ws_stats, 408);
WS_IS_BYTES(ws_peer_stats, 144);
#undef WS_IS_BYTES

#endif
