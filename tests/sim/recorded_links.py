"""A link of the simulation that follows a recording (tools/recordings.py).

What may leave and finds nothing waiting is lost, as with Mahimahi's mm-link (Netravali et al.,
USENIX ATC 2015). The queue is counted in bytes and drops its newest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from multipath_core import MS
from multipath_world import HEADERS, Frame, Link, LinkSpec, World


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
