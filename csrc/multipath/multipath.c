/* SPDX-License-Identifier: MIT */
#include "multipath/multipath_internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Until Python has said something of a path: enough for a first few packets. */
static const struct ws_path_params default_path = {
	.cap_permille = 1000,
	.max_packet = UINT16_MAX,
	.rescue_us = 1000000,
};

static const struct ws_multipath_params default_tune = {
	.repair_age_us = 1000000,
	.deliver_late = 1,
	.align = 1,
};

typedef uint32_t __attribute__((may_alias)) word;

_Static_assert(sizeof(struct ws_path_params) % sizeof(word) == 0, "copied by words");
_Static_assert(sizeof(struct ws_multipath_params) % sizeof(word) == 0, "copied by words");

/* Both sides may run at once: each word is whole, and each set of words makes sense. */
static void copy_words(void *to, const void *from, size_t bytes)
{
	word *out = to;
	const word *in = from;

	for (size_t i = 0; i < bytes / sizeof(word); i++)
		ws_set(out[i], ws_get(in[i]));
}

static void delivered(void *arg, uint8_t *packet, size_t len, uint32_t flags)
{
	struct ws_multipath *mp = arg;

	if (mp_inner_hold_own(mp, packet, len, flags))
		return;
	mp->ops.deliver(mp->arg, packet, len,
			flags | (packet == mp->direct ? 0 : WS_MULTIPATH_HELD));
}

