/* SPDX-License-Identifier: MIT */
/*
 * Keeps what went into the coalescer and judges what comes out. Each write is
 * judged as Linux would judge it (virtio_net_hdr_to_skb), cut up again by
 * segment.c, and must give the packets that went in: none lost, none twice,
 * in order within each flow, byte for byte. The one exception is the id of
 * IPv4 packets with DF, which merge whatever it is.
 */
#ifndef WS_TEST_COALESCE_JUDGE_H
#define WS_TEST_COALESCE_JUDGE_H

#include "check.h"
#include "packet/coalesce.h"
#include "packet/ip.h"
#include "packet/segment.h"
#include "packets.h"

#include <stdio.h>
#include <stdlib.h>

#define MAX_PACKETS 400

/* A packet that went in, and what has to come out of it. */
struct sent {
	uint8_t *data; /* exactly sized */
	uint8_t *want; /* with complete checksums */
	size_t len;
	size_t checksum_at; /* 0: none that a trusted peer may leave partial */
	int flow; /* packets of one flow come out in their order */
	int hosts; /* with `opaque`: after everything from these hosts */
	bool opaque;
	bool out;
};

static struct sent sent[MAX_PACKETS];
static int sent_count, out_count;
static bool trusted_run;
static unsigned long merged_packets, merged_writes;
/* Packets of each write, for the tests that name them. */
static char pattern[4096];
static uint8_t filler[MODEL_MAX_PACKET];

static bool df_id_aside(const struct sent *s, const uint8_t *got)
{
	uint8_t copy[20];

	if (s->want[0] != 0x45 || !(s->want[6] & 0x40))
		return false;
	memcpy(copy, got, 20);
	if (model_sum(0, copy, 20) != 0xffff)
		return false;
	memcpy(copy + 4, s->want + 4, 2);
	memcpy(copy + 10, s->want + 10, 2);
	return !memcmp(copy, s->want, 20) && !memcmp(got + 20, s->want + 20, s->len - 20);
}

static bool equal(const struct sent *s, const uint8_t *got, size_t len, bool cut)
{
	static uint8_t copy[MODEL_MAX_PACKET];

	if (len != s->len)
		return false;
	if (!memcmp(got, s->want, len) || (cut && df_id_aside(s, got)))
		return true;
	if (!trusted_run || !s->checksum_at)
		return false;
	/* Where the kernel completes TCP's checksum, 0 and 0xffff are one. */
	memcpy(copy, got, len);
	if (copy[s->checksum_at] == 0xff && copy[s->checksum_at + 1] == 0xff)
		memset(copy + s->checksum_at, 0, 2);
	return !memcmp(copy, s->want, len) || (cut && df_id_aside(s, copy));
}

/* One packet came out: it must be the first one of its flow that is not out yet. */
static void take(const uint8_t *got, size_t len, bool cut)
{
	bool seen[64] = {false};

	for (int i = 0; i < sent_count; i++) {
		struct sent *s = &sent[i];

		if (s->out)
			continue;
		if (!seen[s->flow] && equal(s, got, len, cut)) {
			s->out = true;
			out_count++;
			for (int j = 0; s->opaque && j < i; j++)
				CHECK(sent[j].out || sent[j].hosts != s->hosts);
			return;
		}
		/* An opaque packet could be of any flow of its hosts: none overtakes it either. */
		for (int f = 0; f < 64; f++)
			if (f == s->flow)
				seen[f] = true;
	}
	CHECK(!"a packet that was not sent, or out of order");
}

/* What tun_get_user and virtio_net_hdr_to_skb refuse. */
static void judge(const struct virtio_net_hdr *vnet, const uint8_t *packet, size_t len)
{
	size_t l4 = packet[0] >> 4 == 4 ? (size_t)(packet[0] & 15) * 4 : 40;
	int protocol = packet[0] >> 4 == 4 ? packet[9] : packet[6];

	if (vnet->flags) {
		CHECK_EQ(vnet->flags, VIRTIO_NET_HDR_F_NEEDS_CSUM);
		CHECK_EQ(vnet->csum_start, l4);
		CHECK_EQ(vnet->csum_offset, protocol == 6 ? 16 : 6);
		CHECK((size_t)vnet->csum_start + vnet->csum_offset + 2 <= len);
	}
	if (vnet->gso_type == VIRTIO_NET_HDR_GSO_NONE) {
		CHECK_EQ(vnet->gso_size, 0);
		return;
	}
	CHECK(vnet->flags);
	CHECK_EQ(vnet->gso_type, protocol == 17	       ? VIRTIO_NET_HDR_GSO_UDP_L4
				 : packet[0] >> 4 == 4 ? VIRTIO_NET_HDR_GSO_TCPV4
						       : VIRTIO_NET_HDR_GSO_TCPV6);
	CHECK_EQ(vnet->hdr_len, l4 + (protocol == 6 ? (size_t)(packet[l4 + 12] >> 4) * 4 : 8));
	CHECK(vnet->gso_size > 0);
	CHECK(len - vnet->hdr_len > vnet->gso_size);
	CHECK(len - vnet->hdr_len <= 64U * vnet->gso_size); /* UDP_MAX_SEGMENTS */
	if (packet[0] >> 4 == 4) {
		CHECK_EQ(ws_get16(packet + 2), len);
		CHECK_EQ(model_sum(0, packet, 20), 0xffff);
	} else {
		CHECK_EQ(ws_get16(packet + 4), len - 40);
	}
	if (protocol == 17)
		CHECK_EQ(ws_get16(packet + l4 + 4), len - l4);
}

