"""Between the paths' health and the tuner: what each path, and the tunnel, may carry."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from whalescale.protocol.limits import NS_PER_S
from whalescale.protocol.paths.health import Path
from whalescale.protocol.paths.pmtu import PLAIN_OVERHEAD
from whalescale.protocol.paths.tuning import Tuner
from whalescale.protocol.paths.types import (
    Action,
    MultipathSettings,
    PacketLimit,
    PathParams,
    PathSample,
    PathState,
    PathStatus,
    PeerParams,
    Reason,
    TunePath,
    TunePeer,
)

#: IPv6 needs this much (RFC 8200 section 5), and the kernel takes it down where there is less: a
#: path that carries less takes what fits
LEAST_PACKET: Final = 1280
#: IPv6's header is longer than IPv4's by so much
IP_HEADERS: Final = 20
#: so much loss while probes are answered: the long datagrams may be what is lost
BLACK_HOLE_LOSS: Final = 0.5
ANSWERED_LATELY: Final = 3 * NS_PER_S
#: tiers by kind of interface, for the scheduler `backup`: cable, WiFi, mobile
TIERS: Final = (("wwan", 2), ("ppp", 2), ("rmnet", 2), ("usb", 2), ("wl", 1))


def tier_of(path: Path) -> int:
    """As pinned, else by the interface's name."""
    if path.pin.tier is not None:
        return path.pin.tier
    return next((tier for start, tier in TIERS if path.interface.startswith(start)), 0)


