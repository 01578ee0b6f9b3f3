/* SPDX-License-Identifier: MIT */
/*
 * Without arguments: what holds whatever comes, over random schedules, and the
 * slots' life. With "script": operations from standard input, one a line, for
 * test_reorder_model.py, which knows what must come out.
 */
#include "multipath/reorder.h"

#include "check.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define SLOT_BYTES 100
#define MS UINT64_C(1000000)

/* What came out: flags are the packet's number, its bytes follow from it. */
#define MAX_OUT 100000
static struct {
	uint32_t number;
	uint8_t *packet; /* NULL: it did not wait, and lay in the caller's buffer */
	size_t len;
} out[MAX_OUT];
static size_t out_count;
static const uint8_t *given; /* the caller's buffer of the insert under way */
static unsigned long corrupt;

static void fill(uint8_t *packet, size_t len, uint32_t number)
{
	for (size_t i = 0; i < len; i++)
		packet[i] = (uint8_t)(number * 31 + i);
}

static bool intact(const uint8_t *packet, size_t len, uint32_t number)
{
	for (size_t i = 0; i < len; i++)
		if (packet[i] != (uint8_t)(number * 31 + i))
			return false;
	return true;
}

static void deliver(void *arg, uint8_t *packet, size_t len, uint32_t flags)
{
	(void)arg;
	corrupt += !intact(packet, len, flags);
	if (out_count == MAX_OUT)
		abort();
	out[out_count].number = flags;
	out[out_count].packet = packet == given ? NULL : packet;
	out[out_count++].len = len;
}

static struct ws_reorder *make(const struct ws_reorder_settings *settings)
{
	struct ws_reorder *reorder = ws_reorder_new(SLOT_BYTES, deliver, NULL);

	if (!reorder)
		abort();
	ws_reorder_set(reorder, settings);
	out_count = 0;
	return reorder;
}

static const struct ws_reorder_settings ROOMY = {.depth = WS_REORDER_MAX_DEPTH,
						 .hold_us = 10000,
						 .loss_wait_us = 10000,
						 .path_idle_us = 100000};

/* Copies of what waits; the caller's buffer is used again at once. */
static void put(struct ws_reorder *reorder, uint32_t seq, uint32_t number, uint64_t now_ns)
{
	uint8_t packet[SLOT_BYTES];

	fill(packet, sizeof(packet), number & ~WS_REORDER_LOOSE);
	given = packet;
	ws_reorder_insert(reorder, 0, seq, false, packet, sizeof(packet), number, now_ns);
	memset(packet, 0xee, sizeof(packet));
}

/* Every packet that waited is whole until it is released. */
static void check_intact(void)
{
	for (size_t i = 0; i < out_count; i++)
		if (out[i].packet)
			CHECK(intact(out[i].packet, out[i].len, out[i].number));
}

/* A full buffer is set free at once: every packet stays whole until the release. */
static void slots_stay_until_released(void)
{
	struct ws_reorder *reorder = make(&ROOMY);
	const struct ws_reorder_stats *stats = ws_reorder_stats(reorder);
	uint64_t refused;

	put(reorder, 0, 0, 0);
	for (uint32_t seq = 2; seq < WS_REORDER_MAX_DEPTH + 2; seq++)
		put(reorder, seq, seq, 0);
	CHECK_EQ(stats->depth, WS_REORDER_MAX_DEPTH);
	CHECK(!ws_reorder_must_release(reorder));
	put(reorder, 1, 1, 0);
	CHECK_EQ(out_count, WS_REORDER_MAX_DEPTH + 2);
	CHECK(ws_reorder_must_release(reorder));
	/* A caller that does not release: new ones may be lost, old ones must stay as they are. */
	for (uint32_t seq = 5001; seq < 5001 + WS_REORDER_MAX_DEPTH; seq++)
		put(reorder, seq, seq, 0);
	refused = stats->refused;
	CHECK(refused > 0);
	for (size_t i = 0; i < out_count; i++) {
		CHECK_EQ(out[i].number, i);
		CHECK_EQ(out[i].packet != NULL, i > 1);
	}
	check_intact();
	ws_reorder_released(reorder);
	CHECK(!ws_reorder_must_release(reorder));
	put(reorder, 5001 + WS_REORDER_MAX_DEPTH, 1, 0);
	CHECK_EQ(stats->refused, refused);
	CHECK_EQ(corrupt, 0);
	ws_reorder_free(reorder);
}

