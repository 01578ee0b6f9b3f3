/* SPDX-License-Identifier: MIT */
/*
 * A data frame's header (docs/multipath.md section 3), and the room that a
 * message takes: what the pipelines and the multipath core both know of them.
 */
#ifndef WS_FRAME_H
#define WS_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shared/wire.h"

static inline void ws_frame_encode(uint8_t head[WS_FRAME_HEADER_BYTES], uint32_t flags,
				   uint64_t now_ns, uint32_t seq)
{
	uint64_t time_us = now_ns / 1000;

	head[0] = (uint8_t)(WS_FRAME_DATA | flags);
	head[1] = (uint8_t)time_us;
	head[2] = (uint8_t)(time_us >> 8);
	head[3] = (uint8_t)(time_us >> 16);
	head[4] = (uint8_t)seq;
	head[5] = (uint8_t)(seq >> 8);
	head[6] = (uint8_t)(seq >> 16);
	head[7] = (uint8_t)(seq >> 24);
}

/* The sender's clock, low 24 bits. */
static inline uint32_t ws_frame_time_us(const uint8_t *head)
{
	return (uint32_t)head[1] | (uint32_t)head[2] << 8 | (uint32_t)head[3] << 16;
}

static inline uint32_t ws_frame_seq(const uint8_t *head)
{
	return (uint32_t)head[4] | (uint32_t)head[5] << 8 | (uint32_t)head[6] << 16 |
	       (uint32_t)head[7] << 24;
}

/*
 * Whether who sends this waits for a word, and who gets it owes one (WireGuard's passive keepalive and
 * new handshake). Not what is an answer itself, or is answered late or not at all.
 */
static inline bool ws_frame_wants_answer(const uint8_t *text, size_t len)
{
	return len && text[0] != WS_CONTROL_KEEP && text[0] != WS_CONTROL_HEARTBEAT &&
	       text[0] != WS_CONTROL_PATH_PROBE_REPLY;
}

/* Plaintext as WireGuard pads it. */
static inline uint32_t ws_padded_bytes(size_t len)
{
	return (uint32_t)((len + WS_PADDING_BYTES - 1) & ~(size_t)(WS_PADDING_BYTES - 1));
}

/* UDP payload of a transport message with so much plaintext. */
static inline uint32_t ws_message_bytes(size_t text_bytes)
{
	return (uint32_t)(WS_TRANSPORT_HEADER_BYTES + text_bytes + WS_TAG_BYTES);
}

#endif
