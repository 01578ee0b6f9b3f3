"""The engine's UDP sockets: a wildcard per family, and one per local address beside it.

A path leaves by the interface of its local address. For IPv4 naming the interface with each
datagram does it. For IPv6 the kernel takes that for a wish where the source address is given: only
a socket that is bound to the interface is sure. So where several interfaces have IPv6, each address
gets such a one too; what is no path's goes on as the routing table says.
"""

from __future__ import annotations

import errno
import itertools
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Final

from whalescale.dataplane.engine import Addr, Engine
from whalescale.runtime.errors import EXIT_PERMISSION, AgentError
from whalescale.runtime.netlink import LocalAddress
from whalescale.runtime.notices import Notices, PortChanged
from whalescale.runtime.part import Here, Part

log = logging.getLogger(__name__)

#: the engine holds 64 sockets, two more wildcards among them while the port changes; a host with
#: more addresses uses the wildcards for the rest
MAX_ADDRESSES: Final = 48
#: sockets beside those, each bound to an interface
MAX_BOUND: Final = 12


class Sockets(Part):
    """`open` the wildcards, then let `follow` keep the per-address sockets up to date."""

    def __init__(self, engine: Engine, notices: Notices | None = None) -> None:
        self._engine = engine
        self._notices = notices or Notices()
        self._wildcards: list[int] = []
        #: by address and the interface that it is bound to, 0: none
        self._single: dict[tuple[LocalAddress, int], int] = {}
        self._wanted: tuple[LocalAddress, ...] = ()
        self.port = 0

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
        changed = bool(self.port)
        old_wildcards, old_single = self._wildcards, list(self._single.values())
        self._wildcards, self._single, self.port = opened, {}, bound.port
        for number in (*old_single, *old_wildcards):
            self._engine.close_socket(number)
        self._follow(self._wanted)
        if changed:
            self._notices.tell(PortChanged(self.port))

    def reopen(self, port: int) -> None:
        """Change the port. AgentError: the old one stays."""
        if port and port == self.port:
            return
        self.open(port)

    def follow(self, here: Here) -> None:
        """Open sockets for new addresses, close those of lost ones."""
        if here.moved:
            self._follow(here.addresses)

    def _follow(self, addresses: Sequence[LocalAddress]) -> None:
        self._wanted = tuple(addresses)
        wanted = self._wanted[:MAX_ADDRESSES]
        if len(self._wanted) > MAX_ADDRESSES:
            log.warning(
                "%d local addresses: %d get a socket of their own, the rest share the wildcard",
                len(self._wanted),
                MAX_ADDRESSES,
            )
        shared = Counter(a.ip for a in wanted)

        def zone_of(address: LocalAddress) -> int:
            """Of an address that several interfaces have (two modems of one make), or could."""
            several = address.link_local or shared[address.ip] > 1
            return address.ifindex if several else 0

        keys = [(a, zone_of(a)) for a in wanted]
        keys += [key for key in _bound(wanted) if key not in keys]
        for key in [k for k in self._single if k not in keys]:
            number = self._single.pop(key)
            try:
                self._engine.close_socket(number)
            except OSError as e:
                log.warning("socket of %s: %s", key[0].ip, e)
        for address, interface in keys:
            if (address, interface) in self._single:
                continue
            try:
                self._single[address, interface], _ = self._engine.open_socket(
                    Addr(address.ip, self.port, zone_of(address)), interface
                )
            except OSError as e:
                # The address may be gone again, or still tentative: the wildcard serves it.
                log.info("no socket of its own for %s: %s", address.ip, e.strerror)

    @property
    def addresses(self) -> list[str]:
        """Local addresses that have a socket of their own."""
        return [a.ip for a in dict.fromkeys(address for address, _ in self._single)]


def _bound(addresses: Sequence[LocalAddress]) -> list[tuple[LocalAddress, int]]:
    """Those that get a socket bound to their interface beside the one that is not."""
    by_interface: dict[int, list[LocalAddress]] = {}
    for address in addresses:
        if ":" in address.ip and not address.link_local:
            by_interface.setdefault(address.ifindex, []).append(address)
    if len(by_interface) < 2:
        return []
    # By turns, so that no interface goes without.
    turns = itertools.zip_longest(*by_interface.values())
    found = [(a, a.ifindex) for turn in turns for a in turn if a is not None]
    if len(found) > MAX_BOUND:
        log.warning(
            "%d IPv6 addresses on %d interfaces: of paths from all but %d the routing table says "
            "where they leave",
            len(found),
            len(by_interface),
            MAX_BOUND,
        )
    return found[:MAX_BOUND]


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
