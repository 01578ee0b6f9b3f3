/* SPDX-License-Identifier: MIT */
/*
 * What is done for the sake of a TCP inside (docs/multipath.md section 10), all of it here and
 * behind one switch, `align` of the parameters:
 *  - each of its packets is delivered no earlier than one over the slowest path within ALIGN_MOST_US
 *    would be
 *  - what has no payload (SYN, acknowledgements) takes the best path at once
 *  - a SYN leaves twice: one that is lost costs a second
 *  - the windows that come for it are made smaller, so that no loss need tell it how long its queue is
 *  - one of this host's own that starts is told in few ACKs, or it would end that for the second path's delay
 *  - where this host's own TCPs are BBRs, what comes for one is held back from its SYN on by what twice
 *    its round trip lacks to fill all paths
 * Switched off, nothing is held back any more; what is held leaves in its time.
 */
#include "multipath/multipath_internal.h"
#include "packet/ip.h"

#include <string.h>

#define ALIGN_MOST_US 50000 /* paths that are farther apart are not made one */

/* What may wait of all TCPs together: a path that comes back, or carries more, finds it there. */
#define QUEUE_NS (125 * MS_NS)

/* A BBR keeps its own queue short, but starts with 2.89 times what it saw a path carry (tcp_bbr.c,
 * bbr_high_gain) and takes less for all that there is. */
#define BBR_TIMES 4
/* A BBR forgets the least round trip after so long (tcp_bbr.c, bbr_min_rtt_win_sec). */
#define BBR_FORGETS_NS (10 * S_NS)
/* What stands in the paths' own queues, and as long until an ACK comes. */
#define LACK_MORE_US (2 * WS_QUEUE_LEAST_US)
/* Who was sent so much is no sender; and HyStart judges no less. */
#define FULL_PACKETS 16
/* Linux' HyStart judges a round trip by nine ACKs or more (tcp_cubic.c, HYSTART_MIN_SAMPLES); of a start's rounds each
 * has so many, and the first. */
#define START_PARTS 4
/* It doubles in each: more is under way after so many than all paths may have. */
#define START_ROUNDS 8
#define SMALL_BYTES URGENT_MAX_BYTES

static bool on(const struct ws_multipath *mp)
{
	return ws_get(mp->tune.align) != WS_ALIGN_NOBODY;
}

bool mp_inner_is_urgent(const struct ws_multipath *mp, const uint8_t *packet, size_t len)
{
	const uint8_t *tcp = ws_ip_tcp(packet, &len);

	/* A FIN or RST must not overtake what it follows. */
	return tcp && on(mp) && len == ws_tcp_header_bytes(tcp) &&
	       !(tcp[WS_TCP_FLAGS] & (WS_TCP_FIN | WS_TCP_RST));
}

/* What this host sends has a whole TTL, what it forwards for others has not: those are of another TCP. */
static bool is_own_bbr(const struct ws_multipath *mp, const uint8_t *packet)
{
	return ws_get(mp->tune.align) == WS_ALIGN_BBR && ws_ip_ttl_is_whole(packet);
}

bool mp_inner_listens(const struct ws_multipath *mp, const uint8_t *packet, size_t len)
{
	if (on(mp) && ws_inner_known(mp->inner.senders, mp->fair.salt, packet, len))
		return false;
	return !is_own_bbr(mp, packet);
}

/* The same for both directions. */
static struct ws_inner_flow *flow_of(const struct ws_multipath *mp, const uint8_t *packet,
				     const uint8_t *tcp)
{
	size_t both, at = ws_ip_addresses(packet, &both), half = both / 2;
	uint32_t hash = 0;

	for (size_t i = 0; i < half; i += sizeof(hash))
		hash = ws_flow_mix(hash,
				   ws_get32(packet + at + i) ^ ws_get32(packet + at + half + i));
	/* A port each, of the first four bytes. */
	hash = ws_flow_mix(hash, (uint32_t)(tcp[0] ^ tcp[2]) << 8 | (tcp[1] ^ tcp[3]));
	return &mp->inner.flows[hash % WS_INNER_FLOWS];
}

/* A BBR lets itself twice the least round trip that it saw, so over paths that are farther apart it leaves
 * the far ones. By how much longer than over the quickest path it must be. */
