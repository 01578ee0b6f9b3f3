"""What comes in under the peer's own path numbers: rates and delays (section 10).

The peer numbers its paths by itself, so these have nothing to do with ours but their count.
"""

from __future__ import annotations

from collections.abc import Mapping

from whalescale.protocol.limits import NS_PER_S
from whalescale.protocol.paths.estimator import (
    DELAY_WRAP,
    MAX_RATE_BPS,
    clamp,
    signed_delay,
)
from whalescale.protocol.paths.types import PathSample

#: a path that brought data within this is in use
PATH_ACTIVE = NS_PER_S // 2


class _Number:
    __slots__ = ("active", "began", "rate", "rx_bytes", "rx_packets", "sample", "seen")

    def __init__(self, sample: PathSample, now: int) -> None:
        self.sample = sample
        self.active = self.began = 0
        self.rx_bytes, self.rx_packets = sample.rx_bytes, sample.rx_packets
        self.seen = now
        self.rate = 0.0

    def update(self, sample: PathSample, now: int) -> None:
        """Smoothed over about a third of a second."""
        self.sample = sample
        span = now - self.seen
        if span < 20_000_000:
            return
        grown = sample.rx_bytes - self.rx_bytes
        if grown < 0 or grown > MAX_RATE_BPS * span / 8e9 * 2:
            grown = 0
        if sample.rx_packets != self.rx_packets:  # probes are no use of a path
            if now - self.active > NS_PER_S:
                self.began = now
            self.active = now
        part = min(1.0, span / 3e8)
        self.rate += (grown * 8e9 / span - self.rate) * part
        self.rx_bytes, self.rx_packets = sample.rx_bytes, sample.rx_packets
        self.seen = now


class Incoming:
    """The peer's paths as they bring data here."""

    def __init__(self) -> None:
        self._numbers: dict[int, _Number] = {}
        self._active: list[_Number] = []

    def update(self, samples: Mapping[int, PathSample], now: int) -> None:
        for number, sample in samples.items():
            known = self._numbers.get(number)
            if known is None:
                self._numbers[number] = _Number(sample, now)
            else:
                known.update(sample, now)
        self._active = [
            n for n in self._numbers.values() if n.active and now - n.active < PATH_ACTIVE
        ]

    @property
    def count(self) -> int:
        """Paths in use."""
        return len(self._active)

    @property
    def rate_bps(self) -> float:
        return clamp(sum(n.rate for n in self._numbers.values()), 0, MAX_RATE_BPS)

    @property
    def skew_us(self) -> float:
        """Between the slowest and the quickest path in use, queues included."""
        if not self._active:
            return 0.0
        first = self._active[0].sample.rx_delay_us
        delays = [signed_delay((n.sample.rx_delay_us - first) % DELAY_WRAP) for n in self._active]
        return max(delays) - min(delays)

    @property
    def jitter_us(self) -> float:
        return max((clamp(n.sample.rx_jitter_us, 0, 100_000) for n in self._active), default=0.0)

    def began_within(self, span: int, now: int) -> bool:
        """Whether a path came into use lately."""
        return any(n.began and now - n.began < span for n in self._active)
