/* SPDX-License-Identifier: MIT */
/*
 * A link between two TAP devices, with a rate, a delay, a jitter, a loss and a queue; the same both
 * ways. For kernels without netem: one process and two system calls a frame, where vde's switches
 * and wirefilter take six and lose frames in their own sockets.
 *
 *   linkemu TAP_A TAP_B SEED [whole]
 *
 * whole: super-packets (TSO, USO) cross as one frame of the length that their segments have on the
 * wire, as with network cards that cut and join them. For fast links, where a system call a segment
 * would be the limit; lost or dropped are all segments of one, so not for links that lose by chance.
 *
 * It makes the devices, prints "ready", and then takes lines on stdin, each answered by a line that
 * begins with the word "ok" or "bad":
 *
 *   set SERIAL RATE_BPS DELAY_NS JITTER_NS LOSS_PPM QUEUE_BYTES      rate 0: none
 *   record SERIAL DIRECTION FILE      0: A to B, 1: B to A; "-": no longer
 *   police SERIAL RATE_BPS BURST_BYTES      of UDP, each way; rate 0: no longer
 *
 * A recording takes the place of the rate: a line for each millisecond, the bytes that may leave in it;
 * at its end it begins again. What may leave and finds nothing waiting is lost (as with Mahimahi's
 * mm-link, Netravali et al., USENIX ATC 2015), so lumps, steps and handovers are recordings too. It
 * begins with the command. The policer drops what its bucket does not cover, before the queue.
 *
 * The answer to SERIAL tells what each direction (A to B, B to A) has seen so far. A frame is lost by
 * chance, else dropped when the queue before the bottleneck is full, else leaves it at the rate and
 * arrives a delay later, evenly spread by the jitter, never before the frame ahead of it. The queue
 * does not hold the delay line. The end of stdin ends it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000u
#define LINE_BYTES (64u << 20) /* of frames on their way, each direction */
#define FRAME_MAX 66048u
#define VNET_BYTES 10u
#define HEADER_BYTES 66u /* Ethernet, IPv4, TCP with timestamps: of each further segment */
#define BATCH 64
#define WAITING_MAX (1u << 16)
#define RECORDING_MAX_MS (3600u * 1000)
#define NS_PER_MS 1000000u
#define TICK_NS 50000 /* frames of one tick are handled together */
#define RATE_MAX 100000000000u
#define DELAY_MAX (60ull * NS_PER_S)

struct shape {
	uint64_t rate_bps, delay_ns, jitter_ns, loss_ppm, queue_bytes;
};

struct recording {
	uint32_t *bytes; /* NULL: none */
	uint64_t ms; /* of it */
	uint64_t began_ns;
	uint64_t at_ms; /* the millisecond whose credit is being used, since it began */
	uint64_t credit;
};

/* Of what waits before a recorded bottleneck. */
struct leaving {
	uint64_t at_ns;
	uint32_t bytes;
};

struct frame {
	uint64_t due_ns;
	uint32_t bytes;
	uint32_t skip; /* unused bytes behind it, up to the end of the line's memory */
};

struct direction {
	int from, to;
	uint8_t *memory;
	uint64_t head, tail; /* bytes ever put in and taken out */
	uint64_t free_ns; /* when the bottleneck has sent all that it has */
	uint64_t last_due_ns;
	uint64_t random;
	uint64_t in, out, lost, dropped;
	struct recording recording;
	struct leaving *waiting; /* a ring of WAITING_MAX */
	uint64_t first_waiting, last_waiting, waiting_bytes;
	uint64_t police_bps, police_burst_bytes, police_ns;
	double police_bytes; /* what the bucket covers */
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

/* splitmix64: two directions of one seed differ, and every state is fine. */
static uint64_t draw(struct direction *d)
{
	uint64_t z = (d->random += 0x9e3779b97f4a7c15u);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

static bool whole;

static int taps[2], tap_count;

/* Safe in a signal handler. */
static void forget_taps(void)
{
	for (int i = 0; i < tap_count; i++)
		(void)ioctl(taps[i], TUNSETPERSIST, 0);
}

static void on_signal(int number)
{
	(void)number;
	forget_taps();
	_exit(0);
}

/* Persistent for as long as we run, as hardware is: else it would be taken for a VPN's. */
static int open_tap(const char *name)
{
	struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | (whole ? IFF_VNET_HDR : 0)};
	unsigned offloads = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);

