"""A machine beside the handshake needs no file but its own and a place in the list of parts."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from eventqueue import MS, SECOND
from world import World

from whalescale.protocol.control import VERSION, ControlError, Feature
from whalescale.protocol.guest import Guest, Shape
from whalescale.protocol.messages import MessageError
from whalescale.protocol.parts import PARTS
from whalescale.protocol.types import GuestEvent, Transmit

GREETING = 0x1F
KNOCK = 0x70
GREETS = Feature(1 << 31)
EVERY = 3 * SECOND


@dataclass(frozen=True, slots=True)
class Greeted(GuestEvent):
    times: int


class Greeter(Guest):
    """Greets each peer that greets too, every three seconds, and counts what comes back."""

    messages = (Shape(KNOCK, 8, 12),)
    frames = (GREETING,)

    def __init__(self, host):
        self.host = host
        self.due = {}
        self.heard = {}
        self.calls = []
        self.knocks = 0
        self.knock_at = None

    def features(self, peer):
        return GREETS

    def peer_added(self, peer, now):
        self.heard[peer] = 0

    def peer_removed(self, peer):
        del self.heard[peer]
        self.due.pop(peer, None)

    def session_started(self, peer, now):
        self.calls.append("started")

    def session_ended(self, peer, now):
        self.calls.append("ended")

    def offered(self, peer, offer, before, fresh, now):
        if fresh and offer.features & GREETS:
            self.due[peer] = now + EVERY

    def became_plain(self, peer, now):
        self.calls.append("plain")
        self.due.pop(peer, None)

    def receive_frame(self, peer, frame, arrival, now):
        if len(frame) < 3:
            raise ControlError("greeting_length")
        self.heard[peer] += 1
        self.host.event(Greeted(peer, self.heard[peer]))

    def peer_deadline(self, peer):
        return self.due.get(peer)

    def peer_timeout(self, peer, now):
        if peer in self.due and self.due[peer] <= now:
            assert self.host.speaks(peer)
            self.due[peer] = now + EVERY
            self.host.frame(peer, bytes((GREETING, VERSION)) + self.host.random(1))

    # before any session: knocks are answered once, a second later

    def receive_message(self, data, remote, local, now):
        if len(data) == 9:
            raise MessageError("knock_odd")
        self.knocks += 1
        if data[4:8] == b"knok":
            self.knock_at, self.answer = now + SECOND, (remote, local)

    def deadline(self):
        return self.knock_at

    def handle_timeout(self, now):
        if self.knock_at is not None and self.knock_at <= now:
            self.knock_at = None
            self.host.transmit(Transmit(bytes((KNOCK, 0, 0, 0)) + b"open", *self.answer))


def couple(world, parts=(*PARTS, Greeter)):
    world.control = True
    a, b = world.host(1, parts=(*PARTS, Greeter)), world.host(2, parts=parts)
    return a, b, a.add(b, endpoints=(b.at,)), b.add(a)


def test_a_guest_speaks_with_its_like_inside_the_session():
    a, b, at_a, at_b = couple(world := World())
    begin = world.now
    a.send(at_a, b"hello")
    world.run(10.5)
    for host, peer in ((a, at_a), (b, at_b)):
        assert [e.times for _, e in host.of(Greeted)] == [1, 2, 3]
        assert host.node.guest(Greeter).heard == {peer: 3}
        assert host.node.guest(Greeter).calls == ["started"]
        assert not host.node.drops
    assert EVERY < a.of(Greeted)[0][0] - begin < EVERY + 100 * MS


def test_who_does_not_offer_it_is_sent_nothing():
    a, b, at_a, _ = couple(world := World(), PARTS)
    a.send(at_a, b"hello")
    world.run(10)
    assert not a.node.guest(Greeter).due
    assert not b.node.drops
    with pytest.raises(KeyError):
        b.node.guest(Greeter)


def test_frames_of_a_guest_that_a_node_does_not_have_are_refused():
    a, b, at_a, at_b = couple(world := World(), PARTS)
    a.send(at_a, b"hello")
    world.run(1)
    for frame in (b"\x1f\x01!", b"\x1f\x02!", b"\x1f"):
        a.node.receive_control(at_a, frame, world.now)
        b.node.receive_control(at_b, frame, world.now)
    a.node.receive_control(at_a, b"\x1f\x01", world.now)
    assert a.node.drops == {"control_version": 1, "control_length": 1, "greeting_length": 1}
    assert b.node.drops == {"control_type": 2, "control_length": 1}


def test_a_guest_hears_of_the_end():
    a, _b, at_a, _ = couple(world := World())
    a.send(at_a, b"hello")
    world.run(1)
    world.passes = lambda *_: False
    world.run(600)
    assert a.node.guest(Greeter).calls == ["started", "plain", "ended"]
    assert a.node.guest(Greeter).due == {}
    a.node.remove_peer(at_a, world.now)
    assert a.node.guest(Greeter).heard == {}


def test_a_guest_speaks_before_any_session():
    a, b, *_ = couple(world := World())
    world.carry(a.at, b.at, bytes((KNOCK, 0, 0, 0)) + b"knok")
    begin = world.now
    world.run(2)
    assert (a.node.guest(Greeter).knocks, b.node.guest(Greeter).knocks) == (1, 1)
    assert world.messages(KNOCK, b, a)[0][0] - begin >= SECOND
    for data in (b"", b"\1" * 5, b"\1" * 6, bytes(9)):
        world.carry(a.at, b.at, bytes((KNOCK, 0, 0, 0)) + data)
    world.run(1)
    assert b.node.drops == {"length": 2, "knock_odd": 1}


def test_two_guests_cannot_take_the_same():
    class Second(Guest):
        frames = (GREETING,)

    class Fake(Guest):
        messages = (Shape(1, 148, 148),)

    for parts in ((Greeter, lambda _: Second()), (lambda _: Fake(),)):
        with pytest.raises(ValueError, match="two machines would take"):
            World().host(1, parts=parts)
