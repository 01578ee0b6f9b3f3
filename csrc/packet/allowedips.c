/* SPDX-License-Identifier: MIT */
/*
 * Nodes live in one array and name each other by index (0: none), 32 bytes
 * each, half a cache line. A node is a prefix with a holder, or a fork (peer
 * -1, always two children) where two prefixes part. IPv4 uses the top 32 bits
 * of the 128-bit key.
 */
#include "packet/allowedips.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NO_PEER (-1)

struct key {
	uint64_t high, low; /* host order, zero past the prefix length */
};

struct node {
	struct key key;
	uint32_t child[2];
	int32_t peer;
	uint8_t cidr;
	uint8_t family;
};

_Static_assert(sizeof(struct node) == 32, "two nodes to a cache line");

/* Kept apart from the nodes: look-ups never read it. Lists every prefix of one peer. */
struct link {
	uint32_t previous, next;
};

struct ws_allowedips {
	uint32_t root4, root6;
	struct node *nodes;
	struct link *links;
	uint32_t capacity; /* of nodes and links */
	uint32_t used; /* nodes ever handed out, node 0 among them */
	uint32_t unused; /* free list through child[0] */
	uint32_t unused_count;
	uint32_t *first; /* per peer: its first prefix's node */
	uint32_t peers; /* length of first */
	size_t count;
};

/* Keys */

static struct key load_key(uint8_t family, const uint8_t *ip)
{
	struct key key = {0, 0};

	if (family == 4) {
		uint32_t word;

		memcpy(&word, ip, sizeof(word));
		key.high = (uint64_t)be32toh(word) << 32;
	} else {
		memcpy(&key.high, ip, 8);
		memcpy(&key.low, ip + 8, 8);
		key.high = be64toh(key.high);
		key.low = be64toh(key.low);
	}
	return key;
}

static struct key mask_key(struct key key, unsigned cidr)
{
	if (cidr < 64) {
		key.high &= cidr ? UINT64_MAX << (64 - cidr) : 0;
		key.low = 0;
	} else if (cidr < 128) {
		key.low &= cidr > 64 ? UINT64_MAX << (128 - cidr) : 0;
	}
	return key;
}

/* Bit `at` (0: the first on the wire), at < 128. */
static unsigned key_bit(struct key key, unsigned at)
{
	return (at < 64 ? key.high >> (63 - at) : key.low >> (127 - at)) & 1;
}

static unsigned common_bits(struct key a, struct key b)
{
	uint64_t high = a.high ^ b.high, low = a.low ^ b.low;

	if (high)
		return (unsigned)__builtin_clzll(high);
	return low ? 64 + (unsigned)__builtin_clzll(low) : 128;
}

/* Nodes */

/* Makes room, so that what follows cannot fail half-way. */
static int reserve_nodes(struct ws_allowedips *table, uint32_t wanted)
{
	uint32_t capacity = table->capacity ? table->capacity : 16;
	struct node *nodes;
	struct link *links;

	if (table->unused_count >= wanted)
		return 0;
	wanted += table->used; /* at most: the free list is not counted on */
	if (wanted <= table->capacity)
		return 0;
	while (capacity < wanted) {
		if (capacity > UINT32_MAX / 2)
			return -ENOMEM;
		capacity *= 2;
	}
	nodes = reallocarray(table->nodes, capacity, sizeof(*nodes));
	if (!nodes)
		return -ENOMEM;
	table->nodes = nodes;
	links = reallocarray(table->links, capacity, sizeof(*links));
	if (!links)
		return -ENOMEM;
	table->links = links;
	table->capacity = capacity;
	return 0;
}

static int reserve_peer(struct ws_allowedips *table, int32_t peer)
{
	uint32_t peers = table->peers ? table->peers : 16;
	uint32_t *first;

	if ((uint32_t)peer < table->peers)
		return 0;
	while (peers <= (uint32_t)peer)
		peers *= 2;
	first = reallocarray(table->first, peers, sizeof(*first));
	if (!first)
		return -ENOMEM;
	memset(first + table->peers, 0, (peers - table->peers) * sizeof(*first));
	table->first = first;
	table->peers = peers;
	return 0;
}

static uint32_t node_new(struct ws_allowedips *table, uint8_t family, struct key key, uint8_t cidr)
{
	uint32_t index = table->unused;

	if (index) {
		table->unused = table->nodes[index].child[0];
		table->unused_count--;
	} else {
		index = table->used++;
	}
	table->nodes[index] =
		(struct node){.key = key, .peer = NO_PEER, .cidr = cidr, .family = family};
	return index;
}

static void node_free(struct ws_allowedips *table, uint32_t index)
{
	table->nodes[index].child[0] = table->unused;
	table->unused = index;
	table->unused_count++;
}

/* Gives the node to a peer, or to none. */
static void set_holder(struct ws_allowedips *table, uint32_t index, int32_t peer)
{
	struct node *node = &table->nodes[index];
	struct link *links = table->links;

	if (node->peer != NO_PEER) {
		uint32_t previous = links[index].previous, next = links[index].next;

		if (previous)
			links[previous].next = next;
		else
			table->first[node->peer] = next;
		if (next)
			links[next].previous = previous;
		table->count--;
	}
	node->peer = peer;
	if (peer != NO_PEER) {
		uint32_t next = table->first[peer];

		links[index] = (struct link){.previous = 0, .next = next};
		if (next)
			links[next].previous = index;
		table->first[peer] = index;
		table->count++;
	}
}

