/* SPDX-License-Identifier: MIT */
/*
 * Nanoseconds per packet of the four copies between kernel and user that the
 * data plane makes of every packet, with no crypto and no other end:
 *
 *   tun-read     read() of a super-packet from a TUN device with IFF_VNET_HDR
 *   udp-send     sendmsg() of as many datagrams as one takes, UDP_SEGMENT
 *   udp-receive  recvmsg() of the same, UDP_GRO
 *   tun-write    write() of a super-packet to the TUN device
 *
 * A packet is 1,420 bytes, a datagram 1,452 (the packet and WireGuard's 32); a
 * super-packet has 46 packets with one head, a send 45 datagrams. Each figure is
 * the whole call, so it has in it what the call does besides copying: its entry,
 * the socket buffer, the way through UDP/IP over loopback to the other socket's
 * queue (udp-send), and the IP layer's drop of a packet for an interface without
 * an address (tun-write). Filling the queue that a read empties is outside the
 * time. A round is BATCH super-packets, more than the first-level cache holds and
 * less than the last level: as it is where one core writes and another reads.
 *
 * Best of several rounds. In a network namespace of its own, which ends with the
 * process; needs root. Exit status 2: this kernel or user cannot do it.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "packets.h"
#include "udp/udp_options.h"

#define ROUNDS 500
#define BATCH 16
#define PACKET 1420
#define SEGMENT (PACKET - 52) /* TCP with timestamps over IPv4 */
#define SEGMENTS 46
#define DATAGRAM (PACKET + 32)
#define DATAGRAMS 45
#define ROOM 66048 /* WS_BUFFER_BYTES */
#define WAIT_S 2

static uint8_t payload[SEGMENTS * SEGMENT], super[sizeof(struct virtio_net_hdr) + 65536];
static uint8_t buffers[BATCH][ROOM];
static size_t super_bytes;

_Static_assert(SEGMENTS *SEGMENT + 52 <= 65535, "one IP packet");
_Static_assert(DATAGRAMS *DATAGRAM <= 65507, "one send");

static void give_up(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(2);
}

static uint64_t clock_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void must(long got, size_t wanted, const char *what)
{
	if (got < 0)
		give_up(what);
	if ((size_t)got != wanted) {
		fprintf(stderr, "%s: %ld bytes instead of %zu\n", what, got, wanted);
		exit(2);
	}
}

static void set_up_interface(const char *name)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq request;

	memset(&request, 0, sizeof(request));
	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
	if (fd < 0 || ioctl(fd, SIOCGIFFLAGS, &request))
		give_up(name);
	request.ifr_flags |= IFF_UP;
	if (ioctl(fd, SIOCSIFFLAGS, &request))
		give_up(name);
	close(fd);
}

static int open_tun(char *name)
{
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC), vnet = sizeof(struct virtio_net_hdr);
	struct ifreq request;

	memset(&request, 0, sizeof(request));
	request.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR;
	if (fd < 0 || ioctl(fd, TUNSETIFF, &request))
		give_up("a TUN device");
	if (ioctl(fd, TUNSETVNETHDRSZ, &vnet) ||
	    ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6))
		give_up("the TUN device's offloads");
	memcpy(name, request.ifr_name, IFNAMSIZ);
	return fd;
}

/* Puts super-packets into the TUN device's queue, as a TCP of this host would. */
static int open_feeder(const char *tun, struct sockaddr_ll *to)
{
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0), one = 1;

	memset(to, 0, sizeof(*to));
	to->sll_family = AF_PACKET;
	to->sll_protocol = htons(ETH_P_IP);
	to->sll_ifindex = (int)if_nametoindex(tun);
	if (fd < 0 || setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &one, sizeof(one)))
		give_up("a packet socket");
	return fd;
}

static void build_super(void)
{
	struct virtio_net_hdr vnet = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
				      .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
				      .hdr_len = 52,
				      .gso_size = SEGMENT,
				      .csum_start = 20,
				      .csum_offset = 16};
	struct model m = {.version = 4,
			  .protocol = 6,
			  .ttl = 64,
			  .fragment = 0x4000,
			  .flags = 0x10,
			  .tcp_options = 12,
			  .option_fill = 1,
			  .source_port = 1000,
			  .target_port = 2000,
			  .payload = payload,
			  .payload_bytes = sizeof(payload)};

	super_bytes = model_build(&m, super + sizeof(vnet));
	model_make_partial(&m, super + sizeof(vnet), super_bytes);
	memcpy(super, &vnet, sizeof(vnet));
	super_bytes += sizeof(vnet);
}

