"""Who belongs to a network: which record of two holds, and who may sign (docs/mesh.md section 3).

Every rule is a function of the records alone, never of their order or of a clock, so members that
know the same records agree. A record that another one outranks is gone for good.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from whalescale.protocol.mesh import records
from whalescale.protocol.mesh.entry import Entry, entry_of, key_of
from whalescale.protocol.mesh.records import (
    ROOT,
    AdminRecord,
    Kind,
    MemberRecord,
    NetworkRecord,
    Record,
    RecordError,
    Status,
    Verify,
)
from whalescale.protocol.mesh.table import Table

#: members of one network, revoked ones too: 20 MB of records
MEMBERS_MAX: Final = 32_768
ADMINS_MAX: Final = 64
#: records whose issuer is not known (yet) that wait for it
WAITING_MAX: Final = 64


class Outcome(Enum):
    TAKEN = "taken"
    KNOWN = "known"  # these bytes are here
    OLDER = "older"  # what is here outranks it
    WAITING = "waiting"  # its issuer is not known to be one, or its member is not known


@dataclass(slots=True)
class Merged:
    """What became of a record, and of others by it."""

    outcome: Outcome
    #: what is here now under its key; None: nothing
    entry: Entry | None = None
    #: new here, in the order in which others should hear of it
    put: list[Entry] = field(default_factory=list)
    #: keys of records that hold no longer
    removed: list[int] = field(default_factory=list)
    #: whose membership may be another now
    changed: set[bytes] = field(default_factory=set)


def rank_member(record: MemberRecord, raw: bytes) -> tuple[bool, int, bool, bytes]:
    """Greater outranks. Revoked is final; then the generation; the network key wins a tie."""
    return (
        record.status is Status.REVOKED,
        record.generation,
        record.issuer == ROOT,
        raw,
    )


def rank_admin(record: AdminRecord, raw: bytes) -> tuple[int, bool, bytes]:
    return (record.generation, record.status is Status.REVOKED, raw)


def outranks(new: Record, new_raw: bytes, old: Record, old_raw: bytes) -> bool:
    """Of two records of one kind and subject."""
    if isinstance(new, MemberRecord) and isinstance(old, MemberRecord):
        return rank_member(new, new_raw) > rank_member(old, old_raw)
    if isinstance(new, AdminRecord) and isinstance(old, AdminRecord):
        return rank_admin(new, new_raw) > rank_admin(old, old_raw)
    return (records.version_of(new), new_raw) > (records.version_of(old), old_raw)


class Membership:
    """The rules over the network, admin and member records of a table."""

    __slots__ = ("_disputed", "_table", "_verify", "_waiting", "network_id")

    def __init__(self, network_id: bytes, table: Table, verify: Verify = records.verify) -> None:
        self.network_id = network_id
        self._table = table
        self._verify = verify
        self._waiting: dict[bytes, MemberRecord] = {}
        #: of which state of the records, and who has which address that was given twice
        self._disputed: tuple[int, dict[bytes, bytes]] = (-1, {})

    # what is known

    @property
    def network(self) -> NetworkRecord | None:
        return self._table.network()

    def is_admin(self, node_id: bytes) -> bool:
        record = self._table.admin(node_id)
        return record is not None and record.status is Status.ACTIVE

    def admin_generation(self, node_id: bytes) -> int:
        """Of what is known of its being an admin; 0: nothing."""
        record = self._table.admin(node_id)
        return record.generation if record is not None else 0

    def issued_by(self, issuer: bytes) -> list[MemberRecord]:
        """What it signed and still holds, revocations first."""
        found = _read(e for e in self._table.members() if e.issuer == issuer)
        return sorted(found, key=lambda r: (r.status is not Status.REVOKED, r.node_id))

    def may_issue(self, issuer: bytes) -> bool:
        """Whether it may sign member records."""
        return issuer == ROOT or self.is_admin(issuer)

    def active(self, node_id: bytes) -> MemberRecord | None:
        """The member's record; None: it does not belong, or no more."""
        return self._table.member(node_id) if self.is_active(node_id) else None

    def is_active(self, node_id: bytes) -> bool:
        """It belongs."""
        entry = self._table.of(Kind.MEMBER, node_id)
        return entry is not None and not entry.is_revocation

    def is_revoked(self, node_id: bytes) -> bool:
        entry = self._table.of(Kind.MEMBER, node_id)
        return entry is not None and entry.is_revocation

    def members(self) -> Iterator[Entry]:
        """The records of all who belong."""
        return (e for e in self._table.members() if not e.is_revocation)

    def actives(self) -> list[MemberRecord]:
        """The same, decoded: megabytes, where there are thousands."""
        return _read(self.members())

    def named(self, name: str) -> MemberRecord | None:
        """Where two admins gave one name, the lower node ID has it."""
        wanted = name.encode()
        found = _read(e for e in self.members() if e.name == wanted)
        return min(found, key=lambda r: r.node_id, default=None)

    def address_of(self, record: MemberRecord) -> IPv4Address | None:
        """The member's IPv4 address inside, unless it is none of the network's or another has it:
        where two admins gave one twice, the lower node ID does."""
        network, address = self.network, record.address
        prefix = network.prefix if network else None
        if address is None or prefix is None or address not in prefix:
            return None
        holder = self._holders_of_disputed().get(address.packed, record.node_id)
        return address if holder == record.node_id else None

    def _holders_of_disputed(self) -> dict[bytes, bytes]:
        """Asked for thousands of members in turn; made once for each state of the records."""
        if self._disputed[0] != self._table.changes:
            given = Counter(e.address for e in self.members() if any(e.address))
            twice = {a for a, count in given.items() if count > 1}
            found: dict[bytes, bytes] = {}
            for e in self.members() if twice else ():
                if e.address in twice:
                    found[e.address] = min(e.subject, found.get(e.address, e.subject))
            self._disputed = self._table.changes, found
        return self._disputed[1]

    def free_address(self) -> IPv4Address | None:
        """One that no member has or had. None: the network has no IPv4, or none is left."""
        network = self.network
        if network is None or network.prefix is None:
            return None
        return _first_free(network.prefix, {e.address for e in self._table.members()})

    def next_generation(self, node_id: bytes) -> int:
        """Of a member record that shall outrank what is known of the node. At the last one a
        revocation still does, and the network key's word."""
        record = self._table.member(node_id)
        return records.next_generation(record.generation) if record else 1

    # merging

    def merge(self, raw: bytes, record: Record, *, checked: bool = False) -> Merged:
        """A record of kind NETWORK, ADMIN or MEMBER. `checked`: its signature was, before.

        RecordError: another network's (record_network), forged (record_signature), or more than
        there is room for (record_room).
        """
        if record.network != self.network_id:
            raise RecordError("record_network")
        entry = entry_of(raw)
        old = self._table.get(entry.key)
        if old is not None and old.raw == raw:
            return Merged(Outcome.KNOWN, old)
        if old is not None and not outranks(record, raw, old.record, old.raw):
            return Merged(Outcome.OLDER, old)
        network = self.network
        signer = records.signer_of(record, network.key if network else None)
        if signer is None:
            return Merged(Outcome.WAITING)  # the network record comes before all others
        if isinstance(record, MemberRecord) and not self.may_issue(record.issuer):
            self._wait(raw, record)
            return Merged(Outcome.WAITING)
        if not checked and not records.is_signed(raw, signer, self._verify):
            raise RecordError("record_signature")
        if old is None:
            self._make_room(record)
        merged = Merged(Outcome.TAKEN, entry, [entry])
        self._table.put(entry)
        if isinstance(record, AdminRecord):
            self._admin_changed(record, merged)
        elif isinstance(record, MemberRecord):
            merged.changed.add(record.node_id)
        else:
            merged.changed.update(e.subject for e in self._table.members())
            self._retry(merged)
        return merged

    def _make_room(self, record: Record) -> None:
        if isinstance(record, AdminRecord):
            if sum(e.kind is Kind.ADMIN for e in self._table.entries()) >= ADMINS_MAX:
                raise RecordError("record_room")
        elif self._table.count >= 2 * MEMBERS_MAX + ADMINS_MAX:
            raise RecordError("record_room")

    def _wait(self, raw: bytes, record: MemberRecord) -> None:
        self._waiting.pop(raw, None)
        self._waiting[raw] = record
        while len(self._waiting) > WAITING_MAX:
            del self._waiting[next(iter(self._waiting))]

    def _admin_changed(self, record: AdminRecord, merged: Merged) -> None:
        """What an admin that is none any more has signed holds no longer."""
        if record.status is Status.ACTIVE:
            self._retry(merged)
            return
        for entry in [e for e in self._table.members() if e.issuer == record.node_id]:
            self._table.remove(entry.key)
            merged.removed.append(entry.key)
            merged.changed.add(entry.subject)

    def _retry(self, merged: Merged) -> None:
        """Those that waited for this issuer."""
        waiting, self._waiting = self._waiting, {}
        for raw, record in waiting.items():
            try:
                more = self.merge(raw, record)
            except RecordError:
                continue
            merged.put += more.put
            merged.changed |= more.changed


def _read(entries: Iterable[Entry]) -> list[MemberRecord]:
    """Of member records. Past the cache of what stays decoded: there may be thousands."""
    found = (records.decode(entry.raw, checked=True) for entry in entries)
    return [record for record in found if isinstance(record, MemberRecord)]


def _first_free(prefix: IPv4Network, given: Container[bytes]) -> IPv4Address | None:
    """Without the network's own address and the broadcast address."""
    first = int(prefix.network_address) + 1
    for value in range(first, first + prefix.num_addresses - 2):
        if value.to_bytes(4, "big") not in given:
            return IPv4Address(value)
    return None


def member_key(node_id: bytes) -> int:
    """Where a member's record stands in the table."""
    return key_of(Kind.MEMBER, node_id)
