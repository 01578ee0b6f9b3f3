/* SPDX-License-Identifier: MIT */
/*
 * Attaches the programs of bpf/, tells the shield what it goes by and reads
 * the counters. Links (XDP, and tcx from Linux 6.6) end with their descriptor,
 * so with kill -9 too.
 */
#include "kernel/bpf.h"
#include "packet/gate.h"

#include <errno.h>
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000ULL
/* Newer than the headers of Debian 12. */
#define TCX_INGRESS 46
#define TCX_EGRESS 47
/* ARPHRD_RAWIP, ARPHRD_NONE of <linux/if_arp.h>, which does not go with <net/if.h>. */
#define TYPE_RAWIP 519
#define TYPE_NONE 0xfffe
/* Of our legacy filters; the shield comes first. */
#define PRIORITY_SHIELD 0x5753
#define PRIORITY_PATHS 0x5754
#define PRIORITY_RELAY 0x5755

static int link_create(int program, uint32_t ifindex, uint32_t type, uint32_t flags)
{
	union bpf_attr attr;
	long result;

	memset(&attr, 0, sizeof(attr));
	attr.link_create.prog_fd = (uint32_t)program;
	attr.link_create.target_ifindex = ifindex;
	attr.link_create.attach_type = type;
	attr.link_create.flags = flags;
	result = syscall(SYS_bpf, BPF_LINK_CREATE, &attr, sizeof(attr));
	return result < 0 ? -errno : (int)result;
}

/* Attaching */

static void hook_remove(const struct ws_bpf *bpf, uint32_t ifindex, struct ws_hook *hook,
			bool egress, uint32_t priority)
{
	if (hook->link >= 0)
		close(hook->link);
	if (hook->legacy)
		(void)ws_bpf_legacy(bpf, -1, ifindex, egress, priority);
	hook->link = -1;
	hook->legacy = false;
}

/* Returns the hook taken. */
static int hook_tc(const struct ws_bpf *bpf, uint32_t ifindex, struct ws_hook *hook, int program,
		   bool egress, uint32_t priority, bool legacy)
{
	int result = -EINVAL;

	if (!legacy)
		result = link_create(program, ifindex, egress ? TCX_EGRESS : TCX_INGRESS, 0);
	if (result >= 0) {
		hook->link = result;
		return WS_HOOK_TC;
	}
	/* A kernel without tcx does not know the attach type. */
	if (result != -EINVAL && result != -EOPNOTSUPP)
		return result;
	result = ws_bpf_legacy(bpf, program, ifindex, egress, priority);
	if (result)
		return result;
	hook->legacy = true;
	return WS_HOOK_TC_LEGACY;
}

/* What stands before the network header: 0 Ethernet, 1 nothing (an index into `program`). */
static int link_header(uint32_t ifindex)
{
	struct ifreq request;
	int fd, error = 0;

	memset(&request, 0, sizeof(request));
	if (!if_indextoname(ifindex, request.ifr_name))
		return -errno;
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (ioctl(fd, SIOCGIFHWADDR, &request))
		error = -errno;
	close(fd);
	if (error)
		return error;
	switch (request.ifr_hwaddr.sa_family) {
	case ARPHRD_ETHER:
		return 0;
	case ARPHRD_PPP:
	case ARPHRD_TUNNEL:
	case ARPHRD_TUNNEL6:
	case ARPHRD_SIT:
	case TYPE_RAWIP:
	case TYPE_NONE:
		return 1;
	default:
		return -EOPNOTSUPP;
	}
}

static int hook_shield(const struct ws_bpf *bpf, struct ws_hooks *interface, int bare,
		       uint32_t hook)
{
	uint32_t ifindex = interface->ifindex;
	int link;

	if (!bare && (hook == WS_HOOK_XDP || hook == WS_HOOK_XDP_GENERIC)) {
		link = link_create(bpf->program.shield_xdp, ifindex, BPF_XDP,
				   hook == WS_HOOK_XDP ? XDP_FLAGS_DRV_MODE : XDP_FLAGS_SKB_MODE);
		if (link >= 0) {
			interface->shield.link = link;
			return (int)hook;
		}
	}
	return hook_tc(bpf, ifindex, &interface->shield, bpf->program.shield_tc[bare], false,
		       PRIORITY_SHIELD, hook == WS_HOOK_TC_LEGACY);
}

static struct ws_hooks *find_interface(ws_bpf *bpf, uint32_t ifindex)
{
	for (int i = 0; i < WS_BPF_INTERFACES; i++) {
		if (bpf->hooks[i].ifindex == ifindex)
			return &bpf->hooks[i];
	}
	return NULL;
}

