/* SPDX-License-Identifier: MIT */
/* What to do with a send that the kernel refused. */
#ifndef WS_RESCUE_H
#define WS_RESCUE_H

#include "worker/worker.h"

/* After a send of tx failed with `error`: send it in other ways, or count it lost. */
void ws_rescue(struct ws_worker *worker, struct ws_tx *tx, int error);

#endif
