"""Homes as an agent has them: all machines of a node, behind routers, and anchors that relay.

`NatWorld` has the routers, `relay_world` the data plane of a relay; here both, and post-quantum
keys.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from eventqueue import MS, SECOND
from natmodel import Nat
from natworld import NatWorld, chain
from relay_world import Member

from whalescale.identity import Identity
from whalescale.protocol.guest import Part
from whalescale.protocol.multipath import Multipath
from whalescale.protocol.nat.guest import Signalling
from whalescale.protocol.nat.relay import Relay
from whalescale.protocol.nat.relay_events import RelaySettings, Use
from whalescale.protocol.parts import PARTS
from whalescale.protocol.paths.types import MultipathSettings
from whalescale.protocol.places import Endpoint
from whalescale.protocol.postquantum import PostQuantumKeys

WHOLE = (*PARTS, PostQuantumKeys, Relay)


class Meeting(NamedTuple):
    """ns after the packet; None: never."""

    first: int | None
    direct: int | None


class HomeWorld(NatWorld):
    """`meet` makes an anchor or more, and two members that know these alone."""

    def __init__(
        self, seed: int = 1, loss: float = 0.0, delay: int = 20 * MS, use: Use = Use.AUTO
    ) -> None:
        super().__init__(seed, loss, delay)
        self.use = use

    def make(self, at: Endpoint, identity: Identity, parts: Iterable[Part]) -> Member:
        return Member(self, at, identity, WHOLE)

    def crowd(self, a: Member, hub: Member, count: int, told: int = 3) -> list[Member]:
        """So many members more, each behind a router of its own; `a` was told of places of each
        where nobody is."""
        others = [self.member(Nat(f"5.8.{n}.1")) for n in range(count)]
        self.settle()
        for other in others:
            self.meet_anchor(other, hub)
        self.run(5)
        for n, other in enumerate(others):
            self.know(a, other, *(Endpoint(f"9.{k}.{n}.1", 51820) for k in range(told)))
            self.know(other, a)
        return [host for host in others if isinstance(host, Member)]

    def settle(self) -> None:
        """Everybody hears who is a member, and who an anchor."""
        anchors = [n for n, h in self.members.items() if h.anchor]  # type: ignore[attr-defined]
        settings = MultipathSettings(relay_also=self.use is Use.ALSO)
        for node_id, host in self.members.items():
            relay = host.node.guest(Relay)
            host.node.guest(Multipath).set_settings(settings, 1420, self.now)
            relay.set_settings(RelaySettings(self.use), self.now)
            relay.set_network(node_id, self.members.__contains__, anchors, self.now)
            host.node.guest(Signalling).handshakes = self.use is not Use.NEVER
            host.drain()

    def meet(
        self, one: Nat | None, two: Nat | None, anchors: int = 1, firewalled: bool = False
    ) -> tuple[Member, ...]:
        """(a, b, anchors...), with warm sessions to the anchors, and none with each other.

        `firewalled`: the two have the address that they have outside, and all have IPv6.
        """
        hubs = [
            self.member(anchor=True, ip=f"2600:9::{n}" if firewalled else "")
            for n in range(1, anchors + 1)
        ]
        pair = [self.member(nat, ip=nat.ip if firewalled and nat else "") for nat in (one, two)]
        self.settle()
        for host in pair:
            for hub in hubs:
                self.meet_anchor(host, hub)
        for _ in range(30):
            self.run(1)
            if all(self.warm(host, hub) for host in pair for hub in hubs):
                break
        self.run(1)
        a, b = pair
        self.know(a, b, *([b.at] if two is None else []))
        self.know(b, a, *([a.at] if one is None else []))
        return tuple(host for host in (*pair, *hubs) if isinstance(host, Member))

    def run(self, seconds: float) -> None:
        members = list(self.members.values())
        for host in members:
            assert isinstance(host, Member)
            self.every(250 * MS, self.now + int(seconds * SECOND), host.sample)
        super().run(seconds)

    def sleep(self, host: Member) -> None:
        """It is suspended: hears nothing, sends nothing, and no timer of its runs."""
        del self.hosts[host.at]
        self._armed.pop(host.at, None)

    def wake(self, host: Member) -> None:
        self.hosts[host.at] = host
        host.node.woke(self.now)
        host.drain()
        self.arm(host)

    def doze(self, seconds: float) -> None:
        """As `run`, but who wants samples takes them."""
        super().run(seconds)

    def used(self, one: Member, other: Member) -> set[str]:
        """ "relay", "direct": what carries packets of one to the other; by the paths in use."""
        handle = self.handle(one, other)
        relay = one.node.guest(Relay)
        found = one.node.guest(Multipath).path_status(handle)
        return {
            "relay" if relay.anchor_at(handle, s.remote) is not None else "direct"
            for s in found
            if s.usable
        }

    def ping(self, one: Member, other: Member, seconds: float = 8.0) -> Meeting:
        """One packet and its answer, neither sent twice, and the way to a direct path."""
        to, back, begin = self.handle(one, other), self.handle(other, one), self.now
        one.received.clear()
        other.received.clear()
        one.send(to, b"\x45ping")
        answered = first = direct = None
        while self.now - begin < seconds * SECOND and (first is None or direct is None):
            super().run(0.01)
            for host in (one, other):
                host.sample()
            if answered is None and other.received:
                answered = self.now
                other.send(back, b"\x45pong")
            if first is None and one.received:
                first = one.received[0][0] - begin
            if direct is None and {"direct"} == self.used(one, other) == self.used(other, one):
                direct = self.now - begin
        return Meeting(first, direct)

    def blocked(self, *hosts: Member) -> bool:
        return any(nat.blocked for h in hosts for nat in chain(self.homes[h.at]))
