"""The data plane as Python sees it: the sole importer of the compiled `_lib`.

Calls that change state return once the owning worker has carried them out.
Failures raise OSError with the errno of the C side.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Any, Final, NamedTuple

from whalescale.dataplane import _lib

ffi: Any = _lib.ffi
lib: Any = _lib.lib

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Backend(IntEnum):
    AUTO = 0
    MMSG = 1
    URING = 2


class Cipher(IntEnum):
    AUTO = 0
    IPSEC_MB = 1
    OPENSSL = 2


class Offload(IntFlag):
    """Switches: a bit set turns the offload off."""

    NONE = 0
    TUN_TSO = 1
    TUN_GRO = 2
    UDP_GSO = 4
    UDP_GRO = 8
    TUN_USO = 16


class Drop(IntEnum):
    """Why a datagram or packet was dropped (enum ws_drop)."""

    SHORT = 0
    TYPE = 1
    LENGTH = 2
    MAC1 = 3
    NO_KEY = 4
    EXPIRED = 5
    AUTH = 6
    REPLAY = 7
    MALFORMED = 8
    SOURCE = 9
    ECN = 10
    UPCALL_FULL = 11
    NO_PEER = 12
    NO_ENDPOINT = 13
    STAGE_FULL = 14
    SEND = 15
    TUN_WRITE = 16
    TUN_MALFORMED = 17
    HANDOFF_FULL = 18
    FRAME = 19
    CONTROL_RATE = 20
    PATH = 21
    TUNNEL = 22
    INSIDE = 23
    LOOP = 24
    STRANGERS_FULL = 25
    ASKED = 26
    LOAD = 27
    UNASKED = 28
    BOOTSTRAP = 29
    DESTINATION = 30
    RELAY_SOURCE = 31
    RELAY_RATE = 32


class UpcallType(IntEnum):
    DATAGRAM = 1
    NEED_HANDSHAKE = 2
    CONFIRMED = 3
    ROAMED = 4
    CONTROL = 5
    FATAL = 6
    PATH_MOVED = 7
    PATH_SILENT = 8
    BUSY = 9


class Addr(NamedTuple):
    """A UDP endpoint or local address: canonical numeric text, port, IPv6 zone index."""

    ip: str
    port: int
    scope_id: int = 0


@dataclass(frozen=True, slots=True)
class Upcall:
    type: UpcallType
    peer: int | None
    index: int
    reason: int
    now: int
    remote: Addr | None
    local: Addr | None
    data: bytes
    #: the peer's number of the path it came by (CONTROL, PATH_MOVED), ours (PATH_SILENT)
    path: int = 0
    #: UDP payload that a control frame came in
    datagram_bytes: int = 0


@dataclass(frozen=True, slots=True)
class WorkerStats:
    tx_packets: int
    tx_bytes: int
    rx_packets: int
    rx_bytes: int
    tx_batches: int
    rx_batches: int
    tun_reads: int
    tun_writes: int
    keepalives_tx: int
    keepalives_rx: int
    handshake_rx: int
    control_rx: int
    turns: int
    foreign_rx: int
    foreign_tx: int
    cookies_tx: int
    relayed: int
    relayed_bytes: int
    drops: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PeerStats:
    """One peer's figures; times are ns of CLOCK_BOOTTIME, 0 means never."""

    tx_packets: int
    tx_bytes: int
    rx_packets: int
    rx_bytes: int
    last_sent: int
    last_received: int
    unsent_since: int
    unanswered_since: int
    tx_counter: int
    current_index: int
    next_index: int
    previous_index: int
    staged: int
    wrong_sources: int
    endpoint: Addr | None
    local: Addr | None


@dataclass(frozen=True, slots=True)
class Chosen:
    """What the engine took after its self-tests."""

    backend: Backend
    cipher: Cipher
    offloads_off: Offload
    workers: int


_WORKER_FIELDS: Final = tuple(f for f in WorkerStats.__slots__ if f != "drops")


def now() -> int:
    """ns of CLOCK_BOOTTIME, the clock of everything here."""
    return int(lib.ws_now_ns())


def check(result: int, what: str) -> int:
    if result < 0:
        raise OSError(-result, f"{what}: {os.strerror(-result)}")
    return result


