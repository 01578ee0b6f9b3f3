/* SPDX-License-Identifier: MIT */
/*
 * The public API of the data plane. One engine owns the TUN queues, the UDP
 * sockets, the sessions' transport keys and the worker threads. Python
 * decides (handshakes, endpoints, timers); the workers move packets and never
 * take the interpreter's lock.
 *
 * Threading: every function may be called from one controlling thread. Calls
 * that change state are carried out by the owning worker between two turns of
 * its loop and have taken effect when they return. Unless said otherwise
 * functions return 0 (or a non-negative result) or a negative errno.
 *
 * The part between the two cdef marks is given to cffi as it stands, so it
 * keeps to plain declarations.
 */
#ifndef WHALESCALE_H
#define WHALESCALE_H

#include <stddef.h>
#include <stdint.h>

/*
 * Python reads the structures below where they lie. Their members are at the same places on every
 * machine with these sizes and natural alignment (x86-64, arm64).
 */
_Static_assert(sizeof(void *) == 8 && sizeof(long) == 8 && sizeof(int) == 4,
	       "Whalescale is for 64-bit Linux");
_Static_assert(_Alignof(uint64_t) == 8 && _Alignof(uint32_t) == 4,
	       "Whalescale needs natural alignment");

/* cdef-begin */

/* A UDP endpoint or a local address. family: 4, 6 or 0 (unset). */
struct ws_addr {
	uint8_t family;
	uint8_t pad;
	uint16_t port; /* host order */
	uint32_t scope_id; /* IPv6 link-local zone, an interface index */
	uint8_t ip[16]; /* network order; IPv4 in the first 4 bytes */
};

/* An allowed-IPs entry: ip/cidr, bits past cidr are ignored. */
struct ws_prefix {
	uint8_t family; /* 4 or 6 */
	uint8_t cidr;
	uint8_t ip[16];
};

enum ws_backend { WS_BACKEND_AUTO = 0, WS_BACKEND_MMSG = 1, WS_BACKEND_URING = 2 };
enum ws_cipher { WS_CIPHER_AUTO = 0, WS_CIPHER_IPSEC_MB = 1, WS_CIPHER_OPENSSL = 2 };

/* Offload switches, a bit set turns the offload OFF. */
enum ws_offload {
	WS_NO_TUN_TSO = 1, /* no super-packets from the TUN device */
	WS_NO_TUN_GRO = 2, /* no super-packets to the TUN device */
	WS_NO_UDP_GSO = 4,
	WS_NO_UDP_GRO = 8,
	WS_NO_TUN_USO = 16
};

struct ws_config {
	uint32_t workers; /* 1..WS_MAX_WORKERS */
	uint32_t backend; /* enum ws_backend */
	uint32_t cipher; /* enum ws_cipher */
	uint32_t offloads_off; /* bits of enum ws_offload */
	uint32_t fwmark; /* SO_MARK on every UDP socket, 0 for none */
	uint32_t mtu; /* of the TUN device, bytes */
	uint32_t pin_cpus; /* 1: worker i runs on the i-th CPU this process may use */
	uint32_t busy_poll_us; /* poll this long after the last traffic before sleeping, 0: never */
	uint8_t public_key[32]; /* our Noise static key (X25519): what mac1 is checked against */
	uint8_t bootstrap_key
		[32]; /* of our fingerprint: what bootstrap requests are checked against */
};

/* Keys of one direction pair, as the handshake derived them (copied, then the caller zeroes). */
struct ws_keypair {
	uint32_t local_index; /* what the other side writes into its messages */
	uint32_t remote_index; /* what we write */
	uint8_t send_key[32];
	uint8_t receive_key[32];
	uint64_t created_ns; /* CLOCK_BOOTTIME */
	uint64_t rekey_after_ns; /* REKEY_AFTER_TIME as a duration */
	uint64_t reject_after_ns; /* REJECT_AFTER_TIME as a duration */
	uint64_t rekey_after_messages;
	uint64_t reject_after_messages;
	uint32_t initiator; /* 1: becomes current at once; 0: next, until its first message */
};

