/* SPDX-License-Identifier: MIT */
/* What a multipath core asks of its caller, done by nobody: a test replaces what it looks at. */
#ifndef WS_TEST_QUIET_H
#define WS_TEST_QUIET_H

#include "multipath/multipath.h"

static inline uint32_t quiet_send(void *arg, uint32_t path, uint64_t number, const uint8_t *head,
				  uint8_t ecn, const uint8_t *packet, size_t len)
{
	(void)arg, (void)path, (void)number, (void)head, (void)ecn, (void)packet;
	return (uint32_t)len;
}

static inline uint32_t quiet_control(void *arg, uint32_t path, uint64_t number,
				     const uint8_t *frame, size_t len)
{
	(void)arg, (void)path, (void)number, (void)frame;
	return (uint32_t)len;
}

static inline void quiet_deliver(void *arg, uint8_t *packet, size_t len, uint32_t flags)
{
	(void)arg, (void)packet, (void)len, (void)flags;
}

static inline void quiet_flush(void *arg)
{
	(void)arg;
}

static inline void quiet_silent(void *arg, uint32_t path)
{
	(void)arg, (void)path;
}

#endif
