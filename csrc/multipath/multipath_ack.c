/* SPDX-License-Identifier: MIT */
/*
 * ACKs consumed (docs/multipath.md sections 4.6 and 8), and what their absence
 * means (section 6). An ACK comes from an authenticated peer that may lie: it
 * can slow down what we send to it, and nothing else.
 */
#include "multipath/multipath_internal.h"

#include <string.h>

#define GAP_SEQS_MAX (WS_ACK_MAX_GAPS * ACK_PACKETS) /* looked at per ACK */
#define LATE_PART 4 /* so much more than a round trip is late (RFC 8985) */

/* The 64-bit value with these low bits that is nearest to `near`. */
static uint64_t widen(uint64_t near, uint32_t low)
{
	return near + (uint64_t)(int64_t)(int32_t)(low - (uint32_t)near);
}

/* All of it must be possible, or none is believed. */
static bool plausible(const struct ws_multipath *mp, const struct ws_ack *ack)
{
	for (uint32_t i = 0; i < ack->path_count; i++) {
		const struct ws_ack_path *entry = &ack->paths[i];
		const struct tx_path *tx = &mp->tx[entry->path];
		uint64_t highest = widen(tx->next_number, entry->highest);
		uint64_t count = widen(tx->acked_count, entry->datagrams);

		if (highest >= tx->next_number || count > highest + 1 ||
		    entry->bytes > tx->bytes_ever + tx->unpublished_bytes)
			return false;
	}
	return true;
}

/* RFC 6298 section 2, in µs. */
static void note_rtt(struct ws_path_stats *stats, uint32_t rtt_us)
{
	uint32_t srtt = stats->srtt_us, rttvar = stats->rttvar_us;

	if (!srtt) {
		srtt = rtt_us;
		rttvar = rtt_us / 2;
	} else {
		int32_t off = (int32_t)(rtt_us - srtt);

		rttvar += (uint32_t)(((off < 0 ? -off : off) - (int32_t)rttvar) / WS_RTT_PART);
		srtt += (uint32_t)(off / 8);
	}
	ws_set(stats->srtt_us, srtt ? srtt : 1);
	ws_set(stats->rttvar_us, rttvar);
}

/* How many datagrams are missing up to `highest`, but for those that were too long for the path. */
static uint64_t lost_of(struct tx_path *tx, uint64_t highest, uint64_t before)
{
	uint64_t lost = highest + 1 - tx->acked_count - tx->excused, longer = 0;

	for (uint64_t n = tx->acked; n <= highest && n < tx->longer_number; n++)
		longer += tx->records[n % RECORDS].longer;
	if (longer && (int64_t)(lost - before) > 0) {
		longer = longer < lost - before ? longer : lost - before;
		tx->excused += longer;
		lost -= longer;
	}
	return lost;
}

static bool is_nearest(const struct ws_multipath *mp, uint32_t path)
{
	for (uint32_t i = 0; i < WS_PATH_COUNT; i++)
		if (mp->sched.paths[i].usable &&
		    mp->sched.paths[i].delay_us < mp->sched.paths[path].delay_us)
			return false;
	return true;
}

/* What is urgent leaves over two paths: it comes soon if one of them has a short queue, and that costs least
 * on the slowest. */
static bool is_brief(struct ws_multipath *mp, uint32_t path)
{
	uint64_t mean_bps = mp->tx[path].window.mean_bps;
	uint64_t brief_bps = mp->tx[mp->brief].window.mean_bps;

	if (!(mp->usable >> mp->brief & 1) ||
	    (mean_bps && mean_bps < brief_bps - brief_bps / BRIEF_SLOWER_PART))
		mp->brief = path;
	if (path != mp->brief || !(mp->usable & ~(1u << path)))
		return false;
	for (uint32_t i = 0; i < WS_PATH_COUNT; i++)
		if (i != path && mp->usable >> i & 1 &&
		    !ws_window_longer(&mp->tx[i].window, &mp->tx[path].window))
			return false;
	return true;
}

