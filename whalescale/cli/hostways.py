"""Where the kernel sends what is for the tunnel, and what the tunnel sends, for `ws doctor`.

Rules, metrics, longer routes and filters of other programs: whatever it is that leads elsewhere,
the kernel's own answer for an address tells.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from whalescale.cli.parts import Check
from whalescale.endpoints import is_host

Json = dict[str, Any]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
#: (address, mark of the datagram): what `ip -j route get` prints, "" where there is no way
Ask = Callable[[str, int], str]

MAIN_TABLE: Final = ("main", "254")
#: networks and endpoints that are asked for: some milliseconds each
ASKED: Final = 24
NAMED: Final = 4
#: networks shorter than these hold the LAN and all else: pieces of them that go elsewhere are usual
WIDE: Final = {4: 8, 6: 16}


def host(
    interface: str,
    routes: Sequence[Json],
    ours: Sequence[Json],
    table: int,
    mark: int,
    endpoints: Iterable[str],
    ask: Ask,
) -> Iterator[Check]:
    """`routes`: of the main table. `ours`: through the tunnel, of all tables. `table`: the tunnel's
    own, 0: none. `mark`: of its datagrams. `endpoints`: addresses of peers, without zones."""
    networks = list(_networks(ours, table))
    yield inward(interface, networks, ask)
    yield pieces(interface, networks, routes)
    yield outward(interface, endpoints, mark, ask)


def _networks(ours: Iterable[Json], table: int) -> Iterator[Network]:
    """Those that should lead into the tunnel: of the main table, and of its own."""
    tables = (*MAIN_TABLE, str(table), "")
    found: dict[Network, None] = {}
    for route in ours:
        if str(route.get("table", "")) in tables and str(route.get("type", "unicast")) == "unicast":
            network = _network(str(route.get("dst")), 6 if route.get("family") == 6 else 4)
            if network is None or network.is_multicast or network.is_link_local:
                continue
            own = route.get("protocol") == "kernel" and network.num_addresses == 1
            if not own:
                found[network] = None
    yield from found


def _network(text: str, version: int) -> Network | None:
    if text == "default":
        text = "::/0" if version == 6 else "0.0.0.0/0"
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        return None


def _some(network: Network) -> list[str]:
    """Addresses of it: if none of them leads there, the network does not."""
    if is_host(network):
        return [str(network[0])]
    last = network.num_addresses - 1
    return [str(network[i]) for i in dict.fromkeys((last // 2 + 1, 1, last - 1)) if 0 < i <= last]


def inward(interface: str, networks: Sequence[Network], ask: Ask) -> Check:
    name = "ways into the tunnel"
    astray: list[str] = []
    first = ""
    asked = sorted(networks, key=lambda n: n.prefixlen)[:ASKED]
    for network in asked:
        ways = []
        for address in _some(network):
            ways.append(_way(ask(address, 0)))
            if ways[-1].get("dev") == interface:
                break
        else:
            astray.append(f"{network} ({_told(ways[0])})")
            first = first or _some(network)[0]
    if not astray:
        some = len(asked) < len(networks)
        more = f" (of {len(networks)} {len(asked)} were tried)" if some else ""
        return Check(name, "ok", f"every network of a peer leads into it{more}")
    return Check(
        name,
        "warn",
        f"{_listed(astray)}: routed to {interface}, and goes elsewhere",
        f"`ip route get {first}` and `ip rule` show what goes first; remove it, or take the "
        "network out of allowed_ips",
        "what is sent there does not go into the tunnel",
    )


def pieces(interface: str, networks: Sequence[Network], routes: Iterable[Json]) -> Check:
    """Longer routes within a peer's network. One's own LAN there is usual, and only said."""
    name = "longer routes"
    narrow = [n for n in networks if n.prefixlen >= WIDE[n.version]]
    usual: list[str] = []
    odd: list[str] = []
    for route in routes:
        to = str(route.get("dst"))
        if to == "default" or route.get("dev") == interface:
            continue
        network = _network(to, 4)
        if network is None or not any(_within(network, n) for n in narrow):
            continue
        where = f"{to} ({_told(route)})"
        (usual if route.get("protocol") == "kernel" else odd).append(where)
    if odd:
        return Check(
            name,
            "warn",
            f"{_listed(odd)}: lies in a peer's network, and goes elsewhere",
            f"if it is not meant so: `sudo ip route del {odd[0].split()[0]}`",
            "what they hold does not go into the tunnel",
        )
    if usual:
        return Check(name, "ok", f"{_listed(usual)} stays outside: this host is in it")
    return Check(name, "ok", "none takes a part of a peer's network")


def _within(network: Network, other: Network) -> bool:
    return (
        network.version == other.version
        and network.prefixlen > other.prefixlen
        and network.network_address in other
    )


def outward(interface: str, endpoints: Iterable[str], mark: int, ask: Ask) -> Check:
    name = "ways to the peers"
    inside: list[str] = []
    cut_off: list[str] = []
    for address in sorted(set(endpoints))[:ASKED]:
        if ipaddress.ip_address(address).is_link_local:
            continue
        way = _way(ask(address, mark))
        if way.get("dev") == interface:
            inside.append(address)
        elif "dev" not in way:
            cut_off.append(f"{address} ({_told(way)})")
    if inside:
        return Check(
            name,
            "warn",
            f"{_listed(inside)}: datagrams to it would go into the tunnel that they make",
            f"`ip route get {inside[0]}` shows the route; remove it, or put its network into "
            "allowed_ips, which goes round the tunnel where a peer is in it",
            "these peers are not reached",
        )
    if cut_off:
        return Check(
            name,
            "warn",
            f"{_listed(cut_off)}: this host has no route there",
            "see `ip route`, and whether the uplink is up",
            "these peers are not reached this way",
        )
    return Check(name, "ok", "none leads into the tunnel itself")


def _way(text: str) -> Json:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    if isinstance(found, list) and found and isinstance(found[0], dict):
        return found[0]
    return {}


def _told(way: Json) -> str:
    if "dev" in way:
        return f"by {way['dev']}"
    return str(way.get("type", "no way"))


def _listed(found: Sequence[str]) -> str:
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return f"{', '.join(found[:NAMED])}{more}"
