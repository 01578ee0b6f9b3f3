/* SPDX-License-Identifier: MIT */
/*
 * Whether UDP_SEGMENT and UDP_GRO carry bytes unharmed on this kernel, tried
 * over loopback. Some kernels corrupt batches of equal lengths (7.0 to 7.1.4);
 * an offload that fails is switched off and reported.
 */
#include "udp/udp.h"
#include "udp/udp_options.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#define STRIDE 1200
#define COUNT 16
#define LAST 700 /* the last datagram is shorter */
#define TOTAL (STRIDE * (COUNT - 1) + LAST)
#define WAIT_MS 100

static uint8_t pattern(size_t at)
{
	return (uint8_t)(at * 2654435761U >> 13);
}

static bool intact(const uint8_t *data, size_t len, size_t at)
{
	for (size_t i = 0; i < len; i++)
		if (data[i] != pattern(at + i))
			return false;
	return true;
}

/* Receives all COUNT datagrams, in as many pieces as the kernel makes of them. */
static int collect(int fd)
{
	static __thread uint8_t data[WS_BUFFER_BYTES];
	size_t at = 0;

	while (at < TOTAL) {
		struct pollfd wait = {.fd = fd, .events = POLLIN};
		ssize_t got;

		if (poll(&wait, 1, WAIT_MS) != 1)
			return -ETIME;
		got = recv(fd, data, sizeof(data), 0);
		if (got < 0)
			return -errno;
		if (!got || at + (size_t)got > TOTAL || !intact(data, (size_t)got, at))
			return -EBADMSG;
		at += (size_t)got;
	}
	return 0;
}

static int send_all(int fd, const uint8_t data[TOTAL], bool gso)
{
	size_t step = gso ? TOTAL : STRIDE;

	for (size_t at = 0; at < TOTAL; at += step) {
		size_t len = TOTAL - at < step ? TOTAL - at : step;
		ssize_t sent = send(fd, data + at, len, 0);

		if (sent != (ssize_t)len)
			return sent < 0 ? -errno : -EBADMSG;
	}
	return 0;
}

/* 0, a negative errno, or WS_PART_UNTRIED. */
static int attempt(bool gso, bool gro)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000001)};
	uint8_t data[TOTAL];
	socklen_t len = sizeof(to);
	int result = WS_PART_UNTRIED;
	const int one = 1, stride = STRIDE;
	int in = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int out = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	for (size_t i = 0; i < TOTAL; i++)
		data[i] = pattern(i);
	if (in < 0 || out < 0 || bind(in, (struct sockaddr *)&to, sizeof(to)) ||
	    getsockname(in, (struct sockaddr *)&to, &len) ||
	    connect(out, (struct sockaddr *)&to, sizeof(to)))
		goto done; /* no loopback here: nothing learned */
	if ((gro && setsockopt(in, IPPROTO_UDP, UDP_GRO, &one, sizeof(one))) ||
	    (gso && setsockopt(out, IPPROTO_UDP, UDP_SEGMENT, &stride, sizeof(stride)))) {
		result = -errno; /* this kernel does not have it */
		goto done;
	}
	result = send_all(out, data, gso);
	if (!result)
		result = collect(in);
done:
	if (in >= 0)
		close(in);
	if (out >= 0)
		close(out);
	return result;
}

static void try_buffers(struct ws_udp_parts *parts)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return;
	ws_udp_probe_buffers(fd, parts);
	close(fd);
}

uint32_t ws_offload_selftest(struct ws_udp_parts *parts)
{
	struct ws_udp_parts found = {.gso = WS_PART_UNTRIED,
				     .gro = WS_PART_UNTRIED,
				     .both = WS_PART_UNTRIED,
				     .receive_force = WS_PART_UNTRIED,
				     .send_force = WS_PART_UNTRIED};
	uint32_t broken = 0;

	found.loopback = attempt(false, false);
	/* If loopback itself is not up: trust the kernel, sends have a rescue. */
	if (!found.loopback) {
		found.gso = attempt(true, false);
		found.gro = attempt(false, true);
		if (found.gso < 0)
			broken |= WS_NO_UDP_GSO;
		if (found.gro < 0)
			broken |= WS_NO_UDP_GRO;
		if (!broken)
			found.both = attempt(true, true);
		if (found.both < 0)
			broken |= WS_NO_UDP_GSO | WS_NO_UDP_GRO;
	}
	if (parts) {
		try_buffers(&found);
		*parts = found;
	}
	return broken;
}
