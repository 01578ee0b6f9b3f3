"""Sessions over time: rekeying, keepalives, silence, restarts, roaming. Whitepaper section 6."""

import itertools
from collections import Counter

from eventqueue import MS, SECOND
from world import Link, World, numbered, pair, payloads

from whalescale.identity import PlainIdentity, fingerprint_of, x25519_to_node_ids
from whalescale.protocol import bootstrap
from whalescale.protocol.limits import Limits
from whalescale.protocol.places import Endpoint
from whalescale.protocol.types import (
    EndpointChanged,
    HandshakeCompleted,
    HandshakeGaveUp,
    HandshakeUnanswered,
    KeypairReady,
    KeypairsExpired,
    SendControl,
    SendKeepalive,
)

INITIATION, RESPONSE = 1, 2


def talk(world, host, peer, seconds, interval=100 * MS):
    """Numbered packets from now on; returns the list of what is sent, filled while it happens."""
    sent = []

    def one():
        data = len(sent).to_bytes(4, "big") + bytes([host.at.port & 255])
        sent.append(data)
        host.send(peer, data)

    world.every(interval, world.now + int(seconds * SECOND), one)
    return sent


def test_staged_packets_arrive_with_the_first_handshake():
    world = World()
    a, b, pa, pb = pair(world, preshared_key=bytes(range(32)))
    for data in numbered(5):
        a.send(pa, data)
    world.run(1)
    assert payloads(b) == list(numbered(5))
    b.send(pb, b"back")
    world.run(1)
    assert payloads(a) == [b"back"]
    assert [e.initiator for _, e in a.of(HandshakeCompleted)] == [True]
    assert [e.initiator for _, e in b.of(HandshakeCompleted)] == [False]
    assert a.of(HandshakeCompleted)[0][1].round_trip == 20 * MS
    assert b.node.peer_status(pb).endpoint == a.at
    assert not a.node.drops
    assert not b.node.drops


def test_a_wireguard_key_alone_speaks_plain_wireguard():
    """No offer goes out, whatever the peer is; a node with a node ID may be known by it."""
    world = World()
    provider, host = world.host(1), world.host(2)
    plain = PlainIdentity(host.identity.static_private)
    imported = type(host)(world, Endpoint("192.0.2.77", 7), plain)
    world.hosts[imported.at] = imported
    to_provider = imported.add(provider, endpoints=(provider.at,))
    to_imported = provider.add(static_public=plain.static_public)
    imported.send(to_provider, b"there")
    world.run(1)
    provider.send(to_imported, b"back")
    world.run(10)
    assert (payloads(provider), payloads(imported)) == ([b"there"], [b"back"])
    for end in (provider, imported):
        assert not end.of(SendControl)
        assert not end.node.drops
    # Who guesses the fingerprint that this key would have hears nothing.
    for node_id in x25519_to_node_ids(plain.static_public):
        request = bootstrap.encode_request(fingerprint_of(node_id), bytes(32))
        assert not imported.node.receive_datagram(request, provider.at, imported.at, world.now)
    assert imported.node.drops == {"bootstrap_mac": 2}


def test_a_wrong_psk_never_makes_a_session():
    world = World()
    a, b = world.host(1), world.host(2)
    pa = a.add(b, endpoints=(b.at,), preshared_key=b"\1" * 32)
    b.add(a, preshared_key=b"\2" * 32)
    a.send(pa, b"x")
    world.run(30)
    assert not a.of(KeypairReady)
    assert not b.received
    assert a.node.drops["handshake"] > 0


def test_only_the_initiator_rekeys_and_nothing_is_lost():
    world = World()
    a, b, pa, pb = pair(world)
    there = talk(world, a, pa, 400)
    back = talk(world, b, pb, 400)
    world.run(401)
    assert payloads(b) == there
    assert payloads(a) == back
    assert not world.messages(INITIATION, source=b)
    times = [when for when, e in a.of(HandshakeCompleted) if e.initiator]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len(gaps) == 3
    for gap in gaps:
        assert 120 * SECOND <= gap <= 120 * SECOND + 200 * MS
    assert all(not e.initiator for when, e in b.of(HandshakeCompleted))


