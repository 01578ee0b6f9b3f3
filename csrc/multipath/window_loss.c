/* SPDX-License-Identifier: MIT */
/*
 * Whose losses they are (docs/multipath.md section 8): a full link's, which cut the window, the path's own,
 * which do not, or those of who lets only so much pass.
 */
#include "multipath/window_internal.h"

#define LOSSES WS_LOST_AFTER /* fewer in a round, or ... */
#define LOSS_PERMILLE 50 /* a smaller share are the link's own */
#define CUT_PERMILLE 850
#define OWN_PART 3 /* of what was lost before: with half the window a full link loses less */
#define TRIAL_LOST 16 /* so many would be lost of the path's own, give or take four */
#define BUFFER_PERMILLE 700 /* of the bottleneck's buffer that is aimed at */
#define PROBE_NS (2 * S_NS) /* between two looks whether a policer, or a short buffer, takes more */

/* By what was lost, which it does not carry: a rate that falls to a tenth loses most of a round. */
static void cut(struct ws_window *w, const struct ws_window_ack *ack, uint32_t permille)
{
	uint64_t queue_us = w->round_queue_us, base_us = ws_window_base_us(w);

	w->buffer_bytes = most(w->used_before_bytes * queue_us / (base_us + queue_us) *
				       BUFFER_PERMILLE / 1000,
			       LEAST_BYTES);
	w->buffer_ns = ack->now_ns;
	w->before_bytes = w->bytes;
	w->high_bytes = w->bytes * CUT_PERMILLE / 1000;
	w->bytes = w->bytes *
		   least(CUT_PERMILLE, 1000 - permille + least(w->own_permille, permille)) / 1000;
	w->cut_number = ack->next_number;
}

/* It was cut and still loses, or has no queue: of a link that is full, or polices, half the window loses
 * far less. */
static void try_half(struct ws_window *w, const struct ws_window_ack *ack, uint32_t permille)
{
	uint64_t packets = (ack->highest - w->judge_number) / (w->judge_rounds + 1);

	ws_window_end_start(w, ack);
	w->cut_permille = permille;
	w->doubt = WS_WINDOW_TRIAL;
	/* Of what a round sends: half of a window that nobody fills, or of a burst, changes nothing. */
	w->trial_bytes = least(w->bytes, packets * WS_PACKET_BYTES);
	w->bytes = w->trial_bytes / 2;
	w->cut_number = ack->next_number;
}

/* Few packets of a path that loses lose more now and then; where most are lost, what arrives tells. */
static uint32_t bearable(const struct ws_window *w)
{
	uint32_t lost = w->own_permille * CHANCE_PERMILLE / 1000 + LOSS_PERMILLE;
	uint32_t arrive = (1000 - w->own_permille) * 1000 / CHANCE_PERMILLE;

	return lost < 1000 - arrive ? lost : 1000 - arrive;
}

/* In a trial so many packets tell. */
static uint64_t trial_packets(const struct ws_window *w)
{
	return most(ROUND_PACKETS, TRIAL_LOST * 1000 / most(w->cut_permille, 1));
}

static void rest(struct ws_window *w, const struct ws_window_ack *ack)
{
	w->rest_until_ns = ack->now_ns + 2 * 1000 * most(w->srtt_us, ROUND_LEAST_US);
}

/* The next round, all of it sent with one window, tells what share it loses. */
static void hold(struct ws_window *w, const struct ws_window_ack *ack)
{
	w->doubt = WS_WINDOW_CUT;
	w->before_bytes = w->bytes;
	w->cut_number = ack->next_number;
	if (!w->policed)
		rest(w, ack);
}

/* W becomes what passes, and rests. */
static void fall_back(struct ws_window *w, const struct ws_window_ack *ack, uint64_t bytes)
{
	w->bytes = w->high_bytes = w->passed_bytes = bytes;
	w->cut_number = ack->next_number;
	if (ack->now_ns >= w->rest_until_ns)
		w->rest_until_ns = ack->now_ns + PROBE_NS;
}

