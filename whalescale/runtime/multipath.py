"""Between the path managers and the engine's paths: actions out, samples and links in.

Runs on the asyncio loop's thread. The data plane schedules, orders and acknowledges by itself; this
reads what it counted a few times a second, and sets what the managers made of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from whalescale.dataplane import multipath as dataplane
from whalescale.dataplane.engine import Addr, Engine
from whalescale.dataplane.multipath import Path, Paths
from whalescale.protocol import multipath as core
from whalescale.protocol.limits import NS_PER_MS, NS_PER_S
from whalescale.protocol.node import Node
from whalescale.protocol.paths.types import (
    Action,
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
from whalescale.protocol.places import LocalLink, PeerHandle

log = logging.getLogger(__name__)

#: between two samples of a busy peer: rates are the data plane's, but how long a silence may be
#: follows the round trips, and that nothing comes any more shall be seen soon
BUSY_NS: Final = 100 * NS_PER_MS
#: the first one after data began to flow, or flows over other paths
BEGIN_NS: Final = 20 * NS_PER_MS
#: while data takes one path each way, and no other could take over: nothing is decided
ALONE_NS: Final = 250 * NS_PER_MS
#: peers that are due within so little are looked at together
TOGETHER_NS: Final = 5 * NS_PER_MS
#: packets between two looks that make a peer busy, and how long it stays so after the last
BUSY_PACKETS: Final = 4
LINGER_NS: Final = 2 * NS_PER_S
#: between two looks whether the other peers have become busy
IDLE_NS: Final = 250 * NS_PER_MS
#: those are sampled so often for what goes on without data, but not more of them at a time
RARE_NS: Final = NS_PER_S
RARE_PEERS: Final = 8
#: ns that the tunnel's MTU stays low after a path that took less was used
RAISE_AFTER: Final = 60 * NS_PER_S
#: slots of the data plane hold packets of this length at least, so that a reload may raise the MTU
PACKET_BYTES: Final = 2048


@dataclass(slots=True)
class Watched:
    """A peer that the data plane is prepared for. Times are ns."""

    #: of our paths
    ids: frozenset[int] = frozenset()
    #: data packets, when last looked at
    counted: int = 0
    sampled_at: int = 0
    #: while busy: when to sample it next
    due_at: int = 0
    busy_until: int = 0
    #: our data is scheduled over paths
    scheduled: bool = False
    #: another path could take over
    kept: bool = False
    #: data packets that came by each path of the peer's, when last sampled
    received: dict[int, int] = field(default_factory=dict)
    #: by so many paths some came since the sample before
    arriving: int = 0

    def begin(self, now: int) -> None:
        """Data begins to flow, or flows over other paths."""
        # Soon, though one path alone takes it: what is silence there must be said.
        self.due_at = now + BEGIN_NS

    def arrived(self, received: dict[int, int]) -> None:
        """Data packets by path, as sampled."""
        before, self.received = self.received, received
        self.arriving = sum(before.get(path) != count for path, count in received.items())

    @property
    def every(self) -> int:
        """ns between two samples while busy."""
        return BUSY_NS if self.scheduled or self.kept or self.arriving > 1 else ALONE_NS


class Multipath:
    """The paths of every peer of one driver."""

    def __init__(
        self,
        node: Node,
        engine: Engine,
        numbers: Mapping[PeerHandle, int],
        now: Callable[[], int],
        *,
        drain: Callable[[], None],
        on_fault: Callable[[str, Exception], None],
        on_limit: Callable[[int | None], None],
    ) -> None:
        """`numbers`: the engine's of each peer. `drain`: drains the node's outputs. `on_fault`:
        counts what went wrong with one peer. `on_limit`: hears of `limit`, where that or
        some `limit_of` is another."""
        self._node = node
        self._managers = node.guest(core.Multipath)
        self._engine = engine
        self._paths = Paths(engine)
        self._numbers = numbers
        self._now = now
        #: who waits longest for a sample stands first
        self._watched: dict[PeerHandle, Watched] = {}
        self._busy: set[PeerHandle] = set()
        #: when to look at those that are not
        self._idle_at = 0
        #: packets up to this length fit the data plane's slots: what a reload may set the MTU to
        self.longest_mtu = max(engine.mtu, PACKET_BYTES)
        self._limits: dict[PeerHandle, int] = {}
        self._told: dict[PeerHandle, int] = {}  # the same, as last told
        self._limited_at: dict[PeerHandle, int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._armed_at = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._drain = drain
        self._on_limit = on_limit
        self._on_fault = on_fault

    @property
    def limit(self) -> int | None:
        """The longest packet that any peer takes, as last told; None: one has no limit."""
        if self._numbers.keys() - self._told.keys():
            return None
        return max(self._told.values(), default=None)

    def limit_of(self, handle: PeerHandle) -> int | None:
        """The longest packet that all usable paths of a peer take, as last told; None: no limit."""
        return self._told.get(handle)

    # life

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._arm()

    def stop(self) -> None:
        self._loop = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # inputs

    def set_links(self, links: Sequence[LocalLink], port: int) -> None:
        """The addresses that paths may begin at, each with a carrier."""
        self._node.set_locals(links, port, self._now())
        self._drain()

    def forget(self, handle: PeerHandle) -> None:
        """The peer is removed."""
        self._watched.pop(handle, None)
        self._busy.discard(handle)
        self._limited_at.pop(handle, None)
        if self._limits.pop(handle, None) is not None:
            self._told.pop(handle, None)
            self._on_limit(self.limit)

    def pin(self, handle: PeerHandle, path: int, pin: Pin) -> None:
        """KeyError: no such path."""
        found = {s.id: s for s in self._managers.path_status(handle)}[path]
        self._managers.pin_path(
            handle,
            pin,
            self._now(),
            local=found.local.ip if found.local is not None else None,
            remote=found.remote.ip,
            interface=found.interface,
        )
        self._drain()

    def pin_all(
        self, handle: PeerHandle, pin: Pin, *, local: str | None, interface: str | None
    ) -> None:
        """Of every path of an interface or local IP, those to come too."""
        self._managers.pin_path(handle, pin, self._now(), local=local, interface=interface)
        self._drain()

    def wake(self, handle: PeerHandle) -> None:
        """Data begins to flow to the peer: sample it from now on, not at the next look."""
        watched = self._watched.get(handle)
        if watched is None or handle in self._busy or self._loop is None:
            return
        now = self._now()
        watched.busy_until = now + LINGER_NS
        watched.begin(now)
        self._busy.add(handle)
        self._hurry(watched)

    def _hurry(self, watched: Watched) -> None:
        """It is due earlier than it was. Not each time: many that begin together would put off the
        look at all others."""
        if self._timer is not None and watched.due_at < self._armed_at:
            self._timer.cancel()
            self._arm()

    # views

    def has_paths(self, handle: PeerHandle) -> bool:
        return bool(self._managers.path_status(handle))

    def status(self, handle: PeerHandle) -> list[PathStatus]:
        """What the last sample made of each path, with its bytes as they are now: an idle peer is
        sampled so seldom that a short transfer would not show."""
        found = self._managers.path_status(handle)
        number = self._numbers.get(handle)
        if number is None:
            return found
        now = self._sample(number, frozenset(s.id for s in found))
        return [
            replace(
                s,
                tx_bytes=now[s.id].tx_bytes,
                rx_bytes=sum(now[n].rx_bytes for n in s.theirs if n in now),
                in_flight_bytes=now[s.id].in_flight_bytes,
            )
            if s.id in now
            else s
            for s in found
        ]

    def counters(self, handle: PeerHandle) -> dict[str, int] | None:
        number = self._numbers.get(handle)
        return None if number is None else self._paths.peer_counters(number)

    # what the managers want

    def prepare(self, handle: PeerHandle, number: int, reset: bool) -> None:
        """Before the peer may send frames over several paths. OSError: no memory."""
        self._paths.prepare(number, self.longest_mtu, reset=reset)
        self._watched.setdefault(handle, Watched())

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
                if action.max_packet is None:
                    self._limits.pop(handle, None)
                else:
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
        self._paths.set_paths(
            number, paths, schedule=action.schedule, stay=action.stay, keep=action.keep
        )
        watched = self._watched.setdefault(handle, Watched())
        watched.ids = frozenset(p.id for p in action.paths)
        watched.scheduled, watched.kept = action.schedule, action.keep
        now = self._now()
        watched.begin(now)
        if handle in self._busy:
            self._hurry(watched)

    def _tell_limit(self) -> None:
        """Lower at once, higher only after a while: flows inside dislike an MTU that flaps."""
        if self._limits == self._told:
            return
        now, before = self._now(), dict(self._told)
        for handle in self._limits.keys() | before.keys():
            limit, told = self._limits.get(handle), before.get(handle)
            if limit is not None and (told is None or limit < told):
                self._told[handle] = limit
                self._limited_at[handle] = now
            elif now - self._limited_at.get(handle, 0) >= RAISE_AFTER:
                # Else the tick looks again.
                if limit is None:
                    self._told.pop(handle, None)
                else:
                    self._told[handle] = limit
        if self._told != before:
            self._on_limit(self.limit)

    # samples

    def _tick(self) -> None:
        if self._loop is None:
            return
        now = self._now()
        try:
            self._look(now)
            self._tell_limit()
        finally:
            self._arm()
        self._drain()

    def _arm(self) -> None:
        if self._loop is not None:
            now = self._now()
            due = [self._watched[handle].due_at for handle in self._busy]
            at = min([self._idle_at, *due])
            wait_ns = min(max(at - now, TOGETHER_NS), IDLE_NS)
            self._armed_at = now + wait_ns
            self._timer = self._loop.call_later(wait_ns / NS_PER_S, self._tick)

    def _look(self, now: int) -> None:
        """At the busy peers that are due, and four times a second whether others have become so."""
        soon = now + TOGETHER_NS
        handles = [handle for handle in self._busy if self._watched[handle].due_at <= soon]
        rare = 0
        if self._idle_at <= soon:
            self._idle_at = now + IDLE_NS
            handles += [handle for handle in self._watched if handle not in self._busy]
            rare = RARE_PEERS
        for handle in handles:
            watched = self._watched.get(handle)
            number = self._numbers.get(handle)
            if watched is None:
                continue
            watched.due_at = now + watched.every
            if number is None:
                self._busy.discard(handle)
                continue
            try:
                rare -= self._look_at(handle, number, watched, now, rare > 0)
            except Exception as e:  # one peer's fault must not end the others' sampling
                self._busy.discard(handle)
                self._on_fault("path samples", e)

    def _look_at(
        self, handle: PeerHandle, number: int, watched: Watched, now: int, rare: bool
    ) -> bool:
        """Sample it if data flows, or did lately; else at times, if `rare`. True: that was rare."""
        counted = self._paths.path_activity(number)
        packets, watched.counted = counted - watched.counted, counted
        was_busy = handle in self._busy
        if packets >= BUSY_PACKETS:
            watched.busy_until = now + LINGER_NS
            if not was_busy:
                watched.begin(now)
        if now < watched.busy_until:
            self._busy.add(handle)
        else:
            self._busy.discard(handle)
        flows = bool(packets) or was_busy or handle in self._busy
        if not watched.ids or not (flows or (rare and now - watched.sampled_at >= RARE_NS)):
            return False
        watched.sampled_at = now
        self._watched[handle] = self._watched.pop(handle)
        samples = self._sample(number, watched.ids)
        watched.arrived({path: sample.rx_packets for path, sample in samples.items()})
        self._managers.path_samples(handle, samples, now)
        return not flows

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
