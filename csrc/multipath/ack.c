/* SPDX-License-Identifier: MIT */
#include "multipath/ack.h"

#include "shared/wire.h"

/* Little endian, `bytes` (1..8) of it. */
static uint8_t *put(uint8_t *out, uint64_t value, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i++)
		*out++ = (uint8_t)(value >> (8 * i));
	return out;
}

static uint64_t take(const uint8_t **data, unsigned bytes)
{
	uint64_t value = 0;

	for (unsigned i = 0; i < bytes; i++)
		value |= (uint64_t)(*data)[i] << (8 * i);
	*data += bytes;
	return value;
}

size_t ws_ack_encode(const struct ws_ack *ack, uint8_t *out)
{
	uint8_t *at = out;

	at = put(at, WS_CONTROL_ACK, 1);
	at = put(at, WS_CONTROL_VERSION, 1);
	at = put(at, ack->path_count, 1);
	at = put(at, ack->gap_count, 1);
	at = put(at, ack->time_us, 4);
	at = put(at, ack->next_seq, 4);
	for (unsigned i = 0; i < ack->path_count; i++) {
		const struct ws_ack_path *path = &ack->paths[i];

		at = put(at, path->path, 1);
		at = put(at, path->echo_us, 3);
		at = put(at, path->highest, 4);
		at = put(at, path->datagrams, 4);
		at = put(at, path->arrived_us, 4);
		at = put(at, path->bytes, 8);
		at = put(at, path->hold_16us, 2);
		at = put(at, path->delay_us, 3);
		at = put(at, path->delay_min_us, 3);
	}
	for (unsigned i = 0; i < ack->gap_count; i++) {
		at = put(at, ack->gaps[i].first, 4);
		at = put(at, ack->gaps[i].count, 2);
	}
	return (size_t)(at - out);
}

bool ws_ack_decode(const uint8_t *data, size_t len, struct ws_ack *ack)
{
	const uint8_t *at = data + 2;
	unsigned named = 0;

	if (len < WS_ACK_HEAD_BYTES || data[0] != WS_CONTROL_ACK || data[1] != WS_CONTROL_VERSION)
		return false;
	ack->path_count = (uint8_t)take(&at, 1);
	ack->gap_count = (uint8_t)take(&at, 1);
	if (ack->path_count > WS_ACK_MAX_PATHS || ack->gap_count > WS_ACK_MAX_GAPS)
		return false;
	if (len < WS_ACK_HEAD_BYTES + (size_t)ack->path_count * WS_ACK_PATH_BYTES +
			  (size_t)ack->gap_count * WS_ACK_GAP_BYTES)
		return false;
	ack->time_us = (uint32_t)take(&at, 4);
	ack->next_seq = (uint32_t)take(&at, 4);
	for (unsigned i = 0; i < ack->path_count; i++) {
		struct ws_ack_path *path = &ack->paths[i];

		path->path = (uint8_t)take(&at, 1);
		if (path->path >= WS_ACK_MAX_PATHS || named >> path->path & 1)
			return false;
		named |= 1u << path->path;
		path->echo_us = (uint32_t)take(&at, 3);
		path->highest = (uint32_t)take(&at, 4);
		path->datagrams = (uint32_t)take(&at, 4);
		path->arrived_us = (uint32_t)take(&at, 4);
		path->bytes = take(&at, 8);
		path->hold_16us = (uint16_t)take(&at, 2);
		path->delay_us = (uint32_t)take(&at, 3);
		path->delay_min_us = (uint32_t)take(&at, 3);
	}
	for (unsigned i = 0; i < ack->gap_count; i++) {
		ack->gaps[i].first = (uint32_t)take(&at, 4);
		ack->gaps[i].count = (uint16_t)take(&at, 2);
	}
	return true;
}
