"""Between the path managers and the engine's paths: actions out, samples and links in.

Runs on the asyncio loop's thread. The data plane schedules, orders and acknowledges by itself; this
reads what it counted a few times a second, and sets what the managers made of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from whalescale.dataplane import multipath as dataplane
from whalescale.dataplane.engine import Addr, Engine
from whalescale.dataplane.multipath import Path, Paths
from whalescale.protocol.node import Node
from whalescale.protocol.paths.types import (
    Action,
    LocalLink,
    PacketLimit,
    PathParams,
    PathSample,
    PathStatus,
    PeerParams,
    Pin,
    RescuePath,
    SendPathControl,
    SetPaths,
    TunePath,
    TunePeer,
)
from whalescale.protocol.types import PeerHandle

log = logging.getLogger(__name__)

#: between two samples: while data begins to flow, while it goes on, and else
BUSY_S: Final = 0.02
STEADY_S: Final = 0.04
IDLE_S: Final = 0.25
#: packets between two samples that make a peer busy
BUSY_PACKETS: Final = 4
#: samples at the first pace
BEGINNING: Final = 150
#: ... and at a busy one after the last packet
LINGER: Final = 100
#: ns that the tunnel's MTU stays low after a path that took less was used
RAISE_AFTER: Final = 60_000_000_000
#: slots of the data plane hold packets of this length at least, so that a reload may raise the MTU
PACKET_BYTES: Final = 2048


class Multipath:
    """The paths of every peer of one driver."""

    def __init__(
        self, node: Node, engine: Engine, numbers: Mapping[PeerHandle, int], now: Callable[[], int]
    ) -> None:
        self._node = node
        self._engine = engine
        self._paths = Paths(engine)
        self._numbers = numbers
        self._now = now
        #: peers that the data plane is prepared for: path ids in use, datagrams counted last
        self._prepared: dict[PeerHandle, tuple[frozenset[int], int]] = {}
        self._limits: dict[PeerHandle, int] = {}
        self._limit: int | None = None  # as last told
        self._limited_at = 0
        self._linger = 0
        self._fresh = BEGINNING
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        #: drains the node's outputs; set by the driver
        self.drain: Callable[[], None] = lambda: None
        #: the longest packet that all usable paths of all peers take, or None: no limit
        self.on_limit: Callable[[int | None], None] = lambda _: None

    # life

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer = loop.call_later(IDLE_S, self._tick)

    def stop(self) -> None:
        self._loop = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # inputs

    def set_links(self, links: Sequence[LocalLink], port: int) -> None:
        """The addresses that paths may begin at, each with a carrier."""
        self._node.set_locals(links, port, self._now())
        self.drain()

    def forget(self, handle: PeerHandle) -> None:
        """The peer is removed."""
        self._prepared.pop(handle, None)
        if self._limits.pop(handle, None) is not None:
            self._tell_limit()

    def pin(self, handle: PeerHandle, path: int, pin: Pin) -> None:
        """KeyError: no such path."""
        found = {s.id: s for s in self._node.path_status(handle)}[path]
        self._node.pin_path(
            handle,
            pin,
            self._now(),
            local=found.local.ip if found.local is not None else None,
            remote=found.remote.ip,
            interface=found.interface,
        )
        self.drain()

    def pin_all(
        self, handle: PeerHandle, pin: Pin, *, local: str | None, interface: str | None
    ) -> None:
        """Of every path of an interface or local IP, those to come too."""
        self._node.pin_path(handle, pin, self._now(), local=local, interface=interface)
        self.drain()

    # views

    def status(self, handle: PeerHandle) -> list[PathStatus]:
        return self._node.path_status(handle)

    def counters(self, handle: PeerHandle) -> dict[str, int] | None:
        number = self._numbers.get(handle)
        return None if number is None else self._paths.peer_counters(number)

    # what the managers want

    def prepare(self, handle: PeerHandle, number: int, reset: bool) -> None:
        """Before the peer may send frames over several paths. OSError: no memory."""
        self._paths.prepare(number, max(self._engine.mtu, PACKET_BYTES), reset=reset)
        self._prepared.setdefault(handle, (frozenset(), 0))

    def apply(self, handle: PeerHandle, number: int, action: Action) -> None:
        """OSError: the engine refused."""
        match action:
            case SetPaths():
                self._set_paths(handle, number, action)
            case TunePath():
                self._paths.tune_path(number, action.path, **_path_params(action.params))
            case TunePeer():
                self._paths.tune(number, **_peer_params(action.params))
            case SendPathControl():
                self._paths.send_control(number, action.path, action.frame, action.datagram_bytes)
            case RescuePath():
                self._paths.rescue(number, action.path)
            case PacketLimit():
                self._limits[handle] = action.max_packet
                self._tell_limit()
            case _:
                pass  # PathEvent is for the user: the tunnel notes it

    def _set_paths(self, handle: PeerHandle, number: int, action: SetPaths) -> None:
        paths = [
            Path(
                p.id,
                Addr(*p.local) if p.local is not None else None,
                Addr(*p.remote),
                p.ifindex,
                p.usable,
            )
            for p in action.paths
        ]
        self._paths.set_paths(number, paths, schedule=action.schedule)
        self._fresh = BEGINNING
        _, counted = self._prepared.get(handle, (frozenset(), 0))
        self._prepared[handle] = (frozenset(p.id for p in action.paths), counted)
        if not action.schedule and self._limits.pop(handle, None) is not None:
            self._tell_limit()

    def _tell_limit(self) -> None:
        """Lower at once, higher only after a while: flows inside dislike an MTU that flaps."""
        limit = min(self._limits.values(), default=None)
        if limit == self._limit:
            return
        lower = self._limit is None or (limit is not None and limit < self._limit)
        if lower:
            self._limited_at = self._now()
        elif self._now() - self._limited_at < RAISE_AFTER:
            return  # the tick looks again
        self._limit = limit
        self.on_limit(limit)

    # samples

    def _tick(self) -> None:
        if self._loop is None:
            return
        busy = False
        now = self._now()
        for handle, (ids, before) in tuple(self._prepared.items()):
            number = self._numbers.get(handle)
            if number is None:
                continue
            counted = self._paths.path_activity(number)
            busy |= counted - before >= BUSY_PACKETS
            self._prepared[handle] = (ids, counted)
            if ids:
                self._node.path_samples(handle, self._sample(number, ids), now)
        self._tell_limit()
        self._linger = LINGER if busy else max(self._linger - 1, 0)
        if not self._linger:
            self._fresh = BEGINNING
            wait = IDLE_S
        else:
            self._fresh = max(self._fresh - 1, 0)
            wait = BUSY_S if self._fresh else STEADY_S
        self._timer = self._loop.call_later(wait, self._tick)
        self.drain()

    def _sample(self, number: int, ids: frozenset[int]) -> dict[int, PathSample]:
        """Of our paths, and of the ids under which only the peer sends."""
        found = self._paths.path_counters(number, ids)
        return {path: PathSample(*values) for path, values in found.items()}


def _path_params(params: PathParams) -> dict[str, int]:
    return {name: int(getattr(params, name)) for name in dataplane.PATH_PARAMS}


def _peer_params(params: PeerParams) -> dict[str, int]:
    values = {
        name: int(getattr(params, name)) for name in dataplane.PEER_PARAMS if name != "scheduler"
    }
    values["scheduler"] = dataplane.Scheduler[params.scheduler.name]
    return values
