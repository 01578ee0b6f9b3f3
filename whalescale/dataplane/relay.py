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
    #: of those sent on: by the kernel
    kernel_datagrams: int = 0
    kernel_bytes: int = 0


class InKernel(NamedTuple):
    """struct ws_relay_program: the relay in the kernel."""

    loaded: bool = False
    #: that it has; the workers have all
    bindings: int = 0
    #: why one is not there, of the last such: an errno; 0: all are
    error: int = 0
    datagrams: int = 0
    bytes: int = 0
    elsewhere: int = 0
    over: int = 0
    #: left to the workers
    up: int = 0
    lost: int = 0
    #: dropped: over too many routers
    hops: int = 0


def _carried(c: Any) -> Carried:
    return Carried(c.datagrams, c.bytes, c.elsewhere, c.over, c.kernel_datagrams, c.kernel_bytes)


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
        until: int = 0,
    ) -> None:
        """Datagrams for `index` from one of `places` go to `remote`, longer ones than `most_bytes`
        (0: any) are dropped. `sender`: number of the peer that is there. `until` (ns): the kernel's
        relay goes by it, 0: it does not have this one. OSError: EEXIST, it is a session's of ours;
        ENOSPC."""
        c = ffi.new("struct ws_relay *")
        c.index, c.sender, c.most_bytes, c.until_ns = index, sender, most_bytes, until
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

    def beat(self) -> InKernel:
        """Keep the kernel's relay going, and look the routes of its bindings up again: each second
        or so. It stops after fifteen without."""
        c = ffi.new("struct ws_relay_program *")
        lib.ws_relay_beat(self._engine.handle, c)
        return InKernel(
            bool(c.loaded),
            c.bindings,
            c.error,
            c.datagrams,
            c.bytes,
            c.elsewhere,
            c.over,
            c.up,
            c.lost,
            c.hops,
        )

    def use_kernel(self, on: bool) -> None:
        """Off: the workers relay all."""
        lib.ws_relay_use_kernel(self._engine.handle, int(on))