def test_rekey_over_a_bad_link_loses_only_what_the_link_loses():
    world = World(seed=7, link=Link(delay=(5 * MS, 60 * MS), duplicate=0.2))
    a, b, pa, pb = pair(world)
    there = talk(world, a, pa, 400, 20 * MS)
    back = talk(world, b, pb, 400, 30 * MS)
    world.run(402)
    assert sorted(payloads(b)) == there
    assert sorted(payloads(a)) == back
    assert b.drops["replay"] > 0  # the duplicates


def test_a_receiver_that_only_listens_rekeys_at_165_s():
    """The initiator sends nothing but keepalives; REJECT - KEEPALIVE - REKEY_TIMEOUT is for it."""
    world = World()
    a, b, pa, pb = pair(world)
    a.send(pa, b"open")
    world.run(1)
    start = a.of(HandshakeCompleted)[0][0]
    back = talk(world, b, pb, 300)
    world.run(301)
    assert payloads(a) == back
    second = a.of(HandshakeCompleted)[1][0]
    # Its passive keepalives are messages too: the first of them after 120 s may ask already.
    assert 120 * SECOND <= second - start <= 166 * SECOND


def test_a_session_is_renewed_though_the_initiators_messages_are_kept_out():
    """A flood in the initiator's name: the other side renews the session before it ends."""
    world = World(seed=9)
    a, b, to_b, to_a = pair(world)
    a.send(to_b, b"open")
    world.run(1)
    world.passes = lambda source, to, data: not (data[0] == INITIATION and to == b.at)
    sent = talk(world, a, to_b, 600)
    world.run(601)
    assert payloads(b)[1:] == sent
    assert world.messages(INITIATION, source=a, to=b)
    assert b.node.peer_status(to_a).initiator
    # One for each session: at 170 s, then as every initiator that only listens.
    assert 3 <= len([e for _, e in b.of(HandshakeCompleted) if e.initiator]) <= 4


def test_an_idle_session_that_the_peer_began_is_left_to_end():
    world = World(seed=9)
    a, b, to_b, _ = pair(world)
    talk(world, a, to_b, 1)
    world.run(400)
    assert len(b.of(HandshakeCompleted)) == 1


def test_passive_keepalive_after_ten_seconds_of_silence_and_only_one():
    world = World()
    a, b, pa, _ = pair(world)
    a.send(pa, b"open")
    world.run(1)
    received = b.received[-1][0]
    world.run(60)
    fired = [when for when, _ in b.of(SendKeepalive)]
    assert fired == [received + 10 * SECOND]
    assert not a.of(KeypairsExpired)
    assert len(world.messages(INITIATION)) == 1


def test_no_passive_keepalive_while_we_answer():
    world = World()
    a, b, pa, pb = pair(world)
    a.send(pa, b"open")
    talk(world, b, pb, 60, 5 * SECOND)
    world.run(55)
    assert not b.of(SendKeepalive)


def test_silence_asks_for_a_new_handshake_after_fifteen_seconds():
    world = World()
    a, b, pa, _ = pair(world)
    a.send(pa, b"open")
    world.run(30)
    world.passes = lambda source, *_: source != b.at
    since = world.now
    a.send(pa, b"anyone?")
    world.run(16)
    second = world.messages(INITIATION, source=a)[1][0]
    assert since + 15 * SECOND <= second <= since + 15 * SECOND + 334 * MS


def test_gives_up_after_ninety_seconds():
    world = World()
    a, _, pa, _ = pair(world)
    world.passes = lambda *_: False
    start = world.now
    a.send(pa, b"anyone?")
    world.run(300)
    tries = [when for when, _ in world.messages(INITIATION, source=a)]
    assert len(tries) == 18
    for earlier, later in itertools.pairwise(tries):
        assert 5 * SECOND <= later - earlier < 5 * SECOND + 334 * MS
    [(gave_up, _)] = a.of(HandshakeGaveUp)
    assert 90 * SECOND <= gave_up - start <= 97 * SECOND
    assert not a.peers[pa].staged
    world.passes = lambda *_: True
    a.send(pa, b"now?")
    world.run(1)
    assert a.of(HandshakeCompleted)