static void consume_path(struct ws_multipath *mp, const struct ws_ack *ack,
			 const struct ws_ack_path *entry, uint64_t now_ns)
{
	struct ws_path_stats *stats = &mp->stats.paths[entry->path];
	struct tx_path *tx = &mp->tx[entry->path];
	uint64_t highest = widen(tx->next_number, entry->highest);
	uint32_t hold_us = entry->hold_16us * (uint32_t)WS_ACK_HOLD_US, rtt_us;
	struct ws_sched_path *path = &mp->sched.paths[entry->path];
	uint64_t missing = tx->acked - tx->acked_count - tx->excused, lost;
	uint64_t in_flight, seq, acked_bytes;
	struct ws_window_ack told;
	bool moved;

	/* Two ACKs that crossed: the counts only go up. */
	if ((int32_t)(entry->datagrams - (uint32_t)tx->acked_count) > 0) {
		tx->acked_count = widen(tx->acked_count, entry->datagrams);
		ws_set(stats->acked_datagrams, tx->acked_count);
	}
	acked_bytes = entry->bytes > stats->acked_bytes ? entry->bytes - stats->acked_bytes : 0;
	if (acked_bytes)
		ws_set(stats->acked_bytes, entry->bytes);
	if (tx->mark_ns && highest >= tx->mark_number) {
		bool more = tx->data_number > highest + 1;

		tx->mark_number = more ? tx->data_number - 1 : 0;
		tx->mark_ns = more ? now_ns : 0;
		tx->told = false;
		ws_set(stats->last_ack_ns, now_ns);
	}
	moved = highest >= tx->acked;
	if (!moved)
		return;
	ws_set(stats->acked_highest, highest);
	ws_set(stats->last_ack_ns, now_ns);
	in_flight = tx->data_bytes - tx->records[highest % RECORDS].data_bytes;
	lost = lost_of(tx, highest, missing);
	tx->acked = highest + 1;
	tx->told = false;
	if (tx->suspended) {
		tx->suspended = false;
		mp_load(mp, now_ns);
	}
	path->in_flight_bytes = in_flight;
	seq = tx->records[highest % RECORDS].seq;
	if (seq != NO_SEQ && (int32_t)((uint32_t)seq - path->acked_seq) > 0)
		path->acked_seq = (uint32_t)seq; /* a second copy is of an older one */
	ws_set(stats->in_flight_bytes, in_flight);
	rtt_us = ((mp_time_us(now_ns) - entry->echo_us) & 0xffffff);
	told = (struct ws_window_ack){
		.now_ns = now_ns,
		.acked_bytes = acked_bytes,
		.delivered_bytes = stats->acked_bytes,
		.highest = highest,
		.lost = lost,
		.next_number = tx->next_number,
		.idle = !in_flight && tx->data_bytes - tx->empty_bytes <= WS_PACKET_BYTES,
		.waiting = mp_waiting(mp),
		.nearest = is_nearest(mp, entry->path),
		.brief = is_brief(mp, entry->path),
	};
	if (!in_flight)
		tx->empty_bytes = tx->data_bytes;
	if (entry->hold_16us < UINT16_MAX && rtt_us >= hold_us &&
	    rtt_us - hold_us < WS_DELAY_MAX_US) {
		note_rtt(stats, rtt_us - hold_us);
		told.rtt_us = rtt_us - hold_us ? rtt_us - hold_us : 1;
		/* Of the last data frame: when it arrived, by the peer's clock, less its time. */
		told.delay_us = (ack->time_us - hold_us - entry->echo_us) & 0xffffff;
	}
	ws_window_ack(&tx->window, &told);
}

/* Its own path has brought later numbers: WS_LOST_AFTER, or one and it is late (RFC 8985 in spirit). */
static bool is_lost(const struct ws_multipath *mp, const struct slot *slot, uint64_t now_ns)
{
	const struct tx_path *tx = &mp->tx[slot->path];
	uint64_t srtt_ns = 1000ULL * mp->stats.paths[slot->path].srtt_us;

	return tx->acked > slot->number + WS_LOST_AFTER ||
	       (tx->acked > slot->number + 1 &&
		now_ns - tx->records[slot->number % RECORDS].sent_ns >
			srtt_ns + srtt_ns / LATE_PART);
}

/* Whether another path would bring a packet that is in flight, and all that is before it, sooner, though both
 * forecasts be wrong by what matters: paths jitter. It has more to carry than copies: of its time they may have no
 * more than packets earn. */
static bool is_late(const struct ws_multipath *mp, const struct slot *slot, uint64_t now_ns)
{
	const struct tx_path *tx = &mp->tx[slot->path];
	const struct ws_sched_path *path = &mp->sched.paths[slot->path];
	const struct record *record = &tx->records[slot->number % RECORDS];
	uint64_t before = tx->acked ? tx->records[(tx->acked - 1) % RECORDS].data_bytes : 0;
	uint64_t ahead = record->data_bytes > before ? record->data_bytes - before : 0;
	uint64_t base_ns = path->base_us * 1000ULL, age_ns = now_ns - record->sent_ns;
	/* What is ahead of it takes so long, and it the rest of its way. */
	uint64_t rest_ns = ahead * 8000000 / (path->rate_bps / 1000 + 1), other_ns;

	rest_ns = rest_ns > base_ns ? rest_ns - base_ns : 0;
	if (age_ns + rest_ns < base_ns / 2)
		rest_ns = base_ns / 2 - age_ns;
	rest_ns += path->silent_us * 1000ULL;
	/* Nearly all are in time, and this is asked of each at each ACK. */
	if (rest_ns <= 2 * WS_LATE_NS)
		return false;
	other_ns = ws_sched_soonest_ns(&mp->sched, slot->len, AGAIN_LATE_COST * ahead,
				       1u << slot->path);
	return other_ns < rest_ns - 2 * WS_LATE_NS;
}

