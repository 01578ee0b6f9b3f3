"""A member's messages passed on by another (docs/nat.md, "Signalling"): what is carried, for whom.

One hop: what was passed on once goes no further. Who sent it is whom the session belongs to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from whalescale.protocol.buckets import Bucket
from whalescale.protocol.control import ControlError
from whalescale.protocol.guest import Host
from whalescale.protocol.inside import Inside
from whalescale.protocol.nat.signalling import (
    Message,
    Refusal,
    Refused,
    What,
    encode,
    tellable,
)
from whalescale.protocol.places import PeerHandle

#: (a second, at once), as a carrier: from one member, for one member
FROM_MEMBER: Final = (10, 30)
FOR_MEMBER: Final = (20, 60)


class Carrier:
    """Of one node, for all its peers."""

    __slots__ = ("_for", "_from", "_host", "carries", "counts", "inside")

    def __init__(self, host: Host) -> None:
        self._host = host
        self._from: dict[PeerHandle, Bucket] = {}
        self._for: dict[PeerHandle, Bucket] = {}
        self.inside = Inside()
        #: False: others' messages are refused
        self.carries = True
        #: messages and bytes passed on, and refused, by the name in `ws status`
        self.counts: Counter[str] = Counter()

    def forget(self, peer: PeerHandle) -> None:
        self._from.pop(peer, None)
        self._for.pop(peer, None)

    def pass_on(
        self,
        sender: PeerHandle,
        message: Message,
        find: Callable[[bytes], PeerHandle | None],
        now: int,
    ) -> None:
        """`message` came from a member's session. `find`: the peer that is this active member.

        ControlError: refused and not answered.
        """
        node_id = self._host.peer(sender).node_id
        if node_id is None:
            raise ControlError("relay_member")
        if not self._bucket(self._from, sender, FROM_MEMBER).take(now):
            self._refuse(sender, message, Refusal.RATE)
            return
        if not self.carries:
            self._refuse(sender, message, Refusal.OFF)
            return
        receiver = find(message.node)
        if receiver is None or receiver == sender or not self._host.speaks(receiver):
            self._refuse(sender, message, Refusal.SESSION)
            return
        if not self._bucket(self._for, receiver, FOR_MEMBER).take(now):
            self._refuse(sender, message, Refusal.RATE)
            return
        view = self._host.peer(sender)
        seen = view.endpoint
        if seen is not None and not (
            tellable(seen) and not self.inside.holds(seen.ip) and self._host.is_direct(sender, now)
        ):
            seen = None
        told = Message(What.FORWARDED, message.kind, node_id, message.payload, seen)
        self.counts["messages"] += 1
        self.counts["bytes"] += len(message.payload)
        self._host.frame(receiver, encode(told))

    def _bucket(
        self, of: dict[PeerHandle, Bucket], peer: PeerHandle, rate: tuple[int, int]
    ) -> Bucket:
        if peer not in of:
            of[peer] = Bucket(*rate)
        return of[peer]

    def _refuse(self, sender: PeerHandle, message: Message, reason: Refusal) -> None:
        self.counts["refused"] += 1
        self._host.drop(f"relay_{reason.name.lower()}")
        self._host.frame(sender, encode(Refused(message.node, reason)))
