/* SPDX-License-Identifier: MIT */
/*
 * The workers have every binding, and the kernel those whose way it can go: out by an interface
 * that our programs stand on, to a next hop that the routing table names. Routes are asked for
 * here, since a program cannot ask on a host that does not forward.
 */
#include "engine/kernel_relay.h"

#include "engine/thread.h"
#include "kernel/bpf.h"
#include "kernel/bpf_relay.h"
#include "kernel/route.h"
#include "udp/addr.h"
#include "udp/udp.h"
#include "udp/way.h"
#include "worker/clock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Routes that one look asks for; bindings of one pair have the same. */
#define ROUTES_MOST 256

struct known_route {
	struct ws_route_key key;
	struct ws_route route;
	int error;
};

struct ws_kernel_relay {
	int route_fd;
	struct ws_relay_share *shares; /* mapped; they stay, as entries name them */
	size_t shares_bytes;
	uint32_t count;
	int error; /* of the last binding that the kernel did not take, in this look */
	struct ws_relay bindings[WS_BPF_RELAYS];
	uint32_t route_count;
	struct known_route routes[ROUTES_MOST];
};

static bool in_use(const ws_engine *engine)
{
	return engine->bpf && !engine->no_kernel_relay && ws_bpf_relay_ready(engine->bpf);
}

static struct ws_kernel_relay *begin(ws_engine *engine)
{
	struct ws_kernel_relay *kernel = engine->kernel_relay;

	if (kernel || !in_use(engine))
		return kernel;
	kernel = calloc(1, sizeof(*kernel));
	if (!kernel)
		return NULL;
	kernel->route_fd = ws_route_open();
	kernel->shares = ws_bpf_relay_shares(engine->bpf, &kernel->shares_bytes);
	engine->kernel_relay = kernel;
	return kernel;
}

void ws_kernel_relay_free(ws_engine *engine)
{
	struct ws_kernel_relay *kernel = engine->kernel_relay;

	if (!kernel)
		return;
	if (kernel->route_fd >= 0)
		close(kernel->route_fd);
	if (kernel->shares)
		munmap(kernel->shares, kernel->shares_bytes);
	free(kernel);
	engine->kernel_relay = NULL;
}

struct ws_relay_share *ws_kernel_relay_share(ws_engine *engine, uint32_t sender)
{
	struct ws_kernel_relay *kernel = begin(engine);

	return kernel && kernel->shares && sender < WS_BPF_RELAY_SHARES ? &kernel->shares[sender]
									: NULL;
}

static bool same_key(const struct ws_route_key *a, const struct ws_route_key *b)
{
	return !memcmp(a, b, sizeof(*a));
}

static const struct known_route *find_route(struct ws_kernel_relay *kernel,
					    const struct ws_route_key *key)
{
	struct known_route *known;

	for (uint32_t i = 0; i < kernel->route_count; i++)
		if (same_key(&kernel->routes[i].key, key))
			return &kernel->routes[i];
	if (kernel->route_count == ROUTES_MOST)
		return NULL;
	known = &kernel->routes[kernel->route_count++];
	known->key = *key;
	known->error = ws_route_find(kernel->route_fd, key, &known->route);
	return known;
}

static bool link_local(const struct ws_addr *addr)
{
	return addr->family == 6 && addr->ip[0] == 0xfe && (addr->ip[1] & 0xc0) == 0x80;
}

/* From where and by which interface the worker's socket would send it. */
static int find_source(const ws_engine *engine, const struct ws_relay *relay,
		       struct ws_route_key *key)
{
	const struct ws_socket *sockets = engine->worker[0]->sockets, *socket;
	struct ws_tx tx;
	struct ws_way way;

	memset(&tx, 0, sizeof(tx));
	memset(key, 0, sizeof(*key));
	ws_way_point(sockets, &way, &relay->remote, &relay->local, 0);
	ws_way_direct(&way, &tx, WS_TX_RELAY, relay->index);
	socket = ws_udp_socket(sockets, &tx);
	if (!socket)
		return -EAFNOSUPPORT;
	key->remote = relay->remote;
	key->mark = engine->config.fwmark;
	key->ifindex = link_local(&relay->remote) ? relay->remote.scope_id : socket->ifindex;
	if (!socket->wildcard)
		key->local = socket->local;
	else if (relay->local.family == relay->remote.family && !ws_addr_any(&relay->local))
		key->local = relay->local;
	key->local.port = socket->local.port;
	key->local.scope_id = 0;
	return 0;
}

