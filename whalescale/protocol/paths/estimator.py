"""What the ACKs tell of one path over the last second: loss, and what arrived.

Everything comes from cumulative counters that a peer controls, so a counter that runs backwards
begins the history anew, and every figure that leaves here is finite and clamped.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from whalescale.protocol.limits import NS_PER_S
from whalescale.protocol.paths.types import PathSample

#: of history: where few datagrams were sent a second tells little of losses
HISTORY: Final = 3 * NS_PER_S
#: a share of fewer is no share: one in fifty is 2 %
FEW: Final = 50


class _Tick(NamedTuple):
    now: int
    bytes: int
    datagrams: int
    highest: int


class PathEstimator:
    """One path's history. `push` takes a sample; the rest are views of what was pushed."""

    __slots__ = ("_ticks",)

    def __init__(self) -> None:
        self._ticks: deque[_Tick] = deque()

    def push(self, sample: PathSample, now: int) -> None:
        tick = _Tick(now, sample.acked_bytes, sample.acked_datagrams, sample.acked_highest)
        ticks = self._ticks
        if ticks and any(new < old for new, old in zip(tick, ticks[-1], strict=True)):
            ticks.clear()
        ticks.append(tick)
        while len(ticks) > 2 and now - ticks[1].now > HISTORY:
            ticks.popleft()

    def loss(self) -> float:
        """Share of datagrams lost in the last second, or longer where few were sent; 0..1."""
        for span in (NS_PER_S, HISTORY):
            old, new = self._over(span)
            sent = new.highest - old.highest
            if sent >= FEW or (span == HISTORY and sent > 0):
                return min(max(0.0, 1 - (new.datagrams - old.datagrams) / sent), 1.0)
        return 0.0

    def acked_bps(self) -> int:
        """Bytes acknowledged over the last second."""
        old, new = self._over(NS_PER_S)
        return (new.bytes - old.bytes) * 8 * NS_PER_S // max(new.now - old.now, NS_PER_S)

    def _over(self, span: int) -> tuple[_Tick, _Tick]:
        """The newest, and the youngest that lies so long before it, else the oldest."""
        if not self._ticks:
            return _Tick(0, 0, 0, 0), _Tick(0, 0, 0, 0)
        new = self._ticks[-1]
        past = (tick for tick in reversed(self._ticks) if tick.now <= new.now - span)
        return next(past, self._ticks[0]), new
