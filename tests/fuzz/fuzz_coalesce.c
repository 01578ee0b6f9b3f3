/* SPDX-License-Identifier: MIT */
/*
 * Invariants: every packet comes out in exactly one write, at the latest with
 * the flush; a write of one untrusted packet is the packet unchanged; a merged
 * one is taken apart by the segmenter into as many packets as went in, with
 * the same payload bytes.
 *
 * Input: records of a length (2 bytes, little endian, 15 bits; the top bit:
 * trusted) and that many packet bytes.
 */
#include "packet/coalesce.h"

#include "packet/checksum.h"
#include "packet/segment.h"

#include <stdlib.h>

#define MAX_PACKETS 300

static uint8_t *packets[MAX_PACKETS], *copies[MAX_PACKETS];
static size_t lengths[MAX_PACKETS];
static bool out[MAX_PACKETS], trust[MAX_PACKETS];
static int count;

static void require(int condition)
{
	if (!condition)
		abort();
}

/* The packet that holds this byte. */
static int find(const uint8_t *p)
{
	for (int i = 0; i < count; i++)
		if (p >= packets[i] && p < packets[i] + lengths[i])
			return i;
	abort();
}

static void on_write(void *arg, const struct ws_tun_write *write)
{
	static uint8_t flat[65535];
	uint8_t head[WS_SEGMENT_MAX_HEADER];
	struct ws_segmenter segmenter;
	struct virtio_net_hdr vnet = write->vnet;
	const uint8_t *body;
	size_t len = 0, bytes;
	int i;

	(void)arg;
	require(write->iov_count == write->packets + 1);
	for (uint32_t k = 1; k < write->iov_count; k++) {
		const uint8_t *piece = write->iov[k].iov_base;

		bytes = write->iov[k].iov_len;
		i = find(piece);
		require(!out[i] && piece + bytes == packets[i] + lengths[i]);
		require(k > 1 || piece == packets[i]);
		out[i] = true;
		require(len + bytes <= sizeof(flat));
		memcpy(flat + len, piece, bytes);
		/* Only the headers of the first may change, never a payload. */
		if (k > 1)
			require(!memcmp(piece, copies[i] + (piece - packets[i]), bytes));
		len += bytes;
	}
	require(len == write->bytes);
	i = find(write->iov[1].iov_base);
	if (!vnet.flags) {
		size_t first = len, last = 0;

		require(write->packets == 1 && vnet.gso_type == VIRTIO_NET_HDR_GSO_NONE);
		/* Whose checksum was left to us has a whole one now; nothing else may change. */
		for (size_t k = 0; k < len; k++)
			if (flat[k] != copies[i][k]) {
				first = first == len ? k : first;
				last = k;
			}
		require(first == len || (trust[i] && last - first < 2));
		return;
	}
	require(!ws_segment_begin(&segmenter, &vnet, flat, len, false));
	require(segmenter.count == write->packets);
	if (write->packets == 1)
		return;
	require(segmenter.header_bytes == vnet.hdr_len);
	for (uint32_t k = 0; k < segmenter.count; k++) {
		ws_segment_get(&segmenter, k, head, &body, &bytes);
		i = find(k ? write->iov[k + 1].iov_base
			   : (uint8_t *)write->iov[1].iov_base + vnet.hdr_len);
		require(segmenter.header_bytes + bytes == lengths[i]);
		require(!memcmp(body, copies[i] + segmenter.header_bytes, bytes));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct ws_coalesce *coalesce;

	if (!coalesce)
		coalesce = ws_coalesce_new(true, true, on_write, NULL);
	require(coalesce != NULL);
	count = 0;
	while (size >= 2 && count < MAX_PACKETS) {
		size_t len = (size_t)data[0] | (size_t)(data[1] & 0x7f) << 8;
		bool trusted = data[1] >> 7;

		data += 2;
		size -= 2;
		if (len > size)
			len = size;
		if (!len)
			continue;
		packets[count] = malloc(len);
		copies[count] = malloc(len);
		require(packets[count] && copies[count]);
		memcpy(packets[count], data, len);
		memcpy(copies[count], data, len);
		lengths[count] = len;
		out[count] = false;
		trust[count] = trusted;
		count++;
		ws_coalesce_add(coalesce, packets[count - 1], len, trusted);
		data += len;
		size -= len;
	}
	ws_coalesce_flush(coalesce);
	for (int i = 0; i < count; i++) {
		require(out[i]);
		free(packets[i]);
		free(copies[i]);
	}
	return 0;
}
