/* SPDX-License-Identifier: MIT */
/*
 * The io_uring backend: one system call a turn. Receives and TUN reads are
 * multishot into rings of provided buffers, sends and TUN writes are queued
 * and go out with the next wait. A receive buffer returns to the kernel when
 * the TUN writes queued in its turn are done.
 */
#include "io/uring.h"

#include "io/io.h"
#include "session/receive.h"
#include "session/rescue.h"
#include "session/seal.h"
#include "session/send.h"
#include "session/turn.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

static uint64_t tag(uint32_t what, uint32_t which)
{
	return (uint64_t)what << 32 | which;
}

static uint64_t socket_tag(const struct uring_state *state, int number)
{
	return tag(ON_SOCKET, state->socket_uses[number] << SOCKET_BITS | (uint32_t)number);
}

static struct io_uring_sqe *get_sqe(struct uring_state *state)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&state->ring);

	if (!sqe) {
		io_uring_submit(&state->ring);
		sqe = io_uring_get_sqe(&state->ring);
	}
	return sqe;
}

/* arming */

static void arm_tun(struct ws_worker *worker)
{
	struct uring_state *state = worker->io_state;
	struct io_uring_sqe *sqe = get_sqe(state);

	if (!sqe)
		return; /* tried again next turn */
	io_uring_prep_read(sqe, FILE_TUN, NULL, 0, (uint64_t)-1);
	if (state->multishot_read)
		sqe->opcode = OP_READ_MULTISHOT;
	else
		sqe->len = WS_BUFFER_BYTES;
	sqe->flags |= IOSQE_FIXED_FILE | IOSQE_BUFFER_SELECT;
	sqe->buf_group = GROUP_TUN;
	io_uring_sqe_set_data64(sqe, tag(ON_TUN, 0));
	state->tun_armed = true;
}

static void arm_wake(struct ws_worker *worker)
{
	struct uring_state *state = worker->io_state;
	struct io_uring_sqe *sqe = get_sqe(state);

	if (!sqe)
		return;
	io_uring_prep_read(sqe, FILE_WAKE, &state->wake_value, sizeof(state->wake_value), 0);
	sqe->flags |= IOSQE_FIXED_FILE;
	io_uring_sqe_set_data64(sqe, tag(ON_WAKE, 0));
	state->wake_armed = true;
}

/*
 * The kernel wakes a TUN device's readers before it takes the device from
 * them (tun_detach_all). A multishot read that runs in between finds nothing
 * to read, stays armed, and nothing wakes it again. So we look, too.
 */
static void arm_look(struct ws_worker *worker)
{
	struct uring_state *state = worker->io_state;
	struct io_uring_sqe *sqe = get_sqe(state);

	if (!sqe)
		return;
	state->look_every = (struct __kernel_timespec){.tv_sec = LOOK_SECONDS};
	io_uring_prep_timeout(sqe, &state->look_every, 0, 0);
	io_uring_sqe_set_data64(sqe, tag(ON_LOOK, 0));
	state->look_armed = true;
}

static int on_look(struct ws_worker *worker)
{
	/* Errors are always looked for. TUNGETIFF would tell as well, but takes the rtnl lock. */
	struct pollfd tun = {.fd = worker->tun_fd};

	return poll(&tun, 1, 0) > 0 && (tun.revents & POLLERR) ? -EBADFD : 0;
}

static void arm_socket(struct ws_worker *worker, int number)
{
	struct uring_state *state = worker->io_state;
	struct io_uring_sqe *sqe = get_sqe(state);

	if (!sqe)
		return;
	ws_uring_prep_receive(state, sqe, number);
	io_uring_sqe_set_data64(sqe, socket_tag(state, number));
	state->socket_armed[number] = true;
}

/* What ended (buffers ran out, an old kernel's single shot) starts again. */
static void arm_all(struct ws_worker *worker)
{
	struct uring_state *state = worker->io_state;

	if (!state->wake_armed)
		arm_wake(worker);
	if (!state->tun_armed && worker->tun_fd >= 0)
		arm_tun(worker);
	if (!state->look_armed && state->multishot_read && worker->tun_fd >= 0)
		arm_look(worker);
	for (int i = 0; i < WS_MAX_SOCKETS; i++)
		if (worker->sockets[i].fd >= 0 && !state->socket_armed[i])
			arm_socket(worker, i);
}

