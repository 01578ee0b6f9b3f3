/* SPDX-License-Identifier: MIT */
#include "packet/coalesce.h"

#include "packet/checksum.h"

#include <stdlib.h>

#define MAX_PACKET_BYTES 65535
#define NO_FLOW WS_COALESCE_FLOWS

/* What may come between the packets of an open flow, and what must not. */
enum kind {
	KIND_OTHER, /* no TCP or UDP: passes by, no flow waits for it */
	KIND_OPAQUE, /* fragment, extension header, broken L4: could belong to any flow of its hosts */
	KIND_FLOW /* a whole TCP or UDP header */
};

struct packet {
	uint8_t *data;
	size_t len;
	uint16_t l4_offset;
	uint16_t header_bytes; /* IP and L4 */
	uint16_t payload;
	uint16_t id; /* IPv4 */
	uint32_t seq; /* TCP */
	uint8_t version;
	uint8_t protocol;
	bool mergeable;
	bool psh;
};

struct flow {
	struct packet first;
	uint32_t next_seq;
	uint32_t bytes; /* of the super-packet */
	uint16_t next_id;
	bool verified; /* the first packet's checksum was looked at, and is right */
	bool trusted;
	bool psh;
	struct ws_tun_write write;
};

struct ws_coalesce {
	bool tcp, udp;
	ws_tun_emit emit;
	void *arg;
	uint32_t open;
	uint32_t last; /* the flow of the last packet, or NO_FLOW */
	uint8_t order[WS_COALESCE_FLOWS]; /* [0..open): open flows, oldest first; then free ones */
	struct flow flows[WS_COALESCE_FLOWS];
	struct ws_tun_write alone;
};

struct ws_coalesce *ws_coalesce_new(bool tcp, bool udp, ws_tun_emit emit, void *arg)
{
	struct ws_coalesce *coalesce = calloc(1, sizeof(*coalesce));

	if (!coalesce)
		return NULL;
	coalesce->tcp = tcp;
	coalesce->udp = udp;
	coalesce->emit = emit;
	coalesce->arg = arg;
	coalesce->last = NO_FLOW;
	for (uint32_t i = 0; i < WS_COALESCE_FLOWS; i++)
		coalesce->order[i] = (uint8_t)i;
	return coalesce;
}

void ws_coalesce_free(struct ws_coalesce *coalesce)
{
	free(coalesce);
}

/* ---- reading a packet ---- */

static enum kind parse_tcp(struct packet *p, const uint8_t *l4, size_t l4_bytes)
{
	uint8_t flags;
	size_t bytes;

	if (l4_bytes < WS_TCP_BYTES)
		return KIND_OPAQUE;
	bytes = ws_tcp_header_bytes(l4);
	if (bytes < WS_TCP_BYTES || bytes > l4_bytes)
		return KIND_OPAQUE;
	flags = l4[WS_TCP_FLAGS];
	p->header_bytes = (uint16_t)(p->l4_offset + bytes);
	p->payload = (uint16_t)(l4_bytes - bytes);
	p->seq = ws_get32(l4 + WS_TCP_SEQ);
	p->psh = flags & WS_TCP_PSH;
	/* The low bits beside the data offset are reserved, but for AE (RFC 9768): neither merges. */
	p->mergeable = p->payload && (flags & ~WS_TCP_PSH) == WS_TCP_ACKED &&
		       !(l4[WS_TCP_DATA_OFFSET] & 0x0f);
	return KIND_FLOW;
}

static enum kind parse_udp(struct packet *p, const uint8_t *l4, size_t l4_bytes)
{
	if (l4_bytes < WS_UDP_BYTES || ws_get16(l4 + WS_UDP_LENGTH) != l4_bytes)
		return KIND_OPAQUE;
	p->header_bytes = (uint16_t)(p->l4_offset + WS_UDP_BYTES);
	p->payload = (uint16_t)(l4_bytes - WS_UDP_BYTES);
	p->psh = false;
	/* Checksum 0 is none: a merged packet would get one. */
	p->mergeable = p->payload && ws_get16(l4 + WS_UDP_CHECKSUM);
	return KIND_FLOW;
}

static enum kind parse_l4(struct packet *p)
{
	const uint8_t *l4 = p->data + p->l4_offset;
	size_t l4_bytes = p->len - p->l4_offset;

	if (p->protocol == WS_PROTOCOL_TCP)
		return parse_tcp(p, l4, l4_bytes);
	return parse_udp(p, l4, l4_bytes);
}

static enum kind parse_ipv4(struct packet *p)
{
	const uint8_t *ip = p->data;
	size_t ip_bytes = (size_t)(ip[0] & 0x0f) * 4;
	enum kind kind;

