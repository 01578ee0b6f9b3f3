"""Interfaces, addresses, routes and rules: thin typed functions over pyroute2 (rtnetlink(7)).

pyroute2 takes a quarter of a second to import, so only `Netlink.open` does it.
Failures raise OSError with the kernel's errno.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from whalescale.protocol.paths.types import LocalLink
from whalescale.runtime.uplinks import Device, Uplinks, link

log = logging.getLogger(__name__)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface

MAIN_TABLE: Final = 254
#: <linux/if_addr.h> IFA_F_TENTATIVE | IFA_F_DADFAILED: not to be bound to (yet)
UNUSABLE_FLAGS: Final = 0x40 | 0x08
SCOPE_HOST: Final = 254
#: <linux/if.h>: the interface has a carrier
IFF_LOWER_UP: Final = 0x10000
DEFAULT_MTU: Final = 1500
#: <linux/if_arp.h>: no link-layer header
ARPHRD_NONE: Final = 0xFFFE
TUNNEL_KINDS: Final = ("tun", "wireguard")
MAX_TUNNEL_NETWORKS: Final = 4096
#: <linux/fib_rules.h> FIB_RULE_INVERT
RULE_INVERT: Final = 0x02
#: right before the main table's 32766, as wg-quick(8) places them
PRIORITY_SUPPRESS: Final = 32764
PRIORITY_DEFAULT: Final = 32765
#: a burst of address changes (DHCP, VPNs, containers) is one change
SETTLE_S: Final = 0.1
#: changes of routes alone are looked at so often at most
ROUTES_S: Final = 10.0
#: <linux/rtnetlink.h>: a route that the kernel made, for an address
RTPROT_KERNEL: Final = 2


@dataclass(frozen=True, slots=True)
class LocalAddress:
    """One address of this machine. `ip` is canonical numeric text."""

    ip: str
    ifindex: int
    link_local: bool
    #: of its subnet, bits
    prefix_length: int = 0


@dataclass(frozen=True, slots=True)
class Route:
    """A route through the tunnel's interface."""

    network: Network
    table: int = MAIN_TABLE


def _family(network: Network | int) -> int:
    version = network if isinstance(network, int) else network.version
    return int(socket.AF_INET6 if version == 6 else socket.AF_INET)


@contextlib.contextmanager
def _os_errors(what: str) -> Any:
    """pyroute2's NetlinkError as the OSError that it stands for."""
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        yield
    except NetlinkError as e:
        raise OSError(e.code, f"{what}: {os.strerror(e.code)}") from None


