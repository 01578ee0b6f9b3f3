"""Keys, their text forms and what is derived from them."""

import os
from ipaddress import IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whalescale import identity
from whalescale.identity import (
    Identity,
    IdentityError,
    PlainIdentity,
    decode_fingerprint,
    decode_node_id,
    decode_seed,
    encode_fingerprint,
    encode_node_id,
    encode_seed,
    fingerprint_of,
    node_id_to_x25519,
    overlay_address,
    x25519_to_node_ids,
)
from whalescale.protocol.noise import KeyPair

seeds = st.binary(min_size=32, max_size=32)
#: RFC 8032 section 7.1, test 1
SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
NODE_ID = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")


def test_known_answers():
    """The key pair is RFC 8032's; the rest is fixed here, for it is on the wire and in configs."""
    me = Identity.from_seed(SEED)
    assert me.node_id == NODE_ID
    assert me.static_public.hex() == (
        "d85e07ec22b0ad881537c2f44d662d1a143cf830c57aca4305d85c7a90f6b62e"
    )
    assert encode_node_id(NODE_ID) == "25njqamcweflpvkl73j4szahhihoc4xt3ktcgjnpaingr5yhkenbgunw"
    assert encode_fingerprint(me.fingerprint) == "sea2ausmwl5txxlz5rhlsj3e3vnfpzu6mtxr6tus"
    assert encode_seed(SEED) == "tvq3dhpp7vngbouejl2jf3bmyrcetrljpmzgsglqhowaghfop5qkbfpo"
    assert me.overlay_address == IPv6Address("fd77:6861:6c65:ea79:1e2e:b03a:2fa8:84e2")


def test_static_key_is_the_x25519_pair_of_the_node_id():
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    me = Identity.generate(os.urandom)
    private = X25519PrivateKey.from_private_bytes(bytes(me.static_private))
    assert private.public_key().public_bytes_raw() == me.static_public
    assert node_id_to_x25519(me.node_id) == me.static_public


@given(seeds)
def test_text_forms_round_trip(seed):
    me = Identity(seed)
    text = encode_node_id(me.node_id)
    assert len(text) == 56
    assert text == text.lower()
    assert decode_node_id(text) == me.node_id
    spread = " " + "-".join(text[i : i + 8] for i in range(0, 56, 8)).upper() + "\n"
    assert decode_node_id(spread) == me.node_id
    assert len(encode_fingerprint(me.fingerprint)) == 40
    assert decode_fingerprint(encode_fingerprint(me.fingerprint)) == me.fingerprint
    assert decode_seed(encode_seed(seed) + "\n") == seed


@given(seeds, st.integers(0, 55), st.sampled_from(sorted("abcdefghijklmnopqrstuvwxyz234567")))
def test_one_wrong_letter_is_an_error(seed, at, letter):
    text = encode_node_id(Identity(seed).node_id)
    wrong = text[:at] + letter + text[at + 1 :]
    if wrong != text:
        with pytest.raises(IdentityError, match="typo"):
            decode_node_id(wrong)


@given(seeds, st.integers(0, 54))
def test_two_letters_swapped_are_an_error(seed, at):
    text = encode_node_id(Identity(seed).node_id)
    wrong = text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    if wrong != text:
        with pytest.raises(IdentityError):
            decode_node_id(wrong)


@given(st.text(max_size=80))
def test_any_text_is_decoded_or_refused(text):
    for decode in (decode_node_id, decode_fingerprint, decode_seed):
        with pytest.raises(IdentityError) as refusal:
            decode(text)
        assert len(str(refusal.value)) > 10


@pytest.mark.parametrize(
    ("decode", "text", "says"),
    [
        (decode_node_id, encode_seed(SEED), "this is a private key, not a node ID"),
        (decode_fingerprint, encode_seed(SEED), "this is a private key, not a fingerprint"),
        (decode_node_id, encode_fingerprint(bytes(22)), "this is a fingerprint, not a node ID"),
        (decode_seed, encode_node_id(NODE_ID), "this is a node ID, not a private key"),
        (decode_fingerprint, encode_node_id(NODE_ID), "this is a node ID, not a fingerprint"),
        (decode_node_id, encode_node_id(NODE_ID)[:-1], "has 56 characters, this has 55"),
        (decode_node_id, "", "empty"),
        (decode_node_id, "0" + encode_node_id(NODE_ID)[1:], "'0' cannot be in a node ID"),
        (decode_node_id, "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=", "WireGuard key"),
        (decode_node_id, encode_node_id(bytes(32)), "not a valid Ed25519 key"),
    ],
)
def test_errors_say_what_is_wrong(decode, text, says):
    with pytest.raises(IdentityError, match=says):
        decode(text)


