"""A fake internet: many Nodes, each with a stand-in of the C data plane, under one fake clock.

Nothing sleeps; `World.run` jumps from event to event. All randomness comes from one seed.
"""

from __future__ import annotations

import random
import struct
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from eventqueue import MS, SECOND, EventQueue

from whalescale.identity import Identity
from whalescale.protocol.control import FrameType
from whalescale.protocol.guest import Part
from whalescale.protocol.limits import Limits
from whalescale.protocol.node import Node, PeerConfig
from whalescale.protocol.parts import PARTS
from whalescale.protocol.paths.types import PathSpec, SendPathControl, SetPaths
from whalescale.protocol.places import Endpoint
from whalescale.protocol.types import (
    Activity,
    EndpointChanged,
    Event,
    HandshakeGaveUp,
    KeypairReady,
    KeypairsExpired,
    PathAction,
    SendControl,
    SendKeepalive,
)

#: How often the driver samples a busy peer's activity.
SAMPLE = SECOND // 2
#: of a transport message around what it carries
OVERHEAD = 32


def padded(frame: bytes) -> bytes:
    """As C sends it."""
    return frame + bytes(-len(frame) % 16)


def wants_answer(data: bytes) -> bool:
    """csrc/packet/frame.h, ws_frame_wants_answer."""
    silent = (FrameType.KEEP, FrameType.HEARTBEAT, FrameType.PATH_PROBE_REPLY)
    return bool(data) and data[0] not in silent


@dataclass
class Link:
    """What happens to a datagram on its way. Delay is uniform, so it reorders."""

    delay: tuple[int, int] = (10 * MS, 10 * MS)
    loss: float = 0.0
    duplicate: float = 0.0


class Keys:
    """A keypair as the C side keeps it."""

    def __init__(self, ready: KeypairReady) -> None:
        self.local_index, self.remote_index = ready.local_index, ready.remote_index
        self.initiator, self.created, self.held = ready.initiator, ready.created, ready.held
        self.seal = ChaCha20Poly1305(bytes(ready.send_key))
        self.open = ChaCha20Poly1305(bytes(ready.receive_key))
        ready.send_key[:] = ready.receive_key[:] = bytes(32)
        self.counter = 0
        self.seen: set[int] = set()


class DataPeer:
    """csrc/session/peer.c in a page: rotation, staging, timestamps."""

    def __init__(self) -> None:
        self.previous: Keys | None = None
        self.current: Keys | None = None
        self.next: Keys | None = None
        self.endpoint: Endpoint | None = None
        self.staged: deque[bytes] = deque(maxlen=128)
        self.activity = Activity()
        self.asked = 0
        self.sampling = False
        self.ifindex = 0
        #: by the number of ours, as the path manager has them
        self.paths: dict[int, PathSpec] = {}