static int uring_socket_added(struct ws_worker *worker, int number)
{
	struct uring_state *state = worker->io_state;
	int fd = worker->sockets[number].fd;
	int error = io_uring_register_files_update(&state->ring, FILE_SOCKET + (unsigned)number,
						   &fd, 1);

	state->socket_armed[number] = false;
	state->socket_uses[number]++;
	return error < 0 ? error : 0;
}

/* Sees what is complete by now; see below. */
static void reap(struct ws_worker *worker);

/* Submits, and lets cancelled requests come to their end. False: the ring is of no use any more. */
static bool settle(struct ws_worker *worker)
{
	struct uring_state *state = worker->io_state;
	int error = io_uring_submit_and_wait(&state->ring, 1);

	reap(worker);
	return error >= 0 || error == -EINTR || error == -EBUSY || error == -EAGAIN;
}

/*
 * A pending receive holds the socket open, and with it its port: it has to be
 * over when this returns.
 */
static void uring_socket_removed(struct ws_worker *worker, int number)
{
	struct uring_state *state = worker->io_state;
	struct io_uring_sqe *sqe;
	int none = -1;

	if (state->socket_armed[number] && state->enabled) {
		sqe = get_sqe(state);
		if (sqe) {
			io_uring_prep_cancel64(sqe, socket_tag(state, number), 0);
			io_uring_sqe_set_data64(sqe, tag(ON_CANCELLED, 0));
		}
		for (int i = 0; sqe && i < CANCEL_TRIES && state->socket_armed[number]; i++)
			if (!settle(worker))
				break;
	}
	(void)io_uring_register_files_update(&state->ring, FILE_SOCKET + (unsigned)number, &none,
					     1);
}

static bool busy(const struct uring_state *state)
{
	if (state->tun_armed || state->wake_armed || state->tx_free_count < TX_SLOTS ||
	    state->write_free_count < WRITE_SLOTS)
		return true;
	for (int i = 0; i < WS_MAX_SOCKETS; i++)
		if (state->socket_armed[i])
			return true;
	return false;
}

/*
 * The kernel takes a ring apart some time after it was closed. What it still
 * held, ports and the TUN device, would stay taken till then.
 */
static void uring_stop(struct ws_worker *worker)
{
	struct uring_state *state = worker->io_state;
	struct io_uring_sqe *sqe;

	if (state->enabled) {
		sqe = get_sqe(state);
		if (sqe) {
			io_uring_prep_cancel64(sqe, 0,
					       IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL);
			io_uring_sqe_set_data64(sqe, tag(ON_CANCELLED, 0));
		}
		for (int i = 0; sqe && i < CANCEL_TRIES && busy(state); i++) {
			if (!settle(worker))
				break;
			state->backlog_count = 0; /* nobody looks at it any more */
		}
	}
	(void)io_uring_unregister_files(&state->ring);
}

/* sending */

static void send_now(struct ws_worker *worker, struct ws_tx *tx)
{
	const struct ws_socket *socket = ws_udp_socket(worker->sockets, tx);
	struct uring_state *state = worker->io_state;
	struct tx_slot *slot = (struct tx_slot *)tx;

	io_uring_submit(&state->ring); /* what is queued goes before it */
	if (!socket || (tx->no_gso && tx->count > 1)) {
		ws_rescue(worker, tx, 0);
		return;
	}
	ws_udp_fill(worker->sockets, tx, &slot->msg, &slot->iov, slot->control, true);
	ws_add(worker->stats.tx_batches, 1);
	if (sendmsg(socket->fd, &slot->msg, MSG_NOSIGNAL) < 0)
		ws_rescue(worker, tx, errno);
}

static void release_tx(struct uring_state *state, struct ws_tx *tx)
{
	uint16_t id = (uint16_t)((struct tx_slot *)tx - state->tx);

	if (id < TX_SLOTS)
		state->tx_free[state->tx_free_count++] = id;
}