def test_errors_do_not_hold_a_private_key():
    text = encode_seed(SEED)
    for decode in (decode_node_id, decode_fingerprint):
        with pytest.raises(IdentityError) as refusal:
            decode(text)
        assert text[:8] not in str(refusal.value)
    with pytest.raises(IdentityError) as refusal:
        decode_seed(text[:-1] + ("a" if text[-1] != "a" else "b"))
    assert text[:8] not in str(refusal.value)


@given(seeds)
def test_both_signs_come_back_from_the_x25519_key(seed):
    me = Identity(seed)
    both = x25519_to_node_ids(me.static_public)
    assert me.node_id in both
    assert both[0] != both[1]
    assert {node_id_to_x25519(n) for n in both} == {me.static_public}
    assert [fingerprint_of(n) for n in both].count(me.fingerprint) == 1


P = 2**255 - 19


@pytest.mark.parametrize("u", [0, 1, P - 1, P, P + 1, 2**255 - 1, 2**256 - 1, 2])
def test_x25519_keys_that_are_no_node(u):
    """Low order, not canonical, u = -1, and one on the twist."""
    with pytest.raises(IdentityError):
        x25519_to_node_ids(u.to_bytes(32, "little"))


@given(st.binary(max_size=40))
def test_any_bytes_map_or_are_refused(raw):
    for function in (x25519_to_node_ids, node_id_to_x25519):
        try:
            function(raw)
        except IdentityError:
            continue
        assert len(raw) == 32


@pytest.mark.parametrize(
    "point",
    [
        bytes(32),
        (1).to_bytes(32, "little"),
        bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
        b"\xff" * 32,
    ],
)
def test_low_order_points_are_no_node_ids(point):
    with pytest.raises(IdentityError):
        node_id_to_x25519(point)


def test_overlay_address_is_in_our_network_and_differs():
    network = IPv6Network("fd77:6861:6c65::/48")
    addresses = {overlay_address(os.urandom(32)) for _ in range(100)}
    assert len(addresses) == 100
    assert all(a in network for a in addresses)
    assert network.network_address.packed[:6] == identity.OVERLAY_PREFIX


def test_zero_and_repr():
    me = Identity.generate(os.urandom)
    for secret in (me.seed, me.static_private):
        assert secret.hex() not in repr(me)
    assert encode_seed(me.seed) not in repr(me)
    assert encode_node_id(me.node_id) in repr(me)
    me.zero()
    assert me.seed == bytes(32)
    assert me.static_private == bytes(32)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_wrong_sizes(size):
    for call in (Identity.from_seed, encode_node_id, encode_seed, encode_fingerprint):
        with pytest.raises(IdentityError, match="bytes"):
            call(bytes(size))
    with pytest.raises(IdentityError):
        node_id_to_x25519(bytes(size))


def test_low_order_keys_are_those_that_share_no_secret() -> None:
    own = KeyPair.from_private(bytes(range(1, 33)))
    u = [n.to_bytes(32, "little") for n in identity._LOW_ORDER]
    u += [(n | 1 << 255).to_bytes(32, "little") for n in identity._LOW_ORDER]
    assert all(identity.is_low_order(key) for key in u)
    assert not any(own.shares_secret_with(KeyPair.from_public(key)) for key in u)
    for n in range(2, 64):
        key = n.to_bytes(32, "little")
        assert identity.is_low_order(key) is not own.shares_secret_with(KeyPair.from_public(key))


def test_a_plain_identity_is_a_wireguard_key_and_nothing_more() -> None:
    full = Identity.from_seed(SEED)
    own = PlainIdentity(full.static_private)
    assert own.static_public == full.static_public
    assert (own.node_id, own.fingerprint, own.overlay_address) == (None, None, None)
    private = bytes(own.static_private)
    assert private.hex() not in repr(own)
    own.zero()
    assert bytes(own.static_private) == bytes(32) != private
    with pytest.raises(IdentityError, match="32 bytes"):
        PlainIdentity(bytes(31))
