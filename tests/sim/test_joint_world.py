"""Path managers, tuners and C cores together, from the first probe to a link that comes back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from joint_world import JointWorld
from multipath_sources import Cubic, Greedy
from multipath_world import LinkSpec

from tests.params import first, long
from whalescale.protocol.paths.types import PathState

CLEAN = [LinkSpec(100, 20), LinkSpec(50, 5)]
#: half a minute of virtual time at a fifth of the packets
THIN = [LinkSpec(20, 20), LinkSpec(10, 5)]
CLEAN_THINNER = [LinkSpec(40, 20), LinkSpec(20, 5)]
THREE = [LinkSpec(60, 15), LinkSpec(40, 30), LinkSpec(20, 60)]
THREE_THIN = [LinkSpec(15, 15), LinkSpec(10, 30), LinkSpec(5, 60)]


@contextmanager
def joined(links: list[LinkSpec], seed: int = 1) -> Iterator[JointWorld]:
    """Once all links are in use at both ends."""
    world = JointWorld(links, seed=seed)
    try:
        world.run(3000)
        everyone = set(range(len(links)))
        assert world.sides["a"].used == world.sides["b"].used == everyone
        yield world
    finally:
        world.close()


def total(links: list[LinkSpec]) -> float:
    """Inner bits a second that fit."""
    return sum(link.rate_mbps for link in links) * 1e6 * 1400 / (1400 + 8 + 32 + 28 + 8)


@pytest.mark.parametrize("links", first(1, [THREE, CLEAN]))
def test_paths_are_found_by_probes_and_filled(links: list[LinkSpec]) -> None:
    with joined(links) as world:
        world.begin(Greedy())
        world.run(2500)
        assert world.run(2000) > 0.96 * total(links)
        assert not world.sides["a"].manager.drops
        assert not world.sides["b"].manager.drops


@pytest.mark.parametrize(("links", "link"), [(CLEAN_THINNER, 0), long(CLEAN, 0), long(CLEAN, 1)])
def test_a_link_that_goes_silent_is_left_and_taken_up_again(
    links: list[LinkSpec], link: int
) -> None:
    with joined(links) as world:
        world.begin(Cubic())
        world.run(3000)
        world.longest_stall = 0
        world.cut(link, True)
        world.run(1500)
        assert world.sides["a"].used == {1 - link}
        assert world.longest_stall < 200_000_000
        assert world.run(1000) > 0.95 * total([links[1 - link]])
        world.cut(link, False)
        world.run(3000)
        assert world.sides["a"].used == {0, 1}
        assert world.run(2000) > 0.95 * total(links)
        states = {event.state for event in world.sides["a"].events}
        assert PathState.FAILED in states


def test_an_address_that_goes_takes_its_path_with_it() -> None:
    with joined(THIN) as world:
        world.begin(Cubic())
        world.run(2000)
        world.set_locals("a", {0})
        world.cut(1, True)
        world.longest_stall = 0
        world.run(1000)
        assert world.sides["a"].used == {0}
        assert world.longest_stall < 120_000_000
        # Paced, in order and acknowledged as before for a while; then as one path alone.
        assert world.sides["a"].scheduled
        world.run(12_000)
        assert not world.sides["a"].scheduled
        world.cut(1, False)
        world.set_locals("a", {0, 1})
        world.run(5000)
        assert world.sides["a"].used == {0, 1}
        assert world.run(2000) > 0.95 * total(THIN)


@pytest.mark.parametrize(
    ("seed", "links", "changes"),
    [(0, THREE_THIN, 12), *(long(seed, THREE, 25) for seed in range(40))],
)
def test_whatever_the_links_do_nothing_comes_twice_and_all_is_well_again(
    seed: int, links: list[LinkSpec], changes: int
) -> None:
    rng = random.Random(seed)  # noqa: S311
    with joined(links, seed) as world:
        world.keep_log = True
        flow = Cubic()
        world.begin(flow)
        alive = {0, 1, 2}
        for _ in range(changes):
            link = rng.randrange(3)
            what = rng.random()
            if what < 0.4 and len(alive) > 1:
                world.cut(link, True)
                alive.discard(link)
            elif what < 0.7:
                world.cut(link, False)
                alive.add(link)
            elif what < 0.85:
                rate = links[0].rate_mbps
                world.out[link].set_rate(world.now, rng.choice((rate / 30, rate / 6, rate)))
            else:
                world.set_locals(rng.choice("ab"), {0, *rng.sample((1, 2), rng.randrange(3))})
            world.run(rng.choice((50, 300, 1200)))
            for side in world.sides.values():
                assert len(side.routes) <= 8
        for link, spec in enumerate(links):
            world.cut(link, False)
            world.out[link].set_rate(world.now, spec.rate_mbps)
        for name in "ab":
            world.set_locals(name, {0, 1, 2})
        world.run(20_000 if links is THREE else 12_000)
        for side in world.sides.values():
            assert side.used == {0, 1, 2}
        assert world.run(2000) > 0.9 * total(links)
        serials = [serial for _, serial in world.log]
        # What comes twice the flow itself sent twice.
        assert len(serials) - len(set(serials)) <= flow.retransmits
        world.stopped = True
        world.run(1000)
        assert world.b.stats.depth == 0
