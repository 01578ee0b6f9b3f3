/* SPDX-License-Identifier: MIT */
/*
 * What is done for the sake of a TCP inside (docs/multipath.md section 10), all of it here and
 * behind one switch, `align` of the parameters:
 *  - each of its packets is delivered no earlier than one over the slowest path within ALIGN_MOST_US
 *    would be
 *  - what has no payload (SYN, acknowledgements) takes the best path at once
 *  - a SYN leaves twice: one that is lost costs a second
 * Switched off, nothing is held back any more; what is held leaves in its time.
 */
#include "multipath/multipath_internal.h"
#include "packet/ip.h"

#define ALIGN_MOST_US 50000 /* paths that are farther apart are not made one */

static bool on(const struct ws_multipath *mp)
{
	return ws_get(mp->tune.align);
}

/* Its header, with *len bytes from there on; NULL: it is no TCP's, or cut short. */
static const uint8_t *tcp_of(const uint8_t *packet, size_t *len)
{
	uint8_t protocol = 0;
	size_t ip;

	if (!ws_ip_l4(packet, *len, &ip, &protocol) || protocol != WS_PROTOCOL_TCP ||
	    *len < ip + WS_TCP_BYTES)
		return NULL;
	*len -= ip;
	return packet + ip;
}

bool mp_inner_is_urgent(const struct ws_multipath *mp, const uint8_t *packet, size_t len)
{
	const uint8_t *tcp = tcp_of(packet, &len);

	/* A FIN or RST must not overtake what it follows. */
	return tcp && on(mp) && len == ws_tcp_header_bytes(tcp) &&
	       !(tcp[WS_TCP_FLAGS] & (WS_TCP_FIN | WS_TCP_RST));
}

bool mp_inner_leaves_twice(const struct ws_multipath *mp, const uint8_t *packet, size_t len)
{
	const uint8_t *tcp = tcp_of(packet, &len);

	return tcp && on(mp) && tcp[WS_TCP_FLAGS] & WS_TCP_SYN;
}

size_t mp_inner_bytes(size_t stride)
{
	return 2 * ws_align_bytes(stride);
}

void mp_inner_init(struct ws_multipath *mp, uint8_t *memory)
{
	ws_align_init(&mp->inner.line, memory, mp->stride);
	ws_align_init(&mp->inner.urgent, memory + ws_align_bytes(mp->stride), mp->stride);
}

/* How much later than this packet one over the slowest path would have come, queues aside. So an inner
 * TCP sees one round trip whichever path its packets take. */
static uint32_t behind_us(const struct ws_multipath *mp, uint32_t path, uint64_t now_ns)
{
	const struct rx_path *rx = &mp->rx[path];
	uint32_t taken = (uint32_t)(rx->delay_ref_us + rx->delay_last_us);
	uint64_t lately_ns = 1000ULL * ws_get(mp->tune.path_idle_us);
	int64_t longest = 0;

	for (uint32_t i = 0; i < WS_PATH_COUNT; i++) {
		uint32_t other = mp->rx[i].delay_least_us;

		if (i == path || !mp->rx[i].seen || now_ns - mp->rx[i].ordered_ns > lately_ns ||
		    mp_diff24(other, rx->delay_least_us) > ALIGN_MOST_US)
			continue;
		if (mp_diff24(other, taken) > longest)
			longest = mp_diff24(other, taken);
	}
	return (uint32_t)(longest < ALIGN_MOST_US ? longest : ALIGN_MOST_US);
}

static void release_line(struct ws_multipath *mp, uint64_t until_ns, uint64_t now_ns)
{
	const struct ws_align_packet *next;
	const uint8_t *direct = mp->direct;
	bool any = false;
	uint8_t *packet;

	mp->direct = NULL; /* the bytes are the line's */
	while ((next = ws_align_take(&mp->inner.line, until_ns, &packet))) {
		ws_reorder_insert(mp->reorder, next->path, next->seq, false, packet, next->len,
				  next->flags, now_ns);
		any = true;
		if (ws_reorder_must_release(mp->reorder))
			mp->ops.flush(mp->arg);
	}
	mp->direct = direct;
	/* Before others take their place. */
	if (any)
		mp->ops.flush(mp->arg);
}

static void release_urgent(struct ws_multipath *mp, uint64_t until_ns)
{
	const struct ws_align_packet *next;
	uint8_t *packet;
	bool any = false;

	while ((next = ws_align_take(&mp->inner.urgent, until_ns, &packet))) {
		mp->ops.deliver(mp->arg, packet, next->len, next->flags | WS_MULTIPATH_HELD);
		any = true;
	}
	/* Before others take their place. */
	if (any)
		mp->ops.flush(mp->arg);
}

bool mp_inner_hold_ordered(struct ws_multipath *mp, uint32_t path, uint32_t seq, uint32_t flags,
			   const uint8_t *packet, size_t len, uint64_t now_ns)
{
	uint32_t wait_us = on(mp) ? behind_us(mp, path, now_ns) : 0;

	mp->rx[path].ordered_ns = now_ns;
	if (!ws_align_hold(&mp->inner.line, path, seq, flags, packet, len, wait_us, now_ns)) {
		/* Without room: what the path brought before goes first. */
		if (mp->inner.line.waiting[path])
			release_line(mp, UINT64_MAX, now_ns);
		return false;
	}
	ws_add(mp->stats.aligned, 1);
	return true;
}

bool mp_inner_hold_urgent(struct ws_multipath *mp, uint32_t path, const uint8_t *packet, size_t len,
			  uint32_t flags, uint64_t now_ns)
{
	uint32_t wait_us = on(mp) ? behind_us(mp, path, now_ns) : 0;

	if (!(flags & WS_FRAME_FEEDBACK) || (!wait_us && !ws_align_waits(&mp->inner.urgent)) ||
	    !mp_is_tcp(packet, len))
		return false;
	if (!ws_align_hold(&mp->inner.urgent, path, 0, flags, packet, len, wait_us, now_ns)) {
		/* Without room: what the path brought before goes first. */
		if (mp->inner.urgent.waiting[path])
			release_urgent(mp, UINT64_MAX);
		return false;
	}
	ws_add(mp->stats.aligned, 1);
	return true;
}

void mp_inner_release(struct ws_multipath *mp, uint64_t now_ns)
{
	release_urgent(mp, UINT64_MAX);
	release_line(mp, UINT64_MAX, now_ns);
}

void mp_inner_expire(struct ws_multipath *mp, uint64_t now_ns)
{
	release_urgent(mp, now_ns);
	release_line(mp, now_ns, now_ns);
}

uint64_t mp_inner_deadline(const struct ws_multipath *mp)
{
	uint64_t at = ws_align_deadline(&mp->inner.line);
	uint64_t other = ws_align_deadline(&mp->inner.urgent);

	return other < at ? other : at;
}

bool mp_inner_has(const struct ws_multipath *mp, uint32_t first, uint32_t count)
{
	return ws_align_has(&mp->inner.line, first, count);
}
