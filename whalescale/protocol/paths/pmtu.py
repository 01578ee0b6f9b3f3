"""How long a datagram one path carries: RFC 8899 (DPLPMTUD), by probes of full length.

Sizes are UDP payload bytes. Up from a base that any path carries to what the tunnel's MTU needs
and no further: first that, then the halves between.
"""

from __future__ import annotations

from typing import Final

from whalescale.protocol.limits import NS_PER_S

BASE: Final = 1200
#: probes of one size without an answer until it counts as too long (RFC 8899 MAX_PROBES)
TRIES: Final = 3
#: the search ends when it knows the size this well
GRAIN: Final = 16
#: RFC 8899 PMTU_RAISE_TIMER
RAISE_INTERVAL: Final = 1800 * NS_PER_S
#: the same while there is traffic: datagrams go without DF, so that a path that takes less than it
#: did loses nothing, and tells nothing but by its probes (RFC 8899 CONFIRMATION_TIMER)
CONFIRM_INTERVAL: Final = 60 * NS_PER_S
#: waits before one probe each of what the tunnel needs, after a search that found less than the one
#: before it: probes that are lost by chance look like a size that is too long
LOOKS: Final = (5 * NS_PER_S, 10 * NS_PER_S, 20 * NS_PER_S)
#: between two searches that the peer's own probes begin
HINT_INTERVAL: Final = 10 * NS_PER_S
#: data header, transport header and tag around a packet (docs/multipath.md section 3)
OVERHEAD: Final = 8 + 16 + 16
#: the same around a packet that goes as WireGuard sends it
PLAIN_OVERHEAD: Final = 16 + 16
OUTER_IPV4: Final = 20 + 8
OUTER_IPV6: Final = 40 + 8


def datagram_of(packet_bytes: int) -> int:
    """The longest datagram that packets of this length make: padding stops at the limit."""
    return packet_bytes + OVERHEAD


class PmtuSearch:
    """Inputs tell what was sent and answered; `due_at` says when to send `size`."""

    __slots__ = (
        "_ended",
        "_found",
        "_high",
        "_look",
        "_low",
        "_tries",
        "confirmed",
        "due_at",
        "searching",
        "size",
        "target",
    )

    def __init__(self, target: int, *, assumed: bool) -> None:
        """`assumed`: believe in the target until probes say else, as WireGuard does."""
        self.target = target
        #: what may be sent
        self.confirmed = target if assumed or target <= BASE else BASE
        self.searching = False
        self.size = target
        self.due_at: int | None = None
        self._low, self._high, self._tries = min(BASE, target), target, 0
        self._ended: int | None = None
        #: what the last search ended at; the look that comes next, an index of LOOKS or past it
        self._found, self._look = target, len(LOOKS)

    def due(self, now: int, busy: bool) -> bool:
        """`timeout` is to be called. `busy`: the session carries data."""
        if self.due_at is None:
            return False
        if self.due_at <= now:
            return True
        again = busy and not self.searching and self._ended is not None
        return again and now - (self._ended or 0) >= CONFIRM_INTERVAL

    @property
    def max_packet(self) -> int:
        return self.confirmed - OVERHEAD

    @property
    def narrow(self) -> int:
        """The longest datagram that the path carries, where a search found it below what the tunnel
        needs; else 0."""
        found = not self.searching and self._ended is not None
        return self.confirmed if found and self.confirmed < self.target else 0

    def start(self, now: int) -> None:
        """Search (again) from the top; what is confirmed stays until it is found wrong."""
        self._low, self._high, self._tries = min(BASE, self.target), self.target, 0
        self.size = self.target
        self.searching = self.target > BASE
        self.due_at = now if self.searching else None

    def take_over(self, other: PmtuSearch, now: int) -> None:
        """`other` is of a path with the same ends: what it found holds, and is looked at again."""
        self.confirmed = min(other.confirmed, self.target)
        self.start(now)

    def suspect(self, now: int) -> None:
        """Long datagrams may get lost: only the base is sure until a probe is answered."""
        self.confirmed = min(BASE, self.target)
        self.start(now)

    def seen(self, size: int, now: int) -> None:
        """The peer's probe of this size came this way: longer ones than we know of may do so now.

        The link that was widened is mostly one end's own, and the other one would not look for
        minutes.
        """
        rested = self._ended is not None and now - self._ended >= HINT_INTERVAL
        if not self.searching and rested and min(size, self.target) > self.confirmed:
            self.start(now)

    def retarget(self, target: int, now: int) -> None:
        if target == self.target:
            return
        self.target = self._found = target
        self.confirmed = min(self.confirmed, target)
        self.start(now)

    def timeout(self, now: int) -> bool:
        """`due_at` is up. True: send a probe of `size` now (and `sent` it)."""
        if not self.searching:
            if self._look < len(LOOKS) and self.due_at is not None and self.due_at <= now:
                self.size = self.target
                return True
            self.start(now)
            return self.searching
        if self._tries < TRIES:
            return True
        if self.confirmed >= self.size:
            self.confirmed = min(BASE, self.target)
        self._high = self.size - 1
        self._next(now)
        return self.searching

    def sent(self, now: int, wait: int) -> None:
        if not self.searching:
            self._look += 1
            self._rest(now)
            return
        self._tries += 1
        self.due_at = now + wait

    def answered(self, size: int, now: int) -> None:
        """A probe of this size arrived, whole."""
        if size > self.confirmed:
            self.confirmed = min(size, self.target)
            if not self.searching and self.confirmed == self.target:
                self._found, self._look = self.target, len(LOOKS)
                self._rest(now)
        if not self.searching or size <= self._low:
            return
        self._low = size
        self._next(now)

    def _next(self, now: int) -> None:
        if self._high - self._low < GRAIN:
            self.searching = False
            self._ended = now
            self._look = 0 if self.confirmed < min(self._found, self.target) else len(LOOKS)
            self._found = self.confirmed
            self._rest(now)
            return
        # Never the top again: that is where the search began.
        self.size = (self._low + self._high + 1) // 2
        self._tries = 0
        self.due_at = now

    def _rest(self, now: int) -> None:
        """Until the next look at the top, else until the next search."""
        if self._look < len(LOOKS):
            self.due_at = now + LOOKS[self._look]
        else:
            self.due_at = (self._ended or now) + RAISE_INTERVAL
