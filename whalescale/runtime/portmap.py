"""Our UDP port at the gateways of this host's uplinks (protocol/nat/portmap.py says what is said).

Asked are routers of uplinks whose IPv4 address is a private one, for elsewhere no NAT is in
between, and those of uplinks with public IPv6 addresses, which may have a firewall. Each address
has a socket of its own: bound to the uplink and its address, with the tunnel's mark, connected to
the gateway, so that the kernel drops what comes from others. What they wish of UPnP, upnp.py sees
to, one job of a gateway at a time. What gateways tell everybody is heard on each uplink where one
is asked.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, ClassVar, Final, NamedTuple

from whalescale.config import Config
from whalescale.endpoints import HostPort
from whalescale.protocol.candidates import on_link
from whalescale.protocol.limits import NS_PER_S
from whalescale.protocol.nat.portmap import Mapping, Wish
from whalescale.protocol.nat.portmap_codec import (
    ALL_HOSTS,
    ANSWER_MAX,
    GATEWAY_PORT,
    HEARD_PORT,
    NONCE_BYTES,
)
from whalescale.protocol.places import Endpoint, LocalLink, Standing
from whalescale.runtime.background import Background, Settling
from whalescale.runtime.notices import MappingDialled, Notices, PortChanged
from whalescale.runtime.part import Here, Part
from whalescale.runtime.upnp import At, Upnp, UpnpRefused

log = logging.getLogger(__name__)

#: more are not asked
MAX_GATEWAYS: Final = 4
#: of one uplink, those that do not change first
MAX_ADDRESSES6: Final = 2
#: datagrams read before the loop gets to its other descriptors
READS: Final = 16


class Where(NamedTuple):
    """What a mapping is of; another one is another mapping."""

    gateway: str
    ip: str
    ifindex: int
    interface: str
    port: int

    @property
    def version(self) -> int:
        return 6 if ":" in self.ip else 4

    @property
    def place(self) -> bytes:
        return f"{self.gateway} {self.ip} {self.port}".encode()


class PortMapper(Part):
    name: ClassVar[str] = "portmap"

    def __init__(
        self,
        config: Config,
        gateway: Callable[[int, int, int], Awaitable[str | None]],
        mark: Callable[[], int],
        tell: Callable[[Sequence[tuple[str, Endpoint]]], None],
        nonce: Callable[[bytes], bytes],
        now: Callable[[], int],
        background: Background,
        notices: Notices,
    ) -> None:
        """`gateway`: of an interface index, for datagrams with a mark, by IP version. `mark`: the
        tunnel's, 0: none. `nonce`: of a place, see `nonce_of`. `tell`: takes (interface, endpoint)
        of all mappings, whenever they are others."""
        self._enabled = config.nat.portmap
        self._gateway = gateway
        self._mark = mark
        self._tell = tell
        self._nonce = nonce
        self._now = now
        self._background = background
        self._settling = Settling(background, self._look)
        self._here: Here | None = None
        self._asked: dict[Where, _Asked] = {}
        #: by interface and IP version
        self._heard: dict[tuple[int, int], _Heard] = {}
        self._told: tuple[tuple[str, Endpoint], ...] = ()
        notices.on(PortChanged, self._port_changed)
        notices.on(MappingDialled, self._dialled)

    def follow(self, here: Here) -> None:
        self._here = here
        self._settling.soon()

    def _port_changed(self, notice: PortChanged) -> None:
        if self._here is not None:
            self.follow(self._here._replace(port=notice.port))

    def _dialled(self, notice: MappingDialled) -> None:
        for asked in self._asked.values():
            if asked.mapping.external == notice.place:
                asked.reached(reached=notice.reached)

    async def apply(self, config: Config) -> None:
        if config.nat.portmap != self._enabled:
            self._enabled = config.nat.portmap
            self._settling.soon()

    def status(self) -> dict[str, Any]:
        now = self._now()
        return {
            "enabled": self._enabled,
            "gateways": [asked.status(now) for asked in self._asked.values()],
        }

    async def close(self) -> None:
        """Every mapping is given back."""
        self._settling.close()
        self._hear(())
        closing = [asked.close() for asked in self._asked.values()]
        self._asked.clear()
        await asyncio.gather(*(job for job in closing if job is not None))

    async def _look(self) -> None:
        try:
            wanted = await self._wanted()
        except OSError as e:
            log.warning("port mapping: %s", e)
            return
        if not self._settling.stale:
            self._settle(wanted)

    async def _wanted(self) -> list[Where]:
        here = self._here
        if here is None or not self._enabled or not here.port:
            return []
        uplinks: dict[int, list[LocalLink]] = {}
        for link in sorted(here.links, key=lambda link: link.spare):
            uplinks.setdefault(link.ifindex, []).append(link)
        found = []
        for version in (4, 6):
            some: list[Where] = []
            for ifindex, links in uplinks.items():
                chosen = [n for n in links if (behind_nat if version == 4 else maybe_walled)(n)]
                if chosen and len(some) < MAX_GATEWAYS:
                    gateway = await self._gateway(ifindex, self._mark(), version)
                    some += _at(gateway, chosen, here.port) if gateway is not None else []
            found += some[:MAX_GATEWAYS]
        return found

    def _settle(self, wanted: Sequence[Where]) -> None:
        for where in [w for w in self._asked if w not in wanted]:
            job = self._asked.pop(where).close()
            if job is not None:
                self._background.spawn(job)
        for where in wanted:
            if where in self._asked:
                continue
            try:
                self._asked[where] = _Asked(
                    where, self._nonce(where.place), self._mark(), self._now, self._changed
                )
            except OSError as e:
                log.warning("port mapping: %s by %s: %s", where.gateway, where.interface, e)
        for where in wanted:
            if (asked := self._asked.get(where)) is not None:
                asked.begin()
        self._hear(wanted)
        self._changed()

    def _hear(self, wanted: Sequence[Where]) -> None:
        places = {(where.ifindex, where.version) for where in wanted}
        for place in [p for p in self._heard if p not in places]:
            self._heard.pop(place).close()
        for ifindex, version in places - self._heard.keys():
            try:
                self._heard[ifindex, version] = _Heard(ifindex, version, self._word)
            except OSError as e:  # it is found by looking, too
                log.debug("port mapping: what gateways tell all is not heard: %s", e)

    def _word(self, ifindex: int, data: bytes, source: Endpoint) -> None:
        for where, asked in self._asked.items():
            if where.ifindex == ifindex and where.gateway == source.ip:
                asked.word(data, source)

    def _changed(self) -> None:
        told = tuple(
            (where.interface, asked.mapping.external)
            for where, asked in self._asked.items()
            # What a firewall lets in is where we are anyway.
            if asked.mapping.external not in (None, asked.mapping.local)
        )
        if told != self._told:
            self._told = told
            self._tell(told)


class _Asked:
    """One gateway: socket, timer, mapping. OSError: no socket."""

    def __init__(
        self,
        where: Where,
        nonce: bytes,
        mark: int,
        now: Callable[[], int],
        changed: Callable[[], None],
    ) -> None:
        upnp = where.version == 4
        self.mapping = Mapping(where.gateway, where.ip, where.port, nonce, upnp=upnp)
        self._upnp = Upnp(At(where.gateway, where.ip, where.port, where.ifindex))
        self._job: asyncio.Task[None] | None = None
        self._where = where
        self._now = now
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._begun = False
        self._last: Endpoint | None = None
        self._sock = _socket(where.ifindex, where.version)
        try:
            if mark:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
            scope = (0, where.ifindex) if where.version == 6 else ()
            self._sock.bind((where.ip, 0))
            self._sock.connect((*self.mapping.gateway[:2], *scope))
        except OSError:
            self._sock.close()
            raise
        self._loop.add_reader(self._sock.fileno(), self._readable)

    def begin(self) -> None:
        """The first time. Later it looks at the clock: the host may have slept, the timer too."""
        if not self._begun:
            self._begun = True
            self.mapping.begin(self._now())
        else:
            self.mapping.handle_timeout(self._now())
        self._drain()

    def word(self, data: bytes, source: Endpoint) -> None:
        self.mapping.word(data, source, self._now())
        self._drain()

    def reached(self, *, reached: bool) -> None:
        self.mapping.reached(reached=reached, now=self._now())
        self._drain()

    def status(self, now: int) -> dict[str, Any]:
        m = self.mapping
        return {
            "gateway": m.gateway.ip,
            "interface": self._where.interface,
            "local": _words(m.local),
            "state": m.state.value,
            "protocol": m.protocol.value if m.protocol is not None else "",
            "external": _words(m.external) if m.external is not None else None,
            "dialled": m.dialled,
            "lease_s": (m.lease_ends - now) / NS_PER_S if m.external is not None else None,
            "problem": m.problem,
            "restarts": m.restarts,
            "drops": dict(m.drops + self._upnp.drops),
        }

    def close(self) -> Coroutine[Any, Any, None] | None:
        """What is left to be done: UPnP's mapping takes an answer to give back."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._loop.remove_reader(self._sock.fileno())
        self.mapping.end()
        self._send()
        self._sock.close()
        if self._job is not None:
            self._job.cancel()
        return self._upnp.give_back() if self._upnp.asked else None

    def _readable(self) -> None:
        for _ in range(READS):
            try:
                data = self._sock.recv(ANSWER_MAX + 1)
            except ConnectionRefusedError:
                self.mapping.unreachable(self._now())
                continue
            except OSError:  # nothing more; or some other word of the kernel's, told and gone
                break
            # The kernel has compared: the socket is connected.
            self.mapping.receive(data, self.mapping.gateway, self._now())
        self._drain()

    def _on_timer(self) -> None:
        self._timer = None
        self.mapping.handle_timeout(self._now())
        self._drain()

    def _send(self) -> None:
        while (data := self.mapping.poll_transmit()) is not None:
            try:
                self._sock.send(data)
            except ConnectionRefusedError:
                self.mapping.unreachable(self._now())
            except OSError as e:
                log.debug("port mapping: to %s: %s", self._where.gateway, e)

    def _wishes(self) -> None:
        if self._job is None and (wish := self.mapping.poll_wish()) is not None:
            self._job = self._loop.create_task(self._carry_out(wish))

    async def _carry_out(self, wish: Wish) -> None:
        """One that is cancelled leaves the rest to `close`."""
        mapping = self.mapping
        try:
            match wish:
                case Wish.MAP:
                    external, lifetime = await self._upnp.map()
                    mapping.upnp_mapped(external, lifetime, self._now())
                case Wish.LOOK:
                    mapping.upnp_looked(await self._upnp.listed(), self._now())
                case Wish.GIVE_BACK:
                    await self._upnp.give_back()
        except UpnpRefused as e:
            if e.answered and wish is Wish.MAP:
                mapping.upnp_refused(f"it {e}", self._now())
            else:
                mapping.upnp_silent(self._now())
        finally:
            self._job = None
        self._drain()

    def _drain(self) -> None:
        self._send()
        self._wishes()
        external, gateway = self.mapping.external, self._where.gateway
        if external != self._last:
            self._last = external
            if external is not None and self.mapping.protocol is not None:
                how = self.mapping.protocol.value
                log.info("%s maps our port to %s (%s)", gateway, _words(external), how)
            else:
                log.info("%s maps our port no more: %s", gateway, self.mapping.problem)
        self._changed()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at = self.mapping.deadline()
        if at is not None:
            delay = max(at - self._now(), 0) / NS_PER_S
            self._timer = self._loop.call_later(delay, self._on_timer)


