"""Endpoint names: which servers are asked how, and what comes of it."""

from __future__ import annotations

import asyncio
import errno
import itertools
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from whalescale.protocol.places import Endpoint
from whalescale.runtime.names import Conf, Names, NoSuchName

ZONE = {
    ("vpn.example.", "A"): ["192.0.2.7"],
    ("vpn.example.", "AAAA"): ["2001:db8::7"],
    ("four.example.", "A"): ["192.0.2.4"],
    ("host.lan.example.", "A"): ["192.0.2.5"],
}
#: what a name is another name of, one after the other
ALIASES = {
    "alias.example.": ["mid.example.", "far.example.", "vpn.example."],
    "loop.example.": ["round.example.", "loop.example."],
    "dead.example.": ["gone.example."],
}


class Server(asyncio.DatagramProtocol):
    """Answers from ZONE; what `change` makes of an answer, None: nothing."""

    def __init__(self, change: Callable[[bytes], bytes | None]) -> None:
        self.change = change
        self.asked: list[str] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: object) -> None:
        query = dns.message.from_wire(data)
        (question,) = query.question
        name, kind = question.name.to_text(), dns.rdatatype.to_text(question.rdtype)
        self.asked.append(f"{name} {kind}")
        answer = dns.message.make_response(query)
        if found := ZONE.get((name, kind)):
            answer.answer.append(dns.rrset.from_text(name, 60, "IN", kind, *found))
        elif name in ALIASES:
            for one, other in itertools.pairwise([name, *ALIASES[name]]):
                answer.answer.append(dns.rrset.from_text(one, 60, "IN", "CNAME", other))
            if found := ZONE.get((ALIASES[name][-1], kind)):
                answer.answer.append(dns.rrset.from_text(ALIASES[name][-1], 60, "IN", kind, *found))
        elif not any(name == known for known, _ in ZONE):
            answer.set_rcode(dns.rcode.NXDOMAIN)
        wire = self.change(answer.to_wire())
        if wire is not None:
            self.transport.sendto(wire, addr)  # type: ignore[arg-type]


@asynccontextmanager
async def serving(
    change: Callable[[bytes], bytes | None] = lambda wire: wire,
) -> AsyncIterator[tuple[Server, int]]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(
        lambda: Server(change), local_addr=("127.0.0.1", 0)
    )
    try:
        yield server, transport.get_extra_info("sockname")[1]
    finally:
        transport.close()


async def no_fallback(host: str, port: int) -> list[Endpoint]:
    raise OSError(errno.ENOENT, f"{host} is no business of DNS")


def names(
    tmp_path: Path,
    port: int,
    conf: str = "nameserver 127.0.0.1\n",
    hosts: str = "",
    fallback: Callable[[str, int], Awaitable[list[Endpoint]]] = no_fallback,
    own: frozenset[str] = frozenset(),
) -> Names:
    (tmp_path / "resolv.conf").write_text(conf)
    (tmp_path / "hosts").write_text(hosts)
    return Names(
        mark=lambda: 0,
        uplinks=lambda: (),
        own=lambda: own,
        fallback=fallback,
        resolv_conf=tmp_path / "resolv.conf",
        hosts=tmp_path / "hosts",
        port=port,
    )


def test_both_families_ipv6_first(tmp_path: Path) -> None:
    async def run() -> None:
        async with serving() as (server, port):
            asked = names(tmp_path, port)
            both = [Endpoint("2001:db8::7", 51820), Endpoint("192.0.2.7", 51820)]
            assert await asked.lookup("vpn.example", 51820) == both
            assert await asked.lookup("four.example", 1) == [Endpoint("192.0.2.4", 1)]
            assert sorted(server.asked[:2]) == ["vpn.example. A", "vpn.example. AAAA"]

    asyncio.run(run())


def test_a_lost_answer_for_ipv6_holds_nothing_up(tmp_path: Path) -> None:
    """1.5 s are a question's own limit: for the first packet to a name they are five too many."""

    def lose(wire: bytes) -> bytes | None:
        (question,) = dns.message.from_wire(wire).question
        return None if question.rdtype == dns.rdatatype.AAAA else wire

    async def run() -> None:
        loop = asyncio.get_running_loop()
        async with serving(lose) as (_, port):
            begun = loop.time()
            found = await names(tmp_path, port).lookup("vpn.example", 51820)
            assert found == [Endpoint("192.0.2.7", 51820)]
            assert loop.time() - begun < 1.2

    asyncio.run(run())


