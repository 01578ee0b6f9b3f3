"""Members behind walls, and anchors that relay, under the fake clock of world.py.

The data plane here has paths (frames and data by the usable one), and relay.c in a page.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable
from typing import Any

from eventqueue import MS, SECOND
from world import Host, Keys, Link, World

from whalescale.identity import Identity
from whalescale.protocol.guest import Part
from whalescale.protocol.mesh import records
from whalescale.protocol.multipath import Multipath
from whalescale.protocol.nat.guest import Membership, Signalling
from whalescale.protocol.nat.relay import Relay
from whalescale.protocol.nat.relay_events import RelayEnded, RelaySet, RelaySettings, Use
from whalescale.protocol.parts import PARTS
from whalescale.protocol.paths.types import MultipathSettings, PathSample, PathStatus, SetPaths
from whalescale.protocol.places import Endpoint, LocalLink
from whalescale.protocol.types import PathAction, SendControl


class Member(Host):
    """A node of the network; `anchors` say so of themselves."""

    def __init__(
        self, world: World, at: Endpoint, identity: Identity, parts: Iterable[Part]
    ) -> None:
        self.acted = 0
        super().__init__(world, at, identity, parts)
        self.table: dict[int, RelaySet] = {}
        self.specs: dict[int, SetPaths] = {}
        self.explicit = False  # the frame's path is given
        self.sent = Counter[tuple[int, int]]()  # by peer and path, packets
        self.came = Counter[tuple[int, int]]()  # by peer and path of the peer's, packets
        self.relayed = Counter[int]()  # by index, datagrams
        self.refused = Counter[int]()
        #: (when, peer, far end, data)
        self.by: list[tuple[int, int, Endpoint, bytes]] = []

    @property
    def relay(self) -> Relay:
        return self.node.guest(Relay)

    # data plane

    def _transmit(self, handle: int, keys: Keys, data: bytes, path: int = 0) -> None:
        known = self.specs.get(handle)
        usable = [s.id for s in known.paths if s.usable] if known is not None else []
        if not self.explicit and known is not None and (known.schedule or len(usable) == 1):
            path = next(iter(usable), path)
        if data[:1] and data[0] >> 4 != 1:
            self.sent[handle, path] += 1
        super()._transmit(handle, keys, data, path)

    def receive(self, data: bytes, remote: Endpoint, local: Endpoint | None = None) -> None:
        if data[:4] == b"\x04\0\0\0" and len(data) >= 32:
            (index,) = struct.unpack_from("<I", data, 4)
            if index in self.table and index not in self.indices:
                self.forward(index, data, remote)
                return
        super().receive(data, remote, local)

    def forward(self, index: int, data: bytes, remote: Endpoint) -> None:
        told = self.table[index]
        if remote not in told.places:
            self.refused[index] += 1
            return
        self.relayed[index] += 1
        self.world.carry(self.at, told.remote, data)

    def _accepted(self, handle: int, keys: Keys, plain: bytes, remote: Endpoint, path: int) -> None:
        p, known = self.peers[handle], self.specs.get(handle)
        if plain and plain[0] >> 4 != 1:
            self.by.append((self.world.now, handle, remote, plain))
            self.came[handle, path] += 1
        before, stays = p.endpoint, known is not None and (known.schedule or known.stay)
        if stays:
            p.endpoint = remote
        super()._accepted(handle, keys, plain, remote, path)
        if stays:
            p.endpoint = before

    # driver

    def sample(self) -> None:
        """What csrc/multipath counted: that data flows."""
        for handle, known in self.specs.items():
            if any(peer == handle for peer, _ in (*self.sent, *self.came)):
                theirs = {path for peer, path in self.came if peer == handle}
                samples = {
                    n: PathSample(tx_packets=self.sent[handle, n], rx_packets=self.came[handle, n])
                    for n in {s.id for s in known.paths} | theirs
                }
                self.node.guest(Multipath).path_samples(handle, samples, self.world.now)
        self.drain()
        self.world.arm(self)

    def drain(self) -> None:
        super().drain()
        while self.acted < len(self.events):
            _, event = self.events[self.acted]
            self.acted += 1
            if isinstance(event, RelaySet):
                self.table[event.index] = event
            elif isinstance(event, RelayEnded):
                self.table.pop(event.index, None)

    def _path_action(self, event: PathAction) -> None:
        if isinstance(event.action, SetPaths):
            self.specs[event.peer] = event.action
        self.explicit = True
        super()._path_action(event)
        self.explicit = False

    def frames(self, kind: int) -> list[tuple[int, int, bytes]]:
        return [(when, e.peer, e.frame) for when, e in self.of(SendControl) if e.frame[0] == kind]


class Network:
    """Everybody is a member. `walls`: pairs of numbers that no datagram goes between."""

    def __init__(
        self,
        seed: int = 1,
        *,
        members: int = 2,
        anchors: int = 1,
        link: Link | None = None,
        walled: Iterable[Iterable[int]] = (),
        **settings: Any,
    ) -> None:
        self.world = World(seed, link)
        self.world.control = True
        self.walls: set[frozenset[int | None]] = {frozenset(pair) for pair in walled}
        self.world.passes = self.passes
        self.hosts: dict[int, Member] = {}
        for number in range(1, members + anchors + 1):
            self.start(number)
        self.anchors = set(range(members + 1, members + anchors + 1))
        self.handles: dict[int, dict[int, int]] = {n: {} for n in self.hosts}
        for one in self.hosts:
            for other in self.hosts:
                if one != other:
                    self.meet(one, other)
        for number in self.hosts:
            self.settle(number, **settings)

    def start(self, number: int, identity: Identity | None = None) -> None:
        parts = (*PARTS, Relay)
        made = self.world.host
        world, hosts = self.world, self.world.hosts
        plain = made(number, identity, parts)
        host = Member(world, plain.at, plain.identity, parts)
        hosts[plain.at] = host
        self.hosts[number] = host
        host.node.guest(Multipath).set_settings(MultipathSettings(), 1420, world.now)
        host.node.set_locals([LocalLink(host.at.ip, 2, "eth0", 1500)], host.at.port, world.now)

    def meet(self, one: int, other: int) -> None:
        host, there = self.hosts[one], self.hosts[other]
        self.handles[one][other] = host.add(there, endpoints=(there.at,), persistent_keepalive=25)

    def settle(
        self, number: int, *, use: Use = Use.AUTO, serve: bool = True, members: int = 64
    ) -> None:
        host = self.hosts[number]
        ids = {h.identity.node_id for h in self.hosts.values()}
        anchors = [self.hosts[n].identity.node_id for n in self.anchors]
        host.relay.set_settings(RelaySettings(use, serve, members), self.world.now)
        host.relay.set_network(host.identity.node_id, ids.__contains__, anchors, self.world.now)
        signalling, wall = host.node.guest(Signalling), host.wall_offset
        signalling.handshakes = use is not Use.NEVER
        signalling.give(
            Membership(
                node_id=host.identity.node_id,
                belongs=ids.__contains__,
                anchors=lambda: anchors,
                sign=lambda label, data: records.sign(host.identity.seed, label, data),
                verify=records.verify,
                wall_clock=lambda: self.world.now + wall,
            )
        )
        host.drain()

    def number_of(self, at: Endpoint) -> int | None:
        return next((n for n, h in self.hosts.items() if h.at == at), None)

    def passes(self, source: Endpoint, to: Endpoint, data: bytes) -> bool:
        return frozenset((self.number_of(source), self.number_of(to))) not in self.walls

    def wall(self, one: int, other: int) -> None:
        self.walls.add(frozenset((one, other)))

    def send(self, one: int, other: int, data: bytes = b"\x45hello") -> None:
        self.hosts[one].send(self.handles[one][other], data)

    def status(self, one: int, other: int) -> list[PathStatus]:
        managers = self.hosts[one].node.guest(Multipath)
        return managers.path_status(self.handles[one][other])

    def used(self, one: int, other: int) -> set[int | None]:
        """Whom the usable paths of one to the other lead to."""
        return {self.number_of(s.remote) for s in self.status(one, other) if s.usable}

    def heard(self, one: int, other: int) -> list[tuple[bytes, int | None]]:
        """What came to one from the other: (data, over whom)."""
        host, handle = self.hosts[one], self.handles[one][other]
        return [(d, self.number_of(at)) for _, peer, at, d in host.by if peer == handle]

    def flow(self, one: int, other: int, every: int, seconds: float) -> list[bytes]:
        """Packets, one each so many ms. Returns what was sent, as it grows."""
        sent: list[bytes] = []

        def say() -> None:
            sent.append(b"\x45%d" % len(sent))
            self.send(one, other, sent[-1])

        self.world.every(every * MS, self.world.now + int(seconds * SECOND), say)
        return sent

    def run(self, seconds: float) -> None:
        self.world.every(250 * MS, self.world.now + int(seconds * SECOND), self.sample)
        self.world.run(seconds)

    def sample(self) -> None:
        for host in self.hosts.values():
            host.sample()
