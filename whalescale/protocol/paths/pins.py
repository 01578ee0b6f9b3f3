"""What the user pinned (`ws paths --set`): by addresses and interface, so it outlives paths."""

from __future__ import annotations

from typing import Final

from whalescale.protocol.candidates import Candidate
from whalescale.protocol.paths.health import Path
from whalescale.protocol.paths.types import Pin

MAX_PINS: Final = 64
Selector = tuple[str | None, str | None, str | None]


class Pins:
    """The newest pin that fits a path holds."""

    __slots__ = ("_pins",)

    def __init__(self) -> None:
        self._pins: dict[Selector, Pin] = {}

    def set(self, pin: Pin, local: str | None, remote: str | None, interface: str | None) -> None:
        """The default pin takes back what was said of these paths, be it of all together or of
        one; what was said of more paths than these goes on for the others."""
        selector = (local, remote, interface)
        self._pins = {s: p for s, p in self._pins.items() if not _covers(selector, s)}
        if pin != Pin() or any(_overlap(selector, s) for s in self._pins):
            while len(self._pins) >= MAX_PINS:
                del self._pins[next(iter(self._pins))]
            self._pins[selector] = pin

    def of(self, path: Path) -> Pin:
        local = path.local.ip if path.local is not None else ""
        return self._find(local, path.remote.ip, path.interface)

    def disabled(self, candidate: Candidate) -> bool:
        if not self._pins:
            return False
        return self._find(
            candidate.local.ip, candidate.remote.ip, candidate.link.interface
        ).disabled

    def _find(self, local: str, remote: str, interface: str) -> Pin:
        ends = (local, remote, interface)
        for selector, pin in reversed(self._pins.items()):
            if all(want is None or want == has for want, has in zip(selector, ends, strict=True)):
                return pin
        return Pin()


def _covers(wide: Selector, narrow: Selector) -> bool:
    """Every path of `narrow` is one of `wide`."""
    return all(w is None or w == n for w, n in zip(wide, narrow, strict=True))


def _overlap(a: Selector, b: Selector) -> bool:
    """A path may be of both."""
    return all(x is None or y is None or x == y for x, y in zip(a, b, strict=True))
