import os

import pytest

from whalescale.identity import Identity
from whalescale.protocol import bootstrap
from whalescale.protocol.limits import Limits
from whalescale.protocol.messages import MessageError
from whalescale.protocol.node import Node, PeerConfig
from whalescale.protocol.places import Endpoint
from whalescale.protocol.types import EndpointChanged, PeerIdentified, Stranger

A, B, C = (Identity(bytes([n]) * 32) for n in (1, 2, 3))
A_AT, B_AT = Endpoint("192.0.2.1", 1000), Endpoint("2001:db8::2", 2000)


def node(identity, **limits):
    return Node(identity, limits=Limits(**limits), random=os.urandom, wall_clock=lambda: 10**18)


def reason(call, *args):
    with pytest.raises(MessageError) as refusal:
        call(*args)
    return refusal.value.reason


def exchange():
    nonce = os.urandom(32)
    request = bootstrap.encode_request(B.fingerprint, nonce)
    key = bootstrap.mac_key(B.fingerprint)
    return nonce, request, bootstrap.answer_request(request, key, B.node_id, A_AT)


@pytest.mark.parametrize("at", [A_AT, B_AT])
def test_bytes(at):
    nonce, request, _ = exchange()
    assert len(request) == 128
    assert request[:4] == b"\x57\0\0\0"
    assert request[4:36] == nonce
    assert request[36:112] == bytes(76)
    key = bootstrap.mac_key(B.fingerprint)
    reply = bootstrap.answer_request(request, key, B.node_id, at)
    assert len(reply) == 128
    assert reply[:4] == b"\x58\0\0\0"
    assert reply[4:36] == nonce
    assert reply[36:68] == B.node_id
    assert reply[88:112] == bytes(24)
    decoded = bootstrap.decode_reply(reply, B.fingerprint)
    assert decoded == bootstrap.Reply(B.node_id, B.static_public, at)


@pytest.mark.parametrize("at", range(128))
def test_every_byte_is_checked(at):
    _, request, reply = exchange()
    forged = bytearray(request)
    forged[at] ^= 1
    key = bootstrap.mac_key(B.fingerprint)
    assert reason(bootstrap.answer_request, bytes(forged), key, B.node_id, A_AT)
    forged = bytearray(reply)
    forged[at] ^= 1
    assert reason(bootstrap.decode_reply, bytes(forged), B.fingerprint)


def test_a_request_that_is_not_zero_padded():
    key = bootstrap.mac_key(B.fingerprint)
    body = b"\x57\0\0\0" + bytes(32) + b"\1".ljust(76, b"\0")
    data = bootstrap._seal(key, body)
    assert reason(bootstrap.answer_request, data, key, B.node_id, A_AT) == "reserved"


def test_a_reply_that_is_not_zero_padded():
    _, _, reply = exchange()
    data = bootstrap._seal(bootstrap.mac_key(B.fingerprint), reply[:88] + b"\1" * 24)
    assert reason(bootstrap.decode_reply, data, B.fingerprint) == "reserved"


def test_whoever_knows_the_fingerprint_cannot_pose_as_its_node():
    nonce, _, _ = exchange()
    body = b"\x58\0\0\0" + nonce + C.node_id
    forged = bootstrap._seal(bootstrap.mac_key(B.fingerprint), body.ljust(112, b"\0"))
    assert reason(bootstrap.decode_reply, forged, B.fingerprint) == "bootstrap_identity"


def test_a_scanner_hears_nothing():
    b = node(B)
    for fingerprint in (A.fingerprint, bytes(22)):
        request = bootstrap.encode_request(fingerprint, os.urandom(32))
        b.receive_datagram(request, A_AT, None, 0)
    assert b.poll_transmit() is None
    assert b.drops == {"bootstrap_mac": 2}


