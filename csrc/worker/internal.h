/* SPDX-License-Identifier: MIT */
/*
 * What the files of the engine share. Leaves (replay, aead, allowedips,
 * segment, coalesce, ecn) never include this.
 *
 * A worker is one thread with its TUN queue, sockets, buffers and sessions.
 * All that hangs off struct ws_worker is touched by its thread alone, once it
 * runs; the controlling thread gets in through ws_worker_call.
 */
#ifndef WS_INTERNAL_H
#define WS_INTERNAL_H

#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/socket.h>

#include "multipath/multipath.h"
#include "packet/aead.h"
#include "packet/allowedips.h"
#include "packet/coalesce.h"
#include "packet/cookie.h"
#include "packet/counters.h"
#include "packet/frame.h"
#include "packet/gate.h"
#include "packet/replay.h"
#include "shared/wire.h"
#include "whalescale.h"

#define WS_MAX_SOCKETS 64
#define WS_BUFFER_BYTES 66048 /* one UDP or TUN super-packet of up to 65535 and a virtio header */
#define WS_RX_BUFFERS 16
#define WS_TX_BUFFERS 32
#define WS_TX_MAX_BYTES 65507 /* UDP payload over IPv4 */
#define WS_TX_MAX_SEGMENTS 64 /* UDP_MAX_SEGMENTS of older kernels */
#define WS_VNET_BYTES 10 /* sizeof(struct virtio_net_hdr) */
#define WS_TUN_READS 32 /* per turn, so that neither direction starves the other */

#define WS_SECOND_NS 1000000000ULL

struct ws_worker;
struct ws_peer;

union ws_sockaddr {
	struct sockaddr sa;
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
};

/* keypair.c: transport keys of one session and who owns which receiver index. */
struct ws_keys {
	uint8_t send_key[WS_KEY_BYTES];
	uint8_t receive_key[WS_KEY_BYTES];
	uint64_t tx_counter; /* messages sent under this key */
	uint64_t rekey_at_ns;
	uint64_t reject_at_ns;
	uint64_t receive_rekey_at_ns; /* initiator: ask for a new key on receiving past this */
	uint64_t rekey_after_messages;
	uint64_t reject_after_messages;
	uint32_t local_index;
	uint32_t remote_index;
	bool initiator;
	struct ws_peer *peer;
	struct ws_replay replay; /* path 0 */
	struct ws_replay *path_replay; /* paths 1..; NULL unless the peer has several */
};

struct ws_index_table {
	struct ws_keys **slots; /* open addressing, linear probing */
	uint32_t mask;
	uint32_t used;
};

int ws_index_init(struct ws_index_table *table);
void ws_index_free(struct ws_index_table *table);
int ws_index_insert(struct ws_index_table *table, struct ws_keys *keys); /* -EEXIST, -ENOMEM */
void ws_index_remove(struct ws_index_table *table, const struct ws_keys *keys);
struct ws_keys *ws_index_find(const struct ws_index_table *table, uint32_t index);
struct ws_keys *ws_keys_new(const struct ws_keypair *keypair);
struct ws_replay *ws_path_replay_new(void); /* for a keypair of a peer with several paths */
void ws_keys_free(struct ws_keys *keys); /* zeroes */

/* stage.c: packets that wait for a handshake, in slots of a fixed pool. */
struct ws_stage_slot;
struct ws_stage_pool {
	struct ws_stage_slot *slots;
	int32_t free_head;
	uint32_t free_count;
};
struct ws_stage_queue {
	int32_t head, tail; /* slot numbers, -1 none */
	uint32_t packets;
	uint32_t slots; /* of the pool, capped so that other queues find room */
};

int ws_stage_init(struct ws_stage_pool *pool);
void ws_stage_free(struct ws_stage_pool *pool);
void ws_stage_queue_init(struct ws_stage_queue *queue);
/* Keeps a copy; the oldest of this queue give way. Returns how many packets were lost. */
uint32_t ws_stage_push(struct ws_stage_pool *pool, struct ws_stage_queue *queue,
		       const uint8_t *data, size_t len);
