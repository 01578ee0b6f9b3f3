/* SPDX-License-Identifier: MIT */
#include "kernel/route.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define ANSWER_BYTES 4096
#define WAIT_US 200000 /* the kernel answers within the call */

struct question {
	struct nlmsghdr head;
	struct rtmsg route;
	uint8_t attributes[160];
};

int ws_route_open(void)
{
	const struct timeval wait = {.tv_usec = WAIT_US};
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

	if (fd < 0)
		return -errno;
	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait))) {
		int error = -errno;

		close(fd);
		return error;
	}
	return fd;
}

static void put(struct question *q, uint16_t type, const void *data, size_t bytes)
{
	struct rtattr attribute = {.rta_len = (uint16_t)RTA_LENGTH(bytes), .rta_type = type};
	uint8_t *at = (uint8_t *)q + q->head.nlmsg_len;

	memcpy(at, &attribute, sizeof(attribute));
	memcpy(at + sizeof(attribute), data, bytes);
	q->head.nlmsg_len += (uint32_t)RTA_SPACE(bytes);
}

static size_t ip_bytes(const struct ws_addr *addr)
{
	return addr->family == 4 ? 4 : 16;
}

static void ask(struct question *q, const struct ws_route_key *key, uint32_t number)
{
	const uint8_t udp = IPPROTO_UDP;
	uint16_t port;

	memset(q, 0, sizeof(*q));
	q->head = (struct nlmsghdr){
		.nlmsg_len = NLMSG_LENGTH(sizeof(q->route)),
		.nlmsg_type = RTM_GETROUTE,
		.nlmsg_flags = NLM_F_REQUEST,
		.nlmsg_seq = number,
	};
	q->route.rtm_family = key->remote.family == 4 ? AF_INET : AF_INET6;
	q->route.rtm_dst_len = (uint8_t)(8 * ip_bytes(&key->remote));
	put(q, RTA_DST, key->remote.ip, ip_bytes(&key->remote));
	if (key->local.family == key->remote.family) {
		q->route.rtm_src_len = q->route.rtm_dst_len;
		put(q, RTA_SRC, key->local.ip, ip_bytes(&key->local));
	}
	if (key->ifindex)
		put(q, RTA_OIF, &key->ifindex, sizeof(key->ifindex));
	if (key->mark)
		put(q, RTA_MARK, &key->mark, sizeof(key->mark));
	/* Rules may go by them. */
	put(q, RTA_IP_PROTO, &udp, sizeof(udp));
	port = htons(key->local.port);
	put(q, RTA_SPORT, &port, sizeof(port));
	port = htons(key->remote.port);
	put(q, RTA_DPORT, &port, sizeof(port));
}

static void take_ip(struct ws_addr *addr, uint8_t family, const void *data, size_t bytes)
{
	memset(addr, 0, sizeof(*addr));
	addr->family = family;
	if (bytes >= ip_bytes(addr))
		memcpy(addr->ip, data, ip_bytes(addr));
	else
		addr->family = 0;
}

static uint32_t number_of(const struct rtattr *attribute)
{
	uint32_t number = 0;

	if (RTA_PAYLOAD(attribute) >= sizeof(number))
		memcpy(&number, RTA_DATA(attribute), sizeof(number));
	return number;
}

static void take_metrics(struct ws_route *route, const struct rtattr *metrics)
{
	int left = (int)RTA_PAYLOAD(metrics);

	for (struct rtattr *a = RTA_DATA(metrics); RTA_OK(a, left); a = RTA_NEXT(a, left))
		if (a->rta_type == RTAX_MTU)
			route->mtu = number_of(a);
}

static void take(struct ws_route *route, uint8_t family, struct rtattr *a, int left)
{
	for (; RTA_OK(a, left); a = RTA_NEXT(a, left)) {
		switch (a->rta_type) {
		case RTA_OIF:
			route->ifindex = number_of(a);
			break;
		case RTA_GATEWAY:
			take_ip(&route->next_hop, family, RTA_DATA(a), RTA_PAYLOAD(a));
			break;
		case RTA_VIA: /* an IPv6 gateway of an IPv4 route */
			if (RTA_PAYLOAD(a) == sizeof(struct rtvia) + 16)
				take_ip(&route->next_hop, 6,
					(uint8_t *)RTA_DATA(a) + sizeof(struct rtvia), 16);
			break;
		case RTA_PREFSRC:
			take_ip(&route->source, family, RTA_DATA(a), RTA_PAYLOAD(a));
			break;
		case RTA_METRICS:
			take_metrics(route, a);
			break;
		default:
			break;
		}
	}
}

static uint32_t interface_mtu(int fd, uint32_t ifindex)
{
	struct ifreq request;

	memset(&request, 0, sizeof(request));
	if (!if_indextoname(ifindex, request.ifr_name) || ioctl(fd, SIOCGIFMTU, &request))
		return 0;
	return request.ifr_mtu > 0 ? (uint32_t)request.ifr_mtu : 0;
}

static int read_answer(const struct nlmsghdr *head, size_t bytes, const struct ws_route_key *key,
		       struct ws_route *route)
{
	const struct rtmsg *found = NLMSG_DATA(head);

	if (!NLMSG_OK(head, bytes))
		return -EBADMSG;
	if (head->nlmsg_type == NLMSG_ERROR) {
		const struct nlmsgerr *error = NLMSG_DATA(head);

		if (head->nlmsg_len < NLMSG_LENGTH(sizeof(*error)) || !error->error)
			return -EBADMSG;
		return error->error == -ENETUNREACH || error->error == -EHOSTUNREACH ? -ENETUNREACH
										     : error->error;
	}
	if (head->nlmsg_type != RTM_NEWROUTE || head->nlmsg_len < NLMSG_LENGTH(sizeof(*found)))
		return -EBADMSG;
	if (found->rtm_type != RTN_UNICAST)
		return -ENETUNREACH;
	route->next_hop = key->remote;
	take(route, key->remote.family, RTM_RTA(found), (int)RTM_PAYLOAD(head));
	return route->ifindex ? 0 : -ENETUNREACH;
}

int ws_route_find(int fd, const struct ws_route_key *key, struct ws_route *route)
{
	static uint32_t numbers; /* on the controlling thread alone */
	_Alignas(struct nlmsghdr) uint8_t answer[ANSWER_BYTES];
	const struct nlmsghdr *head = (const struct nlmsghdr *)answer;
	struct question q;
	ssize_t got;
	uint32_t on_link;
	int error;

	memset(route, 0, sizeof(*route));
	ask(&q, key, ++numbers);
	if (send(fd, &q, q.head.nlmsg_len, 0) < 0)
		return -errno;
	do { /* what an earlier call did not wait for is passed over */
		got = recv(fd, answer, sizeof(answer), 0);
		if (got < 0)
			return -errno;
		if ((size_t)got < sizeof(*head))
			return -EBADMSG;
	} while (head->nlmsg_seq != q.head.nlmsg_seq);
	error = read_answer(head, (size_t)got, key, route);
	if (error)
		return error;
	on_link = interface_mtu(fd, route->ifindex);
	if (!route->mtu || route->mtu > on_link)
		route->mtu = on_link;
	return route->mtu ? 0 : -ENODEV;
}