static void uring_tx_submit(struct ws_worker *worker, struct ws_tx *tx)
{
	struct uring_state *state = worker->io_state;
	struct tx_slot *slot = (struct tx_slot *)tx;
	const struct ws_socket *socket = ws_udp_socket(worker->sockets, tx);
	struct io_uring_sqe *sqe = NULL;
	uint32_t id = (uint32_t)(slot - state->tx);

	if (socket && id < TX_SLOTS && !(tx->no_gso && tx->count > 1))
		sqe = get_sqe(state);
	if (!sqe) {
		send_now(worker, tx);
		release_tx(state, tx);
		return;
	}
	ws_udp_fill(worker->sockets, tx, &slot->msg, &slot->iov, slot->control, true);
	io_uring_prep_sendmsg(sqe, FILE_SOCKET + (int)(socket - worker->sockets), &slot->msg,
			      MSG_NOSIGNAL);
	sqe->flags |= IOSQE_FIXED_FILE;
	io_uring_sqe_set_data64(sqe, tag(ON_SENT, id));
	ws_add(worker->stats.tx_batches, 1);
}

static void on_sent(struct ws_worker *worker, uint32_t id, int res)
{
	struct uring_state *state = worker->io_state;

	if (res < 0)
		ws_rescue(worker, &state->tx[id].tx, -res);
	release_tx(state, &state->tx[id].tx);
}

static struct ws_tx *uring_tx_get(struct ws_worker *worker)
{
	struct uring_state *state = worker->io_state;

	if (!state->tx_free_count) {
		io_uring_submit(&state->ring);
		reap(worker);
	}
	if (!state->tx_free_count)
		return &state->tx[TX_SLOTS].tx;
	return &state->tx[state->tx_free[--state->tx_free_count]].tx;
}

static void uring_tx_flush(struct ws_worker *worker)
{
	(void)worker; /* the next wait submits */
}

/* TUN writes */

static void uring_tun_write(struct ws_worker *worker, const struct iovec *iov, uint32_t count,
			    uint32_t packets)
{
	struct uring_state *state = worker->io_state;
	struct io_uring_sqe *sqe = NULL;
	struct write_slot *slot;
	uint16_t id;

	ws_add(worker->stats.tun_writes, 1);
	if (worker->borrowed || !state->write_free_count) {
		io_uring_submit(&state->ring);
		reap(worker);
	}
	if (state->write_free_count && !worker->borrowed)
		sqe = get_sqe(state);
	if (!sqe) {
		/* Behind those queued already, so that order is kept. */
		ws_tun_written(worker, writev(worker->tun_fd, iov, (int)count), packets);
		return;
	}
	id = state->write_free[--state->write_free_count];
	slot = &state->writes[id];
	memcpy(slot->iov, iov, count * sizeof(*iov));
	memcpy(&slot->vnet, iov[0].iov_base, WS_VNET_BYTES);
	slot->iov[0].iov_base = &slot->vnet;
	slot->packets = packets;
	slot->epoch = state->epoch;
	state->outstanding[state->epoch]++;
	io_uring_prep_writev(sqe, FILE_TUN, slot->iov, count, 0);
	sqe->flags |= IOSQE_FIXED_FILE;
	io_uring_sqe_set_data64(sqe, tag(ON_WRITTEN, id));
}

static void on_written(struct ws_worker *worker, uint32_t id, int res)
{
	struct uring_state *state = worker->io_state;

	ws_tun_written(worker, res, state->writes[id].packets);
	state->outstanding[state->writes[id].epoch]--;
	state->write_free[state->write_free_count++] = (uint16_t)id;
}

/* What is to be received from has ended; it starts again with the next turn. */
static void note_end(struct uring_state *state, uint64_t user_data)
{
	uint32_t number = (uint32_t)user_data & ((1 << SOCKET_BITS) - 1);

	switch (user_data >> 32) {
	case ON_WAKE:
		state->wake_armed = false;
		break;
	case ON_TUN:
		state->tun_armed = false;
		break;
	case ON_LOOK:
		state->look_armed = false;
		break;
	case ON_SOCKET:
		if (user_data == socket_tag(state, (int)number))
			state->socket_armed[number] = false;
		break;
	default:
		break;
	}
}