static void repair_late(struct ws_multipath *mp, uint64_t seq, uint64_t now_ns)
{
	const struct slot *slot = &mp->slots[seq % RING];

	if (!slot->again && is_late(mp, slot, now_ns))
		mp_send_also(mp, seq, 1u << slot->path, now_ns);
}

/* What was sent on a path that has brought later numbers, and did not arrive, and what is late. */
static void repair(struct ws_multipath *mp, const struct ws_ack *ack, uint64_t now_ns)
{
	uint32_t looked = 0;

	for (uint32_t i = 0; i < ack->gap_count; i++) {
		uint64_t seq = widen(mp->seq_head, ack->gaps[i].first);

		for (uint32_t k = 0; k < ack->gaps[i].count && looked < GAP_SEQS_MAX;
		     k++, seq++, looked++) {
			if (!mp_kept(mp, seq, now_ns))
				continue;
			if (is_lost(mp, &mp->slots[seq % RING], now_ns))
				mp_send_again(mp, seq, now_ns);
			else
				repair_late(mp, seq, now_ns);
		}
	}
	if (ack->gap_count)
		return;
	/* Nothing has come behind what is awaited, so no gap tells of what a slow path has alone. */
	for (uint64_t seq = mp->arrived_seq; seq < mp->seq_head && looked < GAP_SEQS_MAX;
	     seq++, looked++) {
		const struct slot *slot = &mp->slots[seq % RING];

		if (mp_kept(mp, seq, now_ns) && slot->number >= mp->tx[slot->path].acked)
			repair_late(mp, seq, now_ns);
	}
}

bool ws_multipath_ack(struct ws_multipath *mp, const uint8_t *frame, size_t len, uint64_t now_ns)
{
	struct ws_ack ack;
	uint64_t next;

	if (!ws_ack_decode(frame, len, &ack) || !plausible(mp, &ack)) {
		ws_add(mp->stats.ack_refused, 1);
		return false;
	}
	ws_add(mp->stats.acks_rx, 1);
	for (uint32_t i = 0; i < ack.path_count; i++)
		consume_path(mp, &ack, &ack.paths[i], now_ns);
	next = widen(mp->seq_head, ack.next_seq);
	if (next > mp->arrived_seq && next <= mp->seq_tail)
		mp->arrived_seq = next;
	mp_load(mp, now_ns);
	/* One that was overtaken by a later one tells of gaps that are filled by now. */
	if (!mp->ack_seen || (int32_t)(ack.time_us - mp->ack_time_us) >= 0) {
		mp->ack_seen = true;
		mp->ack_time_us = ack.time_us;
		/* Looking is cheap but not free, and the peer says how often. */
		if (ws_get(mp->tune.repair) && now_ns - mp->repaired_ns >= MS_NS) {
			mp->repaired_ns = now_ns;
			repair(mp, &ack, now_ns);
		}
	}
	/* Room in a window, whoever's pace is waited for. */
	if (mp_pending(mp))
		mp->pump_ns = now_ns;
	return true;
}

/* When the oldest data in flight on the path was sent; 0: there is none. */
static uint64_t oldest_ns(const struct ws_multipath *mp, uint32_t path)
{
	const struct tx_path *tx = &mp->tx[path];

	for (uint64_t number = tx->acked; number < tx->data_number; number++)
		if (tx->records[number % RECORDS].data)
			return tx->records[number % RECORDS].sent_ns;
	return 0;
}

/* Since when data in flight on the path is without an answer; UINT64_MAX: it is not watched. */
static uint64_t quiet_since(const struct ws_multipath *mp, uint32_t path)
{
	/* So many may be in flight on the only path that not all are remembered. */
	uint64_t oldest = mp->keep ? mp->tx[path].mark_ns : oldest_ns(mp, path);
	uint64_t last = mp->stats.paths[path].last_ack_ns;

	if (!oldest)
		return UINT64_MAX;
	/* One of several is asked until it answers, or has failed. */
	if (mp->keep ? mp->tx[path].told || !mp->sched.paths[path].usable
		     : !(mp->usable >> path & 1))
		return UINT64_MAX;
	return last < oldest ? oldest : last;
}

