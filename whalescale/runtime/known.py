"""Addresses of peers: what the flood defences (csrc/packet/gate.h, bpf/shield.bpf.c) go by.

Configured, authenticated or validated ones. An address that nobody vouches for any more is a
stranger's again; a peer keeps the last `OBSERVED_MOST` places that it was seen at, so that who
changes address with every packet fills no table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final, Protocol

from whalescale.protocol.places import PeerHandle

OBSERVED_MOST: Final = 16


class Guard(Protocol):
    """Who treats messages from these addresses better. Addresses are numeric text."""

    def know(self, ip: str) -> None: ...

    def forget(self, ip: str) -> None: ...


class Known:
    def __init__(self, *guards: Guard) -> None:
        self._guards = list(guards)
        #: latest last
        self._observed: dict[PeerHandle, tuple[str, ...]] = {}
        #: how many vouch for an address
        self._uses: Counter[str] = Counter()

    def add_guard(self, guard: Guard) -> None:
        self._guards.append(guard)
        for ip in self._uses:
            guard.know(ip)

    def configured(self, ips: Iterable[str], before: Iterable[str] = ()) -> None:
        """All that the configuration says of a peer, and what it said before."""
        old, new = dict.fromkeys(before), dict.fromkeys(ips)
        for ip in new:
            if ip not in old:
                self._use(ip)
        for ip in old:
            if ip not in new:
                self._drop(ip)

    def observed(self, peer: PeerHandle, ip: str) -> None:
        """An authenticated message came from there, or a probe's answer did."""
        before = self._observed.get(peer, ())
        if before[-1:] == (ip,):
            return
        seen = (*(i for i in before if i != ip), ip)
        self._observed[peer] = seen[-OBSERVED_MOST:]
        if ip not in before:
            self._use(ip)
        for gone in seen[:-OBSERVED_MOST]:
            self._drop(gone)

    def removed(self, peer: PeerHandle) -> None:
        """Nothing is configured of it any more."""
        for ip in self._observed.pop(peer, ()):
            self._drop(ip)

    def _use(self, ip: str) -> None:
        self._uses[ip] += 1
        if self._uses[ip] == 1:
            for guard in self._guards:
                guard.know(ip)

    def _drop(self, ip: str) -> None:
        self._uses[ip] -= 1
        if not self._uses[ip]:
            del self._uses[ip]
            for guard in self._guards:
                guard.forget(ip)
