/* SPDX-License-Identifier: MIT */
/* From an opened packet to the TUN device. */
#ifndef WS_DELIVER_H
#define WS_DELIVER_H

#include "session/peer.h"

/*
 * The packet's own length, or 0: it is not to be delivered, and counted. Its source must be in the
 * peer's allowed IPs; ECN marks of the datagram that it came in are put into it.
 */
size_t ws_deliver_check(struct ws_worker *worker, struct ws_peer *peer, const struct ws_rx *rx,
			uint8_t *packet, size_t len);
/*
 * A checked packet. trusted: its inner checksum may be left to our kernel (WS_FRAME_PARTIAL).
 * held: its bytes are the reordering buffer's. They stay as they are until ws_deliver_flush.
 */
void ws_deliver(struct ws_worker *worker, struct ws_peer *peer, uint8_t *packet, size_t len,
		bool trusted, bool held);
void ws_deliver_flush(struct ws_worker *worker);
void ws_deliver_emit(void *worker, const struct ws_tun_write *write); /* coalesce's callback */

#endif
