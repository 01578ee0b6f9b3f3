/* SPDX-License-Identifier: MIT */
#include "worker/clock.h"

#include <time.h>

uint64_t ws_now_ns(void)
{
	struct timespec now;

	/* BOOTTIME goes on in suspend: keys must age there too. */
	clock_gettime(CLOCK_BOOTTIME, &now);
	return (uint64_t)now.tv_sec * WS_SECOND_NS + (uint64_t)now.tv_nsec;
}
