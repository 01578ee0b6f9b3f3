"""The model of radio links itself, before anything is concluded from it."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from multipath_bbr import Bbr
from multipath_core import MS
from multipath_sources import Cubic, Flight, Greedy, Steady
from multipath_world import HEADERS, LinkSpec, World
from recorded_links import RecordedLink

from tools.bondsim import START_MS
from tools.recordings import fading, handovers, lumps, read, steps
from whalescale.protocol.paths.types import MultipathSettings


@pytest.fixture
def world() -> World:
    return World([LinkSpec(10, 10)], [])


def arrivals(link: RecordedLink) -> list[int]:
    return [arrives for _, arrives, _ in link.pipe]


def test_what_may_leave_in_a_millisecond_leaves_then(world: World) -> None:
    link = RecordedLink((0, 300, 0, 0, 3000), 10, 10_000, world)
    for _ in range(3):
        link.send(world.start, 100 - HEADERS, 0)
    link.send(world.start, 200 - HEADERS, 0)
    # 300 bytes in the first millisecond, the rest waits for the fourth
    assert arrivals(link) == [world.start + (ms + 10) * MS for ms in (1, 1, 1, 4)]


def test_what_finds_nothing_waiting_is_lost(world: World) -> None:
    link = RecordedLink((1000, 1000, 10), 10, 10_000, world)
    link.send(world.start + int(1.5 * MS), 500 - HEADERS, 0)
    # Those of the first two are gone: of the third ten bytes, then a thousand in the fourth.
    assert arrivals(link) == [world.start + (3 + 10) * MS]


def test_a_full_queue_drops_the_newest(world: World) -> None:
    link = RecordedLink((1000,), 10, 2000, world)
    for _ in range(5):
        link.send(world.start, 500 - HEADERS, 0)
    assert (len(link.pipe), link.dropped) == (4, 1)
    link.send(world.start + 5 * MS, 500 - HEADERS, 0)  # all have left
    assert link.dropped == 1


def test_a_made_link_has_its_mean_and_its_lumps() -> None:
    made = fading(20, 200, seed=3, lump_ms=10)
    assert made == fading(20, 200, seed=3, lump_ms=10)
    mean = sum(made) * 8 / 200e6
    assert 14 < mean < 22
    assert all(each == 0 for ms, each in enumerate(made) if ms % 10)
    seconds = [sum(made[i : i + 1000]) * 8 / 1e6 for i in range(0, len(made), 1000)]
    assert min(seconds) < 5
    assert max(seconds) > 30


def test_a_recording_is_read(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "link.ms.gz", "wt") as out:
        out.write("0\n1504\n3008\n")
    assert read(tmp_path / "link.ms.gz") == (0, 1504, 3008)


@pytest.mark.parametrize("inner", ["cubic", "bbr"])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_bond_of_fading_links(inner: str, seed: int) -> None:
    tcp = Cubic() if inner == "cubic" else Bbr(seed=seed)
    world = World([LinkSpec(20, 30), LinkSpec(20, 35)], [tcp], seed=seed)
    try:
        for i, (mbps, delay) in enumerate(((10, 30), (6, 35))):
            made = fading(mbps, 12, seed + i, lump_ms=5)
            world.out[i] = RecordedLink(made, delay, 400_000, world)
        may = sum(link.capacity(12_000) for link in world.out)  # type: ignore[attr-defined]
        world.run(12_000)
        assert tcp.goodput > 0.6 * may
    finally:
        world.close()


def _is_heard() -> bool:
    """A call of packets of 600 bytes, not urgent, beside a bulk flow over links that fade.

    The world stays open: the next one lies elsewhere in memory."""
    call = Steady(0.5, 600)
    world = World(
        [LinkSpec(20, 30), LinkSpec(20, 35)],
        [Cubic(), call],
    )
    for i, (mbps, delay) in enumerate(((10, 30), (6, 35))):
        made = fading(mbps, 8, 1 + i, lump_ms=5)
        world.out[i] = RecordedLink(made, delay, 400_000, world)
    world.run(8000)
    delays = sorted(call.delays_ms)
    quick = delays[len(delays) // 2] < 120 and delays[len(delays) * 9 // 10] < 300
    return len(delays) > 8000 / 9.6 * 0.97 and quick


def test_a_call_beside_a_bulk_flow() -> None:
    """The bulk flow's queue is its own, and so are its gaps; but in one of 256 worlds, by where its
    memory lies, both flows have one hash."""
    assert _is_heard() or _is_heard()


def test_what_a_full_buffer_took_at_once_comes_again() -> None:
    """Some four hundred packets within 0.1 s: an inner TCP sees none of them missing."""
    world = World(
        [LinkSpec(50, 20), LinkSpec(20, 25)],
        [Greedy(600)],
    )
    try:
        world.run(1000)
        world.out[0].loss = 0.9
        world.run(100)
        world.out[0].loss = 0.0
        world.run(1000)
        assert world.a.stats.again > 250
        assert world.b.stats.skipped == 0
    finally:
        world.close()


def test_made_links() -> None:
    assert lumps(8, 4) == (0, 0, 0, 4000)
    assert steps((8, 1), 0.002) == (1000, 1000, 125, 125)
    assert handovers(8, 0.005, 0.002) == (1000, 1000, 1000, 0, 0)


def test_a_timer_that_ran_out_too_soon_is_undone() -> None:
    """The originals arrive, so nothing was lost (F-RTO): else a fade would end each flow."""
    tcp = Cubic()
    tcp.cwnd, tcp.next_serial = 8.0, 8
    tcp.flights = {n: Flight(0, 0, 0, 0, False) for n in range(8)}
    world = World([LinkSpec(10, 10)], [tcp])
    tcp._timeout = world.now
    tcp.act(world.now)
    assert tcp.cwnd == 2.0
    tcp._acks[0] = [7, 6]  # the seventh of them, which was not sent again
    tcp.answered(world.packet(tcp, 0, 40, protocol=6), world.now + MS)
    assert tcp.cwnd >= 8.0
    assert not tcp.lost


def test_what_a_lost_ack_told_the_next_one_tells() -> None:
    """In one sample, and an older one that comes later tells nothing."""
    tcp = Cubic(first=True)
    tcp.connected, tcp.cwnd, tcp.next_serial, tcp.full = True, 8.0, 8, True
    tcp.flights = {n: Flight(0, 0, 0, 0, False) for n in range(8)}
    world = World([LinkSpec(10, 10)], [tcp])
    tcp._acks |= {0: [4, 0, 1, 2, 3], 1: [8, 4, 5, 6, 7]}
    tcp.answered(world.packet(tcp, 1, 40, protocol=6), world.now + MS)
    assert tcp.cwnd == 16.0
    assert tcp.samples == 0  # of a round that is judged
    assert not tcp.flights
    tcp.answered(world.packet(tcp, 0, 40, protocol=6), world.now + MS)
    assert tcp.cwnd == 16.0


@pytest.mark.parametrize("align", [True, False])
def test_what_waits_of_a_tcp_is_bounded_by_its_window(align: bool) -> None:
    """Its own queue tells it nothing by a loss; without a word in its window it has to."""
    settings = MultipathSettings(align=align)
    tcp = Cubic(START_MS, first=True)
    world = World([LinkSpec(20, 30), LinkSpec(20, 35)], [tcp], settings)
    try:
        for i, mbps in enumerate((10, 6)):
            made = fading(mbps, 20, 1 + i, lump_ms=5)
            world.out[i] = RecordedLink(made, 30 + 5 * i, 400_000, world)
        world.run(20_000)
        stats = world.a.stats
        assert (stats.queue_narrowed > 100) == align
        assert (stats.queue_drops == 0) == align
        # What the windows that end in a fade have under way, and 125 ms of what both carry.
        assert (stats.queue_packets < 400) or not align
    finally:
        world.close()
