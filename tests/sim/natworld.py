"""Hosts behind routers that translate addresses (`natmodel`), on one Internet.

Beside them a reference says which pairs can have a direct path.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterable

from eventqueue import MS, SECOND
from natmodel import Depends, Nat
from world import Host, Link, World

from whalescale.identity import Identity
from whalescale.protocol.guest import Part
from whalescale.protocol.mesh import records
from whalescale.protocol.multipath import Multipath
from whalescale.protocol.nat.guest import Membership, Signalling
from whalescale.protocol.parts import PARTS
from whalescale.protocol.paths.types import MultipathSettings
from whalescale.protocol.places import Endpoint, LocalLink


def chain(nat: Nat | None) -> list[Nat]:
    """A host's routers, the nearest first."""
    found = []
    while nat is not None:
        found.append(nat)
        nat = nat.outside
    return found


def must_be_direct(a: Nat | None, b: Nat | None) -> bool:
    """Whether two hosts behind these can have a direct path, if both send to all that they know.

    A side that maps by destination shows the other one a new port, which gets in where the other
    filters by address at most; both ways one side must be heard first.
    """
    if any(nat.blocked for nat in (*chain(a), *chain(b))):
        return False
    common = [nat for nat in chain(a) if nat in chain(b)]
    if common and common[0] in (a, b) and a is b:
        return True  # one LAN
    mine = chain(a)[: chain(a).index(common[0])] if common else chain(a)
    yours = chain(b)[: chain(b).index(common[0])] if common else chain(b)
    if common and not common[0].hairpin:
        return False  # they know each other's places outside the common router alone

    def moves(nats: list[Nat]) -> bool:
        return any(nat.maps for nat in nats)

    def strict(nats: list[Nat]) -> bool:
        return any(nat.filters is Depends.PORT for nat in nats)

    if moves(mine) and moves(yours):
        return False  # some work by luck, and move with each datagram
    if moves(mine):
        return not strict(yours)
    return not (moves(yours) and strict(mine))


def both_move(a: Nat | None, b: Nat | None) -> bool:
    """Then nothing is promised."""
    return any(nat.maps for nat in chain(a)) and any(nat.maps for nat in chain(b))


def new_destinations(
    wire: Iterable[tuple[int, Endpoint, Endpoint, bytes]], at: Endpoint
) -> list[int]:
    """When the host there sent to where it had sent nothing for two minutes."""
    latest: dict[Endpoint, int] = {}
    times = []
    for when, source, to, _ in wire:
        if source == at:
            if when - latest.get(to, -1 << 62) > 120 * SECOND:
                times.append(when)
            latest[to] = when
    return times


def most_within(times: list[int], span: int) -> int:
    """Of these sorted times, at worst."""
    return max((n - bisect_right(times, at - span) + 1 for n, at in enumerate(times)), default=0)


