/* SPDX-License-Identifier: MIT */
#include "packet/segment.h"

#include "packet/checksum.h"

#include <errno.h>
#include <stdbool.h>

/* Of the flags, what the last segment of a super-packet alone keeps. */
#define LAST_ONLY (WS_TCP_FIN | WS_TCP_PSH)

/* The fixed IP header's length with options, and the packet's own length; false if they lie. */
static bool read_ip(const uint8_t *packet, size_t len, size_t *ip_bytes, size_t *total)
{
	if (len >= WS_IPV4_BYTES && packet[0] >> 4 == 4) {
		*ip_bytes = (size_t)(packet[0] & 0x0f) * 4;
		*total = ws_get16(packet + WS_IPV4_LENGTH);
		return *ip_bytes >= WS_IPV4_BYTES && *ip_bytes <= *total && *total <= len;
	}
	if (len >= WS_IPV6_BYTES && packet[0] >> 4 == 6) {
		*ip_bytes = WS_IPV6_BYTES;
		*total = WS_IPV6_BYTES + (size_t)ws_get16(packet + WS_IPV6_LENGTH);
		return *total <= len;
	}
	return false;
}

/* Where L4 begins and its protocol, past IPv6 extension headers. False: a fragment, or cut off. */
static bool find_l4(const uint8_t *packet, size_t len, size_t *offset, uint8_t *protocol)
{
	if (!ws_ip_l4(packet, len, offset, protocol))
		return false;
	if (packet[0] >> 4 == 4)
		return true;
	while (*protocol == WS_IPV6_HOP_BY_HOP || *protocol == WS_IPV6_ROUTING ||
	       *protocol == WS_IPV6_DESTINATION) {
		if (*offset + 8 > len || *offset > WS_SEGMENT_MAX_HEADER)
			return false;
		*protocol = packet[*offset];
		*offset += 8 * ((size_t)packet[*offset + 1] + 1);
	}
	return true;
}

/* CHECKSUM_PARTIAL: sum from csum_start to the end over the start value already in the field. */
static int complete_checksum(const struct virtio_net_hdr *vnet, uint8_t *packet, size_t len,
			     size_t ip_bytes)
{
	size_t start = vnet->csum_start, at = start + vnet->csum_offset;
	uint16_t checksum;

	if (start < ip_bytes || at + 2 > len)
		return -EBADMSG;
	checksum = (uint16_t)~ws_csum_fold(ws_csum_add(0, packet + start, len - start));
	/* 0 would say "no checksum" in UDP; anywhere else both mean the same. */
	ws_csum_store(packet + at, checksum ? checksum : 0xffff);
	return 0;
}

/* Sums that all segments share; what differs per segment is zeroed in a copy first. */
static void sum_headers(struct ws_segmenter *segmenter, bool partial)
{
	uint8_t copy[WS_SEGMENT_MAX_HEADER];
	uint8_t *l4 = copy + segmenter->l4_offset;
	size_t l4_bytes = segmenter->len - segmenter->l4_offset;
	uint8_t *checksum =
		l4 + (segmenter->protocol == WS_PROTOCOL_TCP ? WS_TCP_CHECKSUM : WS_UDP_CHECKSUM);
	uint16_t kernel_sum;

	memcpy(copy, segmenter->packet, segmenter->header_bytes);
	if (partial) { /* its pseudo header holds the length of the whole: take that out */
		memcpy(&kernel_sum, checksum, 2);
		segmenter->l4_base = (uint64_t)kernel_sum + (uint16_t)~htobe16((uint16_t)l4_bytes);
	} else {
		segmenter->l4_base = ws_csum_pseudo(copy, segmenter->protocol, 0);
	}
	ws_put16(checksum, 0);
	if (segmenter->protocol == WS_PROTOCOL_TCP) {
		ws_put32(l4 + WS_TCP_SEQ, 0);
		l4[WS_TCP_FLAGS] = 0;
	} else {
		ws_put16(l4 + WS_UDP_LENGTH, 0);
	}
	segmenter->l4_base = ws_csum_add_header(segmenter->l4_base, l4,
						segmenter->header_bytes - segmenter->l4_offset);
	if (segmenter->version == 4) {
		ws_put16(copy + WS_IPV4_LENGTH, 0);
		ws_put16(copy + WS_IPV4_ID, 0);
		ws_put16(copy + WS_IPV4_CHECKSUM, 0);
		segmenter->ip_base = ws_csum_add_header(0, copy, segmenter->l4_offset);
	}
}

