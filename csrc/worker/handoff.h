/* SPDX-License-Identifier: MIT */
/*
 * What reached a worker that does not own its session goes to the one that does, through a ring
 * with one writer and one reader for each pair of workers. With steering programs loaded (bpf/)
 * this stays idle; without them it keeps "one owner, no lock" true at the price of a copy.
 */
#ifndef WS_HANDOFF_H
#define WS_HANDOFF_H

#include "worker/worker.h"

int ws_handoff_init(struct ws_handoff *ring);
void ws_handoff_free(struct ws_handoff *ring);
/* datagrams of rx->stride bytes, len in all */
void ws_handoff_datagram(struct ws_worker *worker, struct ws_worker *owner, const struct ws_rx *rx,
			 const uint8_t *data, size_t len);
void ws_handoff_packet(struct ws_worker *worker, struct ws_worker *owner, const uint8_t *frame,
		       size_t len);

/* Of those that were handed to this worker. */
struct ws_handed {
	bool packet; /* of the TUN device, rx.data and rx.len; else datagrams */
	struct ws_rx rx; /* its bytes stay until ws_handoff_taken */
};

struct ws_handoff_reader {
	struct ws_handoff *ring;
	uint32_t tail, head; /* what is there now, from one to the other */
};

/* False: there is nothing. */
bool ws_handoff_open(struct ws_handoff *ring, struct ws_handoff_reader *reader);
/* False: no more. */
bool ws_handoff_next(struct ws_handoff_reader *reader, struct ws_handed *handed);
/* Gives the writer its room back. Returns whether more came meanwhile. */
bool ws_handoff_taken(struct ws_handoff_reader *reader);

#endif
