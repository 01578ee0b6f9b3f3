"""Where members are: what they say of themselves, and what others saw (docs/mesh.md section 4).

A member's own word wins always, and of two of its words the one with the higher seq. What others
saw is a hint for dialling, kept for a while, not part of what members agree on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from whalescale.protocol.candidates import on_link, parse
from whalescale.protocol.limits import NS_PER_S
from whalescale.protocol.mesh import records
from whalescale.protocol.mesh.entry import entry_of, key_of
from whalescale.protocol.mesh.membership import Membership, Merged, Outcome, outranks
from whalescale.protocol.mesh.records import (
    ENDPOINTS_MAX,
    EndpointRecord,
    Kind,
    ObservedRecord,
    Place,
    RecordError,
    Verify,
)
from whalescale.protocol.mesh.table import Table
from whalescale.protocol.places import Endpoint, LocalLink

#: of our own words; there is none above it
SEQ_MAX: Final = (1 << 63) - 1
#: of one member, by others
HINTS_MAX: Final = 2
HINT_AGE: Final = 600 * NS_PER_S
#: places where we met one member
MET_MAX: Final = 6
#: what a member's seq may be above what we know of ours before we think of a clone and not of a
#: restored disk: two agents of one key outdo each other without end
CLONE_JUMPS: Final = 3


class How(IntEnum):
    """How we know a place of a member."""

    DIALLED = 1  # we reached it there
    SEEN = 2  # it came from there: a NAT's port, perhaps
    TOLD = 3
    NEAR = 4  # it says so on a link of ours


@dataclass(frozen=True, slots=True)
class Met:
    """A place where a member was. `when`: ns of CLOCK_BOOTTIME, 0: before this start."""

    endpoint: Endpoint
    how: How
    when: int


@dataclass(frozen=True, slots=True)
class _Hint:
    author: bytes
    seq: int
    place: Place
    until: int


class Directory:
    """The endpoint records of a table, hints, and where we met whom. Times are ns."""

    __slots__ = (
        "_hints",
        "_jumps",
        "_links",
        "_membership",
        "_met",
        "_near",
        "_node_id",
        "_public",
        "_table",
        "_verify",
        "outdone",
        "seq",
    )

    def __init__(
        self,
        node_id: bytes,
        table: Table,
        membership: Membership,
        verify: Verify = records.verify,
        seq: int = 0,
    ) -> None:
        """`node_id`: ours; `seq`: the last that we signed."""
        self._node_id = node_id
        self._table = table
        self._membership = membership
        self._verify = verify
        self.seq = seq
        self._hints: dict[bytes, list[_Hint]] = {}
        self._met: dict[bytes, list[Met]] = {}
        #: words of our own key above ours. A disk that was put back hears of one or two after
        #: its start, a clone of ours goes on, be it by turns with days between.
        self._jumps = 0
        #: what stands of our places is such a word
        self.outdone = False
        #: who is on a link of ours, and where (lan.py)
        self._near: dict[bytes, tuple[Endpoint, ...]] = {}
        self._links: tuple[LocalLink, ...] = ()
        self._public: Callable[[], Collection[str]] = tuple

    # merging

    def merge(
        self,
        raw: bytes,
        record: EndpointRecord | ObservedRecord,
        now: int,
        *,
        checked: bool = False,
    ) -> Merged:
        """RecordError: another network's (record_network) or forged (record_signature).
        `checked`: its signature was, before.

        A record of ours above our seq, which another disk of ours must have signed, raises `seq`:
        sign above it.
        """
        if record.network != self._membership.network_id:
            raise RecordError("record_network")
        if not self._membership.is_active(record.node_id):
            return Merged(Outcome.WAITING)
        if isinstance(record, ObservedRecord):
            return self._merge_hint(raw, record, now)
        entry = entry_of(raw)
        old = self._table.get(entry.key)
        if old is not None and old.raw == raw:
            return Merged(Outcome.KNOWN, old)
        if old is not None and not outranks(record, raw, old.record, old.raw):
            return Merged(Outcome.OLDER, old)
        if not checked and not records.is_signed(raw, record.node_id, self._verify):
            raise RecordError("record_signature")
        if record.node_id == self._node_id:
            before, self.seq = self.seq, max(self.seq, record.seq)
            # One is kept from before: another word of that seq is another agent's.
            self.outdone = record.seq > before or old is not None
            self._jumps += self.outdone
        self._table.put(entry)
        return Merged(Outcome.TAKEN, entry, [entry], [], {record.node_id})

    @property
    def is_cloned(self) -> bool:
        """Another agent signs with our key, again and again, or used up all that can be said."""
        return self.seq >= SEQ_MAX or self._jumps > CLONE_JUMPS

    def _merge_hint(self, raw: bytes, record: ObservedRecord, now: int) -> Merged:
        if not self._membership.is_active(record.author):
            return Merged(Outcome.WAITING)
        hints = [h for h in self._hints.get(record.node_id, ()) if h.until > now]
        old = next((h for h in hints if h.author == record.author), None)
        if old is not None and old.seq >= record.seq:
            return Merged(Outcome.KNOWN if old.seq == record.seq else Outcome.OLDER)
        if not records.is_signed(raw, record.author, self._verify):
            raise RecordError("record_signature")
        hints = [h for h in hints if h is not old]
        hints.append(_Hint(record.author, record.seq, record.place, now + HINT_AGE))
        self._hints[record.node_id] = hints[-HINTS_MAX:]
        return Merged(Outcome.TAKEN, entry_of(raw), [], [], {record.node_id})

    # our own

    def attest(
        self, places: Iterable[Place], anchor: bool, proved: bool, seed: bytes | bytearray
    ) -> bytes | None:
        """Our record, one seq on, if it says anything new or another disk of ours signed the last.

        None: what stands says it.
        """
        chosen = tuple(dict.fromkeys(places))[:ENDPOINTS_MAX]
        standing = self._table.endpoints(self._node_id)
        if (
            standing is not None
            and (standing.places, standing.anchor, standing.proved) == (chosen, anchor, proved)
            and standing.seq == self.seq
        ):
            return None
        if self.seq >= SEQ_MAX:
            return None  # a clone of our key said the last word; only another key helps
        self.seq = max(self.seq, standing.seq if standing else 0) + 1
        record = EndpointRecord(
            self._membership.network_id, self._node_id, self.seq, chosen, anchor, proved
        )
        raw = records.encode(record, seed)
        self._table.put(entry_of(raw))
        self.outdone = False
        return raw

    # where somebody may be

    def met(self, node_id: bytes, endpoint: Endpoint, how: How, now: int) -> None:
        """We reached the member there (DIALLED), or it came from there (SEEN)."""
        known = [m for m in self._met.get(node_id, ()) if m.endpoint != endpoint]
        before = [m.how for m in self._met.get(node_id, ()) if m.endpoint == endpoint]
        known.append(Met(endpoint, min([how, *before]), now))
        if len(known) > MET_MAX:
            # What we reached is worth more than a port that a NAT has forgotten since.
            known.remove(max(known, key=lambda m: (m.how, -m.when)))
        self._met[node_id] = known

    def forget(self, node_id: bytes) -> int | None:
        """The node belongs no longer: its places go. Returns the key of its record that went."""
        self._met.pop(node_id, None)
        self._hints.pop(node_id, None)
        self._near.pop(node_id, None)
        key = key_of(Kind.ENDPOINTS, node_id)
        if self._table.get(key) is None:
            return None
        self._table.remove(key)
        return key

    def met_places(self, node_id: bytes) -> tuple[Met, ...]:
        """Where we met the member, latest last."""
        return tuple(self._met.get(node_id, ()))

    def all_met(self) -> Iterator[tuple[bytes, list[Met]]]:
        """By node ID."""
        return iter(self._met.items())

    def is_dialable(self, node_id: bytes) -> bool:
        """Whether any place of it is known that it told or that we met it at."""
        if node_id in self._near or self._met.get(node_id):
            return True
        told = self._table.of(Kind.ENDPOINTS, node_id)
        return told is not None and told.has_places

    # where we are

    def set_here(self, links: Iterable[LocalLink], public: Callable[[], Collection[str]]) -> None:
        """Our links, and at which addresses others see us."""
        self._links, self._public = tuple(links), public

    def set_near(self, near: Mapping[bytes, tuple[Endpoint, ...]]) -> set[bytes]:
        """Members that are on a link of ours, all of them. Returns whose places are others now."""
        known = {n: p for n, p in near.items() if self._membership.is_active(n)}
        nodes = known.keys() | self._near.keys()
        changed = {n for n in nodes if known.get(n) != self._near.get(n)}
        self._near = known
        return changed

    @property
    def near(self) -> Collection[bytes]:
        return self._near.keys()

    def _is_close(self, endpoint: Endpoint) -> bool:
        """Of one of our own subnets."""
        return any(on_link(n.ip, n.prefix_length, endpoint.ip) for n in self._links)

    def _told(self, node_id: bytes, hints: Iterable[Endpoint]) -> list[Endpoint]:
        """Its own word. First what is in a subnet of ours, and its private places where its router
        is ours too: the way there needs no router, or none that sends back what comes from
        inside."""
        record = self._table.endpoints(node_id)
        if record is None:
            return []
        told = [p.endpoint for p in record.places]
        public = self._public()
        same = any(e.ip in public for e in (*told, *hints))
        close = {e for e in told if self._is_close(e) or (same and _is_private(e.ip))}
        return sorted(told, key=lambda e: e not in close)

    def places(self, node_id: bytes, now: int) -> list[tuple[Endpoint, How]]:
        """Where to dial, best first: on our link, reached, its own word, seen, others' word."""
        met = sorted(self._met.get(node_id, ()), key=lambda m: -m.when)
        hints = [h.place.endpoint for h in self._hints.get(node_id, ()) if h.until > now]
        told = self._told(node_id, hints)
        found: dict[Endpoint, How] = {}
        # The list that it signed replaces the last one whole: what it named and names no more is
        # a place that it left. A place that only we know is not one of those.
        for endpoint, how in (
            *((e, How.NEAR) for e in self._near.get(node_id, ())),
            *((m.endpoint, m.how) for m in met if m.how is How.DIALLED),
            *((e, How.TOLD) for e in told),
            *((m.endpoint, m.how) for m in met if m.how is How.SEEN),
            *((e, How.TOLD) for e in hints),
        ):
            found.setdefault(endpoint, how)
        return list(found.items())


def _is_private(ip: str) -> bool:
    address = parse(ip)
    return address is not None and address.is_private
