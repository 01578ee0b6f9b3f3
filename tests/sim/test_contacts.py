"""The first session where what is preferred is dead: address, family, uplink or direction."""

from __future__ import annotations

from collections.abc import Collection

import pytest
from eventqueue import MS, SECOND
from world import Host, Link, World, pair, payloads

from whalescale.protocol import messages
from whalescale.protocol.contacts import GAP, MOST, Contacts
from whalescale.protocol.messages import INITIATION
from whalescale.protocol.places import Endpoint, LocalLink, Way
from whalescale.protocol.types import EndpointChanged, HandshakeCompleted, PeerConfig

SIX = Endpoint("2001:db8::2", 51820)
DEAD = Endpoint("192.0.2.99", 51820)


def uplinks(world: World, host: Host, count: int) -> None:
    """The routing table prefers the first."""
    links = []
    for n in range(1, count + 1):
        at = host.at if n == 1 else Endpoint(f"10.9.{n}.1", host.at.port)
        host.interfaces[n] = at
        world.hosts[at] = host
        links.append(LocalLink(at.ip, n, f"wwan{n}", 1500, prefix_length=32))
    host.node.set_locals(links, host.at.port, world.now)
    host.drain()


def first_session(world: World, a: Host, pa: int, within: float) -> float:
    """Seconds until a packet arrives at the other end."""
    begun = world.now
    a.send(pa, b"hello")
    while world.now < begun + int(within * SECOND):
        if a.of(HandshakeCompleted):
            return (a.of(HandshakeCompleted)[0][0] - begun) / SECOND
        world.run(0.01)
    raise AssertionError(f"no session within {within} s")


def dead(world: World, *addresses: Endpoint) -> None:
    world.passes = lambda source, to, _: source not in addresses and to not in addresses


def test_the_preferred_uplink_is_dead() -> None:
    """A captive portal: an address, a carrier, the better metric, and nothing comes through."""
    world = World()
    a, b, pa, pb = pair(world)
    uplinks(world, a, 2)
    dead(world, a.interfaces[1])
    assert first_session(world, a, pa, 2) < 0.7
    world.run(0.1)
    assert payloads(b) == [b"hello"]
    b.send(pb, b"and back")
    world.run(0.1)
    assert payloads(a) == [b"and back"]
    assert a.of(EndpointChanged)[-1][1].ifindex == 2


def test_of_five_uplinks_the_last_works() -> None:
    world = World()
    a, _, pa, _ = pair(world)
    uplinks(world, a, 5)
    dead(world, *(a.interfaces[n] for n in range(1, 5)))
    assert first_session(world, a, pa, 3) < 2


def test_no_second_copy_where_the_first_is_answered() -> None:
    world = World(link=Link(delay=(100 * MS, 100 * MS)))
    a, b, pa, _ = pair(world)
    uplinks(world, a, 3)
    first_session(world, a, pa, 1)
    world.run(3)
    assert len(world.messages(messages.INITIATION)) == 1
    assert len(world.messages(messages.RESPONSE)) == 1
    assert not b.node.drops


def test_one_uplink_sends_each_message_once() -> None:
    """As WireGuard: one initiation for each REKEY_TIMEOUT."""
    world = World()
    a, b, pa, _ = pair(world)
    uplinks(world, a, 1)
    dead(world, b.at)
    a.send(pa, b"hello")
    world.run(14)
    assert len(world.messages(messages.INITIATION)) == 3


def test_a_long_way_makes_copies_that_the_peer_drops() -> None:
    world = World(link=Link(delay=(400 * MS, 400 * MS)))
    a, b, pa, _ = pair(world)
    uplinks(world, a, 2)
    first_session(world, a, pa, 2)
    world.run(3)
    copies = {data for _, data in world.messages(messages.INITIATION)}
    assert len(copies) == 1
    assert set(b.node.drops) == {"replay"}
    assert len(world.messages(messages.RESPONSE)) == 1


def test_the_first_of_two_addresses_is_dead() -> None:
    world = World()
    a, b = world.host(1), world.host(2)
    pa = a.add(b, endpoints=(DEAD, b.at))
    b.add(a)
    assert first_session(world, a, pa, 2) < 0.4


def test_dead_ipv6_adds_a_quarter_of_a_second() -> None:
    """The name has AAAA and A, this host has both families, nothing of IPv6 comes through."""
    took = {}
    for alive in (True, False):
        world = World(link=Link(delay=(20 * MS, 20 * MS)))
        a, b = world.host(1), world.host(2)
        links = [LocalLink(ip, 1, "eth0", 1500) for ip in (a.at.ip, "2001:db8::1")]
        a.node.set_locals(links, a.at.port, world.now)
        a.drain()
        pa = a.add(b, endpoints=(b.at,) if alive else (SIX, b.at))
        b.add(a)
        took[alive] = first_session(world, a, pa, 2)
    assert 0.2 < took[False] - took[True] <= 0.3


def test_a_place_heard_of_meanwhile_is_tried_at_once() -> None:
    """A record or the LAN names it while the first message is out: no wait for the next one, 5 s
    later."""
    world = World()
    a, b = world.host(1), world.host(2)
    pa = a.add(b, endpoints=(DEAD,))
    b.add(a)
    a.send(pa, b"hello")
    world.run(1)
    config = PeerConfig(node_id=b.identity.node_id, endpoints=(b.at, DEAD))
    a.node.update_peer(pa, config, world.now)
    a.drain()
    world.run(0.2)
    assert payloads(b) == [b"hello"]
    assert len({data for _, data in world.messages(messages.INITIATION)}) == 1


