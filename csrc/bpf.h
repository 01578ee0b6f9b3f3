/* SPDX-License-Identifier: MIT */
/*
 * What the engine calls of bpf.c; what Python calls stands in whalescale.h.
 * One controlling thread at a time.
 */
#ifndef WS_BPF_H
#define WS_BPF_H

#include "whalescale.h"

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

#endif
