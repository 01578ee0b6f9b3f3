"""What the reordering buffer has to do, said a second time: docs/multipath.md section 10.

Slow and plain on purpose: dictionaries, whole histories, no windows of bits. Each operation takes
and gives the text of test_reorder.c's script mode, so that the two can be compared line by line.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

MAX_DEPTH = 4096
SPAN = 8192
RANGE = 1 << 20
MEMORY = 24512
FOLLOW = 32
MAX_GAPS = 32
NEVER = 2**64 - 1
STATS = (
    "delivered",
    "in_order",
    "held",
    "gaps",
    "gaps_filled",
    "skipped",
    "skipped_full",
    "late",
    "duplicates",
    "refused",
    "wait_us",
    "wait_max_us",
    "depth",
    "depth_max",
)


@dataclass
class Packet:
    number: int
    size: int
    arrived_ns: int


class Reorder:
    def __init__(self, slot_bytes: int) -> None:
        self.slot_bytes = slot_bytes
        self.depth, self.hold_us, self.loss_us, self.idle_us = 128, 50_000, 5_000, 200_000
        self.deliver_late = False
        self.stats: Counter[str] = Counter()
        self.number = 0
        self.out: list[int] = []
        self.reset()

    def reset(self) -> None:
        if getattr(self, "held", None):
            self.give_up(max(self.held) + 1, None)
        self.next: int | None = None
        self.first = 0
        self.held: dict[int, Packet] = {}  # in the order of arrival
        self.done: set[int] = set()
        self.last_ns: dict[int, int] = {}
        self.highest: dict[int, int] = {}
        self.arrivals: dict[int, list[tuple[int, int]]] = {}
        self.refused: list[int] = []

    def awaited(self) -> int:
        assert self.next is not None
        return self.next

    def missing(self) -> list[tuple[int, int]]:
        """Ranges (first, end), oldest first."""
        ranges, at = [], self.next or 0
        for seq in sorted(self.held):
            if seq > at:
                ranges.append((at, seq))
            at = seq + 1
        return ranges

    def deadline_ns(self) -> int:
        if not self.held:
            return NEVER
        opened = next(iter(self.held.values())).arrived_ns
        passed = [opened]
        for path, last_ns in self.last_ns.items():
            beyond = (ns for seq, ns in self.arrivals[path] if seq > self.awaited())
            passed.append(next(beyond, last_ns + self.idle_us * 1000))
        return min(opened + self.hold_us * 1000, max(passed) + self.loss_us * 1000)

    def drain(self, now_ns: int | None) -> None:
        while self.next in self.held:
            packet = self.held.pop(self.next)
            waited = 0 if now_ns is None else max(0, (now_ns - packet.arrived_ns) // 1000)
            self.stats["wait_us"] += waited
            self.stats["wait_max_us"] = max(self.stats["wait_max_us"], min(waited, 2**32 - 1))
            self.deliver(self.next, packet.number)
            self.next += 1

    def deliver(self, seq: int, number: int) -> None:
        self.out.append(number)
        self.done.add(seq)
        self.stats["delivered"] += 1

    def give_up(self, seq: int, now_ns: int | None, reason: str = "") -> None:
        """Everything below seq is delivered or skipped."""
        while self.awaited() < seq:
            self.drain(now_ns)
            to = max(self.awaited(), min([seq, *self.held]))
            for counter in filter(None, ("skipped", reason)):
                self.stats[counter] += to - self.awaited()
            self.next = to
        self.drain(now_ns)

    def locate(self, low: int, now_ns: int) -> int | None:
        if self.next is None:
            self.next = self.first = 2**32 + low
        ahead = (low - self.next) % 2**32
        seq = self.next + ahead - (2**32 if ahead >= 2**31 else 0)
        if abs(seq - self.next) <= RANGE:
            if seq >= self.next:
                self.refused = []
            return seq
        if seq > self.next:
            if self.refused and abs(seq - self.refused[-1]) > RANGE:
                self.refused = []
            self.refused.append(seq)
            if len(self.refused) == FOLLOW:
                self.refused = []
                self.give_up(seq, now_ns)
                return seq
        self.stats["refused"] += 1
        return None

    def behind(self, seq: int, number: int, deliver: bool) -> None:
        too_old = self.awaited() - seq > MEMORY
        if seq in self.done and not too_old:
            self.stats["duplicates"] += 1
            return
        self.stats["late"] += 1
        if deliver and not too_old:
            self.deliver(seq, number)

    def straight(self, seq: int, number: int, now_ns: int) -> None:
        self.stats["in_order"] += 1
        self.deliver(seq, number)
        self.next = seq + 1
        self.drain(now_ns)

    def evidence(self, path: int, seq: int, now_ns: int) -> None:
        self.last_ns[path] = now_ns
        self.highest[path] = max(self.highest.get(path, seq), seq)
        self.arrivals.setdefault(path, []).append((seq, now_ns))

    def insert(self, path: int, low: int, again: int, size: int, now_ns: int) -> None:
        number = self.number
        self.number += 1
        if again and self.next is None:
            self.stats["duplicates"] += 1
            return
        seq = self.locate(low, now_ns)
        if seq is None:
            return
        if again and seq < self.first:
            self.stats["duplicates"] += 1
            return
        if seq != self.next and size > self.slot_bytes:
            self.stats["refused"] += 1
            return
        if seq < self.awaited():
            self.behind(seq, number, self.deliver_late)
        else:
            self.ahead(seq, number, size, now_ns)
        if not again:
            self.evidence(path, seq, now_ns)

    def ahead(self, seq: int, number: int, size: int, now_ns: int) -> None:
        self.give_up(seq - SPAN + 1, now_ns, "skipped_full")
        if seq in self.held:
            self.stats["duplicates"] += 1
            return
        while len(self.held) >= self.depth and seq > self.awaited():
            self.give_up(min(seq, *self.held), now_ns, "skipped_full")
        before = len(self.missing())
        if seq == self.next:
            self.straight(seq, number, now_ns)
        else:
            self.held[seq] = Packet(number, size, now_ns)
            self.stats["held"] += 1
            self.stats["depth_max"] = max(self.stats["depth_max"], len(self.held))
        more = len(self.missing()) - before
        self.stats["gaps"] += max(0, more)
        self.stats["gaps_filled"] += max(0, -more)

    def pass_(self, path: int, low: int, size: int, now_ns: int) -> None:
        if self.held:
            self.insert(path, low, 0, size, now_ns)
            return
        number = self.number
        self.number += 1
        seq = self.locate(low, now_ns)
        if seq is None:
            return
        if seq < self.awaited():
            self.behind(seq, number, True)
        else:
            self.give_up(seq, now_ns)
            self.straight(seq, number, now_ns)
        self.evidence(path, seq, now_ns)

    def expire(self, now_ns: int) -> None:
        while self.held and now_ns >= self.deadline_ns():
            self.give_up(min(self.held), now_ns)

    def gaps(self, now_ns: int) -> list[str]:
        ends = [2**64]
        for path, last_ns in self.last_ns.items():
            if now_ns <= last_ns + self.idle_us * 1000:
                ends.append(self.highest[path])
        lost = [(first, min(end, *ends)) for first, end in self.missing()]
        found = [f"{first % 2**32}+{end - first}" for first, end in lost if end > first]
        return found[:MAX_GAPS]

    def run(self, line: str) -> str:
        """One operation; what the script mode prints for it."""
        name, *words = line.split()
        numbers = [int(word) for word in words]
        self.out = []
        gaps: list[str] = []
        if name == "set":
            depth, self.hold_us, self.loss_us, self.idle_us, late = numbers
            self.depth, self.deliver_late = max(1, min(depth, MAX_DEPTH)), bool(late)
        elif name == "insert":
            self.insert(*numbers)
        elif name == "pass":
            self.pass_(*numbers)
        elif name == "expire":
            self.expire(*numbers)
        elif name == "gaps":
            gaps = self.gaps(*numbers)
        elif name == "reset":
            self.reset()
        elif name == "stats":
            self.stats["depth"] = len(self.held)
            return " ".join(str(self.stats[counter]) for counter in STATS)
        else:
            raise ValueError(line)
        state = [(self.next or 0) % 2**32, self.deadline_ns()]
        return " ".join([*map(str, state), *map(str, self.out), *gaps])
