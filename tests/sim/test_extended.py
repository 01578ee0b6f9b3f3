"""Who may send frames, and when that ends (docs/multipath.md section 1)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from eventqueue import SECOND
from world import Link, World

from whalescale.protocol.extended import OFFER_GRACE
from whalescale.protocol.types import ExtendedModeChanged, SendControl


def modes(host):
    return [event.active for _, event in host.of(ExtendedModeChanged)]


def pair(world, **config):
    a, b = world.host(1), world.host(2)
    at_a = a.add(b, endpoints=(b.at,), **config)
    at_b = b.add(a)
    return a, b, at_a, at_b


def chat(world, host, peer, seconds):
    """A packet each second."""
    for n in range(seconds):
        world.later(n * SECOND, lambda n=n: host.send(peer, b"%d" % n))


def test_two_nodes_agree_within_a_round_trip_and_then_are_silent():
    world = World()
    world.control = True
    a, b, at_a, _ = pair(world)
    a.send(at_a, b"hello")
    world.run(1)
    assert modes(a) == modes(b) == [True]
    offers = len(a.of(SendControl)) + len(b.of(SendControl))
    assert offers <= 4
    world.run(30)
    assert len(a.of(SendControl)) + len(b.of(SendControl)) == offers


def test_a_plain_peer_is_offered_five_times_and_gets_nothing_but_packets():
    world = World()
    a, b, at_a, _ = pair(world)
    a.send(at_a, b"hello")
    world.run(60)
    assert len(a.of(SendControl)) == 5
    assert modes(a) == []
    assert [data for _, _, data in b.received] == [b"hello"]


def test_a_peer_known_by_its_wireguard_key_is_never_offered():
    world = World()
    world.control = True
    a, b = world.host(1), world.host(2)
    at_a = a.add(static_public=b.identity.static_public, endpoints=(b.at,))
    b.add(a)
    a.send(at_a, b"hello")
    world.run(10)
    assert not a.of(SendControl)
    assert modes(a) == []


def test_offers_survive_loss():
    for seed in range(20):
        world = World(seed, Link(loss=0.3))
        world.control = True
        a, b, at_a, at_b = pair(world)
        chat(world, a, at_a, 20)
        chat(world, b, at_b, 20)
        world.run(25)
        assert modes(a)[-1:] == modes(b)[-1:] == [True], seed


def test_frames_go_on_through_rekeys():
    world = World()
    world.control = True
    a, b, at_a, _ = pair(world)
    chat(world, a, at_a, 400)
    world.run(401)
    assert len(b.received) == 400
    assert modes(a) == modes(b) == [True]


def test_a_peer_that_turns_plain_is_sent_plain_packets_again():
    world = World()
    world.control = True
    a, _, at_a, _ = pair(world)
    chat(world, a, at_a, 200)
    world.run(60)
    assert modes(a) == [True]
    world.control = False  # from here on neither reads control frames
    world.run(140)
    assert modes(a) == [True, False]
    renewed = next(when for when, _ in a.of(ExtendedModeChanged)[1:])
    started = max(when for when, _ in a.of(SendControl) if when <= renewed - OFFER_GRACE)
    assert renewed == started + OFFER_GRACE


OFFERS = json.loads((Path(__file__).parents[1] / "vectors" / "offer.json").read_text())


@pytest.mark.parametrize("case", OFFERS, ids=lambda case: case["name"])
def test_an_offer_makes_the_mode_or_is_counted(case):
    world = World()
    a, _, at_a, _ = pair(world)
    a.send(at_a, b"hello")
    world.run(1)
    a.node.receive_control(at_a, bytes.fromhex(case["frame"]), world.now)
    a.drain()
    assert dict(a.node.drops) == ({case["refused"]: 1} if "refused" in case else {})
    assert modes(a) == ([True] if "offer" in case else [])


def test_hostile_control_frames_are_counted():
    world = World()
    world.control = True
    a, _, at_a, _ = pair(world)
    a.send(at_a, b"hello")
    world.run(1)
    before = len(a.of(SendControl))
    for frame in (b"\x10", b"\x10\x01", b"\x10\x02" + bytes(30), b"\x1f\x01", b"\x11\x01", b""):
        a.node.receive_control(at_a, frame, world.now)
    a.drain()
    assert sum(a.node.drops.values()) == 6
    assert len(a.of(SendControl)) == before


def test_a_peer_that_never_listens_is_not_answered_without_end():
    world = World()
    world.control = True
    a, b, at_a, _ = pair(world)
    a.send(at_a, b"hello")
    world.run(1)
    deaf = next(event.frame for _, event in b.of(SendControl))
    assert deaf[2] == 0
    before = len(a.of(SendControl))
    for _ in range(1000):
        a.node.receive_control(at_a, deaf, world.now)
    a.drain()
    assert len(a.of(SendControl)) <= before + 1
