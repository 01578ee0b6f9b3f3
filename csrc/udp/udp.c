/* SPDX-License-Identifier: MIT */
#include "udp/udp.h"

#include "udp/udp_options.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define SOCKET_BUFFER_BYTES (8 << 20)

/* Whether it may pass the system's limit: 0 or -errno. */
static int set_buffer(int fd, int force, int plain)
{
	const int bytes = SOCKET_BUFFER_BYTES;
	int error;

	if (!setsockopt(fd, SOL_SOCKET, force, &bytes, sizeof(bytes)))
		return 0;
	error = -errno;
	(void)setsockopt(fd, SOL_SOCKET, plain, &bytes, sizeof(bytes));
	return error;
}

static uint32_t buffer_bytes(int fd, int which)
{
	int bytes = 0;
	socklen_t len = sizeof(bytes);

	/* The kernel doubles what was asked for: room for its own bookkeeping. */
	return getsockopt(fd, SOL_SOCKET, which, &bytes, &len) ? 0 : (uint32_t)bytes / 2;
}

void ws_udp_probe_buffers(int fd, struct ws_udp_parts *parts)
{
	parts->receive_force = set_buffer(fd, SO_RCVBUFFORCE, SO_RCVBUF);
	parts->send_force = set_buffer(fd, SO_SNDBUFFORCE, SO_SNDBUF);
	parts->receive_bytes = buffer_bytes(fd, SO_RCVBUF);
	parts->send_bytes = buffer_bytes(fd, SO_SNDBUF);
}

/*
 * Without DF, as the kernel's WireGuard sends: where a router's "too big" is filtered, DF makes a
 * hole of a narrow link. Between Whalescale nodes probes with DF find the path's MTU.
 */
static int let_fragment(int fd, bool v6)
{
	const int dont = v6 ? IPV6_PMTUDISC_DONT : IP_PMTUDISC_DONT;

	return setsockopt(fd, v6 ? IPPROTO_IPV6 : IPPROTO_IP,
			  v6 ? IPV6_MTU_DISCOVER : IP_MTU_DISCOVER, &dont, sizeof(dont));
}

int ws_udp_open(const struct ws_addr *local, uint32_t ifindex, uint32_t fwmark, bool gro,
		bool share, struct ws_socket *out, struct ws_addr *bound)
{
	const int one = 1;
	union ws_sockaddr sa;
	socklen_t len;
	int fd, error;
	bool v6 = local->family == 6;

	if (local->family != 4 && local->family != 6)
		return -EINVAL;
	fd = socket(v6 ? AF_INET6 : AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	out->wildcard = ws_addr_any(local);
	out->ifindex = ifindex;
	if (v6) {
		if (setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one)) ||
		    setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &one, sizeof(one)) ||
		    setsockopt(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, &one, sizeof(one)))
			goto fail;
	} else {
		if (setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &one, sizeof(one)) ||
		    setsockopt(fd, IPPROTO_IP, IP_RECVTOS, &one, sizeof(one)))
			goto fail;
	}
	if (let_fragment(fd, v6))
		goto fail;
	if (fwmark && setsockopt(fd, SOL_SOCKET, SO_MARK, &fwmark, sizeof(fwmark)))
		goto fail;
	if (ifindex && setsockopt(fd, SOL_SOCKET, SO_BINDTOIFINDEX, &ifindex, sizeof(ifindex)))
		goto fail;
	(void)set_buffer(fd, SO_RCVBUFFORCE, SO_RCVBUF);
	(void)set_buffer(fd, SO_SNDBUFFORCE, SO_SNDBUF);
	out->gro = gro && !setsockopt(fd, IPPROTO_UDP, UDP_GRO, &one, sizeof(one));
	/*
	 * The first wildcard binds without SO_REUSEPORT, so that a port somebody holds is an error.
	 * What has it afterwards lets in sockets of the same user only; SO_REUSEADDR would let in
	 * those of any.
	 */
	share |= !out->wildcard;
	if (share && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)))
		goto fail;
	ws_addr_to_sockaddr(local, &sa, &len);
	if (bind(fd, &sa.sa, len))
		goto fail;
	if (!share && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)))
		goto fail;
	len = sizeof(sa);
	if (getsockname(fd, &sa.sa, &len))
		goto fail;
	ws_sockaddr_to_addr(&sa, &out->local);
	/* Two interfaces can have one IPv4 address: then the zone tells them apart. */
	if (!v6)
		out->local.scope_id = local->scope_id;
	*bound = out->local;
	out->fd = fd;
	return 0;