enum ws_upcall_type {
	/* a handshake or bootstrap message: data, remote, local; reason: enum ws_source_class */
	WS_UP_DATAGRAM = 1,
	WS_UP_NEED_HANDSHAKE =
		2, /* peer has something to send and no usable key, or its key is old */
	WS_UP_CONFIRMED = 3, /* index: a keypair installed as responder was used by the initiator */
	WS_UP_ROAMED = 4, /* remote, local: the peer's authenticated endpoint changed */
	WS_UP_CONTROL = 5, /* data: a control frame from inside the session */
	WS_UP_FATAL = 6, /* reason: an errno; the TUN device or a socket is gone */
	/* path: the peer's number of it; remote, local: it came from elsewhere than before */
	WS_UP_PATH_MOVED = 7,
	WS_UP_PATH_SILENT = 8, /* path: ours; in flight for longer than rescue_us */
	WS_UP_BUSY = 9 /* packets for several paths: they are worth sampling, from now on */
};

/* What the source of an initiation has shown (csrc/packet/gate.h). */
enum ws_source_class {
	WS_SOURCE_OTHER = 0, /* not an initiation */
	WS_SOURCE_STRANGER = 1,
	WS_SOURCE_KNOWN = 2, /* the address of a peer */
	WS_SOURCE_VERIFIED = 3 /* a right mac2 */
};

/* One message up to Python. `peer` is -1 where none is known. */
struct ws_upcall {
	uint32_t type; /* enum ws_upcall_type */
	int32_t peer;
	uint32_t index;
	uint32_t reason;
	uint64_t now_ns; /* CLOCK_BOOTTIME of its receipt */
	struct ws_addr remote;
	struct ws_addr local; /* local.port is the socket's; family 0 where unknown */
	uint32_t path; /* WS_UP_CONTROL: the peer's number of the path that it came by */
	uint32_t datagram_bytes; /* WS_UP_CONTROL: UDP payload that it came in */
	uint32_t len;
	uint8_t data[2048];
};

/* Why a datagram or packet was dropped; index into ws_stats.drops. */
enum ws_drop {
	WS_DROP_SHORT = 0, /* in: shorter than its type allows, or empty */
	WS_DROP_TYPE = 1, /* in: no message type of ours, or reserved bytes set */
	WS_DROP_LENGTH = 2, /* in: a length its type does not have, or too long */
	WS_DROP_MAC1 = 3, /* in: a handshake message whose mac1 is not for our key */
	WS_DROP_NO_KEY = 4, /* in: unknown receiver index */
	WS_DROP_EXPIRED = 5, /* in: the keypair is past REJECT_AFTER_TIME or _MESSAGES */
	WS_DROP_AUTH = 6, /* in: the AEAD tag does not match */
	WS_DROP_REPLAY = 7, /* in: counter seen before or behind the window */
	WS_DROP_MALFORMED = 8, /* in: the inner packet is not IP, or its lengths lie */
	WS_DROP_SOURCE = 9, /* in: inner source address is not in the peer's allowed IPs */
	WS_DROP_ECN = 10, /* in: outer CE on an inner packet that is not ECN-capable (RFC 6040) */
	WS_DROP_UPCALL_FULL =
		11, /* in: Python is behind, the ring of what peers and workers say is full */
	WS_DROP_NO_PEER = 12, /* out: no peer's allowed IPs hold the destination */
	WS_DROP_NO_ENDPOINT = 13, /* out: the peer's endpoint is not known */
	WS_DROP_STAGE_FULL = 14, /* out: waited for a handshake, pushed out by newer packets */
	WS_DROP_SEND = 15, /* out: the kernel refused the datagram */
	WS_DROP_TUN_WRITE = 16, /* in: the TUN device refused the packet */
	WS_DROP_TUN_MALFORMED = 17, /* out: what the TUN device gave is not an IP packet */
	WS_DROP_HANDOFF_FULL = 18, /* between workers: the owner is behind */
	WS_DROP_FRAME = 19, /* in: a frame of no type or flags that we know, or too short */
	WS_DROP_CONTROL_RATE = 20, /* in: more control frames than a peer may send */
	WS_DROP_PATH = 21, /* in: a path number that no peer may use, or not of this session */
	WS_DROP_TUNNEL = 22, /* in: came by the tunnel's own device */
	WS_DROP_INSIDE = 23, /* in: from an address inside a tunnel */
	WS_DROP_LOOP = 24, /* out: our own datagram to the peer, come back by the tunnel's device */
	WS_DROP_STRANGERS_FULL = 25, /* in: Python is behind with messages from outside sessions */
	WS_DROP_ASKED = 26, /* in: under load; a cookie reply went out for it */
	WS_DROP_LOAD = 27, /* in: under load, and too many to ask each for a cookie */
	WS_DROP_UNASKED = 28, /* in: an answer to no message of ours that is out */
	WS_DROP_BOOTSTRAP = 29, /* in: a bootstrap request that is not for our fingerprint */
	WS_DROP_DESTINATION = 30, /* in: sent to a broadcast or multicast address */
	WS_DROP_COUNT = 31
};

