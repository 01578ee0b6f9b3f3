/* SPDX-License-Identifier: MIT */
/*
 * The Internet checksum (RFC 1071). A sum is a 64-bit total of the data's
 * words in memory order: it needs folding only once, and because one's
 * complement addition does not care for byte order, no word is ever swapped.
 * A 16-bit number v that is not in memory is added as htobe16(v).
 *
 * Pieces may be summed one after the other as long as each but the last has
 * an even length. A total of up to 2^32 bytes cannot overflow.
 */
#ifndef WS_CHECKSUM_H
#define WS_CHECKSUM_H

#include "packet/ip.h"

#include <stddef.h>

/* `sum` plus the sum of len bytes; a last odd byte counts as if a zero followed. */
uint64_t ws_csum_add(uint64_t sum, const void *data, size_t len);

/* As ws_csum_add for a header: short, its length a multiple of 4. */
static inline uint64_t ws_csum_add_header(uint64_t sum, const uint8_t *header, size_t len)
{
	uint32_t word;

	for (size_t i = 0; i + 4 <= len; i += 4) {
		memcpy(&word, header + i, 4);
		sum += word;
	}
	return sum;
}

/* To 16 bits, memory order, not complemented. 0 only for a sum of 0. */
static inline uint16_t ws_csum_fold(uint64_t sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

/* Stores a folded or complemented sum (memory order). */
static inline void ws_csum_store(uint8_t *field, uint16_t value)
{
	memcpy(field, &value, 2);
}

/* Sum of the pseudo header (RFC 9293 section 3.1, RFC 8200 section 8.1); l4_bytes <= 65535. */
static inline uint64_t ws_csum_pseudo(const uint8_t *packet, uint8_t protocol, uint16_t l4_bytes)
{
	uint64_t sum = (uint64_t)htobe16(protocol) + htobe16(l4_bytes);

	if (packet[0] >> 4 == 4)
		return ws_csum_add_header(sum, packet + WS_IPV4_ADDRESSES, 8);
	return ws_csum_add_header(sum, packet + WS_IPV6_ADDRESSES, 32);
}

/* A 16-bit word under the checksum went from `before` to `after` (memory order): RFC 1624 eqn. 3. */
static inline void ws_csum_replace(uint8_t *field, uint16_t before, uint16_t after)
{
	uint16_t checksum;

	memcpy(&checksum, field, 2);
	ws_csum_store(field, (uint16_t)~ws_csum_fold((uint64_t)(uint16_t)~checksum +
						     (uint16_t)~before + after));
}

/* Writes the header checksum of an IPv4 header of `bytes` bytes. */
static inline void ws_csum_write_ipv4(uint8_t *header, size_t bytes)
{
	ws_csum_store(header + WS_IPV4_CHECKSUM, 0);
	ws_csum_store(header + WS_IPV4_CHECKSUM,
		      (uint16_t)~ws_csum_fold(ws_csum_add_header(0, header, bytes)));
}

#endif
