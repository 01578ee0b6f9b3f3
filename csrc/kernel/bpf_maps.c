/* SPDX-License-Identifier: MIT */
/* Maps of the programs in bpf/, by bpf(2) alone. */
#include "kernel/bpf.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/bpf.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int sys_bpf(enum bpf_cmd command, union bpf_attr *attr)
{
	long result = syscall(SYS_bpf, command, attr, sizeof(*attr));

	return result < 0 ? -errno : (int)result;
}

static int map_call(enum bpf_cmd command, int map, const void *key, const void *value,
		    uint64_t flags)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.map_fd = (uint32_t)map;
	attr.key = (uintptr_t)key;
	attr.value = (uintptr_t)value;
	attr.flags = flags;
	return sys_bpf(command, &attr);
}

int ws_map_update(int map, const void *key, const void *value)
{
	return map_call(BPF_MAP_UPDATE_ELEM, map, key, value, BPF_ANY);
}

int ws_map_lookup(int map, const void *key, void *value)
{
	return map_call(BPF_MAP_LOOKUP_ELEM, map, key, value, 0);
}

int ws_map_delete(int map, const void *key)
{
	return map_call(BPF_MAP_DELETE_ELEM, map, key, NULL, 0);
}

int ws_map_next(int map, const void *key, void *next)
{
	return map_call(BPF_MAP_GET_NEXT_KEY, map, key, next, 0);
}

int ws_map_sum(struct ws_bpf *bpf, int map, const void *key, uint64_t *sum, size_t words)
{
	const uint64_t *value = bpf->per_cpu;
	int error = ws_map_lookup(map, key, bpf->per_cpu);

	if (error)
		return error;
	memset(sum, 0, words * sizeof(*sum));
	for (int cpu = 0; cpu < bpf->cpus; cpu++) {
		for (size_t i = 0; i < words; i++)
			sum[i] += *value++;
	}
	return 0;
}

void ws_ip_from_addr(const struct ws_addr *addr, struct ws_ip *ip)
{
	memset(ip, 0, sizeof(*ip));
	if (addr->family == 6) {
		memcpy(ip, addr->ip, sizeof(*ip));
	} else {
		ip->word[2] = htonl(0xffff);
		memcpy(&ip->word[3], addr->ip, 4);
	}
}

void ws_ip_to_addr(const struct ws_ip *ip, uint16_t port, struct ws_addr *addr)
{
	memset(addr, 0, sizeof(*addr));
	addr->port = port;
	if (!ip->word[0] && !ip->word[1] && ip->word[2] == htonl(0xffff)) {
		addr->family = 4;
		memcpy(addr->ip, &ip->word[3], 4);
	} else {
		addr->family = 6;
		memcpy(addr->ip, ip, sizeof(*ip));
	}
}