/* Counters of one worker; written by it alone, read by anyone at any time. */
struct ws_stats {
	uint64_t tx_packets, tx_bytes; /* inner packets sealed; bytes on the wire, UDP payload */
	uint64_t rx_packets, rx_bytes; /* inner packets delivered; bytes on the wire, UDP payload */
	uint64_t tx_batches, rx_batches; /* sends and receives asked of the kernel */
	uint64_t tun_reads, tun_writes;
	uint64_t keepalives_tx, keepalives_rx;
	uint64_t handshake_rx; /* datagrams given to Python */
	uint64_t control_rx; /* control frames given to Python */
	uint64_t turns; /* of the worker's loop */
	/* Came to this worker but belonged to another: 0 with steering (bpf/) */
	uint64_t foreign_rx, foreign_tx;
	uint64_t cookies_tx; /* cookie replies */
	uint64_t drops[31]; /* WS_DROP_COUNT */
};

/* What Python reads of one peer. Written by the owning worker alone. Times are CLOCK_BOOTTIME ns, 0: never. */
struct ws_peer_stats {
	uint64_t tx_packets, tx_bytes, rx_packets, rx_bytes;
	uint64_t last_sent_ns; /* any authenticated message of ours, keepalives too */
	uint64_t last_received_ns; /* any authenticated message from the peer */
	/* First data message received after our last send: the passive keepalive counts from here. */
	uint64_t unsent_since_ns;
	/* First data message sent after the last receive: "no answer" counts from here. */
	uint64_t unanswered_since_ns;
	uint64_t tx_counter; /* of the current keypair */
	uint32_t current_index, next_index, previous_index; /* local indices, 0: none */
	uint32_t staged; /* packets waiting for a handshake */
	uint32_t wrong_sources; /* packets whose inner source is not in its allowed IPs */
	uint32_t
		endpoint_serial; /* odd while the next two change: ws_peer_endpoint reads them whole */
	struct ws_addr endpoint, local; /* where the peer is now, and what we answer from */
};

enum { WS_MAX_PATHS = 8 };

/* A path: which local address and interface, and where to. */
struct ws_path {
	uint32_t id; /* our number of it, 0..WS_MAX_PATHS-1 */
	uint32_t ifindex; /* it leaves through this interface; 0: as the routing table says */
	uint32_t usable; /* 1: validated, takes data; 0: probes only */
	struct ws_addr local, remote;
};

/* What Python sets of a path per interval. */
struct ws_path_params {
	uint64_t rate_bps; /* pace, > 0 */
	uint64_t window_bytes; /* most in flight */
	uint32_t srtt_us;
	uint32_t weight; /* wrr */
	uint32_t tier; /* backup */
	uint32_t degraded;
	int32_t delay_us; /* base one-way delay, relative to the peer's other paths */
	uint32_t max_packet; /* longest inner packet */
	uint32_t rescue_us; /* in flight for so long without a word: silent, send elsewhere */
};

/* ... and of a peer. */
struct ws_multipath_params {
	uint32_t scheduler; /* 0 edf, 1 wrr, 2 minrtt, 3 redundant, 4 backup */
	uint32_t depth; /* wrr: lead in seqs */
	uint32_t slack_us; /* edf */
	uint32_t queue_us; /* packets older than this make the queue drop its newest */
	uint64_t queue_bytes; /* most that waits for a path */
	uint32_t repair; /* 1: send what ACKs show as lost once more */
	uint32_t repair_age_us; /* ... unless it is older than this */
	/* the reordering buffer */
	uint32_t reorder_depth;
	uint32_t hold_us;
	uint32_t loss_wait_us;
	uint32_t path_idle_us;
	uint32_t deliver_late;
	uint32_t ack_interval_us;
	uint32_t
		align; /* 1: in a lull what a quick path brings waits as long as a slow one takes */
	/* pure TCP acknowledgements wait for each other so long, so often; bunch_us 0: never */
	uint32_t bunch_us, bunch_every_us;
	uint32_t tcp_wait_us; /* URGENT TCP (SYN, acknowledgements) waits so long */
};

