"""Token buckets: what somebody may make us do, a second and at once."""

from __future__ import annotations

from whalescale.protocol.limits import NS_PER_S


class Bucket:
    """Tokens that come at a rate, up to a burst."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, per_second: float, burst: float) -> None:
        self._rate, self._burst = per_second, burst
        self._tokens = burst
        self._at: int | None = None

    def ready(self, now: int, least: float = 1.0) -> bool:
        """Whether `take` would give one, and left so many."""
        if self._at is not None and now > self._at:
            self._tokens += (now - self._at) * self._rate / NS_PER_S
            self._tokens = min(self._tokens, self._burst)
        self._at = now
        return self._tokens >= least

    def take(self, now: int) -> bool:
        if not self.ready(now):
            return False
        self._tokens -= 1
        return True
