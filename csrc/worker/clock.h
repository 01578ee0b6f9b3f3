/* SPDX-License-Identifier: MIT */
#ifndef WS_CLOCK_H
#define WS_CLOCK_H

#include "api/probe.h" /* ws_now_ns */

#define WS_SECOND_NS 1000000000ULL

#endif
