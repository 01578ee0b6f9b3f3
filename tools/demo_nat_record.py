"""What the NAT demo writes down: by which way bytes went to a peer, and when.

Times are seconds of CLOCK_MONOTONIC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from tools import demo_watch
from tools.demo_watch import End
from whalescale.cli.client import Connection
from whalescale.status import Path, Peer

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


class Watch(demo_watch.Watch[Peer]):
    """Looks at one peer of each agent."""

    def __init__(self, looks: Sequence[tuple[End, str]], anchors: Mapping[str, str]) -> None:
        """`looks`: an agent, and the peer that is looked at."""
        super().__init__([end for end, _ in looks])
        self.ways = {end.name: Ways(anchors) for end, _ in looks}
        self._peers = {end.name: peer for end, peer in looks}

    def ask(self, end: End, connection: Connection) -> Peer | None:
        status, _ = connection.status()
        return next((p for p in status.peers if p.name == self._peers[end.name]), None)

    def take(self, end: End, at: float, answer: Peer | None) -> None:
        self.ways[end.name].take(at, answer)