struct ws_multipath *ws_multipath_new(uint32_t packet_bytes, const struct ws_multipath_ops *ops,
				      void *arg)
{
	struct ws_multipath *mp = calloc(1, sizeof(*mp));
	size_t data, slots, resend, records, inner, fair;
	uint8_t *at;

	if (!mp)
		return NULL;
	mp->ops = *ops;
	mp->arg = arg;
	mp->stride = (uint32_t)ws_lines(packet_bytes);
	slots = sizeof(struct slot) * RING;
	resend = sizeof(uint64_t) * RING;
	records = sizeof(struct record) * RECORDS * WS_PATH_COUNT;
	data = (size_t)mp->stride * RING;
	inner = mp_inner_bytes(mp->stride);
	fair = ws_fq_bytes(mp->stride);
	mp->memory_bytes = slots + resend + records + inner + fair + data;
	/* Pages come when they are used: an idle peer costs a few of them. */
	mp->memory = mmap(NULL, mp->memory_bytes, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (mp->memory == MAP_FAILED) {
		free(mp);
		return NULL;
	}
	at = mp->memory;
	mp->slots = (struct slot *)at;
	at += slots;
	mp->resend = (uint64_t *)at;
	at += resend;
	for (uint32_t i = 0; i < WS_PATH_COUNT; i++, at += records / WS_PATH_COUNT)
		mp->tx[i].records = (struct record *)at;
	mp_inner_init(mp, at);
	at += inner;
	/* Where it was mapped differs from peer to peer, and is nothing that others know. */
	ws_fq_init(&mp->fair, at, mp->stride, (uint32_t)((uintptr_t)at >> 12) * 0x9e3779b1u);
	mp->data = at + fair;
	mp->reorder = ws_reorder_new(mp->stride, delivered, mp);
	if (!mp->reorder) {
		ws_multipath_free(mp);
		return NULL;
	}
	mp->tune = default_tune;
	for (uint32_t i = 0; i < WS_PATH_COUNT; i++)
		mp->params[i] = default_path;
	mp->pump_ns = UINT64_MAX;
	mp->sched.count = WS_PATH_COUNT;
	mp_load(mp, 0);
	return mp;
}

void ws_multipath_free(struct ws_multipath *mp)
{
	if (!mp)
		return;
	ws_reorder_free(mp->reorder);
	/* Packets in the clear stood here. */
	madvise(mp->memory, mp->memory_bytes, MADV_DONTNEED);
	munmap(mp->memory, mp->memory_bytes);
	free(mp);
}

void ws_multipath_reset(struct ws_multipath *mp, uint64_t now_ns)
{
	mp_inner_release(mp, now_ns);
	ws_reorder_reset(mp->reorder);
	mp->ops.flush(mp->arg);
	memset(mp->rx, 0, sizeof(mp->rx));
	mp->passed = mp->begun = false;
	mp->ack_wanted = false;
	mp->ack_repeats = 0;
	mp->gap_known = false;
	mp->ack_seen = false;
	mp->urgent_highest = 0;
	memset(mp->urgent_seen, 0, sizeof(mp->urgent_seen));
	/* Its reader begins with what comes first, not with 0. */
	if (mp->seq_head == mp->seq_tail && mp->seq_tail && mp->seq_tail < BEGIN_SEQS)
		mp->seq_head = mp->seq_tail = BEGIN_SEQS;
	/* What was in flight went to one who is no more, or came before its reader keeps order. */
	mp->seq_base = mp->arrived_seq = mp->seq_head;
	mp->resend_head = mp->resend_tail;
	for (uint32_t i = 0; i < WS_PATH_COUNT; i++) {
		struct ws_path_stats *stats = &mp->stats.paths[i];

		mp->tx[i].acked = mp->tx[i].next_number;
		mp->tx[i].acked_count = mp->tx[i].excused = 0;
		mp->tx[i].window.counted = false;
		mp->tx[i].suspended = mp->tx[i].told = false;
		mp->tx[i].mark_ns = 0;
		mp->sched.paths[i].in_flight_bytes = 0;
		ws_set(stats->acked_datagrams, 0);
		ws_set(stats->acked_bytes, 0);
		ws_set(stats->in_flight_bytes, 0);
		ws_set(stats->rx_datagrams, 0);
		ws_set(stats->rx_bytes, 0);
		ws_set(stats->rx_packets, 0);
		ws_set(stats->rx_highest, 0);
	}
	ws_multipath_pump(mp, now_ns);
}

/* What was sent at the old rate is owed at the new one. */
static void set_rate(struct ws_pace *pace, uint64_t rate_bps, uint64_t now_ns)
{
	double scale = (double)pace->rate_bps / (double)rate_bps;

	if (rate_bps != pace->rate_bps && pace->rate_bps && pace->next_ns > now_ns)
		pace->next_ns = now_ns + (uint64_t)((double)(pace->next_ns - now_ns) * scale);
	pace->rate_bps = rate_bps;
}

/* If every usable path was left for its silence, none would ever be heard of again. */
static void relent(struct ws_multipath *mp)
{
	for (uint32_t i = 0; i < WS_PATH_COUNT; i++)
		if ((mp->usable >> i & 1) && !mp->tx[i].suspended)
			return;
	for (uint32_t i = 0; i < WS_PATH_COUNT; i++)
		mp->tx[i].suspended = false; /* and asked on, by `told` */
}

/* The least round trip; a probe's until data was acknowledged. */
static uint32_t base_us(const struct ws_multipath *mp, uint32_t id)
{
	const struct ws_window *window = &mp->tx[id].window;

	uint32_t probed_us = ws_get(mp->params[id].srtt_us);

	return window->seen || !probed_us ? ws_window_base_us(window) : probed_us;
}

/* Base one-way delay; half of the round trip until each path in use was measured by one clock. */
static int64_t base_delay_us(const struct ws_multipath *mp, uint32_t id)
{
	const struct ws_window *window = &mp->tx[id].window, *first = NULL;
	int64_t later_us, middle_us;

	for (uint32_t i = 0; i < WS_PATH_COUNT; i++) {
		if (!(mp->usable >> i & 1))
			continue;
		if (!mp->tx[i].window.seen)
			return base_us(mp, id) / 2;
		if (!first)
			first = &mp->tx[i].window;
	}
	if (!first || !window->seen)
		return base_us(mp, id) / 2;
	/* By clocks that have nothing in common, modulo 2^24 µs: a path may take nine seconds where the other one
	 * takes none. It is later by no more than its own round trip, or sooner by no more than the other's;
	 * what is between goes to the nearer, for clocks drift by more than a short one. */
	later_us = (ws_window_delay_us(window) - ws_window_delay_us(first)) & 0xffffff;
	middle_us = ((1 << 24) + (int64_t)ws_window_base_us(window) - ws_window_base_us(first)) / 2;
	return later_us <= middle_us ? later_us : later_us - (1 << 24);
}

/* The pace of a path that may have a part of what it carries alone. Until that is known it has all. With a
 * cap it cannot show what it carries: what it did before counts, until it brings half of even that part. */
static uint64_t capped_bps(struct tx_path *tx, uint64_t rate_bps, uint64_t permille)
{
	if (permille >= 1000 || tx->window.starting) {
		tx->whole_bps = 0;
		return UINT64_MAX;
	}
	if (!tx->whole_bps || rate_bps < tx->whole_bps * permille / 1000 / 2)
		tx->whole_bps = rate_bps;
	return tx->whole_bps * permille / 1000;
}

/* What the path's own window says. */
static void load_window(struct ws_multipath *mp, uint32_t id, const struct ws_path_params *params,
			uint64_t now_ns)
{
	struct ws_sched_path *path = &mp->sched.paths[id];
	struct ws_path_stats *stats = &mp->stats.paths[id];
	struct tx_path *tx = &mp->tx[id];
	const struct ws_window *window = &tx->window;
	uint64_t pace_bps;

	ws_window_eager(&tx->window, ws_get(mp->tune.align) == WS_ALIGN_BBR);
	path->srtt_us = window->seen || !params->srtt_us ? window->srtt_us : params->srtt_us;
	path->base_us = base_us(mp, id);
	path->rate_bps = ws_window_rate_bps(window);
	path->delay_us = base_delay_us(mp, id);
	path->queue_us = window->queue_us;
	path->silent_us = mp_silent_us(mp, id, now_ns);
	path->window_bytes = ws_window_may(window);
	path->starting = window->ahead;
	/* Its rate is a guess, so that a CUBIC stays on it until it is full: a BBR need not. */
	path->stands_us = window->ahead && window->eager ? window->queue_us : 0;
	pace_bps = capped_bps(tx, path->rate_bps, params->cap_permille);
	path->weight = (uint32_t)((path->rate_bps < pace_bps ? path->rate_bps : pace_bps) / 1000);
	if (pace_bps > ws_window_pace_bps(window))
		pace_bps = ws_window_pace_bps(window);
	set_rate(&path->pace, pace_bps, now_ns);
	if (!window->seen)
		return;
	ws_set(stats->window_bytes, window->bytes);
	ws_set(stats->window_rate_bps, window->starting ? window->rate_bps : path->rate_bps);
	ws_set(stats->window_queue_us, window->queue_us);
}

/* Nobody else takes what it does not, so it takes everything at once; but what was left behind leaves in
 * a burst that a link's buffer might not hold. */
static void load_only(struct ws_multipath *mp, uint64_t now_ns)
{
	struct ws_sched_path *path = &mp->sched.paths[mp->only];

	path->window_bytes = UINT64_MAX;
	path->silent_us = 0;
	set_rate(&path->pace, mp->catching ? mp_catch_up_bps(mp, now_ns) : UINT64_MAX, now_ns);
}

void mp_load(struct ws_multipath *mp, uint64_t now_ns)
{
	struct ws_multipath_params tune;
	struct ws_reorder_settings settings;

	copy_words(&tune, &mp->tune, sizeof(tune));
	mp->sched.kind = (enum ws_scheduler)(tune.scheduler <= WS_SCHED_BACKUP ? tune.scheduler
									       : WS_SCHED_EDF);
	if (!tune.reorder_depth)
		tune.reorder_depth = WS_REORDER_MAX_DEPTH;
	mp->sched.depth = tune.reorder_depth;
	relent(mp);
	for (uint32_t i = 0; i < WS_PATH_COUNT; i++) {
		struct ws_sched_path *path = &mp->sched.paths[i];
		struct ws_path_params params;

		path->usable = (mp->usable >> i & 1) && !mp->tx[i].suspended;
		if (!(mp->present >> i & 1))
			continue;
		copy_words(&params, &mp->params[i], sizeof(params));
		path->degraded = params.degraded;
		path->tier = params.tier;
		path->max_packet_bytes = params.max_packet;
		load_window(mp, i, &params, now_ns);
	}
	if (mp->keep)
		load_only(mp, now_ns);
	settings = (struct ws_reorder_settings){
		.depth = tune.reorder_depth,
		.hold_us = tune.repair_age_us,
		/* Copies are lost as well. */
		.loss_wait_us = tune.loss_wait_us * (tune.repair ? AGAIN_MOST : 1),
		.loose_hold_us = tune.loose_hold_us,
		.path_idle_us = tune.path_idle_us,
		.deliver_late = tune.deliver_late != 0,
	};
	ws_reorder_set(mp->reorder, &settings);
}

typedef uint64_t __attribute__((may_alias)) count;

_Static_assert(sizeof(struct ws_path_stats) % sizeof(count) == 0, "whole counts");

static void begin_path(struct ws_multipath *mp, uint32_t id)
{
	struct ws_path_stats *stats = &mp->stats.paths[id];
	struct tx_path *tx = &mp->tx[id];
	struct ws_path_stats fresh = {
		/* The other direction goes on: its number is the peer's. */
		.rx_datagrams = stats->rx_datagrams, .rx_bytes = stats->rx_bytes,
		.rx_packets = stats->rx_packets,     .rx_highest = stats->rx_highest,
		.rx_remote = stats->rx_remote,	     .rx_local = stats->rx_local,
	};

	for (size_t i = 0; i < sizeof(fresh) / sizeof(count); i++)
		ws_set(((count *)stats)[i], ((const count *)&fresh)[i]);
	copy_words(&mp->params[id], &default_path, sizeof(default_path));
	tx->acked = tx->given_up = tx->next_number;
	tx->suspended = tx->told = false;
	tx->whole_bps = tx->heartbeat_ns = tx->mark_ns = 0;
	ws_window_init(&tx->window, 0, tx->next_number);
	memset(&mp->sched.paths[id], 0, sizeof(mp->sched.paths[id]));
	mp->sched.credit[id] = 0;
}

void ws_multipath_set_paths(struct ws_multipath *mp, uint32_t present, uint32_t usable,
			    uint32_t mode, uint64_t now_ns)
{
	uint32_t fresh = present & ~mp->present, one = usable & present;
	bool only = one && !(one & (one - 1));

	ws_multipath_publish(mp, 0);
	for (uint32_t i = 0; i < WS_PATH_COUNT; i++) {
		if (fresh >> i & 1)
			begin_path(mp, i);
		/* Python looked at it again: what was left for its silence may be tried. */
		if ((usable & ~mp->usable) >> i & 1)
			mp->tx[i].suspended = mp->tx[i].told = false;
	}
	for (uint32_t i = 0; i < WS_PATH_COUNT; i++)
		if ((mp->usable & ~usable) >> i & 1)
			(void)ws_multipath_rescue(mp, i, now_ns);
	mp->present = present;
	mp->usable = one;
	mp->keep = mode == WS_MULTIPATH_KEEP && only;
	mp->sampling = false;
	mp->schedule = mode == WS_MULTIPATH_SPREAD || mp->keep;
	mp->only = only && mode != WS_MULTIPATH_SPREAD ? (uint32_t)__builtin_ctz(one) : 0;
	if (!mp->schedule || mp->keep)
		mp_inner_forget_own(mp);
	mp->catching = mp->keep && mp->resend_head != mp->resend_tail;
	for (uint32_t i = 0; i < WS_PATH_COUNT; i++)
		if (!mp->keep || i != mp->only)
			mp->tx[i].mark_ns = 0;
	/* Whatever it was among others. */
	if (mp->keep && !mp->tx[mp->only].mark_ns)
		mp->tx[mp->only].suspended = mp->tx[mp->only].told = false;
	ws_set(mp->stats.scheduling, mp->schedule && !mp->keep);
	ws_multipath_pump(mp, now_ns);
}

void ws_multipath_tune_path(struct ws_multipath *mp, uint32_t path,
			    const struct ws_path_params *params)
{
	copy_words(&mp->params[path], params, sizeof(*params));
}

void ws_multipath_tune(struct ws_multipath *mp, const struct ws_multipath_params *params)
{
	copy_words(&mp->tune, params, sizeof(*params));
}

static void publish_reorder(struct ws_multipath *mp)
{
	const struct ws_reorder_stats *from = ws_reorder_stats(mp->reorder);
	struct ws_multipath_stats *to = &mp->stats;

	ws_set(to->delivered, from->delivered);
	ws_set(to->in_order, from->in_order);
	ws_set(to->held, from->held);
	ws_set(to->gaps, from->gaps);
	ws_set(to->gaps_filled, from->gaps_filled);
	ws_set(to->skipped, from->skipped);
	ws_set(to->skipped_full, from->skipped_full);
	ws_set(to->late, from->late);
	ws_set(to->loose, from->loose);
	ws_set(to->duplicates, from->duplicates);
	ws_set(to->refused, from->refused);
	ws_set(to->wait_us, from->wait_us);
	ws_set(to->wait_max_us, from->wait_max_us);
	ws_set(to->depth, from->depth);
	ws_set(to->depth_max, from->depth_max);
}

void ws_multipath_start(struct ws_multipath *mp, uint64_t number, uint64_t bytes, uint32_t seq,
			bool heard)
{
	struct tx_path *tx = &mp->tx[0];

	mp->seq_base = mp->seq_head = mp->seq_tail = mp->arrived_seq = seq;
	/* What is missing of the peer's first ones went by, and is not to come twice. */
	mp->begun = heard;
	/* The peer may have begun to count before we did. */
	tx->bytes_ever += bytes;

	if (number > tx->next_number)
		tx->next_number = tx->acked = number;
}

void ws_multipath_expire(struct ws_multipath *mp, uint64_t now_ns)
{
	mp->inner.now_ns = now_ns;
	mp_inner_expire(mp, now_ns);
	if (ws_reorder_deadline(mp->reorder) <= now_ns)
		ws_reorder_expire(mp->reorder, now_ns);
	publish_reorder(mp);
}

void ws_multipath_tick(struct ws_multipath *mp, uint64_t now_ns)
{
	ws_multipath_expire(mp, now_ns);
	mp_send_ack(mp, now_ns);
	mp_watch(mp, now_ns);
	if (mp->pump_ns <= now_ns)
		ws_multipath_pump(mp, now_ns);
}

uint64_t ws_multipath_deadline(const struct ws_multipath *mp)
{
	uint64_t at = ws_multipath_expiry(mp), other = mp_ack_deadline(mp);

	if (other < at)
		at = other;
	other = mp_watch_deadline(mp);
	if (other < at)
		at = other;
	return mp->pump_ns < at ? mp->pump_ns : at;
}

uint64_t ws_multipath_expiry(const struct ws_multipath *mp)
{
	uint64_t at = ws_reorder_deadline(mp->reorder), other = mp_inner_deadline(mp);

	return other < at ? other : at;
}

void ws_multipath_forget(struct ws_multipath *mp, uint64_t now_ns)
{
	/* It came under keys that held. */
	mp_inner_release(mp, now_ns);
	mp->seq_head = mp->seq_base = mp->arrived_seq = mp->seq_tail;
	mp->queue_bytes = 0;
	ws_fq_forget(&mp->fair);
	mp->resend_head = mp->resend_tail;
	mp->pump_ns = UINT64_MAX;
	ws_set(mp->stats.queue_packets, 0);
	ws_set(mp->stats.queue_bytes, 0);
	for (uint32_t i = 0; i < WS_PATH_COUNT; i++) {
		mp->tx[i].acked = mp->tx[i].next_number;
		mp->tx[i].mark_ns = 0;
		mp->sched.paths[i].in_flight_bytes = 0;
		ws_set(mp->stats.paths[i].in_flight_bytes, 0);
	}
	mp->ack_wanted = false;
	mp->ack_repeats = 0;
	mp->ops.flush(mp->arg);
	ws_reorder_forget(mp->reorder);
	/* Zeroes on the next touch; memory that a busy hour took is given back. */
	(void)madvise(mp->memory, mp->memory_bytes, MADV_DONTNEED);
}

void ws_multipath_released(struct ws_multipath *mp)
{
	ws_reorder_released(mp->reorder);
}

const struct ws_multipath_stats *ws_multipath_stats(const struct ws_multipath *mp)
{
	return &mp->stats;
}

struct ws_path_stats *ws_multipath_path_stats(struct ws_multipath *mp, uint32_t path)
{
	return &mp->stats.paths[path];
}
