/* SPDX-License-Identifier: MIT */
/* What the files of the eBPF loader share. What others call stands in api/bpf.h. */
#ifndef WS_BPF_H
#define WS_BPF_H

#include "api/bpf.h"
#include "shared/maps.h"

#include <stdbool.h>

#define WS_BPF_INTERFACES 64

/* One attachment: a link, or a legacy filter. */
struct ws_hook {
	int link; /* -1: none */
	bool legacy;
};

struct ws_hooks {
	uint32_t ifindex; /* 0: free */
	struct ws_hook shield, paths_in, paths_out, relay;
	bool bare; /* no link-layer header */
	bool legacy;
};

enum { SHIELD, PATHS, STEER, TUNSTEER, RELAY, PROGRAMS };

struct ws_bpf_relay;

struct ws_bpf {
	struct bpf_object *object[PROGRAMS]; /* NULL: not loaded */
	uint32_t tag;
	int cpus;
	/* Descriptors of programs and maps, -1: not loaded. They belong to the objects. */
	struct {
		int shield_xdp, steer, tunsteer, relay;
		/* [1]: for devices without a link-layer header */
		int shield_tc[2], paths_in[2], paths_out[2];
	} program;
	struct {
		/* the shield's */
		int ports, locals, known, known_cells, limits, counts, awaited, awaited_cells;
		int path_ports, paths, strangers;
		int groups, sockets, workers, steer_counts;
		int owners, tunsteer_counts;
		int relay_ports, relay_locals, relay_bound, relay_slots, relay_shares, relay_state,
			relay_tallies, relay_counts;
	} map;
	uint16_t ports[WS_BPF_PORTS];
	size_t port_count;
	uint8_t generation; /* of the local addresses */
	uint64_t seed; /* of the shield's cells */
	uint16_t known_in[WS_BPF_KNOWN_CELLS]; /* known addresses in each */
	uint32_t workers; /* of every reuseport group, 0: none yet */
	bool group_used[WS_BPF_GROUPS];
	struct ws_group_key group[WS_BPF_GROUPS];
	struct ws_hooks hooks[WS_BPF_INTERFACES];
	struct ws_bpf_relay *relay; /* NULL: not loaded */
	bool relaying; /* the relay stands on the interfaces */
	void *per_cpu; /* room for one value of each CPU */
};

/* bpf_load.c: the one file that knows libbpf. */
void ws_bpf_objects_close(struct ws_bpf *bpf);
/* A clsact filter; `program` -1 removes it. */
int ws_bpf_legacy(const struct ws_bpf *bpf, int program, uint32_t ifindex, bool egress,
		  uint32_t priority);

/* bpf_relay.c. NULL: the program is not loaded, or no memory. */
struct ws_bpf_relay *ws_bpf_relay_new(const struct ws_bpf *bpf);
void ws_bpf_relay_free(struct ws_bpf_relay *relay);

/* bpf.c: the relay stands on the interfaces that ws_bpf_attach knows, now and later, or on none. */
int ws_bpf_relay_attach(struct ws_bpf *bpf, bool on);
/* ws_bpf_attach knows the interface: it is one that datagrams of ours leave by. */
bool ws_bpf_attached(const struct ws_bpf *bpf, uint32_t ifindex);

/* bpf_maps.c: bpf(2). 0 or a negative errno; -ENOENT: no such key. */
int ws_map_update(int map, const void *key, const void *value);
int ws_map_lookup(int map, const void *key, void *value);
int ws_map_delete(int map, const void *key);
int ws_map_next(int map, const void *key, void *next); /* key NULL: the first */
/* Sums `words` numbers over all CPUs. */
int ws_map_sum(struct ws_bpf *bpf, int map, const void *key, uint64_t *sum, size_t words);
void ws_ip_from_addr(const struct ws_addr *addr, struct ws_ip *ip);
void ws_ip_to_addr(const struct ws_ip *ip, uint16_t port, struct ws_addr *addr);

#endif
