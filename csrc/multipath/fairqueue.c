/* SPDX-License-Identifier: MIT */
#include "multipath/fairqueue.h"

#include "packet/ip.h"

enum list { LIST_NONE, LIST_NEW, LIST_OLD, LISTS };

struct ws_fq_memory {
	struct ws_fq_list lists[LISTS];
	uint32_t free; /* given back, number + 1; 0: none */
	uint32_t fresh; /* never used so far: so memory is touched as far as it is needed */
	struct ws_fq_flow flows[WS_FQ_FLOWS];
	struct ws_fq_packet packets[WS_FQ_PACKETS];
	uint8_t data[];
};

size_t ws_fq_bytes(uint32_t stride)
{
	return ws_lines(sizeof(struct ws_fq_memory) + (size_t)stride * WS_FQ_PACKETS);
}

void ws_fq_init(struct ws_fq *fq, void *memory, uint32_t stride, uint32_t salt)
{
	*fq = (struct ws_fq){.memory = memory, .stride = stride, .salt = salt};
}

void ws_fq_forget(struct ws_fq *fq)
{
	fq->packets = fq->busy = 0;
	fq->bytes = 0;
}

static uint8_t *data_of(const struct ws_fq *fq, uint32_t number)
{
	return fq->memory->data + (size_t)number * fq->stride;
}

/* Number of the next free one, or WS_FQ_PACKETS. */
static uint32_t vacant(const struct ws_fq *fq)
{
	return fq->memory->free ? fq->memory->free - 1 : fq->memory->fresh;
}

uint8_t *ws_fq_place(struct ws_fq *fq)
{
	uint32_t number = vacant(fq);

	return number < WS_FQ_PACKETS ? data_of(fq, number) : NULL;
}

/* Of all that belongs to one flow the same. *tcp: its header, if it is all there, else NULL. */
static uint32_t hash_of(const uint8_t *packet, uint32_t len, uint32_t salt, const uint8_t **tcp)
{
	size_t header = 0, bytes, at = ws_ip_addresses(packet, &bytes), end = at + bytes;
	uint8_t protocol = 0;
	bool whole = ws_ip_l4(packet, len, &header, &protocol);
	uint32_t hash = ws_flow_mix(salt, protocol);

	for (; at < end && at + sizeof(hash) <= len; at += sizeof(hash))
		hash = ws_flow_mix(hash, ws_get32(packet + at));
	if (whole && (protocol == WS_PROTOCOL_TCP || protocol == WS_PROTOCOL_UDP) &&
	    len >= header + sizeof(hash))
		hash = ws_flow_mix(hash, ws_get32(packet + header));
	*tcp = whole && protocol == WS_PROTOCOL_TCP && len >= header + WS_TCP_BYTES
		       ? packet + header
		       : NULL;
	return hash;
}

/* Whether it begins before the end of what its TCP sent already. Of two that share a place in the table neither
 * is known. */
static bool is_again(struct ws_fq_flow *flow, uint32_t key, const uint8_t *tcp, const uint8_t *end)
{
	ptrdiff_t payload = end - tcp - (ptrdiff_t)ws_tcp_header_bytes(tcp);
	uint32_t seq = ws_get32(tcp + WS_TCP_SEQ);

	if (payload <= 0)
		return false;
	if (key != flow->key) {
		flow->key = key;
		flow->sent = seq;
	}
	if ((int32_t)(seq - flow->sent) < 0)
		return true;
	flow->sent = seq + (uint32_t)payload;
	return false;
}

static void list_add(struct ws_fq_memory *m, enum list kind, uint32_t flow)
{
	struct ws_fq_list *list = &m->lists[kind];

	m->flows[flow].list = (uint8_t)kind;
	m->flows[flow].next = 0;
	if (list->last)
		m->flows[list->last - 1].next = flow + 1;
	else
		list->first = flow + 1;
	list->last = flow + 1;
}

/* The first of the list goes out of it. */
static void list_pop(struct ws_fq_memory *m, enum list kind)
{
	struct ws_fq_list *list = &m->lists[kind];
	struct ws_fq_flow *flow = &m->flows[list->first - 1];

	list->first = flow->next;
	if (!list->first)
		list->last = 0;
	flow->list = LIST_NONE;
}

