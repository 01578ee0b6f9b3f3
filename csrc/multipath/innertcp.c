/* SPDX-License-Identifier: MIT */
/*
 * What is done for the sake of a TCP inside (docs/multipath.md section 10), all of it here and
 * behind one switch, `align` of the parameters:
 *  - in a lull what a quick path brings waits as long as a slow one takes (align.c)
 *  - what jitter brought early waits for its time, and urgent TCP for tcp_wait_us
 *  - pure acknowledgements wait for each other now and then (bunch.c)
 * With windows instead of all of it: each packet is delivered no earlier than one over the slowest
 * path within ALIGN_MOST_US would be.
 * Switched off, nothing is held back any more; what is held leaves in its time. Without this file
 * packets would go to the reordering buffer, or out, at once.
 */
#include "multipath/multipath_internal.h"
#include "packet/ip.h"

#define DETOUR_MAX_US 200000
/* With windows: paths that are farther apart are not made one. */
#define ALIGN_MOST_US 50000
/* What comes after a pause met no queue of ours: its delay is the path's, and jitter. */
#define PAUSE_NS (5 * MS_NS)
#define SPARSE_OLD_NS (10000 * MS_NS)
#define EARLY_DEVIATIONS 3
#define EARLY_MAX_US 10000

static bool on(const struct ws_multipath *mp)
{
	return ws_get(mp->tune.align);
}

size_t mp_inner_bytes(size_t stride)
{
	return 2 * ws_align_bytes(stride) + sizeof(struct ws_bunch_slot) * WS_BUNCH_SLOTS;
}

void mp_inner_init(struct ws_multipath *mp, uint8_t *memory)
{
	size_t line = ws_align_bytes(mp->stride);

	ws_align_init(&mp->inner.line, memory, mp->stride);
	ws_align_init(&mp->inner.early, memory + line, mp->stride);
	mp->inner.bunch.slots = (struct ws_bunch_slot *)(memory + 2 * line);
}

void mp_inner_fresh(struct ws_multipath *mp, uint32_t path)
{
	mp->inner.paths[path] = (struct inner_path){0};
}

void mp_inner_note(struct ws_multipath *mp, uint32_t path, uint64_t now_ns)
{
	const struct rx_path *rx = &mp->rx[path];
	struct inner_path *inner = &mp->inner.paths[path];
	int64_t delay = rx->delay_last_us, off;

	if (rx->pause_ns < PAUSE_NS)
		return;
	if (!inner->sparse_ns || now_ns - inner->sparse_ns > SPARSE_OLD_NS) {
		inner->sparse_us = delay;
		inner->sparse_off_us = 0;
	}
	off = delay - inner->sparse_us;
	inner->sparse_us += off / 8;
	inner->sparse_off_us += ((off < 0 ? -off : off) - inner->sparse_off_us) / 8;
	inner->sparse_ns = now_ns;
}

/* How much later than this packet one over the slowest path in use would have come. */
static uint32_t detour_us(const struct ws_multipath *mp, uint32_t path, uint64_t now_ns)
{
	const struct rx_path *rx = &mp->rx[path];
	uint32_t taken = (uint32_t)(rx->delay_ref_us + rx->delay_last_us);
	int64_t most = 0;

	for (uint32_t i = 0; i < WS_PATH_COUNT; i++) {
		const struct rx_path *other = &mp->rx[i];
		int64_t detour;

		if (i == path || !other->seen ||
		    now_ns - mp->inner.paths[i].ordered_ns > WS_ALIGN_WINDOW_NS)
			continue;
		detour = mp_diff24(other->delay_least_us, taken) + (int64_t)other->jitter_us;
		if (detour > most)
			most = detour;
	}
	return most < DETOUR_MAX_US ? (uint32_t)most : DETOUR_MAX_US;
}

/* With windows: how much later than this packet one over the slowest path would have come, queues
 * aside. So an inner TCP sees one round trip whichever path its packets take. */
static uint32_t behind_us(const struct ws_multipath *mp, uint32_t path, uint64_t now_ns)
{
	const struct rx_path *rx = &mp->rx[path];
	uint32_t taken = (uint32_t)(rx->delay_ref_us + rx->delay_last_us);
	int64_t longest = 0;

	for (uint32_t i = 0; i < WS_PATH_COUNT; i++) {
		uint32_t other = mp->rx[i].delay_least_us;

		if (i == path || !mp->rx[i].seen ||
		    now_ns - mp->inner.paths[i].ordered_ns > WS_ALIGN_WINDOW_NS ||
		    mp_diff24(other, rx->delay_least_us) > ALIGN_MOST_US)
			continue;
		if (mp_diff24(other, taken) > longest)
			longest = mp_diff24(other, taken);
	}
	return (uint32_t)(longest < ALIGN_MOST_US ? longest : ALIGN_MOST_US);
}

/* By how much the path's last packet came before its time: jitter made it quicker than others. Over one
 * path an inner TCP is to see that as it is. */
