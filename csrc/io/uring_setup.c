/* SPDX-License-Identifier: MIT */
/* The io_uring backend's rings, buffers and registered files: made once, given back at the end. */
#include "io/uring.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PROBE_WAIT_NS 100000000

static int make_buffer_ring(struct uring_state *state, struct buffer_ring *ring, int group,
			    uint32_t count, uint32_t bytes)
{
	struct io_uring_buf_reg reg = {.ring_entries = count, .bgid = (uint16_t)group};
	void *memory = mmap(NULL, count * sizeof(struct io_uring_buf), PROT_READ | PROT_WRITE,
			    MAP_ANONYMOUS | MAP_PRIVATE, -1, 0);
	int error;

	if (memory == MAP_FAILED)
		return -ENOMEM;
	ring->ring = memory;
	ring->count = count;
	ring->bytes = bytes;
	reg.ring_addr = (uintptr_t)memory;
	error = io_uring_register_buf_ring(&state->ring, &reg, 0);
	if (error) {
		munmap(memory, count * sizeof(struct io_uring_buf));
		ring->ring = NULL;
		return error;
	}
	io_uring_buf_ring_init(ring->ring);
	for (uint32_t i = 0; i < count; i++)
		ws_uring_give_buffer(ring, (uint16_t)i);
	return 0;
}

static void tear_down(struct uring_state *state)
{
	if (state->ring_ready) {
		if (!state->enabled)
			(void)io_uring_unregister_files(&state->ring);
		io_uring_queue_exit(&state->ring);
	}
	if (state->rx.ring)
		munmap(state->rx.ring, state->rx.count * sizeof(struct io_uring_buf));
	if (state->tun.ring)
		munmap(state->tun.ring, state->tun.count * sizeof(struct io_uring_buf));
	if (state->memory)
		munmap(state->memory, state->memory_bytes);
	free(state);
}

void ws_uring_destroy(struct ws_worker *worker)
{
	struct uring_state *state = worker->io_state;

	if (state)
		tear_down(state);
	worker->io_state = NULL;
}

static int make_ring(struct uring_state *state, struct ws_uring_parts *parts)
{
	/*
	 * The worker's thread enables the ring and is its single issuer from
	 * then on. Older kernels know fewer flags.
	 */
	static const unsigned int flags[] = {
		IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
		IORING_SETUP_COOP_TASKRUN,
	};
	int error = -ENOTSUP;

	for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
		struct io_uring_params params = {
			.flags = flags[i] | IORING_SETUP_R_DISABLED | IORING_SETUP_CQSIZE,
			.cq_entries = CQ_ENTRIES,
		};

		error = io_uring_queue_init_params(SQ_ENTRIES, &state->ring, &params);
		if (i == 0)
			parts->deferred = error;
		if (!error) {
			state->ring_ready = true;
			return 0;
		}
	}
	return error;
}

static int register_files(struct uring_state *state, int tun_fd, int wake_fd)
{
	int fds[2] = {tun_fd, wake_fd};
	int error = io_uring_register_files_sparse(&state->ring, FILE_SOCKET + WS_MAX_SOCKETS);

	if (error)
		return error;
	error = io_uring_register_files_update(&state->ring, FILE_TUN, fds, 2);
	return error < 0 ? error : 0;
}

static const struct ws_uring_parts untried = {WS_PART_UNTRIED, WS_PART_UNTRIED, WS_PART_UNTRIED,
					      WS_PART_UNTRIED, WS_PART_UNTRIED, WS_PART_UNTRIED};

/* Ring, buffers and registered files, and in `parts` (all untried so far) what they are made of. */
static int set_up(struct uring_state *state, int tun_fd, int wake_fd, struct ws_uring_parts *parts)
{
	size_t rx_bytes = (size_t)RX_BUFFERS * RX_BUFFER_BYTES;
	size_t tun_bytes = (size_t)TUN_BUFFERS * WS_BUFFER_BYTES;
	struct io_uring_probe *probe;

	state->memory_bytes = rx_bytes + tun_bytes + (size_t)(TX_SLOTS + 1) * WS_BUFFER_BYTES;
	state->memory = mmap(NULL, state->memory_bytes, PROT_READ | PROT_WRITE,
			     MAP_ANONYMOUS | MAP_PRIVATE, -1, 0);
	if (state->memory == MAP_FAILED) {
		state->memory = NULL;
		return -ENOMEM;
	}
	state->rx.buffers = state->memory;
	state->tun.buffers = state->memory + rx_bytes;
	state->tx_data = state->tun.buffers + tun_bytes;
	parts->ring = make_ring(state, parts);
	if (parts->ring) {
		parts->deferred = WS_PART_UNTRIED; /* for want of all, not of itself */
		return parts->ring;
	}
	probe = io_uring_get_probe_ring(&state->ring);
	state->multishot_read = probe && io_uring_opcode_supported(probe, OP_READ_MULTISHOT);
	io_uring_free_probe(probe);
	parts->multishot_read = state->multishot_read ? 0 : -EOPNOTSUPP;
	parts->buffer_ring =
		make_buffer_ring(state, &state->rx, GROUP_RX, RX_BUFFERS, RX_BUFFER_BYTES);
	if (!parts->buffer_ring)
		parts->buffer_ring = make_buffer_ring(state, &state->tun, GROUP_TUN, TUN_BUFFERS,
						      WS_BUFFER_BYTES);
	parts->registered_files = register_files(state, tun_fd, wake_fd);
	state->receive.msg_namelen = NAME_BYTES;
	state->receive.msg_controllen = WS_CONTROL_BYTES;
	return parts->buffer_ring ? parts->buffer_ring : parts->registered_files;
}

