"""Watches the host's addresses, links and routes, and tells of every change."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from whalescale.protocol.places import LocalLink
from whalescale.runtime.netlink import RTPROT_KERNEL, LocalAddress, Netlink
from whalescale.runtime.uplinks import Uplinks

log = logging.getLogger(__name__)

#: a burst of address changes (DHCP, VPNs, containers) is one change; but an uplink that is gone is
#: told of at once where there is another
SETTLE_S: Final = 0.1
#: changes of routes alone are looked at so often at most
ROUTES_S: Final = 10.0


async def watch_addresses(
    netlink: Netlink,
    except_ifindex: int,
    uplinks: Callable[[], Uplinks],
    changed: Callable[[Sequence[LocalAddress], Sequence[LocalLink]], None],
) -> None:
    """Call `changed` with all usable addresses, now and after every change, until cancelled.

    The second list is of those whose interface is an uplink and has a carrier. Routes count, but
    for those that the kernel makes of addresses: what could not be reached may be reached by them.
    """
    from pyroute2.iproute import AsyncIPRoute
    from pyroute2.netlink.rtnl import (
        RTMGRP_IPV4_IFADDR,
        RTMGRP_IPV4_ROUTE,
        RTMGRP_IPV6_IFADDR,
        RTMGRP_IPV6_ROUTE,
        RTMGRP_LINK,
    )

    groups = RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR | RTMGRP_LINK
    groups |= RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE
    loop = asyncio.get_running_loop()
    routes_due = loop.time()
    last: tuple[list[LocalAddress], list[LocalLink]] | None = None

    async def look() -> tuple[list[LocalAddress], list[LocalLink]]:
        addresses = await netlink.local_addresses(except_ifindex)
        return addresses, await netlink.local_links(addresses, uplinks())

    while True:
        dirty, routed, linked = asyncio.Event(), asyncio.Event(), asyncio.Event()
        dirty.set()
        try:
            async with AsyncIPRoute() as ipr:
                await ipr.bind(groups=groups)
                reader = asyncio.create_task(
                    _mark_changes(ipr, except_ifindex, dirty, routed, linked)
                )
                try:
                    while not reader.done():
                        await dirty.wait()
                        if linked.is_set() and last is not None:
                            linked.clear()
                            current = await look()
                            if current[1] and set(current[1]) < set(last[1]):
                                changed(*current)
                                last = current
                        await asyncio.sleep(SETTLE_S)
                        dirty.clear()
                        linked.clear()
                        current = await look()
                        now = loop.time()
                        if current != last or (routed.is_set() and now >= routes_due):
                            if routed.is_set():
                                routes_due = now + ROUTES_S
                            routed.clear()
                            changed(*current)
                            last = current
                        elif routed.is_set():
                            loop.call_at(routes_due, dirty.set)
                finally:
                    reader.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await reader
        except Exception as e:
            # ENOBUFS: the kernel dropped notices; a new socket and a full look make up for it.
            # Whatever else: without the watcher no address would be followed any more.
            what = e if isinstance(e, OSError) else f"{type(e).__name__}: {e}"
            log.warning("address watcher: %s; starting over", what)
            await asyncio.sleep(1)


async def _mark_changes(
    ipr: Any,
    except_ifindex: int,
    dirty: asyncio.Event,
    routed: asyncio.Event,
    linked: asyncio.Event,
) -> None:
    """`dirty`: anything; `routed`: routes; `linked`: links and addresses."""
    try:
        while True:
            async for message in ipr.get():
                if message["event"] in ("RTM_NEWROUTE", "RTM_DELROUTE"):
                    # A routing daemon's table may change all the time: no look for each.
                    if message["proto"] == RTPROT_KERNEL or message.get("oif") == except_ifindex:
                        continue
                    routed.set()
                else:
                    linked.set()
                dirty.set()
    finally:
        dirty.set()
