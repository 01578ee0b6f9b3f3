"""Two Whalescale agents in namespaces.

a 10.201.1.1 ── veth ── 10.201.1.2 b        outside (and fd00:201:1::1, ::2)
  10.77.0.1 ══ tunnel ══ 10.77.0.2          inside  (and fd77::1, ::2)

Tests of this folder run several at once, each in namespaces, folders and interface names of its own
(`Lab`, `make_end`): wait for what is to happen, not for a time. Which of a link's paths carries
data, and whether one is degraded for a late answer, changes with the machine's load: see `places`.
A test that measures a time or a rate gets `@pytest.mark.alone` and then has the machine to itself;
keep those few and short.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tools.netlab import Host, Lab, Link, Shape, terminate_as_exception
from tools.peers import Peer, Whalescale, new_interface, outside

PORTS = {"a": 51820, "b": 51821}


@pytest.fixture(scope="session", autouse=True)
def _unwind_on_sigterm() -> None:
    terminate_as_exception()


@pytest.fixture(autouse=True)
def _forked(agents_by_nursery: None) -> None:
    """Agents of all these tests are."""


@pytest.fixture
def lab() -> Iterator[Lab]:
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces")
    with Lab() as lab:
        yield lab


def make_end(host: Host, number: int, **options: object) -> Whalescale:
    """An agent with addresses 10.77.0.N and fd77::N, not started."""
    addresses = (f"10.77.0.{number}/24", f"fd77::{number}/64")
    port = 51819 + number
    return Whalescale(host, new_interface(), addresses, port, **options)  # type: ignore[arg-type]


@dataclass
class Two:
    lab: Lab
    link: Link
    a: Whalescale
    b: Whalescale

    def peer_of(self, end: Whalescale, family: int = 4, endpoint: bool = True) -> Peer:
        """What `end` is to be told of the other one."""
        other = self.b if end is self.a else self.a
        at = outside(self.link.address(other.host, family), other.port)
        networks = tuple(f"{other.inside(f)}/{32 if f == 4 else 128}" for f in (4, 6))
        return Peer(other.public_key, networks, at if endpoint else None, node_id=other.node_id)

    def start(self, family: int = 4) -> None:
        for end in (self.a, self.b):
            end.start(self.peer_of(end, family))


def make_two(lab: Lab, shape: Shape | None = None, **options: object) -> Two:
    """Two agents on a link, not started.

    One has eBPF, as is usual: with the other one's programs the kernel would only be busy longer.
    """
    hosts = lab.host("a"), lab.host("b")
    link = lab.link(*hosts, shape)
    a, b = (make_end(host, n, **options) for n, host in enumerate(hosts, start=1))
    b.dataplane = b.dataplane or "bpf = false"
    return Two(lab, link, a, b)


@pytest.fixture
def two(lab: Lab) -> Two:
    """Both agents up, each knowing the other's endpoint; no handshake yet."""
    pair = make_two(lab)
    pair.start()
    return pair


@pytest.fixture(scope="module")
def standing() -> Iterator[Two]:
    """Both agents up, with a session: for all tests of a file that leave them as they are."""
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces")
    with Lab() as lab:
        pair = make_two(lab)
        pair.start()
        pair.a.ping(pair.b, count=1)
        yield pair


def multipath(end: Whalescale) -> dict[str, Any]:
    """What `ws status --json` says of the only peer's paths."""
    status: dict[str, Any] = end.status()
    found = status["peers"][0].get("multipath")
    return found or {"paths": [], "scheduling": False}


def used(end: Whalescale) -> list[dict[str, Any]]:
    return [p for p in multipath(end)["paths"] if p["usable"]]


def places(peer: dict[str, Any]) -> set[str]:
    """Where a peer of `ws status --json` is heard: its endpoint and each path that works.

    On one link its link-local address is as good as the one that was told, and data may go there.
    On a busy machine the other may be degraded, which is no more than one late answer.
    """
    paths = (peer.get("multipath") or {}).get("paths", [])
    working = {p["remote"] for p in paths if p["state"] in ("healthy", "degraded")}
    return {peer["endpoint"] or "", *working}


def addresses(host: Host) -> set[str]:
    """All that a host has, link-local ones as well."""
    return {a["local"] for row in host.ip_json("addr show") for a in row.get("addr_info", ())}


def known(end: Whalescale, at: str | None = None) -> Peer:
    """What the others are to be told of `end`. `at`: its endpoint."""
    networks = (f"{end.inside(4)}/32", f"{end.inside(6)}/128")
    return Peer(end.public_key, networks, at, node_id=end.node_id)


def make_router(host: Host) -> None:
    host.sysctl("net.ipv4.ip_forward", 1)
    host.sysctl("net.ipv6.conf.all.forwarding", 1)


def route(host: Host, to: str, link: Link, by: Host, family: int = 4, metric: int = 1) -> None:
    """`to` ("default" or a network) goes by the router `by` on the link."""
    via = f"via {link.address(by, family)} dev {link.device(host)} metric {metric}"
    host.ip(f"-{family} route add {to} {via}")


def sent_bytes(host: Host, device: str) -> int:
    """What left by the device, Ethernet headers included."""
    (row,) = host.ip_json(f"-s link show dev {device}")
    return int(row["stats64"]["tx"]["bytes"])
