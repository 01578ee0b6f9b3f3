/* SPDX-License-Identifier: MIT */
/*
 * A worker is one thread with its TUN queue, sockets, buffers and sessions. All that hangs off
 * struct ws_worker is touched by its thread alone, once it runs; the controlling thread gets in
 * through ws_worker_call (engine/thread.h).
 */
#ifndef WS_WORKER_H
#define WS_WORKER_H

#include <pthread.h>

#include "api/bpf.h"
#include "api/engine.h"
#include "packet/aead.h"
#include "packet/allowedips.h"
#include "packet/coalesce.h"
#include "packet/cookie.h"
#include "packet/counters.h"
#include "packet/gate.h"
#include "udp/udp.h"
#include "worker/clock.h"
#include "worker/keypair.h"
#include "worker/rings.h"
#include "worker/stage.h"

#define WS_MAX_WORKERS 16
#define WS_MAX_PEERS 65536
#define WS_RX_BUFFERS 16
#define WS_TX_BUFFERS 32
#define WS_VNET_BYTES 10 /* sizeof(struct virtio_net_hdr) */
#define WS_TUN_READS 32 /* per turn, so that neither direction starves the other */

struct ws_command;
struct ws_paths;
struct ws_peer;
struct ws_relay_share;
struct ws_relay_table;
struct ws_worker;

/* A backend moves bytes between the kernel and the pipelines. */
struct ws_io_ops {
	const char *name;
	uint32_t backend;
	int (*init)(struct ws_worker *worker);
	void (*destroy)(struct ws_worker *worker);
	/* Socket `number` of the worker was opened / is about to be closed. */
	int (*socket_added)(struct ws_worker *worker, int number);
	void (*socket_removed)(struct ws_worker *worker, int number);
	/* NULL or, on the worker's thread after its last turn: let go of all descriptors. */
	void (*stop)(struct ws_worker *worker);
	/*
	 * Waits (not while ws_turn_may_sleep says no), moves what is there through the pipelines.
	 * 0, or a negative errno that is fatal.
	 */
	int (*turn)(struct ws_worker *worker);
	/* A free send buffer; may send what is queued to get one. Never NULL. */
	struct ws_tx *(*tx_get)(struct ws_worker *worker);
	/* Takes the filled buffer over. Sent at the latest by tx_flush. */
	void (*tx_submit)(struct ws_worker *worker, struct ws_tx *tx);
	void (*tx_flush)(struct ws_worker *worker);
	/* Returns once the pieces may be reused. */
	void (*tun_write)(struct ws_worker *worker, const struct iovec *iov, uint32_t count,
			  uint32_t packets);
};

struct ws_worker {
	struct ws_stats stats;
	struct ws_engine *engine;
	uint32_t number;
	uint32_t mtu;
	uint64_t now_ns; /* of this turn */
	bool no_udp_gso;

	int tun_fd;
	int wake_fd; /* eventfd: a command waits */
	struct ws_socket sockets[WS_MAX_SOCKETS];

	const struct ws_io_ops *io;
	void *io_state;
	struct ws_tx *open_tx; /* being filled by seal.c */

	struct ws_aead *aead;
	struct ws_mac1 *mac1;
	struct ws_cookie *cookie;
	struct ws_coalesce *coalesce;
	struct ws_allowedips *allowedips;
	struct ws_allowedips *inside; /* inside.c; NULL: nothing was said */
	union ws_sockaddr passed; /* the last sender that is not inside a tunnel */
	uint16_t port; /* of the sockets, host order */
	struct ws_index_table indices;
	struct ws_keys *last_keys; /* of the last datagram: bulk comes in runs */
	struct ws_relay_table *relay; /* NULL: nothing was ever bound */
	struct ws_stage_pool stage;
	struct ws_upcall_ring upcalls, strangers;
	uint8_t *scratch; /* WS_BUFFER_BYTES, for staged packets */
	struct ws_handoff inbox[WS_MAX_WORKERS]; /* by the worker that writes; unused with one */
	uint64_t send_waited_ns; /* the turn in which a full socket buffer was waited for */
	bool borrowed; /* TUN writes must be done before they return */
	uint64_t rx_serial; /* of the receive that is being worked on */
	uint64_t gathered_serial, gathered_reads; /* receives and TUN reads before the last turn */
	bool handing_off; /* borrowed from another worker's ring, not from paths.c */
	struct ws_paths *active; /* peers whose paths have something to do */
	uint64_t busy_until_ns; /* poll without sleeping till then */

	pthread_t thread;
	bool running;
	_Atomic bool stop;
	_Atomic(struct ws_command *) command;
};

struct ws_engine {
	struct ws_config config;
	struct ws_chosen chosen;
	uint32_t workers;
	bool started;
	_Atomic uint32_t tun_ifindex; /* in the sockets' namespace; 0: unknown, or not there */
	int upcall_fd;
	uint32_t upcall_next; /* worker to look at first, so that none starves */
	uint32_t upcalls_taken; /* of those some are strangers' first, so that they do not starve */
	struct ws_gate *gate;
	pthread_mutex_t control; /* one controlling call at a time; never taken by a worker */
	int32_t next_peer;
	struct ws_peer *peer_by_number[WS_MAX_PEERS];
	struct ws_relay_share *relay_shares; /* by number of the sender; NULL: no relay */
	_Atomic uint64_t relay_bps; /* of one member; 0: no limit */
	struct ws_kernel_relay *kernel_relay; /* engine/kernel_relay.c; NULL: not used yet */
	bool no_kernel_relay;
	/* steering, with several workers */
	ws_bpf *bpf; /* not ours to free */
	int steer_group[WS_MAX_SOCKETS]; /* by socket number, -1: none */
	struct ws_worker *worker[WS_MAX_WORKERS];
};

/* NULL: there is none of that number. */
static inline struct ws_peer *ws_engine_peer(const struct ws_engine *engine, int number)
{
	return number >= 0 && number < WS_MAX_PEERS ? engine->peer_by_number[number] : NULL;
}

static inline struct ws_peer *ws_worker_peer(const struct ws_worker *worker, int number)
{
	return ws_engine_peer(worker->engine, number);
}

/* The one worker that owns the peer. */
static inline struct ws_worker *ws_owner(const struct ws_engine *engine, int peer)
{
	return engine->worker[(uint32_t)peer % engine->workers];
}

static inline void ws_drop(struct ws_worker *worker, enum ws_drop reason, uint64_t n)
{
	ws_add(worker->stats.drops[reason], n);
}

/* What became of a TUN write of so many packets: result as write(2) returns it. */
static inline void ws_tun_written(struct ws_worker *worker, ssize_t result, uint32_t packets)
{
	if (result < 0)
		ws_drop(worker, WS_DROP_TUN_WRITE, packets);
	else
		ws_add(worker->stats.rx_packets, packets);
}

#endif