static int to_kernel(ws_engine *engine, const struct ws_relay *relay)
{
	struct ws_bpf_relay_entry entry = {
		.until_ns = relay->until_ns,
		.index = relay->index,
		.sender = (uint32_t)relay->sender,
		.most_bytes = relay->most_bytes,
		.place_count = relay->place_count,
		.remote = relay->remote,
	};
	const struct known_route *known;
	struct ws_route_key key;
	int error;

	/* An address that means something on one link only, and nobody says which. */
	if (link_local(&relay->remote) && !relay->remote.scope_id)
		return -EADDRNOTAVAIL;
	for (uint32_t i = 0; i < relay->place_count; i++) {
		entry.places[i] = relay->places[i];
		if (!link_local(&relay->places[i]))
			entry.places[i].scope_id = 0;
		else if (!relay->places[i].scope_id)
			return -EADDRNOTAVAIL;
	}
	error = find_source(engine, relay, &key);
	if (error)
		return error;
	known = find_route(engine->kernel_relay, &key);
	if (!known)
		return -ENOSPC;
	if (known->error)
		return known->error;
	/* Never into a tunnel, nor where the far side of the program is unknown. */
	if (!ws_bpf_attached(engine->bpf, known->route.ifindex))
		return -ENODEV;
	entry.local = key.local.family ? key.local : known->route.source;
	if (entry.local.family != relay->remote.family || ws_addr_any(&entry.local))
		return -EADDRNOTAVAIL;
	entry.local.port = key.local.port;
	entry.ifindex = known->route.ifindex;
	entry.mark = key.mark;
	entry.mtu = known->route.mtu;
	entry.next_hop = known->route.next_hop;
	return ws_bpf_relay_set(engine->bpf, &entry);
}

static void beat(ws_engine *engine)
{
	ws_bpf_relay_beat(engine->bpf, ws_now_ns() + WS_RELAY_ALIVE_NS,
			  atomic_load_explicit(&engine->relay_bps, memory_order_relaxed));
}

/* What leaves the kernel leaves its counters with the worker's entry. */
static int add_to_worker(struct ws_worker *worker, void *arg)
{
	const struct ws_relay_count *count = arg;
	struct ws_relay_entry *entry =
		worker->relay ? ws_relay_find(worker->relay, count->index) : NULL;

	if (!entry)
		return 0;
	ws_add(entry->stats.datagrams, count->stats.datagrams);
	ws_add(entry->stats.bytes, count->stats.bytes);
	ws_add(entry->stats.elsewhere, count->stats.elsewhere);
	ws_add(entry->stats.over, count->stats.over);
	ws_add(entry->stats.kernel_datagrams, count->stats.kernel_datagrams);
	ws_add(entry->stats.kernel_bytes, count->stats.kernel_bytes);
	return 0;
}

static void add(struct ws_relay_stats *stats, const struct ws_relay_tally *tally)
{
	stats->datagrams += tally->datagrams;
	stats->bytes += tally->bytes;
	stats->elsewhere += tally->elsewhere;
	stats->over += tally->over;
	stats->kernel_datagrams += tally->datagrams;
	stats->kernel_bytes += tally->bytes;
}

static void withdraw(ws_engine *engine, uint32_t index)
{
	struct ws_relay_count count = {.index = index};
	struct ws_relay_tally tally;

	if (!engine->bpf || ws_bpf_relay_remove(engine->bpf, index, &tally))
		return;
	add(&count.stats, &tally);
	(void)ws_worker_call(engine->worker[index % engine->workers], add_to_worker, &count);
}

static void look_at(ws_engine *engine, const struct ws_relay *relay)
{
	int error = to_kernel(engine, relay);

	if (!error)
		return;
	engine->kernel_relay->error = -error;
	withdraw(engine, relay->index);
}

