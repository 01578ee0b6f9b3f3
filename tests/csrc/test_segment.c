/* SPDX-License-Identifier: MIT */
/*
 * Segments are held against packets that packets.h builds from nothing: the
 * n-th slice of the payload, the seq, id and flags that belong to it. Input
 * is in exactly sized buffers, so that ASan sees any read past the end.
 */
#include "packet/segment.h"

#include "check.h"
#include "packet/ip.h"
#include "packets.h"

#include <errno.h>
#include <stdlib.h>

/* Half a million big buffers: a short quarantine keeps them from costing page faults. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
	return "quarantine_size_mb=1:thread_local_quarantine_size_kb=64";
}

static uint8_t payload[MODEL_MAX_PACKET];

static struct virtio_net_hdr vnet_of(const struct model *m, size_t gso_size)
{
	struct virtio_net_hdr vnet = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
				      .gso_size = (uint16_t)gso_size,
				      .csum_start = (uint16_t)model_l4_offset(m),
				      .csum_offset = m->protocol == 6 ? 16 : 6};

	if (m->protocol == 17)
		vnet.gso_type = VIRTIO_NET_HDR_GSO_UDP_L4;
	else
		vnet.gso_type =
			m->version == 4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;
	return vnet;
}

/* What a segmenter has to make of packet k of m. */
static size_t build_segment(const struct model *m, size_t gso_size, uint32_t k, uint32_t count,
			    uint8_t *out)
{
	struct model s = *m;

	s.payload += k * gso_size;
	s.payload_bytes = k + 1 == count ? m->payload_bytes - k * gso_size : gso_size;
	s.seq += (uint32_t)(k * gso_size);
	s.id += k;
	if (k)
		s.flags &= 0x7f; /* CWR */
	if (k + 1 < count)
		s.flags &= 0xf6; /* PSH, FIN */
	return model_build(&s, out);
}

static void check_segment(const struct ws_segmenter *segmenter, const struct model *m,
			  size_t gso_size, uint32_t k)
{
	static uint8_t want[MODEL_MAX_PACKET];
	size_t want_bytes = build_segment(m, gso_size, k, segmenter->count, want);
	uint8_t *head = malloc(segmenter->header_bytes);
	size_t body_bytes;
	const uint8_t *body;

	ws_segment_get(segmenter, k, head, &body, &body_bytes);
	CHECK_EQ(segmenter->header_bytes + body_bytes, want_bytes);
	CHECK_EQ(body - segmenter->packet, (long)(segmenter->header_bytes + k * gso_size));
	CHECK(!memcmp(head, want, segmenter->header_bytes));
	CHECK(!memcmp(body, want + segmenter->header_bytes, body_bytes));
	free(head);
}

/* `all`: every segment; else the first, the last and one between. */
static void check_super(const struct model *m, size_t gso_size, bool all)
{
	struct virtio_net_hdr vnet = vnet_of(m, gso_size);
	size_t len = model_header_bytes(m) + m->payload_bytes;
	uint32_t count = (uint32_t)((m->payload_bytes + gso_size - 1) / gso_size);
	uint8_t *packet = malloc(len), *before = malloc(len);
	struct ws_segmenter segmenter;

	model_build(m, packet);
	model_make_partial(m, packet, len);
	memcpy(before, packet, len);
	vnet.hdr_len = (uint16_t)check_random(); /* the kernel's is of no use: any will do */
	if (m->protocol == 6 && m->flags & 0x80)
		vnet.gso_type |= VIRTIO_NET_HDR_GSO_ECN;
	CHECK_EQ(ws_segment_begin(&segmenter, &vnet, packet, len, false), 0);
	CHECK_EQ(segmenter.count, count);
	CHECK_EQ(segmenter.header_bytes, model_header_bytes(m));
	if (segmenter.count == count) {
		for (uint32_t k = 0; all && k < count; k++)
			check_segment(&segmenter, m, gso_size, k);
		if (!all) {
			check_segment(&segmenter, m, gso_size, 0);
			check_segment(&segmenter, m, gso_size, count - 1);
			check_segment(&segmenter, m, gso_size, (uint32_t)check_random() % count);
		}
	}
	CHECK(!memcmp(packet, before, len));
	free(packet);
	free(before);
}

/* TCP and UDP over IPv4 and IPv6, bare and with what headers can carry. */
static struct model family(int which)
{
	struct model m = {.version = which & 1 ? 6 : 4,
			  .protocol = which & 2 ? 17 : 6,
			  .host = 3,
			  .source_port = 40000,
			  .target_port = 443,
			  .tos = 0x2a,
			  .ttl = 61,
			  .id = 0xfff0,
			  .fragment = which & 4 ? 0x4000 : 0,
			  .flow_label = 0x12345,
			  .seq = 0xffff0000,
			  .ack = 0x01020304,
			  .flags = 0x10,
			  .window = 502,
			  .payload = payload};

