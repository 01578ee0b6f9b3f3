"""How often which peer's paths are looked at, and what the tunnel may carry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from whalescale.dataplane.multipath import PATH_FIELDS
from whalescale.protocol.limits import NS_PER_MS, NS_PER_S
from whalescale.protocol.paths.types import PacketLimit, PathSample, PathSpec, SetPaths
from whalescale.protocol.places import Endpoint
from whalescale.runtime import multipath as module
from whalescale.runtime.multipath import Multipath

SPEC = PathSpec(0, None, Endpoint("192.0.2.1", 51820), 0, usable=True)


class Bench:
    """Node, loop and data plane at once: `packets` is what the last counted, by peer."""

    def __init__(self, peers: int) -> None:
        self.now = 100 * NS_PER_S
        self.packets: Counter[int] = Counter()
        self.looks: Counter[int] = Counter()
        self.samples: Counter[int] = Counter()
        self.broken: set[int] = set()
        self.faults: list[str] = []
        self.limits: list[int | None] = []
        #: paths of the peer that bring data
        self.arriving: set[int] = set()
        self._due: tuple[int, Callable[[], None]] | None = None
        #: packets a second of a peer
        self.rates: dict[int, int] = {}
        numbers = {handle: handle for handle in range(peers)}
        engine: Any = SimpleNamespace(mtu=1420)
        self.multipath = Multipath(
            cast(Any, self),
            engine,
            numbers,
            lambda: self.now,
            drain=lambda: None,
            on_fault=lambda what, _: self.faults.append(what),
            on_limit=self.limits.append,
        )
        self.multipath._paths = cast(Any, self)
        for handle in numbers:
            self.multipath.prepare(handle, handle, reset=False)
            self.multipath.apply(handle, handle, SetPaths((SPEC,), schedule=True))
        self.multipath.start(cast(Any, self))

    # the loop

    def call_later(self, delay: float, call: Callable[[], None]) -> Any:
        assert delay > 0
        due = self._due = (self.now + int(delay * NS_PER_S), call)

        def cancel() -> None:
            if self._due is due:
                self._due = None

        return SimpleNamespace(cancel=cancel)

    def run(self, seconds: float) -> None:
        end = self.now + int(seconds * NS_PER_S)
        while self._due is not None and self._due[0] <= end:
            at, call = self._due
            for handle, rate in self.rates.items():
                self.packets[handle] += rate * (at - self.now) // NS_PER_S
            self.now, self._due = at, None
            call()
        self.now = end

    def guest(self, _: Any) -> Any:
        return self

    # the data plane

    def prepare(self, number: int, packet_bytes: int, *, reset: bool) -> None:
        assert packet_bytes == self.multipath.longest_mtu

    def set_paths(self, *_: Any, **__: Any) -> None:
        pass

    def path_activity(self, number: int) -> int:
        self.looks[number] += 1
        return self.packets[number]

    def path_counters(self, number: int, ids: frozenset[int]) -> dict[int, tuple[int, ...]]:
        found: dict[int, tuple[int, ...]] = dict.fromkeys(ids, ())
        for path in self.arriving:
            found[path] = tuple(
                self.packets[number] if name == "rx_packets" else 0 for name in PATH_FIELDS
            )
        return found

    # the node

    def path_samples(self, handle: int, samples: dict[int, PathSample], now: int) -> None:
        assert samples.keys() == {0, *self.arriving}
        assert now == self.now
        self.samples[handle] += 1
        if handle in self.broken:
            raise ValueError("a fault")


def test_one_busy_peer_does_not_hurry_a_thousand_idle_ones() -> None:
    bench = Bench(1001)
    bench.rates[500] = 10_000
    bench.run(10)
    assert 95 <= bench.samples.pop(500) <= 105
    bench.looks.pop(500)
    assert max(bench.looks.values()) <= 42
    assert 300 <= sum(bench.samples.values()) <= 8 * 42
    assert max(bench.samples.values()) == 1  # by turns


def test_few_idle_peers_are_sampled_each_second() -> None:
    bench = Bench(20)
    bench.run(20)
    assert all(15 <= bench.samples[handle] <= 21 for handle in range(20))


def test_a_peer_lingers_and_then_is_idle() -> None:
    bench = Bench(2)
    bench.rates[0] = 1000
    bench.run(10)
    bench.rates.clear()
    before = bench.samples[0]
    bench.run(2)
    assert 18 <= bench.samples[0] - before <= 22
    before = bench.samples[0]
    bench.run(10)
    assert 7 <= bench.samples[0] - before <= 13


def test_a_trickle_is_sampled_as_it_comes() -> None:
    bench = Bench(1)
    bench.rates[0] = 8  # one or two each look
    bench.run(10)
    assert 38 <= bench.samples[0] <= 42


def test_a_peer_whose_samples_fail_ends_nobody_elses() -> None:
    bench = Bench(3)
    bench.broken.add(0)
    bench.rates.update({0: 1000, 1: 1000})
    bench.run(10)
    assert bench.samples[1] >= 95
    assert bench.samples[2] >= 7
    assert len(bench.faults) == bench.samples[0]
    assert set(bench.faults) == {"path samples"}
    assert bench.samples[0] <= 42  # it fails no more often than an idle one is looked at


def test_the_tunnel_follows_the_largest_limit_and_each_peers_routes_their_own() -> None:
    bench = Bench(3)
    paths = bench.multipath
    for handle, limit in ((0, 1400), (1, 1300)):
        paths.apply(handle, handle, PacketLimit(limit))
    assert paths.limit is None  # the third takes whatever is configured
    assert [paths.limit_of(n) for n in range(3)] == [1400, 1300, None]
    paths.apply(2, 2, PacketLimit(1350))
    assert bench.limits == [None, None, 1400]
    # That a peer schedules no more is no word on its limit.
    paths.apply(1, 1, SetPaths((), schedule=False))
    bench.run(120)
    assert paths.limit_of(1) == 1300
    paths.apply(0, 0, PacketLimit(1290))
    assert paths.limit == 1350


def test_a_limit_is_lowered_at_once_and_raised_late_for_each_peer_by_itself() -> None:
    bench = Bench(2)
    paths = bench.multipath
    for handle in (0, 1):
        paths.apply(handle, handle, PacketLimit(1290))
        paths.apply(handle, handle, PacketLimit(None))
    bench.run(module.RAISE_AFTER / NS_PER_S - 1)
    assert (paths.limit, paths.limit_of(0)) == (1290, 1290)
    # One that flaps holds nobody else up.
    paths.apply(0, 0, PacketLimit(1280))
    bench.run(2)
    assert (paths.limit, paths.limit_of(0), paths.limit_of(1)) == (None, 1280, None)
    paths.forget(0)
    assert paths.limit_of(0) is None


def test_the_first_look_comes_at_once() -> None:
    bench = Bench(1)
    bench.run(10 * NS_PER_MS / NS_PER_S)
    assert bench.looks[0] == 1


def test_a_peer_that_is_told_to_be_busy_is_sampled_from_then_on() -> None:
    bench = Bench(2)
    bench.run(0.26)  # the next look is a quarter of a second away
    before = bench.samples[0]
    bench.rates[0] = 10_000
    bench.multipath.wake(0)
    bench.run(0.03)
    assert bench.samples[0] - before == 1
    bench.multipath.wake(0)  # it is busy already
    bench.multipath.wake(7)  # and this one is not known
    bench.run(0.2)
    assert bench.samples[0] - before == 3


def test_who_falls_silent_at_once_is_idle_after_a_while() -> None:
    bench = Bench(1)
    bench.multipath.wake(0)
    bench.run(2 * module.LINGER_NS / NS_PER_S)
    before = bench.samples[0]
    bench.run(5)
    assert bench.samples[0] - before <= 6


def one_path(bench: Bench, *, schedule: bool = False) -> None:
    bench.multipath.apply(0, 0, SetPaths((SPEC,), schedule=schedule))


def test_one_path_is_sampled_seldom_however_busy() -> None:
    bench = Bench(1)
    one_path(bench)
    bench.rates[0] = 100_000
    bench.arriving = {0}
    bench.run(10)
    assert 38 <= bench.samples[0] <= 42


def test_a_second_path_is_sampled_at_once() -> None:
    bench = Bench(1)
    one_path(bench)
    bench.rates[0] = 100_000
    bench.run(5.01)
    before = bench.samples[0]
    one_path(bench, schedule=True)
    bench.run(0.03)
    assert bench.samples[0] - before == 1
    bench.run(0.5)
    assert bench.samples[0] - before >= 5


def test_a_peer_that_sends_by_several_paths_is_sampled_often() -> None:
    bench = Bench(1)
    one_path(bench)
    bench.rates[0] = 100_000
    bench.arriving = {0, 1}
    bench.run(5)
    assert bench.samples[0] >= 45


def test_many_that_begin_together_do_not_put_each_other_off() -> None:
    bench = Bench(300)
    bench.rates[0] = 10_000
    bench.run(1)
    before = bench.samples[0]
    for handle in range(300):
        bench.multipath.wake(handle)
        bench.run(0.002)
    assert bench.samples[0] - before >= 5
    assert all(bench.samples[handle] for handle in range(250))
