"""Pairs of ends for the interoperability tests.

           link (veth)                                tap
    ours ──────────────── theirs      or      ours ───────── kernel (virtual machine)

`ours` is Whalescale. WHALESCALE_INTEROP_SUBJECT=wireguard-go puts wireguard-go in its place, which
tells whether a failure lies with Whalescale or with the tests.
"""

from __future__ import annotations

import base64
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tools import vm as virtual
from tools.netlab import Host, Lab, Link, run, terminate_as_exception
from tools.peers import (
    End,
    HostEnd,
    Peer,
    Whalescale,
    WireGuardGo,
    debian_wireguard_go,
    new_interface,
    newest_wireguard_go,
    outside,
)
from whalescale.identity import encode_node_id, x25519_to_node_ids

GO_KINDS = ["go-debian", "go-newest"]
KINDS = [*GO_KINDS, "kernel"]
#: What boots the virtual machine runs in one of several test processes: there is one machine then.
in_vm = pytest.mark.xdist_group("vm")
of_each_kind = pytest.mark.parametrize("kind", [*GO_KINDS, pytest.param("kernel", marks=in_vm)])
#: An emulated machine is ten times as dear: there only with -m long, what go's sessions tell too.
of_each_go_kind = pytest.mark.parametrize(
    "kind", [*GO_KINDS, pytest.param("kernel", marks=[in_vm, pytest.mark.long])]
)
_numbers = itertools.count()

OUR_ADDRESSES = ("10.77.0.1/24", "fd77::1/64")
THEIR_ADDRESSES = ("10.77.0.2/24", "fd77::2/64")


@pytest.fixture(scope="session", autouse=True)
def _unwind_on_sigterm() -> None:
    terminate_as_exception()


@pytest.fixture(autouse=True)
def _forked(agents_by_nursery: None) -> None:
    """Agents of all these tests are."""


@pytest.fixture(scope="module")
def module_lab() -> Iterator[Lab]:
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces")
    with Lab() as lab:
        yield lab


@pytest.fixture(scope="module")
def machine(module_lab: Lab) -> tuple[Host, virtual.Vm]:
    """A booted machine and the host that its card is joined to."""
    reason = virtual.unavailable()
    if reason:
        pytest.skip(reason)
    host = module_lab.host("ours")
    return host, virtual.Vm(host)


@dataclass
class Pair:
    """Two ends that can reach each other, not started yet."""

    ours: HostEnd
    theirs: End
    #: outer address of ours, of theirs, by family
    our_outer: Callable[[int], str]
    their_outer: Callable[[int], str]
    #: give ours (theirs) another outer address, taking the old one away: (family) -> new address
    move_ours: Callable[[int], str]
    move_theirs: Callable[[int], str]
    _their_peer: Peer | None = None

    def start(
        self,
        *,
        initiator: str,
        psk: str | None = None,
        family: int = 4,
        their_psk: str = "",
        by_node_id: bool = False,
    ) -> None:
        """Start both; only the initiator ("ours" or "theirs") knows where the other is.

        by_node_id: ours takes theirs for a Whalescale node. Every WireGuard key has a node ID.
        """
        node_id = x25519_to_node_ids(base64.b64decode(self.theirs.public_key))[0]
        our_peer = Peer(
            self.theirs.public_key,
            tuple(_single(a) for a in self.theirs.addresses),
            outside(self.their_outer(family), self.theirs.port) if initiator == "ours" else None,
            psk,
            node_id=encode_node_id(node_id) if by_node_id else None,
        )
        their_peer = Peer(
            self.ours.public_key,
            tuple(_single(a) for a in self.ours.addresses),
            outside(self.our_outer(family), self.ours.port) if initiator == "theirs" else None,
            their_psk or psk,
        )
        self._their_peer = their_peer
        starts = [(self.theirs, their_peer), (self.ours, our_peer)]
        for end, peer in starts if initiator == "ours" else reversed(starts):
            end.start(peer)

    def restart_theirs(self) -> None:
        assert self._their_peer is not None
        self.theirs.start(self._their_peer)

    def from_initiator(self, initiator: str) -> tuple[End, End]:
        return (self.ours, self.theirs) if initiator == "ours" else (self.theirs, self.ours)


