"""Two whole ends of a multipath session: path manager, tuner and the C core, over emulated links.

`World` with the product's path managers in place of its few lines: they find the paths by probes
that travel over the links, and what they decide goes to the cores. Link k joins 10.k.0.1 and .2.
"""

from __future__ import annotations

from collections.abc import Callable

from multipath_core import CONTROL_ACK, CONTROL_HEARTBEAT, FRAME_HEAD_BYTES, MS, Core
from multipath_world import Frame, Link, LinkSpec, Source, World, turned

from whalescale.protocol.paths.manager import PathManager
from whalescale.protocol.paths.tuner import PathTuner
from whalescale.protocol.paths.types import (
    MultipathSettings,
    PathEvent,
    RescuePath,
    SendPathControl,
    SetPaths,
    TunePath,
    TunePeer,
)
from whalescale.protocol.places import Endpoint, LocalLink

PORT = 51820
ALONE, SPREAD, KEEP = range(3)  # enum ws_multipath_mode
#: the managers' timers may be late by so much
SLICE = 5 * MS


class Side:
    """One host. `routes`: link by path number."""

    def __init__(
        self, name: str, core: Core, manager: PathManager, out: list[Link], *, one: bool
    ) -> None:
        """`one`: all addresses are of one interface."""
        self.name, self.core, self.manager, self.out = name, core, manager, out
        host = 1 if name == "a" else 2
        self.links = [
            LocalLink(f"10.{k}.0.{host}", n + 2, f"eth{n}", 1500)
            for k in range(len(out))
            for n in (0 if one else k,)
        ]
        self.routes: dict[int, int] = {}
        self.usable: set[int] = set()
        self.scheduled = False
        #: over one path: which, and whether the core keeps what is sent
        self.only, self.keep = 0, False
        self.silent: list[int] = []
        self.events: list[PathEvent] = []

    @property
    def used(self) -> set[int]:
        """Links that take data."""
        return {self.routes[path] for path in self.usable if path in self.routes}


