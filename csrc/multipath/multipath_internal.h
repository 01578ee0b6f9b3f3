/* SPDX-License-Identifier: MIT */
/*
 * What the files of the multipath core share:
 *  multipath.c          life, paths, parameters, what is due when
 *  multipath_send.c     numbers, urgent packets, the queue, second copies
 *  multipath_pump.c     from the queue to the paths
 *  multipath_receive.c  numbers, order, ACKs made
 *  multipath_ack.c      ACKs consumed: what arrived, what is lost, who is silent
 *  innertcp.c           what is held back for the sake of a TCP inside
 */
#ifndef WS_MULTIPATH_INTERNAL_H
#define WS_MULTIPATH_INTERNAL_H

#include "multipath/ack.h"
#include "multipath/align.h"
#include "multipath/fairqueue.h"
#include "multipath/innerwindow.h"
#include "multipath/multipath.h"
#include "multipath/reorder.h"
#include "multipath/scheduler.h"
#include "multipath/units.h"
#include "multipath/window.h"
#include "packet/counters.h"
#include "packet/frame.h"
#include "packet/ip.h"
#include "shared/wire.h"

#define RING WS_RING
#define RECORDS WS_FLIGHT /* datagrams of one path that may be in flight */
/* The only path is left for another that may be far worse, so not because a host was busy for a moment. */
#define ONLY_SILENT_NS (150 * MS_NS)
#define RUN_MAX 64 /* packets given to one path in one go */
#define NO_SEQ UINT64_MAX
#define URGENT_MAX_BYTES 256
#define URGENT_SEEN WS_FLIGHT /* a copy is behind by no more than may be in flight */
/* A first seq below is of a sender that has just begun: it leaves so many at once. */
#define BEGIN_SEQS RUN_MAX
#define ACK_SOONEST_NS (2 * MS_NS)
/* So many datagrams are worth an ACK, or what they free leaves as one burst: in half of that time. */
#define ACK_PACKETS 16
#define ACK_REPEATS 2 /* after the last data: an ACK may be lost */
#define BRIEF_SLOWER_PART 5 /* another is slower by this part: two alike are not taken in turn */
/* What another path would bring so much sooner, if it were not too long, is dropped; so often a silent one is
 * asked. */
#define STUCK_NS (100 * MS_NS)
#define AGAIN_MOST 4 /* copies of one packet: those may be lost as well */
/* A packet earns one copy of what was lost, and a part of one of what is only late. */
#define AGAIN_LATE_COST 5

/* A packet in the ring, at seq % RING: waiting, or kept for a second sending. */
struct slot {
	uint64_t sent_ns; /* first; 0: waits */
	uint64_t number; /* on `path`, of the last sending */
	uint32_t len; /* 0: nothing kept under this seq */
	uint8_t path;
	uint8_t flags;
	uint8_t ecn;
	uint8_t again; /* copies sent, or waiting for it; AGAIN_MOST: no more */
	bool queued; /* in `resend` */
	bool lost; /* its path brought later ones */
};

/* A datagram that was sent, at number % RECORDS of its path. */
struct record {
	uint64_t seq; /* NO_SEQ: none */
	uint64_t sent_ns;
	uint64_t data_bytes; /* data sent on the path up to and with it */
	bool data;
	bool longer; /* than any data: it asks whether the path takes so much */
};

struct tx_path {
	uint64_t next_number;
	uint64_t acked; /* one past the highest number that the peer has seen */
	uint64_t given_up; /* one past the highest that nobody waits for: its path was left */
	uint64_t data_bytes; /* data sent, UDP payload */
	uint64_t empty_bytes; /* and when none of it was in flight any more */
	uint64_t unpublished, unpublished_bytes; /* sent outside the schedule, not yet counted */
	uint64_t bytes_ever; /* everything sent under this number, whatever path it was */
	uint64_t
		acked_count; /* datagrams that the peer says it has, of all that ever had this number */
	uint64_t data_number; /* one past the number of the newest data datagram */
	uint64_t longer_number; /* one past the number of the newest that was longer than data */
	uint64_t excused; /* of these, did not arrive: that is no loss */
	uint64_t whole_bps; /* what it carried when a cap came; 0: there is none */
	uint64_t heartbeat_ns; /* last one sent because of silence */
	/* The only path: a data datagram without an answer, and since when (0: there is none). */
	uint64_t mark_number, mark_ns;
	bool suspended; /* silent: left until it speaks again */
	bool told; /* silence was reported */
	struct record *records;
	struct ws_window window;
};

