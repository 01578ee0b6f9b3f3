"""`ws bench --serve`: the far end of a measurement, and how the near end speaks to it.

JSON lines over TCP, one client at a time:
    {"v": 1, "do": "hello"}                      -> {"ok": true, "version": "0.1.0", "does": [...]}
    {"v": 1, "do": "iperf", "address": "..."}    -> {"ok": true, "port": 5201}
    {"v": 1, "do": "sink", "address": "...", "size": 64} -> {"ok": true, "port": 40000}
    {"v": 1, "do": "counted"}    -> {"ok": true, "datagrams": 9, "seconds": 1.0, "dropped": 0}
    {"v": 1, "do": "cost"}                       -> {"ok": true, "busy_s": 12.5, "boot_id": "..."}
Anything refused: {"ok": false, "error": "..."}. Whoever can reach the port can make load here, so
it listens only on the addresses that it is told, and everything is bounded in time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import itertools
import json
import selectors
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from whalescale import __version__
from whalescale.bench import blast, measure

PROTOCOL: Final = 1
DEFAULT_PORT: Final = 5299
IPERF_PORTS: Final = range(5201, 5299)
LINE_BYTES_MAX: Final = 4096
#: One client may keep the server this long without a word; one iperf3 server lives as long.
IDLE_S: Final = 90.0
CONNECT_S: Final = 10.0
#: of an iperf3 server, on a machine that has much else to do
START_S: Final = 20.0
IPERF_TRIES: Final = 8

Table = dict[str, Any]


class BenchError(Exception):
    """`message` and `fix` are for the user."""

    exit_code = 1

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.message, self.fix = message, fix


class Server:
    """Serves measurements on some addresses. Close it: a context manager."""

    def __init__(self, addresses: Iterable[str], port: int = DEFAULT_PORT) -> None:
        """BenchError: an address is not this host's, or the port is taken."""
        self._sockets: list[socket.socket] = []
        self._addresses = tuple(addresses)
        self._ports = itertools.cycle(IPERF_PORTS)
        self._iperf: subprocess.Popen[bytes] | None = None
        self._sink: blast.Sink | None = None
        try:
            for address in self._addresses:
                self._sockets.append(_listen(address, port))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._end_load()
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()

    @property
    def port(self) -> int:
        return int(self._sockets[0].getsockname()[1])

    def serve(self, said: Callable[[str], None], clients: int = 0) -> None:
        """One client after the other; `clients` of them, 0: for ever."""
        with selectors.DefaultSelector() as selector:
            for sock in self._sockets:
                selector.register(sock, selectors.EVENT_READ)
            served = 0
            while not clients or served < clients:
                for key, _ in selector.select():
                    assert isinstance(key.fileobj, socket.socket)
                    connection, remote = key.fileobj.accept()
                    said(f"{remote[0]} measures")
                    with connection:
                        self._client(connection)
                    self._end_load()
                    said(f"{remote[0]} is gone")
                    served += 1

    def _client(self, connection: socket.socket) -> None:
        connection.settimeout(IDLE_S)
        with contextlib.suppress(OSError), connection.makefile("rwb") as stream:
            while line := stream.readline(LINE_BYTES_MAX):
                stream.write(json.dumps(self._answer(line)).encode() + b"\n")
                stream.flush()

    def _answer(self, line: bytes) -> Table:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            return _refused("not JSON")
        if not isinstance(request, dict) or request.get("v") != PROTOCOL:
            return _refused(f"not protocol {PROTOCOL}: use the same version of `ws` on both hosts")
        match request.get("do"):
            case "hello":
                does = ["cost", "sink", *(["iperf"] if shutil.which("iperf3") else [])]
                return {"ok": True, "version": __version__, "does": does}
            case "cost":
                busy = measure.busy_seconds()
                return {"ok": True, "busy_s": busy, "boot_id": measure.boot_id()}
            case "iperf":
                return self._start_iperf(request.get("address"))
            case "sink":
                return self._start_sink(request.get("address"), request.get("size"))
            case "counted":
                return self._count()
        return _refused("unknown request")

    def _start_iperf(self, address: object) -> Table:
        """One iperf3 server for one run, in place of the last one."""
        if not isinstance(address, str) or address not in self._addresses:
            return _refused(self._not_served(address))
        if shutil.which("iperf3") is None:
            return _refused("there is no `iperf3` on that machine")
        self._end_load()
        for port in self._free_ports():
            if self._iperf_listens(address, port):
                return {"ok": True, "port": port}
        return _refused("iperf3 does not start: no port was free for it")

    def _iperf_listens(self, address: str, port: int) -> bool:
        """Start it; False: it ended, for instance because somebody else has just taken the port."""
        self._iperf = subprocess.Popen(
            # A server that is killed leaves nobody behind who waits for ever.
            ["setpriv", "--pdeathsig", "KILL", *measure.iperf_server(address, port)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self._iperf.poll() is None:
            if listeners(port) & _sockets_of(self._iperf.pid):
                return True
            time.sleep(0.01)
        self._end_load()
        return False

    def _start_sink(self, address: object, size: object) -> Table:
        if not isinstance(address, str) or address not in self._addresses:
            return _refused(self._not_served(address))
        if type(size) is not int or not len(blast.MARK) <= size <= blast.SIZE_MAX:
            return _refused(f"not a size of {len(blast.MARK)} to {blast.SIZE_MAX} bytes")
        self._end_load()
        try:
            self._sink = blast.Sink(address, size)
        except OSError as e:
            return _refused(f"cannot listen: {e.strerror or e}")
        return {"ok": True, "port": self._sink.port}

    def _not_served(self, address: object) -> str:
        what = "not an address that is served here"
        with contextlib.suppress(ValueError):
            known = [*self._addresses, ipaddress.ip_address(str(address))]
            words = " ".join(f"--listen {a}" for a in known)
            what += f"; there: `ws bench --serve {words}`"
        return what

    def _count(self) -> Table:
        if self._sink is None:
            return _refused("nothing is being counted")
        counted, self._sink = self._sink.finish(), None
        return {"ok": True, **dataclasses.asdict(counted)}

    def _free_ports(self) -> Iterable[int]:
        """A few that nobody listens on now; not the last one, which may have TIME_WAITs."""
        tried = itertools.islice(self._ports, len(IPERF_PORTS))
        return itertools.islice((port for port in tried if not listeners(port)), IPERF_TRIES)

    def _end_load(self) -> None:
        if self._sink is not None:
            self._sink.close()
            self._sink = None
        if self._iperf is not None:
            self._iperf.terminate()
            self._iperf.wait()
            self._iperf = None


def _refused(why: str) -> Table:
    return {"ok": False, "error": why}


def _listen(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        sock.listen(4)
    except OSError as e:
        sock.close()
        fix = "name an address of this host with --listen, and a free --port"
        raise BenchError(
            f"cannot listen on {address}, port {port}: {e.strerror or e}", fix
        ) from None
    return sock


def listeners(port: int, folder: Path = Path("/proc/self/net")) -> set[int]:
    """Inodes of the TCP sockets of this network namespace that listen there (proc_net_tcp(5))."""
    listening = "0A"
    found = set()
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for row in (folder / name).read_text().splitlines()[1:]:
                words = row.split()
                if words[1].endswith(f":{port:04X}") and words[3] == listening:
                    found.add(int(words[9]))
    return found


def _sockets_of(pid: int) -> set[int]:
    """Inodes of the sockets that a process has open; none if it is gone (proc_pid_fd(5))."""
    found = set()
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                kind, _, inode = str(descriptor.readlink()).partition(":")
                if kind == "socket":
                    found.add(int(inode.strip("[]")))
    return found


class Remote:
    """The near end's connection to a server. Raises BenchError for whatever goes wrong."""

    def __init__(self, address: str, port: int = DEFAULT_PORT) -> None:
        self._where = f"{address}, port {port}"
        start = "`ws bench --serve` has to run there"
        try:
            self._socket = socket.create_connection((address, port), CONNECT_S)
        except OSError as e:
            raise BenchError(f"no answer from {self._where}: {e.strerror or e}", start) from None
        self._socket.settimeout(IDLE_S)
        self._stream = self._socket.makefile("rwb")
        try:
            hello = self.call("hello")
            self.version = str(hello.get("version", ""))
            does = hello.get("does", ["cost", "iperf"])  # what it was before it was told
            self.does = frozenset(map(str, does)) if isinstance(does, list) else frozenset()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.close()
        self._socket.close()

    def call(self, do: str, **more: object) -> Table:
        try:
            self._stream.write(json.dumps({"v": PROTOCOL, "do": do, **more}).encode() + b"\n")
            self._stream.flush()
            line = self._stream.readline(LINE_BYTES_MAX)
            answer = json.loads(line) if line else None
        except (OSError, ValueError, RecursionError) as e:
            raise BenchError(f"{self._where} answered nothing of use: {e}") from None
        if not isinstance(answer, dict):
            raise BenchError(f"{self._where} hung up", "look at `ws bench --serve` there")
        if answer.get("ok") is not True:
            raise BenchError(f"{self._where} refuses: {str(answer.get('error', ''))[:200]}")
        return answer

    def iperf(self, address: str) -> int:
        """The port of an iperf3 server that waits for one run to `address`."""
        port = self.call("iperf", address=address).get("port")
        if not isinstance(port, int):
            raise BenchError(f"{self._where} named no port")
        return port

    def sink(self, address: str, size: int) -> int:
        """The port of what counts datagrams of `size` bytes to `address`, until `counted`."""
        port = self.call("sink", address=address, size=size).get("port")
        if not isinstance(port, int):
            raise BenchError(f"{self._where} named no port")
        return port

    def counted(self) -> blast.Counted:
        answer = self.call("counted")
        try:
            return blast.Counted(
                int(answer["datagrams"]), float(answer["seconds"]), int(answer["dropped"])
            )
        except (KeyError, TypeError, ValueError, OverflowError):
            raise BenchError(f"{self._where} told no count") from None

    def cost(self) -> tuple[float, str]:
        """(busy CPU seconds since boot, boot ID) of the machine there."""
        answer = self.call("cost")
        try:
            return float(answer["busy_s"]), str(answer["boot_id"])
        except (KeyError, TypeError, ValueError):
            raise BenchError(f"{self._where} told no CPU time") from None
