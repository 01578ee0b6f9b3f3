/* SPDX-License-Identifier: MIT */
/*
 * UDP load for the bench that is not itself the limit.
 *
 *   udpblast send  --to ADDR --port P --size N --seconds S [--gso] [--threads T] [--rate PPS]
 *                  [--index N] [--from-port P]
 *   udpblast sink  --listen ADDR --port P --seconds S [--gro]
 *   udpblast flood --to ADDR --port P --size N --seconds S --rate PPS --records FILE \
 *                  --device NAME --mac ADDRESS
 *
 * send:  datagrams of N bytes, 64 a system call; --gso: 64 (at most 64,000 bytes) a UDP_SEGMENT send.
 *        --index: each begins as a transport message with this receiver index; no sink counts them.
 * sink:  prints "ready" when bound, counts what comes, ends when nothing came for half a second
 *        after the first datagram, or after S seconds. --gro: takes runs of equal datagrams whole.
 * flood: IPv4 datagrams with forged source addresses (198.18.0.0/15, RFC 2544's) whose payloads
 *        are the N-byte records of a file, in turn; whole frames, straight to the device. Needs
 *        CAP_NET_RAW.
 *
 * Each prints one line of JSON at its end. Everything is bounded in time and count.
 */
#define _GNU_SOURCE
#include "udpblast.h"
#include "udp/udp_options.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct sender {
	const struct options *options;
	const struct addrinfo *to;
	struct result result;
	pthread_t thread;
	int fatal;
};

volatile sig_atomic_t stopped;

static void stop(int number)
{
	(void)number;
	stopped = 1;
}

uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

void die(const char *what)
{
	fprintf(stderr, "udpblast: %s: %s\n", what, strerror(errno));
	exit(1);
}

void refuse(const char *what)
{
	fprintf(stderr, "udpblast: %s\n", what);
	exit(2);
}

void set_buffer(int fd, int force, int plain)
{
	int bytes = SOCKET_BUFFER_BYTES;

	if (setsockopt(fd, SOL_SOCKET, force, &bytes, sizeof(bytes)) < 0)
		setsockopt(fd, SOL_SOCKET, plain, &bytes, sizeof(bytes));
}

struct addrinfo *resolve(const struct options *o)
{
	struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV,
				 .ai_socktype = SOCK_DGRAM};
	struct addrinfo *found;
	int error = getaddrinfo(o->address, o->port, &hints, &found);

	if (error)
		refuse(gai_strerror(error));
	return found;
}

uint64_t pace(uint64_t start, uint64_t sent, uint64_t rate)
{
	uint64_t now = now_ns();
	uint64_t due;
	struct timespec until;

	if (!rate)
		return now;
	due = start + (uint64_t)((double)sent * (double)NS_PER_S / (double)rate);
	if (due <= now)
		return now;
	until.tv_sec = (time_t)(due / NS_PER_S);
	until.tv_nsec = (long)(due % NS_PER_S);
	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
	return now_ns();
}

int send_batch(int fd, struct mmsghdr *messages, int count, struct result *r)
{
	int sent = sendmmsg(fd, messages, (unsigned int)count, 0);

	if (sent >= 0)
		return sent;
	if (errno != EINTR) {
		if (!r->errors)
			r->first_error = errno;
		r->errors++;
		if (errno == ENOBUFS || errno == EAGAIN)
			sched_yield();
	}
	return 0;
}

bool hopeless(const struct result *r)
{
	return r->errors >= 1000 && r->packets == 0;
}

static int bind_port(int fd, int family, uint64_t port)
{
	union {
		struct sockaddr any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	} at;

	memset(&at, 0, sizeof(at));
	at.any.sa_family = (sa_family_t)family;
	if (family == AF_INET)
		at.v4.sin_port = htons((uint16_t)port);
	else
		at.v6.sin6_port = htons((uint16_t)port);
	return bind(fd, &at.any, family == AF_INET ? sizeof(at.v4) : sizeof(at.v6));
}

