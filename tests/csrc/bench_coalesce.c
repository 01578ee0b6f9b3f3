/* SPDX-License-Identifier: MIT */
/* Nanoseconds per 1,400-byte packet, one bulk flow and four in turn. Not run by the tests. */
#include "packet/coalesce.h"

#include "packets.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define ROUNDS 10000
#define PACKETS 184

static unsigned long writes;

static double now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return 1e9 * (double)t.tv_sec + (double)t.tv_nsec;
}

static void on_write(void *arg, const struct ws_tun_write *write)
{
	(void)arg;
	writes += write->iov_count > 0;
}

/* Emission rewrites the first packet of each run, so the packets are restored, outside the time. */
static double run(const uint8_t *pool, uint8_t *work, size_t len, bool trusted)
{
	struct ws_coalesce *coalesce = ws_coalesce_new(true, true, on_write, NULL);
	double total = 0, start;

	if (!coalesce)
		exit(1);
	writes = 0;
	for (int i = 0; i < ROUNDS; i++) {
		memcpy(work, pool, PACKETS * len);
		start = now_ns();
		for (int k = 0; k < PACKETS; k++)
			ws_coalesce_add(coalesce, work + (size_t)k * len, len, trusted);
		ws_coalesce_flush(coalesce);
		total += now_ns() - start;
	}
	ws_coalesce_free(coalesce);
	return total / ROUNDS / PACKETS;
}

int main(void)
{
	static uint8_t payload[1400], pool[PACKETS * 1500], work[PACKETS * 1500];

	for (int flows = 1; flows <= 4; flows += 3)
		for (int trusted = 0; trusted < 2; trusted++)
			for (int version = 4; version <= 6; version += 2) {
				struct model m = {.version = version,
						  .protocol = 6,
						  .ttl = 64,
						  .fragment = 0x4000,
						  .flags = 0x10,
						  .tcp_options = 12,
						  .payload = payload,
						  .payload_bytes = sizeof(payload)};
				size_t len = model_header_bytes(&m) + sizeof(payload);
				double ns;

				for (int k = 0; k < PACKETS; k++) {
					m.source_port = k % flows;
					m.seq = (uint32_t)(k / flows) * 1400;
					model_build(&m, pool + (size_t)k * len);
				}
				ns = run(pool, work, len, trusted);
				printf("coalesce TCP/IPv%d, %d flow(s)%s: %.1f ns a packet, %.1f "
				       "packets a write\n",
				       version, flows, trusted ? ", trusted" : "", ns,
				       (double)ROUNDS * PACKETS / (double)writes);
			}
	return 0;
}
