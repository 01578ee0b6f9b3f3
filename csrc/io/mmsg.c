/* SPDX-License-Identifier: MIT */
/*
 * The portable backend: epoll, recvmmsg, sendmmsg, read and writev. Each turn
 * takes a bounded share of either direction.
 */
#include "io/io.h"

#include "session/receive.h"
#include "session/rescue.h"
#include "session/seal.h"
#include "session/send.h"
#include "session/turn.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#define EVENTS 16
#define TAG_TUN 0x10000
#define TAG_WAKE 0x10001

struct rx_slot {
	union ws_sockaddr from;
	struct iovec iov;
	_Alignas(struct cmsghdr) uint8_t control[WS_CONTROL_BYTES];
};

struct mmsg_state {
	int epoll_fd;
	uint8_t *buffers; /* RX, then TX, then one for the TUN device */
	size_t buffers_bytes;
	struct mmsghdr rx_msgs[WS_RX_BUFFERS];
	struct rx_slot rx_slots[WS_RX_BUFFERS];
	struct ws_tx tx[WS_TX_BUFFERS];
	struct ws_tx *queued[WS_TX_BUFFERS];
	uint32_t tx_used; /* handed out since the last flush */
	uint32_t tx_queued;
};

static int watch(struct mmsg_state *state, int fd, uint32_t tag)
{
	struct epoll_event event = {.events = EPOLLIN, .data.u32 = tag};

	return epoll_ctl(state->epoll_fd, EPOLL_CTL_ADD, fd, &event) ? -errno : 0;
}

static void mmsg_destroy(struct ws_worker *worker)
{
	struct mmsg_state *state = worker->io_state;

	if (!state)
		return;
	if (state->buffers)
		munmap(state->buffers, state->buffers_bytes);
	if (state->epoll_fd >= 0)
		close(state->epoll_fd);
	free(state);
	worker->io_state = NULL;
}

