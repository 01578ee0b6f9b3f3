"""An initiator's own member record, before there is a session (docs/mesh.md section 8.1).

One message, never answered: sealed to the member that is called, so that nobody on the way reads
who calls whom, and with a MAC that takes its fingerprint, so that a scan costs it nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable, Iterable
from typing import Final

from nacl.exceptions import CryptoError
from nacl.public import Box, PrivateKey, PublicKey, SealedBox

from whalescale.protocol import bootstrap
from whalescale.protocol.mesh.records import RECORD_MAX
from whalescale.protocol.messages import MAC_BYTES, PRESENT, PRESENT_BYTES, MessageError

#: what is sealed: the records, and zeros up to here
PLAIN_BYTES: Final = 512
RECORDS_MAX: Final = 2
_SEAL_NONCE_BYTES: Final = 24
_BODY_BYTES: Final = PRESENT_BYTES - MAC_BYTES
_LENGTH: Final = struct.Struct("<H")


def encode(
    raws: Iterable[bytes], fingerprint: bytes, static_public: bytes, random: Callable[[int], bytes]
) -> bytes:
    """Two records at most, the member's last, for who has this fingerprint and X25519 key.

    ValueError: they do not fit.
    """
    records = tuple(raws)
    plain = bytes((len(records),)) + b"".join(_LENGTH.pack(len(r)) + r for r in records)
    if len(records) > RECORDS_MAX or len(plain) > PLAIN_BYTES:
        raise ValueError("these records do not fit")
    # libsodium's sealed box, with an ephemeral key of our own generator.
    once, to = PrivateKey(random(32)), PublicKey(static_public)
    own = bytes(once.public_key)
    nonce = hashlib.blake2b(own + static_public, digest_size=_SEAL_NONCE_BYTES).digest()
    sealed = own + Box(once, to).encrypt(plain.ljust(PLAIN_BYTES, b"\0"), nonce).ciphertext
    return _mac(bootstrap.mac_key(fingerprint), bytes((PRESENT, 0, 0, 0)) + sealed)


def _mac(key: bytes, body: bytes) -> bytes:
    return body + hashlib.blake2s(body, key=key, digest_size=MAC_BYTES).digest()


def check(data: bytes, fingerprint: bytes) -> None:
    """MessageError: who made it does not know our fingerprint (present_mac)."""
    right = _mac(bootstrap.mac_key(fingerprint), data[:_BODY_BYTES])
    if not hmac.compare_digest(right, data):
        raise MessageError("present_mac")


def decode(data: bytes, static_private: bytes | bytearray) -> list[bytes]:
    """The records of a checked one. MessageError: not sealed to us (present_seal), or it holds what
    it cannot (present_claim).
    """
    try:
        plain = SealedBox(PrivateKey(bytes(static_private))).decrypt(data[4:_BODY_BYTES])
    except CryptoError:
        raise MessageError("present_seal") from None
    at, found = 1, []
    if not 1 <= plain[0] <= RECORDS_MAX:
        raise MessageError("present_claim")
    for _ in range(plain[0]):
        (size,) = _LENGTH.unpack_from(plain, at)
        at += _LENGTH.size
        if not 0 < size <= RECORD_MAX or at + size > PLAIN_BYTES - _LENGTH.size:
            raise MessageError("present_claim")
        found.append(plain[at : at + size])
        at += size
    if any(plain[at:]):
        raise MessageError("present_claim")
    return found
