"""Many members of one network in virtual time: frames with delay, loss and partitions, no sockets.

Members share the records that all begin with (`Overlay`), so ten thousand of them fit into memory;
signatures are checked once each (`Checker`), as all check the same bytes.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any, Generic, TypeVar, cast

from whalescale.identity import Identity
from whalescale.protocol.mesh import network, records
from whalescale.protocol.mesh.entry import entry_of
from whalescale.protocol.mesh.network import DialPlace, Mesh, MeshSettings, SendFrame
from whalescale.protocol.mesh.records import (
    AdminRecord,
    EndpointRecord,
    MemberRecord,
    NetworkRecord,
    Place,
    Record,
    Status,
)
from whalescale.protocol.mesh.table import Table
from whalescale.protocol.places import Endpoint

K = TypeVar("K")
V = TypeVar("V")

S = 1_000_000_000
MS = 1_000_000
START = 1_000 * S
ROOT_SEED = b"R" * 32


class Overlay(MutableMapping[K, V], Generic[K, V]):
    """A mapping over a shared one that is never written."""

    _GONE, _UNTOUCHED = object(), object()

    def __init__(self, base: dict[K, V]) -> None:
        self.base = base
        #: what was written, or _GONE
        self.own: dict[K, Any] = {}

    def __getitem__(self, key: K) -> V:
        found = self.own.get(key, self._UNTOUCHED)
        if found is self._UNTOUCHED:
            return self.base[key]
        if found is self._GONE:
            raise KeyError(key)
        return cast(V, found)

    def get(self, key: K, default: Any = None) -> Any:
        found = self.own.get(key, self._UNTOUCHED)
        if found is self._UNTOUCHED:
            return self.base.get(key, default)
        return default if found is self._GONE else found

    def __setitem__(self, key: K, value: V) -> None:
        self.own[key] = value

    def __delitem__(self, key: K) -> None:
        self[key]
        self.own[key] = self._GONE

    def __iter__(self) -> Iterator[K]:
        yield from (k for k in self.base if self.own.get(k) is not self._GONE)
        yield from (k for k, v in self.own.items() if k not in self.base and v is not self._GONE)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class Checker:
    """Verifies each signature once."""

    def __init__(self) -> None:
        self.seen: dict[tuple[bytes, bytes, bytes, bytes], bool] = {}

    def __call__(self, key: bytes, label: bytes, data: bytes, signature: bytes) -> bool:
        what = (key, label, data, signature)
        if what not in self.seen:
            self.seen[what] = records.verify(*what)
        return self.seen[what]


def share_records() -> None:
    """From now on equal bytes are read once in this process, and all members keep one record of
    them: a change in a network of ten thousand was ten thousand records of 1.5 kB."""
    decoded: dict[bytes, Record] = {}
    decode = records.decode

    def decode_once(raw: bytes, *, checked: bool = False) -> Record:
        found = decoded.get(raw)
        if found is None:
            found = decoded[raw] = decode(raw, checked=checked)
        return found

    records.decode = decode_once


def seed_of(number: int) -> bytes:
    return number.to_bytes(4, "big") * 8


def place_of(number: int, move: int = 0) -> Place:
    host = 0x0B000000 + number
    return Place(Endpoint(str(IPv4Address(host)), 20_000 + move))


@dataclass
class Base:
    """What every member knows at the start."""

    identities: list[Identity]
    network_id: bytes
    raws: list[bytes]
    table: Table
    items: dict[int, bytes]
    digests: dict[int, int]
    buckets: dict[int, tuple[int, ...]]


def make_base(count: int, admins: int = 1, *, places: bool = True) -> Base:
    """A network of `count` members; the first `admins` of them are admins."""
    root = Identity(ROOT_SEED)
    net = records.network_id(root.node_id)
    identities = [Identity(seed_of(n + 1)) for n in range(count)]
    prefix = IPv4Network("10.64.0.0/16")
    raws = [records.encode(NetworkRecord(net, root.node_id, 1, "hearth", prefix), ROOT_SEED)]
    for i in identities[:admins]:
        raws.append(records.encode(AdminRecord(net, i.node_id, 1, Status.ACTIVE), ROOT_SEED))
    first = identities[0]
    for n, i in enumerate(identities):
        address = IPv4Address(int(prefix.network_address) + n + 1)
        member = MemberRecord(
            net, i.node_id, first.node_id, 1, Status.ACTIVE, f"m{n}", True, address
        )
        raws.append(records.encode(member, first.seed))
        if places:
            where = EndpointRecord(net, i.node_id, 1, (place_of(n),))
            raws.append(records.encode(where, i.seed))
    items: dict[int, bytes] = {}
    digests: dict[int, int] = {}
    buckets: dict[int, tuple[int, ...]] = {}
    table = Table(items, digests, buckets)
    for raw in raws:
        table.put(entry_of(raw))
    return Base(identities, net, raws, table, items, digests, buckets)


class Member:
    """A mesh, its timer, and what it sent."""

    def __init__(self, number: int, mesh: Mesh) -> None:
        self.number, self.mesh = number, mesh
        self.due: int | None = None
        self.bytes = self.frames = 0
        self.events: list[network.MeshEvent] = []


class World:
    """Members with sessions between some of them. `delay`: one way, ns."""

    def __init__(
        self,
        base: Base,
        *,
        seed: int = 1,
        loss: float = 0.0,
        delay: Callable[[random.Random], int] = lambda r: r.randrange(5 * MS, 40 * MS),
        settings: MeshSettings | None = None,
        keep_events: bool = False,
    ) -> None:
        self.base, self.loss, self.delay = base, loss, delay
        self.random = random.Random(seed)  # noqa: S311
        self.checker = Checker()
        self.now = START
        self.keep_events = keep_events
        #: a group for each member: frames cross no border
        self.group = [0] * len(base.identities)
        #: what each member's clock is ahead of ours, ns
        self.skew = [0] * len(base.identities)
        self._queue: list[tuple[int, int, int, bytes | None, bytes]] = []
        self._calls: dict[int, Callable[[], None]] = {}
        #: (member, node ID of another): which member has that ID there; the one of its number
        self.twins: dict[tuple[int, bytes], int] = {}
        #: what a member's router lets in: "open", "address" (whose address it sent to), "port"
        self.filters: dict[int, str] = {}
        #: (who dialled, where, whether it got in)
        self.dialled: list[tuple[int, Endpoint, bool]] = []
        self._count = 0
        self.numbers = {i.node_id: n for n, i in enumerate(base.identities)}
        self.settings = settings or MeshSettings(neighbours=0)
        self.members = [self._make(n) for n in range(len(base.identities))]
        for member in self.members:
            self.drain(member)

    def _make(self, number: int) -> Member:
        base = self.base
        table = Table(
            Overlay(base.items), Overlay(base.digests), Overlay(base.buckets), base.table.count
        )
        return Member(number, self._mesh(number, table, seq=1))

    def _mesh(self, number: int, table: Table | None, seq: int) -> Mesh:
        return Mesh(
            self.base.identities[number],
            self.base.network_id,
            random=self.random.randbytes,
            now=self.clock(number),
            settings=self.settings,
            seq=seq,
            table=table,
            verifier=self.checker,
        )

    def clock(self, number: int) -> int:
        """What the member takes the time for."""
        return self.now + self.skew[number]

    def disk(self, number: int) -> tuple[list[bytes], int]:
        """What the member has stored."""
        mesh = self[number]
        return [e.raw for e in mesh.table.entries()], mesh.directory.seq

    def restart(self, number: int, disk: tuple[list[bytes], int]) -> None:
        """The member's agent begins anew from that disk, without any session."""
        member = self.members[number]
        for node_id in tuple(member.mesh.sessions):
            self.cut(number, self.numbers[node_id])
        raws, seq = disk
        member.mesh = self._mesh(number, None, seq)
        member.mesh.restore(raws, self.clock(number))
        member.due = None
        self.drain(member)

    def __getitem__(self, number: int) -> Mesh:
        return self.members[number].mesh

    # sessions

    def connect(self, a: int, b: int) -> None:
        for one, other in ((a, b), (b, a)):
            self[one].session_up(self[other].node_id, self.clock(one))
            self.drain(self.members[one])

    def clone(self, number: int, neighbour: int) -> int:
        """The number of a new member with the key and the disk of another one, and a session with
        that neighbour: who is there has a session with one of the two alone, as in WireGuard."""
        twin = len(self.members)
        self.group.append(0)
        self.skew.append(0)
        self.base.identities.append(self.base.identities[number])
        mesh = self._mesh(twin, None, self[number].directory.seq)
        mesh.restore(self.disk(number)[0], self.now)
        self.members.append(Member(twin, mesh))
        self.drain(self.members[twin])
        self.twins[neighbour, mesh.node_id] = twin
        self.connect(neighbour, twin)
        return twin

    def cut(self, a: int, b: int) -> None:
        for one, other in ((a, b), (b, a)):
            self[one].session_down(self[other].node_id, self.clock(one))
            self.drain(self.members[one])

    def graph(self, degree: int, hubs: int = 0) -> list[tuple[int, int]]:
        """Each member with `degree` others of its choice, of the first `hubs` if there are."""
        count = len(self.members)
        pairs = set()
        for a in range(count):
            among = range(hubs or count)
            for b in self.random.sample(among, min(degree, len(among))):
                if a != b:
                    pairs.add((min(a, b), max(a, b)))
        return sorted(pairs)

    # time

    def drain(self, member: Member) -> None:
        """Carry out what a member wants, and plan its next turn."""
        while (event := member.mesh.poll_event()) is not None:
            if isinstance(event, SendFrame):
                self._send(member, event)
                continue
            if isinstance(event, DialPlace):
                self._dial(member, event)
            if self.keep_events:
                member.events.append(event)
        due = member.mesh.deadline() - self.skew[member.number]
        if member.due is None or due < member.due:
            member.due = due
            self._push(max(due, self.now), member.number, None, b"")

    def _push(self, at: int, number: int, source: bytes | None, frame: bytes) -> None:
        self._count += 1
        heapq.heappush(self._queue, (at, self._count, number, source, frame))

    def _send(self, member: Member, event: SendFrame) -> None:
        member.bytes += len(event.frame)
        member.frames += 1
        assert len(event.frame) <= 1_000
        other = self.twins.get(
            (member.number, event.node_id), self.numbers.get(event.node_id, None)
        )
        if other is None or self.group[other] != self.group[member.number]:
            return
        if member.mesh.node_id not in self[other].sessions:
            return
        if self.random.random() >= self.loss:
            at = self.now + self.delay(self.random)
            self._push(at, other, member.mesh.node_id, event.frame)

    def later(self, delay: int, call: Callable[[], None]) -> None:
        self._push(self.now + delay, -1, None, b"")
        self._calls[self._count] = call

    def _dial(self, member: Member, event: DialPlace) -> None:
        """From a port of its own, to whoever is at that place."""
        target = self.members[self.numbers[event.node_id]]
        source = Endpoint(place_of(member.number).endpoint.ip, 40_000 + event.job)
        lets = self.filters.get(target.number, "open")
        sent = member.mesh.node_id in target.mesh.sessions
        there = event.place.ip == place_of(target.number).endpoint.ip
        same = self.group[target.number] == self.group[member.number]
        gets_in = there and same and (lets == "open" or (lets == "address" and sent))
        self.dialled.append((member.number, event.place, gets_in))

        def arrive() -> None:
            target.mesh.request_came(event.nonce, source, self.clock(target.number))
            self.drain(target)

        def end() -> None:
            member.mesh.place_dialled(event.job, gets_in, self.clock(member.number))
            self.drain(member)

        if gets_in:
            self.later(30 * MS, arrive)
        self.later(60 * MS if gets_in else 3 * S, end)

    def run(self, seconds: float, until: Callable[[], bool] | None = None) -> float:
        """Seconds that went by. `until` is asked after what happened, 20 times a second at most."""
        start, end = self.now, self.now + int(seconds * S)
        ask_at = self.now
        while self._queue and self._queue[0][0] <= end:
            # Between two events all stays as it is: asked before a next one that is late, too.
            if until is not None and (next_at := self._queue[0][0]) > ask_at:
                self.now = max(self.now, ask_at)
                if until():
                    return (self.now - start) / S
                ask_at = max(ask_at + 50 * MS, next_at)
            at, count, number, source, frame = heapq.heappop(self._queue)
            self.now = max(self.now, at)
            if number < 0:
                self._calls.pop(count)()
                continue
            member = self.members[number]
            if source is not None:
                if source in member.mesh.sessions:
                    member.mesh.receive(source, frame, self.clock(number))
            elif member.due is not None and member.due <= self.now:
                member.due = None
                member.mesh.handle_timeout(self.clock(number))
            else:
                continue
            self.drain(member)
        if until is not None and until():
            self.now = min(end, max(self.now, ask_at))
            return (self.now - start) / S
        self.now = end
        return seconds

    def jump(self, number: int, seconds: float) -> None:
        """The member's host slept: its clock is ahead by so much more."""
        self.skew[number] += int(seconds * S)
        self.drain(self.members[number])

    # questions

    def sent(self) -> int:
        return sum(m.bytes for m in self.members)

    def roots(self) -> set[int]:
        return {m.mesh.table.root for m in self.members}

    def alike(self) -> bool:
        return len(self.roots()) == 1

    def move(self, number: int, move: int) -> None:
        """The member has another address."""
        self[number].set_places([place_of(number, move)], self.clock(number))
        self.drain(self.members[number])
