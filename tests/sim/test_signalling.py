"""RELAY_MESSAGE: members speak through a third one (docs/nat.md, "Signalling")."""

from __future__ import annotations

import pytest
from natmodel import Depends, Nat
from natworld import NatWorld

from whalescale.protocol.guest import Guest
from whalescale.protocol.nat import signalling
from whalescale.protocol.nat.guest import Signalling
from whalescale.protocol.nat.signalling import (
    Kind,
    Message,
    Refusal,
    Refused,
    What,
    decode,
    encode,
)
from whalescale.protocol.parts import PARTS
from whalescale.protocol.places import Endpoint
from whalescale.protocol.types import SendControl

BLOCKED = {"maps": Depends.PORT, "filters": Depends.PORT}


class Relay(Guest):
    """A stand-in for the relay: it hears of sessions that were made by carried messages."""

    def __init__(self, host):
        self.made = []

    def session_carried(self, peer, carrier, local_index, now):
        self.made.append((peer, carrier))


def trio(world, a=None, b=None, parts=(*PARTS, Relay)):
    """An anchor, and two members that have sessions with it alone."""
    anchor = world.member(anchor=True, parts=parts)
    pair = [
        world.member(Nat(f"5.7.0.{n}", **(kind or BLOCKED)), parts=parts)
        for n, kind in ((1, a), (2, b))
    ]
    for host in pair:
        world.meet_anchor(host, anchor)
    world.run(3)
    return anchor, *pair


def tell(world, host, to, message):
    """A frame of a hostile agent's making."""
    frame = message if isinstance(message, bytes) else encode(message)
    host.node._core.events.append(SendControl(world.handle(host, to), frame))
    host.drain()


def heard(host):
    """What comes to the host, decoded, in order."""
    found = []
    guest = host.node.guest(Signalling)
    before = guest.receive_frame

    def receive(peer, frame, arrival, now):
        found.append((peer, decode(frame)))
        before(peer, frame, arrival, now)

    guest.receive_frame = receive
    return found


def test_a_session_is_made_through_the_anchor_alone():
    world = NatWorld()
    anchor, a, b = trio(world)
    for host in (a, b):
        host.node.guest(Signalling).handshakes = True
    to_b, to_a = world.know(a, b), world.know(b, a)
    a.node.want_handshake(to_b, world.now)
    a.drain()
    world.run(0.5)
    at_a, at_b = world.handle(a, anchor), world.handle(b, anchor)
    assert a.node.guest(Relay).made == [(to_b, at_a)]
    assert b.node.guest(Relay).made == [(to_a, at_b)]
    assert a.peers[to_b].current is not None
    # Nothing was learned of where the other one is.
    assert a.node.peer_status(to_b).endpoint is None
    assert b.node.peer_status(to_a).endpoint is None
    assert anchor.node.guest(Signalling).carrier.counts["messages"] >= 2
    assert not a.node.guest(Signalling).is_direct(to_b, world.now)


def test_handshakes_are_not_carried_where_no_relay_takes_their_data():
    world = NatWorld()
    _, a, b = trio(world)
    a.node.guest(Signalling).handshakes = True
    to_b, to_a = world.know(a, b), world.know(b, a)
    a.node.want_handshake(to_b, world.now)
    a.drain()
    world.run(1)
    assert b.node.drops["relay_none"] >= 1
    assert b.node.peer_status(to_a).last_handshake_wall_ns == 0


def test_who_sent_it_is_whose_session_it_came_by():
    world = NatWorld()
    anchor, a, b = trio(world)
    heard_b = heard(b)
    world.know(b, a)
    forged = Message(What.FORWARD, Kind.GO, b.identity.node_id, b"12345678")
    raw = encode(forged)
    tell(world, a, anchor, raw)
    # A place that the sender fills in is a frame that cannot be.
    tell(world, a, anchor, raw[:36] + b"\4\2\1\2" + raw[40:])
    world.run(1)
    [(_, message)] = heard_b
    assert message.node == a.identity.node_id
    assert message.what is What.FORWARDED
    assert message.seen == Endpoint("5.7.0.1", message.seen.port)
    assert anchor.node.drops["relay_claim"] == 1


def test_what_was_passed_on_goes_no_further():
    world = NatWorld()
    anchor, a, b = trio(world)
    heard_b = heard(b)
    passed = Message(What.FORWARDED, Kind.GO, b.identity.node_id, b"12345678")
    tell(world, a, anchor, passed)
    world.run(1)
    assert heard_b == []
    assert anchor.node.drops["call_token"] == 1


