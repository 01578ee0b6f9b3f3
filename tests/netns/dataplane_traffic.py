"""Traffic through a tunnel, every byte checked; sockets of both namespaces in one process."""

from __future__ import annotations

import functools
import hashlib
import random
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from tests.netns.dataplane_node import MTU, End, Tunnel

UDP_SEGMENT: Final = 103
# <asm-generic/socket.h>: beyond the limits that sysctl sets, for root
SO_SNDBUFFORCE: Final = 32
SO_RCVBUFFORCE: Final = 33
MAX_UDP: Final = {4: 65507, 6: 65527}
HEADERS: Final = {4: 20, 6: 40}
#: Unacknowledged at once: far below what the sockets and the TUN device's queue of 500 can hold.
WINDOW_BYTES: Final = 192 << 10
WINDOW_DATAGRAMS: Final = 128
QUIET_S: Final = 5.0


@functools.cache
def noise() -> bytes:
    """Bytes that repeat nowhere, the same in every run."""
    return random.Random(3).randbytes(1 << 18)  # noqa: S311 (a pattern, no secret)


def payload(number: int, size: int) -> bytes:
    at = number * 769 % (len(noise()) - 65536)
    return noise()[at : at + size]


def in_threads(jobs: Sequence[Callable[[], None]], timeout: float = 60.0) -> None:
    """Run them side by side; the first failure is raised."""
    failures: list[BaseException] = []

    def guarded(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:  # handed to the caller
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(job,), daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + timeout
    while any(thread.is_alive() for thread in threads):
        if failures:
            raise failures[0]
        if time.monotonic() > deadline:
            raise TimeoutError(f"traffic still runs after {timeout:g} s")
        time.sleep(0.01)
    if failures:
        raise failures[0]


# TCP


def connect(
    tunnel: Tunnel, family: int = 4, prepare: Callable[[socket.socket], None] | None = None
) -> tuple[socket.socket, socket.socket]:
    """A TCP connection from end a to end b. `prepare`: socket options before it begins."""
    af = socket.AF_INET if family == 4 else socket.AF_INET6
    with tunnel.second.netns.socket(af, socket.SOCK_STREAM) as listener:
        client = tunnel.first.netns.socket(af, socket.SOCK_STREAM)
        for sock in (listener, client):
            sock.settimeout(10)
            if prepare:
                prepare(sock)
        listener.bind((tunnel.b.inside[family], 0))
        listener.listen(1)
        client.connect((tunnel.b.inside[family], listener.getsockname()[1]))
        server, _ = listener.accept()
    server.settimeout(10)
    return client, server


def _send(sock: socket.socket, data: bytes, pieces: Iterable[int]) -> None:
    view, at = memoryview(data), 0
    for size in pieces:
        if at >= len(data):
            break
        sock.sendall(view[at : at + size])
        at += size
    if at < len(data):
        sock.sendall(view[at:])
    sock.shutdown(socket.SHUT_WR)


def _receive(sock: socket.socket, expected: str) -> None:
    digest, size, buffer = hashlib.sha256(), 0, bytearray(1 << 18)
    while got := sock.recv_into(buffer):
        digest.update(memoryview(buffer)[:got])
        size += got
    if digest.hexdigest() != expected:
        raise AssertionError(f"a transfer's SHA-256 differs ({size} bytes came)")


def transfer(
    tunnel: Tunnel,
    size: int,
    family: int = 4,
    *,
    prepare: Callable[[socket.socket], None] | None = None,
    pieces: Callable[[], Iterable[int]] = tuple,
) -> None:
    """`size` bytes over one TCP connection in both directions at once, compared by SHA-256."""
    rng = random.Random(size)  # noqa: S311
    there, back = rng.randbytes(size), rng.randbytes(size)
    client, server = connect(tunnel, family, prepare)
    with client, server:
        in_threads(
            [
                lambda: _send(client, there, pieces()),
                lambda: _send(server, back, pieces()),
                lambda: _receive(server, hashlib.sha256(there).hexdigest()),
                lambda: _receive(client, hashlib.sha256(back).hexdigest()),
            ]
        )


def write_sizes(tunnel: Tunnel, sizes: Iterable[int], family: int = 4) -> None:
    """One TCP write of each size on its own, acknowledged before the next: a super-packet each."""

    def prepare(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 1 << 20)
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 << 20)

    client, server = connect(tunnel, family, prepare)
    buffer = bytearray(1 << 17)
    with client, server:
        for number, size in enumerate(sizes):
            data = payload(number, size)
            client.sendall(data)
            at = 0
            while at < size:
                got = server.recv_into(memoryview(buffer)[at:])
                if not got:
                    raise AssertionError(f"write of {size} bytes: the connection ended")
                at += got
            if at != size or buffer[:size] != data:
                raise AssertionError(f"write of {size} bytes: other bytes came")