	if (ip_bytes < WS_IPV4_BYTES || ip_bytes > p->len ||
	    ws_get16(ip + WS_IPV4_LENGTH) != p->len)
		return KIND_OTHER;
	p->protocol = ip[WS_IPV4_PROTOCOL];
	if (p->protocol != WS_PROTOCOL_TCP && p->protocol != WS_PROTOCOL_UDP)
		return KIND_OTHER;
	if (ws_get16(ip + WS_IPV4_FRAGMENT) & WS_IPV4_MF_OFFSET)
		return KIND_OPAQUE;
	p->l4_offset = (uint16_t)ip_bytes;
	p->id = ws_get16(ip + WS_IPV4_ID);
	kind = parse_l4(p);
	/* A bad header checksum must reach the kernel: merging would mend it. */
	if (ip_bytes != WS_IPV4_BYTES ||
	    ws_csum_fold(ws_csum_add_header(0, ip, WS_IPV4_BYTES)) != 0xffff)
		p->mergeable = false;
	return kind;
}

static enum kind parse_ipv6(struct packet *p)
{
	const uint8_t *ip = p->data;

	if (p->len != WS_IPV6_BYTES + (size_t)ws_get16(ip + WS_IPV6_LENGTH))
		return KIND_OTHER;
	p->protocol = ip[WS_IPV6_NEXT];
	p->l4_offset = WS_IPV6_BYTES;
	switch (p->protocol) {
	case WS_PROTOCOL_TCP:
	case WS_PROTOCOL_UDP:
		return parse_l4(p);
	case WS_IPV6_HOP_BY_HOP:
	case WS_IPV6_ROUTING:
	case WS_IPV6_FRAGMENT:
	case WS_IPV6_AUTHENTICATION:
	case WS_IPV6_DESTINATION:
		return KIND_OPAQUE;
	default:
		return KIND_OTHER;
	}
}

static enum kind parse(struct packet *p, uint8_t *data, size_t len)
{
	p->data = data;
	p->len = len;
	p->mergeable = false;
	p->version = len ? data[0] >> 4 : 0;
	if (p->version == 4 && len >= WS_IPV4_BYTES && len <= MAX_PACKET_BYTES)
		return parse_ipv4(p);
	if (p->version == 6 && len >= WS_IPV6_BYTES && len <= MAX_PACKET_BYTES)
		return parse_ipv6(p);
	return KIND_OTHER;
}

static bool same_hosts(const struct packet *a, const struct packet *b)
{
	if (a->version != b->version)
		return false;
	if (a->version == 4)
		return !memcmp(a->data + WS_IPV4_ADDRESSES, b->data + WS_IPV4_ADDRESSES, 8);
	return !memcmp(a->data + WS_IPV6_ADDRESSES, b->data + WS_IPV6_ADDRESSES, 32);
}

static bool same_flow(const struct packet *a, const struct packet *b)
{
	return a->protocol == b->protocol &&
	       !memcmp(a->data + a->l4_offset, b->data + b->l4_offset, 4) && same_hosts(a, b);
}

static bool checksum_right(const struct packet *p)
{
	uint16_t l4_bytes = (uint16_t)(p->len - p->l4_offset);
	const uint8_t *l4 = p->data + p->l4_offset;
	uint64_t sum = ws_csum_pseudo(p->data, p->protocol, l4_bytes);

	/*
	 * TCP may write 0 as 0xffff too. It is as right, but a segmenter would
	 * write 0: the one packet in 65,536 passes alone, so that all is undone exactly.
	 */
	if (p->protocol == WS_PROTOCOL_TCP && ws_get16(l4 + WS_TCP_CHECKSUM) == 0xffff)
		return false;
	return ws_csum_fold(ws_csum_add(sum, l4, l4_bytes)) == 0xffff;
}

/* ---- writing ---- */

static uint16_t checksum_offset(const struct packet *p)
{
	return p->protocol == WS_PROTOCOL_TCP ? WS_TCP_CHECKSUM : WS_UDP_CHECKSUM;
}

/* The pseudo-header sum into the checksum field, the rest is asked of the kernel. */
static void ask_checksum(struct virtio_net_hdr *vnet, const struct packet *p, uint32_t bytes)
{
	uint64_t sum = ws_csum_pseudo(p->data, p->protocol, (uint16_t)(bytes - p->l4_offset));

	vnet->flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
	vnet->csum_start = p->l4_offset;
	vnet->csum_offset = checksum_offset(p);
	ws_csum_store(p->data + p->l4_offset + vnet->csum_offset, ws_csum_fold(sum));
}

/*
 * A packet that goes on by itself gets its whole checksum: what reads the device raw sees no
 * difference to what came by a wire. (A super-packet's is partial on any device with GRO.)
 */
