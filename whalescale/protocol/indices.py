"""The receiver indices that the other sides may write into their messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from whalescale.protocol.peer import Peer
from whalescale.protocol.places import PeerHandle


class IndexTable:
    """Random 32-bit indices, each of one peer, unique while a message may still carry it."""

    __slots__ = ("_peers", "_random")

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._peers: dict[int, Peer] = {}
        self._random = random

    def __len__(self) -> int:
        return len(self._peers)

    def get(self, index: int) -> Peer | None:
        return self._peers.get(index)

    def of(self, handle: PeerHandle) -> list[int]:
        return [index for index, peer in self._peers.items() if peer.handle == handle]

    def new(self, peer: Peer) -> int:
        """Not zero, and congruent to what the peer's worker needs."""
        while True:
            index = int.from_bytes(self._random(4), "little")
            index -= index % peer.index_modulus - peer.index_residue
            if 0 < index < 1 << 32 and index not in self._peers:
                self._peers[index] = peer
                return index

    def free(self, indices: Iterable[int]) -> None:
        for index in indices:
            del self._peers[index]
