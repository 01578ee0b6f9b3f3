"""RELAY_MESSAGE and what it carries: encode and decode (docs/nat.md, "Signalling").

A decoder raises ControlError, whose text is the reason to count, where a frame is shorter than its
fields or says what it cannot. Bytes behind a frame's fields are padding; a payload is exact.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from whalescale.protocol.candidates import parse, reachable
from whalescale.protocol.control import VERSION, ControlError
from whalescale.protocol.messages import OWN
from whalescale.protocol.places import Endpoint
from whalescale.protocol.tai64n import TIMESTAMP_BYTES

RELAY_MESSAGE: Final = 0x18
NODE_BYTES: Final = 32
HEAD_BYTES: Final = 58
PAYLOAD_MAX: Final = 512
TOKEN_BYTES: Final = 8
PLACES_MAX: Final = 8
SIGNATURE_BYTES: Final = 64
#: what a CALL is signed with
LABEL: Final = b"whalescale call v1"

_HEAD: Final = struct.Struct(f"<BBBB{NODE_BYTES}sBBH16sH")
_PLACE: Final = struct.Struct("<BBH16s")
_CALL: Final = struct.Struct(f"<BBH{TIMESTAMP_BYTES}s{TOKEN_BYTES}s")

#: (label, data) -> signature, by our node's key
Sign = Callable[[bytes, bytes], bytes]
#: (key, label, data, signature)
Verify = Callable[[bytes, bytes, bytes, bytes], bool]


class What(IntEnum):
    FORWARD = 1
    FORWARDED = 2
    REFUSED = 3


class Kind(IntEnum):
    """Of a payload."""

    HANDSHAKE = 1
    CALL = 2
    GO = 3


class Refusal(IntEnum):
    SESSION = 1  # the carrier has none with that member
    RATE = 2
    OFF = 3  # it carries nothing


class Role(IntEnum):
    CALL = 1
    ANSWER = 2


class Found(IntEnum):
    """How its owner knows a place (docs/mesh.md section 2)."""

    INTERFACE = 1
    OBSERVED = 2
    MAPPED = 3
    LAN = 4


@dataclass(frozen=True, slots=True)
class Message:
    """To a carrier (`node`: whom it is for) or from one (`node`: who sent it)."""

    what: What
    kind: int
    node: bytes
    payload: bytes
    #: FORWARDED: where the carrier sees the sender; None: it does not tell
    seen: Endpoint | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """What was for `node` goes no further. `reason`: a Refusal, or of a later day."""

    node: bytes
    reason: int


@dataclass(frozen=True, slots=True)
class Place:
    endpoint: Endpoint
    kind: Found = Found.INTERFACE


@dataclass(frozen=True, slots=True)
class Call:
    """Where the sender may be reached; both try each other at one time."""

    role: Role
    stamp: bytes
    token: bytes
    places: tuple[Place, ...]


def _claim(good: bool) -> None:
    if not good:
        raise ControlError("relay_claim")


def _need(data: bytes, size: int) -> None:
    if len(data) < size:
        raise ControlError("control_length")


def tellable(endpoint: Endpoint) -> bool:
    """A place that is of use to others: no link-local address, none with a zone."""
    address = parse(endpoint.ip)
    return (
        address is not None
        and not endpoint.scope_id
        and reachable(endpoint)
        and not address.is_link_local
    )


def _pack(endpoint: Endpoint) -> tuple[int, int, bytes]:
    """Family, port, address. ValueError: this is none to tell."""
    if not tellable(endpoint):
        raise ValueError(f"{endpoint.ip} is no address to tell others")
    address = ipaddress.ip_address(endpoint.ip)
    return address.version, endpoint.port, address.packed.ljust(16, b"\0")


def _endpoint(family: int, port: int, data: bytes) -> Endpoint:
    """ControlError: no address that a host could have, or bits that mean nothing."""
    _claim(family in (4, 6))
    if family == 4:
        _claim(not any(data[4:]))
        endpoint = Endpoint(str(ipaddress.IPv4Address(data[:4])), port)
    else:
        endpoint = Endpoint(str(ipaddress.IPv6Address(data)), port)
    _claim(tellable(endpoint))
    return endpoint


# the frame


def encode(message: Message | Refused) -> bytes:
    """ValueError: a payload that is empty or too long, a node ID or a place that is none."""
    if len(message.node) != NODE_BYTES:
        raise ValueError(f"a node ID has {NODE_BYTES} bytes")
    if isinstance(message, Refused):
        head = (What.REFUSED, message.reason, message.node, 0, 0, 0, bytes(16), 0)
        return _HEAD.pack(RELAY_MESSAGE, VERSION, *head)
    if not 0 < len(message.payload) <= PAYLOAD_MAX:
        raise ValueError(f"a payload has 1 to {PAYLOAD_MAX} bytes")
    family, kind, port, packed = 0, 0, 0, bytes(16)
    if message.seen is not None:
        family, port, packed = _pack(message.seen)
        kind = Found.OBSERVED
    size = len(message.payload)
    head = (message.what, message.kind, message.node, family, kind, port, packed, size)
    return _HEAD.pack(RELAY_MESSAGE, VERSION, *head) + message.payload


def decode(data: bytes) -> Message | Refused:
    """ControlError: refused, and why. The head's type and version were looked at."""
    _need(data, HEAD_BYTES)
    _, _, what, kind, node, family, found, port, packed, size = _HEAD.unpack_from(data)
    _claim(what in What.__members__.values())
    _claim(bool(family) or not (found or port or any(packed)))
    if what == What.REFUSED:
        _claim(not size and not family)
        return Refused(node, kind)
    _claim(0 < size <= PAYLOAD_MAX)
    _need(data, HEAD_BYTES + size)
    payload = data[HEAD_BYTES : HEAD_BYTES + size]
    seen = None
    if family:
        _claim(what == What.FORWARDED and found == Found.OBSERVED)
        seen = _endpoint(family, port, packed)
    return Message(What(what), kind, node, payload, seen)


