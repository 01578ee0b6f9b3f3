"""Two path managers joined by random links under one fake clock; the data plane is a page."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from eventqueue import MS, EventQueue

from whalescale.protocol.paths.manager import PathManager
from whalescale.protocol.paths.types import (
    MultipathSettings,
    PacketLimit,
    PathEvent,
    PathParams,
    PathSample,
    PathSpec,
    PeerParams,
    RescuePath,
    SendPathControl,
    SetPaths,
)
from whalescale.protocol.places import Endpoint, LocalLink

PORT = 51820
TICK = 100 * MS
#: of the tunnel, as configured
MTU = 1420


class FlatTuner:
    """Every path the same rate."""

    def __init__(self, settings: MultipathSettings | None = None) -> None:
        self.settings = settings or MultipathSettings()
        #: degraded, tier, cap, max_packet
        self.limits: dict[int, tuple[bool, int, float, int] | None] = {}
        self.restarts = Counter[int]()
        self.losses: dict[int, float] = {}

    def add(self, path_id: int, rtt_us: int) -> None:
        assert path_id not in self.limits, "added twice"
        self.limits[path_id] = None

    def remove(self, path_id: int) -> None:
        del self.limits[path_id]

    def restart(self, path_id: int) -> None:
        assert path_id in self.limits
        self.restarts[path_id] += 1

    def set_limits(
        self, path_id: int, degraded: bool, tier: int, cap: float, max_packet: int, *, usable: bool
    ) -> None:
        assert path_id in self.limits
        self.limits[path_id] = (degraded, tier, cap, max_packet)

    def sample(
        self, samples: Mapping[int, PathSample], rtts: Mapping[int, int], now: int
    ) -> tuple[dict[int, PathParams], PeerParams]:
        params = {
            n: PathParams(0, 1000, limit[1], limit[0], limit[3], 100_000)
            for n, limit in self.limits.items()
            if limit
        }
        s = self.settings
        peer = PeerParams(s.scheduler, False, 0, 128, 0, 0, 0, True, 10_000, True)
        return params, peer

    def loss(self, path_id: int) -> float:
        return self.losses.get(path_id, 0.0)

    def rate_bps(self, path_id: int) -> int:
        return 1_000_000

    def acked_bps(self, path_id: int) -> int:
        return 0

    def queue_us(self, path_id: int) -> int:
        return 0

    def share(self, path_id: int) -> float:
        return 1 / max(1, len(self.limits))


@dataclass
class Way:
    """What happens to datagrams between two addresses. `up`: both directions."""

    up: bool = True
    delay: int = 10 * MS
    loss: float = 0.0
    mtu: int = 1500  # IP packet


@dataclass
class Flow:
    sent: int = 0
    acked_at: int = 0
    silent_since: int | None = None


class Side:
    """One host: its manager and a stand-in of its data plane."""

    def __init__(
        self, world: PathWorld, name: str, addresses: list[LocalLink], **settings: Any
    ) -> None:
        self.world = world
        self.name = name
        self.links = addresses
        self.tuners: list[FlatTuner] = []
        tuner = settings.pop("tuner", self._tuner)
        self.manager = PathManager(
            MultipathSettings(**settings), world.rng.randbytes, PORT, tuner=tuner
        )
        self.set: SetPaths | None = None
        self.specs: dict[int, PathSpec] = {}
        self.events: list[tuple[int, PathEvent]] = []
        self.rescued: list[tuple[int, int]] = []
        self.limit = MTU
        self.flows: dict[int, Flow] = defaultdict(Flow)
        self.busy = False
        self.actions = 0

    def _tuner(self, settings: MultipathSettings) -> FlatTuner:
        self.tuners.append(FlatTuner(settings))
        return self.tuners[-1]

    @property
    def used(self) -> set[tuple[str | None, str]]:
        """(local ip, remote ip) of the paths that take data."""
        assert self.set is not None
        taking = (p for p in self.set.paths if self.takes(p))
        return {(p.local.ip if p.local else None, p.remote.ip) for p in taking}

    def takes(self, spec: PathSpec) -> bool:
        """Data goes over it: over several, over the only one, or path 0."""
        assert self.set is not None
        usable = sum(p.usable for p in self.set.paths)
        return spec.usable if self.set.schedule or usable == 1 else not spec.id

    def drain(self) -> None:
        while (action := self.manager.poll_action()) is not None:
            self.actions += 1
            match action:
                case SetPaths():
                    assert len({p.id for p in action.paths}) == len(action.paths) <= 8
                    for spec in action.paths:
                        old = self.specs.get(spec.id)
                        if old is None or (old.local, old.remote) != (spec.local, spec.remote):
                            self.flows.pop(spec.id, None)
                    self.set = action
                    self.specs = {p.id: p for p in action.paths}
                case SendPathControl():
                    self.world.carry(self, self.specs[action.path], action)
                case PathEvent():
                    self.events.append((self.world.now, action))
                case RescuePath():
                    self.rescued.append((self.world.now, action.path))
                case PacketLimit():
                    self.limit = action.max_packet or MTU
        self.world.arm(self)

    def tick(self) -> None:
        """Data on every path in use; the flow's ACKs come back by any that works."""
        now = self.world.now
        samples = {}
        watched = self.set is not None and (self.set.schedule or self.set.keep)
        for number, spec in self.specs.items():
            flow = self.flows[number]
            takes = self.busy and self.takes(spec)
            way = self.world.way(self, spec)
            if takes:
                flow.sent += 10
            if takes and way is not None and way.up:
                flow.acked_at, flow.silent_since = now, None
            elif takes and flow.silent_since is None:
                flow.silent_since = now
            elif not takes:
                flow.silent_since = None
            samples[number] = PathSample(tx_packets=flow.sent, last_ack_ns=flow.acked_at)
            if flow.silent_since is not None and now - flow.silent_since >= 200 * MS:
                flow.silent_since = now
                if watched:
                    self.manager.path_silent(number, now)
                    self.drain()
        self.manager.sample({n: s for n, s in samples.items() if n in self.specs}, now)
        self.drain()