/*
 * Once enabled the ring does what the backend asks of it and nothing else: no
 * filter of system calls sees its operations. A kernel that cannot (none that
 * has the rest) goes on without.
 */
static void restrict_ring(struct uring_state *state)
{
	static const uint8_t operations[] = {
		IORING_OP_READ,	   OP_READ_MULTISHOT, IORING_OP_WRITEV,	      IORING_OP_SENDMSG,
		IORING_OP_RECVMSG, IORING_OP_TIMEOUT, IORING_OP_ASYNC_CANCEL,
	};
	enum { OPERATIONS = sizeof(operations) / sizeof(operations[0]) };
	struct io_uring_restriction list[OPERATIONS + 3] = {
		{.opcode = IORING_RESTRICTION_REGISTER_OP,
		 .register_op = IORING_REGISTER_FILES_UPDATE},
		/* At the end, or ports and the device stay taken until the kernel ends the ring. */
		{.opcode = IORING_RESTRICTION_REGISTER_OP, .register_op = IORING_UNREGISTER_FILES},
		{.opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED,
		 .sqe_flags = IOSQE_FIXED_FILE | IOSQE_BUFFER_SELECT},
	};

	for (int i = 0; i < OPERATIONS; i++) {
		list[i + 3].opcode = IORING_RESTRICTION_SQE_OP;
		list[i + 3].sqe_op = operations[i];
	}
	/* By hand: liburing 2.3 declares the function but does not export it. */
	(void)syscall(__NR_io_uring_register, state->ring.ring_fd, IORING_REGISTER_RESTRICTIONS,
		      list, OPERATIONS + 3);
}

int ws_uring_init(struct ws_worker *worker)
{
	struct uring_state *state = calloc(1, sizeof(*state));
	struct ws_uring_parts parts = untried;
	int error;

	if (!state)
		return -ENOMEM;
	worker->io_state = state;
	error = set_up(state, worker->tun_fd, worker->wake_fd, &parts);
	if (error)
		return error;
	restrict_ring(state);
	for (uint16_t i = 0; i <= TX_SLOTS; i++)
		state->tx[i].tx.data = state->tx_data + (size_t)i * WS_BUFFER_BYTES;
	for (uint16_t i = 0; i < TX_SLOTS; i++)
		state->tx_free[state->tx_free_count++] = i;
	for (uint16_t i = 0; i < WRITE_SLOTS; i++)
		state->write_free[state->write_free_count++] = i;
	/* io_uring polls by itself, but gives -EAGAIN back from a non-blocking TUN device. */
	(void)fcntl(worker->tun_fd, F_SETFL, fcntl(worker->tun_fd, F_GETFL) & ~O_NONBLOCK);
	return 0;
}

int ws_uring_enable(struct uring_state *state)
{
	/* By hand: liburing 2.3 declares io_uring_enable_rings but does not export it. */
	if (syscall(__NR_io_uring_register, state->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL,
		    0))
		return -errno;
	state->enabled = true;
	return 0;
}

void ws_uring_prep_receive(const struct uring_state *state, struct io_uring_sqe *sqe, int number)
{
	io_uring_prep_recvmsg_multishot(sqe, FILE_SOCKET + number, (struct msghdr *)&state->receive,
					0);
	sqe->flags |= IOSQE_FIXED_FILE | IOSQE_BUFFER_SELECT;
	sqe->buf_group = GROUP_RX;
}

/* One datagram over loopback, by the request that a worker waits with: it has to stay armed. */
static int try_receive(struct uring_state *state)
{
	struct __kernel_timespec wait = {.tv_nsec = PROBE_WAIT_NS};
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000001)};
	socklen_t len = sizeof(to);
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int error;

	if (fd < 0)
		return -errno;
	if (bind(fd, (struct sockaddr *)&to, sizeof(to)) ||
	    getsockname(fd, (struct sockaddr *)&to, &len) ||
	    sendto(fd, "", 1, 0, (struct sockaddr *)&to, sizeof(to)) != 1) {
		close(fd);
		return WS_PART_UNTRIED; /* no loopback here: nothing learned */
	}
	error = io_uring_register_files_update(&state->ring, FILE_SOCKET, &fd, 1);
	close(fd); /* the ring holds it */
	if (error < 0)
		return error;
	error = ws_uring_enable(state);
	if (error)
		return error;
	sqe = io_uring_get_sqe(&state->ring);
	if (!sqe)
		return -EBUSY;
	ws_uring_prep_receive(state, sqe, 0);
	do
		error = io_uring_submit_and_wait_timeout(&state->ring, &cqe, 1, &wait, NULL);
	while (error == -EINTR);
	if (error < 0 && error != -ETIME)
		return error;
	if (io_uring_peek_cqe(&state->ring, &cqe))
		return WS_PART_UNTRIED; /* filtered, or late: nothing learned */
	error = cqe->res < 0 ? cqe->res : cqe->flags & IORING_CQE_F_MORE ? 0 : -EOPNOTSUPP;
	io_uring_cqe_seen(&state->ring, cqe);
	return error;
}

int ws_uring_probe(struct ws_uring_parts *parts)
{
	struct uring_state *state = calloc(1, sizeof(*state));
	int error;

	*parts = untried;
	if (!state)
		return -ENOMEM;
	error = set_up(state, -1, -1, parts);
	if (!error) {
		parts->multishot_receive = try_receive(state);
		if (parts->multishot_receive < 0)
			error = parts->multishot_receive;
	}
	tear_down(state);
	return error;
}
