/* SPDX-License-Identifier: MIT */
/*
 * Invariants: whatever the virtio header and the packet say, nothing outside
 * the packet is read or written (ASan); what is accepted is given back whole,
 * its payload in order, in packets whose IP lengths and checksums are right.
 *
 * Input: the 10 bytes of a virtio header, then the packet.
 */
#include "packet/segment.h"

#include "packet/checksum.h"

#include <errno.h>
#include <stdlib.h>

static void require(int condition)
{
	if (!condition)
		abort();
}

static void check_packet(const struct ws_segmenter *s, const uint8_t *head, const uint8_t *body,
			 size_t body_bytes)
{
	size_t head_bytes = s->header_bytes, len = head_bytes + body_bytes;
	size_t l4_bytes = len - s->l4_offset;
	uint64_t sum;

	if (s->version == 4) {
		require(ws_get16(head + WS_IPV4_LENGTH) == len);
		require(ws_csum_fold(ws_csum_add_header(0, head, s->l4_offset)) == 0xffff);
	} else {
		require(WS_IPV6_BYTES + (size_t)ws_get16(head + WS_IPV6_LENGTH) == len);
		/* Behind extension headers the pseudo header is the kernel's: not ours to check. */
		if (s->l4_offset != WS_IPV6_BYTES)
			return;
	}
	sum = ws_csum_pseudo(head, s->protocol, (uint16_t)l4_bytes);
	sum = ws_csum_add(sum, head + s->l4_offset, head_bytes - s->l4_offset);
	require(ws_csum_fold(ws_csum_add(sum, body, body_bytes)) == 0xffff);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct virtio_net_hdr vnet;
	struct ws_segmenter segmenter;
	const uint8_t *body, *next;
	uint8_t *packet, *head;
	size_t len, bytes;
	int result;

	if (size < sizeof(vnet) || size > 70000)
		return 0;
	memcpy(&vnet, data, sizeof(vnet));
	len = size - sizeof(vnet);
	packet = malloc(len);
	if (!packet)
		return 0;
	memcpy(packet, data + sizeof(vnet), len);
	result = ws_segment_begin(&segmenter, &vnet, packet, len, false);
	require(result == 0 || result == -EBADMSG || result == -EPROTONOSUPPORT);
	if (!result) {
		require(segmenter.count >= 1 && segmenter.len <= len);
		head = malloc(segmenter.header_bytes);
		next = packet + segmenter.header_bytes;
		for (uint32_t k = 0; k < segmenter.count; k++) {
			ws_segment_get(&segmenter, k, head, &body, &bytes);
			require(body == next);
			next += bytes;
			if (segmenter.header_bytes)
				check_packet(&segmenter, head, body, bytes);
		}
		require(next == packet + segmenter.len);
		free(head);
	}
	free(packet);
	return 0;
}