def _single(address: str) -> str:
    """The network that holds this address alone."""
    ip = address.partition("/")[0]
    return f"{ip}/{128 if ':' in ip else 32}"


def make_ours(host: Host, limits_ms: dict[str, int] | None, port: int = 51820) -> HostEnd:
    name = new_interface()
    if os.environ.get("WHALESCALE_INTEROP_SUBJECT") == "wireguard-go":
        binary = newest_wireguard_go() or debian_wireguard_go()
        assert binary is not None
        return WireGuardGo(host, name, OUR_ADDRESSES, port, binary)
    return Whalescale(host, name, OUR_ADDRESSES, port, limits_ms=limits_ms)


def _go_binary(kind: str) -> Path:
    binary = debian_wireguard_go() if kind == "go-debian" else newest_wireguard_go()
    if binary is None:
        pytest.skip("no such wireguard-go here (`tools/peers.py` tells why)")
    return binary


def _host_pair(lab: Lab, kind: str, limits_ms: dict[str, int] | None) -> Pair:
    number = next(_numbers)
    ours_host, theirs_host = lab.host(f"ours{number}"), lab.host(f"theirs{number}")
    link: Link = lab.link(ours_host, theirs_host)
    binary = _go_binary(kind)

    def move(host: Host, part: int) -> Callable[[int], str]:
        def to_new(family: int) -> str:
            link.remove_address(host, family)
            link.add_address(host, family, part)
            return link.address(host, family, part)

        return to_new

    return Pair(
        make_ours(ours_host, limits_ms),
        WireGuardGo(theirs_host, new_interface(), THEIR_ADDRESSES, 51821, binary),
        lambda family: link.address(ours_host, family),
        lambda family: link.address(theirs_host, family),
        move(ours_host, 11),
        move(theirs_host, 12),
    )


def _machine_pair(
    host: Host, machine: virtual.Vm, limits_ms: dict[str, int] | None
) -> tuple[Pair, Callable[[], None]]:
    moved: list[Callable[[], object]] = []

    def move_ours(family: int) -> str:
        bits = "24" if family == 4 else "64"
        old, new = machine.address(1, family), machine.address(11, family)
        nodad = " nodad" if family == 6 else ""
        host.ip(f"addr del {old}/{bits} dev {machine.device}")
        host.ip(f"addr add {new}/{bits} dev {machine.device}{nodad}")
        moved.append(lambda: host.ip(f"addr del {new}/{bits} dev {machine.device}"))
        moved.append(lambda: host.ip(f"addr add {old}/{bits} dev {machine.device}{nodad}"))
        return new

    def move_theirs(family: int) -> str:
        bits = "24" if family == 4 else "64"
        old, new = machine.address(2, family), machine.address(12, family)
        machine.run(f"ip addr del {old}/{bits} dev eth0; ip addr add {new}/{bits} dev eth0")
        back = f"ip addr del {new}/{bits} dev eth0; ip addr add {old}/{bits} dev eth0"
        moved.append(lambda: machine.run(back))
        return new

    theirs = virtual.KernelWireGuard(machine, f"wg{next(_numbers)}", THEIR_ADDRESSES, 51821)
    pair = Pair(
        make_ours(host, limits_ms),
        theirs,
        lambda family: machine.address(1, family),
        lambda family: machine.address(2, family),
        move_ours,
        move_theirs,
    )

    def undo() -> None:
        for action in moved:
            action()

    return pair, undo


MakePair = Callable[..., Pair]


@pytest.fixture
def make_pair(request: pytest.FixtureRequest, module_lab: Lab) -> Iterator[MakePair]:
    """A function (kind, limits_ms) -> Pair; what it made is stopped after the test."""
    pairs: list[Pair] = []
    undos: list[Callable[[], None]] = []

    def make(kind: str, limits_ms: dict[str, int] | None = None) -> Pair:
        if kind == "kernel":
            host, machine = request.getfixturevalue("machine")
            pair, undo = _machine_pair(host, machine, limits_ms)
            undos.append(undo)
        else:
            pair = _host_pair(module_lab, kind, limits_ms)
        pairs.append(pair)
        return pair

    yield make
    for pair in pairs:
        pair.ours.close()
        pair.theirs.close()
    for undo in undos:
        undo()


@pytest.fixture
def psk() -> str:
    return run("wg", "genpsk").stdout.strip()
