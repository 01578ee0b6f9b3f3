"""What is put back, what is left alone, and how often."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import itertools
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.unit.runtime.fakes import FakeMarks, FakeNetlink
from whalescale.runtime.errors import AgentError
from whalescale.runtime.hoststate import AT_ONCE, LONGEST_S, Keeper, Patience, Repair, Wanted
from whalescale.runtime.netlink import MAIN_TABLE, LinkState, Route, Rule

V4, V6 = ipaddress.ip_interface("10.77.0.1/24"), ipaddress.ip_interface("fd77::1/64")
NEAR, DEFAULT = (Route(ipaddress.ip_network(t), n) for t, n in (("10.88.0.0/24", 254), ("::/0", 9)))
RULES = {Rule(6, 0, MAIN_TABLE), Rule(6, 0, 9)}


class Kept:
    """A tunnel that is whole, and its keeper."""

    def __init__(self) -> None:
        self.kernel, self.marks, self.told = FakeNetlink(), FakeMarks(), list[str]()
        self.kernel.addresses, self.kernel.routes = {V4, V6}, {NEAR, DEFAULT}
        self.kernel.rules = set(RULES)
        self.endpoints = set[str]()
        self.wanted = Wanted(
            1420, 500, frozenset({V4, V6}), frozenset({NEAR, DEFAULT}), frozenset(RULES), (9, 51820)
        )
        self.keeper = Keeper(
            self.kernel.as_netlink(), 7, "ws0", self.marks.as_marks(), lambda: self.wanted,
            asyncio.Lock(), self.told.append, endpoints=lambda: self.endpoints,
        )  # fmt: skip

    @property
    def link(self) -> LinkState:
        assert self.kernel.link is not None
        return self.kernel.link

    def whole(self) -> bool:
        k, w = self.kernel, self.wanted
        there = (k.addresses, k.routes, k.rules, self.marks.there, self.marks.valid)
        here = self.link
        return there == (w.addresses, w.routes, w.rules, w.marks, True) and here == LinkState(
            "ws0", True, 1420, 500
        )


def run(test: Callable[[Kept], Awaitable[None]]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(test(Kept()), 20)

    asyncio.run(limited())


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO, logger="whalescale")
    logging.getLogger("whalescale").propagate = True

    def take() -> list[str]:
        texts = [r.getMessage() for r in caplog.records]
        caplog.clear()
        return texts

    return take


def test_the_first_look_sets_marks_without_a_word(said: Callable[[], list[str]]) -> None:
    async def test(kept: Kept) -> None:
        assert not kept.whole()
        assert await kept.keeper.mend() == []
        assert kept.whole()
        kept.wanted = replace(kept.wanted, marks=(9, 51999))  # another port: nobody took it away
        assert await kept.keeper.mend() == []
        assert kept.whole()
        kept.wanted = replace(kept.wanted, marks=None)
        assert await kept.keeper.mend() == []
        assert kept.whole()
        assert (said(), kept.told, kept.keeper.problems) == ([], [], [])

    run(test)


def test_all_that_was_taken_away_is_put_back_and_said_once(said: Callable[[], list[str]]) -> None:
    async def test(kept: Kept) -> None:
        await kept.keeper.mend()
        other = ipaddress.ip_interface("192.0.2.1/32")
        kept.kernel.addresses = {other}
        kept.kernel.routes, kept.kernel.rules = set(), set()
        kept.kernel.link = replace(kept.link, mtu=1400, queue=1)
        kept.marks.there, kept.marks.valid = None, False
        assert len(await kept.keeper.differences()) == 10
        await kept.keeper.look()
        kept.kernel.addresses.remove(other)  # not ours: it was left alone
        assert kept.whole()
        lines = said()
        assert len(lines) == len(kept.told) == 1
        assert "put back" in lines[0]
        assert "10.77.0.1/24" in lines[0]
        assert "and 4 more" in lines[0]
        await kept.keeper.look()
        assert (said(), await kept.keeper.differences()) == ([], [])

    run(test)


def test_what_is_there_and_no_longer_works_is_mended(said: Callable[[], list[str]]) -> None:
    """No carrier, an address that ends by itself, a network without the kernel's own route."""

    async def test(kept: Kept) -> None:
        # V6's the kernel never made.
        kept.wanted = replace(kept.wanted, connected=frozenset({V4, V6}))
        kept.kernel.routes.add(Route(V4.network))
        await kept.keeper.mend()
        kept.kernel.link = replace(kept.link, carrier=False)
        kept.kernel.ending = {V6}
        kept.kernel.routes.discard(Route(V4.network))
        done = await kept.keeper.mend()
        assert done == ["carrier", "address fd77::1/64", "route 10.77.0.0/24"]
        assert kept.link.carrier
        assert not kept.kernel.ending
        assert len(said()) == 1
        # Down, it has none: that is another matter.
        kept.kernel.link = replace(kept.link, up=False, carrier=False)
        assert await kept.keeper.mend() == []
        assert "was set down" in said()[0]

    run(test)


