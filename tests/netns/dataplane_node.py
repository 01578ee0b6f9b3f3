"""Engines driven directly, without agent or handshake: fixed keys, namespaces that the lab made.

Used inside a process of its own (`dataplane_scenarios.py`), so that a crash of the data plane is
one failed test. WS_TEST_LIB names another build of the extension (under sanitizers).
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import ipaddress
import itertools
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final


def _load_library(path: str) -> None:
    """Put the extension at `path` in the place of the one in the tree."""
    spec = importlib.util.spec_from_file_location("whalescale.dataplane._lib", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)


if "WS_TEST_LIB" in os.environ:
    _load_library(os.environ["WS_TEST_LIB"])

from whalescale.dataplane.engine import (  # noqa: E402
    Addr,
    Backend,
    Cipher,
    Drop,
    Engine,
    Offload,
    Upcall,
    UpcallType,
    now,
)
from whalescale.runtime.tun import open_tun  # noqa: E402

SECOND: Final = 10**9
CLONE_NEWNET: Final = 0x40000000
MTU: Final = 1420
_libc = ctypes.CDLL(None, use_errno=True)
_indices = itertools.count(1)

__all__ = ["Addr", "UpcallType", "now"]  # of the engine that is under test


def _setns(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def wait_for(what: str, true: Callable[[], Any], timeout: float = 5.0) -> Any:
    deadline = time.monotonic() + timeout
    while not (value := true()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:g} s in vain for {what}")
        time.sleep(0.01)
    return value


class Netns:
    """A namespace to open sockets in; its addresses on the link to the other one, by family."""

    def __init__(self, name: str, outside: dict[str, str]) -> None:
        self.name = name
        self.outside = {int(family): address for family, address in outside.items()}
        self.fd = os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)
        self.home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """This thread is in the namespace; what it opens stays there."""
        _setns(self.fd)
        try:
            yield
        finally:
            _setns(self.home)

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        with self.entered():
            return socket.socket(family, kind, protocol)

    def run(self, line: str, check: bool = True) -> bool:
        env = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
        with self.entered():
            done = subprocess.run(
                line.split(), check=False, env=env, capture_output=True, text=True, timeout=20
            )
        if check and done.returncode:
            raise OSError(f"{line}: {done.stderr.strip()}")
        return done.returncode == 0

    def output(self, line: str) -> str:
        env = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
        with self.entered():
            return subprocess.run(
                line.split(), check=True, env=env, capture_output=True, text=True, timeout=20
            ).stdout


Hosts = tuple[Netns, Netns]


@dataclass(frozen=True)
class Options:
    """How an engine is built."""

    backend: Backend = Backend.AUTO
    cipher: Cipher = Cipher.AUTO
    off: Offload = Offload.NONE
    workers: int = 1
    #: Packets go as data frames, as between two Whalescale nodes that agreed on it.
    frames: bool = False
    #: 0: workers sleep as soon as nothing is left to do
    busy_poll_us: int = 0

    @staticmethod
    def parse(given: dict[str, Any]) -> Options:
        off = Offload.NONE
        for name in given.get("off", ()):
            off |= Offload[name]
        return Options(
            Backend[given.get("backend", "AUTO")],
            Cipher[given.get("cipher", "AUTO")],
            off,
            given.get("workers", 1),
            given.get("frames", False),
            given.get("busy_poll_us", 0),
        )


class Node:
    """An engine with its TUN device and one UDP socket, started."""

    def __init__(
        self, netns: Netns, options: Options, *, device: str = "ws0", port: int = 51820
    ) -> None:
        self.netns, self.options, self.device, self.port = netns, options, device, port
        off = options.off
        with netns.entered():
            self.engine = Engine(
                public_key=bytes(32),
                mtu=MTU,
                workers=options.workers,
                backend=options.backend,
                cipher=options.cipher,
                offloads_off=off,
                busy_poll_us=options.busy_poll_us,
            )
            tun = open_tun(
                device,
                queues=options.workers,
                tso=not off & Offload.TUN_TSO,
                uso=not off & Offload.TUN_USO,
            )
        self.tun_fds = tun.fds
        for worker, fd in enumerate(tun.fds):
            self.engine.set_tun(worker, fd)
        netns.run(f"ip link set {device} mtu {MTU} up")
        self.socket = self.open_socket()
        self.socket6 = self.open_socket("::")
        self.engine.start()

    def open_socket(self, ip: str = "0.0.0.0", port: int | None = None) -> int:  # noqa: S104
        with self.netns.entered():
            return self.engine.open_socket(Addr(ip, self.port if port is None else port))[0]

    def outside(self, family: int = 4) -> Addr:
        return Addr(self.netns.outside[family], self.port)

    def total(self, counter: str) -> int:
        """A counter summed over the workers."""
        stats = (self.engine.worker_stats(w) for w in range(self.options.workers))
        return sum(getattr(s, counter) for s in stats)

    def drops(self) -> dict[str, int]:
        """What was dropped, by reason, but for packets to nobody (the kernel's own multicasts)."""
        stats = [self.engine.worker_stats(w) for w in range(self.options.workers)]
        found = {reason.name: sum(s.drops[reason] for s in stats) for reason in Drop}
        return {k: n for k, n in found.items() if n and k != "NO_PEER"}

    def upcalls(self) -> list[Upcall]:
        with contextlib.suppress(BlockingIOError):
            os.read(self.engine.upcall_fd(), 8)
        return list(self.engine.upcalls())

    def close(self) -> None:
        self.engine.close()


@dataclass
class End:
    """One side of a tunnel: a node and its number for the peer on the other side."""

    node: Node
    inside: dict[int, str]
    peer: int = -1


@dataclass
class Tunnel:
    """A session between two nodes: 10.77.N.1 and fd77:N::1 in the first, ....2 in the second."""

    first: Node
    second: Node
    number: int = 0
    outer: int = 4
    a: End = field(init=False)
    b: End = field(init=False)

    def __post_init__(self) -> None:
        ends = []
        for part, node in ((1, self.first), (2, self.second)):
            inside = {4: f"10.77.{self.number}.{part}", 6: f"fd77:{self.number:x}::{part}"}
            node.netns.run(f"ip addr add {inside[4]}/24 dev {node.device}")
            node.netns.run(f"ip addr add {inside[6]}/64 dev {node.device} nodad")
            ends.append(End(node, inside))
        self.a, self.b = ends
        # There is no handshake here that would wait until the neighbour is found.
        outside = self.second.netns.outside[self.outer]
        self.first.netns.run(f"ping -n -q -c 1 -w 15 {outside}")
        self.add_peer(self.a, self.b)
        self.add_peer(self.b, self.a)
        self.rotate()

    def networks(self) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
        return [
            ipaddress.IPv4Network(f"10.77.{self.number}.0/24"),
            ipaddress.IPv6Network(f"fd77:{self.number:x}::/64"),
        ]

    def add_peer(self, end: End, other: End) -> None:
        engine = end.node.engine
        end.peer = engine.add_peer()
        engine.set_allowed_ips(end.peer, self.networks())
        engine.set_endpoint(end.peer, other.node.outside(self.outer))
        if end.node.options.frames:
            # Over IPv6 outside the frame header does not fit beside a full packet.
            longest = 0 if self.outer == 4 else MTU - 8
            engine.set_frames(end.peer, True, longest, bundles=True)

    def remove_peer(self, end: End) -> None:
        end.node.engine.remove_peer(end.peer)

    def rotate(self, initiator: End | None = None, *, held: bool = False) -> None:
        """New keys as a handshake would bring them, the responder first, and the confirmation.

        `held`: the initiator keeps packets back while it has them.
        """
        initiator = initiator or self.a
        responder = self.b if initiator is self.a else self.a
        # A receiver index tells the worker that owns the session.
        indices = {
            id(end): next(_indices) * end.node.options.workers + end.peer % end.node.options.workers
            for end in (initiator, responder)
        }
        keys = [os.urandom(32), os.urandom(32)]
        for end, other in ((responder, initiator), (initiator, responder)):
            send, receive = keys if end is initiator else reversed(keys)
            end.node.engine.install_keypair(
                end.peer,
                local_index=indices[id(end)],
                remote_index=indices[id(other)],
                send_key=bytearray(send),
                receive_key=bytearray(receive),
                initiator=end is initiator,
                created=now(),
                rekey_after=10**6 * SECOND,
                reject_after=10**6 * SECOND,
                rekey_after_messages=2**60,
                reject_after_messages=2**63,
                held=held and end is initiator,
            )
        if not initiator.node.engine.send_keepalive(initiator.peer):
            raise OSError("the initiator has no usable key after installing one")
        wait_for(
            "the responder's confirmation",
            lambda: (
                responder.node.engine.peer_stats(responder.peer).current_index
                == indices[id(responder)]
            ),
        )


def check_clean(*nodes: Node) -> None:
    """No packet was dropped and none refused."""
    for node in nodes:
        drops = node.drops()
        if drops:
            raise AssertionError(f"{node.netns.name} {node.device} dropped {drops}")


def no_upcall_but(node: Node, *expected: UpcallType) -> None:
    for upcall in node.upcalls():
        if upcall.type not in expected:
            raise AssertionError(f"{node.netns.name}: unexpected {upcall}")


def two_nodes(hosts: Hosts, first: Options, second: Options | None = None) -> tuple[Node, Node]:
    return Node(hosts[0], first), Node(hosts[1], second or first)


def hub(hosts: Hosts, options: Options) -> tuple[Node, Node, Node, list[Tunnel]]:
    """Four peers on one engine, two each on two others."""
    a = Node(hosts[0], options)
    b = Node(hosts[1], options)
    c = Node(hosts[1], Options(workers=1), device="ws1", port=51821)
    tunnels = [Tunnel(a, node, number) for number, node in enumerate((b, b, c, c))]
    return a, b, c, tunnels
