/* SPDX-License-Identifier: MIT */
/* What the files of the io_uring backend share: its state, and how it is made. */
#ifndef WS_URING_H
#define WS_URING_H

#include "worker/worker.h"

#include <liburing.h>
#include <linux/virtio_net.h>

#ifndef IORING_SETUP_SINGLE_ISSUER
#define IORING_SETUP_SINGLE_ISSUER (1U << 12)
#endif
#ifndef IORING_SETUP_DEFER_TASKRUN
#define IORING_SETUP_DEFER_TASKRUN (1U << 13)
#endif
#define OP_READ_MULTISHOT 49 /* Linux 6.7; newer than Debian's liburing */

#define SQ_ENTRIES 256
#define CQ_ENTRIES 1024
#define RX_BUFFERS 32 /* powers of two */
#define TUN_BUFFERS 32
/* Control data follows the name and must be aligned. */
#define NAME_BYTES ((sizeof(union ws_sockaddr) + 7) & ~(size_t)7)
#define RX_HEADER_BYTES (sizeof(struct io_uring_recvmsg_out) + NAME_BYTES + WS_CONTROL_BYTES)
#define RX_BUFFER_BYTES (WS_BUFFER_BYTES + 256)
#define TX_SLOTS WS_TX_BUFFERS
#define WRITE_SLOTS 64
#define GROUP_RX 0
#define GROUP_TUN 1

/* Registered files: the TUN device, the wake-up eventfd, then the sockets. */
enum { FILE_TUN = 0, FILE_WAKE = 1, FILE_SOCKET = 2 };

/*
 * user_data: what in the high half, which in the low. For a socket that is its
 * number and how often the number was given out, so that a late completion of
 * a closed socket is not taken for one of its successor.
 */
enum { ON_WAKE = 1, ON_TUN, ON_SOCKET, ON_SENT, ON_WRITTEN, ON_CANCELLED, ON_LOOK };
#define SOCKET_BITS 8
_Static_assert(WS_MAX_SOCKETS <= 1 << SOCKET_BITS, "a socket's number must fit");
#define CANCEL_TRIES 100
#define LOOK_SECONDS 5 /* how long a vanished device may go unnoticed */

_Static_assert(RX_HEADER_BYTES <= 256, "a receive's header must fit beside its payload");

struct tx_slot {
	struct ws_tx tx;
	struct msghdr msg;
	struct iovec iov;
	_Alignas(struct cmsghdr) uint8_t control[WS_CONTROL_BYTES];
};

struct write_slot {
	struct iovec iov[WS_COALESCE_SEGMENTS + 1];
	struct virtio_net_hdr vnet;
	uint32_t packets;
	uint32_t epoch;
};

struct buffer_ring {
	struct io_uring_buf_ring *ring;
	uint8_t *buffers;
	uint32_t count;
	uint32_t bytes; /* of one buffer */
};

struct completion {
	uint64_t user_data;
	int32_t res;
	uint32_t flags;
};

struct uring_state {
	struct io_uring ring;
	bool ring_ready;
	bool enabled;
	bool multishot_read;
	struct buffer_ring rx, tun;
	struct msghdr receive; /* shape of every receive */
	uint8_t *memory;
	size_t memory_bytes;
	uint8_t *tx_data;

	struct tx_slot tx[TX_SLOTS + 1]; /* the last one is for a synchronous send */
	uint16_t tx_free[TX_SLOTS];
	uint32_t tx_free_count;

	struct write_slot writes[WRITE_SLOTS];
	uint16_t write_free[WRITE_SLOTS];
	uint32_t write_free_count;

	/*
	 * Receive buffers that queued TUN writes may still read, in two epochs:
	 * one is being filled while the writes of the other complete.
	 */
	uint16_t held[2][RX_BUFFERS];
	uint32_t held_count[2];
	uint32_t outstanding[2]; /* TUN writes */
	uint32_t epoch; /* 0 or 1: being filled */

	struct completion backlog[CQ_ENTRIES];
	uint32_t backlog_count;
	uint64_t wake_value;
	struct __kernel_timespec look_every;
	bool tun_armed, wake_armed, look_armed;
	bool socket_armed[WS_MAX_SOCKETS];
	uint32_t socket_uses[WS_MAX_SOCKETS];
};

static inline void ws_uring_give_buffer(struct buffer_ring *ring, uint16_t id)
{
	io_uring_buf_ring_add(ring->ring, ring->buffers + (size_t)id * ring->bytes, ring->bytes, id,
			      io_uring_buf_ring_mask(ring->count), 0);
	io_uring_buf_ring_advance(ring->ring, 1);
}

/* uring_setup.c */
int ws_uring_init(struct ws_worker *worker);
void ws_uring_destroy(struct ws_worker *worker);
/* By the thread that is to be the ring's single issuer. */
int ws_uring_enable(struct uring_state *state);
/* A multishot receive from socket `number`, into buffers of the ring. */
void ws_uring_prep_receive(const struct uring_state *state, struct io_uring_sqe *sqe, int number);

#endif
