"""WireGuard's handshake messages: framing only (whitepaper section 5.4). Integers little endian.

Encoders make a message up to mac1; `cookie.CookieGenerator.add_macs` closes it. Decoders take a
message whose length and first four bytes `message_type` has checked.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

INITIATION: Final = 1
RESPONSE: Final = 2
COOKIE_REPLY: Final = 3
TRANSPORT: Final = 4
#: Ours, before any session; a WireGuard peer drops unknown types unharmed.
BOOTSTRAP_REQUEST: Final = 0x57
BOOTSTRAP_REPLY: Final = 0x58
#: of a member of a network (docs/mesh.md section 8.1)
PRESENT: Final = 0x59

INITIATION_BYTES: Final = 148
RESPONSE_BYTES: Final = 92
COOKIE_REPLY_BYTES: Final = 64
BOOTSTRAP_BYTES: Final = 128
PRESENT_BYTES: Final = 580

MAC_BYTES: Final = 16
MACS_BYTES: Final = 2 * MAC_BYTES
NONCE_BYTES: Final = 24
SEALED_COOKIE_BYTES: Final = 32

#: Noise message 1: ephemeral, sealed static key, sealed TAI64N. Message 2: ephemeral, sealed empty.
NOISE_1_BYTES: Final = 32 + (32 + 16) + (12 + 16)
NOISE_2_BYTES: Final = 32 + 16

#: by type: the least and the greatest length. WireGuard's, then with those of bootstrap.
OWN: Final[Mapping[int, tuple[int, int]]] = {
    INITIATION: (INITIATION_BYTES, INITIATION_BYTES),
    RESPONSE: (RESPONSE_BYTES, RESPONSE_BYTES),
    COOKIE_REPLY: (COOKIE_REPLY_BYTES, COOKIE_REPLY_BYTES),
}
LENGTHS: Final[Mapping[int, tuple[int, int]]] = {
    **OWN,
    BOOTSTRAP_REQUEST: (BOOTSTRAP_BYTES, BOOTSTRAP_BYTES),
    BOOTSTRAP_REPLY: (BOOTSTRAP_BYTES, BOOTSTRAP_BYTES),
    PRESENT: (PRESENT_BYTES, PRESENT_BYTES),
}


class MessageError(ValueError):
    """A datagram is refused; `reason` is the name that it is counted under."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def message_type(data: bytes, lengths: Mapping[int, tuple[int, int]] = LENGTHS) -> int:
    """The type of a well-formed message. MessageError: "short", "type", "reserved" or "length"."""
    if len(data) < 4:
        raise MessageError("short")
    allowed = lengths.get(data[0])
    if allowed is None:
        raise MessageError("type")
    if data[1] or data[2] or data[3]:
        raise MessageError("reserved")
    if not allowed[0] <= len(data) <= allowed[1]:
        raise MessageError("length")
    return data[0]


@dataclass(frozen=True, slots=True)
class Initiation:
    sender: int
    noise: bytes


@dataclass(frozen=True, slots=True)
class Response:
    sender: int
    receiver: int
    noise: bytes


@dataclass(frozen=True, slots=True)
class CookieReply:
    receiver: int
    nonce: bytes
    sealed: bytes


def sender_index(data: bytes) -> int:
    """Of an initiation or a response."""
    return int.from_bytes(data[4:8], "little")


def encode_initiation(sender: int, noise: bytes) -> bytes:
    """116 bytes: all of message 1 that mac1 covers."""
    return struct.pack("<II", INITIATION, sender) + noise


def decode_initiation(data: bytes) -> Initiation:
    return Initiation(sender_index(data), data[8 : 8 + NOISE_1_BYTES])


def encode_response(sender: int, receiver: int, noise: bytes) -> bytes:
    """60 bytes: all of message 2 that mac1 covers."""
    return struct.pack("<III", RESPONSE, sender, receiver) + noise


def decode_response(data: bytes) -> Response:
    _, sender, receiver = struct.unpack_from("<III", data)
    return Response(sender, receiver, data[12 : 12 + NOISE_2_BYTES])


def encode_cookie_reply(receiver: int, nonce: bytes, sealed: bytes) -> bytes:
    """64 bytes: message 3 has no macs."""
    return struct.pack("<II", COOKIE_REPLY, receiver) + nonce + sealed


def decode_cookie_reply(data: bytes) -> CookieReply:
    return CookieReply(sender_index(data), data[8 : 8 + NONCE_BYTES], data[8 + NONCE_BYTES :])
