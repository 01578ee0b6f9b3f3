"""Endpoints given by name: looked up off the loop, again when a handshake gives up."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from whalescale.endpoints import HostPort
from whalescale.protocol.places import Endpoint
from whalescale.runtime import outside
from whalescale.runtime.names import Names

log = logging.getLogger(__name__)

#: after a failure, or a handshake given up: wait this long, doubling up to the longest
RETRY_FIRST_S: Final = 2.0
RETRY_LONGEST_S: Final = 300.0
#: one name rarely has more addresses that are worth a try
ADDRESSES_PER_NAME: Final = 8

Lookup = Callable[[str, int], Sequence[Any]]


def numeric_endpoint(endpoint: HostPort) -> Endpoint:
    """OSError: the zone names no interface of this host."""
    address = ipaddress.ip_address(endpoint.host)
    zone = getattr(address, "scope_id", None)
    if zone is None:
        text = str(address)
        # The same text, of thousands of members, is kept once.
        return Endpoint(endpoint.host if endpoint.host == text else text, endpoint.port)
    scope = int(zone) if zone.isdecimal() else socket.if_nametoindex(zone)
    return Endpoint(endpoint.host.partition("%")[0], endpoint.port, scope)


def numeric_endpoints(name: str, endpoints: Iterable[HostPort]) -> tuple[Endpoint, ...]:
    """Of the peer `name`, all numbers; one whose zone is no interface here is left out."""
    found: dict[Endpoint, None] = {}
    for endpoint in endpoints:
        try:
            found[numeric_endpoint(endpoint)] = None
        except OSError as e:
            log.warning("peer %s: endpoint %s: %s", name, endpoint, e.strerror)
    return tuple(found)


def _getaddrinfo(host: str, port: int) -> Sequence[Any]:
    return outside.lookup(host, port)


async def lookup(host: str, port: int, getaddrinfo: Lookup = _getaddrinfo) -> list[Endpoint]:
    """All addresses of a name, in the order of RFC 6724. OSError: it does not resolve.

    In a daemon thread of its own: a resolver that hangs for half a minute must
    hold up neither the loop nor, as asyncio's executor would, the agent's end.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Sequence[Any]] = loop.create_future()

    def deliver(result: Sequence[Any] | None, error: OSError | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result or ())

    def work() -> None:
        result, error = None, None
        try:
            result = getaddrinfo(host, port)
        except (OSError, UnicodeError) as e:
            error = e if isinstance(e, OSError) else OSError(str(e))
        try:
            loop.call_soon_threadsafe(deliver, result, error)
        except RuntimeError:
            return  # the loop has ended meanwhile

    threading.Thread(target=work, name="resolve", daemon=True).start()
    found: list[Endpoint] = []
    for family, _, _, _, address in await future:
        if family == socket.AF_INET:
            endpoint = Endpoint(address[0], address[1])
        elif family == socket.AF_INET6:
            endpoint = Endpoint(address[0].partition("%")[0], address[1], address[3])
        else:
            continue
        if endpoint not in found:
            found.append(endpoint)
    return found[:ADDRESSES_PER_NAME]


def _nobody(_: tuple[Endpoint, ...]) -> None:
    """Nothing is looked up: all addresses are numeric."""


class Resolver:
    """One peer's endpoints: numeric ones at once, names when they resolve.

    `found(endpoints)` gets the whole list, in the configuration's order, when it changed.
    """

    __slots__ = (  # of thousands of members
        "_endpoints",
        "_getaddrinfo",
        "_known",
        "_name",
        "_names",
        "_retry",
        "_task",
        "_timer",
        "found",
        "unresolved",
    )

    def __init__(
        self,
        name: str,
        endpoints: Iterable[HostPort],
        found: Callable[[tuple[Endpoint, ...]], None] = _nobody,
        getaddrinfo: Lookup = _getaddrinfo,
        names: Names | None = None,
    ) -> None:
        """`names`: who looks names up; None: `getaddrinfo`."""
        self._name = name
        self._names = names
        self._endpoints = tuple(endpoints)
        self.found = found
        self._getaddrinfo = getaddrinfo
        self._known: dict[HostPort, list[Endpoint]] = {}
        #: host names that do not resolve, and why
        self.unresolved: dict[str, str] = {}
        self._retry = RETRY_FIRST_S
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        for endpoint in self._endpoints:
            if endpoint.numeric:
                self._known[endpoint] = list(numeric_endpoints(name, [endpoint]))

    def current(self) -> tuple[Endpoint, ...]:
        found: list[Endpoint] = []
        for endpoint in self._endpoints:
            found += [e for e in self._known.get(endpoint, ()) if e not in found]
        return tuple(found)

    @property
    def has_names(self) -> bool:
        return any(not e.numeric for e in self._endpoints)

    def start(self) -> None:
        """Look names up now; on failure again and again, with growing pauses."""
        self._cancel_timer()
        if self.has_names and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._resolve())

    def handshake_gave_up(self) -> None:
        """The peer may have moved: look again, with growing pauses."""
        if self.has_names and self._task is None and self._timer is None:
            self._again()

    def handshake_completed(self) -> None:
        self._retry = RETRY_FIRST_S
        self._cancel_timer()

    def close(self) -> None:
        self._cancel_timer()
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _again(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._retry, self.start)
        self._retry = min(self._retry * 2, RETRY_LONGEST_S)

    def network_changed(self) -> None:
        """A name that did not resolve may do so now."""
        if self._timer is not None:
            self._retry = RETRY_FIRST_S
            self.start()

    async def _lookup(self, host: str, port: int) -> list[Endpoint]:
        if self._names is None:
            return await lookup(host, port, self._getaddrinfo)
        return (await self._names.lookup(host, port))[:ADDRESSES_PER_NAME]

    async def _resolve(self) -> None:
        before, failed = self.current(), False
        for endpoint in self._endpoints:
            if endpoint.numeric:
                continue
            try:
                self._known[endpoint] = await self._lookup(endpoint.host, endpoint.port)
                self.unresolved.pop(endpoint.host, None)
            except OSError as e:
                failed = True
                told = endpoint.host in self.unresolved
                self.unresolved[endpoint.host] = e.strerror or str(e)
                if not told:
                    log.warning(
                        "peer %s: %s does not resolve (%s); trying again, silently",
                        self._name,
                        endpoint.host,
                        e.strerror or e,
                    )
        self._task = None
        if failed:
            self._again()
        if self.current() != before:
            self.found(self.current())
