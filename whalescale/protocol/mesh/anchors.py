"""Members that others count on to be found: which they are, how many live, what lacks.

An anchor says so in its endpoint record; it must be allowed to by its member record. It lives while
somebody has a session with it; we know of our own sessions. Anchors watch each other (`Watch`), and
one that is to be one by itself must have been reached at one place for long (`Tenure`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final

from whalescale.protocol.limits import NS_PER_S
from whalescale.protocol.mesh.membership import Membership
from whalescale.protocol.mesh.records import EndpointRecord, Kind
from whalescale.protocol.mesh.table import Table
from whalescale.protocol.places import Endpoint

#: between two questions to an anchor, after an answer; then again, and until it is lost
WATCH_EVERY: Final = 4 * NS_PER_S
WATCH_AGAIN: Final = (NS_PER_S, NS_PER_S, 2 * NS_PER_S)
#: anchors that one watches
WATCH_MAX: Final = 4
#: members, about, that watch an anchor which is the only one: 16 questions a second
LONE_WATCHERS: Final = 64
#: an anchor that another one gave up is asked for no more often
SUSPECT_GAP: Final = 5 * NS_PER_S

#: at one public place for so long, of our running: it is a stable one
STABLE: Final = 86_400 * NS_PER_S
#: for so long it may be proved no more, or be gone, and count as the same when it is back
AWAY: Final = 600 * NS_PER_S
#: how often it is written down
SAVE_EVERY: Final = 600 * NS_PER_S


class Advice(Enum):
    """What a person should know about the anchors."""

    NONE = "none"
    LAST = "last"
    ONE_NETWORK = "one network"


@dataclass(frozen=True, slots=True)
class Anchors:
    """`known` of the whole network, ours too if we are one; `alive` as far as we can tell."""

    known: tuple[bytes, ...]
    alive: tuple[bytes, ...]
    advice: Advice | None


def known_anchors(table: Table, membership: Membership) -> list[bytes]:
    """Members that may be one, say that they are one, and where."""
    found = (e.subject for e in membership.members() if e.may_anchor)
    return [n for n in found if (told := table.of(Kind.ENDPOINTS, n)) and told.acts_as_anchor]


def judge(
    ours: bytes,
    known: Iterable[bytes],
    sessions: Iterable[bytes],
    table: Table,
) -> Anchors:
    """`sessions`: whom we have one with."""
    anchors = tuple(known)
    have = {ours, *sessions}
    alive = tuple(a for a in anchors if a in have)
    advice = None
    if not alive:
        advice = Advice.NONE
    elif len(alive) == 1:
        advice = Advice.LAST
    elif len({n for a in alive for n in _networks(table.endpoints(a))}) == 1:
        advice = Advice.ONE_NETWORK
    return Anchors(anchors, alive, advice)


def _networks(record: EndpointRecord | None) -> set[IPv4Network | IPv6Network]:
    """Public networks that it is in, as providers give them out: /24 and /48."""
    found = set()
    for place in record.places if record else ():
        ip = ip_address(place.endpoint.ip)
        if ip.is_global:
            found.add(ip_network(f"{ip}/{24 if ip.version == 4 else 48}", strict=False))
    return found


@dataclass(slots=True)
class _Watched:
    """Times are ns. `asked`: questions without an answer. `once`: no more after the answer."""

    at: int
    asked: int = 0
    once: bool = False


class Watch:
    """Anchors that are asked whether they are there: a SUMMARY is the question, any frame an
    answer. Who answers no more is lost within 8 s, where a session's own timers need 30.
    """

    __slots__ = ("_suspected", "_watched")

    def __init__(self) -> None:
        self._watched: dict[bytes, _Watched] = {}
        self._suspected: dict[bytes, int] = {}

    def follow(self, anchors: Iterable[bytes], now: int) -> None:
        """Those to be watched, all of whom have sessions."""
        chosen = list(anchors)[:WATCH_MAX]
        for node_id in [n for n, w in self._watched.items() if n not in chosen and not w.once]:
            del self._watched[node_id]
        for node_id in chosen:
            self._watched.setdefault(node_id, _Watched(now + WATCH_EVERY)).once = False

    def suspect(self, node_id: bytes, now: int) -> None:
        """Another one says that it is dead. Is it? We have a session with it."""
        if now - self._suspected.get(node_id, -SUSPECT_GAP) < SUSPECT_GAP:
            return
        self._suspected = {n: t for n, t in self._suspected.items() if now - t < SUSPECT_GAP}
        self._suspected[node_id] = now
        watched = self._watched.get(node_id)
        if watched is None:
            self._watched[node_id] = _Watched(now, once=True)
        elif not watched.asked:
            watched.at = now

    def heard(self, node_id: bytes, now: int) -> None:
        watched = self._watched.get(node_id)
        if watched is None:
            return
        if watched.once and watched.asked:
            del self._watched[node_id]
        else:
            watched.asked, watched.at = 0, now + WATCH_EVERY

    def forget(self, node_id: bytes) -> None:
        self._watched.pop(node_id, None)

    def deadline(self) -> int | None:
        return min((w.at for w in self._watched.values()), default=None)

    def handle_timeout(self, now: int) -> tuple[list[bytes], list[bytes]]:
        """(whom to ask, who is lost)."""
        ask, lost = [], []
        for node_id, watched in tuple(self._watched.items()):
            if watched.at > now:
                continue
            if watched.asked == len(WATCH_AGAIN):
                lost.append(node_id)
                del self._watched[node_id]
                continue
            watched.at = now + WATCH_AGAIN[watched.asked]
            watched.asked += 1
            ask.append(node_id)
        return ask, lost


class Tenure:
    """For how long we have been reached at one public place. No wall clock: only our running
    counts, so that a board without a clock cannot be wrong.
    """

    __slots__ = ("_away_at", "_counted_at", "_held", "_saved_at", "place")

    def __init__(self, place: Endpoint | None = None, seconds: int = 0, now: int = 0) -> None:
        self.place = place
        self._held = seconds * NS_PER_S
        #: while it is proved: until when it was counted
        self._counted_at: int | None = None
        self._away_at: int | None = now if place is not None else None
        self._saved_at = now

    @property
    def seconds(self) -> int:
        return self._held // NS_PER_S

    @property
    def is_stable(self) -> bool:
        """It is proved now, and has been for long."""
        return self._counted_at is not None and self._held >= STABLE

    def follow(self, proved: Collection[Endpoint], now: int) -> None:
        """Public places that are proved."""
        if self._counted_at is not None:
            self._held += max(0, now - self._counted_at)
            self._counted_at = None
            self._away_at = now
        if self.place in proved and self.place is not None:
            self._counted_at, self._away_at = now, None
        elif self.place is None or self._away_at is None or now - self._away_at >= AWAY:
            self.place = next(iter(sorted(proved)), None)
            self._held = 0
            self._counted_at = now if self.place is not None else None
            self._away_at = None

    def save_due(self, now: int) -> bool:
        """Whether it is time to write it down; once each time."""
        if self.place is None or now - self._saved_at < SAVE_EVERY:
            return False
        self._saved_at = now
        return True

    def deadline(self) -> int | None:
        """When it is stable, or to be written down."""
        if self._counted_at is None:
            return None if self._away_at is None else self._away_at + AWAY
        saved = self._saved_at + SAVE_EVERY
        left = STABLE - self._held
        return min(saved, self._counted_at + left) if left > 0 else saved
