"""What is tuned for a TCP inside the tunnel: all of it, behind one door (section 10).

A path's rate and the paths' order follow from the links. What stands here follows from what CUBIC
and BBR make of them, and could be judged, switched off or dropped whole:

- the door itself, `InnerTcp`: for how long acknowledgements wait, in bunches (bunches.py) and at a
  flow's start, and whether what quick paths bring is held back to the slow ones' delay (align);
- `queue_us`: how long our own queue is let grow, so that a CUBIC's window has room;
- `free_start`: what goes at once on the quickest path, so that HyStart does not end too early;
- `pulses`: where an inner BBR's probing is let through.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from whalescale.protocol.limits import NS_PER_S
from whalescale.protocol.paths.bunches import Bunches
from whalescale.protocol.paths.estimator import PACKET_BYTES, PathEstimator, clamp

#: what a flow gets now, measured over so long
LATELY = 300_000_000
#: of its rate: a bulk flow fills the quick path
FULL_SHARE = 0.8
#: the share of what is left that counts as full when the quick path has failed: a BBR falls at once
GONE_SHARE = 0.2
#: a BBR remembers the quick path's round trip for so long after it failed (10 s, and a little)
REMEMBERED = 21 * NS_PER_S // 2
#: a BBR's start goes on while its rate grows by so much a round
START_GROWTH = 1.25
#: a BBR's window during its start, in least round trips (2 / ln 2)
START_GAIN = 2.885
#: a free start is for so many times the longest round trip, which has the queue that it makes
START_SPARE = 1.1
#: what TCPs may wait for that: of the least round trip, at most, and from tick to tick
TCP_WAIT_SHARE = 1 / 3
TCP_WAIT_MOST_US = 5_000
TCP_WAIT_KEPT = 0.99
#: our own queue in front of the paths: CUBIC gives up 0.3 of its window at a loss
#: and must not run dry
QUEUE_US = 80_000
#: our queue is longer by as much as paths are apart, at most by this
QUEUE_SKEW_US = 80_000
#: our queue while a path ramps: the inner TCP doubles, and must not be told to stop
#: before the path has room
QUEUE_RAMP_US = 250_000
#: packets allowed a round trip on the quickest path while our queue is empty: paced lower, an inner
#: TCP in slow start takes a wait for our ramp for the link's queue (HyStart)
START_PACKETS = 64
START_MAX_BPS = 200e6
#: jitter hides whether there is room: while nothing waits, a slower path that jitters by so much
#: takes the pulses in which an inner BBR looks for more (its gain)
PULSE_GAIN = 1.25
PULSE_NOISE_US = 500


class Used(NamedTuple):
    """A path that data goes over."""

    #: round trip without queue
    base_rtt_us: int
    #: one-way delay without queue, relative to the least
    delay_us: int
    #: what it is thought to carry
    bw_bps: float
    est: PathEstimator


class Asked(NamedTuple):
    """Of the data plane, names and units of PeerParams."""

    align: bool
    bunch_us: int
    bunch_every_us: int
    tcp_wait_us: int


class _Quick(NamedTuple):
    """The quickest path of the last 10 s."""

    number: int
    rtt_us: int
    bw_bps: float
    at: int


class InnerTcp:
    """Of one peer's flows. `align` False: nothing is held back for them."""

    def __init__(self, align: bool) -> None:
        self._align = align
        self._bunches = Bunches()
        self._quick: _Quick | None = None
        self._tcp_wait_us = 0.0

    def update(self, used: Mapping[int, Used], skew_most_us: int, now: int) -> Asked:
        """By number. `skew_most_us`: paths that are slower by more are no bulk flow's."""
        self._tcp_wait_us = self._tcp_wait(used, skew_most_us)
        return Asked(self._align, *self._bunch(used, now), int(self._tcp_wait_us))

    def _tcp_wait(self, used: Mapping[int, Used], skew_most_us: int) -> float:
        """How long a SYN or an acknowledgement from the peer waits, µs."""
        if not self._align or len(used) < 2:
            return 0.0
        least = min(path.base_rtt_us for path in used.values())
        nearest = min(path.delay_us for path in used.values())
        lags = [path.delay_us - nearest for path in used.values()]
        longest = (least + max(lag for lag in lags if lag <= skew_most_us)) * START_SPARE
        lacking = (START_GROWTH * longest - START_GAIN * least) / (START_GAIN - START_GROWTH)
        wait = clamp(lacking, 0, min(least * TCP_WAIT_SHARE, TCP_WAIT_MOST_US))
        # The least of 10 s is what counts, so one low measurement would.
        return max(wait, self._tcp_wait_us * TCP_WAIT_KEPT)

    def _bunch(self, used: Mapping[int, Used], now: int) -> tuple[int, int]:
        """For how long and how often acknowledgements wait for each other, µs."""
        total = sum(p.est.acked_bps(now, LATELY) for p in used.values())
        known = sum(p.bw_bps for p in used.values())
        # As an inner TCP sees them.
        rtts = {number: p.base_rtt_us + int(self._tcp_wait_us) for number, p in used.items()}
        gone = False
        if rtts:
            number = min(rtts, key=lambda n: rtts[n])
            last = self._quick
            gone = (
                last is not None
                and last.number not in used
                and rtts[number] > 1.25 * last.rtt_us
                and now - last.at < REMEMBERED
            )
            if not gone:
                last = self._quick = _Quick(number, rtts[number], used[number].bw_bps, now)
            # What does not fill the quick path is no bulk flow, or one that has ended. Those left
            # may carry less than the one that is gone.
            bulk = min(last.bw_bps if last else 0.0, known) * (GONE_SHARE if gone else FULL_SHARE)
            if last is None or not self._align or total < bulk:
                rtts.clear()
            elif gone:
                rtts[last.number] = last.rtt_us
        return self._bunches.update(
            list(rtts.values()),
            total,
            sum(p.est.acked_bps(now) for p in used.values()),
            known,
            max((p.est.noise_us for p in used.values()), default=0.0),
            lambda window_us: max(p.est.limited(window_us, 0, now) for p in used.values()),
            now,
            gone=gone,
        )


def queue_us(ramping: bool, skew_us: int) -> int:
    """How much may wait for paths. Slower ones take what stands further back, so the head leaves by
    the quick ones alone."""
    return QUEUE_RAMP_US if ramping else QUEUE_US + min(skew_us, QUEUE_SKEW_US)


def free_start(base_rtt_us: float) -> tuple[float, int]:
    """(bits/s, bytes in flight) that a flow may begin with, whatever the path may carry."""
    free = START_PACKETS * PACKET_BYTES
    return min(free * 8e6 / base_rtt_us, START_MAX_BPS), free


def pulses(noise_us: float, limited: bool, first: bool) -> bool:
    """An inner BBR may be looking for more. `limited`: packets wait; `first`: the quickest path."""
    return noise_us > PULSE_NOISE_US and not (limited or first)
