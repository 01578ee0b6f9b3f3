"""Which candidate is given a path number next, and at whose cost."""

from __future__ import annotations

from collections.abc import Callable

from whalescale.protocol.buckets import Bucket
from whalescale.protocol.paths.health import PROBE_INTERVAL, Path
from whalescale.protocol.paths.pins import Pins
from whalescale.protocol.paths.probing import Book, Memory
from whalescale.protocol.paths.table import Table
from whalescale.protocol.paths.types import PathState
from whalescale.protocol.places import Endpoint


class Finder:
    """Numbers are few: those pairs go first that the peer sends over, then the best."""

    __slots__ = ("_book", "_may_try", "_pins", "_table", "_unheard", "crowded", "due_at")

    def __init__(
        self,
        book: Book,
        table: Table,
        pins: Pins,
        unheard: Bucket,
        may_try: Callable[[Endpoint, int], bool],
    ) -> None:
        """`may_try`: places that the peer was never heard from, as far as others are concerned."""
        self._book, self._table, self._pins = book, table, pins
        self._unheard, self._may_try = unheard, may_try
        #: candidates wait for a number
        self.crowded = False
        #: when to look again
        self.due_at: int | None = None

    def next(self, now: int) -> tuple[int, Memory] | Path | None:
        """A number for a candidate, or a path to release for one, or nothing for now."""
        self.due_at = None
        self.crowded = False
        for memory in sorted(self._book.entries.values(), key=lambda m: not m.urgent):
            candidate = memory.candidate
            if self._table.has(candidate.pair) or self._pins.disabled(candidate):
                continue
            if memory.next_at > now:
                self._later(memory.next_at)
                continue
            number = self._table.free_number(now)
            if number is not None:
                if memory.unasked:
                    if not self._unheard.ready(now):
                        self._later(now + PROBE_INTERVAL)
                        return None
                    remote = candidate.remote
                    if not (self._book.proven(remote) or self._may_try(remote, now)):
                        self._later(now + PROBE_INTERVAL)
                        continue
                    self._unheard.take(now)
                return number, memory
            self.crowded = True
            rested = self._table.next_rested(now)
            victim = self._table.victim(memory.urgent, now)
            if victim is not None and (rested is None or victim.state is PathState.PROBING):
                return victim
            if rested is not None:
                self._later(rested)
            return None
        return None

    def stop(self) -> None:
        self.due_at = None
        self.crowded = False

    def _later(self, at: int) -> None:
        self.due_at = at if self.due_at is None else min(self.due_at, at)
