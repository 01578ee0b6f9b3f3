"""The facade: configuration, endpoints, indices, hostile bytes. Time is for tests/sim."""

import itertools
import os
import random
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl import bindings

from whalescale.identity import Identity, node_id_to_x25519
from whalescale.protocol import bootstrap, messages, tai64n
from whalescale.protocol.cookie import CookieGenerator
from whalescale.protocol.limits import NS_PER_S, Limits
from whalescale.protocol.node import Node, PeerConfig
from whalescale.protocol.noise import NO_PSK, InitiatorHandshake, KeyPair
from whalescale.protocol.places import Endpoint
from whalescale.protocol.types import (
    Activity,
    EndpointChanged,
    HandshakeCompleted,
    HandshakeGaveUp,
    KeypairReady,
    KeypairsExpired,
    PeerIdentified,
    PeerSeen,
    SendControl,
    SendKeepalive,
)

A, B, C = (Identity(bytes([n]) * 32) for n in (1, 2, 3))
A_AT, B_AT, C_AT = Endpoint("192.0.2.1", 1), Endpoint("192.0.2.2", 2), Endpoint("192.0.2.3", 3)
S = NS_PER_S
NOW = 1000 * S


def node(identity=A, rand=os.urandom, **limits):
    clock = itertools.count(10**18, 10**8)
    return Node(identity, limits=Limits(**limits), random=rand, wall_clock=lambda: next(clock))


def events(n):
    return list(iter(n.poll_event, None))


def sent(n):
    return list(iter(n.poll_transmit, None))


def session(a, b, pa, now=NOW):
    """A handshake from a to b; the keypair events of both."""
    a.want_handshake(pa, now)
    [initiation] = sent(a)
    b.receive_datagram(initiation.data, A_AT, B_AT, now)
    [response] = sent(b)
    a.receive_datagram(response.data, B_AT, A_AT, now)
    of_a, of_b = events(a), events(b)
    ready = [[e for e in es if isinstance(e, KeypairReady)][-1] for es in (of_a, of_b)]
    b.keypair_confirmed(ready[1].peer, ready[1].local_index, now)
    swap_offers(a, b, ready[0].peer, ready[1].peer, [*of_a, *events(a)], now)
    return ready


def swap_offers(a, b, pa, pb, of_a, now):
    """Carry control frames between the two until there are none."""
    of_b = events(b)
    for _ in range(10):
        to_b = [e.frame for e in of_a if isinstance(e, SendControl)]
        to_a = [e.frame for e in of_b if isinstance(e, SendControl)]
        if not to_a and not to_b:
            return
        for frame in to_b:
            b.receive_control(pb, frame, now)
        for frame in to_a:
            a.receive_control(pa, frame, now)
        of_a, of_b = events(a), events(b)
    raise AssertionError("offers without end")


@pytest.fixture
def couple():
    a, b = node(A), node(B)
    pa = a.add_peer(PeerConfig(node_id=B.node_id, endpoints=(B_AT,)), NOW)
    pb = b.add_peer(PeerConfig(node_id=A.node_id), NOW)
    return a, b, pa, pb


def test_an_answer_leaves_from_the_address_that_was_asked(couple):
    """nebula#709: a host with several addresses; what answers from another one gets in nowhere."""
    a, b, pa, pb = couple
    b_also = Endpoint("198.51.100.2", 2)
    a.want_handshake(pa, NOW)
    [initiation] = sent(a)
    b.receive_datagram(initiation.data, A_AT, b_also, NOW)
    [response] = sent(b)
    assert (response.remote, response.local) == (A_AT, b_also)
    moved = [e for e in events(b) if isinstance(e, EndpointChanged)]
    assert (moved[-1].remote, moved[-1].local) == (A_AT, b_also)
    assert b.peer_status(pb).local == b_also


