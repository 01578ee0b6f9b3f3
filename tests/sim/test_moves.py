"""Moves between direct ways and anchors under a flow: nothing lost, all in order, soon over.

The product's path managers, tuners and C cores at both ends. Link 0 is direct, the others lead over
an anchor each; numbered packets, fewer than in the rows of docs/nat.md (50 Mbit/s).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from joint_world import JointWorld
from multipath_sources import Cubic, Steady
from multipath_world import SECOND, LinkSpec

RATE = 15.0
DIRECT, ANCHOR, FARTHER = LinkSpec(300, 20), LinkSpec(200, 40), LinkSpec(200, 45)


class Flow:
    """A flow over such links, and what came of it since `mark`."""

    def __init__(self, links: list[LinkSpec], cut: set[int], rate: float = RATE) -> None:
        anchors = frozenset(range(1, len(links)))
        self.world = JointWorld(links, anchors=anchors)
        self.world.keep_log = True
        self.world.run(3000)  # addresses are told, and all ways probed
        for link in cut:
            self.world.cut(link, True)
        self.source = Steady(rate, size=1228)
        self.world.begin(self.source)
        self.world.run(3500 if cut else 500)

    @property
    def used(self) -> tuple[set[int], set[int]]:
        return self.world.sides["a"].used, self.world.sides["b"].used

    def move(self, change: Callable[[], None], seconds: float) -> None:
        """What happens, and how it ends: every packet came once and in turn."""
        world = self.world
        assert not world.a.stats.scheduling, "one path needs no schedule"
        world.longest_stall, first = 0, self.source.serial
        change()
        world.run(seconds * 1000)
        world.stopped = True
        sent, stall = self.source.serial, world.longest_stall
        world.run(500)
        came = [serial for _, serial in world.log if serial >= first]
        assert told(came, sent - first) == f"0 lost, 0 out of turn, 0 twice of {sent - first}"
        self.stall_ms = stall / (SECOND / 1000)
        world.close()


def told(serials: list[int], sent: int) -> str:
    lost = sent - len(set(serials))
    back = sum(b < a for a, b in pairwise(serials))
    return f"{lost} lost, {back} out of turn, {len(serials) - len(set(serials))} twice of {sent}"


def test_a_silent_direct_way_is_left_for_the_anchor() -> None:
    flow = Flow([DIRECT, ANCHOR], set())
    assert flow.used == ({0}, {0})
    flow.move(lambda: flow.world.cut(0, True), 1)
    assert flow.used == ({1}, {1})
    assert flow.stall_ms < 250


def test_an_anchor_is_left_for_the_direct_way() -> None:
    flow = Flow([DIRECT, ANCHOR], {0})
    assert flow.used == ({1}, {1})
    flow.move(lambda: flow.world.cut(0, False), 2)
    assert flow.used == ({0}, {0})
    assert flow.stall_ms < 50


def test_a_dead_anchor_is_left_for_the_other() -> None:
    flow = Flow([DIRECT, ANCHOR, FARTHER], {0})
    assert flow.used == ({1}, {1}), "one anchor at a time: the other has no other link"
    flow.move(lambda: flow.world.cut(1, True), 1)
    assert flow.used == ({2}, {2})
    assert flow.stall_ms < 300


def test_a_download_over_an_anchor_comes_steadily_after_the_move() -> None:
    """What filled its link's queue was sent again by us, so a CUBIC never heard of it, kept the
    queue full, and came in lumps of a quarter of a second from then on."""
    spec = LinkSpec(20, 20, buffer_ms=60)
    world = JointWorld([LinkSpec(20, 15), spec, spec], anchors=frozenset({1, 2}))
    world.keep_log = True
    world.run(3000)
    world.begin(Cubic())
    world.run(1000)
    world.cut(0, True)
    world.run(4000)
    again, counts = world.a.stats.again, []
    for _ in range(40):
        before = len(world.log)
        world.run(100)
        counts.append(len(world.log) - before)
    assert world.a.stats.again == again
    assert sum(counts) > 0.85 * 40 * 170
    assert sum(count < 170 / 3 for count in counts) <= 2
    world.close()
