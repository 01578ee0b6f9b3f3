"""How fast one path is sent on: the rate is measured, the queue is held short (section 8).

The idea is BBR's (draft-cardwell-iccrg-bbr-congestion-control): pace at what was delivered, and
never take a loss by itself for congestion. Where BBR probes in cycles, this holds a queue of a few
milliseconds at the link: while it stands, the link is full and what is delivered is its rate; when
it goes, there is room, and the rate rises, faster with each round in which the deliveries follow.
"""

from __future__ import annotations

from enum import Enum

from whalescale.protocol.limits import NS_PER_S
from whalescale.protocol.paths.estimator import (
    MAX_DELAY_US,
    MAX_RATE_BPS,
    MIN_RATE_BPS,
    PACKET_BYTES,
    PathEstimator,
    clamp,
)
from whalescale.protocol.paths.innertcp import PULSE_GAIN, free_start, pulses

#: a new path begins with this, or with INITIAL_PACKETS a round trip
INITIAL_RATE_BPS = 1_000_000
INITIAL_PACKETS = 10
#: the queue that is held at the link
TARGET_US = 4_000
#: the queue that is held is longer by what jitter makes of it, at most by this
NOISE_MAX_US = 20_000
#: a ramp ends at this queue
RAMP_QUEUE_US = 8_000
RAMP_GAIN = 2.5
RAMP_SHARE = 0.75
#: a queue that lets so many packets through in the time of a sample is one, whatever came before
STOOD_PACKETS = 4
#: rounds of a full ramp without a quarter more
RAMP_FLAT_ROUNDS = 3
#: such a round counts where more than so much of the most that the path delivered was sent, or its
#: queue stood
RAMP_PRESSED = 1.5
#: a rate of fewer packets a round trip says little of the link: ramp again
FEW_PACKETS = 2
#: gain by rounds in which there was no queue and the deliveries followed
CLIMB = (1.05, 1.1, 1.25, 1.5, 2.0)
DRAIN_GAIN = 0.75
#: at the end of a drain, over so long, a link that still works off a queue delivers more than it is
#: given
DRAINED_US = 60_000
DRAINED_SHARE = 1.1
#: the queue is let run empty so often, to see the least delay
BASE_PROBE = 3 * NS_PER_S
#: a queue that was tested is taken for one so long
BELIEVED = 3 * NS_PER_S
#: more than this, and less delivered than paced: the rate fell
FALL_QUEUE_US = 20_000
FALL_SHARE = 0.85
#: a single measurement takes no more than this away
FALL_MOST = 20
#: a path that carries less than this is asked for it all the same: with fewer packets there would
#: be nothing to measure, and no way up again
FLOOR_BPS = 64_000
#: lost beyond what the path loses when it is not pressed: a policer, or a buffer too short to see
POLICED_LOSS = 0.02
#: a path that loses more than this by chance is not made up for
CHANCE_MAX = 0.15
#: no more pressing for so many rounds then
POLICED_ROUNDS = 8
#: room in the window over rate x RTT: the ACK interval, our own tick, the queue that is held
HEADROOM_US = 15_000


class Mode(Enum):
    RAMP = "ramp"
    HOLD = "hold"
    DRAIN = "drain"


