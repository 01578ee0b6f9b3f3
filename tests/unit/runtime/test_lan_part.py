"""The agent's part that speaks on links, with a zeroconf that speaks to nobody."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from whalescale import config as configuration
from whalescale.protocol.mesh import lan
from whalescale.protocol.places import Endpoint, LocalLink
from whalescale.runtime.background import Background
from whalescale.runtime.lan import Lan
from whalescale.runtime.notices import MembersChanged, Notices
from whalescale.runtime.part import Here

NET, OURS, THEIRS = b"n" * 16, b"1" * 32, b"2" * 32
TEXT = '[interface]\nname = "ws0"\nprivate_key_file = "ws0.key"\n'
ETH = LocalLink("192.168.1.7", 2, "eth0", 1500, prefix_length=24)
WLAN = LocalLink("10.0.0.7", 3, "wlan0", 1500, prefix_length=24)


def config(more: str = "") -> configuration.Config:
    return configuration.parse(TEXT + more, Path("ws0.toml"))


class Library:
    """zeroconf.asyncio, as far as the part uses it."""

    def __init__(self) -> None:
        self.open: list[Any] = []
        self.refuse = ""
        self.loads = 0
        library = self

        class AsyncZeroconf:
            def __init__(self, interfaces: list[str | int]) -> None:
                if library.refuse:
                    raise OSError(98, library.refuse)
                self.interfaces = interfaces
                self.said: Any = None
                self.sent = 0
                self.listener: Any = None
                library.open.append(self)
                self.zeroconf = SimpleNamespace(
                    async_wait_for_start=self.nothing,
                    engine=SimpleNamespace(readers=[], senders=[SimpleNamespace(sock=self)]),
                    async_add_listener=self.listen,
                    async_remove_listener=lambda _: None,
                    async_send=self.send,
                    generate_unregister_all_services=lambda: "goodbye",
                    registry=SimpleNamespace(async_remove=lambda _: None),
                )

            def getsockopt(self, *_: int) -> int:
                return 0

            def setsockopt(self, _level: int, _option: int, value: int) -> None:
                self.bound = value

            async def nothing(self) -> None:
                pass

            def listen(self, listener: Any, _: None) -> None:
                self.listener = listener

            def send(self, _: Any) -> None:
                self.sent += 1

            async def async_register_service(self, info: Any, cooperating_responders: bool) -> Any:
                self.said = info
                return asyncio.get_running_loop().create_future()

            async def async_close(self) -> None:
                library.open.remove(self)

        self.AsyncZeroconf = AsyncZeroconf
        self.AsyncServiceInfo = lambda kind, name, **more: SimpleNamespace(name=name, **more)

    def load(self) -> Any:
        self.loads += 1
        return self


class Bench:
    def __init__(self, text: str = "") -> None:
        self.library = Library()
        self.told: list[Any] = []
        self.belongs = True
        self.notices = Notices()
        members = [SimpleNamespace(subject=n) for n in (OURS, THEIRS)]
        self.mesh: Any = SimpleNamespace(
            network_id=NET, node_id=OURS, membership=SimpleNamespace(members=lambda: members)
        )
        self.part = Lan(
            config(text),
            self.network,
            self.told.append,
            lambda: 1,
            Background(),
            self.notices,
            self.library.load,
        )

    def network(self) -> Any:
        if self.mesh is not None:
            self.mesh.belongs = self.belongs
        return self.mesh

    def follow(self, *links: LocalLink) -> None:
        self.part.follow(Here((), links, 51820))

    async def until(self, true: Any) -> None:
        async with asyncio.timeout(20):
            while not true():  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    async def settled(self) -> None:
        await self.until(lambda: not self.part._settling.running)


def run(bench: Bench, steps: Any) -> None:
    async def all_of_it() -> None:
        await steps()
        await bench.part.close()
        assert not bench.library.open

    asyncio.run(all_of_it())


def hear(link: Any, node_id: bytes, *places: Endpoint) -> None:
    said = lan.KEY + lan.encode(NET, node_id, b"nonce678", places)
    record = SimpleNamespace(
        type=16, name="x._whalescale._udp.local.", text=bytes([len(said)]) + said, ttl=100
    )
    other = SimpleNamespace(type=16, name="x._ipp._tcp.local.", text=record.text, ttl=100)
    link.listener.async_update_records(None, 0.0, [SimpleNamespace(new=r) for r in (other, record)])


def test_each_uplink_says_its_own_address_and_hears() -> None:
    bench = Bench()

    async def steps() -> None:
        bench.follow(ETH, WLAN)
        await bench.until(lambda: len(bench.part.status()["interfaces"]) == 2)
        await bench.settled()
        one, two = bench.library.open
        assert (one.interfaces, one.bound, two.interfaces, two.bound) == (
            ["192.168.1.7"],
            2,
            ["10.0.0.7"],
            3,
        )
        assert one.said.parsed_addresses == ["192.168.1.7"]
        assert one.said.name != two.said.name
        said = lan.decode(one.said.properties[b"w"])
        assert said.places == (Endpoint("192.168.1.7", 51820),)
        there = Endpoint("192.168.1.9", 51820)
        hear(one, THEIRS, there)
        assert bench.told == [{THEIRS: (there,)}]
        assert bench.part.status()["near"] == 1
        bench.follow(WLAN)
        await bench.until(lambda: bench.library.open == [two])
        assert bench.told[-1] == {}
        assert one.sent >= 2, "asked, and said goodbye"

    run(bench, steps)


@pytest.mark.parametrize(
    "more", ["[network]\nlan = false\n", '[exit]\nuse = "home"\nlan = false\n']
)
def test_switched_off_nothing_is_said_nor_imported(more: str) -> None:
    bench = Bench(more)

    async def steps() -> None:
        bench.follow(ETH)
        await bench.settled()
        assert not bench.library.open
        assert not bench.library.loads
        await bench.part.apply(config())
        await bench.until(lambda: bench.library.open)
        await bench.part.apply(config(more))
        await bench.until(lambda: not bench.library.open)

    run(bench, steps)


def test_it_begins_with_the_network_and_ends_with_it() -> None:
    bench = Bench()
    bench.belongs = False

    async def steps() -> None:
        bench.follow(ETH)
        await bench.settled()
        assert not bench.library.loads
        bench.belongs = True
        bench.notices.tell(MembersChanged())
        await bench.until(lambda: bench.library.open)
        await bench.settled()
        bench.belongs = False
        bench.notices.tell(MembersChanged())
        await bench.until(lambda: not bench.library.open)

    run(bench, steps)


def test_a_port_that_another_holds_alone_is_said_so() -> None:
    bench = Bench()
    bench.library.refuse = "Address in use"

    async def steps() -> None:
        bench.follow(ETH)
        await bench.until(lambda: bench.part.status()["problems"])
        assert "Address in use" in bench.part.status()["problems"]["eth0"]
        await bench.settled()
        bench.library.refuse = ""
        bench.part._settling.soon()
        await bench.until(lambda: bench.library.open)
        assert not bench.part.status()["problems"]

    run(bench, steps)


def test_an_agent_does_not_import_it_to_start() -> None:
    code = "import sys, whalescale.agent; print('zeroconf' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_its_import_runs_no_program() -> None:
    """The sandbox refuses that; ifaddr has ctypes look for libc by ldconfig or a compiler."""
    code = (
        "import os, subprocess, whalescale.runtime.lan as lan\n"
        "def refuse(*a, **k): raise SystemExit('a program')\n"
        "os.posix_spawn = os.fork = subprocess.Popen = refuse\n"
        "print(lan._load().__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "zeroconf.asyncio"
