/* SPDX-License-Identifier: MIT */
/*
 * Packets that wait for a path, a queue for each inner flow: deficit round robin, flows that begin or
 * are sparse first (RFC 8290 section 4, without its dropping law). So the depth that a bulk flow needs
 * over a fading link is its own, and what others send does not wait behind it.
 *
 * Flows are told apart by a hash, fragments and other protocols by their addresses alone:
 * two that meet share a queue. Pure: no clock; its memory is the caller's, and all zero it is empty.
 */
#ifndef WS_FAIRQUEUE_H
#define WS_FAIRQUEUE_H

#include "multipath/units.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WS_FQ_FLOWS 256
#define WS_FQ_PACKETS WS_RING

struct ws_fq_packet {
	uint64_t queued_ns;
	uint32_t next; /* number + 1 of the one behind it, or of the next free one */
	uint32_t len;
	uint16_t flow;
	uint8_t flags, ecn; /* the caller's */
	bool tcp; /* a TCP's */
	bool again; /* a TCP sends it once more */
};

struct ws_fq_flow {
	uint32_t head, tail; /* packets, number + 1; 0: none */
	uint32_t next; /* in its list, number + 1 */
	int32_t deficit;
	uint64_t bytes;
	uint64_t told_ns; /* the caller's: when a loss last told it that its queue is long */
	uint32_t key, sent; /* of its last TCP: the whole hash, the seq behind what it sent */
	uint8_t list; /* enum list; 0: in none */
};

struct ws_fq_list {
	uint32_t first, last; /* flows, number + 1 */
};

/* The caller's memory, ws_fq_bytes of it. */
struct ws_fq_memory;

struct ws_fq {
	struct ws_fq_memory *memory;
	uint32_t stride; /* bytes of a packet at most */
	uint32_t salt; /* differs from peer to peer */
	uint32_t packets; /* that wait */
	uint32_t busy; /* flows that have some */
	uint64_t bytes;
};

size_t ws_fq_bytes(uint32_t stride);
/* memory: zeroed. */
void ws_fq_init(struct ws_fq *fq, void *memory, uint32_t stride, uint32_t salt);
/* All that wait are gone; the memory was zeroed. */
void ws_fq_forget(struct ws_fq *fq);
/* Where the next packet may be written, `stride` bytes; NULL: WS_FQ_PACKETS wait. */
uint8_t *ws_fq_place(struct ws_fq *fq);
/* What was written there waits, behind what waits of its flow, whose number this is. `len` is 1 to
 * `stride`. */
uint32_t ws_fq_put(struct ws_fq *fq, uint32_t len, uint8_t flags, uint8_t ecn, uint64_t now_ns);
/* Whose turn it is; the same one until it is taken or its flow is cut. NULL: none waits. */
const struct ws_fq_packet *ws_fq_peek(struct ws_fq *fq, const uint8_t **data);
/* That wait of the flow with this number. */
uint64_t ws_fq_flow_bytes(const struct ws_fq *fq, uint32_t flow);
struct ws_fq_flow *ws_fq_flow(struct ws_fq *fq, const struct ws_fq_packet *packet);
/* Takes what ws_fq_peek gave; its bytes stay until the next ws_fq_put. */
void ws_fq_take(struct ws_fq *fq);
/* The oldest packet of the flow with most bytes is gone. False: none waits. */
bool ws_fq_cut(struct ws_fq *fq);

#endif