struct rx_path {
	bool seen; /* a time field came */
	bool changed; /* since the last ACK */
	uint32_t delay_ref_us; /* 24 bits; the first delay: others are counted from it */
	int64_t delay_us, delay_last_us; /* smoothed, last: from the reference */
	int64_t delay_min_us[2]; /* of this and the last window */
	uint32_t delay_least_us; /* 24 bits: the least of both, by the two clocks */
	uint64_t window_ns; /* when this window began */
	/* With this number those missing before it are lost; then with the next. 0: none is. */
	uint64_t hole_at, hole_next;
	uint32_t echo_us;
	uint64_t arrived_ns; /* any datagram */
	uint64_t data_arrived_ns;
	uint64_t ordered_ns; /* a packet that takes its turn: no copy, not urgent */
};

/* A TCP of this host's own, by its addresses and ports. */
struct ws_inner_flow {
	uint64_t due_ns; /* of the last packet that was held for it */
	bool held;
	uint8_t full; /* packets of data that came for it while it was */
};

/* What is held back (innertcp.c): what takes its turn, what goes past it, what is for those of our own. */
enum inner_line { INNER_ORDERED, INNER_URGENT, INNER_OWN, INNER_LINES };

struct ws_inner {
	struct ws_align lines[INNER_LINES];
	struct ws_inner_flow *flows; /* WS_INNER_FLOWS */
	struct ws_sender *senders; /* WS_SENDERS */
	bool any; /* of the flows is held */
	uint32_t hold_us; /* the same for all */
	uint64_t held_ns; /* lately */
	uint64_t now_ns;
};

struct ws_multipath {
	struct ws_multipath_stats stats;
	/* Written by another thread, word by word. */
	struct ws_path_params params[WS_PATH_COUNT];
	struct ws_multipath_params tune;

	struct ws_multipath_ops ops;
	void *arg;
	uint32_t stride; /* bytes of a slot's packet */
	uint32_t present, usable; /* bits; usable as Python says */
	bool schedule; /* by the core: over several, or kept */
	bool keep; /* WS_MULTIPATH_KEEP */
	uint32_t only; /* the one path that takes data, unless it goes over several */
	bool catching; /* it took over, and what the last one left behind goes first */
	uint64_t carried_ns, carried_bytes,
		carried_bps; /* data of a while, and of the one before */
	uint64_t rush_ns, rush_packets,
		rush_before; /* the same in packets, of what could be kept */
	bool sampling; /* what is sent now is acknowledged, and neither kept nor in order */
	uint64_t sample_ns; /* of what went past the ring, the last that is to be acknowledged */
	struct ws_sched sched; /* paths by id */

	uint64_t seq_base, seq_head, seq_tail; /* kept from, first that waits, next to queue */
	uint64_t queue_bytes;
	struct ws_fq fair; /* what waits for one of several paths, not yet given a seq */
	uint64_t pump_ns; /* when the pump can go on; UINT64_MAX: not by itself */
	struct slot *slots;
	uint8_t *data;
	uint64_t *resend; /* seqs that were lost, or that a silent path left behind; ring of RING */
	uint32_t resend_head, resend_tail;
	uint64_t repaired_ns;
	bool ack_seen;
	uint32_t ack_time_us; /* of the newest ACK, the peer's clock */
	uint64_t again_credit; /* copies of what was lost */
	uint64_t urgent_window_ns;
	uint32_t urgent_bytes;
	uint32_t brief; /* the path whose queue stays short, if any has to */
	uint32_t urgent_number; /* of the last urgent packet that left twice */
	struct tx_path tx[WS_PATH_COUNT];

