"""New destinations that a node tries: a home router keeps an entry for each, and dies of too many.

Of the whole node: dialling, probes of what peers announce, and punching. It is for members of a
network, whose places are what others say; a peer by hand is where its owner says. A place that the
peer was heard from is none that is tried.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from whalescale.protocol.buckets import Bucket
from whalescale.protocol.limits import NS_PER_S
from whalescale.protocol.places import Endpoint

#: 5 in any second, 60 in any minute
PER_S: Final = (1.0, 4.0)
PER_MINUTE: Final = (0.5, 30.0)
#: a router forgets a mapping after two minutes at most (RFC 4787: 2 min at least, some less)
AFTER: Final = 120 * NS_PER_S
#: both ends punch at one time, and dialling and probes come again by themselves: so many of either
#: are kept for that
KEPT: Final = (2.0, 10.0)
#: what was refused is asked for again so late
AGAIN: Final = NS_PER_S // 4
REMEMBERED: Final = 512


class Fresh:
    """Of one node. Times are ns."""

    __slots__ = ("_minute", "_second", "_sent", "allowed", "refused")

    def __init__(self) -> None:
        self._second = Bucket(*PER_S)
        self._minute = Bucket(*PER_MINUTE)
        #: latest, by destination, the latest used last
        self._sent: OrderedDict[Endpoint, int] = OrderedDict()
        #: destinations that were new, and times that one was not to be sent to
        self.allowed = 0
        self.refused = 0

    def allow(self, remote: Endpoint, now: int, *, punch: bool = False) -> bool:
        """Count a datagram to there. False: it must not be sent."""
        last = self._sent.get(remote)
        if last is None or now - last > AFTER:
            second, minute = (0.0, 0.0) if punch else KEPT
            # Both, so that neither is charged for what the other refuses.
            if not (self._second.ready(now, 1 + second) and self._minute.ready(now, 1 + minute)):
                self.refused += 1
                return False
            self._second.take(now)
            self._minute.take(now)
            self.allowed += 1
        self._sent[remote] = now
        self._sent.move_to_end(remote)
        while len(self._sent) > REMEMBERED:
            self._sent.popitem(last=False)
        return True