# configuration


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (PeerConfig(), "needs a node ID"),
        (PeerConfig(node_id=A.node_id), "own key"),
        (PeerConfig(static_public=A.static_public), "own key"),
        (PeerConfig(fingerprint=A.fingerprint), "own key"),
        (PeerConfig(static_public=bytes(32)), "low order"),
        (PeerConfig(static_public=(1).to_bytes(32, "little")), "low order"),
        (PeerConfig(static_public=bytes(31)), "32 bytes"),
        (PeerConfig(node_id=bytes(32)), "not a valid"),
        (PeerConfig(fingerprint=bytes(21)), "22 bytes"),
        (PeerConfig(node_id=B.node_id, preshared_key=b"short"), "preshared"),
        (PeerConfig(node_id=B.node_id, persistent_keepalive=-1), "persistent_keepalive"),
        (PeerConfig(node_id=B.node_id, persistent_keepalive=65536), "persistent_keepalive"),
        (PeerConfig(node_id=B.node_id, static_public=C.static_public), "is not the one"),
        (PeerConfig(node_id=B.node_id, fingerprint=C.fingerprint), "fingerprint"),
        (PeerConfig(static_public=B.static_public, fingerprint=C.fingerprint), "fingerprint"),
    ],
)
def test_refused_configs(config, says):
    n = node()
    with pytest.raises(ValueError, match=says):
        n.add_peer(config, NOW)
    assert n.peers == ()
    assert events(n) == []


@pytest.mark.parametrize(
    "second",
    [
        PeerConfig(node_id=B.node_id),
        PeerConfig(static_public=B.static_public),
        PeerConfig(fingerprint=B.fingerprint),
    ],
)
def test_duplicates_are_refused(second):
    n = node()
    n.add_peer(PeerConfig(node_id=B.node_id), NOW)
    with pytest.raises(ValueError, match="another peer"):
        n.add_peer(second, NOW)
    assert len(n.peers) == 1


def test_keys_are_completed():
    n = node()
    by_id = n.peer_status(n.add_peer(PeerConfig(node_id=B.node_id), NOW))
    assert (by_id.static_public, by_id.fingerprint) == (B.static_public, B.fingerprint)
    both = PeerConfig(static_public=C.static_public, fingerprint=C.fingerprint)
    assert n.peer_status(n.add_peer(both, NOW)).node_id == C.node_id


def test_add_chooses_the_first_candidate():
    n = node()
    peer = n.add_peer(PeerConfig(node_id=B.node_id, endpoints=(B_AT, C_AT)), NOW)
    assert events(n) == [EndpointChanged(peer, B_AT)]
    assert n.peer_status(peer).endpoint == B_AT
    assert sent(n) == []


def test_removal_frees_everything(couple):
    a, b, pa, _ = couple
    session(a, b, pa)
    a.want_handshake(pa, NOW + 10 * S)
    a.remove_peer(pa, NOW + 11 * S)
    assert events(a)[-1] == KeypairsExpired(pa)
    assert (a.peers, a.poll_timeout(), len(a._indices)) == ((), None, 0)
    for call in (a.want_handshake, a.handle_timeout):
        call(*((pa, NOW) if call == a.want_handshake else (NOW,)))
    a.keypair_confirmed(pa, 1, NOW)
    a.endpoint_observed(pa, B_AT, None, NOW)
    a.activity(pa, Activity(1, 1, 1, 1), NOW)
    with pytest.raises(KeyError):
        a.peer_status(pa)
    with pytest.raises(KeyError):
        a.remove_peer(pa, NOW)
    again = a.add_peer(PeerConfig(node_id=B.node_id), NOW)
    assert again != pa


def test_update_changes_the_psk_of_the_next_handshake(couple):
    a, b, pa, pb = couple
    session(a, b, pa)
    psk = os.urandom(32)
    a.update_peer(pa, PeerConfig(node_id=B.node_id, endpoints=(B_AT,), preshared_key=psk), NOW)
    assert not [e for e in events(a) if isinstance(e, KeypairsExpired)]
    b.update_peer(pb, PeerConfig(node_id=A.node_id, preshared_key=psk), NOW)
    session(a, b, pa, NOW + 10 * S)
    assert not a.drops