# UDP


def udp_pair(
    tunnel: Tunnel, family: int, source: End | None = None
) -> tuple[socket.socket, socket.socket]:
    """Connected UDP sockets, the sender's (end a's, unless told) first."""
    source = source or tunnel.a
    target = tunnel.b if source is tunnel.a else tunnel.a
    af = socket.AF_INET if family == 4 else socket.AF_INET6
    sender = source.node.netns.socket(af, socket.SOCK_DGRAM)
    receiver = target.node.netns.socket(af, socket.SOCK_DGRAM)
    sender.bind((source.inside[family], 0))
    receiver.bind((target.inside[family], 0))
    sender.connect(receiver.getsockname()[:2])
    receiver.connect(sender.getsockname()[:2])
    for sock in (sender, receiver):
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        sock.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 4 << 20)
    receiver.setblocking(False)
    return sender, receiver


def interesting_sizes(family: int) -> list[int]:
    """1..3000, around each multiple of what one packet and one fragment hold, and the maxima."""
    sizes = set(range(1, 3001))
    most = MAX_UDP[family]
    # A fragment's payload is a multiple of eight; IPv6 has a fragment header.
    fragment = (MTU - HEADERS[family] - (0 if family == 4 else 8)) & ~7
    for unit, before in ((fragment, 8), (MTU - HEADERS[family] - 8, 0), (MTU, 0)):
        for edge in range(unit, most + unit, unit):
            sizes.update(range(edge - before - 2, edge - before + 3))
    for edge in (1 << 15, 1 << 16, 65507, 65527, most):
        sizes.update(range(edge - 3, edge + 4))
    return sorted(size for size in sizes if 0 < size <= most)


def segment_runs(family: int) -> Iterator[tuple[int, int]]:
    """(stride, total) of UDP_SEGMENT sends: small, odd, usual and full strides."""
    full = MTU - HEADERS[family] - 8
    for stride in (1, 2, 3, 15, 64, 101, 333, 512, 777, 1024, 1200, full - 1, full):
        for count in range(1, 65):
            for total in (stride * count + 1, stride * count + stride - 1, stride * (count + 1)):
                if stride < total <= min(64 * stride, MAX_UDP[4]):
                    yield stride, total


