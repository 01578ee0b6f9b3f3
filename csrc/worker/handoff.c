/* SPDX-License-Identifier: MIT */
/*
 * The ring holds bytes, not slots of the largest size: a burst of small
 * packets needs little room, and an idle ring none at all.
 */
#include "worker/handoff.h"

#include "packet/counters.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define RING_BYTES (2U << 20) /* a power of two; positions run on beyond it */
#define ALIGN 16U
#define YIELDS 20 /* a full ring: so often the owner gets our turn before we drop */

/* KIND_SKIP: nothing more before the ring's end. */
enum kind { KIND_SKIP = 0, KIND_DATAGRAM = 1, KIND_PACKET = 2 };

struct record {
	uint32_t bytes; /* with this header; a multiple of ALIGN */
	uint32_t kind;
	uint32_t len;
	uint32_t stride;
	int socket;
	uint8_t tos;
	struct ws_addr local;
	union ws_sockaddr from;
	uint8_t data[];
};

_Static_assert(offsetof(struct record, len) <= ALIGN, "a skip must fit into what alignment leaves");
_Static_assert(sizeof(struct record) + WS_BUFFER_BYTES < RING_BYTES / 4, "room for a few");

int ws_handoff_init(struct ws_handoff *ring)
{
	void *memory = mmap(NULL, RING_BYTES, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	ring->bytes = memory == MAP_FAILED ? NULL : memory;
	atomic_init(&ring->head, 0);
	atomic_init(&ring->tail, 0);
	return ring->bytes ? 0 : -ENOMEM;
}

void ws_handoff_free(struct ws_handoff *ring)
{
	if (ring->bytes)
		munmap(ring->bytes, RING_BYTES);
	ring->bytes = NULL;
}

static struct record *at(const struct ws_handoff *ring, uint32_t position)
{
	return (struct record *)(ring->bytes + position % RING_BYTES);
}

/* Room for a record of `bytes` in one piece at *head, which moves past the ring's end if need be. */
static struct record *reserve(struct ws_handoff *ring, uint32_t *head, uint32_t bytes)
{
	uint32_t to_end = RING_BYTES - *head % RING_BYTES;
	uint32_t skip = to_end < bytes ? to_end : 0;
	uint32_t tail = atomic_load_explicit(&ring->tail, memory_order_acquire);

	for (int i = 0; RING_BYTES - (*head - tail) < skip + bytes; i++) {
		if (i == YIELDS)
			return NULL;
		sched_yield();
		tail = atomic_load_explicit(&ring->tail, memory_order_acquire);
	}
	if (skip) {
		at(ring, *head)->bytes = skip;
		at(ring, *head)->kind = KIND_SKIP;
		*head += skip;
	}
	return at(ring, *head);
}

/* NULL: no room. */
static struct record *put(struct ws_handoff *ring, uint32_t *head, uint32_t kind,
			  const uint8_t *data, size_t len)
{
	uint32_t bytes = (uint32_t)((sizeof(struct record) + len + ALIGN - 1) & ~(ALIGN - 1));
	struct record *record;

	*head = atomic_load_explicit(&ring->head, memory_order_relaxed);
	record = reserve(ring, head, bytes);
	if (!record)
		return NULL;
	record->bytes = bytes;
	record->kind = kind;
	record->len = (uint32_t)len;
	memcpy(record->data, data, len);
	*head += bytes;
	return record;
}

static void commit(struct ws_handoff *ring, uint32_t head, struct ws_worker *owner)
{
	uint32_t before = atomic_load_explicit(&ring->head, memory_order_relaxed);
	uint64_t one = 1;

	/* Sequentially consistent: either the reader sees the record, or we see it gone to sleep. */
	atomic_store(&ring->head, head);
	if (atomic_load(&ring->tail) == before)
		(void)!write(owner->wake_fd, &one, sizeof(one));
}

void ws_handoff_datagram(struct ws_worker *worker, struct ws_worker *owner, const struct ws_rx *rx,
			 const uint8_t *data, size_t len)
{
	struct ws_handoff *ring = &owner->inbox[worker->number];
	struct record *record;
	uint32_t head;

	ws_add(worker->stats.foreign_rx, 1);
	record = put(ring, &head, KIND_DATAGRAM, data, len);
	if (!record) {
		size_t stride = rx->stride ? rx->stride : len;

		ws_drop(worker, WS_DROP_HANDOFF_FULL, (len + stride - 1) / stride);
		return;
	}
	record->stride = (uint32_t)rx->stride;
	record->tos = rx->tos;
	record->local = rx->local;
	record->from = *rx->from;
	record->socket = rx->socket;
	commit(ring, head, owner);
}

void ws_handoff_packet(struct ws_worker *worker, struct ws_worker *owner, const uint8_t *frame,
		       size_t len)
{
	struct ws_handoff *ring = &owner->inbox[worker->number];
	uint32_t head;

	ws_add(worker->stats.foreign_tx, 1);
	if (!put(ring, &head, KIND_PACKET, frame, len)) {
		ws_drop(worker, WS_DROP_HANDOFF_FULL, 1);
		return;
	}
	commit(ring, head, owner);
}

bool ws_handoff_open(struct ws_handoff *ring, struct ws_handoff_reader *reader)
{
	reader->ring = ring;
	reader->tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
	reader->head = atomic_load(&ring->head);
	return reader->tail != reader->head;
}

bool ws_handoff_next(struct ws_handoff_reader *reader, struct ws_handed *handed)
{
	while (reader->tail != reader->head) {
		struct record *record = at(reader->ring, reader->tail);

		reader->tail += record->bytes;
		if (record->kind == KIND_SKIP)
			continue;
		handed->packet = record->kind == KIND_PACKET;
		handed->rx = (struct ws_rx){
			.data = record->data,
			.len = record->len,
			.stride = record->stride,
			.from = &record->from,
			.local = record->local,
			.socket = record->socket,
			.tos = record->tos,
		};
		return true;
	}
	return false;
}

bool ws_handoff_taken(struct ws_handoff_reader *reader)
{
	atomic_store(&reader->ring->tail, reader->tail);
	return atomic_load(&reader->ring->head) != reader->tail;
}