/* Behind the others. It needs an Ethernet header, as the kernel's redirection does. */
static int hook_relay(const struct ws_bpf *bpf, struct ws_hooks *interface)
{
	if (interface->bare || interface->relay.link >= 0 || interface->relay.legacy)
		return 0;
	return hook_tc(bpf, interface->ifindex, &interface->relay, bpf->program.relay, false,
		       PRIORITY_RELAY, interface->legacy);
}

int ws_bpf_relay_attach(struct ws_bpf *bpf, bool on)
{
	int error = 0;

	if (!bpf->relay || on == bpf->relaying)
		return 0;
	for (int i = 0; i < WS_BPF_INTERFACES; i++) {
		struct ws_hooks *interface = &bpf->hooks[i];
		int result = 0;

		if (!interface->ifindex)
			continue;
		if (on)
			result = hook_relay(bpf, interface);
		else
			hook_remove(bpf, interface->ifindex, &interface->relay, false,
				    PRIORITY_RELAY);
		if (result < 0)
			error = result;
	}
	bpf->relaying = on;
	return error;
}

bool ws_bpf_attached(const struct ws_bpf *bpf, uint32_t ifindex)
{
	for (int i = 0; i < WS_BPF_INTERFACES; i++)
		if (bpf->hooks[i].ifindex == ifindex)
			return true;
	return false;
}

int ws_bpf_attach(ws_bpf *bpf, uint32_t ifindex, uint32_t hook)
{
	const struct ws_hook none = {.link = -1};
	struct ws_hooks *interface;
	bool legacy = hook == WS_HOOK_TC_LEGACY;
	int taken = 0, error = 0, bare;

	if (!ifindex || hook < WS_HOOK_TC || hook > WS_HOOK_XDP_GENERIC)
		return -EINVAL;
	if (find_interface(bpf, ifindex))
		return -EALREADY;
	interface = find_interface(bpf, 0);
	if (!interface)
		return -ENOSPC;
	bare = link_header(ifindex);
	if (bare < 0)
		return bare;
	*interface = (struct ws_hooks){
		.ifindex = ifindex,
		.shield = none,
		.paths_in = none,
		.paths_out = none,
		.relay = none,
		.bare = bare,
		.legacy = legacy,
	};
	if (bpf->program.shield_tc[0] >= 0)
		taken = hook_shield(bpf, interface, bare, hook);
	if (taken >= 0 && bpf->program.paths_in[0] >= 0) {
		error = hook_tc(bpf, ifindex, &interface->paths_in, bpf->program.paths_in[bare],
				false, PRIORITY_PATHS, legacy);
		if (error >= 0)
			error = hook_tc(bpf, ifindex, &interface->paths_out,
					bpf->program.paths_out[bare], true, PRIORITY_PATHS, legacy);
	}
	if (taken < 0 || error < 0) {
		(void)ws_bpf_detach(bpf, ifindex);
		return taken < 0 ? taken : error;
	}
	/* Where it cannot stand the workers relay. */
	if (bpf->relaying)
		(void)hook_relay(bpf, interface);
	return bpf->program.shield_tc[0] >= 0 ? taken : error;
}

int ws_bpf_detach(ws_bpf *bpf, uint32_t ifindex)
{
	struct ws_hooks *interface = ifindex ? find_interface(bpf, ifindex) : NULL;

	if (!interface)
		return -ENOENT;
	hook_remove(bpf, ifindex, &interface->shield, false, PRIORITY_SHIELD);
	hook_remove(bpf, ifindex, &interface->paths_in, false, PRIORITY_PATHS);
	hook_remove(bpf, ifindex, &interface->paths_out, true, PRIORITY_PATHS);
	hook_remove(bpf, ifindex, &interface->relay, false, PRIORITY_RELAY);
	interface->ifindex = 0;
	return 0;
}

void ws_bpf_free(ws_bpf *bpf)
{
	for (int i = 0; i < WS_BPF_INTERFACES; i++) {
		if (bpf->hooks[i].ifindex)
			(void)ws_bpf_detach(bpf, bpf->hooks[i].ifindex);
	}
	ws_bpf_relay_free(bpf->relay);
	ws_bpf_objects_close(bpf);
	free(bpf->per_cpu);
	free(bpf);
}

uint32_t ws_bpf_loaded(const ws_bpf *bpf)
{
	uint32_t loaded = 0;

	for (int i = 0; i < PROGRAMS; i++)
		if (bpf->object[i])
			loaded |= 1u << i;
	return loaded;
}