/* Changes to the table */

struct ws_allowedips *ws_allowedips_new(void)
{
	struct ws_allowedips *table = calloc(1, sizeof(*table));

	if (table)
		table->used = 1; /* index 0 means none */
	return table;
}

void ws_allowedips_free(struct ws_allowedips *table)
{
	if (!table)
		return;
	free(table->nodes);
	free(table->links);
	free(table->first);
	free(table);
}

static uint32_t *root_of(struct ws_allowedips *table, uint8_t family)
{
	return family == 4 ? &table->root4 : &table->root6;
}

int ws_allowedips_insert(struct ws_allowedips *table, uint8_t family, const uint8_t *ip,
			 uint8_t cidr, int32_t peer)
{
	struct key key;
	uint32_t *slot, made, below;

	if ((family != 4 && family != 6) || cidr > (family == 4 ? 32 : 128) || peer < 0 ||
	    peer >= WS_ALLOWEDIPS_MAX_PEERS)
		return -EINVAL;
	/* At most the prefix and one fork. After this nothing moves and nothing fails. */
	if (reserve_nodes(table, 2) || reserve_peer(table, peer))
		return -ENOMEM;

	key = mask_key(load_key(family, ip), cidr);
	for (slot = root_of(table, family); *slot;) {
		struct node *node = &table->nodes[*slot];
		unsigned common = common_bits(key, node->key);

		if (common < node->cidr || cidr < node->cidr)
			break;
		if (cidr == node->cidr) {
			set_holder(table, *slot, peer);
			return 0;
		}
		slot = &node->child[key_bit(key, node->cidr)];
	}

	below = *slot;
	made = node_new(table, family, key, cidr);
	set_holder(table, made, peer);
	if (!below) {
		*slot = made;
		return 0;
	}

	struct key below_key = table->nodes[below].key;
	unsigned common = common_bits(key, below_key);

	if (common >= cidr) {
		/* The new prefix holds the node that stood here. */
		table->nodes[made].child[key_bit(below_key, cidr)] = below;
		*slot = made;
	} else {
		uint32_t fork = node_new(table, family, mask_key(key, common), (uint8_t)common);

		table->nodes[fork].child[key_bit(key, common)] = made;
		table->nodes[fork].child[key_bit(below_key, common)] = below;
		*slot = fork;
	}
	return 0;
}

/* Takes a prefix out, and the fork above it if that then has one child. */
static void remove_node(struct ws_allowedips *table, uint32_t index)
{
	struct node *node = &table->nodes[index];
	uint32_t *slot = root_of(table, node->family), *above = NULL;

	set_holder(table, index, NO_PEER);
	if (node->child[0] && node->child[1])
		return; /* it is a fork from now on */
	while (*slot != index) {
		struct node *parent = &table->nodes[*slot];

		above = slot;
		slot = &parent->child[key_bit(node->key, parent->cidr)];
	}
	*slot = node->child[0] ? node->child[0] : node->child[1];
	node_free(table, index);
	if (!*slot && above && table->nodes[*above].peer == NO_PEER) {
		uint32_t fork = *above;

		*above = table->nodes[fork].child[0] ? table->nodes[fork].child[0]
						     : table->nodes[fork].child[1];
		node_free(table, fork);
	}
}

size_t ws_allowedips_remove_peer(struct ws_allowedips *table, int32_t peer)
{
	size_t removed = 0;

	if (peer < 0 || (uint32_t)peer >= table->peers)
		return 0;
	for (; table->first[peer]; removed++)
		remove_node(table, table->first[peer]);
	if (!table->count) {
		/* Empty: give the memory back. */
		free(table->nodes);
		free(table->links);
		free(table->first);
		*table = (struct ws_allowedips){.used = 1};
	}
	return removed;
}

/* Look-ups */

int32_t ws_allowedips_lookup4(const struct ws_allowedips *table, const uint8_t *ip)
{
	uint64_t high = load_key(4, ip).high;
	const struct node *nodes = table->nodes;
	int32_t peer = NO_PEER;

	for (uint32_t i = table->root4; i;) {
		const struct node *node = &nodes[i];

		/* Shifted in two steps: cidr 0 would be a shift by 64. */
		if ((high ^ node->key.high) >> 1 >> (63 - node->cidr))
			break;
		if (node->peer != NO_PEER)
			peer = node->peer;
		/* Past a /32 this bit is 0 and there is no child. */
		i = node->child[high >> (63 - node->cidr) & 1];
	}
	return peer;
}

int32_t ws_allowedips_lookup6(const struct ws_allowedips *table, const uint8_t *ip)
{
	struct key key = load_key(6, ip);
	const struct node *nodes = table->nodes;
	int32_t peer = NO_PEER;

	for (uint32_t i = table->root6; i;) {
		const struct node *node = &nodes[i];

		if (common_bits(key, node->key) < node->cidr)
			break;
		if (node->peer != NO_PEER)
			peer = node->peer;
		if (node->cidr == 128)
			break;
		i = node->child[key_bit(key, node->cidr)];
	}
	return peer;
}

size_t ws_allowedips_count(const struct ws_allowedips *table)
{
	return table->count;
}