class Supply:
    """Feeds the tuner and passes on what it sets."""

    def __init__(
        self,
        settings: MultipathSettings,
        tuner: Callable[[MultipathSettings], Tuner],
        mtu: int,
        actions: deque[Action],
    ) -> None:
        self._make = tuner
        self._tuner = tuner(settings)
        self._actions = actions
        self.mtu = mtu
        #: paths that the tuner has
        self._tuned: set[int] = set()
        self._params: dict[int, PathParams] = {}
        self._peer: PeerParams | None = None
        #: as last told; None: paths take what is configured
        self._limit: int | None = None
        self._samples: dict[int, PathSample] = {}

    def settings(self, settings: MultipathSettings, paths: Iterable[Path]) -> None:
        """Begin anew with other settings."""
        self._tuner = self._make(settings)
        self._params.clear()
        self._peer = None
        tuned, self._tuned = self._tuned, set()
        for path in paths:
            if path.id in tuned:
                self.add(path)

    # paths

    def add(self, path: Path) -> None:
        """Data goes over it from here on."""
        if path.id not in self._tuned:
            self._tuned.add(path.id)
            self._params.pop(path.id, None)
            self._tuner.add(path.id, path.srtt_us)
            self._limits(path)

    def remove(self, path: Path) -> None:
        if path.id in self._tuned:
            self._tuned.discard(path.id)
            self._params.pop(path.id, None)
            self._tuner.remove(path.id)

    def restart(self, path: Path) -> None:
        """It works again."""
        if path.id in self._tuned:
            self._tuner.restart(path.id)

    def _limits(self, path: Path) -> None:
        degraded = path.state is PathState.DEGRADED
        cap = min(max(path.pin.weight_cap, 0.0), 1.0)
        self._tuner.set_limits(
            path.id, degraded, tier_of(path), cap, path.mtu.max_packet, usable=path.used
        )

    # ticks

    def sample(
        self, samples: Mapping[int, PathSample], paths: Iterable[Path], now: int
    ) -> list[tuple[Path, Reason, float]]:
        """Returns whose state changed, why, and its loss."""
        self._samples = dict(samples)
        paths = list(paths)
        tuned = [p for p in paths if p.id in self._tuned]
        changed: list[tuple[Path, Reason, float]] = []
        losses = {p.id: self._tuner.loss(p.id) for p in tuned}
        for path in tuned:
            others = [loss for number, loss in losses.items() if number != path.id]
            loss = losses[path.id]
            srtt = samples[path.id].srtt_us if path.id in samples else 0
            if path.judge(loss, max(others, default=0.0), srtt or path.srtt_us, now):
                worse = path.state is PathState.DEGRADED
                changed.append((path, Reason.LOSS if worse else Reason.WELL_AGAIN, loss))
            lately = path.answered_at is not None and now - path.answered_at < ANSWERED_LATELY
            if loss > BLACK_HOLE_LOSS and lately and path.alive and not path.mtu.searching:
                path.mtu.suspect(now)
            self._limits(path)
        self.tell(paths, now)
        return changed

    def tell(self, paths: Iterable[Path], now: int) -> None:
        """The data plane what follows from the last samples, where that is new."""
        # Those of spares too: how much later than the others one may come that takes over.
        rtts = {p.id: p.rtt_us for p in paths if p.alive and p.rtt_us is not None}
        # All of them: what arrives is counted under the peer's numbers.
        params, peer = self._tuner.sample(self._samples, rtts, now)
        for number, of_path in params.items():
            if number in self._tuned and self._params.get(number) != of_path:
                self._params[number] = of_path
                self._actions.append(TunePath(number, of_path))
        if peer != self._peer:
            self._peer = peer
            self._actions.append(TunePeer(peer))

    def limit(self, paths: Iterable[Path], *, alone: bool) -> None:
        """The tunnel's MTU: what every path in use carries. While one searches nothing is said.
        `alone`: data is not scheduled over paths. Else a spare counts that takes less by no more
        than its longer IP header: what waits when it takes over has to fit."""
        paths = list(paths)
        used = [p for p in paths if p.used]
        settled = [self._room(p, alone) for p in used if not p.mtu.searching]
        if not settled or (len(settled) < len(used) and min(settled) >= (self._limit or self.mtu)):
            return
        limit = min((m for m in settled if m >= LEAST_PACKET), default=LEAST_PACKET)
        spares = (
            p.mtu.max_packet
            for p in paths
            if p.validated
            and not (p.used or alone or p.pin.disabled)
            # While it searches it is not known yet, and what it was is no reason to change.
            and (not p.mtu.searching or p.mtu.max_packet == self._limit)
        )
        self._tell_limit(min((m for m in spares if limit - IP_HEADERS <= m < limit), default=limit))

    def _room(self, path: Path, alone: bool) -> int:
        """The longest packet that the path takes. Over IPv6 the only one sends those plain that a
        data frame around them would make too long."""
        plain = alone and ":" in path.remote.ip
        if plain and path.mtu.confirmed >= self.mtu + PLAIN_OVERHEAD:
            return self.mtu
        return path.mtu.max_packet

    def lift(self) -> None:
        """The paths end: none of them limits the tunnel any more."""
        self._tell_limit(None)

    def _tell_limit(self, limit: int | None) -> None:
        if limit is not None and limit >= self.mtu:
            limit = None
        if limit != self._limit:
            self._limit = limit
            self._actions.append(PacketLimit(limit))

    def status(self, path: Path, theirs: tuple[int, ...]) -> PathStatus:
        """`theirs`: the peer's numbers of it."""
        sample = self._samples.get(path.id, PathSample())
        tuned = path.id in self._tuned
        tuner = self._tuner
        heard = (path.answered_at, path.heard_at, sample.last_ack_ns)
        return PathStatus(
            id=path.id,
            local=path.local,
            remote=path.remote,
            interface=path.interface,
            state=path.state,
            usable=path.used,
            rtt_us=sample.srtt_us or (path.srtt_us if path.rtt_us is not None else None),
            rtt_min_us=path.rtt_min_us,
            jitter_us=path.rttvar_us if path.rtt_us is not None else None,
            loss=tuner.loss(path.id) if tuned else 0.0,
            rate_bps=tuner.rate_bps(path.id) if tuned else 0,
            acked_bps=tuner.acked_bps(path.id) if tuned else 0,
            weight=tuner.share(path.id) if tuned and path.used else 0.0,
            queue_us=tuner.queue_us(path.id) if tuned else 0,
            in_flight_bytes=sample.in_flight_bytes,
            max_packet=path.mtu.max_packet,
            tx_bytes=sample.tx_bytes,
            rx_bytes=sum(self._samples[n].rx_bytes for n in theirs if n in self._samples),
            pin=path.pin,
            heard_at=max((at for at in heard if at), default=None),
            theirs=theirs,
        )