static void judge(struct ws_window *w, const struct ws_window_ack *ack, uint32_t permille)
{
	uint64_t arrive_permille = 1000 - w->cut_permille + least(permille, w->cut_permille);
	/* Were it full, twice the share would arrive, or all. */
	bool own = permille * 2 >= LOSS_PERMILLE && permille * OWN_PART >= w->cut_permille &&
		   (1000 - permille) * 1000 < (1000 - w->cut_permille) * CHANCE_PERMILLE;

	w->doubt = WS_WINDOW_CALM;
	/* Whatever else was lost. */
	w->own_permille = permille;
	w->own_ns = ack->now_ns;
	if (own) {
		w->bytes = w->before_bytes;
		w->high_bytes = w->buffer_bytes = UINT64_MAX;
		w->rest_until_ns = 0;
		return;
	}
	w->policed_ns = ack->now_ns;
	fall_back(w, ack, w->trial_bytes * arrive_permille / 1000);
	w->rest_until_ns = 0; /* it may be less than passes: that shows at once */
}

static uint32_t permille_of(uint64_t lost, uint64_t sent)
{
	return (uint32_t)(sent ? least(lost, sent) * 1000 / sent : 0);
}

/* Rounds that lose without a queue, or after a cut: first what share they do with one window. */
static void doubt(struct ws_window *w, const struct ws_window_ack *ack, uint32_t permille)
{
	uint64_t judged = ack->highest - w->judge_number;
	uint64_t gone = lost_since(ack, w->judge_lost);
	uint64_t above = w->bytes > w->high_bytes ? w->bytes - w->high_bytes : 0;

	w->lossy_ns = ack->now_ns;
	/* It has grown above what passes, and lost that. */
	if (w->policed && above && permille <= bearable(w) + above * 1000 / w->bytes) {
		fall_back(w, ack, w->high_bytes);
		return;
	}
	if (w->doubt != WS_WINDOW_CUT) {
		if (w->policed)
			fall_back(w, ack, w->bytes * (1000 - permille) / 1000);
		hold(w, ack);
	} else if (gone >= TRIAL_LOST && permille_of(gone, judged) > bearable(w)) {
		try_half(w, ack, permille_of(gone, judged));
	} else if (!w->policed) {
		rest(w, ack);
	}
}

void ws_window_losses(struct ws_window *w, const struct ws_window_ack *ack, uint64_t sent,
		      uint64_t lost)
{
	uint32_t permille = permille_of(lost, sent);
	uint64_t judged = ack->highest - w->judge_number;
	uint64_t gone = lost_since(ack, w->judge_lost);

	if (w->doubt == WS_WINDOW_TRIAL) {
		/* By then, or once it is as much as it takes to be its own. */
		if (judged >= trial_packets(w) ||
		    (judged >= ROUND_PACKETS && gone * OWN_PART >= TRIAL_LOST))
			judge(w, ack, permille_of(gone, judged));
		return;
	}
	if (lost < LOSSES || permille <= bearable(w)) {
		/* What was sent while the window was no greater. */
		if (w->policed && lost < LOSSES)
			w->high_bytes = most(w->high_bytes, w->passed_bytes);
		if (judged >= TRIAL_LOST * 1000 / LOSS_PERMILLE)
			w->doubt = WS_WINDOW_CALM;
		return;
	}
	w->asked_bytes = 0; /* it is no longer a queue alone that makes it smaller */
	if (w->doubt == WS_WINDOW_CUT || w->round_queue_us < TARGET_LEAST_US) {
		doubt(w, ack, permille);
		return;
	}
	w->doubt = WS_WINDOW_CUT;
	cut(w, ack, permille);
	/* A burst was too long for the buffer: that is no reason to grow slowly. */
	if (w->starting)
		w->high_bytes = UINT64_MAX;
	w->starting = w->ahead = false;
}
