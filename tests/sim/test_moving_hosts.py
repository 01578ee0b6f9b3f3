"""What happens to members behind routers, each case of the field (docs/nat.md)."""

from __future__ import annotations

from eventqueue import SECOND
from natmodel import Depends
from natworld import NatWorld
from test_punching import home, meet, until_direct, want

from whalescale.protocol import tai64n
from whalescale.protocol.mesh import records
from whalescale.protocol.nat import signalling
from whalescale.protocol.nat.guest import Signalling
from whalescale.protocol.nat.meeting import Phase
from whalescale.protocol.nat.signalling import Call, Kind, Message, Place, Role, What
from whalescale.protocol.places import Endpoint
from whalescale.protocol.types import SendControl


def homes(**more):
    return home("port-restricted", 1, **more), home("port-restricted", 2, **more)


def arrives(world, a, b, seconds):
    """Seconds until a packet of `a` gets to `b`, one sent each 100 ms; None: none does."""
    handle, begin = world.handle(a, b), world.now
    b.received.clear()
    while world.now - begin < seconds * SECOND:
        a.send(handle, b"\x45 tick")
        world.run(0.1)
        if b.received:
            return (world.now - begin) / SECOND
    return None


def test_both_routers_yield_to_what_comes_first():
    """Polykey#357: who sends too early spoils it for both, until there was silence. Two routers
    of the kind need both at one time, which is how the first round after a change is."""
    world = NatWorld()
    _, a, b = meet(world, *homes(yields=True, timeout=30 * SECOND))
    late = b.node.guest(Signalling)
    late._go = lambda *_: None  # GO is lost: b begins half a second late
    want(world, a, b)
    assert until_direct(world, a, b, 20) is None
    del late._go
    world.run(16)
    for host in (a, b):
        host.node.woke(world.now)
    a.node.want_handshake(world.handle(a, b), world.now)
    a.drain()
    assert until_direct(world, a, b, 60) is not None


def test_both_at_one_time_get_through_routers_that_yield():
    world = NatWorld()
    _, a, b = meet(world, *homes(yields=True))
    want(world, a, b)
    assert until_direct(world, a, b, 2) is not None


def test_a_carrier_that_drops_mappings_each_minute():
    """iroh#4424: the session goes on, each time by another port."""
    world = NatWorld()
    one, two = home("carrier", 1), home("port-restricted", 2)
    _, a, b = meet(world, one, two)
    want(world, a, b)
    assert until_direct(world, a, b, 3) is not None
    for _ in range(3):
        world.run(60)
        one.outside.forget()
        took = arrives(world, a, b, 30)
        assert took is not None
        assert took < 20


def test_a_member_that_went_elsewhere_is_found():
    world = NatWorld()
    _, a, b = meet(world, *homes())
    want(world, a, b)
    assert until_direct(world, a, b, 3) is not None
    world.rehome(b, home("port-restricted", 3), "10.9.0.2")
    assert arrives(world, a, b, 60) is not None


def test_two_hosts_behind_one_address_are_told_apart():
    """nebula#731."""
    world = NatWorld()
    one, two = homes()
    anchor, a, b = meet(world, one, two)
    c = world.member(two)
    world.meet_anchor(c, anchor)
    world.know(a, c)
    world.know(c, a)
    world.run(3)
    for other in (b, c):
        want(world, a, other)
        assert until_direct(world, a, other, 3) is not None
    assert {d for _, _, d in (*b.received, *c.received)} == {b"\x45 hello"}
    for other in (b, c):
        assert a.node.peer_status(world.handle(a, other)).endpoint.ip == two.ip


def test_one_home_talks_at_home():
    """No hairpin is needed, and nothing of it leaves the house."""
    world = NatWorld()
    one = home("port-restricted", 1, hairpin=False)
    _, a, b = meet(world, one, one)
    want(world, a, b)
    assert until_direct(world, a, b, 2) is not None
    assert a.node.peer_status(world.handle(a, b)).endpoint == b.at
    assert b.node.peer_status(world.handle(b, a)).endpoint == a.at


def test_the_second_anchor_carries_when_the_first_is_gone():
    """iroh#4319."""
    world = NatWorld()
    anchor, a, b = meet(world, *homes())
    second = world.member(anchor=True)
    for host in (a, b):
        world.meet_anchor(host, second)
    world.run(3)
    del world.hosts[anchor.at]
    want(world, a, b)
    assert until_direct(world, a, b, 4) is not None


def test_both_call_at_one_time():
    for seed in range(5):
        world = NatWorld(seed=seed, loss=0.05)
        _, a, b = meet(world, *homes())
        want(world, a, b)
        want(world, b, a)
        assert until_direct(world, a, b, 12) is not None
        assert until_direct(world, b, a, 12) is not None