def test_hosts_go_before_servers(tmp_path: Path) -> None:
    hosts = "# VPN\n192.0.2.9 other VPN.example # here\n2001:db8::9\tvpn.example\nbad vpn.example\n"

    async def run() -> None:
        found = await names(tmp_path, 1, hosts=hosts).lookup("vpn.example", 5)
        assert found == [Endpoint("2001:db8::9", 5), Endpoint("192.0.2.9", 5)]

    asyncio.run(run())


def test_search_domains(tmp_path: Path) -> None:
    async def run() -> None:
        async with serving() as (_, port):
            conf = "search other.example lan.example\nnameserver 127.0.0.1\n"
            found = await names(tmp_path, port, conf).lookup("host", 5)
            assert found == [Endpoint("192.0.2.5", 5)]

    asyncio.run(run())


def test_names_in_order() -> None:
    conf = Conf(["192.0.2.1"], ["a.example", "b.example."], 2)
    assert conf.names("host.x") == ["host.x.a.example.", "host.x.b.example.", "host.x."]
    assert conf.names("x.y.z")[0] == "x.y.z."
    assert conf.names("host.") == ["host."]


def test_what_dns_does_not_know_another_source_may(tmp_path: Path) -> None:
    async def other(host: str, port: int) -> list[Endpoint]:
        return [Endpoint("192.0.2.33", port)]

    async def run() -> None:
        async with serving() as (server, port):
            asked = names(tmp_path, port, fallback=other)
            assert await asked.lookup("machine", 5) == [Endpoint("192.0.2.33", 5)]
            server.asked.clear()
            assert await asked.lookup("printer.local", 5) == [Endpoint("192.0.2.33", 5)]
            assert server.asked == []
            with pytest.raises(NoSuchName):
                await names(tmp_path, port)._by_dns("machine", Conf(["127.0.0.1"], [], 1))

    asyncio.run(run())


@pytest.mark.parametrize(
    "change",
    [
        lambda wire: bytes(2) + wire[2:] if wire[:2] != bytes(2) else b"\1\1" + wire[2:],
        lambda wire: wire[:20],
        lambda wire: b"",
        lambda wire: None,
    ],
    ids=["another ID", "cut", "empty", "silence"],
)
def test_what_is_no_answer_is_waited_past(
    tmp_path: Path,
    change: Callable[[bytes], bytes | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("whalescale.runtime.names.ANSWER_S", 0.1)

    async def run() -> None:
        async with serving(change) as (_, port):
            with pytest.raises(OSError, match="no name server answers"):
                await names(tmp_path, port).lookup("vpn.example", 5)

    asyncio.run(run())


def test_chains_of_aliases(tmp_path: Path) -> None:
    async def run() -> None:
        async with serving() as (_, port):
            asked = names(tmp_path, port)
            both = [Endpoint("2001:db8::7", 5), Endpoint("192.0.2.7", 5)]
            assert await asked.lookup("alias.example", 5) == both
            for name in ("loop.example", "dead.example"):
                with pytest.raises(OSError, match=r"name server|no business of DNS"):
                    await asked.lookup(name, 5)

    asyncio.run(run())


def _cut_off(wire: bytes) -> bytes:
    answer = dns.message.from_wire(wire)
    answer.answer.clear()
    answer.flags |= dns.flags.TC
    return answer.to_wire()


def test_what_a_server_gives_by_tcp_only_is_asked_for_elsewhere(tmp_path: Path) -> None:
    """The sandbox allows no TCP; the resolver's process may use it."""
    calls: list[str] = []

    async def other(host: str, port: int) -> list[Endpoint]:
        calls.append(host)
        return [Endpoint("192.0.2.7", port)]

    async def run() -> None:
        async with serving(_cut_off) as (_, port):
            asked = names(tmp_path, port, fallback=other)
            assert await asked.lookup("vpn.example", 5) == [Endpoint("192.0.2.7", 5)]
            assert calls == ["vpn.example"]

    asyncio.run(run())


def test_never_by_the_tunnel_itself(tmp_path: Path) -> None:
    async def run() -> None:
        async with serving() as (server, port):
            asked = names(tmp_path, port, own=frozenset({"127.0.0.1"}))
            with pytest.raises(OSError, match="behind this tunnel"):
                await asked.lookup("vpn.example", 5)
            assert server.asked == []

    asyncio.run(run())


def test_a_word_that_is_no_name(tmp_path: Path) -> None:
    async def run() -> None:
        with pytest.raises(OSError, match="no name"):
            await names(tmp_path, 1).lookup("x" * 70 + ".example", 5)

    asyncio.run(run())


def test_sockets_carry_the_mark(tmp_path: Path) -> None:
    asked = names(tmp_path, 5353)
    asked._mark = lambda: 51820
    try:
        with asked._socket("192.0.2.1", 0) as sock:
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == 51820
    except OSError as e:
        pytest.skip(f"no route or no right here: {e}")