/* One path, both directions. Sums since it was made; times CLOCK_BOOTTIME ns, 0: never. */
struct ws_path_stats {
	/* ours: what we send on path `id` */
	uint64_t tx_datagrams, tx_bytes; /* all, UDP payload */
	uint64_t tx_packets; /* data */
	uint64_t tx_again; /* copies among them */
	uint64_t in_flight_bytes;
	uint64_t last_sent_ns, last_ack_ns; /* last_ack: an ACK that moved it on */
	uint64_t oldest_unacked_ns; /* when the oldest in flight was sent */
	/* ... as the peer's ACKs say */
	uint64_t acked_datagrams; /* arrived */
	uint64_t acked_bytes;
	uint64_t acked_highest; /* number; highest + 1 - datagrams is what was lost or overtaken */
	uint64_t acked_arrived_us; /* peer's clock at the last arrival, made continuous */
	uint64_t acks; /* that named it */
	uint32_t rtt_us, srtt_us, rttvar_us, rtt_min_us; /* 0: none yet. min: since it was made */
	uint32_t delay_us, delay_min_us; /* 24 bits, see docs/multipath.md section 8 */
	uint64_t
		limited_us; /* time in which packets waited and this path was at its pace or window */
	uint64_t lost_copies; /* packets sent again because ACKs showed them lost on it */
	uint64_t silent; /* times it was left for silence */
	/* theirs: what came in under the peer's path number `id` */
	uint64_t rx_datagrams, rx_bytes, rx_packets;
	uint64_t rx_highest; /* number */
	uint64_t last_received_ns;
	uint32_t rx_delay_us, rx_delay_min_us, rx_jitter_us;
	struct ws_addr rx_remote, rx_local; /* of the last datagram */
};

struct ws_multipath_stats {
	struct ws_path_stats paths[8]; /* WS_MAX_PATHS */
	uint32_t scheduling; /* 1: data goes over the paths */
	uint64_t queue_packets, queue_bytes; /* waiting now */
	uint64_t queue_drops; /* newest dropped, queue full */
	uint64_t urgent; /* packets that took the best path at once */
	uint64_t again; /* second copies sent */
	uint64_t acks_tx, acks_rx, ack_refused; /* refused: malformed or a false claim */
	uint64_t unsched; /* packets with no usable path at all */
	/* the reordering buffer, see csrc/multipath/reorder.h */
	uint64_t delivered, in_order, held, gaps, gaps_filled, skipped, skipped_full, late;
	uint64_t duplicates, refused, wait_us;
	uint32_t wait_max_us, depth, depth_max;
	uint64_t aligned; /* packets held back in a lull, see csrc/multipath/align.h */
	uint64_t bunched; /* acknowledgements that waited for others, see csrc/multipath/bunch.h */
};

typedef struct ws_engine ws_engine;

/* What the engine chose after its self-tests, for status and doctor. */
struct ws_chosen {
	uint32_t backend; /* enum ws_backend */
	uint32_t cipher; /* enum ws_cipher */
	uint32_t offloads_off; /* bits of enum ws_offload: asked off, or failed its self-test */
	uint32_t workers;
};

/* `error` (may be NULL) gets a line for the user where NULL is returned. */
ws_engine *ws_engine_new(const struct ws_config *config, char *error, size_t error_bytes);
/* One TUN queue for worker `worker`; the engine takes the descriptor over. Before ws_engine_start. */
int ws_engine_set_tun(ws_engine *engine, uint32_t worker, int fd);
int ws_engine_start(ws_engine *engine);
/* Stops the workers, zeroes keys, closes descriptors, frees. */
void ws_engine_free(ws_engine *engine);
void ws_engine_chosen(const ws_engine *engine, struct ws_chosen *chosen);
const struct ws_stats *ws_engine_stats(const ws_engine *engine, uint32_t worker);

