/* SPDX-License-Identifier: MIT */
#include "session/deliver.h"

#include "packet/ecn.h"

size_t ws_deliver_check(struct ws_worker *worker, struct ws_peer *peer, const struct ws_rx *rx,
			uint8_t *packet, size_t len)
{
	size_t total;
	int32_t owner;

	if (packet[0] >> 4 == 4 && len >= 20) {
		size_t header = (size_t)(packet[0] & 15) * 4;

		total = (size_t)packet[2] << 8 | packet[3];
		if (header < 20 || total < header || total > len)
			goto malformed;
		owner = ws_allowedips_lookup4(worker->allowedips, packet + 12);
	} else if (packet[0] >> 4 == 6 && len >= 40) {
		total = 40 + ((size_t)packet[4] << 8 | packet[5]);
		if (total > len)
			goto malformed;
		owner = ws_allowedips_lookup6(worker->allowedips, packet + 8);
	} else {
		goto malformed;
	}
	if (owner != peer->number) {
		ws_drop(worker, WS_DROP_SOURCE, 1);
		ws_add(peer->stats.wrong_sources, 1);
		return 0;
	}
	if (!ws_ecn_decapsulate(rx->tos, packet, total)) {
		ws_drop(worker, WS_DROP_ECN, 1);
		return 0;
	}
	return total;
malformed:
	ws_drop(worker, WS_DROP_MALFORMED, 1);
	return 0;
}

void ws_deliver(struct ws_worker *worker, struct ws_peer *peer, uint8_t *packet, size_t len,
		bool trusted, bool held)
{
	/* The buffer's slots are used again soon after the flush. */
	if (held)
		worker->borrowed = true;
	ws_add(peer->stats.rx_packets, 1);
	ws_coalesce_add(worker->coalesce, packet, len, trusted);
}

void ws_deliver_flush(struct ws_worker *worker)
{
	ws_coalesce_flush(worker->coalesce);
	worker->borrowed = worker->handing_off;
}

void ws_deliver_emit(void *arg, const struct ws_tun_write *write)
{
	struct ws_worker *worker = arg;

	worker->io->tun_write(worker, write->iov, write->iov_count, write->packets);
}
