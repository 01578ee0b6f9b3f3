/* SPDX-License-Identifier: MIT */
/*
 * What comes in here was measured against a peer that may lie, so every number
 * is clamped where it enters, and times are kept as distances from now: below
 * FAR_NS each, a sum of two of them and seconds cannot overflow.
 */
#include "multipath/scheduler.h"

#include <stddef.h>

#define RATE_MAX_BPS UINT64_C(400000000000)
#define FAR_NS ((uint64_t)INT64_MAX / 2) /* 146 years */

/* wrr: credit in 1/4096 bytes, so that rounding stays below a millionth of a packet. */
#define CREDIT_SHIFT 12
#define DEGRADED_PART 4

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* How much later than now; FAR_NS at most. */
static uint64_t ahead_ns(uint64_t time_ns, uint64_t now_ns)
{
	return time_ns > now_ns ? min_u64(time_ns - now_ns, FAR_NS) : 0;
}

static uint64_t later_ns(uint64_t time_ns, uint64_t by_ns)
{
	return time_ns <= UINT64_MAX - by_ns ? time_ns + by_ns : UINT64_MAX;
}

static uint64_t clamp_rate(uint64_t rate_bps)
{
	return rate_bps ? min_u64(rate_bps, RATE_MAX_BPS) : 1;
}

/* bytes at rate_bps (clamped), to the nearest ns; FAR_NS at most. */
static uint64_t transmit_ns(uint64_t bytes, uint64_t rate_bps)
{
	uint64_t bits = bytes <= UINT64_MAX / 8 ? bytes * 8 : UINT64_MAX;

	/* Above that (2 GB queued) both lose low bits. */
	while (bits > (UINT64_MAX - RATE_MAX_BPS) / S_NS) {
		bits >>= 1;
		rate_bps >>= 1;
	}
	if (!rate_bps)
		return FAR_NS;
	return min_u64((bits * S_NS + rate_bps / 2) / rate_bps, FAR_NS);
}

void ws_pace_sent(struct ws_pace *pace, uint32_t bytes, uint64_t now_ns)
{
	uint64_t cost_ns = transmit_ns(bytes, clamp_rate(pace->rate_bps));
	uint64_t earliest_ns = now_ns > WS_BURST_NS ? now_ns - WS_BURST_NS : 0;

	pace->next_ns = later_ns(max_u64(pace->next_ns, earliest_ns), cost_ns);
}

static uint32_t path_count(const struct ws_sched *sched)
{
	return sched->count < WS_SCHED_PATHS ? sched->count : WS_SCHED_PATHS;
}

uint32_t ws_sched_usable(const struct ws_sched *sched)
{
	uint32_t usable = 0;

	for (uint32_t i = 0; i < path_count(sched); i++)
		usable |= (uint32_t)sched->paths[i].usable << i;
	return usable;
}

/* Usable paths that take a packet of `bytes`. */
static uint32_t fitting_paths(const struct ws_sched *sched, uint32_t bytes)
{
	uint32_t fitting = 0;

	for (uint32_t i = 0; i < path_count(sched); i++)
		if (sched->paths[i].usable && bytes <= sched->paths[i].max_packet_bytes)
			fitting |= 1u << i;
	return fitting;
}

static bool has_room(const struct ws_sched_path *path, uint32_t bytes)
{
	return !path->in_flight_bytes ||
	       (bytes <= path->window_bytes && path->in_flight_bytes <= path->window_bytes - bytes);
}

static bool is_ready(const struct ws_sched_path *path, uint32_t bytes, uint64_t now_ns)
{
	return has_room(path, bytes) && ws_pace_ready(&path->pace, now_ns);
}

/* The least of the base delays: the others are taken relative to it. */
static int64_t least_delay_us(const struct ws_sched *sched, uint32_t paths)
{
	int64_t least_us = INT64_MAX;

	for (uint32_t i = 0; i < WS_SCHED_PATHS; i++)
		if (paths >> i & 1 && sched->paths[i].delay_us < least_us)
			least_us = sched->paths[i].delay_us;
	return least_us;
}

static uint64_t delay_ns(const struct ws_sched_path *path, int64_t least_us)
{
	/* Unsigned: right even if the difference does not fit an int64_t. */
	return min_u64((uint64_t)path->delay_us - (uint64_t)least_us, WS_DELAY_MAX_US) * US_NS;
}

static uint32_t healthy_paths(const struct ws_sched *sched, uint32_t paths)
{
	for (uint32_t i = 0; i < WS_SCHED_PATHS; i++)
		if (paths >> i & 1 && sched->paths[i].degraded)
			paths &= ~(1u << i);
	return paths;
}