/*
 * Opens a UDP socket. local.family 4/6 with ip all zero is the wildcard, port
 * 0 lets the kernel choose. A wildcard must not be taken (-EADDRINUSE);
 * sockets of single local addresses may then stand beside it on its port.
 * Returns a socket number >= 0; *bound gets the address.
 */
int ws_socket_open(ws_engine *engine, const struct ws_addr *local, uint32_t ifindex,
		   struct ws_addr *bound);
int ws_socket_close(ws_engine *engine, int socket);
/*
 * Returns when every worker has come round once more: one that is stuck keeps the caller waiting, so
 * that a watchdog hears nothing.
 */
void ws_engine_beat(ws_engine *engine);
/*
 * Looks again which interface the TUN device is where the sockets are: what comes in by it is
 * dropped. Done by ws_socket_open; to be called when interfaces change. Its index, 0: it is not
 * there. -EBADF, -EBADFD: there is no device.
 */
int ws_engine_follow_tun(ws_engine *engine);
/*
 * Replaces the networks inside tunnels, and those that are not though a wider one of these holds
 * them (the longest match counts, then outside). Datagrams from inside are dropped.
 */
int ws_engine_set_inside(ws_engine *engine, const struct ws_prefix *inside, size_t inside_count,
			 const struct ws_prefix *outside, size_t outside_count);
int ws_set_fwmark(ws_engine *engine, uint32_t fwmark);
int ws_set_mtu(ws_engine *engine, uint32_t mtu);

/*
 * Returns the peer's number >= 0. The worker number % workers owns it, and its receiver indices
 * must be congruent to it too. Memory: about 1 KiB a peer.
 */
int ws_peer_add(ws_engine *engine);
int ws_peer_remove(ws_engine *engine, int peer);
/* Replaces the peer's prefixes; one held by another peer moves over (as `wg set` does). */
int ws_peer_set_allowed_ips(ws_engine *engine, int peer, const struct ws_prefix *prefixes,
			    size_t count);
/*
 * local.family 0: let the routing table choose the source. ifindex: leave by this interface until
 * the peer or this call says otherwise; 0: as the routing table says.
 */
int ws_peer_set_endpoint(ws_engine *engine, int peer, const struct ws_addr *remote,
			 const struct ws_addr *local, uint32_t ifindex);
/* Rotates previous/current/next as WireGuard does and sends what was staged (if current). */
int ws_peer_install_keypair(ws_engine *engine, int peer, const struct ws_keypair *keypair);
/* Zeroes every keypair of the peer. */
int ws_peer_clear_keypairs(ws_engine *engine, int peer);
/* Drops what was staged for the peer (handshake given up). Returns how many packets. */
int ws_peer_drop_staged(ws_engine *engine, int peer);
/* An empty transport message; -ENOKEY without a usable current keypair. */
int ws_peer_send_keepalive(ws_engine *engine, int peer);
/* A control frame inside the session; first byte 0x10..0x1f. -ENOKEY as above, -EMSGSIZE. */
int ws_peer_send_control(ws_engine *engine, int peer, const uint8_t *data, size_t len);
/*
 * Extended mode (docs/multipath.md): send data frames from here on, or plain packets again.
 * Inner packets longer than max_packet stay plain. Received frames are always taken.
 */
enum ws_frames {
	WS_FRAMES_OFF = 0,
	WS_FRAMES_SINGLE = 1, /* one packet each */
	WS_FRAMES_BUNDLES = 2, /* small packets cut from one super-packet share a frame */
};

int ws_peer_set_frames(ws_engine *engine, int peer, uint32_t mode, uint32_t max_packet);

/*
 * Several paths (docs/multipath.md). ws_peer_multipath: from here on received frames are put in
 * order and acknowledged where their sender asks for it; `packet_bytes` is the longest packet.
 * 0, or -ENOMEM. Again with reset: the peer restarted, its seqs and numbers begin anew.
 */
int ws_peer_multipath(ws_engine *engine, int peer, uint32_t packet_bytes, int reset);
/*
 * Replaces the peer's paths (ids 0..WS_MAX_PATHS-1, each once). None, or path 0 alone and not
 * scheduled: packets go to the endpoint as ws_peer_set_endpoint or the peer's moves say.
 * schedule: spread data over the usable paths, with the parameters given. -EINVAL.
 */
