/* SPDX-License-Identifier: MIT */
/*
 * The window against a model that remembers every accepted counter of a
 * bounded range, over millions of random steps, also at the top of the
 * counter space.
 */
#include "packet/replay.h"

#include "check.h"

#include <stdlib.h>
#include <string.h>

#define MODEL_RANGE 4000000u

struct model {
	uint64_t base;
	uint64_t highest; /* of the accepted ones, valid if any */
	bool any;
	uint8_t *seen;
};

static bool model_accepts(const struct model *model, uint64_t counter)
{
	if (model->any && counter < model->highest && model->highest - counter > WS_REPLAY_WINDOW)
		return false;
	return !model->seen[counter - model->base];
}

static void model_insert(struct model *model, uint64_t counter)
{
	model->seen[counter - model->base] = 1;
	if (!model->any || counter > model->highest)
		model->highest = counter;
	model->any = true;
}

static void against_model(uint64_t base, uint64_t last, unsigned steps, unsigned stride)
{
	struct model model = {.base = base, .seen = calloc(MODEL_RANGE, 1)};
	struct ws_replay replay;
	unsigned accepted = 0, refused = 0;

	if (!model.seen)
		abort();
	ws_replay_reset(&replay);
	for (unsigned i = 0; i < steps; i++) {
		uint64_t around = model.any ? model.highest : base, counter;
		uint64_t draw = check_random();

		switch (draw % 8) {
		case 0: /* anywhere in and a little behind the window */
		case 1:
			counter = around - draw / 8 % (WS_REPLAY_WINDOW + 200);
			break;
		case 2: /* the window's edge */
			counter = around - WS_REPLAY_WINDOW + 4 - draw / 8 % 8;
			break;
		case 3: /* a jump, now and then over the whole window */
			counter = around + draw / 8 % (draw / 512 % 64 ? 64 : 2 * WS_REPLAY_BITS);
			break;
		default:
			counter = around + draw / 8 % stride;
		}
		/* Unsigned: what fell below base has wrapped far past the range. */
		if (counter - base >= MODEL_RANGE || counter > last)
			continue;

		bool want = model_accepts(&model, counter);

		CHECK_EQ(ws_replay_check(&replay, counter), want);
		if (draw >> 60 == 0)
			continue; /* looked at only: must change nothing */
		CHECK_EQ(ws_replay_insert(&replay, counter), want);
		CHECK(!ws_replay_check(&replay, counter));
		if (want)
			model_insert(&model, counter);
		accepted += want;
		refused += !want;
	}
	CHECK(accepted > steps / 100);
	CHECK(refused > steps / 100);
	free(model.seen);
}

static void edges(void)
{
	struct ws_replay replay;

	ws_replay_reset(&replay);
	CHECK(ws_replay_check(&replay, 0));
	CHECK(ws_replay_insert(&replay, 0));
	CHECK(!ws_replay_insert(&replay, 0));

	/* The oldest counter still taken is exactly WS_REPLAY_WINDOW behind the highest. */
	CHECK(ws_replay_insert(&replay, WS_REPLAY_WINDOW + 1));
	CHECK(!ws_replay_insert(&replay, 0));
	CHECK(ws_replay_insert(&replay, 1));
	CHECK(ws_replay_insert(&replay, WS_REPLAY_WINDOW + 100));
	CHECK(!ws_replay_insert(&replay, 99));
	CHECK(ws_replay_insert(&replay, 100));

	/* A jump of a multiple of the bit count lands in the same, stale words. */
	for (uint64_t jump = 1; jump < 5; jump++) {
		ws_replay_reset(&replay);
		for (uint64_t i = 0; i < WS_REPLAY_BITS; i++)
			CHECK(ws_replay_insert(&replay, i));
		for (uint64_t i = 0; i < WS_REPLAY_BITS; i++)
			CHECK(!ws_replay_check(&replay, i));
		CHECK(ws_replay_insert(&replay, (jump + 1) * WS_REPLAY_BITS - 1));
		for (uint64_t i = 2; i <= WS_REPLAY_WINDOW + 1; i++)
			CHECK_EQ(ws_replay_insert(&replay, (jump + 1) * WS_REPLAY_BITS - i),
				 (jump + 1) * WS_REPLAY_BITS - i >= WS_REPLAY_BITS);
	}

	/* The first counter may be any: a responder can miss the start. */
	ws_replay_reset(&replay);
	CHECK(ws_replay_insert(&replay, UINT64_MAX - 1));
	CHECK(!ws_replay_insert(&replay, UINT64_MAX - 1));
	CHECK(!ws_replay_insert(&replay, UINT64_MAX));
	CHECK(!ws_replay_insert(&replay, 0));
	CHECK(ws_replay_insert(&replay, UINT64_MAX - 1 - WS_REPLAY_WINDOW));
	CHECK(!ws_replay_insert(&replay, UINT64_MAX - 2 - WS_REPLAY_WINDOW));

	ws_replay_reset(&replay);
	CHECK(!ws_replay_check(&replay, UINT64_MAX));
	CHECK(ws_replay_insert(&replay, 5));
}

int main(void)
{
	edges();
	against_model(0, UINT64_MAX, 3000000, 3);
	against_model(0, UINT64_MAX, 500000, 200);
	against_model(UINT64_C(1) << 32, UINT64_MAX, 1000000, 5);
	/* Runs into the top of the counter space: 2^64-1 itself is never taken. */
	against_model(UINT64_MAX - 200000, UINT64_MAX - 1, 1000000, 3);
	return check_done();
}
