"""Virtual time: what is to happen, in order; what is due at the same time, as it was asked for."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

MS = 1_000_000
SECOND = 1000 * MS


class EventQueue:
    def __init__(self) -> None:
        self.now = self.start = 1000 * SECOND
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._count = itertools.count()

    def later(self, delay: int, call: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.now + delay, next(self._count), call))

    def run(self, seconds: float) -> None:
        """Everything that happens in the next `seconds`."""
        end = self.now + int(seconds * SECOND)
        while self._queue and self._queue[0][0] <= end:
            when, _, call = heapq.heappop(self._queue)
            self.now = max(self.now, when)
            call()
        self.now = end
