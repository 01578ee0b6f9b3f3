"""What the NAT demo writes down: by which way bytes went to a peer, and when.

Times are seconds of CLOCK_MONOTONIC.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, Self

from tools.demo_view import connect
from whalescale.cli.client import Connection
from whalescale.cli.common import CliError
from whalescale.status import Path, Peer

LOOK_S: Final = 0.1
DIRECT: Final = "direct"


def by(anchor: str) -> str:
    """The word for a way over that anchor."""
    return f"relay by {anchor}"


class Sample(NamedTuple):
    """Bytes since the sample before, by way; and the ways that could be used then."""

    at: float
    went: dict[str, int]
    usable: frozenset[str]


class Ways:
    """What an agent sent to one peer, by its own paths (a path's number is the sender's)."""

    def __init__(self, anchors: Mapping[str, str]) -> None:
        """`anchors`: their names by IP address."""
        self.samples: list[Sample] = []
        self._anchors = anchors
        self._counts: dict[tuple[int, str, str | None], int] = {}

    def way(self, path: Path) -> str:
        address = path.remote.rpartition(":")[0].strip("[]")
        return by(self._anchors.get(address, "?")) if path.relayed else DIRECT

    def take(self, at: float, peer: Peer | None) -> None:
        """None: the agent does not answer, or has no such peer."""
        went: dict[str, int] = {}
        paths = peer.multipath.paths if peer and peer.multipath else ()
        for path in paths:
            key = path.id, path.remote, path.local
            before = self._counts.get(key, 0)
            # A path that was given up and found again counts from nothing.
            more = path.tx_bytes - before if path.tx_bytes >= before else path.tx_bytes
            self._counts[key] = path.tx_bytes
            way = self.way(path)
            went[way] = went.get(way, 0) + more
        self.samples.append(Sample(at, went, frozenset(self.way(p) for p in paths if p.usable)))

    def total(self, way: str, start: float, end: float) -> int:
        """Bytes that went so between two times."""
        return sum(s.went.get(way, 0) for s in self.samples if start < s.at <= end)

    def usable(self) -> frozenset[str]:
        """The ways of the latest look; empty before the first."""
        return self.samples[-1].usable if self.samples else frozenset()


class Watch(threading.Thread):
    """Looks at one peer of each agent ten times a second; a context manager."""

    def __init__(
        self, ends: Sequence[tuple[str, str, str, str]], anchors: Mapping[str, str]
    ) -> None:
        """`ends`: name, interface, folder of the control socket, and the peer that is looked at."""
        super().__init__(daemon=True)
        self.ways = {name: Ways(anchors) for name, *_ in ends}
        self._ends = ends
        self._open: dict[str, Connection] = {}
        self._done = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join(5)

    def run(self) -> None:
        while not self._done.wait(LOOK_S):
            for name, interface, folder, peer in self._ends:
                found = self._ask(name, interface, folder, peer)
                self.ways[name].take(time.monotonic(), found)
        for connection in self._open.values():
            connection.__exit__()

    def _ask(self, name: str, interface: str, folder: str, peer: str) -> Peer | None:
        try:
            if name not in self._open:
                self._open[name] = connect(interface, folder)
            status, _ = self._open[name].status()
        except CliError:
            gone = self._open.pop(name, None)
            if gone is not None:
                gone.__exit__()
            return None
        return next((p for p in status.peers if p.name == peer), None)