class Netlink:
    """One rtnetlink socket of the running asyncio loop."""

    def __init__(self, ipr: Any) -> None:
        self._ipr = ipr

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls) -> AsyncIterator[Netlink]:
        from pyroute2 import AsyncIPRoute

        async with AsyncIPRoute() as ipr:
            yield cls(ipr)

    async def find_interface(self, name: str) -> int | None:
        """Index of the interface, None if there is none of that name."""
        with _os_errors(f"interface {name}"):
            found = await self._ipr.link_lookup(ifname=name)
        return int(found[0]) if found else None

    async def is_tun(self, ifindex: int) -> bool:
        """Whether it is a TUN device; False when it is gone."""
        try:
            with _os_errors("interface"):
                for link in await self._ipr.link("get", index=ifindex):
                    info = link.get("linkinfo") or {}
                    return bool(info.get("kind") == "tun")
        except OSError as e:
            if e.errno != errno.ENODEV:
                raise
        return False

    async def set_up(self, ifindex: int, mtu: int) -> None:
        """MTU and up; no link-local address of its own, as on a WireGuard interface."""
        with _os_errors("interface"):
            with contextlib.suppress(OSError):
                await self._no_link_local(ifindex)
            await self._ipr.link("set", index=ifindex, mtu=mtu, state="up")

    async def _no_link_local(self, ifindex: int) -> None:
        # IN6_ADDR_GEN_MODE_NONE. A kernel without IPv6 refuses it, and needs it not.
        mode = {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", 1)]}
        with _os_errors("addr_gen_mode"):
            await self._ipr.link("set", index=ifindex, IFLA_AF_SPEC={"attrs": [("AF_INET6", mode)]})

    async def set_mtu(self, ifindex: int, mtu: int) -> None:
        with _os_errors("MTU"):
            await self._ipr.link("set", index=ifindex, mtu=mtu)

    async def add_address(self, ifindex: int, address: Interface) -> None:
        """Idempotent."""
        await self._address("add", ifindex, address, ignore=errno.EEXIST)

    async def remove_address(self, ifindex: int, address: Interface) -> None:
        """Idempotent."""
        await self._address("del", ifindex, address, ignore=errno.EADDRNOTAVAIL)

    async def _address(self, verb: str, ifindex: int, address: Interface, ignore: int) -> None:
        extra: dict[str, Any] = {}
        if address.version == 6 and verb == "add":
            # IFA_F_NODAD: nobody else can have it, and tentative addresses cannot be used at once
            extra["flags"] = 0x02
        try:
            with _os_errors(f"address {address}"):
                await self._ipr.addr(
                    verb,
                    index=ifindex,
                    address=str(address.ip),
                    prefixlen=address.network.prefixlen,
                    family=_family(address.version),
                    **extra,
                )
        except OSError as e:
            if e.errno != ignore:
                raise

    async def add_route(self, ifindex: int, route: Route) -> None:
        """OSError EEXIST: somebody has a route to this network."""
        with _os_errors(f"route {route.network}"):
            await self._ipr.route("add", **self._route(ifindex, route))

    async def remove_route(self, ifindex: int, route: Route) -> None:
        """Idempotent: the interface may be gone, and its routes with it."""
        try:
            with _os_errors(f"route {route.network}"):
                await self._ipr.route("del", **self._route(ifindex, route))
        except OSError as e:
            if e.errno not in (errno.ESRCH, errno.ENODEV):
                raise

    @staticmethod
    def _route(ifindex: int, route: Route) -> dict[str, Any]:
        return {
            "dst": str(route.network),
            "oif": ifindex,
            "table": route.table,
            "family": _family(route.network),
        }

    async def table_in_use(self, table: int) -> bool:
        """Whether any route is in the table."""
        for family in (socket.AF_INET, socket.AF_INET6):
            with _os_errors(f"table {table}"):
                async for _ in await self._ipr.get_routes(table=table, family=int(family)):
                    return True
        return False

    async def add_default_rules(self, version: int, table: int) -> None:
        """Send all but our own marked datagrams to `table`, yet prefer main's specific routes.

        wg-quick(8), add_default(): `not fwmark T table T`, `table main suppress_prefixlength 0`.
        Idempotent: rules that a killed agent left are taken over.
        """
        for rule in self._default_rules(version, table):
            try:
                with _os_errors("rule"):
                    await self._ipr.rule("add", **rule)
            except OSError as e:
                if e.errno != errno.EEXIST:
                    await self.remove_default_rules(version, table)
                    raise

    async def remove_default_rules(self, version: int, table: int) -> None:
        """Idempotent. The suppress rule stays while another tunnel's default rule needs it."""
        suppress, default = self._default_rules(version, table)
        await self._remove_rule(default)
        with _os_errors("rules"):
            async for rule in await self._ipr.get_rules(family=_family(version)):
                if rule.get("priority") == PRIORITY_DEFAULT:
                    return
        await self._remove_rule(suppress)

    async def _remove_rule(self, rule: dict[str, Any]) -> None:
        try:
            with _os_errors("rule"):
                await self._ipr.rule("del", **rule)
        except OSError as e:
            if e.errno not in (errno.ENOENT, errno.ESRCH, errno.EAFNOSUPPORT):
                raise

    @staticmethod
    def _default_rules(version: int, table: int) -> tuple[dict[str, Any], dict[str, Any]]:
        family = _family(version)
        suppress = {
            "family": family,
            "table": MAIN_TABLE,
            "priority": PRIORITY_SUPPRESS,
            "FRA_SUPPRESS_PREFIXLEN": 0,
        }
        default = {
            "family": family,
            "table": table,
            "priority": PRIORITY_DEFAULT,
            "fwmark": table,
            "fwmask": 0xFFFFFFFF,
            "flags": RULE_INVERT,
        }
        return suppress, default

    async def local_addresses(self, except_ifindex: int) -> list[LocalAddress]:
        """Addresses that UDP sockets may stand on: not loopback's, not the tunnel's own."""
        found: list[LocalAddress] = []
        with _os_errors("addresses"):
            async for message in await self._ipr.get_addr():
                ifindex, text = message.get("index"), message.get("local") or message.get("address")
                flags = message.get("IFA_FLAGS") or message.get("flags") or 0
                if ifindex == except_ifindex or not text or flags & UNUSABLE_FLAGS:
                    continue
                ip = ipaddress.ip_address(text)
                if ip.is_loopback or message.get("scope") == SCOPE_HOST:
                    continue
                found.append(
                    LocalAddress(
                        str(ip),
                        ifindex,
                        ip.version == 6 and ip.is_link_local,
                        int(message.get("prefixlen") or 0),
                    )
                )
        return sorted(found, key=lambda a: (a.ip, a.ifindex))

    async def tunnel_networks(self, except_ifindex: int) -> list[tuple[Network, ...]]:
        """What leads into each other tunnel of this host: its addresses' networks and its routes
        (of the main table). A tunnel is a WireGuard interface or a TUN device without Ethernet."""
        from pyroute2 import AsyncIPRoute

        tunnels: dict[int, set[Network]] = {}
        with _os_errors("tunnels"):
            async for message in await self._ipr.get_links():
                kind = (message.get("linkinfo") or {}).get("kind")
                if kind in TUNNEL_KINDS and message.get("ifi_type") == ARPHRD_NONE:
                    tunnels[message["index"]] = set()
            tunnels.pop(except_ifindex, None)
            if not tunnels:
                return []
            async for message in await self._ipr.get_addr():
                text = message.get("local") or message.get("address")
                if (networks := tunnels.get(message["index"])) is not None and text:
                    networks.add(ipaddress.ip_interface(f"{text}/{message['prefixlen']}").network)
            # The kernel picks them out only where it is asked strictly; a router has a million.
            async with AsyncIPRoute(strict_check=True) as strict:
                for index, networks in tunnels.items():
                    for family in (socket.AF_INET, socket.AF_INET6):
                        async for message in await strict.route(
                            "dump", family=int(family), oif=index, table=MAIN_TABLE
                        ):
                            to = message.get("dst")
                            if to and len(networks) < MAX_TUNNEL_NETWORKS:
                                networks.add(ipaddress.ip_network(f"{to}/{message['dst_len']}"))
        return [
            tuple(n for n in networks if not (n.is_link_local or n.is_multicast))
            for networks in tunnels.values()
        ]

    async def local_links(
        self, addresses: Sequence[LocalAddress], uplinks: Uplinks
    ) -> list[LocalLink]:
        """Those of the addresses whose interface is an uplink that can carry datagrams now.

        Not ports of a bridge or bond: what they carry is the master's.
        """
        running: list[Device] = []
        with_address = {a.ifindex for a in addresses}
        with _os_errors("interfaces"):
            async for message in await self._ipr.get_links():
                kind = (message.get("linkinfo") or {}).get("slave_kind")
                port = bool(message.get("master")) and kind != "vrf"  # a VRF's is an interface yet
                up = message.get("flags", 0) & IFF_LOWER_UP and not port
                if up and message["index"] in with_address:
                    running.append(Device.of(message, DEFAULT_MTU))
        found = uplinks.of(running)
        return [
            link(a.ip, found[a.ifindex], a.link_local, a.prefix_length)
            for a in addresses
            if a.ifindex in found
        ]


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
    from pyroute2 import AsyncIPRoute
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
    while True:
        dirty, routed = asyncio.Event(), asyncio.Event()
        dirty.set()
        try:
            async with AsyncIPRoute() as ipr:
                await ipr.bind(groups=groups)
                reader = asyncio.create_task(_mark_changes(ipr, except_ifindex, dirty, routed))
                try:
                    while not reader.done():
                        await dirty.wait()
                        await asyncio.sleep(SETTLE_S)
                        dirty.clear()
                        addresses = await netlink.local_addresses(except_ifindex)
                        current = addresses, await netlink.local_links(addresses, uplinks())
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
    ipr: Any, except_ifindex: int, dirty: asyncio.Event, routed: asyncio.Event
) -> None:
    try:
        while True:
            async for message in ipr.get():
                if message["event"] in ("RTM_NEWROUTE", "RTM_DELROUTE"):
                    # A routing daemon's table may change all the time: no look for each.
                    if message["proto"] == RTPROT_KERNEL or message.get("oif") == except_ifindex:
                        continue
                    routed.set()
                dirty.set()
    finally:
        dirty.set()