def test_anothers_route_that_our_own_datagrams_take_is_said(
    said: Callable[[], list[str]],
) -> None:
    async def test(kept: Kept) -> None:
        kept.endpoints = {"192.0.2.7", "203.0.113.7"}
        await kept.keeper.mend()
        kept.kernel.routes.add(Route(ipaddress.ip_network("192.0.2.0/24")))
        kept.kernel.ways["192.0.2.7"] = 3  # by a longer one elsewhere
        await kept.keeper.mend()
        assert said() == []
        kept.kernel.ways["192.0.2.7"] = 7
        for _ in range(2):
            assert await kept.keeper.mend() == []
        (line,) = said()
        assert "the endpoint 192.0.2.7 lies there" in line
        assert "`ip route del 192.0.2.0/24 dev ws0`" in line
        assert kept.keeper.problems == [line]
        kept.kernel.routes.discard(Route(ipaddress.ip_network("192.0.2.0/24")))
        await kept.keeper.mend()
        assert kept.keeper.problems == []

    run(test)


def test_a_longer_queue_is_an_administrators_choice() -> None:
    async def test(kept: Kept) -> None:
        kept.kernel.link = replace(kept.link, queue=10_000)
        await kept.keeper.mend()
        assert kept.link.queue == 10_000

    run(test)


def test_an_interface_that_was_set_down_stays_down_until_a_reload(
    said: Callable[[], list[str]],
) -> None:
    async def test(kept: Kept) -> None:
        await kept.keeper.mend()
        kept.kernel.link = replace(kept.link, up=False)
        kept.kernel.addresses, kept.kernel.routes = {V4}, {DEFAULT}
        for _ in range(3):
            await kept.keeper.look()
        assert not kept.link.up
        assert [line.partition(":")[0] for line in said()] == ["interface ws0 was set down"]
        assert len(kept.keeper.problems) == len(kept.told) == 1
        back = await kept.keeper.restore()
        assert back == ["up", "address fd77::1/64", "route 10.88.0.0/24"]
        assert kept.whole()
        assert not kept.keeper.problems

    run(test)


def test_without_ipv6_the_rest_is_kept(said: Callable[[], list[str]]) -> None:
    async def test(kept: Kept) -> None:
        kept.kernel.link = replace(kept.link, ipv6=False)
        kept.kernel.addresses, kept.kernel.routes = set(), set()
        await kept.keeper.look()
        assert (kept.kernel.addresses, kept.kernel.routes) == ({V4}, {NEAR})
        assert any("disable_ipv6=0" in line for line in said())
        assert await kept.keeper.restore() == []  # a reload goes on
        kept.kernel.link = replace(kept.link, ipv6=True)
        await kept.keeper.look()
        assert kept.whole()

    run(test)


def test_a_small_mtu_takes_ipv6_away_and_one_look_mends_both() -> None:
    async def test(kept: Kept) -> None:
        await kept.keeper.mend()
        set_mtu = kept.kernel.set_mtu

        async def with_ipv6(index: int, mtu: int) -> None:
            await set_mtu(index, mtu)
            kept.kernel.link = replace(kept.link, ipv6=True, link_local=True)
            kept.kernel.addresses.add(ipaddress.ip_interface("fe80::1234/64"))

        kept.kernel.set_mtu = with_ipv6  # type: ignore[method-assign]
        kept.kernel.link = replace(kept.link, mtu=576, ipv6=False)
        kept.kernel.addresses, kept.kernel.routes = {V4}, {NEAR}
        await kept.keeper.look()
        assert kept.whole()
        assert not kept.keeper.problems

    run(test)


