"""Nodes that speak multipath: who starts it, who ends it, where handshakes go."""

from __future__ import annotations

from dataclasses import replace

import pytest
from eventqueue import SECOND
from world import World

from whalescale.protocol.control import Feature, decode_offer, encode_offer
from whalescale.protocol.multipath import Multipath
from whalescale.protocol.paths.frames import Announce, Entry, encode_announce
from whalescale.protocol.paths.types import (
    MultipathSettings,
    PathSample,
    PathState,
    Scheduler,
    SetPaths,
)
from whalescale.protocol.places import Endpoint, LocalLink
from whalescale.protocol.types import (
    ExtendedModeChanged,
    HandshakeCompleted,
    MultipathStarted,
    PathAction,
    SendControl,
)


class Couple:
    """Two hosts with a link each; control frames over path 0 go through the session."""

    def __init__(self, *, a_speaks=True, b_speaks=True):
        self.world = World()
        self.world.control = True
        self.a, self.b = self.world.host(1), self.world.host(2)
        for host, speaks in ((self.a, a_speaks), (self.b, b_speaks)):
            self.speak(host, speaks)
            host.node.set_locals([LocalLink(host.at.ip, 2, "eth0", 1500)], 51820, self.world.now)
        self.at_a = self.a.add(self.b, endpoints=(self.b.at,))
        self.at_b = self.b.add(self.a)

    def speak(self, host, speaks):
        settings = MultipathSettings() if speaks else None
        host.node.guest(Multipath).set_settings(settings, 1420, self.world.now)

    def start(self):
        self.a.send(self.at_a, b"hello")
        self.world.run(2)


def actions(host, kind):
    return [e.action for _, e in host.of(PathAction) if isinstance(e.action, kind)]


def test_both_offer_and_both_start_before_frames_flow():
    couple = Couple()
    couple.start()
    for host in (couple.a, couple.b):
        started = [
            e for _, e in host.events if isinstance(e, MultipathStarted | ExtendedModeChanged)
        ]
        assert started == [
            MultipathStarted(1, reset=False),
            ExtendedModeChanged(1, True, bundles=True),
        ]
        specs = actions(host, SetPaths)
        assert specs[0].paths[0].id == 0
        assert specs[0].paths[0].ifindex == 2
        assert not specs[-1].schedule


def test_probes_cross_and_the_path_is_known():
    couple = Couple()
    couple.start()
    for host, peer in ((couple.a, couple.at_a), (couple.b, couple.at_b)):
        (status,) = host.node.guest(Multipath).path_status(peer)
        assert status.state is PathState.HEALTHY
        assert status.usable
        assert not host.node.drops


@pytest.mark.parametrize(("a", "b"), [(True, False), (False, True), (False, False)])
def test_one_that_does_not_speak_it_is_left_alone(a, b):
    couple = Couple(a_speaks=a, b_speaks=b)
    couple.start()
    for host in (couple.a, couple.b):
        assert not host.of(MultipathStarted)
        assert not host.of(PathAction)
        assert [e.active for _, e in host.of(ExtendedModeChanged)] == [True]


def test_it_ends_when_it_is_switched_off():
    couple = Couple()
    couple.start()
    assert couple.a.node.guest(Multipath).path_status(couple.at_a)
    couple.speak(couple.a, False)
    couple.a.drain()
    assert couple.a.node.guest(Multipath).path_status(couple.at_a) == []
    assert not actions(couple.a, SetPaths)[-1].schedule


def test_it_ends_at_the_peer_too_and_begins_again():
    couple = Couple()
    couple.start()
    both = ((couple.a, couple.at_a), (couple.b, couple.at_b))
    for _ in range(2):
        couple.speak(couple.a, False)
        couple.a.drain()
        couple.world.run(1)
        for host, peer in both:
            assert host.node.guest(Multipath).path_status(peer) == []
            assert not actions(host, SetPaths)[-1].schedule
        couple.speak(couple.a, True)
        couple.a.drain()
        couple.world.run(1)
        for host, peer in both:
            (status,) = host.node.guest(Multipath).path_status(peer)
            assert status.state is PathState.HEALTHY
    # Nobody forgets what was counted: it is the same peer, with the same seqs.
    for host, _ in both:
        assert [e.reset for _, e in host.of(MultipathStarted)] == [False] * 3
        assert len(host.of(ExtendedModeChanged)) == 1


def test_a_change_of_something_else_is_not_told():
    couple = Couple()
    couple.start()
    before = len(couple.a.of(SendControl))
    settings = MultipathSettings(scheduler=Scheduler.WRR)
    couple.a.node.guest(Multipath).set_settings(settings, 1420, couple.world.now)
    couple.a.drain()
    assert len(couple.a.of(SendControl)) == before
    assert couple.a.node.guest(Multipath).path_status(couple.at_a)