static uint32_t lowest_tier(const struct ws_sched *sched, uint32_t paths)
{
	uint32_t lowest = UINT32_MAX, in_tier = 0;

	for (uint32_t i = 0; i < WS_SCHED_PATHS; i++) {
		if (!(paths >> i & 1) || sched->paths[i].tier > lowest)
			continue;
		if (sched->paths[i].tier < lowest)
			in_tier = 0;
		lowest = sched->paths[i].tier;
		in_tier |= 1u << i;
	}
	return in_tier;
}

/* The earliest time at which the pace lets one of `paths` send that has room, and may not yet. */
static uint64_t earliest_pace(const struct ws_sched *sched, uint32_t paths, uint32_t bytes,
			      uint64_t now_ns)
{
	uint64_t earliest_ns = UINT64_MAX;

	for (uint32_t i = 0; i < WS_SCHED_PATHS; i++)
		if (paths >> i & 1 && has_room(&sched->paths[i], bytes) &&
		    !ws_pace_ready(&sched->paths[i].pace, now_ns))
			earliest_ns = min_u64(earliest_ns, sched->paths[i].pace.next_ns);
	return earliest_ns;
}

/* More in flight than rate x round trip stands in a queue on the way. */
static uint64_t delivery_ns(const struct ws_sched_path *path, uint64_t bytes, int64_t least_us)
{
	uint64_t ahead =
		transmit_ns(later_ns(path->in_flight_bytes, bytes), clamp_rate(path->rate_bps));

	ahead = max_u64(ahead_ns(ahead, path->base_us * US_NS), path->stands_us * US_NS);
	return delay_ns(path, least_us) + ahead + path->silent_us * US_NS;
}

/* Another path, full for the moment, would deliver all that waits sooner than `late` this packet: were it sent
 * there, all that follows would wait for it. The next ACK makes room. */
static bool other_has_all(const struct ws_sched *sched, uint32_t paths, uint32_t late,
			  uint64_t late_ns, uint64_t bytes, int64_t least_us)
{
	for (uint32_t i = 0; i < WS_SCHED_PATHS; i++)
		if (paths >> i & 1 && 1u << i != late && sched->paths[i].in_flight_bytes &&
		    delivery_ns(&sched->paths[i], bytes, least_us) + WS_LATE_NS < late_ns)
			return true;
	return false;
}

/* A nearer one (by more than a burst takes, its queue counted), for the moment without room, may carry far
 * more: its next ACK comes sooner than what a farther one would bring, and who waits for that takes it for
 * a queue. */
static bool starts_nearer(const struct ws_sched *sched, uint32_t paths, uint32_t than)
{
	const struct ws_sched_path *farther = &sched->paths[__builtin_ctz(than)];

	for (uint32_t i = 0; i < WS_SCHED_PATHS; i++) {
		int64_t near_us = sched->paths[i].delay_us + sched->paths[i].queue_us;

		if (paths >> i & 1 && sched->paths[i].starting && !sched->paths[i].silent_us &&
		    sched->paths[i].in_flight_bytes && farther->delay_us > near_us &&
		    delay_ns(farther, near_us) > WS_BURST_NS)
			return true;
	}
	return false;
}

static uint32_t pick_soonest(const struct ws_sched *sched, uint32_t paths, uint32_t bytes,
			     uint64_t queued_bytes, uint64_t now_ns, uint64_t *wake_ns)
{
	int64_t least_us = least_delay_us(sched, paths);
	uint64_t best_ns = UINT64_MAX;
	uint32_t best = 0;

	for (uint32_t i = 0; i < WS_SCHED_PATHS; i++) {
		uint64_t at_ns;

		if (!(paths >> i & 1) || !is_ready(&sched->paths[i], bytes, now_ns))
			continue;
		at_ns = delivery_ns(&sched->paths[i], bytes, least_us);
		if (at_ns < best_ns) {
			best_ns = at_ns;
			best = 1u << i;
		}
	}
	if (best && !starts_nearer(sched, paths, best) &&
	    !other_has_all(sched, paths, best, best_ns, max_u64(queued_bytes, bytes), least_us))
		return best;
	/* Nobody, or a better one for which an ACK or its pace has to be waited for. */
	*wake_ns = earliest_pace(sched, paths, bytes, now_ns);
	return 0;
}

/* wrr: 4 x the weight, of a degraded path 1 x; 2^34 at most. */
static uint64_t share(const struct ws_sched_path *path)
{
	return (path->weight ? path->weight : 1) * (path->degraded ? UINT64_C(1) : DEGRADED_PART);
}