int ws_peer_set_paths(ws_engine *engine, int peer, const struct ws_path *paths, size_t count,
		      int schedule);
/* New parameters of one path; taken at once, without the worker's help. */
int ws_peer_tune_path(ws_engine *engine, int peer, uint32_t path,
		      const struct ws_path_params *params);
int ws_peer_tune(ws_engine *engine, int peer, const struct ws_multipath_params *params);
/* A control frame over one path, valid or not, padded with zeros to a UDP payload of datagram_bytes (0: not). */
int ws_peer_send_path_control(ws_engine *engine, int peer, uint32_t path, const uint8_t *data,
			      size_t len, uint32_t datagram_bytes);
/* The path failed: what is in flight on it is sent again elsewhere where its deadline stands. Returns how many. */
int ws_peer_rescue_path(ws_engine *engine, int peer, uint32_t path);
/* Valid until ws_peer_remove; NULL before ws_peer_multipath. */
const struct ws_multipath_stats *ws_peer_multipath_stats(const ws_engine *engine, int peer);

/* Valid until ws_peer_remove. */
const struct ws_peer_stats *ws_peer_stats(const ws_engine *engine, int peer);

/* stats.endpoint and stats.local, both of one moment. */
void ws_peer_endpoint(const struct ws_peer_stats *stats, struct ws_addr *remote,
		      struct ws_addr *local);

/*
 * Sends a handshake or bootstrap message as it is. From here on its answer is let in: responses,
 * cookie replies and bootstrap replies that nothing asked for are dropped. ifindex: by this interface, 0: any.
 */
int ws_send(ws_engine *engine, const struct ws_addr *remote, const struct ws_addr *local,
	    uint32_t ifindex, const uint8_t *data, size_t len);

/* What cookies are made of from here on (whitepaper 5.4.7); the secret before it stays valid. */
void ws_set_cookie_secret(ws_engine *engine, const uint8_t secret[32]);
/* An address of a peer: its initiations are no stranger's, whatever their port. */
void ws_know(ws_engine *engine, const struct ws_addr *addr);
void ws_forget(ws_engine *engine, const struct ws_addr *addr);
/* An initiation of this class (enum ws_source_class) proved to be a peer's. */
void ws_genuine(ws_engine *engine, uint32_t source_class);

/* An eventfd that becomes readable when an upcall waits. Read it, then drain until 0. */
int ws_upcall_fd(const ws_engine *engine);
/* 1 and *upcall filled, or 0 when there is none. */
int ws_upcall_next(ws_engine *engine, struct ws_upcall *upcall);

/*
 * What the data plane is built of, tried one by one by its own code: 0 if the part is there, a
 * negative errno if not, WS_PART_UNTRIED where nothing could be learned.
 */
enum { WS_PART_UNTRIED = 1 };

struct ws_uring_parts {
	int32_t ring; /* io_uring at all; without it all else is untried */
	int32_t deferred; /* SINGLE_ISSUER and DEFER_TASKRUN; COOP_TASKRUN stands in */
	int32_t buffer_ring; /* provided buffers; needed */
	int32_t registered_files; /* needed */
	int32_t multishot_receive; /* recvmsg that stays armed; needed */
	int32_t multishot_read; /* of the TUN device; single reads stand in */
};

struct ws_udp_parts {
	int32_t loopback; /* plain datagrams; where they do not come through, the next three are untried */
	/* -EBADMSG: bytes came out otherwise, -ETIME: not all came */
	int32_t gso, gro;
	int32_t both; /* runs sent with one, taken with the other */
	int32_t receive_force, send_force; /* SO_RCVBUFFORCE, SO_SNDBUFFORCE */
	uint32_t receive_bytes, send_bytes; /* buffers that a socket gets here */
};

/* 0 if the io_uring backend can run here, else the errno of what it lacks. */
int ws_uring_probe(struct ws_uring_parts *parts);
/* Bits of enum ws_offload whose offload does not carry bytes unharmed over loopback. `parts` may be NULL. */
uint32_t ws_offload_selftest(struct ws_udp_parts *parts);
/* 0 if the cipher is there and passes RFC 8439's vectors, else a negative errno (aead.h). */
int ws_cipher_selftest(uint32_t cipher);
uint64_t ws_now_ns(void);

