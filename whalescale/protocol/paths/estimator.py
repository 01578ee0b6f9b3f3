"""What the ACKs tell of one path: delivery rate, loss, queueing delay.

docs/multipath.md section 8. Everything comes from cumulative counters that a peer controls, so a
counter that runs backwards or leaps begins the history anew, and every figure that leaves here is
finite and clamped.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from whalescale.protocol.limits import NS_PER_S
from whalescale.protocol.paths.types import PathSample

PACKET_BYTES = 1500
MIN_RATE_BPS = 8_000
MAX_RATE_BPS = 400_000_000_000
MAX_DELAY_US = 10_000_000

#: delays are differences of two clocks, kept in 24 bits of microseconds
DELAY_WRAP = 1 << 24
#: how long the least delay is remembered: 100 ppm of clock drift is 1 ms in it
BASE_WINDOW = 10 * NS_PER_S
#: nothing arrived for so long: what lies before says nothing of the rate after
GAP_US = 300_000
#: a gap is also no shorter than four packets of this size take at the pace
PACKET_BITS = 12_000
#: less noise than this is no jitter
STEADY_US = 250
#: of history, for rates and loss
HISTORY = 3 * NS_PER_S
#: a counter that moves farther than this between two samples is no counter
LEAP = 1 << 48
#: what the design's estimate rolls over
ROLLING = NS_PER_S
#: a sample's worth, to see whether packets wait for a path
WAITS_US = 20_000


def signed_delay(delta: int) -> int:
    """A difference of two 24-bit delays, µs, nearest to 0."""
    return (delta + DELAY_WRAP // 2) % DELAY_WRAP - DELAY_WRAP // 2


def clamp(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


class Point(NamedTuple):
    """The receiver's word at one ACK."""

    now: int
    arrived_us: int
    bytes: int
    datagrams: int
    highest: int


class Tick(NamedTuple):
    """Our own state at one sample."""

    now: int
    limited_us: int
    acked_bytes: int
    pace_bps: float
    tx_bytes: int