class Host:
    """A node with its data plane and driver at one address."""

    def __init__(
        self, world: World, at: Endpoint, identity: Identity, parts: Iterable[Part] = PARTS
    ) -> None:
        self.world = world
        self.at = at
        #: by index: the address of each interface, where there are several; 0: the table's choice
        self.interfaces: dict[int, Endpoint] = {}
        self.identity = identity
        self.wall_offset = 1_600_000_000 * SECOND
        self.node = Node(
            identity,
            limits=world.limits,
            random=world.rng.randbytes,
            wall_clock=lambda: world.now + self.wall_offset,
            parts=parts,
        )
        self.peers: dict[int, DataPeer] = {}
        self.indices: dict[int, tuple[int, Keys]] = {}
        self.events: list[tuple[int, Event]] = []
        self.received: list[tuple[int, int, bytes]] = []  # (when, peer, data)
        self.drops: Counter[str] = Counter()
        self.keepalives = 0  # received

    # control

    def add(self, other: Host | None = None, **config: Any) -> int:
        if other is not None and not config.keys() & {"node_id", "static_public", "fingerprint"}:
            config["node_id"] = other.identity.node_id
        handle = self.node.add_peer(PeerConfig(**config), self.world.now)
        self.peers[handle] = DataPeer()
        self.drain()
        return handle

    def of(self, kind: type[Any]) -> list[tuple[int, Any]]:
        return [(when, e) for when, e in self.events if isinstance(e, kind)]

    # data plane, out

    def send(self, handle: int, data: bytes) -> None:
        """One packet for a peer: sealed, or staged until a handshake is done."""
        p, now, limits = self.peers[handle], self.world.now, self.world.limits
        keys = p.current
        if keys is None or now - keys.created >= limits.reject_after_time:
            p.staged.append(data)
            self._ask(handle)
            return
        if keys.held:
            p.staged.append(data)
        else:
            self._transmit(handle, keys, data)
        if keys.initiator and now - keys.created >= limits.rekey_after_time:
            self._ask(handle)

    def _transmit(self, handle: int, keys: Keys, data: bytes, path: int = 0) -> None:
        p, now = self.peers[handle], self.world.now
        counter = keys.counter | path << 56
        header = struct.pack("<IIQ", 4, keys.remote_index, counter)
        nonce = bytes(4) + struct.pack("<Q", counter)
        keys.counter += 1
        p.activity = replace(p.activity, last_sent=now, unsent_since=0)
        control = self.world.control and data[:1] and data[0] >> 4 == 1
        spare = control and path in p.paths and not p.paths[path].usable
        if wants_answer(data) and not spare and not p.activity.unanswered_since:
            p.activity = replace(p.activity, unanswered_since=now)
        self._sample_soon(handle)
        to = p.paths[path].remote if path else p.endpoint
        if to is not None:
            source = self.interfaces.get(p.ifindex, self.at)
            self.world.carry(source, to, header + keys.seal.encrypt(nonce, data, b""))

    def _ask(self, handle: int) -> None:
        p, now = self.peers[handle], self.world.now
        if not p.asked or now - p.asked >= SECOND:
            p.asked = now
            self.world.later(0, lambda: self._want(handle))

    def _want(self, handle: int) -> None:
        self.node.want_handshake(handle, self.world.now)
        self.drain()

    def _flush(self, handle: int) -> None:
        p = self.peers[handle]
        assert p.current is not None
        while p.staged and not p.current.held:
            self._transmit(handle, p.current, p.staged.popleft())

    # data plane, in

    def receive(self, data: bytes, remote: Endpoint, local: Endpoint | None = None) -> None:
        if data[:4] != b"\x04\0\0\0":
            self.node.receive_datagram(data, remote, local or self.at, self.world.now)
            self.drain()
            return
        if len(data) < 32:
            self.drops["short"] += 1
            return
        _, index, counter = struct.unpack_from("<IIQ", data)
        handle, keys = self.indices.get(index, (0, None))
        now, limits = self.world.now, self.world.limits
        if keys is None:
            self.drops["no_key"] += 1
            return
        if now - keys.created >= limits.reject_after_time:
            self.drops["expired"] += 1
            return
        if counter in keys.seen:
            self.drops["replay"] += 1
            return
        try:
            plain = keys.open.decrypt(bytes(4) + struct.pack("<Q", counter), data[16:], b"")
        except InvalidTag:
            self.drops["auth"] += 1
            return
        keys.seen.add(counter)
        self._accepted(handle, keys, plain, remote, counter >> 56)

    def _accepted(self, handle: int, keys: Keys, plain: bytes, remote: Endpoint, path: int) -> None:
        p, now, limits = self.peers[handle], self.world.now, self.world.limits
        if p.endpoint != remote and not path:
            p.endpoint = remote
            self.node.endpoint_observed(handle, remote, self.at, now)
        p.activity = replace(p.activity, last_received=now, unanswered_since=0)
        control = self.world.control and plain[:1] and plain[0] >> 4 == 1
        if plain:
            if wants_answer(plain) and not p.activity.unsent_since:
                p.activity = replace(p.activity, unsent_since=now)
            if not control:
                self.received.append((now, handle, plain))
        else:
            self.keepalives += 1
        self._sample_soon(handle)
        if keys is p.next:
            self._drop(p.previous)
            p.previous, p.current, p.next = p.current, keys, None
            p.asked = 0
            self.node.keypair_confirmed(handle, keys.local_index, now)
            self._flush(handle)
            self.drain()
        if control:
            self._control(handle, plain, remote, path)
            self.drain()
        if (
            keys is p.current
            and keys.initiator
            and now - keys.created >= limits.reject_after_time - 15 * SECOND
        ):
            self._ask(handle)

    def _control(self, handle: int, plain: bytes, remote: Endpoint, path: int) -> None:
        self.node.receive_control(
            handle,
            plain,
            self.world.now,
            path=path,
            remote=remote,
            local=self.at,
            datagram_bytes=len(plain) + OVERHEAD,
        )

    def _path_action(self, event: PathAction) -> None:
        """What a path manager wants, as far as it is control frames."""
        p, action = self.peers[event.peer], event.action
        if isinstance(action, SetPaths):
            p.paths = {spec.id: spec for spec in action.paths}
        elif isinstance(action, SendPathControl) and p.current is not None:
            whole = action.datagram_bytes - OVERHEAD
            frame = action.frame.ljust(whole, b"\0") if whole > 0 else padded(action.frame)
            self._transmit(event.peer, p.current, frame, action.path)

    def _drop(self, keys: Keys | None) -> None:
        if keys is not None:
            del self.indices[keys.local_index]

    def _install(self, ready: KeypairReady) -> None:
        p, keys = self.peers[ready.peer], Keys(ready)
        assert keys.local_index not in self.indices
        self.indices[keys.local_index] = (ready.peer, keys)
        if keys.initiator:
            self._drop(p.previous)
            if p.next is not None:
                self._drop(p.current)
                p.previous, p.next = p.next, None
            else:
                p.previous = p.current
            p.current = keys
            self._flush(ready.peer)
        else:
            self._drop(p.next)
            self._drop(p.previous)
            p.previous, p.next = None, keys
        p.activity = replace(p.activity, unsent_since=0, unanswered_since=0)
        p.asked = 0

    def _zero(self, handle: int) -> None:
        p = self.peers[handle]
        for keys in (p.previous, p.current, p.next):
            self._drop(keys)
        p.previous = p.current = p.next = None

    # driver

    def _sample_soon(self, handle: int) -> None:
        p = self.peers[handle]
        if not p.sampling:
            p.sampling = True
            self.world.later(SAMPLE, lambda: self._sample(handle))

    def _sample(self, handle: int) -> None:
        p = self.peers[handle]
        p.sampling = False
        self.node.activity(handle, p.activity, self.world.now)
        self.drain()

    def timeout(self) -> None:
        now = self.world.now
        for handle in self.node.due_peers(now):
            self.node.activity(handle, self.peers[handle].activity, now)
        self.node.handle_timeout(now)
        self.drain()
        following = self.node.poll_timeout()
        assert following is None or following > now, "a timer that would spin"

    def drain(self) -> None:
        while (event := self.node.poll_event()) is not None:
            self.events.append((self.world.now, event))
            match event:
                case KeypairReady():
                    self._install(event)
                case KeypairsExpired():
                    self._zero(event.peer)
                case EndpointChanged():
                    if event.peer in self.peers:
                        self.peers[event.peer].endpoint = event.remote
                        self.peers[event.peer].ifindex = event.ifindex
                    else:
                        self.world.later(0, partial(self._point, event))
                case SendKeepalive():
                    current = self.peers[event.peer].current
                    if current is not None:
                        self._transmit(event.peer, current, b"")
                case SendControl() if self.world.control:
                    current = self.peers[event.peer].current
                    if current is not None:
                        self._transmit(event.peer, current, padded(event.frame))
                case PathAction() if self.world.control and event.peer in self.peers:
                    self._path_action(event)
                case HandshakeGaveUp():
                    self.peers[event.peer].staged.clear()
        while (transmit := self.node.poll_transmit()) is not None:
            source = self.interfaces.get(transmit.ifindex, self.at)
            self.world.carry(source, transmit.remote, transmit.data)
        self.world.arm(self)

    def _point(self, event: EndpointChanged) -> None:
        if event.peer in self.peers and self.peers[event.peer].endpoint is None:
            self.peers[event.peer].endpoint = event.remote


