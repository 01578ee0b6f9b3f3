"""Every record that a member keeps, and the hash tree over them (docs/mesh.md section 5).

16 branches a level, three levels of digests, then leaves. A digest is the exclusive or of those of
the records below it, so a change costs four operations and no order of arrival matters. Who could
make two sets of records with one digest could only hide records that it signed itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from typing import Final

from whalescale.protocol.mesh.records import (
    AdminRecord,
    EndpointRecord,
    Kind,
    MemberRecord,
    NetworkRecord,
    Record,
    subject_of,
    version_of,
)

KEY_BYTES: Final = 8
#: levels of the tree above the leaves
DEPTH: Final = 3
BRANCHES: Final = 16


def key_of(kind: Kind, subject: bytes) -> int:
    """Where a record stands in the tree: 56 bits of its subject, spread evenly, then its kind.

    What is about one node stands side by side, so who is told of a branch hears who belongs before
    where it is.
    """
    data = hashlib.blake2s(subject, digest_size=KEY_BYTES - 1).digest()
    return int.from_bytes(data, "big") << 8 | kind


def key_of_bytes(raw: bytes) -> int:
    """Of a record that is about a node, as it stands; of anything else nobody's."""
    data = hashlib.blake2s(raw[18:50], digest_size=KEY_BYTES - 1).digest()
    return int.from_bytes(data, "big") << 8 | (raw[0] if raw else 0)


@dataclass(frozen=True, slots=True)
class Entry:
    """A record as it came, and what is computed of it once."""

    raw: bytes
    record: Record
    key: int
    digest: int

    @property
    def version(self) -> int:
        return version_of(self.record)


def entry_of(raw: bytes, record: Record) -> Entry:
    digest = hashlib.blake2s(raw, digest_size=8).digest()
    return Entry(
        raw, record, key_of(record.kind, subject_of(record)), int.from_bytes(digest, "big")
    )


def prefix_of(key: int, level: int) -> int:
    """The branch of that level (0: the root) that a key is below."""
    return key >> (64 - 4 * level)


class Table:
    """Records by kind and subject. Mappings may be given, so that many tables share a beginning."""

    __slots__ = ("_buckets", "_digests", "_items", "changes", "count")

    def __init__(
        self,
        items: MutableMapping[int, Entry] | None = None,
        digests: MutableMapping[tuple[int, int], int] | None = None,
        buckets: MutableMapping[int, tuple[int, ...]] | None = None,
        count: int = 0,
    ) -> None:
        self._items = {} if items is None else items
        self._digests = {} if digests is None else digests
        self._buckets = {} if buckets is None else buckets
        #: of records
        self.count = count
        #: grows with every change, for who keeps what it computed
        self.changes = 0

    def get(self, key: int) -> Entry | None:
        return self._items.get(key)

    def known(self, raw: bytes) -> Entry | None:
        """The entry of these very bytes, without reading them all."""
        if raw[:1] == _NETWORK_KIND:
            found = self._items.get(_NETWORK_KEY)
        else:
            found = self._items.get(key_of_bytes(raw))
        return found if found is not None and found.raw == raw else None

    def put(self, entry: Entry) -> None:
        """In place of what stands at its key."""
        old = self._items.get(entry.key)
        if old is None:
            bucket = prefix_of(entry.key, DEPTH)
            self._buckets[bucket] = (*self._buckets.get(bucket, ()), entry.key)
            self.count += 1
            self._mix(entry.key, entry.digest)
        else:
            self._mix(entry.key, old.digest ^ entry.digest)
        self._items[entry.key] = entry
        self.changes += 1

    def remove(self, key: int) -> None:
        """KeyError: nothing is there."""
        old = self._items.pop(key)
        bucket = prefix_of(key, DEPTH)
        left = tuple(k for k in self._buckets[bucket] if k != key)
        if left:
            self._buckets[bucket] = left
        else:
            del self._buckets[bucket]
        self.count -= 1
        self._mix(key, old.digest)
        self.changes += 1

    def _mix(self, key: int, digest: int) -> None:
        for level in range(DEPTH + 1):
            at = (level, prefix_of(key, level))
            left = self._digests.get(at, 0) ^ digest
            if left:
                self._digests[at] = left
            else:
                self._digests.pop(at, None)

    # the tree

    @property
    def root(self) -> int:
        return self._digests.get((0, 0), 0)

    def children(self, level: int, prefix: int) -> tuple[int, ...]:
        """64-bit digests of the 16 branches below one of `level` < DEPTH."""
        first = prefix << 4
        return tuple(self._digests.get((level + 1, first + i), 0) for i in range(BRANCHES))

    def leaves(self, level: int, prefix: int) -> Iterator[Entry]:
        """All records below a branch, in the order of their keys' buckets."""
        width = 4 * (DEPTH - level)
        for bucket in range(prefix << width, (prefix + 1) << width):
            for key in self._buckets.get(bucket, ()):
                yield self._items[key]

    # by meaning

    def entries(self) -> Iterator[Entry]:
        return iter(self._items.values())

    def network(self) -> NetworkRecord | None:
        found = self._items.get(_NETWORK_KEY)
        return found.record if found and isinstance(found.record, NetworkRecord) else None

    def admin(self, node_id: bytes) -> AdminRecord | None:
        found = self._items.get(key_of(Kind.ADMIN, node_id))
        return found.record if found and isinstance(found.record, AdminRecord) else None

    def member(self, node_id: bytes) -> MemberRecord | None:
        found = self._items.get(key_of(Kind.MEMBER, node_id))
        return found.record if found and isinstance(found.record, MemberRecord) else None

    def endpoints(self, node_id: bytes) -> EndpointRecord | None:
        found = self._items.get(key_of(Kind.ENDPOINTS, node_id))
        return found.record if found and isinstance(found.record, EndpointRecord) else None

    def members(self) -> Iterator[MemberRecord]:
        """Those revoked too."""
        for entry in self._items.values():
            if isinstance(entry.record, MemberRecord):
                yield entry.record


_NETWORK_KEY: Final = key_of(Kind.NETWORK, b"")
_NETWORK_KIND: Final = bytes((Kind.NETWORK,))
