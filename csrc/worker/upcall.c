/* SPDX-License-Identifier: MIT */
#include "worker/upcall.h"

#include "packet/counters.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SLOTS 1024 /* a power of two; touched only as far as a backlog grows */

int ws_upcall_ring_init(struct ws_upcall_ring *ring, enum ws_drop full, int eventfd)
{
	void *memory = mmap(NULL, SLOTS * sizeof(struct ws_upcall), PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ring->slots = memory == MAP_FAILED ? NULL : memory;
	ring->full = full;
	ring->eventfd = eventfd;
	atomic_init(&ring->head, 0);
	atomic_init(&ring->tail, 0);
	return ring->slots ? 0 : -ENOMEM;
}

void ws_upcall_ring_free(struct ws_upcall_ring *ring)
{
	if (ring->slots)
		munmap(ring->slots, SLOTS * sizeof(struct ws_upcall));
	ring->slots = NULL;
}

/* NULL: no room. */
static struct ws_upcall *reserve(struct ws_worker *worker, struct ws_upcall_ring *ring,
				 uint32_t type, int32_t peer)
{
	uint32_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
	uint32_t tail = atomic_load_explicit(&ring->tail, memory_order_acquire);
	struct ws_upcall *upcall = &ring->slots[head % SLOTS];

	if (head - tail >= SLOTS)
		return NULL;
	memset(upcall, 0, offsetof(struct ws_upcall, data));
	upcall->type = type;
	upcall->peer = peer;
	upcall->now_ns = worker->now_ns;
	return upcall;
}

struct ws_upcall *ws_upcall_reserve(struct ws_worker *worker, uint32_t type, int32_t peer)
{
	return reserve(worker, &worker->upcalls, type, peer);
}

struct ws_upcall *ws_upcall_begin(struct ws_worker *worker, uint32_t type, int32_t peer)
{
	struct ws_upcall *upcall = ws_upcall_reserve(worker, type, peer);

	if (!upcall)
		ws_drop(worker, worker->upcalls.full, 1);
	return upcall;
}

struct ws_upcall *ws_upcall_stranger(struct ws_worker *worker, uint32_t share)
{
	struct ws_upcall *upcall = NULL;

	if (!ws_upcall_crowded(&worker->strangers, share))
		upcall = reserve(worker, &worker->strangers, WS_UP_DATAGRAM, -1);
	if (!upcall)
		ws_drop(worker, worker->strangers.full, 1);
	return upcall;
}

void ws_upcall_fill(struct ws_upcall *upcall, const struct ws_rx *rx, const uint8_t *data,
		    size_t len)
{
	ws_sockaddr_to_addr(rx->from, &upcall->remote);
	upcall->local = rx->local;
	upcall->len = (uint32_t)len;
	memcpy(upcall->data, data, len);
}

bool ws_upcall_crowded(struct ws_upcall_ring *ring, uint32_t share)
{
	uint32_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);

	return head - atomic_load_explicit(&ring->tail, memory_order_acquire) >= SLOTS / share;
}

void ws_upcall_commit(struct ws_upcall_ring *ring)
{
	uint32_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
	uint64_t one = 1;
	ssize_t n;

	atomic_store_explicit(&ring->head, head + 1, memory_order_release);
	/* Python reads the eventfd before it drains, so every commit must ring. */
	n = write(ring->eventfd, &one, sizeof(one));
	(void)n; /* full means it is readable already */
}

bool ws_upcall_take(struct ws_upcall_ring *ring, struct ws_upcall *out)
{
	uint32_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
	uint32_t head = atomic_load_explicit(&ring->head, memory_order_acquire);
	const struct ws_upcall *slot;

	if (head == tail)
		return false;
	slot = &ring->slots[tail % SLOTS];
	memcpy(out, slot, offsetof(struct ws_upcall, data));
	memcpy(out->data, slot->data, slot->len);
	atomic_store_explicit(&ring->tail, tail + 1, memory_order_release);
	return true;
}
