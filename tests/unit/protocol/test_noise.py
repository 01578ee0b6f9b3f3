"""Handshake create and consume: what is refused, and what a refusal leaves behind."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whalescale.identity import Identity
from whalescale.protocol.noise import (
    NO_PSK,
    HandshakeError,
    InitiatorHandshake,
    KeyPair,
    ResponderHandshake,
)

A = Identity(b"a" * 32)
B = Identity(b"b" * 32)
A_KEY, B_KEY = KeyPair.from_private(A.static_private), KeyPair.from_private(B.static_private)
A_PUBLIC, B_PUBLIC = KeyPair.from_public(A.static_public), KeyPair.from_public(B.static_public)
STAMP = bytes(range(12))
#: Points of small order on the curve and its twist (https://cr.yp.to/ecdh.html#validate).
LOW_ORDER = [
    (0).to_bytes(32, "little"),
    (1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    (2**255 - 20).to_bytes(32, "little"),
    (2**255 - 19).to_bytes(32, "little"),
    (2**255 - 18).to_bytes(32, "little"),
]


def initiate(psk=NO_PSK):
    return InitiatorHandshake(A_KEY, B_PUBLIC, psk, STAMP, os.urandom)


def test_keys_match_and_are_zeroable():
    psk = os.urandom(32)
    ours = initiate(psk)
    theirs = ResponderHandshake(B_KEY, ours.message, os.urandom)
    assert theirs.remote_static == A.static_public
    assert theirs.timestamp == STAMP
    message, b = theirs.create_response(psk)
    a = ours.consume_response(message)
    assert a.send == b.receive != a.receive == b.send
    assert all(isinstance(k, bytearray) and len(k) == 32 for k in (a.send, a.receive))


def test_a_wrong_psk_is_refused_by_the_initiator():
    ours = initiate(b"\1" * 32)
    message, _ = ResponderHandshake(B_KEY, ours.message, os.urandom).create_response(b"\2" * 32)
    with pytest.raises(HandshakeError):
        ours.consume_response(message)


def test_an_initiation_for_someone_else_is_refused():
    with pytest.raises(HandshakeError):
        ResponderHandshake(A_KEY, initiate().message, os.urandom)


@pytest.mark.parametrize("low", LOW_ORDER, ids=range(len(LOW_ORDER)))
def test_low_order_keys_are_refused_everywhere(low):
    public = KeyPair.from_public(low)
    assert not A_KEY.shares_secret_with(public)
    with pytest.raises(HandshakeError):
        InitiatorHandshake(A_KEY, public, NO_PSK, STAMP, os.urandom)
    with pytest.raises(HandshakeError):
        ResponderHandshake(B_KEY, low + bytes(76), os.urandom)
    ours = initiate()
    with pytest.raises(HandshakeError):
        ours.consume_response(low + bytes(16))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 108 * 8 - 1))
def test_every_bit_of_the_initiation_counts(bit):
    message = bytearray(initiate().message)
    message[bit // 8] ^= 1 << bit % 8
    # X25519 ignores the top bit of a public key, but it is hashed, so it counts as well.
    with pytest.raises(HandshakeError):
        ResponderHandshake(B_KEY, bytes(message), os.urandom)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 48 * 8 - 1), min_size=1, max_size=4))
def test_forged_responses_do_not_spoil_the_true_one(bits):
    ours = initiate()
    message, b = ResponderHandshake(B_KEY, ours.message, os.urandom).create_response(NO_PSK)
    for bit in bits:
        forged = bytearray(message)
        forged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(HandshakeError):
            ours.consume_response(bytes(forged))
    assert ours.consume_response(message).send == b.receive


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data):
    with pytest.raises(HandshakeError):
        ResponderHandshake(B_KEY, data, os.urandom)
    with pytest.raises(HandshakeError):
        initiate().consume_response(data)