/* Who releases when told never loses a packet for want of a slot, and none is overwritten. */
static void enough_slots_for_who_releases(void)
{
	struct ws_reorder *reorder = make(&ROOMY);
	const struct ws_reorder_stats *stats = ws_reorder_stats(reorder);
	uint32_t seq = 0, number = 0;

	for (unsigned round = 0; round < 200; round++) {
		uint32_t burst = check_random() % 3 ? check_random() % 1100 : WS_REORDER_SPAN;
		uint32_t hole = (uint32_t)(check_random() % 3);

		seq += hole;
		for (uint32_t i = 0; i < burst; i++) {
			put(reorder, seq++, number++, round * MS);
			if (ws_reorder_must_release(reorder)) {
				check_intact();
				ws_reorder_released(reorder);
				out_count = 0;
			}
		}
		if (hole)
			put(reorder, seq - burst - 1, number++, round * MS);
		if (out_count > MAX_OUT / 2) {
			ws_reorder_released(reorder);
			out_count = 0;
		}
	}
	CHECK_EQ(stats->refused, 0);
	CHECK_EQ(stats->depth_max, WS_REORDER_MAX_DEPTH);
	CHECK_EQ(corrupt, 0);
	ws_reorder_free(reorder);
}

/* As many delivered and held as may be, and one more. */
static void last_slot(void)
{
	struct ws_reorder *reorder = make(&ROOMY);
	const struct ws_reorder_stats *stats = ws_reorder_stats(reorder);
	uint32_t seq = WS_REORDER_MAX_DEPTH / 2;

	put(reorder, 0, 0, 0);
	for (uint32_t i = 2; i <= seq; i++)
		put(reorder, i, i, 0);
	put(reorder, 1, 1, 0);
	CHECK(!ws_reorder_must_release(reorder));
	put(reorder, seq + 2, seq + 2, 0);
	for (uint32_t i = 1; i < WS_REORDER_MAX_DEPTH; i++)
		put(reorder, seq + 3 + i, seq + 3 + i, 0);
	CHECK_EQ(stats->depth, WS_REORDER_MAX_DEPTH);
	/* Skips one seq, and sets one packet free. */
	put(reorder, seq + 3 + WS_REORDER_MAX_DEPTH, 7, 0);
	CHECK_EQ(stats->depth, WS_REORDER_MAX_DEPTH);
	CHECK_EQ(stats->refused, 0);
	CHECK(ws_reorder_must_release(reorder));
	check_intact();
	ws_reorder_free(reorder);
}

static void reset_delivers_and_forgets(void)
{
	struct ws_reorder *reorder = make(&ROOMY);

	put(reorder, 100, 0, 0);
	put(reorder, 102, 1, 0);
	put(reorder, 105, 2, 0);
	CHECK_EQ(ws_reorder_deadline(reorder), 10 * MS);
	ws_reorder_reset(reorder);
	CHECK_EQ(out_count, 3);
	CHECK_EQ(ws_reorder_deadline(reorder), UINT64_MAX);
	CHECK_EQ(ws_reorder_stats(reorder)->depth, 0);
	put(reorder, 100, 3, 0); /* another 100 */
	put(reorder, 101, 4, 0);
	CHECK_EQ(out_count, 5);
	CHECK_EQ(ws_reorder_stats(reorder)->duplicates, 0);
	CHECK_EQ(ws_reorder_next(reorder), 102);
	ws_reorder_free(reorder);
}

