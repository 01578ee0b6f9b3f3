"""Small datagrams: as many as one program here can make, and a count of what came over.

Python makes one system call for a run of 64 datagrams (UDP_SEGMENT) and takes runs whole
(UDP_GRO); where the kernel lacks that, it is the generator that is measured, and `Sent` says so.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import threading
import time
from dataclasses import dataclass
from typing import Final

from whalescale.bench.measure import MeasureError

# <linux/udp.h>, <asm-generic/socket.h>
UDP_SEGMENT: Final = 103
UDP_GRO: Final = 104
SO_SNDBUFFORCE: Final = 32
SO_RCVBUFFORCE: Final = 33
SO_MEMINFO: Final = 55
MEMINFO_WORDS: Final = 9
MEMINFO_QUEUED: Final = 0
MEMINFO_DROPS: Final = 8

#: what every datagram begins with; anything else is not counted
MARK: Final = b"ws bench"
SIZE_MAX: Final = 1472
SEGMENTS: Final = 64
BUFFER_BYTES: Final = 8 << 20
SENDS_PER_LOOK: Final = 16
#: the sink ends by itself after so long, and looks so often whether it should
SINK_S: Final = 90.0
LOOK_S: Final = 0.2
#: nothing came for so long and nothing is queued: all is here; and the most to wait for that
QUIET_S: Final = 0.3
QUIET_MOST_S: Final = 3.0
#: this share of what was sent is as good as all of it
ALL: Final = 0.98
#: what a device without checksum offload, or a path with a smaller MTU, says to a run
_NO_RUNS: Final = {errno.EIO, errno.EINVAL, errno.EMSGSIZE, errno.ENOPROTOOPT, errno.EOPNOTSUPP}
_TRANSIENT: Final = {errno.ENOBUFS, errno.EAGAIN, errno.ECONNREFUSED}


@dataclass(frozen=True, slots=True)
class Sent:
    """`in_runs`: one system call took 64 of them."""

    datagrams: int
    seconds: float
    in_runs: bool


@dataclass(frozen=True, slots=True)
class Counted:
    """`seconds` from the first to the last; `dropped` came, but the sink was too slow for them."""

    datagrams: int
    seconds: float
    dropped: int


def _socket(address: str) -> socket.socket:
    return socket.socket(
        socket.AF_INET6 if ":" in address else socket.AF_INET,
        socket.SOCK_DGRAM | socket.SOCK_CLOEXEC,
    )


def _set_buffer(sock: socket.socket, force: int, plain: int) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, force, BUFFER_BYTES)
    except OSError:
        sock.setsockopt(socket.SOL_SOCKET, plain, BUFFER_BYTES)


def send(address: str, port: int, size: int, seconds: float) -> Sent:
    """Datagrams of `size` bytes, as fast as they go. MeasureError: they do not go at all."""
    one = MARK.ljust(size, b"\0")
    with _socket(address) as sock:
        _set_buffer(sock, SO_SNDBUFFORCE, socket.SO_SNDBUF)
        try:
            sock.connect((address, port))
            try:
                sock.setsockopt(socket.SOL_UDP, UDP_SEGMENT, size)
                return _blast(sock, one * SEGMENTS, SEGMENTS, seconds)
            except OSError as e:
                if e.errno not in _NO_RUNS:
                    raise
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 0)
            return _blast(sock, one, 1, seconds)
        except OSError as e:
            raise MeasureError(f"cannot send to {address}: {e.strerror or e}") from None


def _blast(sock: socket.socket, run: bytes, each: int, seconds: float) -> Sent:
    calls = 0
    began = now = time.monotonic()
    while now < began + seconds:
        for _ in range(SENDS_PER_LOOK):
            try:
                sock.send(run)
            except OSError as e:
                if e.errno not in _TRANSIENT:
                    raise
            else:
                calls += 1
        now = time.monotonic()
    return Sent(calls * each, now - began, each > 1)


class Sink:
    """Counts the datagrams of `size` bytes that come to a port of its own, in a thread."""

    def __init__(self, address: str, size: int) -> None:
        """OSError: not an address of this host."""
        self._size = size
        self._datagrams = 0
        self._first = self._last = 0.0
        self._stop = False
        self._socket = _socket(address)
        try:
            _set_buffer(self._socket, SO_RCVBUFFORCE, socket.SO_RCVBUF)
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.SOL_UDP, UDP_GRO, 1)
            # A timeout of Python's would cost a poll for each receive.
            wait = struct.pack("@ll", 0, int(LOOK_S * 1e6))
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, wait)
            self._socket.bind((address, 0))
        except BaseException:
            self._socket.close()
            raise
        self.port = int(self._socket.getsockname()[1])
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        buffer = bytearray(1 << 16)
        size, mark, marked = self._size, MARK, len(MARK)
        receive, clock = self._socket.recv_into, time.monotonic
        until = clock() + SINK_S
        while not self._stop:
            try:
                got = receive(buffer)
            except BlockingIOError:
                if clock() > until:
                    return
                continue
            except OSError:
                return
            now = clock()
            # Runs that the kernel took together are of one sender and one size.
            if got % size == 0 and buffer[:marked] == mark:
                self._last = now
                self._first = self._first or now
                self._datagrams += got // size
            if now > until:
                return

    def finish(self) -> Counted:
        """Waits for the last of what is queued, then ends."""
        deadline = time.monotonic() + QUIET_MOST_S
        before = -1
        # No progress may also mean that the thread has not got a CPU.
        while (
            before != self._datagrams or (self._thread.is_alive() and self._meminfo(MEMINFO_QUEUED))
        ) and time.monotonic() < deadline:
            before = self._datagrams
            time.sleep(QUIET_S)
        dropped = self._meminfo(MEMINFO_DROPS)
        self.close()
        return Counted(self._datagrams, self._last - self._first, dropped)

    def _meminfo(self, word: int) -> int:
        """0 where the kernel does not tell."""
        with contextlib.suppress(OSError, struct.error):
            raw = self._socket.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 4 * MEMINFO_WORDS)
            return int(struct.unpack(f"{MEMINFO_WORDS}I", raw)[word])
        return 0

    def close(self) -> None:
        self._stop = True
        self._thread.join(10 * LOOK_S)
        self._socket.close()


def rate(sent: Sent, counted: Counted) -> float:
    """Datagrams a second that arrived; over no less time than the sending took."""
    if not counted.datagrams:
        raise MeasureError(f"of {sent.datagrams:,} datagrams sent none arrived")
    return counted.datagrams / max(sent.seconds, counted.seconds)


def limit(sent: Sent, counted: Counted) -> str:
    """What bounded the figure if it was not the way between; "" if it was."""
    if not sent.in_runs:
        return "sent one a system call: the generator is the limit"
    if counted.datagrams >= ALL * sent.datagrams:
        return "all that was sent arrived: the generator is the limit"
    if counted.dropped > 0.02 * counted.datagrams:
        return "the counting program is the limit: more arrived than it could take"
    return ""
