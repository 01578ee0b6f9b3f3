"""The table of docs/multipath.md section 12 in virtual time: the C core and its tuner over emulated
links. Thresholds stand a little below what is aimed at; the bench measures the real thing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from multipath_bbr import Bbr
from multipath_sources import Cubic, Greedy, Ping, Steady, Tcp
from multipath_world import HEADERS, PACKET, LinkSpec, Source, World

from tests.params import first, long
from whalescale.protocol.paths.types import MultipathSettings, Scheduler

MBIT = 1e6
#: of a full packet in a data frame
WIRE = PACKET + 8 + 32 + HEADERS
CLEAN = (LinkSpec(100, 20), LinkSpec(50, 5))
LOSSY = (LinkSpec(80, 30, 10, 0.005), LinkSpec(40, 5, 3, 0.002))
SWINGING = (LinkSpec(50, 40, 30, buffer_ms=128), LinkSpec(10, 15))
SKEWED = (LinkSpec(200, 10), LinkSpec(20, 80))
FAST = (LinkSpec(400, 8), LinkSpec(300, 12))
THREE = (LinkSpec(60, 15), LinkSpec(40, 30), LinkSpec(20, 60))
RAMP_MS = 2000


@contextmanager
def world(
    links: tuple[LinkSpec, ...],
    *sources: Source,
    settings: MultipathSettings | None = None,
    seed: int = 1,
) -> Iterator[World]:
    made = World(list(links), list(sources), settings, seed)
    try:
        yield made
    finally:
        made.close()


def source(kind: str) -> Greedy | Tcp:
    return {"greedy": Greedy, "cubic": Cubic, "bbr": Bbr}[kind]()


def alone(link: LinkSpec) -> float:
    """What one link carries through the tunnel, inner bits a second."""
    return link.rate_mbps * MBIT * (1 - link.loss) * PACKET / WIRE


def total(links: tuple[LinkSpec, ...]) -> float:
    return sum(alone(link) for link in links)


@pytest.mark.parametrize(
    ("links", "kind", "share"),
    [
        long(CLEAN, "greedy", 0.99),
        (CLEAN, "cubic", 0.97),
        # 70 ms slower and a tenth of the rate: left alone unless the queue is as long.
        long(SKEWED, "greedy", 0.9),
        long(SKEWED, "cubic", 0.88),
        long(FAST, "greedy", 0.98),
        long(FAST, "cubic", 0.96),
        long(FAST, "bbr", 0.96),
        long(THREE, "greedy", 0.97),
        long(THREE, "cubic", 0.96),
        (THREE, "bbr", 0.77),
        (LOSSY, "greedy", 0.96),
    ],
)
def test_links_add_up(links: tuple[LinkSpec, ...], kind: str, share: float) -> None:
    with world(links, source(kind)) as both:
        both.run(RAMP_MS + 1000)
        assert both.run(2000) > share * total(links)


@pytest.mark.parametrize("kind", first(1, ["cubic", "greedy"]))
def test_a_very_slow_second_link_does_no_harm(kind: str) -> None:
    with world(SKEWED, source(kind)) as both:
        both.run(RAMP_MS)
        assert both.run(2500) > 0.97 * alone(SKEWED[0])


@pytest.mark.parametrize(("seed", "long_enough"), [(1, False), long(1, True), long(2, True)])
def test_bbr_gets_a_window_for_the_slow_path_soon(seed: int, long_enough: bool) -> None:
    """Its own would be twice the quick path's round trip: what comes by that one waits."""
    with world(CLEAN, Bbr(seed=seed), seed=seed) as both:
        both.run(2000)
        assert both.run(4000) > 0.86 * total(CLEAN)
        if long_enough:
            both.run(5000)  # it looks for its least round trip again
            assert both.run(2000) > 0.86 * total(CLEAN)


@pytest.mark.parametrize(
    ("kind", "loss", "share"),
    [
        ("bbr", 0.0, 0.5),  # until it looks for its round trip again
        long("cubic", 0.0, 0.97),
        ("cubic", 0.01, 0.93),
    ],
)
@pytest.mark.parametrize(("seed", "ms"), [(1, 4000), long(1, 8000), long(2, 8000), long(3, 8000)])
def test_a_thin_quick_link_holds_no_tcp_back(
    kind: str, loss: float, share: float, seed: int, ms: int
) -> None:
    """A BBR's SYN takes the thin one, so its window is small for the wide one. And what the thin
    link loses stops the whole flow, so nothing may make its queue, and the repair, longer."""
    links = (LinkSpec(80, 20, buffer_ms=50), LinkSpec(5, 5, loss=loss, buffer_ms=50))
    with world(links, Bbr(seed=seed) if kind == "bbr" else source(kind), seed=seed) as both:
        both.run(2000)
        assert both.run(ms) > share * alone(links[0])


@pytest.mark.parametrize("seed", first(1, [1, 2, 3]))
def test_a_first_cubic_is_not_slow_for_the_second_links_delay(seed: int) -> None:
    """Its HyStart takes that for a queue, and it grows by 5 % a round trip then: 0.3 to 0.4."""
    with world(LOSSY, Cubic(100, first=True), seed=seed) as both:
        assert both.run(3000) > 0.55 * total(LOSSY)


