"""Who a node is: Ed25519 node ID, fingerprint, derived X25519 key and overlay IPv6 address.

The node ID *is* the Ed25519 public key. The Noise static key is the X25519 key that belongs to it
by the birational map of RFC 7748 section 4.1 (libsodium's `crypto_sign_ed25519_*_to_curve25519`).
Text forms are lower-case RFC 4648 base32 without padding, closed by a 3-byte check, so that a typo
is an error and not another node; `docs/wire.md` has every byte.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv6Address
from typing import Final

from nacl import bindings
from nacl.exceptions import CryptoError

KEY_BYTES: Final = 32
FINGERPRINT_BYTES: Final = 22
CHECK_BYTES: Final = 3

#: The overlay network of RFC 4193: fd + "whale" in ASCII.
OVERLAY_PREFIX: Final = bytes.fromhex("fd7768616c65")

_P: Final = 2**255 - 19

#: u of the points of order 1, 2, 4 and 8, and of their twins above the prime (RFC 7748 section 7)
_LOW_ORDER: Final = frozenset(
    (
        0,
        1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
        _P - 1,
        _P,
        _P + 1,
    )
)

_LABEL_NODE_ID: Final = b"whalescale node id"
_LABEL_SEED: Final = b"whalescale private key"
_LABEL_FINGERPRINT: Final = b"whalescale fingerprint"
_LABEL_FINGERPRINT_CHECK: Final = b"whalescale fingerprint check"
_LABEL_OVERLAY: Final = b"whalescale overlay address"

# What a text may turn out to be when it is not what was asked for.
_KINDS: Final = {
    "node ID": (_LABEL_NODE_ID, KEY_BYTES),
    "private key": (_LABEL_SEED, KEY_BYTES),
    "fingerprint": (_LABEL_FINGERPRINT_CHECK, FINGERPRINT_BYTES),
}
_ALPHABET: Final = frozenset("abcdefghijklmnopqrstuvwxyz234567")


class IdentityError(ValueError):
    """A key or its text is not usable; the message is written for a user and holds no secret."""


def _blake2s(size: int, *parts: bytes | bytearray) -> bytes:
    h = hashlib.blake2s(digest_size=size)
    for part in parts:
        h.update(part)
    return h.digest()


def _check(label: bytes, raw: bytes | bytearray) -> bytes:
    return _blake2s(CHECK_BYTES, label, raw)


def _text_length(size: int) -> int:
    return ((size + CHECK_BYTES) * 8 + 4) // 5


def _encode(kind: str, raw: bytes | bytearray) -> str:
    label, size = _KINDS[kind]
    if len(raw) != size:
        raise IdentityError(f"a {kind} has {size} bytes, not {len(raw)}")
    return base64.b32encode(bytes(raw) + _check(label, raw)).decode().rstrip("=").lower()


def _decode(kind: str, text: str) -> bytes:
    size = _KINDS[kind][1]
    expected = _text_length(size)
    # "".split() also drops tabs and the newline that a key file ends in.
    compact = "".join(text.replace("-", "").split()).lower()
    if not compact:
        raise IdentityError(f"the {kind} is empty; it has {expected} characters")
    if len(compact) == 44 and compact.endswith("="):
        raise IdentityError(
            f"this looks like a WireGuard key in base64, not a {kind}; "
            "give the public key of a WireGuard peer as wireguard_public_key"
        )
    strange = sorted(set(compact) - _ALPHABET)
    if strange:
        raise IdentityError(
            f"{strange[0]!r} cannot be in a {kind}: only the letters a-z and the digits 2-7 are; "
            "copy it again"
        )
    try:
        body = base64.b32decode(compact.upper() + "=" * (-len(compact) % 8))
    except binascii.Error:
        body = b""
    for other, (other_label, other_size) in _KINDS.items():
        if len(body) != other_size + CHECK_BYTES or len(compact) != _text_length(other_size):
            continue
        raw, check = body[:other_size], body[other_size:]
        if hmac.compare_digest(_check(other_label, raw), check):
            if other == kind:
                return raw
            if other == "private key":
                raise IdentityError(
                    f"this is a private key, not a {kind}; keep it secret, and take what "
                    "`ws pubkey` makes of it"
                )
            raise IdentityError(f"this is a {other}, not a {kind}")
    if len(compact) != expected:
        raise IdentityError(
            f"a {kind} has {expected} characters, this has {len(compact)}; copy it again"
        )
    raise IdentityError(f"the check at the end of the {kind} does not match: a typo; copy it again")


def encode_node_id(node_id: bytes) -> str:
    """56 characters. IdentityError: not 32 bytes."""
    return _encode("node ID", node_id)


def decode_node_id(text: str) -> bytes:
    """The 32 bytes of an Ed25519 public key that is a usable point. IdentityError otherwise."""
    node_id = _decode("node ID", text)
    node_id_to_x25519(node_id)
    return node_id


def encode_fingerprint(fingerprint: bytes) -> str:
    """40 characters. IdentityError: not 22 bytes."""
    return _encode("fingerprint", fingerprint)


def decode_fingerprint(text: str) -> bytes:
    """22 bytes. IdentityError otherwise."""
    return _decode("fingerprint", text)


def encode_seed(seed: bytes | bytearray) -> str:
    """The private key as 56 characters. IdentityError: not 32 bytes."""
    return _encode("private key", seed)


def decode_seed(text: str) -> bytes:
    """The 32-byte Ed25519 seed. IdentityError otherwise; the message never holds the key."""
    return _decode("private key", text)


def node_id_to_x25519(node_id: bytes) -> bytes:
    """The Noise static key of a node. IdentityError: not a canonical point of the main subgroup."""
    if len(node_id) != KEY_BYTES:
        raise IdentityError(f"a node ID has {KEY_BYTES} bytes, not {len(node_id)}")
    return _x25519_of(bytes(node_id))


@lru_cache(maxsize=512)  # 0.1 ms, and asked for several times while a start makes its peers
def _x25519_of(node_id: bytes) -> bytes:
    try:
        if bindings.crypto_core_ed25519_is_valid_point(node_id):
            return bytes(bindings.crypto_sign_ed25519_pk_to_curve25519(node_id))
    except CryptoError:
        pass
    raise IdentityError("the node ID is not a valid Ed25519 key; ask its owner for `ws pubkey`")


def x25519_to_node_ids(static_public: bytes) -> tuple[bytes, bytes]:
    """The two Ed25519 keys (even and odd x) that map to an X25519 key: y = (u - 1) / (u + 1).

    RFC 7748 section 4.1; public data only. IdentityError: no Ed25519 key maps to it.
    """
    u = int.from_bytes(static_public, "little")
    if len(static_public) != KEY_BYTES or u >= _P or u == _P - 1:
        raise IdentityError("no node ID belongs to this X25519 key")
    y = (u - 1) * pow(u + 1, -1, _P) % _P
    even = y.to_bytes(KEY_BYTES, "little")
    odd = (y | 1 << 255).to_bytes(KEY_BYTES, "little")
    for node_id in (even, odd):
        if not bindings.crypto_core_ed25519_is_valid_point(node_id):
            raise IdentityError("no node ID belongs to this X25519 key")
    return even, odd


def is_low_order(static_public: bytes) -> bool:
    """Whether every handshake with this X25519 key (32 bytes) must fail: zeros and their like."""
    return int.from_bytes(static_public, "little") & ((1 << 255) - 1) in _LOW_ORDER


def fingerprint_of(node_id: bytes) -> bytes:
    """22 bytes: BLAKE2s-176, collision-resistant to 88 bits, preimage-resistant to 176."""
    return _blake2s(FINGERPRINT_BYTES, _LABEL_FINGERPRINT, node_id)


def overlay_address(node_id: bytes) -> IPv6Address:
    """The address that only this node can have inside the overlay (fd77:6861:6c65::/48)."""
    return IPv6Address(OVERLAY_PREFIX + _blake2s(10, _LABEL_OVERLAY, node_id))


class PlainIdentity:
    """A WireGuard key alone, such as a provider gives out. Private parts are bytearrays, so that
    `zero` reaches them.

    It was made from no Ed25519 seed, so there is no node ID, and nothing that comes of one: no
    fingerprint, overlay address, data frames, several paths. To its peers it is any WireGuard's.
    """

    __slots__ = (
        "fingerprint",
        "node_id",
        "overlay_address",
        "static_private",
        "static_public",
    )

    static_private: bytearray
    static_public: bytes
    node_id: bytes | None
    fingerprint: bytes | None
    overlay_address: IPv6Address | None

    def __init__(self, static_private: bytes | bytearray) -> None:
        if len(static_private) != KEY_BYTES:
            raise IdentityError(f"a private key has {KEY_BYTES} bytes, not {len(static_private)}")
        self.static_private = bytearray(static_private)
        self.static_public = bytes(bindings.crypto_scalarmult_base(bytes(static_private)))
        self.node_id = self.fingerprint = self.overlay_address = None

    def zero(self) -> None:
        """Overwrite the private parts. The identity is of no use afterwards."""
        self.static_private[:] = bytes(KEY_BYTES)

    def __repr__(self) -> str:
        return f"PlainIdentity({self.static_public.hex()})"


class Identity(PlainIdentity):
    """A node's own keys."""

    __slots__ = ("seed",)

    seed: bytearray
    node_id: bytes
    fingerprint: bytes
    overlay_address: IPv6Address

    def __init__(self, seed: bytes | bytearray) -> None:
        if len(seed) != KEY_BYTES:
            raise IdentityError(f"a private key has {KEY_BYTES} bytes, not {len(seed)}")
        self.seed = bytearray(seed)
        self.node_id, secret = bindings.crypto_sign_seed_keypair(bytes(seed))
        self.static_private = bytearray(bindings.crypto_sign_ed25519_sk_to_curve25519(secret))
        self.static_public = node_id_to_x25519(self.node_id)
        self.fingerprint = fingerprint_of(self.node_id)
        self.overlay_address = overlay_address(self.node_id)

    @classmethod
    def from_seed(cls, seed: bytes | bytearray) -> Identity:
        """IdentityError: not 32 bytes."""
        return cls(seed)

    @classmethod
    def generate(cls, random: Callable[[int], bytes]) -> Identity:
        """`random(n)` gives n bytes fit for keys (os.urandom)."""
        return cls(random(KEY_BYTES))

    def zero(self) -> None:
        super().zero()
        self.seed[:] = bytes(KEY_BYTES)

    def __repr__(self) -> str:
        return f"Identity({encode_node_id(self.node_id)})"
