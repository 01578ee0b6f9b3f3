"""UPnP, against a gateway on loopback that does well, badly, or harm."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.runtime.igd import FakeIgd, http
from whalescale import config as configuration
from whalescale.dataplane import engine as dataplane
from whalescale.protocol.places import Endpoint, LocalLink
from whalescale.runtime import upnp
from whalescale.runtime.background import Background
from whalescale.runtime.notices import Notices
from whalescale.runtime.part import Here
from whalescale.runtime.portmap import PortMapper
from whalescale.runtime.upnp import At, Mapped, Upnp, UpnpRefused

#: of this process alone: tests run beside each other
PLACE = f"127.{128 | os.getpid() >> 8 & 127}.{os.getpid() & 255}"
PORT = 40123


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upnp, "SEARCH_AT", (0.0,))
    monkeypatch.setattr(upnp, "SEARCH_S", 0.5)


def played(play: Callable[[FakeIgd, Upnp], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        gateway = FakeIgd(f"{PLACE}.1")
        await gateway.start()
        try:
            return await play(gateway, Upnp(At(gateway.ip, f"{PLACE}.2", PORT, 1)))
        finally:
            gateway.stop()

    return asyncio.run(main())


def refused(prepare: Callable[[FakeIgd], Any]) -> tuple[str, FakeIgd, Upnp]:
    """Why, after a word of that kind to the gateway."""

    async def play(gateway: FakeIgd, igd: Upnp) -> tuple[str, FakeIgd, Upnp]:
        prepare(gateway)
        with pytest.raises(UpnpRefused) as said:
            await igd.map()
        assert not gateway.mappings
        return str(said.value), gateway, igd

    found: tuple[str, FakeIgd, Upnp] = played(play)
    return found


def test_mapped_looked_at_renewed_and_given_back() -> None:
    async def play(gateway: FakeIgd, igd: Upnp) -> None:
        assert await igd.map() == Mapped(Endpoint("5.6.7.8", PORT), 7200)
        assert gateway.mappings == {PORT: (f"{PLACE}.2", PORT, 7200)}
        assert await igd.listed()
        assert (await igd.map()).external.port == PORT
        gateway.mappings.clear()
        assert not await igd.listed()
        await igd.map()
        await igd.give_back()
        assert gateway.mappings == {}

    played(play)


def test_a_gateway_with_permanent_leases_only_is_asked_for_one() -> None:
    """Error 725. It is taken back at the end, and renewed as if it had an end."""

    async def play(gateway: FakeIgd, igd: Upnp) -> None:
        gateway.permanent_only = True
        assert (await igd.map()).lifetime == 7200
        assert gateway.mappings == {PORT: (f"{PLACE}.2", PORT, 0)}
        await igd.give_back()
        assert gateway.mappings == {}

    played(play)


def test_another_port_where_ours_is_somebody_elses() -> None:
    async def play(gateway: FakeIgd, igd: Upnp) -> None:
        gateway.taken = {PORT}
        port = (await igd.map()).external.port
        assert port != PORT
        assert gateway.mappings[port][:2] == (f"{PLACE}.2", PORT)
        assert (await igd.map()).external.port == port

    played(play)
    why, gateway, _ = refused(lambda g: setattr(g, "taken", range(65536)))
    assert why == "has given the port to somebody else"
    assert len(gateway.asked) < 12


def test_a_private_address_outside_is_no_mapping() -> None:
    for outside in ("192.168.7.3", "100.64.0.9", "0.0.0.0", "", "x"):  # noqa: S104
        why, gateway, _ = refused(lambda g, ip=outside: setattr(g, "external", ip))
        assert why.startswith("has ")
        assert all("Add" not in path for _, path in gateway.asked)


def test_a_mapping_that_is_not_there_though_it_says_so() -> None:
    why, *_ = refused(lambda g: setattr(g, "lies", True))
    assert why == "says that it maps the port and has no such mapping"


HUGE = "x" * (10 << 20)
BOMB = '<!DOCTYPE root [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>\n'


@pytest.mark.parametrize(
    ("prepare", "why"),
    [
        pytest.param({"name": HUGE}, "describes more than can be read", id="10 MB"),
        pytest.param({"doctype": BOMB, "name": "&b;"}, "answers nonsense", id="entities"),
        pytest.param(
            {"doctype": '<!DOCTYPE root SYSTEM "http://127.0.0.9/x">\n'},
            "",
            id="another document",
        ),
        pytest.param({"control": "http://127.0.0.9:80/ctl"}, "offers no", id="control elsewhere"),
        pytest.param({"scpd": "http://127.0.0.9:80/x"}, "offers no", id="description elsewhere"),
        pytest.param({"scpd": "file:///etc/passwd"}, "offers no", id="a file"),
        pytest.param({"control": "http://[::1"}, "offers no", id="no URL"),
        pytest.param({"name": "</friendlyName>"}, "answers nonsense", id="no XML"),
        pytest.param({"name": "<device>" * 9000}, "answers nonsense", id="deep and unclosed"),
        pytest.param(
            {"name": "</friendlyName>" + "<a>" * 9000 + "</a>" * 9000 + "<friendlyName>"},
            "",
            id="deep",
        ),
    ],
)
def test_a_hostile_description(prepare: dict[str, str], why: str) -> None:
    """Nobody but the gateway is sent to, and it is read no further than it may go on."""

    async def play(gateway: FakeIgd, igd: Upnp) -> None:
        for name, value in prepare.items():
            setattr(gateway, name, value)
        with socket.create_server(("127.0.0.9", 0)):
            if why:
                with pytest.raises(UpnpRefused, match=why):
                    await igd.map()
            else:
                await igd.map()
        assert len(gateway.asked) <= upnp.MOST_REQUESTS

    played(play)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (http(302, "", "Location: http://127.0.0.9/root.xml"), "nonsense"),
        (http(500, "no"), "nonsense"),
        (http(404, ""), "nonsense"),
        (b"\x00\xff" * 400, "nonsense"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 9000 + b"\r\n", "nonsense"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\nabc", "nonsense"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (1 << 20), "more than can be read"),
        (http(200, "<?xml version='1.0' encoding='utf-32'?><a/>"), "nonsense"),
    ],
    ids=["redirect", "500", "404", "bytes", "headers", "cut", "no end", "encoding"],
)
@pytest.mark.parametrize("path", ["/root.xml", "/scpd.xml", "/ctl"])
def test_nonsense_for_an_answer(answer: bytes, why: str, path: str) -> None:
    def instead(_: str, asked: str) -> bytes | None:
        return answer if asked == path else None

    said, gateway, _ = refused(lambda g: setattr(g, "instead", instead))
    assert said
    assert why in said or path == "/scpd.xml"
    assert len(gateway.asked) < 8


def test_a_slow_gateway_is_given_up_and_blocks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upnp, "REQUEST_S", 0.4)

    async def play(gateway: FakeIgd, igd: Upnp) -> None:
        gateway.drip = 0.05
        upnp._library()
        turns, began = 0, time.monotonic()

        async def turn() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0.01)
                turns += 1

        other = asyncio.create_task(turn())
        with pytest.raises(UpnpRefused, match="too long"):
            await igd.map()
        other.cancel()
        assert time.monotonic() - began < 5
        assert turns > 5

    played(play)


@pytest.mark.parametrize(
    "where",
    [
        "http://127.0.0.9:80/root.xml",
        "https://{ip}/root.xml",
        "http://{ip}@127.0.0.9/root.xml",
        "http://{ip}.example.net/root.xml",
        "http://{ip}:99999/root.xml",
        "file:///etc/passwd",
        "http://[::1/",
        "",
    ],
)
def test_a_place_that_is_not_the_gateways_is_not_asked(where: str) -> None:
    def prepare(gateway: FakeIgd) -> None:
        gateway.location = where.format(ip=gateway.ip) or "\x00"

    why, gateway, igd = refused(prepare)
    assert why == "no answer to UPnP"
    assert gateway.asked == []
    assert igd.drops["upnp_location"]


def test_an_answer_from_another_address_is_not_heard() -> None:
    async def play(gateway: FakeIgd, igd: Upnp) -> None:
        igd._at = At(f"{PLACE}.4", f"{PLACE}.2", PORT, 1)
        at, drops = igd._at, igd.drops
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as searched:
            searched.bind((at.gateway, 1900))
            searched.setblocking(False)
            looking = asyncio.create_task(upnp.search(at, drops))
            loop = asyncio.get_running_loop()
            _, asker = await loop.sock_recvfrom(searched, 2048)
            where = f"HTTP/1.1 200 OK\r\nLOCATION: http://{at.gateway}/x\r\n\r\n".encode()
            gateway.transport.sendto(where, asker)
            assert await looking == []
        assert drops["upnp_source"] == 1

    played(play)


def test_the_agents_part_takes_upnp_where_nothing_else_is_spoken() -> None:
    """Nobody listens for PCP: the mapping is told, and given back when the part ends."""

    async def play(gateway: FakeIgd, _: Upnp) -> None:
        told: list[Any] = []
        background = Background()

        async def way(ifindex: int, mark: int, version: int) -> str | None:
            return gateway.ip if version == 4 else None

        text = '[interface]\nname = "ws0"\nprivate_key_file = "ws0.key"\n[nat]\nportmap = true\n'
        part = PortMapper(
            configuration.parse(text, Path("ws0.toml")),
            way,
            lambda: 0,
            told.append,
            lambda place: bytes(12),
            dataplane.now,
            background,
            Notices(),
        )
        part.follow(Here((), (LocalLink(f"{PLACE}.2", 1, "lo", 65536),), PORT))
        async with asyncio.timeout(20):
            while not told:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        (found,) = part.status()["gateways"]
        assert (found["protocol"], found["external"]) == ("UPnP", f"5.6.7.8:{PORT}")
        assert told == [(("lo", Endpoint("5.6.7.8", PORT)),)]
        await background.cancel()
        await part.close()
        assert gateway.mappings == {}

    played(play)
