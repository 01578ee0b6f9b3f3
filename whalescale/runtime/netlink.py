"""Interfaces, addresses, routes and rules: thin typed functions over pyroute2 (rtnetlink(7)).

pyroute2 takes a tenth of a second to import, so only `Netlink.open` does it (`lean.py`).
Failures raise OSError with the kernel's errno.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import os
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from whalescale.protocol.places import LocalLink, Standing
from whalescale.runtime import lean
from whalescale.runtime.uplinks import Device, Uplinks, link

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface

MAIN_TABLE: Final = 254
#: <linux/if_addr.h> IFA_F_TENTATIVE | IFA_F_DADFAILED: not to be bound to (yet)
UNUSABLE_FLAGS: Final = 0x40 | 0x08
#: IFA_F_TEMPORARY (of IPv6; the same bit says something else of IPv4), IFA_F_DEPRECATED
TEMPORARY_FLAG: Final = 0x01
DEPRECATED_FLAG: Final = 0x20
#: IFA_F_PERMANENT: no lifetime ends it
PERMANENT_FLAG: Final = 0x80
SCOPE_HOST: Final = 254
SCOPE_LINK: Final = 253
#: <linux/ipv6_route.h> IP6_RT_PRIO_ADDRCONF
CONNECTED_METRIC: Final = 256
#: <linux/if.h>: the interface has a carrier
IFF_LOWER_UP: Final = 0x10000
DEFAULT_MTU: Final = 1500
#: <linux/if_arp.h>: no link-layer header
ARPHRD_NONE: Final = 0xFFFE
TUNNEL_KINDS: Final = ("tun", "wireguard")
MAX_TUNNEL_NETWORKS: Final = 4096
#: <linux/if_link.h> IN6_ADDR_GEN_MODE_NONE
GENERATE_NONE: Final = 1
#: <linux/fib_rules.h> FIB_RULE_INVERT
RULE_INVERT: Final = 0x02
#: right before the main table's 32766, where wg-quick(8) places those of a default route
PRIORITY_SUPPRESS: Final = 32764
PRIORITY_OWN: Final = 32765
#: <linux/fib_rules.h>: no suppress_prefixlength
NO_SUPPRESS: Final = 0xFFFFFFFF
WHOLE_MARK: Final = 0xFFFFFFFF
IFF_UP: Final = 0x1
#: Of a dump, before others have a turn: some milliseconds. What waits are probes, whose round trip
#: would hold it.
TURN_MESSAGES: Final = 32
#: <linux/rtnetlink.h>: a route that the kernel made, for an address
RTPROT_KERNEL: Final = 2
RTN_UNICAST: Final = 1
#: where a default route leads: PCP's anycast address (RFC 7723). Nothing is sent there.
ANYWHERE: Final = "192.0.0.9"
ANYWHERE6: Final = "2001:1::1"
NO_WAY: Final = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL, errno.ENODEV)


@dataclass(frozen=True, slots=True)
class LocalAddress:
    """One address of this machine. `ip` is canonical numeric text."""

    ip: str
    ifindex: int
    link_local: bool
    #: of its subnet, bits
    prefix_length: int = 0
    standing: Standing = Standing.STABLE


def standing_of(version: int, flags: int) -> Standing:
    """What IFA_FLAGS say of an address."""
    if version == 6 and flags & DEPRECATED_FLAG:
        return Standing.DEPRECATED
    if version == 6 and flags & TEMPORARY_FLAG:
        return Standing.TEMPORARY
    return Standing.STABLE


@dataclass(frozen=True, slots=True)
class Route:
    """A route through the tunnel's interface."""

    network: Network
    table: int = MAIN_TABLE
    #: whether rules of ours lead to the table
    ruled: bool = field(default=True, compare=False)
    #: longest packet, 0: the interface's
    mtu: int = field(default=0, compare=False)
    #: another route leads there already: it is put in only to say an MTU
    covered: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Rule:
    """One of the pair that sends packets to a table of our own, for routes of `length` bits.

    In `MAIN_TABLE`: what is longer there goes first. Else: all but our own marked datagrams look
    into `table`, whose number is the mark, for routes of `length` bits at least. With a pair for
    each length in use this is the longest match over both tables; of 0 it is wg-quick(8)'s pair.
    """

    version: int
    length: int
    table: int

    @property
    def priority(self) -> int:
        last = PRIORITY_SUPPRESS if self.table == MAIN_TABLE else PRIORITY_OWN
        return last - 2 * self.length

    @property
    def suppressed(self) -> int | None:
        """Routes of so many bits or fewer do not count."""
        if self.table == MAIN_TABLE:
            return self.length
        return self.length - 1 if self.length else None

    def __str__(self) -> str:
        who = "" if self.table == MAIN_TABLE else f"not fwmark {self.table:#x} "
        long = "" if self.suppressed is None else f" suppress_prefixlength {self.suppressed}"
        table = "main" if self.table == MAIN_TABLE else self.table
        return f"IPv{self.version} rule {who}table {table}{long}"