class PathEstimator:
    """One path's history. `push` takes a sample; the rest are views of what was pushed."""

    __slots__ = ("_base", "_delta", "_last", "_level", "_points", "_ticks", "delay_us", "noise_us")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._last: PathSample | None = None
        self._points: deque[Point] = deque(maxlen=512)
        self._ticks: deque[Tick] = deque(maxlen=512)
        self._base: deque[tuple[int, float]] = deque()  # rising values, the first is the least
        #: smoothed one-way delay, unwrapped; None before the first ACK
        self.delay_us: int | None = None
        #: mean deviation of the delay from tick to tick
        self.noise_us = 0.0
        self._delta = 0.0
        self._level = 0.0  # of delay_us, without jitter

    def push(self, sample: PathSample, now: int, pace_bps: float) -> bool:
        """One sample. True if an ACK moved the path on since the last one."""
        last = self._last
        if last is not None and not _sane(last, sample):
            self.reset()  # the counters began anew: so does everything
            last = None
        self._last = sample
        self._ticks.append(
            Tick(now, sample.limited_us, sample.acked_bytes, pace_bps, sample.tx_bytes)
        )
        while len(self._ticks) > 2 and now - self._ticks[1].now > HISTORY:
            self._ticks.popleft()
        if sample.acks == 0 or (
            last is not None and sample.acked_arrived_us == last.acked_arrived_us
        ):
            return False
        gap_us = max(GAP_US, 4 * PACKET_BITS * 1e6 / max(pace_bps, MIN_RATE_BPS))
        if self._points and sample.acked_arrived_us - self._points[-1].arrived_us > gap_us:
            self._points.clear()  # idle or cut off: no rate of the link's
        self._points.append(
            Point(
                now,
                sample.acked_arrived_us,
                sample.acked_bytes,
                sample.acked_datagrams,
                sample.acked_highest,
            )
        )
        while len(self._points) > 2 and now - self._points[1].now > HISTORY:
            self._points.popleft()
        self._delay(sample.delay_us, now)
        return True

    def _delay(self, delay_us: int, now: int) -> None:
        if self.delay_us is None:
            self.delay_us = delay_us % DELAY_WRAP
        else:
            step = signed_delay(delay_us - self.delay_us)
            # Jitter shows as a change of the change; a queue that grows steadily does not.
            self.noise_us += (min(abs(step - self._delta) / 2, 4_000) - self.noise_us) / 16
            self._delta = step
            self.delay_us += step
        # The least of what jitters is far below its mean, so jitter is averaged out first.
        part = 0.25 if self.noise_us > STEADY_US else 1.0
        self._level += (self.delay_us - self._level) * (part if self._base else 1.0)
        self._note_base(self._level, now)

    def _note_base(self, delay: float, now: int) -> None:
        base = self._base
        while base and base[-1][1] >= delay:
            base.pop()
        base.append((now, delay))
        while now - base[0][0] > BASE_WINDOW and len(base) > 1:
            base.popleft()

    @property
    def base_us(self) -> int | None:
        """The least smoothed delay of the last 10 s, in the units of `delay_us`."""
        return int(self._base[0][1]) if self._base else None

    @property
    def base_age(self) -> int:
        """When the least delay was seen, ns; 0: never."""
        return self._base[0][0] if self._base else 0

    def forget_base(self, now: int) -> None:
        """What is measured now is the least there is: another's queue, or a longer route."""
        self._base.clear()
        if self.delay_us is not None:
            self._note_base(self._level, now)

    @property
    def queue_us(self) -> int:
        """Queueing delay: over the least delay of the last 10 s."""
        if self.delay_us is None or not self._base:
            return 0
        return int(clamp(self._level - self._base[0][1], 0, MAX_DELAY_US))

    @property
    def queue_now_us(self) -> int:
        """The same of the last ACK alone, jitter and all."""
        if self.delay_us is None or not self._base:
            return 0
        return int(clamp(self.delay_us - self._base[0][1], 0, MAX_DELAY_US))

    def _span(self, window_us: float) -> tuple[Point, Point] | None:
        """The newest point, and the youngest that lies at least `window_us` before it."""
        if len(self._points) < 2:
            return None
        new = self._points[-1]
        for old in reversed(self._points):
            if new.arrived_us - old.arrived_us >= window_us:
                return old, new
        old = self._points[0]
        return (old, new) if new.arrived_us - old.arrived_us >= window_us / 2 > 0 else None

    def delivery_bps(self, window_us: float) -> float | None:
        """Bytes that arrived a second over the last `window_us` of the receiver's clock."""
        span = self._span(window_us)
        if span is None:
            return None
        old, new = span
        if new.bytes <= old.bytes:
            return None
        rate = (new.bytes - old.bytes) * 8e6 / (new.arrived_us - old.arrived_us)
        return clamp(rate, 0, MAX_RATE_BPS)

    def losses(self, window_us: float) -> tuple[int, int]:
        """(lost, sent) datagrams over the last `window_us`; (0, 0) if nothing is known."""
        span = self._span(window_us)
        if span is None:
            return 0, 0
        old, new = span
        sent = max(0, new.highest - old.highest)
        return min(max(0, sent - (new.datagrams - old.datagrams)), sent), sent

    def loss(self, window_us: float = 1e6) -> float:
        """Share of datagrams lost, 0..1; over longer than `window_us` where few were sent."""
        for window in (window_us, HISTORY // 1000):
            lost, sent = self.losses(window)
            if sent >= 50 or (window > window_us and sent > 0):
                return lost / sent
        return 0.0

    def limited(self, window_us: float, ago_us: float, now: int) -> float:
        """Share of the time in which packets waited for this path: `ago_us` ago, so long."""
        end = self._tick(now - int(ago_us * 1000))
        start = self._before(end, window_us)
        if end is None or start is None or end.now <= start.now:
            return 0.0
        return clamp((end.limited_us - start.limited_us) * 1000 / (end.now - start.now), 0, 1)

    def nothing_waits(self, now: int) -> bool:
        """As far as is known, so not of a path that is new in mid-flow."""
        return len(self._ticks) > 1 and self.limited(WAITS_US, 0, now) < 0.5

    def pace_bps(self, ago_us: float, now: int) -> float:
        """The pace that was set so long ago."""
        tick = self._tick(now - int(ago_us * 1000))
        return tick.pace_bps if tick else 0.0

    def sent_bps(self, window_us: float, ago_us: float, now: int) -> float:
        """What was sent, `ago_us` ago over so long; 0: nothing is known."""
        end = self._tick(now - int(ago_us * 1000))
        start = self._before(end, window_us)
        if end is None or start is None or end.now <= start.now:
            return 0.0
        return clamp((end.tx_bytes - start.tx_bytes) * 8e9 / (end.now - start.now), 0, MAX_RATE_BPS)

    def acked_bps(self, now: int, window: int = ROLLING) -> int:
        """The design's estimate: bytes acknowledged over a rolling second (or `window`, ns)."""
        if not self._ticks:
            return 0
        start = self._tick(now - window) or self._ticks[0]
        span = max(now - start.now, window)
        rate = (self._ticks[-1].acked_bytes - start.acked_bytes) * 8e9 / span
        return int(clamp(rate, 0, MAX_RATE_BPS))

    def _before(self, tick: Tick | None, window_us: float) -> Tick | None:
        """One so long before `tick` at least: ticks may be farther apart than the window."""
        return None if tick is None else self._tick(tick.now - int(window_us * 1000))

    def _tick(self, at: int) -> Tick | None:
        """The youngest tick not after `at`, else the oldest."""
        for tick in reversed(self._ticks):
            if tick.now <= at:
                return tick
        return self._ticks[0] if self._ticks else None


def _sane(old: PathSample, new: PathSample) -> bool:
    """Counters only rise, and not by more than any link could bring about."""
    return all(
        0 <= after - before < LEAP
        for before, after in (
            (old.acked_bytes, new.acked_bytes),
            (old.acked_datagrams, new.acked_datagrams),
            (old.acked_highest, new.acked_highest),
            (old.acked_arrived_us, new.acked_arrived_us),
            (old.limited_us, new.limited_us),
        )
    )