	if (strlen(name) >= sizeof(request.ifr_name)) {
		fprintf(stderr, "linkemu: %s: a name of at most 15 characters\n", name);
		exit(2);
	}
	strcpy(request.ifr_name, name);
	if (fd < 0 || ioctl(fd, TUNSETIFF, &request) < 0) {
		fprintf(stderr, "linkemu: %s: %s\n", name, strerror(errno));
		exit(1);
	}
	/* USO came with Linux 6.2. */
	if (whole && ioctl(fd, TUNSETOFFLOAD, offloads | TUN_F_USO4 | TUN_F_USO6) < 0)
		(void)ioctl(fd, TUNSETOFFLOAD, offloads);
	taps[tap_count++] = fd;
	(void)ioctl(fd, TUNSETPERSIST, 1);
	return fd;
}

/* A place for a frame of so many bytes, or NULL when the line is full. */
static struct frame *reserve(struct direction *d, uint32_t bytes)
{
	uint64_t need = (sizeof(struct frame) + bytes + 15) & ~15ull;
	uint64_t at = d->head % LINE_BYTES;
	uint64_t skip = LINE_BYTES - at < need + FRAME_MAX + 64 ? LINE_BYTES - at - need : 0;
	struct frame *frame = (struct frame *)(d->memory + at);

	if (d->head - d->tail + need + skip > LINE_BYTES)
		return NULL;
	frame->bytes = bytes;
	frame->skip = (uint32_t)skip;
	d->head += need + skip;
	return frame;
}

/* Of all its segments, with a header each. */
static uint32_t wire_bytes(const uint8_t *data, uint32_t bytes)
{
	struct virtio_net_hdr header;
	uint32_t payload;

	if (!whole)
		return bytes;
	if (bytes <= VNET_BYTES)
		return 0;
	memcpy(&header, data, VNET_BYTES);
	bytes -= VNET_BYTES;
	if (header.gso_type == VIRTIO_NET_HDR_GSO_NONE || !header.gso_size || bytes <= HEADER_BYTES)
		return bytes;
	payload = bytes - HEADER_BYTES;
	return bytes + (payload - 1) / header.gso_size * HEADER_BYTES;
}

/* When a frame leaves a recorded bottleneck; UINT64_MAX: its queue is full. */
static uint64_t leaves_recorded(struct direction *d, uint64_t queue_bytes, uint32_t wire,
				uint64_t now)
{
	struct recording *r = &d->recording;
	uint64_t waited = 0;

	while (d->first_waiting != d->last_waiting &&
	       d->waiting[d->first_waiting % WAITING_MAX].at_ns <= now)
		d->waiting_bytes -= d->waiting[d->first_waiting++ % WAITING_MAX].bytes;
	if (d->waiting_bytes + wire > queue_bytes ||
	    d->last_waiting - d->first_waiting == WAITING_MAX)
		return UINT64_MAX;
	if (d->first_waiting == d->last_waiting) {
		r->at_ms = (now - r->began_ns) / NS_PER_MS + 1;
		r->credit = r->bytes[r->at_ms % r->ms];
	}
	for (; r->credit < wire; waited++) {
		if (waited > 2 * r->ms) /* it brings nothing at all */
			return UINT64_MAX;
		r->credit += r->bytes[++r->at_ms % r->ms];
	}
	r->credit -= wire;
	now = r->began_ns + r->at_ms * NS_PER_MS;
	d->waiting[d->last_waiting++ % WAITING_MAX] = (struct leaving){now, wire};
	d->waiting_bytes += wire;
	return now;
}

static bool is_udp(const uint8_t *data, uint32_t bytes)
{
	if (whole) {
		if (bytes < VNET_BYTES)
			return false;
		data += VNET_BYTES;
		bytes -= VNET_BYTES;
	}
	if (bytes < 34)
		return false;
	return (data[12] == 8 && data[13] == 0 && data[23] == 17) ||
	       (data[12] == 0x86 && data[13] == 0xdd && data[20] == 17);
}

/* True: the policer drops it. */
static bool polices(struct direction *d, uint32_t wire, uint64_t now)
{
	d->police_bytes += (double)(now - d->police_ns) * (double)d->police_bps / 8e9;
	d->police_ns = now;
	if (d->police_bytes > (double)d->police_burst_bytes)
		d->police_bytes = (double)d->police_burst_bytes;
	if (d->police_bytes < wire)
		return true;
	d->police_bytes -= wire;
	return false;
}

