"""Rumours: who is told what, when, and how much at most (docs/mesh.md section 5).

A new record goes to a few random neighbours a round, each record to each neighbour once, until all
have it from us or we from them. Revocations go to all at once. What is lost on the way is found by
the comparison that follows (reconcile.py).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

from whalescale.protocol.limits import NS_PER_MS, NS_PER_S
from whalescale.protocol.mesh.entry import Entry
from whalescale.protocol.mesh.frames import Companion, Summary, encode, update_frames
from whalescale.protocol.mesh.records import Kind
from whalescale.protocol.mesh.table import Table

T = TypeVar("T")

ROUND: Final = 250 * NS_PER_MS
FAN_OUT: Final = 4
#: a hub tells this part of its neighbours a round, so that it needs no more than four rounds
FAN_PART: Final = 4
#: records that are still passed on
HOT_MAX: Final = 1024
#: records that wait for a neighbour's turn
QUEUE_MAX: Final = 2048
FRAMES_MAX: Final = 32

#: to one neighbour, bytes
OUT_PER_SECOND: Final = 16_384
OUT_BURST: Final = 65_536
#: from one neighbour: frames, and records whose signature is to be checked (82 us each)
FRAMES_IN_PER_SECOND: Final = 50
FRAMES_IN_BURST: Final = 150
RECORDS_IN_PER_SECOND: Final = 250
RECORDS_IN_BURST: Final = 2_000
#: what one that does not verify costs its sender
FORGED_COST: Final = 100

#: between comparisons with some neighbour, give or take a quarter
COMPARE_EVERY: Final = 300 * NS_PER_S
#: after a session began, and again until there is an answer
COMPARE_AGAIN: Final = (2 * NS_PER_S, 6 * NS_PER_S, 18 * NS_PER_S)
#: after the last record that we told a neighbour, and between two such comparisons
SETTLE: Final = 3 * NS_PER_S
SETTLE_GAP: Final = 20 * NS_PER_S


class Bucket:
    """A token bucket."""

    __slots__ = ("_at", "_burst", "_per_second", "_tokens")

    def __init__(self, per_second: int, burst: int, now: int) -> None:
        self._per_second, self._burst = per_second, burst
        self._tokens, self._at = float(burst), now

    def refill(self, now: int) -> float:
        gained = max(0, now - self._at) * self._per_second / NS_PER_S
        self._tokens = min(self._burst, self._tokens + gained)
        self._at = max(self._at, now)
        return self._tokens

    def take(self, amount: int, now: int) -> bool:
        """False, and nothing taken: not enough is there."""
        if self.refill(now) < amount:
            return False
        self._tokens -= amount
        return True

    def charge(self, amount: int, now: int) -> None:
        """Take it though there be less: what follows waits."""
        self._tokens = self.refill(now) - amount

    def ready_at(self, amount: int, now: int) -> int:
        """When so much is there."""
        lacking = amount - self.refill(now)
        return now if lacking <= 0 else now + int(lacking * NS_PER_S / self._per_second) + 1


class Neighbour:
    """A member that we have a session with."""

    __slots__ = (
        "ask_at",
        "asked",
        "compared_at",
        "frames",
        "frames_in",
        "knows",
        "more",
        "node_id",
        "out",
        "queue",
        "records_in",
    )

    def __init__(self, node_id: bytes, now: int) -> None:
        self.node_id = node_id
        self.out = Bucket(OUT_PER_SECOND, OUT_BURST, now)
        self.frames_in = Bucket(FRAMES_IN_PER_SECOND, FRAMES_IN_BURST, now)
        self.records_in = Bucket(RECORDS_IN_PER_SECOND, RECORDS_IN_BURST, now)
        #: record keys in the order of sending; an entry where the table may not have it
        self.queue: dict[int, Entry | None] = {}
        #: records did not fit into the queue
        self.more = False
        self.frames: deque[bytes] = deque()
        #: key: digest of what it has from us, or we from it, while that is passed on
        self.knows: dict[int, int] = {}
        #: when to send a SUMMARY, None: not planned
        self.ask_at: int | None = None
        #: how often without an answer
        self.asked = 0
        self.compared_at: int | None = None

    def push(self, key: int, entry: Entry | None = None) -> None:
        if key in self.queue or len(self.queue) < QUEUE_MAX:
            self.queue[key] = entry
        else:
            self.more = True


def pick(items: Sequence[T], count: int, random: Callable[[int], bytes]) -> list[T]:
    """`count` of the items, or all, each as likely as any other."""
    left = list(items)
    if len(left) <= count:
        return left
    chosen = []
    for _ in range(count):
        at = int.from_bytes(random(4), "little") % len(left)
        left[at], left[-1] = left[-1], left[at]
        chosen.append(left.pop())
    return chosen


class Gossip:
    """What is sent to neighbours. Times are ns of CLOCK_BOOTTIME."""

    def __init__(self, table: Table, random: Callable[[int], bytes], now: int) -> None:
        self._table = table
        self._random = random
        self.neighbours: dict[bytes, Neighbour] = {}
        self._hot: dict[int, Entry] = {}
        #: those that something waits for
        self._busy: dict[bytes, Neighbour] = {}
        #: (when, whom) to ask; true where the neighbour's `ask_at` says the same
        self._asks: list[tuple[int, bytes]] = []
        self._round_at: int | None = None
        self._compare_at = now + self._spread_out(COMPARE_EVERY)

    def _spread_out(self, interval: int) -> int:
        part = int.from_bytes(self._random(2), "little") / 0x10000
        return int(interval * (0.75 + 0.5 * part))

    # sessions

    def up(self, node_id: bytes, first: bool, now: int) -> None:
        """A session began. `first`: it is for us to compare."""
        neighbour = self.neighbours.setdefault(node_id, Neighbour(node_id, now))
        neighbour.asked = 0
        # The other one asks as well if ours does not come: who knows who heard of whom first.
        self._ask_later(neighbour, now if first else now + COMPARE_AGAIN[0])

    def down(self, node_id: bytes) -> None:
        self.neighbours.pop(node_id, None)
        self._busy.pop(node_id, None)

    def _ask_later(self, neighbour: Neighbour, at: int) -> None:
        neighbour.ask_at = at
        heapq.heappush(self._asks, (at, neighbour.node_id))

    def _next_ask(self) -> int | None:
        while self._asks:
            at, node_id = self._asks[0]
            neighbour = self.neighbours.get(node_id)
            if neighbour is not None and neighbour.ask_at == at:
                return at
            heapq.heappop(self._asks)
        return None

    # telling

    def spread(self, entries: Iterable[Entry], source: bytes | None, now: int) -> None:
        """New here, from that neighbour (None: our own): pass them on."""
        for entry in entries:
            if entry.is_revocation:
                for node_id, neighbour in self.neighbours.items():
                    if node_id != source:
                        neighbour.push(entry.key, entry)
                        self._busy[node_id] = neighbour
                self._round_at = now
                continue
            self._hot.pop(entry.key, None)
            self._hot[entry.key] = entry
            if source is not None:
                self.learn(source, entry)
            if len(self._hot) > HOT_MAX:
                self._cool(next(iter(self._hot)))
        if self._hot and self._round_at is None:
            self._round_at = now + (ROUND if source is not None else 0)

    def learn(self, node_id: bytes, entry: Entry) -> None:
        """That neighbour has it. Of no interest once all have: thousands of records for each of
        hundreds of neighbours would be most of what a hub keeps."""
        neighbour = self.neighbours.get(node_id)
        if neighbour is not None and entry.key in self._hot:
            neighbour.knows[entry.key] = entry.digest

    def _cool(self, key: int) -> None:
        """It is passed on no longer."""
        del self._hot[key]
        for neighbour in self.neighbours.values():
            neighbour.knows.pop(key, None)

    def send_records(self, node_id: bytes, keys: Iterable[int], now: int) -> None:
        """These, to that neighbour: it lacks them."""
        neighbour = self.neighbours.get(node_id)
        if neighbour is None:
            return
        for key in keys:
            neighbour.push(key)
        self._busy[node_id] = neighbour
        self._soon(now)

    def send_frames(self, node_id: bytes, frames: Iterable[Companion], now: int) -> None:
        neighbour = self.neighbours.get(node_id)
        if neighbour is None:
            return
        for frame in frames:
            if len(neighbour.frames) < FRAMES_MAX:
                neighbour.frames.append(encode(frame))
        self._busy[node_id] = neighbour
        self._soon(now)

    def _soon(self, now: int) -> None:
        if self._round_at is None or self._round_at > now:
            self._round_at = now

    # comparing

    def answered(self, node_id: bytes) -> None:
        """Something came that answers our SUMMARY."""
        neighbour = self.neighbours.get(node_id)
        if neighbour is not None and neighbour.asked:
            neighbour.asked, neighbour.ask_at = 0, None

    def compare_with(self, node_id: bytes, now: int, after: int = 0) -> None:
        """Ask that neighbour."""
        neighbour = self.neighbours.get(node_id)
        if neighbour is not None:
            neighbour.asked = 0
            self._ask_later(neighbour, now + after)

    def compare_with_some(self, now: int) -> None:
        for node_id in pick(list(self.neighbours), 2, self._random):
            self.compare_with(node_id, now)

    # time

    def deadline(self) -> int:
        found = [self._compare_at]
        if self._round_at is not None:
            found.append(self._round_at)
        ask_at = self._next_ask()
        if ask_at is not None:
            found.append(ask_at)
        return min(found)

    def handle_timeout(self, now: int) -> list[tuple[bytes, bytes]]:
        """(node ID, frame) to send now."""
        if now >= self._compare_at:
            self._compare_at = now + self._spread_out(COMPARE_EVERY)
            for node_id in pick(list(self.neighbours), 1, self._random):
                self.compare_with(node_id, now)
        while (ask_at := self._next_ask()) is not None and ask_at <= now:
            self._ask(self.neighbours[heapq.heappop(self._asks)[1]], now)
        out: list[tuple[bytes, bytes]] = []
        if self._round_at is not None and self._round_at <= now:
            self._round_at = None
            self._share_rumours()
            if self._hot:
                self._round_at = now + ROUND
        for node_id, neighbour in tuple(self._busy.items()):
            out += ((node_id, frame) for frame in self._flush(neighbour, now))
            if not neighbour.frames and not neighbour.queue:
                del self._busy[node_id]
        return out

    def _ask(self, neighbour: Neighbour, now: int) -> None:
        frame = encode(Summary(self._table.root, self._table.count, ask=True))
        neighbour.compared_at = now
        self._busy[neighbour.node_id] = neighbour
        if len(neighbour.frames) < FRAMES_MAX:
            neighbour.frames.append(frame)
        if neighbour.asked < len(COMPARE_AGAIN):
            self._ask_later(neighbour, now + COMPARE_AGAIN[neighbour.asked])
            neighbour.asked += 1
        else:
            neighbour.asked, neighbour.ask_at = 0, None

    def _share_rumours(self) -> None:
        fan_out = max(FAN_OUT, -(-len(self.neighbours) // FAN_PART))
        for key, entry in tuple(self._hot.items()):
            lacking = [n for n in self.neighbours.values() if n.knows.get(key) != entry.digest]
            for neighbour in pick(lacking, fan_out, self._random):
                neighbour.push(key, entry)
                neighbour.knows[key] = entry.digest
                self._busy[neighbour.node_id] = neighbour
            if len(lacking) <= fan_out:
                self._cool(key)

    def _flush(self, neighbour: Neighbour, now: int) -> list[bytes]:
        out: list[bytes] = []
        while neighbour.frames and neighbour.out.take(len(neighbour.frames[0]), now):
            out.append(neighbour.frames.popleft())
        if neighbour.queue and not neighbour.frames:
            out += self._records(neighbour, now)
        if neighbour.frames or neighbour.queue:
            need = len(neighbour.frames[0]) if neighbour.frames else 1_000
            at = max(neighbour.out.ready_at(need, now), now + 1)
            self._round_at = min(self._round_at or at, at)
        return out

    def _records(self, neighbour: Neighbour, now: int) -> list[bytes]:
        """As many of its queue as it may be sent now, those first that others lean on."""
        room = int(neighbour.out.refill(now))
        ready: list[Entry] = []
        for key, given in sorted(neighbour.queue.items(), key=self._order):
            entry = self._table.get(key) or given
            if entry is not None:
                room -= len(entry.raw) + 8
                if room < 0:
                    break
                ready.append(entry)
            del neighbour.queue[key]
        if not ready:
            return []
        more = neighbour.more and not neighbour.queue
        if more:
            neighbour.more = False
        for entry in ready:
            self.learn(neighbour.node_id, entry)
        frames = update_frames((e.raw for e in ready), more)
        neighbour.out.charge(sum(map(len, frames)), now)
        settled = now + SETTLE
        if neighbour.compared_at is not None:
            settled = max(settled, neighbour.compared_at + SETTLE_GAP)
        if neighbour.ask_at is None or neighbour.asked == 0:
            self._ask_later(neighbour, settled)
        return frames

    def _order(self, item: tuple[int, Entry | None]) -> tuple[bool, int]:
        """Revocations, then the network, admins and members, then where they are."""
        key, given = item
        entry = self._table.get(key) or given
        if entry is None:
            return (True, Kind.OBSERVED)
        return (not entry.is_revocation, entry.kind)
