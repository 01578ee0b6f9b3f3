/* SPDX-License-Identifier: MIT */
/* The io_uring backend's rings, buffers and registered files: made once, given back at the end. */
#include "uring.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>

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

void ws_uring_destroy(struct ws_worker *worker)
{
	struct uring_state *state = worker->io_state;

	if (!state)
		return;
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
	worker->io_state = NULL;
}

static int make_ring(struct uring_state *state)
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
		if (!error) {
			state->ring_ready = true;
			return 0;
		}
	}
	return error;
}

static int register_files(struct uring_state *state, const struct ws_worker *worker)
{
	int fds[2] = {worker->tun_fd, worker->wake_fd};
	int error = io_uring_register_files_sparse(&state->ring, FILE_SOCKET + WS_MAX_SOCKETS);

	if (error)
		return error;
	error = io_uring_register_files_update(&state->ring, FILE_TUN, fds, 2);
	return error < 0 ? error : 0;
}

int ws_uring_init(struct ws_worker *worker)
{
	struct uring_state *state = calloc(1, sizeof(*state));
	size_t rx_bytes = (size_t)RX_BUFFERS * RX_BUFFER_BYTES;
	size_t tun_bytes = (size_t)TUN_BUFFERS * WS_BUFFER_BYTES;
	struct io_uring_probe *probe;
	int error;

	if (!state)
		return -ENOMEM;
	worker->io_state = state;
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
	error = make_ring(state);
	if (error)
		return error;
	probe = io_uring_get_probe_ring(&state->ring);
	state->multishot_read = probe && io_uring_opcode_supported(probe, OP_READ_MULTISHOT);
	io_uring_free_probe(probe);
	error = make_buffer_ring(state, &state->rx, GROUP_RX, RX_BUFFERS, RX_BUFFER_BYTES);
	if (!error)
		error = make_buffer_ring(state, &state->tun, GROUP_TUN, TUN_BUFFERS,
					 WS_BUFFER_BYTES);
	if (!error)
		error = register_files(state, worker);
	if (error)
		return error;
	for (uint16_t i = 0; i <= TX_SLOTS; i++)
		state->tx[i].tx.data = state->tx_data + (size_t)i * WS_BUFFER_BYTES;
	for (uint16_t i = 0; i < TX_SLOTS; i++)
		state->tx_free[state->tx_free_count++] = i;
	for (uint16_t i = 0; i < WRITE_SLOTS; i++)
		state->write_free[state->write_free_count++] = i;
	state->receive.msg_namelen = NAME_BYTES;
	state->receive.msg_controllen = WS_CONTROL_BYTES;
	/* io_uring polls by itself, but gives -EAGAIN back from a non-blocking TUN device. */
	(void)fcntl(worker->tun_fd, F_SETFL, fcntl(worker->tun_fd, F_GETFL) & ~O_NONBLOCK);
	return 0;
}
