"""Test doubles of the engine and of netlink, and two hosts that hear each other."""

from __future__ import annotations

import asyncio
import errno
import os
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

from whalescale.dataplane.engine import (
    Addr,
    Backend,
    Chosen,
    Cipher,
    Engine,
    Network,
    Offload,
    PeerStats,
    Upcall,
    UpcallType,
    WorkerStats,
)
from whalescale.dataplane.multipath import PEER_FIELDS
from whalescale.identity import Identity
from whalescale.protocol.limits import Limits
from whalescale.protocol.node import Node
from whalescale.protocol.paths.types import PathState, PathStatus, Pin
from whalescale.protocol.places import Endpoint, LocalLink, PeerHandle
from whalescale.protocol.types import Event
from whalescale.runtime.driver import Driver
from whalescale.runtime.marks import Marks
from whalescale.runtime.netlink import Interface, LinkState, LocalAddress, Netlink, Route, Rule
from whalescale.runtime.notices import Notices
from whalescale.runtime.part import Here
from whalescale.runtime.tunnel import PeerSpec, Tunnel

NO_STATS = PeerStats(*(0,) * 14, None, None)


class FakeEngine:
    """Remembers what it was told; `push` is what a worker would report."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.queue: deque[Upcall] = deque()
        self.seen: dict[int, tuple[int, int, int, int]] = {}
        self.keypairs: dict[int, dict[str, Any]] = {}
        self.cleared: list[int] = []
        self.dropped: list[int] = []
        self.control: list[tuple[int, bytes]] = []
        self.frames: dict[int, tuple[bool, int]] = {}
        self.bundles: dict[int, bool] = {}
        self.confirmed: dict[int, int] = {}
        self.mtu = 1420
        self.keepalives: list[int] = []
        self.endpoints: dict[int, tuple[Addr | None, Addr | None]] = {}
        self.networks: dict[int, tuple[Network, ...]] = {}
        self.inside: tuple[tuple[Network, ...], tuple[Network, ...]] = ((), ())
        self.sent: list[tuple[bytes, Addr, Addr | None]] = []
        self.sockets: dict[int, tuple[Addr, int]] = {}
        self.taken_ports: set[int] = set()
        self.no_ipv6 = False
        self.fwmark = 0
        self.activity_reads = 0
        #: addresses of peers, as the flood defences know them
        self.known: set[str] = set()
        self.secrets: list[bytes] = []
        self.proved: list[int] = []
        self.on_send: Callable[[bytes, Addr, Addr | None], bool] = lambda *_: True
        self.room = 10_000
        self._next = 0

    def as_engine(self) -> Engine:
        return cast(Engine, self)

    def close(self) -> None:
        os.close(self.fd)

    # flood defences

    def know(self, ip: str) -> None:
        self.known.add(ip)

    def forget(self, ip: str) -> None:
        self.known.remove(ip)

    def genuine(self, source_class: int) -> None:
        self.proved.append(source_class)

    def set_cookie_secret(self, secret: bytes) -> None:
        self.secrets.append(secret)

    # upcalls

    def upcall_fd(self) -> int:
        return self.fd

    def push(self, kind: UpcallType, peer: int | None = None, **more: Any) -> None:
        values: dict[str, Any] = {
            "index": 0, "reason": 0, "now": 0, "remote": None, "local": None, "data": b"",
        }  # fmt: skip
        values.update(more)
        self.queue.append(Upcall(kind, peer, **values))
        os.eventfd_write(self.fd, 1)

    def upcalls(self) -> Iterator[Upcall]:
        while self.queue:
            yield self.queue.popleft()

    # peers

    def add_peer(self) -> int:
        if len(self.seen) >= self.room:
            raise OSError(errno.ENOSPC, "new peer")
        number = self._next
        self._next += 1
        self.seen[number] = (0, 0, 0, 0)
        self.endpoints[number] = (None, None)
        self.networks[number] = ()
        return number

    def remove_peer(self, number: int) -> None:
        del self.seen[number], self.endpoints[number], self.networks[number]

    def set_inside(self, inside: Sequence[Network], outside: Sequence[Network]) -> None:
        self.inside = (tuple(inside), tuple(outside))

    def set_allowed_ips(self, number: int, networks: Sequence[Network]) -> None:
        taken = set(networks)
        for other in self.networks:
            self.networks[other] = tuple(n for n in self.networks[other] if n not in taken)
        self.networks[number] = tuple(networks)

    def set_endpoint(
        self, number: int, remote: Addr | None, local: Addr | None = None, ifindex: int = 0
    ) -> None:
        self.endpoints[number] = (remote, local)

    def install_keypair(self, number: int, **keypair: Any) -> None:
        self.keypairs[number] = {
            **keypair,
            "send_key": bytes(keypair["send_key"]),
            "receive_key": bytes(keypair["receive_key"]),
        }

    def clear_keypairs(self, number: int) -> None:
        self.keypairs.pop(number, None)
        self.cleared.append(number)

    def drop_staged(self, number: int) -> int:
        self.dropped.append(number)
        return 0

    def send_keepalive(self, number: int) -> bool:
        self.keepalives.append(number)
        return True

    def endpoint(self, number: int) -> tuple[Addr | None, Addr | None]:
        return self.endpoints[number]

    def current_index(self, number: int) -> int:
        return self.confirmed.get(number, 0)

    def send_control(self, number: int, frame: bytes) -> bool:
        self.control.append((number, frame))
        return True

    def set_frames(self, number: int, on: bool, max_packet: int, *, bundles: bool) -> None:
        self.bundles[number] = bundles
        self.frames[number] = (on, max_packet)

    def activity(self, number: int) -> tuple[int, int, int, int]:
        self.activity_reads += 1
        return self.seen[number]

    def peer_stats(self, number: int) -> PeerStats:
        remote, local = self.endpoints[number]
        return NO_STATS.__class__(*(0,) * 14, remote, local)

    def send(self, data: bytes, remote: Addr, local: Addr | None = None, ifindex: int = 0) -> bool:
        self.sent.append((data, remote, local))
        return self.on_send(data, remote, local)

    # sockets

    def open_socket(self, local: Addr, ifindex: int = 0) -> tuple[int, Addr]:
        wildcard = local.ip in ("0.0.0.0", "::")  # noqa: S104
        if wildcard and local.port in self.taken_ports:
            raise OSError(errno.EADDRINUSE, "UDP port")
        if self.no_ipv6 and ":" in local.ip:
            raise OSError(errno.EAFNOSUPPORT, "UDP port")
        bound = local._replace(port=local.port or 40000)
        number = self._next
        self._next += 1
        self.sockets[number] = (bound, ifindex)
        return number, bound

    def close_socket(self, number: int) -> None:
        del self.sockets[number]

    def set_fwmark(self, fwmark: int) -> None:
        self.fwmark = fwmark

    def set_mtu(self, mtu: int) -> None:
        self.mtu = mtu

    # figures

    def chosen(self) -> Chosen:
        return Chosen(Backend.MMSG, Cipher.OPENSSL, Offload.TUN_USO, 1)

    def worker_stats(self, _: int) -> WorkerStats:
        return WorkerStats(
            1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0, 12, 0, 0, 0, 0, 0, tuple(range(21))
        )


def path_status(number: int, **fields: Any) -> PathStatus:
    values: dict[str, Any] = {
        "local": Endpoint(f"10.0.0.{number + 1}", 51820),
        "remote": Endpoint("2001:db8::7", 51820),
        "interface": f"eth{number}",
        "state": PathState.HEALTHY,
        "usable": True,
        "rtt_us": 21_312,
        "rtt_min_us": 20_050,
        "jitter_us": 1240,
        "loss": 0.0013,
        "rate_bps": 38_200_000,
        "acked_bps": 31_000_000,
        "weight": 2 / 3,
        "queue_us": 4100,
        "in_flight_bytes": 122_880,
        "max_packet": 1420,
        "tx_bytes": 1_300_000,
        "rx_bytes": 12_700,
        "pin": Pin(),
    }
    return PathStatus(id=number, **{**values, **fields})


class FakePaths:
    """Paths in place of the data plane's: what the driver tells of them, and pins."""

    def __init__(self, driver: Driver, paths: dict[PeerHandle, list[PathStatus]]) -> None:
        self.paths = paths
        self.counters = {name: n for n, name in enumerate(PEER_FIELDS, 1)}
        replaced: Any = driver
        replaced.path_status = lambda handle: list(self.paths.get(handle, []))
        replaced.multipath_counters = lambda h: self.counters if h in self.paths else None
        replaced.pin_path = self._pin
        replaced.pin_paths = self._pin_all
        #: what was said of whole interfaces and addresses
        self.groups: list[dict[str, str]] = []

    def _pin(self, handle: PeerHandle, number: int, pin: Pin) -> None:
        at = [p.id for p in self.paths[handle]].index(number) if self.knows(handle, number) else -1
        if at < 0:
            raise KeyError(number)
        self.paths[handle][at] = replace(self.paths[handle][at], pin=pin)

    def _pin_all(self, handle: PeerHandle, pin: Pin, **group: str) -> None:
        self.groups.append(group)
        for p in self.paths[handle]:
            if group in ({"interface": p.interface}, {"local": p.local.ip if p.local else ""}):
                self._pin(handle, p.id, pin)

    def knows(self, handle: PeerHandle, number: int) -> bool:
        return any(p.id == number for p in self.paths[handle])


