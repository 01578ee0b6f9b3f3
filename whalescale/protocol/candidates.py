"""Which pairs of a local and a remote address are worth probing, best first.

Whether a pair works is for the probes to say; here falls out what cannot: two families, link-local
addresses of other links, addresses that no host has.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Final

from whalescale.protocol.places import Endpoint, LocalLink

MAX_CANDIDATES: Final = 64
#: a peer numbers its interfaces 0..14; this says that it did not
NO_LINK: Final = 15
#: an announced link-local address may be on any link of ours: each makes a pair with all of them
RANK_ANY_LINK: Final = 6

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
#: our address (see `key_of`), and where to: what makes a path this one
Pair = tuple[str, Endpoint]


class Source(IntEnum):
    """How we know of a remote address, the surest first."""

    OBSERVED = 0  # an authenticated datagram came from there to this local address
    CONFIGURED = 1
    ANNOUNCED = 2


@dataclass(frozen=True, slots=True)
class Remote:
    """Where the peer may be reached. `link`: its number of that interface (NO_LINK: unknown)."""

    endpoint: Endpoint
    source: Source
    link: int = NO_LINK
    #: the one local address that it was seen from, or is good for, see `key_of`
    local_ip: str | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    local: Endpoint
    remote: Endpoint
    link: LocalLink
    source: Source
    remote_link: int
    #: lower is better
    rank: int

    @property
    def pair(self) -> Pair:
        return key_of(self.local), self.remote


def key_of(local: Endpoint) -> str:
    """ "192.0.2.1", with a zone where two interfaces could have it: "192.168.8.100%4"."""
    return f"{local.ip}%{local.scope_id}" if local.scope_id else local.ip


def local_of(key: str) -> Endpoint:
    """The local address of a pair, without its port."""
    ip, _, zone = key.partition("%")
    return Endpoint(ip, 0, int(zone or 0))


def same_local(one: Endpoint, other: Endpoint) -> bool:
    """One of them may not say by which of two interfaces."""
    if one.ip != other.ip:
        return False
    return one.scope_id == other.scope_id or not (one.scope_id and other.scope_id)


@lru_cache(maxsize=512)
def parse(ip: str) -> Address | None:
    """None: this is no address."""
    try:
        return ipaddress.ip_address(ip)
    except ValueError:
        return None


@lru_cache(maxsize=512)
def reachable(endpoint: Endpoint) -> bool:
    """Whether a host could have this address and port, as seen from another host."""
    address = parse(endpoint.ip)
    if address is None or not 0 < endpoint.port < 65536:
        return False
    if isinstance(address, ipaddress.IPv6Address) and (
        address.ipv4_mapped is not None or address.is_site_local
    ):
        return False
    if isinstance(address, ipaddress.IPv4Address) and address.packed[0] in (0, *range(240, 256)):
        return False  # "this network", class E, broadcast
    return not (address.is_multicast or address.is_loopback or address.is_unspecified)


def direct(_: Endpoint) -> bool:
    """No anchor is there, as far as known."""
    return False


def nowhere(_: str) -> bool:
    """No address is inside a tunnel, as far as known."""
    return False


@lru_cache(maxsize=512)
def near(one: str, other: str) -> bool:
    """Likely on the same link: equal in the usual length of a subnet's prefix."""
    a, b = parse(one), parse(other)
    if a is None or b is None or a.version != b.version:
        return False
    bytes_ = 3 if a.version == 4 else 8
    return a.packed[:bytes_] == b.packed[:bytes_]


@lru_cache(maxsize=512)
def on_link(ip: str, prefix_length: int, other: str) -> bool:
    """Whether `other` is in the subnet of this local address."""
    a, b = parse(ip), parse(other)
    if a is None or b is None or a.version != b.version or not prefix_length:
        return False
    bits = a.max_prefixlen - prefix_length
    return int(a) >> bits == int(b) >> bits


def _elsewhere(links: Sequence[LocalLink], link: LocalLink, remote: Remote) -> bool:
    """The address is in the subnet of another interface of ours, and not of this one's.

    Linux hosts answer ARP on every interface for all their addresses (arp_ignore 0): such a pair
    does work, by this interface's link, and would be that link a second time.
    """
    ip = remote.endpoint.ip
    own = [n for n in links if n.interface == link.interface]
    return not any(on_link(n.ip, n.prefix_length, ip) for n in own) and any(
        on_link(n.ip, n.prefix_length, ip) for n in links
    )


