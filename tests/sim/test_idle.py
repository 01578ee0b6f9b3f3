"""What a node sends that does nothing: sessions with two anchors, kept behind a home's router."""

from __future__ import annotations

from itertools import pairwise

import pytest
from eventqueue import SECOND
from homeworld import HomeWorld
from natmodel import Depends, Nat

from whalescale.protocol.control import ControlError, FrameType
from whalescale.protocol.keeping import Keeping, What, decode, encode
from whalescale.protocol.postquantum import PostQuantumKeys
from whalescale.protocol.types import HandshakeCompleted, PeerConfig, SendControl


def warm(seed=1, timeout=60, anchors=2):
    """A home, and anchors that it has sessions with."""
    world = HomeWorld(seed)
    home = Nat("5.7.1.1", filters=Depends.PORT, timeout=timeout * SECOND)
    home.inbound_refresh = False
    a, _, *hubs = world.meet(home, None, anchors)
    world.doze(60)
    return world, home, a, hubs


def watch(world, home, a, hubs, seconds):
    """For each anchor, at which seconds a datagram of its came through."""
    open_at = {hub.at: [] for hub in hubs}

    def look():
        for hub in hubs:
            endpoint = hub.peers[world.handle(hub, a)].endpoint
            live = [m for m in home._live(world.now) if m.port == endpoint.port]
            if any(world.now - m.sent.get(hub.at, -home.timeout) < home.timeout for m in live):
                open_at[hub.at].append((world.now - begin) // SECOND)

    begin = world.now
    world.every(SECOND, begin + seconds * SECOND, look)
    world.doze(seconds)
    return open_at


def sent_by(world, host, before):
    return [data for _, source, _, data in world.wire[before:] if source == host.at]


@pytest.mark.parametrize(("timeout", "datagrams"), [(30, 320), (60, 240), (180, 200)])
def test_an_hour(timeout, datagrams):
    world, home, a, hubs = warm(timeout=timeout)
    before = len(world.wire)
    open_at = watch(world, home, a, hubs, 3600)
    sent = sent_by(world, a, before)
    assert len(sent) <= datagrams
    assert sum(map(len, sent)) <= 30_000
    # Whatever was tried, an anchor could pass on a call at any time.
    reached = set().union(*(set(seconds) for seconds in open_at.values()))
    assert len(reached) >= 3598
    if timeout > 100:
        assert all(a.node.guest(Keeping).interval(peer) == 100 for peer in list(a.peers)[:2])


def test_sessions_have_a_post_quantum_secret_and_a_usable_key_all_the_time():
    world, _, a, hubs = warm()
    for _ in range(60):
        world.doze(30)
        for one, other in ((a, hubs[0]), (hubs[0], a), (a, hubs[1])):
            peer = one.node._peers[world.handle(one, other)]
            assert peer.has_usable_session(world.now)
            assert peer.session_secret
    tags = [s.tag for s in a.node.guest(PostQuantumKeys)._states[1].held]
    assert len(tags) == len(set(tags)) <= 4


def test_a_keypair_that_only_the_peer_of_before_can_have_made_is_not_offered_on():
    world, _, a, hubs = warm()
    offers = [when for when, e in a.of(SendControl) if e.frame[0] == FrameType.OFFER]
    made = len(a.of(HandshakeCompleted))
    world.doze(1000)
    assert len(a.of(HandshakeCompleted)) >= made + 10
    assert [when for when, e in a.of(SendControl) if e.frame[0] == FrameType.OFFER] == offers
    # Packets go on as frames, both ways.
    to, back = world.handle(a, hubs[0]), world.handle(hubs[0], a)
    a.send(to, b"\x45there")
    hubs[0].send(back, b"\x45back")
    world.run(1)
    assert hubs[0].received[-1][2] == b"\x45there"
    assert a.received[-1][2] == b"\x45back"


def test_a_path_that_held_for_longer_and_no_longer_does_is_kept_as_configured():
    world, home, a, hubs = warm(timeout=180)
    world.doze(1500)
    found = a.node.guest(Keeping)
    assert max(found.interval(peer) for peer in a.peers) == 100
    home.timeout = 30 * SECOND  # another router; nobody says so
    # What else is sent keeps a mapping now and then, so it may take some rounds.
    for _ in range(24):
        world.doze(100)
        if not any(found.interval(peer) for peer in a.peers):
            break
    assert all(found.interval(peer) == 0 for peer in a.peers)
    open_at = watch(world, home, a, hubs, 600)
    assert len(set().union(*map(set, open_at.values()))) >= 598


def test_one_session_alone_is_kept_as_configured():
    world, home, a, hubs = warm(timeout=180, anchors=1)
    open_at = watch(world, home, a, hubs, 1200)
    assert len(open_at[hubs[0].at]) >= 1199
    assert a.node.guest(Keeping).interval(world.handle(a, hubs[0])) == 0


def test_what_a_person_configured_is_kept_to_the_letter():
    world, _, a, hubs = warm(timeout=180)
    for hub in hubs:
        peer = world.handle(a, hub)
        told = a.node._peers[peer].config
        config = PeerConfig(node_id=told.node_id, endpoints=told.endpoints, persistent_keepalive=25)
        a.node.update_peer(peer, config, world.now)
    world.arm(a)
    world.doze(200)
    before = len(world.wire)
    world.doze(1000)
    to = [(at, d) for at, s, to, d in world.wire[before:] if s == a.at and to == hubs[0].at]
    assert not any(len(data) == 48 for _, data in to)
    times = [at for at, _ in to]
    assert max(later - at for at, later in pairwise(times)) <= 36 * SECOND


def test_hostile_frames_about_silence():
    """One answer is owed to a peer, whatever it asks, and no later than in ten minutes."""
    world, _, a, hubs = warm()
    (hub, *_), rng = hubs, world.rng
    peer = world.handle(hub, a)
    for seconds in (1, 5, 600):
        hub.node.receive_control(peer, encode(What.ASK, seconds, 7), world.now)
    for _ in range(1000):
        frame = bytes((0x1B, 1)) + rng.randbytes(rng.randrange(10))
        hub.node.receive_control(peer, frame, world.now)
    assert hub.node.drops["keep_claim"] > 100
    assert hub.node.drops["control_length"] > 100
    a.node.receive_control(1, encode(What.ECHO, 50, 0), world.now)
    assert a.node.drops["keep_token"] == 1
    hub.node.receive_control(peer, encode(What.ASK, 20, 7), world.now)
    world.arm(hub)
    world.doze(700)
    echoes = [e.frame for _, e in hub.of(SendControl) if e.frame[:3] == b"\x1b\x01\x02"]
    assert echoes.count(encode(What.ECHO, 20, 7)) == 1
    assert encode(What.ECHO, 600, 7) not in echoes


def test_the_bytes():
    assert encode(What.ASK, 50, 0x1234) == bytes.fromhex("1b01010032003412")
    assert decode(encode(What.ECHO, 600, 1) + bytes(8)) == (What.ECHO, 600, 1)
    for bad in (
        encode(What.ASK, 0, 1),
        encode(What.ASK, 601, 1),
        bytes.fromhex("1b0103000100") * 2,
    ):
        with pytest.raises(ControlError, match=r"^keep_claim$"):
            decode(bad)
