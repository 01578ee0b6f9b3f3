"""The composition root: the only file that builds the core, the engine and the runtime together.

Start-up order, each step undone in reverse when a later one fails: configuration and keys, lock,
interface, addresses, UDP sockets, routes, capabilities dropped, workers, control sockets, ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import whalescale
from whalescale import config_keys, locations
from whalescale.config import Config, ConfigError
from whalescale.dataplane import confine
from whalescale.dataplane import engine as dataplane
from whalescale.dataplane.engine import Engine
from whalescale.identity import PlainIdentity
from whalescale.protocol.limits import Limits
from whalescale.protocol.mesh.guest import MeshGuest
from whalescale.protocol.nat.guest import Signalling
from whalescale.protocol.nat.relay import Relay
from whalescale.protocol.node import Node
from whalescale.protocol.parts import PARTS
from whalescale.protocol.places import LocalLink
from whalescale.protocol.postquantum import PostQuantumKeys
from whalescale.protocol.types import Event, PostQuantum
from whalescale.runtime import (
    logbuffer,
    network_requests,
    notify,
    outside,
    pinning,
    process,
    reload,
    sandbox,
    snapshot,
    watchdog,
)
from whalescale.runtime.background import Background
from whalescale.runtime.bpf import Bpf
from whalescale.runtime.control_socket import ControlServer
from whalescale.runtime.driver import Driver
from whalescale.runtime.errors import EXIT_FAILED, EXIT_PERMISSION, AgentError
from whalescale.runtime.forwarding import Forwarding
from whalescale.runtime.generation import Generation
from whalescale.runtime.hoststate import Keeper, Wanted
from whalescale.runtime.inside import InsideKeeper, OtherTunnels
from whalescale.runtime.interface import TunnelInterface
from whalescale.runtime.lan import Lan
from whalescale.runtime.marks import Marks
from whalescale.runtime.names import Names, NameUplinks
from whalescale.runtime.nat import NatView
from whalescale.runtime.nat64 import Nat64
from whalescale.runtime.netlink import Interface, LocalAddress, Netlink
from whalescale.runtime.network import NetworkKeeper
from whalescale.runtime.notices import LimitChanged, Notices, PeersChanged
from whalescale.runtime.part import Here, Part
from whalescale.runtime.plane import new_engine
from whalescale.runtime.portmap import PortMapper, nonce_of
from whalescale.runtime.relay import Relays
from whalescale.runtime.resolve import lookup
from whalescale.runtime.routes import Routes
from whalescale.runtime.routing import Routing
from whalescale.runtime.scrape import Scrape
from whalescale.runtime.sockets import Sockets
from whalescale.runtime.startup import TEST_LIMITS, limits_from, lock
from whalescale.runtime.tun import open_tun
from whalescale.runtime.tunnel import PeerSpec, Tunnel
from whalescale.runtime.tunnel_mtu import TunnelMtu
from whalescale.runtime.uplinks import Uplinks
from whalescale.runtime.warnings import Warnings
from whalescale.runtime.watcher import watch_addresses
from whalescale.runtime.wg_device import WgDevice
from whalescale.runtime.wg_uapi import DIRECTORY as UAPI_DIRECTORY
from whalescale.runtime.wg_uapi import UapiServer, make_directory

__all__ = ["AgentError", "run"]

log = logging.getLogger(__name__)

#: tests run several agents of one interface name on one machine
UAPI_DIR: Final = "WHALESCALE_UAPI_DIR"


def run(config_path: Path) -> int:
    """Run the agent of one configuration until it is told to stop; `ws up -f`.

    Returns the exit code. AgentError: it could not start, or its interface was taken away.
    """
    os.umask(0o077)
    process.raise_open_files()
    ring = logbuffer.setup(journal="JOURNAL_STREAM" in os.environ)
    # Before any key is read and any thread runs.
    with outside.helper():
        return _run(config_path, ring)


def _run(config_path: Path, ring: logbuffer.LogBuffer) -> int:
    try:
        config = config_keys.check(config_path)
        limits = limits_from(os.environ.get(TEST_LIMITS, ""))
        peers = reload.specs(config)
        confine.protect_process()
        identity = config_keys.read_identity(config)
    except ConfigError as e:
        raise reload.as_agent_error(e) from None
    try:
        with lock(config.interface.name):
            return asyncio.run(Agent(config, identity, limits, ring).main(peers))
    finally:
        identity.zero()


class Agent:
    """One running tunnel."""

    def __init__(
        self, config: Config, identity: PlainIdentity, limits: Limits, ring: logbuffer.LogBuffer
    ) -> None:
        self._config = config
        self._identity = identity
        self._limits = limits
        self._ring = ring
        self._stop = asyncio.Event()
        self._failure: AgentError | None = None
        #: held by who changes peers, routes or settings: a reload, `wg set`
        self._changing = asyncio.Lock()
        self._background = Background()
        self._notices = Notices()
        self._network = NetworkKeeper(self._name, identity, config.network, self._notices)
        #: in the order in which they are told; closed the other way round
        self._parts: list[Part] = []
        self._uapi_directory = Path(os.environ.get(UAPI_DIR) or UAPI_DIRECTORY)
        self._notifier = notify.Notifier()
        self._sandbox = sandbox.Sandbox()

    async def main(self, peers: list[PeerSpec]) -> int:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_log_loop_error)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        async with contextlib.AsyncExitStack() as stack:
            try:
                await self._start(stack, peers)
            except OSError as e:
                raise AgentError(
                    e.strerror or str(e),
                    "`ws doctor` looks for the cause",
                    EXIT_PERMISSION if e.errno in (errno.EPERM, errno.EACCES) else EXIT_FAILED,
                ) from None
            log.info("%s is up, UDP port %d", self._name, self._sockets.port)
            self._notifier.send("READY=1\nSTATUS=up")
            notify.ready_fd()
            await self._stop.wait()
            self._notifier.send("STOPPING=1")
            self._control.stop_listening()
        log.info("%s is down", self._name)
        if self._failure is not None:
            raise self._failure
        return 0

    @property
    def _name(self) -> str:
        return self._config.interface.name

    # start

    async def _start(self, stack: contextlib.AsyncExitStack, peers: list[PeerSpec]) -> None:
        config = self._config
        # First in, last out: who waits for the control connection's end finds all else gone.
        self._control = ControlServer(
            locations.control_socket(self._name),
            {
                "status": self._status,
                "reload": self._reload,
                "stop": self._on_stop,
                "version": _version,
                "pin_path": self._pin_path,
                "network": self._network_request,
            },
            {"logs": self._logs},
        )
        stack.push_async_callback(self._control.close)
        self._netlink = await stack.enter_async_context(Netlink.open())
        self._interface = TunnelInterface(
            self._netlink, self._name, self._identity, self._network.addresses
        )
        await self._interface.wait_for_name()
        engine = await self._build(stack, config)
        await self._interface.bring_up(config)
        self._sockets.open(config.interface.listen_port)
        first = await self._netlink.local_addresses(self._interface.ifindex)
        here = Here(first, (), self._sockets.port)
        self._sockets.follow(here)
        self._warnings.follow(here)
        # What later needs more than CAP_NET_ADMIN (a file of /proc/sys) is opened now.
        await self._marks.open()
        self._forwarding.open()
        # Sockets, device and programs are open. Before the peers: looking their names up starts
        # a thread, and every thread would have to drop its capabilities by itself.
        # What the sandbox opens is opened now.
        make_directory(self._uapi_directory)
        await self._scrape.apply(config)
        own = (a for a in self._interface.addresses(config) if a not in config.interface.addresses)
        self._network.bind_names(self._name, (str(a.ip) for a in own))
        process.drop_capabilities()
        self._sandbox = sandbox.enter(config, self._uapi_directory)
        self._parts.append(self._sandbox)
        self._bpf.confirm()
        self._steer()
        plan = reload.plan(self._tunnel, peers)
        try:
            self._tunnel.commit(plan.change)
        except ValueError as e:
            raise AgentError(f"{config.path}: {e}", "check the peers' keys") from None
        stack.push_async_callback(self._routes.clear)
        async with self._changing:  # a name may resolve meanwhile
            await self._routing.route(plan.networks, plan.endpoints)
        self._inside.update()
        self._bpf.follow(here)
        engine.start()
        loop = asyncio.get_running_loop()
        self._driver.start(loop)
        stack.callback(self._driver.stop)
        # After a kill the peers go on with keys that are gone here: a new session tells them.
        self._tunnel.greet()
        await self._network.start(self._tunnel, self._driver, lambda: self._device.fwmark)
        for part in self._parts:
            part.started()
        self._background.spawn(self._watch(first))
        if (interval := watchdog.wanted()) is not None:
            self._background.spawn(watchdog.feed(self._notifier, engine.beat, interval))
        stack.push_async_callback(self._background.cancel)
        await self._control.start()
        server = UapiServer(
            self._uapi_directory / f"{self._name}.sock", self._device.view, self._device.change
        )
        try:
            await server.start()
        except (AgentError, OSError) as e:
            # The tunnel works without it; `wg show` does not.
            log.warning("no WireGuard socket: %s", e)
        stack.push_async_callback(server.close)
        sandbox.close_doors()

    def _steer(self) -> None:
        programs = self._bpf.programs
        self._engine.use_programs(programs.handle if programs is not None else None)

    async def _build(self, stack: contextlib.AsyncExitStack, config: Config) -> Engine:
        """TUN device, engine, core and what ties them, nothing of it running yet."""
        plane = config.dataplane
        fwmark = config.interface.fwmark
        tun = open_tun(self._name, queues=plane.workers, tso=plane.tun_tso, uso=plane.tun_uso)
        engine = self._engine = new_engine(self._identity, config, tun, fwmark)
        stack.callback(engine.close)
        for worker, fd in enumerate(tun.fds):
            engine.set_tun(worker, fd)
        found = await self._interface.find()
        self._sockets = Sockets(engine, self._notices)
        # A store that another agent holds ends the start.
        self._network.open()
        stack.push_async_callback(self._network.close)
        self._node = Node(
            self._identity,
            limits=self._limits,
            random=os.urandom,
            wall_clock=self._network.wall_clock,
            parts=(*PARTS, PostQuantumKeys, MeshGuest, Relay),
        )
        self._network.begin(self._node.guest(MeshGuest), dataplane.now())
        self._network.signal(self._node.guest(Signalling))
        uplinks = NameUplinks()
        names = Names(
            mark=lambda: self._device.fwmark,
            uplinks=lambda: uplinks.indices,
            own=lambda: frozenset(str(a.ip) for a in self._interface.addresses(self._config)),
            fallback=lookup,
            patient=lambda: uplinks.six_alone,
        )
        self._driver = Driver(
            self._node,
            engine,
            self._limits,
            on_event=self._on_event,
            on_fatal=self._on_fatal,
            on_limit=lambda limit: self._notices.tell(LimitChanged(limit)),
            multipath=reload.multipath(config),
        )
        self._tunnel = Tunnel(self._node, engine, self._driver, self._notices, names=names)
        self._tunnel.set_post_quantum(PostQuantum(config.interface.pq))
        self._relays = Relays(
            config,
            self._node,
            engine,
            self._driver,
            lambda: self._network.mesh,
            self._tunnel.name_of,
            self._notices,
            self._background,
        )
        self._network.reach = self._relays.reach
        self._inside = InsideKeeper(
            self._node,
            engine,
            self._tunnel,
            lambda: self._interface.addresses(self._config),
            self._driver.now,
            self._notices,
        )
        self._bpf = Bpf.load(
            self._name,
            wanted=plane.bpf,
            xdp=plane.xdp,
            workers=plane.workers,
            relay=config.relay.serve and config.relay.kernel,
            notices=self._notices,
        )
        stack.push_async_callback(self._bpf.close)
        self._driver.known.add_guard(self._bpf)
        self._steer()
        self._routes = Routes(self._netlink, found, self._name)
        self._device = WgDevice(
            self._identity,
            self._node,
            engine,
            self._tunnel,
            self._sockets,
            fwmark,
            lambda: self._routes.table,
            self._changing,
        )
        self._marks = Marks(self._name)
        self._keeper = Keeper(
            self._netlink,
            found,
            self._name,
            self._marks,
            self._wanted,
            self._changing,
            self._tunnel.tell,
            self._notices,
            self._background,
            self._tunnel.endpoint_addresses,
        )
        self._routing = Routing(
            config,
            self._netlink,
            self._routes,
            self._device,
            self._tunnel,
            self._keeper,
            self._interface.addresses,
            self._changing,
            self._background,
            self._notices,
        )
        self._warnings = Warnings(config)
        mtu = TunnelMtu(
            config,
            self._netlink,
            found,
            engine,
            self._tunnel,
            self._routes,
            self._changing,
            self._background,
            self._notices,
        )
        self._scrape = Scrape(
            lambda: snapshot.take(self._subject),
            lambda: {a.ip for a in self._interface.addresses(self._config)},
            locations.metrics_socket(self._name),
        )
        portmap = PortMapper(
            config,
            self._netlink.gateway,
            lambda: self._device.fwmark,
            self._driver.set_mapped,
            lambda place: nonce_of(place, self._identity.static_private),
            self._driver.now,
            self._background,
            self._notices,
        )
        lan = Lan(
            config,
            lambda: self._network.mesh,
            self._network.set_near,
            self._driver.now,
            self._background,
            self._notices,
        )
        self._forwarding = Forwarding(config, lambda: self._routes.table, self._background)
        self._network.use_exit(config.exit.use)
        # The list of parts. What is inside tunnels is known before paths are looked for.
        self._parts += [
            self._warnings,
            self._sockets,
            self._bpf,
            self._inside,
            uplinks,
            self._driver,
            Generation(self._driver.begin_anew),
            self._tunnel,
            OtherTunnels(self._netlink, found, self._inside, self._background),
            self._keeper,
            self._routing,
            mtu,
            self._network,
            self._scrape,
            portmap,
            Nat64(names.lookup, self._tunnel.set_nat64),
            lan,
            NatView(self._node, lambda: self._network.mesh),
            self._relays,
            self._forwarding,
        ]
        for part in self._parts:
            stack.push_async_callback(part.close)
        stack.callback(engine.use_programs, None)
        self._subject = snapshot.Subject(
            config,
            self._identity,
            self._limits,
            self._node,
            engine,
            self._driver,
            self._tunnel,
            self._sockets,
            dataplane.now(),
            self._parts,
            self._device,
            self._keeper,
            self._warnings.lines,
            self._relays,
            self._network.addresses,
        )
        return engine

    def _wanted(self) -> Wanted:
        """What the kernel shall have of this tunnel now."""
        mark = self._routes.table
        return Wanted(
            self._engine.mtu,
            self._interface.queue,
            frozenset(self._interface.addresses(self._config)),
            self._routes.routes,
            self._routes.rules,
            (mark, self._sockets.port) if mark else None,
            frozenset(self._connected()),
            self._device.fwmark,
        )

    def _connected(self) -> Iterator[Interface]:
        """Own addresses whose networks' routes, which the kernel makes, are looked after: peers and
        members may be reached by them."""
        if self._config.interface.table == "auto":
            yield from self._interface.addresses(self._config)

    # in operation

    async def _watch(self, first: Sequence[LocalAddress]) -> None:
        last = first

        def changed(addresses: Sequence[LocalAddress], links: Sequence[LocalLink]) -> None:
            nonlocal last
            self._engine.follow_tun()
            moved, last = addresses != last, addresses
            self._follow(Here(addresses, links, self._sockets.port, moved))

        await watch_addresses(self._netlink, self._interface.ifindex, self._uplinks, changed)

    def _follow(self, here: Here) -> None:
        for part in self._parts:
            part.follow(here)

    def _uplinks(self) -> Uplinks:
        wanted = self._config.multipath
        return Uplinks(wanted.interfaces, wanted.exclude)

    def _on_event(self, event: Event) -> None:
        self._tunnel.on_event(event)
        self._network.on_event(event)
        self._relays.on_event(event)

    def _on_fatal(self, reason: int) -> None:
        if self._failure is None:
            gone = reason in (errno.EBADFD, errno.ENODEV, errno.EIO)
            self._failure = AgentError(
                f"interface {self._name} was removed"
                if gone
                else f"the data plane stopped: {os.strerror(reason)}",
                "`sudo ws up` starts again",
            )
        self._stop.set()

    def _on_hangup(self) -> None:
        async def reload_and_log() -> None:
            try:
                await self._reload({})
            except AgentError as e:
                log.error("reload refused: %s; %s", e.message, e.fix)

        self._background.spawn(reload_and_log())

    # methods of the control socket

    async def _status(self, _: dict[str, Any]) -> dict[str, Any]:
        return snapshot.take(self._subject)

    async def _pin_path(self, params: dict[str, Any]) -> dict[str, Any]:
        return pinning.pin(self._tunnel, params)

    async def _network_request(self, params: dict[str, Any]) -> dict[str, Any]:
        if params.get("op") == "begin":
            told = await self._network.enter(self._node.guest(MeshGuest))
            await self._keeper.look()  # it has given us addresses
            return told
        if params.get("op") == "invite" and self._network.mesh is not None:
            await network_requests.placed(self._network.mesh)
        return self._network.ask(params)

    async def _on_stop(self, _: dict[str, Any]) -> dict[str, Any]:
        # After the answer is on its way.
        asyncio.get_running_loop().call_later(0.01, self._stop.set)
        return {}

    async def _logs(self, params: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        lines = self._ring.stream(follow=bool(params.get("follow")))
        async with contextlib.aclosing(lines):
            async for line in lines:
                yield {"line": line}

    async def _reload(self, params: dict[str, Any]) -> dict[str, Any]:
        """Read the file again and carry it out; {"check": true} only says what would change."""
        async with self._changing:
            old = self._config
            try:
                new = config_keys.check(old.path)
                reload.refuse(old, new, self._identity, self._driver.paths.longest_mtu)
                peers = reload.specs(new)
            except ConfigError as e:
                raise self._sandbox.explain(reload.as_agent_error(e), old.path) from None
            except AgentError as e:
                raise self._sandbox.explain(e, old.path) from None
            plan = reload.plan(self._tunnel, peers)
            words = reload.changes(old, new, plan.change)
            if params.get("check"):
                words += [f"put back: {w}" for w in await self._keeper.differences()]
            else:
                await self._carry_out(old, new, plan)
                words += [f"put back: {w}" for w in await self._keeper.restore()]
                log.info("reloaded %s: %s", new.path, "; ".join(words) or "nothing changed")
            return {"changes": words}

    async def _carry_out(self, old: Config, new: Config, plan: reload.Plan) -> None:
        routes, fwmark = await self._routing.wanted(new, plan.networks, plan.endpoints)
        parts = reload.Parts(
            self._netlink,
            self._interface.ifindex,
            self._engine,
            self._sockets,
            self._routes,
            self._device,
            self._tunnel,
        )
        addresses = self._interface.addresses
        before = reload.Wanted(old, addresses(old), self._device.fwmark, self._routes.asked)
        after = reload.Wanted(new, addresses(new), fwmark, routes)
        await reload.carry_out(parts, before, after, plan.change)
        self._config = self._subject.config = new
        self._notices.tell(PeersChanged())  # or the addresses
        for part in self._parts:
            await part.apply(new)
        if self._uplinks() != Uplinks(old.multipath.interfaces, old.multipath.exclude):
            local = await self._netlink.local_addresses(self._interface.ifindex)
            links = await self._netlink.local_links(local, self._uplinks())
            self._follow(Here(local, links, self._sockets.port, moved=False))


async def _version(_: dict[str, Any]) -> dict[str, Any]:
    return {"version": whalescale.__version__}


def _log_loop_error(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    log.error("%s: %s", context.get("message", "event loop"), error if error else "no details")
