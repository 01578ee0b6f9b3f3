"""The interface's MTU: what some peer takes, and at most what is configured.

Routes to a peer that takes less say so: one behind a narrow link, or that claims to be, shortens
nobody else's packets.
"""

from __future__ import annotations

import asyncio
import logging

from whalescale.config import Config
from whalescale.dataplane.engine import Engine
from whalescale.endpoints import is_host
from whalescale.runtime.background import Background
from whalescale.runtime.netlink import Netlink, Network
from whalescale.runtime.notices import LimitChanged, Notices, PeersChanged
from whalescale.runtime.part import Part
from whalescale.runtime.reload import tunnel_mtu
from whalescale.runtime.routes import Routes
from whalescale.runtime.tunnel import Origin, Tunnel

log = logging.getLogger(__name__)


class TunnelMtu(Part):
    """`changing` is held while it changes."""

    def __init__(
        self,
        config: Config,
        netlink: Netlink,
        ifindex: int,
        engine: Engine,
        tunnel: Tunnel,
        routes: Routes,
        changing: asyncio.Lock,
        background: Background,
        notices: Notices,
    ) -> None:
        self._config = config
        self._netlink = netlink
        self._ifindex = ifindex
        self._engine = engine
        self._tunnel = tunnel
        self._routes = routes
        self._changing = changing
        for kind in (LimitChanged, PeersChanged):
            notices.on(kind, lambda _: background.spawn(self.follow_limits()))

    async def apply(self, config: Config) -> None:
        self._config = config

    async def follow_limits(self) -> None:
        """As the peers' limits are now."""
        async with self._changing:
            paths = self._tunnel.driver.paths
            mtu = tunnel_mtu(self._config.interface.mtu, paths.limit)
            if mtu != self._engine.mtu:
                try:
                    await self._netlink.set_mtu(self._ifindex, mtu)
                    self._engine.set_mtu(mtu)
                except OSError as e:
                    log.warning("MTU %d: %s", mtu, e.strerror)
                    return
                log.info("MTU %d: what the paths in use take", mtu)
            less: dict[Network, int] = {}
            members: set[Network] = set()
            for peer in self._tunnel.peers.values():
                limit = tunnel_mtu(mtu, paths.limit_of(peer.handle))
                if limit < mtu:
                    less |= dict.fromkeys(peer.networks, limit)
                    if peer.spec.origin is Origin.MESH:
                        members.update(filter(is_host, peer.networks))
            await self._routes.set_mtus(less, members)