def test_places_without_end_do_not_get_a_message_without_end() -> None:
    contacts = Contacts([Endpoint("192.0.2.1", 1)])
    contacts.dial(b"message", 0)
    sent = 0
    for n in range(1, 1000):
        contacts.configure([Endpoint(f"10.0.{n >> 8}.{n & 255}", 1)], n)
        sent += contacts.next(contacts.ways([], 1), n, None) is not None
    assert sent == MOST


def test_both_families_by_turns_ipv6_first() -> None:
    four = [Endpoint(f"192.0.2.{n}", 1) for n in (1, 2)]
    six = [Endpoint(f"2001:db8::{n}", 1) for n in (1, 2)]
    have = [LocalLink("10.0.0.1", 1, "e", 1500), LocalLink("2001:db8:1::1", 1, "e", 1500)]
    ways = Contacts([*four, *six]).ways(have, 1)
    assert [w.remote for w in ways] == [six[0], four[0], six[1], four[1]]
    # Without an address of that family it is the last resort: another tunnel may lead there.
    ways = Contacts([*six, *four]).ways(have[:1], 1)
    assert [w.remote for w in ways] == [*four, *six]


def test_by_interface_only_where_there_are_several_and_bridges_last() -> None:
    at = Endpoint("192.0.2.1", 1)
    links = [
        LocalLink("172.17.0.1", 3, "docker0", 1500, prefix_length=16, spare=True),
        LocalLink("10.0.0.1", 1, "eth0", 1500, prefix_length=24),
        LocalLink("10.1.0.1", 2, "wwan0", 1500, prefix_length=24),
    ]
    assert Contacts([at]).ways(links[:1], 7) == [Way(at)]
    ways = Contacts([at]).ways(links, 7)
    assert [(w.local.ip if w.local else "", w.ifindex) for w in ways] == [
        ("", 0),
        ("10.0.0.1", 1),
        ("10.1.0.1", 2),
        ("172.17.0.1", 3),
    ]


def test_the_answer_gets_lost_on_the_first_way() -> None:
    """The peer takes the copy by the first uplink and drops the others: the next message begins
    elsewhere."""
    world = World()
    a, b, pa, _ = pair(world)
    uplinks(world, a, 2)
    world.passes = lambda source, to, _: (source, to) != (b.at, a.interfaces[1])
    assert first_session(world, a, pa, 12) < 6


def test_the_answering_hosts_table_prefers_a_dead_uplink() -> None:
    """The peer has two uplinks; the one that we reach it by is not the one it answers by."""
    world = World()
    a, b = world.host(1), world.host(2)
    uplinks(world, b, 2)
    pa = a.add(b, endpoints=(b.interfaces[2],))
    b.add(a)
    dead(world, b.interfaces[1])
    assert first_session(world, a, pa, 12) < 6


def test_bounded_whatever_there_is_to_try() -> None:
    world = World()
    a, b = world.host(1), world.host(2)
    pa = a.add(b, endpoints=tuple(Endpoint(f"192.0.2.{n}", 1) for n in range(1, 60)))
    uplinks(world, a, 4)
    a.send(pa, b"hello")
    world.run(4.9)
    # Beside them, after 2 s, one question whether the peer is there at all.
    tried = [(at, to) for at, _, to, data in world.wire if data[0] == INITIATION]
    assert len(world.wire) - 1 == len(tried) == MOST
    assert tried[-1][0] - tried[0][0] == (MOST - 1) * GAP
    world.run(5.5)
    tried = [(at, to) for at, _, to, data in world.wire if data[0] == INITIATION]
    assert len(tried) == len({to for _, to in tried}) == 2 * MOST  # the next ones


def test_a_network_that_comes_later_is_used_at_once() -> None:
    world = World()
    a, b, pa, _ = pair(world)
    world.passes = lambda *_: bool(a.interfaces)
    a.send(pa, b"hello")
    world.run(6.5)
    uplinks(world, a, 1)
    world.run(0.1)
    assert payloads(b) == [b"hello"]


def test_an_uplink_that_goes_is_not_stuck_to() -> None:
    world = World()
    a, b, pa, _ = pair(world)
    uplinks(world, a, 2)
    dead(world, a.interfaces[1])
    first_session(world, a, pa, 2)
    world.passes = lambda *_: True
    links = [LocalLink(a.at.ip, 1, "wwan1", 1500, prefix_length=32)]
    a.node.set_locals(links, a.at.port, world.now)
    a.drain()
    assert a.peers[pa].ifindex == 0
    a.send(pa, b"again")
    world.run(0.1)
    assert payloads(b)[-1] == b"again"


@pytest.mark.parametrize("lost", [(), (1,)])
def test_bootstrap_by_the_uplink_that_works(lost: Collection[int]) -> None:
    world = World()
    a, b = world.host(1), world.host(2)
    pa = a.add(fingerprint=b.identity.fingerprint, endpoints=(b.at,))
    b.add(a)
    uplinks(world, a, 2)
    dead(world, *(a.interfaces[n] for n in lost))
    assert first_session(world, a, pa, 2) < 0.9


def test_a_cookie_is_used_on_its_own_way() -> None:
    world = World()
    a, b, pa, _ = pair(world)
    uplinks(world, a, 2)
    dead(world, a.interfaces[1])
    b.node.under_load = True
    assert first_session(world, a, pa, 12) < 6
