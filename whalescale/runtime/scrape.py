"""The door that Prometheus comes by: GET /metrics over HTTP/1.1, and nothing else.

It listens where nobody else's packets come in: a loopback address, an address of the tunnel, or a
UNIX socket of mode 0600 beside the control socket. One connection answers one request.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final

from whalescale.config import Config
from whalescale.config import MetricsConfig as Settings
from whalescale.runtime import metrics
from whalescale.runtime.control_socket import unix_server
from whalescale.runtime.errors import AgentError
from whalescale.runtime.part import Part

log = logging.getLogger(__name__)

REQUEST_BYTES_MAX: Final = 8192
REQUEST_S: Final = 5.0
ANSWER_S: Final = 30.0
CONNECTIONS_MAX: Final = 8

Ip = ipaddress.IPv4Address | ipaddress.IPv6Address


class Scrape(Part):
    """`take`: a status; `own`: the addresses of this host inside the tunnel."""

    def __init__(
        self, take: Callable[[], dict[str, Any]], own: Callable[[], Collection[Ip]], path: Path
    ) -> None:
        self._take = take
        self._own = own
        self._path = path
        self._settings = Settings()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def apply(self, config: Config) -> None:
        """The tunnel works without them."""
        try:
            await self.listen(config.metrics)
        except AgentError as e:
            log.warning("no metrics: %s; %s", e.message, e.fix)

    async def listen(self, settings: Settings) -> None:
        """Listen where these say and nowhere else. AgentError: not possible, it listens nowhere."""
        if settings.listen != self._settings.listen:
            await self.close()
            self._settings = Settings()
            if settings.unix:
                self._server = await unix_server(self._path, self._connected, REQUEST_BYTES_MAX)
            elif (address := settings.address) is not None:
                self._server = await self._listen(*address)
        self._settings = settings

    async def _listen(self, ip: Ip, port: int) -> asyncio.Server:
        if not ip.is_loopback and ip not in self._own():
            own = ", ".join(sorted(str(a) for a in self._own()))
            raise AgentError(
                f"[metrics] listen: {ip} is no address of this host inside the tunnel",
                f"write a loopback address or one of these: {own}",
            )
        try:
            return await asyncio.start_server(
                self._connected, str(ip), port, limit=REQUEST_BYTES_MAX, backlog=CONNECTIONS_MAX
            )
        except OSError as e:
            fix = "choose another port under [metrics] listen"
            raise AgentError(f"[metrics] listen = {ip}, port {port}: {e.strerror}", fix) from None

    async def close(self) -> None:
        if self._server is None:
            return
        unix = self._settings.unix
        self._server.close()
        self._server = None
        if unix:
            with contextlib.suppress(OSError):
                self._path.unlink()
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
            async with asyncio.timeout(REQUEST_S):
                head = await reader.readuntil(b"\r\n\r\n")
            writer.write(await self._answer(head))
            async with asyncio.timeout(ANSWER_S):
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, OSError):
            pass
        except Exception as e:  # a fault in one scrape must not end the agent
            log.error("metrics: %s: %s", type(e).__name__, e)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, head: bytes) -> bytes:
        words = head.split(b"\r\n", 1)[0].split()
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return _response("400 Bad Request", "not HTTP/1.1\n")
        method, target = words[0], words[1].split(b"?", 1)[0]
        if method not in (b"GET", b"HEAD"):
            return _response("405 Method Not Allowed", "only GET\n", "Allow: GET, HEAD\r\n")
        if target != b"/metrics":
            return _response("404 Not Found", "only /metrics\n")
        told = self._take()
        # Apart from the loop, which has handshakes to answer meanwhile.
        body = await asyncio.to_thread(metrics.text, told, self._settings.peers_max)
        return _response("200 OK", body, kind=metrics.CONTENT_TYPE, empty=method == b"HEAD")


def _response(
    status: str,
    body: str,
    more: str = "",
    *,
    kind: str = "text/plain; charset=utf-8",
    empty: bool = False,
) -> bytes:
    data = body.encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n"
        f"{more}Connection: close\r\n\r\n"
    )
    return head.encode() + (b"" if empty else data)