class Flight:
    """Sends through a window and checks each datagram that arrives, and their order.

    `ordered` false: fragments have no ports, so that several queues take them another way than
    whole packets of the same flow.
    """

    def __init__(
        self, sender: socket.socket, receiver: socket.socket, ordered: bool = True
    ) -> None:
        self.sender, self.receiver, self.ordered = sender, receiver, ordered
        self.expected: deque[bytes] = deque()
        self.bytes = 0
        self.buffer = bytearray(1 << 16)

    def send(self, data: bytes, stride: int = 0) -> None:
        """One datagram, or with a stride one UDP_SEGMENT send."""
        while self.expected and (
            self.bytes + len(data) > WINDOW_BYTES or len(self.expected) >= WINDOW_DATAGRAMS
        ):
            self.receive()
        if stride:
            control = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", stride))]
            self.sender.sendmsg([data], control)
        else:
            self.sender.send(data)
        for at in range(0, len(data), stride or len(data)):
            self.expected.append(data[at : at + (stride or len(data))])
        self.bytes += len(data)

    def receive(self) -> None:
        """At least one datagram."""
        if not select.select([self.receiver], [], [], QUIET_S)[0]:
            raise AssertionError(
                f"{len(self.expected)} datagrams lost, the first of {len(self.expected[0])} bytes"
            )
        while self.expected:
            try:
                got = self.receiver.recv_into(self.buffer)
            except BlockingIOError:
                return
            data = bytes(memoryview(self.buffer)[:got])
            self.bytes -= got
            due = self.expected[0]
            if data == due:
                self.expected.popleft()
            elif not self.ordered and data in self.expected:
                self.expected.remove(data)
            else:
                raise AssertionError(
                    f"a datagram of {got} bytes came where one of {len(due)} was due, "
                    "or it has other bytes"
                )

    def finish(self) -> None:
        while self.expected:
            self.receive()


def datagrams(tunnel: Tunnel, family: int, sizes: Iterable[int]) -> int:
    """Plain UDP sends of each size once, fragmented at the inner MTU. Returns how many."""
    sender, receiver = udp_pair(tunnel, family)
    number = 0
    with sender, receiver:
        flight = Flight(sender, receiver, ordered=tunnel.first.options.workers == 1)
        for number, size in enumerate(sizes, 1):
            flight.send(payload(number, size))
        flight.finish()
    return number


def segment_sends(tunnel: Tunnel, family: int, runs: Iterable[tuple[int, int]]) -> int:
    """UDP_SEGMENT sends. Returns how many datagrams they made."""
    sender, receiver = udp_pair(tunnel, family)
    number = count = 0
    with sender, receiver:
        flight = Flight(sender, receiver)
        for number, (stride, total) in enumerate(runs):
            flight.send(payload(number, total), stride)
            count += -(-total // stride)
        flight.finish()
    return count


class Stream:
    """Paced datagrams one way while something else happens; each must arrive, once."""

    def __init__(self, tunnel: Tunnel, family: int = 4, source: End | None = None) -> None:
        self.sender, self.receiver = udp_pair(tunnel, family, source)
        self.sent = 0
        self.got: list[int] = []
        self._stop = threading.Event()

    def run(self, interval: float = 0.0005) -> None:
        """Until `stop`; 1 to 1300 bytes behind a number."""
        while not self._stop.is_set():
            self.sender.send(struct.pack("=I", self.sent) + payload(self.sent, self.sent % 1300))
            self.sent += 1
            self._drain()
            self._stop.wait(interval)
        deadline = time.monotonic() + 3
        while len(self.got) < self.sent and time.monotonic() < deadline:
            select.select([self.receiver], [], [], 0.1)
            self._drain()

    def _drain(self) -> None:
        while True:
            try:
                data = self.receiver.recv(2048)
            except BlockingIOError:
                return
            (number,) = struct.unpack_from("=I", data)
            if data[4:] != payload(number, number % 1300):
                raise AssertionError(f"datagram {number} arrived with other bytes")
            self.got.append(number)

    def stop(self) -> None:
        self._stop.set()

    def has(self, most: int) -> bool:
        """More than so many came."""
        return len(self.got) > most

    def check(self) -> None:
        """Nothing lost, nothing twice."""
        missing = sorted(set(range(self.sent)) - set(self.got))
        if missing or len(self.got) != self.sent or not self.sent:
            raise AssertionError(
                f"{len(missing)} of {self.sent} datagrams lost ({missing[:10]}...), "
                f"{len(self.got)} came"
            )

    def close(self) -> None:
        self.sender.close()
        self.receiver.close()