class PathWorld(EventQueue):
    def __init__(self, seed: int = 1, near: int = 2, far: int = 2, **settings: Any) -> None:
        self.rng = random.Random(seed)  # noqa: S311
        super().__init__()
        self._armed: dict[str, int] = {}
        self.ways: dict[tuple[str, str], Way] = {}
        #: bytes by (from, to) and direction, until the receiver of them answered a probe
        self.sent = Counter[tuple[str, Endpoint]]()
        self.datagrams = 0
        self.a = Side(
            self, "a", [link(f"10.{k}.0.1", k, f"eth{k}") for k in range(near)], **settings
        )
        self.b = Side(self, "b", [link(f"10.{k}.0.2", k, f"if{k}") for k in range(far)], **settings)

    def join(self, at_a: str, at_b: str, **way: Any) -> Way:
        made = self.ways[at_a, at_b] = Way(**way)
        return made

    def begin(self, at_a: str = "10.0.0.1", at_b: str = "10.0.0.2") -> None:
        """A session came up over this pair; both know their addresses."""
        for side, local, remote in ((self.a, at_a, at_b), (self.b, at_b, at_a)):
            side.manager.set_locals(side.links, self.now)
            side.manager.primary(Endpoint(remote, PORT), Endpoint(local, PORT), self.now)
        for side in (self.a, self.b):
            side.manager.session_started(self.now)
            side.drain()
            self.every(TICK, side.tick)

    def way(self, side: Side, spec: PathSpec) -> Way | None:
        local = self.local_of(side, spec)
        other = self.b if side is self.a else self.a
        if local is None or local not in {k.ip for k in side.links}:
            return None
        if spec.remote.ip not in {k.ip for k in other.links}:
            return None
        return self.find(local, spec.remote.ip)

    def find(self, one: str, other: str) -> Way | None:
        return self.ways.get((one, other)) or self.ways.get((other, one))

    def local_of(self, side: Side, spec: PathSpec) -> str | None:
        if spec.local is not None:
            return spec.local.ip
        return next((k.ip for k in side.links if self.find(k.ip, spec.remote.ip)), None)

    def carry(self, side: Side, spec: PathSpec, action: SendPathControl) -> None:
        size = max(action.datagram_bytes, 32 + (len(action.frame) + 15) // 16 * 16)
        self.datagrams += 1
        self.sent[side.name, spec.remote] += size
        other = self.b if side is self.a else self.a
        way = self.way(side, spec)
        if way is None or not way.up or self.rng.random() < way.loss or size + 28 > way.mtu:
            return
        local = self.local_of(side, spec)
        assert local is not None

        def deliver() -> None:
            if not way.up or spec.remote.ip not in {k.ip for k in other.links}:
                return
            at = Endpoint(spec.remote.ip, PORT)
            other.manager.receive(action.frame, spec.id, Endpoint(local, PORT), at, size, self.now)
            other.drain()

        self.later(way.delay, deliver)

    def every(self, interval: int, call: Callable[[], None]) -> None:
        def tick() -> None:
            call()
            self.later(interval, tick)

        self.later(interval, tick)

    def arm(self, side: Side) -> None:
        when = side.manager.deadline()
        if when is not None and self._armed.get(side.name, when + 1) > when:
            self._armed[side.name] = when
            self.later(max(0, when - self.now), lambda: self._fire(side, when))

    def _fire(self, side: Side, when: int) -> None:
        if self._armed.get(side.name) != when:
            return
        del self._armed[side.name]
        side.manager.handle_timeout(self.now)
        side.drain()
        following = side.manager.deadline()
        assert following is None or following > self.now, "a timer that would spin"


def link(ip: str, ifindex: int, interface: str, mtu: int = 1500) -> LocalLink:
    return LocalLink(ip, ifindex + 1, interface, mtu)
