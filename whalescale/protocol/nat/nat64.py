"""IPv4 places for a host that has IPv6 alone, behind a NAT64.

Pure. The prefix is what a router advertises (RFC 8781), or what the resolver makes of a name that
has IPv4 addresses alone (RFC 7050); an IPv4 address is written into it as RFC 6052 says. A
candidate more, of which a handshake shows whether it leads anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Final

from whalescale.protocol.candidates import parse
from whalescale.protocol.limits import NS_PER_S
from whalescale.protocol.places import Endpoint, LocalLink

#: RFC 7050 section 8: the name, and the addresses that it has
NAME: Final = "ipv4only.arpa."
KNOWN: Final = frozenset((IPv4Address("192.0.0.170"), IPv4Address("192.0.0.171")))
#: RFC 6052 section 2.1: for all networks, and not for addresses of a site
WELL_KNOWN: Final = IPv6Network("64:ff9b::/96")
#: in the order of the codes that an advertisement has for them
LENGTHS: Final = (96, 64, 56, 48, 40, 32)
PREFIXES_MAX: Final = 2
#: RFC 8781 section 4: type, length in bytes, unit of the lifetime
PREF64: Final = 38
PREF64_BYTES: Final = 16
PREF64_UNIT_S: Final = 8
#: options of one advertisement that are looked at
OPTIONS_MAX: Final = 16


def is_needed(links: Iterable[LocalLink]) -> bool:
    """This host has IPv6 to go out by, and no IPv4."""
    versions = {":" in link.ip for link in links if not link.link_local}
    return versions == {True}


def prefixes(answers: Iterable[str]) -> tuple[IPv6Network, ...]:
    """From the IPv6 addresses of NAME. What is none of a NAT64's is left out."""
    found: dict[IPv6Network, None] = {}
    for text in answers:
        address = parse(text)
        if not isinstance(address, IPv6Address):
            continue
        for length in LENGTHS:
            if _extracted(address, length) in KNOWN:
                found[IPv6Network((address, length), strict=False)] = None
                break
    return tuple(found)[:PREFIXES_MAX]


def advertised(options: bytes) -> list[tuple[IPv6Network, int]]:
    """(prefix, seconds that it is good for; 0: no more) of an advertisement's options. What is no
    such option, or malformed, is left out."""
    found: list[tuple[IPv6Network, int]] = []
    for _ in range(OPTIONS_MAX):
        if len(options) < 8 or not options[1] or len(options) < 8 * options[1]:
            break
        option, options = options[: 8 * options[1]], options[8 * options[1] :]
        code = option[3] & 7
        if option[0] != PREF64 or len(option) != PREF64_BYTES or code >= len(LENGTHS):
            continue
        length = LENGTHS[code]
        prefix = IPv6Network((option[4:] + bytes(4), length), strict=False)
        address = prefix.network_address
        if (
            address.is_multicast
            or address.is_link_local
            or address.is_loopback
            or not any(option[4:])
        ):
            continue
        found.append((prefix, (int.from_bytes(option[2:4]) >> 3) * PREF64_UNIT_S))
    return found


class Advertised:
    """Prefixes that routers advertise, by interface, while they are good. Times are ns."""

    __slots__ = ("_until",)

    def __init__(self) -> None:
        self._until: dict[tuple[int, IPv6Network], int] = {}

    def heard(self, ifindex: int, options: bytes, now: int) -> None:
        for prefix, seconds in advertised(options):
            key = ifindex, prefix
            if not seconds:
                self._until.pop(key, None)
            elif key in self._until or len(self._until) < 4 * PREFIXES_MAX:
                self._until[key] = now + seconds * NS_PER_S

    def good(self, ifindexes: Iterable[int], now: int) -> tuple[IPv6Network, ...]:
        """Of these interfaces. What has ended is forgotten."""
        self._until = {key: until for key, until in self._until.items() if until > now}
        wanted = set(ifindexes)
        found = dict.fromkeys(p for index, p in self._until if index in wanted)
        return tuple(found)[:PREFIXES_MAX]

    def next_end(self) -> int | None:
        return min(self._until.values(), default=None)


def synthesize(prefix: IPv6Network, ip: IPv4Address) -> IPv6Address:
    """RFC 6052 section 2.2: bits 64 to 71 stay zero."""
    data = bytearray(prefix.network_address.packed)
    at = prefix.prefixlen // 8
    for byte in ip.packed:
        at += at == 8
        data[at] = byte
        at += 1
    return IPv6Address(bytes(data))


def _extracted(address: IPv6Address, length: int) -> IPv4Address | None:
    """None: no address is written in there."""
    data = address.packed
    if length < 96 and data[8]:
        return None
    places: list[int] = []
    at = length // 8
    while len(places) < 4:
        at += at == 8
        places.append(data[at])
        at += 1
    return IPv4Address(bytes(places)) if not any(data[at:]) else None


def with_synthesized(
    endpoints: Sequence[Endpoint], found: Sequence[IPv6Network]
) -> tuple[Endpoint, ...]:
    """Before each IPv4 place where the NAT64 takes it to."""
    every: dict[Endpoint, None] = {}
    for endpoint in endpoints:
        address = parse(endpoint.ip)
        if isinstance(address, IPv4Address) and not (
            address.is_loopback or address.is_multicast or address.is_link_local
        ):
            for prefix in found:
                if prefix != WELL_KNOWN or address.is_global:
                    every[Endpoint(str(synthesize(prefix, address)), endpoint.port)] = None
        every[endpoint] = None
    return tuple(every)
