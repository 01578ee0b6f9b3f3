"""Which routes and rules are wanted, and how they are put in and taken out as one."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import time
from dataclasses import replace
from typing import Any

import pytest

from tests.unit.runtime.fakes import FakeNetlink
from whalescale.runtime.errors import AgentError
from whalescale.runtime.netlink import MAIN_TABLE, Route, Rule
from whalescale.runtime.routes import Routes, free_table, rules_for, wanted_routes


def net(text: str) -> Any:
    return ipaddress.ip_network(text)


def pair(version: int, length: int = 0, table: int = 51820) -> set[Rule]:
    return {Rule(version, length, MAIN_TABLE), Rule(version, length, table)}


@pytest.fixture
def kernel() -> FakeNetlink:
    return FakeNetlink()


def test_which_routes_are_wanted() -> None:
    own = [ipaddress.ip_interface("10.77.0.1/24"), ipaddress.ip_interface("fd77::1/128")]
    allowed = [net(t) for t in ("10.77.0.0/24", "10.77.0.2/32", "0.0.0.0/0", "::/0", "fd77::2/128")]
    assert wanted_routes(allowed, own, 51820) == {
        Route(net("10.77.0.2/32"), MAIN_TABLE),
        Route(net("fd77::2/128"), MAIN_TABLE),
        Route(net("0.0.0.0/0"), 51820),
        Route(net("::/0"), 51820),
    }


def test_what_holds_an_endpoint_goes_to_the_table_of_its_own() -> None:
    texts = ("0.0.0.0/1", "128.0.0.0/1", "198.51.100.0/24", "10.0.0.0/8", "2000::/3", "fd00::/8")
    routes = wanted_routes([net(t) for t in texts], (), 51820, ["198.51.100.7", "2001:db8::7"])
    apart = {str(r.network) for r in routes if r.table == 51820}
    assert apart == {"128.0.0.0/1", "198.51.100.0/24", "2000::/3"}
    assert rules_for(routes) == pair(4, 1) | pair(4, 24) | pair(6, 3)
    # The longer first, the kernel's own tables last; of 0 bits as wg-quick(8) has them.
    priorities = [r.priority for n in (24, 1, 0) for r in sorted(pair(4, n), key=lambda r: r.table)]
    assert priorities == [32716, 32717, 32762, 32763, 32764, 32765]
    assert [r.suppressed for r in (Rule(4, 24, 51820), Rule(4, 0, 51820))] == [23, None]
    assert [Rule(4, n, MAIN_TABLE).suppressed for n in (24, 0)] == [24, 0]


def test_many_networks_and_endpoints_cost_little() -> None:
    networks = [net((10 << 24 | i << 8, 24)) for i in range(20_000)]
    endpoints = [str(ipaddress.ip_address(10 << 24 | i << 8 | 1)) for i in range(0, 20_000, 2)]
    begun = time.process_time()
    routes = wanted_routes(networks, (), 51820, endpoints)
    assert sum(r.table == 51820 for r in routes) == 10_000
    assert time.process_time() - begun < 5  # a look at each pair would take minutes


def test_routes_and_rules_are_put_in_and_taken_out(kernel: FakeNetlink) -> None:
    async def test() -> None:
        ours = Routes(kernel.as_netlink(), 7, "ws0")
        first = {
            Route(net("10.0.0.0/8")),
            Route(net("0.0.0.0/0"), 51820),
            Route(net("::/0"), 51820),
        }
        await ours.apply(first)
        assert (kernel.routes, kernel.rules) == (first, pair(4) | pair(6))
        assert ours.table == 51820
        assert ours.swallow("10.1.2.3")
        assert not ours.swallow("192.0.2.1")
        second = {Route(net("10.0.0.0/8")), Route(net("::/0"), 51820)}
        await ours.apply(second)
        assert (kernel.routes, kernel.rules) == (second, pair(6))
        await ours.clear()
        assert (kernel.routes, kernel.rules, ours.table) == (set(), set(), 0)

    asyncio.run(test())


@pytest.mark.parametrize("refused", [Route(net("10.2.0.0/16")), Rule(6, 0, 51820)])
def test_a_refused_route_takes_back_what_was_added(kernel: FakeNetlink, refused: Any) -> None:
    async def test() -> None:
        ours = Routes(kernel.as_netlink(), 7, "ws0")
        before = {Route(net("10.0.0.0/8"))}
        await ours.apply(before)
        kernel.refused[refused] = errno.EEXIST
        wanted = {
            Route(net("10.1.0.0/16")),
            Route(net("10.2.0.0/16")),
            Route(net("0.0.0.0/0"), 51820),
            Route(net("::/0"), 51820),
        }
        with pytest.raises(AgentError, match="there already"):
            await ours.apply(wanted)
        assert (kernel.routes, kernel.rules, ours.routes) == (before, set(), before)

    asyncio.run(test())


def test_the_routes_of_a_peer_say_how_little_it_takes(kernel: FakeNetlink) -> None:
    async def test() -> None:
        one, two, three = (net(f"10.{n}.0.0/16") for n in (1, 2, 3))
        routes = Routes(kernel.as_netlink(), 7, "ws0")

        def told() -> dict[str, int]:
            return {str(r.network): r.mtu for r in kernel.routes}

        await routes.apply({Route(one), Route(two)})
        await routes.set_mtus({one: 1300, three: 1290})
        assert told() == {"10.1.0.0/16": 1300, "10.2.0.0/16": 0}
        # What comes later, and what the keeper puts back, has it from the start.
        await routes.apply({Route(one), Route(three)})
        assert told() == {"10.1.0.0/16": 1300, "10.3.0.0/16": 1290}
        assert {r.mtu for r in routes.routes} == {1300, 1290}
        await routes.set_mtus({})
        assert set(told().values()) == {0}

    asyncio.run(test())


def test_what_the_interface_cannot_take_now_is_noted(kernel: FakeNetlink) -> None:
    async def test() -> None:
        ours = Routes(kernel.as_netlink(), 7, "ws0")
        assert kernel.link is not None
        wanted = {Route(net("10.0.0.0/8")), Route(net("fd00::/8")), Route(net("::/0"), 51820)}
        kernel.link = replace(kernel.link, ipv6=False)
        await ours.apply(wanted)
        assert (kernel.routes, kernel.rules) == ({Route(net("10.0.0.0/8"))}, set())
        assert (ours.routes, ours.rules) == (wanted, pair(6))
        kernel.link = replace(kernel.link, up=False)
        await ours.apply(wanted | {Route(net("10.9.0.0/16"))})
        assert len(kernel.routes) == 1
        await ours.clear()
        assert not kernel.routes

    asyncio.run(test())


def test_the_first_free_table_is_taken(kernel: FakeNetlink) -> None:
    kernel.routes = {Route(net("0.0.0.0/0"), 51820), Route(net("0.0.0.0/0"), 51821)}
    assert asyncio.run(free_table(kernel.as_netlink())) == 51822
