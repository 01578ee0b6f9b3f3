/* SPDX-License-Identifier: MIT */
/*
 * One peer's paths, without sockets, keys or a clock: the queue in front of the
 * paths, scheduling, the copies kept for a second sending, feedback in both
 * directions, and the reordering buffer (docs/multipath.md). The caller seals
 * and sends, and opens what came; the simulation does neither.
 *
 * All on one thread, but for the parameters, which another may write at any
 * time, and the statistics, which another may read. Nothing is allocated after
 * ws_multipath_new.
 */
#ifndef WS_MULTIPATH_H
#define WS_MULTIPATH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/multipath.h" /* the parameters and the statistics */

struct ws_multipath;

enum ws_multipath_mode {
	WS_MULTIPATH_ALONE =
		0, /* the one usable path (or 0), by the caller: no ws_multipath_send */
	WS_MULTIPATH_SPREAD = 1, /* over the usable paths, paced and in order */
	/* One usable path, at no pace; what is sent is kept, for another one could take over. */
	WS_MULTIPATH_KEEP = 2,
};

enum { WS_MULTIPATH_HELD = 0x100 }; /* flag of ops->deliver: the bytes are a buffer's */

/* The `flags` of a packet are those of its frame (wire.h). */
struct ws_multipath_ops {
	/*
	 * Seal and send a data frame: `head` (WS_FRAME_HEADER_BYTES) and the packet, as datagram
	 * `number` of `path`. Returns the UDP payload's bytes.
	 */
	uint32_t (*send)(void *arg, uint32_t path, uint64_t number, const uint8_t *head,
			 uint8_t ecn, const uint8_t *packet, size_t len);
	/* Seal and send a control frame. Returns the UDP payload's bytes. */
	uint32_t (*control)(void *arg, uint32_t path, uint64_t number, const uint8_t *frame,
			    size_t len);
	/* To the TUN device; valid and writable until ws_multipath_released. */
	void (*deliver)(void *arg, uint8_t *packet, size_t len, uint32_t flags);
	/* Flush what was delivered, then call ws_multipath_released. */
	void (*flush)(void *arg);
	/* Datagrams in flight on `path` had no answer for its rescue_us. */
	void (*silent)(void *arg, uint32_t path);
};

/* packet_bytes: the longest packet. NULL: no memory. */
struct ws_multipath *ws_multipath_new(uint32_t packet_bytes, const struct ws_multipath_ops *ops,
				      void *arg);
void ws_multipath_free(struct ws_multipath *mp);
/* The peer restarted: its seqs and numbers begin anew, ours go on. */
void ws_multipath_reset(struct ws_multipath *mp, uint64_t now_ns);

/*
 * present, usable: bits of path ids. A path that was not present begins with
 * fresh statistics and the default parameters; its numbers go on.
 * mode: an enum ws_multipath_mode.
 */
void ws_multipath_set_paths(struct ws_multipath *mp, uint32_t present, uint32_t usable,
			    uint32_t mode, uint64_t now_ns);
/* From any thread. */
void ws_multipath_tune_path(struct ws_multipath *mp, uint32_t path,
			    const struct ws_path_params *params);
void ws_multipath_tune(struct ws_multipath *mp, const struct ws_multipath_params *params);

/*
 * Outbound. One whole packet in two pieces into the queue (or at once, if urgent); `part`: its
 * super-packet has others. Call ws_multipath_pump after the last of a batch.
 */
void ws_multipath_send(struct ws_multipath *mp, const uint8_t *head, size_t head_bytes,
		       const uint8_t *body, size_t body_bytes, uint32_t flags, uint8_t ecn,
		       bool part, uint64_t now_ns);
/* Gives the paths what they may take now. */
void ws_multipath_pump(struct ws_multipath *mp, uint64_t now_ns);
/* The number for a datagram of any other kind (plain, keepalive, control) on `path`; counts it. */
uint64_t ws_multipath_number(struct ws_multipath *mp, uint32_t path, uint32_t bytes,
			     uint64_t now_ns);
/* Counts what ws_multipath_number gave out while not scheduled, `packets` of it data on the one path. */
void ws_multipath_publish(struct ws_multipath *mp, uint32_t packets);
/* seq of the next data frame that is sent outside the paths' schedule (over one path alone). */
uint32_t ws_multipath_seq(struct ws_multipath *mp);
/*
 * WS_MULTIPATH_KEEP: true if these packets are to go past ws_multipath_send, as more come than could be
 * kept for long enough. What was queued before has left. Now and then they are a sample instead (false):
 * acknowledged, but neither kept nor in order.
 */
bool ws_multipath_past(struct ws_multipath *mp, uint32_t packets, uint64_t now_ns);
/*
 * What went on before there were paths. number: the one that path 0 begins with, as the first ones were used
 * under the same keys; bytes: UDP payload that was sent to the peer; seq: of the next data frame;
 * heard: data frames of the peer came.
 */
void ws_multipath_start(struct ws_multipath *mp, uint64_t number, uint64_t bytes, uint32_t seq,
			bool heard);
/* The path for control messages: usable, least delay. Path 0 if there is none. */
uint32_t ws_multipath_best(const struct ws_multipath *mp);
/* Sends again what is in flight on `path`, elsewhere. Returns how many. */
uint32_t ws_multipath_rescue(struct ws_multipath *mp, uint32_t path, uint64_t now_ns);

/* Inbound: every authenticated datagram of the peer, `bytes` of UDP payload. */
void ws_multipath_received(struct ws_multipath *mp, uint32_t path, uint64_t number, uint32_t bytes,
			   uint64_t now_ns);
/* Afterwards, for a data frame without FEEDBACK: true if it may be delivered as it is. */
bool ws_multipath_pass(struct ws_multipath *mp, uint32_t path, uint32_t seq);
/* Flag: its arrival counts and its turn passes, but nobody gets it. */
enum { WS_MULTIPATH_VOID = 0x40000000 };
/* Afterwards, for any other data frame: header fields and the packet, checked by the caller. */
void ws_multipath_data(struct ws_multipath *mp, uint32_t path, uint32_t time_us, uint32_t seq,
		       uint32_t flags, uint8_t *packet, size_t len, uint64_t now_ns);
/* Afterwards, for an ACK. False: refused (counted). */
bool ws_multipath_ack(struct ws_multipath *mp, const uint8_t *frame, size_t len, uint64_t now_ns);
/* Afterwards, for a HEARTBEAT that asks for an ACK. */
void ws_multipath_heartbeat(struct ws_multipath *mp);
/* Datagrams of this path come from elsewhere now: its delay is another. */
void ws_multipath_moved(struct ws_multipath *mp, uint32_t path);
void ws_multipath_released(struct ws_multipath *mp);

/* Everything due: what was held back, skips, ACKs, pace. Ask for the deadline again afterwards. */
void ws_multipath_tick(struct ws_multipath *mp, uint64_t now_ns);
/* Of that only what is received: what was held back, skips. */
void ws_multipath_expire(struct ws_multipath *mp, uint64_t now_ns);
/* When that has something to do. */
uint64_t ws_multipath_expiry(const struct ws_multipath *mp);
/* The keys are gone: what waits to leave or is kept for a second sending is dropped. */
void ws_multipath_forget(struct ws_multipath *mp, uint64_t now_ns);
/* When ws_multipath_tick has something to do; UINT64_MAX: nothing. */
uint64_t ws_multipath_deadline(const struct ws_multipath *mp);

const struct ws_multipath_stats *ws_multipath_stats(const struct ws_multipath *mp);
struct ws_path_stats *ws_multipath_path_stats(struct ws_multipath *mp, uint32_t path);

#endif
