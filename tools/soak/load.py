"""What runs inside the tunnel meanwhile: python -m tools.soak.load a|b PEER_ADDRESS CLOCK

CLOCK is a file of 8 bytes: when the last datagram came, for who waits for the tunnel to work.

At both ends: one TCP connection for the whole time, records both ways, each checked and
acknowledged by the other program; numbered UDP datagrams both ways; from a also a new TCP
connection every moment. One JSON object a line on stdout: a "gap" in what came, a datagram
"twice", a "fault", and "sum" at the end, which a line on stdin asks for. Times are CLOCK_MONOTONIC,
seconds.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import mmap
import random
import socket
import struct
import sys
import threading
import time
import zlib
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

STREAM_PORT, SHORT_PORT, UDP_PORT = 7000, 7001, 7002
SO_RCVBUFFORCE = 33  # asm-generic/socket.h; the socket module lacks it
HEAD = struct.Struct("<QQ")  # record's number; the other side's next, with DONE
UDP_HEAD = struct.Struct("<QI")  # number, CRC of what follows
DONE = 1 << 63
BLOCK = random.Random(1).randbytes(1 << 16)  # noqa: S311
STREAM_BYTES_PER_S = 1 << 20
#: A window that is closed for twice TCP's longest wait ends a connection (tcp_timer.c,
#: tcp_rtx_probe0_timed_out), and that wait is a second here: a reader that gets no processor for
#: a moment must not close it.
STREAM_BUFFER_BYTES = 16 << 20
#: Linux ends a connection after the time of 255 tries, a second each here, since the first packet
#: of an episode was sent again (tcp_timer.c, retransmits_timed_out), and one kill after the other
#: may be one episode; ms
STREAM_USER_TIMEOUT_MS = 86_400_000
UDP_INTERVAL_S = 0.02
#: nothing for so long is worth a line
GAP_S = 0.3
SHORT_BYTES = 1 << 16
SHORT_INTERVAL_S = 0.5
#: what the server's program says first, and how long it is waited for
WELCOME = b"+"
WELCOME_S = 30.0
#: for what was under way when the end was asked for
END_S = 120.0
#: what a host without the tunnel's interface says, and a connection attempt that got no answer
UNREACHABLE = {
    *(errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.ENETDOWN),
    *(errno.ETIMEDOUT, errno.EINVAL, errno.EPERM),
}


@dataclass(slots=True)
class Sums:
    """What one end saw."""

    records_sent: int = 0
    records_acked: int = 0
    records_received: int = 0
    stream_bytes: int = 0
    connections: int = 0
    connections_unreachable: int = 0
    udp_sent: int = 0
    udp_received: int = 0
    udp_late: int = 0


SAYING = threading.Lock()


def say(**what: Any) -> None:
    # print writes the text and the end of the line apart: two threads' lines would come as one.
    with SAYING:
        print(json.dumps(what), flush=True)


def body(number: int) -> bytes:
    """The bytes of a record: both ends know them."""
    at = number * 2654435761 % (1 << 15)
    return BLOCK[at : at + 1 + number * 40503 % 16384]


def read_exactly(sock: socket.socket, count: int) -> bytes:
    """b"" at the end of the stream; a fault when it ends in between."""
    got = bytearray()
    while len(got) < count:
        data = sock.recv(count - len(got))
        if not data:
            if got:
                raise ConnectionError(f"the stream ended {count - len(got)} bytes early")
            return b""
        got += data
    return bytes(got)


def widen(sock: socket.socket) -> None:
    """Before it connects, for the window's scale is told in the handshake. What a listener accepts
    has it too."""
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, STREAM_BUFFER_BYTES)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STREAM_USER_TIMEOUT_MS)


class Gaps:
    """Tells of times in which nothing came."""

    def __init__(self, flow: str) -> None:
        self.flow = flow
        self.last = time.monotonic()

    def came(self) -> None:
        now = time.monotonic()
        if now - self.last > GAP_S:
            say(gap=self.flow, began=self.last, ended=now)
        self.last = now


class End:
    """All flows of one end."""

    def __init__(self, name: str, peer: str, clock: mmap.mmap) -> None:
        self.name, self.peer, self.clock = name, peer, clock
        self.sums = Sums()
        self.stop = threading.Event()
        self.peer_done = threading.Event()

    # the stream

    def stream_socket(self) -> socket.socket:
        if self.name == "b":
            with socket.create_server(("", STREAM_PORT)) as server:
                widen(server)
                return server.accept()[0]
        while True:
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            widen(sock)
            try:
                sock.connect((self.peer, STREAM_PORT))
            except OSError:
                sock.close()
                time.sleep(0.2)
            else:
                return sock

    def send_records(self, sock: socket.socket) -> None:
        sums, number, last = self.sums, 0, -1
        while True:
            if self.stop.is_set() and last < 0:
                last = number
            done = last >= 0 and sums.records_acked >= last
            # Taken before it is sent: who has seen it from us must find us done.
            finished = done and self.peer_done.is_set()
            data = body(number)
            mark = sums.records_received | (DONE if done else 0)
            sock.sendall(HEAD.pack(number, mark) + data)
            number += 1
            sums.records_sent = number
            if finished:
                sock.shutdown(socket.SHUT_WR)
                return
            time.sleep(0.05 if last >= 0 else len(data) / STREAM_BYTES_PER_S)

    def receive_records(self, sock: socket.socket) -> None:
        sums, gaps = self.sums, Gaps("tcp")
        while head := read_exactly(sock, HEAD.size):
            number, mark = HEAD.unpack(head)
            if number != sums.records_received:
                raise ConnectionError(f"record {number} came for {sums.records_received}")
            wanted = body(number)
            if read_exactly(sock, len(wanted)) != wanted:
                raise ConnectionError(f"record {number} came with other bytes")
            sums.records_received += 1
            sums.stream_bytes += len(wanted)
            sums.records_acked = mark & ~DONE
            if mark & DONE:
                self.peer_done.set()
            gaps.came()
        if not self.peer_done.is_set():
            raise ConnectionError("the stream ended before its end")

    # short connections

    def serve_short(self) -> None:
        with socket.create_server(("", SHORT_PORT), backlog=64) as server:
            while True:
                sock, _ = server.accept()
                threading.Thread(target=self.answer_short, args=(sock,), daemon=True).start()

    def answer_short(self, sock: socket.socket) -> None:
        with sock:
            sock.sendall(WELCOME)
            sock.sendall(hashlib.sha256(read_exactly(sock, SHORT_BYTES)).digest())
            # Closed first, it would be an orphan, whose kernel gives up after eight tries: the
            # other end waits for ever.
            with contextlib.suppress(OSError):
                sock.recv(1)

    def connect_short(self) -> None:
        data = BLOCK[:SHORT_BYTES]
        while not self.stop.wait(SHORT_INTERVAL_S):
            try:
                sock = socket.create_connection((self.peer, SHORT_PORT), timeout=30)
            except OSError as e:
                # A reset as well: before the server's program has it, see welcomed.
                if e.errno not in UNREACHABLE and not isinstance(
                    e, ConnectionResetError | TimeoutError
                ):
                    raise
                self.sums.connections_unreachable += 1
                continue
            with sock:
                if not self.welcomed(sock, data[:1]):
                    self.sums.connections_unreachable += 1
                    continue
                # A cut after the other may take it long; that it was reset is a fault.
                sock.settimeout(600)
                sock.sendall(data[1:])
                if read_exactly(sock, 32) != hashlib.sha256(data).digest():
                    raise ConnectionError("a short connection brought other bytes")
            self.sums.connections += 1

    def welcomed(self, sock: socket.socket, first: bytes) -> bool:
        """Whether the server's program has the connection; until then no product can keep it.

        Linux gives up an embryonic connection whose answer it cannot send again for want of a route
        or address, as while an agent is dead (inet_connection_sock.c, reqsk_timer_handler), and
        resets it when the client, which knows of nothing, sends its first bytes.
        """
        sock.settimeout(WELCOME_S)
        try:
            sock.sendall(first)
            return sock.recv(1) == WELCOME
        except (ConnectionError, TimeoutError):
            return False

    # UDP

    def send_udp(self, sock: socket.socket) -> None:
        number = 0
        while not self.stop.wait(UDP_INTERVAL_S):
            text = BLOCK[number % 1024 : number % 1024 + 1 + number * 40503 % 1350]
            try:
                sock.sendto(UDP_HEAD.pack(number, zlib.crc32(text)) + text, (self.peer, UDP_PORT))
            except OSError as e:
                if e.errno not in {*UNREACHABLE, errno.ENOBUFS, errno.ECONNREFUSED}:
                    raise
            number += 1
            self.sums.udp_sent = number

    def receive_udp(self, sock: socket.socket) -> None:
        gaps, seen, order, highest = Gaps("udp"), set[int](), deque[int](), -1
        while True:
            try:
                data, source = sock.recvfrom(2048)
            except ConnectionRefusedError:
                continue
            if source[0] != self.peer:
                continue
            number, crc = UDP_HEAD.unpack_from(data)
            if zlib.crc32(data[UDP_HEAD.size :]) != crc:
                say(fault="a datagram came with other bytes", at=time.monotonic())
            if number in seen:
                say(twice=number, at=time.monotonic())
                continue
            seen.add(number)
            order.append(number)
            if len(order) > 8192:
                seen.discard(order.popleft())
            self.sums.udp_received += 1
            self.sums.udp_late += number < highest
            highest = max(highest, number)
            gaps.came()
            self.clock[:8] = struct.pack("<d", gaps.last)

    # all of them

    def guarded(self, what: str, run: Any, *args: Any) -> threading.Thread:
        def target() -> None:
            try:
                run(*args)
            except Exception as e:
                say(fault=f"{what}: {type(e).__name__}: {e}", at=time.monotonic())

        thread = threading.Thread(target=target, daemon=True)
        thread.start()
        return thread

    def main(self) -> None:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("", UDP_PORT))
        short = self.serve_short if self.name == "b" else self.connect_short
        self.guarded("a short connection", short)
        stream = self.stream_socket()
        say(ready=self.name, at=time.monotonic())
        waited = [
            self.guarded("the stream's sender", self.send_records, stream),
            self.guarded("the stream's receiver", self.receive_records, stream),
        ]
        self.guarded("UDP's sender", self.send_udp, udp)
        self.guarded("UDP's receiver", self.receive_udp, udp)
        sys.stdin.readline()
        self.stop.set()
        end = time.monotonic() + END_S
        for thread in waited:
            thread.join(max(0.0, end - time.monotonic()))
            if thread.is_alive():
                say(fault="the stream did not come to its end", at=time.monotonic())
                break
        say(sum=asdict(self.sums))


if __name__ == "__main__":
    with open(sys.argv[3], "r+b") as file:
        End(sys.argv[1], sys.argv[2], mmap.mmap(file.fileno(), 8)).main()