def test_packets_that_keep_coming_keep_the_attempts_going():
    world = World()
    a, b, pa, _ = pair(world)
    world.passes = lambda *_: False
    talk(world, a, pa, 300, SECOND)
    world.run(290)
    assert not a.of(HandshakeGaveUp)
    assert len(world.messages(INITIATION)) > 50
    # Who looks the peer's name up again must hear of it all the same.
    told = [when for when, _ in a.of(HandshakeUnanswered)]
    assert len(told) == 3
    assert told[0] - world.start < 100 * SECOND
    world.passes = lambda *_: True
    world.run(6)
    assert payloads(b)
    world.run(300)
    assert len(a.of(HandshakeUnanswered)) == 3


def test_jitter_differs_between_retries():
    world = World()
    a, _, pa, _ = pair(world)
    world.passes = lambda *_: False
    a.send(pa, b"anyone?")
    world.run(60)
    tries = [when for when, _ in world.messages(INITIATION, source=a)]
    assert len({b - a for a, b in itertools.pairwise(tries)}) > 5


def test_keys_are_zeroed_after_540_seconds():
    world = World()
    a, b, pa, _ = pair(world)
    a.send(pa, b"open")
    world.run(700)
    for host in (a, b):
        derived = host.of(KeypairReady)[-1][0]
        [(expired, _)] = host.of(KeypairsExpired)
        assert expired == derived + 540 * SECOND
        assert not host.indices
        assert not host.node._indices._peers
    a.send(pa, b"again")
    world.run(1)
    assert payloads(b) == [b"open", b"again"]


def test_a_machine_put_back_to_an_earlier_state_begins_its_sessions_anew():
    world = World()
    a, b, pa, pb = pair(world)
    a.send(pa, b"open")
    world.run(20)
    before = a.node.peer_status(pa).session_created
    a.node.begin_anew(world.now)
    assert a.node.peer_status(pa).session_created is None
    a.drain()
    world.arm(a)
    world.run(1)
    assert len(a.of(KeypairsExpired)) == 1
    assert before < a.node.peer_status(pa).session_created
    b.send(pb, b"back")
    a.send(pa, b"again")
    world.run(1)
    assert (payloads(a), payloads(b)) == ([b"back"], [b"open", b"again"])
    # The peer without a session is not asked for one.
    lone = world.host(3)
    handle = lone.add(a)
    lone.node.begin_anew(world.now)
    assert lone.node.peer_status(handle).handshake_attempts == 0


def test_after_a_suspend_a_session_that_is_kept_open_is_proved():
    world = World()
    a, b = world.host(1), world.host(2)
    keeps = a.add(b, endpoints=(b.at,), persistent_keepalive=25)
    b.add(a)
    leaves = b.add(world.host(3), endpoints=(Endpoint("10.0.0.3", 51820),))
    world.hosts[Endpoint("10.0.0.3", 51820)].add(b)
    b.send(leaves, b"open")
    world.run(20)
    before = a.node.peer_status(keeps).session_created
    left = b.node.peer_status(leaves).session_created
    assert before < world.now - 15 * SECOND
    for host in (a, b):
        host.node.woke(world.now)
        host.drain()
        world.arm(host)
    world.run(1)
    assert a.node.peer_status(keeps).session_created > before
    # What nobody keeps open has no mapping to lose; its next packet goes out as ever.
    assert b.node.peer_status(leaves).session_created == left


def test_persistent_keepalive_starts_at_once_and_keeps_the_interval():
    world = World()
    a, b, _, pb = pair(world, persistent_keepalive=25)
    world.run(0.5)
    assert a.of(HandshakeCompleted)
    assert b.node.peer_status(pb).endpoint == a.at
    before = len(a.of(SendKeepalive))
    world.run(100)
    later = [when for when, _ in a.of(SendKeepalive)[before:]]
    assert len(later) == 4
    assert all(24 * SECOND < y - x < 26 * SECOND for x, y in itertools.pairwise(later))
    # The other side may be away for good: it tries again at its interval, and sends nothing else.
    del world.hosts[b.at]
    world.run(1000)
    assert len(world.messages(INITIATION, source=a)) > 30


