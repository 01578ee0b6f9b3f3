/* SPDX-License-Identifier: MIT */
/* What the controlling thread says of the inside of tunnels (session/inside.c). */
#include "engine/thread.h"
#include "session/inside.h"

#include <errno.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>

int ws_engine_follow_tun(ws_engine *engine)
{
	struct ifreq request = {0};
	uint32_t found = 0;

	/* The name is the descriptor's to know, the index is the sockets' namespace's. */
	if (ioctl(engine->worker[0]->tun_fd, TUNGETIFF, &request))
		return -errno;
	for (int i = 0; i < WS_MAX_SOCKETS && !found; i++)
		if (engine->worker[0]->sockets[i].fd >= 0 &&
		    !ioctl(engine->worker[0]->sockets[i].fd, SIOCGIFINDEX, &request))
			found = (uint32_t)request.ifr_ifindex;
	atomic_store_explicit(&engine->tun_ifindex, found, memory_order_relaxed);
	return (int)found;
}

static int swap_table(struct ws_worker *worker, void *arg)
{
	struct ws_allowedips **table = arg, *old = worker->inside;

	worker->inside = *table;
	*table = old;
	worker->passed.sa.sa_family = AF_UNSPEC;
	return 0;
}

static int fill(struct ws_allowedips *table, const struct ws_prefix *prefixes, size_t count,
		int32_t what)
{
	for (size_t i = 0; i < count; i++) {
		int error = ws_allowedips_insert(table, prefixes[i].family, prefixes[i].ip,
						 prefixes[i].cidr, what);

		if (error)
			return error;
	}
	return 0;
}

int ws_engine_set_inside(ws_engine *engine, const struct ws_prefix *inside, size_t inside_count,
			 const struct ws_prefix *outside, size_t outside_count)
{
	struct ws_allowedips *tables[WS_MAX_WORKERS] = {0};
	int error = 0;

	pthread_mutex_lock(&engine->control);
	/* Where both have a network, outside has the last word. */
	for (uint32_t w = 0; w < engine->workers && !error; w++) {
		tables[w] = ws_allowedips_new();
		error = tables[w] ? fill(tables[w], inside, inside_count, WS_INSIDE) : -ENOMEM;
		if (!error)
			error = fill(tables[w], outside, outside_count, WS_OUTSIDE);
	}
	for (uint32_t w = 0; w < engine->workers && !error; w++)
		(void)ws_worker_call(engine->worker[w], swap_table, &tables[w]);
	for (uint32_t w = 0; w < engine->workers; w++)
		ws_allowedips_free(tables[w]);
	pthread_mutex_unlock(&engine->control);
	return error;
}