static uint32_t early_us(const struct ws_multipath *mp, uint32_t path, uint64_t now_ns)
{
	const struct inner_path *inner = &mp->inner.paths[path];
	int64_t by = inner->sparse_us + EARLY_DEVIATIONS * inner->sparse_off_us -
		     mp->rx[path].delay_last_us;

	if (!inner->sparse_ns || now_ns - inner->sparse_ns > SPARSE_OLD_NS || by < 0 ||
	    by > 2 * EARLY_MAX_US || mp_one_path(mp, path, now_ns))
		return 0;
	return by < EARLY_MAX_US ? (uint32_t)by : EARLY_MAX_US;
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

static void release_bunch(struct ws_multipath *mp)
{
	struct ws_bunch *bunch = &mp->inner.bunch;

	if (!bunch->count)
		return;
	for (uint32_t i = 0; i < bunch->count; i++) {
		struct ws_bunch_slot *slot = &bunch->slots[i];

		mp->ops.deliver(mp->arg, slot->packet, slot->len, slot->flags | WS_MULTIPATH_HELD);
	}
	bunch->count = 0;
	/* Before others take their place. */
	mp->ops.flush(mp->arg);
}

static void release_early(struct ws_multipath *mp, uint64_t until_ns)
{
	const struct ws_align_packet *next;
	uint8_t *packet;
	bool any = false;

	while ((next = ws_align_take(&mp->inner.early, until_ns, &packet))) {
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
	bool lull = ws_align_count(&mp->inner.line, now_ns) && !mp_windowed(mp);
	uint32_t wait_us = 0, early;

	mp->inner.paths[path].ordered_ns = now_ns;
	/* More than half full is no lull to speak of: what is held leaves in its time. */
	if (lull && on(mp) && !ws_align_crowded(&mp->inner.line))
		wait_us = detour_us(mp, path, now_ns);
	/* Not behind what another path brought, which may wait for longer. */
	if (on(mp) && mp_windowed(mp))
		wait_us = behind_us(mp, path, now_ns);
	else if (on(mp) && path < WS_ALIGN_PATHS &&
		 (!ws_align_waits(&mp->inner.line) || mp->inner.line.waiting[path])) {
		early = early_us(mp, path, now_ns);
		if (early > wait_us && mp_is_tcp(packet, len))
			wait_us = early;
	}
	if (!ws_align_hold(&mp->inner.line, path, seq, flags, packet, len, wait_us, now_ns)) {
		/* Without room: what the path brought before goes first. */
		if (path < WS_ALIGN_PATHS && mp->inner.line.waiting[path])
			release_line(mp, UINT64_MAX, now_ns);
		return false;
	}
	ws_add(mp->stats.aligned, 1);
	return true;
}

/* A TCP takes the quickest packet's time for the round trip: where jitter makes it, it waits, and
 * where others take paths that are far slower. */
static bool hold_early(struct ws_multipath *mp, uint32_t path, const uint8_t *packet, size_t len,
		       uint32_t flags, uint64_t now_ns)
{
	uint32_t wait_us = 0;

	if (on(mp))
		wait_us = mp_windowed(mp)
				  ? behind_us(mp, path, now_ns)
				  : early_us(mp, path, now_ns) + ws_get(mp->tune.tcp_wait_us);
	if ((!wait_us && !ws_align_waits(&mp->inner.early)) || !mp_is_tcp(packet, len))
		return false;
	if (ws_align_hold(&mp->inner.early, path, 0, flags, packet, len, wait_us, now_ns))
		return true;
	/* Without room: what the path brought before goes first. */
	if (path < WS_ALIGN_PATHS && mp->inner.early.waiting[path])
		release_early(mp, UINT64_MAX);
	return false;
}

bool mp_inner_hold_urgent(struct ws_multipath *mp, uint32_t path, const uint8_t *packet, size_t len,
			  uint32_t flags, uint64_t now_ns)
{
	uint32_t bunch_us = on(mp) ? ws_get(mp->tune.bunch_us) : 0;

	if (ws_bunch_hold(&mp->inner.bunch, packet, len, flags, bunch_us,
			  ws_get(mp->tune.bunch_every_us), now_ns)) {
		ws_add(mp->stats.bunched, 1);
		return true;
	}
	if (mp->inner.bunch.count && ws_bunch_fits(packet, len))
		release_bunch(mp); /* it is older */
	if (!(flags & WS_FRAME_FEEDBACK) || !hold_early(mp, path, packet, len, flags, now_ns))
		return false;
	ws_add(mp->stats.aligned, 1);
	return true;
}

void mp_inner_release_ordered(struct ws_multipath *mp, uint64_t now_ns)
{
	release_early(mp, UINT64_MAX);
	release_line(mp, UINT64_MAX, now_ns);
}

void mp_inner_release(struct ws_multipath *mp, uint64_t now_ns)
{
	release_bunch(mp);
	mp_inner_release_ordered(mp, now_ns);
}

void mp_inner_expire(struct ws_multipath *mp, uint64_t now_ns)
{
	if (ws_bunch_deadline(&mp->inner.bunch) <= now_ns)
		release_bunch(mp);
	release_early(mp, now_ns);
	release_line(mp, now_ns, now_ns);
}

uint64_t mp_inner_deadline(const struct ws_multipath *mp)
{
	uint64_t at = ws_align_deadline(&mp->inner.line);
	uint64_t other = ws_align_deadline(&mp->inner.early);

	if (other < at)
		at = other;
	other = ws_bunch_deadline(&mp->inner.bunch);
	return other < at ? other : at;
}

bool mp_inner_has(const struct ws_multipath *mp, uint32_t first, uint32_t count)
{
	return ws_align_has(&mp->inner.line, first, count);
}
