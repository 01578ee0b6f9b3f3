/* SPDX-License-Identifier: MIT */
/* What the data plane is built of, tried part by part. */
#ifndef WS_API_PROBE_H
#define WS_API_PROBE_H

#include <stddef.h>
#include <stdint.h>

/*
 * What the data plane is built of, tried one by one by its own code: 0 if the part is there, a
 * negative errno if not, WS_PART_UNTRIED where nothing could be learned.
 */
enum { WS_PART_UNTRIED = 1 };

struct ws_uring_parts {
	int32_t ring; /* io_uring at all; without it all else is untried */
	int32_t deferred; /* SINGLE_ISSUER and DEFER_TASKRUN; COOP_TASKRUN stands in */
	int32_t buffer_ring; /* provided buffers; needed */
	int32_t registered_files; /* needed */
	int32_t multishot_receive; /* recvmsg that stays armed; needed */
	int32_t multishot_read; /* of the TUN device; single reads stand in */
};

struct ws_udp_parts {
	int32_t loopback; /* plain datagrams; where they do not come through, the next three are untried */
	/* -EBADMSG: bytes came out otherwise, -ETIME: not all came */
	int32_t gso, gro;
	int32_t both; /* runs sent with one, taken with the other */
	int32_t receive_force, send_force; /* SO_RCVBUFFORCE, SO_SNDBUFFORCE */
	uint32_t receive_bytes, send_bytes; /* buffers that a socket gets here */
};

/* 0 if the io_uring backend can run here, else the errno of what it lacks. */
int ws_uring_probe(struct ws_uring_parts *parts);
/* Bits of enum ws_offload whose offload does not carry bytes unharmed over loopback. `parts` may be NULL. */
uint32_t ws_offload_selftest(struct ws_udp_parts *parts);
/* 0 if the cipher is there and passes RFC 8439's vectors, else a negative errno (aead.h). */
int ws_cipher_selftest(uint32_t cipher);
uint64_t ws_now_ns(void);

#endif