/* Copies the oldest to `data` (WS_BUFFER_BYTES); its length, or 0 when empty. */
size_t ws_stage_pop(struct ws_stage_pool *pool, struct ws_stage_queue *queue, uint8_t *data);
uint32_t ws_stage_clear(struct ws_stage_pool *pool, struct ws_stage_queue *queue);

/* Where datagrams go, and how they leave. */
struct ws_way {
	union ws_sockaddr remote;
	socklen_t remote_bytes; /* 0: unknown */
	int socket; /* number of the socket to send from, -1: by family */
	uint32_t ifindex; /* leaves through this interface and no other; 0: as routed */
	struct ws_addr local;
	uint64_t no_gso_until_ns; /* the kernel refused a GSO send on this way */
};

#define WS_WAY_PEER WS_PATH_COUNT /* not one of the paths: the peer's endpoint */

struct ws_paths;

/* peer.c */
struct ws_peer {
	struct ws_peer_stats stats; /* read by Python */
	struct ws_keys *current, *previous, *next;
	struct ws_way way; /* the peer's endpoint */
	struct ws_paths *paths; /* NULL: it is not known to understand several */
	bool frames; /* extended mode: packets go as data frames */
	bool bundles; /* ... and the peer takes several in one */
	uint32_t frame_max_bytes; /* longest inner packet that goes as a frame, 0: any */
	uint32_t data_seq; /* of the next data frame, low 32 bits */
	uint64_t control_window_ns; /* when the peer's control frames began to be counted */
	uint32_t control_count;
	uint8_t control_of[16]; /* control frames in that second, by type */
	uint64_t asked_ns; /* last WS_UP_NEED_HANDSHAKE */
	uint64_t roamed_ns; /* last WS_UP_ROAMED */
	uint64_t rx_serial; /* of the receive whose source was looked at last */
	int32_t number;
	/* What steering was told, so that it can be taken back; the controlling thread's. */
	struct ws_prefix *prefixes;
	size_t prefix_count;
	struct ws_stage_queue staged;
};

/* A receive, perhaps many datagrams of `stride` bytes (UDP_GRO). */
struct ws_rx {
	uint8_t *data;
	size_t len;
	size_t stride; /* 0: one datagram */
	const union ws_sockaddr *from;
	struct ws_addr local; /* family 0: not told */
	int socket;
	uint32_t ifindex; /* it came in by; 0: not told */
	uint8_t tos;
	bool group; /* sent to a broadcast or multicast address */
};

/* A send: datagrams of `stride` bytes, the last may be shorter, all to one endpoint. */
struct ws_tx {
	uint8_t *data; /* WS_BUFFER_BYTES */
	uint32_t len;
	uint32_t stride;
	uint32_t count;
	int32_t peer; /* -1: none */
	uint32_t path; /* of the peer's, or WS_WAY_PEER */
	uint32_t ifindex;
	int socket;
	uint8_t ecn;
	bool closed; /* holds a shorter last datagram: nothing may follow */
	bool no_gso;
	struct ws_addr local;
	union ws_sockaddr remote;
	socklen_t remote_bytes;
};

struct ws_socket {
	int fd; /* -1: free */
	uint32_t ifindex;
	struct ws_addr local;
	bool wildcard;
	bool gro;
};

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
	 * Waits (not while ws_worker_may_sleep says no), moves what is there through the pipelines.
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

extern const struct ws_io_ops ws_mmsg_ops;
extern const struct ws_io_ops ws_uring_ops;

struct ws_command;

/* handoff.c: from one worker to another. */
enum ws_handoff_kind { WS_HANDOFF_DATAGRAM = 1, WS_HANDOFF_PACKET = 2 };
struct ws_handoff {
	uint8_t *bytes;
	_Atomic uint32_t head; /* position of the next record to write */
	_Atomic uint32_t tail; /* of the next to read */
};

int ws_handoff_init(struct ws_handoff *ring);
void ws_handoff_free(struct ws_handoff *ring);
/* datagrams of rx->stride bytes, len in all */
void ws_handoff_datagram(struct ws_worker *worker, struct ws_worker *owner, const struct ws_rx *rx,
			 const uint8_t *data, size_t len);