	if (which & 4) {
		m.ip_options = 8;
		m.extension = which & 2 ? 43 : 60;
		m.tcp_options = 12;
		m.option_fill = 8;
		m.flags = 0xd9; /* CWR ECE ACK PSH FIN */
		m.reserved = 1;
	}
	return m;
}

static void test_every_size(void)
{
	static const size_t sizes[] = {1, 7, 536, 1220, 1387, 1388, 1400, 1448, 8948, 65495};

	bool whole = getenv("WS_TEST_WHOLE") != NULL;

	for (int which = 0; which < 8; which++) {
		struct model m = family(which);
		size_t room = MODEL_MAX_PACKET - model_header_bytes(&m);

		for (size_t bytes = 1; bytes <= room; bytes++) {
			m.payload_bytes = bytes;
			m.id = (uint16_t)check_random();
			m.seq = (uint32_t)check_random();
			/* The extras change headers alone: fewer sizes will do. Every size of the
			 * others takes half a minute. */
			if (bytes > 3000 && bytes < room &&
			    bytes % (which >= 4 ? (whole ? 16 : 61)
				     : whole	? 1
						: 31))
				continue;
			if (bytes % 101 == 0 || bytes == room)
				for (size_t i = 2; i < 10; i++)
					check_super(&m, sizes[i], true);
			else
				check_super(&m, sizes[2 + bytes % 8], bytes < 3000);
			if (bytes <= 300)
				for (size_t i = 0; i < 2; i++)
					check_super(&m, sizes[i], true);
		}
	}
}

/* A UDP checksum that comes out 0 is sent as 0xffff (RFC 768), split or not. */
static void test_udp_zero(void)
{
	for (int version = 4; version <= 6; version += 2) {
		struct model m = family(version == 4 ? 2 : 3);
		uint8_t packet[256], body[64];
		size_t at = model_checksum_at(&m), len;
		struct virtio_net_hdr vnet = vnet_of(&m, 32);
		struct ws_segmenter segmenter;

		for (int i = 0; i < 64; i++)
			body[i] = (uint8_t)(i < 30 ? check_random() : 0);
		m.payload = body;
		m.payload_bytes = 32;
		len = model_build(&m, packet);
		memcpy(body + 30, packet + at, 2);
		len = model_build(&m, packet);
		CHECK(packet[at] == 0xff && packet[at + 1] == 0xff);

		m.payload_bytes = 64;
		check_super(&m, 32, true);

		m.payload_bytes = 32;
		len = model_build(&m, packet);
		model_make_partial(&m, packet, len);
		vnet.gso_type = VIRTIO_NET_HDR_GSO_NONE;
		CHECK_EQ(ws_segment_begin(&segmenter, &vnet, packet, len, false), 0);
		CHECK(packet[at] == 0xff && packet[at + 1] == 0xff);
	}
}

/* NEEDS_CSUM alone: the packet itself, complete; without it untouched. */
static void test_whole(void)
{
	static uint8_t want[MODEL_MAX_PACKET];

	for (int i = 0; i < 4000; i++) {
		struct model m = family((int)(check_random() % 8));
		struct virtio_net_hdr vnet = vnet_of(&m, 0);
		struct ws_segmenter segmenter;
		size_t len, behind = i % 3 ? 0 : check_random() % 32, body_bytes;
		const uint8_t *body;
		uint8_t *packet;
		bool partial = i % 4;

		m.payload = payload + check_random() % 999;
		m.payload_bytes = i < 1600 ? (size_t)i : check_random() % 64000;
		len = model_build(&m, want);
		packet = malloc(len + behind);
		memset(packet + len, 0xee, behind);
		memcpy(packet, want, len);
		if (partial)
			model_make_partial(&m, packet, len);
		vnet.flags = partial ? VIRTIO_NET_HDR_F_NEEDS_CSUM : VIRTIO_NET_HDR_F_DATA_VALID;
		vnet.gso_type = VIRTIO_NET_HDR_GSO_NONE;
		CHECK_EQ(ws_segment_begin(&segmenter, &vnet, packet, len + behind, false), 0);
		CHECK_EQ(segmenter.count, 1);
		CHECK_EQ(segmenter.header_bytes, 0);
		ws_segment_get(&segmenter, 0, NULL, &body, &body_bytes);
		CHECK(body == packet);
		CHECK_EQ(body_bytes, len);
		/* TCP may say 0 as 0xffff, as the kernel's own software checksum does. */
		if (m.protocol == 6 && !want[model_checksum_at(&m)] &&
		    !want[model_checksum_at(&m) + 1])
			memset(want + model_checksum_at(&m), 0xff, 2);
		CHECK(!memcmp(packet, want, len));
		free(packet);
	}
}

