/* SPDX-License-Identifier: MIT */
/* The backends. */
#ifndef WS_IO_H
#define WS_IO_H

#include "worker/worker.h"

extern const struct ws_io_ops ws_mmsg_ops;
extern const struct ws_io_ops ws_uring_ops;

#endif