class JointWorld(World):
    """`begin` starts the sources, once the paths are there."""

    def __init__(
        self,
        links: list[LinkSpec],
        settings: MultipathSettings | None = None,
        seed: int = 1,
        anchors: frozenset[int] = frozenset(),
    ) -> None:
        """`anchors`: links that lead over an anchor each, and not to the peer; each end has one
        interface for all of them then."""
        self.sides: dict[str, Side] = {}
        #: nothing more comes from the TUN devices
        self.stopped = False
        super().__init__(links, [], settings, seed)
        for name, core, out in (("a", self.a, self.out), ("b", self.b, self.back)):
            settings = settings or MultipathSettings()
            manager = PathManager(
                settings,
                self.rng.randbytes,
                PORT,
                tuner=PathTuner,
                relayed=lambda there: int(there.ip.split(".")[1]) in anchors,
            )
            side = self.sides[name] = Side(name, core, manager, out, one=bool(anchors))
            core.lib.ws_multipath_set_paths(core.mp, 0, 0, False, self.now)
            core.sample = self._sampler(side)  # type: ignore[assignment,method-assign]
        a, b = self.sides["a"], self.sides["b"]
        for side, other in ((a, b), (b, a)):
            side.manager.set_locals(side.links, self.now)
            local, remote = side.links[0].ip, other.links[0].ip
            side.manager.primary(Endpoint(remote, PORT), Endpoint(local, PORT), self.now)
        for side in (a, b):
            side.manager.session_started(self.now)
            self.drain(side)

    def begin(self, *sources: Source) -> None:
        self.sources = list(sources)
        for source in sources:
            source.begin(self)

    def set_locals(self, name: str, links: set[int]) -> None:
        """The host has these of its links' addresses."""
        side = self.sides[name]
        found = [one for k, one in enumerate(side.links) if k in links]
        side.manager.set_locals(found, self.now)
        self.drain(side)

    def cut(self, link: int, silent: bool) -> None:
        """Both ways."""
        self.out[link].set_silent(silent)
        self.back[link].set_silent(silent)

    # -- what the managers want

    def drain(self, side: Side) -> None:
        core, lib, now = side.core, side.core.lib, self.now
        while (action := side.manager.poll_action()) is not None:
            match action:
                case SetPaths():
                    self._set_paths(side, action)
                case TunePath():
                    core.tune_path(action.path, action.params)
                case TunePeer():
                    core.tune(action.params)
                case SendPathControl():
                    size = max(action.datagram_bytes, 32 + (len(action.frame) + 15) // 16 * 16)
                    number = lib.ws_multipath_number(core.mp, action.path, size, now)
                    if (link := side.routes.get(action.path)) is not None:
                        what = (action.path, number, size, action.frame)
                        side.out[link].send(now, size, what)
                case RescuePath():
                    lib.ws_multipath_rescue(core.mp, action.path, now)
                case PathEvent():
                    side.events.append(action)
        core.settle(now)

    def _set_paths(self, side: Side, action: SetPaths) -> None:
        host = 1 if side.name == "a" else 2
        side.routes = {}
        for path in action.paths:
            subnet = int(path.remote.ip.split(".")[1])
            if path.local is None or path.local.ip == f"10.{subnet}.0.{host}":
                side.routes[path.id] = subnet
        side.usable = {p.id for p in action.paths if p.usable}
        side.scheduled = bool(action.schedule and side.usable)
        present = sum(1 << p.id for p in action.paths)
        usable = sum(1 << number for number in side.usable)
        side.only = min(side.usable) if len(side.usable) == 1 and not side.scheduled else 0
        side.keep = action.keep
        mode = SPREAD if side.scheduled else KEEP if side.keep else ALONE
        side.core.lib.ws_multipath_set_paths(side.core.mp, present, usable, mode, self.now)

    # -- packets, scheduled or not

    def send(self, packets: list[bytes]) -> None:
        self._packets(self.sides["a"], packets)

    def answer(self, packet: bytes) -> None:
        self._packets(self.sides["b"], [turned(packet)])

    def _packets(self, side: Side, packets: list[bytes]) -> None:
        """With one path in use the engine sends by itself (csrc/session/send.c)."""
        if self.stopped:
            return
        core, lib, now = side.core, side.core.lib, self.now
        if side.scheduled or (side.keep and not lib.ws_multipath_past(core.mp, len(packets), now)):
            core.send(packets, now)
            return
        for packet in packets:
            size = 32 + (FRAME_HEAD_BYTES + len(packet) + 15) // 16 * 16
            number = lib.ws_multipath_number(core.mp, side.only, size, now)
            seq = lib.ws_multipath_seq(core.mp)
            head = bytes((0x80,)) + bytes(3) + int(seq).to_bytes(4, "little")
            what = (side.only, number, size, (head, packet))
            side.out[side.routes[side.only]].send(now, size, what)
        lib.ws_multipath_publish(core.mp, len(packets))

    # -- what World does by itself

    def _leaves(self, links: list[Link]) -> Callable[[int, int, int, Frame], None]:
        name = "a" if links is self.out else "b"

        def transmit(path: int, number: int, size: int, frame: Frame) -> None:
            link = self.sides[name].routes.get(path)
            if link is not None:
                links[link].send(self.now, size, (path, number, size, frame))

        return transmit

    def _sampler(self, side: Side) -> Callable[[list[int], int], None]:
        def sample(_: list[int], now: int) -> None:
            side.manager.sample(side.core.samples(side.routes), now)
            self.drain(side)

        return sample

    def _manage(self) -> None:
        pass

    def _silent_at_a(self, path: int) -> None:
        self.sides["a"].silent.append(path)

    def _silent_at_b(self, path: int) -> None:
        self.sides["b"].silent.append(path)

    def _arrive(self, link: Link) -> None:
        _, _, what = link.pipe.popleft()
        forth = any(link is one for one in self.out)
        index = next(k for k, one in enumerate(self.out if forth else self.back) if one is link)
        side = self.sides["b" if forth else "a"]
        assert isinstance(what, tuple)
        path, number, size, frame = what
        if forth:
            self.paths_bytes[index] += size
        if isinstance(frame, tuple) or frame[0] in (CONTROL_ACK, CONTROL_HEARTBEAT):
            side.core.receive(path, number, size, frame, self.now)
        else:
            side.core.lib.ws_multipath_received(side.core.mp, path, number, size, self.now)
        if isinstance(frame, bytes) and frame[0] != CONTROL_ACK:
            near, far = (2, 1) if forth else (1, 2)
            remote, local = (Endpoint(f"10.{index}.0.{host}", PORT) for host in (far, near))
            side.manager.receive(frame, path, remote, local, size, self.now)
            self.drain(side)

    def run(self, ms: float) -> float:
        end, before = self.now + int(ms * MS), self.delivered_bytes
        while self.now < end:
            super().run(min(SLICE, end - self.now) / MS)
            for side in self.sides.values():
                while side.silent:
                    side.manager.path_silent(side.silent.pop(), self.now)
                due = side.manager.deadline()
                if due is not None and due <= self.now:
                    side.manager.handle_timeout(self.now)
                    following = side.manager.deadline()
                    assert following is None or following > self.now, "a timer that would spin"
                self.drain(side)
        return (self.delivered_bytes - before) * 8e3 / ms