def test_who_is_not_there_is_called_ever_less():
    world = NatWorld()
    anchor, a, b = meet(world, *homes())
    del world.hosts[b.at]
    before = len(world.wire)
    handle = want(world, a, b)
    world.run(120)
    assert a.node.guest(Signalling).phase_of(handle) in (Phase.RESTING, Phase.CALLING)
    calls = [
        w for w in world.wire[before:] if w[1] == a.at and w[2] == anchor.at and len(w[3]) > 150
    ]
    assert len(calls) < 60


def test_routers_are_spared_where_nothing_works():
    """EasyTier#289: three rounds, then silence; never more than the budget of the whole node."""
    world = NatWorld()
    _, a, b = meet(world, home("port-restricted", 1), home("symmetric", 2))
    handle = world.handle(a, b)
    before = len(world.wire)
    for _ in range(60):
        a.send(handle, b"\x45 again")
        world.run(10)
    tried = [w for w in world.wire[before:] if w[1] == a.at and w[2].ip.startswith("5.7.2.")]
    assert a.node.guest(Signalling).phase_of(handle) is Phase.SPENT
    assert 0 < len(tried) <= 3 * 13
    assert a.node.guest(Signalling).counts["rounds"] == 3


def victims(count):
    return [Endpoint(f"9.9.{n}.9", 53) for n in range(count)]


def called(world, hostile, anchor, to, places, stamp):
    """A call of the hostile member's making, through the anchor."""

    def sign(label, data):
        return records.sign(hostile.identity.seed, label, data)

    made = Call(Role.CALL, stamp, world.rng.randbytes(8), tuple(map(Place, places)))
    payload = signalling.encode_call(made, hostile.identity.node_id, to.identity.node_id, sign)
    message = Message(What.FORWARD, Kind.CALL, to.identity.node_id, payload)
    hostile.node._core.events.append(
        SendControl(world.handle(hostile, anchor), signalling.encode(message))
    )
    hostile.drain()


def test_a_hostile_member_aims_nobody_at_others():
    """Two a minute to a place that it alone names, five new places a second, 60 a minute."""
    world = NatWorld()
    anchor, a, hostile = meet(world, *homes())
    stamp = tai64n.encode(world.now + a.wall_offset)
    targets = victims(64)
    for n in range(600):
        stamp = tai64n.after(stamp)
        called(world, hostile, anchor, a, targets[8 * n % 64 :][:8], stamp)
        world.run(0.2)
    sent = [(when, to) for when, source, to, _ in world.wire if source == a.at and to in targets]
    assert sent
    first = {}
    for when, to in sent:
        first.setdefault(to, when)
    times = sorted(first.values())
    assert all(x - y >= SECOND for x, y in zip(times[5:], times, strict=False))
    assert all(x - y >= 60 * SECOND for x, y in zip(times[60:], times, strict=False))
    for target in targets:
        own = [when for when, to in sent if to == target]
        assert all(x - y >= 60 * SECOND for x, y in zip(own[2:], own, strict=False))
    assert a.node.drops["call_rate"] > 500


def test_a_carrier_that_lies_about_places_aims_nobody_at_others():
    world = NatWorld()
    anchor, a, b = meet(world, *homes())
    [victim] = victims(1)
    guest = anchor.node.guest(Signalling)
    told = guest.carrier._host.frame

    def lie(peer, frame):
        message = signalling.decode(frame) if frame[0] == signalling.RELAY_MESSAGE else None
        if isinstance(message, Message) and message.what is What.FORWARDED:
            frame = signalling.encode(
                Message(message.what, message.kind, message.node, message.payload, victim)
            )
        told(peer, frame)

    guest.carrier._host.frame = lie
    handle = want(world, a, b)
    for _ in range(30):
        a.send(handle, b"\x45 again")
        world.run(10)
    sent = [when for when, source, to, _ in world.wire if source == a.at and to == victim]
    assert sent
    assert all(x - y >= 60 * SECOND for x, y in zip(sent[2:], sent, strict=False))


def test_an_open_router_needs_no_carrier_for_the_other_side():
    """A mapping by hand or by PCP: the symmetric side gets through to a strict one."""
    world = NatWorld()
    one, two = home("port-restricted", 1), home("symmetric", 2)
    _, a, b = meet(world, one, two)
    outside = one.forward(a.at)
    a.node.set_mapped([("eth0", outside)], world.now)
    a.drain()
    want(world, b, a)
    assert until_direct(world, b, a, 3) is not None
    assert Depends.PORT is two.maps
