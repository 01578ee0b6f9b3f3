"""Keeps the core and the engine told of which addresses are inside tunnels (protocol/inside.py)."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Callable, Iterable, Sequence

from whalescale.dataplane.engine import Engine
from whalescale.protocol.inside import Inside, Network, decide
from whalescale.protocol.node import Node
from whalescale.runtime.background import Background
from whalescale.runtime.netlink import Interface, Netlink
from whalescale.runtime.notices import Notices, PeersChanged
from whalescale.runtime.part import Here, Part
from whalescale.runtime.tunnel import Tunnel

log = logging.getLogger(__name__)


class InsideKeeper(Part):
    """`update` at once, `soon` once for all that changes in this turn of the loop."""

    def __init__(
        self,
        node: Node,
        engine: Engine,
        tunnel: Tunnel,
        own: Callable[[], Iterable[Interface]],
        now: Callable[[], int],
        notices: Notices,
    ) -> None:
        """`own`: the tunnel's addresses."""
        notices.on(PeersChanged, lambda _: self.soon())
        self._node = node
        self._engine = engine
        self._tunnel = tunnel
        self._own = own
        self._now = now
        self._links: tuple[Network, ...] = ()
        self._others: tuple[Sequence[Network], ...] = ()
        self._told = Inside()
        self._waiting: asyncio.Handle | None = None

    def soon(self) -> None:
        if self._waiting is None:
            self._waiting = asyncio.get_running_loop().call_soon(self.update)

    def follow(self, here: Here) -> None:
        """The uplinks' addresses are outside."""
        self._links = tuple(
            ipaddress.ip_interface(f"{link.ip}/{link.prefix_length}").network
            for link in here.links
            if link.prefix_length and not link.link_local
        )
        self.update()

    def follow_others(self, networks: Iterable[Sequence[Network]]) -> None:
        """Those of each other tunnel of this host."""
        self._others = tuple(networks)
        self.update()

    def update(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
        peers = self._tunnel.peers.values()
        inside = decide(
            own=(a.network for a in self._own()),
            others=self._others,
            allowed=(p.networks for p in peers),
            links=self._links,
            endpoints=(e.ip for p in peers for e in p.endpoints),
        )
        if inside == self._told:
            return
        try:
            self._engine.set_inside(inside.inside, inside.outside)
        except OSError as e:
            log.error("networks inside tunnels: %s", e.strerror)
            return
        self._told = inside
        self._node.set_inside(inside, self._now())


class OtherTunnels(Part):
    """Looks for the networks that lead into other tunnels of this host."""

    def __init__(
        self, netlink: Netlink, ifindex: int, inside: InsideKeeper, background: Background
    ) -> None:
        """`ifindex`: of the tunnel that is not another one."""
        self._netlink = netlink
        self._ifindex = ifindex
        self._inside = inside
        self._background = background

    def follow(self, here: Here) -> None:
        self._background.spawn(self._look())

    async def _look(self) -> None:
        try:
            found = await self._netlink.tunnel_networks(self._ifindex)
        except OSError as e:
            log.warning("other tunnels: %s", e.strerror)
            return
        self._inside.follow_others(found)
