/* SPDX-License-Identifier: MIT */
/* Inbound: what a receive brought. */
#ifndef WS_RECEIVE_H
#define WS_RECEIVE_H

#include "worker/worker.h"

void ws_receive(struct ws_worker *worker, const struct ws_rx *rx);
/* After the last receive whose bytes are still there. */
void ws_receive_flush(struct ws_worker *worker);

#endif