void ws_handoff_packet(struct ws_worker *worker, struct ws_worker *owner, const uint8_t *frame,
		       size_t len);
/* What others handed to this worker. */
void ws_handoff_drain(struct ws_worker *worker);

/*
 * upcall.c: one producer (the worker), one consumer (Python). Two a worker: what strangers send
 * cannot take room from what peers and workers say.
 */
struct ws_upcall_ring {
	struct ws_upcall *slots;
	enum ws_drop full; /* what a message counts as for which there is no room */
	_Atomic uint32_t head; /* next to write */
	_Atomic uint32_t tail; /* next to read */
	int eventfd;
};

int ws_upcall_ring_init(struct ws_upcall_ring *ring, enum ws_drop full, int eventfd);
void ws_upcall_ring_free(struct ws_upcall_ring *ring);
/*
 * An upcall to fill further (the rest of it is zero, but for the data) and to commit. NULL: the
 * ring is full. ws_upcall_begin counts that, who tries again reserves. In the peers' ring, but for
 * ws_upcall_stranger.
 */
struct ws_upcall *ws_upcall_begin(struct ws_worker *worker, uint32_t type, int32_t peer);
struct ws_upcall *ws_upcall_reserve(struct ws_worker *worker, uint32_t type, int32_t peer);
/* share: no more once 1/share of the ring is taken. */
struct ws_upcall *ws_upcall_stranger(struct ws_worker *worker, uint32_t share);
/* 1/share of the ring is taken: no more of what others must not crowd out. */
bool ws_upcall_crowded(struct ws_upcall_ring *ring, uint32_t share);
void ws_upcall_commit(struct ws_upcall_ring *ring);
bool ws_upcall_take(struct ws_upcall_ring *ring, struct ws_upcall *out);

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
	struct ws_tx *open_tx; /* being filled by send.c */

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
	struct ws_stage_pool stage;
	struct ws_upcall_ring upcalls, strangers;
	uint8_t *scratch; /* WS_BUFFER_BYTES, for staged packets */
	struct ws_handoff inbox[WS_MAX_WORKERS]; /* by the worker that writes; unused with one */
	uint64_t send_waited_ns; /* the turn in which a full socket buffer was waited for */
	bool borrowed; /* TUN writes must be done before they return */
	uint64_t rx_serial; /* of the receive that is being worked on */
	uint64_t gathered_serial, gathered_reads; /* receives and TUN reads before the last turn */
	bool handing_off; /* ... because of handoff.c, not of paths.c */
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
	/* steering, with several workers */
	ws_bpf *bpf; /* not ours to free */
	int steer_group[WS_MAX_SOCKETS]; /* by socket number, -1: none */
	struct ws_worker *worker[WS_MAX_WORKERS];
};

/* engine.c: runs on the worker between two turns; before the start and after the end, here. */
int ws_worker_call(struct ws_worker *worker, int (*run)(struct ws_worker *, void *), void *arg);

/* control.c: as ws_worker_call, on the peer's worker. -ENOENT: there is no such peer. */
int ws_owner_call(ws_engine *engine, int peer, int (*run)(struct ws_worker *, void *), void *arg);

/* Whether the controlling thread may send it inside a session. */
static inline bool ws_is_control(const uint8_t *frame, size_t len)
{
	return len && len <= WS_CONTROL_MAX_BYTES && frame[0] >> 4 == WS_FRAME_CONTROL_NIBBLE;
}

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

/* Packets moved in this turn: with busy polling the next turns look for more and do not sleep. */
static inline void ws_worker_busy(struct ws_worker *worker)
{
	worker->busy_until_ns = worker->now_ns + worker->engine->config.busy_poll_us * 1000ULL;
}

static inline bool ws_worker_may_sleep(const struct ws_worker *worker)
{
	return worker->now_ns >= worker->busy_until_ns;
}

/* peer.c, on the worker's thread */
void ws_way_point(const struct ws_worker *worker, struct ws_way *way, const struct ws_addr *remote,
		  const struct ws_addr *local, uint32_t ifindex);
