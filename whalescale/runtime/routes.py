"""The routes that the configuration's allowed IPs ask for, changed as one and undone on failure."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from whalescale.runtime.errors import EXIT_PERMISSION, AgentError
from whalescale.runtime.netlink import MAIN_TABLE, Interface, Netlink, Network, Route

log = logging.getLogger(__name__)

#: where wg-quick(8) begins to look for a table of its own
FIRST_TABLE: Final = 51820
SRC_VALID_MARK: Final = Path("/proc/sys/net/ipv4/conf/all/src_valid_mark")

_src_valid_mark: int | None = None


def wanted_routes(
    allowed: Iterable[Network], own: Iterable[Interface], default_table: int
) -> set[Route]:
    """Routes for `allowed`; none where the kernel has made the very same one for an own address.

    0.0.0.0/0 and ::/0 go to `default_table`, so that the main table keeps its own default.
    """
    connected = {a.network for a in own}
    return {
        Route(network, default_table if network.prefixlen == 0 else MAIN_TABLE)
        for network in allowed
        if network not in connected
    }


async def free_table(netlink: Netlink) -> int:
    """The first table without routes, from 51820 on: ours after a kill -9, its routes are gone."""
    table = FIRST_TABLE
    while await netlink.table_in_use(table):
        table += 1
    return table


class Routes:
    """What this agent put into the kernel's tables, so that it can take it out again."""

    def __init__(self, netlink: Netlink, ifindex: int, name: str) -> None:
        self._netlink = netlink
        self._ifindex = ifindex
        self._name = name
        self._routes: set[Route] = set()
        self._rules: dict[int, int] = {}  # IP version -> table

    @property
    def routes(self) -> frozenset[Route]:
        return frozenset(self._routes)

    @property
    def has_default(self) -> bool:
        """Whether rules stand that let our own datagrams pass by their mark."""
        return bool(self._rules)

    async def apply(self, wanted: set[Route]) -> None:
        """Make the installed routes equal to `wanted`. AgentError: nothing has changed."""
        added: list[Route] = []
        try:
            for route in sorted(wanted - self._routes, key=str):
                await self._netlink.add_route(self._ifindex, route)
                added.append(route)
            await self._apply_rules(wanted)
        except OSError as e:
            for route in added:
                await self._netlink.remove_route(self._ifindex, route)
            raise self._explain(e) from None
        for route in self._routes - wanted:
            await self._netlink.remove_route(self._ifindex, route)
        self._routes = set(wanted)

    async def _apply_rules(self, wanted: set[Route]) -> None:
        rules: dict[int, int] = {
            r.network.version: r.table
            for r in wanted
            if r.network.prefixlen == 0 and r.table != MAIN_TABLE
        }
        added: list[tuple[int, int]] = []
        try:
            for version, table in rules.items():
                if self._rules.get(version) != table:
                    if version == 4:
                        _accept_marked_sources()
                    await self._netlink.add_default_rules(version, table)
                    added.append((version, table))
        except OSError:
            for version, table in added:
                await self._netlink.remove_default_rules(version, table)
            raise
        for version, table in self._rules.items():
            if rules.get(version) != table:
                await self._netlink.remove_default_rules(version, table)
        self._rules = rules

    async def clear(self) -> None:
        """Take everything out again; what fails is logged, the rest goes on."""
        for version, table in self._rules.items():
            try:
                await self._netlink.remove_default_rules(version, table)
            except OSError as e:
                log.warning("rule of table %d stays behind: %s", table, e)
        for route in self._routes:
            try:
                await self._netlink.remove_route(self._ifindex, route)
            except OSError as e:
                log.warning("route %s stays behind: %s", route.network, e)
        self._rules.clear()
        self._routes.clear()

    def _explain(self, error: OSError) -> AgentError:
        what = (error.strerror or str(error)).removesuffix(f": {os.strerror(errno.EEXIST)}")
        if error.errno == errno.EEXIST:
            return AgentError(
                f"{what}: another route to this network is there already",
                "see `ip route show table all`; change allowed_ips or remove that route",
            )
        if error.errno in (errno.EPERM, errno.EACCES):
            return AgentError(what, "run `sudo ws up`", EXIT_PERMISSION)
        return AgentError(
            f"interface {self._name}: {what}", "check allowed_ips and addresses in the file"
        )


def open_src_valid_mark() -> None:
    """Keep it open for a later change: once confined the agent may write to no file of /proc."""
    global _src_valid_mark  # noqa: PLW0603  (one process, one network namespace)
    for flags in (os.O_RDWR, os.O_RDONLY):
        with contextlib.suppress(OSError):
            _src_valid_mark = os.open(SRC_VALID_MARK, flags | os.O_CLOEXEC)
            return


def _accept_marked_sources() -> None:
    """Let the reverse-path filter look at the mark, as wg-quick(8) does; strict hosts need it."""
    try:
        if _src_valid_mark is None:
            open_src_valid_mark()
        if _src_valid_mark is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        if os.pread(_src_valid_mark, 16, 0).strip() != b"1":
            os.pwrite(_src_valid_mark, b"1", 0)
    except OSError as e:
        log.warning(
            "net.ipv4.conf.all.src_valid_mark could not be set (%s); "
            "with rp_filter=1 answers may be dropped",
            e.strerror,
        )