def test_a_peer_that_starts_anew_resets():
    couple = Couple()
    couple.start()
    world = couple.world
    again = world.host(2, couple.b.identity)
    couple.speak(again, True)
    again.add(couple.a)
    for n in range(40):
        world.later(n * SECOND, lambda: couple.a.send(couple.at_a, b"?"))
    world.run(60)
    assert [e.reset for _, e in couple.a.of(MultipathStarted)] == [False, True]
    assert [e.reset for _, e in again.of(MultipathStarted)] == [False]


def test_beginning_anew_is_no_way_around_the_limits():
    """A hostile peer: each OFFER has another epoch, or turns multipath off and on."""
    couple = Couple()
    couple.start()
    world, node, peer = couple.world, couple.a.node, couple.at_a
    (offer, *_) = [decode_offer(e.frame) for _, e in couple.b.of(SendControl)]
    couple.a.events.clear()
    for n in range(200):
        entries = tuple(Entry(Endpoint(f"8.8.{n}.{k}", 1)) for k in range(1, 17))
        for frame in (
            encode_offer(replace(offer, features=Feature.PARTIAL if n % 2 else offer.features)),
            encode_offer(replace(offer, epoch=n)),
            encode_announce(Announce(n, entries)),
        ):
            here = {"remote": couple.b.at, "local": couple.a.at, "datagram_bytes": 400}
            node.receive_control(peer, frame, world.now, **here)
        couple.a.drain()
        world.run(0.25)
    assert node.drops["offer_rate"] > 50
    assert len(couple.a.of(MultipathStarted)) <= 3 + 50
    # A round of probes each, 4 a second after the first 64
    probed = {p.remote for a in actions(couple.a, SetPaths) for p in a.paths if p.id}
    assert 64 < len(probed) <= 64 + 4 * 50


def test_no_bundles_for_a_peer_that_does_not_take_them():
    couple = Couple()
    couple.start()
    (offer, *_) = [decode_offer(e.frame) for _, e in couple.b.of(SendControl)]
    older = encode_offer(replace(offer, features=offer.features & ~Feature.BUNDLE))
    couple.a.node.receive_control(
        *(couple.at_a, older, couple.world.now),
        **{"remote": couple.b.at, "local": couple.a.at, "datagram_bytes": 400},
    )
    couple.a.drain()
    modes = [(e.active, e.bundles) for _, e in couple.a.of(ExtendedModeChanged)]
    assert modes == [(True, True), (True, False)]


def test_a_peer_that_turns_plain_gets_another_keypair():
    """Its replay window took counters with path numbers on the one in use."""
    couple = Couple()
    couple.start()
    world = couple.world
    world.control = False
    for n in range(140):
        world.later(n * SECOND, lambda: couple.a.send(couple.at_a, b"?"))
    world.run(140)
    ((_, on), (turned, off)) = couple.a.of(ExtendedModeChanged)
    assert (on.active, off.active) == (True, False)
    renewed = [when for when, _ in couple.a.of(HandshakeCompleted) if when > turned]
    assert renewed
    assert renewed[0] - turned < 4 * SECOND


def test_a_handshake_goes_where_a_path_works():
    couple = Couple()
    couple.start()
    world, node, peer = couple.world, couple.a.node, couple.at_a
    other = Endpoint("10.9.0.2", 51820), Endpoint("10.9.0.1", 51820)
    links = [LocalLink("10.0.0.1", 2, "eth0", 1500), LocalLink("10.9.0.1", 3, "wlan0", 1500)]
    node.set_locals(links, 51820, world.now)
    # A second path: the peer's probe comes from there, and our own is answered.
    paths = node.guest(Multipath)._states[peer].paths
    path = paths._life.table.paths
    node.guest(Multipath).path_moved(peer, 3, *other, world.now)
    couple.a.drain()
    assert {p.remote for p in path.values()} == {couple.b.at, other[0]}
    second = next(p for p in path.values() if p.remote == other[0])
    second.validated = True
    second.recover(world.now)
    node.guest(Multipath).path_silent(peer, 0, world.now)
    couple.a.drain()
    assert not paths.first_works
    assert paths.routes()[0] == other
    couple.a.drain()
    before = len(world.wire)
    world.now += 10 * SECOND
    node.want_handshake(peer, world.now)
    transmit = node.poll_transmit()
    assert (transmit.remote, transmit.local) == other
    assert len(world.wire) == before


def test_facts_of_peers_that_are_gone_are_ignored():
    couple = Couple()
    couple.start()
    node, now = couple.a.node, couple.world.now
    node.guest(Multipath).path_samples(99, {0: PathSample()}, now)
    node.guest(Multipath).path_moved(99, 0, couple.b.at, None, now)
    node.guest(Multipath).path_silent(99, 0, now)
    node.receive_control(99, b"\x12\x01", now)
    with pytest.raises(KeyError):
        node.guest(Multipath).path_status(99)
