/* SPDX-License-Identifier: MIT */
/*
 * A peer's paths: the core (multipath.h) decides, this file gives it keys,
 * sockets and the worker's clock. All but making and freeing runs on the
 * worker that owns the peer.
 */
#include "session/paths.h"

#include "packet/frame.h"
#include "session/deliver.h"
#include "session/seal.h"
#include "worker/upcall.h"

#include <stdlib.h>
#include <string.h>

/* Who changes address with every datagram must not crowd the others out of the upcall ring. */
#define MOVED_INTERVAL_NS (WS_SECOND_NS / 10)
/* From this rate on (packets a window) what comes in is worth letting gather (turn.c). */
#define GATHER_WINDOW_NS (WS_SECOND_NS / 100)
#define GATHER_PACKETS 50
/*
 * Python looks for busy peers four times a second, which is long for the start of a flow: it is
 * told. A ping or two are none. Python takes a peer for busy for longer than the interval.
 */
#define BUSY_WINDOW_NS (WS_SECOND_NS / 4)
#define BUSY_PACKETS 4
#define TOLD_INTERVAL_NS WS_SECOND_NS

struct paths {
	struct ws_paths shared; /* first */
	struct ws_peer *peer;
	struct ws_worker *worker; /* that has it on its list, or runs it now */
	uint64_t moved_ns[WS_PATH_COUNT];
	uint64_t rx_serial[WS_PATH_COUNT]; /* of the receive whose source was looked at last */
	bool active;
	bool sent; /* since ws_sealed was told */
	uint64_t queued_ns; /* packets to send are counted since then */
	uint64_t told_ns; /* last WS_UP_BUSY */
	uint32_t queued;
	uint64_t counted_ns; /* packets received in order are counted since then */
	uint32_t counted;
	bool busy; /* so many came that they are worth gathering */
};

/* NULL too becomes NULL: the shared part is the first. */
static struct paths *whole(struct ws_paths *shared)
{
	return (struct paths *)shared;
}

static uint32_t send_frame(void *arg, uint32_t path, uint64_t number, const uint8_t *head,
			   uint8_t ecn, const uint8_t *packet, size_t len)
{
	struct paths *paths = arg;
	struct ws_worker *worker = paths->worker;
	struct ws_keys *keys = ws_peer_data_keys(worker, paths->peer);
	/* As WireGuard sends: to where the peer's latest packet came from. */
	uint32_t by = path || ws_paths_stay(&paths->shared) ? path : WS_WAY_PEER;

	if (!keys) {
		/* Only for the moment between two keypairs: ws_paths_tick holds the queue back. */
		ws_drop(worker, WS_DROP_STAGE_FULL, 1);
		return 0;
	}
	paths->sent = true;
	return ws_seal(worker, paths->peer, keys, by, number, ecn, head, WS_FRAME_HEADER_BYTES,
		       packet, len, worker->mtu + WS_FRAME_HEADER_BYTES);
}

static uint32_t send_control(void *arg, uint32_t path, uint64_t number, const uint8_t *frame,
			     size_t len)
{
	struct paths *paths = arg;
	struct ws_worker *worker = paths->worker;
	struct ws_keys *keys = ws_peer_keys(worker, paths->peer);
	uint32_t by = path;

	/* Path 0 before Python said anything of it. No other: its numbers are nonces of its own. */
	if (path == 0 &&
	    (!ws_paths_stay(&paths->shared) || !ws_peer_way(paths->peer, path)->remote_bytes))
		by = WS_WAY_PEER;
	if (!keys || !ws_peer_way(paths->peer, by)->remote_bytes)
		return 0;
	ws_peer_sent(worker, paths->peer, false);
	return ws_seal(worker, paths->peer, keys, by, number, 0, NULL, 0, frame, len,
		       WS_CONTROL_MAX_BYTES);
}

static void deliver(void *arg, uint8_t *packet, size_t len, uint32_t flags)
{
	struct paths *paths = arg;

	if (flags & WS_MULTIPATH_VOID)
		return;
	ws_deliver(paths->worker, paths->peer, packet, len, flags & WS_FRAME_PARTIAL,
		   flags & WS_MULTIPATH_HELD);
}

static void flush(void *arg)
{
	struct paths *paths = arg;

	ws_paths_flush(paths->worker);
}

static void upcall(struct paths *paths, uint32_t type, uint32_t path, const struct ws_rx *rx)
{
	struct ws_worker *worker = paths->worker;
	struct ws_upcall *up = ws_upcall_begin(worker, type, paths->peer->number);

	if (!up)
		return; /* Python finds it in the statistics too */
	up->path = path;
	if (rx) {
		ws_sockaddr_to_addr(rx->from, &up->remote);
		up->local = rx->local;
	}
	ws_upcall_commit(&worker->upcalls);
}

static void silent(void *arg, uint32_t path)
{
	upcall(arg, WS_UP_PATH_SILENT, path, NULL);
}

