"""The paths of one peer by number, pair and worth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from whalescale.protocol.candidates import Pair, direct, same_local
from whalescale.protocol.limits import NS_PER_S
from whalescale.protocol.paths.health import Path
from whalescale.protocol.paths.types import PathSpec, PathState
from whalescale.protocol.places import Endpoint

#: a number that carried data rests: ACKs and datagrams of the old path may be under way
REST: Final = 2 * NS_PER_S
#: a path that the peer sent over so lately is not taken away: it answers the peer's probes
LIVELY: Final = 3 * NS_PER_S
FAILED_LONG: Final = 60 * NS_PER_S


class Table:
    """At most `highest` + 1; number 0 is the first path and stays."""

    __slots__ = ("_anchored", "_highest", "_rested", "paths")

    def __init__(self, highest: int, anchored: Callable[[Endpoint], bool] = direct) -> None:
        """`anchored`: of the far ends of paths, whether an anchor is there and not the peer."""
        self._anchored = anchored
        self._highest = highest
        self.paths: dict[int, Path] = {}
        self._rested: dict[int, int] = {}

    def __iter__(self) -> Iterator[Path]:
        return iter(tuple(self.paths.values()))

    def relayed(self, path: Path) -> bool:
        """It leads over an anchor (docs/nat.md)."""
        return self._anchored(path.remote)

    def get(self, number: int) -> Path | None:
        return self.paths.get(number)

    def find(self, remote: Endpoint, local: Endpoint | None) -> Path | None:
        """The path of this 4-tuple. `local` None: not known, then the first with this remote."""
        for number in sorted(self.paths, reverse=True):
            path = self.paths[number]
            if path.remote != remote:
                continue
            if local is None or path.local is None or same_local(path.local, local):
                return path
        return None

    def has(self, pair: Pair) -> bool:
        return any(path.pair == pair for path in self.paths.values())

    def pairs(self) -> set[Pair]:
        return {path.pair for path in self.paths.values() if path.pair is not None}

    def free_number(self, now: int) -> int | None:
        for number in range(1, self._highest + 1):
            if number not in self.paths and self._rested.get(number, 0) <= now:
                return number
        return None

    def next_rested(self, now: int) -> int | None:
        """When a number that rests is free."""
        resting = [
            at for number, at in self._rested.items() if at > now and number not in self.paths
        ]
        return min(resting, default=None)

    def victim(self, urgent: bool, now: int) -> Path | None:
        """Whose number may go to another pair; `urgent`: to one that the peer sends over."""

        def quiet(path: Path) -> bool:
            return path.heard_at is None or now - path.heard_at > LIVELY

        others = [p for p in self.paths.values() if p.id and not p.used and quiet(p)]
        if urgent:
            probing = [p for p in others if p.state is PathState.PROBING and p.probes]
            if probing:
                return max(probing, key=lambda p: p.probes)
        spare = [
            p
            for p in others
            if p.validated
            and (p.alive or (p.failed_at is not None and now - p.failed_at > FAILED_LONG))
        ]
        # The failed ones first, then the slowest.
        return max(spare, key=lambda p: (not p.alive, p.srtt_us), default=None)

    def drop(self, path: Path, now: int) -> None:
        del self.paths[path.id]
        if path.carried:
            self._rested[path.id] = now + REST

    def specs(self, without: Path | None = None) -> tuple[PathSpec, ...]:
        """As the data plane is to have them; `without`: that one takes no data any more."""
        return tuple(
            PathSpec(
                p.id,
                None if p.away else p.local,
                p.remote,
                p.link.ifindex if p.link is not None else 0,
                p.used and p is not without,
            )
            for _, p in sorted(self.paths.items())
        )
