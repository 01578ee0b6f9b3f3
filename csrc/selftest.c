/* SPDX-License-Identifier: MIT */
/*
 * Whether UDP_SEGMENT and UDP_GRO carry bytes unharmed on this kernel, tried
 * over loopback. Some kernels corrupt batches of equal lengths (7.0 to 7.1.4);
 * an offload that fails is switched off and reported.
 */
#include "internal.h"

#include <errno.h>
#include <netinet/udp.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

#define STRIDE 1200
#define COUNT 16
#define LAST 700 /* the last datagram is shorter */
#define TOTAL (STRIDE * (COUNT - 1) + LAST)
#define WAIT_MS 100

enum outcome { BROKEN, SOUND, UNKNOWN };

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
static enum outcome collect(int fd)
{
	static __thread uint8_t data[WS_BUFFER_BYTES];
	size_t at = 0;

	while (at < TOTAL) {
		struct pollfd wait = {.fd = fd, .events = POLLIN};
		ssize_t got;

		if (poll(&wait, 1, WAIT_MS) != 1)
			return BROKEN;
		got = recv(fd, data, sizeof(data), 0);
		if (got <= 0 || at + (size_t)got > TOTAL || !intact(data, (size_t)got, at))
			return BROKEN;
		at += (size_t)got;
	}
	return SOUND;
}

static enum outcome attempt(bool gso, bool gro)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000001)};
	uint8_t data[TOTAL];
	socklen_t len = sizeof(to);
	enum outcome outcome = UNKNOWN;
	const int one = 1, stride = STRIDE;
	int in = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int out = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	for (size_t i = 0; i < TOTAL; i++)
		data[i] = pattern(i);
	if (in < 0 || out < 0 || bind(in, (struct sockaddr *)&to, sizeof(to)) ||
	    getsockname(in, (struct sockaddr *)&to, &len) ||
	    connect(out, (struct sockaddr *)&to, sizeof(to)))
		goto done; /* no loopback here: nothing learned */
	outcome = BROKEN;
	if ((gro && setsockopt(in, IPPROTO_UDP, UDP_GRO, &one, sizeof(one))) ||
	    (gso && setsockopt(out, IPPROTO_UDP, UDP_SEGMENT, &stride, sizeof(stride))))
		goto done; /* this kernel does not have it */
	if (gso) {
		if (send(out, data, TOTAL, 0) != TOTAL)
			goto done;
	} else {
		for (size_t at = 0; at < TOTAL; at += STRIDE)
			if (send(out, data + at, at + STRIDE <= TOTAL ? STRIDE : LAST, 0) < 0)
				goto done;
	}
	outcome = collect(in);
done:
	if (in >= 0)
		close(in);
	if (out >= 0)
		close(out);
	return outcome;
}

uint32_t ws_offload_selftest(void)
{
	uint32_t broken = 0;

	if (attempt(false, false) != SOUND)
		return 0; /* loopback itself is not up: trust the kernel, sends have a rescue */
	if (attempt(true, false) == BROKEN)
		broken |= WS_NO_UDP_GSO;
	if (attempt(false, true) == BROKEN)
		broken |= WS_NO_UDP_GRO;
	if (!broken && attempt(true, true) == BROKEN)
		broken |= WS_NO_UDP_GSO | WS_NO_UDP_GRO;
	return broken;
}
