/* SPDX-License-Identifier: MIT */
/* udpblast flood: forged datagrams at a rate. */
#define _GNU_SOURCE
#include "udpblast.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <netpacket/packet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static unsigned char *read_records(const struct options *o, size_t *count)
{
	FILE *file = fopen(o->records, "rb");
	struct stat about;
	unsigned char *memory;
	size_t size;

	if (!file || fstat(fileno(file), &about) < 0)
		die(o->records);
	size = (size_t)about.st_size;
	*count = size / o->size;
	if (!*count || *count * o->size != size || size > (64u << 20))
		refuse("--records: not a whole number of records of --size, or over 64 MiB");
	memory = malloc(size);
	if (!memory || fread(memory, 1, size, file) != size)
		die(o->records);
	fclose(file);
	return memory;
}

struct forged {
	struct ether_header ether;
	struct iphdr ip;
	struct udphdr udp;
} __attribute__((packed));

/* xorshift64: the sources need only differ */
static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* RFC 1071, of a header whose checksum field is 0. */
static uint16_t ip_checksum(struct iphdr ip)
{
	uint16_t words[sizeof(ip) / 2];
	uint32_t sum = 0;

	memcpy(words, &ip, sizeof(words));
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		sum += words[i];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

static void parse_mac(const char *text, uint8_t mac[ETH_ALEN])
{
	char rest;

	if (sscanf(text, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%c", &mac[0], &mac[1], &mac[2],
		   &mac[3], &mac[4], &mac[5], &rest) != ETH_ALEN)
		refuse("--mac: six bytes in hex, with colons");
}

/* Frames to a device past its queue: the generator's own way is as short as can be. */
static int packet_socket(const struct options *o)
{
	struct sockaddr_ll device = {.sll_family = AF_PACKET};
	int one = 1;
	/* Protocol 0: it receives nothing. */
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);

	device.sll_ifindex = (int)if_nametoindex(o->device);
	if (!device.sll_ifindex)
		die(o->device);
	if (fd < 0 || bind(fd, (struct sockaddr *)&device, sizeof(device)) < 0)
		die("a packet socket");
	setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof(one));
	set_buffer(fd, SO_SNDBUFFORCE, SO_SNDBUF);
	return fd;
}

int run_flood(const struct options *o)
{
	struct addrinfo *to = resolve(o);
	struct sockaddr_in remote;
	struct mmsghdr messages[BATCH];
	struct iovec parts[BATCH][2];
	struct forged headers[BATCH];
	struct result r = {0};
	uint64_t state = 0x9e3779b97f4a7c15ull ^ now_ns(), start, now, end;
	size_t records, next = 0;
	unsigned char *memory = read_records(o, &records);
	const size_t length = sizeof(struct iphdr) + sizeof(struct udphdr) + o->size;
	int fd;

	if (to->ai_family != AF_INET)
		refuse("flood: IPv4 only");
	memcpy(&remote, to->ai_addr, sizeof(remote));
	freeaddrinfo(to);
	memset(messages, 0, sizeof(messages));
	memset(headers, 0, sizeof(headers));
	for (int i = 0; i < BATCH; i++) {
		struct forged *h = &headers[i];

		parse_mac(o->mac, h->ether.ether_dhost);
		/* Locally administered: nobody's. */
		h->ether.ether_shost[0] = 2;
		h->ether.ether_type = htons(ETHERTYPE_IP);
		h->ip.version = 4;
		h->ip.ihl = 5;
		h->ip.ttl = 64;
		h->ip.protocol = IPPROTO_UDP;
		h->ip.tot_len = htons((uint16_t)length);
		h->ip.daddr = remote.sin_addr.s_addr;
		/* A UDP checksum of 0 means none (RFC 768). */
		h->udp.dest = remote.sin_port;
		h->udp.len = htons((uint16_t)(sizeof(h->udp) + o->size));
		parts[i][0] = (struct iovec){h, sizeof(*h)};
		parts[i][1].iov_len = o->size;
		messages[i].msg_hdr.msg_iov = parts[i];
		messages[i].msg_hdr.msg_iovlen = 2;
	}
	fd = packet_socket(o);

	start = now_ns();
	end = start + (uint64_t)(o->seconds * (double)NS_PER_S);
	for (now = start; now < end && !stopped && r.packets < COUNT_MAX;) {
		for (int i = 0; i < BATCH; i++) {
			const uint64_t random = next_random(&state);

			headers[i].ip.saddr = htonl(0xc6120000u | (uint32_t)(random & 0x1ffff));
			headers[i].ip.check = 0;
			headers[i].ip.check = ip_checksum(headers[i].ip);
			headers[i].udp.source = htons((uint16_t)(1024 + (random >> 40) % 60000));
			parts[i][1].iov_base = memory + next * o->size;
			next = next + 1 < records ? next + 1 : 0;
		}
		r.packets += (uint64_t)send_batch(fd, messages, BATCH, &r);
		if (hopeless(&r)) {
			errno = r.first_error;
			die("flood");
		}
		now = pace(start, r.packets, o->rate);
	}
	free(memory);
	close(fd);
	printf("{\"sent\": %" PRIu64 ", \"errors\": %" PRIu64 ", \"seconds\": %.6f}\n", r.packets,
	       r.errors, (double)(now - start) / (double)NS_PER_S);
	return 0;
}
