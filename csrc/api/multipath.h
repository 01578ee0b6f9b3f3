/* SPDX-License-Identifier: MIT */
/* What Python sets of a peer's paths, and what it reads of them. */
#ifndef WS_API_MULTIPATH_H
#define WS_API_MULTIPATH_H

#include "api/types.h"

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

/* What Python sets of a peer per interval. */
struct ws_multipath_params {
	uint32_t scheduler; /* 0 edf, 1 wrr, 2 minrtt, 3 redundant, 4 backup */
	uint32_t depth; /* wrr: lead in seqs */
	uint32_t slack_us; /* edf */
	uint32_t queue_us; /* packets older than this make the queue drop its newest */
	uint64_t queue_bytes; /* most that waits for a path */
	uint32_t repair; /* 1: send what ACKs show as lost once more */
	uint32_t repair_age_us; /* not what is older than this */
	/* the reordering buffer */
	uint32_t reorder_depth;
	uint32_t hold_us;
	uint32_t loss_wait_us;
	uint32_t path_idle_us;
	uint32_t deliver_late;
	uint32_t ack_interval_us;
	/* what is done for the sake of a TCP inside (csrc/multipath/innertcp.c) */
	uint32_t align; /* 1: all of it, as the next three say; 0: nothing is held back */
	/* pure TCP acknowledgements wait for each other so long, so often; bunch_us 0: never */
	uint32_t bunch_us, bunch_every_us;
	uint32_t tcp_wait_us; /* URGENT TCP (SYN, acknowledgements) waits so long */
	uint32_t control; /* 0: paths' rates and windows as set; 1: csrc/multipath/window.h's own */
	uint32_t loose_hold_us; /* what is no TCP waits no longer for its turn; 0: as the rest */
};

/* One path, both directions. Sums since it was made; times CLOCK_BOOTTIME ns, 0: never. */
struct ws_path_stats {
	/* ours: what we send on path `id` */
	uint64_t tx_bytes; /* all, UDP payload */
	uint64_t tx_packets; /* data, copies too */
	uint64_t in_flight_bytes;
	uint64_t last_ack_ns; /* an ACK that moved it on */
	/* of that, what the peer's ACKs say */
	uint64_t acked_datagrams; /* arrived */
	uint64_t acked_bytes;
	uint64_t acked_highest; /* number; highest + 1 - datagrams is what was lost or overtaken */
	uint64_t acked_arrived_us; /* peer's clock at the last arrival, made continuous */
	uint64_t acks; /* that named it */
	uint32_t rtt_us, srtt_us, rttvar_us, rtt_min_us; /* 0: none yet. min: since it was made */
	uint32_t delay_us; /* 24 bits, see docs/multipath.md section 8 */
	uint64_t
		limited_us; /* time in which packets waited and this path was at its pace or window */
	uint64_t silent; /* times it was left for silence */
	/* theirs: what came in under the peer's path number `id` */
	uint64_t rx_datagrams, rx_bytes, rx_packets;
	uint64_t rx_highest; /* number */
	uint32_t rx_delay_us, rx_jitter_us;
	struct ws_addr rx_remote, rx_local; /* of the last datagram */
	/* control 1 */
	uint64_t window_bytes, window_rate_bps; /* what it delivers */
	uint64_t window_queue_us; /* delay above the least */
};

struct ws_multipath_stats {
	struct ws_path_stats paths[8]; /* WS_MAX_PATHS */
	uint32_t scheduling; /* 1: data goes over the paths */
	uint64_t queue_packets, queue_bytes; /* waiting now */
	uint64_t queue_drops; /* newest dropped: queue full, too long, no usable path */
	uint64_t urgent; /* packets that took the best path at once */
	uint64_t again; /* second copies sent */
	uint64_t acks_tx, acks_rx, ack_refused; /* refused: malformed or a false claim */
	/* the reordering buffer, see csrc/multipath/reorder.h */
	uint64_t delivered, in_order, held, gaps, gaps_filled, skipped, skipped_full, late, loose;
	uint64_t duplicates, refused, wait_us;
	uint32_t wait_max_us, depth, depth_max;
	uint64_t aligned; /* packets held back in a lull, see csrc/multipath/align.h */
	uint64_t bunched; /* acknowledgements that waited for others, see csrc/multipath/bunch.h */
};

#endif
