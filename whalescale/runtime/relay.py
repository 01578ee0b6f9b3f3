"""The relay in the agent (docs/nat.md): settings and members in, bindings to the data plane.

protocol/nat/relay.py decides. Here is kept what each pair of members was carried, for people.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Final, NamedTuple

from whalescale.config import Config
from whalescale.dataplane import relay as dataplane
from whalescale.dataplane.engine import Addr, Engine
from whalescale.dataplane.relay import Carried, InKernel
from whalescale.protocol.mesh.network import Mesh
from whalescale.protocol.nat.guest import Signalling
from whalescale.protocol.nat.relay import Relay
from whalescale.protocol.nat.relay_events import RelayEnded, RelaySet, RelaySettings, Use
from whalescale.protocol.node import Node
from whalescale.protocol.paths.types import PathStatus
from whalescale.protocol.places import Endpoint, PeerHandle
from whalescale.protocol.types import Event
from whalescale.runtime.background import Background
from whalescale.runtime.driver import Driver
from whalescale.runtime.notices import MembersChanged, Notices
from whalescale.runtime.part import Part

log = logging.getLogger(__name__)

#: pairs of members whose figures are kept; of more the oldest are forgotten
PAIRS_MOST: Final = 1024
#: seconds between looks at what the kernel relays
BEAT: Final = 1.0

#: who sends, and to whom
Pair = tuple[PeerHandle, PeerHandle]


class Way(NamedTuple):
    """A far end, and our own. None: not known."""

    remote: Endpoint | None
    local: Endpoint | None = None


class Reach(NamedTuple):
    """One way of those in use, a direct one where there is one; else the anchors, by name."""

    way: Way
    relayed_by: str


def reached(
    paths: Iterable[PathStatus],
    anchor_at: Callable[[Endpoint], PeerHandle | None],
    name_of: Callable[[PeerHandle], str],
    at: Way,
) -> Reach:
    """Of a peer. `at`: of its handshakes, which counts where no path can be used, and is what is
    said where it is among those that are used."""
    usable = sorted((p for p in paths if p.usable), key=lambda p: -p.weight)
    ways = [Way(p.remote, p.local) for p in usable] or [at]
    over = {w: anchor_at(w.remote) if w.remote is not None else None for w in ways}
    direct = [way for way, anchor in over.items() if anchor is None]
    names = {name_of(anchor) for anchor in over.values() if anchor is not None}
    used = direct or ways
    way = next((w for w in used if w.remote == at.remote), used[0])
    return Reach(way, "" if direct else ", ".join(sorted(names)))


def settings(config: Config) -> RelaySettings:
    c = config.relay
    return RelaySettings(Use(c.use), c.serve, c.members)


class Relays(Part):
    name: ClassVar[str] = "relay"

    def __init__(
        self,
        config: Config,
        node: Node,
        engine: Engine,
        driver: Driver,
        mesh: Callable[[], Mesh | None],
        name_of: Callable[[PeerHandle], str],
        notices: Notices,
        background: Background,
    ) -> None:
        """`mesh`: the network that we are in. `name_of`: a peer's, "" for one that is gone."""
        self._config = config
        self._core = node.guest(Relay)
        self._engine = dataplane.Relay(engine)
        self._driver = driver
        self._mesh = mesh
        self._name_of = name_of
        self._changes = -1
        #: what is bound, by index
        self._bound: dict[int, Pair] = {}
        #: what bindings that have ended have carried
        self._ended: OrderedDict[Pair, Carried] = OrderedDict()
        self._in_kernel = InKernel()
        self._background = background
        self._signalling = node.guest(Signalling)
        self._set_up(config)
        notices.on(MembersChanged, lambda _: self._members())

    async def apply(self, config: Config) -> None:
        if config.relay != self._config.relay:
            self._set_up(config)
            self._driver.drain()
        self._config = config

    def _set_up(self, config: Config) -> None:
        self._core.set_settings(settings(config), self._driver.now())
        self._engine.rate(config.relay.rate * 1_000_000)
        self._engine.use_kernel(config.relay.kernel)
        # What is made by carried messages has no way but a relay's.
        self._signalling.handshakes = config.relay.use != "never"

    def started(self) -> None:
        self._background.spawn(self._beat())

    async def _beat(self) -> None:
        """For as long as we live; where nothing is bound it costs nothing."""
        while True:
            await asyncio.sleep(BEAT)
            if self._bound or self._in_kernel.bindings:
                self._in_kernel = self._engine.beat()

    @property
    def in_kernel(self) -> InKernel:
        """As it is now."""
        self._in_kernel = self._engine.beat()
        return self._in_kernel

    def _members(self) -> None:
        mesh = self._mesh()
        if mesh is None or mesh.table.changes == self._changes:
            return
        self._changes = mesh.table.changes

        def belongs(node_id: bytes) -> bool:
            return mesh.belongs and mesh.membership.active(node_id) is not None

        self._core.set_network(mesh.node_id, belongs, mesh.anchors().known, self._driver.now())
        self._driver.drain()

    def on_event(self, event: Event) -> None:
        """What the core wants of the data plane."""
        match event:
            case RelaySet():
                self._set(event)
            case RelayEnded():
                self._forget(event.index)
            case _:
                pass

    def _set(self, event: RelaySet) -> None:
        pair = event.sender, event.peer
        if self._bound.get(event.index, pair) != pair:
            self._forget(event.index)
        self._bound[event.index] = pair
        local = Addr(*event.local) if event.local is not None else None
        try:
            self._engine.set(
                event.index,
                self._driver.number(event.sender),
                [Addr(*place) for place in event.places],
                Addr(*event.remote),
                local,
                event.most_bytes,
                event.until,
            )
        except (OSError, KeyError) as e:
            # Without it the one who bound finds that no probe comes through.
            self._bound.pop(event.index, None)
            log.warning("relay to %s: %s", self._name_of(event.peer), e)

    def _forget(self, index: int) -> None:
        pair = self._bound.pop(index, None)
        if pair is None:
            return
        self._ended[pair] = _sum(self._ended.pop(pair, Carried()), self._engine.remove(index))
        while len(self._ended) > PAIRS_MOST:
            self._ended.popitem(last=False)

    # views

    def is_relayed(self, peer: PeerHandle, remote: Endpoint) -> bool:
        """A path of the peer's with this far end leads over an anchor."""
        return self._core.anchor_at(peer, remote) is not None

    def reach(self, peer: PeerHandle, at: Way) -> Reach:
        """How what we send the peer goes now. `at`: the way of its handshakes."""
        return reached(
            self._driver.path_status(peer),
            lambda remote: self._core.anchor_at(peer, remote),
            self._name_of,
            at,
        )

    def anchors_of(self, peer: PeerHandle) -> list[str]:
        """Names of the anchors that relay to us what the peer sends."""
        return [self._name_of(anchor) for anchor in self._core.anchors_of(peer)]

    def status(self) -> dict[str, Any]:
        pairs: dict[Pair, Carried] = dict(self._ended)
        for index, carried in self._engine.list(len(self._bound)).items():
            pair = self._bound.get(index)
            if pair is not None:
                pairs[pair] = _sum(pairs.get(pair, Carried()), carried)
        bound = set(self._bound.values())
        return {
            "use": self._config.relay.use,
            "serve": self._config.relay.serve,
            "rate_bps": self._config.relay.rate * 1_000_000,
            "bindings": len(self._bound),
            "members": len({owner for _, owner in bound}),
            "kernel": self._kernel_status(),
            "pairs": [
                {
                    "sender": self._name_of(pair[0]),
                    "receiver": self._name_of(pair[1]),
                    "bound": pair in bound,
                    **carried._asdict(),
                }
                for pair, carried in pairs.items()
                if self._name_of(pair[0]) and self._name_of(pair[1])
            ],
        }

    def _kernel_status(self) -> dict[str, Any]:
        told = self.in_kernel
        if told.loaded:
            reason = os.strerror(told.error) if told.error else ""
        elif not self._config.relay.kernel:
            reason = "[relay] kernel = false"
        elif not self._config.relay.serve:
            reason = "[relay] serve = false"
        else:
            reason = "not loaded at the start (bpf says why)"
        return {
            "state": "on" if told.loaded else "off",
            "reason": reason,
            "bindings": told.bindings,
            "datagrams": told.datagrams,
            "bytes": told.bytes,
            "up": told.up,
            "lost": told.lost,
            "hops": told.hops,
        }


def _sum(one: Carried, other: Carried) -> Carried:
    return Carried(*(a + b for a, b in zip(one, other, strict=True)))
