"""A second reading of docs/wire.md's post-quantum frames and keys, by the standard library."""

from __future__ import annotations

import hashlib
import hmac
import struct

KINDS = {"KEY": (1, 1184), "CIPHERTEXT": (2, 1088), "DONE": (3, 3)}


def frames(kind: str, exchange: int, whole: bytes) -> list[bytes]:
    number, size = KINDS[kind]
    assert len(whole) == size
    pieces = [whole[at : at + 400] for at in range(0, size, 400)]
    return [
        bytes((0x1A, 1, number, n)) + struct.pack("<I", exchange) + piece
        for n, piece in enumerate(pieces)
    ]


def kept(shared: bytes, key: bytes, ciphertext: bytes, lesser: bytes, greater: bytes) -> bytes:
    h = hashlib.blake2s(b"whalescale post-quantum v1")
    for piece in (shared, hashlib.blake2s(key + ciphertext).digest(), lesser, greater):
        h.update(piece)
    return h.digest()


def following(secret: bytes) -> bytes:
    return hashlib.blake2s(b"whalescale post-quantum next" + secret).digest()


def tag(secret: bytes) -> int:
    digest = hashlib.blake2s(b"whalescale post-quantum tag" + secret).digest()
    return digest[0] | digest[1] << 8 | digest[2] << 16


def psk(configured: bytes, secret: bytes, initiator: bytes, responder: bytes) -> bytes:
    """KDF1 of the whitepaper."""
    extracted = hmac.digest(configured, secret + initiator + responder, "blake2s")
    return hmac.digest(extracted, b"\1", "blake2s")


def timestamp(whitened: bytes, secret_tag: int) -> bytes:
    return whitened[:9] + struct.pack(">I", secret_tag)[1:]
