"""What an anchor has been asked to relay: who may bind which index, how much, how long.

Pure: the table and its rules. relay.py speaks the frames, the data plane carries it out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from whalescale.protocol.limits import NS_PER_S
from whalescale.protocol.nat.relay_frames import LIFETIME_MOST, Refusal
from whalescale.protocol.places import PeerHandle

#: 32 peers with three keypairs each
PER_MEMBER: Final = 96
IN_ALL: Final = 4096


@dataclass(slots=True)
class Binding:
    """Datagrams for `index` from where `sender` is go to `owner`."""

    index: int
    owner: PeerHandle
    sender: PeerHandle
    #: ns of CLOCK_BOOTTIME
    ends: int


class Bindings:
    """Every method that ends bindings returns them."""

    __slots__ = ("_due", "_ours", "_table", "_used", "members")

    def __init__(self, ours: Callable[[int], bool], members: int) -> None:
        """`ours`: the index is one of this node's own sessions. `members`: that may bind."""
        self._ours = ours
        self.members = members
        self._table: dict[int, Binding] = {}
        self._used: Counter[PeerHandle] = Counter()
        #: not later than the first end; asked for at every input
        self._due: int | None = None

    def __len__(self) -> int:
        return len(self._table)

    def __iter__(self) -> Iterator[Binding]:
        return iter(tuple(self._table.values()))

    def get(self, index: int) -> Binding | None:
        return self._table.get(index)

    @property
    def owners(self) -> int:
        """Members that have bindings."""
        return len(self._used)

    def of(self, peer: PeerHandle) -> list[Binding]:
        """Those that it bound, and those of what it sends."""
        return [b for b in self._table.values() if peer in (b.owner, b.sender)]

    def bind(
        self, index: int, owner: PeerHandle, sender: PeerHandle, seconds: int, now: int
    ) -> Binding | Refusal:
        """Bound anew, or for longer."""
        ends = now + min(seconds, LIFETIME_MOST) * NS_PER_S
        found = self._table.get(index)
        if found is not None and found.ends <= now:
            self._remove(found)
            found = None
        others = found is not None and (found.owner, found.sender) != (owner, sender)
        if others or self._ours(index):
            return Refusal.TAKEN
        if found is not None:
            found.ends = ends
            self._due = min(self._due or ends, ends)
            return found
        has = self._used[owner]
        if len(self._table) >= IN_ALL or has >= PER_MEMBER:
            return Refusal.ROOM
        if not has and self.owners >= self.members:
            return Refusal.ROOM
        self._used[owner] += 1
        self._due = min(self._due or ends, ends)
        made = self._table[index] = Binding(index, owner, sender, ends)
        return made

    def unbind(self, index: int, owner: PeerHandle) -> list[Binding]:
        """Nobody's but its own."""
        found = self._table.get(index)
        if found is None or found.owner != owner:
            return []
        self._remove(found)
        return [found]

    def end(self, peer: PeerHandle) -> list[Binding]:
        """The peer is there no longer."""
        found = self.of(peer)
        for binding in found:
            self._remove(binding)
        return found

    def expire(self, now: int) -> list[Binding]:
        found = [b for b in self._table.values() if b.ends <= now]
        for binding in found:
            self._remove(binding)
        self._due = min((b.ends for b in self._table.values()), default=None)
        return found

    def deadline(self) -> int | None:
        return self._due

    def _remove(self, binding: Binding) -> None:
        del self._table[binding.index]
        self._used[binding.owner] -= 1
        if not self._used[binding.owner]:
            del self._used[binding.owner]