def test_update_refuses_another_key(couple):
    a, _, pa, _ = couple
    for other in (PeerConfig(node_id=C.node_id), PeerConfig(fingerprint=C.fingerprint)):
        with pytest.raises(ValueError, match="cannot change"):
            a.update_peer(pa, other, NOW)


def test_update_with_the_node_id_of_a_fingerprint_peer():
    n = node()
    peer = n.add_peer(PeerConfig(fingerprint=B.fingerprint), NOW)
    with pytest.raises(ValueError, match="fingerprint"):
        n.update_peer(peer, PeerConfig(static_public=C.static_public), NOW)
    n.update_peer(peer, PeerConfig(node_id=B.node_id), NOW)
    assert events(n) == [PeerIdentified(peer, B.node_id)]
    assert n.find_peer(B.static_public) == peer
    n.remove_peer(peer, NOW)
    assert not n._registry._by_static
    assert not n._registry._by_fingerprint


def test_update_of_endpoints(couple):
    a, b, pa, _ = couple
    events(a)
    a.update_peer(pa, PeerConfig(node_id=B.node_id, endpoints=(C_AT,)), NOW)
    assert events(a) == [EndpointChanged(pa, C_AT)]
    a.set_endpoint(pa, B_AT, NOW)
    session(a, b, pa)
    events(a)
    # What carries a session is kept; the new candidate is there for when it fails.
    a.update_peer(pa, PeerConfig(node_id=B.node_id, endpoints=(A_AT,)), NOW + S)
    assert events(a) == []
    assert a.peer_status(pa).endpoint == B_AT


def test_update_starts_persistent_keepalive(couple):
    a, _, pa, _ = couple
    config = PeerConfig(node_id=B.node_id, endpoints=(B_AT,), persistent_keepalive=25)
    a.update_peer(pa, config, NOW)
    assert sent(a) == []  # by the timer, as thousands may be updated at once
    a.handle_timeout(NOW)
    assert len(sent(a)) == 1
    off = PeerConfig(node_id=B.node_id, endpoints=(B_AT,))
    a.update_peer(pa, off, NOW)
    a.handle_timeout(NOW + 3600 * S)
    assert a.peer_status(pa).persistent_keepalive == 0


# endpoints


def test_a_wanted_handshake_goes_out_once_there_is_an_endpoint():
    n = node()
    peer = n.add_peer(PeerConfig(node_id=B.node_id), NOW)
    n.want_handshake(peer, NOW)
    assert sent(n) == []
    n.set_endpoint(peer, B_AT, NOW + S)
    [initiation] = sent(n)
    assert initiation.remote == B_AT
    assert events(n) == [EndpointChanged(peer, B_AT)]


def test_without_any_endpoint_it_gives_up_as_well():
    n = node()
    peer = n.add_peer(PeerConfig(node_id=B.node_id), NOW)
    n.want_handshake(peer, NOW)
    while (when := n.poll_timeout()) is not None:
        n.handle_timeout(when)
        assert when < NOW + 100 * S
    assert events(n) == [HandshakeGaveUp(peer)]


def test_answers_go_back_the_way_they_came(couple):
    a, b, pa, pb = couple
    a.want_handshake(pa, NOW)
    [initiation] = sent(a)
    assert (initiation.remote, initiation.local) == (B_AT, None)
    b.receive_datagram(initiation.data, C_AT, B_AT, NOW)
    [response] = sent(b)
    assert (response.remote, response.local) == (C_AT, B_AT)
    # The keypair is there before the response can be answered.
    changed, ready = events(b)
    assert changed == EndpointChanged(pb, C_AT, B_AT)
    assert isinstance(ready, KeypairReady)
    assert not ready.initiator


