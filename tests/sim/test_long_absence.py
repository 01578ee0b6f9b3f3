"""Ten minutes without any network, or asleep: how soon packets flow again (docs/nat.md)."""

from __future__ import annotations

import pytest
from eventqueue import MS, SECOND
from homeworld import HomeWorld
from test_punching import home

ABSENT = 600


def until_answered(world, a, b, most=20.0):
    """Seconds until one of `a`'s packets, one each 100 ms, was answered by `b`; None: none was."""
    to, back, begin, answered = world.handle(a, b), world.handle(b, a), world.now, 0
    a.received.clear()
    b.received.clear()
    while world.now - begin < most * SECOND:
        if (world.now - begin) % (100 * MS) == 0:
            a.send(to, b"\x45ping")
        world.doze(0.01)
        for host in (a, b):
            host.sample()
        for _ in b.received[answered:]:
            answered += 1
            b.send(back, b"\x45pong")
        if a.received:
            return (world.now - begin) / SECOND
    return None


def together(seed, one="port-restricted", two="port-restricted"):
    world = HomeWorld(seed)
    a, b, *hubs = world.meet(home(one, 1), home(two, 2), anchors=2)
    assert world.ping(a, b).first is not None
    world.run(20)
    return world, a, b, hubs


def cut(world, *hosts):
    gone = {host.at for host in hosts}
    routers = {world.homes[host.at].ip for host in hosts}
    world.passes = lambda source, to, _: (
        source not in gone and to not in gone and to.ip not in routers
    )


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long)])
@pytest.mark.parametrize("told", [True, False])
def test_the_link_is_gone_for_ten_minutes(seed, told):
    """`told`: the host sees its address go and come."""
    world, a, b, _ = together(seed)
    links = [world.link_of(a)]
    cut(world, a)
    if told:
        a.node.set_locals([], a.at.port, world.now)
        a.drain()
        world.arm(a)
    world.run(ABSENT + seed * 1.7)
    world.passes = lambda *_: True
    if told:
        a.node.set_locals(links, a.at.port, world.now)
        a.drain()
        world.arm(a)
    took = until_answered(world, a, b)
    assert took is not None
    assert took < (2 if told else 5.5)  # the next of a series of attempts, at worst


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long)])
@pytest.mark.parametrize("kinds", ["port-restricted", "symmetric"])
def test_asleep_for_ten_minutes(seed, kinds):
    world, a, b, _ = together(seed, kinds, kinds)
    world.sleep(a)
    world.doze(ABSENT + seed * 1.7)
    world.wake(a)
    took = until_answered(world, a, b)
    assert took is not None
    assert took < 2


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long)])
def test_both_without_a_network_for_ten_minutes_and_nobody_says_so(seed):
    """The other end finds out by its next attempt at its anchors, one in five seconds."""
    world, a, b, _ = together(seed)
    cut(world, a, b)
    world.run(ABSENT + seed * 1.7)
    world.passes = lambda *_: True
    took = until_answered(world, a, b)
    assert took is not None
    assert took < 5.5


class Ahead:
    """The world as one host's clock has it."""

    def __init__(self, world, host):
        self._world, self.ahead = world, 0
        host.world = self

    @property
    def now(self):
        return self._world.now + self.ahead

    def arm(self, host):
        world, when = self._world, host.node.poll_timeout()
        if when is not None:
            at = when - self.ahead
            if world._armed.get(host.at, at + 1) > at:
                world._armed[host.at] = at
                world.later(at - world.now, lambda: world._fire(host, at))

    def __getattr__(self, name):
        return getattr(self._world, name)


@pytest.mark.parametrize("seed", [1, 2, pytest.param(3, marks=pytest.mark.long)])
def test_two_seconds_for_one_end_and_ten_minutes_for_the_other(seed):
    """As where a process was stopped and its clock put forward: the other one's session goes on,
    and its paths lead to where the router had the sleeper before."""
    world, a, b, _ = together(seed)
    clock = Ahead(world, a)
    for _ in range(4):
        world.sleep(a)
        world.homes[a.at].forget()
        world.doze(2)
        clock.ahead += ABSENT * SECOND
        world.hosts[a.at] = a
        a.node.woke(clock.now)
        a.drain()
        clock.arm(a)
        took = until_answered(world, a, b)
        assert took is not None
        assert took < 2
        world.run(8)
