"""Between the pure core and the C engine: upcalls and time in, keypairs and messages out.

Everything here runs on the asyncio loop's thread. The core is asked nothing about
sockets or clocks, the engine nothing about protocol.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

from whalescale.dataplane import engine as dataplane
from whalescale.dataplane.engine import Addr, Engine, PeerStats, Upcall, UpcallType
from whalescale.protocol import multipath as core
from whalescale.protocol.limits import NS_PER_S, Limits
from whalescale.protocol.naps import Naps
from whalescale.protocol.node import Node
from whalescale.protocol.paths.types import MultipathSettings, PathStatus, Pin
from whalescale.protocol.places import Endpoint, PeerHandle
from whalescale.protocol.types import (
    Activity,
    EndpointChanged,
    Event,
    ExtendedModeChanged,
    HandshakeGaveUp,
    KeypairReady,
    KeypairsExpired,
    MultipathStarted,
    PathAction,
    PeerConfig,
    PeerSeen,
    SendControl,
    SendKeepalive,
    Transmit,
)
from whalescale.runtime.congestion import CongestionControl
from whalescale.runtime.frames import Frames
from whalescale.runtime.known import Known
from whalescale.runtime.multipath import Multipath
from whalescale.runtime.part import Here, Part

log = logging.getLogger(__name__)

#: upcalls handled before the loop gets to look at its other descriptors
UPCALLS_PER_TURN: Final = 32
#: the longest that one turn may take (a handshake costs about a millisecond)
TURN_S: Final = 0.02
#: peers whose timers are looked at before the loop gets to; the rest are due at once again
DUE_PER_TURN: Final = 16
#: the longest between two samples of what the workers saw
TICK_S: Final = 1.0
TICK_SHORTEST_S: Final = 0.02


def to_addr(endpoint: Endpoint | None) -> Addr | None:
    return None if endpoint is None else Addr(*endpoint)


def to_endpoint(addr: Addr | None) -> Endpoint | None:
    return None if addr is None else Endpoint(*addr)


def tick_seconds(limits: Limits) -> float:
    """Often enough for the shortest timer that counts from the engine's timestamps."""
    shortest = min(limits.keepalive_timeout, limits.rekey_timeout, limits.rekey_after_time)
    return max(TICK_SHORTEST_S, min(TICK_S, shortest / 5 / NS_PER_S))