static void *send_thread(void *argument)
{
	struct sender *s = argument;
	const struct options *o = s->options;
	size_t segments = 1;
	uint64_t rate = o->rate / (uint64_t)o->threads;
	uint64_t number = 0, start, now, end;
	struct mmsghdr messages[BATCH];
	struct iovec parts[BATCH];
	unsigned char *memory;
	int fd, batch = BATCH;

	if (o->gso) {
		segments = GSO_BYTES_MAX / o->size;
		if (segments > SEGMENTS_MAX)
			segments = SEGMENTS_MAX;
		batch = 4;
	}
	memory = calloc((size_t)batch * segments, o->size);
	fd = socket(s->to->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd >= 0 && o->from_port && bind_port(fd, s->to->ai_family, o->from_port)) {
		s->fatal = errno;
		goto out;
	}
	if (!memory || fd < 0 || connect(fd, s->to->ai_addr, s->to->ai_addrlen) < 0) {
		s->fatal = errno ? errno : ENOMEM;
		goto out;
	}
	set_buffer(fd, SO_SNDBUFFORCE, SO_SNDBUF);
	if (o->gso) {
		int bytes = (int)o->size;

		if (setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &bytes, sizeof(bytes)) < 0) {
			s->fatal = errno;
			goto out;
		}
	}
	memset(messages, 0, sizeof(messages));
	for (int i = 0; i < batch; i++) {
		parts[i].iov_base = memory + (size_t)i * segments * o->size;
		parts[i].iov_len = segments * o->size;
		messages[i].msg_hdr.msg_iov = &parts[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}

	start = now_ns();
	end = start + (uint64_t)(o->seconds * (double)NS_PER_S);
	for (now = start; now < end && !stopped && s->result.packets < COUNT_MAX;) {
		const uint64_t magic = o->index ? 4 | o->index << 32 : MAGIC;

		for (size_t i = 0; i < (size_t)batch * segments; i++, number++) {
			memcpy(memory + i * o->size, &magic, sizeof(magic));
			memcpy(memory + i * o->size + sizeof(magic), &number, sizeof(number));
		}
		s->result.packets +=
			(uint64_t)send_batch(fd, messages, batch, &s->result) * segments;
		if (hopeless(&s->result)) {
			s->fatal = s->result.first_error;
			break;
		}
		now = pace(start, s->result.packets, rate);
	}
	s->result.ns = now - start;
out:
	if (fd >= 0)
		close(fd);
	free(memory);
	return NULL;
}

static int run_send(const struct options *o)
{
	struct addrinfo *to = resolve(o);
	struct sender senders[THREADS_MAX];
	struct result all = {0};

	memset(senders, 0, sizeof(senders));
	for (int i = 0; i < o->threads; i++) {
		senders[i].options = o;
		senders[i].to = to;
		errno = pthread_create(&senders[i].thread, NULL, send_thread, &senders[i]);
		if (errno)
			die("a thread");
	}
	for (int i = 0; i < o->threads; i++) {
		pthread_join(senders[i].thread, NULL);
		if (senders[i].fatal) {
			errno = senders[i].fatal;
			die("send");
		}
		all.packets += senders[i].result.packets;
		all.errors += senders[i].result.errors;
		if (senders[i].result.ns > all.ns)
			all.ns = senders[i].result.ns;
	}
	freeaddrinfo(to);
	printf("{\"sent\": %" PRIu64 ", \"errors\": %" PRIu64 ", \"seconds\": %.6f}\n", all.packets,
	       all.errors, (double)all.ns / (double)NS_PER_S);
	return 0;
}

/* Datagrams in one received message: a run of equal ones where the kernel says so. */
static uint64_t datagrams_in(struct msghdr *header, size_t length)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c; c = CMSG_NXTHDR(header, c)) {
		int bytes;

		if (c->cmsg_level != IPPROTO_UDP || c->cmsg_type != UDP_GRO)
			continue;
		memcpy(&bytes, CMSG_DATA(c), sizeof(bytes));
		if (bytes > 0)
			return (length + (size_t)bytes - 1) / (size_t)bytes;
	}
	return 1;
}

static int bound_socket(const struct options *o)
{
	struct addrinfo *at = resolve(o);
	int one = 1;
	int fd = socket(at->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, at->ai_addr, at->ai_addrlen) < 0)
		die("bind");
	freeaddrinfo(at);
	set_buffer(fd, SO_RCVBUFFORCE, SO_RCVBUF);
	if (o->gro && setsockopt(fd, IPPROTO_UDP, UDP_GRO, &one, sizeof(one)) < 0)
		die("UDP_GRO");
	return fd;
}