/* What stays of a packet that waited: nothing, once it is released. */
static void nothing_stays_of_past_packets(void)
{
	struct ws_reorder *reorder = make(&ROOMY);
	const uint8_t *waited;

	put(reorder, 0, 0, 0);
	put(reorder, 2, 2, 0);
	ws_reorder_forget(reorder); /* held */
	put(reorder, 1, 1, 0);
	waited = out[2].packet;
	ws_reorder_forget(reorder); /* delivered, and still to be written */
	CHECK(waited && intact(waited, out[2].len, 2));
	ws_reorder_released(reorder);
	ws_reorder_forget(reorder);
	for (size_t i = 0; i < out[2].len; i++)
		CHECK_EQ(waited[i], 0);
	put(reorder, 4, 4, 0);
	put(reorder, 3, 3, 0);
	CHECK_EQ(out_count, 5);
	CHECK(out[4].packet && intact(out[4].packet, out[4].len, 4));
	ws_reorder_free(reorder);
}

/* What deliver may do: let go of all that came before. */
static struct ws_reorder *releasing;

static void deliver_and_release(void *arg, uint8_t *packet, size_t len, uint32_t flags)
{
	deliver(arg, packet, len, flags);
	ws_reorder_released(releasing);
	corrupt += !intact(packet, len, flags);
}

static void release_while_delivering(void)
{
	releasing = ws_reorder_new(SLOT_BYTES, deliver_and_release, NULL);
	if (!releasing)
		abort();
	ws_reorder_set(releasing, &ROOMY);
	out_count = 0;
	for (uint32_t round = 0; round < 20; round++)
		for (uint32_t i = 1; i <= 2000; i++)
			put(releasing, round * 2000 + i % 2000, round * 2000 + i % 2000, 0);
	CHECK_EQ(ws_reorder_stats(releasing)->refused, 0);
	/* The first seq started the buffer, so the very first 0 was behind it. */
	CHECK_EQ(out_count, 20 * 2000 - 1);
	CHECK(!ws_reorder_must_release(releasing));
	CHECK_EQ(corrupt, 0);
	ws_reorder_free(releasing);
}

/*
 * One random schedule. Checked: each seq at most once; in ascending order, but
 * for late ones and those (odd here) that ask for none; never more held than set; what waits is gone when its time is
 * up; what the counters say adds up.
 */
#define SCHEDULE_SEQS 4096

