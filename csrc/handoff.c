/* SPDX-License-Identifier: MIT */
/*
 * What reached a worker that does not own its session goes to the one that
 * does, through a ring with one writer and one reader for each pair of
 * workers. With steering programs loaded (bpf/) this stays idle; without them
 * it keeps "one owner, no lock" true at the price of a copy.
 */
#include "internal.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SLOTS 16 /* a power of two; touched only as far as a backlog grows */

struct slot {
	uint32_t kind; /* enum ws_handoff_kind */
	uint32_t len;
	uint32_t stride;
	uint8_t tos;
	struct ws_addr local;
	union ws_sockaddr from;
	int socket;
	uint8_t data[WS_BUFFER_BYTES];
};

int ws_handoff_init(struct ws_handoff *ring)
{
	void *memory = mmap(NULL, SLOTS * sizeof(struct slot), PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	ring->slots = memory == MAP_FAILED ? NULL : memory;
	atomic_init(&ring->head, 0);
	atomic_init(&ring->tail, 0);
	return ring->slots ? 0 : -ENOMEM;
}

void ws_handoff_free(struct ws_handoff *ring)
{
	if (ring->slots)
		munmap(ring->slots, SLOTS * sizeof(struct slot));
	ring->slots = NULL;
}

static struct slot *reserve(struct ws_handoff *ring)
{
	uint32_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
	uint32_t tail = atomic_load_explicit(&ring->tail, memory_order_acquire);
	struct slot *slots = ring->slots;

	return head - tail < SLOTS ? &slots[head % SLOTS] : NULL;
}

static void commit(struct ws_handoff *ring, struct ws_worker *owner)
{
	uint32_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
	uint64_t one = 1;

	/* Sequentially consistent: either the reader sees the slot, or we see it gone to sleep. */
	atomic_store(&ring->head, head + 1);
	if (atomic_load(&ring->tail) == head)
		(void)!write(owner->wake_fd, &one, sizeof(one));
}

void ws_handoff_datagram(struct ws_worker *worker, struct ws_worker *owner, const struct ws_rx *rx,
			 const uint8_t *data, size_t len)
{
	struct ws_handoff *ring = &owner->inbox[worker->number];
	struct slot *slot = reserve(ring);

	ws_add(worker->stats.foreign_rx, 1);
	if (!slot) {
		ws_drop(worker, WS_DROP_HANDOFF_FULL, 1);
		return;
	}
	slot->kind = WS_HANDOFF_DATAGRAM;
	slot->len = (uint32_t)len;
	slot->stride = (uint32_t)rx->stride;
	slot->tos = rx->tos;
	slot->local = rx->local;
	slot->from = *rx->from;
	slot->socket = rx->socket;
	memcpy(slot->data, data, len);
	commit(ring, owner);
}

void ws_handoff_packet(struct ws_worker *worker, struct ws_worker *owner, const uint8_t *frame,
		       size_t len)
{
	struct ws_handoff *ring = &owner->inbox[worker->number];
	struct slot *slot = reserve(ring);

	ws_add(worker->stats.foreign_tx, 1);
	if (!slot) {
		ws_drop(worker, WS_DROP_HANDOFF_FULL, 1);
		return;
	}
	slot->kind = WS_HANDOFF_PACKET;
	slot->len = (uint32_t)len;
	memcpy(slot->data, frame, len);
	commit(ring, owner);
}

/* One ring's backlog as it stands; buffers are reused once the pipelines let go of them. */
static void drain(struct ws_worker *worker, struct ws_handoff *ring)
{
	uint32_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
	uint32_t head = atomic_load(&ring->head);
	struct slot *slots = ring->slots;

	worker->borrowed = true; /* the slots are the writer's again when this returns */
	for (uint32_t at = tail; at != head; at++) {
		struct slot *slot = &slots[at % SLOTS];

		if (slot->kind == WS_HANDOFF_PACKET) {
			ws_send_packet(worker, slot->data, slot->len);
		} else {
			struct ws_rx rx = {
				.data = slot->data,
				.len = slot->len,
				.stride = slot->stride,
				.from = &slot->from,
				.local = slot->local,
				.socket = slot->socket,
				.tos = slot->tos,
			};

			ws_receive(worker, &rx);
		}
	}
	ws_receive_flush(worker);
	worker->borrowed = false;
	atomic_store(&ring->tail, head);
}

void ws_handoff_drain(struct ws_worker *worker)
{
	uint32_t workers = worker->engine->workers;

	for (uint32_t from = 0; from < workers && workers > 1; from++)
		while (from != worker->number &&
		       atomic_load(&worker->inbox[from].head) !=
			       atomic_load_explicit(&worker->inbox[from].tail,
						    memory_order_relaxed))
			drain(worker, &worker->inbox[from]);
	ws_send_flush(worker);
}
