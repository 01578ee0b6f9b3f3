"""Random links through random schedules of rates, losses and silences: what must hold always."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
from multipath_sources import Greedy, Steady
from multipath_world import SECOND, LinkSpec, World

from tests.params import first
from whalescale.protocol.paths.types import MultipathSettings, Scheduler

RUN_MS = 2500
#: after the last change everything is quiet for so long, links good again
CALM_MS = 1500


def links(rng: random.Random) -> list[LinkSpec]:
    return [
        LinkSpec(
            rate_mbps=math.exp(rng.uniform(math.log(1), math.log(60))),
            delay_ms=math.exp(rng.uniform(0, math.log(80))),
            jitter_ms=rng.choice([0, 0, 0.5]),
            loss=rng.choice([0, 0, 0.001, 0.02, 0.1]),
            buffer_ms=rng.choice([5, 20, 100, 300]),
        )
        for _ in range(rng.randint(1, 4))
    ]


def trouble(world: World, rng: random.Random) -> None:
    """Up to eight changes; at the end of RUN_MS all is well again."""
    for _ in range(rng.randint(0, 8)):
        path, at = rng.randrange(len(world.paths)), rng.uniform(100, RUN_MS - 900)
        both = (world.out[path], world.back[path])
        if rng.random() < 0.5:
            world.at(at, lambda both=both: [link.set_silent(True) for link in both])
            end = at + rng.uniform(50, 800)
            world.at(end, lambda both=both: [link.set_silent(False) for link in both])
        else:
            rate = world.specs[path].rate_mbps
            factor = math.exp(rng.uniform(math.log(0.1), 0))
            world.at(
                at,
                lambda both=both, rate=rate, factor=factor: [
                    link.set_rate(world.now, rate * factor) for link in both
                ],
            )
            world.at(
                at + rng.uniform(50, 800),
                lambda both=both, rate=rate: [link.set_rate(world.now, rate) for link in both],
            )


def run(seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311
    late = rng.random() < 0.5
    settings = MultipathSettings(
        scheduler=rng.choice([Scheduler.EDF, Scheduler.EDF, *Scheduler]),
        reorder_depth=rng.choice([None, None, 128, 8]),
        deliver_late=late,
        repair=rng.choice([None, True, False]),
    )
    source = Greedy(waiting=60) if rng.random() < 0.6 else Steady(rng.uniform(0.5, 30), 300)
    world = World(links(rng), [source], settings, seed)
    world.keep_log = True
    trouble(world, rng)
    try:
        world.run(RUN_MS)
        calm = len(world.log)
        before = list(world.paths_bytes)
        world.run(CALM_MS)
        got = len(world.log) - calm
        judge(world, settings, late, got, before)
        source.due = lambda: 1 << 63  # type: ignore[method-assign]
        world.run(4000)  # 60 packets may wait for a link of 1 Mbit/s that was cut to a tenth
        assert world.b.stats.depth == 0, "the buffer drains"
        assert world.a.stats.queue_packets == 0, "the queue drains"
    finally:
        world.close()


def judge(
    world: World, settings: MultipathSettings, late: bool, got: int, before: list[int]
) -> None:
    serials = [serial for _, serial in world.log]
    assert len(set(serials)) == len(serials), "nothing is delivered twice"
    stats = world.b.stats
    backwards = sum(b < a for a, b in pairwise(serials))
    # What is no TCP does not wait for long.
    allowed = stats.loose + (stats.late if late else 0)
    assert backwards <= allowed, "in order, but for what is late"
    assert got > 0, "what is well is used"
    for core in (world.a, world.b):
        for params in core.params.values():
            assert 50_000 <= params.rescue_us <= 30_000_000
        assert 0 <= core.tuner.share(0) <= 1
    times = [at for at, _ in world.log if at > world.start + (RUN_MS + 1000) * 1_000_000]
    if isinstance(world.sources[0], Greedy) and not world.failed[world.a]:
        assert times, "a healthy path is used"
        assert max((b - a for a, b in pairwise(times)), default=0) < SECOND // 2
    if settings.scheduler is Scheduler.REDUNDANT:
        return
    healthy = [p for p in world.paths if p not in world.failed[world.a]]
    if isinstance(world.sources[0], Greedy) and healthy:
        used = [world.paths_bytes[p] - before[p] for p in healthy]
        assert max(used) > 0


@pytest.mark.parametrize("block", first(2, range(8)))
def test_random_links_and_troubles(block: int) -> None:
    for seed in range(block * 5, block * 5 + 5):
        run(seed)


@pytest.mark.long
@pytest.mark.parametrize("block", range(50))
def test_many_random_links_and_troubles(block: int) -> None:
    for seed in range(1000 + block * 20, 1020 + block * 20):
        run(seed)