class Driver(Part):
    """Owns the traffic between one Node and one Engine. Peers are named by the node's handles."""

    def __init__(
        self,
        node: Node,
        engine: Engine,
        limits: Limits,
        *,
        on_event: Callable[[Event], None],
        on_fatal: Callable[[int], None],
        on_limit: Callable[[int | None], None] = lambda _: None,
        clock: Callable[[], int] = dataplane.now,
        awake: Callable[[], int] = time.monotonic_ns,
        multipath: MultipathSettings | None = None,
    ) -> None:
        self._node = node
        self._engine = engine
        self._limits = limits
        self._on_event = on_event
        self._on_fatal = on_fatal
        self._clock = clock
        #: ns of a clock that stands still while the host sleeps
        self._awake = awake
        self._naps = Naps(clock(), awake())
        #: [multipath], as the file has it
        self.multipath = multipath or MultipathSettings()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._numbers: dict[PeerHandle, int] = {}
        self._handles: dict[int, PeerHandle] = {}
        #: peers that have keypairs in the engine, and what was last told of them
        self._live: dict[PeerHandle, tuple[int, int, int, int]] = {}
        self._frames = Frames(engine)
        #: where the engine last said that a peer is, and what we answer from
        self._told: dict[PeerHandle, tuple[Addr | None, Addr | None]] = {}
        #: addresses of peers, for the flood defences
        self.known = Known(engine)
        self._secret_set = 0
        self._last_now = 0
        self._managers = node.guest(core.Multipath)
        self._congestion = CongestionControl()
        self._mtu = engine.mtu
        self._set_paths()
        self.paths = Multipath(
            node,
            engine,
            self._numbers,
            self.now,
            drain=self.drain,
            on_fault=self._fault,
            on_limit=on_limit,
        )
        self._timer: asyncio.TimerHandle | None = None
        self._deadline: int | None = None
        self._tick: asyncio.TimerHandle | None = None
        self._tick_s = tick_seconds(limits)
        self._resume: asyncio.Handle | None = None
        #: peers that want a session; thousands at a start, so made a few a turn
        self._wanted: deque[PeerHandle] = deque()
        #: by number: when the last peer that had it was removed; its upcalls may still wait
        self._ended: dict[int, int] = {}
        #: what went wrong here and was survived, by kind
        self.faults: Counter[str] = Counter()

    # life

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        loop.add_reader(self._engine.upcall_fd(), self._upcalls_waiting)
        self._tick = loop.call_later(self._tick_s, self._on_tick)
        self.paths.start(loop)
        self._soon()
        self.drain()

    def stop(self) -> None:
        """Let go of the loop. The engine may be closed afterwards, not before."""
        if self._loop is None:
            return
        self._loop.remove_reader(self._engine.upcall_fd())
        self.paths.stop()
        for handle in (self._timer, self._tick, self._resume):
            if handle is not None:
                handle.cancel()
        self._timer = self._tick = self._resume = self._deadline = None
        self._loop = None
        self._congestion.close()

    def now(self) -> int:
        """ns of CLOCK_BOOTTIME, never less than before."""
        self._last_now = max(self._last_now, self._clock())
        return self._last_now

    # peers

    def add_peer(self, config: PeerConfig) -> PeerHandle:
        """ValueError: the node refuses it (duplicate, own or low-order key). OSError: no room."""
        number = self._engine.add_peer()
        workers = self._engine.chosen().workers
        try:
            handle = self._node.add_peer(
                config, self.now(), index_modulus=workers, index_residue=number % workers
            )
        except ValueError:
            self._engine.remove_peer(number)
            raise
        self._numbers[handle] = number
        self._handles[number] = handle
        self.known.configured(e.ip for e in config.endpoints)
        self.drain()
        return handle

    def update_peer(self, handle: PeerHandle, config: PeerConfig) -> None:
        """ValueError: the node refuses it."""
        before = self._node.configured_endpoints(handle)
        self._node.update_peer(handle, config, self.now())
        self.known.configured((e.ip for e in config.endpoints), (e.ip for e in before))
        self.drain()

    def set_endpoint(self, handle: PeerHandle, endpoint: Endpoint) -> None:
        self._node.set_endpoint(handle, endpoint, self.now())
        self.drain()

    def begin_anew(self) -> None:
        """End all sessions, and ask for new ones."""
        self._node.begin_anew(self.now())
        self.drain()

    def remove_peer(self, handle: PeerHandle) -> None:
        self.known.configured((), (e.ip for e in self._node.configured_endpoints(handle)))
        self._node.remove_peer(handle, self.now())
        self.drain()
        self._live.pop(handle, None)
        self._frames.forget(handle)
        self._told.pop(handle, None)
        self.paths.forget(handle)
        self.known.removed(handle)
        number = self._numbers.pop(handle)
        del self._handles[number]
        self._engine.remove_peer(number)
        self._ended[number] = self.now()

    def set_multipath(self, settings: MultipathSettings, mtu: int) -> None:
        """Other [multipath] settings, for every peer. `mtu`: the tunnel's, as configured."""
        self.multipath, self._mtu = settings, mtu
        self._set_paths()
        self.drain()
        self._frames.set_mtu(mtu)

    def _set_paths(self) -> None:
        """As the file has it; what it leaves to the host, as that is now."""
        self._bbr, settings = self._congestion.is_bbr(), self.multipath
        if settings.bbr is None:
            settings = replace(settings, bbr=self._bbr)
        self._managers.set_settings(settings, self._mtu, self.now())

    def want_handshake(self, handle: PeerHandle) -> None:
        """Ask for a session, as soon as those who asked before had their turn."""
        self._wanted.append(handle)
        self._soon()

    def follow(self, here: Here) -> None:
        if here.moved:
            self._announce()
        self.paths.set_links(here.links, here.port)

    def set_mapped(self, mapped: Sequence[tuple[str, Endpoint]]) -> None:
        """(interface, where its gateway maps our port); replaces the last list."""
        self._node.set_mapped(mapped, self.now())
        self.drain()

    def _announce(self) -> None:
        """Our addresses changed: let every peer with a session see the new one.

        Who only receives would else stay at the old address until a keepalive is due, up to 30 s.
        """
        for handle in self._live:
            self._engine.send_keepalive(self._numbers[handle])

    def number(self, handle: PeerHandle) -> int:
        """The engine's number of a peer."""
        return self._numbers[handle]

    def path_status(self, handle: PeerHandle) -> list[PathStatus]:
        return self.paths.status(handle)

    def multipath_counters(self, handle: PeerHandle) -> dict[str, int] | None:
        """PEER_FIELDS of the data plane; None: the peer does not speak multipath."""
        return self.paths.counters(handle)

    def pin_path(self, handle: PeerHandle, path: int, pin: Pin) -> None:
        """KeyError: no such path."""
        self.paths.pin(handle, path, pin)

    def pin_paths(
        self,
        handle: PeerHandle,
        pin: Pin,
        *,
        local: str | None = None,
        interface: str | None = None,
    ) -> None:
        """Of every path of an interface or a local IP, those to come too."""
        self.paths.pin_all(handle, pin, local=local, interface=interface)

    def stats(self, handle: PeerHandle) -> PeerStats:
        return self._engine.peer_stats(self._numbers[handle])

    # upcalls

    def _upcalls_waiting(self) -> None:
        try:
            os.read(self._engine.upcall_fd(), 8)
        except BlockingIOError:
            pass
        except OSError as e:
            self._fault("eventfd", e)
        if self._resume is None:
            self._turn()

    def _soon(self) -> None:
        if self._loop is not None and self._resume is None:
            self._resume = self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Handle some upcalls, then make some of the handshakes that are wanted.

        What remains waits until other descriptors were looked at.
        """
        self._resume = None
        if self._loop is None:
            return
        until = time.monotonic() + TURN_S
        count = 0
        for upcall in itertools.islice(self._engine.upcalls(), UPCALLS_PER_TURN):
            count += 1
            self._upcall(upcall)
            self._drain_outputs()
            if time.monotonic() > until:
                count = UPCALLS_PER_TURN
                break
        while self._wanted:
            try:
                self._node.want_handshake(self._wanted.popleft(), self.now())
            except Exception as e:  # see _upcall
                self._fault("handshake", e)
            self._drain_outputs()
            if time.monotonic() > until:
                break
        self._rearm()
        if count == UPCALLS_PER_TURN or self._wanted:
            self._soon()

    def _upcall(self, up: Upcall) -> None:
        self._last_now = now = max(self._last_now, up.now)
        if up.type is UpcallType.FATAL:
            self._on_fatal(up.reason)
            return
        try:
            if up.type is UpcallType.DATAGRAM:
                if up.remote is not None and self._node.receive_datagram(
                    up.data, Endpoint(*up.remote), to_endpoint(up.local), now, admitted=True
                ):
                    self._engine.genuine(up.reason)
                return
            handle = self._handles.get(up.peer) if up.peer is not None else None
            if handle is None or up.peer is None or up.now <= self._ended.get(up.peer, -1):
                return  # removed while the upcall waited; another may have its number now
            if up.type is UpcallType.NEED_HANDSHAKE:
                self._node.want_handshake(handle, now)
            elif up.type is UpcallType.CONFIRMED:
                self._node.keypair_confirmed(handle, up.index, now)
            elif up.type is UpcallType.ROAMED and up.remote is not None:
                self._node.endpoint_observed(
                    handle, Endpoint(*up.remote), to_endpoint(up.local), now
                )
            elif up.type is UpcallType.CONTROL:
                if up.remote is not None:
                    self._node.receive_control(
                        handle,
                        up.data,
                        now,
                        path=up.path,
                        remote=Endpoint(*up.remote),
                        local=to_endpoint(up.local),
                        datagram_bytes=up.datagram_bytes,
                    )
            elif up.type is UpcallType.PATH_MOVED and up.remote is not None:
                self._managers.path_moved(
                    handle, up.path, Endpoint(*up.remote), to_endpoint(up.local), now
                )
            elif up.type is UpcallType.PATH_SILENT:
                self._managers.path_silent(handle, up.path, now)
            elif up.type is UpcallType.BUSY:
                self.paths.wake(handle)
        except Exception as e:  # a fault on one message must not end every session
            self._fault(f"upcall {up.type.name.lower()}", e)

    # time

    def _on_tick(self) -> None:
        if self._loop is None:
            return
        self._tick = self._loop.call_later(self._tick_s, self._on_tick)
        slept = self._naps.look(self._clock(), self._awake())
        if slept:
            log.info("the host slept for %d s: peers are called again", slept // NS_PER_S)
            self._node.woke(self.now())
        self._renew_secret(self.now())
        if self._congestion.is_bbr() != self._bbr:
            self._set_paths()
        self._sample(tuple(self._live), self.now())
        self._advance()

    def _renew_secret(self, now: int) -> None:
        """Cookies are made of a secret that changes every two minutes (whitepaper 5.4.7)."""
        if not self._secret_set:
            self._secret_set = now  # the engine began with one of its own
        elif now - self._secret_set >= self._limits.cookie_secret_max_age:
            self._engine.set_cookie_secret(os.urandom(32))
            self._secret_set = now

    def _on_timer(self) -> None:
        self._timer = self._deadline = None
        self._advance()

    def _sample(self, handles: Iterable[PeerHandle], now: int) -> None:
        """Tell the core what the workers saw of these peers."""
        for handle in handles:
            told = self._live.get(handle)
            if told is None:
                continue
            number = self._numbers[handle]
            # Does nothing unless the upcall that said so was lost to a full ring.
            self._node.keypair_confirmed(handle, self._engine.current_index(number), now)
            self._compare_endpoint(handle, number, now)
            seen = self._engine.activity(number)
            if seen != told:
                self._live[handle] = seen
                self._node.activity(handle, Activity(*seen), now)

    def _compare_endpoint(self, handle: PeerHandle, number: int, now: int) -> None:
        """Upcalls tell of a roam ten times a second at most, and can be lost."""
        remote, local = self._engine.endpoint(number)
        if remote is None or self._told.get(handle) == (remote, local):
            return
        self._told[handle] = (remote, local)
        self._node.endpoint_observed(handle, Endpoint(*remote), to_endpoint(local), now)

    def _advance(self) -> None:
        """Tell the core what time it is.

        Fresh samples first: a timer computed from an old one may be due no longer. After a
        suspend the clock has jumped and asyncio's has not; the tick finds that out.
        """
        now = self.now()
        try:
            deadline = self._node.poll_timeout()
            if deadline is not None and deadline <= now:
                due = self._node.due_peers(now, DUE_PER_TURN)
                self._sample(due, now)
                self._node.handle_timeout(now, due)
        except Exception as e:  # see _upcall
            self._fault("timer", e)
        self.drain()

    def _rearm(self) -> None:
        if self._loop is None:
            return
        deadline = self._node.poll_timeout()
        if deadline == self._deadline and self._timer is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._deadline, self._timer = deadline, None
        if deadline is not None:
            # The floor keeps a deadline in the past from eating the loop.
            delay = max((deadline - self._clock()) / NS_PER_S, 0.001)
            # The tick looks again every second, so a far one needs no timer of its own.
            if delay <= 2 * self._tick_s:
                self._timer = self._loop.call_later(delay, self._on_timer)
            else:
                self._deadline = None

    # outputs

    def drain(self) -> None:
        """Carry out all that the core wants, and set the timer."""
        self._drain_outputs()
        self._rearm()

    def _drain_outputs(self) -> None:
        """Events before messages: keys are in place before the peer hears that it may use them."""
        while True:
            event = self._node.poll_event()
            if event is not None:
                self._event(event)
                continue
            transmit = self._node.poll_transmit()
            if transmit is None:
                return
            self._transmit(transmit)

    def _event(self, event: Event) -> None:
        if not event.peer:
            self._on_event(event)
            return
        number = self._numbers.get(event.peer)
        if number is None:
            return
        try:
            self._apply(event, number)
        except Exception as e:  # see _upcall
            self._fault(type(event).__name__, e)
        try:
            self._on_event(event)
        except Exception as e:  # bookkeeping must not stop the session
            self._fault(f"{type(event).__name__} hook", e)

    def _apply(self, event: Event, number: int) -> None:
        if isinstance(event, EndpointChanged | PeerSeen):
            self.known.observed(event.peer, event.remote.ip)
        match event:
            case KeypairReady():
                self._install(event, number)
            case KeypairsExpired():
                self._live.pop(event.peer, None)
                self._engine.clear_keypairs(number)
            case SendKeepalive():
                self._engine.send_keepalive(number)
            case EndpointChanged():
                stats = self._engine.peer_stats(number)
                at = to_addr(event.remote), to_addr(event.local)
                if event.ifindex or (stats.endpoint, stats.local) != at:
                    self._engine.set_endpoint(number, Addr(*event.remote), at[1], event.ifindex)
                self._frames.moved(event.peer)
            case PeerSeen():
                self._frames.moved(event.peer)
            case HandshakeGaveUp():
                self._engine.drop_staged(number)
            case SendControl():
                self._engine.send_control(number, event.frame)
            case ExtendedModeChanged():
                self._frames.changed(number, event)
            case MultipathStarted():
                self.paths.prepare(event.peer, number, event.reset)
            case PathAction():
                self.paths.apply(event.peer, number, event.action)
            case _:
                pass

    def _install(self, event: KeypairReady, number: int) -> None:
        limits = self._limits
        try:
            self._engine.install_keypair(
                number,
                local_index=event.local_index,
                remote_index=event.remote_index,
                send_key=event.send_key,
                receive_key=event.receive_key,
                initiator=event.initiator,
                created=event.created,
                rekey_after=limits.rekey_after_time,
                reject_after=limits.reject_after_time,
                rekey_after_messages=limits.rekey_after_messages,
                reject_after_messages=limits.reject_after_messages,
                held=event.held,
            )
        finally:
            for key in (event.send_key, event.receive_key):
                key[:] = bytes(len(key))
        self._live.setdefault(event.peer, (0, 0, 0, 0))

    def _transmit(self, transmit: Transmit) -> None:
        """The kernel may refuse (ENETUNREACH, EPERM of a firewall, ENOBUFS): timers try again."""
        remote = Addr(*transmit.remote)
        try:
            if self._engine.send(transmit.data, remote, to_addr(transmit.local), transmit.ifindex):
                return
            # The local address may be gone: let the routing table choose.
            by_table = transmit.local is not None and not transmit.ifindex
            if by_table and self._engine.send(transmit.data, remote, None):
                return
            self.faults["send"] += 1
        except OSError as e:
            self._fault("send", e)

    def _fault(self, what: str, error: Exception) -> None:
        self.faults[what] += 1
        if isinstance(error, OSError) and error.errno in (
            errno.ENOBUFS,
            errno.EPERM,
            errno.ENETUNREACH,
            errno.EHOSTUNREACH,
        ):
            return
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = (
            f"{os.path.basename(place.tb_frame.f_code.co_filename)}:{place.tb_lineno}"
            if place is not None
            else "?"
        )
        log.error("%s: %s: %s (%s)", what, type(error).__name__, error, where)
