"""Ways that work half, places without number, relays that end at one side: cases of the field."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from eventqueue import MS, SECOND
from homeworld import HomeWorld
from natmodel import Depends, Nat
from relay_world import Member, Network

from whalescale.protocol.nat.guest import Signalling
from whalescale.protocol.places import LocalLink


def talks(world: HomeWorld, a: Member, b: Member, seconds: float) -> None:
    """Packets both ways, one each 20 ms, from now on."""
    to, back = world.handle(a, b), world.handle(b, a)

    def say() -> None:
        a.send(to, b"\x45x")
        b.send(back, b"\x45y")

    until = world.now + int(seconds * SECOND)
    world.every(20 * MS, until, say)
    for host in (a, b):
        world.every(100 * MS, until, host.sample)


def one_way(a: Member, hub: Member) -> Callable[..., bool]:
    """Nothing of a's gets anywhere but to the anchor."""
    return lambda source, to, _: source != a.at or to == hub.at


@pytest.mark.parametrize("end", [0, 1])
def test_a_block_in_one_direction_does_not_end_the_relay(end: int) -> None:
    """nebula#893: what comes directly shows one direction, and no path is made of it."""
    world = HomeWorld(1)
    a, b, hub = world.meet(Nat("5.7.1.1"), Nat("5.7.2.1"))
    world.passes = one_way((a, b)[end], hub)
    assert world.ping(a, b, 3).first == 160 * MS
    talks(world, a, b, 60)
    world.run(40)
    assert world.used(a, b) == world.used(b, a) == {"relay"}
    for host in (a, b):
        host.received.clear()
    world.run(1)
    for host in (a, b):
        assert len(host.received) >= 48


@pytest.mark.parametrize("end", [0, 1])
def test_a_direct_way_that_dies_in_one_direction_is_left(end: int) -> None:
    """EasyTier#2471: one end is heard still, and hears nothing itself."""
    world = HomeWorld(1)
    a, b, hub = world.meet(Nat("5.7.1.1"), Nat("5.7.2.1"))
    assert world.ping(a, b).direct is not None
    talks(world, a, b, 60)
    world.run(5)
    world.passes = one_way((a, b)[end], hub)
    world.run(5)
    assert world.used(a, b) == world.used(b, a) == {"relay"}
    for host in (a, b):
        host.received.clear()
    world.run(1)
    for host in (a, b):
        assert len(host.received) >= 48


def test_twenty_bridges_do_not_fill_the_places() -> None:
    """iroh#3979: bridges of containers are named and tried last."""
    world = HomeWorld(1)
    a, b, _ = world.meet(Nat("5.7.1.1"), Nat("5.7.2.1"))
    for host in (a, b):
        bridges = [
            LocalLink(f"172.{17 + n}.0.1", 10 + n, f"br-{n}", 1500, prefix_length=16, spare=True)
            for n in range(20)
        ]
        host.node.set_locals([*bridges, world.link_of(host)], host.at.port, world.now)
        host.drain()
    world.run(2)
    named = [place.endpoint.ip for place in a.node.guest(Signalling).places()]
    assert named[:2] == ["5.7.1.1", a.at.ip]
    met = world.ping(a, b)
    assert met.first == 160 * MS
    assert met.direct is not None
    assert met.direct < 500 * MS


def test_a_relay_that_ended_at_one_side_only_is_made_anew() -> None:
    """nebula 1.11: one end began anew, and the other one goes on sending to what was bound."""
    net = Network(walled=[(1, 2)])
    net.run(5)
    net.flow(1, 2, 20, 20)
    net.run(3)
    assert net.used(1, 2) == {3}
    old = net.hosts[2]
    net.start(2, old.identity)
    net.handles[2] = {}
    for other in (1, 3):
        net.meet(2, other)
    net.settle(2)
    net.flow(1, 2, 400, 30)
    net.run(25)
    came = net.hosts[2].received
    assert came
    assert came[-1][0] > net.world.now - SECOND


def test_a_symmetric_router_with_equal_ports_is_no_open_one() -> None:
    """EasyTier#933: the anchor sees the port that the host has, the next destination another."""
    world = HomeWorld(1)
    a, b, _ = world.meet(Nat("5.7.1.1", maps=Depends.PORT, preserve=True), Nat("5.7.2.1"))
    seen = {o.seen.port for o in a.node.guest(Signalling)._host.observations()}
    assert seen == {a.at.port}
    met = world.ping(a, b, 3)
    assert met.first == 160 * MS
    assert world.used(a, b) == world.used(b, a) == {"relay"}
