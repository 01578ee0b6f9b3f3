"""IPv4 endpoints reached from a host that has IPv6 alone; protocol/nat/nat64.py says how.

Prefixes of router advertisements (RFC 8781) come as the kernel hears them, so after the first one
since the agent began; the resolver (RFC 7050) is asked besides. What a router says comes first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv6Network
from typing import Any, ClassVar, Final

from whalescale.dataplane import engine as dataplane
from whalescale.protocol.limits import NS_PER_S
from whalescale.protocol.nat import nat64
from whalescale.protocol.places import Endpoint
from whalescale.runtime.part import Here, Part

log = logging.getLogger(__name__)

#: seconds until the resolver is asked again: where it had no answer, and where it had
RETRY_S: Final = 30.0
AGAIN_S: Final = 3600.0
#: nlmsghdr and nduseroptmsg
HEADER_BYTES: Final = 32
#: ICMPv6
ADVERTISEMENT: Final = 134


async def listen(heard: Callable[[int, bytes], None]) -> None:
    """The options that the kernel leaves to others, of each advertisement. OSError."""
    from pyroute2.iproute import AsyncIPRoute
    from pyroute2.netlink import nlmsg
    from pyroute2.netlink.rtnl import RTM_NEWNDUSEROPT, RTNLGRP_ND_USEROPT

    class nduseroptmsg(nlmsg):  # type: ignore[misc]
        """linux/rtnetlink.h; the options stand behind it."""

        prefix = "NDUSEROPT_"
        fields = (
            ("family", "B"),
            ("pad1", "B"),
            ("opts_len", "H"),
            ("ifindex", "i"),
            ("icmp_type", "B"),
            ("icmp_code", "B"),
            ("pad2", "H"),
            ("pad3", "I"),
        )
        nla_map = ()

    async with AsyncIPRoute() as ipr:
        ipr.marshal.msg_map[RTM_NEWNDUSEROPT] = nduseroptmsg
        await ipr.bind(groups=1 << (RTNLGRP_ND_USEROPT - 1))
        while True:
            async for message in ipr.get():
                if message["header"]["type"] != RTM_NEWNDUSEROPT:
                    continue
                raw = bytes(message.data[message.offset : message.offset + message.length])
                at = HEADER_BYTES
                if message["icmp_type"] == ADVERTISEMENT:
                    heard(message["ifindex"], raw[at : at + message["opts_len"]])


class Nat64(Part):
    name: ClassVar[str] = "nat64"

    def __init__(
        self,
        lookup: Callable[[str, int], Awaitable[list[Endpoint]]],
        tell: Callable[[Sequence[IPv6Network]], None],
        now: Callable[[], int] = dataplane.now,
        advertisements: Callable[[Callable[[int, bytes], None]], Awaitable[None]] = listen,
    ) -> None:
        """`lookup`: all addresses of a name. `tell`: takes the prefixes, if they are others.
        `advertisements`: calls with (interface, options) of each until it is cancelled."""
        self._advertisements = advertisements
        self._lookup = lookup
        self._tell = tell
        self._here: Here | None = None
        self._prefixes: tuple[IPv6Network, ...] = ()
        self._tasks: list[asyncio.Task[None]] = []
        self._now = now
        #: what the resolver made of it
        self._resolved: tuple[IPv6Network, ...] = ()
        self._advertised = nat64.Advertised()
        self._timer: asyncio.TimerHandle | None = None

    def follow(self, here: Here) -> None:
        before, self._here = self._here, here
        needed = nat64.is_needed(here.links)
        if before is not None and needed and set(before.links) == set(here.links):
            return
        self._stop()
        if needed:
            loop = asyncio.get_running_loop()
            self._tasks = [loop.create_task(self._ask()), loop.create_task(self._listen())]
            self._settle()
        else:
            self._resolved = ()
            self._set(())

    def status(self) -> dict[str, Any]:
        return {"prefixes": [str(p) for p in self._prefixes]}

    async def close(self) -> None:
        self._stop()

    def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._tasks.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _listen(self) -> None:
        """Without it the resolver remains."""
        try:
            await self._advertisements(self._heard)
        except OSError as e:
            log.info("NAT64: router advertisements are not heard: %s", e.strerror)

    def _heard(self, ifindex: int, options: bytes) -> None:
        self._advertised.heard(ifindex, options, self._now())
        self._settle()

    def _settle(self) -> None:
        """Tell of what is good now, and look again when the first ends."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        links = self._here.links if self._here is not None else ()
        found = self._advertised.good((link.ifindex for link in links), self._now())
        self._set(tuple(dict.fromkeys((*found, *self._resolved)))[: nat64.PREFIXES_MAX])
        end = self._advertised.next_end()
        if end is not None:
            delay = max(end - self._now(), 0) / NS_PER_S + 0.1
            self._timer = asyncio.get_running_loop().call_later(delay, self._settle)

    def _set(self, found: tuple[IPv6Network, ...]) -> None:
        if found != self._prefixes:
            self._prefixes = found
            if found:
                log.info("NAT64: IPv4 is reached by %s", ", ".join(map(str, found)))
            self._tell(found)

    async def _ask(self) -> None:
        while True:
            wait = RETRY_S
            try:
                answers = await self._lookup(nat64.NAME, 1)
                self._resolved = nat64.prefixes(endpoint.ip for endpoint in answers)
                self._settle()
                wait = AGAIN_S
            except OSError as e:
                log.debug("NAT64: %s", e)
            await asyncio.sleep(wait)