def test_restart_of_the_responder_with_loss_of_state():
    world = World()
    a, b, pa, _ = pair(world)
    a.send(pa, b"open")
    world.run(30)
    b2 = world.host(2, b.identity)
    b2.add(a)
    talk(world, a, pa, 60)
    world.run(60)
    first = b2.received[0][0]
    # KEEPALIVE_TIMEOUT + REKEY_TIMEOUT and jitter, then a round trip.
    assert first - b2.world.now + 60 * SECOND <= 15.5 * SECOND
    assert b2.drops["no_key"] > 0


def test_restart_of_the_side_that_speaks_is_over_in_a_round_trip():
    world = World()
    a, b, pa, _ = pair(world)
    a.send(pa, b"open")
    world.run(30)
    a2 = world.host(1, a.identity)
    pa2 = a2.add(b, endpoints=(b.at,))
    a2.send(pa2, b"again")
    world.run(0.2)
    assert payloads(b) == [b"open", b"again"]


def test_clock_jumps_hours_forward_as_after_a_suspend():
    world = World()
    a, b, pa, pb = pair(world)
    sent = talk(world, a, pa, 20)
    world.run(21)
    world.jump(5 * 3600)
    world.run(0.1)
    assert a.of(KeypairsExpired)
    assert b.of(KeypairsExpired)
    a.send(pa, b"awake")
    world.run(1)
    assert payloads(b) == [*sent, b"awake"]
    world.jump(5 * 3600)
    b.send(pb, b"awake too")
    world.run(1)
    assert payloads(a)[-1] == b"awake too"


def test_suspend_in_the_middle_of_a_handshake_does_not_give_up():
    world = World()
    a, b, pa, _ = pair(world)
    world.passes = lambda *_: False
    a.send(pa, b"held")
    world.run(11)
    world.jump(3600)
    world.passes = lambda *_: True
    world.run(1)
    assert not a.of(HandshakeGaveUp)
    assert payloads(b) == [b"held"]


def test_the_wall_clock_set_back_does_not_lock_us_out():
    world = World()
    a, b, pa, _ = pair(world)
    a.send(pa, b"one")
    world.run(1)
    a.wall_offset -= 86400 * SECOND
    world.run(600)
    a.send(pa, b"two")
    world.run(1)
    assert payloads(b) == [b"one", b"two"]
    assert not b.node.drops


def test_both_initiate_at_once():
    world = World()
    a, b = world.host(1), world.host(2)
    pa, pb = a.add(b, endpoints=(b.at,)), b.add(a, endpoints=(a.at,))
    a.send(pa, b"from a")
    b.send(pb, b"from b")
    world.run(0.1)
    assert payloads(a) == [b"from b"]
    assert payloads(b) == [b"from a"]
    # One session is left over, so that one side alone rekeys it.
    roles = {a.node.peer_status(pa).initiator, b.node.peer_status(pb).initiator}
    assert roles == {True, False}
    there, back = talk(world, a, pa, 300), talk(world, b, pb, 300)
    world.run(301)
    assert payloads(b)[1:] == there
    assert payloads(a)[1:] == back


def test_roaming_of_both_sides():
    world = World()
    a, b, pa, pb = pair(world)
    there = talk(world, a, pa, 280)
    talk(world, b, pb, 280, SECOND)
    world.run(10)
    elsewhere = Endpoint("172.16.0.9", 4000)
    world.move(a, elsewhere)
    world.run(1)
    assert b.peers[pb].endpoint == elsewhere
    assert b.node.peer_status(pb).endpoint == elsewhere
    world.run(150)  # through a rekey
    world.move(b, Endpoint("172.16.0.10", 4001))
    world.run(140)
    assert a.node.peer_status(pa).endpoint == b.at
    lost = set(there) - set(payloads(b))
    # Between b's move and its next packet a sends to the old place; nothing else is lost.
    assert len(lost) <= 12


