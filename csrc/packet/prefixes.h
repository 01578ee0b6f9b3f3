/* SPDX-License-Identifier: MIT */
/* Lists of networks: in order, so that each is found in some twenty compares. */
#ifndef WS_PREFIXES_H
#define WS_PREFIXES_H

#include <stddef.h>

#include "api/types.h"

/* Sorts and takes doubles out; returns how many are left. Bits past the prefix are ignored. */
size_t ws_prefixes_sort(struct ws_prefix *list, size_t count);
/* Where the network stands in a sorted list, or -1. */
ptrdiff_t ws_prefixes_find(const struct ws_prefix *sorted, size_t count,
			   const struct ws_prefix *wanted);

#endif
