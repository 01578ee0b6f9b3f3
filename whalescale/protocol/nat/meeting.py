"""Two members find a direct way to each other: calls, and the rounds of punching that follow.

What is sent to a carrier and what is tried is the guest's business (guest.py); here is in which
order, and when it has been enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto
from typing import Final

from whalescale.protocol.limits import NS_PER_MS, NS_PER_S
from whalescale.protocol.nat.punching import AGAIN_AFTER, Round
from whalescale.protocol.nat.signalling import Place
from whalescale.protocol.places import Endpoint, PeerHandle

#: until a CALL without an answer is sent again, each time by the next carrier
CALL_AGAIN: Final = tuple(ms * NS_PER_MS for ms in (500, 500, 1000, 2000))
#: after an initiation without an answer was carried first, each time the same bytes
CARRY_AGAIN: Final = tuple(ms * NS_PER_MS for ms in (500, 1500, 3000))
#: who begins last in a round does it so much later: more than the way, and what a busy host takes
LAST_BY: Final = 500 * NS_PER_MS
#: who answered begins so long after its answer if no GO comes
GO_LATE: Final = 500 * NS_PER_MS
#: a peer that nobody reaches is called again so late
UNANSWERED_REST: Final = 5 * NS_PER_S
UNANSWERED_MOST: Final = 30 * NS_PER_S
#: who was called leaves the next round's call to who called
CALLED_REST: Final = 5 * NS_PER_S
#: after the last round: a peer that is wanted again then is tried again
SPENT_FOR: Final = 1800 * NS_PER_S
#: two clocks' worth of a round trip, at most
WAIT_MOST: Final = NS_PER_S


class Phase(Enum):
    IDLE = auto()
    CALLING = auto()  # a CALL is out
    CALLED = auto()  # our ANSWER is out: GO is awaited
    PUNCHING = auto()
    RESTING = auto()  # between rounds, or nobody answered
    SPENT = auto()  # enough was tried, until something changes


def _in_turn(token: bytes, rounds: int) -> bytes:
    """A token that says who begins last: nobody, then the one, then the other."""
    first = token[0] - token[0] % 3 + rounds % 3
    return bytes((first if first < 256 else first - 3,)) + token[1:]


def begins_last(token: bytes, lower: bool) -> bool:
    """Whether we do. `lower`: our node ID is the lower one of the two.

    Where a router takes what it does not know, its side must be the first, or its port is another;
    and a busy host may be late by more than the way takes.
    """
    return token[0] % 3 == (1 if lower else 2)


class Meeting:
    """Of one peer. Times are ns; `at` None: nothing is due."""

    __slots__ = (
        "answer",
        "at",
        "called",
        "carried",
        "carried_at",
        "carriers",
        "copies",
        "missed",
        "phase",
        "places",
        "round",
        "rounds",
        "seen",
        "sent_at",
        "stamp",
        "token",
        "tries",
        "wanted_at",
        "worked",
    )

    def __init__(self) -> None:
        self.phase = Phase.IDLE
        self.at: int | None = None
        #: the peer called us
        self.called = False
        self.token = b""
        #: by which the messages go, best first
        self.carriers: list[PeerHandle] = []
        self.tries = 0
        self.sent_at = 0
        #: our ANSWER, for a CALL that comes again
        self.answer = b""
        #: the peer's places, and where the carrier sees it
        self.places: tuple[Place, ...] = ()
        self.seen: Endpoint | None = None
        self.round: Round | None = None
        #: rounds since something changed
        self.rounds = 0
        #: calls in a row that nobody answered
        self.missed = 0
        #: latest of the peer's calls
        self.stamp = b""
        #: the initiation that carriers were given last, when, and how often since; b"": none
        self.carried = b""
        self.carried_at = self.copies = 0
        #: somebody wanted a session
        self.wanted_at: int | None = None
        #: there was a direct way once
        self.worked = False

    def anew(self) -> None:
        """Something changed: what failed may work now."""
        self.rounds = self.missed = 0
        if self.phase in (Phase.RESTING, Phase.SPENT):
            self.phase, self.at = Phase.IDLE, None

    def carry(self, message: bytes, now: int) -> None:
        self.carried, self.carried_at, self.copies = message, now, 0

    def carry_again(self, now: int) -> bytes:
        """What carriers are to be given once more now, for the answer may be lost; b"": nothing."""
        if self.copies >= len(CARRY_AGAIN) or now - self.carried_at < CARRY_AGAIN[self.copies]:
            return b""
        self.copies += 1
        return self.carried

    def may_call(self, now: int) -> bool:
        if self.phase in (Phase.RESTING, Phase.SPENT):
            return self.at is None or self.at <= now
        return self.phase is Phase.IDLE

    def call(self, token: bytes, carriers: Sequence[PeerHandle]) -> None:
        if self.phase is Phase.SPENT:
            self.rounds = 0
        self.phase, self.called = Phase.CALLING, False
        self.token, self.carriers, self.tries = _in_turn(token, self.rounds), list(carriers), 0

    def next_carrier(self, now: int) -> PeerHandle | None:
        """Whom to send the CALL by, now. None: it was sent often enough."""
        if not self.carriers or self.tries >= len(CALL_AGAIN):
            return None
        carrier = self.carriers[self.tries % len(self.carriers)]
        self.at = now + CALL_AGAIN[self.tries]
        self.tries += 1
        self.sent_at = now
        return carrier

    def unanswered(self, now: int) -> None:
        """No carrier reaches the peer, or it is silent."""
        self.missed += 1
        self.phase = Phase.RESTING
        self.at = now + min(UNANSWERED_REST << min(self.missed - 1, 8), UNANSWERED_MOST)

    def answered(self, now: int) -> int:
        """The peer's ANSWER is there: when to begin, half a round trip from now."""
        return now + min(max(now - self.sent_at, 0) // 2, WAIT_MOST)

    def invited(self, token: bytes, answer: bytes, now: int) -> None:
        """The peer called, and is answered."""
        self.phase, self.called = Phase.CALLED, True
        self.token, self.answer, self.tries = token, answer, 0
        self.at = now + GO_LATE

    def may_begin_again(self) -> bool:
        """GO comes though our round has begun without it: the caller begins only now. No more often
        than it calls."""
        if self.phase is not Phase.PUNCHING or not self.called or self.tries >= len(CALL_AGAIN):
            return False
        self.tries += 1
        return True

    def begin(self, places: tuple[tuple[Endpoint, bool], ...], start: int) -> None:
        self.missed = 0
        if self.phase is not Phase.PUNCHING:
            self.rounds += 1
        self.phase = Phase.PUNCHING
        self.round = Round(places, start)
        self.at = start

    def round_over(self, now: int) -> None:
        """No way was found."""
        self.round = None
        if self.rounds <= len(AGAIN_AFTER):
            rest = AGAIN_AFTER[self.rounds - 1] + (CALLED_REST if self.called else 0)
            self.phase, self.at = Phase.RESTING, now + rest
        elif self.worked:
            self.phase, self.at = Phase.RESTING, now + AGAIN_AFTER[-1]
        else:
            self.phase, self.at = Phase.SPENT, now + SPENT_FOR

    def met(self) -> None:
        """There is a direct way."""
        self.phase, self.at, self.round = Phase.IDLE, None, None
        self.rounds = self.missed = 0
        self.worked = True
