"""The agent's part that asks gateways, against one on loopback."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.unit.protocol.nat.gateway import GATEWAY, OUTSIDE, Gateway
from whalescale import config as configuration
from whalescale.dataplane import engine as dataplane
from whalescale.protocol.limits import NS_PER_S
from whalescale.protocol.nat.portmap import Protocol
from whalescale.protocol.places import Endpoint, LocalLink, Standing
from whalescale.runtime import upnp
from whalescale.runtime.background import Background
from whalescale.runtime.notices import MappingDialled, Notices, PortChanged
from whalescale.runtime.part import Here
from whalescale.runtime.portmap import PortMapper, behind_nat, maybe_walled, nonce_of

#: of this process alone: tests run beside each other
PLACE = f"127.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"
LO = LocalLink(f"{PLACE}.2", 1, "lo", 65536)
TEXT = '[interface]\nname = "ws0"\nprivate_key_file = "ws0.key"\n'


def config(on: bool) -> configuration.Config:
    return configuration.parse(f"{TEXT}[nat]\nportmap = {str(on).lower()}\n", Path("ws0.toml"))


class Served(asyncio.DatagramProtocol):
    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        answer = self.gateway.answer(data, dataplane.now())
        if answer is not None:
            self.transport.sendto(answer, addr)


class Bench:
    def __init__(self, *, on: bool = True) -> None:
        self.gateway = Gateway(Protocol.PCP, Protocol.NATPMP)
        self.told: list[Sequence[tuple[str, Endpoint]]] = []
        self.background, self.notices = Background(), Notices()
        self.ways: dict[int, str] = {1: f"{PLACE}.1"}
        self.ways6: dict[int, str] = {}
        self.part = self.new(on=on)

    def new(self, *, on: bool = True) -> PortMapper:
        return PortMapper(
            config(on),
            self.way,
            lambda: 0,
            self.told.append,
            lambda place: nonce_of(place, b"k" * 32),
            dataplane.now,
            self.background,
            self.notices,
        )

    async def way(self, ifindex: int, _: int, version: int) -> str | None:
        return self.ways.get(ifindex) if version == 4 else self.ways6.get(ifindex)

    def follow(self, *links: LocalLink, port: int = 51820) -> None:
        self.part.follow(Here((), links, port))

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    @property
    def first(self) -> dict[str, Any]:
        gateways: list[dict[str, Any]] = self.part.status()["gateways"]
        return gateways[0] if gateways else {}


def played(play: Callable[[Bench], Any], *, on: bool = True, served: bool = True) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        bench = Bench(on=on)
        transport = None
        if served:
            transport, _ = await loop.create_datagram_endpoint(
                lambda: Served(bench.gateway), local_addr=(f"{PLACE}.1", GATEWAY.port)
            )
        try:
            await play(bench)
        finally:
            await bench.background.cancel()
            await bench.part.close()
            if transport is not None:
                transport.close()

    asyncio.run(main())


def test_mapped_told_and_given_back() -> None:
    async def play(bench: Bench) -> None:
        bench.follow(LO)
        await bench.until(lambda: bool(bench.told))
        assert bench.told == [(("lo", Endpoint(OUTSIDE, 51820)),)]
        assert bench.first["state"] == "mapped"
        assert bench.first["external"] == f"{OUTSIDE}:51820"
        assert 7000 < bench.first["lease_s"] <= 7200
        bench.follow(LO)  # nothing new: nobody is asked again
        asked = len(bench.gateway.asked)
        bench.notices.tell(PortChanged(40000))
        await bench.until(lambda: len(bench.gateway.asked) >= asked + 2)
        ended, begun = bench.gateway.asked[asked:]
        assert (ended[4:8], begun[4:8].hex()) == (bytes(4), "00001c20")
        assert (ended[40:42], begun[40:42]) == ((51820).to_bytes(2), (40000).to_bytes(2))
        await bench.until(lambda: bench.first["state"] == "mapped")
        bench.follow()  # the uplink is gone
        await bench.until(lambda: bench.told[-1] == ())
        await bench.until(lambda: bench.gateway.asked[-1][4:8] == bytes(4))

    played(play)


def test_off_asks_nobody_and_gives_back_what_there_was() -> None:
    async def play(bench: Bench) -> None:
        bench.follow(LO)
        await asyncio.sleep(0.05)
        assert bench.part.status() == {"enabled": False, "gateways": []}
        await bench.part.apply(config(True))
        await bench.until(lambda: bool(bench.told))
        await bench.part.apply(config(False))
        await bench.until(lambda: bench.told[-1] == ())
        await bench.until(lambda: bench.gateway.asked[-1][4:8] == bytes(4))

    played(play, on=False)


def test_a_gateway_where_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upnp, "SEARCH_S", 0.1)

    async def play(bench: Bench) -> None:
        bench.follow(LO)
        await bench.until(lambda: bench.first.get("state") == "silent")
        assert "no answer to PCP, NAT-PMP and UPnP" in bench.first["problem"]
        assert bench.told == []

    played(play, served=False)


def test_what_another_address_sends_is_not_read() -> None:
    """The kernel sees to it: the socket is connected."""

    async def play(bench: Bench) -> None:
        bench.gateway.speaks = ()
        bench.follow(LO)
        await bench.until(lambda: bool(bench.gateway.asked))
        bench.gateway.speaks = (Protocol.PCP,)
        answer = bench.gateway.answer(bench.gateway.asked[0], dataplane.now())
        assert answer is not None
        (asked,) = bench.part._asked.values()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind((f"{PLACE}.3", GATEWAY.port))
            other.sendto(answer, asked._sock.getsockname())
        bench.gateway.speaks = ()
        await asyncio.sleep(0.05)
        assert bench.told == []
        assert bench.first["drops"] == {}

    played(play)


def test_only_uplinks_behind_a_nat_with_a_router_are_asked() -> None:
    async def play(bench: Bench) -> None:
        bench.ways = {1: f"{PLACE}.1", 2: f"{PLACE}.9"}
        public = LocalLink("5.6.7.8", 2, "eth0", 1500)
        bench.follow(public, LocalLink("fe80::1", 1, "lo", 1500, True), LO, LO._replace(ifindex=3))
        await bench.until(lambda: bool(bench.told))
        assert len(bench.part.status()["gateways"]) == 1

    played(play)
    for ip in ("10.0.0.2", "192.168.1.2", "100.64.0.9", "172.16.1.1"):
        assert behind_nat(LO._replace(ip=ip))
    for ip in ("5.6.7.8", "2600::1", "fd00::1", "169.254.3.4"):
        assert not behind_nat(LO._replace(ip=ip))


def test_a_lease_is_renewed_by_the_clock() -> None:
    async def play(bench: Bench) -> None:
        shift = 0
        bench.part._now = lambda: dataplane.now() + shift
        bench.follow(LO)
        await bench.until(lambda: bench.first.get("state") == "mapped")
        shift = 3601 * NS_PER_S
        (asked,) = bench.part._asked.values()
        asked._on_timer()
        asked_at = len(bench.gateway.asked)
        await bench.until(lambda: len(bench.gateway.asked) > asked_at)
        await bench.until(lambda: bench.first["lease_s"] > 7000)

    played(play)


def test_the_nonce_is_the_same_for_a_place_and_no_other() -> None:
    key, place = bytearray(b"k" * 32), b"192.168.1.1 192.168.1.2 51820"
    found = nonce_of(place, key)
    assert len(found) == 12
    assert found == nonce_of(place, bytes(key))
    assert len({found, nonce_of(place + b"1", key), nonce_of(place, b"l" * 32)}) == 3


def test_an_agent_that_was_killed_is_known_to_the_gateway() -> None:
    async def play(bench: Bench) -> None:
        bench.gateway.speaks = (Protocol.PCP,)
        bench.follow(LO)
        await bench.until(lambda: bool(bench.told))
        killed, bench.part = bench.part, bench.new()
        bench.follow(LO)
        await bench.until(lambda: bench.first.get("state") in ("mapped", "refused"))
        assert (bench.first["state"], bench.first["problem"]) == ("mapped", "")
        await killed.close()

    played(play)


def test_of_several_addresses_the_one_in_the_gateways_subnet() -> None:
    async def play(bench: Bench) -> None:
        far = LocalLink("10.0.0.5", 1, "lo", 65536, prefix_length=32)
        bench.follow(far, LO._replace(prefix_length=24))
        await bench.until(lambda: bool(bench.told))
        assert bench.first["local"] == f"{LO.ip}:51820"

    played(play)


def test_what_was_dialled_is_shown_and_what_lets_nobody_in_is_given_back() -> None:
    async def play(bench: Bench) -> None:
        bench.follow(LO)
        await bench.until(lambda: bool(bench.told))
        assert bench.first["dialled"] is None
        place = Endpoint(OUTSIDE, 51820)
        bench.notices.tell(MappingDialled(Endpoint(OUTSIDE, 9), False))
        bench.notices.tell(MappingDialled(place, True))
        assert bench.first["dialled"] is True
        bench.notices.tell(MappingDialled(place, False))
        assert (bench.first["state"], bench.first["dialled"]) == ("refused", False)
        assert bench.told[-1] == ()
        await bench.until(lambda: bench.gateway.asked[-1][4:8] == bytes(4))

    played(play)


def test_what_gateways_tell_all_is_heard_from_the_gateway_alone() -> None:
    async def play(bench: Bench) -> None:
        bench.follow(LO)
        await bench.until(lambda: bool(bench.told))
        bench.gateway.started = dataplane.now()
        word = bench.gateway.word(Protocol.PCP, dataplane.now())
        bench.part._word(1, word, Endpoint(f"{PLACE}.9", GATEWAY.port))
        bench.part._word(2, word, Endpoint(f"{PLACE}.1", GATEWAY.port))
        assert bench.first["restarts"] == 0
        bench.part._word(1, word, Endpoint(f"{PLACE}.1", GATEWAY.port))
        await bench.until(lambda: bench.first["restarts"] == 1)

    played(play)


def test_of_an_uplinks_public_ipv6_addresses_two_are_asked_for() -> None:
    six = LocalLink("2a00:1450::7", 1, "lo", 65536)
    assert maybe_walled(six)
    old = six._replace(standing=Standing.DEPRECATED)
    for link in (six._replace(ip="fd00::1"), six._replace(ip="fe80::1"), LO, old):
        assert not maybe_walled(link)

    async def play(bench: Bench) -> None:
        bench.ways, bench.ways6 = {}, {1: "::1"}
        found = await bench.part._wanted()
        assert found == []
        temporary = six._replace(ip="2a00:1450::6", standing=Standing.TEMPORARY)
        bench.part._here = Here((), (temporary, old, six, six._replace(ip="2a00:1450::9"), LO), 9)
        found = await bench.part._wanted()
        assert [where.ip for where in found] == ["2a00:1450::7", "2a00:1450::9"]
        assert {where.version for where in found} == {6}

    played(play)
