"""Two homes with everything that an agent has: the first ping over the anchor, then directly."""

from __future__ import annotations

import pytest
from eventqueue import MS, SECOND
from homeworld import HomeWorld
from natmodel import Nat
from natworld import most_within, new_destinations
from test_punching import home

from whalescale.protocol.multipath import Multipath
from whalescale.protocol.nat import signalling
from whalescale.protocol.nat.guest import Signalling
from whalescale.protocol.nat.meeting import Meeting, Phase
from whalescale.protocol.nat.relay import Relay
from whalescale.protocol.nat.relay_events import Use
from whalescale.protocol.nat.signalling import RELAY_MESSAGE, Kind, Role
from whalescale.protocol.postquantum import PostQuantumKeys


def homes(one="port-restricted", two="port-restricted", **more):
    return home(one, 1, **more), home(two, 2, **more)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_first_ping_is_answered_and_the_way_is_direct_at_once(seed):
    """Packets that waited for the session leave over the anchor. Then some of path 0's come over
    it, some directly: neither end follows the other to and fro."""
    world = HomeWorld(seed)
    a, b, _ = world.meet(*homes())
    met = world.ping(a, b)
    assert met.first is not None
    assert met.direct is not None
    # Eight times the way to the anchor and on: a handshake, a ping.
    assert met.first == 160 * MS
    assert met.direct < 500 * MS
    world.run(5)
    for one, other in ((a, b), (b, a)):
        assert world.used(one, other) == {"direct"}
        assert one.node.drops["probe_token"] <= 2
        assert one.node.guest(PostQuantumKeys).state(world.handle(one, other)) == "yes"


@pytest.mark.parametrize("kinds", [("symmetric", "symmetric"), ("port-restricted", "symmetric")])
def test_where_no_hole_can_be_the_anchor_carries(kinds):
    world = HomeWorld()
    a, b, _ = world.meet(*homes(*kinds))
    met = world.ping(a, b, 3)
    assert met.first == 160 * MS
    assert met.direct is None
    assert world.used(a, b) == world.used(b, a) == {"relay"}


@pytest.mark.parametrize("late", ["caller", "called", "the open end", "the other end"])
@pytest.mark.parametrize("open_end", [0, 1])
def test_a_router_that_takes_what_it_does_not_know_and_a_busy_host(monkeypatch, late, open_end):
    """Whose datagram comes first has the place there, and our own flow gets another port. One end
    is always 300 ms late, so that it is the wrong one in half of the cases."""
    begin = Meeting.begin
    ends = []

    def slowly(meeting, places, start):
        if late in ("caller", "called"):
            busy = meeting.called is (late == "called")
        else:
            mine = meeting in ends[open_end].node.guest(Signalling)._meetings.values()
            busy = mine is (late == "the open end")
        begin(meeting, places, start + 300 * MS * busy)

    monkeypatch.setattr(Meeting, "begin", slowly)
    world = HomeWorld()
    routers = homes()
    routers[open_end].yields = routers[open_end].preserve = True
    for router in routers:
        router.timeout = 30 * SECOND
    a, b, _ = world.meet(*routers)
    ends += [a, b]
    assert world.ping(a, b).first == 160 * MS
    for _ in range(200):
        if world.used(a, b) == world.used(b, a) == {"direct"}:
            return
        a.send(world.handle(a, b), b"\x45 hello")
        world.run(1)
    raise AssertionError("never direct")


def test_behind_a_carrier_too():
    world = HomeWorld(4)
    a, b, _ = world.meet(home("carrier", 1), home("port-restricted", 2))
    met = world.ping(a, b)
    assert met.first == 160 * MS
    assert met.direct is not None
    assert met.direct < SECOND


def test_the_move_to_the_direct_way_loses_nothing():
    world = HomeWorld(2)
    a, b, _ = world.meet(*homes())
    handle, sent = world.handle(a, b), []

    def say():
        sent.append(b"\x45%d" % len(sent))
        a.send(handle, sent[-1])

    world.every(5 * MS, world.now + 3 * SECOND, say)
    world.run(4)
    got = [data for _, _, data in b.received]
    assert set(got) == set(sent)
    assert len(got) == len(sent)
    over = [world.homes.get(at) is None and at.ip.startswith("5.6.") for *_, at, _ in b.by]
    assert True in over
    assert not over[-1]
    # The direct way is shorter, so that some overtake here; the data plane puts them in order.
    assert sorted(got, key=lambda data: int(data[1:])) == sent


