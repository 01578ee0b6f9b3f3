/* SPDX-License-Identifier: MIT */
/* Nanoseconds per 1,400-byte segment of a 64 KiB TSO packet. Not run by the tests. */
#include "packet/segment.h"

#include "packet/checksum.h"
#include "packets.h"

#include <stdio.h>
#include <time.h>

#define ROUNDS 40000
#define SEGMENTS 46

static double now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return 1e9 * (double)t.tv_sec + (double)t.tv_nsec;
}

int main(void)
{
	static uint8_t payload[SEGMENTS * 1400], packet[MODEL_MAX_PACKET];
	uint8_t head[WS_SEGMENT_MAX_HEADER];
	uint64_t seen = 0;
	double start;

	for (int which = 0; which < 4; which++) {
		struct model m = {.version = which & 1 ? 6 : 4,
				  .protocol = which & 2 ? 17 : 6,
				  .flags = 0x10,
				  .tcp_options = 12,
				  .payload = payload,
				  .payload_bytes = sizeof(payload)};
		size_t len = model_build(&m, packet), bytes;
		struct virtio_net_hdr vnet = {.gso_type = which & 2 ? VIRTIO_NET_HDR_GSO_UDP_L4
							  : which   ? VIRTIO_NET_HDR_GSO_TCPV6
								    : VIRTIO_NET_HDR_GSO_TCPV4,
					      .gso_size = 1400};
		struct ws_segmenter segmenter;
		const uint8_t *body;

		start = now_ns();
		for (int i = 0; i < ROUNDS; i++) {
			if (ws_segment_begin(&segmenter, &vnet, packet, len, false))
				return 1;
			for (uint32_t k = 0; k < segmenter.count; k++) {
				ws_segment_get(&segmenter, k, head, &body, &bytes);
				seen += head[4] + bytes;
			}
		}
		printf("segment %s/IPv%d: %.1f ns a segment\n", m.protocol == 6 ? "TCP" : "UDP",
		       m.version, (now_ns() - start) / ROUNDS / segmenter.count);
	}
	start = now_ns();
	for (int i = 0; i < ROUNDS; i++)
		for (int k = 0; k < SEGMENTS; k++)
			seen += ws_csum_add(0, payload + 1400 * k, 1400);
	printf("checksum of 1,400 bytes alone: %.1f ns\n", (now_ns() - start) / ROUNDS / SEGMENTS);
	return seen == 0;
}