def test_candidates_are_tried_in_turn_until_one_answers():
    world = World()
    a, b = world.host(1), world.host(2)
    dead = [Endpoint("203.0.113.1", 1), Endpoint("2001:db8::1", 2)]
    pa = a.add(b, endpoints=(dead[0], b.at, dead[1]))
    b.add(a)
    a.send(pa, b"hello")
    world.every(300 * MS, world.now + 20 * SECOND, lambda: a.send(pa, b"more"))
    world.run(12)
    assert payloads(b)[0] == b"hello"
    tried = [to for _, source, to, data in world.wire if data[0] == INITIATION]
    assert tried == [dead[0], dead[1], b.at]  # what is in use, then both families by turns
    assert a.node.peer_status(pa).endpoint == b.at
    # The one that works stays first at the next rekey.
    world.run(600)
    world.wire.clear()
    a.send(pa, b"later")
    world.run(1)
    assert [to for _, _, to, data in world.wire if data[0] == INITIATION] == [b.at]


def test_trying_candidates_does_not_move_the_endpoint_in_use():
    world = World()
    a, b = world.host(1), world.host(2)
    other = Endpoint("203.0.113.1", 1)
    pa = a.add(b, endpoints=(b.at, other))
    b.add(a)
    a.send(pa, b"hello")
    world.run(30)
    world.passes = lambda source, *_: source != b.at  # b hears, and cannot answer
    talk(world, a, pa, 40)
    events = len(a.of(EndpointChanged))
    world.run(40)
    assert {to for _, _, to, data in world.wire if data[0] == INITIATION} == {b.at, other}
    assert len(a.of(EndpointChanged)) == events
    assert a.peers[pa].endpoint == b.at


def test_short_limits_for_tests_of_rekeying():
    limits = Limits(
        rekey_after_time=3 * SECOND, reject_after_time=20 * SECOND, keepalive_timeout=SECOND
    )
    world = World(limits=limits)
    a, b, pa, _ = pair(world)
    there = talk(world, a, pa, 60)
    world.run(61)
    assert payloads(b) == there
    # REKEY_TIMEOUT stays the least distance between two initiations.
    times = [when for when, _ in world.messages(INITIATION)]
    assert all(y - x >= 5 * SECOND for x, y in itertools.pairwise(times))
    assert len(times) >= 10


def test_an_initiation_that_was_held_back_completes_nothing():
    """It crossed the peer's own, which made the session; an hour later somebody delivers it."""
    world = World()
    a, b = world.host(1), world.host(2)
    if a.identity.static_public < b.identity.static_public:
        a, b = b, a  # a keeps its attempt where both began
    pa, pb = a.add(b, endpoints=(b.at,)), b.add(a, endpoints=(a.at,))
    world.passes = lambda source, _, data: source != a.at or data[0] != INITIATION
    a.send(pa, b"from a")
    b.send(pb, b"from b")
    world.run(1)
    [(_, held)] = world.messages(INITIATION, a)
    assert payloads(b) == [b"from a"]
    world.passes = lambda *_: True
    talk(world, a, pa, 3600, SECOND)
    talk(world, b, pb, 3600, SECOND)
    world.run(3600)
    assert len(world.messages(INITIATION, a)) == 1, "b began the session, so it renews it"
    elsewhere = Endpoint("198.51.100.66", 6666)
    b.receive(held, elsewhere)
    [answer] = [data for _, _, to, data in world.wire if to == elsewhere and data[0] == RESPONSE]
    made = len(a.of(KeypairReady))
    a.receive(answer, elsewhere)
    assert a.node.drops == Counter(index=1)
    assert len(a.of(KeypairReady)) == made
    assert a.node.peer_status(pa).endpoint == b.at


def test_a_late_answer_is_refused():
    """No timer ran meanwhile: the machine slept."""
    world = World()
    a, b = world.host(1), world.host(2)
    pa, _ = a.add(b, endpoints=(b.at,)), b.add(a, endpoints=(a.at,))
    world.passes = lambda source, *_: source != b.at
    a.node.want_handshake(pa, world.now)
    a.drain()
    world.run(0.1)
    [(_, answer)] = world.messages(RESPONSE, b)
    a.node.receive_datagram(answer, b.at, a.at, world.now + 11 * SECOND)
    assert a.node.drops == Counter(late=1)
    assert a.node.peer_status(pa).session_created is None
    a.node.receive_datagram(answer, b.at, a.at, world.now + 9 * SECOND)
    assert a.node.peer_status(pa).session_created is not None
