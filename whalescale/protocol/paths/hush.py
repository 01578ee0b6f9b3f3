"""Whether what came from the peer in a stream has stopped (docs/multipath.md section 6).

Who sends finds out by ACKs that do not come. Who receives would at its next heartbeat alone, up to
a second later; if it is its own router that has forgotten it, nothing can tell it but the silence.
"""

from __future__ import annotations

from typing import Final

from whalescale.protocol.paths.health import HEARTBEAT_BUSY

#: a stream: so many packets between two looks, at so many looks
PACKETS: Final = 4
LOOKS: Final = 2
#: streams that stop and go on again and again are told of so often
AGAIN: Final = HEARTBEAT_BUSY


class Incoming:
    """Looked at with each sample, ten times a second. Times are ns."""

    __slots__ = ("_count", "_looks", "_told_at")

    def __init__(self) -> None:
        self._count = 0
        self._looks = 0
        self._told_at = -AGAIN

    def ended(self, count: int, now: int) -> bool:
        """`count`: data packets that came until now. True, once: a stream of them has stopped,
        for nothing came since the last look."""
        came, self._count = count - self._count, count
        if came > 0:
            self._looks += came >= PACKETS
            return False
        if self._looks < LOOKS:
            return False
        self._looks = 0
        if now - self._told_at < AGAIN:
            return False
        self._told_at = now
        return True
