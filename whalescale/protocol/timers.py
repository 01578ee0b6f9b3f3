"""One deadline per peer, cheap where thousands stand idle and deadlines mostly move later."""

from __future__ import annotations

import heapq


class TimerQueue:
    """A heap with lazy entries: moving a deadline later costs nothing until the old one is up."""

    __slots__ = ("_armed", "_deadlines", "_heap")

    def __init__(self) -> None:
        self._deadlines: dict[int, int] = {}
        #: When the one valid heap entry of a handle is up; other entries of it are stale.
        self._armed: dict[int, int] = {}
        self._heap: list[tuple[int, int]] = []

    def set(self, handle: int, when: int | None) -> None:
        """Replace the deadline of `handle`; None: it has none."""
        if when is None:
            self._deadlines.pop(handle, None)
            return
        self._deadlines[handle] = when
        armed = self._armed.get(handle)
        if armed is None or when < armed:
            self._armed[handle] = when
            heapq.heappush(self._heap, (when, handle))
            if len(self._heap) > 4 * len(self._armed) + 64:
                self._heap = [(at, h) for h, at in self._armed.items()]
                heapq.heapify(self._heap)

    def next(self) -> int | None:
        """The earliest deadline."""
        heap = self._heap
        while heap:
            when, handle = heap[0]
            if self._armed.get(handle) != when:
                heapq.heappop(heap)
                continue
            deadline = self._deadlines.get(handle)
            if deadline is None:
                heapq.heappop(heap)
                del self._armed[handle]
            elif deadline > when:
                heapq.heapreplace(heap, (deadline, handle))
                self._armed[handle] = deadline
            else:
                return when
        return None

    def pop_due(self, now: int, most: int | None = None) -> list[int]:
        """Take out every handle whose deadline is up, earliest first; at most `most` of them."""
        due: list[int] = []
        while len(due) != most and (when := self.next()) is not None and when <= now:
            _, handle = heapq.heappop(self._heap)
            del self._armed[handle], self._deadlines[handle]
            due.append(handle)
        return due
