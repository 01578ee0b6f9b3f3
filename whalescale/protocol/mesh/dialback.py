"""Dialling back: whether others get in without having been called (docs/mesh.md section 7.1).

`Prover` has our places dialled and judges what arrives; `Dialler` does it for others. Nobody's word
is believed: what proves a place is that a request with our token in its nonce came in from where
we had sent nothing to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import ip_address
from typing import Final

from whalescale.protocol.limits import NS_PER_MS, NS_PER_S
from whalescale.protocol.mesh.frames import (
    AVOID_MAX,
    TOKEN_BYTES,
    By,
    DialBack,
    Dialled,
    Outcome,
)
from whalescale.protocol.mesh.records import Place
from whalescale.protocol.places import Endpoint

#: where nothing was sent to for so long, nothing is let in from by what was sent
FORGOTTEN: Final = 600 * NS_PER_S
#: addresses that we remember having sent to
SENT_MAX: Final = 512

#: until a new place is tried; it may be told while this runs
FIRST: Final = 2 * NS_PER_S
#: between two requests of ours
GAP: Final = 4 * NS_PER_S
#: until one is given up: dialled by a member that was asked, or by another
WAIT: Final = 5 * NS_PER_S
WAIT_PASSED: Final = 8 * NS_PER_S
#: a place that was proved is tried again, and one that was not, ever less often
AGAIN: Final = 3_600 * NS_PER_S
RETRY: Final = 30 * NS_PER_S
#: tries in a row that take a proof away
FAILS: Final = 3
#: members outside that dialled in vain, in a row: nobody gets in
VAIN: Final = 2

#: of one member: requests at once, and one more each time this is over
ASKER_BURST: Final = 3
ASKER_EVERY: Final = 10 * NS_PER_S
#: of all members
ALL_BURST: Final = 4
ALL_EVERY: Final = NS_PER_S // 2
AT_ONCE: Final = 4
#: for others, one member
TARGET_EVERY: Final = 10 * NS_PER_S
#: a request that was passed on
PASSED_WAIT: Final = 6 * NS_PER_S
#: the dialling itself, by who carries it out: when requests go, and how long an answer is awaited
DIAL_AT: Final = (0, 500 * NS_PER_MS, 1_500 * NS_PER_MS)
DIAL_WAIT: Final = 3 * NS_PER_S

_LABEL: Final = b"whalescale dial back v1"


def nonce_of(token: bytes) -> bytes:
    """Of the bootstrap request by which the token is brought back."""
    return hashlib.blake2s(_LABEL + token).digest()


class Proof(IntEnum):
    """Whose first message gets in."""

    NONE = 0
    PORTS = 1  # from other ports of addresses that we sent to
    ANYBODY = 2


@dataclass(slots=True)
class Standing:
    """Of one place of ours. Times are ns."""

    place: Place
    ask_at: int
    proof: Proof = Proof.NONE
    #: when that was found; None: not tried yet
    at: int | None = None
    fails: int = 0
    #: members that are surely outside and that dialled in vain, in a row
    vain: int = 0


@dataclass(slots=True)
class _Out:
    """A request that is out."""

    standing: Standing
    by: By
    asked: bytes
    token: bytes
    until: int
    proof: Proof = Proof.NONE
    #: nobody dialled at the step before
    untried: bool = False


class Prover:
    """Our places. What is told to it: where we send, what arrives, who answers."""

    __slots__ = ("_next_at", "_node_id", "_out", "_random", "_sent", "hairpin", "standings")

    def __init__(self, node_id: bytes, random: Callable[[int], bytes]) -> None:
        #: our router was seen to send back what came from inside
        self.hairpin = False
        self._node_id = node_id
        self._random = random
        self.standings: dict[Endpoint, Standing] = {}
        self._out: _Out | None = None
        self._next_at = 0
        #: by address: when we last sent there, and to which ports
        self._sent: dict[str, tuple[int, set[int]]] = {}

    # facts

    def sent(self, endpoint: Endpoint, now: int) -> None:
        """We send there: what comes from there proves nothing for a while."""
        _, ports = self._sent.pop(endpoint.ip, (0, set()))
        self._sent[endpoint.ip] = now, {*list(ports)[-15:], endpoint.port}
        if len(self._sent) > SENT_MAX:
            del self._sent[next(iter(self._sent))]

    def set_places(self, places: Iterable[Place], now: int) -> None:
        """Those to be proved. What is known of the ones that stay, stays."""
        before = self.standings
        self.standings = {
            p.endpoint: before.get(p.endpoint) or Standing(p, now + FIRST) for p in places
        }
        if self._out is not None and self._out.standing.place.endpoint not in self.standings:
            self._out = None

    def again(self, now: int) -> None:
        """Something changed on the host: proofs are tried anew, and stand until then."""
        for standing in self.standings.values():
            standing.ask_at = min(standing.ask_at, now + FIRST)

    def proof_of(self, endpoint: Endpoint) -> Proof:
        standing = self.standings.get(endpoint)
        return standing.proof if standing is not None else Proof.NONE

    @property
    def best(self) -> Proof:
        return max((s.proof for s in self.standings.values()), default=Proof.NONE)

    # asking

    def deadline(self) -> int | None:
        if self._out is not None:
            return self._out.until
        due = min((s.ask_at for s in self.standings.values()), default=None)
        return None if due is None else max(due, self._next_at)

    def handle_timeout(
        self, now: int, neighbours: Sequence[bytes], avoid: Collection[int]
    ) -> tuple[bytes, DialBack] | None:
        """Whom to ask for what, now. `avoid`: keys of members that we sent to lately."""
        if self._out is not None:
            if self._out.until > now:
                return None
            # Who asks another has that one's time, and may have heard nothing: that is no try.
            return self._step(now, neighbours, avoid, tried=self._out.by is By.YOU)
        if now < self._next_at:
            return None
        due = [s for s in self.standings.values() if s.ask_at <= now]
        if not due:
            return None
        standing = min(due, key=lambda s: s.ask_at)
        if not neighbours:
            standing.ask_at = now + RETRY
            return None
        return self._ask(standing, By.ANOTHER, Proof.NONE, False, now, neighbours, avoid)

    def _ask(
        self,
        standing: Standing,
        by: By,
        proof: Proof,
        untried: bool,
        now: int,
        neighbours: Sequence[bytes],
        avoid: Collection[int],
    ) -> tuple[bytes, DialBack]:
        token = self._random(TOKEN_BYTES)
        asked = neighbours[int.from_bytes(self._random(4), "little") % len(neighbours)]
        until = now + (WAIT if by is By.YOU else WAIT_PASSED)
        self._out = _Out(standing, by, asked, token, until, proof, untried)
        self._next_at = now + GAP
        # As many as there is room for; who is asked all the same is found out by what arrives.
        keys = tuple(avoid)[:AVOID_MAX] if by is By.ANOTHER else ()
        return asked, DialBack(by, token, self._node_id, standing.place, keys)

    def _step(
        self, now: int, neighbours: Sequence[bytes], avoid: Collection[int], *, tried: bool
    ) -> tuple[bytes, DialBack] | None:
        """The request that is out has ended: the next one, or a verdict."""
        out, self._out = self._out, None
        assert out is not None
        if out.by is By.ANOTHER and out.proof is Proof.NONE and neighbours:
            return self._ask(out.standing, By.YOU, Proof.NONE, not tried, now, neighbours, avoid)
        self._judge(out, now, tried=tried or not (out.untried or out.by is By.ANOTHER))
        return None

    def _judge(self, out: _Out, now: int, *, tried: bool) -> None:
        standing = out.standing
        if out.proof is not Proof.NONE:
            standing.proof, standing.at, standing.fails, standing.vain = out.proof, now, 0, 0
            standing.ask_at = now + self._spread(AGAIN)
        elif tried:
            standing.fails += 1
            standing.at = now
            if standing.fails >= FAILS:
                standing.proof = Proof.NONE
            standing.ask_at = now + self._spread(min(RETRY << min(standing.fails, 10), AGAIN))
        else:
            standing.ask_at = now + self._spread(RETRY)

    def _spread(self, interval: int) -> int:
        part = int.from_bytes(self._random(2), "little") / 0x10000
        return int(interval * (0.75 + 0.5 * part))

    # what comes

    def arrived(self, nonce: bytes, remote: Endpoint, near: Iterable[Endpoint], now: int) -> bool:
        """A bootstrap request came. `near`: further places that we may have sent to.

        True: it is one that we asked for, and a place is proved by it.
        """
        out = self._out
        if out is None or nonce != nonce_of(out.token):
            return False
        proof = self._worth(out.standing.place.endpoint, remote, near, now)
        self.sent(remote, now)  # it is answered
        if proof <= out.proof:
            return False
        out.proof = proof
        standing = out.standing
        standing.proof, standing.at = max(standing.proof, proof), now
        standing.fails = standing.vain = 0
        return True

    def _worth(
        self, place: Endpoint, remote: Endpoint, near: Iterable[Endpoint], now: int
    ) -> Proof:
        ours, theirs = ip_address(place.ip), ip_address(remote.ip)
        if ours == theirs:
            self.hairpin = True
        if ours == theirs or (ours.is_global and not theirs.is_global):
            return Proof.NONE  # out of our own site, and back into it by the router's hairpin
        at, ports = self._sent.get(remote.ip, (-FORGOTTEN, set()))
        known = set(ports) if now - at < FORGOTTEN else set()
        known |= {e.port for e in near if e.ip == remote.ip}
        if not known:
            return Proof.ANYBODY
        return Proof.PORTS if remote.port not in known else Proof.NONE

    def answered(
        self,
        node_id: bytes,
        said: Dialled,
        now: int,
        neighbours: Sequence[bytes],
        avoid: Collection[int],
        remote: str = "",
    ) -> tuple[bytes, DialBack] | None:
        """DIALLED came from that neighbour. Whom to ask for what next. `remote`: its address."""
        out = self._out
        if out is None or out.asked != node_id or out.token != said.token:
            return None
        if out.by is By.YOU and out.proof is Proof.NONE and said.outcome is Outcome.SILENT:
            # From inside it would be the router's hairpin that fails.
            out.standing.vain += _is_outside(remote, out.standing.place.endpoint.ip)
        return self._step(
            now, neighbours, avoid, tried=said.outcome in (Outcome.ANSWERED, Outcome.SILENT)
        )


def _is_outside(remote: str, place: str) -> bool:
    """Who is at `remote` is on the Internet that a public place is on, and behind another router.
    ``""``: it is not known."""
    if not remote or remote == place:
        return False
    theirs, ours = ip_address(remote), ip_address(place)
    return theirs.version == ours.version and theirs.is_global


# for others


class _Rate:
    """So many at once, and one more each time `every` is over."""

    __slots__ = ("_at", "_burst", "_every", "_room")

    def __init__(self, burst: int, every: int, now: int) -> None:
        self._burst, self._every = burst, every
        self._room, self._at = float(burst), now

    def take(self, now: int) -> bool:
        self._room = min(self._burst, self._room + max(0, now - self._at) / self._every)
        self._at = max(self._at, now)
        if self._room < 1:
            return False
        self._room -= 1
        return True

    def is_full(self, now: int) -> bool:
        return self._room + max(0, now - self._at) / self._every >= self._burst


@dataclass(slots=True)
class Job:
    """For whom we dial, or have let another one dial."""

    asker: bytes
    token: bytes
    until: int
    #: who was asked; None: we dial ourselves
    passed: bytes | None = None


@dataclass(slots=True)
class Dialler:
    """Limits, and what is under way. Times are ns."""

    jobs: dict[int, Job] = field(default_factory=dict)
    _count: int = 0
    _all: _Rate | None = None
    _askers: dict[bytes, _Rate] = field(default_factory=dict)
    _targets: dict[bytes, int] = field(default_factory=dict)

    def admit(self, asker: bytes, target: bytes, now: int) -> bool:
        """Whether there is room for one more. Counts."""
        self._forget(now)
        own = self._askers.setdefault(asker, _Rate(ASKER_BURST, ASKER_EVERY, now))
        if not own.take(now) or len(self.jobs) >= AT_ONCE:
            return False
        if asker != target and now - self._targets.get(target, -TARGET_EVERY) < TARGET_EVERY:
            return False
        if self._all is None:
            self._all = _Rate(ALL_BURST, ALL_EVERY, now)
        if not self._all.take(now):
            return False
        if asker != target:
            self._targets[target] = now
        return True

    def _forget(self, now: int) -> None:
        """What limits nobody any more; both are bounded by what `_all` lets through, too."""
        if len(self._askers) > 64:
            self._askers = {k: r for k, r in self._askers.items() if not r.is_full(now)}
        if len(self._targets) > 64:
            self._targets = {k: t for k, t in self._targets.items() if now - t < TARGET_EVERY}

    def begin(self, asker: bytes, token: bytes, now: int, passed: bytes | None = None) -> int:
        self._count += 1
        wait = DIAL_WAIT + NS_PER_S if passed is None else PASSED_WAIT
        self.jobs[self._count] = Job(asker, token, now + wait, passed)
        return self._count

    def end(self, job: int) -> Job | None:
        return self.jobs.pop(job, None)

    def passed(self, node_id: bytes, token: bytes) -> Job | None:
        """The one that this neighbour was asked to do; it has ended."""
        for number, job in self.jobs.items():
            if job.passed == node_id and job.token == token:
                return self.jobs.pop(number)
        return None

    def deadline(self) -> int | None:
        return min((j.until for j in self.jobs.values()), default=None)

    def expire(self, now: int) -> list[Job]:
        over = [n for n, j in self.jobs.items() if j.until <= now]
        return [self.jobs.pop(n) for n in over]
