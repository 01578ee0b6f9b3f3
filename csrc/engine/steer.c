/* SPDX-License-Identifier: MIT */
/* Steering (bpf/) is never required, so what fails here is left to the hand-off. */
#include "engine/steer.h"

#include "engine/kernel_relay.h"
#include "packet/prefixes.h"

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

/* Which of the sorted networks a peer holds now. */
static void mark_held(const ws_engine *engine, const struct ws_prefix *sorted, size_t count,
		      bool *held)
{
	for (int p = 0; p < engine->next_peer; p++) {
		const struct ws_peer *peer = engine->peer_by_number[p];

		for (size_t i = 0; peer && i < peer->prefix_count; i++) {
			ptrdiff_t at = ws_prefixes_find(sorted, count, &peer->prefixes[i]);

			if (at >= 0)
				held[at] = true;
		}
	}
}

/* Of the networks that a peer had, those that are nobody's now. */
static void unsteer(ws_engine *engine, struct ws_prefix *old, size_t count)
{
	bool *held;

	count = ws_prefixes_sort(old, count);
	held = count ? calloc(count, sizeof(*held)) : NULL;
	if (!held) /* no memory: they stay steered to a worker that hands their packets on */
		return;
	/* One that moved over to another peer is that one's now. */
	mark_held(engine, old, count, held);
	for (size_t i = 0; i < count; i++)
		if (!held[i])
			(void)ws_bpf_tunsteer_remove(engine->bpf, &old[i]);
	free(held);
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
	unsteer(engine, old, old_count);
	for (size_t i = 0; i < count; i++)
		(void)ws_bpf_tunsteer_set(engine->bpf, &prefixes[i],
					  (uint32_t)peer->number % engine->workers);
	free(old);
}
