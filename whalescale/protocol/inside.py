"""Where no peer can be: the addresses inside tunnels. The one place that decides it.

A datagram of ours to such an address would go into a tunnel, into this one again or into another
that may lead back here. So such an address is nobody's endpoint: what comes from there is dropped
(csrc/session/inside.c asks the same networks), and it is neither announced nor tried as a path.

As in a routing table the longest match counts:
 - inside: the networks of the tunnel's own addresses, every peer's allowed IPs, and what leads into
   other tunnels of this host
 - not a default route, whole or in pieces: our datagrams go round the tunnel then (by their mark),
   or this host's only way out is the other tunnel
 - outside: the subnets of this host's links, where they are the longer match, and the endpoints
   that the user named: he knows how they are reached
"""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, cast

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_BITS: Final = {4: 32, 6: 128}
#: a peer's networks that hold so many addresses are a default route in pieces (0.0.0.0/1 and
#: 128.0.0.0/1; all but the private ones): a quarter of all, for IPv6 of 2000::/3
_WORLD: Final = {4: 1 << 30, 6: 1 << 123}
_PRIVATE: Final = tuple(
    ipaddress.ip_network(n)
    for n in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
)
#: overlay addresses of every node (docs/wire.md)
OVERLAY: Final = ipaddress.IPv6Network("fd77:6861:6c65::/48")

#: (IP version, prefix length, the prefix's bits)
_Key = tuple[int, int, int]


def _key(network: Network) -> _Key:
    bits = _BITS[network.version]
    return (
        network.version,
        network.prefixlen,
        int(network.network_address) >> (bits - network.prefixlen),
    )


@lru_cache(maxsize=512)
def _value(ip: str) -> tuple[int, int] | None:
    """(IP version, address); an IPv4-mapped one is IPv4's."""
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.version, int(address)


@dataclass(frozen=True, slots=True)
class Inside:
    """Networks inside tunnels and, within them, outside. The longest match counts."""

    inside: tuple[Network, ...] = ()
    outside: tuple[Network, ...] = ()
    _said: dict[_Key, bool] = field(default_factory=dict, compare=False, repr=False)
    #: prefix lengths, longest first, by IP version
    _lengths: dict[int, list[int]] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        # Outside has the last word, as in csrc/session/inside.c.
        for networks, said in ((self.inside, True), (self.outside, False)):
            for network in networks:
                self._said[_key(network)] = said
        for version in _BITS:
            found = {length for v, length, _ in self._said if v == version}
            self._lengths[version] = sorted(found, reverse=True)

    def holds(self, ip: str) -> bool:
        """Whether it is inside a tunnel. What is no address is not."""
        value = _value(ip)
        return value is not None and self._holds(*value)

    def has(self, host: Network) -> bool:
        """The same of a network of one address."""
        return self._holds(host.version, int(host.network_address))

    def _holds(self, version: int, number: int) -> bool:
        bits = _BITS[version]
        for length in self._lengths[version]:
            said = self._said.get((version, length, number >> (bits - length)))
            if said is not None:
                return said
        return False


def has_hosts(network: Network) -> bool:
    """Hosts may be in it that packets are routed to."""
    return not (network.is_multicast or network.is_loopback or network.is_link_local)


def is_private(network: Network) -> bool:
    """All of it is of RFC 1918, RFC 6598 or RFC 4193."""
    # Not is_private: 0.0.0.0/1 begins and ends within networks that nobody routes.
    return any(
        network.version == n.version and network.subnet_of(n)  # type: ignore[arg-type]
        for n in _PRIVATE
    )


def _routed(networks: Sequence[Network]) -> Iterable[Network]:
    """Of what one tunnel or peer leads to: all that is no part of a default route."""
    if all(map(_is_host, networks)):
        yield from networks  # most members, and there may be thousands
        return
    for version in _BITS:
        own = [n for n in networks if n.version == version and n.prefixlen]
        in_pieces = sum(n.num_addresses for n in own) >= _WORLD[version]
        for network in own:
            if not in_pieces or is_private(network):
                yield network


def decide(
    own: Iterable[Network],
    others: Iterable[Sequence[Network]],
    allowed: Iterable[Sequence[Network]],
    links: Iterable[Network],
    endpoints: Iterable[str],
) -> Inside:
    """`own`: networks of the tunnel's addresses. `others`: of each other tunnel of this host.
    `allowed`: of each peer. `links`: the subnets of this host's other interfaces. `endpoints`: IPs
    that the user named.
    """
    wide, near = [OVERLAY, *own], [n for n in links if n.prefixlen]
    # Thousands of members have their addresses within these, and say nothing new.
    around = Inside(tuple(wide), tuple(near))
    wanted = set(wide)
    for networks in itertools.chain(allowed, others):
        wanted.update(n for n in _routed(networks) if not (_is_host(n) and around.has(n)))
    found = _pruned(wanted, set(near) - wanted)
    apart: set[Network] = set()
    for ip in endpoints:
        if found.holds(ip):
            version, number = cast("tuple[int, int]", _value(ip))
            apart.add(
                ipaddress.IPv4Network(number) if version == 4 else ipaddress.IPv6Network(number)
            )
    return _pruned(wanted - apart, {*found.outside, *apart}) if apart else found


def _is_host(network: Network) -> bool:
    return network.prefixlen == network.max_prefixlen


def _pruned(inside: set[Network], outside: set[Network]) -> Inside:
    """Without those that say what a shorter one says already: peers' own addresses are mostly
    within the tunnel's network, and there may be thousands."""
    said: dict[_Key, bool] = {}
    lengths: dict[int, list[int]] = {version: [] for version in _BITS}
    kept: dict[bool, list[Network]] = {True: [], False: []}
    both = [
        (n.version, n.prefixlen, int(n.network_address), value, n)
        for networks, value in ((inside, True), (outside, False))
        for n in networks
    ]
    both.sort(key=lambda b: b[:3])
    for version, prefixlen, number, value, network in both:
        bits = _BITS[version]
        covered = False
        for length in reversed(lengths[version]):
            found = said.get((version, length, number >> (bits - length)))
            if found is not None:
                covered = found
                break
        if covered == value:
            continue
        if not lengths[version] or lengths[version][-1] != prefixlen:
            lengths[version].append(prefixlen)
        said[version, prefixlen, number >> (bits - prefixlen)] = value
        kept[value].append(network)
    return Inside(tuple(kept[True]), tuple(kept[False]))