def test_a_change_that_is_under_way_is_no_fault(said: Callable[[], list[str]]) -> None:
    """The MTU falls below 1280 after it was looked at: the addresses that go cannot be added."""

    async def test(kept: Kept) -> None:
        await kept.keeper.mend()
        kernel = kept.kernel
        add_address, set_mtu = kernel.add_address, kernel.set_mtu

        async def without_ipv6(index: int, address: Any) -> None:
            if address == V6 and set_mtu_again == []:
                kernel.link = replace(kept.link, mtu=576, ipv6=False)
                raise OSError(errno.EINVAL, "Invalid argument")
            await add_address(index, address)

        async def with_ipv6(index: int, mtu: int) -> None:
            set_mtu_again.append(mtu)
            await set_mtu(index, mtu)
            kernel.link = replace(kept.link, ipv6=True)

        set_mtu_again: list[int] = []
        kernel.add_address, kernel.set_mtu = without_ipv6, with_ipv6  # type: ignore[method-assign]
        kernel.addresses = {V4}
        await kept.keeper.look()
        assert kept.whole()
        assert not kept.keeper.problems
        assert not [line for line in said() if "cannot" in line]

    run(test)


def test_what_cannot_be_put_back_is_said_once_and_fails_a_reload(
    said: Callable[[], list[str]],
) -> None:
    async def test(kept: Kept) -> None:
        await kept.keeper.mend()
        kept.kernel.routes.discard(NEAR)
        kept.kernel.refused[NEAR] = errno.EEXIST
        for _ in range(3):
            await kept.keeper.look()
        assert [line for line in said() if "10.88.0.0/24" in line] == kept.keeper.problems
        with pytest.raises(AgentError, match="another route"):
            await kept.keeper.restore()
        kept.kernel.refused.clear()
        await kept.keeper.restore()
        assert kept.whole()
        # Without nftables most hosts work all the same.
        kept.marks.there, kept.marks.refused = None, errno.EOPNOTSUPP
        assert await kept.keeper.restore() == []
        assert len(kept.keeper.problems) == 1

    run(test)


def test_moved_and_renamed_are_said(said: Callable[[], list[str]]) -> None:
    async def test(kept: Kept) -> None:
        await kept.keeper.mend()
        kept.kernel.link = replace(kept.link, name="zz0")
        await kept.keeper.look()
        assert "is now named zz0" in said()[0]
        kept.kernel.link = None
        for _ in range(2):
            await kept.keeper.look()
        assert ["another network namespace" in line for line in said()][:1] == [True]
        with pytest.raises(AgentError, match="namespace"):
            await kept.keeper.restore()

    run(test)


def test_patience_runs_out_and_comes_back() -> None:
    patience, repair, now = Patience(), Repair("route", None, "_add_route"), 0.0
    made: list[float] = []
    told: list[float] = []
    while now < 600:  # somebody takes it away at once, for ten minutes
        if patience.due(repair, now) <= now:
            made.append(now)
            if patience.made(repair, now):
                told.append(now)
        now += 0.1
    assert made[AT_ONCE - 1] < 1
    assert len(made) < 60
    assert len(told) == 1
    assert max(b - a for a, b in itertools.pairwise(made)) <= LONGEST_S
    # Long after that it is put back at once again.
    patience.made(repair, now + 1000)
    assert patience.due(repair, now + 1000) == now + 1000


def test_a_hot_loop_is_told_once(said: Callable[[], list[str]], monkeypatch: Any) -> None:
    async def test(kept: Kept) -> None:
        await kept.keeper.mend()
        for _ in range(50):
            kept.kernel.routes.discard(NEAR)
            await kept.keeper.look()
        lines = said()
        assert len(lines) == AT_ONCE
        assert NEAR not in kept.kernel.routes

    run(test)
