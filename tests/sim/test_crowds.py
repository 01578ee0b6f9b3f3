"""Many nodes at once: storms, meshes over bad links, floods and cookies."""

import itertools
import struct
from collections import Counter

import pytest
from eventqueue import MS, SECOND
from world import Host, Link, World, payloads

from tests.params import long
from whalescale.identity import Identity, fingerprint_of
from whalescale.protocol.asking import Bootstrap
from whalescale.protocol.cookie import CookieGenerator
from whalescale.protocol.limits import Limits
from whalescale.protocol.messages import decode_cookie_reply
from whalescale.protocol.places import Endpoint
from whalescale.protocol.types import HandshakeCompleted, KeypairReady, PeerIdentified


def hub_of(world: World, count: int) -> tuple[Host, list[tuple[Host, int]]]:
    hub = world.host(1)
    leaves = []
    for number in range(count):
        leaf = world.host(256 + number)
        hub.add(leaf)
        leaves.append((leaf, leaf.add(hub, endpoints=(hub.at,))))
    return hub, leaves


def test_a_thousand_peers_at_once_all_get_in_at_the_first_try():
    world = World()
    hub, leaves = hub_of(world, 1000)
    for leaf, peer in leaves:
        leaf.send(peer, b"hello")
    world.run(1)
    assert len(hub.received) == 1000
    assert not hub.node.drops
    assert not hub.node.under_load
    # Each of them holds one index at the hub, and no two the same.
    assert len(hub.node._indices._peers) == len(hub.indices) == 1000


def test_idle_peers_have_no_timer():
    world = World()
    hub, _ = hub_of(world, 500)
    assert hub.node.poll_timeout() is None
    assert hub.node.due_peers(world.now + 10**15) == ()


