"""Members of the network on the same link, by multicast DNS.

`protocol/mesh/lan.py` decides what is said, and what is made of what is heard. One `zeroconf` for
each uplink, bound to it, so that nothing of one link is said on another. It is imported when there
is a network and an uplink, and no earlier: it is a fifth of a second and 8 MiB.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

from whalescale.config import Config
from whalescale.protocol.mesh import lan
from whalescale.protocol.mesh.lan import Vicinity
from whalescale.protocol.mesh.network import Mesh
from whalescale.protocol.places import Endpoint
from whalescale.runtime.background import Background, Settling
from whalescale.runtime.notices import MembersChanged, Notices, PeersChanged, PortChanged
from whalescale.runtime.part import Here, Part

if TYPE_CHECKING:
    from zeroconf import RecordUpdate, RecordUpdateListener, Zeroconf
    from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

log = logging.getLogger(__name__)

SERVICE: Final = "_whalescale._udp.local."
#: more links are not spoken on
MAX_LINKS: Final = 4
#: seconds until the question is asked again, and then ever three times as long (RFC 6762 5.2)
ASK_FIRST: Final = 1.0
ASK_TIMES: Final = 3
ASK_LAST: Final = 3600.0
#: a day with one nonce
SAME_FOR_S: Final = 86_400
#: RFC 6762 section 10: of what names a host, and of the rest
HOST_TTL_S: Final = 120
OTHER_TTL_S: Final = 4500
#: until a link that could not be spoken on is tried again
RETRY_S: Final = 60.0
_TXT: Final = 16
_PTR: Final = 12
_IN: Final = 1


class Spot(NamedTuple):
    """Where we speak, and what of; another one is spoken of anew."""

    ifindex: int
    interface: str
    places: tuple[Endpoint, ...]


class Lan(Part):
    name: ClassVar[str] = "lan"

    def __init__(
        self,
        config: Config,
        mesh: Callable[[], Mesh | None],
        tell: Callable[[Mapping[bytes, tuple[Endpoint, ...]]], None],
        now: Callable[[], int],
        background: Background,
        notices: Notices,
        load: Callable[[], ModuleType] | None = None,
    ) -> None:
        """`mesh`: the network, once we are in one. `tell`: takes who is near, and where, whenever
        that is another. `load`: gives zeroconf.asyncio, called in a thread."""
        self._enabled = _wanted(config)
        self._mesh = mesh
        self._tell = tell
        self._now = now
        self._settling = Settling(background, self._settle)
        self._load = load or _load
        self._library: ModuleType | None = None
        self._here: Here | None = None
        self._vicinity: Vicinity | None = None
        self._links: dict[Spot, _Link] = {}
        self._failed: dict[Spot, str] = {}
        self._told: dict[bytes, tuple[Endpoint, ...]] = {}
        self._in = False
        self._retry: asyncio.TimerHandle | None = None
        notices.on(PortChanged, self._port_changed)
        notices.on(PeersChanged, self._network_changed)
        notices.on(MembersChanged, self._network_changed)

    # what changes

    def started(self) -> None:
        self._settling.soon()

    def follow(self, here: Here) -> None:
        self._here = here
        if self._vicinity is not None:
            self._vicinity.set_links(here.links)
            self._tell_near()
        self._settling.soon()

    def _port_changed(self, notice: PortChanged) -> None:
        if self._here is not None:
            self.follow(self._here._replace(port=notice.port))

    def _network_changed(self, _: object) -> None:
        if self._belongs() != self._in:
            self._settling.soon()

    async def apply(self, config: Config) -> None:
        if _wanted(config) != self._enabled:
            self._enabled = _wanted(config)
            self._settling.soon()

    def status(self) -> dict[str, Any]:
        """The shape of whalescale/status.py, Lan."""
        return {
            "enabled": self._enabled,
            "interfaces": sorted({spot.interface for spot in self._links}),
            "problems": {spot.interface: problem for spot, problem in self._failed.items()},
            "near": len(self._told),
            "drops": dict(self._vicinity.drops) if self._vicinity is not None else {},
        }

    async def close(self) -> None:
        self._settling.close()
        if self._retry is not None:
            self._retry.cancel()
        links, self._links = self._links, {}
        for link in links.values():
            await link.close()

    # which links

    def _belongs(self) -> bool:
        mesh = self._mesh()
        return mesh is not None and mesh.belongs

    def _spots(self) -> list[Spot]:
        here = self._here
        if here is None or not self._enabled or not self._in:
            return []
        names = {n.ifindex: n.interface for n in sorted(here.links, key=lambda n: n.spare)}
        found = [
            Spot(ifindex, name, lan.own_places(here.links, ifindex, here.port))
            for ifindex, name in names.items()
        ]
        return [spot for spot in found if spot.places][:MAX_LINKS]

    async def _settle(self) -> None:
        mesh = self._mesh()
        self._in = mesh is not None and mesh.belongs
        spots = self._spots()
        for spot in [s for s in self._links if s not in spots]:
            await self._links.pop(spot).close()
        self._failed = {}
        if mesh is None or not spots:
            self._vicinity = None
            self._tell_near()
            return
        if self._vicinity is None:
            members = mesh.membership
            self._vicinity = Vicinity(
                mesh.network_id, mesh.node_id, lambda: [m.subject for m in members.members()]
            )
        if self._here is not None:
            self._vicinity.set_links(self._here.links)
        if self._library is None:
            try:
                self._library = await asyncio.to_thread(self._load)
            except (ImportError, OSError) as e:
                self._failed = dict.fromkeys(spots, f"zeroconf cannot be used: {e}")
                log.warning("LAN: zeroconf cannot be used: %s", e)
                return
        for spot in spots:
            if spot not in self._links and not self._settling.closed:
                await self._speak(spot, mesh)

    async def _speak(self, spot: Spot, mesh: Mesh) -> None:
        assert self._library is not None
        link = _Link(self._library, spot, mesh.network_id, mesh.node_id, self._hear)
        self._links[spot] = link
        try:
            await link.open()
        except (OSError, RuntimeError) as e:
            # Port 5353 is another's alone, or the address went meanwhile.
            self._links.pop(spot, None)
            await link.close()
            self._failed[spot] = str(e)
            log.info("LAN: nothing is said on %s: %s", spot.interface, e)
            self._try_again()

    def _try_again(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
        self._retry = asyncio.get_running_loop().call_later(RETRY_S, self._settling.soon)

    # what is heard

    def _hear(self, text: bytes, ttl_s: int) -> None:
        if self._vicinity is not None and self._vicinity.hear(text, ttl_s, self._now()):
            self._tell_near()

    def _tell_near(self) -> None:
        near = self._vicinity.near(self._now()) if self._vicinity is not None else {}
        if near != self._told:
            self._told = near
            self._tell(near)


class _Link:
    """One link: what we say there, and what is asked."""

    def __init__(
        self,
        library: Any,
        spot: Spot,
        network_id: bytes,
        node_id: bytes,
        hear: Callable[[bytes, int], None],
    ) -> None:
        self._library = library
        self._spot = spot
        self._network_id, self._node_id = network_id, node_id
        self._hear = hear
        self._loop = asyncio.get_running_loop()
        self._zeroconf: AsyncZeroconf | None = None
        self._info: AsyncServiceInfo | None = None
        self._listener: RecordUpdateListener | None = None
        self._sending: set[asyncio.Future[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._wait = ASK_FIRST
        self._said_at = 0.0

    async def open(self) -> None:
        """OSError, RuntimeError: it cannot be spoken there."""
        by: list[str | int] = [p.ip for p in self._spot.places if ":" not in p.ip]
        by = by[:1] or [self._spot.ifindex]
        self._zeroconf = self._library.AsyncZeroconf(interfaces=by)
        zeroconf = self._zeroconf.zeroconf
        await zeroconf.async_wait_for_start()
        if not zeroconf.engine.senders:
            raise OSError("it takes no multicast")
        option = getattr(socket, "SO_BINDTOIFINDEX", 62)
        for transport in (*zeroconf.engine.readers, *zeroconf.engine.senders):
            # Once: to bind it again takes rights that are gone.
            if not transport.sock.getsockopt(socket.SOL_SOCKET, option):
                transport.sock.setsockopt(socket.SOL_SOCKET, option, self._spot.ifindex)
        self._listener = _listener(self._records)
        zeroconf.async_add_listener(self._listener, None)
        await self._say()
        self._ask()

    async def _say(self) -> None:
        """Announce ourselves under a new nonce."""
        assert self._zeroconf is not None
        self._unsay()
        nonce = os.urandom(lan.NONCE_BYTES)
        said = lan.encode(self._network_id, self._node_id, nonce, self._spot.places)
        label = nonce.hex()
        self._info = self._library.AsyncServiceInfo(
            SERVICE,
            f"{label}.{SERVICE}",
            port=self._spot.places[0].port,
            parsed_addresses=[place.ip for place in self._spot.places],
            properties={lan.KEY[:-1]: said},
            server=f"{label}.local.",
            host_ttl=HOST_TTL_S,
            other_ttl=OTHER_TTL_S,
        )
        self._said_at = self._loop.time()
        # The name is random: nobody is asked whether it is free, which takes half a second.
        task = await self._zeroconf.async_register_service(self._info, cooperating_responders=True)
        future = asyncio.ensure_future(task)
        self._sending.add(future)
        future.add_done_callback(self._sent)

    def _sent(self, future: asyncio.Future[Any]) -> None:
        self._sending.discard(future)
        if not future.cancelled() and (error := future.exception()) is not None:
            log.debug("LAN: on %s: %s", self._spot.interface, error)

    def _unsay(self) -> None:
        """One word that we are there no more, and nothing that waits for it."""
        if self._zeroconf is None or self._info is None:
            return
        for future in self._sending:
            future.cancel()
        zeroconf = self._zeroconf.zeroconf
        goodbye = zeroconf.generate_unregister_all_services()
        if goodbye is not None:
            zeroconf.async_send(goodbye)
        zeroconf.registry.async_remove(self._info)
        self._info = None

    def _ask(self) -> None:
        """Who is there; less and less often, for who comes says so."""
        assert self._zeroconf is not None
        words = importlib.import_module("zeroconf")
        question = words.DNSOutgoing(0)
        question.add_question(words.DNSQuestion(SERVICE, _PTR, _IN))
        self._zeroconf.zeroconf.async_send(question)
        self._timer = self._loop.call_later(self._wait, self._on_timer)
        self._wait = min(self._wait * ASK_TIMES, ASK_LAST)

    def _on_timer(self) -> None:
        if self._loop.time() - self._said_at > SAME_FOR_S:
            self._sending.add(future := asyncio.ensure_future(self._say()))
            future.add_done_callback(self._sent)
        self._ask()

    def _records(self, records: Sequence[RecordUpdate]) -> None:
        for update in records:
            record = update.new
            if record.type == _TXT and record.name.lower().endswith(SERVICE):
                self._hear(record.text, int(record.ttl))  # type: ignore[attr-defined]

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._zeroconf is None:
            return
        self._unsay()
        if self._listener is not None:
            self._zeroconf.zeroconf.async_remove_listener(self._listener)
        with contextlib.suppress(OSError, RuntimeError):
            await self._zeroconf.async_close()
        self._zeroconf = None


def _wanted(config: Config) -> bool:
    """An exit that leaves out the LAN leaves out this."""
    return config.network.lan and not (config.exit.use and not config.exit.lan)


def _listener(take: Callable[[Sequence[RecordUpdate]], None]) -> RecordUpdateListener:
    """Its class has a base that is not there before the library is."""
    import zeroconf

    class Listener(zeroconf.RecordUpdateListener):
        def async_update_records(
            self, zc: Zeroconf, now: float, records: list[RecordUpdate]
        ) -> None:
            take(records)

    return Listener()


def _load() -> ModuleType:
    with _no_programs():
        library = importlib.import_module("zeroconf.asyncio")
    # What strangers send is counted here; its own words on it would fill the log.
    logging.getLogger("zeroconf").setLevel(logging.CRITICAL)
    return library


@contextlib.contextmanager
def _no_programs() -> Iterator[None]:
    """ifaddr has ctypes look for the C library, by programs (ldconfig, a compiler) that the sandbox
    refuses. None names what is loaded already, which has it."""
    import ctypes.util

    before = ctypes.util.find_library
    ctypes.util.find_library = lambda name: None
    try:
        yield
    finally:
        ctypes.util.find_library = before