class _Heard:
    """What gateways tell everybody on one link. OSError: no socket."""

    def __init__(
        self, ifindex: int, version: int, tell: Callable[[int, bytes, Endpoint], None]
    ) -> None:
        self._ifindex, self._tell = ifindex, tell
        self._loop = asyncio.get_running_loop()
        self._sock = _socket(ifindex, version)
        try:
            # Others on this host listen too; what comes to its own addresses is not for us.
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            scope = (0, ifindex) if version == 6 else ()
            self._sock.bind((ALL_HOSTS[version], HEARD_PORT, *scope))
        except OSError:
            self._sock.close()
            raise
        self._loop.add_reader(self._sock.fileno(), self._readable)

    def _readable(self) -> None:
        for _ in range(READS):
            try:
                data, source = self._sock.recvfrom(ANSWER_MAX + 1)
            except OSError:
                break
            ip = str(source[0]).partition("%")[0]
            if source[1] == GATEWAY_PORT:
                self._tell(self._ifindex, data, Endpoint(ip, GATEWAY_PORT))

    def close(self) -> None:
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()


def _socket(ifindex: int, version: int) -> socket.socket:
    """Of one uplink. OSError."""
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        sock.setblocking(False)
        option = getattr(socket, "SO_BINDTOIFINDEX", 62)
        sock.setsockopt(socket.SOL_SOCKET, option, ifindex)
    except OSError:
        sock.close()
        raise
    return sock


