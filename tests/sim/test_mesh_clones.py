"""A disk was copied: two agents of one key, which meet no session and hear of each other alone."""

import pytest
from mesh_world import S, World, make_base, place_of

from whalescale.protocol.mesh.directory import CLONE_JUMPS
from whalescale.protocol.mesh.events import Notice, Word

MINUTE = 60


def world_with_a_clone(behind_s: float = 0.0) -> tuple[World, int, int]:
    """0 and 1 have a session; member 2 has one with 0, its clone with 1."""
    world = World(make_base(3), keep_events=True)
    world.connect(0, 1)
    world.connect(0, 2)
    world.move(2, 1)
    world.run(5)
    twin = world.clone(2, 1)
    if behind_s:
        world.jump(twin, -behind_s)
    world.run(5)
    return world, 2, twin


def told(world: World, number: int) -> int:
    return sum(
        isinstance(e, Notice) and e.word is Word.CLONED for e in world.members[number].events
    )


@pytest.mark.parametrize("behind_s", [0.0, 3_600.0])
def test_both_are_told_though_they_never_meet(behind_s):
    """Whatever their clocks say: seqs decide, and each counts by its own."""
    world, one, twin = world_with_a_clone()
    world.jump(twin, behind_s)
    world[twin].set_places([place_of(9, 1)], world.clock(twin))
    world.drain(world.members[twin])
    world.run(MINUTE, lambda: bool(told(world, one) and told(world, twin)))
    assert told(world, one)
    assert told(world, twin)


def test_what_they_say_after_that_is_bounded():
    """Each would outdo the other's word as fast as it comes."""
    world, one, twin = world_with_a_clone()
    world[twin].set_places([place_of(9, 1)], world.clock(twin))
    world.drain(world.members[twin])
    world.run(MINUTE)
    seq, bytes_ = world[one].directory.seq, world.sent()
    notices = told(world, one), told(world, twin)
    world.run(60 * MINUTE)
    assert world[one].directory.seq - seq <= 30
    assert world.sent() - bytes_ <= 100_000
    assert told(world, one) - notices[0] <= 7
    assert told(world, twin) - notices[1] <= 7


def test_two_that_are_up_by_turns_are_told_in_the_end():
    """One sleeps while the other is awake; neither is restarted."""
    world, one, twin = world_with_a_clone()
    for turn in range(2 * CLONE_JUMPS + 4):
        awake, neighbour = ((one, 0), (twin, 1))[turn % 2]
        asleep, other = ((one, 0), (twin, 1))[(turn + 1) % 2]
        world.cut(asleep, other)
        world.connect(awake, neighbour)
        world.run(MINUTE)
        world[awake].set_places([place_of(awake + 5, turn)], world.clock(awake))
        world.drain(world.members[awake])
        world.run(60 * MINUTE)
    assert told(world, one)
    assert told(world, twin)


def test_a_disk_that_was_put_back_is_no_clone():
    """It hears its own newer word once, and goes on above it."""
    world = World(make_base(3), keep_events=True)
    world.connect(0, 1)
    world.connect(0, 2)
    kept = world.disk(2)
    for move in range(1, 6):
        world.move(2, move)
        world.run(5)
    world.cut(0, 2)
    world.restart(2, kept)
    world[2].set_places([place_of(2, 9)], world.clock(2))
    world.drain(world.members[2])
    world.connect(0, 2)
    world.run(MINUTE)
    assert not told(world, 2)
    assert world[2].directory.seq > 5
    assert world[1].table.endpoints(world[2].node_id).places == (place_of(2, 9),)
    assert world.now > 60 * S
