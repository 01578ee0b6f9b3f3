"""What an anchor relays, in the engine (docs/nat.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from whalescale.dataplane.engine import Addr, Engine, check, ffi, fill_addr, lib

PLACES_MOST: Final = 8


class Carried(NamedTuple):
    """struct ws_relay_stats: of one binding."""

    datagrams: int = 0
    bytes: int = 0
    #: dropped: not from the sender's places
    elsewhere: int = 0
    #: dropped: over the sender's rate, or too long
    over: int = 0


def _carried(c: Any) -> Carried:
    return Carried(c.datagrams, c.bytes, c.elsewhere, c.over)


class Relay:
    """The relay calls of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def set(
        self,
        index: int,
        sender: int,
        places: Sequence[Addr],
        remote: Addr,
        local: Addr | None,
        most_bytes: int = 0,
    ) -> None:
        """Datagrams for `index` from one of `places` go to `remote`, longer ones than `most_bytes`
        (0: any) are dropped. `sender`: number of the peer that is there. OSError: EEXIST, it is a
        session's of ours; ENOSPC."""
        c = ffi.new("struct ws_relay *")
        c.index, c.sender, c.most_bytes = index, sender, most_bytes
        c.place_count = min(len(places), PLACES_MOST)
        for to, place in zip(c.places, places, strict=False):
            fill_addr(to, place)
        fill_addr(c.remote, remote)
        fill_addr(c.local, local)
        check(lib.ws_relay_set(self._engine.handle, c), "relay")

    def remove(self, index: int) -> Carried:
        """What it has carried; nothing if it is not bound."""
        last = ffi.new("struct ws_relay_stats *")
        lib.ws_relay_remove(self._engine.handle, index, last)
        return _carried(last)

    def list(self, most: int) -> dict[int, Carried]:
        """By index. Asks the workers."""
        if not most:
            return {}
        counts = ffi.new("struct ws_relay_count[]", most)
        found = lib.ws_relay_list(self._engine.handle, counts, most)
        return {c.index: _carried(c.stats) for c in counts[0:found]}

    def rate(self, bits_per_second: int) -> None:
        """Of each member; 0: no limit."""
        lib.ws_relay_rate(self._engine.handle, bits_per_second)
