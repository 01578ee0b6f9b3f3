"""When a hole is punched, and what it may cost (docs/nat.md, "Punching").

Both ends send to each other's places at the same time. Where nothing comes of it, routers that saw
the other end's datagram first may have given ours another port, until there was silence for longer
than they remember: so few rounds, far apart, and none without an end.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from whalescale.protocol.limits import NS_PER_S, PUNCH_AT
from whalescale.protocol.places import Endpoint

#: after the end of the first round and of the second; then only when something has changed
AGAIN_AFTER: Final = (35 * NS_PER_S, 120 * NS_PER_S)
#: after the last datagram of a round
LAST_WAIT: Final = NS_PER_S

#: to an address that its owner alone names
UNVOUCHED: Final = 2
UNVOUCHED_EVERY: Final = 60 * NS_PER_S
REMEMBERED: Final = 512


class Budget:
    """Of one node: where punching may send to. Times are ns."""

    __slots__ = ("_fresh", "_sent", "refused")

    def __init__(self, fresh: Callable[[Endpoint, int], bool]) -> None:
        """`fresh`: whether a destination may be sent to as far as the whole node is concerned."""
        self._fresh = fresh
        #: latest and last but one, by destination, the latest used last
        self._sent: OrderedDict[Endpoint, tuple[int, int | None]] = OrderedDict()
        #: datagrams that were not sent, for nobody but its owner names the place
        self.refused = 0

    def allow(self, remote: Endpoint, vouched: bool, now: int) -> bool:
        """Count a datagram to there. False: it must not be sent.

        `vouched`: who carried the call sees the peer at this address, and the peer names it too.
        """
        last, before = self._sent.get(remote, (None, None))
        if not vouched and before is not None and now - before < UNVOUCHED_EVERY:
            self.refused += 1
            return False
        if not self._fresh(remote, now):
            return False
        self._sent[remote] = now, last
        self._sent.move_to_end(remote)
        while len(self._sent) > REMEMBERED:
            self._sent.popitem(last=False)
        return True


class Round:
    """Datagrams to a peer's places, at the times of PUNCH_AT after `start`."""

    __slots__ = ("_next", "due_at", "places", "start")

    def __init__(self, places: tuple[tuple[Endpoint, bool], ...], start: int) -> None:
        """`places`: (endpoint, vouched), best first."""
        self.places = places
        self.start = start
        self._next = 0
        #: None: the round is over
        self.due_at: int | None = start

    def take(self, budget: Budget, now: int) -> list[tuple[Endpoint, bool]]:
        """Where to send now. The times that were missed are not made up for."""
        if self.due_at is None or self.due_at > now:
            return []
        if self._next >= len(PUNCH_AT):
            self.due_at = None
            return []
        while self._next < len(PUNCH_AT) and self.start + PUNCH_AT[self._next] <= now:
            self._next += 1
        over = self._next >= len(PUNCH_AT)
        self.due_at = now + LAST_WAIT if over else self.start + PUNCH_AT[self._next]
        return [place for place in self.places if budget.allow(*place, now)]