int ws_bpf_check(ws_bpf *bpf)
{
	const int maps[PROGRAMS] = {bpf->map.counts, bpf->map.strangers, bpf->map.steer_counts,
				    bpf->map.tunsteer_counts, bpf->map.relay_counts};
	uint32_t zero = 0;
	int error = 0;

	for (int i = 0; i < PROGRAMS && !error; i++) {
		if (maps[i] >= 0)
			error = ws_map_lookup(maps[i], &zero, bpf->per_cpu);
	}
	return error;
}

/* What the shield goes by */

/* Of an array of 64-bit words, see bpf/bits.h. One thread writes. */
static int set_bit(int map, uint32_t number, bool on)
{
	uint64_t bits, bit = 1ULL << number % 64;
	uint32_t word = number / 64;
	int error = ws_map_lookup(map, &word, &bits);

	if (error)
		return error;
	bits = on ? bits | bit : bits & ~bit;
	return ws_map_update(map, &word, &bits);
}

static int port_update(const struct ws_bpf *bpf, uint16_t port, bool ours)
{
	const int bits[] = {bpf->map.ports, bpf->map.path_ports, bpf->map.relay_ports};
	int error = 0;

	for (size_t i = 0; i < sizeof(bits) / sizeof(bits[0]) && !error; i++)
		if (bits[i] >= 0)
			error = set_bit(bits[i], port, ours);
	return error;
}

int ws_bpf_set_ports(ws_bpf *bpf, const uint16_t *ports, size_t count)
{
	int error = 0;

	if (count > WS_BPF_PORTS)
		return -E2BIG;
	for (size_t i = 0; i < bpf->port_count && !error; i++)
		error = port_update(bpf, bpf->ports[i], false);
	bpf->port_count = 0;
	for (size_t i = 0; i < count && !error; i++) {
		error = port_update(bpf, ports[i], true);
		if (!error)
			bpf->ports[bpf->port_count++] = ports[i];
	}
	return error;
}

static int set_locals(int map, uint8_t generation, const struct ws_addr *addrs, size_t count,
		      size_t broadcasts)
{
	struct ws_ip stale[WS_BPF_LOCALS], ip;
	size_t stale_count = 0;
	int error;

	for (size_t i = 0; i < count; i++) {
		uint8_t value = generation | (i + broadcasts >= count ? WS_LOCAL_BROADCAST : 0);

		ws_ip_from_addr(&addrs[i], &ip);
		error = ws_map_update(map, &ip, &value);
		if (error)
			return error;
	}
	for (error = ws_map_next(map, NULL, &ip); !error && stale_count < WS_BPF_LOCALS;
	     error = ws_map_next(map, &ip, &ip)) {
		uint8_t seen;

		if (!ws_map_lookup(map, &ip, &seen) &&
		    (seen & (WS_LOCAL_BROADCAST - 1)) != generation)
			stale[stale_count++] = ip;
	}
	if (error && error != -ENOENT)
		return error;
	while (stale_count)
		(void)ws_map_delete(map, &stale[--stale_count]);
	return 0;
}

int ws_bpf_set_locals(ws_bpf *bpf, const struct ws_addr *addrs, size_t count, size_t broadcasts)
{
	const int maps[] = {bpf->map.locals, bpf->map.relay_locals};
	uint8_t generation;
	int error = 0;

	if (count > WS_BPF_LOCALS / 2) /* old and new stand beside each other for a moment */
		return -E2BIG;
	generation = ++bpf->generation & (WS_LOCAL_BROADCAST - 1);
	for (size_t i = 0; i < sizeof(maps) / sizeof(maps[0]) && !error; i++)
		if (maps[i] >= 0)
			error = set_locals(maps[i], generation, addrs, count, broadcasts);
	return error;
}

static struct ws_bucket bucket(uint32_t rate, uint32_t burst)
{
	struct ws_bucket bucket = {0, 0};

	if (rate) {
		bucket.interval_ns = NS_PER_S / rate;
		bucket.burst_ns = bucket.interval_ns * (burst ? burst : 1);
	}
	return bucket;
}

int ws_bpf_set_rates(ws_bpf *bpf, const struct ws_shield_rates *rates)
{
	struct ws_shield_limits limits = {
		.source = bucket(rates->source_rate, rates->source_burst),
		.global = bucket(rates->global_rate, rates->global_burst),
		.seed = bpf->seed,
		.ladder = rates->ladder,
		.awaited = rates->awaited,
	};
	uint32_t zero = 0;

	return bpf->map.limits < 0 ? 0 : ws_map_update(bpf->map.limits, &zero, &limits);
}