/* wrr: paths that `seq` would not carry too far ahead of what another has out. */
static uint32_t within_depth(const struct ws_sched *sched, uint32_t paths, uint32_t seq)
{
	uint32_t behind = 0;

	for (uint32_t i = 0; i < path_count(sched); i++) {
		const struct ws_sched_path *path = &sched->paths[i];
		uint32_t lead = seq - path->acked_seq;

		/* Below 2^31: ahead. A seq that is older than acked_seq leads nobody. */
		if (path->usable && path->in_flight_bytes && lead <= INT32_MAX &&
		    lead > sched->depth)
			behind |= 1u << i;
	}
	if (behind & (behind - 1))
		return 0; /* two are behind: each has to wait for the other */
	return behind ? paths & behind : paths;
}

static uint32_t ready_paths(const struct ws_sched *sched, uint32_t paths, uint32_t bytes,
			    uint64_t now_ns)
{
	uint32_t ready = 0;

	for (uint32_t i = 0; i < WS_SCHED_PATHS; i++)
		if (paths >> i & 1 && is_ready(&sched->paths[i], bytes, now_ns))
			ready |= 1u << i;
	return ready;
}

/*
 * Earliest eligible virtual deadline first (Stoica, Abdel-Wahab 1995): of the
 * paths that are owed something the one whose credit would pay for the packet
 * first. So none gets more than a packet ahead of its share, nor behind. If none
 * that is ready is owed anything: the one with the most credit.
 */
static uint32_t most_owed(const struct ws_sched *sched, uint32_t ready, uint32_t bytes)
{
	int64_t price = (int64_t)min_u64(bytes, UINT16_MAX) << CREDIT_SHIFT;
	uint32_t best = WS_SCHED_PATHS;

	for (uint32_t i = 0; i < WS_SCHED_PATHS; i++) {
		int64_t credit = sched->credit[i], best_credit;
		uint64_t deadline, best_deadline;

		if (!(ready >> i & 1))
			continue;
		if (best == WS_SCHED_PATHS) {
			best = i;
			continue;
		}
		best_credit = sched->credit[best];
		if (credit < 0 || best_credit < 0) {
			if (credit > best_credit)
				best = i;
			continue;
		}
		/* Deadlines (price - credit) / share, cross-multiplied: 2^28 x 2^34. */
		deadline = credit < price ? (uint64_t)(price - credit) : 0;
		best_deadline = best_credit < price ? (uint64_t)(price - best_credit) : 0;
		deadline *= share(&sched->paths[best]);
		best_deadline *= share(&sched->paths[i]);
		if (deadline < best_deadline || (deadline == best_deadline && credit > best_credit))
			best = i;
	}
	return 1u << best;
}

static uint32_t pick_wrr(const struct ws_sched *sched, uint32_t paths, uint32_t bytes, uint32_t seq,
			 uint64_t now_ns, uint64_t *wake_ns)
{
	uint32_t ready;

	paths = within_depth(sched, paths, seq);
	ready = ready_paths(sched, paths, bytes, now_ns);
	if (ready)
		return most_owed(sched, ready, bytes);
	*wake_ns = earliest_pace(sched, paths, bytes, now_ns);
	return 0;
}

/* What was sent is shared out over those that could have sent it; who did pays it all. */
static void settle_wrr(struct ws_sched *sched, uint32_t path, uint32_t bytes, uint32_t seq,
		       uint64_t now_ns)
{
	uint64_t price = min_u64(bytes, UINT16_MAX) << CREDIT_SHIFT, total = 0;
	uint32_t paths = within_depth(sched, fitting_paths(sched, bytes), seq);
	int64_t most = INT64_C(2) * UINT16_MAX << CREDIT_SHIFT; /* two of the longest packets */

	paths = ready_paths(sched, paths, bytes, now_ns) | 1u << path;
	for (uint32_t i = 0; i < WS_SCHED_PATHS; i++)
		if (paths >> i & 1)
			total += share(&sched->paths[i]);
	for (uint32_t i = 0; i < WS_SCHED_PATHS; i++) {
		uint64_t part;

		if (i == path || !(paths >> i & 1))
			continue;
		/* 2^28 x 2^34; a share too small to be seen still earns. */
		part = max_u64(price * share(&sched->paths[i]) / total, 1);
		sched->credit[i] += (int64_t)part;
		sched->credit[path] -= (int64_t)part;
	}
	for (uint32_t i = 0; i < WS_SCHED_PATHS; i++) {
		if (sched->credit[i] > most)
			sched->credit[i] = most;
		if (sched->credit[i] < -most)
			sched->credit[i] = -most;
	}
}

static uint32_t pick_minrtt(const struct ws_sched *sched, uint32_t paths, uint32_t bytes,
			    uint64_t now_ns, uint64_t *wake_ns)
{
	uint32_t ready = ready_paths(sched, paths, bytes, now_ns), best = WS_SCHED_PATHS;

	for (uint32_t i = 0; i < WS_SCHED_PATHS; i++)
		if (ready >> i & 1 && (best == WS_SCHED_PATHS ||
				       sched->paths[i].srtt_us < sched->paths[best].srtt_us))
			best = i;
	if (best < WS_SCHED_PATHS)
		return 1u << best;
	*wake_ns = earliest_pace(sched, paths, bytes, now_ns);
	return 0;
}