static void take(struct direction *d, const struct shape *s, const uint8_t *data, uint32_t bytes,
		 uint64_t now)
{
	uint32_t wire = wire_bytes(data, bytes);
	uint64_t start = d->free_ns > now ? d->free_ns : now;
	uint64_t due;
	struct frame *frame;

	d->in++;
	if (s->loss_ppm && draw(d) % 1000000 < s->loss_ppm) {
		d->lost++;
		return;
	}
	if (d->police_bps && is_udp(data, bytes) && polices(d, wire, now)) {
		d->dropped++;
		return;
	}
	if (d->recording.bytes) {
		start = leaves_recorded(d, s->queue_bytes, wire, now);
		if (start == UINT64_MAX) {
			d->dropped++;
			return;
		}
	} else if (s->rate_bps) {
		double waiting = (double)(start - now) * (double)s->rate_bps / 8e9;

		if (waiting + wire > (double)s->queue_bytes) {
			d->dropped++;
			return;
		}
		start += (uint64_t)wire * 8 * NS_PER_S / s->rate_bps;
	}
	due = start + s->delay_ns;
	if (s->jitter_ns) {
		uint64_t spread = draw(d) % (2 * s->jitter_ns + 1);

		due = due + spread > s->jitter_ns ? due + spread - s->jitter_ns : 0;
	}
	if (due < d->last_due_ns)
		due = d->last_due_ns;
	frame = reserve(d, bytes);
	if (!frame) {
		d->dropped++;
		return;
	}
	d->free_ns = start;
	d->last_due_ns = due;
	frame->due_ns = due;
	memcpy(frame + 1, data, bytes);
}

static void take_all(struct direction *d, const struct shape *s)
{
	static uint8_t buffer[FRAME_MAX];

	for (int i = 0; i < BATCH; i++) {
		ssize_t got = read(d->from, buffer, sizeof(buffer));

		if (got <= 0)
			return;
		take(d, s, buffer, (uint32_t)got, now_ns());
	}
}

/* Returns when the next frame is due, or UINT64_MAX. */
static uint64_t deliver(struct direction *d, uint64_t now)
{
	while (d->tail != d->head) {
		struct frame *frame = (struct frame *)(d->memory + d->tail % LINE_BYTES);

		if (frame->due_ns > now)
			return frame->due_ns;
		/* A device that is down takes nothing: as with a cable, the frame is gone. */
		if (write(d->to, frame + 1, frame->bytes) == (ssize_t)frame->bytes)
			d->out++;
		d->tail += ((sizeof(*frame) + frame->bytes + 15) & ~15ull) + frame->skip;
	}
	return UINT64_MAX;
}

static bool parse(const char *line, struct shape *s, uint64_t *serial)
{
	struct shape new;
	int end = 0;

	if (sscanf(line,
		   "set %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 "%n",
		   serial, &new.rate_bps, &new.delay_ns, &new.jitter_ns, &new.loss_ppm,
		   &new.queue_bytes, &end) != 6 ||
	    line[end] != '\0')
		return false;
	if (new.rate_bps > RATE_MAX || new.delay_ns > DELAY_MAX || new.jitter_ns > new.delay_ns ||
	    new.loss_ppm > 1000000)
		return false;
	*s = new;
	return true;
}

/* The bytes of each millisecond, or NULL: it cannot be read, is empty, too long or brings nothing. */
static uint32_t *read_recording(const char *path, uint64_t *ms)
{
	FILE *file = fopen(path, "re");
	uint32_t *bytes = NULL;
	uint64_t have = 0, sum = 0;
	char line[32];

	if (!file)
		return NULL;
	*ms = 0;
	while (fgets(line, sizeof(line), file)) {
		char *end;
		unsigned long value = strtoul(line, &end, 10);

		if (end == line || *end != '\n' || value > UINT32_MAX || *line == '-' ||
		    *ms == RECORDING_MAX_MS)
			break;
		if (*ms == have) {
			uint32_t *more = realloc(bytes, (have = 2 * have + 4096) * sizeof(*more));

			if (!more)
				break;
			bytes = more;
		}
		bytes[(*ms)++] = (uint32_t)value;
		sum += value;
	}
	if (!feof(file) || !sum) {
		free(bytes);
		bytes = NULL;
	}
	fclose(file);
	return bytes;
}

static bool record(const char *line, struct direction d[2], uint64_t *serial)
{
	struct recording new = {.began_ns = now_ns()};
	unsigned which;
	char path[256];
	int end = 0;

	if (sscanf(line, "record %" SCNu64 " %u %255s%n", serial, &which, path, &end) != 3 ||
	    line[end] != '\0' || which > 1)
		return false;
	if (strcmp(path, "-")) {
		new.bytes = read_recording(path, &new.ms);
		if (!new.bytes)
			return false;
	}
	free(d[which].recording.bytes);
	d[which].recording = new;
	d[which].first_waiting = d[which].last_waiting = d[which].waiting_bytes = 0;
	d[which].free_ns = 0;
	return true;
}

