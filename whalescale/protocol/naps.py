"""Whether the host slept: CLOCK_BOOTTIME goes on in a suspend, CLOCK_MONOTONIC stands still."""

from __future__ import annotations

from typing import Final

from whalescale.protocol.limits import NS_PER_S

#: less is no suspend: the two clocks are read one after the other
LEAST: Final = NS_PER_S


class Naps:
    """Looks at both clocks again and again (ns)."""

    __slots__ = ("_between",)

    def __init__(self, boottime: int, monotonic: int) -> None:
        self._between = boottime - monotonic

    def look(self, boottime: int, monotonic: int) -> int:
        """ns that the host slept since the last look; 0: not at all."""
        before, self._between = self._between, boottime - monotonic
        slept = self._between - before
        return slept if slept >= LEAST else 0