@dataclass(frozen=True, slots=True)
class LinkState:
    """The tunnel's interface, as the kernel has it."""

    name: str
    up: bool
    mtu: int
    #: packets
    queue: int
    #: addresses and routes of IPv6 can be put on it
    ipv6: bool = True
    #: the kernel gives it a link-local address by itself
    link_local: bool = False
    #: without one nothing is sent by it, up or not
    carrier: bool = True


def _family(network: Network | int) -> int:
    version = network if isinstance(network, int) else network.version
    return int(socket.AF_INET6 if version == 6 else socket.AF_INET)


@contextlib.contextmanager
def os_errors(what: str) -> Any:
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
        self._turn = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def _request(self, what: str) -> AsyncIterator[None]:
        """One at a time: the kernel refuses a dump while another one of the socket runs (EBUSY)."""
        async with self._turn:
            with os_errors(what):
                yield

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls) -> AsyncIterator[Netlink]:
        lean.prepare()
        from pyroute2.iproute import AsyncIPRoute

        # strict_check: the kernel does the filtering of dumps (Linux 4.20).
        async with AsyncIPRoute(strict_check=True) as ipr:
            yield cls(ipr)

    async def find_interface(self, name: str) -> int | None:
        """Index of the interface, None if there is none of that name."""
        async with self._request(f"interface {name}"):
            found = await self._ipr.link_lookup(ifname=name)
        return int(found[0]) if found else None

    async def is_tun(self, ifindex: int) -> bool:
        """Whether it is a TUN device; False when it is gone."""
        try:
            async with self._request("interface"):
                for link in await self._ipr.link("get", index=ifindex):
                    info = link.get("linkinfo") or {}
                    return bool(info.get("kind") == "tun")
        except OSError as e:
            if e.errno != errno.ENODEV:
                raise
        return False

    async def set_up(self, ifindex: int, mtu: int) -> None:
        """MTU and up; no link-local address of its own, as on a WireGuard interface."""
        with contextlib.suppress(OSError):  # a kernel without IPv6 refuses it, and needs it not
            await self.no_link_local(ifindex)
        async with self._request("interface"):
            await self._ipr.link("set", index=ifindex, mtu=mtu, state="up")

    async def no_link_local(self, ifindex: int) -> None:
        """The kernel shall make no link-local address from now on."""
        mode = {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", GENERATE_NONE)]}
        async with self._request("addr_gen_mode"):
            await self._ipr.link("set", index=ifindex, IFLA_AF_SPEC={"attrs": [("AF_INET6", mode)]})

    async def set_mtu(self, ifindex: int, mtu: int) -> None:
        async with self._request("MTU"):
            await self._ipr.link("set", index=ifindex, mtu=mtu)

    async def add_address(self, ifindex: int, address: Interface) -> None:
        """Idempotent. One that is there loses its lifetime."""
        await self._address("replace", ifindex, address, ignore=errno.EEXIST)

    async def remove_address(self, ifindex: int, address: Interface) -> None:
        """Idempotent."""
        await self._address("del", ifindex, address, ignore=errno.EADDRNOTAVAIL)

    async def _address(self, verb: str, ifindex: int, address: Interface, ignore: int) -> None:
        extra: dict[str, Any] = {}
        if address.version == 6 and verb == "replace":
            # IFA_F_NODAD: nobody else can have it, and tentative addresses cannot be used at once
            extra["flags"] = 0x02
        try:
            async with self._request(f"address {address}"):
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
        async with self._request(f"route {route.network}"):
            await self._ipr.route("add", **self._route(ifindex, route))

    async def add_connected(self, ifindex: int, address: Interface) -> None:
        """The route to an own address's network, which the kernel made with the address."""
        route = self._route(ifindex, Route(address.network)) | {"proto": RTPROT_KERNEL}
        if address.version == 4:
            route |= {"prefsrc": str(address.ip), "scope": SCOPE_LINK}
        else:
            route |= {"priority": CONNECTED_METRIC}
        async with self._request(f"route {address.network}"):
            await self._ipr.route("add", **route)

    async def replace_route(self, ifindex: int, route: Route) -> None:
        """Another MTU of a route that is there."""
        async with self._request(f"route {route.network}"):
            await self._ipr.route("replace", **self._route(ifindex, route))

    async def remove_route(self, ifindex: int, route: Route) -> None:
        """Idempotent: the interface may be gone, and its routes with it."""
        try:
            async with self._request(f"route {route.network}"):
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
            **({"metrics": {"mtu": route.mtu}} if route.mtu else {}),
        }

    async def table_in_use(self, table: int) -> bool:
        """Whether any route is in the table."""
        for family in (socket.AF_INET, socket.AF_INET6):
            async with self._request(f"table {table}"):
                found = await self._ipr.route(
                    "dump", dump_filter=None, family=int(family), table=table
                )
                # To the end: what is left of a dump would be the next one's.
                if any([message.get("table") == table async for message in found]):
                    return True
        return False

    async def add_rule(self, rule: Rule) -> bool:
        """Whether it was not there yet; one that a killed agent left is taken over."""
        try:
            async with self._request(str(rule)):
                await self._ipr.rule("add", **self._rule(rule))
        except OSError as e:
            if e.errno != errno.EEXIST:
                raise
            return False
        return True

    async def remove_rule(self, rule: Rule) -> None:
        """Idempotent. Main's stays while another tunnel's of the same length needs it."""
        if rule.table == MAIN_TABLE:
            for other in await self.rules_of(rule.version):
                if other.table != MAIN_TABLE and other.length == rule.length:
                    return
        try:
            async with self._request(str(rule)):
                await self._ipr.rule("del", **self._rule(rule))
        except OSError as e:
            if e.errno not in (errno.ENOENT, errno.ESRCH, errno.EAFNOSUPPORT):
                raise

    @staticmethod
    def _rule(rule: Rule) -> dict[str, Any]:
        words: dict[str, Any] = {
            "family": _family(rule.version),
            "table": rule.table,
            "priority": rule.priority,
        }
        if rule.suppressed is not None:
            words["FRA_SUPPRESS_PREFIXLEN"] = rule.suppressed
        if rule.table != MAIN_TABLE:
            words |= {"fwmark": rule.table, "fwmask": WHOLE_MARK, "flags": RULE_INVERT}
        return words

    # what is there

    async def rules_of(self, version: int) -> set[Rule]:
        """Those of our kind, ours and other tunnels'. Empty: a kernel without this family."""
        found: set[Rule] = set()
        try:
            async with self._request("rules"):
                async for message in await self._ipr.get_rules(family=_family(version)):
                    rule = _as_rule(version, message)
                    if rule is not None:
                        found.add(rule)
        except OSError as e:
            if e.errno not in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
                raise
        return found

    async def link_state(self, ifindex: int) -> LinkState | None:
        """None: it is gone, or in another network namespace."""
        try:
            async with self._request("interface"):
                for link in await self._ipr.link("get", index=ifindex):
                    return LinkState(
                        str(link.get("ifname")),
                        bool(link.get("flags", 0) & IFF_UP),
                        int(link.get("mtu") or 0),
                        int(link.get("txqlen") or 0),
                        *_ipv6(link),
                        link.get("carrier") != 0,
                    )
        except OSError as e:
            if e.errno != errno.ENODEV:
                raise
        return None

    async def addresses_of(self, ifindex: int, *, lasting: bool = False) -> set[Interface]:
        """`lasting`: none that ends by itself, nor one that nothing new may use."""
        found: set[Interface] = set()
        async with self._request("addresses"):
            async for message in await self._ipr.addr("dump", dump_filter=None, index=ifindex):
                text = message.get("local") or message.get("address")
                flags = message.get("IFA_FLAGS") or message.get("flags") or 0
                if lasting and flags & (PERMANENT_FLAG | DEPRECATED_FLAG) != PERMANENT_FLAG:
                    continue
                # Older kernels do not filter.
                if text and message.get("index") == ifindex:
                    found.add(ipaddress.ip_interface(f"{text}/{message.get('prefixlen')}"))
        return found

    async def routes_of(self, ifindex: int) -> set[Route]:
        """All unicast routes that leave by it, of every table. The kernel filters: a router's
        million others cost nothing here."""
        found: set[Route] = set()
        seen = 0
        for family in (socket.AF_INET, socket.AF_INET6):
            everywhere = ipaddress.ip_network("::/0" if family == socket.AF_INET6 else "0.0.0.0/0")
            async with self._request("routes"):
                async for message in await self._ipr.route(
                    "dump", dump_filter=None, family=int(family), oif=ifindex
                ):
                    seen += 1
                    if seen % TURN_MESSAGES == 0:
                        await asyncio.sleep(0)
                    if message.get("oif") != ifindex or message.get("type") != RTN_UNICAST:
                        continue
                    to = message.get("dst")
                    network = (
                        ipaddress.ip_network(f"{to}/{message['dst_len']}") if to else everywhere
                    )
                    found.add(Route(network, int(message.get("table") or 0)))
        return found

    async def gateway(self, ifindex: int, mark: int = 0, version: int = 4) -> str | None:
        """The router by which the interface reaches the world. None: it does not.

        One look-up by the kernel: a router's table has a million routes.
        """
        try:
            async with self._request("gateway"):
                family = socket.AF_INET6 if version == 6 else socket.AF_INET
                to = ANYWHERE6 if version == 6 else ANYWHERE
                for message in await self._ipr.route(
                    "get", family=int(family), dst=to, oif=ifindex, mark=mark
                ):
                    if message.get("oif") == ifindex and message.get("gateway"):
                        return str(message.get("gateway"))
        except OSError as e:
            if e.errno not in NO_WAY:
                raise
        return None

    async def leaves_by(self, address: str, mark: int = 0) -> int | None:
        """The interface that datagrams with this mark leave by. None: there is no way."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            async with self._request(f"the way to {address}"):
                for message in await self._ipr.route(
                    "get", family=int(family), dst=address, mark=mark
                ):
                    return int(message.get("oif") or 0) or None
        except OSError as e:
            if e.errno not in NO_WAY:
                raise
        return None

    async def set_queue(self, ifindex: int, packets: int) -> None:
        async with self._request("txqueuelen"):
            await self._ipr.link("set", index=ifindex, txqlen=packets)

    async def set_carrier(self, ifindex: int) -> None:
        from pyroute2.netlink import NLM_F_ACK, NLM_F_REQUEST
        from pyroute2.netlink.rtnl import RTM_SETLINK
        from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

        message = ifinfmsg()  # link("set") leaves a carrier out
        message["index"] = ifindex
        message["attrs"] = [("IFLA_CARRIER", 1)]
        async with self._request("carrier"):
            flags = NLM_F_REQUEST | NLM_F_ACK
            async for _ in await self._ipr.nlm_request(message, RTM_SETLINK, flags):
                pass

    async def raise_link(self, ifindex: int) -> None:
        async with self._request("interface"):
            await self._ipr.link("set", index=ifindex, state="up")

    async def local_addresses(self, except_ifindex: int) -> list[LocalAddress]:
        """Addresses that UDP sockets may stand on: not loopback's, not the tunnel's own."""
        found: list[LocalAddress] = []
        async with self._request("addresses"):
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
                        standing_of(ip.version, flags),
                    )
                )
        return sorted(found, key=lambda a: (a.ip, a.ifindex))

    async def tunnel_networks(self, except_ifindex: int) -> list[tuple[Network, ...]]:
        """What leads into each other tunnel of this host: its addresses' networks and its routes
        (of the main table). A tunnel is a WireGuard interface or a TUN device without Ethernet."""
        from pyroute2.iproute import AsyncIPRoute

        tunnels: dict[int, set[Network]] = {}
        async with self._request("tunnels"):
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
        async with self._request("interfaces"):
            async for message in await self._ipr.get_links():
                kind = (message.get("linkinfo") or {}).get("slave_kind")
                port = bool(message.get("master")) and kind != "vrf"  # a VRF's is an interface yet
                up = message.get("flags", 0) & IFF_LOWER_UP and not port
                if up and message["index"] in with_address:
                    running.append(Device.of(message, DEFAULT_MTU))
        found = uplinks.of(running)
        return [
            link(a.ip, found[a.ifindex], a.link_local, a.prefix_length, a.standing)
            for a in addresses
            if a.ifindex in found
        ]


def _as_rule(version: int, message: Any) -> Rule | None:
    """None: it is none of our kind."""
    priority, table = int(message.get("priority") or 0), int(message.get("table") or 0)
    last = PRIORITY_SUPPRESS if table == MAIN_TABLE else PRIORITY_OWN
    length, odd = divmod(last - priority, 2)
    if odd or not 0 <= length <= 128 or message.get("src_len") or message.get("dst_len"):
        return None
    rule = Rule(version, length, table)
    suppressed = message.get("FRA_SUPPRESS_PREFIXLEN")
    suppressed = None if suppressed in (None, NO_SUPPRESS) else suppressed
    inverted = bool(message.get("flags", 0) & RULE_INVERT)
    if suppressed != rule.suppressed or inverted != (table != MAIN_TABLE):
        return None
    if table != MAIN_TABLE and message.get("fwmark") != table:
        return None
    return rule


def _ipv6(link: Any) -> tuple[bool, bool]:
    """The last two of `LinkState`."""
    spec = link.get("IFLA_AF_SPEC")
    inet6 = spec.get("AF_INET6") if spec is not None else None
    if inet6 is None:
        return False, False
    conf = inet6.get("IFLA_INET6_CONF")
    on = conf is None or not conf.get("disable_ipv6")
    return on, on and inet6.get("IFLA_INET6_ADDR_GEN_MODE") != GENERATE_NONE