static bool police(const char *line, struct direction d[2], uint64_t *serial)
{
	uint64_t rate, burst;
	int end = 0;

	if (sscanf(line, "police %" SCNu64 " %" SCNu64 " %" SCNu64 "%n", serial, &rate, &burst,
		   &end) != 3 ||
	    line[end] != '\0' || rate > RATE_MAX)
		return false;
	for (int i = 0; i < 2; i++) {
		d[i].police_bps = rate;
		d[i].police_burst_bytes = burst;
		d[i].police_bytes = (double)burst;
		d[i].police_ns = now_ns();
	}
	return true;
}

/* Read what stands on stdin; false at its end. */
static bool obey(struct shape *s, struct direction d[2])
{
	static char text[512];
	static size_t have;
	ssize_t got = read(STDIN_FILENO, text + have, sizeof(text) - have);
	char *end;

	if (got <= 0)
		return got < 0 && errno == EINTR;
	have += (size_t)got;
	while ((end = memchr(text, '\n', have))) {
		uint64_t serial = 0;
		size_t used = (size_t)(end - text) + 1;

		*end = '\0';
		if (parse(text, s, &serial) || record(text, d, &serial) ||
		    police(text, d, &serial)) {
			printf("ok %" PRIu64, serial);
			for (int i = 0; i < 2; i++)
				printf(" in %" PRIu64 " out %" PRIu64 " lost %" PRIu64
				       " dropped %" PRIu64,
				       d[i].in, d[i].out, d[i].lost, d[i].dropped);
			printf("\n");
		} else {
			printf("bad %s\n", text);
		}
		fflush(stdout);
		have -= used;
		memmove(text, text + used, have);
	}
	if (have == sizeof(text))
		have = 0;
	return true;
}

int main(int argc, char **argv)
{
	struct sched_param priority = {.sched_priority = 10};
	struct shape shape = {0};
	struct direction d[2] = {0};
	struct pollfd fds[3];

	if (argc != 4 && (argc != 5 || strcmp(argv[4], "whole"))) {
		fprintf(stderr, "usage: linkemu TAP_A TAP_B SEED [whole]\n");
		return 2;
	}
	whole = argc == 5;
	(void)atexit(forget_taps);
	(void)signal(SIGTERM, on_signal);
	(void)signal(SIGINT, on_signal);
	d[0].from = d[1].to = open_tap(argv[1]);
	d[1].from = d[0].to = open_tap(argv[2]);
	for (int i = 0; i < 2; i++) {
		d[i].random = strtoull(argv[3], NULL, 10) * 2 + (uint64_t)i;
		d[i].memory = malloc(LINE_BYTES);
		d[i].waiting = malloc(WAITING_MAX * sizeof(*d[i].waiting));
		if (!d[i].memory || !d[i].waiting) {
			fprintf(stderr, "linkemu: no memory for the line\n");
			return 1;
		}
		fds[i] = (struct pollfd){.fd = d[i].from, .events = POLLIN};
	}
	fds[2] = (struct pollfd){.fd = STDIN_FILENO, .events = POLLIN};
	/* A link does not wait for a busy processor. Without the right to it, it does. */
	(void)sched_setscheduler(0, SCHED_RR, &priority);
	(void)prctl(PR_SET_TIMERSLACK, 1000, 0, 0, 0);
	printf("ready\n");
	fflush(stdout);
	for (;;) {
		uint64_t now = now_ns();
		uint64_t one = deliver(&d[0], now), two = deliver(&d[1], now);
		uint64_t due = one < two ? one : two;
		struct timespec wait, *timeout = NULL;

		if (due != UINT64_MAX) {
			uint64_t left = due > now + TICK_NS ? due - now : TICK_NS;

			wait = (struct timespec){(time_t)(left / NS_PER_S),
						 (long)(left % NS_PER_S)};
			timeout = &wait;
		}
		if (ppoll(fds, 3, timeout, NULL) < 0 && errno != EINTR)
			return 1;
		for (int i = 0; i < 2; i++)
			if (fds[i].revents)
				take_all(&d[i], &shape);
		if (fds[2].revents && !obey(&shape, d))
			return 0;
	}
}