fail:
	error = errno;
	close(fd);
	return -error;
}

void ws_udp_read_control(const struct ws_socket *socket, struct msghdr *msg, struct ws_rx *rx)
{
	rx->local = socket->local;
	rx->ifindex = 0;
	rx->stride = 0;
	rx->tos = 0;
	rx->group = false;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		const void *data = CMSG_DATA(c);

		if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_GRO) {
			int stride;

			memcpy(&stride, data, sizeof(stride));
			rx->stride = stride > 0 ? (size_t)stride : 0;
		} else if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_TOS) {
			memcpy(&rx->tos, data, 1);
		} else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_TCLASS) {
			int tclass;

			memcpy(&tclass, data, sizeof(tclass));
			rx->tos = (uint8_t)tclass;
		} else if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
			struct in_pktinfo info;

			memcpy(&info, data, sizeof(info));
			memcpy(rx->local.ip, &info.ipi_spec_dst, 4);
			rx->ifindex = (uint32_t)info.ipi_ifindex;
			/* The address in the header, and the one of ours that stands for it. */
			rx->group = info.ipi_addr.s_addr != info.ipi_spec_dst.s_addr;
		} else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
			struct in6_pktinfo info;

			memcpy(&info, data, sizeof(info));
			memcpy(rx->local.ip, &info.ipi6_addr, 16);
			rx->ifindex = (uint32_t)info.ipi6_ifindex;
			rx->group = IN6_IS_ADDR_MULTICAST(&info.ipi6_addr);
			/* The zone matters for fe80::/10 alone. */
			rx->local.scope_id = IN6_IS_ADDR_LINKLOCAL(&info.ipi6_addr)
						     ? (uint32_t)info.ipi6_ifindex
						     : 0;
		}
	}
}

static void *put_control(struct msghdr *msg, int level, int type, size_t len)
{
	struct cmsghdr *c = (struct cmsghdr *)((uint8_t *)msg->msg_control + msg->msg_controllen);

	c->cmsg_level = level;
	c->cmsg_type = type;
	c->cmsg_len = CMSG_LEN(len);
	msg->msg_controllen += CMSG_SPACE(len);
	memset(CMSG_DATA(c), 0, len);
	return CMSG_DATA(c);
}

const struct ws_socket *ws_udp_socket(const struct ws_socket *sockets, const struct ws_tx *tx)
{
	uint8_t family = tx->remote.sa.sa_family == AF_INET6 ? 6 : 4;

	if (tx->socket >= 0 && sockets[tx->socket].fd >= 0)
		return &sockets[tx->socket];
	for (int i = 0; i < WS_MAX_SOCKETS; i++)
		if (sockets[i].fd >= 0 && sockets[i].wildcard && sockets[i].local.family == family)
			return &sockets[i];
	return NULL;
}

void ws_udp_fill(const struct ws_socket *sockets, struct ws_tx *tx, struct msghdr *msg,
		 struct iovec *iov, uint8_t control[WS_CONTROL_BYTES], bool gso)
{
	const struct ws_socket *socket = ws_udp_socket(sockets, tx);
	bool v6 = tx->remote.sa.sa_family == AF_INET6;

