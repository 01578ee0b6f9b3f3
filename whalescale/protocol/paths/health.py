"""One path: its round trips, probes under way and state (docs/multipath.md sections 5 and 6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from whalescale.protocol.candidates import NO_LINK, Pair, Source, key_of
from whalescale.protocol.limits import NS_PER_MS, NS_PER_S, PUNCH_AT
from whalescale.protocol.paths.pmtu import PmtuSearch
from whalescale.protocol.paths.types import PathState, Pin
from whalescale.protocol.places import Endpoint, LocalLink

PROBE_INTERVAL: Final = 250 * NS_PER_MS
#: probes of a candidate until it counts as not working, and while others wait for its number
ROUND: Final = 5
ROUND_CROWDED: Final = 3
HEARTBEAT_BUSY: Final = NS_PER_S
HEARTBEAT_IDLE: Final = 25 * NS_PER_S
#: a round trip is known after so many answers: one may have met a host that was busy just then
KNOWN_AFTER: Final = 3
#: probes in a row without an answer until a healthy path is failed
MISSES: Final = 3
#: of an idle spare's heartbeats one in so many asks for an answer
PROBE_EVERY: Final = 4
#: answers in a row until a failed path is healthy
ANSWERS: Final = 2
#: a failed path is probed each PROBE_INTERVAL for so long, then ever less
FAILED_EAGER: Final = 10 * NS_PER_S
FAILED_SLOWEST: Final = 5 * NS_PER_S

#: mean deviations of the round trip that an answer may take longer (RFC 6298)
DEVIATIONS: Final = 4
WAIT_LEAST: Final = 100 * NS_PER_MS
WAIT_FIRST: Final = 500 * NS_PER_MS
WAIT_MOST: Final = 2 * NS_PER_S
#: the least RTT is of the last one to two of these
MIN_WINDOW: Final = 15 * NS_PER_S
#: so much of what a path in use takes longer than it ever did may be its own queue
QUEUE_US: Final = 300_000
MAX_OUT: Final = 32

LOSS_LIMIT: Final = 0.05
RTT_FACTOR: Final = 4
#: a round trip is an illness only so much above the least: a short path's own queue is none
RTT_ABOVE_US: Final = 100_000
BAD_FOR: Final = NS_PER_S
GOOD_FOR: Final = 2 * NS_PER_S


@dataclass(frozen=True, slots=True)
class Out:
    """A probe under way."""

    sent: int
    size: int
    mtu: bool


class Path:
    """State of one path. Times are ns; None: never, or not armed."""

    __slots__ = (
        "_backoff",
        "_bad_since",
        "_good_since",
        "_least",
        "_min",
        "_min_before",
        "_min_since",
        "alarmed_at",
        "answered_at",
        "asked_at",
        "away",
        "carried",
        "failed_at",
        "heard_at",
        "id",
        "kept",
        "link",
        "local",
        "measurements",
        "misses",
        "mtu",
        "next_at",
        "observed",
        "out",
        "pin",
        "probed_at",
        "probes",
        "punched",
        "remote",
        "remote_link",
        "replaces",
        "row",
        "rtt_us",
        "rttvar_us",
        "seen",
        "silent",
        "source",
        "srtt_us",
        "state",
        "unheard",
        "used",
        "validated",
    )

    def __init__(
        self,
        number: int,
        local: Endpoint | None,
        remote: Endpoint,
        link: LocalLink | None,
        source: Source,
        now: int,
    ) -> None:
        self.id = number
        self.local = local
        self.remote = remote
        self.link = link
        #: path 0: the local address is gone for now
        self.away = False
        #: the longest time without an answer around its last failure, ns
        self.unheard = 0
        self.remote_link = NO_LINK
        self.source = source
        self.mtu = PmtuSearch(0, assumed=True)  # the table's owner sets the real one
        self.pin = Pin()
        self.state = PathState.PROBING
        self.validated = False
        #: data goes over it
        self.used = False
        #: data went over it at some time
        self.carried = False
        #: the pair that the peer seems to have left for this one
        self.replaces: Pair | None = None
        #: both ends try it at one time: probes go as PUNCH_AT has it
        self.punched = False
        #: where the peer sees us on it, and if that is no address of ours
        self.seen: Endpoint | None = None
        self.observed: Endpoint | None = None

        self.rtt_us: int | None = None
        self.srtt_us = 0
        self.rttvar_us = 0
        self._least: int | None = None  # ever
        self.measurements = 0
        self._min: int | None = None
        self._min_before: int | None = None
        self._min_since = now

        self.out: dict[bytes, Out] = {}
        self.probes = 0  # of this round
        self.probed_at: int | None = None
        self.next_at = now
        #: the first heartbeat without an answer
        self.asked_at: int | None = None
        self.misses = 0
        self.kept = 0
        self.row = 0  # answers in a row, while failed
        self.answered_at: int | None = None  # a reply, or an ACK that moved on
        self.heard_at: int | None = None
        self.failed_at: int | None = None
        self.alarmed_at: int | None = None  # failed, but only for a moment
        self._backoff = PROBE_INTERVAL
        self._bad_since: int | None = None
        self._good_since: int | None = None
        self.silent = 0

    @property
    def awaiting(self) -> bool:
        """The answer to a heartbeat is outstanding."""
        return self.asked_at is not None

    @property
    def pair(self) -> Pair | None:
        return None if self.local is None else (key_of(self.local), self.remote)

    @property
    def interface(self) -> str:
        return self.link.interface if self.link is not None else ""

    @property
    def alive(self) -> bool:
        return self.state in (PathState.HEALTHY, PathState.DEGRADED)

    @property
    def rtt_min_us(self) -> int | None:
        """The least of the last 15 to 30 s."""
        if self._min is None or self._min_before is None:
            return self._min
        return min(self._min, self._min_before)

    @property
    def own_rtt_us(self) -> int:
        """What tells it from others of the same link: without the queue of what goes over it. A
        spare, probed at times, has seen less of that queue."""
        least = self.rtt_min_us or self.srtt_us
        if not self.used or self._least is None:
            return least
        return max(self._least, least - QUEUE_US)

    @property
    def known(self) -> bool:
        """Whether its round trip is one to compare."""
        return self.measurements >= KNOWN_AFTER

    @property
    def wait(self) -> int:
        """How long an answer may take: RFC 6298's timeout, within bounds. ns."""
        if self.rtt_us is None:
            return WAIT_FIRST
        return min(max((self.srtt_us + DEVIATIONS * self.rttvar_us) * 1000, WAIT_LEAST), WAIT_MOST)

    # probes

    def sent(self, token: bytes, size: int, mtu: bool, now: int) -> None:
        """A probe is on its way."""
        self.out[token] = Out(now, size, mtu)
        if mtu:
            return
        self.probed_at = now
        self.probes += 1
        if self.state is PathState.PROBING:
            self.next_at = now + self._probe_gap
        elif self.state is PathState.FAILED:
            self.next_at = now + self._backoff
            if self.failed_at is not None and now - self.failed_at > FAILED_EAGER:
                self._backoff = min(self._backoff * 3 // 2, FAILED_SLOWEST)
        else:
            if self.asked_at is None:
                self.asked_at = now
            self.next_at = now + self.wait

    def forget_oldest(self) -> bytes:
        """A probe that is not waited for any more. Returns its token."""
        token = next(iter(self.out))
        del self.out[token]
        return token

    def take_over(self, other: Path, now: int) -> None:
        """`other` has the same ends: what is known of it holds here too."""
        self.state, self.validated = other.state, other.validated
        self.failed_at, self.answered_at, self.heard_at = (
            other.failed_at,
            other.answered_at,
            other.heard_at,
        )
        self.rtt_us, self.srtt_us, self.rttvar_us = other.rtt_us, other.srtt_us, other.rttvar_us
        self._min, self._min_before = other._min, other._min_before
        self._least = other._least
        self.measurements = other.measurements
        self.remote_link = other.remote_link
        self.probed_at = other.probed_at
        if other.validated:
            self.mtu.take_over(other.mtu, now)

    def missed(self) -> bool:
        """`next_at` is up with a heartbeat unanswered. True: that was one too many."""
        if not self.awaiting:
            return False
        self.misses += 1
        return self.misses >= MISSES

    @property
    def _probe_gap(self) -> int:
        if self.punched and self.probes < len(PUNCH_AT):
            return PUNCH_AT[self.probes] - PUNCH_AT[self.probes - 1]
        return PROBE_INTERVAL

    def round(self, crowded: bool) -> int:
        """Probes until it counts as not working."""
        if self.punched:
            return len(PUNCH_AT)
        return ROUND_CROWDED if crowded else ROUND

    def given_up(self, crowded: bool, now: int) -> bool:
        """No answer to a whole round. The last probe gets its time as well."""
        if self.state is not PathState.PROBING or self.probed_at is None:
            return False
        if self.probes < self.round(crowded):
            return False
        return now - self.probed_at >= (PROBE_INTERVAL if crowded else 2 * PROBE_INTERVAL)

    def keep_alive(self, busy: bool, now: int) -> bool:
        """A spare of an idle session: True if a HEARTBEAT will do this time, for the NATs' sake."""
        if busy or self.used or not self.alive or self.awaiting or not self.known:
            return False
        self.kept += 1
        if self.kept % PROBE_EVERY == 0:
            return False
        self.probed_at = now
        self.next_at = now + HEARTBEAT_IDLE
        return True

    def urge(self, now: int) -> None:
        """Probe now, or as soon as PROBE_INTERVAL allows."""
        soonest = now if self.probed_at is None else max(now, self.probed_at + PROBE_INTERVAL)
        if self.alive:
            # A probe that is out already tells as much.
            if self.awaiting:
                return
            soonest = now
        elif self.state is PathState.FAILED:
            self._backoff = PROBE_INTERVAL
        self.next_at = min(self.next_at, soonest)

    def heartbeat(self, interval: int, now: int) -> None:
        """Nothing is outstanding: the next heartbeat is due `interval` after the last."""
        if self.alive and not self.awaiting:
            last = self.probed_at if self.probed_at is not None else now
            self.next_at = max(last + interval, now)

    def measured(self, rtt_us: int, now: int) -> None:
        """A round trip, RFC 6298 section 2."""
        rtt_us = max(rtt_us, 1)
        self.measurements += 1
        if self.rtt_us is None:
            self.srtt_us, self.rttvar_us = rtt_us, rtt_us // 2
        else:
            self.rttvar_us += (abs(self.srtt_us - rtt_us) - self.rttvar_us) // 4
            self.srtt_us += (rtt_us - self.srtt_us) // 8
        self.rtt_us = rtt_us
        if now - self._min_since >= MIN_WINDOW:
            self._min_before, self._min, self._min_since = self._min, None, now
        self._min = rtt_us if self._min is None else min(self._min, rtt_us)
        self._least = rtt_us if self._least is None else min(self._least, rtt_us)

    def answered(self, now: int) -> None:
        if self.state is PathState.FAILED and self.answered_at is not None:
            self.unheard = max(self.unheard, now - self.answered_at)
        self.answered_at = now

    def arrived(self, now: int) -> None:
        """What we send over it arrives: an answer, or an ACK that moved on."""
        self.answered(now)
        self.asked_at = None
        self.misses = 0

    def mtu_due(self, now: int, busy: bool) -> bool:
        return self.alive and self.mtu.due(now, busy)

    # state

    def fail(self, now: int) -> None:
        self.state = PathState.FAILED
        self.failed_at = now
        self.unheard = 0
        self.next_at = now
        self.row = self.misses = 0
        self.asked_at = None
        self._backoff = PROBE_INTERVAL
        self._bad_since = self._good_since = None

    def recover(self, now: int) -> None:
        self.state = PathState.HEALTHY
        self.failed_at = None
        self.row = self.misses = 0
        self.asked_at = None
        self._bad_since = self._good_since = None

    def judge(self, loss: float, others_loss: float, srtt_us: int, now: int) -> bool:
        """Between healthy and degraded, by loss (0..1) and RTT. True: it changed."""
        if not self.alive:
            return False
        least = self.rtt_min_us or 0

        def above(share: float) -> bool:
            lossy = loss > share * LOSS_LIMIT and loss > share * 2 * others_loss
            limit = max(RTT_FACTOR * least, least + RTT_ABOVE_US)
            return lossy or (bool(least) and srtt_us > least + share * (limit - least))

        if self.state is PathState.HEALTHY:
            if not above(1):
                self._bad_since = None
            elif self._bad_since is None:
                self._bad_since = now
            elif now - self._bad_since >= BAD_FOR:
                self.state, self._bad_since = PathState.DEGRADED, None
                return True
        elif above(0.5):
            self._good_since = None
        elif self._good_since is None:
            self._good_since = now
        elif now - self._good_since >= GOOD_FOR:
            self.state, self._good_since = PathState.HEALTHY, None
            return True
        return False
