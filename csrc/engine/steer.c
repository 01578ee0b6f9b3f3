/* SPDX-License-Identifier: MIT */
/* Steering (bpf/) is never required, so what fails here is left to the hand-off. */
#include "engine/steer.h"

#include "engine/kernel_relay.h"

#include <stdlib.h>
#include <string.h>

int ws_engine_use_bpf(ws_engine *engine, ws_bpf *bpf)
{
	pthread_mutex_lock(&engine->control);
	if (engine->bpf != bpf)
		ws_kernel_relay_reset(engine);
	engine->bpf = bpf;
	pthread_mutex_unlock(&engine->control);
	return 0;
}

void ws_steer_socket(ws_engine *engine, int number)
{
	int fds[WS_MAX_WORKERS];

	if (!engine->bpf || engine->workers == 1)
		return;
	for (uint32_t i = 0; i < engine->workers; i++)
		fds[i] = engine->worker[i]->sockets[number].fd;
	engine->steer_group[number] = ws_bpf_steer_attach(engine->bpf, fds, engine->workers);
}

void ws_unsteer_socket(ws_engine *engine, int number)
{
	if (engine->bpf && engine->steer_group[number] >= 0)
		(void)ws_bpf_steer_detach(engine->bpf, engine->steer_group[number]);
	engine->steer_group[number] = -1;
}

static bool same_prefix(const struct ws_prefix *a, const struct ws_prefix *b)
{
	return a->family == b->family && a->cidr == b->cidr &&
	       !memcmp(a->ip, b->ip, a->family == 4 ? 4 : 16);
}

static bool holds(const struct ws_peer *peer, const struct ws_prefix *prefix)
{
	for (size_t i = 0; i < peer->prefix_count; i++)
		if (same_prefix(&peer->prefixes[i], prefix))
			return true;
	return false;
}

void ws_steer_packets(ws_engine *engine, struct ws_peer *peer, const struct ws_prefix *prefixes,
		      size_t count)
{
	struct ws_prefix *old = peer->prefixes;
	size_t old_count = peer->prefix_count;

	if (!engine->bpf || engine->workers == 1)
		return;
	peer->prefix_count = 0;
	peer->prefixes = count ? calloc(count, sizeof(*prefixes)) : NULL;
	if (peer->prefixes) {
		memcpy(peer->prefixes, prefixes, count * sizeof(*prefixes));
		peer->prefix_count = count;
	}
	for (size_t i = 0; i < old_count; i++) {
		bool held = false;

		/* One that moved over to another peer is that one's now. */
		for (int p = 0; p < engine->next_peer && !held; p++)
			held = engine->peer_by_number[p] &&
			       holds(engine->peer_by_number[p], &old[i]);
		if (!held)
			(void)ws_bpf_tunsteer_remove(engine->bpf, &old[i]);
	}
	for (size_t i = 0; i < count; i++)
		(void)ws_bpf_tunsteer_set(engine->bpf, &prefixes[i],
					  (uint32_t)peer->number % engine->workers);
	free(old);
}