@pytest.mark.parametrize("seed", first(1, [3, 2]))
def test_chance_losses_beside_a_short_queue_do_not_reach_a_cubic(seed: int) -> None:
    """Six packets of the thin link's queue are 13 ms: no reason to let what it loses by chance
    through, each of which costs the whole flow a third of its window (seed 3). It waits for each
    copy, though: 0.94 of the better link alone over eight seeds, 0.82 at worst."""
    links = (LinkSpec(80, 20, buffer_ms=50), LinkSpec(5, 20, loss=0.01, buffer_ms=50))
    tcp = Cubic()
    tcp.ssthresh = 600  # as Linux remembers it of an earlier flow: no overshoot
    with world(links, tcp, seed=seed) as both:
        both.run(2000)
        assert both.run(4000) > 0.8 * alone(links[0])
        assert not tcp.retransmits


@pytest.mark.parametrize("kind", first(1, ["cubic", "bbr"]))
@pytest.mark.parametrize("loss", first(1, [0.0, 0.02]))
def test_what_a_policer_lets_pass_is_found_and_kept(kind: str, loss: float) -> None:
    """All above it is lost, and nothing waits; so little is that no inner TCP sees one. (After a
    CUBIC's start what half a window lost counts as the path's own, and 8 % are borne.)"""
    links = (LinkSpec(60, 10, loss=loss, buffer_ms=40, police_mbps=30), LinkSpec(16, 15))
    tcp = Bbr(100) if kind == "bbr" else Cubic(100, first=True)
    with world(links, tcp) as both:
        both.run(1000)
        dropped = both.out[0].dropped
        assert both.run(5000) > 0.8 * 46 * MBIT
        assert both.out[0].dropped - dropped < (600 if kind == "bbr" else 1200)  # of 13,000
        assert not tcp.retransmits


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_bbr_goes_on_when_its_quickest_path_is_gone(seed: int) -> None:
    """It remembers the round trip of its first packets for 10 s; then that of both paths."""
    with world(CLEAN, Bbr(seed=seed), seed=seed) as both:
        both.run(12_000)
        both.out[1].set_silent(True)
        both.back[1].set_silent(True)
        both.run(2000)
        assert both.run(4000) > 0.9 * alone(CLEAN[0])


@pytest.mark.parametrize("links", [LOSSY, SWINGING])
@pytest.mark.parametrize("seed", first(2, [4, 1, 2, 3, 5]))
def test_bbr_climbs_also_where_links_jitter_and_lose(
    links: tuple[LinkSpec, ...], seed: int
) -> None:
    """In order such a link takes longer the more it carries; its start must not end over the near
    one alone."""
    with world(links, Ping(), Bbr(start_ms=1000, seed=seed), seed=seed) as both:
        both.run(3000)
        assert both.run(2000) > 0.7 * total(links)


@pytest.mark.parametrize("seed", first(1, [2, 4]))
def test_jitter_is_not_taken_for_a_queue(seed: int) -> None:
    """Where frames keep their order each waits for the slowest before it: delay grows with load."""
    with world(LOSSY[:1], Greedy(), seed=seed) as one:
        one.run(3000)
        assert one.run(2000) > 0.8 * alone(LOSSY[0])


@pytest.mark.parametrize(("seed", "ms"), [(1, 2500), long(1, 5000), long(2, 5000)])
def test_an_inner_tcp_sees_no_loss(seed: int, ms: int) -> None:
    with world(LOSSY, Greedy(), seed=seed) as both:
        both.run(RAMP_MS + 2000)
        before = both.b.stats.skipped
        both.run(ms)
        assert both.a.stats.again > ms / 50
        assert both.b.stats.skipped - before <= 2


def test_links_that_lose_carry_more_together_than_cubic_would_alone() -> None:
    with world(LOSSY[1:], Cubic()) as one:
        one.run(RAMP_MS)
        single = one.run(4000)
    with world(LOSSY, Cubic()) as both:
        both.run(RAMP_MS)
        assert both.run(2500) > 2 * single


@pytest.mark.parametrize("links", first(1, [CLEAN, SKEWED, THREE]))
def test_the_links_queues_stay_short_and_pings_quick(links: tuple[LinkSpec, ...]) -> None:
    ping = Ping()
    with world(links, Greedy(), ping) as both:
        both.run(RAMP_MS)
        ping.rtts_ms.clear()
        both.run(2500)
    base = 2 * min(link.delay_ms for link in links)
    assert len(ping.rtts_ms) > 120
    assert sum(ping.rtts_ms) / len(ping.rtts_ms) < base + 12
    assert sorted(ping.rtts_ms)[int(0.99 * len(ping.rtts_ms))] < base + 20


def test_both_links_are_full_half_a_second_after_the_start() -> None:
    with world(CLEAN, Greedy()) as both:
        both.run(600)
        assert both.run(300) > 0.95 * total(CLEAN)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("silent", [0, 1])
