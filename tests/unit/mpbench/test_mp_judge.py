"""What the multipath bench reads off a time line."""

from __future__ import annotations

import pytest

from tools.mpbench import judge
from tools.mpbench.flow import INFO_BYTES, decode_info, merge
from tools.mpbench.plots import smooth

BIN_S = 0.01
#: bytes of a bin at 8 Mbit/s
FULL = 10_000


def line(*phases: tuple[float, float]) -> list[int]:
    """A time line of (seconds, share of 8 Mbit/s)."""
    return [round(FULL * share) for seconds, share in phases for _ in range(round(seconds * 100))]


def test_a_rate_is_of_the_time_asked_for_and_not_of_the_bins_that_came() -> None:
    bins = line((1, 1.0), (1, 0.5))
    assert judge.mbps(bins, BIN_S) == pytest.approx(6)
    assert judge.mbps(bins, BIN_S, 1.0) == pytest.approx(4)
    assert judge.mbps(bins, BIN_S, 0.5, 1.5) == pytest.approx(6)
    assert judge.mbps(bins, BIN_S, 3.0) == 0
    assert judge.mbps(judge.padded(bins, 4.0, BIN_S), BIN_S) == pytest.approx(3)
    assert len(judge.padded(bins, 1.0, BIN_S)) == 100


def test_the_longest_stall_counts_only_inside_the_time_asked_for() -> None:
    bins = line((1, 1), (0.3, 0), (1, 1), (0.12, 0), (1, 1))
    assert judge.longest_stall_s(bins, BIN_S) == pytest.approx(0.3)
    assert judge.longest_stall_s(bins, BIN_S, 1.5) == pytest.approx(0.12)
    assert judge.longest_stall_s(bins, BIN_S, 1.2, 2.0) == pytest.approx(0.1)
    assert judge.longest_stall_s(bins, BIN_S, 0.0, 1.0) == 0


def test_a_stall_that_never_ends_is_seen_once_padded() -> None:
    bins = judge.padded(line((1, 1)), 3.0, BIN_S)
    assert judge.longest_stall_s(bins, BIN_S) == pytest.approx(2.0)


def test_recovery_is_when_the_rate_comes_and_stays() -> None:
    bins = line((2, 1), (0.4, 0), (3, 0.6))
    assert judge.recovery_s(bins, BIN_S, 2.0, 5.4, 0.59 * 8) == pytest.approx(0.4, abs=0.011)
    assert judge.recovery_s(bins, BIN_S, 2.0, 5.4, 0.7 * 8) == pytest.approx(3.4)
    assert judge.recovery_s(line((5, 1)), BIN_S, 2.0, 5.0, 7.9) == 0


def test_a_burst_of_what_was_held_back_is_no_recovery() -> None:
    bins = line((2, 1), (0.5, 3), (3, 0.1))
    assert judge.recovery_s(bins, BIN_S, 2.0, 5.5, 0.75 * 8) == pytest.approx(3.5)


def counter(*phases: tuple[float, float]) -> tuple[list[float], list[int]]:
    """Readings every 20 ms from t = 100 of a link that carries (seconds, Mbit/s)."""
    times, counts = [100.0], [0]
    for seconds, rate in phases:
        for _ in range(round(seconds * 50)):
            times.append(times[-1] + 0.02)
            counts.append(counts[-1] + round(rate * 1e6 / 8 * 0.02))
    return times, counts


def test_a_link_is_used_again_once_it_carries_its_share() -> None:
    times, counts = counter((1, 50), (2, 0), (0.5, 5), (2, 40))
    # 5 Mbit/s of probes are no use of 50; the window reaches into what follows.
    again = judge.used_again_s(times, counts, 102.0, 50)
    assert again == pytest.approx(1.5, abs=0.25)
    assert judge.used_again_s(times, counts, 103.6, 50) == pytest.approx(0, abs=0.021)
    assert judge.used_again_s(times, counts, 102.0, 500) is None


def test_a_counter_gives_rates() -> None:
    times, counts = counter((1, 50), (1, 10))
    rates = judge.rates_mbps(times, counts)
    assert rates[0] == pytest.approx(50, rel=0.01)
    assert rates[-1] == pytest.approx(10, rel=0.01)
    assert judge.counted_mbps(times, counts, 100, 101) == pytest.approx(50, rel=0.01)
    assert judge.counted_mbps(times, counts, 50, 60) == 0
    assert judge.rates_mbps([1.0, 1.0], [5, 9]) == [0.0]


def test_smoothing_keeps_the_length_and_the_level() -> None:
    assert smooth([4.0] * 5, 3) == [4.0] * 5
    assert smooth([0, 3, 6], 2) == [0, 1.5, 4.5]


def test_tcp_info_is_read_where_it_stands_and_short_ones_are_filled_up() -> None:
    raw = bytearray(INFO_BYTES)
    raw[68:72] = (40_000).to_bytes(4, "little")
    raw[100:104] = (7).to_bytes(4, "little")
    raw[220:224] = (3).to_bytes(4, "little")
    info = decode_info(bytes(raw))
    assert (info["rtt_us"], info["retransmits"], info["reord_seen"]) == (40_000, 7, 3)
    assert decode_info(bytes(raw[:104]))["reord_seen"] == 0
    other = decode_info(bytes(INFO_BYTES)) | {"rtt_us": 10_000, "retransmits": 1}
    both = merge([info, other])
    assert (both["rtt_us"], both["retransmits"]) == (40_000, 8)