static void on_write(void *arg, const struct ws_tun_write *write)
{
	static uint8_t packet[MODEL_MAX_PACKET + 1], one[MODEL_MAX_PACKET];
	struct ws_segmenter segmenter;
	struct virtio_net_hdr vnet;
	size_t len = 0, body_bytes;
	const uint8_t *body;

	CHECK(arg == pattern);
	CHECK(write->iov[0].iov_base == &write->vnet);
	CHECK_EQ(write->iov[0].iov_len, 10);
	CHECK_EQ(write->iov_count, write->packets + 1);
	CHECK(write->packets >= 1 && write->packets <= WS_COALESCE_SEGMENTS);
	for (uint32_t i = 1; i < write->iov_count; i++) {
		CHECK(len + write->iov[i].iov_len <= MODEL_MAX_PACKET);
		memcpy(packet + len, write->iov[i].iov_base, write->iov[i].iov_len);
		len += write->iov[i].iov_len;
	}
	CHECK_EQ(write->bytes, len);
	if (strlen(pattern) < sizeof(pattern) - 16)
		sprintf(pattern + strlen(pattern), "%s%u", *pattern ? " " : "", write->packets);

	vnet = write->vnet;
	if (!vnet.flags && !vnet.gso_type) {
		static const struct virtio_net_hdr zero;

		CHECK(!memcmp(&vnet, &zero, sizeof(zero)));
		CHECK_EQ(write->packets, 1);
		take(packet, len, false);
		return;
	}
	judge(&vnet, packet, len);
	/* What goes out by itself is finished: its virtio header was zero. */
	CHECK(write->packets > 1);
	CHECK(vnet.gso_type != VIRTIO_NET_HDR_GSO_NONE);
	CHECK_EQ(ws_segment_begin(&segmenter, &vnet, packet, len, false), 0);
	CHECK_EQ(segmenter.count, write->packets);
	if (write->packets > 1) {
		merged_packets += write->packets;
		merged_writes++;
	}
	for (uint32_t k = 0; k < segmenter.count; k++) {
		ws_segment_get(&segmenter, k, one, &body, &body_bytes);
		memcpy(one + segmenter.header_bytes, body, body_bytes);
		take(one, segmenter.header_bytes + body_bytes, write->packets > 1);
	}
}

static void forget(void)
{
	for (int i = 0; i < sent_count; i++) {
		free(sent[i].data);
		free(sent[i].want);
	}
	sent_count = out_count = 0;
	*pattern = 0;
}

/* Keeps the packet and gives an exactly sized copy to add. */
static struct sent *keep(const uint8_t *packet, size_t len, int flow)
{
	struct sent *s = &sent[sent_count++];

	memset(s, 0, sizeof(*s));
	s->data = malloc(len);
	s->want = malloc(len);
	s->len = len;
	s->flow = flow;
	if (len) {
		memcpy(s->data, packet, len);
		memcpy(s->want, packet, len);
	}
	return s;
}

static struct model base(void)
{
	return (struct model){.version = 4,
			      .protocol = 6,
			      .host = 1,
			      .source_port = 1000,
			      .target_port = 80,
			      .ttl = 64,
			      .id = 100,
			      .fragment = 0x4000,
			      .seq = 5000,
			      .ack = 77,
			      .flags = 0x10,
			      .window = 500,
			      .tcp_options = 12,
			      .payload = filler,
			      .payload_bytes = 100};
}

static void put(struct ws_coalesce *coalesce, const struct model *m, int flow)
{
	static uint8_t packet[MODEL_MAX_PACKET];
	struct sent *s = keep(packet, model_build(m, packet), flow);

	memcpy(s->data, packet, s->len);
	ws_coalesce_add(coalesce, s->data, s->len, false);
}

/* Sends, moving on seq and id. */
static void put_next(struct ws_coalesce *coalesce, struct model *m, int flow)
{
	put(coalesce, m, flow);
	m->seq += (uint32_t)m->payload_bytes;
	m->id++;
}

static void expect(struct ws_coalesce *coalesce, const char *name, const char *want)
{
	ws_coalesce_flush(coalesce);
	CHECK_EQ(out_count, sent_count);
	if (strcmp(pattern, want))
		fprintf(stderr, "%s: writes of %s packets, want %s\n", name, pattern, want);
	CHECK(!strcmp(pattern, want));
	forget();
}

#endif
