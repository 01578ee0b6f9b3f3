"""The per-interval brain of multipath: from what C counted to what C shall do (sections 8 to 11).

Pure: counters and the time come in, parameters go out. `sample` is called every 20 ms while data
flows, else every 250 ms; a sample more or less does no harm.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from whalescale.protocol.limits import NS_PER_S
from whalescale.protocol.paths.estimator import (
    MAX_DELAY_US,
    MAX_RATE_BPS,
    MIN_RATE_BPS,
    PACKET_BYTES,
    PathEstimator,
    clamp,
    signed_delay,
)
from whalescale.protocol.paths.incoming import PATH_ACTIVE, Incoming
from whalescale.protocol.paths.innertcp import FULL_SHARE, LATELY, InnerTcp, Used, queue_us
from whalescale.protocol.paths.rate import Mode, RateControl
from whalescale.protocol.paths.types import (
    MultipathSettings,
    PathParams,
    PathSample,
    PeerParams,
)

#: packets that C keeps for one peer: those that wait and those in flight (multipath.h)
RING_PACKETS = 8192
DEFAULT_RTT_US = 100_000
ACK_INTERVAL_US = 10_000
ACK_INTERVAL_MIN_US = 2_000
QUEUE_MIN_BYTES = 131_072
HOLD_MIN_US = 2_000
HOLD_MAX_US = 250_000
HOLD_MARGIN_US = 20_000
HOLD_ALONE_US = 5_000
#: added to the hold before skew was measured for a while: paths ramp, and their queues come and go
HOLD_EARLY_US = 100_000
EARLY = 2 * NS_PER_S
#: a path's worst skew is remembered so long
SKEW_WINDOW = NS_PER_S
#: a path that is slower by more is used only where the queue is as long: in between, all that is
#: sent over the quick one would wait for it
SLACK_SKEW_US = 50_000
SLACK_MARGIN_US = 20_000
#: while the nearer ones have room, a path that is slower than the quickest by more is not used
SLACK_ROOM_US = 30_000
RESCUE_MIN_US = 60_000
RESCUE_MARGIN_US = 20_000
#: times that a repair takes, for which is waited: copies are lost or late as well
AGAINS = 4
#: memory is what it bounds: gaps have their deadlines, and a ramp is quicker than its measure
REORDER_DEPTH = (1024, 4096)
#: wrr: how far a path may lead, in packets
WRR_DEPTH = 128
#: what a path's data said so long ago may have been of a queue: probes know better
STALE = NS_PER_S


class _Path:
    __slots__ = (
        "cap",
        "degraded",
        "est",
        "max_packet",
        "probe_rtt_us",
        "rate",
        "sample",
        "sent_at",
        "stale",
        "tier",
        "usable",
    )

    def __init__(self, rtt_us: int, now: int) -> None:
        self.probe_rtt_us = int(clamp(rtt_us or DEFAULT_RTT_US, 100, MAX_DELAY_US))
        self.est = PathEstimator()
        self.rate = RateControl(self.probe_rtt_us, now)
        self.sample = PathSample()
        self.degraded = False
        self.tier = 0
        self.cap = 1.0
        self.max_packet = 65535
        #: takes data; one that failed does not
        self.usable = True
        #: nothing was sent on it lately
        self.stale = False
        self.sent_at = now

    def take(self, sample: PathSample, now: int) -> None:
        if sample.tx_packets != self.sample.tx_packets:
            self.sent_at = now
        self.stale = now - self.sent_at > STALE
        self.sample = sample
        self.est.push(sample, now, self.rate.pace_bps)

    @property
    def srtt_us(self) -> int:
        return int(clamp(self.sample.srtt_us or self.probe_rtt_us, 100, MAX_DELAY_US))

    @property
    def base_rtt_us(self) -> int:
        """Without the queue: the mean of what jitter makes of it, not the least ever seen."""
        measured = self._measured_rtt_us
        return min(measured, self.probe_rtt_us) if self.stale else measured

    @property
    def excess_us(self) -> int:
        """How much longer data took, when there was some, than probes do now."""
        return self._measured_rtt_us - self.base_rtt_us

    @property
    def _measured_rtt_us(self) -> int:
        srtt = self.srtt_us
        least = clamp(self.sample.rtt_min_us or srtt, 100, srtt)
        most = 2 * least + 20_000 + 25 * self.est.noise_us
        return int(clamp(clamp(srtt - self.est.queue_us, least, srtt), least, most))


def _slack_us(delays: list[int], skew: int) -> int:
    """How much later than the quick path's drained queue a slower one may be (edf), if those up to
    `skew` are used at once."""
    near = max((d for d in delays if d <= skew), default=0) + SLACK_MARGIN_US
    far = min((d for d in delays if d > skew), default=None)
    # Half the margin: an inner CUBIC's window is little more than the quick path's queue, and a
    # packet now and then on the slow one holds back all that follows.
    return near if far is None else min(near - SLACK_MARGIN_US // 2, far - SLACK_MARGIN_US)


class PathTuner:
    """Sets each path's pace, window and weight, and the peer's parameters."""

    def __init__(self, settings: MultipathSettings) -> None:
        self._settings = settings
        self._paths: dict[int, _Path] = {}
        self._skews: deque[tuple[int, float]] = deque()
        self._incoming = Incoming()
        #: between the round trips of all paths that work; None: there is one
        self._spread_us: int | None = None
        self._inner_tcp = InnerTcp(settings.align)

    def add(self, path_id: int, rtt_us: int, now: int) -> None:
        """A validated path; rtt_us: of its probe. It ramps from the least."""
        self._paths[path_id] = _Path(rtt_us, now)

    def remove(self, path_id: int) -> None:
        self._paths.pop(path_id, None)

    def restart(self, path_id: int, now: int) -> None:
        """It came back: what was known of it is old."""
        path = self._paths.get(path_id)
        if path is not None:
            path.est.reset()
            path.rate.restart(path.base_rtt_us, now)

    def set_limits(
        self, path_id: int, degraded: bool, tier: int, cap: float, max_packet: int, *, usable: bool
    ) -> None:
        """cap: largest share of its rate that the path may be given, 0..1."""
        path = self._paths.get(path_id)
        if path is not None:
            path.usable = usable
            path.degraded, path.tier, path.max_packet = degraded, tier, max_packet
            path.cap = clamp(cap, 0.0, 1.0)

    def sample(
        self, samples: Mapping[int, PathSample], rtts: Mapping[int, int], now: int
    ) -> tuple[dict[int, PathParams], PeerParams]:
        """rtts: µs by the path's probes, of spares too. Parameters for every path added."""
        self._incoming.update(samples, now)
        self._spread_us = max(rtts.values()) - min(rtts.values()) if len(rtts) > 1 else None
        for path_id, path in self._paths.items():
            if rtts.get(path_id, 0) > 0:
                path.probe_rtt_us = int(clamp(rtts[path_id], 100, MAX_DELAY_US))
            if path_id in samples:
                path.take(samples[path_id], now)
        used = {number: path for number, path in self._paths.items() if path.usable}
        quickest = min((p.base_rtt_us for p in used.values()), default=0)
        for path_id, path in self._paths.items():
            if path_id in samples:
                base = path.base_rtt_us
                path.rate.update(path.est, path.srtt_us, base, path.cap, now, base == quickest)
        delays = self._delays(used)
        return self._path_params(delays), self._peer_params(used, delays, now)

    # -- views

    def loss(self, path_id: int) -> float:
        """Share of datagrams lost over about a second, 0..1."""
        path = self._paths.get(path_id)
        return path.est.loss() if path else 0.0

    def rate_bps(self, path_id: int) -> int:
        """What the path is thought to carry. 0: nothing was measured, as where data goes over path
        0 alone and nothing acknowledges it."""
        path = self._paths.get(path_id)
        return int(path.rate.bw_bps) if path and path.rate.measured else 0

    def acked_bps(self, path_id: int) -> int:
        """The design's estimate: bytes acknowledged over a rolling second."""
        path = self._paths.get(path_id)
        return path.est.acked_bps(path.rate.updated) if path else 0

    def queue_us(self, path_id: int) -> int:
        path = self._paths.get(path_id)
        return path.est.queue_us if path else 0

    def share(self, path_id: int) -> float:
        """Of the peer's traffic, by weight, 0..1."""
        path = self._paths.get(path_id)
        total = sum(self._weight(each) for each in self._paths.values())
        return self._weight(path) / total if path and total else 0.0

    @staticmethod
    def _weight(path: _Path) -> float:
        return path.rate.bw_bps * max(path.cap, 0.001) / (4 if path.degraded else 1)

    # -- what C gets

    def _delays(self, used: Mapping[int, _Path]) -> dict[int, int]:
        """Base one-way delays relative to the least, µs."""
        found: dict[int, int] = {}
        origin: int | None = None
        for path_id, path in self._paths.items():
            base = path.est.base_us
            if base is not None:
                origin = base if origin is None else origin
                found[path_id] = signed_delay(base - origin) - path.excess_us
        if len(found) < len(self._paths):
            # Until all are measured by one clock: half of the round trip each.
            found = {i: path.base_rtt_us // 2 for i, path in self._paths.items()}
        least = min((found[i] for i in used or found), default=0)
        return {i: int(clamp(delay - least, 0, MAX_DELAY_US)) for i, delay in found.items()}

    def _ack_interval_us(self) -> int:
        least = min((path.base_rtt_us for path in self._paths.values()), default=ACK_INTERVAL_US)
        return int(clamp(least / 2, ACK_INTERVAL_MIN_US, ACK_INTERVAL_US))

    def _rescue_us(self, path: _Path) -> int:
        """So long without an answer to its data, and a path is silent."""
        rttvar = clamp(path.sample.rttvar_us, 0, MAX_DELAY_US)
        wait = 1.5 * path.srtt_us + 4 * rttvar + self._ack_interval_us() + RESCUE_MARGIN_US
        return int(min(max(RESCUE_MIN_US, wait), 3 * path.srtt_us + 50_000))

    def _path_params(self, delays: Mapping[int, int]) -> dict[int, PathParams]:
        # Half of the ring is for what is in flight.
        windows = sum(path.rate.window_bytes for path in self._paths.values())
        scale = min(1.0, RING_PACKETS * PACKET_BYTES / 2 / windows) if windows else 1.0
        params = {}
        for path_id, path in self._paths.items():
            params[path_id] = PathParams(
                rate_bps=int(path.rate.pace_bps),
                window_bytes=int(clamp(path.rate.window_bytes * scale, 3_000, 1 << 40)),
                srtt_us=path.srtt_us,
                weight=int(clamp(path.rate.bw_bps * path.cap / 10_000, 1, 1 << 30)),
                tier=path.tier,
                degraded=path.degraded,
                delay_us=delays[path_id],
                max_packet=path.max_packet,
                rescue_us=self._rescue_us(path),
            )
        return params

    def _peer_params(
        self, used: Mapping[int, _Path], delays: Mapping[int, int], now: int
    ) -> PeerParams:
        paths = list(self._paths.values())
        total = clamp(sum(p.rate.known_bps for p in paths), MIN_RATE_BPS, MAX_RATE_BPS)
        ramping = any(p.rate.mode is Mode.RAMP for p in used.values())
        skew = max(delays.values(), default=0)
        queue = queue_us(ramping, skew)
        queue_bytes = clamp(
            total * queue / 8e6, QUEUE_MIN_BYTES, RING_PACKETS * PACKET_BYTES * 0.45
        )
        ack = self._ack_interval_us()
        best_rtt = min((p.srtt_us for p in paths), default=DEFAULT_RTT_US)
        again_us = best_rtt + ack + 10_000
        hold, loss_wait = self._hold(again_us, now)
        asked = self._inner_tcp.update(
            {
                number: Used(p.base_rtt_us, delays[number], p.rate.bw_bps, p.est)
                for number, p in used.items()
            },
            SLACK_SKEW_US,
            now,
        )
        fixed = self._settings.reorder_depth
        wanted = 2 * self._incoming.rate_bps * hold / 8e6 / 1000  # small packets too
        return PeerParams(
            scheduler=self._settings.scheduler,
            depth=WRR_DEPTH if fixed is None else fixed,
            slack_us=self._slack(used, delays, now),
            queue_us=queue,
            queue_bytes=int(queue_bytes),
            repair=self._repair(),
            repair_age_us=int(clamp(2 * best_rtt + skew + 50_000, 50_000, 400_000)),
            reorder_depth=int(fixed if fixed is not None else clamp(wanted, *REORDER_DEPTH)),
            hold_us=hold,
            loss_wait_us=loss_wait,
            path_idle_us=PATH_ACTIVE // 1000,
            deliver_late=self._settings.deliver_late,
            ack_interval_us=ack,
            **asked._asdict(),
        )

    def _slack(self, used: Mapping[int, _Path], delays: Mapping[int, int], now: int) -> int:
        near = [path for number, path in used.items() if delays[number] <= SLACK_ROOM_US]
        known = sum(path.rate.bw_bps for path in near)
        full = sum(p.est.acked_bps(now, LATELY) for p in near) >= FULL_SHARE * known
        ramps = any(path.rate.mode is Mode.RAMP for path in near)
        skew = SLACK_SKEW_US if full and not ramps else SLACK_ROOM_US
        return _slack_us([delays[number] for number in used], skew)

    def _hold(self, again_us: int, now: int) -> tuple[int, int]:
        """How long a packet waits for one before it: at most; once every path has passed that."""
        incoming = self._incoming
        rtts = [p.srtt_us for p in self._paths.values()]
        # The peer's go on for a while after ours: it learns later that an address is gone.
        several = max(len(rtts), incoming.count) > 1
        skew, jitter = incoming.skew_us, incoming.jitter_us
        if several and incoming.count < len(rtts):
            # Before the paths have brought anything, their probes must do.
            skew = max(skew, float(max(rtts) - min(rtts)))
        self._skews.append((now, clamp(skew + 4 * jitter, 0, HOLD_MAX_US)))
        while now - self._skews[0][0] > SKEW_WINDOW:
            self._skews.popleft()
        worst = max(value for _, value in self._skews)
        hold = 1.5 * worst + HOLD_MARGIN_US if several else HOLD_ALONE_US
        if not several and self._spread_us is not None:
            # Another may take over, and be the quicker one: what was under way comes after.
            hold += 1.5 * self._spread_us + HOLD_MARGIN_US
        if several and incoming.began_within(EARLY, now):
            hold += HOLD_EARLY_US
        loss_wait = clamp(jitter, 0, 10_000)
        if incoming.count < len(rtts):
            # A path that is not in use may come into use, and what it brings is not lost.
            loss_wait = hold
        if several and self._settings.repair is not False:
            hold += again_us
            loss_wait = max(loss_wait, AGAINS * again_us)
        if several:
            # By then a path that fell silent is left, and what it had is sent again.
            rescue = max((self._rescue_us(path) for path in self._paths.values()), default=0)
            hold = max(hold, 2 * rescue + again_us)
        hold = clamp(hold, HOLD_MIN_US, HOLD_MAX_US)
        return int(hold), int(min(loss_wait, hold))

    def _repair(self) -> bool:
        if self._settings.repair is not None:
            return self._settings.repair
        # From the first loss on: one that the inner TCP sees costs CUBIC seconds. Whether the link
        # is full or loses by chance cannot be told in time; a full one is the rate's business, and
        # the copies are bounded in C.
        return len(self._paths) > 1
