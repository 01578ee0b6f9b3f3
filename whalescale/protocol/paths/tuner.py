"""What Python sets of a peer's paths (docs/multipath.md section 8).

The data plane moves a window for each path at every ACK (csrc/multipath/window.c). What is left to
set from here are preferences, when a path counts as silent, and how long packets wait for each
other. Pure: counters and the time come in, parameters go out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from whalescale.protocol.limits import NS_PER_S
from whalescale.protocol.paths.estimator import PathEstimator
from whalescale.protocol.paths.health import DEVIATIONS
from whalescale.protocol.paths.types import (
    MultipathSettings,
    PathParams,
    PathSample,
    PeerParams,
)

#: of a path that no probe has measured
DEFAULT_RTT_US: Final = 100_000
#: or half of the least round trip, where that is less: windows are moved twice in one at least
ACK_INTERVAL_US: Final = 10_000
#: a path is not silent before: hosts are busy for so long now and then
RESCUE_MIN_US: Final = 60_000
#: after so many round trips and as long again it is (half of them, and what the next say)
RESCUE_RTTS: Final = 3
#: an ACK may be lost; shorter ones take a fading link for a silent one (a BBR over two: 0.57 of
#: them, not 0.62)
RESCUE_MARGIN_US: Final = 2 * ACK_INTERVAL_US
#: what is in flight is sent again up to this age, and a gap is held for as long: a fade is over by
#: then, or the path has failed
REPAIR_AGE_US: Final = 1_000_000
#: what a path that failed had in flight may come by another for so long
LEFT_FOR: Final = 2 * REPAIR_AGE_US * 1000
#: after several paths were used data goes on as over several, though only one of them is left: the
#: queue leaves at its pace, order is kept and repaired, and an inner BBR forgets the other's round
#: trip (10 s)
LINGER: Final = 12 * NS_PER_S
#: what asks for no order (UDP) waits no longer behind a gap: a lag of voice that is just bearable
#: (ITU-T G.114: 150 ms), less what its way takes
LOOSE_HOLD_US: Final = 100_000
#: a path that brought nothing for so long is not waited for: there is as long for what others bring
PATH_IDLE_US: Final = REPAIR_AGE_US // 2


class _Path:
    __slots__ = (
        "cap",
        "degraded",
        "est",
        "max_packet",
        "probe_rtt_us",
        "sample",
        "tier",
        "usable",
        "used_at",
    )

    def __init__(self, rtt_us: int) -> None:
        self.probe_rtt_us = rtt_us or DEFAULT_RTT_US
        self.est = PathEstimator()
        self.sample = PathSample()
        self.degraded = False
        self.tier = 0
        self.cap = 1.0
        self.max_packet = 0
        #: takes data; one that failed is known of still
        self.usable = True
        self.used_at = 0

    @property
    def srtt_us(self) -> int:
        return self.sample.srtt_us or self.probe_rtt_us

    @property
    def weight(self) -> float:
        return (self.sample.window_rate_bps or 1) * self.cap


class PathTuner:
    """A Tuner (tuning.py)."""

    def __init__(self, settings: MultipathSettings) -> None:
        self._settings = settings
        self._paths: dict[int, _Path] = {}
        self._now = 0
        #: when several were used together
        self._together_at = -LINGER

    def add(self, path_id: int, rtt_us: int) -> None:
        self._paths[path_id] = _Path(rtt_us)

    def remove(self, path_id: int) -> None:
        self._paths.pop(path_id, None)

    def restart(self, path_id: int) -> None:
        """It came back: what its silence took tells nothing of its losses."""
        path = self._paths.get(path_id)
        if path is not None:
            path.est = PathEstimator()

    def set_limits(
        self, path_id: int, degraded: bool, tier: int, cap: float, max_packet: int, *, usable: bool
    ) -> None:
        path = self._paths.get(path_id)
        if path is not None:
            path.usable = usable
            path.degraded, path.tier, path.max_packet = degraded, tier, max_packet
            path.cap = min(max(cap, 1e-3), 1.0)

    def sample(
        self, samples: Mapping[int, PathSample], rtts: Mapping[int, int], now: int
    ) -> tuple[dict[int, PathParams], PeerParams]:
        self._now = now
        if sum(path.usable for path in self._paths.values()) > 1:
            self._together_at = now
        for path_id, path in self._paths.items():
            path.probe_rtt_us = rtts.get(path_id) or path.probe_rtt_us
            if path_id in samples:
                path.sample = samples[path_id]
                path.est.push(path.sample, now)
            if path.usable:
                path.used_at = now
        return {n: self._params(path) for n, path in self._paths.items()}, self._peer_params()

    @property
    def _best_rtt_us(self) -> int:
        used = (path.srtt_us for path in self._paths.values() if path.usable)
        return min(used, default=DEFAULT_RTT_US)

    def _params(self, path: _Path) -> PathParams:
        ack, rtts = min(self._best_rtt_us // 2, ACK_INTERVAL_US), RESCUE_RTTS * path.srtt_us
        silent = rtts // 2 + DEVIATIONS * path.sample.rttvar_us + ack + RESCUE_MARGIN_US
        return PathParams(
            srtt_us=path.srtt_us,
            cap_permille=round(path.cap * 1000),
            tier=path.tier,
            degraded=path.degraded,
            max_packet=path.max_packet,
            rescue_us=min(max(silent, RESCUE_MIN_US), rtts + RESCUE_MIN_US),
        )

    def _peer_params(self) -> PeerParams:
        best = self._best_rtt_us
        # On one path alone a loss is the inner flow's own: it is to hear of it, and soon. But where
        # order is kept it would wait for what a path that was left brings late, or never.
        lately = sum(self._now - path.used_at <= LEFT_FOR for path in self._paths.values())
        kept = lately > 1 or self._now - self._together_at < LINGER
        repair = kept if self._settings.repair is None else self._settings.repair
        return PeerParams(
            scheduler=self._settings.scheduler,
            repair=repair,
            repair_age_us=REPAIR_AGE_US,
            reorder_depth=self._settings.reorder_depth or 0,
            loose_hold_us=LOOSE_HOLD_US,
            loss_wait_us=best + ACK_INTERVAL_US if repair else best,
            path_idle_us=PATH_IDLE_US,
            deliver_late=self._settings.deliver_late,
            ack_interval_us=min(best // 2, ACK_INTERVAL_US),
            align=self._settings.align * (2 if self._settings.bbr else 1),
        )

    # views

    def loss(self, path_id: int) -> float:
        """Share of datagrams lost over about a second, 0..1."""
        path = self._paths.get(path_id)
        return path.est.loss() if path else 0.0

    def rate_bps(self, path_id: int) -> int:
        """What the path carries; until it was full the most that it did. 0: nothing was seen."""
        path = self._paths.get(path_id)
        return path.sample.window_rate_bps if path else 0

    def acked_bps(self, path_id: int) -> int:
        """Bytes acknowledged over the last second."""
        path = self._paths.get(path_id)
        return path.est.acked_bps() if path else 0

    def queue_us(self, path_id: int) -> int:
        """Of the path's delay above its least; 0 where nothing was acknowledged lately."""
        path = self._paths.get(path_id)
        if path is None or self._now - path.sample.last_ack_ns > NS_PER_S:
            return 0
        return path.sample.window_queue_us

    def share(self, path_id: int) -> float:
        """Of the peer's traffic, by what the paths carry, 0..1."""
        path = self._paths.get(path_id)
        total = sum(each.weight for each in self._paths.values())
        return path.weight / total if path and total else 0.0
