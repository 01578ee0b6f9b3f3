"""What is known of the pairs that are not paths (yet), and how much may be sent to them.

Before it answered a probe an address is sent at most three times what came from it (RFC 9000
section 8), but for a few short probes to those that the authenticated peer or the user named; these
are paced, counted and bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from whalescale.protocol.buckets import Bucket
from whalescale.protocol.candidates import (
    NO_LINK,
    Candidate,
    Pair,
    Remote,
    Source,
    candidates,
    key_of,
    nowhere,
    reachable,
)
from whalescale.protocol.limits import NS_PER_S, PUNCH_AT
from whalescale.protocol.paths.frames import Entry
from whalescale.protocol.paths.health import ROUND
from whalescale.protocol.places import Endpoint, LocalLink

#: UDP payload of a short probe: not shorter than the reply to it
PROBE_DATAGRAM: Final = 80
RETRY: Final = 30 * NS_PER_S
RETRY_MOST: Final = 300 * NS_PER_S
#: while the session carries no data
RETRY_IDLE: Final = 3600 * NS_PER_S
AMPLIFICATION: Final = 3
CREDIT_MOST: Final = 4096
MAX_OBSERVED: Final = 16
OBSERVED_FOR: Final = 300 * NS_PER_S
#: addresses that a hole is punched to are candidates for so long, if no path comes of them
PUNCHED_FOR: Final = 30 * NS_PER_S
MAX_PUNCHED: Final = 8
#: pairs that the peer sends over and that are new: each makes all the candidates anew
NEW_PAIRS_PER_S: Final = 4
NEW_PAIRS_BURST: Final = 16
#: rounds of probes to addresses that nothing came from yet
UNHEARD_PER_S: Final = 4
UNHEARD_BURST: Final = 64
REPLIES_PER_S: Final = 50
#: address lists taken; three at once, since they may bunch up on the way
LISTS_PER_S: Final = 1
LISTS_BURST: Final = 3
#: times that paths begin anew: the peer speaks of them (again), or its epoch is another
STARTS_PER_S: Final = 1
STARTS_BURST: Final = 3


class Buckets:
    """What one peer can make us do. They outlive its path managers, and who begins anew again and
    again gets no more of it."""

    __slots__ = ("lists", "new_pairs", "replies", "starts", "unheard")

    def __init__(self) -> None:
        self.starts = Bucket(STARTS_PER_S, STARTS_BURST)
        self.lists = Bucket(LISTS_PER_S, LISTS_BURST)
        self.new_pairs = Bucket(NEW_PAIRS_PER_S, NEW_PAIRS_BURST)
        self.unheard = Bucket(UNHEARD_PER_S, UNHEARD_BURST)
        self.replies = Bucket(REPLIES_PER_S, REPLIES_PER_S)


@dataclass(slots=True)
class Memory:
    """Of one candidate pair; outlives the path numbers that it is given."""

    candidate: Candidate
    #: when it may be probed (again)
    next_at: int
    #: bytes that may be sent before it is validated
    credit: int = 0
    #: rounds of probes in a row without an answer
    rounds: int = 0
    #: the peer sent from there
    heard_at: int | None = None
    #: it was heard of since it was last given up: it goes before the others
    urgent: bool = False
    #: see Path.replaces
    replaces: Pair | None = None
    #: both ends try it now
    punched: bool = False
    #: the peer announced where it leads, or the user configured it
    named: bool = False

    @property
    def unasked(self) -> bool:
        """Nothing that came from there pays for a probe."""
        return self.heard_at is None or self.credit < PROBE_DATAGRAM

    def heard(self, datagram_bytes: int, now: int) -> None:
        self.heard_at = now
        self.credit = min(self.credit + AMPLIFICATION * datagram_bytes, CREDIT_MOST)

    def begin(self) -> None:
        """A round of probes: to an address that was named a few go unasked. Also where the peer was
        seen there once: when both ends have probed a link that was dead, neither is heard."""
        if self.named and (self.unasked or self.candidate.source is not Source.OBSERVED):
            rounds = len(PUNCH_AT) if self.punched else ROUND
            self.credit = max(self.credit, rounds * PROBE_DATAGRAM)

    def spend(self, datagram_bytes: int) -> bool:
        """False: it must not be sent."""
        if datagram_bytes > self.credit:
            return False
        self.credit -= datagram_bytes
        return True

    def give_up(self, now: int, most: int = RETRY_MOST) -> None:
        self.rounds += 1
        self.next_at = now + min(RETRY << min(self.rounds - 1, 8), most)
        self.urgent = self.punched = False


@dataclass(slots=True)
class Observed:
    """A pair that the peer sent over without our knowing of it before."""

    local_ip: str
    remote: Endpoint
    at: int
    link: int = NO_LINK


@dataclass(slots=True)
class Book:
    """Local addresses, the peer's addresses, and the candidates that they make."""

    links: tuple[LocalLink, ...] = ()
    port: int = 0
    configured: tuple[Endpoint, ...] = ()
    #: (remote, local) by which anchors relay to the peer
    relays: tuple[tuple[Endpoint, Endpoint | None], ...] = ()
    announced: tuple[Entry, ...] = ()
    observed: dict[Pair, Observed] = field(default_factory=dict)
    entries: dict[Pair, Memory] = field(default_factory=dict)
    #: of the paths there are: those are not forgotten to make room
    in_use: Callable[[], Collection[Pair]] = tuple
    #: of IPs: no peer can be there (protocol/inside.py)
    inside: Callable[[str], bool] = nowhere
    #: where the peer may be for some time, as a third one says, and until when
    punched: dict[Endpoint, int] = field(default_factory=dict)
    #: where the peer has answered probes, the latest last
    answered: dict[Endpoint, None] = field(default_factory=dict)

    def prove(self, remote: Endpoint) -> None:
        """The peer has answered from there."""
        self.answered.pop(remote, None)
        self.answered[remote] = None
        while len(self.answered) > MAX_OBSERVED:
            del self.answered[next(iter(self.answered))]

    def proven(self, remote: Endpoint) -> bool:
        """It did, or an anchor is there, or both ends try it now, which is counted elsewhere."""
        known = self.answered.keys() | self.punched.keys()
        return remote in known or any(remote == e for e, _ in self.relays)

    def link_of(self, local: Endpoint | None) -> LocalLink | None:
        """The link that has this address."""
        if local is None:
            return None
        for link in self.links:
            if link.ip == local.ip and (not local.scope_id or link.ifindex == local.scope_id):
                return link
        return None

    def remote_link(self, remote: Endpoint) -> int:
        """The peer's number of the interface with this address, as far as announced."""
        for entry in self.announced:
            if entry.endpoint[:2] == remote[:2]:
                return entry.link
        return NO_LINK

    def announce(self, entries: tuple[Entry, ...]) -> set[int]:
        """The peer's new list. What it no longer names is gone, though it was seen there.

        Returns the peer's numbers of interfaces that are gone, and are none of others now.
        """
        left = {e.link for e in self.announced} - {e.link for e in entries} - {NO_LINK}
        gone = {e.endpoint[:2] for e in self.announced} - {e.endpoint[:2] for e in entries}
        self.announced = entries
        for pair in [p for p in self.observed if p[1][:2] in gone]:
            del self.observed[pair]
        return left

    def refresh(self, now: int, *, anew: bool = False) -> None:
        """Make the candidates again; `anew`: those that failed before are tried at once."""
        remotes = [
            *(
                Remote(o.remote, Source.OBSERVED, o.link, o.local_ip)
                for o in sorted(self.observed.values(), key=lambda o: -o.at)
            ),
            *(Remote(e, Source.CONFIGURED, self.remote_link(e)) for e in self.configured),
            *(
                Remote(e, Source.CONFIGURED, local_ip=key_of(local) if local else None)
                for e, local in self.relays
            ),
            *(Remote(e.endpoint, Source.ANNOUNCED, e.link) for e in self.announced),
            *(Remote(e, Source.CONFIGURED, self.remote_link(e)) for e in self.punched),
        ]
        # An announced link-local address has no zone yet.
        named = {r.endpoint[:2] for r in remotes if r.source is not Source.OBSERVED}
        old = self.entries
        self.entries = {}
        remotes = [r for r in remotes if not self.inside(r.endpoint.ip)]
        for candidate in candidates(self.links, self.port, remotes, self.in_use()):
            memory = old.get(candidate.pair)
            if memory is None:
                memory = Memory(candidate, now)
            else:
                memory.candidate = candidate
                if anew:
                    memory.next_at, memory.rounds = min(memory.next_at, now), 0
            memory.named = candidate.remote[:2] in named
            self.entries[candidate.pair] = memory

    def observe(self, pair: Pair, link: int, now: int) -> Memory | None:
        """The peer sent over a pair that is no path. None: no address that a path could have."""
        known = self.observed.get(pair)
        if known is None:
            if not reachable(pair[1]) or self.inside(pair[1].ip):
                return None
            while len(self.observed) >= MAX_OBSERVED:
                keep = self.in_use()
                spare = [p for p in self.observed if p not in keep] or list(self.observed)
                del self.observed[min(spare, key=lambda p: self.observed[p].at)]
            self.observed[pair] = Observed(*pair, now, link)
        else:
            known.at = now
            if link != NO_LINK:
                known.link = link
        memory = self.entries.get(pair)
        if memory is None:
            self.refresh(now)
            memory = self.entries.get(pair)
        elif link not in (NO_LINK, memory.candidate.remote_link):
            memory.candidate = replace(memory.candidate, remote_link=link)
        return memory

    def punch(self, remotes: Sequence[Endpoint], now: int) -> None:
        """Both ends try these now."""
        before = set(self.punched)
        for remote in remotes:
            if reachable(remote) and not self.inside(remote.ip):
                self.punched.pop(remote, None)
                self.punched[remote] = now + PUNCHED_FOR
        while len(self.punched) > MAX_PUNCHED:
            del self.punched[next(iter(self.punched))]
        if set(self.punched) != before:
            self.refresh(now)
        for memory in self.entries.values():
            if memory.candidate.remote in self.punched and memory.candidate.remote in remotes:
                memory.urgent = memory.punched = True
                memory.next_at = min(memory.next_at, now)

    def hasten(self, now: int) -> None:
        """The session carries data again."""
        for memory in self.entries.values():
            memory.next_at = min(memory.next_at, now + RETRY_MOST)

    def expire(self, now: int) -> None:
        """Forget what was observed, or punched, long ago."""
        keep = self.in_use()
        over = [e for e, until in self.punched.items() if until <= now]
        if over and not any(pair[1] in over for pair in keep):
            for remote in over:
                del self.punched[remote]
            self.refresh(now)
        old = [
            pair
            for pair, o in self.observed.items()
            if now - o.at > OBSERVED_FOR and pair not in keep
        ]
        for pair in old:
            del self.observed[pair]
        if old:
            self.refresh(now)