class NatWorld(World):
    """Hosts behind routers, members of one network; the first one is the anchor."""

    def __init__(
        self, seed: int = 1, loss: float = 0.0, delay: int = 20 * MS, lan_delay: int = MS
    ) -> None:
        super().__init__(seed, Link((delay, delay), loss))
        self.control = True
        self.lan_delay = lan_delay
        self.homes: dict[Endpoint, Nat | None] = {}
        self.members: dict[bytes, Host] = {}
        self._addresses = itertools.count(1)

    def member(
        self,
        nat: Nat | None = None,
        *,
        anchor: bool = False,
        ip: str = "",
        parts: Iterable[Part] = PARTS,
        paths: bool = True,
    ) -> Host:
        """A machine of the network: behind `nat`, or with a public address."""
        number = next(self._addresses)
        if not ip:
            ip = (
                f"10.0.{number >> 8}.{number & 255}" if nat else f"5.6.{number >> 8}.{number & 255}"
            )
        at = Endpoint(ip, 51820)
        host = self.make(at, Identity.generate(self.rng.randbytes), parts)
        self.hosts[at] = host
        self.homes[at] = nat
        self.members[host.identity.node_id] = host
        host.anchor = anchor  # type: ignore[attr-defined]
        if paths:
            host.node.guest(Multipath).set_settings(MultipathSettings(), 1420, self.now)
        host.node.set_locals([self.link_of(host)], at.port, self.now)
        self.join(host)
        return host

    def make(self, at: Endpoint, identity: Identity, parts: Iterable[Part]) -> Host:
        return Host(self, at, identity, parts)

    def link_of(self, host: Host) -> LocalLink:
        return LocalLink(host.at.ip, 2, "eth0", 1500, prefix_length=24)

    def join(self, host: Host) -> None:
        seed, wall = host.identity.seed, host.wall_offset
        host.node.guest(Signalling).give(
            Membership(
                node_id=host.identity.node_id,
                belongs=self.members.__contains__,
                anchors=lambda: {
                    n
                    for n, h in self.members.items()
                    if h.anchor  # type: ignore[attr-defined]
                },
                sign=lambda label, data: records.sign(seed, label, data),
                verify=records.verify,
                wall_clock=lambda: self.now + wall,
            )
        )

    def know(self, host: Host, other: Host, *places: Endpoint, keepalive: int = 0) -> int:
        """`other` is a peer of `host`, thought to be at `places`."""
        return host.add(
            other,
            endpoints=places,
            persistent_keepalive=keepalive,
            keepalive_adapts=True,
            told=True,
        )

    def meet_anchor(self, host: Host, anchor: Host) -> None:
        """A session with the anchor, kept warm."""
        self.know(anchor, host)
        self.know(host, anchor, anchor.at, keepalive=25)
        self.arm(host)

    def warm(self, host: Host, anchor: Host) -> bool:
        """Frames flow both ways (or never will)."""
        ends = ((host, anchor), (anchor, host))
        blocked = any(nat.blocked for nat in chain(self.homes[host.at]))
        return blocked or all(
            self.handle(one, other) in one.node.guest(Signalling)._speaking for one, other in ends
        )

    def handle(self, host: Host, other: Host) -> int:
        found = host.node.find_peer(other.identity.static_public)
        assert found is not None
        return found

    # the way of a datagram

    def carry(self, source: Endpoint, to: Endpoint, data: bytes) -> None:
        self.wire.append((self.now, source, to, data))
        if not self.passes(source, to, data):
            return
        here = self.homes.get(source)
        at = source
        while True:
            inside = self._at(here, to)
            if inside is not None:
                self._arrive(self.lan_delay if here else self._delay(), at, to, inside, data)
                return
            if here is None:
                return
            if here.blocked:
                return
            at = here.out(at, to, self.now)
            if to.ip == here.ip:
                if here.hairpin:
                    self._arrive(self.lan_delay, at, to, here, data)
                return
            here = here.outside

    def _delay(self) -> int:
        return self.rng.randint(*self.link.delay)

    def _at(self, here: Nat | None, to: Endpoint) -> Host | Nat | None:
        """Who has this address on the network inside `here` (None: the Internet)."""
        host = self.hosts.get(to)
        if host is not None and self.homes.get(to) is here:
            return host
        for nat in self.nats():
            if nat.ip == to.ip and nat.outside is here:
                return nat
        return None

    def nats(self) -> list[Nat]:
        return list({id(n): n for home in self.homes.values() for n in chain(home)}.values())

    def _arrive(
        self, delay: int, source: Endpoint, to: Endpoint, at: Host | Nat, data: bytes
    ) -> None:
        if self.rng.random() >= self.link.loss:
            self.later(delay, lambda: self._enter(source, to, at, data))

    def _enter(self, source: Endpoint, to: Endpoint, at: Host | Nat, data: bytes) -> None:
        while isinstance(at, Nat):
            if at.blocked:
                return
            inner = at.into(source, to.port, self.now)
            following = self._at(at, inner) if inner is not None else None
            if inner is None or following is None:
                return
            to, at = inner, following
        if self.hosts.get(at.at) is at:
            at.receive(data, source, at.at)

    # changes

    def rehome(self, host: Host, nat: Nat | None, ip: str) -> None:
        """The host is elsewhere, with another address."""
        old = host.at
        del self.hosts[old], self.homes[old]
        host.at = Endpoint(ip, old.port)
        self.hosts[host.at], self.homes[host.at] = host, nat
        host.node.set_locals([self.link_of(host)], host.at.port, self.now)
        host.drain()
        self.arm(host)
