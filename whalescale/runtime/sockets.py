"""The engine's UDP sockets: a wildcard per family, and one per local address beside it."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Sequence
from typing import Final

from whalescale.dataplane.engine import Addr, Engine
from whalescale.runtime.errors import EXIT_PERMISSION, AgentError
from whalescale.runtime.netlink import LocalAddress

log = logging.getLogger(__name__)

#: the engine holds 64 sockets; a host with more addresses uses the wildcards for the rest
MAX_ADDRESSES: Final = 48


class Sockets:
    """`open` the wildcards, then let `follow` keep the per-address sockets up to date."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._wildcards: list[int] = []
        self._single: dict[LocalAddress, int] = {}
        self._wanted: tuple[LocalAddress, ...] = ()
        self.port = 0
        #: called after the port changed
        self.on_port: Callable[[int], None] = lambda _: None

    def open(self, port: int) -> None:
        """Open both wildcards on `port` (0: any). AgentError: it is taken; nothing changed."""
        opened: list[int] = []
        try:
            number, bound = self._engine.open_socket(Addr("0.0.0.0", port))  # noqa: S104
            opened.append(number)
            try:
                opened.append(self._engine.open_socket(Addr("::", bound.port))[0])
            except OSError as e:
                if e.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.ENETUNREACH):
                    raise
                log.info("this host has no IPv6: IPv4 only")
        except OSError as e:
            for number in opened:
                self._engine.close_socket(number)
            raise explain_port(port, e) from None
        old_wildcards, old_single = self._wildcards, list(self._single.values())
        self._wildcards, self._single, self.port = opened, {}, bound.port
        for number in (*old_single, *old_wildcards):
            self._engine.close_socket(number)
        self.follow(self._wanted)
        self.on_port(self.port)

    def reopen(self, port: int) -> None:
        """Change the port. AgentError: the old one stays."""
        if port and port == self.port:
            return
        self.open(port)

    def follow(self, addresses: Sequence[LocalAddress]) -> None:
        """Open sockets for new addresses, close those of lost ones. Never raises."""
        self._wanted = tuple(addresses)
        wanted = self._wanted[:MAX_ADDRESSES]
        if len(self._wanted) > MAX_ADDRESSES:
            log.warning(
                "%d local addresses: %d get a socket of their own, the rest share the wildcard",
                len(self._wanted),
                MAX_ADDRESSES,
            )
        for address in [a for a in self._single if a not in wanted]:
            number = self._single.pop(address)
            try:
                self._engine.close_socket(number)
            except OSError as e:
                log.warning("socket of %s: %s", address.ip, e)
        for address in wanted:
            if address in self._single:
                continue
            zone = address.ifindex if address.link_local else 0
            try:
                self._single[address], _ = self._engine.open_socket(
                    Addr(address.ip, self.port, zone), zone
                )
            except OSError as e:
                # The address may be gone again, or still tentative: the wildcard serves it.
                log.info("no socket of its own for %s: %s", address.ip, e.strerror)

    @property
    def addresses(self) -> list[str]:
        """Local addresses that have a socket of their own."""
        return [a.ip for a in self._single]


def explain_port(port: int, error: OSError) -> AgentError:
    if error.errno == errno.EADDRINUSE:
        return AgentError(
            f"UDP port {port} is taken",
            f"set another [interface] listen_port, or see who has it: ss -lunp 'sport = :{port}'",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return AgentError(
            f"UDP port {port}: no permission",
            "run `sudo ws up`; a port below 1024 cannot be taken by a reload, only at start",
            EXIT_PERMISSION,
        )
    return AgentError(f"UDP port {port}: {error.strerror or error}", "see `ws doctor`")