class RateControl:
    """One path's rate and window. `update` once a sample."""

    __slots__ = (
        "_believed_until",
        "_climb",
        "_fallen_queue",
        "_fallen_until",
        "_flat",
        "_full_since",
        "_lost_floor",
        "_mode_until",
        "_peak_bps",
        "_policed_until",
        "_pressed",
        "_probe_due",
        "_ramp_best",
        "_ramp_lost",
        "_ramp_sent",
        "_round_at",
        "_round_bw",
        "_round_queue",
        "_round_us",
        "_sent_floor",
        "_settle_us",
        "_settled",
        "_shown_bps",
        "_standing_since",
        "_stood",
        "_stuck_from",
        "_stuck_queue",
        "_stuck_us",
        "_tested",
        "_tested_at",
        "bw_bps",
        "known_bps",
        "mode",
        "pace_bps",
        "updated",
        "window_bytes",
    )

    def __init__(self, rtt_us: int, now: int) -> None:
        self.restart(rtt_us, now)

    def restart(self, rtt_us: int, now: int) -> None:
        """Begin with the least and ramp."""
        rtt = clamp(rtt_us, 100, MAX_DELAY_US)
        first = INITIAL_PACKETS * PACKET_BYTES * 8e6 / rtt
        #: what the path is thought to carry
        self.bw_bps = clamp(first, INITIAL_RATE_BPS, 50e6)
        self.mode = Mode.RAMP
        self._climb = self._flat = 0
        self._full_since: int | None = None
        self._lost_floor = self._sent_floor = 0.0
        self._mode_until = 0
        self._peak_bps = self.bw_bps
        self._policed_until = 0
        self._probe_due = now + BASE_PROBE
        self._ramp_best = 0.0
        self._pressed = False
        self._stood = False  # a queue, all through this round
        self._shown_bps = 0.0  # the most that was delivered; bw_bps begins as a guess
        self._ramp_lost = [0, 0]  # in the last round, in this one
        self._ramp_sent = [0, 0]
        self._round_at = now
        self._round_bw = self.bw_bps
        self._round_queue = 0
        self._stuck_us = self._tested = 0.0
        self._standing_since: int | None = None
        self._tested_at = 0
        self._believed_until = self._fallen_until = self._fallen_queue = 0
        self._settle_us = self._round_us = 0.0
        self._settled = False  # its rate was seen once
        self._stuck_queue = self._stuck_from = 0.0
        self.updated = now
        #: the result, and without what a flow that begins may have
        self.pace_bps = self.known_bps = self.bw_bps
        self.window_bytes = int(self.bw_bps * (rtt + 2 * HEADROOM_US) / 8e6)

    @property
    def measured(self) -> bool:
        """Whether `bw_bps` is more than the guess that it begins with."""
        return self._settled or self._shown_bps > 0

    def update(
        self,
        est: PathEstimator,
        rtt_us: int,
        rtt_base_us: int,
        cap: float,
        now: int,
        first: bool = False,
    ) -> None:
        """rtt_us: smoothed; rtt_base_us: without queue; cap: share of the rate that may be used.

        first: the quickest path, on which flows begin.
        """
        dt = clamp((now - self.updated) / 1000, 0, 500_000)
        self.updated = now
        rtt = clamp(rtt_us, 100, MAX_DELAY_US)
        base = clamp(rtt_base_us, 100, rtt)
        cap = clamp(cap, 0.001, 1.0)
        begins = first and cap == 1
        queue = est.queue_us
        # Jitter looks like a queue: dense traffic waits for the slowest frame ahead of it.
        noise = clamp(5 * est.noise_us, 0, NOISE_MAX_US)
        target = TARGET_US + noise
        round_us = base + 30_000
        short = max(20_000.0, base / 2, 3 * noise)
        limited = est.limited(max(20_000.0, base), rtt, now) > 0.5
        self._settle_us = rtt + round_us + short
        self._note_losses(est, round_us, queue, target, rtt, now)

        if self.mode is Mode.RAMP:
            self._ramp(est, short, round_us, queue, target, limited, rtt, now)
            gain = RAMP_GAIN if self.mode is Mode.RAMP else DRAIN_GAIN
            cap = 1.0  # a rate that is not known has no share
        else:
            self._hold(est, short, round_us, queue, target, limited, cap, rtt, now)
            if cap < 1:
                gain = 1.0
            else:
                gain = self._gain(est, round_us, queue, target, limited, rtt, dt, now, first)
        self.bw_bps = clamp(self.bw_bps, FLOOR_BPS, MAX_RATE_BPS)
        self._peak_bps = max(self.bw_bps, self._peak_bps * (1 - 0.1 * dt / 1e6))
        self.pace_bps = clamp(self.bw_bps * gain * cap, MIN_RATE_BPS, MAX_RATE_BPS)
        headroom = HEADROOM_US + noise + min(10_000, base)
        window = self.bw_bps * cap * max(gain, 1.0) * (base + headroom) / 8e6
        self.known_bps = self.pace_bps
        # Only where nothing is known: a thin link ramps again and again.
        if self.mode is Mode.RAMP and begins and not self._settled and est.nothing_waits(now):
            pace, free = free_start(base)
            self.pace_bps, window = max(self.pace_bps, pace), max(window, free)
        self.window_bytes = int(max(window, 4 * PACKET_BYTES))

    # -- what is delivered

    def _delivered(self, est: PathEstimator, window_us: float) -> float | None:
        """What the path carries by its deliveries: those lost by chance count as carried."""
        rate = est.delivery_bps(window_us)
        if rate is None:
            return None
        lost, sent = est.losses(window_us)
        floor = self._lost_floor / self._sent_floor if self._sent_floor else 0.0
        chance = min(lost / sent if sent else 0.0, floor + POLICED_LOSS / 2, CHANCE_MAX)
        return rate / (1 - chance)

    def _note_losses(
        self, est: PathEstimator, round_us: float, queue: int, target: float, rtt: float, now: int
    ) -> None:
        """What is lost while the path is not pressed is lost by chance."""
        pressed = est.pace_bps(rtt, now) > 0.85 * self._peak_bps
        if queue > target or (pressed and self.mode is not Mode.RAMP):
            return
        lost, sent = est.losses(20_000)
        if self.mode is Mode.RAMP:  # known only when the deliveries go on to follow
            self._ramp_lost[1] += lost
            self._ramp_sent[1] += sent
            return
        self._lost_floor = self._lost_floor * 0.98 + lost
        self._sent_floor = self._sent_floor * 0.98 + sent

    def _ramp(
        self,
        est: PathEstimator,
        short: float,
        round_us: float,
        queue: int,
        target: float,
        limited: bool,
        rtt: float,
        now: int,
    ) -> None:
        rate = self._delivered(est, short)
        if rate is not None:
            self.bw_bps = max(self.bw_bps, rate)
            self._shown_bps = max(self._shown_bps, rate)
        # Jitter alone makes delays too. A full link delivers less than was sent, and all the while
        # that its queue stands.
        full = rate is not None and rate < RAMP_SHARE * est.sent_bps(short, rtt, now)
        stood = rate is not None and (
            rate * short / 8e6 >= STOOD_PACKETS * PACKET_BYTES
            or rate > self._shown_bps * min(1.0, queue / short) / 2
        )
        standing = stood and queue > max(RAMP_QUEUE_US, 1.5 * target)
        self._stood = self._stood and stood and queue > target
        if full and standing:
            if limited:
                rate = self._delivered(est, max(20_000.0, 3 * (target - TARGET_US)))
            else:  # what stands in the link's queue is a burst: its rate was seen
                rate = self._shown_bps
            self._settle(rate, queue, now)
            return
        # In lumps, which look like jitter, no queue stands for long.
        if rate is not None and est.sent_bps(20_000.0, rtt, now) > RAMP_PRESSED * self.bw_bps:
            self._pressed = True
        if now - self._round_at < round_us * 1000:
            return
        self._round_at = now
        grown = self.bw_bps >= 1.25 * self._ramp_best
        # A queue that stands says so too where the flow inside paces itself and none waits here;
        # that of an inner BBR may be short, but stays.
        standing = standing or self._stood
        self._flat = self._flat + 1 if (limited or standing or self._pressed) and not grown else 0
        if grown:
            self._lost_floor += self._ramp_lost[0]
            self._sent_floor += self._ramp_sent[0]
            self._ramp_lost = [self._ramp_lost[1], 0]
            self._ramp_sent = [self._ramp_sent[1], 0]
        self._ramp_best = max(self._ramp_best, self.bw_bps)
        if self._flat >= RAMP_FLAT_ROUNDS:
            self._settle(rate if limited or standing else self._shown_bps, queue, now)
        self._pressed = False
        self._stood = True

    def _settle(self, rate: float | None, queue: int, now: int) -> None:
        """The link is full: what it delivers is its rate; let the queue go first."""
        self._settled = True
        if rate is not None:
            self.bw_bps = max(rate, self.bw_bps / FALL_MOST)
        self._peak_bps = self.bw_bps
        self._fallen_queue = queue
        self._fallen_until = now + int((queue + self._settle_us) * 1000)
        self._enter(Mode.DRAIN, now + int(queue * 1000 / (1 - DRAIN_GAIN)))

    def _enter(self, mode: Mode, until: int) -> None:
        self.mode = mode
        self._mode_until = until
        self._climb = 0
        self._full_since = None

    def _hold(
        self,
        est: PathEstimator,
        short: float,
        round_us: float,
        queue: int,
        target: float,
        limited: bool,
        cap: float,
        rtt: float,
        now: int,
    ) -> None:
        """Follow what is delivered. A path that is given a share of its rate cannot show more."""
        long = clamp(4 * round_us, 150_000, 1_000_000)
        full = limited and queue > target / 3 and self.mode is Mode.HOLD
        self._full_since = (self._full_since or now) if full else None
        # Long enough that neither jitter nor the size of a packet counts for much.
        window = max(short, 8 * (target - TARGET_US), 8 * PACKET_BYTES * 8e6 / self.bw_bps)
        self._round_us = max(round_us, window)
        if cap == 1 and self.mode is Mode.HOLD and now > self._fallen_until:
            self._police(est, max(window, round_us), round_us, limited, now)
        recent = self._delivered(est, short)
        if recent is None:
            return
        sent = min(self.bw_bps * cap, est.pace_bps(rtt, now))
        standing = min(queue, est.queue_now_us)
        if standing > max(FALL_QUEUE_US, min(3 * target, 60_000)) and recent < FALL_SHARE * sent:
            # Once, and again only while the queue still grows: what we hold back is not a fall.
            if limited and (now > self._fallen_until or standing > self._fallen_queue + 5_000):
                self._settle(recent, queue, now)
                self._fallen_queue = standing
            return
        if cap < 1 or self._overrated(est, standing, target, round_us, limited, now):
            return
        rate = self._delivered(est, window)
        if rate is not None and rate > self.bw_bps and queue < 2 * target:
            self.bw_bps = rate
        if self._full_since is None or now - self._full_since < long * 1000:
            return
        mean = self._delivered(est, long)
        if mean is not None:
            self.bw_bps += (mean - self.bw_bps) * 0.3

    def _overrated(
        self,
        est: PathEstimator,
        standing: float,
        target: float,
        round_us: float,
        limited: bool,
        now: int,
    ) -> bool:
        """A queue stands at the link though nothing waits here: it carries what it delivers.

        So it is with an inner BBR, which fills the link to its own measure and never our queue; a
        rate above the link's would keep all of it on this path.
        """
        if limited or standing < 2 * target + RAMP_QUEUE_US / 2:
            self._standing_since = None
            return False
        self._standing_since = self._standing_since or now
        if now - self._standing_since < 3 * round_us * 1000:
            return False
        mean = self._delivered(est, 2 * round_us)
        if mean is None or mean > FALL_SHARE * self.bw_bps:
            return False
        self._standing_since = None
        self._settle(mean, int(standing), now)
        return True

    def _police(
        self, est: PathEstimator, long: float, round_us: float, limited: bool, now: int
    ) -> None:
        """What is lost by pressing, with no queue to see, is taken off as well."""
        lost, sent = est.losses(long)
        floor = self._lost_floor / self._sent_floor if self._sent_floor else 0.0
        if not limited or sent < 50 or lost / sent < floor + POLICED_LOSS:
            return
        mean = self._delivered(est, long)
        if mean is not None and mean < self.bw_bps:
            self.bw_bps = mean
            self._climb = 0
            self._policed_until = now + int(POLICED_ROUNDS * round_us * 1000)

    # -- the gain

    def _gain(
        self,
        est: PathEstimator,
        round_us: float,
        queue: int,
        target: float,
        limited: bool,
        rtt: float,
        dt: float,
        now: int,
        first: bool,
    ) -> float:
        if self.mode is Mode.DRAIN:
            if now < self._mode_until and min(queue, est.queue_now_us) > target / 4:
                return DRAIN_GAIN
            self._judge(est, queue, rtt, now)
            self._enter(Mode.HOLD, 0)
            self._round(queue, now)
            self._probe_due = now + BASE_PROBE
        if limited and now > max(self._probe_due, est.base_age + BASE_PROBE):
            self._enter(Mode.DRAIN, now + int((queue + TARGET_US) * 1000 / (1 - DRAIN_GAIN)))
            return DRAIN_GAIN
        self._round_queue = max(self._round_queue, queue)
        if now - self._round_at >= self._round_us * 1000:
            followed = self.bw_bps > self._round_bw * (1 + (CLIMB[self._climb] - 1) / 2)
            few = self.bw_bps < FEW_PACKETS * PACKET_BYTES * 8e6 / rtt
            if limited and few and self._round_queue < target / 2 and now > self._policed_until:
                # So low that rounds say little: as a new path does.
                self.mode, self._flat, self._ramp_best = Mode.RAMP, 0, 0.0
                self._shown_bps = 0.0
                self._round_at = now
                return RAMP_GAIN
            if not limited or self._round_queue > target or not followed:
                self._climb = 0
            else:
                self._climb = min(self._climb + 1, len(CLIMB) - 1)
            self._round(queue, now)
        pulsing = now >= self._policed_until and pulses(est.noise_us, limited, first)
        if queue < target / 2 or (queue < target and self._climb):
            if now < self._policed_until:
                return 1.0
            return max(CLIMB[self._climb], PULSE_GAIN if pulsing else 1.0)
        self._climb = 0
        if pulsing and queue < 3 * target:
            return PULSE_GAIN
        slope = max(80_000.0, 1.5 * round_us)
        gain = clamp(1 + (target - queue) / slope, DRAIN_GAIN, CLIMB[0])
        self._foreign(est, gain, queue, target, rtt, dt, now)
        return gain

    def _round(self, queue: int, now: int) -> None:
        self._round_at = now
        self._round_bw = self.bw_bps
        self._round_queue = queue

    def _judge(self, est: PathEstimator, queue: int, rtt: float, now: int) -> None:
        """At the end of a drain that was a test.

        What still stands there is not ours if no more comes than we send. (Where frames wait for
        each other, as jitter makes them, a link takes longer the more it has to carry, and the
        least delay is that of the flow's first packets.)
        """
        if not self._tested:
            return
        left = min(queue, est.queue_now_us)
        carried = self._delivered(est, DRAINED_US)
        drained = (
            now - self._tested_at >= (rtt + DRAINED_US) * 1000
            and carried is not None
            and carried < DRAINED_SHARE * est.sent_bps(DRAINED_US, rtt, now)
        )
        if left > self._tested / 2 or (drained and left > TARGET_US):
            est.forget_base(now)
        else:
            self._believed_until = now + BELIEVED
        self._stuck_us, self._stuck_from, self._tested = 0.0, 0.0, 0.0
        self._stuck_queue = float(est.queue_us)

    def _foreign(
        self,
        est: PathEstimator,
        gain: float,
        queue: int,
        target: float,
        rtt: float,
        dt: float,
        now: int,
    ) -> None:
        """A queue that does not go when we hold back is another's, or jitter: take it as given."""
        self._stuck_queue += (queue - self._stuck_queue) * 0.2
        over = self._stuck_queue - target
        if over <= 0 or gain >= 1 or now < self._believed_until:
            self._stuck_us, self._stuck_from = 0.0, over
            return
        self._stuck_us += (1 - gain) * dt
        if self._stuck_us > 2 * max(self._stuck_from, 0) + 5_000 + (1 - gain) * rtt:
            # Hold back in earnest, for so long that a queue of ours would be gone.
            self._tested, self._tested_at = self._stuck_queue, now
            wait_us = over / (1 - DRAIN_GAIN) + rtt + DRAINED_US
            self._enter(Mode.DRAIN, now + int(wait_us * 1000))