static uint32_t pick_redundant(const struct ws_sched *sched, uint32_t paths, uint32_t bytes,
			       uint64_t now_ns, uint64_t *wake_ns)
{
	uint32_t ready = ready_paths(sched, paths, bytes, now_ns);

	if (!ready)
		*wake_ns = earliest_pace(sched, paths, bytes, now_ns);
	return ready;
}

uint32_t ws_sched_pick(struct ws_sched *sched, uint32_t bytes, uint64_t queued_bytes, uint32_t seq,
		       uint64_t now_ns, uint64_t *wake_ns)
{
	uint32_t paths = fitting_paths(sched, bytes);

	*wake_ns = UINT64_MAX;
	if (!paths) {
		if (ws_sched_usable(sched))
			*wake_ns = 0;
		return 0;
	}
	switch (sched->kind) {
	case WS_SCHED_WRR:
		return pick_wrr(sched, paths, bytes, seq, now_ns, wake_ns);
	case WS_SCHED_MINRTT:
		return pick_minrtt(sched, paths, bytes, now_ns, wake_ns);
	case WS_SCHED_REDUNDANT:
		return pick_redundant(sched, paths, bytes, now_ns, wake_ns);
	case WS_SCHED_BACKUP:
		paths = lowest_tier(sched, paths);
		break;
	case WS_SCHED_EDF:
		break;
	}
	return pick_soonest(sched, paths, bytes, queued_bytes, now_ns, wake_ns);
}

static uint64_t soonest_ns(const struct ws_sched *sched, uint32_t paths, uint64_t bytes)
{
	int64_t least_us = least_delay_us(sched, ws_sched_usable(sched));
	uint64_t soonest = UINT64_MAX;

	for (uint32_t i = 0; i < WS_SCHED_PATHS; i++)
		if (paths >> i & 1)
			soonest = min_u64(soonest, delivery_ns(&sched->paths[i], bytes, least_us) +
							   sched->paths[i].base_us * US_NS / 2);
	return soonest;
}

uint64_t ws_sched_soonest_ns(const struct ws_sched *sched, uint32_t longest, uint64_t bytes,
			     uint32_t except)
{
	return soonest_ns(sched, fitting_paths(sched, longest) & ~except, bytes);
}

uint64_t ws_sched_later_ns(const struct ws_sched *sched, uint32_t bytes)
{
	uint32_t fitting = fitting_paths(sched, bytes);
	uint64_t fitting_ns = soonest_ns(sched, fitting, bytes);
	uint64_t other_ns = soonest_ns(sched, ws_sched_usable(sched) & ~fitting, bytes);

	return fitting && fitting_ns > other_ns ? fitting_ns - other_ns : 0;
}

int ws_sched_urgent(const struct ws_sched *sched, uint32_t bytes, uint32_t except)
{
	uint32_t paths = fitting_paths(sched, bytes);
	uint64_t least_ns = UINT64_MAX;
	int64_t least_us;
	int best = -1;

	if (paths & ~except)
		paths &= ~except;
	if (sched->kind == WS_SCHED_BACKUP)
		paths = lowest_tier(sched, paths);
	if (healthy_paths(sched, paths))
		paths = healthy_paths(sched, paths);
	least_us = least_delay_us(sched, paths);
	for (uint32_t i = 0; i < WS_SCHED_PATHS; i++) {
		uint64_t at_ns;

		if (!(paths >> i & 1))
			continue;
		at_ns = delivery_ns(&sched->paths[i], bytes, least_us);
		if (at_ns < least_ns) {
			least_ns = at_ns;
			best = (int)i;
		}
	}
	return best;
}

void ws_sched_sent(struct ws_sched *sched, uint32_t path, uint32_t bytes, uint32_t seq,
		   uint64_t now_ns)
{
	struct ws_sched_path *sent;

	if (path >= path_count(sched))
		return;
	sent = &sched->paths[path];
	if (sched->kind == WS_SCHED_WRR)
		settle_wrr(sched, path, bytes, seq, now_ns);
	if (!sent->in_flight_bytes) {
		sent->acked_seq = seq - 1;
		sent->last_seq = seq;
	} else if (seq - sent->last_seq <= INT32_MAX) {
		sent->last_seq = seq;
	}
	sent->in_flight_bytes = later_ns(sent->in_flight_bytes, bytes);
	ws_pace_sent(&sent->pace, bytes, now_ns);
}