static uint64_t tun_read(int tun, int feeder, const struct sockaddr_ll *to)
{
	uint64_t start;

	for (int i = 0; i < BATCH; i++)
		must(sendto(feeder, super, super_bytes, 0, (const struct sockaddr *)to,
			    sizeof(*to)),
		     super_bytes, "feeding the TUN device");
	start = clock_ns();
	for (int i = 0; i < BATCH; i++) {
		ssize_t got = read(tun, buffers[i], ROOM);

		/* The kernel looks for IPv6 routers there at times. */
		if (got > 0 && got < 200)
			i--;
		else
			must(got, super_bytes, "tun-read");
	}
	return clock_ns() - start;
}

static uint64_t tun_write(int tun)
{
	uint64_t start = clock_ns();

	for (int i = 0; i < BATCH; i++)
		must(write(tun, buffers[i], super_bytes), super_bytes, "tun-write");
	return clock_ns() - start;
}

static uint64_t udp_send(int from)
{
	uint64_t start = clock_ns();

	for (int i = 0; i < BATCH; i++) {
		_Alignas(struct cmsghdr) uint8_t control[CMSG_SPACE(sizeof(uint16_t))] = {0};
		struct iovec iov = {buffers[i], DATAGRAMS * DATAGRAM};
		struct msghdr msg = {.msg_iov = &iov,
				     .msg_iovlen = 1,
				     .msg_control = control,
				     .msg_controllen = sizeof(control)};
		struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
		uint16_t size = DATAGRAM;

		c->cmsg_level = SOL_UDP;
		c->cmsg_type = UDP_SEGMENT;
		c->cmsg_len = CMSG_LEN(sizeof(size));
		memcpy(CMSG_DATA(c), &size, sizeof(size));
		must(sendmsg(from, &msg, 0), DATAGRAMS * DATAGRAM, "udp-send");
	}
	return clock_ns() - start;
}

static uint64_t udp_receive(int to)
{
	struct pollfd readable = {.fd = to, .events = POLLIN};
	uint64_t start;

	/* The kernel may put off what a send to loopback delivers. A round that waits is not the best. */
	if (poll(&readable, 1, WAIT_S * 1000) < 0)
		give_up("poll");
	start = clock_ns();
	for (int i = 0; i < BATCH; i++) {
		_Alignas(struct cmsghdr) uint8_t control[64];
		struct iovec iov = {buffers[i], ROOM};
		struct msghdr msg = {.msg_iov = &iov,
				     .msg_iovlen = 1,
				     .msg_control = control,
				     .msg_controllen = sizeof(control)};

		must(recvmsg(to, &msg, 0), DATAGRAMS * DATAGRAM, "udp-receive");
	}
	return clock_ns() - start;
}

static void open_pair(int *from, int *to)
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(at);
	struct timeval wait = {.tv_sec = WAIT_S};
	int one = 1, room = 16 << 20;

	*from = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	*to = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (*from < 0 || *to < 0 || bind(*to, (struct sockaddr *)&at, len) ||
	    getsockname(*to, (struct sockaddr *)&at, &len) ||
	    connect(*from, (struct sockaddr *)&at, len))
		give_up("two UDP sockets");
	if (setsockopt(*to, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room)) ||
	    setsockopt(*from, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room)) ||
	    setsockopt(*to, SOL_UDP, UDP_GRO, &one, sizeof(one)) ||
	    setsockopt(*to, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait)))
		give_up("the UDP sockets' options");
}

static void keep_least(uint64_t *best, uint64_t took)
{
	if (took < *best)
		*best = took;
}

static void tell(const char *what, uint64_t ns, int packets)
{
	printf("%s: %.1f ns a packet\n", what, (double)ns / BATCH / packets);
}

int main(void)
{
	uint64_t read_ns = UINT64_MAX, send_ns = UINT64_MAX, receive_ns = UINT64_MAX;
	uint64_t write_ns = UINT64_MAX;
	struct sockaddr_ll device;
	int tun, feeder, from, to;
	char name[IFNAMSIZ];

	if (unshare(CLONE_NEWNET))
		give_up("a network namespace");
	set_up_interface("lo");
	tun = open_tun(name);
	set_up_interface(name);
	feeder = open_feeder(name, &device);
	open_pair(&from, &to);
	memset(payload, 0x5a, sizeof(payload));
	build_super();
	for (int round = 0; round < ROUNDS; round++) {
		/* In the order of a packet's way, each in the buffers that the one before filled. */
		keep_least(&read_ns, tun_read(tun, feeder, &device));
		keep_least(&send_ns, udp_send(from));
		keep_least(&receive_ns, udp_receive(to));
		for (int i = 0; i < BATCH; i++)
			memcpy(buffers[i], super, super_bytes);
		keep_least(&write_ns, tun_write(tun));
	}
	tell("tun-read", read_ns, SEGMENTS);
	tell("udp-send", send_ns, DATAGRAMS);
	tell("udp-receive", receive_ns, DATAGRAMS);
	tell("tun-write", write_ns, SEGMENTS);
	return 0;
}