static struct ws_relay *find(struct ws_kernel_relay *kernel, uint32_t index)
{
	for (uint32_t i = 0; i < kernel->count; i++)
		if (kernel->bindings[i].index == index)
			return &kernel->bindings[i];
	return NULL;
}

void ws_kernel_relay_set(ws_engine *engine, const struct ws_relay *relay)
{
	struct ws_kernel_relay *kernel = begin(engine);
	struct ws_relay *known;

	if (!kernel || !relay->until_ns)
		return;
	known = find(kernel, relay->index);
	if (!known && kernel->count == WS_BPF_RELAYS)
		return;
	if (!known)
		known = &kernel->bindings[kernel->count++];
	*known = *relay;
	if (!in_use(engine))
		return;
	kernel->route_count = 0;
	beat(engine);
	look_at(engine, known);
	(void)ws_bpf_relay_attach(engine->bpf, ws_bpf_relay_used(engine->bpf) > 0);
}

static void forget(struct ws_kernel_relay *kernel, uint32_t index)
{
	struct ws_relay *known = find(kernel, index);

	if (known)
		*known = kernel->bindings[--kernel->count];
}

void ws_kernel_relay_remove(ws_engine *engine, uint32_t index, struct ws_relay_stats *last)
{
	struct ws_relay_tally tally;

	if (!engine->kernel_relay)
		return;
	forget(engine->kernel_relay, index);
	if (engine->bpf && !ws_bpf_relay_remove(engine->bpf, index, &tally))
		add(last, &tally);
}

void ws_kernel_relay_add(ws_engine *engine, struct ws_relay_count *count)
{
	struct ws_relay_tally tally;

	if (engine->bpf && !ws_bpf_relay_tally(engine->bpf, count->index, &tally))
		add(&count->stats, &tally);
}

void ws_kernel_relay_reset(ws_engine *engine)
{
	if (engine->kernel_relay)
		engine->kernel_relay->count = 0;
}

void ws_kernel_relay_yield(ws_engine *engine, uint32_t index)
{
	pthread_mutex_lock(&engine->control);
	if (engine->kernel_relay) {
		forget(engine->kernel_relay, index);
		withdraw(engine, index);
	}
	pthread_mutex_unlock(&engine->control);
}

void ws_relay_use_kernel(ws_engine *engine, int on)
{
	pthread_mutex_lock(&engine->control);
	engine->no_kernel_relay = !on;
	for (uint32_t i = 0; engine->kernel_relay && !on && i < engine->kernel_relay->count; i++)
		withdraw(engine, engine->kernel_relay->bindings[i].index);
	if (engine->bpf && !on)
		(void)ws_bpf_relay_attach(engine->bpf, false);
	pthread_mutex_unlock(&engine->control);
}

void ws_relay_beat(ws_engine *engine, struct ws_relay_program *told)
{
	struct ws_kernel_relay *kernel;
	uint64_t totals[WS_RELAY_COUNTS];

	memset(told, 0, sizeof(*told));
	pthread_mutex_lock(&engine->control);
	kernel = engine->kernel_relay;
	if (in_use(engine)) {
		told->loaded = 1;
		if (kernel) {
			kernel->route_count = 0;
			kernel->error = 0;
			beat(engine);
			for (uint32_t i = 0; i < kernel->count; i++)
				look_at(engine, &kernel->bindings[i]);
			told->error = kernel->error;
		}
		told->bindings = ws_bpf_relay_used(engine->bpf);
		(void)ws_bpf_relay_attach(engine->bpf, told->bindings > 0);
	}
	if (engine->bpf && !ws_bpf_relay_totals(engine->bpf, totals)) {
		told->datagrams = totals[WS_RELAY_SENT];
		told->bytes = totals[WS_RELAY_BYTES];
		told->elsewhere = totals[WS_RELAY_ELSEWHERE];
		told->over = totals[WS_RELAY_OVER];
		told->up = totals[WS_RELAY_UP];
		told->lost = totals[WS_RELAY_FAILED];
		told->hops = totals[WS_RELAY_HOPS];
	}
	pthread_mutex_unlock(&engine->control);
}