/* The socket that fits its local address best, of those that are open. */
void ws_way_choose(const struct ws_worker *worker, struct ws_way *way);
void ws_peer_point(struct ws_worker *worker, struct ws_peer *peer, const struct ws_addr *remote,
		   const struct ws_addr *local);
int ws_peer_install(struct ws_worker *worker, struct ws_peer *peer, struct ws_keys *keys);
void ws_peer_confirm(struct ws_worker *worker, struct ws_peer *peer); /* next becomes current */
void ws_peer_zero(struct ws_worker *worker, struct ws_peer *peer);
void ws_peer_forget_previous(struct ws_worker *worker, struct ws_peer *peer);
/* Why Python is asked for a handshake: the upcall's `reason`. */
enum ws_ask_reason { WS_ASK_NO_KEY = 1, WS_ASK_REKEY = 2 };
void ws_peer_ask_handshake(struct ws_worker *worker, struct ws_peer *peer, uint32_t reason);
void ws_peer_sent(struct ws_worker *worker, struct ws_peer *peer, bool data);
void ws_peer_received(struct ws_worker *worker, struct ws_peer *peer, bool data);

/* send.c */
void ws_send_packet(struct ws_worker *worker, uint8_t *frame, size_t len); /* vnet header first */
void ws_send_staged(struct ws_worker *worker, struct ws_peer *peer);
int ws_send_keepalive(struct ws_worker *worker, struct ws_peer *peer);
int ws_send_control(struct ws_worker *worker, struct ws_peer *peer, const uint8_t *data,
		    size_t len);
void ws_send_flush(struct ws_worker *worker);

/*
 * A control frame on a path (WS_WAY_PEER: the path in use), padded to datagram_bytes if not 0.
 * Without any text it is a keepalive.
 */
int ws_send_path_control(struct ws_worker *worker, struct ws_peer *peer, uint32_t path,
			 const uint8_t *data, size_t len, uint32_t datagram_bytes);
struct ws_keys *ws_usable_keys(const struct ws_worker *worker, const struct ws_peer *peer);
/* After datagrams of a keypair were sent: timestamps, renewal. */
void ws_sent(struct ws_worker *worker, struct ws_peer *peer, struct ws_keys *keys, bool data);
/* Seals head and body as datagram `number` of `path`; returns the UDP payload's bytes. */
uint32_t ws_seal(struct ws_worker *worker, struct ws_peer *peer, struct ws_keys *keys,
		 uint32_t path, uint64_t number, uint8_t ecn, const uint8_t *head,
		 size_t head_bytes, const uint8_t *body, size_t body_bytes, size_t limit);

/* paths.c: a peer's paths between the core (multipath.h) and the worker */
struct ws_paths *ws_paths_new(struct ws_peer *peer, uint32_t packet_bytes);
void ws_paths_free(struct ws_paths *paths);
/* On the worker's thread: the peer goes away. */
void ws_paths_leave(struct ws_worker *worker, struct ws_peer *peer);
/* Its keys are gone. */
void ws_paths_forget(struct ws_worker *worker, struct ws_peer *peer);
struct ws_multipath *ws_paths_core(const struct ws_paths *paths);
/* Whether data goes over the paths, and not to the peer's endpoint. */
bool ws_paths_scheduled(const struct ws_paths *paths);
struct ws_way *ws_paths_way(struct ws_peer *peer, uint32_t path);
/* So many packets were given to the peer's paths; wakes them. */
void ws_paths_queued(struct ws_worker *worker, struct ws_peer *peer, uint32_t packets);
/* The peer's paths have something to do, at the latest at the end of the turn. */
void ws_paths_wake(struct ws_worker *worker, struct ws_peer *peer);
/* An authenticated datagram came in under the peer's path number. */
void ws_paths_received(struct ws_worker *worker, struct ws_peer *peer, uint32_t path,
		       uint64_t number, const struct ws_rx *rx, uint32_t bytes);
/* ACKs and heartbeats that ask for one. False: it is for Python. */
bool ws_paths_control(struct ws_worker *worker, struct ws_peer *peer, const uint8_t *frame,
		      size_t len);
