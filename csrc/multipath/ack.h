/* SPDX-License-Identifier: MIT */
/*
 * The feedback message ACK (docs/multipath.md section 4.6): encode and decode.
 * What an ACK claims is believed elsewhere (multipath.c); here only lengths
 * are. Vectors: tests/vectors/ack.json.
 */
#ifndef WS_ACK_H
#define WS_ACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WS_ACK_MAX_PATHS 8
#define WS_ACK_MAX_GAPS 32
#define WS_ACK_HOLD_US 16 /* unit of hold_16us */
#define WS_ACK_HEAD_BYTES 12
#define WS_ACK_PATH_BYTES 32
#define WS_ACK_GAP_BYTES 6
#define WS_ACK_MAX_BYTES                                                                           \
	(WS_ACK_HEAD_BYTES + WS_ACK_MAX_PATHS * WS_ACK_PATH_BYTES +                                \
	 WS_ACK_MAX_GAPS * WS_ACK_GAP_BYTES)

struct ws_ack_path {
	uint8_t path; /* the sender's number of it */
	uint16_t hold_16us; /* from the last data frame's arrival to this ACK, capped */
	uint32_t highest; /* low 32 bits of the highest number received on it */
	uint32_t datagrams; /* received on it, data and control, low 32 bits */
	uint64_t bytes; /* UDP payload received on it */
	uint32_t arrived_us; /* receiver's clock, low 32 bits, at the last arrival on it */
	uint32_t echo_us; /* 24 bits: time field of the last data frame on it */
	/* 24 bits: receiver's clock less the frame's time. Differences mean something, not values. */
	uint32_t delay_us; /* smoothed */
	uint32_t delay_min_us; /* least of the last 10 s */
};

struct ws_ack_gap {
	uint32_t first; /* low 32 bits of the first seq that is missing */
	uint16_t count;
};

struct ws_ack {
	uint32_t time_us; /* receiver's clock, low 32 bits, when it was made */
	uint32_t next_seq; /* awaited, low 32 bits */
	uint8_t path_count, gap_count;
	struct ws_ack_path paths[WS_ACK_MAX_PATHS];
	struct ws_ack_gap gaps[WS_ACK_MAX_GAPS];
};

/* Returns the length, at most WS_ACK_MAX_BYTES. Counts in *ack within their limits. */
size_t ws_ack_encode(const struct ws_ack *ack, uint8_t *out);
/*
 * False: too short for its own counts, counts or path numbers above the
 * limits, a path named twice, another version. Longer is padding.
 */
bool ws_ack_decode(const uint8_t *data, size_t len, struct ws_ack *ack);

#endif