@pytest.mark.parametrize("kind", ["greedy", "cubic"])
def test_a_link_that_goes_silent_is_left_and_taken_up_again(silent: int, kind: str) -> None:
    flow = source(kind)
    with world(CLEAN, flow) as both:
        both.run(RAMP_MS)
        both.longest_stall = 0

        def hush(silence: bool) -> None:
            both.out[silent].set_silent(silence)
            both.back[silent].set_silent(silence)

        hush(True)
        both.run(1000)
        assert both.longest_stall < 150 * MBIT  # ns: 150 ms
        assert both.run(2500) > 0.97 * alone(CLEAN[1 - silent])
        hush(False)
        both.run(1000)
        assert both.run(1000) > 0.97 * total(CLEAN)
        assert both.longest_stall < 150 * MBIT
    if isinstance(flow, Tcp):
        assert flow.timeouts == 0


@pytest.mark.parametrize("slow", first(1, [0, 1]))
def test_a_rate_that_falls_to_a_tenth_is_followed_in_a_second(slow: int) -> None:
    after = tuple(
        LinkSpec(link.rate_mbps / (10 if i == slow else 1), link.delay_ms)
        for i, link in enumerate(CLEAN)
    )
    with world(CLEAN, Greedy()) as both:
        both.run(RAMP_MS)
        for links in (both.out, both.back):
            links[slow].set_rate(both.now, after[slow].rate_mbps)
        both.run(1000)
        assert both.run(1000) > 0.93 * total(after)
        for links in (both.out, both.back):
            links[slow].set_rate(both.now, CLEAN[slow].rate_mbps)
        both.run(1500)
        assert both.run(1000) > 0.97 * total(CLEAN)


def test_a_flow_that_fits_the_quick_link_stays_on_it() -> None:
    flow = Steady(20, start_ms=RAMP_MS)
    greedy = Greedy()
    with world(CLEAN, flow, greedy) as both:
        both.run(RAMP_MS)  # the paths are known
        greedy.due = lambda: 1 << 63  # type: ignore[method-assign]
        both.run(500)
        flow.delays_ms.clear()
        assert both.run(3000) == pytest.approx(20 * MBIT, rel=0.02)
    assert sum(flow.delays_ms) / len(flow.delays_ms) < 10


@pytest.mark.parametrize("scheduler", list(Scheduler))
def test_every_scheduler_fills_at_least_a_link(scheduler: Scheduler) -> None:
    with world(CLEAN, Greedy(), settings=MultipathSettings(scheduler=scheduler)) as both:
        both.run(RAMP_MS)
        assert both.run(1500) > 0.95 * alone(CLEAN[1])


def test_redundant_sends_everything_twice_while_both_have_room() -> None:
    settings = MultipathSettings(scheduler=Scheduler.REDUNDANT)
    with world(CLEAN, Steady(1.5), settings=settings) as both:
        assert both.run(2000) == pytest.approx(1.5 * MBIT, rel=0.05)
        assert both.a.stats.again > 0.9 * both.b.stats.delivered


@pytest.mark.parametrize(
    "slow", first(1, [LinkSpec(5, 2, 0.2), LinkSpec(20, 100, 10), LinkSpec(100, 60, 6)]), ids=str
)
def test_never_worse_than_the_best_of_three_pairs(slow: LinkSpec) -> None:
    with world((LinkSpec(100, 10), slow), Greedy()) as both:
        both.run(RAMP_MS)
        assert both.run(1500) > 0.97 * alone(LinkSpec(100, 10))


#: 24 pairs: never worse than the best single link
GRID = [
    (LinkSpec(100, 10), LinkSpec(rate, delay, delay / 10))
    for rate in (5, 20, 50, 100)
    for delay in (2, 5, 10, 30, 60, 100)
]


@pytest.mark.long
@pytest.mark.parametrize("links", GRID, ids=lambda pair: f"{pair[1].rate_mbps}-{pair[1].delay_ms}")
@pytest.mark.parametrize("kind", ["greedy", "cubic"])
def test_never_worse_than_the_best_link(links: tuple[LinkSpec, ...], kind: str) -> None:
    with world(links, source(kind)) as both:
        both.run(RAMP_MS)
        assert both.run(2000) > 0.97 * max(alone(link) for link in links)


def test_a_cap_is_a_share_of_what_the_path_carried_and_does_not_eat_itself_up() -> None:
    with world(CLEAN, Greedy()) as both:
        both.run(RAMP_MS)
        for core in (both.a, both.b):
            core.tuner.set_limits(0, False, 0, 0.25, 65535, usable=True)
        both.run(1000)
        before = both.paths_bytes[0]
        both.run(3000)
        share = (both.paths_bytes[0] - before) * 8 / 3 / (100 * MBIT)
        assert 0.18 < share < 0.3
        for core in (both.a, both.b):
            core.tuner.set_limits(0, False, 0, 1.0, 65535, usable=True)
        both.run(1500)
        assert both.run(1000) > 0.95 * total(CLEAN)