@pytest.mark.parametrize("who", ["unknown", "itself", "without a session", "revoked"])
def test_who_has_no_session_is_refused(who):
    world = NatWorld()
    anchor, a, b = trio(world)
    heard_a = heard(a)
    away = world.member()
    world.know(anchor, away)
    node_id = {
        "unknown": bytes(32),
        "itself": a.identity.node_id,
        "without a session": away.identity.node_id,
        "revoked": b.identity.node_id,
    }[who]
    if who == "revoked":
        del world.members[node_id]
    message = Message(What.FORWARD, Kind.GO, node_id, b"12345678")
    a.node.guest(Signalling)._asked[world.handle(a, anchor), 0] = world.now
    tell(world, a, anchor, message)
    world.run(1)
    assert [m for _, m in heard_a] == [Refused(node_id, Refusal.SESSION)]
    assert anchor.node.drops["relay_session"] == 1


def test_the_revoked_are_heard_no_more():
    world = NatWorld()
    anchor, a, b = trio(world)
    heard_b = heard(b)
    del world.members[a.identity.node_id]
    tell(world, a, anchor, Message(What.FORWARD, Kind.GO, b.identity.node_id, b"12345678"))
    world.run(1)
    assert anchor.node.drops["relay_member"] == 1
    assert heard_b == []


def test_a_member_is_passed_on_so_much_and_no_more():
    world = NatWorld()
    anchor, a, b = trio(world)
    heard_a, heard_b = heard(a), heard(b)
    world.know(b, a)
    message = Message(What.FORWARD, 9, b.identity.node_id, bytes(512))
    for _ in range(500):
        tell(world, a, anchor, message)
    world.run(1)
    assert 30 <= len(heard_b) <= 40
    assert len(heard_a) == 500 - len(heard_b)
    assert all(m.reason == Refusal.RATE for _, m in heard_a)
    assert anchor.node.drops["relay_rate"] == len(heard_a)
    assert b.node.drops["relay_rate"] + b.node.drops["relay_claim"] == len(heard_b)
    assert b.node.drops["relay_claim"] <= 20  # 15 at once of one sender, 5 a second


def test_a_node_that_carries_nothing_says_so():
    world = NatWorld()
    anchor, a, b = trio(world)
    anchor.node.guest(Signalling).carrier.carries = False
    heard_a = heard(a)
    tell(world, a, anchor, Message(What.FORWARD, Kind.GO, b.identity.node_id, b"12345678"))
    world.run(1)
    assert [m.reason for _, m in heard_a] == [Refusal.OFF]


def test_refusals_that_nobody_asked_for_are_counted():
    world = NatWorld()
    anchor, a, b = trio(world)
    tell(world, anchor, a, Refused(b.identity.node_id, 1))
    tell(world, anchor, a, Refused(bytes(32), 1))
    world.run(1)
    assert a.node.drops["relay_unasked"] == 2


def test_a_carried_message_must_be_the_senders_own():
    """A member that replays another's initiation in its own name makes no session."""
    world = NatWorld()
    anchor, a, b = trio(world)
    b.node.guest(Signalling).handshakes = True
    eve = world.member(Nat("5.7.0.9", **BLOCKED))
    world.meet_anchor(eve, anchor)
    world.run(3)
    to_b, to_a = world.know(a, b, Endpoint("9.9.9.9", 9)), world.know(b, a)
    world.know(b, eve)
    a.node.want_handshake(to_b, world.now)
    a.drain()
    [(_, _, _, initiation)] = [w for w in world.wire if w[2].ip == "9.9.9.9"][:1]
    message = Message(What.FORWARD, Kind.HANDSHAKE, b.identity.node_id, initiation)
    tell(world, eve, anchor, message)
    world.run(0.3)
    assert b.node.drops["relay_source"] == 1
    assert b.node.peer_status(to_a).last_handshake_wall_ns == 0
    # The sender's own, all the same.
    tell(world, a, anchor, message)
    world.run(0.3)
    assert not b.node.drops["replay"]
    # The answer went back by the carrier.
    assert a.node.drops["relay_none"] >= 1


def test_hostile_payloads_are_counted():
    world = NatWorld()
    anchor, a, b = trio(world)
    b.node.guest(Signalling).handshakes = True
    world.know(b, a)
    payloads = [
        (Kind.HANDSHAKE, b"\4" + bytes(147)),
        (Kind.HANDSHAKE, b"\1" + bytes(10)),
        (Kind.HANDSHAKE, b"\1" + bytes(147)),
        (Kind.HANDSHAKE, b"\2" + bytes(91)),
        (Kind.HANDSHAKE, b"\3" + bytes(63)),
        (Kind.CALL, bytes(88)),
        (Kind.CALL, b"\1" + bytes(87)),
        (Kind.GO, bytes(7)),
        (77, b"?"),
    ]
    for kind, payload in payloads:
        tell(world, a, anchor, Message(What.FORWARD, kind, b.identity.node_id, payload))
    world.run(1)
    drops = b.node.drops
    assert drops["relay_claim"] == 5
    assert drops["mac1"] == 2
    assert drops["index"] == 1
    assert drops["call_replay"] + drops["call_signature"] == 1
    assert signalling.RELAY_MESSAGE == 0x18
