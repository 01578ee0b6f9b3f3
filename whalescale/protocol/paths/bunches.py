"""When acknowledgements of an inner TCP are let go in bunches (section 10, multipath/bunch.c)."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from whalescale.protocol.limits import NS_PER_S
from whalescale.protocol.paths.estimator import clamp

#: an inner BBR's window is twice the quick path's round trip: a slow path whose round trip is so
#: many of the quick one's, or more, needs bunches
LACKING = 1.6
#: acknowledgements wait for each other for the slow path's round trip above two of the quick one's,
#: and this much more, but for no more than half of it
MARGIN_US = 20_000
#: where delays jitter a bunch waits so many times their noise longer: round trips have many lengths
MARGIN_NOISES = 10
MOST_US = 50_000
#: round trips between bunches: a BBR remembers one for 5 to 10 of them
ROUNDS = 8
#: bunches take at most a fourth of the time: so many times their length lies between two
LEAST_TIMES = 4
#: a flow that leaves paths unfilled for so long has too small a window, but see GROWTH
UNFILLED = 3 * NS_PER_S // 10
#: a flow whose rate moves by this factor meanwhile is in slow start, or a CUBIC that was cut
GROWTH = 1.2
#: share of the paths' rates that counts as filled
FILLED = 0.98
#: bunches cost a window that does not grow by them: who gets less than so much of what it had, in
#: every second of so long, is left alone for a while. One that gets no more may be a BBR, and would
#: fall without them
TRIED = 3 * NS_PER_S
KEPT = 0.97
REFUSED = 30 * NS_PER_S
#: so long after the last bunch BBR has forgotten it: whose packets still wait then is no BBR
FORGOTTEN = 2 * NS_PER_S
#: a flow that is not seen on several paths for so long has ended
ENDED = NS_PER_S


class _State(Enum):
    LOOKING = "looking"
    ON = "on"
    PAUSED = "paused"
    REFUSED = "refused"


class Bunches:
    """Of one peer's flows. Times ns, delays µs."""

    __slots__ = (
        "_best_bps",
        "_from_bps",
        "_hurried",
        "_seen",
        "_since",
        "_state",
        "_tried",
        "_unfilled_bps",
    )

    def __init__(self) -> None:
        self._seen = 0
        self._hurried = False
        self._stop()

    def _stop(self) -> None:
        self._enter(_State.LOOKING, 0)
        self._from_bps = self._best_bps = self._unfilled_bps = 0.0
        self._tried = False

    def _enter(self, state: _State, now: int) -> None:
        self._state, self._since = state, now

    def _look(self, rate_bps: float, mean_bps: float, now: int) -> None:
        # One that falls is no BBR: a CUBIC has lost, and grows next.
        moved = rate_bps > self._from_bps * GROWTH or rate_bps < self._from_bps / GROWTH
        if not self._since or moved:
            self._since, self._from_bps = now, rate_bps
        if now - self._since >= UNFILLED:
            # A flow is younger than a second, perhaps.
            self._unfilled_bps, self._best_bps = max(mean_bps, rate_bps / GROWTH), 0.0
            self._enter(_State.ON, now)

    def _judge(self, mean_bps: float, waited_always: bool, now: int) -> None:
        # The best of it: every 10 s BBR pauses for 0.2.
        if now - self._since >= NS_PER_S:
            self._best_bps = max(self._best_bps, mean_bps)
        if not self._tried and now - self._since >= TRIED:
            self._tried = True
            if self._best_bps < self._unfilled_bps * KEPT:
                self._enter(_State.REFUSED, now)
                return
        if not self._hurried and now - self._since >= NS_PER_S and waited_always:
            self._enter(_State.PAUSED, now)

    def update(
        self,
        rtts_us: list[int],
        rate_bps: float,
        mean_bps: float,
        most_bps: float,
        noise_us: float,
        waited: Callable[[int], float],
        now: int,
        *,
        gone: bool = False,
    ) -> tuple[int, int]:
        """(For how long, how often) acknowledgements wait for each other, µs; 0: they do not.

        rtts_us: round trips without queue of the paths that a bulk flow may use; rate_bps: what it
        gets now; mean_bps: what it got in the last second; most_bps: what its paths can carry;
        noise_us: how much the worst of them jitters; waited: the share of the last µs in which
        packets waited for a path; gone: the quickest of these paths has failed, so that a BBR's
        window is too small from now on.
        """
        least = min(rtts_us, default=0)
        # A path for which bunches do not make room: who used it would lose by it.
        rtts_us = [rtt for rtt in rtts_us if rtt - 2 * least + MARGIN_US <= MOST_US]
        longest = max(rtts_us, default=0)
        margin = min(MARGIN_US, longest / 2) + MARGIN_NOISES * noise_us
        for_us = int(clamp(longest - 2 * least + margin, 0, MOST_US))
        if len(rtts_us) < 2 or longest < LACKING * least:
            if now - self._seen >= ENDED:
                self._stop()
            return 0, 0
        self._seen = now
        if self._hurried and not gone:  # what it began is over
            self._hurried = False
            self._stop()
        match self._state:
            case _State.LOOKING if gone and not self._hurried:
                self._hurried = True
                self._enter(_State.ON, now)
            case _State.LOOKING:
                if waited(200_000) > 0.5 or rate_bps > FILLED * most_bps:
                    self._stop()
                else:
                    self._look(rate_bps, mean_bps, now)
            case _State.ON:
                self._judge(mean_bps, waited(1_000_000) > 0.95, now)
            case _State.PAUSED:
                if waited(200_000) < 0.5:
                    self._enter(_State.ON, now)
                elif now - self._since > FORGOTTEN:
                    self._stop()
            case _State.REFUSED:
                if now - self._since > REFUSED:
                    self._stop()
        every_us = max(ROUNDS * longest, LEAST_TIMES * for_us)
        return (for_us if self._state is _State.ON else 0), every_us