static uint32_t lacks_us(const struct ws_multipath *mp)
{
	uint32_t least = UINT32_MAX, most = 0;

	for (uint32_t i = 0; i < WS_PATH_COUNT; i++) {
		uint32_t base_us = mp->sched.paths[i].base_us;

		if (mp->usable >> i & 1 && base_us && base_us < least)
			least = base_us;
	}
	for (uint32_t i = 0; i < WS_PATH_COUNT; i++) {
		uint32_t base_us = mp->sched.paths[i].base_us;

		if (mp->usable >> i & 1 && base_us > most && base_us - least <= 2 * ALIGN_MOST_US)
			most = base_us;
	}
	most = most / 2 + LACK_MORE_US;
	if (least == UINT32_MAX || most <= least)
		return 0;
	return most - least < ALIGN_MOST_US ? most - least : ALIGN_MOST_US;
}

/* Our SYN, the first or the answer. Held from there on or never: were its round trip to grow later, the BBR
 * would fall to nothing until it forgets the shorter one. */
static void begin_flow(struct ws_multipath *mp, const uint8_t *packet, const uint8_t *tcp,
		       uint64_t now_ns)
{
	struct ws_inner_flow *flow = flow_of(mp, packet, tcp);

	if (ws_get(mp->tune.align) != WS_ALIGN_BBR || !mp->schedule || mp->keep)
		return;
	if (!is_own_bbr(mp, packet)) {
		flow->held = false;
		return;
	}
	/* One for all: they wait in one line. */
	if (!mp->inner.hold_us || now_ns - mp->inner.held_ns > BBR_FORGETS_NS)
		mp->inner.hold_us = lacks_us(mp);
	flow->held = mp->inner.hold_us;
	flow->full = 0;
	mp->inner.any = mp->inner.any || flow->held;
}

bool mp_inner_begins(struct ws_multipath *mp, const uint8_t *packet, size_t len, uint64_t now_ns)
{
	size_t whole = len;
	const uint8_t *tcp = ws_ip_tcp(packet, &len);

	if (!tcp || !on(mp) || !(tcp[WS_TCP_FLAGS] & WS_TCP_SYN))
		return false;
	begin_flow(mp, packet, tcp, now_ns);
	ws_inner_leaves(mp->inner.senders, mp->fair.salt, packet, whole, 0, true, false);
	return true;
}

size_t mp_inner_bytes(size_t stride)
{
	return INNER_LINES * ws_align_bytes(stride) +
	       ws_lines(WS_INNER_FLOWS * sizeof(struct ws_inner_flow)) +
	       ws_lines(WS_SENDERS * sizeof(struct ws_sender));
}

void mp_inner_init(struct ws_multipath *mp, uint8_t *memory)
{
	for (uint32_t i = 0; i < INNER_LINES; i++, memory += ws_align_bytes(mp->stride))
		ws_align_init(&mp->inner.lines[i], memory, mp->stride);
	mp->inner.flows = (struct ws_inner_flow *)memory;
	memory += ws_lines(WS_INNER_FLOWS * sizeof(struct ws_inner_flow));
	mp->inner.senders = (struct ws_sender *)memory;
}

/* How many bytes may wait: what the paths carry in QUEUE_NS, by their mean over some seconds, so that nobody
 * is stopped by a fade, and the nearer ones in the time that the farthest one takes longer, for before that
 * it is not worth taking; as many as their windows where that is more (they start, or are long). */
static uint64_t share(const struct ws_multipath *mp)
{
	uint64_t windows = 0, bytes = 0;
	int64_t farthest_us = INT64_MIN;

	for (uint32_t i = 0; i < WS_PATH_COUNT; i++)
		if (mp->usable >> i & 1 && mp->sched.paths[i].delay_us > farthest_us)
			farthest_us = mp->sched.paths[i].delay_us;
	for (uint32_t i = 0; i < WS_PATH_COUNT; i++) {
		uint64_t bps = mp->tx[i].window.mean_bps, wait_us;

		if (!(mp->usable >> i & 1))
			continue;
		wait_us = (uint64_t)(farthest_us - mp->sched.paths[i].delay_us);
		if (wait_us > S_NS / US_NS)
			wait_us = S_NS / US_NS;
		bytes += bps / 8000 * (QUEUE_NS / US_NS + wait_us) / 1000;
		windows += mp->tx[i].window.bytes;
	}
	return bytes > windows ? bytes : windows;
}

void mp_inner_queued(struct ws_multipath *mp, const uint8_t *packet, size_t len, uint32_t queue)
{
	if (on(mp))
		ws_inner_leaves(mp->inner.senders, mp->fair.salt, packet, len, queue,
				ws_ip_ttl_is_whole(packet), is_own_bbr(mp, packet));
}

