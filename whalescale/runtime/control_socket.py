"""The agent's side of the control socket: JSON lines over a UNIX stream socket.

Request   {"v": 1, "method": "status", "params": {}}
Response  {"v": 1, "ok": true, "result": {...}}
       or {"v": 1, "ok": false, "error": {"code", "message", "fix"}}

A method gives one result; a stream (`logs`) any number of them, until either side closes.
Connections stay open between requests; `ws down` waits for the agent to close its.
Only root and the agent's own user are served, whatever the file mode says.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from whalescale.runtime.errors import EXIT_PERMISSION, AgentError

log = logging.getLogger(__name__)

VERSION: Final = 1
REQUEST_BYTES_MAX: Final = 64 << 10
CONNECTIONS_MAX: Final = 32
BACKLOG: Final = 32
#: a connection that asks nothing for so long is closed
IDLE_S: Final = 300.0
#: a client that does not read its answer for so long is cut off
WRITE_S: Final = 10.0

Result = dict[str, Any]
Method = Callable[[Result], Awaitable[Result]]
Stream = Callable[[Result], AsyncIterator[Result]]


class ControlError(Exception):
    """Answered as {"code", "message", "fix"}."""

    def __init__(self, code: str, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.fix = code, message, fix


def peer_uid(sock: socket.socket) -> int:
    """SO_PEERCRED (unix(7)): the user at the other end when it connected."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", raw)[1])


def private_directory(path: Path) -> None:
    """Make `path` with mode 0700. AgentError: it cannot be made, or is not ours alone."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = path.stat()
        if info.st_uid == os.geteuid() and not info.st_mode & 0o022:
            path.chmod(0o700)
        if info.st_uid != os.geteuid() or info.st_mode & 0o022:
            raise AgentError(
                f"{path} belongs to another user or is writable by others",
                f"chown root {path}; chmod 700 {path}",
                EXIT_PERMISSION,
            )
    except PermissionError:
        raise AgentError(f"{path}: no permission", "run `sudo ws up`", EXIT_PERMISSION) from None
    except OSError as e:
        raise AgentError(f"{path}: {e.strerror}", "make room for a directory there") from None


async def unix_server(path: Path, serve: Any, limit: int) -> asyncio.Server:
    """Listen at `path` with mode 0600, in place of what a killed agent left there.

    The name appears when the socket listens already: `wg` takes one that refuses for a dead
    agent's and removes it (ipc-uapi-unix.h of wireguard-tools).
    """
    early = path.with_suffix(".new")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old = os.umask(0o177)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(early)
        sock.bind(str(early))
        sock.listen(BACKLOG)
        os.rename(early, path)
        return await asyncio.start_unix_server(serve, sock=sock, limit=limit, backlog=BACKLOG)
    except OSError as e:
        sock.close()
        raise AgentError(
            f"{path}: {e.strerror or e}", "see that the directory exists and can be written"
        ) from None
    finally:
        os.umask(old)


class ControlServer:
    """Serves `methods` and `streams` by name."""

    def __init__(self, path: Path, methods: dict[str, Method], streams: dict[str, Stream]) -> None:
        self.path = path
        self._methods = methods
        self._streams = streams
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await unix_server(self.path, self._connected, REQUEST_BYTES_MAX)

    def stop_listening(self) -> None:
        """No new connections; those that wait for our end stay."""
        if self._server is not None:
            self._server.close()
            self._server = None
            with contextlib.suppress(OSError):
                self.path.unlink()

    async def close(self) -> None:
        """End every connection: whoever waits for it knows that we are gone."""
        self.stop_listening()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._tasks) >= CONNECTIONS_MAX:
            writer.close()
            return
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (ConnectionError, TimeoutError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if peer_uid(writer.get_extra_info("socket")) not in (0, os.geteuid()):
            error = ControlError("permission", "this agent belongs to another user", "use sudo")
            await _send(writer, _failure(error))
            return
        while True:
            try:
                line = await asyncio.wait_for(reader.readline(), IDLE_S)
            except ValueError:
                error = ControlError("usage", f"a request has at most {REQUEST_BYTES_MAX} bytes")
                await _send(writer, _failure(error))
                return
            if not line.endswith(b"\n"):
                return
            try:
                method, params = _request(line)
                if method in self._streams:
                    await self._stream(self._streams[method], params, reader, writer)
                    return
                if method not in self._methods:
                    known = ", ".join(sorted(self._methods))
                    raise ControlError("usage", f"no method {method!r:.40}", f"known: {known}")
                answer = {"v": VERSION, "ok": True, "result": await self._methods[method](params)}
            except ControlError as e:
                answer = _failure(e)
            except AgentError as e:
                code = "permission" if e.exit_code == EXIT_PERMISSION else "failed"
                answer = _failure(ControlError(code, e.message, e.fix))
            except (ConnectionError, TimeoutError):
                raise
            except Exception as e:  # a fault in one request must not end the agent
                log.error("control request: %s: %s", type(e).__name__, e)
                answer = _failure(ControlError("internal", f"{type(e).__name__}: {e}"))
            await _send(writer, answer)

    async def _stream(
        self,
        stream: Stream,
        params: Result,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """Send results until the client closes."""

        async def pump() -> None:
            async for result in stream(params):
                await _send(writer, {"v": VERSION, "ok": True, "result": result})

        pumping = asyncio.create_task(pump())
        gone = asyncio.create_task(reader.read(1))
        try:
            await asyncio.wait({pumping, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (pumping, gone):
                task.cancel()
            await asyncio.gather(pumping, gone, return_exceptions=True)


def _request(line: bytes) -> tuple[str, Result]:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise ControlError("usage", "the request is not JSON") from None
    if not isinstance(request, dict) or request.get("v") != VERSION:
        raise ControlError(
            "usage", f"the request is not of protocol {VERSION}", "use the `ws` of this agent"
        )
    method, params = request.get("method"), request.get("params", {})
    if not isinstance(method, str) or not isinstance(params, dict):
        raise ControlError("usage", "a request has a method and params")
    return method, params


def _failure(error: ControlError) -> Result:
    return {
        "v": VERSION,
        "ok": False,
        "error": {"code": error.code, "message": error.message, "fix": error.fix},
    }


async def _send(writer: asyncio.StreamWriter, answer: Result) -> None:
    writer.write(json.dumps(answer, separators=(",", ":")).encode() + b"\n")
    await asyncio.wait_for(writer.drain(), WRITE_S)