class World(EventQueue):
    def __init__(self, seed: int = 1, link: Link | None = None, limits: Limits | None = None):
        super().__init__()
        self.rng = random.Random(seed)  # noqa: S311
        self.link = link or Link()
        self.limits = limits or Limits()
        self.hosts: dict[Endpoint, Host] = {}
        #: Control frames go through the sessions; else they are lost, as at a plain WireGuard peer.
        self.control = False
        #: A datagram for which this says False is lost.
        self.passes: Callable[[Endpoint, Endpoint, bytes], bool] = lambda *_: True
        #: Every datagram handed to the network: (when, source, destination, data).
        self.wire: list[tuple[int, Endpoint, Endpoint, bytes]] = []
        self._armed: dict[Endpoint, int] = {}

    def host(
        self, number: int, identity: Identity | None = None, parts: Iterable[Part] = PARTS
    ) -> Host:
        """A new host, or one started anew (state lost) at the same place."""
        at = Endpoint(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 51820)
        host = Host(self, at, identity or Identity.generate(self.rng.randbytes), parts)
        self.hosts[at] = host
        self._armed.pop(at, None)
        return host

    def move(self, host: Host, to: Endpoint) -> None:
        del self.hosts[host.at]
        host.at = to
        self.hosts[to] = host
        self.arm(host)

    def every(self, interval: int, until: int, call: Callable[[], None]) -> None:
        """Now and then each `interval` while `now` is before `until`."""

        def tick() -> None:
            if self.now < until:
                call()
                self.later(interval, tick)

        self.later(0, tick)

    def arm(self, host: Host) -> None:
        when = host.node.poll_timeout()
        if when is not None and self._armed.get(host.at, when + 1) > when:
            self._armed[host.at] = when
            self.later(when - self.now, lambda: self._fire(host, when))

    def _fire(self, host: Host, when: int) -> None:
        if self.hosts.get(host.at) is host and self._armed.get(host.at) == when:
            del self._armed[host.at]
            host.timeout()

    def carry(self, source: Endpoint, to: Endpoint, data: bytes) -> None:
        self.wire.append((self.now, source, to, data))
        if not self.passes(source, to, data):
            return
        copies = 1 + (self.rng.random() < self.link.duplicate)
        for _ in range(copies):
            if self.rng.random() >= self.link.loss:
                delay = self.rng.randint(*self.link.delay)
                self.later(delay, lambda: self._deliver(source, to, data))

    def _deliver(self, source: Endpoint, to: Endpoint, data: bytes) -> None:
        host = self.hosts.get(to)
        if host is not None:
            host.receive(data, source, to)

    def jump(self, seconds: float) -> None:
        """A suspend: the clock is later, and nothing happened meanwhile."""
        self.now += int(seconds * SECOND)

    def messages(
        self, kind: int, source: Host | None = None, to: Host | None = None
    ) -> list[tuple[int, bytes]]:
        """(when, data) of every message of a type handed to the network."""
        return [
            (when, data)
            for when, src, dst, data in self.wire
            if data[0] == kind
            and (source is None or src == source.at)
            and (to is None or dst == to.at)
        ]


def pair(world: World, **config: Any) -> tuple[Host, Host, int, int]:
    """Two hosts that know each other; only the first knows where the other is."""
    a, b = world.host(1), world.host(2)
    pa = a.add(b, endpoints=(b.at,), **config)
    pb = b.add(a, **{k: v for k, v in config.items() if k == "preshared_key"})
    return a, b, pa, pb


def payloads(host: Host) -> list[bytes]:
    return [data for _, _, data in host.received]


def numbered(count: int) -> Iterable[bytes]:
    return (n.to_bytes(4, "big") for n in range(count))
