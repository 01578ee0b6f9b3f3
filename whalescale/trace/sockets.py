"""TCP sockets of this host that go through an interface: sock_diag and routes, by netlink.

Needs no root: the kernel tells everybody the tcp_info of every socket.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Self

from pyroute2 import IPRoute
from pyroute2.netlink.diag import (
    SS_CLOSE_WAIT,
    SS_ESTABLISHED,
    SS_FIN_WAIT1,
    DiagSocket,
    MarshalDiag,
    inet_diag_msg,
)
from pyroute2.netlink.exceptions import NetlinkError

from whalescale.trace import tcpinfo
from whalescale.trace.flows import Address, Flow, address_of

STATES: Final = 1 << SS_ESTABLISHED | 1 << SS_FIN_WAIT1 | 1 << SS_CLOSE_WAIT
#: bit n - 1 asks for attribute n (linux/inet_diag.h): INET_DIAG_INFO 2, INET_DIAG_CONG 4
EXTENSIONS: Final = 1 << 1 | 1 << 3
FLOWS_MAX: Final = 64
ROUTES_KEPT: Final = 4096
ROUTES_KEPT_S: Final = 2.0


class _Message(inet_diag_msg):  # type: ignore[misc]
    """tcp_info as it is: the library's own view of it fails on a kernel that gives less."""

    nla_map = tuple(
        (name, "cdata" if name == "INET_DIAG_INFO" else kind)
        for name, kind in inet_diag_msg.nla_map
    )


class _Marshal(MarshalDiag):  # type: ignore[misc]
    msg_map = {socket.AF_INET: _Message, socket.AF_INET6: _Message}  # noqa: RUF012


@dataclass(frozen=True, slots=True)
class Sample:
    """One socket now. `cookie`: the kernel's number of it, never used twice."""

    flow: Flow
    cookie: int
    state: str
    congestion: str
    ca_state: str
    info: dict[str, int]


class Sockets:
    """Use it as a context manager."""

    def __init__(self, interface: str) -> None:
        """OSError: there is no such interface."""
        self._interface = interface
        socket.if_nametoindex(interface)
        self._diag = DiagSocket()
        self._diag.set_marshal(_Marshal())
        self._diag.bind()
        self._routes = IPRoute()
        self._through: dict[tuple[Address, Address], bool] = {}
        self._fresh_until = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._diag.close()
        self._routes.close()

    def sample(self, wanted: Callable[[Flow], bool]) -> tuple[list[Sample], int]:
        """The wanted flows through the interface, the busiest first; how many more there were."""
        found = []
        for family in (socket.AF_INET, socket.AF_INET6):
            for message in self._diag.get_sock_stats(
                family=family, states=STATES, extensions=EXTENSIONS
            ):
                one = sample_of(message)
                if one and wanted(one.flow) and self._goes_through(one.flow):
                    found.append(one)
        if len(found) > FLOWS_MAX:
            found.sort(key=lambda s: -_moved(s.info))
        return found[:FLOWS_MAX], max(len(found) - FLOWS_MAX, 0)

    def _goes_through(self, flow: Flow) -> bool:
        now = time.monotonic()
        if now >= self._fresh_until or len(self._through) >= ROUTES_KEPT:
            self._through.clear()
            self._fresh_until = now + ROUTES_KEPT_S
        key = (flow.source, flow.destination)
        if key not in self._through:
            self._through[key] = self._route_is_through(flow)
        return self._through[key]

    def _route_is_through(self, flow: Flow) -> bool:
        try:
            index = socket.if_nametoindex(self._interface)
            answers = self._routes.route("get", dst=str(flow.destination), src=str(flow.source))
        except (NetlinkError, OSError):
            return False
        return any(m.get_attr("RTA_OIF") == index for m in answers)


def sample_of(message: Any) -> Sample | None:
    """Of what sock_diag answered; None where it tells no tcp_info (a socket that just goes)."""
    raw = message.get_attr("INET_DIAG_INFO")
    if not raw:
        return None
    flow = Flow(
        address_of(message["idiag_src"]),
        message["idiag_sport"],
        address_of(message["idiag_dst"]),
        message["idiag_dport"],
    )
    congestion = message.get_attr("INET_DIAG_CONG") or ""
    state = tcpinfo.state(message["idiag_state"])
    info = tcpinfo.decode(raw)
    return Sample(flow, message["idiag_cookie"], state, congestion, tcpinfo.ca_state(raw), info)


def _moved(info: dict[str, int]) -> int:
    return info.get("bytes_acked", 0) + info.get("bytes_received", 0)
