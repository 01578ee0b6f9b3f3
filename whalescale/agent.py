"""The composition root: the only file that builds the core, the engine and the runtime together.

Start-up order, each step undone in reverse when a later one fails: configuration and keys, lock,
interface, addresses, UDP sockets, routes, capabilities dropped, workers, control sockets, ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import ipaddress
import json
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final

import whalescale
from whalescale import config as configuration
from whalescale import locations
from whalescale.config import Config, ConfigError
from whalescale.dataplane import engine as dataplane
from whalescale.dataplane import probe
from whalescale.dataplane.engine import Backend, Cipher, Engine, Offload, uring_parts
from whalescale.identity import PlainIdentity
from whalescale.protocol import bootstrap
from whalescale.protocol.limits import NS_PER_MS, Limits
from whalescale.protocol.node import Node
from whalescale.protocol.places import LocalLink
from whalescale.protocol.types import Event
from whalescale.runtime import (
    generation,
    logbuffer,
    notify,
    outside,
    pinning,
    process,
    reload,
    sandbox,
    snapshot,
)
from whalescale.runtime.bpf import Bpf
from whalescale.runtime.control_socket import ControlServer, private_directory
from whalescale.runtime.driver import Driver
from whalescale.runtime.errors import EXIT_FAILED, EXIT_PERMISSION, AgentError
from whalescale.runtime.hoststate import Keeper, Wanted
from whalescale.runtime.inside import InsideKeeper
from whalescale.runtime.marks import Marks
from whalescale.runtime.names import Names
from whalescale.runtime.netlink import (
    MAIN_TABLE,
    Interface,
    LocalAddress,
    Netlink,
    Network,
    Route,
    watch_addresses,
)
from whalescale.runtime.notices import (
    AddressesHeard,
    LimitChanged,
    NetworksChanged,
    Notices,
    PeersChanged,
    PortChanged,
)
from whalescale.runtime.resolve import lookup
from whalescale.runtime.routes import Routes, free_table, wanted_routes
from whalescale.runtime.scrape import Scrape
from whalescale.runtime.sockets import Sockets
from whalescale.runtime.tun import Tun, open_tun
from whalescale.runtime.tunnel import PeerSpec, Tunnel
from whalescale.runtime.uplinks import Uplinks
from whalescale.runtime.warnings import Warnings
from whalescale.runtime.wg_device import WgDevice
from whalescale.runtime.wg_uapi import DIRECTORY as UAPI_DIRECTORY
from whalescale.runtime.wg_uapi import UapiServer, make_directory

__all__ = ["AgentError", "run"]

log = logging.getLogger(__name__)

TEST_LIMITS: Final = "WHALESCALE_TEST_LIMITS"
#: the kernel takes down a killed agent's interface once it has ended its io_uring
LEAVING_S: Final = 3.0
#: tests run several agents of one interface name on one machine
UAPI_DIR: Final = "WHALESCALE_UAPI_DIR"

_BACKENDS: Final = {"auto": Backend.AUTO, "mmsg": Backend.MMSG, "io_uring": Backend.URING}
_CIPHERS: Final = {
    "auto": Cipher.AUTO,
    "ipsec-mb": Cipher.IPSEC_MB,
    "openssl": Cipher.OPENSSL,
}


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
        config = configuration.check(config_path)
        limits = limits_from(os.environ.get(TEST_LIMITS, ""))
        peers = reload.specs(config)
        dataplane.protect_process()
        identity = configuration.read_identity(config)
    except ConfigError as e:
        raise reload.as_agent_error(e) from None
    try:
        with lock(config.interface.name):
            return asyncio.run(Agent(config, identity, limits, ring).main(peers))
    finally:
        identity.zero()


def limits_from(text: str) -> Limits:
    """For tests of rekeying: JSON of Limits in ms (message counts as they are), shorter only.

    WHALESCALE_TEST_LIMITS='{"rekey_after_time": 2000, "keepalive_timeout": 500}'
    """
    if not text:
        return Limits()
    defaults = Limits()
    counts = ("rekey_after_messages", "reject_after_messages")
    times = [f.name for f in fields(Limits) if getattr(defaults, f.name) >= NS_PER_MS]
    known = {n for n in times if n.endswith(("_time", "_timeout", "_max", "_age"))} | {*counts}
    try:
        asked = json.loads(text)
        values = {
            name: int(value) if name in counts else int(float(value) * NS_PER_MS)
            for name, value in asked.items()
        }
        if not values.keys() <= known:
            raise ValueError(f"unknown: {', '.join(sorted(values.keys() - known))}")
        if any(not 0 < v <= getattr(defaults, n) for n, v in values.items()):
            raise ValueError("limits can only be made shorter")
    except (ValueError, TypeError, AttributeError) as e:
        raise AgentError(f"{TEST_LIMITS}: {e}", "unset it, it is for tests") from None
    return replace(defaults, **values)


@contextlib.contextmanager
def lock(interface: str) -> Any:
    """One agent per interface name and runtime directory; the kernel lets go of a killed one's."""
    path = locations.runtime_dir() / f"{interface}.lock"
    private_directory(path.parent)
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.exists(path) and os.path.samestat(os.fstat(fd), os.stat(path)):
                break
        except BlockingIOError:
            pid = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            raise AgentError(
                f"an agent for {interface} is running already (process {pid})",
                f"`ws status -i {interface}` shows it, `ws down -i {interface}` stops it",
            ) from None
        # An agent that ended has removed this file between our two steps.
        os.close(fd)
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(fd)


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
        self._background: set[asyncio.Task[Any]] = set()
        self._warnings = Warnings()
        self._notices = notices = Notices()
        notices.on(NetworksChanged, lambda _: self._spawn_reroute())
        notices.on(AddressesHeard, lambda heard: self._follow_addresses(heard.ips))
        notices.on(PortChanged, lambda changed: self._follow_port(changed.port))
        notices.on(LimitChanged, lambda told: self._task(self._follow_limit(told.limit)))
        self._own_table = 0
        #: interfaces to ask name servers by, where the routing table does not lead there
        self._uplink_indices: tuple[int, ...] = ()
        self._uapi_directory = Path(os.environ.get(UAPI_DIR) or UAPI_DIRECTORY)
        self._notifier = notify.Notifier()
        self._sandbox = sandbox.Sandbox()
        self._scrape = Scrape(
            lambda: snapshot.take(self._subject),
            lambda: {a.ip for a in self._addresses(self._config)},
            locations.metrics_socket(self._name),
        )

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
            },
            {"logs": self._logs},
        )
        stack.push_async_callback(self._control.close)
        self._netlink = await stack.enter_async_context(Netlink.open())
        await self._name_is_free()
        engine = await self._build(stack, config)
        await self._interface_up(config)
        self._sockets.open(config.interface.listen_port)
        first = await self._netlink.local_addresses(self._ifindex)
        self._sockets.follow(first)
        self._warnings.update(config, first)
        # What later needs more than CAP_NET_ADMIN (a file of /proc/sys) is opened now.
        await self._marks.open()
        # Sockets, device and programs are open. Before the peers: looking their names up starts
        # a thread, and every thread would have to drop its capabilities by itself.
        # What the sandbox opens is opened now.
        make_directory(self._uapi_directory)
        stack.push_async_callback(self._scrape.close)
        await self._tell_metrics(config)
        process.drop_capabilities()
        self._sandbox = self._subject.sandbox = sandbox.enter(config, self._uapi_directory)
        self._bpf.confirm()
        self._steer()
        plan = reload.plan(self._tunnel, peers)
        try:
            self._tunnel.commit(plan.change)
        except ValueError as e:
            raise AgentError(f"{config.path}: {e}", "check the peers' keys") from None
        stack.push_async_callback(self._routes.clear)
        await self._route(config, plan.networks, plan.endpoints)
        self._inside.update()

        self._bpf.follow(first, self._sockets.port)
        engine.start()
        loop = asyncio.get_running_loop()
        self._driver.start(loop)
        stack.callback(self._driver.stop)
        # After a kill the peers go on with keys that are gone here: a new session tells them.
        self._tunnel.greet()
        self._generation.start()
        stack.callback(self._generation.close)
        self._task(self._watch(first))
        self._task(self._keeper.watch())
        stack.push_async_callback(self._cancel_background)
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

    async def _name_is_free(self) -> None:
        """AgentError: the interface exists. That of an agent just killed gets the time to go."""
        deadline = time.monotonic() + LEAVING_S
        while (ifindex := await self._netlink.find_interface(self._name)) is not None:
            if time.monotonic() > deadline or not await self._netlink.is_tun(ifindex):
                raise AgentError(
                    f"interface {self._name} is there already",
                    f"choose another [interface] name, or remove it: ip link del {self._name}",
                )
            await asyncio.sleep(0.05)

    async def _build(self, stack: contextlib.AsyncExitStack, config: Config) -> Engine:
        """TUN device, engine, core and what ties them, nothing of it running yet."""
        plane = config.dataplane
        fwmark = config.interface.fwmark
        tun = open_tun(self._name, queues=plane.workers, tso=plane.tun_tso, uso=plane.tun_uso)
        engine = self._new_engine(stack, tun, config, fwmark)
        found = await self._netlink.find_interface(self._name)
        if found is None:
            raise AgentError(f"interface {self._name} went away during the start", "start again")
        self._ifindex = found
        self._sockets = Sockets(engine, self._notices)
        self._node = Node(
            self._identity, limits=self._limits, random=os.urandom, wall_clock=time.time_ns
        )
        names = Names(
            mark=lambda: self._device.fwmark,
            uplinks=lambda: self._uplink_indices,
            own=lambda: frozenset(str(a.ip) for a in self._addresses(self._config)),
            fallback=lookup,
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
        self._generation = generation.Generation(self._driver.begin_anew)
        self._inside = InsideKeeper(
            self._node,
            engine,
            self._tunnel,
            lambda: self._addresses(self._config),
            self._driver.now,
            self._notices,
        )
        self._engine = engine
        self._bpf = Bpf.load(self._name, wanted=plane.bpf, xdp=plane.xdp, workers=plane.workers)
        stack.callback(self._bpf.close)
        self._driver.known.add_guard(self._bpf)
        self._steer()
        stack.callback(engine.use_programs, None)
        stack.callback(self._tunnel.close)
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
        stack.callback(self._marks.close)
        self._keeper = Keeper(
            self._netlink,
            found,
            self._name,
            self._marks,
            self._wanted,
            self._changing,
            self._tunnel.tell,
        )
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
            self._bpf,
            self._sandbox,
            self._device,
            self._keeper,
            self._warnings.lines,
        )
        return engine

    async def _tell_metrics(self, config: Config) -> None:
        """The tunnel works without them."""
        try:
            await self._scrape.apply(config.metrics)
        except AgentError as e:
            log.warning("no metrics: %s; %s", e.message, e.fix)

    def _new_engine(
        self, stack: contextlib.AsyncExitStack, tun: Tun, config: Config, fwmark: int
    ) -> Engine:
        plane = config.dataplane
        if plane.pin_cpus and not process.may_pin_cpus():
            log.warning("pin_cpus: not allowed here; SystemCallFilter=sched_setaffinity does it")
        off = Offload.NONE
        for offload in (o for o in Offload if o is not Offload.NONE):
            if not getattr(plane, str(offload.name).lower()):
                off |= offload
        if not tun.uso:
            off |= Offload.TUN_USO
        try:
            engine = Engine(
                public_key=self._identity.static_public,
                bootstrap_key=bootstrap.own_mac_key(self._identity.fingerprint, os.urandom),
                mtu=config.interface.mtu,
                workers=plane.workers,
                backend=choose_backend(plane.backend),
                cipher=_CIPHERS[plane.cipher],
                offloads_off=off,
                fwmark=fwmark,
                pin_cpus=plane.pin_cpus,
                busy_poll_us=plane.busy_poll_us,
            )
        except AgentError:
            tun.close()
            raise
        except OSError as e:
            tun.close()
            raise AgentError(
                f"data plane: {e}", f"change [dataplane] in {config.path}, or see `ws doctor`"
            ) from None
        stack.callback(engine.close)
        for worker, fd in enumerate(tun.fds):
            engine.set_tun(worker, fd)
        return engine

    async def _interface_up(self, config: Config) -> None:
        addresses = self._addresses(config)
        link = await self._netlink.link_state(self._ifindex)
        if config.interface.mtu < configuration.IPV6_MTU_MIN:
            addresses = [a for a in addresses if a.version == 4]
        elif link is not None and not link.ipv6:
            # The keeper says what is left out, and adds it when the host has IPv6.
            addresses = [a for a in addresses if a.version == 4]
            if not addresses and self._addresses(config):
                raise AgentError(
                    f"IPv6 is switched off on this host, and {config.path} has no IPv4 address",
                    "give [interface] addresses an IPv4 one, or `sysctl -w net.ipv6.conf.all."
                    "disable_ipv6=0 net.ipv6.conf.default.disable_ipv6=0`",
                )
        for address in addresses:
            await self._netlink.add_address(self._ifindex, address)
        await self._netlink.set_up(self._ifindex, config.interface.mtu)
        self._queue = link.queue if link is not None else 0

    def _addresses(self, config: Config) -> list[Interface]:
        """The file's, and the one derived from the node ID."""
        if self._identity.overlay_address is None:
            return list(config.interface.addresses)
        overlay = configuration.parse_address(f"{self._identity.overlay_address}/128")
        return [*config.interface.addresses, overlay]

    def _wanted(self) -> Wanted:
        """What the kernel shall have of this tunnel now."""
        mark = self._routes.table
        return Wanted(
            self._engine.mtu,
            self._queue,
            frozenset(self._addresses(self._config)),
            self._routes.routes,
            self._routes.rules,
            (mark, self._sockets.port) if mark else None,
        )

    # routes

    async def _routes_for(
        self, config: Config, networks: set[Network], endpoints: Iterable[str]
    ) -> tuple[set[Route], int]:
        """The routes, and the mark that our datagrams bear by them."""
        table = config.interface.table
        if table == "off":
            return set(), config.interface.fwmark
        addresses = self._addresses(config)
        if isinstance(table, int):
            own = {a.network for a in addresses}
            return {Route(n, table, False) for n in networks - own}, config.interface.fwmark
        endpoints = set(endpoints)
        self._warn_of_own_network(addresses, endpoints)
        table = config.interface.fwmark or self._own_table
        routes = wanted_routes(networks, addresses, table, endpoints)
        if all(r.table == MAIN_TABLE for r in routes):
            return routes, config.interface.fwmark
        if not table:
            table = self._own_table = await free_table(self._netlink)
            routes = wanted_routes(networks, addresses, table, endpoints)
        return routes, table

    def _warn_of_own_network(self, addresses: list[Interface], endpoints: set[str]) -> None:
        for endpoint in sorted(endpoints):
            for own in addresses:
                if ipaddress.ip_address(endpoint) in own.network:
                    log.warning(
                        "the endpoint %s lies in %s, the tunnel's own network: what is sent there "
                        "goes into the tunnel itself; change the endpoint or [interface] addresses",
                        endpoint,
                        own.network,
                    )

    async def _route(
        self, config: Config, networks: set[Network], endpoints: Iterable[str]
    ) -> None:
        """Routes, rules, the mark and what restores it. AgentError: the old ones stand."""
        routes, mark = await self._routes_for(config, networks, endpoints)
        before, held = self._device.fwmark, self._routes.table
        apart = any(r.table != MAIN_TABLE and r.ruled for r in routes)
        try:
            if apart:
                self._device.set_fwmark(mark)
            await self._routes.apply(routes)
            if held and not apart:
                self._device.set_fwmark(mark)
        except OSError as e:
            raise AgentError(f"fwmark {mark}: {e.strerror or e}", "see `ws doctor`") from None
        except AgentError:
            with contextlib.suppress(OSError):
                self._device.set_fwmark(before)
            raise
        await self._keeper.mend()

    def _follow_addresses(self, addresses: Iterable[str]) -> None:
        """A peer is (said to be) elsewhere: not to be reached through the tunnel itself."""
        if any(self._routes.swallow(a) for a in addresses):
            self._spawn_reroute()

    def _follow_port(self, port: int) -> None:
        self._bpf.set_port(port)
        self._keeper.soon()

    def _spawn_reroute(self) -> None:
        self._task(self._reroute())

    async def _reroute(self) -> None:
        """A peer known by fingerprint told its node ID: its overlay address needs a route.

        Or one is where another route led into the tunnel.
        """
        async with self._changing:
            networks, endpoints = self._tunnel.networks(), self._tunnel.endpoint_addresses()
            try:
                await self._route(self._config, networks, endpoints)
            except AgentError as e:
                log.warning("%s", e.message)

    # in operation

    def _task(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _cancel_background(self) -> None:
        tasks = list(self._background)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self, first: list[LocalAddress]) -> None:
        last = first

        def changed(addresses: Any, links: Sequence[LocalLink]) -> None:
            nonlocal last
            self._engine.follow_tun()
            if addresses != last:
                last = addresses
                self._warnings.update(self._config, addresses)
                self._sockets.follow(addresses)
                self._bpf.follow(addresses, self._sockets.port)
                self._driver.announce()
            # Before paths are looked for.
            self._inside.follow(links)
            self._follow_links(links)
            self._tunnel.network_changed()
            self._task(self._look_for_tunnels())

        await watch_addresses(self._netlink, self._ifindex, self._uplinks, changed)

    def _follow_links(self, links: Sequence[LocalLink]) -> None:
        best = sorted(links, key=lambda link: link.spare)
        self._uplink_indices = tuple(dict.fromkeys(link.ifindex for link in best))
        self._driver.paths.set_links(links, self._sockets.port)

    def _uplinks(self) -> Uplinks:
        wanted = self._config.multipath
        return Uplinks(wanted.interfaces, wanted.exclude)

    async def _look_for_tunnels(self) -> None:
        try:
            found = await self._netlink.tunnel_networks(self._ifindex)
        except OSError as e:
            log.warning("other tunnels: %s", e.strerror)
            return
        self._inside.follow_others(found)

    async def _follow_limit(self, limit: int | None) -> None:
        """The tunnel's MTU is what all paths take, and at most what is configured."""
        async with self._changing:
            mtu = reload.tunnel_mtu(self._config.interface.mtu, limit)
            if mtu == self._engine.mtu:
                return
            try:
                await self._netlink.set_mtu(self._ifindex, mtu)
                self._engine.set_mtu(mtu)
            except OSError as e:
                log.warning("MTU %d: %s", mtu, e.strerror)
                return
            log.info("MTU %d: what every path in use takes", mtu)

    def _on_event(self, event: Event) -> None:
        self._tunnel.on_event(event)

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

        self._task(reload_and_log())

    # methods of the control socket

    async def _status(self, _: dict[str, Any]) -> dict[str, Any]:
        return snapshot.take(self._subject)

    async def _pin_path(self, params: dict[str, Any]) -> dict[str, Any]:
        return pinning.pin(self._tunnel, params)

    async def _on_stop(self, _: dict[str, Any]) -> dict[str, Any]:
        # After the answer is on its way.
        asyncio.get_running_loop().call_later(0.01, self._stop.set)
        return {}

    async def _logs(self, params: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The ring's lines, then (follow) new ones: {"line": {"t", "level", "message"}} each."""
        queue: asyncio.Queue[logbuffer.Line] = asyncio.Queue(logbuffer.RING_LINES)

        def put(line: logbuffer.Line) -> None:
            if not queue.full():  # a reader that is too slow misses lines
                queue.put_nowait(line)

        unfollow = self._ring.follow(put)
        try:
            for line in self._ring.lines():
                yield {"line": line}
            while params.get("follow"):
                yield {"line": await queue.get()}
        finally:
            unfollow()

    async def _reload(self, params: dict[str, Any]) -> dict[str, Any]:
        """Read the file again and carry it out; {"check": true} only says what would change."""
        async with self._changing:
            old = self._config
            try:
                new = configuration.check(old.path)
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
        routes, fwmark = await self._routes_for(new, plan.networks, plan.endpoints)
        parts = reload.Parts(
            self._netlink,
            self._ifindex,
            self._engine,
            self._sockets,
            self._routes,
            self._device,
            self._tunnel,
        )
        await reload.carry_out(
            parts,
            reload.Wanted(old, self._addresses(old), self._device.fwmark, set(self._routes.routes)),
            reload.Wanted(new, self._addresses(new), fwmark, routes),
            plan.change,
        )
        self._config = self._subject.config = new
        await self._tell_metrics(new)
        self._notices.tell(PeersChanged())  # or the addresses
        self._warnings.update(new)
        if self._uplinks() != Uplinks(old.multipath.interfaces, old.multipath.exclude):
            addresses = await self._netlink.local_addresses(self._ifindex)
            links = await self._netlink.local_links(addresses, self._uplinks())
            self._inside.follow(links)
            self._follow_links(links)


async def _version(_: dict[str, Any]) -> dict[str, Any]:
    return {"version": whalescale.__version__}


def choose_backend(wanted: str) -> Backend:
    """What [dataplane] backend comes to on this kernel. AgentError: asked for and not there."""
    backend = _BACKENDS[wanted]
    if backend is Backend.MMSG:
        return backend
    found = probe.io_uring()
    error = 0 if found.problem else uring_parts()[0]
    if error:
        problem = f"a part of it is missing ({os.strerror(error)})"
        found = probe.IoUring(0, problem, "`ws doctor` says which; use Linux 6.1 or newer")
    if not found.problem:
        return backend
    if backend is Backend.URING:
        raise AgentError(
            f"[dataplane] backend = {wanted}: {found.problem}", f'{found.fix}, or "auto"'
        )
    log.info("io_uring: %s; recvmmsg and sendmmsg stand in", found.problem)
    return Backend.MMSG


def _log_loop_error(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    log.error("%s: %s", context.get("message", "event loop"), error if error else "no details")