/* The checksum that vnet asks for is TCP's or UDP's own, right behind the IP header. */
static bool plain_l4(const struct virtio_net_hdr *vnet, const uint8_t *packet, size_t len,
		     size_t ip_bytes)
{
	uint8_t protocol = packet[packet[0] >> 4 == 4 ? WS_IPV4_PROTOCOL : WS_IPV6_NEXT];

	if (vnet->csum_start != ip_bytes ||
	    (packet[0] >> 4 == 4 && ws_get16(packet + WS_IPV4_FRAGMENT) & WS_IPV4_MF_OFFSET))
		return false;
	if (protocol == WS_PROTOCOL_TCP)
		return vnet->csum_offset == WS_TCP_CHECKSUM && ip_bytes + WS_TCP_BYTES <= len;
	return protocol == WS_PROTOCOL_UDP && vnet->csum_offset == WS_UDP_CHECKSUM &&
	       ip_bytes + WS_UDP_BYTES <= len;
}

int ws_segment_begin(struct ws_segmenter *segmenter, const struct virtio_net_hdr *vnet,
		     uint8_t *packet, size_t len, bool leave_partial)
{
	bool needs_checksum = vnet->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM;
	size_t ip_bytes, total, l4_offset, header_bytes, payload;
	uint8_t protocol, want_version, want_protocol;
	uint16_t checksum_offset;

	memset(segmenter, 0, sizeof(*segmenter));
	if (!read_ip(packet, len, &ip_bytes, &total))
		return -EBADMSG;
	segmenter->packet = packet;
	segmenter->len = total;
	segmenter->version = packet[0] >> 4;
	segmenter->count = 1;
	segmenter->partial =
		leave_partial && needs_checksum && plain_l4(vnet, packet, total, ip_bytes);

	switch (vnet->gso_type) {
	case VIRTIO_NET_HDR_GSO_NONE:
		if (!needs_checksum || segmenter->partial)
			return 0;
		return complete_checksum(vnet, packet, total, ip_bytes);
	case VIRTIO_NET_HDR_GSO_TCPV4:
	case VIRTIO_NET_HDR_GSO_TCPV4 | VIRTIO_NET_HDR_GSO_ECN:
		want_version = 4;
		want_protocol = WS_PROTOCOL_TCP;
		break;
	case VIRTIO_NET_HDR_GSO_TCPV6:
	case VIRTIO_NET_HDR_GSO_TCPV6 | VIRTIO_NET_HDR_GSO_ECN:
		want_version = 6;
		want_protocol = WS_PROTOCOL_TCP;
		break;
	case VIRTIO_NET_HDR_GSO_UDP_L4:
		want_version = segmenter->version;
		want_protocol = WS_PROTOCOL_UDP;
		break;
	default:
		return -EPROTONOSUPPORT;
	}

	if (total != len || segmenter->version != want_version || !vnet->gso_size ||
	    !find_l4(packet, len, &l4_offset, &protocol) || protocol != want_protocol)
		return -EBADMSG;
	if (protocol == WS_PROTOCOL_TCP) {
		if (l4_offset + WS_TCP_BYTES > len)
			return -EBADMSG;
		header_bytes = ws_tcp_header_bytes(packet + l4_offset);
		if (header_bytes < WS_TCP_BYTES)
			return -EBADMSG;
		checksum_offset = WS_TCP_CHECKSUM;
	} else {
		header_bytes = WS_UDP_BYTES;
		checksum_offset = WS_UDP_CHECKSUM;
	}
	header_bytes += l4_offset;
	if (header_bytes > len || header_bytes > WS_SEGMENT_MAX_HEADER)
		return -EBADMSG;
	if (needs_checksum &&
	    (vnet->csum_start != l4_offset || vnet->csum_offset != checksum_offset))
		return -EBADMSG;

	payload = len - header_bytes;
	segmenter->header_bytes = header_bytes;
	segmenter->segment_bytes = vnet->gso_size;
	if (payload)
		segmenter->count = (uint32_t)((payload + vnet->gso_size - 1) / vnet->gso_size);
	segmenter->l4_offset = (uint16_t)l4_offset;
	segmenter->protocol = protocol;
	if (segmenter->version == 4)
		segmenter->ip_id = ws_get16(packet + WS_IPV4_ID);
	if (protocol == WS_PROTOCOL_TCP) {
		segmenter->tcp_seq = ws_get32(packet + l4_offset + WS_TCP_SEQ);
		segmenter->tcp_flags = packet[l4_offset + WS_TCP_FLAGS];
	}
	sum_headers(segmenter, needs_checksum && l4_offset != ip_bytes);
	return 0;
}