static uint64_t rescue_after_ns(const struct ws_multipath *mp, uint32_t path)
{
	uint64_t after_ns = 1000ULL * ws_get(mp->params[path].rescue_us);

	return mp->keep && after_ns < ONLY_SILENT_NS ? ONLY_SILENT_NS : after_ns;
}

/* Halfway to silence the peer is asked, so that one lost datagram or ACK is no failure. */
static uint64_t watch_at(const struct tx_path *tx, uint64_t since_ns, uint64_t rescue_ns)
{
	uint64_t half_ns = rescue_ns / 2, last_ns = since_ns + (half_ns + rescue_ns) / 2;

	if (tx->told)
		return tx->heartbeat_ns + STUCK_NS;
	if (tx->heartbeat_ns < since_ns)
		return since_ns + half_ns;
	/* Asked once; a second time halfway between, then it is silent. */
	if (tx->heartbeat_ns < last_ns)
		return last_ns;
	return since_ns + rescue_ns;
}

static void ask(struct ws_multipath *mp, uint32_t path, uint64_t now_ns)
{
	uint32_t time_us = mp_time_us(now_ns);
	uint8_t frame[WS_HEARTBEAT_BYTES] = {
		WS_CONTROL_HEARTBEAT,	  WS_CONTROL_VERSION,	    (uint8_t)path,
		WS_HEARTBEAT_ASK,	  (uint8_t)time_us,	    (uint8_t)(time_us >> 8),
		(uint8_t)(time_us >> 16), (uint8_t)(time_us >> 24),
	};

	mp->tx[path].heartbeat_ns = now_ns;
	ws_multipath_control(mp, path, frame, sizeof(frame), now_ns);
}

uint32_t mp_silent_us(const struct ws_multipath *mp, uint32_t path, uint64_t now_ns)
{
	uint64_t since_ns = quiet_since(mp, path), due_ns;

	if (since_ns == UINT64_MAX)
		return 0;
	due_ns = since_ns + 1000ULL * (2 * ws_get(mp->tune.ack_interval_us) +
				       ws_window_base_us(&mp->tx[path].window));
	return now_ns > due_ns ? (uint32_t)((now_ns - due_ns) / 1000) : 0;
}

/*
 * A fade more often than not: what is in flight will come, and is sent elsewhere as well. Once it is worth
 * nothing it counts no more, or a path that lost a whole window would stand still.
 */
static void fades(struct ws_multipath *mp, uint32_t path, uint64_t since_ns, uint64_t now_ns)
{
	struct tx_path *tx = &mp->tx[path];

	if (!tx->told) {
		tx->told = tx->suspended = true;
		(void)mp_copy(mp, path, now_ns);
		mp_load(mp, now_ns);
	} else if (now_ns - since_ns > mp_worth_ns(mp)) {
		(void)ws_multipath_rescue(mp, path, now_ns);
		ws_window_collapse(&tx->window, tx->next_number);
		ws_add(mp->stats.paths[path].silent, 1);
		mp->ops.silent(mp->arg, path);
	}
}

/* The only path. Who takes over is Python's to say; until then there is no other. */
static void silent(struct ws_multipath *mp, uint32_t path)
{
	ws_add(mp->stats.paths[path].silent, 1);
	mp->tx[path].told = true;
	mp->ops.silent(mp->arg, path);
}

void mp_watch(struct ws_multipath *mp, uint64_t now_ns)
{
	if (!mp->schedule)
		return;
	for (uint32_t i = 0; i < WS_PATH_COUNT; i++) {
		uint64_t since_ns = quiet_since(mp, i), rescue_ns;
		bool due;

		if (since_ns == UINT64_MAX)
			continue;
		rescue_ns = rescue_after_ns(mp, i);
		if (watch_at(&mp->tx[i], since_ns, rescue_ns) > now_ns)
			continue;
		due = now_ns - since_ns >= rescue_ns && mp->tx[i].heartbeat_ns > since_ns;

		if (due && mp->keep)
			silent(mp, i);
		else if (due)
			fades(mp, i, since_ns, now_ns);
		if (!due || !mp->keep)
			ask(mp, i, now_ns);
	}
}

uint64_t mp_watch_deadline(const struct ws_multipath *mp)
{
	uint64_t at = UINT64_MAX;

	if (!mp->schedule)
		return at;
	for (uint32_t i = 0; i < WS_PATH_COUNT; i++) {
		uint64_t since_ns = quiet_since(mp, i), one;

		if (since_ns == UINT64_MAX)
			continue;
		one = watch_at(&mp->tx[i], since_ns, rescue_after_ns(mp, i));
		if (one < at)
			at = one;
	}
	return at;
}
