"""Tells the data plane which paths there are and which take data."""

from __future__ import annotations

from collections import deque

from whalescale.protocol.paths.health import Path
from whalescale.protocol.paths.matching import choose, one_each
from whalescale.protocol.paths.supply import Supply
from whalescale.protocol.paths.table import Table
from whalescale.protocol.paths.tuner import LINGER
from whalescale.protocol.paths.types import Action, PathSpec, PathState, RescuePath, SetPaths


class Selection:
    """Keeps `Path.used`, the tuner's paths and the data plane's in step."""

    __slots__ = ("_actions", "_lingers", "_said", "_supply", "_table")

    def __init__(self, table: Table, supply: Supply, actions: deque[Action]) -> None:
        self._table, self._supply, self._actions = table, supply, actions
        self._said: SetPaths | None = None
        #: scheduled until this time
        self._lingers = 0

    def choose(self, active: bool, now: int, *, also: bool = False) -> list[Path]:
        """Among the working ones; if none works the one that answered last. Returns the changed.

        What leads over an anchor is used where nothing else works, or `also`; over one anchor from
        each interface of ours: another has no other link there, and is to take over.
        """
        chosen: set[int] = set()
        if active:
            chosen = choose(p for p in self._table if not self._table.relayed(p))
            if also or not chosen:
                relayed = [p for p in self._table if self._table.relayed(p)]
                chosen |= choose(relayed) if also else one_each(relayed, choose(relayed))
        if not chosen and active:
            last = [p for p in self._table if p.validated and not p.pin.disabled]
            best = max(last, key=lambda p: p.answered_at or 0, default=None)
            chosen = {best.id} if best is not None else set()
        changed = []
        for path in self._table:
            use = path.id in chosen
            if use and not path.used:
                path.carried = True
                self._supply.add(path)
            elif path.used and not use and path.alive:
                self._supply.remove(path)
            if use != path.used:
                path.used = use
                changed.append(path)
        if not active:
            self._lingers = 0
        elif len(chosen) > 1:
            self._lingers = now + LINGER
        elif now >= self._lingers:
            self._lingers = 0
        self.tell()
        self._supply.limit(self._table, alone=not self._scheduling())
        return changed

    def forget(self) -> None:
        """The peer began anew: it is to be spoken to as at first."""
        self._lingers = 0

    def leave(self, path: Path) -> None:
        """Before a path is dropped: what is in flight on it goes elsewhere."""
        if path.used:
            self._actions.append(self._paths(self._table.specs(path), path))
            self._actions.append(RescuePath(path.id))

    def renew(self, path: Path) -> None:
        """Before another path takes the number: for the data plane it is gone in between, so that
        nothing that was counted, and nothing that is in flight, goes to the new one."""
        paths = tuple(spec for spec in self._table.specs() if spec.id != path.id)
        self._said = self._paths(paths, path)
        self._actions.append(self._said)

    def tell(self) -> None:
        """To the data plane, if there is anything new."""
        if not self._table.paths:
            return
        wanted = self._paths(self._table.specs())
        if wanted != self._said:
            self._said = wanted
            self._actions.append(wanted)

    def _paths(self, specs: tuple[PathSpec, ...], without: Path | None = None) -> SetPaths:
        stay = any(self._table.relayed(p) for p in self._table)
        used = self._used(without)
        schedule = self._scheduling(without)
        keep = not schedule and len(used) == 1 and self._could_take_over(used[0], without)
        return SetPaths(specs, schedule, stay, keep)

    def _used(self, without: Path | None = None) -> list[Path]:
        return [p for p in self._table if p.used and p is not without]

    def _scheduling(self, without: Path | None = None) -> bool:
        return bool(self._lingers) or len(self._used(without)) > 1

    def _could_take_over(self, used: Path, without: Path | None) -> bool:
        """Another works, did, or might in a moment: its first answer may come at any time."""
        others = (p for p in self._table if p is not used and p is not without)
        return any(
            p.validated or p.state is PathState.PROBING for p in others if not p.pin.disabled
        )