def test_the_data_plane_is_not_told_of_endpoints_that_it_observed(couple):
    a, _, pa, _ = couple
    events(a)
    a.endpoint_observed(pa, C_AT, A_AT, NOW)
    assert events(a) == [PeerSeen(pa, C_AT)]
    assert (a.peer_status(pa).endpoint, a.peer_status(pa).local) == (C_AT, A_AT)


# keypairs and indices


def test_events_of_an_initiator_in_order(couple):
    a, b, pa, _ = couple
    events(a)
    a.want_handshake(pa, NOW)
    b.receive_datagram(sent(a)[0].data, A_AT, None, NOW)
    a.receive_datagram(sent(b)[0].data, B_AT, None, NOW + 7)
    ready, completed, offer, keepalive = events(a)
    assert isinstance(offer, SendControl)
    assert isinstance(ready, KeypairReady)
    assert ready.created == NOW + 7
    assert completed == HandshakeCompleted(pa, True, 7)
    assert keepalive == SendKeepalive(pa)
    assert a.peer_status(pa).last_handshake_wall_ns > 10**18
    assert a.peer_status(pa).handshake_attempts == 0


def test_the_responder_completes_when_its_keypair_is_confirmed(couple):
    a, b, pa, pb = couple
    a.want_handshake(pa, NOW)
    b.receive_datagram(sent(a)[0].data, A_AT, None, NOW)
    index = next(e.local_index for e in events(b) if isinstance(e, KeypairReady))
    assert b.peer_status(pb).initiator is None
    b.keypair_confirmed(pb, index ^ 1, NOW)
    assert events(b) == []
    b.keypair_confirmed(pb, index, NOW)
    completed, offer = events(b)
    assert completed == HandshakeCompleted(pb, False, None)
    assert isinstance(offer, SendControl)
    assert b.peer_status(pb).initiator is False
    b.keypair_confirmed(pb, index, NOW)
    assert events(b) == []


def test_indices_are_random_not_zero_and_unique():
    """A source that repeats itself: zero, then a taken index, then a free one."""
    draws = [b"\0\0\0\0", b"\1\0\0\0", b"\0\0\0\0", b"\1\0\0\0", b"\2\0\0\0"]
    counting = iter(draws)
    drawing = False

    def rand(size):
        return next(counting) if size == 4 and drawing else os.urandom(size)

    n = node(rand=rand)
    peers = [n.add_peer(PeerConfig(node_id=i.node_id), NOW) for i in (B, C)]
    drawing = True
    assert [n._indices.new(n._peers[p]) for p in peers] == [1, 2]


@pytest.mark.parametrize(("modulus", "residue"), [(2, 0), (2, 1), (16, 15)])
def test_indices_tell_the_worker_that_owns_the_session(modulus, residue):
    n = node()
    config = PeerConfig(node_id=B.node_id)
    peer = n.add_peer(config, NOW, index_modulus=modulus, index_residue=residue)
    drawn = [n._indices.new(n._peers[peer]) for _ in range(200)]
    assert {index % modulus for index in drawn} == {residue}
    assert all(0 < index < 2**32 for index in drawn)
    assert len(set(drawn)) == 200


def test_no_index_leaks_over_many_handshakes(couple):
    a, b, pa, pb = couple
    for n in range(30):
        session(a, b, pa, NOW + n * 10 * S)
        assert len(a._indices._peers) <= 3
        assert len(b._indices._peers) <= 3
    for n in range(30, 60):
        session(b, a, pb, NOW + n * 10 * S) if n % 2 else session(a, b, pa, NOW + n * 10 * S)
        assert len(a._indices._peers) <= 3
    a.want_handshake(pa, NOW + 1000 * S)
    for _ in range(10):
        a.handle_timeout(a.poll_timeout())
    assert len(a._indices._peers) <= 4