uint32_t ws_fq_put(struct ws_fq *fq, uint32_t len, uint8_t flags, uint8_t ecn, uint64_t now_ns)
{
	struct ws_fq_memory *m = fq->memory;
	uint32_t number = vacant(fq), hash, flow;
	const uint8_t *packet = data_of(fq, number), *tcp;
	struct ws_fq_flow *to;

	hash = hash_of(packet, len, fq->salt, &tcp);
	flow = hash % WS_FQ_FLOWS;
	to = &m->flows[flow];
	if (m->free)
		m->free = m->packets[number].next;
	else
		m->fresh++;
	m->packets[number] = (struct ws_fq_packet){
		.queued_ns = now_ns,
		.len = len,
		.flow = (uint16_t)flow,
		.flags = flags,
		.ecn = ecn,
		.tcp = tcp,
		.again = tcp && is_again(to, hash, tcp, packet + len),
	};
	if (to->tail)
		m->packets[to->tail - 1].next = number + 1;
	else
		to->head = number + 1;
	to->tail = number + 1;
	fq->busy += !to->bytes;
	to->bytes += len;
	fq->packets++;
	fq->bytes += len;
	if (to->list == LIST_NONE) {
		to->deficit = WS_PACKET_BYTES;
		list_add(m, LIST_NEW, flow);
	}
	return flow;
}

/* The flow whose turn it is, at the head of its list, number + 1; 0: none waits. */
static uint32_t turn(struct ws_fq *fq)
{
	struct ws_fq_memory *m = fq->memory;

	if (!fq->packets)
		return 0;
	for (;;) {
		enum list kind = m->lists[LIST_NEW].first ? LIST_NEW : LIST_OLD;
		uint32_t flow = m->lists[kind].first;
		struct ws_fq_flow *at = &m->flows[flow - 1];

		if (at->head && at->deficit > 0)
			return flow;
		list_pop(m, kind);
		if (!at->head) {
			/* A new one that empties stays for a round, or it would be new each time. */
			if (kind == LIST_NEW && m->lists[LIST_OLD].first)
				list_add(m, LIST_OLD, flow - 1);
			continue;
		}
		at->deficit += WS_PACKET_BYTES;
		list_add(m, LIST_OLD, flow - 1);
	}
}

const struct ws_fq_packet *ws_fq_peek(struct ws_fq *fq, const uint8_t **data)
{
	uint32_t flow = turn(fq), number;

	if (!flow)
		return NULL;
	number = fq->memory->flows[flow - 1].head - 1;
	*data = data_of(fq, number);
	return &fq->memory->packets[number];
}

struct ws_fq_flow *ws_fq_flow(struct ws_fq *fq, const struct ws_fq_packet *packet)
{
	return &fq->memory->flows[packet->flow];
}

uint64_t ws_fq_flow_bytes(const struct ws_fq *fq, uint32_t flow)
{
	return fq->memory->flows[flow].bytes;
}

static uint32_t remove_head(struct ws_fq *fq, struct ws_fq_flow *from)
{
	struct ws_fq_memory *m = fq->memory;
	uint32_t number = from->head - 1, len = m->packets[number].len;

	from->head = m->packets[number].next;
	if (!from->head)
		from->tail = 0;
	from->bytes -= len;
	fq->busy -= !from->bytes;
	fq->packets--;
	fq->bytes -= len;
	m->packets[number].next = m->free;
	m->free = number + 1;
	return len;
}

void ws_fq_take(struct ws_fq *fq)
{
	uint32_t flow = turn(fq);

	if (flow)
		fq->memory->flows[flow - 1].deficit -=
			(int32_t)remove_head(fq, &fq->memory->flows[flow - 1]);
}

bool ws_fq_cut(struct ws_fq *fq)
{
	struct ws_fq_flow *flows = fq->memory->flows, *fattest = flows;

	if (!fq->packets)
		return false;
	for (uint32_t i = 1; i < WS_FQ_FLOWS; i++)
		if (flows[i].bytes > fattest->bytes)
			fattest = &flows[i];
	(void)remove_head(fq, fattest);
	return true;
}