/* A CUBIC ends its slow start for good when the least of a round is a few milliseconds longer than before, and grows by
 * 5 % a round trip from then on. Over several paths that is so as soon as the nearest is full. By its windows it is told
 * how much it may have, so of an ACK that tells little of the round, and nothing of a loss, it need not know: the next
 * one says it as well. Not where it stood still for long: its timer runs. (Who counts ACKs instead of bytes would
 * start slowly; Linux counts bytes.) */
static bool is_spare(struct ws_sender *sender, const uint8_t *packet, size_t len, uint64_t now_ns)
{
	const uint8_t *tcp = ws_ip_tcp(packet, &len);
	uint32_t acked = ws_get32(tcp + WS_TCP_ACK), under_way = sender->sent - acked;

	if (!sender->own || sender->bbr || sender->again || sender->rounds > START_ROUNDS ||
	    (int32_t)(acked - sender->acked) <= 0)
		return false;
	sender->acked = acked;
	if ((int32_t)(acked - sender->round_end) > 0) {
		/* Twice as many when it is over. */
		bool few = under_way < FULL_PACKETS / 2 * WS_PACKET_BYTES;

		sender->round_end = sender->sent;
		sender->part = few ? 0 : under_way / START_PARTS;
		sender->rounds += !few;
	} else if (acked - sender->told < sender->part && now_ns - sender->told_ns < STUCK_NS &&
		   tcp[WS_TCP_FLAGS] == WS_TCP_ACKED && len == ws_tcp_header_bytes(tcp)) {
		return true;
	}
	sender->told = acked;
	sender->told_ns = now_ns;
	return false;
}

bool mp_inner_narrow(struct ws_multipath *mp, uint8_t *packet, size_t len, uint32_t flags)
{
	struct ws_sender *sender;
	uint64_t room, queued;

	if (!on(mp))
		return true;
	sender = ws_inner_comes(mp->inner.senders, mp->fair.salt, packet, len);
	if (!sender || !mp->schedule || mp->keep)
		return true;
	/* What takes its turn leaves no hole there. */
	if (flags & WS_FRAME_URGENT && is_spare(sender, packet, len, mp->inner.now_ns))
		return false;
	room = share(mp) / (mp->fair.busy ? mp->fair.busy : 1);
	if (sender->bbr)
		room *= BBR_TIMES;
	queued = ws_fq_flow_bytes(&mp->fair, sender->queue);
	/* Less than a segment would make its sender wait for all that is under way. */
	room = room > queued ? room - queued : 0;
	if (room < 2 * WS_PACKET_BYTES)
		room = 2 * WS_PACKET_BYTES;
	if (ws_inner_narrow(sender, packet, len, room, flags & WS_FRAME_PARTIAL))
		ws_add(mp->stats.queue_narrowed, 1);
	return true;
}

/* How much later than this packet one over the slowest path would have come, queues aside. So an inner
 * TCP sees one round trip whichever path its packets take. */
