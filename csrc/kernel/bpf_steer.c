/* SPDX-License-Identifier: MIT */
/* Steering of datagrams to sockets and of packets to TUN queues, for the engine. */
#include "kernel/bpf.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_tun.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

static int group_key(int fd, struct ws_group_key *key)
{
	struct sockaddr_storage storage;
	socklen_t len = sizeof(storage), size = sizeof(int);
	struct ws_addr addr;
	int device = 0;

	memset(key, 0, sizeof(*key));
	memset(&addr, 0, sizeof(addr));
	if (getsockname(fd, (struct sockaddr *)&storage, &len) ||
	    getsockopt(fd, SOL_SOCKET, SO_BINDTOIFINDEX, &device, &size))
		return -errno;
	if (storage.ss_family == AF_INET6) {
		const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&storage;

		addr.family = 6;
		memcpy(addr.ip, &in6->sin6_addr, 16);
		key->port = ntohs(in6->sin6_port);
	} else if (storage.ss_family == AF_INET) {
		const struct sockaddr_in *in = (const struct sockaddr_in *)&storage;

		addr.family = 4;
		memcpy(addr.ip, &in->sin_addr, 4);
		key->port = ntohs(in->sin_port);
	} else {
		return -EAFNOSUPPORT;
	}
	ws_ip_from_addr(&addr, &key->local);
	key->ifindex = (uint32_t)device;
	return 0;
}

int ws_bpf_steer_attach(ws_bpf *bpf, const int *fds, uint32_t workers)
{
	struct ws_group_key key;
	uint32_t group, zero = 0;
	int error;

	if (bpf->program.steer < 0)
		return -ENOTSUP;
	if (!workers || workers > WS_BPF_WORKERS || (bpf->workers && bpf->workers != workers))
		return -EINVAL;
	for (group = 0; group < WS_BPF_GROUPS && bpf->group_used[group]; group++)
		;
	if (group == WS_BPF_GROUPS)
		return -ENOSPC;
	error = group_key(fds[0], &key);
	if (error)
		return error;
	for (uint32_t i = 0; i < workers; i++) {
		uint32_t slot = group * WS_BPF_WORKERS + i;
		uint64_t fd = (uint64_t)fds[i];

		error = ws_map_update(bpf->map.sockets, &slot, &fd);
		if (error)
			return error;
	}
	error = ws_map_update(bpf->map.workers, &zero, &workers);
	if (!error)
		error = ws_map_update(bpf->map.groups, &key, &group);
	if (error)
		return error;
	if (setsockopt(fds[0], SOL_SOCKET, SO_ATTACH_REUSEPORT_EBPF, &bpf->program.steer,
		       sizeof(bpf->program.steer))) {
		error = -errno;
		(void)ws_map_delete(bpf->map.groups, &key);
		return error;
	}
	bpf->workers = workers;
	bpf->group_used[group] = true;
	bpf->group[group] = key;
	return (int)group;
}

int ws_bpf_steer_detach(ws_bpf *bpf, int group)
{
	uint32_t found;

	if (group < 0 || group >= WS_BPF_GROUPS || !bpf->group_used[group])
		return -ENOENT;
	/* A new group of the same address may have taken the entry over. */
	if (!ws_map_lookup(bpf->map.groups, &bpf->group[group], &found) && found == (uint32_t)group)
		(void)ws_map_delete(bpf->map.groups, &bpf->group[group]);
	bpf->group_used[group] = false;
	return 0;
}

int ws_bpf_tunsteer_attach(ws_bpf *bpf, int tun_fd)
{
	if (bpf->program.tunsteer < 0)
		return -ENOTSUP;
	return ioctl(tun_fd, TUNSETSTEERINGEBPF, &bpf->program.tunsteer) ? -errno : 0;
}

static int prefix_key(const struct ws_prefix *prefix, struct ws_prefix_key *key)
{
	struct ws_addr addr = {.family = prefix->family};

	if ((prefix->family != 4 || prefix->cidr > 32) &&
	    (prefix->family != 6 || prefix->cidr > 128))
		return -EINVAL;
	memcpy(addr.ip, prefix->ip, sizeof(addr.ip));
	ws_ip_from_addr(&addr, &key->ip);
	key->bits = prefix->cidr + (prefix->family == 4 ? 96 : 0);
	return 0;
}

int ws_bpf_tunsteer_set(ws_bpf *bpf, const struct ws_prefix *prefix, uint32_t worker)
{
	struct ws_prefix_key key;
	int error = prefix_key(prefix, &key);

	if (bpf->program.tunsteer < 0)
		return -ENOTSUP;
	return error ? error : ws_map_update(bpf->map.owners, &key, &worker);
}

int ws_bpf_tunsteer_remove(ws_bpf *bpf, const struct ws_prefix *prefix)
{
	struct ws_prefix_key key;
	int error = prefix_key(prefix, &key);

	if (bpf->program.tunsteer < 0)
		return -ENOTSUP;
	return error ? error : ws_map_delete(bpf->map.owners, &key);
}
int ws_bpf_steer_stats(ws_bpf *bpf, uint32_t program, uint64_t *sent, uint64_t *failed)
{
	int map = program == WS_BPF_STEER ? bpf->map.steer_counts : bpf->map.tunsteer_counts;
	uint32_t key = WS_STEER_SENT;
	int error;

	if (map < 0)
		return -ENOTSUP;
	error = ws_map_sum(bpf, map, &key, sent, 1);
	key = WS_STEER_FAILED;
	return error ? error : ws_map_sum(bpf, map, &key, failed, 1);
}
