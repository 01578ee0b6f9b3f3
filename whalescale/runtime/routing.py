"""Routes, rules and the mark of our datagrams, for what the peers' networks are now."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence

from whalescale.config import Config
from whalescale.endpoints import is_host
from whalescale.protocol.inside import OVERLAY
from whalescale.runtime.background import Background
from whalescale.runtime.errors import AgentError
from whalescale.runtime.hoststate import Keeper
from whalescale.runtime.netlink import MAIN_TABLE, Interface, Netlink, Network, Route
from whalescale.runtime.notices import AddressesHeard, NetworksChanged, Notices
from whalescale.runtime.part import Here, Part
from whalescale.runtime.routes import Cover, Holders, Routes, free_table, wanted_routes
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
            if self._tunnel.has_members:
                self._again()

    async def wanted(
        self, config: Config, networks: set[Network], endpoints: Iterable[str]
    ) -> tuple[set[Route], int]:
        """The routes, and the mark that our datagrams bear by them."""
        table = config.interface.table
        if table == "off":
            return set(), config.interface.fwmark
        addresses = self._own(config)
        cover = self._routes.cover = self._cover(addresses, table)
        networks = networks.union(self._apart(cover))
        if self._tunnel.has_members and self._overlay:
            networks |= {OVERLAY}
        if isinstance(table, int):
            # The kernel's own route to the network's prefix is in the main table alone.
            leading = self._leading(cover)
            own = {a.network for a in addresses} - leading
            networks = (networks | leading) - own
            return {Route(n, table, False) for n in networks}, config.interface.fwmark
        endpoints = set(endpoints)
        _warn_of_own_network(addresses, endpoints)
        table = config.interface.fwmark or self._own_table
        routes = wanted_routes(networks, addresses, table, endpoints)
        if all(r.table == MAIN_TABLE for r in routes):
            return routes, config.interface.fwmark
        if not table:
            table = self._own_table = await free_table(self._netlink)
            routes = wanted_routes(networks, addresses, table, endpoints)
        return routes, table

    def _cover(self, own: Iterable[Interface], table: int | str) -> Cover:
        """The network's prefix, as an address of ours has it, and the route for all overlay
        addresses."""
        prefixes = {a.network for a in own if not is_host(a.network)}
        if isinstance(table, int):
            # There it would take what this host's own subnet within it has in the main table.
            prefixes = {p for p in prefixes if not any(_overlap(p, n) for n in self._near)}
        around = Holders([*prefixes, *([OVERLAY] if self._overlay else [])])
        if isinstance(table, int):
            return Cover(around, Holders(self._near), table, False)
        return Cover(around, Holders(self._near))

    def _apart(self, cover: Cover) -> Iterator[Network]:
        """Members' networks that need a route of their own."""
        for network in self._tunnel.member_networks():
            if not is_host(network) or not cover.holds(network):
                yield network

    def _leading(self, cover: Cover) -> set[Network]:
        """Of `cover`, those that lead to a member."""
        hosts = (n for n in self._tunnel.member_networks() if is_host(n) and cover.holds(n))
        return {around for n in hosts for around in cover.networks.of(str(n.network_address))}

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
                overlay = next((r for r in routes if r.network == OVERLAY), None)
                if overlay is None or overlay in self._routes.routes:
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


def _overlap(a: Network, b: Network) -> bool:
    return a.version == b.version and a.overlaps(b)


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