class FakeNetlink:
    """Addresses, routes and rules of one machine; refuses what `refused` names.

    `hold`: what it waits for before it adds a route.
    """

    def __init__(self) -> None:
        self.addresses: set[Interface] = set()
        #: those of them that have a lifetime
        self.ending: set[Interface] = set()
        #: interface by address
        self.ways: dict[str, int] = {}
        self.mtu = 1420
        self.hold: Callable[[], Awaitable[Any]] | None = None
        self.routes: set[Route] = set()
        self.rules: set[Rule] = set()
        self.link: LinkState | None = LinkState("ws0", True, 1420, 500)
        self.refused: dict[Any, int] = {}

    def as_netlink(self) -> Netlink:
        return cast(Netlink, self)

    async def add_address(self, _: int, address: Interface) -> None:
        self.addresses.add(address)
        self.ending.discard(address)

    async def remove_address(self, _: int, address: Interface) -> None:
        self.addresses.discard(address)

    async def set_mtu(self, _: int, mtu: int) -> None:
        if number := self.refused.get("mtu"):
            raise OSError(number, "MTU")
        self.mtu = mtu
        if self.link is not None:
            self.link = replace(self.link, mtu=mtu)

    async def set_queue(self, _: int, packets: int) -> None:
        assert self.link is not None
        self.link = replace(self.link, queue=packets)

    async def raise_link(self, _: int) -> None:
        assert self.link is not None
        self.link = replace(self.link, up=True)

    async def no_link_local(self, _: int) -> None:
        assert self.link is not None
        self.link = replace(self.link, link_local=False)

    async def link_state(self, _: int) -> LinkState | None:
        return self.link

    async def addresses_of(self, _: int, *, lasting: bool = False) -> set[Interface]:
        return self.addresses - self.ending if lasting else set(self.addresses)

    async def add_connected(self, _: int, address: Interface) -> None:
        self.routes.add(Route(address.network))

    async def leaves_by(self, address: str, _: int = 0) -> int | None:
        return self.ways.get(address)

    async def set_carrier(self, _: int) -> None:
        assert self.link is not None
        self.link = replace(self.link, carrier=True)

    async def routes_of(self, _: int) -> set[Route]:
        return set(self.routes)

    async def add_route(self, _: int, route: Route) -> None:
        if self.hold is not None:
            await self.hold()
        if number := self.refused.get(route):
            raise OSError(number, f"route {route.network}: {os.strerror(number)}")
        self.routes.add(route)

    async def replace_route(self, _: int, route: Route) -> None:
        self.routes.discard(route)
        self.routes.add(route)

    async def remove_route(self, _: int, route: Route) -> None:
        self.routes.discard(route)

    async def add_rule(self, rule: Rule) -> bool:
        if number := self.refused.get(rule):
            raise OSError(number, str(rule))
        there = rule in self.rules
        self.rules.add(rule)
        return not there

    async def remove_rule(self, rule: Rule) -> None:
        self.rules.discard(rule)

    async def rules_of(self, version: int) -> set[Rule]:
        return {r for r in self.rules if r.version == version}

    async def table_in_use(self, table: int) -> bool:
        return any(r.table == table for r in self.routes)