/*
 * Drops every capability of the calling thread but CAP_NET_ADMIN (effective,
 * permitted; inheritable and ambient become empty; bounding as far as allowed)
 * and forbids new ones through exec. Capabilities belong to threads: call it
 * while there is one only. -EPERM: the thread has no CAP_NET_ADMIN.
 */
int ws_caps_keep_net_admin(void);
/* The same for all capabilities. */
int ws_caps_drop_all(void);

/* A file, or a folder and all that is in it, that may be read; or written, made and removed too. */
struct ws_may {
	const char *path;
	int write;
};

/* Landlock's version (landlock(7)); -ENOSYS or -EOPNOTSUPP: the kernel has none. */
int ws_landlock_version(void);
/*
 * From now on the calling thread, and what it starts, opens nothing but `may`
 * (what is not there is left out), runs no programs, signals and traces no other
 * process, and has TCP only with `tcp`. What is open stays usable. Returns
 * Landlock's version or a negative errno.
 */
int ws_landlock_restrict(const struct ws_may *may, size_t count, int tcp);
/*
 * Refuses system calls that the agent never needs once it stands, of the calling
 * thread and what it starts: programs, processes, other users, mounts, modules,
 * new BPF programs. -ENOTSUP: not on this machine.
 */
int ws_seccomp_restrict(void);
/*
 * For all threads, once control sockets and rings are made: no UNIX socket may be
 * opened any more, for root is let in by whoever listens there, and no io_uring,
 * whose operations no filter sees.
 */
int ws_seccomp_close_doors(void);
/* No core dumps and no ptrace by others: keys stay in this process. */
int ws_process_protect(void);
/* SIGKILL when the thread that forked this process ends; a change of user undoes it. */
int ws_process_end_with_parent(void);

/*
 * The programs of bpf/ (optional; csrc/kernel/bpf.c). Loaded with CAP_BPF, CAP_PERFMON
 * and CAP_NET_ADMIN; afterwards CAP_NET_ADMIN is enough. Nothing is pinned: all
 * goes with the process, but for legacy tc filters (kernels before 6.6), which
 * the next start with the same tag replaces.
 */
typedef struct ws_bpf ws_bpf;

enum ws_bpf_program {
	WS_BPF_SHIELD = 1, /* drops what cannot be ours, limits handshake messages */
	WS_BPF_PATH_COUNTS = 2, /* counts datagrams per path */
	WS_BPF_STEER = 4, /* datagrams to the worker that owns their receiver index */
	WS_BPF_TUNSTEER = 8 /* packets to the queue of the peer's worker */
};

enum ws_bpf_hook {
	WS_HOOK_TC = 1, /* tcx, on older kernels a clsact filter */
	WS_HOOK_TC_LEGACY = 2,
	WS_HOOK_XDP = 3, /* in the driver; tc where it takes none */
	WS_HOOK_XDP_GENERIC = 4
};

/* Datagrams to our ports and addresses. Written by the kernel, per CPU; summed here. */
struct ws_shield_stats {
	uint64_t transport, handshake; /* let through */
	uint64_t short_, type, length; /* dropped, as in enum ws_drop */
	uint64_t source_limit, global_limit; /* dropped: too many handshake messages */
	uint64_t unasked, destination; /* dropped, as in enum ws_drop */
	uint64_t headers; /* dropped: more extension headers or priority tags than anybody sends */
};

/* Tokens a second and how many may be saved up; rate 0: no limit. */
struct ws_shield_rates {
	uint32_t source_rate, source_burst; /* of one IPv4 address or IPv6 /64 */
	uint32_t global_rate, global_burst; /* of all sources that are not known */
	uint32_t
		ladder; /* 1: past that rate, a few of each network that is quiet (shared/ladder.h) */
	uint32_t awaited; /* 1: answers pass that ws_bpf_await knows, and no others */
};

/* One direction of a path: datagrams, UDP payload bytes, datagrams by type. */
struct ws_path_counts {
	uint64_t packets, bytes;
	uint64_t types[6]; /* other, initiation, response, cookie reply, transport, bootstrap */
};