void ws_segment_get(const struct ws_segmenter *segmenter, uint32_t k, uint8_t *head,
		    const uint8_t **body, size_t *body_bytes)
{
	size_t header_bytes = segmenter->header_bytes, offset, bytes;
	bool last = k + 1 == segmenter->count;
	uint16_t ip_len, id, l4_len, checksum;
	uint8_t *l4, flags;
	uint32_t seq;
	uint64_t sum;

	if (!header_bytes) {
		*body = segmenter->packet;
		*body_bytes = segmenter->len;
		return;
	}
	offset = header_bytes + k * segmenter->segment_bytes;
	bytes = last ? segmenter->len - offset : segmenter->segment_bytes;
	*body = segmenter->packet + offset;
	*body_bytes = bytes;

	memcpy(head, segmenter->packet, header_bytes);
	l4 = head + segmenter->l4_offset;
	ip_len = (uint16_t)(header_bytes + bytes);
	l4_len = (uint16_t)(ip_len - segmenter->l4_offset);
	if (segmenter->version == 4) {
		id = (uint16_t)(segmenter->ip_id + k);
		ws_put16(head + WS_IPV4_LENGTH, ip_len);
		ws_put16(head + WS_IPV4_ID, id);
		sum = segmenter->ip_base + htobe16(ip_len) + htobe16(id);
		ws_csum_store(head + WS_IPV4_CHECKSUM, (uint16_t)~ws_csum_fold(sum));
	} else {
		ws_put16(head + WS_IPV6_LENGTH, (uint16_t)(ip_len - WS_IPV6_BYTES));
	}

	sum = segmenter->l4_base + htobe16(l4_len);
	if (!segmenter->partial)
		sum = ws_csum_add(sum, *body, bytes);
	if (segmenter->protocol == WS_PROTOCOL_TCP) {
		seq = segmenter->tcp_seq + (uint32_t)(k * segmenter->segment_bytes);
		flags = segmenter->tcp_flags;
		if (k)
			flags &= (uint8_t)~WS_TCP_CWR;
		if (!last)
			flags &= (uint8_t)~LAST_ONLY;
		ws_put32(l4 + WS_TCP_SEQ, seq);
		l4[WS_TCP_FLAGS] = flags;
		sum += (uint64_t)htobe32(seq) + htobe16(flags);
		ws_csum_store(l4 + WS_TCP_CHECKSUM, (uint16_t)~ws_csum_fold(sum));
	} else {
		ws_put16(l4 + WS_UDP_LENGTH, l4_len);
		sum += htobe16(l4_len); /* once more: it stands in the header as well */
		checksum = (uint16_t)~ws_csum_fold(sum);
		ws_csum_store(l4 + WS_UDP_CHECKSUM, checksum ? checksum : 0xffff);
	}
}