	struct rx_path rx[WS_PATH_COUNT];
	struct ws_inner inner;
	/* Numbers of urgent packets that came twice, or will: the highest, and who came, at number %
	 * URGENT_SEEN. */
	uint32_t urgent_highest;
	uint8_t urgent_seen[URGENT_SEEN / 8];
	struct ws_reorder *reorder;
	bool begun; /* something that takes its turn has come */
	bool passed; /* the last data came over one path, and went by the buffer */
	uint32_t pass_first,
		pass_next; /* the first of those, at most WS_REORDER_MEMORY; the next */
	const uint8_t *direct; /* the packet being inserted: the caller's bytes, not the buffer's */
	bool ack_wanted;
	uint32_t ack_repeats;
	uint64_t acked_at_ns; /* our last ACK */
	uint32_t ack_turn;
	uint64_t ack_other_ns; /* the last one that took the second quickest path */
	uint32_t gap_told; /* first seq of the newest gap that was reported */
	bool gap_known;
	uint32_t unacked; /* datagrams since our last ACK */
	uint64_t arrived_seq; /* the peer awaits it: all before has arrived or was given up */
	bool ack_soon; /* a gap was found, or the peer asks: before the interval is over */

	void *memory; /* slots, data, resend, records */
	size_t memory_bytes;
};

static inline uint8_t *mp_packet(const struct ws_multipath *mp, uint64_t seq)
{
	return mp->data + (seq % RING) * (size_t)mp->stride;
}

/* UDP payload of a data frame with a packet of so many bytes. */
static inline uint32_t mp_wire_bytes(uint32_t len)
{
	return ws_message_bytes(ws_padded_bytes(WS_FRAME_HEADER_BYTES + len));
}

static inline uint32_t mp_time_us(uint64_t now_ns)
{
	return (uint32_t)(now_ns / 1000);
}

/* Distance of two 24-bit times. */
static inline int32_t mp_diff24(uint32_t a, uint32_t b)
{
	return (int32_t)((a - b) << 8) >> 8;
}

/* The least delay, from the reference. */
static inline int64_t mp_least_us(const struct rx_path *rx)
{
	return rx->delay_min_us[0] < rx->delay_min_us[1] ? rx->delay_min_us[0]
							 : rx->delay_min_us[1];
}

/* Packets wait for a path. */
static inline bool mp_waiting(const struct ws_multipath *mp)
{
	return mp->seq_head != mp->seq_tail || mp->fair.packets;
}

/* They do, or what is sent again does. */
static inline bool mp_pending(const struct ws_multipath *mp)
{
	return mp_waiting(mp) || mp->resend_head != mp->resend_tail;
}

static inline bool mp_is_tcp(const uint8_t *packet, size_t len)
{
	uint8_t protocol = 0;
	size_t ip;

	return ws_ip_l4(packet, len, &ip, &protocol) && protocol == WS_PROTOCOL_TCP;
}

/* So long a packet is worth something, and waits or is sent again. */
static inline uint64_t mp_worth_ns(const struct ws_multipath *mp)
{
	return US_NS * ws_get(mp->tune.repair_age_us);
}

/* It was sent, can be sent again, and is worth it yet. */
static inline bool mp_kept(const struct ws_multipath *mp, uint64_t seq, uint64_t now_ns)
{
	const struct slot *slot = &mp->slots[seq % RING];

	return seq >= mp->seq_base && seq < mp->seq_tail && slot->len && slot->sent_ns &&
	       now_ns - slot->sent_ns <= mp_worth_ns(mp);
}

/* multipath.c: parameters into the scheduler. */
void mp_load(struct ws_multipath *mp, uint64_t now_ns);
/* multipath_send.c */
/* Takes a number, seals and sends a control frame. */
void ws_multipath_control(struct ws_multipath *mp, uint32_t path, const uint8_t *frame, size_t len,
			  uint64_t now_ns);
/* One data frame out on `path`. seq NO_SEQ: urgent. */
void mp_emit(struct ws_multipath *mp, uint32_t path, uint64_t seq, uint32_t flags, uint8_t ecn,
	     const uint8_t *packet, uint32_t len, uint64_t now_ns);
