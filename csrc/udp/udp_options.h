/* SPDX-License-Identifier: MIT */
/* UDP_SEGMENT and UDP_GRO, which older C libraries lack. */
#ifndef WS_UDP_OPTIONS_H
#define WS_UDP_OPTIONS_H

#include <netinet/udp.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

#endif
