"""Routes, rules and the mark of our datagrams, for what the peers' networks are now."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
from collections.abc import Callable, Iterable, Sequence

from whalescale.config import Config
from whalescale.protocol.inside import OVERLAY
from whalescale.runtime.background import Background
from whalescale.runtime.errors import AgentError
from whalescale.runtime.hoststate import Keeper
from whalescale.runtime.netlink import MAIN_TABLE, Interface, Netlink, Network, Route
from whalescale.runtime.notices import AddressesHeard, NetworksChanged, Notices
from whalescale.runtime.part import Here, Part
from whalescale.runtime.routes import Holders, Routes, free_table, wanted_routes
from whalescale.runtime.tunnel import Tunnel
from whalescale.runtime.wg_device import WgDevice

log = logging.getLogger(__name__)


class Routing(Part):
    """`changing` is held while routes change."""

    def __init__(
        self,
        config: Config,
        netlink: Netlink,
        routes: Routes,
        device: WgDevice,
        tunnel: Tunnel,
        keeper: Keeper,
        own: Callable[[Config], Sequence[Interface]],
        changing: asyncio.Lock,
        background: Background,
        notices: Notices,
    ) -> None:
        """`own`: the tunnel's addresses by a configuration."""
        self._config = config
        self._netlink = netlink
        self._routes = routes
        self._device = device
        self._tunnel = tunnel
        self._keeper = keeper
        self._own = own
        self._changing = changing
        self._background = background
        self._own_table = 0
        #: subnets of this host's other interfaces
        self._near: frozenset[Network] = frozenset()
        #: one route for all overlay addresses; no more once another tunnel has it
        self._overlay = True
        notices.on(NetworksChanged, lambda _: self._again())
        notices.on(AddressesHeard, self._heard)

    async def apply(self, config: Config) -> None:
        self._config = config

    def follow(self, here: Here) -> None:
        near = frozenset(
            ipaddress.ip_interface(f"{a.ip}/{a.prefix_length}").network
            for a in here.addresses
            if a.prefix_length and not a.link_local
        )
        if near != self._near:
            self._near = near
            if self._tunnel.member_hosts():
                self._again()

    async def wanted(
        self, config: Config, networks: set[Network], endpoints: Iterable[str]
    ) -> tuple[set[Route], int]:
        """The routes, and the mark that our datagrams bear by them."""
        table = config.interface.table
        if table == "off":
            return set(), config.interface.fwmark
        addresses = self._own(config)
        if isinstance(table, int):
            own = {a.network for a in addresses}
            return {Route(n, table, False) for n in networks - own}, config.interface.fwmark
        endpoints = set(endpoints)
        _warn_of_own_network(addresses, endpoints)
        table = config.interface.fwmark or self._own_table
        covered = self._covered(networks, addresses)
        networks = networks - covered
        if any(n.version == 6 for n in covered):
            networks |= {OVERLAY}
        more = {Route(n, covered=True) for n in covered}
        routes = wanted_routes(networks, addresses, table, endpoints) | more
        if all(r.table == MAIN_TABLE for r in routes):
            return routes, config.interface.fwmark
        if not table:
            table = self._own_table = await free_table(self._netlink)
            routes = wanted_routes(networks, addresses, table, endpoints) | more
        return routes, table

    def _covered(self, networks: set[Network], own: Iterable[Interface]) -> set[Network]:
        """Members' addresses that the network's prefix leads to, or the route for all overlay
        addresses: of a thousand members a route each would take seconds to put in and to look at.

        Those within a subnet of this host need one, or the subnet would have them.
        """
        hosts = self._tunnel.member_hosts() & networks
        if not hosts:
            return hosts
        around = Holders([*(a.network for a in own), *([OVERLAY] if self._overlay else [])])
        near = Holders(self._near)
        own_hosts = {n for n in hosts if not around.hold(n) or near.hold(n)}
        return hosts - own_hosts

    async def route(self, networks: set[Network], endpoints: Iterable[str]) -> None:
        """Routes, rules, the mark and what restores it. AgentError: the old ones stand."""
        routes, mark = await self.wanted(self._config, networks, endpoints)
        before, held = self._device.fwmark, self._routes.table
        apart = any(r.table != MAIN_TABLE and r.ruled for r in routes)
        try:
            if apart:
                self._device.set_fwmark(mark)
            try:
                await self._routes.apply(routes)
            except AgentError:
                overlay = Route(OVERLAY)
                if overlay not in routes or overlay in self._routes.routes:
                    raise
                self._overlay = False  # another tunnel of this host has members
                routes, mark = await self.wanted(self._config, networks, endpoints)
                await self._routes.apply(routes)
            if held and not apart:
                self._device.set_fwmark(mark)
        except OSError as e:
            raise AgentError(f"fwmark {mark}: {e.strerror or e}", "see `ws doctor`") from None
        except AgentError:
            with contextlib.suppress(OSError):
                self._device.set_fwmark(before)
            raise
        await self._keeper.mend()

    def _heard(self, addresses: AddressesHeard) -> None:
        """A peer is (said to be) elsewhere: not to be reached through the tunnel itself."""
        if any(self._routes.swallow(a) for a in addresses.ips):
            self._again()

    def _again(self) -> None:
        self._background.spawn(self._reroute())

    async def _reroute(self) -> None:
        """A peer known by fingerprint told its node ID: its overlay address needs a route.

        Or one is where another route led into the tunnel.
        """
        async with self._changing:
            try:
                await self.route(self._tunnel.networks(), self._tunnel.endpoint_addresses())
            except AgentError as e:
                log.warning("%s", e.message)


def _warn_of_own_network(addresses: Sequence[Interface], endpoints: set[str]) -> None:
    own = Holders(a.network for a in addresses)
    for endpoint in sorted(endpoints):
        for network in own.of(endpoint):
            log.warning(
                "the endpoint %s lies in %s, the tunnel's own network: what is sent there "
                "goes into the tunnel itself; change the endpoint or [interface] addresses",
                endpoint,
                network,
            )
