/* SPDX-License-Identifier: MIT */
/* The relay of an anchor (docs/nat.md): which datagrams go on unchanged, and where to. */
#ifndef WS_API_RELAY_H
#define WS_API_RELAY_H

#include "api/engine.h"
#include "api/types.h"

#define WS_RELAY_PLACES 8
#define WS_RELAY_MOST 4096 /* bindings in all */

/* Transport messages for `index` that come from one of `places` go to `remote`. */
struct ws_relay {
	uint32_t index; /* not 0 */
	int32_t sender; /* number of the peer whose places these are: its share of the rate */
	uint32_t place_count; /* 1..WS_RELAY_PLACES */
	uint32_t most_bytes; /* longer ones are dropped; 0: none are */
	uint64_t until_ns; /* CLOCK_BOOTTIME: the kernel's relay goes by it; 0: it has it not */
	struct ws_addr places[8]; /* WS_RELAY_PLACES */
	struct ws_addr remote;
	struct ws_addr local; /* family 0: the routing table says */
};

struct ws_relay_stats {
	uint64_t datagrams, bytes; /* sent on; UDP payload */
	uint64_t elsewhere; /* dropped: not from the sender's places */
	uint64_t over; /* dropped: over the sender's rate, or too long */
	uint64_t kernel_datagrams, kernel_bytes; /* of those sent on: by bpf/relay.bpf.c */
};

/* The relay in the kernel. */
struct ws_relay_program {
	uint32_t loaded; /* 1: the program is there */
	uint32_t bindings; /* that it has; the workers have all */
	int32_t error; /* why a binding is not there, of the last one: an errno; 0: all are */
	uint64_t datagrams, bytes; /* sent on; UDP payload */
	uint64_t elsewhere, over; /* datagrams dropped, as in struct ws_relay_stats */
	uint64_t up; /* left to the workers: runs of several indices, long or odd datagrams */
	uint64_t lost; /* no memory */
	uint64_t hops; /* dropped: they had gone over too many routers */
};

struct ws_relay_count {
	uint32_t index;
	struct ws_relay_stats stats;
};

/*
 * Binds an index, or changes what it is bound to: counters go on. -EINVAL; -EEXIST: it is a
 * session's of ours; -ENOSPC: WS_RELAY_MOST are bound; -ENOMEM.
 */
int ws_relay_set(ws_engine *engine, const struct ws_relay *relay);
/* -ENOENT: it is not bound. `last` (may be NULL): what it has carried. */
int ws_relay_remove(ws_engine *engine, uint32_t index, struct ws_relay_stats *last);
/* What `most` bindings at most have carried; returns how many there are of them. */
int ws_relay_list(ws_engine *engine, struct ws_relay_count *counts, size_t most);
/* Of each member, bits per second of UDP payload that it sends; 0: no limit. */
int ws_relay_rate(ws_engine *engine, uint64_t bits_per_second);
/*
 * Bindings that the kernel can relay get there by ws_relay_set, where WS_BPF_RELAY is loaded
 * (ws_engine_use_bpf), and by this, which looks their routes up again: to be called each second or
 * so. The program stops when it has not been for WS_RELAY_ALIVE_NS.
 */
#define WS_RELAY_ALIVE_NS 15000000000 /* a starved agent is not a dead one */
void ws_relay_beat(ws_engine *engine, struct ws_relay_program *told);
/* Off: the workers relay all, and the program is taken off the interfaces. On from the beginning. */
void ws_relay_use_kernel(ws_engine *engine, int on);

#endif