static const struct ws_multipath_ops core_ops = {
	.send = send_frame,
	.control = send_control,
	.deliver = deliver,
	.flush = flush,
	.silent = silent,
};

struct ws_paths *ws_paths_new(struct ws_peer *peer, uint32_t packet_bytes)
{
	struct paths *paths = calloc(1, sizeof(*paths));

	if (!paths)
		return NULL;
	paths->peer = peer;
	for (uint32_t i = 0; i < WS_PATH_COUNT; i++)
		paths->shared.way[i].socket = -1;
	paths->shared.core = ws_multipath_new(packet_bytes, &core_ops, paths);
	if (!paths->shared.core) {
		free(paths);
		return NULL;
	}
	return &paths->shared;
}

void ws_paths_free(struct ws_paths *paths)
{
	if (!paths)
		return;
	ws_multipath_free(paths->core);
	free(whole(paths));
}

void ws_paths_leave(struct ws_worker *worker, struct ws_peer *peer)
{
	struct ws_paths **at = &worker->active;

	if (!peer->paths)
		return;
	/* What it delivered still lies with the coalescer, what it sends in the open buffer. */
	ws_paths_flush(worker);
	ws_seal_flush(worker);
	while (*at && *at != peer->paths)
		at = &(*at)->next;
	if (*at)
		*at = peer->paths->next;
}

void ws_paths_set(struct ws_worker *worker, struct ws_peer *peer, const struct ws_path *list,
		  size_t count, uint32_t flags)
{
	struct paths *paths = whole(peer->paths);
	struct ws_addr none = {0};
	uint32_t present = 0, usable = 0, mode = WS_MULTIPATH_ALONE;
	bool one;

	for (size_t i = 0; i < count; i++) {
		const struct ws_path *path = &list[i];
		uint32_t bit = 1u << path->id;

		ws_way_point(worker->sockets, &paths->shared.way[path->id], &path->remote,
			     &path->local, path->ifindex);
		present |= bit;
		if (path->usable)
			usable |= bit;
	}
	paths->worker = worker;
	paths->shared.scheduled = flags & WS_PATHS_SCHEDULE && usable;
	one = !paths->shared.scheduled && usable && !(usable & (usable - 1));
	paths->shared.kept = one && flags & WS_PATHS_KEEP;
	paths->shared.only = one ? (uint32_t)__builtin_ctz(usable) : 0;
	if (paths->shared.scheduled)
		mode = WS_MULTIPATH_SPREAD;
	else if (paths->shared.kept)
		mode = WS_MULTIPATH_KEEP;
	paths->shared.spare = present & ~usable;
	paths->shared.stay = flags & WS_PATHS_STAY;
	/* The core may still send by the ways that go. */
	ws_multipath_set_paths(paths->shared.core, present, usable, mode, worker->now_ns);
	ws_seal_flush(worker);
	for (uint32_t i = 0; i < WS_PATH_COUNT; i++)
		if (!(present >> i & 1))
			ws_way_point(worker->sockets, &paths->shared.way[i], &none, &none, 0);
	ws_paths_wake(worker, peer);
}

void ws_paths_wake(struct ws_worker *worker, struct ws_peer *peer)
{
	struct paths *paths = whole(peer->paths);

	paths->worker = worker;
	if (paths->active)
		return;
	paths->active = true;
	paths->shared.next = worker->active;
	worker->active = &paths->shared;
}

void ws_paths_queued(struct ws_worker *worker, struct ws_peer *peer, uint32_t packets)
{
	struct paths *paths = whole(peer->paths);

	ws_paths_wake(worker, peer);
	if (worker->now_ns - paths->queued_ns > BUSY_WINDOW_NS) {
		paths->queued = 0;
		paths->queued_ns = worker->now_ns;
	}
	paths->queued += packets;
	if (paths->queued < BUSY_PACKETS || worker->now_ns - paths->told_ns < TOLD_INTERVAL_NS ||
	    ws_upcall_crowded(&worker->upcalls, 4))
		return;
	paths->told_ns = worker->now_ns;
	upcall(paths, WS_UP_BUSY, 0, NULL);
}

void ws_paths_received(struct ws_worker *worker, struct ws_peer *peer, uint32_t path,
		       uint64_t number, const struct ws_rx *rx, uint32_t bytes)
{
	struct paths *paths = whole(peer->paths);
	struct ws_path_stats *stats = ws_multipath_path_stats(paths->shared.core, path);
	struct ws_addr remote;

	paths->worker = worker;
	ws_multipath_received(paths->shared.core, path, number, bytes, worker->now_ns);
	if (paths->rx_serial[path] == worker->rx_serial)
		return;
	paths->rx_serial[path] = worker->rx_serial;
	ws_sockaddr_to_addr(rx->from, &remote);
	if (!memcmp(&remote, &stats->rx_remote, sizeof(remote)) &&
	    !memcmp(&rx->local, &stats->rx_local, sizeof(rx->local)))
		return;
	/* Too soon after the last time: the next datagram from there will tell. */
	if (paths->moved_ns[path] && worker->now_ns - paths->moved_ns[path] < MOVED_INTERVAL_NS)
		return;
	paths->moved_ns[path] = worker->now_ns;
	stats->rx_remote = remote;
	stats->rx_local = rx->local;
	ws_multipath_moved(paths->shared.core, path);
	upcall(paths, WS_UP_PATH_MOVED, path, rx);
}