class FakeMarks:
    """The nftables table and the sysctl of one machine."""

    def __init__(self) -> None:
        self.there: tuple[int, int] | None = None
        self.put_last: tuple[int, int] | None = None
        self.valid = self.made_valid = False
        self.refused = 0

    def as_marks(self) -> Marks:
        return cast(Marks, self)

    async def found(self) -> tuple[int, int] | None:
        return self.there

    async def put(self, mark: int, port: int) -> None:
        if self.refused:
            raise OSError(self.refused, "nftables")
        self.there = self.put_last = mark, port

    async def remove(self) -> None:
        self.there = self.put_last = None

    def make_valid(self) -> None:
        self.valid = self.made_valid = True


class Host:
    """A real Node over a fake engine. Use inside a running loop; `close` it."""

    def __init__(self, seed: int, ip: str, limits: Limits | None = None) -> None:
        self.identity = Identity.from_seed(bytes([seed]) * 32)
        self.address = Addr(ip, 51820)
        self.engine = FakeEngine()
        self.limits = limits or Limits()
        self.time = 1_000_000_000_000
        #: how much of it the host was asleep
        self.slept = 0
        self.wall = 1_700_000_000_000_000_000
        self.fatal: list[int] = []
        self.node = Node(
            self.identity, limits=self.limits, random=os.urandom, wall_clock=self._wall
        )
        self.notices = Notices()
        self.driver = Driver(
            self.node,
            self.engine.as_engine(),
            self.limits,
            on_event=self._on_event,
            on_fatal=self.fatal.append,
            clock=lambda: self.time,
            awake=lambda: self.time - self.slept,
        )
        self.tunnel = Tunnel(
            self.node, self.engine.as_engine(), self.driver, self.notices, wall=self._wall
        )

    def _on_event(self, event: Event) -> None:
        self.tunnel.on_event(event)

    def _wall(self) -> int:
        self.wall += 1_000_000
        return self.wall

    def start(self) -> None:
        self.driver.start(asyncio.get_running_loop())

    def spec(self, name: str, **more: Any) -> PeerSpec:
        """How others name this host."""
        return PeerSpec(name, node_id=self.identity.node_id, **more)

    def close(self) -> None:
        self.tunnel.stop()
        self.driver.stop()
        self.engine.close()


def join(a: Host, b: Host) -> None:
    """What one sends to the other's address arrives as an upcall."""
    for one, other in ((a, b), (b, a)):

        def deliver(
            data: bytes, remote: Addr, local: Addr | None, one: Host = one, other: Host = other
        ) -> bool:
            if remote == other.address:
                other.engine.push(
                    UpcallType.DATAGRAM,
                    now=other.time,
                    remote=one.address,
                    local=other.address,
                    data=data,
                )
            return True

        one.engine.on_send = deliver


def here(
    addresses: Sequence[LocalAddress] = (), links: Sequence[LocalLink] = (), port: int = 51820
) -> Here:
    return Here(addresses, links, port)


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Let the loop run until the condition holds; fails after `seconds`."""
    end = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < end, "it never came true"
        await asyncio.sleep(0.001)
