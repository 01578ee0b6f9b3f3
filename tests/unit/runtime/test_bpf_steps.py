"""The agent's side of the eBPF programs, over a double of the loader."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Sequence
from typing import Any, cast

import msgspec
import pytest

from tests.unit.runtime.fakes import here
from whalescale import status
from whalescale.dataplane.engine import Addr
from whalescale.dataplane.programs import Hook, PathCounts, Program, Programs, ShieldStats
from whalescale.runtime.bpf import Bpf
from whalescale.runtime.netlink import LocalAddress
from whalescale.tui.paths import shield as line

LO = 1


class FakePrograms:
    def __init__(self) -> None:
        self.attached: dict[int, Hook] = {}
        self.ports: list[int] = []
        self.locals: list[str] = []
        self.broadcasts: list[str] = []
        self.known: list[str] = []
        self.refuse: set[int] = set()
        self.attempts = 0
        self.check_error = 0
        self.closed = False
        self.loaded = Program.SHIELD | Program.PATHS

    def attach(self, ifindex: int, hook: Hook) -> Hook:
        self.attempts += 1
        if ifindex in self.refuse:
            raise OSError(errno.EOPNOTSUPP, "eBPF programs: not here")
        self.attached[ifindex] = hook
        return hook

    def detach(self, ifindex: int) -> None:
        del self.attached[ifindex]

    def set_ports(self, ports: Sequence[int]) -> None:
        self.ports = list(ports)

    def set_locals(self, addresses: Sequence[str], broadcasts: Sequence[str] = ()) -> None:
        self.locals, self.broadcasts = list(addresses), list(broadcasts)

    def add_known(self, ip: str) -> None:
        self.known.append(ip)

    def remove_known(self, ip: str) -> None:
        self.known.remove(ip)

    def check(self) -> None:
        if self.check_error:
            raise OSError(self.check_error, "eBPF maps")

    def close(self) -> None:
        self.closed = True

    def shield_stats(self) -> ShieldStats:
        return ShieldStats(10, 2, 1, 1, 1, 3, 4)

    def paths(self) -> Any:
        rx, tx = PathCounts(5, 500, (0, 0, 0, 0, 5, 0)), PathCounts(0, 0, (0,) * 6)
        return {(Addr("fd00::1", 1), Addr("10.0.0.2", 2)): (rx, tx)}, tx


def make(hook: Hook = Hook.TC) -> tuple[Bpf, FakePrograms]:
    fake = FakePrograms()
    return Bpf("", cast(Programs, fake), hook), fake


def at(ip: str, ifindex: int) -> LocalAddress:
    return LocalAddress(ip, ifindex, False)


def test_interfaces_and_addresses_come_and_go() -> None:
    bpf, fake = make()
    bpf.follow(here([at("10.0.0.1", 2), at("fd00::1", 2), at("10.1.0.1", 3)], port=51820))
    assert fake.attached == {2: Hook.TC, 3: Hook.TC}
    assert fake.locals == ["10.0.0.1", "fd00::1", "10.1.0.1"]
    bpf.follow(here([at("10.1.0.1", 3)], port=51820))
    assert fake.attached == {3: Hook.TC}
    assert fake.attempts == 2
    bpf.set_port(4000)
    assert fake.ports == [4000]
    assert fake.locals == ["10.1.0.1"]


def test_an_interface_that_takes_no_program_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    bpf, fake = make()
    fake.refuse.add(7)
    for _ in range(3):
        bpf.follow(here([at("10.0.0.1", 7), at("10.1.0.1", 3)], port=1))
    assert fake.attached == {3: Hook.TC}
    assert len([r for r in caplog.records if "interface 7" in r.message]) == 1


def test_addresses_of_peers_are_known_and_forgotten() -> None:
    bpf, fake = make()
    bpf.know("10.0.0.9")
    bpf.know("10.0.0.8")
    bpf.forget("10.0.0.9")
    assert fake.known == ["10.0.0.8"]


@pytest.mark.parametrize(("number", "why"), [(errno.EPERM, "5.19"), (errno.EIO, "error")])
def test_off_when_the_maps_cannot_be_read_after_the_drop(number: int, why: str) -> None:
    bpf, fake = make()
    fake.check_error = number
    bpf.confirm()
    assert fake.closed
    told = bpf.status()
    assert told["state"] == "off"
    assert why in told["reason"]
    bpf.follow(here([at("10.0.0.1", 2)], port=1))
    bpf.know("10.0.0.9")
    bpf.forget("10.0.0.9")
    assert not fake.attached
    assert not fake.known


def test_off_by_the_configuration() -> None:
    bpf = Bpf.load("ws0", wanted=False, xdp=False)
    assert bpf.status() == {"state": "off", "reason": "[dataplane] bpf = false"}
    asyncio.run(bpf.close())


def test_status_has_the_shape_that_ws_reads() -> None:
    bpf, _ = make(Hook.XDP)
    bpf.follow(here([at("127.0.0.1", LO)], port=1))
    told = msgspec.convert(bpf.status(), status.Bpf)
    assert told.hooks == {"lo": "xdp"}
    assert told.paths[0].local == "[fd00::1]:1"
    assert told.paths[0].rx.types == {"transport": 5}
    assert line(told) == "shield on lo (xdp), dropped 10"
    assert line(status.Bpf(reason="x")) == "off, because x"


def test_broadcast_addresses_of_our_networks_are_named() -> None:
    bpf, fake = make()
    addresses = [
        LocalAddress("10.0.0.1", 2, False, 24),
        LocalAddress("192.0.2.0", 2, False, 31),
        LocalAddress("192.0.2.9", 2, False, 32),
        LocalAddress("fd00::1", 2, False, 64),
        LocalAddress("172.16.255.255", 3, False, 12),
    ]
    bpf.follow(here(addresses, port=1))
    assert fake.locals == [a.ip for a in addresses]
    assert set(fake.broadcasts) == {"10.0.0.255", "10.0.0.0", "172.31.255.255", "172.16.0.0"}
