"""What Python sets of a peer's paths (docs/multipath.md section 8).

The data plane moves a window for each path at every ACK (csrc/multipath/window.c). What is left to
set from here are preferences, when a path counts as silent, and how long packets wait for each
other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from whalescale.protocol.limits import NS_PER_S
from whalescale.protocol.paths.estimator import MAX_DELAY_US, MAX_RATE_BPS, PathEstimator, clamp
from whalescale.protocol.paths.tuner import (
    ACK_INTERVAL_MIN_US,
    ACK_INTERVAL_US,
    AGAINS,
    DEFAULT_RTT_US,
    REORDER_DEPTH,
    RESCUE_MARGIN_US,
    RESCUE_MIN_US,
    RING_PACKETS,
    WRR_DEPTH,
)
from whalescale.protocol.paths.types import (
    MultipathSettings,
    PathParams,
    PathSample,
    PeerParams,
)

#: packets wait for a path so long before a TCP is told by a loss: its window must outlast a fade
QUEUE_US: Final = 500_000
#: what is in flight is sent again up to this age, and a gap is held for as long: a fade is over by
#: then, or the path has failed
REPAIR_AGE_US: Final = 1_000_000
#: what asks for no order (UDP) waits no longer behind a gap: a lag of voice that is just bearable
#: (ITU-T G.114: 150 ms), less what its way takes
LOOSE_HOLD_US: Final = 100_000
#: what a path that failed had in flight may come by another for so long
LEFT_FOR: Final = 2 * NS_PER_S
#: the time of a copy, beside the round trips that it takes
AGAIN_MARGIN_US: Final = 10_000


class _Path:
    __slots__ = (
        "cap",
        "degraded",
        "est",
        "max_packet",
        "probe_rtt_us",
        "sample",
        "tier",
        "updated",
        "usable",
        "used_at",
    )

    def __init__(self, rtt_us: int, now: int) -> None:
        self.probe_rtt_us = rtt_us or DEFAULT_RTT_US
        self.est = PathEstimator()
        self.sample = PathSample()
        self.updated = now
        self.degraded = False
        self.tier = 0
        self.cap = 1.0
        self.max_packet = 65535
        self.usable = True
        self.used_at = now

    @property
    def srtt_us(self) -> int:
        return int(clamp(self.sample.srtt_us or self.probe_rtt_us, 100, MAX_DELAY_US))

    @property
    def rate_bps(self) -> float:
        return clamp(self.sample.window_rate_bps, 0, MAX_RATE_BPS)

    @property
    def weight(self) -> float:
        return self.rate_bps * max(self.cap, 0.001) / (4 if self.degraded else 1)


class WindowTuner:
    """A Tuner (tuning.py)."""

    def __init__(self, settings: MultipathSettings) -> None:
        self._settings = settings
        self._paths: dict[int, _Path] = {}

    def add(self, path_id: int, rtt_us: int, now: int) -> None:
        self._paths[path_id] = _Path(rtt_us, now)

    def remove(self, path_id: int) -> None:
        self._paths.pop(path_id, None)

    def restart(self, path_id: int, now: int) -> None:
        """It came back: its window is where the data plane left it."""

    def set_limits(
        self, path_id: int, degraded: bool, tier: int, cap: float, max_packet: int, *, usable: bool
    ) -> None:
        path = self._paths.get(path_id)
        if path is not None:
            path.degraded, path.tier, path.max_packet = degraded, tier, max_packet
            path.cap, path.usable = clamp(cap, 0.0, 1.0), usable

    def sample(
        self, samples: Mapping[int, PathSample], rtts: Mapping[int, int], now: int
    ) -> tuple[dict[int, PathParams], PeerParams]:
        for path_id, path in self._paths.items():
            if rtts.get(path_id, 0) > 0:
                path.probe_rtt_us = rtts[path_id]
            if path_id in samples:
                path.sample, path.updated = samples[path_id], now
                path.est.push(path.sample, now, path.rate_bps)
            if path.usable:
                path.used_at = now
        return {n: self._params(path) for n, path in self._paths.items()}, self._peer_params(now)

    def _used(self) -> list[_Path]:
        """Those that data goes over; one that failed is known of still."""
        return [path for path in self._paths.values() if path.usable]

    def _ack_interval_us(self) -> int:
        least = min((path.srtt_us for path in self._used()), default=ACK_INTERVAL_US)
        return int(clamp(least / 2, ACK_INTERVAL_MIN_US, ACK_INTERVAL_US))

    def _params(self, path: _Path) -> PathParams:
        rttvar = clamp(path.sample.rttvar_us, 0, MAX_DELAY_US)
        silent = 1.5 * path.srtt_us + 4 * rttvar + self._ack_interval_us() + RESCUE_MARGIN_US
        pace = path.cap * path.rate_bps if path.cap < 1 else MAX_RATE_BPS
        return PathParams(
            rate_bps=int(clamp(pace, 1, MAX_RATE_BPS)),
            window_bytes=1 << 40,
            srtt_us=path.srtt_us,
            weight=int(clamp(path.weight / 10_000, 1, 1 << 30)),
            tier=path.tier,
            degraded=path.degraded,
            delay_us=0,
            max_packet=path.max_packet,
            rescue_us=int(min(max(RESCUE_MIN_US, silent), 3 * path.srtt_us + 50_000)),
        )

    def _peer_params(self, now: int) -> PeerParams:
        used = self._used()
        best = min((path.srtt_us for path in used), default=DEFAULT_RTT_US)
        ack, fixed = self._ack_interval_us(), self._settings.reorder_depth
        packet = max((min(p.max_packet, 1500) for p in self._paths.values()), default=1500)
        # On one path alone a loss is the inner flow's own: it is to hear of it, and soon.
        lately = sum(now - path.used_at <= LEFT_FOR for path in self._paths.values())
        repair = lately > 1 if self._settings.repair is None else self._settings.repair
        return PeerParams(
            scheduler=self._settings.scheduler,
            depth=WRR_DEPTH if fixed is None else fixed,
            slack_us=0,
            queue_us=QUEUE_US,
            queue_bytes=RING_PACKETS * packet,
            repair=repair,
            repair_age_us=REPAIR_AGE_US,
            reorder_depth=REORDER_DEPTH[1] if fixed is None else fixed,
            hold_us=REPAIR_AGE_US,
            loss_wait_us=AGAINS * (best + ack) + AGAIN_MARGIN_US if repair else best,
            path_idle_us=500_000,
            deliver_late=self._settings.deliver_late,
            ack_interval_us=ack,
            align=self._settings.align,
            bunch_us=0,
            bunch_every_us=0,
            tcp_wait_us=0,
            loose_hold_us=LOOSE_HOLD_US,
            control=1,
        )

    # views

    def loss(self, path_id: int) -> float:
        path = self._paths.get(path_id)
        return path.est.loss() if path else 0.0

    def rate_bps(self, path_id: int) -> int:
        path = self._paths.get(path_id)
        return int(path.rate_bps) if path else 0

    def acked_bps(self, path_id: int) -> int:
        path = self._paths.get(path_id)
        return path.est.acked_bps(path.updated) if path else 0

    def queue_us(self, path_id: int) -> int:
        path = self._paths.get(path_id)
        return int(clamp(path.sample.window_queue_us, 0, MAX_DELAY_US)) if path else 0

    def share(self, path_id: int) -> float:
        path = self._paths.get(path_id)
        total = sum(each.weight for each in self._paths.values())
        return path.weight / total if path and total else 0.0
