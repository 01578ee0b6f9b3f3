/* SPDX-License-Identifier: MIT */
/* What udpblast.c (send, sink) and flood.c share. */
#ifndef UDPBLAST_H
#define UDPBLAST_H

#include <netdb.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

enum {
	BATCH = 64,
	/* UDP_MAX_SEGMENTS of the kernels before 6.9 */
	SEGMENTS_MAX = 64,
	GSO_BYTES_MAX = 64000,
	PLAIN_BYTES_MAX = 9216,
	GRO_BYTES_MAX = 65536,
	THREADS_MAX = 16,
	SECONDS_MAX = 300,
	SOCKET_BUFFER_BYTES = 32 << 20,
	IDLE_MS = 500,
	/* Between two looks at an empty socket; the buffer holds far more than what comes meanwhile. */
	SINK_SLEEP_NS = 250000,
};

#define NS_PER_S 1000000000ull
/* No run sends more than this, whatever it was told. */
#define COUNT_MAX 4000000000ull
/* Each datagram begins with it, so that the sink counts nothing else. */
#define MAGIC 0x5753424c41535431ull

struct options {
	const char *address;
	const char *records;
	const char *port;
	const char *device;
	const char *mac;
	size_t size;
	double seconds;
	uint64_t rate;
	uint64_t index; /* not 0: begin as a transport message for it */
	uint64_t from_port;
	int threads;
	bool gso;
	bool gro;
};

struct result {
	uint64_t packets;
	uint64_t errors;
	int first_error;
	uint64_t ns;
};

/* Set by SIGINT and SIGTERM. */
extern volatile sig_atomic_t stopped;

uint64_t now_ns(void);

/* Ends the program with errno's text (1), or for wrong words (2). */
_Noreturn void die(const char *what);
_Noreturn void refuse(const char *what);

/* The larger one where the capability is there; without it what the kernel grants has to do. */
void set_buffer(int fd, int force, int plain);

struct addrinfo *resolve(const struct options *o);

/* Sleeps until the packets already sent are due (rate 0: not at all); returns the time after it. */
uint64_t pace(uint64_t start, uint64_t sent, uint64_t rate);

/* Sends one batch; counts what the kernel did not take. Returns messages taken. */
int send_batch(int fd, struct mmsghdr *messages, int count, struct result *r);

/* Nothing was taken, and no later try will change that. */
bool hopeless(const struct result *r);

int run_flood(const struct options *o);

#endif
