"""The interface's MTU: what all paths take, and at most what is configured."""

from __future__ import annotations

import asyncio
import logging

from whalescale.config import Config
from whalescale.dataplane.engine import Engine
from whalescale.runtime.background import Background
from whalescale.runtime.netlink import Netlink
from whalescale.runtime.notices import LimitChanged, Notices
from whalescale.runtime.part import Part
from whalescale.runtime.reload import tunnel_mtu

log = logging.getLogger(__name__)


class TunnelMtu(Part):
    """`changing` is held while it changes."""

    def __init__(
        self,
        config: Config,
        netlink: Netlink,
        ifindex: int,
        engine: Engine,
        changing: asyncio.Lock,
        background: Background,
        notices: Notices,
    ) -> None:
        self._config = config
        self._netlink = netlink
        self._ifindex = ifindex
        self._engine = engine
        self._changing = changing
        notices.on(LimitChanged, lambda told: background.spawn(self.follow_limit(told.limit)))

    async def apply(self, config: Config) -> None:
        self._config = config

    async def follow_limit(self, limit: int | None) -> None:
        """`limit`: what all paths take; None: no limit."""
        async with self._changing:
            mtu = tunnel_mtu(self._config.interface.mtu, limit)
            if mtu == self._engine.mtu:
                return
            try:
                await self._netlink.set_mtu(self._ifindex, mtu)
                self._engine.set_mtu(mtu)
            except OSError as e:
                log.warning("MTU %d: %s", mtu, e.strerror)
                return
            log.info("MTU %d: what every path in use takes", mtu)