@pytest.mark.parametrize("lost", ["initiation", "response"])
def test_a_carried_handshake_message_that_is_lost_is_carried_again(lost):
    """WireGuard would try again after 5 s."""
    world = HomeWorld(3)
    one, two = homes("symmetric", "symmetric")
    a, b, hub = world.meet(one, two)
    carrier = hub.node.guest(Signalling).carrier
    told, dropped = carrier._host.frame, []

    def frame(peer, data):
        if data[0] == RELAY_MESSAGE and not dropped:
            message = signalling.decode(data)
            kind = 1 if lost == "initiation" else 2
            if message.kind == Kind.HANDSHAKE and message.payload[0] == kind:
                dropped.append(peer)
                return
        told(peer, data)

    carrier._host.frame = frame
    met = world.ping(a, b, 3)
    assert dropped
    assert met.first is not None
    assert met.first < SECOND


@pytest.mark.parametrize("lost", ["call", "answer", "two answers", "go"])
@pytest.mark.parametrize("delay", [20, 60])
def test_a_message_of_a_meeting_that_is_lost_costs_half_a_second(lost, delay):
    """Whoever was called begins without GO, and so may be in its round when the CALL comes again:
    it answers still. It was 9 s to the next call that anybody answered."""
    world = HomeWorld(3, delay=delay * MS)
    a, b, hub = world.meet(*homes())
    carrier = hub.node.guest(Signalling).carrier
    told, dropped = carrier._host.frame, []
    kind = Kind.GO if lost == "go" else Kind.CALL
    role = {"call": Role.CALL, "go": None}.get(lost, Role.ANSWER)

    def frame(peer, data):
        message = signalling.decode(data) if data[0] == RELAY_MESSAGE else None
        if message is not None and message.kind == kind and role in (None, message.payload[0]):
            dropped.append(peer)
            if len(dropped) <= 1 + (lost == "two answers"):
                return
        told(peer, data)

    carrier._host.frame = frame
    met = world.ping(a, b, 5)
    assert dropped
    assert met.direct is not None
    assert met.direct < (SECOND if lost != "two answers" else 1.5 * SECOND) + 8 * delay * MS
    assert a.node.guest(Signalling).counts["rounds"] == 1
    assert b.node.guest(Signalling).counts["rounds"] == 1


def test_a_call_that_is_repeated_for_ever_aims_few_datagrams(monkeypatch):
    """Each GO may begin the round again, but no more often than an honest caller calls."""
    world = HomeWorld(3)
    a, b, hub = world.meet(*homes())
    called, begin, begun = b.node.guest(Signalling), Meeting.begin, []

    def watched(meeting, places, start):
        if meeting in called._meetings.values():
            begun.append(start)
        begin(meeting, places, start)

    monkeypatch.setattr(Meeting, "begin", watched)
    world.passes = lambda source, to, _: hub.at in (source, to)
    a.node.want_handshake(world.handle(a, b), world.now)
    a.drain()
    world.run(0.3)
    handle = world.handle(b, a)
    meeting = called._meetings[handle]
    assert meeting.phase is Phase.PUNCHING
    for _ in range(40):
        called._go(handle, meeting.token, world.now)
        b.drain()
        world.run(0.1)
    assert 2 <= len(begun) <= 5
    assert called.counts["rounds"] == 1


def test_forty_members_at_once_are_tried_five_a_second():
    """Home routers die of full tables: of all that a node tries, whatever it is that tries it."""
    world = HomeWorld(1)
    a, _, hub = world.meet(*homes())
    others = world.crowd(a, hub, 40)
    before, begun = len(world.wire), world.now
    for other in others:
        a.send(world.handle(a, other), b"\x45x")
    world.run(20)
    # They are spoken with meanwhile, over the anchor, which takes so many messages a second.
    assert all(other.received for other in others)
    world.run(70)
    times = new_destinations(world.wire[before:], a.at)
    assert most_within(times, SECOND) <= 5
    assert 40 < most_within(times, 60 * SECOND) <= 60
    assert times[0] == begun
    assert sum(world.used(a, other) == {"direct"} for other in others) >= 12


def test_relay_also_uses_both():
    world = HomeWorld(2, use=Use.ALSO)
    a, b, _ = world.meet(*homes())
    handle, sent = world.handle(a, b), 0
    for _ in range(100):
        a.send(handle, b"\x45%d" % sent)
        sent += 1
        world.run(0.05)
    assert world.used(a, b) == world.used(b, a) == {"relay", "direct"}
    assert len({data for _, _, data in b.received}) == sent
    # The anchor goes: nothing of it is missed.
    b.received.clear()
    world.hosts = {at: host for at, host in world.hosts.items() if host in (a, b)}
    for _ in range(200):
        a.send(handle, b"\x45%d" % sent)
        b.send(world.handle(b, a), b"\x45")
        sent += 1
        world.run(0.05)
    assert world.used(a, b) == world.used(b, a) == {"direct"}


