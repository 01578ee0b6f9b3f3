"""What a soak's gaps, samples and logs are taken for."""

from __future__ import annotations

import pytest

from tools.soak import judge
from tools.soak.judge import Gap, Sample
from tools.soak.world import Window

KILL = Window("kill", 10.0, 12.0)


def test_windows_that_overlap_count_once() -> None:
    windows = [Window("kill", 3, 5), Window("suspend", 4, 6), Window("kill", 8, 9)]
    assert judge.merged(windows) == [(3, 6), (8, 9)]
    assert judge.covered(Gap("udp", 2, 8.5), windows) == pytest.approx(3.5)


def test_links_are_down_while_each_of_them_is() -> None:
    cuts = [Window("cut 0", 1, 4), Window("cut 1", 3, 6), Window("cut 0", 5, 9)]
    spans = [(w.began, w.ended) for w in judge.all_down(cuts, ("cut 0", "cut 1"))]
    assert spans == [(3, 4), (5, 6)]
    assert judge.all_down(cuts, ("cut 0", "cut 2")) == []


@pytest.mark.parametrize(
    ("gap", "windows", "starved", "over"),
    [
        (Gap("udp", 20, 21.5), [], 0, 1.5),
        (Gap("udp", 20, 21.5), [], 1.5, 0),
        # the kill itself, and what the test limits allow for its discovery
        (Gap("udp", 10, 15), [KILL], 0, 5 - 2 - judge.RECOVERY_S["kill"]),
        (Gap("udp", 10, 12.2), [KILL], 0, 0),
        # a cut has nothing to discover
        (Gap("ping", 10, 14), [Window("every link down", 10, 12)], 0, 2),
        # far away
        (Gap("udp", 30, 32), [KILL], 0, 2),
    ],
)
def test_what_a_gap_is_too_long(
    gap: Gap, windows: list[Window], starved: float, over: float
) -> None:
    assert judge.beyond(gap, windows, starved) == pytest.approx(over)


def test_tcp_sleeps_as_long_as_it_was_told() -> None:
    cut = [Window("every link down", 10, 14)]
    gap = Gap("tcp", 10, 18)
    assert judge.beyond(gap, cut, tcp_rto_s=1) == pytest.approx(3)
    assert judge.beyond(gap, cut, tcp_rto_s=0) == 0


def test_a_copy_is_forgiven_after_a_kill_alone() -> None:
    assert judge.forgotten(12 + judge.FORGOTTEN_S / 2, [KILL])
    assert not judge.forgotten(12 + judge.FORGOTTEN_S * 2, [KILL])
    assert not judge.forgotten(11, [Window("suspend", 10, 12)])


def life(born: float, sizes: list[int], descriptors: int = 20) -> list[Sample]:
    return [Sample(born + 30 + n, born, kib, descriptors) for n, kib in enumerate(sizes)]


def test_a_leak_grows_to_the_end_and_a_warm_cache_does_not() -> None:
    leak = life(0, [70_000 + 1000 * n for n in range(30)])
    warm = life(100, [70_000, 75_000, 80_000] + [85_000] * 27)
    assert judge.growth(leak, 20)[0] > judge.GROWTH_KIB
    assert judge.growth(warm, 20) == (0, 0)
    # What has just begun says nothing.
    assert judge.growth(leak, 1000) == (0, 0)
    # Each life by itself: the second agent needs more than the first, and neither grows.
    assert judge.growth(life(0, [70_000] * 9) + life(50, [90_000] * 9), 20) == (0, 0)


def test_descriptors_too() -> None:
    samples = life(0, [70_000] * 20) + life(0, [70_000] * 10, descriptors=40)
    assert judge.growth(samples, 20)[1] == 20


def test_logs() -> None:
    log = "INFO a is up\nTraceback (most recent call last):\nERROR no\nWARNING full\n"
    assert judge.wrong_lines(log) == ["Traceback (most recent call last):", "ERROR no"]


def test_what_is_left_is_what_was_not_there() -> None:
    before = {"links": ["eth0", "lo"], "IPv4 routes": ["default"]}
    after = {"links": ["eth0", "lo", "ws0"], "IPv4 routes": [], "nft": ["table x"]}
    assert judge.left_behind(before, after) == ["links: ws0", "nft: table x"]


def test_pings() -> None:
    lines = [
        "PING 10.77.0.2 (10.77.0.2) 400(428) bytes of data.",
        "[1000.10] 408 bytes from 10.77.0.2: icmp_seq=1 ttl=64 time=0.1 ms",
        "[1000.20] 408 bytes from 10.77.0.2: icmp_seq=2 ttl=64 time=0.1 ms",
        "[1003.20] 408 bytes from 10.77.0.2: icmp_seq=32 ttl=64 time=0.1 ms",
        "[1003.30] 408 bytes from 10.77.0.2: icmp_seq=32 ttl=64 time=0.1 ms (DUP!)",
        "wrong data byte #16 should be 0x10 but was 0x0",
    ]
    found = judge.pings("\n".join(lines), 0.1, 900.0)
    assert found.came == 4
    assert [(g.began, g.ended) for g in found.gaps] == [
        (pytest.approx(100.2), pytest.approx(103.2))
    ]
    assert found.twice == [pytest.approx(103.3)]
    assert len(found.faults) == 1