static uint32_t behind_us(const struct ws_multipath *mp, uint32_t path, uint64_t now_ns)
{
	const struct rx_path *rx = &mp->rx[path];
	int64_t late_us = rx->delay_last_us - mp_least_us(rx);
	uint64_t lately_ns = 1000ULL * ws_get(mp->tune.path_idle_us);
	int64_t longest = 0;

	for (uint32_t i = 0; i < WS_PATH_COUNT; i++) {
		int32_t longer_us = mp_diff24(mp->rx[i].delay_least_us, rx->delay_least_us);

		if (i == path || !mp->rx[i].seen || now_ns - mp->rx[i].ordered_ns > lately_ns ||
		    longer_us > ALIGN_MOST_US)
			continue;
		if (longer_us - late_us > longest)
			longest = longer_us - late_us;
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
	while ((next = ws_align_take(&mp->inner.lines[INNER_ORDERED], until_ns, &packet))) {
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

static void release(struct ws_multipath *mp, struct ws_align *from, uint64_t until_ns)
{
	const struct ws_align_packet *next;
	uint8_t *packet;
	bool any = false;

	while ((next = ws_align_take(from, until_ns, &packet))) {
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
	if (!ws_align_hold(&mp->inner.lines[INNER_ORDERED], path, seq, flags, packet, len, wait_us,
			   now_ns)) {
		/* Without room: what the path brought before goes first. */
		if (mp->inner.lines[INNER_ORDERED].waiting[path])
			release_line(mp, UINT64_MAX, now_ns);
		return false;
	}
	ws_add(mp->stats.aligned, 1);
	return true;
}

/* Of a flow that is held: false: it is not, and nothing of it waits any more. */
static bool hold_own(struct ws_multipath *mp, struct ws_inner_flow *flow, const uint8_t *packet,
		     size_t len, uint32_t flags, uint32_t wait_us, uint64_t now_ns)
{
	struct ws_align *own = &mp->inner.lines[INNER_OWN];

	/* Switched off meanwhile: only in its order behind what waits. */
	if (flow->held && ws_get(mp->tune.align) == WS_ALIGN_BBR) {
		mp->inner.held_ns = now_ns;
		if (wait_us < mp->inner.hold_us)
			wait_us = mp->inner.hold_us;
	} else if (flow->due_ns <= now_ns) {
		return false;
	}
	if (!ws_align_hold(own, 0, 0, flags, packet, len, wait_us, now_ns)) {
		/* Without room: what came before goes first. */
		release(mp, own, UINT64_MAX);
		return false;
	}
	flow->due_ns = own->slots[(own->tail - 1) % WS_ALIGN_SLOTS].due_ns;
	ws_add(mp->stats.aligned, 1);
	return true;
}

/* NULL: it is no TCP's, or none is held. */
static struct ws_inner_flow *own_of(const struct ws_multipath *mp, const uint8_t *packet,
				    size_t len)
{
	const uint8_t *tcp = mp->inner.any ? ws_ip_tcp(packet, &len) : NULL;

	return tcp ? flow_of(mp, packet, tcp) : NULL;
}

bool mp_inner_hold_own(struct ws_multipath *mp, const uint8_t *packet, size_t len, uint32_t flags)
{
	struct ws_inner_flow *flow = own_of(mp, packet, len);

	if (!flow)
		return false;
	/* What it is sent by others it shall have at once. */
	if (flow->held && len > SMALL_BYTES && ++flow->full > FULL_PACKETS)
		flow->held = false;
	return hold_own(mp, flow, packet, len, flags, 0, mp->inner.now_ns);
}

void mp_inner_forget_own(struct ws_multipath *mp)
{
	if (mp->inner.any)
		memset(mp->inner.flows, 0, WS_INNER_FLOWS * sizeof(*mp->inner.flows));
	mp->inner.any = false;
}

bool mp_inner_hold_urgent(struct ws_multipath *mp, uint32_t path, const uint8_t *packet, size_t len,
			  uint32_t flags, uint64_t now_ns)
{
	uint32_t wait_us = on(mp) ? behind_us(mp, path, now_ns) : 0;
	struct ws_inner_flow *flow = flags & WS_FRAME_FEEDBACK ? own_of(mp, packet, len) : NULL;

	if (flow && hold_own(mp, flow, packet, len, flags, wait_us, now_ns))
		return true;
	if (!(flags & WS_FRAME_FEEDBACK) ||
	    (!wait_us && !ws_align_waits(&mp->inner.lines[INNER_URGENT])) ||
	    !mp_is_tcp(packet, len))
		return false;
	if (!ws_align_hold(&mp->inner.lines[INNER_URGENT], path, 0, flags, packet, len, wait_us,
			   now_ns)) {
		/* Without room: what the path brought before goes first. */
		if (mp->inner.lines[INNER_URGENT].waiting[path])
			release(mp, &mp->inner.lines[INNER_URGENT], UINT64_MAX);
		return false;
	}
	ws_add(mp->stats.aligned, 1);
	return true;
}

void mp_inner_release(struct ws_multipath *mp, uint64_t now_ns)
{
	release(mp, &mp->inner.lines[INNER_URGENT], UINT64_MAX);
	release_line(mp, UINT64_MAX, now_ns);
	release(mp, &mp->inner.lines[INNER_OWN], UINT64_MAX);
}

void mp_inner_expire(struct ws_multipath *mp, uint64_t now_ns)
{
	release(mp, &mp->inner.lines[INNER_URGENT], now_ns);
	release_line(mp, now_ns, now_ns);
	release(mp, &mp->inner.lines[INNER_OWN], now_ns);
}

uint64_t mp_inner_deadline(const struct ws_multipath *mp)
{
	uint64_t at = UINT64_MAX;

	for (uint32_t i = 0; i < INNER_LINES; i++) {
		uint64_t line_at = ws_align_deadline(&mp->inner.lines[i]);

		at = line_at < at ? line_at : at;
	}
	return at;
}

bool mp_inner_has(const struct ws_multipath *mp, uint32_t first, uint32_t count)
{
	return ws_align_has(&mp->inner.lines[INNER_ORDERED], first, count);
}