/*
 * Frees TUN write slots and send buffers that are done; keeps the rest for the
 * next turn, which begins with it.
 */
static void reap(struct ws_worker *worker)
{
	struct uring_state *state = worker->io_state;
	struct io_uring_cqe *cqe;

	while (state->backlog_count < CQ_ENTRIES && !io_uring_peek_cqe(&state->ring, &cqe)) {
		uint32_t what = (uint32_t)(cqe->user_data >> 32);

		if (what == ON_SENT)
			on_sent(worker, (uint32_t)cqe->user_data, cqe->res);
		else if (what == ON_WRITTEN)
			on_written(worker, (uint32_t)cqe->user_data, cqe->res);
		else
			state->backlog[state->backlog_count++] =
				(struct completion){cqe->user_data, cqe->res, cqe->flags};
		if (!(cqe->flags & IORING_CQE_F_MORE))
			note_end(state, cqe->user_data);
		io_uring_cqe_seen(&state->ring, cqe);
	}
}

/* receiving */

static void on_datagrams(struct ws_worker *worker, const struct completion *done)
{
	struct uring_state *state = worker->io_state;
	int number = (int)(done->user_data & ((1 << SOCKET_BITS) - 1));
	struct io_uring_recvmsg_out *out;
	struct ws_rx rx = {.socket = number};
	struct msghdr msg = {0};
	uint8_t *buffer;
	uint16_t id;

	if (!(done->flags & IORING_CQE_F_BUFFER))
		return; /* out of buffers or cancelled */
	ws_turn_busy(worker);
	id = (uint16_t)(done->flags >> IORING_CQE_BUFFER_SHIFT);
	buffer = state->rx.buffers + (size_t)id * RX_BUFFER_BYTES;
	out = io_uring_recvmsg_validate(buffer, done->res, &state->receive);
	state->held[state->epoch][state->held_count[state->epoch]++] = id;
	if (!out || worker->sockets[number].fd < 0 || done->user_data != socket_tag(state, number))
		return; /* the socket is gone */
	if (out->flags & (MSG_TRUNC | MSG_CTRUNC)) {
		ws_drop(worker, WS_DROP_LENGTH, 1);
		return;
	}
	rx.from = io_uring_recvmsg_name(out);
	msg.msg_control = (uint8_t *)io_uring_recvmsg_name(out) + state->receive.msg_namelen;
	msg.msg_controllen = out->controllen;
	rx.data = io_uring_recvmsg_payload(out, &state->receive);
	rx.len = io_uring_recvmsg_payload_length(out, done->res, &state->receive);
	ws_udp_read_control(&worker->sockets[number], &msg, &rx);
	ws_receive(worker, &rx);
}

static int on_tun(struct ws_worker *worker, const struct completion *done)
{
	struct uring_state *state = worker->io_state;
	uint16_t id;

	if (!(done->flags & IORING_CQE_F_BUFFER)) {
		if (done->res < 0 && done->res != -ENOBUFS && done->res != -EINTR &&
		    done->res != -EAGAIN && done->res != -ECANCELED)
			return done->res;
		return 0;
	}
	id = (uint16_t)(done->flags >> IORING_CQE_BUFFER_SHIFT);
	if (done->res > 0) {
		ws_turn_busy(worker);
		ws_add(worker->stats.tun_reads, 1);
		ws_send_packet(worker, state->tun.buffers + (size_t)id * WS_BUFFER_BYTES,
			       (size_t)done->res);
	}
	ws_uring_give_buffer(&state->tun, id);
	return 0;
}

static int on_completion(struct ws_worker *worker, const struct completion *done)
{
	uint32_t which = (uint32_t)done->user_data;

	switch (done->user_data >> 32) {
	case ON_TUN:
		return on_tun(worker, done);
	case ON_LOOK:
		return on_look(worker);
	case ON_SOCKET:
		on_datagrams(worker, done);
		break;
	case ON_SENT:
		on_sent(worker, which, done->res);
		break;
	case ON_WRITTEN:
		on_written(worker, which, done->res);
		break;
	default:
		break;
	}
	return 0;
}