static int mmsg_init(struct ws_worker *worker)
{
	struct mmsg_state *state = calloc(1, sizeof(*state));
	int error;

	if (!state)
		return -ENOMEM;
	worker->io_state = state;
	state->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (state->epoll_fd < 0)
		return -errno;
	state->buffers_bytes = (size_t)(WS_RX_BUFFERS + WS_TX_BUFFERS + 1) * WS_BUFFER_BYTES;
	state->buffers = mmap(NULL, state->buffers_bytes, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (state->buffers == MAP_FAILED) {
		state->buffers = NULL;
		return -ENOMEM;
	}
	for (int i = 0; i < WS_RX_BUFFERS; i++) {
		state->rx_slots[i].iov.iov_base = state->buffers + (size_t)i * WS_BUFFER_BYTES;
		state->rx_slots[i].iov.iov_len = WS_BUFFER_BYTES;
	}
	for (int i = 0; i < WS_TX_BUFFERS; i++)
		state->tx[i].data = state->buffers + (size_t)(WS_RX_BUFFERS + i) * WS_BUFFER_BYTES;
	/* io_uring, tried before, wants the device blocking. */
	(void)fcntl(worker->tun_fd, F_SETFL, fcntl(worker->tun_fd, F_GETFL) | O_NONBLOCK);
	error = watch(state, worker->wake_fd, TAG_WAKE);
	if (!error && worker->tun_fd >= 0)
		error = watch(state, worker->tun_fd, TAG_TUN);
	return error;
}

static int mmsg_socket_added(struct ws_worker *worker, int number)
{
	return watch(worker->io_state, worker->sockets[number].fd, (uint32_t)number);
}

static void mmsg_socket_removed(struct ws_worker *worker, int number)
{
	struct mmsg_state *state = worker->io_state;

	(void)epoll_ctl(state->epoll_fd, EPOLL_CTL_DEL, worker->sockets[number].fd, NULL);
}

static void mmsg_tx_flush(struct ws_worker *worker)
{
	struct mmsg_state *state = worker->io_state;
	struct mmsghdr msgs[WS_TX_BUFFERS];
	struct iovec iovs[WS_TX_BUFFERS];
	_Alignas(struct cmsghdr) uint8_t control[WS_TX_BUFFERS][WS_CONTROL_BYTES];
	uint32_t at = 0;

	while (at < state->tx_queued) {
		const struct ws_socket *socket = ws_udp_socket(worker->sockets, state->queued[at]);
		uint32_t n = 0;
		int sent;

		if (!socket || (state->queued[at]->no_gso && state->queued[at]->count > 1)) {
			ws_rescue(worker, state->queued[at++], 0);
			continue;
		}
		/* As many as leave by the same socket, in one call. */
		while (at + n < state->tx_queued &&
		       ws_udp_socket(worker->sockets, state->queued[at + n]) == socket &&
		       !(state->queued[at + n]->no_gso && state->queued[at + n]->count > 1)) {
			ws_udp_fill(worker->sockets, state->queued[at + n], &msgs[n].msg_hdr,
				    &iovs[n], control[n], true);
			n++;
		}
		sent = sendmmsg(socket->fd, msgs, n, MSG_NOSIGNAL);
		ws_add(worker->stats.tx_batches, 1);
		if (sent > 0)
			at += (uint32_t)sent;
		else
			ws_rescue(worker, state->queued[at++], errno);
	}
	state->tx_queued = 0;
	state->tx_used = 0;
}

static struct ws_tx *mmsg_tx_get(struct ws_worker *worker)
{
	struct mmsg_state *state = worker->io_state;

	/* One is open at most, and it was submitted before another is asked for. */
	if (state->tx_used == WS_TX_BUFFERS)
		mmsg_tx_flush(worker);
	return &state->tx[state->tx_used++];
}

static void mmsg_tx_submit(struct ws_worker *worker, struct ws_tx *tx)
{
	struct mmsg_state *state = worker->io_state;

	state->queued[state->tx_queued++] = tx;
}

static void mmsg_tun_write(struct ws_worker *worker, const struct iovec *iov, uint32_t count,
			   uint32_t packets)
{
	ws_add(worker->stats.tun_writes, 1);
	ws_tun_written(worker, writev(worker->tun_fd, iov, (int)count), packets);
}

static void receive(struct ws_worker *worker, int number)
{
	struct mmsg_state *state = worker->io_state;
	struct ws_socket *socket = &worker->sockets[number];
	int got;

	if (socket->fd < 0)
		return;
	for (int i = 0; i < WS_RX_BUFFERS; i++) {
		struct msghdr *msg = &state->rx_msgs[i].msg_hdr;

		msg->msg_name = &state->rx_slots[i].from;
		msg->msg_namelen = sizeof(state->rx_slots[i].from);
		msg->msg_iov = &state->rx_slots[i].iov;
		msg->msg_iovlen = 1;
		msg->msg_control = state->rx_slots[i].control;
		msg->msg_controllen = WS_CONTROL_BYTES;
		msg->msg_flags = 0;
	}
	got = recvmmsg(socket->fd, state->rx_msgs, WS_RX_BUFFERS, MSG_DONTWAIT, NULL);
	for (int i = 0; i < got; i++) {
		struct ws_rx rx = {
			.data = state->rx_slots[i].iov.iov_base,
			.len = state->rx_msgs[i].msg_len,
			.from = &state->rx_slots[i].from,
			.socket = number,
		};

		if (state->rx_msgs[i].msg_hdr.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
			ws_drop(worker, WS_DROP_LENGTH, 1);
			continue;
		}
		ws_udp_read_control(socket, &state->rx_msgs[i].msg_hdr, &rx);
		ws_receive(worker, &rx);
	}
	ws_receive_flush(worker);
	ws_seal_flush(worker); /* staged packets may have gone out */
}

static int read_tun(struct ws_worker *worker)
{
	struct mmsg_state *state = worker->io_state;
	uint8_t *frame = state->buffers + (size_t)(WS_RX_BUFFERS + WS_TX_BUFFERS) * WS_BUFFER_BYTES;

	for (int i = 0; i < WS_TUN_READS; i++) {
		ssize_t n = read(worker->tun_fd, frame, WS_BUFFER_BYTES);

		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return -errno;
		if (n < 0)
			break;
		ws_add(worker->stats.tun_reads, 1);
		ws_send_packet(worker, frame, (size_t)n);
	}
	ws_seal_flush(worker);
	return 0;
}

static int mmsg_turn(struct ws_worker *worker)
{
	struct mmsg_state *state = worker->io_state;
	struct epoll_event events[EVENTS];
	uint64_t gather_ns = ws_turn_gather_ns(worker);
	uint64_t wait_ns;
	struct timespec wait;
	int n, error = 0;

	if (gather_ns)
		ws_turn_gather(gather_ns);
	wait_ns = ws_turn_may_sleep(worker) ? ws_turn_wait_ns(worker) : 0;
	wait.tv_sec = (time_t)(wait_ns / WS_SECOND_NS);
	wait.tv_nsec = (long)(wait_ns % WS_SECOND_NS);
	n = epoll_pwait2(state->epoll_fd, events, EVENTS, wait_ns == UINT64_MAX ? NULL : &wait,
			 NULL);
	/* Linux before 5.11: whole milliseconds. */
	if (n < 0 && errno == ENOSYS)
		n = epoll_wait(state->epoll_fd, events, EVENTS,
			       wait_ns == UINT64_MAX ? -1 : (int)((wait_ns + 999999) / 1000000));

	worker->now_ns = ws_now_ns();
	for (int i = 0; i < n && !error; i++) {
		uint32_t tag = events[i].data.u32;
		uint64_t count;

		if (tag == TAG_WAKE) {
			(void)!read(worker->wake_fd, &count, sizeof(count));
			continue;
		}
		ws_turn_busy(worker);
		if (tag == TAG_TUN)
			error = read_tun(worker);
		else
			receive(worker, (int)tag);
	}
	return error;
}

const struct ws_io_ops ws_mmsg_ops = {
	.name = "mmsg",
	.backend = WS_BACKEND_MMSG,
	.init = mmsg_init,
	.destroy = mmsg_destroy,
	.socket_added = mmsg_socket_added,
	.socket_removed = mmsg_socket_removed,
	.turn = mmsg_turn,
	.tx_get = mmsg_tx_get,
	.tx_submit = mmsg_tx_submit,
	.tx_flush = mmsg_tx_flush,
	.tun_write = mmsg_tun_write,
};