bool ws_paths_control(struct ws_worker *worker, struct ws_peer *peer, const uint8_t *frame,
		      size_t len)
{
	struct paths *paths = whole(peer->paths);

	if (frame[0] == WS_CONTROL_ACK) {
		(void)ws_multipath_ack(paths->shared.core, frame, len, worker->now_ns);
	} else if (frame[0] == WS_CONTROL_HEARTBEAT && len >= 4 && frame[1] == WS_CONTROL_VERSION &&
		   frame[3] & WS_HEARTBEAT_ASK) {
		ws_multipath_heartbeat(paths->shared.core);
	} else {
		return false;
	}
	ws_paths_wake(worker, peer);
	return true;
}

void ws_paths_data(struct ws_worker *worker, struct ws_peer *peer, bool feedback)
{
	struct paths *paths = whole(peer->paths);

	if (feedback) {
		if (worker->now_ns - paths->counted_ns >= GATHER_WINDOW_NS) {
			paths->busy = paths->counted >= GATHER_PACKETS;
			paths->counted = 0;
			paths->counted_ns = worker->now_ns;
		}
		paths->counted++;
	}
	ws_paths_wake(worker, peer);
}

void ws_paths_forget(struct ws_worker *worker, struct ws_peer *peer)
{
	if (!peer->paths)
		return;
	ws_paths_flush(worker);
	ws_multipath_forget(peer->paths->core, worker->now_ns);
}

/* Without a key for packets none can leave, so only what came in can be due. */
static uint64_t deadline(const struct ws_worker *worker, struct ws_paths *paths)
{
	return ws_peer_data_keys(worker, whole(paths)->peer) ? ws_multipath_deadline(paths->core)
							     : ws_multipath_expiry(paths->core);
}

static void tick(struct ws_worker *worker, struct paths *paths)
{
	struct ws_peer *peer = paths->peer;
	struct ws_keys *keys = ws_peer_data_keys(worker, peer);

	paths->worker = worker;
	if (!keys) {
		/* Nothing can leave; what came may be delivered. */
		if (ws_multipath_stats(paths->shared.core)->queue_packets)
			ws_peer_want_data_keys(worker, peer);
		ws_multipath_expire(paths->shared.core, worker->now_ns);
		return;
	}
	ws_multipath_tick(paths->shared.core, worker->now_ns);
	if (paths->sent) {
		paths->sent = false;
		ws_sealed(worker, peer, keys);
	}
}

void ws_paths_tick(struct ws_worker *worker)
{
	struct ws_paths **at = &worker->active;

	if (!worker->active)
		return;
	while (*at) {
		struct ws_paths *paths = *at;

		tick(worker, whole(paths));
		if (deadline(worker, paths) == UINT64_MAX) {
			*at = paths->next;
			whole(paths)->active = false;
		} else {
			at = &paths->next;
		}
	}
	ws_paths_flush(worker);
	ws_seal_flush(worker);
}

bool ws_paths_busy(const struct ws_worker *worker)
{
	bool busy = false;

	for (struct ws_paths *at = worker->active; at; at = at->next)
		busy |= whole(at)->busy &&
			worker->now_ns - whole(at)->counted_ns < 2 * GATHER_WINDOW_NS;
	return busy;
}

uint64_t ws_paths_deadline(const struct ws_worker *worker)
{
	uint64_t at = UINT64_MAX;

	for (struct ws_paths *paths = worker->active; paths; paths = paths->next) {
		uint64_t one = deadline(worker, paths);

		if (one < at)
			at = one;
	}
	return at;
}

void ws_paths_flush(struct ws_worker *worker)
{
	ws_deliver_flush(worker);
	for (const struct ws_paths *paths = worker->active; paths; paths = paths->next)
		ws_multipath_released(paths->core);
}

void ws_paths_socket_opened(struct ws_worker *worker, struct ws_peer *peer)
{
	for (uint32_t i = 0; peer->paths && i < WS_PATH_COUNT; i++)
		ws_way_choose(worker->sockets, &peer->paths->way[i]);
}

void ws_paths_socket_closed(struct ws_peer *peer, int number)
{
	for (uint32_t i = 0; peer->paths && i < WS_PATH_COUNT; i++)
		if (peer->paths->way[i].socket == number)
			peer->paths->way[i].socket = -1;
}
