"""A record as a table keeps it: its bytes, and what is read or computed of them when asked for.

Of ten thousand members few are ever asked for more than a field, so nothing but the bytes is kept;
what all of them are asked for is read where it stands (docs/mesh.md section 2).
"""

from __future__ import annotations

import hashlib
import struct
from functools import lru_cache
from typing import Final

from whalescale.protocol.mesh import records
from whalescale.protocol.mesh.records import Kind, Record, Status

KEY_BYTES: Final = 8
#: records that stay decoded: those of the members that something goes on with
DECODED: Final = 512

_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")
_VERSION_AT: Final[dict[int, tuple[struct.Struct, int]]] = {
    Kind.NETWORK: (_U32, 50),
    Kind.ADMIN: (_U32, 50),
    Kind.MEMBER: (_U32, 82),
    Kind.ENDPOINTS: (_U64, 50),
    Kind.OBSERVED: (_U64, 82),
}
_STATUS_AT: Final[dict[int, int]] = {Kind.ADMIN: 54, Kind.MEMBER: 86}
_REVOKED: Final = int(Status.REVOKED)


def key_of(kind: int, subject: bytes) -> int:
    """Where a record stands in the tree: 56 bits of its subject, spread evenly, then its kind.

    What is about one node stands side by side, so who is told of a branch hears who belongs before
    where it is.
    """
    data = hashlib.blake2s(subject, digest_size=KEY_BYTES - 1).digest()
    return int.from_bytes(data, "big") << 8 | kind


def subject_of(raw: bytes) -> bytes:
    """Whom it is about; nobody, where it is about the network. Any bytes will do."""
    return b"" if raw[:1] == _NETWORK else raw[18:50]


_NETWORK: Final = bytes((Kind.NETWORK,))


@lru_cache(maxsize=DECODED)
def _decoded(raw: bytes) -> Record:
    return records.decode(raw, checked=True)


class Entry:
    """`raw`: a record that was decoded before, so it is one. `key`: where it stands."""

    __slots__ = ("_digest", "key", "raw")

    def __init__(self, raw: bytes, key: int) -> None:
        self.raw, self.key = raw, key
        self._digest: int | None = None

    @property
    def digest(self) -> int:
        if self._digest is None:
            found = hashlib.blake2s(self.raw, digest_size=8).digest()
            self._digest = int.from_bytes(found, "big")
        return self._digest

    @property
    def record(self) -> Record:
        return _decoded(self.raw)

    # of every kind

    @property
    def kind(self) -> Kind:
        return Kind(self.raw[0])

    @property
    def subject(self) -> bytes:
        return subject_of(self.raw)

    @property
    def version(self) -> int:
        layout, at = _VERSION_AT[self.raw[0]]
        return int(layout.unpack_from(self.raw, at)[0])

    @property
    def is_revocation(self) -> bool:
        """It takes something away from somebody: a member's place, or an admin's."""
        at = _STATUS_AT.get(self.raw[0])
        return at is not None and self.raw[at] == _REVOKED

    # of a member's record

    @property
    def issuer(self) -> bytes:
        return self.raw[50:82]

    @property
    def may_anchor(self) -> bool:
        return bool(self.raw[87])

    @property
    def address(self) -> bytes:
        """Four bytes, zeros: none."""
        return self.raw[88:92]

    @property
    def name(self) -> bytes:
        return self.raw[94 : 94 + self.raw[92]]

    @property
    def has_routes(self) -> bool:
        return bool(self.raw[93])

    # of an endpoint record

    @property
    def acts_as_anchor(self) -> bool:
        """It acts as an anchor, and says where."""
        return bool(self.raw[58]) and self.has_places

    @property
    def has_places(self) -> bool:
        return bool(self.raw[59])


def entry_of(raw: bytes) -> Entry:
    """Of bytes that `records.decode` took."""
    return Entry(raw, key_of(raw[0], subject_of(raw)))