static void schedule(struct ws_reorder *reorder)
{
	uint32_t paths = 1 + (uint32_t)(check_random() % 3), loss = (uint32_t)(check_random() % 20);
	struct ws_reorder_settings settings = {
		.depth = 1 + (uint32_t)(check_random() % (check_random() % 4 ? 40 : 2000)),
		.hold_us = (uint32_t)(check_random() % 5000),
		.loss_wait_us = (uint32_t)(check_random() % 2000),
		.path_idle_us = (uint32_t)(check_random() % 20000),
		.deliver_late = check_random() % 2,
		.loose_hold_us = (uint32_t)(check_random() % 2 * (1 + check_random() % 3000)),
	};
	const struct ws_reorder_stats *stats = ws_reorder_stats(reorder), start = *stats;
	static uint8_t seen[SCHEDULE_SEQS];
	uint32_t base = check_random() % 2 ? UINT32_MAX - 30 : (uint32_t)check_random();
	uint32_t sent = 0, steps = 20 + (uint32_t)(check_random() % 100), taken = 0;
	uint32_t waiting[256], waiting_count = 0, highest = 0;
	uint64_t now = check_random() % 1000000 * MS;
	bool any = false;

	memset(seen, 0, sizeof(seen));
	ws_reorder_set(reorder, &settings);
	out_count = 0;
	for (uint32_t step = 0; step < steps; step++) {
		uint64_t draw = check_random();
		uint32_t seq = sent;
		uint8_t packet[SLOT_BYTES];
		size_t len = 20 + draw % 60, before = out_count;
		uint64_t late = stats->late;

		now += draw / 64 % 400 * 1000;
		if (ws_reorder_deadline(reorder) <= now && draw / 7 % 2) {
			ws_reorder_expire(reorder, now);
			CHECK(ws_reorder_deadline(reorder) > now);
			goto judge;
		}
		if (waiting_count && draw % 3 == 0) { /* what another path kept back */
			uint32_t at = (uint32_t)(draw / 1024 % waiting_count);

			seq = waiting[at];
			if (draw / 4096 % 4)
				waiting[at] = waiting[--waiting_count]; /* else it comes again */
		} else if (draw % 30 == 1) {
			sent = seq += (uint32_t)(draw / 1024 % (SCHEDULE_SEQS / 130));
			sent++;
		} else {
			sent++;
			if (draw / 1024 % 100 < loss)
				continue;
			if (draw / 2048 % 3 == 0 && waiting_count < 256) {
				waiting[waiting_count++] = seq;
				continue;
			}
		}
		fill(packet, len, seq);
		taken++;
		if (draw % 41 == 5)
			ws_reorder_pass(reorder, (uint32_t)(draw >> 40) % paths, base + seq, packet,
					len, seq, now);
		else
			ws_reorder_insert(reorder, (uint32_t)(draw >> 40) % paths, base + seq,
					  draw >> 60 == 0, packet, len,
					  seq | (seq & 1 ? WS_REORDER_LOOSE : 0), now);
		memset(packet, 0xee, sizeof(packet));
	judge:
		for (size_t i = before; i < out_count; i++) {
			CHECK(!seen[out[i].number]);
			seen[out[i].number] = 1;
			if (settings.loose_hold_us && out[i].number & 1)
				continue;
			if (stats->late == late) { /* no late one among them */
				CHECK(!any || out[i].number > highest);
				highest = out[i].number;
				any = true;
			}
		}
		CHECK(stats->late == late || out_count <= before + 1 ||
		      stats->loose != start.loose);
		CHECK(stats->depth <= settings.depth);
		CHECK_EQ(stats->depth != 0, ws_reorder_deadline(reorder) != UINT64_MAX);
		CHECK(ws_reorder_deadline(reorder) == UINT64_MAX ||
		      ws_reorder_deadline(reorder) <= now + settings.hold_us * UINT64_C(1000));
		if (draw % 5 == 0)
			ws_reorder_released(reorder);
	}
	/* Nothing arrives any more: all of it is out when the newest has waited its time. */
	ws_reorder_expire(reorder, now + settings.hold_us * UINT64_C(1000));
	CHECK_EQ(stats->depth, 0);
	CHECK_EQ(ws_reorder_deadline(reorder), UINT64_MAX);
	CHECK_EQ(stats->delivered - start.delivered, out_count);
	CHECK_EQ(stats->refused, 0);
	taken -= stats->delivered - start.delivered + stats->duplicates - start.duplicates;
	if (settings.deliver_late)
		CHECK_EQ(taken, 0);
	else /* passed ones count as late and are delivered */
		CHECK(taken <= stats->late - start.late);
	CHECK(stats->gaps_filled <= stats->gaps);
	CHECK_EQ(corrupt, 0);
	ws_reorder_released(reorder);
	ws_reorder_reset(reorder);
}

/* A datagram's reader waits for it, not for what a stream misses; what comes behind is in order still. */
static void who_asks_for_no_order_waits_less(void)
{
	struct ws_reorder_settings settings = {.depth = WS_REORDER_MAX_DEPTH,
					       .hold_us = 1000000,
					       .loss_wait_us = 1000000,
					       .path_idle_us = 1000000,
					       .loose_hold_us = 100000};
	struct ws_reorder *reorder = make(&settings);
	const struct ws_reorder_stats *stats = ws_reorder_stats(reorder);

	out_count = 0;
	put(reorder, 0, 0, 0);
	put(reorder, 2, 2, 0);
	put(reorder, 3, 3 | WS_REORDER_LOOSE, 10 * MS);
	CHECK_EQ(ws_reorder_deadline(reorder), 110 * MS);
	ws_reorder_expire(reorder, 109 * MS);
	CHECK_EQ(out_count, 1);
	ws_reorder_expire(reorder, 110 * MS);
	CHECK_EQ(out_count, 2);
	CHECK_EQ(out[1].number, 3);
	CHECK_EQ(ws_reorder_deadline(reorder), 1000 * MS);
	put(reorder, 3, 3 | WS_REORDER_LOOSE, 120 * MS);
	CHECK_EQ(stats->duplicates, 1);
	put(reorder, 4, 4, 130 * MS);
	put(reorder, 1, 1, 500 * MS);
	CHECK_EQ(out_count, 5);
	CHECK_EQ(out[2].number, 1);
	CHECK_EQ(out[3].number, 2);
	CHECK_EQ(out[4].number, 4);
	CHECK_EQ(stats->loose, 1);
	CHECK_EQ(stats->delivered, 5);
	check_intact();
	ws_reorder_free(reorder);
}

