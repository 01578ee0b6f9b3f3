"""The routes that the configuration's allowed IPs ask for, changed as one and undone on failure."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from whalescale.runtime.errors import EXIT_PERMISSION, AgentError
from whalescale.runtime.netlink import MAIN_TABLE, Interface, Netlink, Network, Route, Rule

log = logging.getLogger(__name__)

#: where wg-quick(8) begins to look for a table of its own
FIRST_TABLE: Final = 51820


class Holders:
    """Which of `networks` hold an address: one look for each length in use, however many there
    are."""

    def __init__(self, networks: Iterable[Network]) -> None:
        #: by IP version, length, the prefix's bits
        self._networks: dict[tuple[int, int, int], Network] = {}
        self._lengths: dict[int, set[int]] = {4: set(), 6: set()}
        for n in networks:
            bits = int(n.network_address) >> (n.max_prefixlen - n.prefixlen)
            self._networks[n.version, n.prefixlen, bits] = n
            self._lengths[n.version].add(n.prefixlen)

    def __bool__(self) -> bool:
        return bool(self._networks)

    def of(self, address: str) -> set[Network]:
        """`address`: numeric text, without a zone."""
        ip = ipaddress.ip_address(address)
        return set(self._around(ip.version, int(ip), ip.max_prefixlen))

    def hold(self, network: Network) -> bool:
        """Whether one of them holds all of it."""
        address = int(network.network_address)
        return any(
            n.prefixlen <= network.prefixlen
            for n in self._around(network.version, address, network.max_prefixlen)
        )

    def _around(self, version: int, address: int, whole: int) -> Iterator[Network]:
        for length in self._lengths[version]:
            found = self._networks.get((version, length, address >> (whole - length)))
            if found is not None:
                yield found


@dataclass(frozen=True)
class Cover:
    """Routes that lead to all members: of ten thousand a route each would take seconds to put in
    and to look at. Those within a subnet of this host need one, or the subnet would have them."""

    networks: Holders = field(default_factory=lambda: Holders(()))
    near: Holders = field(default_factory=lambda: Holders(()))
    #: where a member's own route goes, which says no more than an MTU
    table: int = MAIN_TABLE
    ruled: bool = True

    def holds(self, network: Network) -> bool:
        return self.networks.hold(network) and not self.near.hold(network)


def wanted_routes(
    allowed: Iterable[Network],
    own: Iterable[Interface],
    default_table: int,
    endpoints: Iterable[str] = (),
) -> set[Route]:
    """Routes for `allowed`; none where the kernel has made the very same one for an own address.

    0.0.0.0/0 and ::/0 go to `default_table`, so that the main table keeps its own default; and so
    does what else holds one of the peers' `endpoints` (0.0.0.0/1, the network that a peer stands
    in): our own datagrams pass that table by, or they would go into the tunnel that they make.
    """
    connected = {a.network for a in own}
    networks = {n for n in allowed if n not in connected}
    around = Holders(networks)
    apart = {n for n in networks if n.prefixlen == 0}
    for endpoint in endpoints:
        apart |= around.of(endpoint)
    return {Route(n, default_table if n in apart else MAIN_TABLE) for n in networks}


def rules_for(routes: Iterable[Route]) -> set[Rule]:
    """The rules that lead to what is not in the main table."""
    return {
        Rule(r.network.version, r.network.prefixlen, table)
        for r in routes
        if r.table != MAIN_TABLE and r.ruled
        for table in (MAIN_TABLE, r.table)
    }


async def free_table(netlink: Netlink) -> int:
    """The first table without routes, from 51820 on: ours after a kill -9, its routes are gone."""
    table = FIRST_TABLE
    while await netlink.table_in_use(table):
        table += 1
    return table


class Routes:
    """What this agent put into the kernel's tables, so that it can take it out again."""

    def __init__(self, netlink: Netlink, ifindex: int, name: str) -> None:
        self._netlink = netlink
        self._ifindex = ifindex
        self._name = name
        #: replaced by who asks for routes
        self.cover = Cover()
        self._asked: dict[Network, Route] = {}
        self._routes: set[Route] = set()
        self._rules: set[Rule] = set()
        self._in_main = Holders(())
        self._mtus: dict[Network, int] = {}
        #: members' addresses among them
        self._members: frozenset[Network] = frozenset()

    @property
    def asked(self) -> set[Route]:
        """As `apply` was told."""
        return set(self._asked.values())

    @property
    def routes(self) -> frozenset[Route]:
        """What stands in the tables."""
        return frozenset(self._routes)

    @property
    def rules(self) -> frozenset[Rule]:
        return frozenset(self._rules)

    @property
    def table(self) -> int:
        """The table of our own, and the mark of the datagrams that pass it by. 0: there is none."""
        return next((r.table for r in self._rules if r.table != MAIN_TABLE), 0)

    def swallow(self, address: str) -> bool:
        """Whether datagrams to this address would go into the tunnel, in spite of their mark."""
        return bool(self._in_main.of(address))

    async def apply(self, wanted: set[Route]) -> None:
        """Make the installed routes equal to `wanted`. AgentError: nothing has changed.

        What the interface cannot take now (it is down, or has no IPv6) is only noted: the keeper
        (`hoststate.py`) puts it in when it can.
        """
        asked = {r.network: r for r in wanted}
        apart = (self._of_member(n) for n in self._members if n not in asked)
        wanted = {self._as_now(r) for r in (*wanted, *filter(None, apart))}
        rules = rules_for(wanted)
        link = await self._netlink.link_state(self._ifindex)
        versions = {4, 6} if link is None or link.ipv6 else {4}
        up = link is None or link.up
        routes_in: list[Route] = []
        rules_in: list[Rule] = []
        try:
            for route in sorted(wanted - self._routes, key=str):
                if up and route.network.version in versions:
                    await self._netlink.add_route(self._ifindex, route)
                    routes_in.append(route)
            # Main's first: for a moment the other alone would take all there is.
            for rule in sorted(rules - self._rules, key=lambda r: (r.table != MAIN_TABLE, r.table)):
                if rule.version in versions and await self._netlink.add_rule(rule):
                    rules_in.append(rule)
        except OSError as e:
            for rule in reversed(rules_in):
                await self._netlink.remove_rule(rule)
            for route in routes_in:
                await self._netlink.remove_route(self._ifindex, route)
            raise self._explain(e) from None
        for rule in _ours_first(self._rules - rules):
            await self._netlink.remove_rule(rule)
        for route in self._routes - wanted:
            await self._netlink.remove_route(self._ifindex, route)
        self._asked, self._routes, self._rules = asked, wanted, rules
        self._in_main = Holders(r.network for r in wanted if r.table == MAIN_TABLE)

    async def set_mtus(
        self, mtus: Mapping[Network, int], members: Collection[Network] = ()
    ) -> None:
        """The longest packet by network; of others it is the interface's MTU. `members`: addresses
        among them that get a route of their own for it where another covers them. Never raises."""
        if mtus == self._mtus:
            return
        before, self._mtus = self._mtus, dict(mtus)
        self._members = frozenset(members)
        for network in before.keys() | mtus.keys():
            route = self._asked.get(network) or self._of_member(network)
            if route is not None and before.get(network, 0) != mtus.get(network, 0):
                new = self._as_now(route)
                self._routes.discard(route)
                if new.mtu or not new.covered:
                    self._routes.add(new)
                await self._set_mtu(new)

    def _of_member(self, network: Network) -> Route | None:
        """None: no other route covers it."""
        if not self.cover.holds(network):
            return None
        return Route(network, self.cover.table, self.cover.ruled, covered=True)

    def _as_now(self, route: Route) -> Route:
        mtu = self._mtus.get(route.network, 0)
        return route if mtu == route.mtu else replace(route, mtu=mtu)

    async def _set_mtu(self, route: Route) -> None:
        try:
            if route.mtu or not route.covered:
                await self._netlink.replace_route(self._ifindex, route)
            else:
                await self._netlink.remove_route(self._ifindex, route)
        except OSError as e:  # an interface that is down: the keeper puts the route in later
            log.info("MTU %d of route %s: %s", route.mtu, route.network, e.strerror or e)

    async def clear(self) -> None:
        """Take everything out again; what fails is logged, the rest goes on."""
        for rule in _ours_first(self._rules):
            try:
                await self._netlink.remove_rule(rule)
            except OSError as e:
                log.warning("%s stays behind: %s", rule, e.strerror or e)
        for route in self._routes:
            try:
                await self._netlink.remove_route(self._ifindex, route)
            except OSError as e:
                log.warning("route %s stays behind: %s", route.network, e)
        self._rules.clear()
        self._routes.clear()
        self._asked.clear()

    def _explain(self, error: OSError) -> AgentError:
        what = (error.strerror or str(error)).removesuffix(f": {os.strerror(errno.EEXIST)}")
        if error.errno == errno.EEXIST:
            return AgentError(
                f"{what}: another route to this network is there already",
                "see `ip route show table all`; change allowed_ips or remove that route",
            )
        if error.errno in (errno.EPERM, errno.EACCES):
            return AgentError(what, "run `sudo ws up`", EXIT_PERMISSION)
        return AgentError(
            f"interface {self._name}: {what}", "check allowed_ips and addresses in the file"
        )


def _ours_first(rules: Iterable[Rule]) -> list[Rule]:
    """Main's stay while another rule of the length is there."""
    return sorted(rules, key=lambda r: r.table == MAIN_TABLE)
