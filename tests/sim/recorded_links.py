"""Links as radio makes them: so many bytes may leave in each millisecond, from a recording or made.

A recording is a text file (gzip if it ends in .gz) with a line for each millisecond; at its end it
begins again. What may leave and finds nothing waiting is lost, as with Mahimahi's mm-link
(Netravali et al., USENIX ATC 2015). The queue is counted in bytes and drops its newest.
"""

from __future__ import annotations

import gzip
import random
from collections import deque
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from multipath_core import MS
from multipath_world import HEADERS, Frame, Link, LinkSpec, World


@cache
def read(path: Path) -> tuple[int, ...]:
    """ValueError: a line is no number."""
    if path.suffix == ".gz":
        with gzip.open(path, "rt") as lines:
            return tuple(int(line) for line in lines)
    return tuple(int(line) for line in path.read_text().split())


def fading(
    mean_mbps: float, seconds: float, seed: int, *, depth: float = 0.9, lump_ms: int = 1
) -> tuple[int, ...]:
    """A link that fades: its rate walks between (1 - depth) and (1 + depth) of the mean, a new goal
    each 0.1 to 2 s, one in ten of them an outage; what may leave comes in lumps of `lump_ms`, as a
    cell's scheduler hands it out."""
    rng = random.Random(seed)  # noqa: S311
    made: list[int] = []
    rate = goal = mean_mbps
    left, owed = 0, 0.0
    for ms in range(int(seconds * 1000)):
        if left == 0:
            left = rng.randint(100, 2000)
            out = rng.random() < 0.1
            goal = 0.0 if out else mean_mbps * rng.uniform(1 - depth, 1 + depth)
        left -= 1
        rate += (goal - rate) / 50
        owed += rate * 125
        lump = int(owed) if ms % lump_ms == 0 else 0
        owed -= lump
        made.append(lump)
    return tuple(made)


class RecordedLink(Link):
    """One direction. Frames keep their order."""

    def __init__(
        self,
        recording: Sequence[int],
        delay_ms: float,
        queue_bytes: int,
        world: World,
        *,
        from_s: float = 0.0,
    ) -> None:
        """`from_s`: where in the recording it begins."""
        super().__init__(LinkSpec(1, delay_ms), world.rng)
        self.recording, self.first = recording, int(from_s * 1000)
        self.began, self.queue_bytes = world.start, queue_bytes
        self._waiting: deque[tuple[int, int]] = deque()  # when it leaves, bytes
        self._bytes = self._ms = self._credit = 0

    def _may_leave(self, ms: int) -> int:
        return self.recording[(ms + self.first) % len(self.recording)]

    def capacity(self, ms: int) -> int:
        """Bytes that may leave in the first `ms`."""
        return sum(self._may_leave(i) for i in range(ms))

    def queue_ns(self, now: int) -> int:
        return max(0, self._waiting[-1][0] - now) if self._waiting else 0

    def send(self, now: int, size: int, what: tuple[int, int, int, Frame] | int) -> None:
        if self.silent or self.rng.random() < self.loss:
            return
        size += HEADERS
        while self._waiting and self._waiting[0][0] <= now:
            self._bytes -= self._waiting.popleft()[1]
        if self._bytes + size > self.queue_bytes:
            self.dropped += 1
            return
        if not self._waiting:
            self._ms = (now - self.began) // MS + 1
            self._credit = self._may_leave(self._ms)
        while self._credit < size:
            self._ms += 1
            self._credit += self._may_leave(self._ms)
        self._credit -= size
        leaves = self.began + self._ms * MS
        self._waiting.append((leaves, size))
        self._bytes += size
        self.last = max(self.last, leaves + self.delay)
        self.pipe.append((leaves, self.last, what))
