"""A router that translates addresses, as a model: mapping x filtering x time-out x port allocation.

RFC 4787 names them: what a mapping depends on (`maps`), and whom it lets in (`filters`), each of
`Depends`. Time is the caller's, in ns: virtual in `natworld`, real in `tools/natbox.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from eventqueue import SECOND

from whalescale.protocol.places import Endpoint


class Depends(IntEnum):
    """On the other end's ..."""

    NOTHING = 0  # endpoint-independent
    ADDRESS = 1
    PORT = 2  # address and port

    def of(self, remote: Endpoint) -> tuple[object, ...]:
        return ((), (remote.ip,), (remote.ip, remote.port))[self]


@dataclass(eq=False)
class Mapping:
    inner: Endpoint
    port: int
    key: tuple[object, ...]
    used: int
    #: to whom something was sent, and when
    sent: dict[Endpoint, int] = field(default_factory=dict)


@dataclass(eq=False)
class Nat:
    """A router with one address outside; `outside` None: that is the Internet."""

    ip: str
    maps: Depends = Depends.NOTHING
    filters: Depends = Depends.PORT
    timeout: int = 60 * SECOND
    hairpin: bool = False
    #: what comes in keeps a mapping alive too
    inbound_refresh: bool = True
    #: the inner port, if it is free (else the next numbers)
    preserve: bool = False
    outside: Nat | None = None
    #: nothing of UDP gets through
    blocked: bool = False
    #: as Linux does where unknown input is taken: what came first has the place, and our own flow
    #: to it gets another port until there was silence
    yields: bool = False
    _came: dict[tuple[Endpoint, int], int] = field(default_factory=dict)
    _mappings: list[Mapping] = field(default_factory=list)
    _next_port: int = 20_000

    def forget(self) -> None:
        """It began anew, or its address is another."""
        self._mappings.clear()

    def forward(self, inner: Endpoint) -> Endpoint:
        """A mapping by hand, or by PCP: endpoint-independent, and it lets everybody in."""
        found = Mapping(inner, inner.port, ("static",), 1 << 62)
        self._mappings.append(found)
        return Endpoint(self.ip, found.port)

    def size(self, now: int) -> int:
        """How many mappings there are."""
        return len(self._live(now))

    def mapped(self, source: Endpoint, to: Endpoint) -> bool:
        """Whether what goes there from inside needs no new mapping."""
        keys = (("static",), self.maps.of(to))
        return any(m.inner == source and m.key in keys for m in self._mappings)

    def inside(self, source: Endpoint) -> bool:
        """Whether anything at this address has a mapping."""
        return any(m.inner.ip == source.ip for m in self._mappings)

    def _live(self, now: int) -> list[Mapping]:
        self._mappings = [m for m in self._mappings if now - m.used < self.timeout]
        return self._mappings

    def out(self, source: Endpoint, to: Endpoint, now: int) -> Endpoint:
        """Where it comes from as seen from outside."""
        key = self.maps.of(to)
        live = self._live(now)
        usual = next((m for m in live if m.inner == source and m.key == key), None)
        if usual is not None and to not in usual.sent:
            came = self._came.get((to, usual.port), -self.timeout)
            if now - came < self.timeout:
                key = ("moved", to.ip, to.port)
        static = next((m for m in live if m.key == ("static",) and m.inner == source), None)
        found = static or next((m for m in live if m.inner == source and m.key == key), None)
        if found is None:
            taken = {m.port for m in live}
            port = source.port if self.preserve else self._next_port
            while port in taken:
                port += 1
            self._next_port = max(self._next_port + 7, port + 1) % 40_000 + 20_000
            found = Mapping(source, port, key, now)
            self._mappings.append(found)
        if found is not static:
            found.used = now
        found.sent[to] = now
        return Endpoint(self.ip, found.port)

    def into(self, source: Endpoint, port: int, now: int) -> Endpoint | None:
        """To whom it goes inside; None: to nobody."""
        for found in self._live(now):
            if found.port != port:
                continue
            if found.key == ("static",):
                return found.inner
            wanted = self.filters.of(source)
            fresh = (to for to, at in found.sent.items() if now - at < self.timeout)
            if self.filters is Depends.NOTHING or any(self.filters.of(t) == wanted for t in fresh):
                if self.inbound_refresh:
                    found.used = now
                    for to in found.sent:
                        if self.filters.of(to) == wanted:
                            found.sent[to] = now
                return found.inner
            if self.yields:
                self._came[source, port] = now
        return None