/* Takes a packet of any kind apart: whatever begin says, no byte outside is touched. */
static int take_apart(const struct virtio_net_hdr *vnet, const uint8_t *packet, size_t len)
{
	uint8_t *exact = malloc(len), *head;
	struct ws_segmenter segmenter;
	size_t bytes = 0, body_bytes;
	const uint8_t *body;
	int result;

	if (len)
		memcpy(exact, packet, len);
	result = ws_segment_begin(&segmenter, vnet, exact, len, false);
	CHECK(result == 0 || result == -EBADMSG || result == -EPROTONOSUPPORT);
	if (!result) {
		CHECK(segmenter.count >= 1);
		CHECK(segmenter.header_bytes <= WS_SEGMENT_MAX_HEADER);
		head = malloc(segmenter.header_bytes);
		for (uint32_t k = 0; k < segmenter.count; k++) {
			ws_segment_get(&segmenter, k, head, &body, &body_bytes);
			CHECK(body >= exact && body + body_bytes <= exact + len);
			bytes += body_bytes;
		}
		CHECK_EQ(segmenter.header_bytes + bytes, segmenter.len);
		CHECK(segmenter.len <= len);
		free(head);
	}
	free(exact);
	return result;
}

static void set_ip_length(uint8_t *packet, size_t len)
{
	if (packet[0] >> 4 == 4)
		model_put(packet + 2, (uint32_t)len, 2);
	else
		model_put(packet + 4, (uint32_t)(len > 40 ? len - 40 : 0), 2);
}

/* Every truncation: refused while the IP length disagrees, never past the end when it agrees. */
static void test_truncated(void)
{
	uint8_t packet[4000], cut[4000];

	for (int which = 0; which < 8; which++) {
		struct model m = family(which);
		struct virtio_net_hdr vnet = vnet_of(&m, 1000), none = vnet_of(&m, 0);
		size_t len;

		none.gso_type = VIRTIO_NET_HDR_GSO_NONE;
		m.payload_bytes = 3000;
		len = model_build(&m, packet);
		CHECK_EQ(take_apart(&vnet, packet, len), 0);
		CHECK_EQ(take_apart(&none, packet, len), 0);
		for (size_t t = 0; t < len; t++) {
			CHECK_EQ(take_apart(&vnet, packet, t), -EBADMSG);
			CHECK_EQ(take_apart(&none, packet, t), -EBADMSG);
			if (t < (m.version == 4 ? 20U : 40U))
				continue;
			memcpy(cut, packet, t);
			set_ip_length(cut, t);
			CHECK_EQ(take_apart(&vnet, cut, t),
				 t < model_header_bytes(&m) ? -EBADMSG : 0);
			CHECK_EQ(take_apart(&none, cut, t),
				 t < model_checksum_at(&m) + 2 ? -EBADMSG : 0);
		}
		CHECK_EQ(take_apart(&vnet, packet, len + 1), -EBADMSG);
	}
}

struct edit {
	int which; /* family() */
	int at; /* byte of the packet, -1: none */
	uint8_t value;
	const char *field; /* of vnet, NULL: none */
	int number;
	int want;
};