/* At what pace the path that took over sends what the last one left behind. */
uint64_t mp_catch_up_bps(const struct ws_multipath *mp, uint64_t now_ns);
/* A second copy past all windows, not on the paths of the mask. */
void mp_send_also(struct ws_multipath *mp, uint64_t seq, uint32_t except, uint64_t now_ns);
/* multipath_pump.c */
/* What was lost goes before all that waits, as the paths have room. */
void mp_send_again(struct ws_multipath *mp, uint64_t seq, uint64_t now_ns);
/* Sends again what is in flight on `path`, elsewhere, and goes on waiting for it. */
uint32_t mp_copy(struct ws_multipath *mp, uint32_t path, uint64_t now_ns);
/* multipath_receive.c */
/* Data comes over this path, and neither end, as far as shows, spreads it over several. */
bool mp_one_path(const struct ws_multipath *mp, uint32_t path, uint64_t now_ns);
void mp_send_ack(struct ws_multipath *mp, uint64_t now_ns);
/* When the next ACK is due, UINT64_MAX: none. */
uint64_t mp_ack_deadline(const struct ws_multipath *mp);
/* innertcp.c, the one door to what is done for a TCP inside */
/* Sent: whether it is a TCP's that takes the best path at once. */
bool mp_inner_is_urgent(const struct ws_multipath *mp, const uint8_t *packet, size_t len);
/* Whether it takes a loss to tell who sent it that too much waits, and one does. */
bool mp_inner_listens(const struct ws_multipath *mp, const uint8_t *packet, size_t len);
/* It waits in this queue of mp->fair. */
void mp_inner_queued(struct ws_multipath *mp, const uint8_t *packet, size_t len, uint32_t queue);
/* Received: it tells a TCP here how much it may send, which is made less. False: it need not be told. */
bool mp_inner_narrow(struct ws_multipath *mp, uint8_t *packet, size_t len, uint32_t flags);
/* A SYN leaves: it does so twice. */
bool mp_inner_begins(struct ws_multipath *mp, const uint8_t *packet, size_t len, uint64_t now_ns);
/* Received; ordered, urgent: a packet that takes its turn, or does not. */
/* Of memory that mp_inner_init wants, for packets up to `stride` bytes (a multiple of 64). */
size_t mp_inner_bytes(size_t stride);
void mp_inner_init(struct ws_multipath *mp, uint8_t *memory);
/* True: it is kept, and goes on later. */
bool mp_inner_hold_ordered(struct ws_multipath *mp, uint32_t path, uint32_t seq, uint32_t flags,
			   const uint8_t *packet, size_t len, uint64_t now_ns);
bool mp_inner_hold_urgent(struct ws_multipath *mp, uint32_t path, const uint8_t *packet, size_t len,
			  uint32_t flags, uint64_t now_ns);
/* What has its turn, for a TCP of our own. False: it goes on. */
bool mp_inner_hold_own(struct ws_multipath *mp, const uint8_t *packet, size_t len, uint32_t flags);
/* Over one path nothing is held: who begins there is not held later. */
void mp_inner_forget_own(struct ws_multipath *mp);
/* What is held goes on: all; what is due. */
void mp_inner_release(struct ws_multipath *mp, uint64_t now_ns);
void mp_inner_expire(struct ws_multipath *mp, uint64_t now_ns);
/* When something is due; UINT64_MAX: nothing is held. */
uint64_t mp_inner_deadline(const struct ws_multipath *mp);
/* Whether one of these seqs is held. */
bool mp_inner_has(const struct ws_multipath *mp, uint32_t first, uint32_t count);
/* multipath_ack.c: for how much longer than expected nothing was heard of what is in flight, µs. */
uint32_t mp_silent_us(const struct ws_multipath *mp, uint32_t path, uint64_t now_ns);
/* multipath_ack.c: heartbeats to silent paths, and leaving them. */
void mp_watch(struct ws_multipath *mp, uint64_t now_ns);
uint64_t mp_watch_deadline(const struct ws_multipath *mp);

#endif