/* At the end of a turn: whatever is due. */
void ws_paths_tick(struct ws_worker *worker);
/* A data frame came; feedback: its sender wants order and ACKs. */
void ws_paths_data(struct ws_worker *worker, struct ws_peer *peer, bool feedback);
/* Before a turn: ns to let packets gather that come one by one; 0: do not. */
uint64_t ws_paths_gather_ns(struct ws_worker *worker);
void ws_paths_gather(uint64_t wait_ns);
/* When the worker must wake at the latest, UINT64_MAX: on traffic only. */
uint64_t ws_paths_deadline(struct ws_worker *worker);
/* The coalescer was flushed. */
void ws_paths_released(struct ws_worker *worker);
void ws_paths_set(struct ws_worker *worker, struct ws_peer *peer, const struct ws_path *list,
		  size_t count, bool schedule);
/* How long the worker may wait for traffic, ns; UINT64_MAX: for ever. */
uint64_t ws_paths_wait_ns(struct ws_worker *worker);
void ws_paths_socket_opened(struct ws_worker *worker, struct ws_peer *peer);
void ws_paths_socket_closed(struct ws_peer *peer, int number);

/* inside.c: the tunnel must not carry itself; what is refused is counted */
/* A receive that came by the tunnel, or from an address inside one. */
bool ws_inside_refuses(struct ws_worker *worker, const struct ws_rx *rx);
/* A packet for the peer (its IP header is there) that is our own datagram to the peer. */
bool ws_inside_returns(struct ws_worker *worker, struct ws_peer *peer, const uint8_t *packet,
		       size_t len);

/* receive.c */
void ws_receive(struct ws_worker *worker, const struct ws_rx *rx);
void ws_receive_flush(struct ws_worker *worker);
/* A checked packet to the TUN device. held: its bytes are the reordering buffer's. */
void ws_receive_deliver(struct ws_worker *worker, struct ws_peer *peer, uint8_t *packet, size_t len,
			bool trusted, bool held);
void ws_receive_emit(void *worker, const struct ws_tun_write *write); /* coalesce's callback */

/* udp.c */
#define WS_CONTROL_BYTES 128
/* The buffers that a socket of ours gets, and whether past the system's limit. */
void ws_udp_probe_buffers(int fd, struct ws_udp_parts *parts);
/* share: beside another worker's socket of this address, and not the first to take the port. */
int ws_udp_open(const struct ws_engine *engine, const struct ws_addr *local, uint32_t ifindex,
		bool share, struct ws_socket *out, struct ws_addr *bound);
void ws_addr_to_sockaddr(const struct ws_addr *addr, union ws_sockaddr *out, socklen_t *len);
void ws_sockaddr_to_addr(const union ws_sockaddr *from, struct ws_addr *out);
/* Reads local address, TOS and GRO stride from the control data of a receive. */
void ws_udp_read_control(const struct ws_socket *socket, struct msghdr *msg, struct ws_rx *rx);
/* Fills msg for tx: name, one iov over [data, data+len), control. gso: as one UDP_SEGMENT send. */
void ws_udp_fill(const struct ws_worker *worker, struct ws_tx *tx, struct msghdr *msg,
		 struct iovec *iov, uint8_t control[WS_CONTROL_BYTES], bool gso);
/* The socket to send tx from, or NULL. */
const struct ws_socket *ws_udp_socket(const struct ws_worker *worker, const struct ws_tx *tx);
/*
 * Sends tx->data[at, at+len) as one datagram, without waiting; any thread that keeps the sockets.
 * Where the address that was spoken to is gone from this host: from any other, and tx->local and
 * tx->socket say so afterwards. 0 or an errno.
 */
int ws_udp_send(const struct ws_worker *worker, struct ws_tx *tx, uint32_t at, uint32_t len);
/* tx as one datagram that no router may cut up and the kernel's idea of the MTU does not stop. Errno. */
int ws_udp_send_whole(const struct ws_worker *worker, struct ws_tx *tx);
/* After a send of tx failed with `error`: send it in other ways, or count it lost. */
void ws_udp_rescue(struct ws_worker *worker, struct ws_tx *tx, int error);

#endif