def _words(endpoint: Endpoint) -> str:
    return str(HostPort(endpoint.ip, endpoint.port, True))


def _at(gateway: str, links: Sequence[LocalLink], port: int) -> list[Where]:
    """What the gateway of one uplink is asked for; `links`: its addresses of one IP version."""
    if ":" in links[0].ip:
        chosen = sorted(links, key=lambda link: link.standing)[:MAX_ADDRESSES6]
    else:
        # Of several addresses the one that the gateway knows.
        near = (n for n in links if on_link(n.ip, n.prefix_length, gateway))
        chosen = [next(near, links[0])]
    return [Where(gateway, link.ip, link.ifindex, link.interface, port) for link in chosen]


def maybe_walled(link: LocalLink) -> bool:
    """A public IPv6 address, that we tell others of: its router may have a firewall."""
    ip = ipaddress.ip_address(link.ip)
    return ip.version == 6 and ip.is_global and link.standing is not Standing.DEPRECATED


def behind_nat(link: LocalLink) -> bool:
    """An IPv4 address that only its own site knows."""
    ip = ipaddress.ip_address(link.ip)
    return ip.version == 4 and not (link.link_local or ip.is_link_local or ip.is_global)


def nonce_of(place: bytes, secret: bytes | bytearray) -> bytes:
    """PCP's nonce. A gateway refuses whoever renews a mapping with another one (RFC 6887 section
    11.3), so it outlives this process without being stored: a keyed hash of the place, by the
    host's private key (32 bytes)."""
    return hashlib.blake2s(
        place, key=bytes(secret), digest_size=NONCE_BYTES, person=b"wsnonce1"
    ).digest()