def test_requests_of_one_source_are_limited():
    b = node(B)
    for _ in range(20):
        request = bootstrap.encode_request(B.fingerprint, os.urandom(32))
        b.receive_datagram(request, A_AT, None, 0)
    replies = []
    while (transmit := b.poll_transmit()) is not None:
        assert transmit.remote == A_AT
        replies.append(transmit)
    assert len(replies) == 5
    assert b.drops == {"bootstrap_ratelimit": 15}


def start():
    a = node(A)
    peer = a.add_peer(PeerConfig(fingerprint=B.fingerprint, endpoints=(B_AT,)), 0)
    a.want_handshake(peer, 1)
    return a, peer, a.poll_transmit().data


def answer(request):
    return bootstrap.answer_request(request, bootstrap.mac_key(B.fingerprint), B.node_id, A_AT)


def test_reply_identifies_and_the_handshake_starts():
    a, peer, request = start()
    elsewhere = Endpoint("198.51.100.9", 9)
    a.receive_datagram(answer(request), elsewhere, None, 2)
    initiation = a.poll_transmit()
    assert initiation.data[0] == 1
    assert initiation.remote == elsewhere  # it answered; but only a handshake makes it the endpoint
    assert [a.poll_event(), a.poll_event(), a.poll_event()] == [
        EndpointChanged(peer, B_AT),
        PeerIdentified(peer, B.node_id),
        None,
    ]
    assert a.peer_status(peer).endpoint == B_AT
    assert a.find_peer(B.static_public) == peer
    # A reply is taken once.
    a.receive_datagram(answer(request), elsewhere, None, 3)
    assert a.drops == {"bootstrap_nonce": 1}


def test_unasked_replies_are_refused():
    a = node(A)
    a.add_peer(PeerConfig(fingerprint=B.fingerprint, endpoints=(B_AT,)), 0)
    a.receive_datagram(exchange()[2], B_AT, None, 1)
    assert a.drops == {"bootstrap_nonce": 1}
    assert a.poll_transmit() is None


def test_a_late_reply_to_the_first_of_several_requests_counts():
    a, peer, request = start()
    a.handle_timeout(a.poll_timeout())
    assert a.poll_transmit().data == request
    a.receive_datagram(answer(request), B_AT, None, 10**10)
    assert a.peer_status(peer).node_id == B.node_id


def test_the_same_key_under_its_other_sign_is_not_a_second_peer():
    """A vanilla peer with B's X25519 key is there already."""
    a, _, request = start()
    a.add_peer(PeerConfig(static_public=B.static_public), 1)
    a.receive_datagram(answer(request), B_AT, None, 2)
    assert a.drops == {"bootstrap_duplicate": 1}


def test_removed_while_the_request_is_out():
    a, peer, request = start()
    a.remove_peer(peer, 2)
    a.receive_datagram(answer(request), B_AT, None, 3)
    assert a.drops == {"bootstrap_nonce": 1}
    assert a.poll_timeout() is None


def test_a_node_that_does_not_know_us_says_that_it_is_there():
    """Handshakes of strangers have no answer, so a silent peer is asked by a bootstrap request."""
    a, b = node(A), node(B)
    handle = a.add_peer(PeerConfig(node_id=B.node_id, endpoints=(B_AT,)), 0)
    a.want_handshake(handle, 0)
    initiation = a.poll_transmit()
    b.receive_datagram(initiation.data, A_AT, None, 0)
    assert b.drops["unknown_peer"] == 1
    (stranger,) = iter(b.poll_event, None)
    assert stranger == Stranger(A.static_public, A_AT)
    now = a.poll_timeout()
    assert now == Limits().ask_after < Limits().rekey_timeout
    assert a.peer_status(handle).unanswered == 1
    a.handle_timeout(now)
    request = a.poll_transmit()
    assert len(request.data) == 128
    b.receive_datagram(request.data, A_AT, None, now)
    a.receive_datagram(b.poll_transmit().data, B_AT, None, now)
    status = a.peer_status(handle)
    assert (status.answered_by, status.observed) == (B_AT, A_AT)
    assert not a.drops
