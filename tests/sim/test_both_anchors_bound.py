"""Both anchors relay again soon after a host has moved, though it speaks over one of them alone."""

from __future__ import annotations

import pytest
from eventqueue import MS, SECOND
from homeworld import HomeWorld
from natmodel import Depends, Nat
from relay_world import Member

from whalescale.protocol.multipath import Multipath
from whalescale.protocol.nat.relay import Relay


def bound(world: HomeWorld, one: Member, other: Member, hubs: list[Member]) -> list[bool]:
    """At which of the anchors."""
    found = one.node.guest(Relay).anchors_of(world.handle(one, other))
    return [world.handle(one, hub) in found for hub in hubs]


def sends_to(world: HomeWorld, one: Member, other: Member) -> set[str]:
    found = one.node.guest(Multipath).path_status(world.handle(one, other))
    return {path.remote.ip for path in found if path.usable}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_after_moves_both_anchors_send_to_where_the_host_is(seed: int) -> None:
    """An anchor that carries nothing has no data that would show where it sends to. It was not left
    for as long as the host stayed away, answered nothing to the host, and so was not bound."""
    world = HomeWorld(seed)
    a, b, *hubs = world.meet(Nat("5.7.1.1"), Nat("5.7.2.1"), anchors=2)
    world.meet_anchor(hubs[0], hubs[1])
    assert world.ping(a, b).direct is not None
    to, back = world.handle(a, b), world.handle(b, a)

    def say() -> None:
        a.send(to, b"\x45x")
        b.send(back, b"\x45y")

    world.every(10 * MS, world.now + 60 * SECOND, say)
    for host in (a, b):
        world.every(100 * MS, world.now + 60 * SECOND, host.sample)
    world.run(5)
    world.rehome(a, Nat("5.7.3.1"), "10.8.0.2")
    world.run(8)
    nat = world.homes[a.at]
    assert nat is not None
    nat.forget()
    world.run(8)
    world.rehome(a, Nat("5.7.4.1", maps=Depends.PORT), "10.9.0.2")
    world.run(2)
    assert world.used(a, b) == world.used(b, a) == {"relay"}
    for hub in hubs:
        assert sends_to(world, hub, a) == {"5.7.4.1"}
    for one, other in ((a, b), (b, a)):
        assert bound(world, one, other, hubs) == [True, True]
    # So whichever dies, the other one carries.
    (way,) = {path.remote for path in b.specs[back].paths if path.usable}
    dead = next(hub for hub in hubs if hub.at == way)
    del world.hosts[dead.at]
    world.run(2.5)
    for host in (a, b):
        host.received.clear()
    world.run(0.5)
    for host in (a, b):
        assert len(host.received) > 40