static void schedules(void)
{
	struct ws_reorder *reorder = make(&ROOMY);

	for (unsigned i = 0; i < 20000; i++)
		schedule(reorder);
	ws_reorder_free(reorder);
}

/* A line of operation, a line of what came of it: see test_reorder_model.py. */
static int script(void)
{
	struct ws_reorder *reorder = NULL;
	struct ws_reorder_settings set = {0};
	struct ws_reorder_gap gaps[WS_REORDER_MAX_GAPS];
	char line[256];
	uint32_t path, seq, again, late, count = 0, number = 0;
	uint8_t packet[4096];
	size_t len;
	uint64_t now;

	while (fgets(line, sizeof(line), stdin)) {
		out_count = 0;
		count = 0;
		if (sscanf(line, "new %u", &seq) == 1) {
			ws_reorder_free(reorder);
			reorder = ws_reorder_new(seq, deliver, NULL);
			number = 0;
		} else if (!reorder) {
			return 2;
		} else if (sscanf(line, "set %u %u %u %u %u", &set.depth, &set.hold_us,
				  &set.loss_wait_us, &set.path_idle_us, &late) == 5) {
			set.deliver_late = late;
			ws_reorder_set(reorder, &set);
		} else if (sscanf(line, "insert %u %u %u %zu %" SCNu64, &path, &seq, &again, &len,
				  &now) == 5 &&
			   len <= sizeof(packet)) {
			fill(packet, len, number);
			ws_reorder_insert(reorder, path, seq, again, packet, len, number++, now);
		} else if (sscanf(line, "pass %u %u %zu %" SCNu64, &path, &seq, &len, &now) == 4 &&
			   len <= sizeof(packet)) {
			fill(packet, len, number);
			ws_reorder_pass(reorder, path, seq, packet, len, number++, now);
		} else if (sscanf(line, "expire %" SCNu64, &now) == 1) {
			ws_reorder_expire(reorder, now);
		} else if (sscanf(line, "gaps %" SCNu64, &now) == 1) {
			count = ws_reorder_gaps(reorder, gaps, WS_REORDER_MAX_GAPS, now);
		} else if (!strcmp(line, "reset\n")) {
			ws_reorder_reset(reorder);
		} else if (!strcmp(line, "stats\n")) {
			const struct ws_reorder_stats *s = ws_reorder_stats(reorder);
			const uint64_t values[] = {s->delivered,    s->in_order,    s->held,
						   s->gaps,	    s->gaps_filled, s->skipped,
						   s->skipped_full, s->late,	    s->duplicates,
						   s->refused,	    s->wait_us,	    s->wait_max_us,
						   s->depth,	    s->depth_max};

			for (size_t i = 0; i < sizeof(values) / sizeof(*values); i++)
				printf("%s%" PRIu64, i ? " " : "", values[i]);
			puts("");
			continue;
		} else {
			return 2;
		}
		printf("%u %" PRIu64, ws_reorder_next(reorder), ws_reorder_deadline(reorder));
		for (size_t i = 0; i < out_count; i++)
			printf(" %u", out[i].number);
		for (uint32_t i = 0; i < count; i++)
			printf(" %u+%u", gaps[i].first, gaps[i].count);
		puts("");
		if (ws_reorder_must_release(reorder) || number % 3 == 0)
			ws_reorder_released(reorder);
	}
	ws_reorder_free(reorder);
	return corrupt != 0;
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "script"))
		return script();
	slots_stay_until_released();
	enough_slots_for_who_releases();
	last_slot();
	reset_delivers_and_forgets();
	nothing_stays_of_past_packets();
	release_while_delivering();
	who_asks_for_no_order_waits_less();
	schedules();
	return check_done();
}