def test_a_direct_way_that_is_gone_is_looked_for_at_once_and_again():
    """Both call each other when the last one fails, and each two minutes while they speak: routers
    let in only those who are sent to at the same time, so each by itself never gets through."""
    world = HomeWorld(2)
    a, b, hub = world.meet(*homes())
    assert world.ping(a, b).direct is not None
    to, back = world.handle(a, b), world.handle(b, a)

    def talk():
        a.send(to, b"\x45x")
        b.send(back, b"\x45y")
        for host in (a, b, hub):
            host.sample()

    world.every(2 * SECOND, world.now + 500 * SECOND, talk)
    world.doze(2)
    rounds = a.node.guest(Signalling).counts["rounds"]
    world.passes = lambda source, to, _: hub.at in (source, to)
    world.doze(12)
    assert world.used(a, b) == world.used(b, a) == {"relay"}
    assert a.node.guest(Signalling).counts["rounds"] == rounds + 1
    world.doze(320)
    world.passes = lambda *_: True
    world.doze(130)
    assert world.used(a, b) == world.used(b, a) == {"direct"}


@pytest.mark.parametrize("member", [None, "port-restricted"])
def test_an_anchor_without_a_direct_way_is_relayed_by_another(member):
    """Its port is shut from where we are, its own sessions go on: as a box at home whose port
    mapping died."""
    world = HomeWorld(1)
    a, _, hub, second = world.meet(home(member, 1) if member else None, None, anchors=2)
    world.meet_anchor(hub, second)
    world.run(2)
    to, back = world.handle(a, hub), world.handle(hub, a)

    def talk():
        a.send(to, b"\x45x")
        hub.send(back, b"\x45y")

    world.every(250 * MS, world.now + 100 * SECOND, talk)
    world.run(2)
    assert world.used(a, hub) == world.used(hub, a) == {"direct"}
    relay = a.node.guest(Relay)
    assert not relay.anchors_of(to)
    world.passes = lambda source, to, _: hub.at not in (source, to) or second.at in (source, to)
    world.run(5)
    assert world.used(a, hub) == world.used(hub, a) == {"relay"}
    assert relay.anchors_of(to) == [world.handle(a, second)]
    a.received.clear()
    hub.received.clear()
    world.run(1)
    assert len(a.received) >= 3
    assert len(hub.received) >= 3
    world.passes = lambda *_: True
    world.run(12)
    assert world.used(a, hub) == world.used(hub, a) == {"direct"}
    # What is reached directly costs no bindings.
    assert not relay.anchors_of(to)


def test_firewalled_ipv6_at_both_ends_is_punched():
    """Public addresses, and firewalls that let in only what answers: both must send."""
    world = HomeWorld(1)
    one, two = (Nat(f"2600:{n}::1", preserve=True) for n in (1, 2))
    a, b, _ = world.meet(one, two, firewalled=True)
    met = world.ping(a, b)
    assert met.first == 160 * MS
    assert met.direct is not None
    assert met.direct < 500 * MS
    (way,) = {s.remote for s in a.node.guest(Multipath).path_status(world.handle(a, b)) if s.usable}
    assert way == b.at


def test_a_dead_anchor_is_left_for_the_other_before_its_link_counts_as_full():
    """Both ways lead over one link of ours, which may be why nothing answers: the other anchor is
    asked."""
    world = HomeWorld(1)
    a, b, *hubs = world.meet(*homes("symmetric", "symmetric"), anchors=2)
    assert world.ping(a, b, 3).first is not None
    to, back = world.handle(a, b), world.handle(b, a)

    def talk():
        a.send(to, b"\x45x")
        b.send(back, b"\x45y")

    world.every(50 * MS, world.now + 20 * SECOND, talk)
    world.run(3)
    (way,) = {s.remote for s in a.node.guest(Multipath).path_status(to) if s.usable}
    dead = next(hub for hub in hubs if hub.at == way)
    world.passes = lambda source, to, _: dead.at not in (source, to)
    world.run(2.5)
    for host in (a, b):
        host.received.clear()
    world.run(0.5)
    assert len(a.received) >= 8
    assert len(b.received) >= 8


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("end", [0, 1])
def test_messages_come_through_an_anchor_that_nothing_is_bound_at(monkeypatch, which, end):
    """While the only way to it is another anchor's relay: packets go where the answer came from."""
    world = HomeWorld()
    a, b, *hubs = world.meet(*homes(), anchors=2)
    far = (a, b)[end]
    hub, relay = world.handle(far, hubs[which]), far.node.guest(Relay)
    is_direct = relay._host.is_direct

    def known(peer, now):
        return is_direct(peer, now) and peer != hub

    for guest in (relay, far.node.guest(Signalling)):
        monkeypatch.setattr(guest._host, "is_direct", known)
    relay._look(hub, world.now)
    assert world.ping(a, b).first is not None
