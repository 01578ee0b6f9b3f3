"""The core's handshake against an independent one, byte for byte."""

import json

import pytest
from reference import VECTORS, from_json, hchacha20, to_json, vectors

from whalescale.identity import Identity
from whalescale.protocol.node import Node, PeerConfig
from whalescale.protocol.places import Endpoint
from whalescale.protocol.types import KeypairReady

INITIATOR_AT = Endpoint("192.0.2.7", 51820)
RESPONDER_AT = Endpoint("198.51.100.1", 51820)
WALL = 1_600_000_000_500_000_000
CASES = from_json(json.loads(VECTORS.read_text()))


def test_the_file_is_what_the_reference_makes():
    assert json.loads(VECTORS.read_text()) == to_json(vectors())


def test_hchacha20_of_the_draft():
    """draft-irtf-cfrg-xchacha-03 section 2.2.1."""
    key = bytes(range(32))
    nonce = bytes.fromhex("000000090000004a0000000031415927")
    expected = "82413b4227b27bfed30e42508a877d73a0f9e4d58a74a853c12ec41326d3ecdc"
    assert hchacha20(key, nonce).hex() == expected


def make_node(seed, ephemeral, index, extra=()):
    sizes = {32: ephemeral, 4: index.to_bytes(4, "little"), 8: bytes(8), **dict(extra)}
    return Node(Identity(seed), random=lambda n: sizes[n], wall_clock=lambda: WALL)


def keypair(node):
    while (event := node.poll_event()) is not None:
        if isinstance(event, KeypairReady):
            return event
    raise AssertionError("no keypair")


@pytest.mark.parametrize("case", CASES, ids=[c["name"] for c in CASES])
def test_handshake(case):
    given, expected = case["in"], case["out"]
    a = make_node(given["initiator_seed"], given["initiator_ephemeral"], given["initiator_index"])
    b = make_node(given["responder_seed"], given["responder_ephemeral"], given["responder_index"])
    b_id = Identity(given["responder_seed"])
    a_id = Identity(given["initiator_seed"])
    pa = a.add_peer(
        PeerConfig(node_id=b_id.node_id, preshared_key=given["psk"], endpoints=(RESPONDER_AT,)),
        0,
    )
    b.add_peer(PeerConfig(static_public=a_id.static_public, preshared_key=given["psk"]), 0)

    a.want_handshake(pa, 1)
    initiation = a.poll_transmit()
    assert initiation is not None
    assert initiation.data.hex() == expected["initiation"].hex()
    b.receive_datagram(initiation.data, INITIATOR_AT, None, 2)
    response = b.poll_transmit()
    assert response is not None
    assert response.data.hex() == expected["response"].hex()
    a.receive_datagram(response.data, RESPONDER_AT, None, 3)

    ours, theirs = keypair(a), keypair(b)
    assert ours.send_key == theirs.receive_key == expected["initiator_send_key"]
    assert theirs.send_key == ours.receive_key == expected["responder_send_key"]
    assert (ours.local_index, ours.remote_index) == (
        given["initiator_index"],
        given["responder_index"],
    )
    assert not a.drops
    assert not b.drops


def test_cookie():
    given, expected = CASES[0]["in"], CASES[0]["out"]
    b = make_node(
        given["responder_seed"],
        given["cookie_secret"],
        given["responder_index"],
        {24: given["cookie_nonce"]}.items(),
    )
    b.under_load = True
    b.receive_datagram(expected["initiation"], INITIATOR_AT, None, 1)
    reply = b.poll_transmit()
    assert reply is not None
    assert reply.data.hex() == expected["cookie_reply"].hex()
    assert b.drops == {"mac2": 1}

    a = make_node(given["initiator_seed"], given["initiator_ephemeral"], given["initiator_index"])
    node_id = Identity(given["responder_seed"]).node_id
    peer = a.add_peer(PeerConfig(node_id=node_id, endpoints=(RESPONDER_AT,)), 0)
    a.want_handshake(peer, 1)
    assert a.poll_transmit().data == expected["initiation"]
    a.receive_datagram(reply.data, RESPONDER_AT, None, 2)
    assert not a.drops
    # A message with the macs of the reference passes the gate: it is refused for the key only.
    b.receive_datagram(expected["initiation"][:132] + expected["mac2"], INITIATOR_AT, None, 3)
    assert b.drops == {"mac2": 1, "unknown_peer": 1}