static void test_refused(void)
{
	static const struct edit edits[] = {
		{0, -1, 0, "type", VIRTIO_NET_HDR_GSO_UDP, -EPROTONOSUPPORT}, /* UFO */
		{2, -1, 0, "type", VIRTIO_NET_HDR_GSO_UDP, -EPROTONOSUPPORT},
		{2, -1, 0, "type", VIRTIO_NET_HDR_GSO_UDP_L4 | 0x80, -EPROTONOSUPPORT},
		{0, -1, 0, "type", 0x80, -EPROTONOSUPPORT},
		{0, -1, 0, "type", 2, -EPROTONOSUPPORT},
		{0, -1, 0, "type", 0x7f, -EPROTONOSUPPORT},
		{0, -1, 0, "type", VIRTIO_NET_HDR_GSO_TCPV6, -EBADMSG},
		{1, -1, 0, "type", VIRTIO_NET_HDR_GSO_TCPV4, -EBADMSG},
		{0, -1, 0, "type", VIRTIO_NET_HDR_GSO_UDP_L4, -EBADMSG},
		{2, -1, 0, "type", VIRTIO_NET_HDR_GSO_TCPV4, -EBADMSG},
		{0, -1, 0, "size", 0, -EBADMSG},
		{0, -1, 0, "start", 19, -EBADMSG},
		{0, -1, 0, "start", 21, -EBADMSG},
		{0, -1, 0, "start", 0xffff, -EBADMSG},
		{0, -1, 0, "offset", 6, -EBADMSG},
		{2, -1, 0, "offset", 16, -EBADMSG},
		{3, -1, 0, "offset", 0xffff, -EBADMSG},
		{0, 0, 0x44, NULL, 0, -EBADMSG}, /* header length 16 */
		{0, 0, 0x55, NULL, 0, -EBADMSG}, /* version 5 */
		{0, 0, 0x65, NULL, 0, -EBADMSG},
		{0, 6, 0x20, NULL, 0, -EBADMSG}, /* more fragments */
		{0, 7, 0x01, NULL, 0, -EBADMSG}, /* an offset */
		{0, 9, 47, NULL, 0, -EBADMSG},
		{0, 3, 0, NULL, 0, -EBADMSG}, /* another total length */
		{0, 32, 0x40, NULL, 0, -EBADMSG}, /* TCP header of 16 bytes */
		{0, 32, 0x00, NULL, 0, -EBADMSG},
		{1, 6, 44, NULL, 0, -EBADMSG}, /* IPv6 fragment */
		{1, 6, 50, NULL, 0, -EBADMSG},
		{5, 41, 100, NULL, 0, -EBADMSG}, /* an extension header past the end */
		{5, 40, 0, NULL, 0, -EBADMSG},
	};

	for (size_t i = 0; i < sizeof(edits) / sizeof(edits[0]); i++) {
		const struct edit *e = &edits[i];
		struct model m = family(e->which);
		struct virtio_net_hdr vnet = vnet_of(&m, 100);
		uint8_t packet[700];
		size_t len;

		m.payload_bytes = 500;
		len = model_build(&m, packet);
		CHECK_EQ(take_apart(&vnet, packet, len), 0);
		if (e->at >= 0)
			packet[e->at] = e->value;
		if (e->field && !strcmp(e->field, "type"))
			vnet.gso_type = (uint8_t)e->number;
		if (e->field && !strcmp(e->field, "size"))
			vnet.gso_size = (uint16_t)e->number;
		if (e->field && !strcmp(e->field, "start"))
			vnet.csum_start = (uint16_t)e->number;
		if (e->field && !strcmp(e->field, "offset"))
			vnet.csum_offset = (uint16_t)e->number;
		if (take_apart(&vnet, packet, len) != e->want)
			fprintf(stderr, "edit %zu\n", i);
		CHECK_EQ(take_apart(&vnet, packet, len), e->want);
	}
}

/* Extension headers up to the limit are carried, beyond it refused. */
static void test_long_header(void)
{
	for (size_t extra = 8; extra <= 1024; extra += 8) {
		struct model m = family(1);
		struct virtio_net_hdr vnet = vnet_of(&m, 100);
		uint8_t packet[2048], bare[700];
		size_t len, head = 60 + extra;

		m.payload_bytes = 500;
		len = model_build(&m, bare);
		memcpy(packet, bare, 40);
		memset(packet + 40, 0, extra);
		packet[6] = 60;
		packet[40] = 6;
		packet[41] = (uint8_t)(extra / 8 - 1);
		memcpy(packet + 40 + extra, bare + 40, len - 40);
		set_ip_length(packet, len + extra);
		vnet.csum_start = (uint16_t)(40 + extra);
		CHECK_EQ(take_apart(&vnet, packet, len + extra),
			 head <= WS_SEGMENT_MAX_HEADER ? 0 : -EBADMSG);
	}
}

static void test_garbage(void)
{
	uint8_t packet[300];
	unsigned long taken = 0;

	for (unsigned i = 0; i < check_rounds(60000, 300000); i++) {
		struct model m = family((int)(check_random() % 8));
		struct virtio_net_hdr vnet = vnet_of(&m, 1 + check_random() % 90);
		int flips = (int)(check_random() % 4);
		size_t len;

		m.payload_bytes = check_random() % 150;
		len = model_build(&m, packet);
		while (flips--) {
			if (check_random() % 3)
				packet[check_random() % model_header_bytes(&m)] =
					(uint8_t)check_random();
			else
				((uint8_t *)&vnet)[check_random() % sizeof(vnet)] =
					(uint8_t)check_random();
		}
		if (check_random() % 8 == 0)
			len = check_random() % (len + 1);
		taken += !take_apart(&vnet, packet, len);
	}
	CHECK(taken > check_rounds(10000, 50000) && taken < check_rounds(50000, 250000));
}

int main(void)
{
	for (size_t i = 0; i < sizeof(payload); i++)
		payload[i] = (uint8_t)check_random();
	test_udp_zero();
	test_whole();
	test_truncated();
	test_refused();
	test_long_header();
	test_garbage();
	test_every_size();
	return check_done();
}
