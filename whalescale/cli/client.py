"""The control socket from the client's side: JSON lines over a UNIX stream socket.

Request  {"v": 1, "method": "status", "params": {}}
Response {"v": 1, "ok": true, "result": {...}}
      or {"v": 1, "ok": false, "error": {"code": "...", "message": "...", "fix": "..."}}
Whatever the other end answers, the caller gets a result or a CliError.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from whalescale import locations
from whalescale.cli.ending import FAILED, PERMISSION, UNREACHABLE, CliError, plain

if TYPE_CHECKING:
    from whalescale.status import Status

PROTOCOL: Final = 1
TIMEOUT_S: Final = 5.0
#: 65,536 peers at about 1 KiB each
LINE_BYTES_MAX: Final = 128 << 20
LOCKS: Final = Path("/proc/locks")

Result = dict[str, Any]


def holder(lock: Path) -> int:
    """The process that has locked the file; 0: none, or it cannot be told.

    Read from proc_locks(5): to try the lock could keep an agent from its start.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        info = lock.stat()
        place = f"{os.major(info.st_dev):02x}:{os.minor(info.st_dev):02x}:{info.st_ino}"
        for line in LOCKS.read_text().splitlines():
            words = line.split()
            if words[1] == "FLOCK" and words[5] == place:
                return int(words[4])
    return 0


class Connection:
    """One connection to the agent of `interface`. Use it as a context manager.

    `path`: its socket, where that is not in this process's runtime folder.
    """

    def __init__(
        self, interface: str, timeout_s: float = TIMEOUT_S, path: Path | None = None
    ) -> None:
        self.interface = interface
        self._timeout_s = timeout_s
        self._path = path or locations.control_socket(interface)
        self._buffer = bytearray()
        self._socket = self._connect()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def call(self, method: str, params: Result | None = None) -> Result:
        """One request, one answer."""
        self._send(method, params)
        return self._result(time.monotonic() + self._timeout_s)

    def stream(self, method: str, params: Result | None = None) -> Iterator[Result]:
        """One request, answers until the agent closes; no time limit between two answers."""
        self._send(method, params)
        while True:
            try:
                yield self._result(None)
            except _Closed:
                return

    def wait_closed(self, timeout_s: float) -> bool:
        """Whether the agent closed this connection (it ends) within the time."""
        deadline = time.monotonic() + timeout_s
        try:
            while True:
                self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
                if not self._socket.recv(65536):
                    return True
        except TimeoutError:
            return False
        except OSError:
            return True

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        connection.settimeout(self._timeout_s)
        try:
            connection.connect(str(self._path))
        except OSError as e:
            connection.close()
            if e.errno in {errno.EACCES, errno.EPERM}:
                raise CliError(
                    f"you may not speak to the agent of {self.interface}",
                    "run the same command with `sudo`",
                    PERMISSION,
                ) from None
            if isinstance(e, TimeoutError) or e.errno == errno.EAGAIN:
                raise self._unreachable("does not answer") from None
            if e.errno in {errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR}:
                raise self._absent() from None
            if e.errno is None:  # the path is longer than a UNIX address can be
                fix = "set WHALESCALE_RUNTIME_DIR to a shorter path"
                raise CliError(f"{self._path}: {e}", fix, UNREACHABLE) from None
            raise self._unreachable(f"cannot be reached at {self._path}: {e.strerror}") from None
        return connection

    def _absent(self) -> CliError:
        if pid := holder(self._path.with_suffix(".lock")):
            return CliError(
                f"an agent for {self.interface} runs (process {pid}), but {self._path} is not "
                "there: it is just starting, or somebody removed its socket",
                f"`sudo kill {pid}` ends it in order, then {up_command(self.interface)}",
                UNREACHABLE,
            )
        others: list[str] = []
        with contextlib.suppress(OSError):
            others = sorted(p.stem for p in self._path.parent.glob("*.sock"))
        fix = up_command(self.interface)
        if others and self.interface not in others:
            fix += f" starts it; there is one for {', '.join(others)}, choose with -i"
        return CliError(f"no agent is running for {self.interface}", fix, UNREACHABLE)

    def _unreachable(self, what: str) -> CliError:
        fix = f"`sudo ws -i {self.interface} doctor` looks for the cause"
        return CliError(f"the agent of {self.interface} {what}", fix, UNREACHABLE)

    def _garbled(self, what: str) -> CliError:
        return CliError(
            f"the answer of the agent of {self.interface} cannot be understood: {what}",
            "restart the agent, so that it has the version of this `ws`",
        )

    def _send(self, method: str, params: Result | None) -> None:
        request = {"v": PROTOCOL, "method": method, "params": params or {}}
        try:
            self._socket.settimeout(self._timeout_s)
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        except OSError as e:
            raise self._unreachable(f"hung up: {e.strerror or e}") from None

    def _line(self, deadline: float | None) -> bytes:
        """One line. The deadline is for the whole of it: a dripping sender gains nothing."""
        scanned = 0
        while (end := self._buffer.find(b"\n", scanned)) < 0:
            scanned = len(self._buffer)
            if scanned > LINE_BYTES_MAX:
                raise self._garbled("it does not end")
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise self._unreachable(f"gave no answer in {self._timeout_s:g} s")
            self._socket.settimeout(left)
            try:
                chunk = self._socket.recv(1 << 18)
            except TimeoutError:
                continue
            except OSError as e:
                raise self._unreachable(f"hung up: {e.strerror or e}") from None
            if not chunk:
                if self._buffer:
                    raise self._unreachable("hung up in mid-answer")
                error = self._unreachable("hung up without an answer")
                raise _Closed(error.message, error.fix, error.exit_code)
            self._buffer += chunk
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def _result(self, deadline: float | None) -> Result:
        try:
            answer = json.loads(self._line(deadline))
        except (ValueError, RecursionError):
            raise self._garbled("it is not JSON") from None
        if not isinstance(answer, dict):
            raise self._garbled("it is not an object")
        if answer.get("v") != PROTOCOL:
            raise self._garbled(f"protocol {answer.get('v')!r:.40}, known here: {PROTOCOL}")
        if answer.get("ok") is True and isinstance(answer.get("result"), dict):
            result: Result = answer["result"]
            return result
        error = answer.get("error")
        if answer.get("ok") is not False or not isinstance(error, dict):
            raise self._garbled("neither a result nor an error")
        fields = {k: error.get(k) for k in ("code", "message", "fix")}
        code, message, fix = (plain(v) if isinstance(v, str) else "" for v in fields.values())
        denied = code in {"permission", "permission_denied"}
        raise CliError(message or f"the agent says: {code}", fix, PERMISSION if denied else FAILED)

    def status(self) -> tuple[Status, Result]:
        """The checked status, and the same as the agent wrote it (for --json)."""
        from whalescale import status

        raw = self.call("status")
        try:
            return status.parse(raw), raw
        except ValueError as e:
            raise self._garbled(plain(str(e))) from None


class _Closed(CliError):
    pass


def up_command(interface: str) -> str:
    if interface == locations.DEFAULT_INTERFACE:
        return "`sudo ws up`"
    return f"`sudo ws up -i {interface}`"


def call(interface: str, method: str, params: Result | None = None) -> Result:
    with Connection(interface) as connection:
        return connection.call(method, params)


def status(interface: str) -> tuple[Status, Result]:
    with Connection(interface) as connection:
        return connection.status()
