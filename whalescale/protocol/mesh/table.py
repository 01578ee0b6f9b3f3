"""Every record that a member keeps, and the hash tree over them (docs/mesh.md section 5).

16 branches a level, three levels of digests, then leaves. A digest is the exclusive or of those of
the records below it, so a change costs four operations and no order of arrival matters. Who could
make two sets of records with one digest could only hide records that it signed itself.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Final

from whalescale.protocol.mesh.entry import Entry, key_of, subject_of
from whalescale.protocol.mesh.records import (
    AdminRecord,
    EndpointRecord,
    Kind,
    MemberRecord,
    NetworkRecord,
)

#: levels of the tree above the leaves
DEPTH: Final = 3
BRANCHES: Final = 16

_MEMBER: Final = int(Kind.MEMBER)


def prefix_of(key: int, level: int) -> int:
    """The branch of that level (0: the root) that a key is below."""
    return key >> (64 - 4 * level)


def _branch(level: int, prefix: int) -> int:
    """One number for each branch of each level."""
    return 1 << 4 * level | prefix


class Table:
    """Records by kind and subject. Mappings may be given, so that many tables share a beginning."""

    __slots__ = ("_buckets", "_digests", "_items", "changes", "count")

    def __init__(
        self,
        items: MutableMapping[int, bytes] | None = None,
        digests: MutableMapping[int, int] | None = None,
        buckets: MutableMapping[int, tuple[int, ...]] | None = None,
        count: int = 0,
    ) -> None:
        self._items = {} if items is None else items
        #: by _branch
        self._digests = {} if digests is None else digests
        self._buckets = {} if buckets is None else buckets
        #: of records
        self.count = count
        #: grows with every change, for who keeps what it computed
        self.changes = 0

    def get(self, key: int) -> Entry | None:
        raw = self._items.get(key)
        return None if raw is None else Entry(raw, key)

    def of(self, kind: Kind, subject: bytes) -> Entry | None:
        return self.get(key_of(kind, subject))

    def known(self, raw: bytes) -> Entry | None:
        """The entry of these very bytes, without reading them all."""
        found = self.get(key_of(raw[0] if raw else 0, subject_of(raw)))
        return found if found is not None and found.raw == raw else None

    def put(self, entry: Entry) -> None:
        """In place of what stands at its key."""
        key = entry.key
        old = self.get(key)
        if old is None:
            bucket = prefix_of(key, DEPTH)
            self._buckets[bucket] = (*self._buckets.get(bucket, ()), key)
            self.count += 1
            self._mix(key, entry.digest)
        else:
            self._mix(key, old.digest ^ entry.digest)
        self._items[key] = entry.raw
        self.changes += 1

    def remove(self, key: int) -> None:
        """KeyError: nothing is there."""
        old = Entry(self._items.pop(key), key)
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
            at = _branch(level, prefix_of(key, level))
            left = self._digests.get(at, 0) ^ digest
            if left:
                self._digests[at] = left
            else:
                self._digests.pop(at, None)

    # the tree

    @property
    def root(self) -> int:
        return self._digests.get(_branch(0, 0), 0)

    def children(self, level: int, prefix: int) -> tuple[int, ...]:
        """64-bit digests of the 16 branches below one of `level` < DEPTH."""
        first = _branch(level + 1, prefix << 4)
        return tuple(self._digests.get(first + i, 0) for i in range(BRANCHES))

    def leaves(self, level: int, prefix: int) -> Iterator[Entry]:
        """All records below a branch, in the order of their keys' buckets."""
        width = 4 * (DEPTH - level)
        for bucket in range(prefix << width, (prefix + 1) << width):
            for key in self._buckets.get(bucket, ()):
                yield Entry(self._items[key], key)

    # by meaning

    def entries(self) -> Iterator[Entry]:
        return (Entry(raw, key) for key, raw in self._items.items())

    def members(self) -> Iterator[Entry]:
        """Of the members' records, revoked ones too."""
        return (Entry(raw, key) for key, raw in self._items.items() if raw[0] == _MEMBER)

    def network(self) -> NetworkRecord | None:
        record = entry.record if (entry := self.of(Kind.NETWORK, b"")) else None
        return record if isinstance(record, NetworkRecord) else None

    def admin(self, node_id: bytes) -> AdminRecord | None:
        record = entry.record if (entry := self.of(Kind.ADMIN, node_id)) else None
        return record if isinstance(record, AdminRecord) else None

    def member(self, node_id: bytes) -> MemberRecord | None:
        record = entry.record if (entry := self.of(Kind.MEMBER, node_id)) else None
        return record if isinstance(record, MemberRecord) else None

    def endpoints(self, node_id: bytes) -> EndpointRecord | None:
        record = entry.record if (entry := self.of(Kind.ENDPOINTS, node_id)) else None
        return record if isinstance(record, EndpointRecord) else None
