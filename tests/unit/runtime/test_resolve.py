"""Names become endpoints off the loop, again and again where it fails."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from tests.unit.runtime.fakes import until
from whalescale.endpoints import parse_endpoint
from whalescale.protocol.places import Endpoint
from whalescale.runtime import resolve
from whalescale.runtime.resolve import Resolver, lookup

V4 = (socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("192.0.2.7", 51820))
V6 = (socket.AF_INET6, socket.SOCK_DGRAM, 17, "", ("2001:db8::7", 51820, 0, 0))
LINK = (socket.AF_INET6, socket.SOCK_DGRAM, 17, "", ("fe80::7%lo", 51820, 0, 1))


def test_addresses_in_order_without_doubles() -> None:
    found = asyncio.run(lookup("x.example", 51820, lambda *_: [V6, V4, V4, LINK]))
    assert found == [
        Endpoint("2001:db8::7", 51820),
        Endpoint("192.0.2.7", 51820),
        Endpoint("fe80::7", 51820, 1),
    ]


def test_numeric_endpoints_are_there_at_once() -> None:
    texts = ["192.0.2.1:1", "[2001:db8::1]:2", "[fe80::1%lo]:3", "[fe80::1%7]:4"]
    resolver = Resolver("p", [parse_endpoint(t) for t in texts])
    assert resolver.current() == (
        Endpoint("192.0.2.1", 1),
        Endpoint("2001:db8::1", 2),
        Endpoint("fe80::1", 3, socket.if_nametoindex("lo")),
        Endpoint("fe80::1", 4, 7),
    )
    assert not resolver.has_names


def test_an_unknown_zone_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    resolver = Resolver("p", [parse_endpoint("[fe80::1%nosuchif0]:3")])
    assert resolver.current() == ()
    assert "nosuchif0" in caplog.text


def test_failures_are_logged_once_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(resolve, "RETRY_FIRST_S", 0.005)
    answers: list[Sequence[Any] | None] = [None, None, None, [V4]]
    calls: list[str] = []

    def getaddrinfo(host: str, _: int) -> Sequence[Any]:
        calls.append(host)
        answer = answers[min(len(calls) - 1, 3)]
        if answer is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return answer

    async def test() -> None:
        found: list[tuple[Endpoint, ...]] = []
        endpoints = [parse_endpoint("b.example:51820"), parse_endpoint("192.0.2.9:1")]
        resolver = Resolver("berlin", endpoints, found.append, getaddrinfo)
        assert resolver.current() == (Endpoint("192.0.2.9", 1),)
        resolver.start()
        await until(lambda: bool(found))
        # The name comes first in the file, so its addresses are tried first.
        assert found == [(Endpoint("192.0.2.7", 51820), Endpoint("192.0.2.9", 1))]
        # The peer falls silent: the name is looked up again, the same answer changes nothing.
        resolver.handshake_gave_up()
        await until(lambda: len(calls) == 5)
        await asyncio.sleep(0.01)
        assert len(found) == 1
        resolver.close()

    asyncio.run(test())
    assert caplog.text.count("does not resolve") == 1
    assert "berlin" in caplog.text


def test_a_resolver_that_hangs_holds_nothing_up() -> None:
    release = threading.Event()

    def hang(*_: Any) -> Sequence[Any]:
        release.wait(30)
        return [V4]

    async def test() -> None:
        resolver = Resolver("p", [parse_endpoint("b.example:1")], getaddrinfo=hang)
        resolver.start()
        await asyncio.sleep(0.02)
        resolver.close()

    # asyncio.run would wait for a pool's threads here
    asyncio.run(asyncio.wait_for(test(), 5))
    release.set()