/* At the end of a turn: nothing of this epoch is open in the coalescer any more. */
static void release_held(struct uring_state *state)
{
	uint32_t other = state->epoch ^ 1;

	if (state->outstanding[other])
		return;
	while (state->held_count[other])
		ws_uring_give_buffer(&state->rx, state->held[other][--state->held_count[other]]);
	state->epoch = other;
	/* What queued no write need not wait. */
	if (!state->outstanding[other ^ 1])
		while (state->held_count[other ^ 1])
			ws_uring_give_buffer(
				&state->rx, state->held[other ^ 1][--state->held_count[other ^ 1]]);
}

/* What reap() set aside, also while this runs. */
static int run_backlog(struct ws_worker *worker)
{
	struct uring_state *state = worker->io_state;
	int error = 0;

	for (uint32_t i = 0; i < state->backlog_count && !error; i++)
		error = on_completion(worker, &state->backlog[i]);
	state->backlog_count = 0;
	return error;
}

static int submit_and_wait(struct ws_worker *worker, struct uring_state *state)
{
	uint64_t wait_ns = ws_turn_wait_ns(worker);
	struct __kernel_timespec wait = {
		.tv_sec = (long long)(wait_ns / WS_SECOND_NS),
		.tv_nsec = (long long)(wait_ns % WS_SECOND_NS),
	};
	struct io_uring_cqe *cqe;

	if (wait_ns == UINT64_MAX)
		return io_uring_submit_and_wait(&state->ring, 1);
	if (!wait_ns)
		return io_uring_submit_and_get_events(&state->ring);
	return io_uring_submit_and_wait_timeout(&state->ring, &cqe, 1, &wait, NULL);
}

static int uring_turn(struct ws_worker *worker)
{
	struct uring_state *state = worker->io_state;
	struct io_uring_cqe *cqe;
	bool wait = ws_turn_may_sleep(worker);
	uint64_t gather_ns;
	int error;

	if (!state->enabled) {
		error = ws_uring_enable(state);
		if (error)
			return error;
	}
	/*
	 * Set aside at the end of the last turn or since: no other completion
	 * would wake us for it.
	 */
	if (state->backlog_count) {
		wait = false;
		worker->now_ns = ws_now_ns();
		error = run_backlog(worker);
		if (error)
			return error;
	}
	arm_all(worker);
	gather_ns = wait ? ws_turn_gather_ns(worker) : 0;
	if (gather_ns) {
		/* What is queued must not wait with us. */
		(void)io_uring_submit(&state->ring);
		ws_turn_gather(gather_ns);
	}
	/* Without waiting the kernel must be entered all the same: it posts completions only then. */
	if (wait)
		error = submit_and_wait(worker, state);
	else
		error = io_uring_submit_and_get_events(&state->ring);
	if (error < 0 && error != -ETIME && error != -EINTR && error != -EBUSY && error != -EAGAIN)
		return error;
	worker->now_ns = ws_now_ns();
	error = 0;
	/* What is here now; what arrives meanwhile belongs to the next turn. */
	for (unsigned ready = io_uring_cq_ready(&state->ring); ready && !error; ready--) {
		struct completion done;

		if (io_uring_peek_cqe(&state->ring, &cqe))
			break;
		done = (struct completion){cqe->user_data, cqe->res, cqe->flags};
		io_uring_cqe_seen(&state->ring, cqe);
		if (!(done.flags & IORING_CQE_F_MORE))
			note_end(state, done.user_data);
		error = on_completion(worker, &done);
		/* reap() may have set some aside: they come first. */
		if (!error)
			error = run_backlog(worker);
	}
	ws_receive_flush(worker);
	ws_seal_flush(worker);
	release_held(state);
	return error;
}

const struct ws_io_ops ws_uring_ops = {
	.name = "io_uring",
	.backend = WS_BACKEND_URING,
	.init = ws_uring_init,
	.destroy = ws_uring_destroy,
	.socket_added = uring_socket_added,
	.socket_removed = uring_socket_removed,
	.stop = uring_stop,
	.turn = uring_turn,
	.tx_get = uring_tx_get,
	.tx_submit = uring_tx_submit,
	.tx_flush = uring_tx_flush,
	.tun_write = uring_tun_write,
};