def test_one_initiation_per_rekey_timeout(couple):
    a, _, pa, _ = couple
    for n in range(50):
        a.want_handshake(pa, NOW + n * S // 10)
    assert len(sent(a)) == 1


def test_a_second_response_to_one_initiation_is_refused(couple):
    a, b, pa, _ = couple
    a.want_handshake(pa, NOW)
    b.receive_datagram(sent(a)[0].data, A_AT, None, NOW)
    [response] = sent(b)
    a.receive_datagram(response.data, B_AT, None, NOW)
    a.receive_datagram(response.data, B_AT, None, NOW)
    assert a.drops == {"index": 1}


# timers whose parts the simulations do not tell apart


def initiations(n):
    return [t for t in sent(n) if t.data[0] == 1]


def test_having_answered_we_do_not_initiate_for_a_rekey_timeout(couple):
    a, b, pa, pb = couple
    a.want_handshake(pa, NOW)
    b.receive_datagram(sent(a)[0].data, A_AT, B_AT, NOW)
    sent(b)
    # The initiator never confirms, and we have something to send.
    b.want_handshake(pb, NOW + S)
    assert sent(b) == []
    assert NOW + 5 * S <= b.poll_timeout() < NOW + 5 * S + 334_000_000
    b.handle_timeout(b.poll_timeout())
    assert len(initiations(b)) == 1


def test_data_sent_before_a_handshake_is_answered_by_it(couple):
    a, b, pa, _ = couple
    a.activity(pa, Activity(last_sent=NOW - S, unanswered_since=NOW - S), NOW)
    session(a, b, pa)
    a.handle_timeout(NOW + 60 * S)
    assert sent(a) == []


def test_data_after_a_handshake_asks_for_an_answer(couple):
    a, b, pa, _ = couple
    session(a, b, pa)
    a.endpoint_observed(pa, B_AT, A_AT, NOW)
    a.activity(pa, Activity(last_sent=NOW + 9 * S, unanswered_since=NOW + S), NOW + 10 * S)
    assert NOW + 16 * S <= a.poll_timeout() < NOW + 16 * S + 334_000_000
    a.handle_timeout(a.poll_timeout())
    [initiation] = initiations(a)
    # The source address may be what is wrong, so the routing table chooses.
    assert (initiation.remote, initiation.local) == (B_AT, None)


def test_retries_let_the_routing_table_choose_the_source(couple):
    a, b, pa, _ = couple
    session(a, b, pa)
    a.want_handshake(pa, NOW + 130 * S)
    a.handle_timeout(NOW + 136 * S)
    assert [(t.remote, t.local) for t in initiations(a)] == [(B_AT, A_AT), (B_AT, None)]


def test_an_answer_stops_that(couple):
    a, b, pa, _ = couple
    session(a, b, pa)
    a.activity(pa, Activity(last_sent=NOW + 9 * S, unanswered_since=NOW + S), NOW + 10 * S)
    a.activity(pa, Activity(NOW + 9 * S, NOW + 11 * S), NOW + 11 * S)
    a.handle_timeout(NOW + 60 * S)
    assert sent(a) == []


def test_persistent_keepalive_counts_from_the_response():
    a, b = node(A), node(B)
    config = PeerConfig(static_public=B.static_public, endpoints=(B_AT,), persistent_keepalive=25)
    pa = a.add_peer(config, NOW)
    b.add_peer(PeerConfig(node_id=A.node_id), NOW)
    a.handle_timeout(NOW)
    b.receive_datagram(sent(a)[0].data, A_AT, None, NOW)
    a.receive_datagram(sent(b)[0].data, B_AT, None, NOW + 3 * S)
    events(a)
    assert a.poll_timeout() == NOW + 28 * S
    a.activity(pa, Activity(last_sent=NOW + 4 * S, last_received=NOW + 7 * S), NOW + 8 * S)
    assert a.poll_timeout() == NOW + 32 * S
    a.handle_timeout(NOW + 32 * S)
    assert events(a) == [SendKeepalive(pa)]
    assert a.poll_timeout() == NOW + 57 * S


def test_passive_keepalive_after_a_sample_that_missed_one(couple):
    a, b, pa, _ = couple
    session(a, b, pa)
    events(a)
    a.activity(pa, Activity(NOW, NOW + S, unsent_since=NOW + S), NOW + 2 * S)
    assert a.poll_timeout() == NOW + 11 * S
    a.handle_timeout(NOW + 11 * S)
    assert events(a) == [SendKeepalive(pa)]
    # The sample is stale and stands: no second one.
    a.handle_timeout(NOW + 40 * S)
    assert events(a) == []
    # Data that comes in makes it begin anew.
    a.activity(pa, Activity(NOW, NOW + 41 * S, unsent_since=NOW + S), NOW + 41 * S)
    a.handle_timeout(NOW + 42 * S)
    assert events(a) == [SendKeepalive(pa)]


# memory and secrets


def test_an_idle_peer_is_small():
    n = node()
    peer = n._peers[n.add_peer(PeerConfig(node_id=B.node_id), NOW)]
    parts = (peer, peer.handshake, peer.keypairs, peer.timing)
    assert not any(hasattr(part, "__dict__") for part in parts)
    assert peer._generator is None
    assert peer._remote_key is None
    assert sum(sys.getsizeof(part) for part in parts) < 600


def test_no_key_in_any_repr(couple):
    a, b, pa, _ = couple
    psk = os.urandom(32)
    config = PeerConfig(node_id=B.node_id, preshared_key=psk)
    ready, _ = session(a, b, pa)
    for thing in (config, ready, a, a._peers[pa], a.peer_status(pa), A):
        text = repr(thing) + str(thing)
        for secret in (psk, ready.send_key, ready.receive_key, A.seed, A.static_private):
            assert secret.hex() not in text
            assert repr(bytes(secret)) not in text


# hostile bytes

KINDS = {1: 148, 2: 92, 3: 64, 0x57: 128, 0x58: 128}
MAC1 = CookieGenerator(A.static_public)


def with_mac1(data):
    """As an attacker who knows the public key makes it."""
    return MAC1.add_macs(data[:-32], 0, Limits()) if data[:1] in (b"\1", b"\2") else data


framed = st.builds(
    lambda kind, body: (bytes((kind, 0, 0, 0)) + body)[: KINDS[kind]].ljust(KINDS[kind], b"\0"),
    st.sampled_from(sorted(KINDS)),
    st.binary(max_size=148),
)
hostile = st.one_of(st.binary(max_size=200), framed, framed.map(with_mac1))


@settings(max_examples=400, deadline=None)
@given(st.lists(hostile, max_size=6), st.booleans())
def test_hostile_bytes_are_counted_and_change_nothing(datagrams, loaded):
    n = node()
    peer = n.add_peer(PeerConfig(node_id=B.node_id, endpoints=(B_AT,)), NOW)
    n.add_peer(PeerConfig(fingerprint=C.fingerprint, endpoints=(C_AT,)), NOW)
    n.want_handshake(peer, NOW)
    n.want_handshake(peer + 1, NOW)
    sent(n), events(n)
    n.under_load = loaded
    before = [n.peer_status(p) for p in n.peers]
    for data in datagrams:
        n.receive_datagram(data, Endpoint("203.0.113.1", 5), None, NOW)
    assert n.drops.total() == len(datagrams)
    assert events(n) == []
    # Nothing but cookie replies, and those only under load; each shorter than what caused it.
    for transmit in sent(n):
        assert loaded
        assert len(transmit.data) == 64
    assert [n.peer_status(p) for p in n.peers] == before


def test_true_messages_with_any_bit_flipped():
    """No flip of a live message is accepted, and the true one still is afterwards."""
    rng = random.Random(1)  # noqa: S311
    a, b, c = node(A), node(B), node(C)
    pa = a.add_peer(PeerConfig(node_id=B.node_id, endpoints=(B_AT,)), NOW)
    pc = a.add_peer(PeerConfig(fingerprint=C.fingerprint, endpoints=(C_AT,)), NOW)
    b.add_peer(PeerConfig(node_id=A.node_id), NOW)
    c.add_peer(PeerConfig(node_id=A.node_id), NOW)

    def flips(to, data, macs_of):
        """Every third bit, half of them under a fresh mac1 where one can be made."""
        events(to)
        for bit in range(rng.randrange(3), len(data) * 8, 3):
            forged = bytearray(data)
            forged[bit // 8] ^= 1 << bit % 8
            forged = bytes(forged)
            # The sender index is under mac1 alone, in every WireGuard: a new mac1 lets it pass.
            if macs_of is not None and bit % 2 and 8 <= bit // 8 < len(data) - 32:
                forged = CookieGenerator(macs_of).add_macs(forged[:-32], NOW, Limits())
            if macs_of is not None and forged[:-16] == data[:-16]:
                continue  # mac2 is looked at under load only
            before = to.drops.total()
            to.receive_datagram(forged, A_AT, None, NOW)
            assert to.drops.total() == before + 1
            assert sent(to) == []
        assert not [e for e in events(to) if isinstance(e, KeypairReady | PeerIdentified)]
        to.receive_datagram(data, A_AT, None, NOW)
        return sent(to)

    a.want_handshake(pa, NOW)
    [response] = flips(b, sent(a)[0].data, B.static_public)
    flips(a, response.data, A.static_public)
    assert a.peer_status(pa).initiator is True
    a.want_handshake(pc, NOW)
    [reply] = flips(c, sent(a)[0].data, None)
    [initiation] = flips(a, reply.data, None)
    assert initiation.data[0] == 1
    assert a.peer_status(pc).node_id == C.node_id


def test_a_twin_of_a_key_by_a_low_order_point_is_an_unknown_peer():
    """A + T of order 8 gives the same shared secrets as A, but it is no node's key."""
    order_8 = bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05")
    p = 2**255 - 19
    y = int.from_bytes(bindings.crypto_core_ed25519_add(A.node_id, order_8), "little") % 2**255
    twin = ((1 + y) * pow(1 - y, -1, p) % p).to_bytes(32, "little")
    assert twin != A.static_public
    mixed = KeyPair.from_private(A.static_private)
    mixed.raw.public_bytes = twin

    n = node(B)
    n.add_peer(PeerConfig(fingerprint=A.fingerprint), NOW)
    handshake = InitiatorHandshake(
        mixed, KeyPair.from_public(B.static_public), NO_PSK, tai64n.encode(10**18), os.urandom
    )
    body = messages.encode_initiation(5, handshake.message)
    data = CookieGenerator(B.static_public).add_macs(body, 0, Limits())
    n.receive_datagram(data, A_AT, None, NOW)
    assert n.drops == {"unknown_peer": 1}


def test_bootstrap_keys_are_the_static_keys():
    assert node_id_to_x25519(B.node_id) == B.static_public
    assert bootstrap.mac_key(B.fingerprint) != bootstrap.mac_key(A.fingerprint)


def test_a_peer_that_nothing_concerns_stays_small() -> None:
    """Of ten thousand members most are never called: to be told, moved and looked at costs them
    nothing, and the first packet, message or question wakes one."""
    a = node()
    handle = a.add_peer(PeerConfig(node_id=B.node_id, endpoints=(B_AT,)), NOW)
    peer = a._core.peers[handle]
    a.update_peer(handle, PeerConfig(node_id=B.node_id, endpoints=(C_AT,)), NOW)
    a.set_locals([], 1, NOW)
    a.set_mapped([], NOW)
    a.woke(NOW)
    a.begin_anew(NOW)
    status = a.peer_status(handle)
    assert (status.endpoint, status.handshake_attempts) == (C_AT, 0)
    assert not a.due_peers(NOW + 3_600 * S)
    assert peer.at_rest
    a.want_handshake(handle, NOW)
    assert not peer.at_rest
    assert [m.remote for m in sent(a)] == [C_AT]
    a.remove_peer(handle, NOW)
