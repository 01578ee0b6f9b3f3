/* SPDX-License-Identifier: MIT */
/*
 * Invariants: nothing is read past the end; what is taken keeps its limits,
 * encodes to what came but for the two reserved bytes, and is the same again.
 *
 * Input: the frame.
 */
#include "multipath/ack.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ws_ack ack, again;
	uint8_t frame[WS_ACK_MAX_BYTES];
	unsigned named = 0;
	size_t len;

	memset(&ack, 0, sizeof(ack));
	memset(&again, 0, sizeof(again));
	if (!ws_ack_decode(data, size, &ack))
		return 0;
	if (ack.path_count > WS_ACK_MAX_PATHS || ack.gap_count > WS_ACK_MAX_GAPS)
		abort();
	for (unsigned i = 0; i < ack.path_count; i++) {
		if (ack.paths[i].path >= WS_ACK_MAX_PATHS || named >> ack.paths[i].path & 1)
			abort();
		named |= 1u << ack.paths[i].path;
	}
	len = ws_ack_encode(&ack, frame);
	if (len > size || len > WS_ACK_MAX_BYTES)
		abort();
	if (memcmp(frame, data, len) != 0)
		abort();
	if (!ws_ack_decode(frame, len, &again) || memcmp(&ack, &again, sizeof(ack)) != 0)
		abort();
	return 0;
}