	iov->iov_base = tx->data;
	iov->iov_len = tx->len;
	memset(msg, 0, sizeof(*msg));
	msg->msg_name = &tx->remote;
	msg->msg_namelen = tx->remote_bytes;
	msg->msg_iov = iov;
	msg->msg_iovlen = 1;
	msg->msg_control = control;
	if (gso && tx->count > 1) {
		uint16_t stride = (uint16_t)tx->stride;

		memcpy(put_control(msg, IPPROTO_UDP, UDP_SEGMENT, sizeof(stride)), &stride,
		       sizeof(stride));
	}
	if (tx->ecn) {
		int tos = tx->ecn;

		memcpy(put_control(msg, v6 ? IPPROTO_IPV6 : IPPROTO_IP, v6 ? IPV6_TCLASS : IP_TOS,
				   sizeof(tos)),
		       &tos, sizeof(tos));
	}
	/* Answer from the address that was spoken to, whatever the routing table prefers. */
	if (socket && (socket->wildcard || tx->ifindex) && tx->local.family == (v6 ? 6 : 4)) {
		if (v6) {
			struct in6_pktinfo info = {
				.ipi6_ifindex = tx->ifindex ? tx->ifindex : tx->local.scope_id,
			};

			memcpy(&info.ipi6_addr, tx->local.ip, 16);
			memcpy(put_control(msg, IPPROTO_IPV6, IPV6_PKTINFO, sizeof(info)), &info,
			       sizeof(info));
		} else {
			struct in_pktinfo info = {.ipi_ifindex = (int)tx->ifindex};

			memcpy(&info.ipi_spec_dst, tx->local.ip, 4);
			memcpy(put_control(msg, IPPROTO_IP, IP_PKTINFO, sizeof(info)), &info,
			       sizeof(info));
		}
	}
	if (!msg->msg_controllen)
		msg->msg_control = NULL;
}

/* One that may be gone with the address it was bound to or spoken to. */
static bool source_gone(int error)
{
	return error == EINVAL || error == EADDRNOTAVAIL || error == ENETUNREACH ||
	       error == EHOSTUNREACH || error == ENODEV;
}

static bool strictly_bound(const struct ws_tx *tx, const struct ws_socket *socket)
{
	return tx->socket >= 0 && socket->ifindex && !tx->local.scope_id;
}

int ws_udp_send(const struct ws_socket *sockets, struct ws_tx *tx, uint32_t at, uint32_t len)
{
	_Alignas(struct cmsghdr) uint8_t control[WS_CONTROL_BYTES];
	const struct ws_socket *socket;
	struct msghdr msg;
	struct iovec iov;

	for (;;) {
		socket = ws_udp_socket(sockets, tx);
		if (!socket)
			return EAFNOSUPPORT;
		ws_udp_fill(sockets, tx, &msg, &iov, control, false);
		iov.iov_base = tx->data + at;
		iov.iov_len = len;
		if (sendmsg(socket->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0)
			return 0;
		/* No route leaves by the interface that has the address (a router's, a service's):
		 * then it is only a wish, for the routing table to heed or not. */
		if (strictly_bound(tx, socket) && (errno == ENETUNREACH || errno == EHOSTUNREACH)) {
			tx->socket = -1;
			continue;
		}
		/* A path is its source address and interface: another way would be another path. */
		if (!tx->local.family || tx->ifindex || !source_gone(errno))
			return errno;
		tx->local.family = 0;
		tx->socket = -1;
	}
}

int ws_udp_send_whole(const struct ws_socket *sockets, struct ws_tx *tx)
{
	const struct ws_socket *socket = ws_udp_socket(sockets, tx);
	bool v6 = tx->remote.sa.sa_family == AF_INET6;
	int level = v6 ? IPPROTO_IPV6 : IPPROTO_IP;
	int option = v6 ? IPV6_MTU_DISCOVER : IP_MTU_DISCOVER;
	int probe = v6 ? IPV6_PMTUDISC_PROBE : IP_PMTUDISC_PROBE;
	int error;

	if (!socket)
		return EBADF;
	(void)setsockopt(socket->fd, level, option, &probe, sizeof(probe));
	error = ws_udp_send(sockets, tx, 0, tx->len);
	(void)let_fragment(socket->fd, v6);
	return error;
}