/* One more or one less in an address's cell, and its bit. What gave way to others stays counted. */
static int count_known(ws_bpf *bpf, const struct ws_ip *ip, bool more)
{
	uint32_t cell = ws_known_cell(ip, bpf->seed);
	uint16_t *count = &bpf->known_in[cell];

	if (*count == (more ? UINT16_MAX : 0))
		return 0;
	*count = (uint16_t)(more ? *count + 1 : *count - 1);
	return *count == more ? set_bit(bpf->map.known_cells, cell, more) : 0;
}

int ws_bpf_add_known(ws_bpf *bpf, const struct ws_addr *addr)
{
	struct ws_ip ip;
	uint8_t one = 1, before;
	int error;

	ws_ip_from_addr(addr, &ip);
	if (bpf->map.known < 0)
		return 0;
	if (ws_map_lookup(bpf->map.known, &ip, &before)) {
		error = count_known(bpf, &ip, true);
		if (error)
			return error;
	}
	return ws_map_update(bpf->map.known, &ip, &one);
}

int ws_bpf_await(ws_bpf *bpf, uint32_t id)
{
	uint32_t cell = ws_awaited_cell(id, bpf->seed);
	struct timespec now;
	uint64_t until;
	int error;

	if (bpf->map.awaited < 0)
		return 0;
	clock_gettime(CLOCK_MONOTONIC, &now); /* the programs' clock */
	until = (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec + WS_AWAIT_NS;
	error = ws_map_update(bpf->map.awaited, &id, &until);
	return error ? error : ws_map_update(bpf->map.awaited_cells, &cell, &until);
}

int ws_bpf_remove_known(ws_bpf *bpf, const struct ws_addr *addr)
{
	struct ws_ip ip;
	int error;

	ws_ip_from_addr(addr, &ip);
	if (bpf->map.known < 0)
		return 0;
	error = ws_map_delete(bpf->map.known, &ip);
	if (!error)
		error = count_known(bpf, &ip, false);
	return error == -ENOENT ? 0 : error; /* it gave way to others */
}

/* What was counted */

int ws_bpf_shield_stats(ws_bpf *bpf, struct ws_shield_stats *stats)
{
	uint64_t sum[WS_SHIELD_COUNT];

	memset(stats, 0, sizeof(*stats));
	if (bpf->map.counts < 0)
		return -ENOTSUP;
	for (uint32_t i = 0; i < WS_SHIELD_COUNT; i++) {
		int error = ws_map_sum(bpf, bpf->map.counts, &i, &sum[i], 1);

		if (error)
			return error;
	}
	*stats = (struct ws_shield_stats){
		.transport = sum[WS_SHIELD_TRANSPORT],
		.handshake = sum[WS_SHIELD_HANDSHAKE],
		.short_ = sum[WS_SHIELD_SHORT],
		.type = sum[WS_SHIELD_TYPE],
		.length = sum[WS_SHIELD_LENGTH],
		.source_limit = sum[WS_SHIELD_SOURCE_LIMIT],
		.global_limit = sum[WS_SHIELD_GLOBAL_LIMIT],
		.unasked = sum[WS_SHIELD_UNASKED],
		.destination = sum[WS_SHIELD_DESTINATION],
		.headers = sum[WS_SHIELD_HEADERS],
	};
	return 0;
}

_Static_assert(sizeof(struct ws_path_counts) == sizeof(struct ws_path_count),
	       "both sides count the same");

int ws_bpf_paths(ws_bpf *bpf, struct ws_bpf_path *paths, size_t max,
		 struct ws_path_counts *strangers)
{
	struct ws_path_value value;
	struct ws_path_key key;
	uint32_t zero = 0;
	size_t count = 0;
	int error;

	if (bpf->map.paths < 0)
		return -ENOTSUP;
	error = ws_map_sum(bpf, bpf->map.strangers, &zero, (uint64_t *)strangers,
			   sizeof(*strangers) / 8);
	if (error)
		return error;
	for (error = ws_map_next(bpf->map.paths, NULL, &key); !error && count < max;
	     error = ws_map_next(bpf->map.paths, &key, &key)) {
		if (ws_map_sum(bpf, bpf->map.paths, &key, (uint64_t *)&value, sizeof(value) / 8))
			continue; /* gave way meanwhile */
		ws_ip_to_addr(&key.local, key.local_port, &paths[count].local);
		ws_ip_to_addr(&key.remote, key.remote_port, &paths[count].remote);
		memcpy(&paths[count].rx, &value.rx, sizeof(value.rx));
		memcpy(&paths[count].tx, &value.tx, sizeof(value.tx));
		count++;
	}
	return error && error != -ENOENT ? error : (int)count;
}
