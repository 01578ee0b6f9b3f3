"""Whom to call, and when again: lost members, neighbours that are wanted (docs/mesh.md section 7).

1 s, then twice as long each time up to 60 s, with jitter; anchors first. Whatever changes on the
host begins it anew at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from whalescale.protocol.limits import NS_PER_MS, NS_PER_S

FIRST: Final = NS_PER_S
LONGEST: Final = 60 * NS_PER_S
#: calls in one turn, and until the next turn
CALLS: Final = 4
TURN: Final = 200 * NS_PER_MS


@dataclass(slots=True)
class _Attempt:
    count: int
    at: int


def closeness(ours: bytes, theirs: bytes) -> bytes:
    """A number for each pair, the same from both ends and unlike any other's: who is whose
    neighbour is spread evenly without anybody keeping a list.
    """
    low, high = sorted((ours, theirs))
    return hashlib.blake2s(b"whalescale neighbours" + low + high, digest_size=8).digest()


def wanted(
    ours: bytes, dialable: Iterable[bytes], anchors: Iterable[bytes], count: int
) -> list[bytes]:
    """Whom we want a session with: two anchors, then the closest that can be dialled."""
    warm = sorted(set(anchors) - {ours}, key=lambda n: closeness(ours, n))[:2]
    others = sorted(set(dialable) - {ours, *warm}, key=lambda n: closeness(ours, n))
    return [*warm, *others[: max(0, count - len(warm))]]


class Recovery:
    """Calls that are due. Times are ns of CLOCK_BOOTTIME."""

    __slots__ = ("_attempts", "_random", "_turn_at")

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random
        #: in the order in which they are called
        self._attempts: dict[bytes, _Attempt] = {}
        self._turn_at = 0

    def want(self, nodes: Iterable[bytes], now: int) -> None:
        """These, in this order, and no others. Who was called already waits as long as it did."""
        before = self._attempts
        self._attempts = {n: before.get(n) or _Attempt(0, now) for n in nodes}

    def anew(self, now: int) -> None:
        """Something changed: everybody is due."""
        self._turn_at = now
        for attempt in self._attempts.values():
            attempt.count, attempt.at = 0, now

    def anew_for(self, node_id: bytes, now: int) -> None:
        """There is reason to think that it can be reached: it is due, if it is wanted."""
        attempt = self._attempts.get(node_id)
        if attempt is not None:
            attempt.count, attempt.at = 0, min(attempt.at, now)

    def deadline(self) -> int | None:
        if not self._attempts:
            return None
        return max(self._turn_at, min(a.at for a in self._attempts.values()))

    def handle_timeout(self, now: int) -> list[bytes]:
        """Whom to call now."""
        if now < self._turn_at:
            return []
        due = [n for n, a in self._attempts.items() if a.at <= now][:CALLS]
        for node_id in due:
            attempt = self._attempts[node_id]
            wait = min(FIRST << min(attempt.count, 10), LONGEST)
            part = int.from_bytes(self._random(2), "little") / 0x10000
            attempt.at = now + int(wait * (0.75 + 0.5 * part))
            attempt.count += 1
        if due:
            self._turn_at = now + TURN
        return due