static int run_sink(const struct options *o)
{
	size_t room = o->gro ? GRO_BYTES_MAX : PLAIN_BYTES_MAX;
	int fd = bound_socket(o);
	uint64_t received = 0, bytes = 0, foreign = 0, first = 0, last = 0, start, now;
	unsigned char *memory = malloc(BATCH * room);
	struct mmsghdr messages[BATCH];
	struct iovec parts[BATCH];
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} controls[BATCH];

	if (!memory)
		die("memory");
	memset(messages, 0, sizeof(messages));
	for (int i = 0; i < BATCH; i++) {
		parts[i].iov_base = memory + (size_t)i * room;
		parts[i].iov_len = room;
		messages[i].msg_hdr.msg_iov = &parts[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	printf("ready\n");
	fflush(stdout);

	start = now_ns();
	for (now = start; !stopped; now = now_ns()) {
		int got;

		if ((double)(now - start) > o->seconds * (double)NS_PER_S)
			break;
		if (last && now - last > (uint64_t)IDLE_MS * (NS_PER_S / 1000))
			break;
		if (o->gro) {
			for (int i = 0; i < BATCH; i++) {
				messages[i].msg_hdr.msg_control = controls[i].bytes;
				messages[i].msg_hdr.msg_controllen = sizeof(controls[i].bytes);
			}
		}
		/*
		 * A sink that sleeps in the socket is woken for each datagram, at its sender's cost:
		 * that would make the sink the limit.
		 */
		got = recvmmsg(fd, messages, BATCH, MSG_DONTWAIT, NULL);
		if (got < 0) {
			const struct timespec pause = {.tv_nsec = SINK_SLEEP_NS};

			if (errno != EAGAIN && errno != EINTR)
				die("recvmmsg");
			clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
			continue;
		}
		for (int i = 0; i < got; i++) {
			const size_t length = messages[i].msg_len;
			uint64_t magic = 0;

			if (length >= sizeof(magic))
				memcpy(&magic, parts[i].iov_base, sizeof(magic));
			if (magic != MAGIC) {
				foreign++;
				continue;
			}
			received += datagrams_in(&messages[i].msg_hdr, length);
			bytes += length;
		}
		last = now_ns();
		if (!first)
			first = last;
	}
	free(memory);
	close(fd);
	printf("{\"received\": %" PRIu64 ", \"bytes\": %" PRIu64 ", \"foreign\": %" PRIu64
	       ", \"seconds\": %.6f}\n",
	       received, bytes, foreign, (double)(last - first) / (double)NS_PER_S);
	return 0;
}

/* A whole number of [low, high], or the end. */
static uint64_t number_of(const char *name, const char *text, uint64_t low, uint64_t high)
{
	char *end;
	unsigned long long value;

	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno || *end || end == text || *text == '-' || value < low || value > high) {
		fprintf(stderr, "udpblast: --%s: a number from %" PRIu64 " to %" PRIu64 "\n", name,
			low, high);
		exit(2);
	}
	return value;
}

static struct options parse(int argc, char **argv)
{
	static const struct option known[] = {
		{"to", required_argument, NULL, 'a'},
		{"listen", required_argument, NULL, 'a'},
		{"port", required_argument, NULL, 'p'},
		{"size", required_argument, NULL, 's'},
		{"seconds", required_argument, NULL, 't'},
		{"threads", required_argument, NULL, 'n'},
		{"rate", required_argument, NULL, 'r'},
		{"index", required_argument, NULL, 'i'},
		{"from-port", required_argument, NULL, 'b'},
		{"records", required_argument, NULL, 'f'},
		{"device", required_argument, NULL, 'd'},
		{"mac", required_argument, NULL, 'm'},
		{"gso", no_argument, NULL, 'g'},
		{"gro", no_argument, NULL, 'G'},
		{NULL, 0, NULL, 0},
	};
	struct options o = {.size = 64, .seconds = 1, .threads = 1};
	char *end;
	int c;

	while ((c = getopt_long(argc, argv, "", known, NULL)) != -1) {
		switch (c) {
		case 'a':
			o.address = optarg;
			break;
		case 'p':
			number_of("port", optarg, 1, 65535);
			o.port = optarg;
			break;
		case 's':
			o.size = number_of("size", optarg, 16, PLAIN_BYTES_MAX);
			break;
		case 't':
			o.seconds = strtod(optarg, &end);
			if (*end || !(o.seconds > 0) || o.seconds > SECONDS_MAX)
				refuse("--seconds: more than 0, at most 300");
			break;
		case 'n':
			o.threads = (int)number_of("threads", optarg, 1, THREADS_MAX);
			break;
		case 'r':
			o.rate = number_of("rate", optarg, 1, 100000000);
			break;
		case 'i':
			o.index = number_of("index", optarg, 1, UINT32_MAX);
			break;
		case 'b':
			o.from_port = number_of("from-port", optarg, 1, 65535);
			break;
		case 'f':
			o.records = optarg;
			break;
		case 'd':
			o.device = optarg;
			break;
		case 'm':
			o.mac = optarg;
			break;
		case 'g':
			o.gso = true;
			break;
		case 'G':
			o.gro = true;
			break;
		default:
			exit(2);
		}
	}
	if (!o.address || !o.port)
		refuse("an address (--to, --listen) and --port are needed");
	return o;
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "";
	struct sigaction action = {.sa_handler = stop};
	struct options o;

	if (strcmp(mode, "send") && strcmp(mode, "sink") && strcmp(mode, "flood"))
		refuse("usage: udpblast send|sink|flood --help is the head of udpblast.c");
	o = parse(argc - 1, argv + 1);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	if (!strcmp(mode, "send"))
		return run_send(&o);
	if (!strcmp(mode, "sink"))
		return run_sink(&o);
	if (!o.records || !o.rate || !o.device || !o.mac)
		refuse("flood: --records, --rate, --device and --mac are needed");
	return run_flood(&o);
}