struct ws_bpf_path {
	struct ws_addr local, remote;
	struct ws_path_counts rx, tx;
};

/*
 * Loads `programs` (bits of enum ws_bpf_program) from <folder>/<name>.bpf.o.
 * `error` gets a line for the user for the first that failed, "" if none did;
 * NULL where none could be loaded. `tag`: names our legacy filters, 1..65535.
 */
ws_bpf *ws_bpf_open(const char *folder, uint32_t programs, uint32_t tag, char *error,
		    size_t error_bytes);
/* Detaches everything. */
void ws_bpf_free(ws_bpf *bpf);
uint32_t ws_bpf_loaded(const ws_bpf *bpf);
/* 0 if the maps can be used with the capabilities held now; -EPERM before Linux 5.19 without CAP_BPF. */
int ws_bpf_check(ws_bpf *bpf);

/*
 * Shield (at `hook`) and path counters (at tc) on one interface. Returns the
 * hook that the shield took. -EALREADY: they are there.
 */
int ws_bpf_attach(ws_bpf *bpf, uint32_t ifindex, uint32_t hook);
/* -ENOENT: not attached. The interface may be gone. */
int ws_bpf_detach(ws_bpf *bpf, uint32_t ifindex);

/*
 * Replace: the UDP ports that are ours (at most 16), the local addresses (at most 512, the last
 * `broadcasts` of them being broadcast addresses of our networks).
 */
int ws_bpf_set_ports(ws_bpf *bpf, const uint16_t *ports, size_t count);
int ws_bpf_set_locals(ws_bpf *bpf, const struct ws_addr *addrs, size_t count, size_t broadcasts);
int ws_bpf_set_rates(ws_bpf *bpf, const struct ws_shield_rates *rates);
/* Handshake messages from this address do not draw on the strangers' common limit. */
int ws_bpf_add_known(ws_bpf *bpf, const struct ws_addr *addr);
int ws_bpf_remove_known(ws_bpf *bpf, const struct ws_addr *addr);
/* A message is on its way whose answer will name `id` (ws_send says so of all it sends). */
int ws_bpf_await(ws_bpf *bpf, uint32_t id);

int ws_bpf_shield_stats(ws_bpf *bpf, struct ws_shield_stats *stats);
/* Fills at most `max` paths and `strangers` (received from where we never sent to). Returns how many;
 * a path may come twice when the table changes meanwhile. */
int ws_bpf_paths(ws_bpf *bpf, struct ws_bpf_path *paths, size_t max,
		 struct ws_path_counts *strangers);
/* sent: steered as asked; failed: left to the kernel. program: WS_BPF_STEER or WS_BPF_TUNSTEER. */
int ws_bpf_steer_stats(ws_bpf *bpf, uint32_t program, uint64_t *sent, uint64_t *failed);

/*
 * Makes the bound SO_REUSEPORT sockets of one local address a group: fds[w] is
 * worker w's. Each group has as many workers as the first one. Returns the
 * group's number; the kernel forgets sockets when they are closed.
 * -ENOTSUP: the program is not loaded. -ENOSPC: 64 groups are there already.
 */
int ws_bpf_steer_attach(ws_bpf *bpf, const int *fds, uint32_t workers);
int ws_bpf_steer_detach(ws_bpf *bpf, int group);

/* From now on this TUN device's packets go to the queue that the prefixes say, else to queue 0. */
int ws_bpf_tunsteer_attach(ws_bpf *bpf, int tun_fd);
/* Packets to this prefix go to this worker's queue; replaces what was said of it before. */
int ws_bpf_tunsteer_set(ws_bpf *bpf, const struct ws_prefix *prefix, uint32_t worker);
/* -ENOENT: nothing was said of it. */
int ws_bpf_tunsteer_remove(ws_bpf *bpf, const struct ws_prefix *prefix);
/*
 * Steer what arrives to the workers that own it: every socket group opened from here on, and the
 * TUN device, by the allowed IPs set from here on. Nothing with one worker. NULL: stop using it
 * (before ws_bpf_free). Call before sockets are opened.
 */
int ws_engine_use_bpf(ws_engine *engine, ws_bpf *bpf);

/* cdef-end */

#define WS_MAX_WORKERS 16
#define WS_MAX_PEERS 65536

#endif
