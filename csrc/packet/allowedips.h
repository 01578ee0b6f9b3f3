/* SPDX-License-Identifier: MIT */
/*
 * Crypto-routing: longest-prefix match from address to peer, IPv4 and IPv6
 * (WireGuard whitepaper section 2). A path-compressed binary trie. Look-ups
 * allocate nothing, take no lock and may run in several threads at once, but
 * not beside a change: insert may move the nodes.
 */
#ifndef WS_ALLOWEDIPS_H
#define WS_ALLOWEDIPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WS_ALLOWEDIPS_MAX_PEERS (1 << 20)

struct ws_allowedips;

struct ws_allowedips *ws_allowedips_new(void);
void ws_allowedips_free(struct ws_allowedips *table);
/*
 * family 4 or 6, ip in network order (bits past cidr are ignored), cidr <= 32 or 128, peer 0 to
 * WS_ALLOWEDIPS_MAX_PEERS - 1; replaces the holder. 0, -EINVAL, or -ENOMEM with nothing changed.
 */
int ws_allowedips_insert(struct ws_allowedips *table, uint8_t family, const uint8_t *ip,
			 uint8_t cidr, int32_t peer);
/* Removes every prefix of the peer; returns how many. Its cost is that of these prefixes alone. */
size_t ws_allowedips_remove_peer(struct ws_allowedips *table, int32_t peer);
/* The peer (>= 0) with the longest match, or -1. ip: 4 bytes / 16 bytes. */
int32_t ws_allowedips_lookup4(const struct ws_allowedips *table, const uint8_t *ip);
int32_t ws_allowedips_lookup6(const struct ws_allowedips *table, const uint8_t *ip);
size_t ws_allowedips_count(const struct ws_allowedips *table);

#endif