static void finish_checksum(const struct packet *p)
{
	uint8_t *l4 = p->data + p->l4_offset;
	size_t l4_bytes = p->len - p->l4_offset;
	uint8_t *field = l4 + checksum_offset(p);
	uint16_t sum;

	ws_csum_store(field, 0);
	sum = (uint16_t)~ws_csum_fold(ws_csum_add(
		ws_csum_pseudo(p->data, p->protocol, (uint16_t)l4_bytes), l4, l4_bytes));
	/* UDP's 0 is "no checksum". */
	ws_csum_store(field, p->protocol == WS_PROTOCOL_UDP && !sum ? 0xffff : sum);
}

static void emit(struct ws_coalesce *coalesce, struct ws_tun_write *write, uint32_t packets,
		 uint32_t bytes)
{
	write->packets = packets;
	write->bytes = bytes;
	write->iov_count = packets + 1;
	write->iov[0].iov_base = &write->vnet;
	write->iov[0].iov_len = sizeof(write->vnet);
	coalesce->emit(coalesce->arg, write);
}

/* `partial`: the checksum may be just the pseudo header's; never for what is not KIND_FLOW. */
static void emit_alone(struct ws_coalesce *coalesce, const struct packet *p, bool partial)
{
	struct ws_tun_write *write = &coalesce->alone;

	memset(&write->vnet, 0, sizeof(write->vnet));
	/* UDP's 0 is "no checksum"; a partial one is never 0. */
	if (partial &&
	    (p->protocol == WS_PROTOCOL_TCP || ws_get16(p->data + p->l4_offset + WS_UDP_CHECKSUM)))
		finish_checksum(p);
	write->iov[1].iov_base = p->data;
	write->iov[1].iov_len = p->len;
	emit(coalesce, write, 1, (uint32_t)p->len);
}

static void emit_merged(struct ws_coalesce *coalesce, struct flow *flow)
{
	struct ws_tun_write *write = &flow->write;
	const struct packet *p = &flow->first;
	uint8_t *ip = p->data, *l4 = ip + p->l4_offset;

	memset(&write->vnet, 0, sizeof(write->vnet));
	write->vnet.hdr_len = p->header_bytes;
	write->vnet.gso_size = p->payload;
	if (p->version == 4) {
		ws_put16(ip + WS_IPV4_LENGTH, (uint16_t)flow->bytes);
		ws_csum_write_ipv4(ip, WS_IPV4_BYTES);
	} else {
		ws_put16(ip + WS_IPV6_LENGTH, (uint16_t)(flow->bytes - WS_IPV6_BYTES));
	}
	if (p->protocol == WS_PROTOCOL_TCP) {
		write->vnet.gso_type =
			p->version == 4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;
		if (flow->psh)
			l4[WS_TCP_FLAGS] |= WS_TCP_PSH;
	} else {
		write->vnet.gso_type = VIRTIO_NET_HDR_GSO_UDP_L4;
		ws_put16(l4 + WS_UDP_LENGTH, (uint16_t)(flow->bytes - p->l4_offset));
	}
	ask_checksum(&write->vnet, p, flow->bytes);
	emit(coalesce, write, write->packets, flow->bytes);
}

/* ---- flows ---- */

/* Emits the flow at place `at` of the order and frees it. */
static void close_flow(struct ws_coalesce *coalesce, uint32_t at)
{
	uint8_t index = coalesce->order[at];
	struct flow *flow = &coalesce->flows[index];

	coalesce->open--;
	memmove(coalesce->order + at, coalesce->order + at + 1, coalesce->open - at);
	coalesce->order[coalesce->open] = index;
	if (coalesce->last == index)
		coalesce->last = NO_FLOW;
	if (flow->write.packets == 1)
		emit_alone(coalesce, &flow->first, flow->trusted);
	else
		emit_merged(coalesce, flow);
}

static void close_index(struct ws_coalesce *coalesce, uint32_t index)
{
	for (uint32_t at = 0; at < coalesce->open; at++)
		if (coalesce->order[at] == index) {
			close_flow(coalesce, at);
			return;
		}
}

static void close_hosts(struct ws_coalesce *coalesce, const struct packet *p)
{
	for (uint32_t at = 0; at < coalesce->open;)
		if (same_hosts(&coalesce->flows[coalesce->order[at]].first, p))
			close_flow(coalesce, at);
		else
			at++;
}

static void open_flow(struct ws_coalesce *coalesce, const struct packet *p, bool trusted)
{
	struct flow *flow;

	if (coalesce->open == WS_COALESCE_FLOWS)
		close_flow(coalesce, 0);
	coalesce->last = coalesce->order[coalesce->open++];
	flow = &coalesce->flows[coalesce->last];
	flow->first = *p;
	flow->next_seq = p->seq + p->payload;
	flow->next_id = (uint16_t)(p->id + 1);
	flow->bytes = (uint32_t)p->len;
	flow->verified = trusted;
	flow->trusted = trusted;
	flow->psh = false;
	flow->write.packets = 1;
	flow->write.iov[1].iov_base = p->data;
	flow->write.iov[1].iov_len = p->len;
}

