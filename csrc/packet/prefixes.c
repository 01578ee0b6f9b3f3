/* SPDX-License-Identifier: MIT */
#include "packet/prefixes.h"

#include <stdlib.h>
#include <string.h>

static int compare(const void *left, const void *right)
{
	const struct ws_prefix *a = left, *b = right;
	size_t whole = a->cidr / 8, rest = a->cidr % 8;
	uint8_t mask = (uint8_t)(0xff00 >> rest);
	int order;

	if (a->family != b->family)
		return a->family - b->family;
	if (a->cidr != b->cidr)
		return a->cidr - b->cidr;
	order = memcmp(a->ip, b->ip, whole);
	return order || !rest ? order : (a->ip[whole] & mask) - (b->ip[whole] & mask);
}

size_t ws_prefixes_sort(struct ws_prefix *list, size_t count)
{
	size_t kept = 0;

	if (count)
		qsort(list, count, sizeof(*list), compare);
	for (size_t i = 0; i < count; i++)
		if (!kept || compare(&list[kept - 1], &list[i]))
			list[kept++] = list[i];
	return kept;
}

ptrdiff_t ws_prefixes_find(const struct ws_prefix *sorted, size_t count,
			   const struct ws_prefix *wanted)
{
	const struct ws_prefix *found =
		count ? bsearch(wanted, sorted, count, sizeof(*sorted), compare) : NULL;

	return found ? found - sorted : -1;
}