# payloads


def check_handshake(payload: bytes) -> None:
    """ControlError: this is no message of WireGuard's handshake."""
    _need(payload, 4)
    least, _ = OWN.get(payload[0], (0, 0))
    _claim(least == len(payload) and not any(payload[1:4]))


def encode_call(call: Call, sender: bytes, receiver: bytes, sign: Sign) -> bytes:
    """ValueError: too many places, or one that is none to tell."""
    if len(call.places) > PLACES_MAX:
        raise ValueError(f"a call names {PLACES_MAX} places at most")
    body = _CALL.pack(call.role, len(call.places), 0, call.stamp, call.token)
    for place in call.places:
        family, port, packed = _pack(place.endpoint)
        body += _PLACE.pack(family, place.kind, port, packed)
    return body + sign(LABEL, sender + receiver + body)


def decode_call(payload: bytes) -> Call:
    """ControlError: refused, and why. Whether it is signed is for `is_signed` to say."""
    _need(payload, _CALL.size)
    role, count, zero, stamp, token = _CALL.unpack_from(payload)
    _claim(role in Role.__members__.values() and count <= PLACES_MAX and not zero)
    _claim(len(payload) == _CALL.size + count * _PLACE.size + SIGNATURE_BYTES)
    places = []
    for n in range(count):
        family, kind, port, packed = _PLACE.unpack_from(payload, _CALL.size + n * _PLACE.size)
        _claim(kind in Found.__members__.values())
        places.append(Place(_endpoint(family, port, packed), Found(kind)))
    _claim(len({place.endpoint for place in places}) == len(places))
    return Call(Role(role), stamp, token, tuple(places))


def is_signed(payload: bytes, sender: bytes, receiver: bytes, verify: Verify) -> bool:
    """Of a call that was decoded: whether `sender` made it, for `receiver`."""
    body, signature = payload[:-SIGNATURE_BYTES], payload[-SIGNATURE_BYTES:]
    return verify(sender, LABEL, sender + receiver + body, signature)


def decode_go(payload: bytes) -> bytes:
    """The token. ControlError: refused."""
    _claim(len(payload) == TOKEN_BYTES)
    return payload