/* The index of the packet's open flow, or NO_FLOW. */
static uint32_t find_flow(const struct ws_coalesce *coalesce, const struct packet *p)
{
	uint32_t index = coalesce->last;

	if (index != NO_FLOW && same_flow(&coalesce->flows[index].first, p))
		return index;
	for (uint32_t at = 0; at < coalesce->open; at++) {
		index = coalesce->order[at];
		if (same_flow(&coalesce->flows[index].first, p))
			return index;
	}
	return NO_FLOW;
}

/* Same flow given: everything else that a segmenter takes from the first header is equal. */
static bool same_headers(const struct flow *flow, const struct packet *p)
{
	const uint8_t *a = flow->first.data, *b = p->data;
	const uint8_t *tcp_a = a + flow->first.l4_offset, *tcp_b = b + p->l4_offset;

	if (p->header_bytes != flow->first.header_bytes)
		return false;
	if (p->version == 4) {
		if (a[WS_IPV4_TOS] != b[WS_IPV4_TOS] || a[WS_IPV4_TTL] != b[WS_IPV4_TTL] ||
		    a[WS_IPV4_FRAGMENT] != b[WS_IPV4_FRAGMENT])
			return false;
		/* Under DF the id means nothing (RFC 6864): many senders write 0 or anything. */
		if (!(b[WS_IPV4_FRAGMENT] & WS_IPV4_DF) && p->id != flow->next_id)
			return false;
	} else if (memcmp(a, b, 4) || a[WS_IPV6_HOP_LIMIT] != b[WS_IPV6_HOP_LIMIT]) {
		return false; /* memcmp: traffic class and flow label */
	}
	if (p->protocol == WS_PROTOCOL_UDP)
		return true;
	return p->seq == flow->next_seq && !memcmp(tcp_a + WS_TCP_ACK, tcp_b + WS_TCP_ACK, 5) &&
	       !memcmp(tcp_a + WS_TCP_WINDOW, tcp_b + WS_TCP_WINDOW, 2) &&
	       !memcmp(tcp_a + WS_TCP_URGENT, tcp_b + WS_TCP_URGENT,
		       (size_t)(p->header_bytes - p->l4_offset - WS_TCP_URGENT));
}

/*
 * The packet into its open flow. False: it does not fit, the flow must go out before it. A bad
 * checksum clears p->mergeable. The first packet is verified only when a second one
 * fits, so single packets are never summed at all.
 */
static bool append(struct ws_coalesce *coalesce, uint32_t index, struct packet *p, bool trusted)
{
	struct flow *flow = &coalesce->flows[index];
	bool full;

	if (trusted != flow->trusted || p->payload > flow->first.payload ||
	    flow->bytes + p->payload > MAX_PACKET_BYTES || !same_headers(flow, p))
		return false;
	if (!trusted) {
		if (!checksum_right(p)) {
			p->mergeable = false;
			return false;
		}
		if (!flow->verified && !checksum_right(&flow->first))
			return false;
		flow->verified = true;
	}
	flow->write.packets++;
	flow->write.iov[flow->write.packets].iov_base = p->data + p->header_bytes;
	flow->write.iov[flow->write.packets].iov_len = p->payload;
	flow->bytes += p->payload;
	flow->next_seq += p->payload;
	flow->next_id++;
	flow->psh = p->psh;
	coalesce->last = index;
	full = flow->write.packets == WS_COALESCE_SEGMENTS || p->payload < flow->first.payload;
	if (full || p->psh)
		close_index(coalesce, index);
	return true;
}

void ws_coalesce_add(struct ws_coalesce *coalesce, uint8_t *data, size_t len, bool trusted)
{
	struct packet p;
	uint32_t index;

	switch (parse(&p, data, len)) {
	case KIND_OTHER:
		emit_alone(coalesce, &p, false);
		return;
	case KIND_OPAQUE:
		close_hosts(coalesce, &p);
		emit_alone(coalesce, &p, false);
		return;
	case KIND_FLOW:
		break;
	}
	if (p.protocol == WS_PROTOCOL_TCP ? !coalesce->tcp : !coalesce->udp) {
		emit_alone(coalesce, &p, trusted);
		return;
	}
	index = find_flow(coalesce, &p);
	if (index != NO_FLOW) {
		if (p.mergeable && append(coalesce, index, &p, trusted))
			return;
		close_index(coalesce, index);
	}
	/* PSH ends a run: nothing could follow it. */
	if (p.mergeable && !p.psh)
		open_flow(coalesce, &p, trusted);
	else
		emit_alone(coalesce, &p, trusted);
}

void ws_coalesce_flush(struct ws_coalesce *coalesce)
{
	while (coalesce->open)
		close_flow(coalesce, 0);
}