def _fits(link: LocalLink, remote: Remote) -> Endpoint | None:
    """The remote address as seen from this link; None: it cannot be reached from there."""
    ours, theirs = parse(link.ip), parse(remote.endpoint.ip)
    if ours is None or theirs is None or ours.version != theirs.version:
        return None
    if remote.local_ip is not None:
        seen = local_of(remote.local_ip)
        if seen.ip != link.ip or seen.scope_id not in (0, link.ifindex):
            return None
    zone = remote.endpoint.scope_id
    if theirs.version == 6 and ours.is_link_local != theirs.is_link_local:
        return None
    if theirs.version == 6 and theirs.is_link_local:
        # An announced one names no zone: it may be on any link of ours.
        if zone not in (0, link.ifindex):
            return None
        return Endpoint(remote.endpoint.ip, remote.endpoint.port, link.ifindex)
    if theirs.is_link_local != ours.is_link_local:
        return None  # 169.254/16
    return Endpoint(remote.endpoint.ip, remote.endpoint.port)


def _rank(link: LocalLink, remote: Remote, endpoint: Endpoint) -> int:
    """Same link, then what was seen or configured, IPv6 global, IPv4, then other sites' private.

    Last link-local addresses, unless the peer was seen or configured there.
    """
    address = parse(endpoint.ip)
    assert address is not None
    if address.is_link_local:
        return RANK_ANY_LINK if remote.source is Source.ANNOUNCED else 1
    if near(link.ip, endpoint.ip):
        return 0
    if remote.source is not Source.ANNOUNCED:
        return 2
    if address.is_private:
        return 5
    return 3 if address.version == 6 else 4


def candidates(
    links: Sequence[LocalLink],
    port: int,
    remotes: Iterable[Remote],
    keep: Collection[Pair] = (),
) -> list[Candidate]:
    """At most MAX_CANDIDATES, best first. Those of `keep` are never among the ones left out.

    The best of each (interface, remote interface) stand before the second bests: with few probes
    allowed at once the first ones should tell which interfaces reach each other.
    """
    own = {link.ip for link in links if not link.link_local}
    shared = Counter(link.ip for link in links)
    best: dict[Pair, Candidate] = {}
    for remote in remotes:
        if not reachable(remote.endpoint) or remote.endpoint.ip in own:
            continue
        for link in links:
            endpoint = _fits(link, remote)
            if endpoint is None or _elsewhere(links, link, remote):
                continue
            # Two modems of one make give the host the same address.
            zone = link.ifindex if link.link_local or shared[link.ip] > 1 else 0
            found = Candidate(
                Endpoint(link.ip, port, zone),
                endpoint,
                link,
                remote.source,
                remote.link,
                _rank(link, remote, endpoint),
            )
            known = best.get(found.pair)
            if known is None or (found.rank, found.remote_link) < (known.rank, known.remote_link):
                best[found.pair] = found
    ordered = sorted(best.values(), key=lambda c: (c.rank, c.source))
    seen: Counter[tuple[str, int | str]] = Counter()
    turns: list[tuple[bool, bool, int, Candidate]] = []
    for c in ordered:
        ends = ends_of(c.link.interface, c.remote, c.remote_link)
        turns.append((c.rank == RANK_ANY_LINK, c.link.spare, seen[ends], c))
        seen[ends] += 1
    turns.sort(key=lambda turn: turn[:3])  # stable: best first within a turn
    room = MAX_CANDIDATES - sum(pair in best for pair in keep)
    chosen: list[Candidate] = []
    for *_, c in turns:
        if c.pair not in keep:
            if room <= 0:
                continue
            room -= 1
        chosen.append(c)
    return chosen


def ends_of(interface: str, remote: Endpoint, remote_link: int) -> tuple[str, int | str]:
    """The two interfaces that a pair joins, as far as they are known.

    The peer's interface has a number if it said so, else its address stands for it.
    """
    return interface, remote.ip if remote_link >= NO_LINK else remote_link
