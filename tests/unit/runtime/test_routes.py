"""Which routes and rules are wanted, and how they are put in and taken out as one."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.runtime.fakes import FakeNetlink, Host, here
from whalescale.config_shapes import Config, InterfaceConfig
from whalescale.identity import Identity
from whalescale.protocol.inside import OVERLAY
from whalescale.runtime.background import Background
from whalescale.runtime.errors import AgentError
from whalescale.runtime.netlink import MAIN_TABLE, LocalAddress, Route, Rule
from whalescale.runtime.routes import (
    Cover,
    Holders,
    Routes,
    free_table,
    rules_for,
    wanted_routes,
)
from whalescale.runtime.routing import Routing
from whalescale.runtime.tunnel import Change, Origin, PeerSpec


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


def test_which_networks_hold_an_address_or_a_network() -> None:
    texts = ("10.0.0.0/8", "10.66.0.0/16", "fd00::/8", "0.0.0.0/0")
    holders = Holders(net(t) for t in texts)
    assert {str(n) for n in holders.of("10.66.1.2")} == {"0.0.0.0/0", "10.0.0.0/8", "10.66.0.0/16"}
    assert {str(n) for n in holders.of("fd12::1")} == {"fd00::/8"}
    few = Holders([net("10.66.0.0/16"), net("fd00::/8")])
    held = [t for t in ("10.66.0.0/16", "10.66.3.0/24", "10.0.0.0/8", "fd12::7/128", "fe00::/8")
            if few.hold(net(t))]  # fmt: skip
    assert held == ["10.66.0.0/16", "10.66.3.0/24", "fd12::7/128"]


def test_a_covered_route_is_put_in_only_to_say_an_mtu(kernel: FakeNetlink) -> None:
    async def test() -> None:
        hosts = [net(f"10.66.0.{n}/32") for n in (2, 3)]
        routes = Routes(kernel.as_netlink(), 7, "ws0")
        routes.cover = Cover(Holders([net("10.66.0.0/16")]))
        asked = {Route(net("10.9.0.0/16"))}
        await routes.apply(asked)
        assert kernel.routes == routes.asked == asked
        elsewhere = net("10.67.0.2/32")  # no route of ours leads there
        await routes.set_mtus({hosts[0]: 1300, elsewhere: 1300}, hosts[:1])
        assert kernel.routes == routes.routes == {Route(net("10.9.0.0/16")), Route(hosts[0])}
        assert next(r.mtu for r in kernel.routes if r.network == hosts[0]) == 1300
        await routes.apply(asked)
        assert len(kernel.routes) == 2
        await routes.set_mtus({})
        assert kernel.routes == routes.routes == {Route(net("10.9.0.0/16"))}

    asyncio.run(test())


@pytest.mark.parametrize("table", ["auto", 77])
def test_members_of_a_network_need_no_route_each(kernel: FakeNetlink, table: Any) -> None:
    """Two thousand took seconds of an agent's start, and each look at them half a second."""

    async def test() -> None:
        host = Host(1, "192.0.2.1")
        # The kernel's own route to the network's prefix is in the main table alone.
        prefix = {"10.66.0.0/16"} if table == 77 else set()
        interface = InterfaceConfig(name="ws0", private_key_file=Path("ws0.key"), table=table)
        config = Config(path=Path("ws0.toml"), interface=interface)
        own = [ipaddress.ip_interface("10.66.0.1/16"), ipaddress.ip_interface("fd77::1/128")]
        routes = Routes(kernel.as_netlink(), 7, "ws0")
        changing = asyncio.Lock()
        keeper: Any = SimpleNamespace(mend=_nothing)
        device: Any = SimpleNamespace(fwmark=0, set_fwmark=lambda _: None)
        background = Background()
        routing = Routing(
            config, kernel.as_netlink(), routes, device, host.tunnel, keeper,
            lambda _: own, changing, background, host.notices,
        )  # fmt: skip

        def spec(n: int, origin: Origin, *more: str) -> PeerSpec:
            networks = tuple(net(t) for t in (f"10.66.{n}.2/32", *more))
            who = Identity.from_seed(bytes([n]) * 32).node_id
            return PeerSpec(f"m{n}", node_id=who, allowed_ips=networks, origin=origin)

        async def routed() -> set[str]:
            async with changing:
                await routing.route(host.tunnel.networks(), ())
            assert {r.table for r in kernel.routes} == {MAIN_TABLE if table == "auto" else table}
            return {str(r.network) for r in kernel.routes}

        try:
            specs = [spec(n, Origin.MESH) for n in range(2, 40)]
            host.tunnel.commit(Change(add=specs))
            assert await routed() == {str(OVERLAY), *prefix}
            assert host.tunnel.events[-1]["event"] == f"{len(specs)} members added"
            # Networks behind a member, and a peer of the file.
            more = [spec(40, Origin.MESH, "192.168.9.0/24"), spec(41, Origin.FILE)]
            host.tunnel.commit(Change(add=more))
            by_hand = str(next(n for n in host.tunnel.networks() if n.version == 6 and
                               n in _peer(host, "m41").networks))  # fmt: skip
            found = {str(OVERLAY), *prefix, "192.168.9.0/24", "10.66.41.2/32", by_hand}
            assert await routed() == found
            # One that takes less has a route that says so, in the same table.
            await routes.set_mtus({net("10.66.9.2/32"): 1300}, {net("10.66.9.2/32")})
            assert await routed() == {*found, "10.66.9.2/32"}
            await routes.set_mtus({})
            assert await routed() == found
            # A LAN within the network's prefix would have those of its members.
            routing.follow(here([LocalAddress("10.66.7.9", 3, False, 24)]))
            await background.cancel()
            assert await routed() >= {"10.66.7.2/32"}
            # In a table of its own the prefix would take what the LAN has in the main table.
            assert ("10.66.8.2/32" in await routed()) == bool(prefix)
            assert not prefix & await routed()
            # Another tunnel of this host has the route for all overlay addresses.
            await routes.clear()
            kernel.refused[Route(OVERLAY, 77 if prefix else MAIN_TABLE)] = errno.EEXIST
            found = await routed()
            assert str(OVERLAY) not in found
            assert sum(t.endswith("/128") for t in found) == len(specs) + len(more)
            assert await routed() == found
        finally:
            host.close()

    asyncio.run(test())


def _peer(host: Host, name: str) -> Any:
    return next(p for p in host.tunnel.peers.values() if p.spec.name == name)


async def _nothing() -> list[str]:
    return []