@pytest.mark.parametrize(("seed", "count"), [(1, 14), *(long(seed, 24) for seed in (1, 2, 3))])
def test_a_mesh_over_bad_links(seed, count):
    """A session for each pair: loss, duplicates, reordering; everyone keeps hearing everyone."""
    link = Link(delay=(1 * MS, 150 * MS), loss=0.1, duplicate=0.1)
    world = World(seed=seed, link=link)
    hosts = [world.host(n) for n in range(1, count + 1)]
    peers: dict[tuple[int, int], int] = {}
    for i, j in itertools.permutations(range(count), 2):
        peers[i, j] = hosts[i].add(hosts[j], endpoints=(hosts[j].at,))
    sent: Counter[int] = Counter()

    def chatter() -> None:
        i, j = world.rng.sample(range(count), 2)
        sent[j] += 1
        hosts[i].send(peers[i, j], b"x" * 20)

    world.every(360 * MS // count, world.now + 300 * SECOND, chatter)
    world.run(310)
    for number, host in enumerate(hosts):
        got = len(host.received)
        assert got >= 0.8 * sent[number], "more lost than the links lose"
        assert got <= sent[number], "a duplicate came through"
        # A node that hears nothing asks whether the other is there; the answer can be late.
        late = {"bootstrap_nonce", "bootstrap_ratelimit"}
        assert not host.node.drops.keys() - {"replay", "flood", "index", "mac2"} - late
        # What the core thinks is in use is what the data plane holds, but for initiations out.
        out = {
            p.handshake.pending.local_index
            for p in host.node._peers.values()
            if p.handshake.pending
        }
        assert set(host.node._indices._peers) - out == set(host.indices)
    world.link = Link()
    for (i, j), peer in peers.items():
        hosts[i].send(peer, bytes((i, j)))
    world.run(20)
    for i, j in peers:
        assert bytes((i, j)) in payloads(hosts[j])


def test_replayed_initiations_are_refused():
    world = World()
    hub, [(leaf, peer)] = hub_of(world, 1)
    leaf.send(peer, b"one")
    world.run(1)
    [(_, initiation)] = world.messages(1)
    [(_, response)] = world.messages(2)
    keypairs = len(hub.of(KeypairReady))
    attacker = Endpoint("203.0.113.66", 666)
    endpoint = hub.peers[1].endpoint
    for _ in range(20):
        world.carry(attacker, hub.at, initiation)
        world.carry(attacker, leaf.at, response)
        world.run(0.1)
    assert hub.node.drops == {"replay": 20}
    assert leaf.node.drops == {"index": 20}
    assert len(hub.of(KeypairReady)) == keypairs
    assert hub.peers[1].endpoint == endpoint
    # Nor is an older one taken after a newer one.
    world.run(200)
    leaf.send(peer, b"two")
    world.run(1)
    world.carry(attacker, hub.at, initiation)
    world.run(1)
    assert hub.node.drops == {"replay": 21}
    assert payloads(hub) == [b"one", b"two"]


def test_under_load_a_peer_needs_a_cookie_and_gets_in_with_it():
    world = World()
    hub, leaves = hub_of(world, 20)
    hub.node.under_load = True
    for leaf, peer in leaves:
        leaf.send(peer, b"hello")
    world.run(4)
    assert not hub.received
    assert hub.node.drops == {"mac2": 20}
    assert len(world.messages(3)) == 20
    world.run(2)
    assert len(hub.received) == 20
    assert all(data[-16:] != bytes(16) for when, data in world.messages(1)[20:])
    # A cookie is bound to the source: the same message from elsewhere is told to get its own.
    replies = len(world.messages(3))
    _, last = world.messages(1)[-1]
    world.carry(Endpoint("203.0.113.66", 666), hub.at, last)
    world.run(1)
    assert hub.node.drops["mac2"] == 21
    assert len(world.messages(3)) == replies + 1


def test_an_old_cookie_is_of_no_use():
    world = World()
    hub, [(leaf, peer)] = hub_of(world, 1)
    hub.node.under_load = True
    leaf.send(peer, b"hello")
    world.run(6)
    assert payloads(hub) == [b"hello"]
    # 130 s on: the generator no longer uses it, so that the checker need not say no.
    world.run(130)
    leaf.send(peer, b"x")
    world.run(1)
    _, later = world.messages(1)[-1]
    assert later[-16:] == bytes(16)


def test_a_flood_puts_the_node_under_load_and_a_peer_still_gets_in():
    limits = Limits(load_backlog=64, load_drain_per_second=16)
    world = World(limits=limits)
    hub, [(leaf, peer)] = hub_of(world, 1)
    macs = CookieGenerator(hub.identity.static_public)
    addresses = itertools.count()

    def forged() -> None:
        # mac1 needs no secret: whoever knows the public key can make it.
        body = struct.pack("<II", 1, 7) + world.rng.randbytes(108)
        source = Endpoint(f"198.18.{world.rng.randrange(256)}.{next(addresses) % 256}", 1)
        world.carry(source, hub.at, macs.add_macs(body, world.now, limits))

    world.every(10 * MS, world.now + 20 * SECOND, forged)
    world.run(3)
    assert hub.node.under_load
    expensive = hub.node.drops["handshake"]
    leaf.send(peer, b"hello")
    world.run(10)
    assert payloads(hub) == [b"hello"]
    # Under load no forged message reaches the curve.
    assert hub.node.drops["handshake"] - expensive <= 10 * limits.load_drain_per_second
    world.run(10)
    assert world.messages(3)[-1][0] < world.now - 2 * SECOND
    hub.node.handle_timeout(world.now)
    assert not hub.node.under_load


def test_one_source_under_load_has_its_share_only():
    """With a valid mac2, 20 handshakes a second and 5 at once, as WireGuard."""
    world = World()
    hub = world.host(1)
    hub.node.under_load = True
    limits = world.limits
    macs = CookieGenerator(hub.identity.static_public)
    source = Endpoint("198.18.0.1", 1)

    def forged() -> bytes:
        body = struct.pack("<II", 1, 7) + world.rng.randbytes(108)
        return macs.add_macs(body, world.now, limits)

    hub.node.receive_datagram(forged(), source, None, world.now)
    reply = hub.node.poll_transmit()
    assert macs.consume_reply(decode_cookie_reply(reply.data), world.now)
    for _ in range(100):
        hub.node.receive_datagram(forged(), source, None, world.now)
    assert hub.node.drops == {"mac2": 1, "handshake": 5, "ratelimit": 95}
    world.run(1)
    for _ in range(100):
        hub.node.receive_datagram(forged(), source, None, world.now)
    assert hub.node.drops["handshake"] == 10


def test_initiations_of_one_peer_nearer_than_20_ms_are_refused():
    world = World()
    hub, [(leaf, peer)] = hub_of(world, 1)
    leaf.send(peer, b"x")
    world.run(0.005)
    [(_, first)] = world.messages(1)
    # The same identity run twice: its second initiation has a newer timestamp.
    twin = Host(world, Endpoint("10.9.9.9", 1), leaf.identity)
    twin.wall_offset += SECOND
    peer = twin.add(hub, endpoints=(hub.at,))
    twin.node.want_handshake(peer, world.now)
    second = twin.node.poll_transmit().data
    now = world.now
    hub.node.receive_datagram(first, leaf.at, None, now)
    hub.node.receive_datagram(second, twin.at, None, now + 19 * MS)
    assert hub.node.drops == {"flood": 1}
    hub.node.receive_datagram(second, twin.at, None, now + 20 * MS)
    assert hub.node.drops == {"flood": 1}


# peers known by fingerprint


def test_both_know_each_other_by_fingerprint_only():
    world = World(link=Link(delay=(5 * MS, 30 * MS), loss=0.2))
    a, b = world.host(1), world.host(2)
    pa = a.add(fingerprint=b.identity.fingerprint, endpoints=(b.at,))
    pb = b.add(fingerprint=a.identity.fingerprint)
    world.every(SECOND, world.now + 40 * SECOND, lambda: a.send(pa, b"hello"))
    world.run(60)
    assert payloads(b)
    assert [e for _, e in a.of(PeerIdentified)] == [PeerIdentified(pa, b.identity.node_id)]
    assert [e for _, e in b.of(PeerIdentified)] == [PeerIdentified(pb, a.identity.node_id)]
    assert a.node.peer_status(pa).observed == a.at
    assert a.node.peer_status(pa).static_public == b.identity.static_public
    assert not a.node.guest(Bootstrap)._by_nonce


def test_a_bootstrap_takes_two_round_trips():
    world = World()
    a, b = world.host(1), world.host(2)
    pa = a.add(fingerprint=b.identity.fingerprint, endpoints=(b.at,))
    b.add(a)
    a.send(pa, b"hello")
    world.run(0.06)
    assert payloads(b) == [b"hello"]
    [(_, request)], [(_, reply)] = world.messages(0x57), world.messages(0x58)
    assert len(request) == len(reply) == 128


def test_bootstrap_gives_up_and_forgets():
    world = World()
    a = world.host(1)
    other = Identity.generate(world.rng.randbytes)
    pa = a.add(fingerprint=fingerprint_of(other.node_id), endpoints=(Endpoint("10.0.0.9", 1),))
    a.send(pa, b"hello")
    world.run(100)
    assert len(world.messages(0x57)) == 18
    assert not a.node.guest(Bootstrap)._by_nonce
    assert not a.peers[pa].staged


def test_a_stranger_is_no_fingerprint_peer():
    world = World()
    a, b, c = world.host(1), world.host(2), world.host(3)
    b.add(fingerprint=a.identity.fingerprint)
    pc = c.add(b, endpoints=(b.at,))
    c.send(pc, b"let me in")
    world.run(3)
    assert b.node.drops == {"unknown_peer": 1}
    assert not b.of(HandshakeCompleted)
