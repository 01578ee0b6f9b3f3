"""Routes, rules and the mark of our datagrams, for what the peers' networks are now."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
from collections.abc import Callable, Iterable, Sequence

from whalescale.config import Config
from whalescale.runtime.background import Background
from whalescale.runtime.errors import AgentError
from whalescale.runtime.hoststate import Keeper
from whalescale.runtime.netlink import MAIN_TABLE, Interface, Netlink, Network, Route
from whalescale.runtime.notices import AddressesHeard, NetworksChanged, Notices
from whalescale.runtime.part import Part
from whalescale.runtime.routes import Routes, free_table, wanted_routes
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
        notices.on(NetworksChanged, lambda _: self._again())
        notices.on(AddressesHeard, self._heard)

    async def apply(self, config: Config) -> None:
        self._config = config

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
        routes = wanted_routes(networks, addresses, table, endpoints)
        if all(r.table == MAIN_TABLE for r in routes):
            return routes, config.interface.fwmark
        if not table:
            table = self._own_table = await free_table(self._netlink)
            routes = wanted_routes(networks, addresses, table, endpoints)
        return routes, table

    async def route(self, networks: set[Network], endpoints: Iterable[str]) -> None:
        """Routes, rules, the mark and what restores it. AgentError: the old ones stand."""
        routes, mark = await self.wanted(self._config, networks, endpoints)
        before, held = self._device.fwmark, self._routes.table
        apart = any(r.table != MAIN_TABLE and r.ruled for r in routes)
        try:
            if apart:
                self._device.set_fwmark(mark)
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
    for endpoint in sorted(endpoints):
        for own in addresses:
            if ipaddress.ip_address(endpoint) in own.network:
                log.warning(
                    "the endpoint %s lies in %s, the tunnel's own network: what is sent there "
                    "goes into the tunnel itself; change the endpoint or [interface] addresses",
                    endpoint,
                    own.network,
                )
