/* SPDX-License-Identifier: MIT */
/* The programs of bpf/, from csrc/kernel/. */
#ifndef WS_API_BPF_H
#define WS_API_BPF_H

#include "api/engine.h"
#include "api/types.h"

/*
 * The programs of bpf/ (optional; csrc/kernel/bpf.c). Loaded with CAP_BPF, CAP_PERFMON
 * and CAP_NET_ADMIN; afterwards CAP_NET_ADMIN is enough. Nothing is pinned: all
 * goes with the process, but for legacy tc filters (kernels before 6.6), which
 * the next start with the same tag replaces.
 */
typedef struct ws_bpf ws_bpf;

enum ws_bpf_program {
	WS_BPF_SHIELD = 1, /* drops what cannot be ours, limits handshake messages */
	WS_BPF_PATH_COUNTS = 2, /* counts datagrams per path */
	WS_BPF_STEER = 4, /* datagrams to the worker that owns their receiver index */
	WS_BPF_TUNSTEER = 8, /* packets to the queue of the peer's worker */
	WS_BPF_RELAY = 16 /* an anchor's relay (api/relay.h) */
};

enum ws_bpf_hook {
	WS_HOOK_TC = 1, /* tcx, on older kernels a clsact filter */
	WS_HOOK_TC_LEGACY = 2,
	WS_HOOK_XDP = 3, /* in the driver; tc where it takes none */
	WS_HOOK_XDP_GENERIC = 4
};

/* Datagrams to our ports and addresses. Written by the kernel, per CPU; summed here. */
struct ws_shield_stats {
	uint64_t transport, handshake; /* let through */
	uint64_t short_, type, length; /* dropped, as in enum ws_drop */
	uint64_t source_limit, global_limit; /* dropped: too many handshake messages */
	uint64_t unasked, destination; /* dropped, as in enum ws_drop */
	uint64_t headers; /* dropped: more extension headers or priority tags than anybody sends */
};

/* Tokens a second and how many may be saved up; rate 0: no limit. */
struct ws_shield_rates {
	uint32_t source_rate, source_burst; /* of one IPv4 address or IPv6 /64 */
	uint32_t global_rate, global_burst; /* of all sources that are not known */
	uint32_t
		ladder; /* 1: past that rate, a few of each network that is quiet (shared/ladder.h) */
	uint32_t awaited; /* 1: answers pass that ws_bpf_await knows, and no others */
};

/* One direction of a path: datagrams, UDP payload bytes, datagrams by type. */
struct ws_path_counts {
	uint64_t packets, bytes;
	uint64_t types[6]; /* other, initiation, response, cookie reply, transport, bootstrap */
};

struct ws_bpf_path {
	struct ws_addr local, remote;
	struct ws_path_counts rx, tx;
};

/*
 * Loads `programs` (bits of enum ws_bpf_program) from <folder>/<name>.bpf.o.
 * `error` gets a line for the user for the first that failed, "" if none did;
 * NULL where none could be loaded. `tag`: names our legacy filters, 1..65535.
 */
ws_bpf *ws_bpf_open(const char *folder, uint32_t programs, uint32_t tag, char *error,
		    size_t error_bytes);
/* Detaches everything. */
void ws_bpf_free(ws_bpf *bpf);
uint32_t ws_bpf_loaded(const ws_bpf *bpf);
/* 0 if the maps can be used with the capabilities held now; -EPERM before Linux 5.19 without CAP_BPF. */
int ws_bpf_check(ws_bpf *bpf);

/*
 * Shield (at `hook`) and path counters (at tc) on one interface. Returns the
 * hook that the shield took. -EALREADY: they are there.
 */
int ws_bpf_attach(ws_bpf *bpf, uint32_t ifindex, uint32_t hook);
/* -ENOENT: not attached. The interface may be gone. */
int ws_bpf_detach(ws_bpf *bpf, uint32_t ifindex);

/*
 * Replace: the UDP ports that are ours (at most 16), the local addresses (at most 512, the last
 * `broadcasts` of them being broadcast addresses of our networks).
 */
int ws_bpf_set_ports(ws_bpf *bpf, const uint16_t *ports, size_t count);
int ws_bpf_set_locals(ws_bpf *bpf, const struct ws_addr *addrs, size_t count, size_t broadcasts);
int ws_bpf_set_rates(ws_bpf *bpf, const struct ws_shield_rates *rates);
/* Handshake messages from this address do not draw on the strangers' common limit. */
int ws_bpf_add_known(ws_bpf *bpf, const struct ws_addr *addr);
int ws_bpf_remove_known(ws_bpf *bpf, const struct ws_addr *addr);
/* A message is on its way whose answer will name `id` (ws_send says so of all it sends). */
int ws_bpf_await(ws_bpf *bpf, uint32_t id);

int ws_bpf_shield_stats(ws_bpf *bpf, struct ws_shield_stats *stats);
/* Fills at most `max` paths and `strangers` (received from where we never sent to). Returns how many;
 * a path may come twice when the table changes meanwhile. */
int ws_bpf_paths(ws_bpf *bpf, struct ws_bpf_path *paths, size_t max,
		 struct ws_path_counts *strangers);
/* sent: steered as asked; failed: left to the kernel. program: WS_BPF_STEER or WS_BPF_TUNSTEER. */
int ws_bpf_steer_stats(ws_bpf *bpf, uint32_t program, uint64_t *sent, uint64_t *failed);

/*
 * Makes the bound SO_REUSEPORT sockets of one local address a group: fds[w] is
 * worker w's. Each group has as many workers as the first one. Returns the
 * group's number; the kernel forgets sockets when they are closed.
 * -ENOTSUP: the program is not loaded. -ENOSPC: 64 groups are there already.
 */
int ws_bpf_steer_attach(ws_bpf *bpf, const int *fds, uint32_t workers);
int ws_bpf_steer_detach(ws_bpf *bpf, int group);

/* From now on this TUN device's packets go to the queue that the prefixes say, else to queue 0. */
int ws_bpf_tunsteer_attach(ws_bpf *bpf, int tun_fd);
/* Packets to this prefix go to this worker's queue; replaces what was said of it before. */
int ws_bpf_tunsteer_set(ws_bpf *bpf, const struct ws_prefix *prefix, uint32_t worker);
/* -ENOENT: nothing was said of it. */
int ws_bpf_tunsteer_remove(ws_bpf *bpf, const struct ws_prefix *prefix);
/*
 * Steer what arrives to the workers that own it: every socket group opened from here on, and the
 * TUN device, by the allowed IPs set from here on. Nothing with one worker. NULL: stop using it
 * (before ws_bpf_free). Call before sockets are opened.
 */
int ws_engine_use_bpf(ws_engine *engine, ws_bpf *bpf);

#endif
