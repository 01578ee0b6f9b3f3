"""Pre-session bootstrap: from a fingerprint to the node ID that Noise_IK needs in advance.

One request, one reply, 128 bytes each, so that nothing is amplified. Both carry a MAC under a key
made of the *target's* fingerprint: whoever does not know the fingerprint gets no answer, and a scan
hears nothing. The MAC is no signature (every holder of the fingerprint can make it): the requester
believes the node ID because it hashes to the fingerprint, and nothing else of the reply.
`docs/wire.md` has the bytes.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from whalescale.identity import KEY_BYTES, IdentityError, fingerprint_of, node_id_to_x25519
from whalescale.protocol.messages import (
    BOOTSTRAP_BYTES,
    BOOTSTRAP_REPLY,
    BOOTSTRAP_REQUEST,
    MAC_BYTES,
    MessageError,
)
from whalescale.protocol.places import Endpoint

NONCE_BYTES: Final = 32
_LABEL: Final = b"whalescale bootstrap v1"

_NONCE: Final = slice(4, 36)
_NODE_ID: Final = slice(36, 68)
_OBSERVED: Final = slice(68, 88)
_REPLY_ZERO: Final = slice(88, 112)
_REQUEST_ZERO: Final = slice(36, 112)
_BODY_BYTES: Final = BOOTSTRAP_BYTES - MAC_BYTES


def mac_key(fingerprint: bytes) -> bytes:
    """32 bytes, for every message to and from the node with this fingerprint."""
    return hashlib.blake2s(_LABEL + fingerprint).digest()


def own_mac_key(fingerprint: bytes | None, random: Callable[[int], bytes]) -> bytes:
    """What requests to us are checked by; without a fingerprint a key that nobody has."""
    return random(NONCE_BYTES) if fingerprint is None else mac_key(fingerprint)


def _seal(key: bytes, body: bytes) -> bytes:
    return body + hashlib.blake2s(body, key=key, digest_size=MAC_BYTES).digest()


def _check(key: bytes, data: bytes) -> None:
    expected = hashlib.blake2s(data[:_BODY_BYTES], key=key, digest_size=MAC_BYTES).digest()
    if not hmac.compare_digest(expected, data[_BODY_BYTES:]):
        raise MessageError("bootstrap_mac")


def _encode_endpoint(endpoint: Endpoint) -> bytes:
    ip = ip_address(endpoint.ip)
    head = bytes((ip.version, 0)) + endpoint.port.to_bytes(2, "little")
    return head + ip.packed.ljust(16, b"\0")


def _decode_endpoint(data: bytes) -> Endpoint | None:
    port = int.from_bytes(data[2:4], "little")
    if data[0] == 4:
        return Endpoint(str(IPv4Address(data[4:8])), port)
    if data[0] == 6:
        return Endpoint(str(IPv6Address(data[4:20])), port)
    return None


@dataclass(frozen=True, slots=True)
class Reply:
    node_id: bytes
    static_public: bytes
    #: Where the target saw the request come from; a hint, not to be trusted.
    observed: Endpoint | None


def new_nonce(random: Callable[[int], bytes]) -> bytes:
    return random(NONCE_BYTES)


def nonce_of(data: bytes) -> bytes:
    return data[_NONCE]


def encode_request(fingerprint: bytes, nonce: bytes) -> bytes:
    body = bytes((BOOTSTRAP_REQUEST, 0, 0, 0)) + nonce
    return _seal(mac_key(fingerprint), body.ljust(_BODY_BYTES, b"\0"))


def answer_request(data: bytes, key: bytes, node_id: bytes, remote: Endpoint) -> bytes:
    """The reply to a request made with our `mac_key`. MessageError: "bootstrap_mac", "reserved"."""
    _check(key, data)
    if any(data[_REQUEST_ZERO]):
        raise MessageError("reserved")
    body = bytes((BOOTSTRAP_REPLY, 0, 0, 0)) + nonce_of(data) + node_id + _encode_endpoint(remote)
    return _seal(key, body.ljust(_BODY_BYTES, b"\0"))


def decode_reply(data: bytes, fingerprint: bytes) -> Reply:
    """A reply whose nonce is outstanding for `fingerprint`.

    MessageError: "bootstrap_mac", "reserved", or "bootstrap_identity" where the node ID is not the
    one with this fingerprint or no usable key.
    """
    _check(mac_key(fingerprint), data)
    if any(data[_REPLY_ZERO]):
        raise MessageError("reserved")
    node_id = data[_NODE_ID]
    assert len(node_id) == KEY_BYTES
    if not hmac.compare_digest(fingerprint_of(node_id), fingerprint):
        raise MessageError("bootstrap_identity")
    try:
        static_public = node_id_to_x25519(node_id)
    except IdentityError:
        raise MessageError("bootstrap_identity") from None
    return Reply(node_id, static_public, _decode_endpoint(data[_OBSERVED]))
