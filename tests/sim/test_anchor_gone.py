"""Anchors that are silent: a session with one that nobody uses says nothing by itself."""

from __future__ import annotations

import pytest
from eventqueue import MS, SECOND
from homeworld import HomeWorld
from natmodel import Depends, Nat
from relay_world import Member

from whalescale.protocol.multipath import Multipath
from whalescale.protocol.paths.types import PathState, PathStatus
from whalescale.status import QUIET_S


def paths(one: Member, world: HomeWorld, other: Member) -> list[PathStatus]:
    return one.node.guest(Multipath).path_status(world.handle(one, other))


def relayed(world: HomeWorld, *nats: Nat) -> tuple[Member, ...]:
    """(a, b, the anchor that relays, the other one), with the relay in use."""
    a, b, *hubs = world.meet(*nats, anchors=2)
    world.ping(a, b)
    world.run(3)
    used = {p.remote for p in paths(a, world, b) if p.usable}
    hubs.sort(key=lambda hub: hub.at not in used)
    assert hubs[0].at in used
    return a, b, *hubs


def symmetric(number: int) -> Nat:
    return Nat(f"5.7.{number}.1", maps=Depends.PORT)


def test_an_anchor_that_stops_relaying_is_not_called_healthy() -> None:
    world = HomeWorld(1)
    a, b, dead, other = relayed(world, symmetric(1), symmetric(2))
    to, back = world.handle(a, b), world.handle(b, a)

    def say() -> None:
        a.send(to, b"\x45x")
        b.send(back, b"\x45y")

    world.every(20 * MS, world.now + 40 * SECOND, say)
    del world.hosts[dead.at]
    world.run(4)
    for host in (a, b):
        assert {p.state for p in paths(host, world, dead)} == {PathState.FAILED}
        assert {p.state for p in paths(host, world, other)} == {PathState.HEALTHY}
    # It is asked for a session, and relays nothing meanwhile.
    assert a.node.peer_status(world.handle(a, dead)).handshake_attempts
    works = {p.remote for p in paths(a, world, b) if p.state is not PathState.FAILED}
    assert works == {other.at}  # the first path stays, with wherever it led
    world.hosts[dead.at] = dead
    world.run(20)
    for host in (a, b):
        assert PathState.HEALTHY in {p.state for p in paths(host, world, dead)}
    assert dead.at in {p.remote for p in paths(a, world, b)}


def test_of_an_idle_anchor_it_is_told_when_it_was_last_heard() -> None:
    world = HomeWorld(1)
    a, _, dead, _ = relayed(world, symmetric(1), symmetric(2))
    world.run(10)
    del world.hosts[dead.at]
    world.run(40)
    (path,) = paths(a, world, dead)
    assert path.heard_at is not None
    assert QUIET_S < (world.now - path.heard_at) / SECOND < 60


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_who_receives_tells_the_anchors_when_its_router_forgot_it(seed: int) -> None:
    """Its own silence is all that it has; the sender cannot get at it, by no anchor either."""
    world = HomeWorld(seed)
    a, b, first, second = world.meet(Nat("5.7.1.1"), Nat("5.7.2.1"), anchors=2)
    world.ping(a, b)
    back = world.handle(b, a)
    world.every(5 * MS, world.now + 20 * SECOND, lambda: b.send(back, b"\x45y"))
    world.every(100 * MS, world.now + 20 * SECOND, a.sample)
    world.run(5)
    before = [hub.node.peer_status(world.handle(hub, a)).endpoint for hub in (first, second)]
    nat = world.homes[a.at]
    assert nat is not None
    nat.forget()
    world.run(0.8)  # a look that brings nothing, an answer that is late, and the way there
    after = [hub.node.peer_status(world.handle(hub, a)).endpoint for hub in (first, second)]
    assert before[0] != after[0]
    assert before[1] != after[1]


def test_peers_that_come_and_go_have_an_anchor_probed_once_a_second() -> None:
    """Whoever answers no probes makes us look at the anchors; they are not to pay for it."""
    world = HomeWorld(1)
    a, _, anchor, _ = relayed(world, symmetric(1), symmetric(2))
    world.run(3)
    guest, handle, before = a.node.guest(Multipath), world.handle(a, anchor), len(world.wire)
    begin = world.now
    while world.now - begin < 3 * SECOND:
        guest.doubted(handle, world.now)
        a.drain()
        world.arm(a)
        world.run(0.01)
    sent = [to for _, source, to, _ in world.wire[before:] if (source, to) == (a.at, anchor.at)]
    assert len(sent) <= 8
