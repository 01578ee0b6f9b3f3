"""A full link brings what it can, each answer to a probe too late (docs/multipath.md section 6)."""

from __future__ import annotations

import pytest
from joint_world import JointWorld
from multipath_sources import Cubic
from multipath_world import LinkSpec
from pathworld import PathWorld

from whalescale.protocol.limits import NS_PER_S
from whalescale.protocol.paths.health import MISSES
from whalescale.protocol.paths.types import PathSample, PathState, Reason


def two_links() -> PathWorld:
    world = PathWorld(1, 2, 2)
    for k in range(2):
        world.join(f"10.{k}.0.1", f"10.{k}.0.2")
    world.a.busy = world.b.busy = True
    world.begin()
    world.run(5)
    assert len(world.a.used) == 2
    return world


def test_acks_that_move_on_are_as_good_as_answers() -> None:
    """Whatever is asked meanwhile: the wait that counts is that of the first without an answer."""
    world = two_links()
    way = world.find("10.1.0.1", "10.1.0.2")
    assert way is not None
    way.loss = 1.0  # of probes: data comes
    for _ in range(300):
        world.run(0.1)
        path = world.a.manager.paths[1]
        assert path.state is PathState.HEALTHY
        assert path.misses < MISSES - 1
    assert len(world.a.used) == 2
    assert not world.a.events[2:]


def test_without_acks_three_misses_fail_it() -> None:
    """Data goes there, and nothing is heard of it, but the data plane does not watch."""
    world = two_links()
    world.a.manager.path_silent = lambda _number, _now: None  # type: ignore[method-assign]
    way = world.find("10.1.0.1", "10.1.0.2")
    assert way is not None
    way.up = False
    path, before = world.a.manager.paths[1], world.now
    wait = path.wait
    world.run(2)
    assert path.failed_at is not None
    assert MISSES * wait <= path.failed_at - before <= NS_PER_S + MISSES * wait
    assert world.a.events[-1][1].reason is Reason.NO_ANSWER


def test_an_ack_of_before_is_no_answer() -> None:
    """It moved on when the probe had left, but its answer was not due yet."""
    world = two_links()
    way = world.find("10.1.0.1", "10.1.0.2")
    assert way is not None
    way.up = False
    world.a.manager.path_silent = lambda _number, _now: None  # type: ignore[method-assign]
    path = world.a.manager.paths[1]
    for _ in range(200):
        if path.asked_at is not None:
            break
        world.run(0.01)
    assert path.asked_at is not None
    due = path.asked_at + path.wait
    for late, heard in ((-1, False), (0, True)):
        world.a.manager.sample({1: PathSample(last_ack_ns=due + late)}, world.now)
        assert path.awaiting != heard


@pytest.mark.parametrize("seed", [1, 2])
def test_a_link_that_falls_to_a_fiftieth_is_not_left(seed: int) -> None:
    """What waits there takes seconds, and so does each probe behind it."""
    world = JointWorld([LinkSpec(20, 20, buffer_ms=400), LinkSpec(4, 30)], seed=seed)
    try:
        world.run(3000)
        assert world.sides["a"].used == {0, 1}
        world.begin(Cubic())
        world.run(4000)
        world.out[0].set_rate(world.now, 0.4)
        before = world.paths_bytes[0]
        world.run(15_000)
        assert world.paths_bytes[0] - before > 0.5 * 15 * 0.4e6 / 8
        for side in world.sides.values():
            assert all(event.state is not PathState.FAILED for event in side.events)
    finally:
        world.close()
