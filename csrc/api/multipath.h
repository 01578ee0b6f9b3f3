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
	uint32_t srtt_us; /* by probes: until data was acknowledged */
	uint32_t cap_permille; /* of what it carries that it may be given; 1000: all */
	uint32_t tier; /* backup */
	uint32_t degraded;
	uint32_t max_packet; /* longest inner packet */
	uint32_t rescue_us; /* in flight for so long without a word: silent, send elsewhere */
};

/* Of ws_multipath_params. */
enum ws_align_for {
	WS_ALIGN_NOBODY = 0,
	WS_ALIGN_TCP = 1,
	WS_ALIGN_BBR = 2 /* and this host's own TCPs are BBRs */
};

/* What Python sets of a peer per interval. */
struct ws_multipath_params {
	uint32_t scheduler; /* 0 edf, 1 wrr, 2 minrtt, 3 redundant, 4 backup */
	uint32_t repair; /* 1: send what ACKs show as lost again */
	uint32_t repair_age_us; /* not what is older, nor does anything wait for longer */
	/* the reordering buffer */
	uint32_t reorder_depth; /* packets; 0: as many as there is room for. wrr: lead in seqs */
	uint32_t loose_hold_us; /* what is no TCP waits no longer for its turn; 0: as the rest */
	uint32_t loss_wait_us; /* for what is lost; with `repair` for each copy that may come */
	uint32_t path_idle_us;
	uint32_t deliver_late;
	uint32_t ack_interval_us;
	uint32_t
		align; /* enum ws_align_for: what is done for a TCP inside (csrc/multipath/innertcp.c) */
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
	uint32_t srtt_us, rttvar_us; /* 0: none yet */
	uint64_t silent; /* times it was left for silence */
	/* theirs: what came in under the peer's path number `id` */
	uint64_t rx_datagrams, rx_bytes, rx_packets;
	uint64_t rx_highest; /* number */
	struct ws_addr rx_remote, rx_local; /* of the last datagram */
	/* csrc/multipath/window.h, 0 until data was acknowledged */
	uint64_t window_bytes;
	uint64_t window_rate_bps; /* what it carries; until it was full, the most that it did */
	uint64_t window_queue_us; /* delay above the least */
};

struct ws_multipath_stats {
	struct ws_path_stats paths[8]; /* WS_MAX_PATHS */
	uint32_t scheduling; /* 1: data goes over the paths */
	uint64_t queue_packets, queue_bytes; /* waiting now */
	uint64_t queue_drops; /* waited too long, no room, too long a packet, no usable path */
	uint64_t urgent; /* packets that took the best path at once */
	uint64_t again; /* second copies sent */
	uint64_t acks_tx, acks_rx, ack_refused; /* refused: malformed or a false claim */
	/* the reordering buffer, see csrc/multipath/reorder.h */
	uint64_t delivered, in_order, held, gaps, gaps_filled, skipped, skipped_full, late, loose;
	uint64_t duplicates, refused, wait_us;
	uint32_t wait_max_us, depth, depth_max;
	uint64_t aligned; /* packets held back, see csrc/multipath/align.h */
	uint64_t queue_narrowed; /* windows of TCPs inside, see csrc/multipath/innerwindow.h */
};

#endif