def fill_addr(c: Any, addr: Addr | None) -> None:
    if addr is None:
        c.family = 0
        return
    c.family = 6 if ":" in addr.ip else 4
    raw = socket.inet_pton(socket.AF_INET6 if c.family == 6 else socket.AF_INET, addr.ip)
    ffi.memmove(c.ip, raw, len(raw))
    c.port = addr.port
    c.scope_id = addr.scope_id


def c_addr(addr: Addr | None) -> Any:
    c = ffi.new("struct ws_addr *")
    fill_addr(c, addr)
    return c


def c_prefixes(networks: Sequence[Network]) -> Any:
    array = ffi.new("struct ws_prefix[]", max(len(networks), 1))
    for c, network in zip(array, networks, strict=False):
        c.family = network.version
        c.cidr = network.prefixlen
        raw = network.network_address.packed
        ffi.memmove(c.ip, raw, len(raw))
    return array


def py_addr(c: Any) -> Addr | None:
    if c.family == 4:
        return Addr(socket.inet_ntop(socket.AF_INET, bytes(c.ip[0:4])), c.port, c.scope_id)
    if c.family == 6:
        return Addr(socket.inet_ntop(socket.AF_INET6, bytes(c.ip)), c.port, c.scope_id)
    return None


class Engine:
    """Owner of the worker threads, TUN queues, UDP sockets and transport keys."""

    def __init__(
        self,
        *,
        public_key: bytes,
        mtu: int,
        bootstrap_key: bytes = bytes(32),
        workers: int = 1,
        backend: Backend = Backend.AUTO,
        cipher: Cipher = Cipher.AUTO,
        offloads_off: Offload = Offload.NONE,
        fwmark: int = 0,
        pin_cpus: bool = False,
        busy_poll_us: int = 0,
    ) -> None:
        config = ffi.new("struct ws_config *")
        config.workers = workers
        config.backend = int(backend)
        config.cipher = int(cipher)
        config.offloads_off = int(offloads_off)
        config.fwmark = fwmark
        config.mtu = mtu
        config.pin_cpus = int(pin_cpus)
        config.busy_poll_us = busy_poll_us
        config.public_key = public_key
        config.bootstrap_key = bootstrap_key
        error = ffi.new("char[256]")
        engine = lib.ws_engine_new(config, error, 256)
        if engine == ffi.NULL:
            raise OSError(ffi.string(error).decode(errors="replace"))
        self._engine: Any = engine
        #: of the TUN device, bytes
        self.mtu = mtu
        self._stats = [lib.ws_engine_stats(engine, w) for w in range(workers)]
        self._upcall = ffi.new("struct ws_upcall *")
        self._read = ffi.new("struct ws_addr *"), ffi.new("struct ws_addr *")

    def set_tun(self, worker: int, fd: int) -> None:
        """Give one TUN queue (vnet header on) to a worker; the engine owns `fd` from here on."""
        check(lib.ws_engine_set_tun(self._engine, worker, fd), "TUN queue")

    def start(self) -> None:
        check(lib.ws_engine_start(self._engine), "start of the data plane")

    def close(self) -> None:
        """Stop the workers, zero the keys, close descriptors. Idempotent."""
        if self._engine is not None:
            lib.ws_engine_free(self._engine)
            self._engine = None
            self._stats.clear()

    def chosen(self) -> Chosen:
        c = ffi.new("struct ws_chosen *")
        lib.ws_engine_chosen(self._engine, c)
        return Chosen(Backend(c.backend), Cipher(c.cipher), Offload(c.offloads_off), c.workers)

    def worker_stats(self, worker: int) -> WorkerStats:
        c = self._stats[worker]
        return WorkerStats(**{f: getattr(c, f) for f in _WORKER_FIELDS}, drops=tuple(c.drops))

    # sockets

    def open_socket(self, local: Addr, ifindex: int = 0) -> tuple[int, Addr]:
        """Open a UDP socket on `local` ("0.0.0.0" or "::": wildcard); port 0: the kernel chooses.

        Returns its number and bound address. EADDRINUSE: the port is taken.
        """
        bound = ffi.new("struct ws_addr *")
        number = check(
            lib.ws_socket_open(self._engine, c_addr(local), ifindex, bound),
            f"UDP port {local.port}",
        )
        got = py_addr(bound)
        assert got is not None
        return number, got

    def close_socket(self, number: int) -> None:
        check(lib.ws_socket_close(self._engine, number), "UDP socket")

    @property
    def handle(self) -> Any:
        """The C engine, for the other modules of this package. OSError: it is closed."""
        if self._engine is None:
            raise OSError(errno.EBADF, "the engine is closed")
        return self._engine

    def set_fwmark(self, fwmark: int) -> None:
        check(lib.ws_set_fwmark(self._engine, fwmark), "fwmark")

    def set_mtu(self, mtu: int) -> None:
        check(lib.ws_set_mtu(self._engine, mtu), "MTU")
        self.mtu = mtu

    def beat(self) -> None:
        """Returns when every worker has come round; one that is stuck keeps the caller waiting."""
        lib.ws_engine_beat(self._engine)

    # what is inside tunnels

    def follow_tun(self) -> None:
        """Interfaces changed: look again which of them is the TUN device. Does nothing without."""
        lib.ws_engine_follow_tun(self._engine)

    def set_inside(self, inside: Sequence[Network], outside: Sequence[Network]) -> None:
        """Datagrams from `inside` are dropped, but for those from `outside`; the longest counts."""
        check(
            lib.ws_engine_set_inside(
                self._engine, c_prefixes(inside), len(inside), c_prefixes(outside), len(outside)
            ),
            "networks inside tunnels",
        )

    # peers

    def add_peer(self) -> int:
        return check(lib.ws_peer_add(self._engine), "new peer")

    def remove_peer(self, peer: int) -> None:
        check(lib.ws_peer_remove(self._engine, peer), "peer")

    def set_allowed_ips(self, peer: int, networks: Sequence[Network]) -> None:
        """Replace the peer's allowed IPs; a network held by another peer moves over."""
        array = c_prefixes(networks)
        check(lib.ws_peer_set_allowed_ips(self._engine, peer, array, len(networks)), "allowed IPs")

    def set_endpoint(
        self, peer: int, remote: Addr | None, local: Addr | None = None, ifindex: int = 0
    ) -> None:
        """`ifindex`: leave by this interface, 0: as the routing table says."""
        check(
            lib.ws_peer_set_endpoint(self._engine, peer, c_addr(remote), c_addr(local), ifindex),
            "endpoint",
        )

    def install_keypair(
        self,
        peer: int,
        *,
        local_index: int,
        remote_index: int,
        send_key: bytearray,
        receive_key: bytearray,
        initiator: bool,
        created: int,
        rekey_after: int,
        reject_after: int,
        rekey_after_messages: int,
        reject_after_messages: int,
        held: bool = False,
    ) -> None:
        """Install transport keys (durations in ns). Both key buffers are zeroed on return.

        `held`: control frames are sent with them, packets wait for other keys.
        """
        c = ffi.new("struct ws_keypair *")
        try:
            c.local_index, c.remote_index = local_index, remote_index
            ffi.memmove(c.send_key, send_key, 32)
            ffi.memmove(c.receive_key, receive_key, 32)
            c.created_ns = created
            c.rekey_after_ns, c.reject_after_ns = rekey_after, reject_after
            c.rekey_after_messages = rekey_after_messages
            c.reject_after_messages = reject_after_messages
            c.initiator, c.held = int(initiator), int(held)
            check(lib.ws_peer_install_keypair(self._engine, peer, c), "keypair")
        finally:
            ffi.memmove(c, bytes(ffi.sizeof("struct ws_keypair")), ffi.sizeof("struct ws_keypair"))
            send_key[:] = bytes(len(send_key))
            receive_key[:] = bytes(len(receive_key))

    def clear_keypairs(self, peer: int) -> None:
        check(lib.ws_peer_clear_keypairs(self._engine, peer), "keypairs")

    def drop_staged(self, peer: int) -> int:
        return check(lib.ws_peer_drop_staged(self._engine, peer), "staged packets")

    def send_keepalive(self, peer: int) -> bool:
        """False when there is no usable current keypair."""
        return int(lib.ws_peer_send_keepalive(self._engine, peer)) == 0

    def send_control(self, peer: int, frame: bytes) -> bool:
        """Send a control frame inside the session (docs/multipath.md). False: no usable key."""
        return int(lib.ws_peer_send_control(self._engine, peer, frame, len(frame))) == 0

    def set_frames(self, peer: int, on: bool, max_packet: int, *, bundles: bool) -> None:
        """Extended mode on or off; inner packets longer than `max_packet` bytes stay plain.

        `bundles`: small packets cut from one super-packet share a frame.
        """
        mode = lib.WS_FRAMES_BUNDLES if bundles else lib.WS_FRAMES_SINGLE
        check(
            lib.ws_peer_set_frames(
                self._engine, peer, mode if on else lib.WS_FRAMES_OFF, max_packet
            ),
            "frames",
        )

    def _seen(self, peer: int) -> Any:
        """What the worker writes down of a peer. Not kept: there may be ten thousand."""
        found = ffi.NULL if self._engine is None else lib.ws_peer_stats(self._engine, peer)
        if found == ffi.NULL:
            raise KeyError(peer)
        return found

    def peer_stats(self, peer: int) -> PeerStats:
        """Read from shared memory, no call into the worker. KeyError: no such peer."""
        c = self._seen(peer)
        return PeerStats(
            c.tx_packets,
            c.tx_bytes,
            c.rx_packets,
            c.rx_bytes,
            c.last_sent_ns,
            c.last_received_ns,
            c.unsent_since_ns,
            c.unanswered_since_ns,
            c.tx_counter,
            c.current_index,
            c.next_index,
            c.previous_index,
            c.staged,
            c.wrong_sources,
            *self.endpoint(peer),
        )

    def activity(self, peer: int) -> tuple[int, int, int, int]:
        """(last_sent, last_received, unsent_since, unanswered_since), ns; cheap."""
        c = self._seen(peer)
        return c.last_sent_ns, c.last_received_ns, c.unsent_since_ns, c.unanswered_since_ns

    def endpoint(self, peer: int) -> tuple[Addr | None, Addr | None]:
        """(remote, local) of the peer as the worker knows them, both of one moment."""
        remote, local = self._read
        lib.ws_peer_endpoint(self._seen(peer), remote, local)
        return py_addr(remote), py_addr(local)

    def current_index(self, peer: int) -> int:
        """Receiver index of the keypair in use, 0 without one; cheap."""
        return int(self._seen(peer).current_index)

    def use_programs(self, handle: Any) -> None:
        """Steer with these eBPF programs (`Programs.handle`); None: no longer."""
        lib.ws_engine_use_bpf(self._engine, ffi.NULL if handle is None else handle)

    # messages

    def send(self, data: bytes, remote: Addr, local: Addr | None = None, ifindex: int = 0) -> bool:
        """Send a handshake or bootstrap message. False: the kernel refused it (counted).

        `ifindex`: leave by this interface, 0: as the routing table says.
        """
        result = lib.ws_send(self._engine, c_addr(remote), c_addr(local), ifindex, data, len(data))
        return int(result) == 0

    def set_cookie_secret(self, secret: bytes) -> None:
        """32 random bytes that cookies are made of; those of the secret before stay valid."""
        lib.ws_set_cookie_secret(self._engine, secret)

    def know(self, ip: str) -> None:
        """An address of a peer: its initiations are no stranger's."""
        lib.ws_know(self._engine, c_addr(Addr(ip, 0)))

    def forget(self, ip: str) -> None:
        lib.ws_forget(self._engine, c_addr(Addr(ip, 0)))

    def genuine(self, source_class: int) -> None:
        """An initiation (`Upcall.reason`) proved to be a peer's: it was no part of a flood."""
        lib.ws_genuine(self._engine, source_class)

    def upcall_fd(self) -> int:
        """An eventfd to watch for reading; read it, then exhaust `upcalls()`."""
        return int(lib.ws_upcall_fd(self._engine))

    def upcalls(self) -> Iterator[Upcall]:
        """Drain what the workers reported."""
        up = self._upcall
        while self._engine is not None and lib.ws_upcall_next(self._engine, up):
            yield Upcall(
                UpcallType(up.type),
                up.peer if up.peer >= 0 else None,
                up.index,
                up.reason,
                up.now_ns,
                py_addr(up.remote),
                py_addr(up.local),
                bytes(ffi.buffer(up.data, up.len)),
                up.path,
                up.datagram_bytes,
            )
