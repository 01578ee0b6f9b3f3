/* SPDX-License-Identifier: MIT */
/*
 * Builds IP packets byte by byte, with the slowest checksum there is: the
 * independent model that segment.c and coalesce.c are held against.
 */
#ifndef WS_TEST_PACKETS_H
#define WS_TEST_PACKETS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define MODEL_MAX_PACKET 65535

struct model {
	int version; /* 4 or 6 */
	int protocol; /* 6 or 17 */
	int host; /* into both addresses */
	int source_port, target_port;
	uint8_t tos, ttl;
	uint16_t id;
	uint16_t fragment; /* IPv4: flags and offset, 0x4000 is DF */
	uint32_t flow_label;
	int ip_options; /* IPv4: bytes, a multiple of 4 */
	int extension; /* IPv6: 0, 60 (destination options) or 43 (routing, one segment left) */
	uint32_t seq, ack;
	uint8_t flags, reserved;
	uint16_t window, urgent;
	int tcp_options; /* bytes, a multiple of 4 */
	uint8_t option_fill;
	bool no_checksum; /* UDP */
	const uint8_t *payload;
	size_t payload_bytes;
};

/* Big-endian 16-bit words, folded at each step. */
static inline uint32_t model_sum(uint32_t sum, const uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i += 2) {
		sum += (uint32_t)p[i] << 8 | (i + 1 < len ? p[i + 1] : 0);
		sum = (sum & 0xffff) + (sum >> 16);
	}
	return sum;
}

static inline void model_put(uint8_t *p, uint32_t value, int bytes)
{
	for (int i = 0; i < bytes; i++)
		p[i] = (uint8_t)(value >> 8 * (bytes - 1 - i));
}

static inline size_t model_l4_offset(const struct model *m)
{
	if (m->version == 4)
		return 20 + (size_t)m->ip_options;
	return 40 + (m->extension == 60 ? 8 : m->extension == 43 ? 24 : 0);
}

static inline size_t model_header_bytes(const struct model *m)
{
	return model_l4_offset(m) + (m->protocol == 6 ? 20 + (size_t)m->tcp_options : 8);
}

static inline size_t model_checksum_at(const struct model *m)
{
	return model_l4_offset(m) + (m->protocol == 6 ? 16 : 6);
}

/* The pseudo header's sum; the final destination is the routing header's. */
static inline uint32_t model_pseudo(const struct model *m, const uint8_t *packet, size_t l4_bytes)
{
	uint8_t tail[4] = {0, (uint8_t)m->protocol, (uint8_t)(l4_bytes >> 8), (uint8_t)l4_bytes};
	uint32_t sum = model_sum(0, tail, 4);

	if (m->version == 4)
		return model_sum(sum, packet + 12, 8);
	sum = model_sum(sum, packet + 8, 16);
	return model_sum(sum, packet + (m->extension == 43 ? 48 : 24), 16);
}

/* The whole packet, checksums complete. Returns its length. */
static inline size_t model_build(const struct model *m, uint8_t *out)
{
	size_t l4 = model_l4_offset(m), head = model_header_bytes(m), len = head + m->payload_bytes;
	size_t at = model_checksum_at(m);
	uint32_t sum;

	memset(out, 0, head);
	if (m->version == 4) {
		out[0] = (uint8_t)(0x40 | l4 / 4);
		out[1] = m->tos;
		model_put(out + 2, (uint32_t)len, 2);
		model_put(out + 4, m->id, 2);
		model_put(out + 6, m->fragment, 2);
		out[8] = m->ttl;
		out[9] = (uint8_t)m->protocol;
		model_put(out + 12, 0x0a4d0001, 4);
		model_put(out + 16, 0x0a4d0100 + (uint32_t)m->host, 4);
		memset(out + 20, 1, (size_t)m->ip_options); /* no-operation */
		model_put(out + 10, ~model_sum(0, out, l4) & 0xffff, 2);
	} else {
		model_put(out, 0x60000000 | (uint32_t)m->tos << 20 | m->flow_label, 4);
		model_put(out + 4, (uint32_t)(len - 40), 2);
		out[6] = (uint8_t)(m->extension ? m->extension : m->protocol);
		out[7] = m->ttl;
		for (int i = 0; i < 32; i++)
			out[8 + i] = (uint8_t)(0xfd + 7 * i);
		out[39] = (uint8_t)m->host;
		if (m->extension) {
			out[40] = (uint8_t)m->protocol;
			out[41] = m->extension == 43 ? 2 : 0;
			out[42] = m->extension == 43 ? 4 : 1; /* type 4 | PadN */
			out[43] = m->extension == 43 ? 1 : 4; /* segments left | its length */
			if (m->extension == 43)
				for (int i = 0; i < 16; i++)
					out[48 + i] = (uint8_t)(0x20 + 11 * i);
		}
	}
	model_put(out + l4, (uint32_t)m->source_port, 2);
	model_put(out + l4 + 2, (uint32_t)m->target_port, 2);
	if (m->protocol == 6) {
		model_put(out + l4 + 4, m->seq, 4);
		model_put(out + l4 + 8, m->ack, 4);
		out[l4 + 12] = (uint8_t)((head - l4) / 4 << 4 | m->reserved);
		out[l4 + 13] = m->flags;
		model_put(out + l4 + 14, m->window, 2);
		model_put(out + l4 + 18, m->urgent, 2);
		for (int i = 0; i < m->tcp_options; i++)
			out[l4 + 20 + (size_t)i] = (uint8_t)(m->option_fill + i);
	} else {
		model_put(out + l4 + 4, (uint32_t)(len - l4), 2);
	}
	if (m->payload_bytes)
		memcpy(out + head, m->payload, m->payload_bytes);
	if (m->no_checksum)
		return len;
	sum = ~model_sum(model_pseudo(m, out, len - l4), out + l4, len - l4) & 0xffff;
	model_put(out + at, m->protocol == 17 && !sum ? 0xffff : sum, 2);
	return len;
}

/* As the kernel leaves it for an offload: the pseudo header's sum in the checksum field. */
static inline void model_make_partial(const struct model *m, uint8_t *packet, size_t len)
{
	model_put(packet + model_checksum_at(m), model_pseudo(m, packet, len - model_l4_offset(m)),
		  2);
}

#endif
