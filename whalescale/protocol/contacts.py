"""Where one peer may be reached, and the handshake message that is on its way there.

One message goes to one place after another until an answer comes, a quarter of a second apart as
in RFC 8305: what is first may be a dead address, or lie behind a link that has a carrier and no
more. The bytes are the same each time. A WireGuard peer takes what comes first and drops the rest
as replayed; its answer goes back the way that the first one came, so each new message begins with
another place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Final

from whalescale.protocol.candidates import Remote, Source, candidates, same_local
from whalescale.protocol.fresh import AGAIN, Fresh
from whalescale.protocol.limits import NS_PER_MS, NS_PER_S
from whalescale.protocol.places import Endpoint, LocalLink, Way

#: between two places (RFC 8305 section 8, "Connection Attempt Delay"), where no answer is awaited
GAP: Final = 250 * NS_PER_MS
GAP_MOST: Final = NS_PER_S
#: places for one message: at most these many datagrams in REKEY_TIMEOUT, and two seconds
MOST: Final = 8
#: places for one message, those included that are named beside our own
ALSO_MOST: Final = 16
#: a new message, 5 s after the last, goes where a hole was punched as well
PUNCHED_FOR: Final = 2 * NS_PER_S
#: addresses that the peer had before
SEEN_KEPT: Final = 4


class Contacts:
    """Of one peer. Times are ns of CLOCK_BOOTTIME."""

    __slots__ = (
        "_answered",
        "_configured",
        "_data",
        "_dialled",
        "_punched",
        "_seen",
        "_turn",
        "due_at",
        "ifindex",
    )

    def __init__(self, configured: Iterable[Endpoint]) -> None:
        self._configured = tuple(configured)
        #: by address: when an authentic message came from there
        self._seen: dict[Endpoint, int] = {}
        #: said something to the message before, but not all that was asked for (a cookie)
        self._answered: Way | None = None
        self._data: bytes | None = None
        #: where the message under way went, and when
        self._dialled: dict[Way, int] = {}
        #: beside what is known, for a moment: where a hole is punched
        self._punched: dict[Way, int] = {}
        self._turn = 0
        #: when it goes to the next place
        self.due_at: int | None = None
        #: by which interface the endpoint in use is reached, 0: as the routing table says
        self.ifindex = 0

    # what is known

    def configure(self, endpoints: Iterable[Endpoint], now: int) -> None:
        """A message under way goes to those that are new, as far as it may go to more places."""
        before, self._configured = self._configured, tuple(endpoints)
        self._turn = 0
        if self._data is not None and not set(before).issuperset(self._configured):
            self.due_at = now

    def seen(self, remote: Endpoint, now: int) -> None:
        """An authentic message came from there."""
        self._turn = 0
        self._seen[remote] = now
        while len(self._seen) > SEEN_KEPT:
            del self._seen[min(self._seen, key=self._seen.__getitem__)]

    @property
    def remotes(self) -> tuple[Endpoint, ...]:
        """Every address, configured or seen."""
        return tuple(dict.fromkeys((*self._configured, *self._seen)))

    def ways(
        self,
        links: Sequence[LocalLink],
        port: int,
        first: Iterable[Way] = (),
    ) -> list[Way]:
        """Every place, best first. `first`: what the caller knows to be good, or is in use.

        Then what the routing table makes of each address, both families by turns and IPv6 first,
        then the addresses by every interface that could reach them, if those are several.
        """
        newest = sorted(self._seen, key=lambda e: -self._seen[e])
        remotes = _by_turns(dict.fromkeys((*self._configured, *newest)), links)
        found = dict.fromkeys(first)
        found.update(dict.fromkeys(Way(remote) for remote in remotes))
        pairs = candidates(links, port, [Remote(e, Source.CONFIGURED) for e in remotes])
        for remote in {c.remote for c in pairs}:
            own = {c.link.ifindex for c in pairs if c.remote == remote}
            if len(own) < 2:
                pairs = [c for c in pairs if c.remote != remote]
        found.update(dict.fromkeys(Way(c.remote, c.local, c.link.ifindex) for c in pairs))
        return list(found)

    # a message under way

    @property
    def dialling(self) -> bool:
        return self._data is not None

    def dial(self, data: bytes, now: int, first: Way | None = None) -> None:
        """A new message. `first`: where it goes before all others."""
        self._data = data
        self._dialled = {}
        self._answered = first or self._answered
        self.due_at = now

    def again(self, now: int) -> None:
        """Other interfaces or addresses: the message under way goes everywhere once more."""
        if self._data is not None:
            self._dialled = {}
            self.due_at = now

    def also(self, way: Way, now: int, *, again: bool = False) -> bytes | None:
        """The message under way goes there too, beside the places of its own; None: there is
        none. It may go there again and again. `again`: the next message too, if it is soon."""
        if again:
            self._punched = {w: at for w, at in self._punched.items() if now - at < PUNCHED_FOR}
            if len(self._punched) < MOST:
                self._punched[way] = now
        if self._data is not None:
            self._dialled.pop(way, None)
            while len(self._dialled) >= ALSO_MOST:
                del self._dialled[next(iter(self._dialled))]
            self._dialled[way] = now
        return self._data

    def punched(self, now: int) -> list[Way]:
        """Where a message went `also` a moment ago."""
        return [way for way, at in self._punched.items() if now - at < PUNCHED_FOR]

    def next(
        self, ways: Sequence[Way], now: int, round_trip: int | None, fresh: Fresh | None = None
    ) -> tuple[bytes, Way] | None:
        """What to send now. `round_trip`: of the last handshake; None: there was none. `fresh`: may
        refuse places that the peer was not heard from."""
        if self._data is None or self.due_at is None or self.due_at > now:
            return None
        order = self._turned(ways)
        if self._answered is not None:
            order = [self._answered, *(w for w in order if w != self._answered)]
        left = [w for w in order if w not in self._dialled]
        if not left or len(self._dialled) >= MOST:
            self._rest()
            return None
        way = next((w for w in left if self._may_try(w.remote, now, fresh)), None)
        if way is None:
            self.due_at = now + AGAIN
            return None
        self._dialled[way] = now
        self.due_at = now + min(max(GAP, 2 * (round_trip or 0)), GAP_MOST)
        if len(self._dialled) >= min(MOST, len(order)):
            self._rest()
        return self._data, way

    def _may_try(self, remote: Endpoint, now: int, fresh: Fresh | None) -> bool:
        return fresh is None or remote in self._seen or fresh.allow(remote, now)

    def _turned(self, ways: Sequence[Way]) -> list[Way]:
        """The next message begins where this one did not get to, or else with another place.

        The second one with the second interface: the first is where the table's choice went.
        """
        if not ways:
            return []
        step = MOST
        if len(ways) <= MOST:
            step = 1 + sum(not way.ifindex for way in ways) % len(ways)
        done = self._turn * step
        at = (done + done // len(ways)) % len(ways)  # one further each round: all get their turn
        return [*ways[at:], *ways[:at]]

    def _rest(self) -> None:
        self.due_at = None
        self._answered = None
        self._turn += 1

    def hang_up(self) -> None:
        """There is an answer, or nobody waits for one."""
        self._data = self.due_at = None

    def dialled(self, remote: Endpoint, local: Endpoint | None) -> tuple[Way, int] | None:
        """(way, when) that the message went and from which this answer came."""
        fits = [
            (way, at)
            for way, at in self._dialled.items()
            if way.remote == remote
            and (way.local is None or local is None or same_local(way.local, local))
        ]
        # By an interface, if it went so; else the latest.
        return max(fits, key=lambda f: (f[0].ifindex, f[1]), default=None)

    def answered(self, remote: Endpoint, local: Endpoint | None) -> None:
        """From there came a word that is no answer yet: the next message goes there first."""
        found = self.dialled(remote, local)
        if found is not None:
            self._answered = found[0]


def _by_turns(remotes: Iterable[Endpoint], links: Sequence[LocalLink]) -> list[Endpoint]:
    """IPv6 and IPv4 by turns; last those of a family that this host has no address of."""
    have = {":" in link.ip for link in links if not link.link_local}
    usable = [e for e in remotes if not links or (":" in e.ip) in have]
    six, four = ([e for e in usable if (":" in e.ip) == v6] for v6 in (True, False))
    turns = [e for pair in zip_longest(six, four) for e in pair if e is not None]
    return [*turns, *(e for e in remotes if e not in turns)]
