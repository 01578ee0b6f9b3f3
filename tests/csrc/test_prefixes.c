/* SPDX-License-Identifier: MIT */
#include "packet/prefixes.h"

#include "check.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MANY 20000
#define SECONDS_MOST 5 /* beside other work, under sanitizers; each with each takes a minute */

static struct ws_prefix prefix(uint8_t family, uint8_t cidr, uint32_t top)
{
	return (struct ws_prefix){.family = family,
				  .cidr = cidr,
				  .ip = {(uint8_t)(top >> 24), (uint8_t)(top >> 16),
					 (uint8_t)(top >> 8), (uint8_t)top}};
}

static void order(void)
{
	struct ws_prefix list[] = {
		prefix(6, 32, 0x20010db8), prefix(4, 24, 0x0a000100), prefix(4, 8, 0x0a000000),
		prefix(4, 24, 0x0a000163), /* the same: the bits past the prefix do not count */
		prefix(4, 25, 0x0a000100), prefix(4, 25, 0x0a000180), prefix(4, 0, 0),
		prefix(4, 0, 0xffffffff),  prefix(6, 0, 0),
	};
	const size_t count = ws_prefixes_sort(list, sizeof(list) / sizeof(list[0]));
	struct ws_prefix wanted;

	CHECK_EQ(count, 7);
	for (size_t i = 0; i < count; i++)
		CHECK_EQ(ws_prefixes_find(list, count, &list[i]), (ptrdiff_t)i);
	wanted = prefix(4, 25, 0x0a0001fe);
	CHECK(ws_prefixes_find(list, count, &wanted) >= 0);
	wanted = prefix(4, 25, 0x0a000200);
	CHECK_EQ(ws_prefixes_find(list, count, &wanted), -1);
	wanted = prefix(6, 24, 0x0a000100);
	CHECK_EQ(ws_prefixes_find(list, count, &wanted), -1);
	CHECK_EQ(ws_prefixes_sort(NULL, 0), 0);
	CHECK_EQ(ws_prefixes_find(NULL, 0, &wanted), -1);
}

/* Every one of a long list in another long list. */
static void many(void)
{
	struct ws_prefix *list = calloc(MANY, sizeof(*list));
	const clock_t begin = clock();
	size_t count;

	if (!list)
		abort();
	for (uint32_t i = 0; i < MANY; i++)
		list[i] = prefix(4, 32, 0x0a000000 + (i * 7919) % MANY);
	count = ws_prefixes_sort(list, MANY);
	CHECK_EQ(count, MANY);
	for (uint32_t i = 0; i < MANY; i++) {
		const struct ws_prefix wanted = prefix(4, 32, 0x0a000000 + i);

		CHECK_EQ(ws_prefixes_find(list, count, &wanted), (ptrdiff_t)i);
	}
	CHECK(clock() - begin < SECONDS_MOST * CLOCKS_PER_SEC);
	free(list);
}

int main(void)
{
	order();
	many();
	return check_done();
}
