"""What is left to Python where the data plane moves the windows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whalescale.protocol.limits import NS_PER_MS, NS_PER_S
from whalescale.protocol.paths.tuner import PathTuner
from whalescale.protocol.paths.types import MultipathSettings, PathParams, PathSample

SETTINGS = MultipathSettings()
MBIT = 1_000_000


def sample(rate_mbps: int, srtt_ms: int = 40, **fields: int) -> PathSample:
    return PathSample(
        srtt_us=srtt_ms * 1000, window_rate_bps=rate_mbps * MBIT, window_queue_us=7000, **fields
    )


def test_limits_and_shares() -> None:
    tuner = PathTuner(SETTINGS)
    tuner.add(0, 40_000)
    tuner.add(1, 40_000)
    assert tuner.share(0) == 1 / 2
    tuner.set_limits(1, True, 2, 0.25, 1400, usable=True)
    paths, _ = tuner.sample({0: sample(80), 1: sample(40)}, {}, NS_PER_S)
    assert (paths[0].cap_permille, paths[0].degraded) == (1000, False)
    assert paths[1] == PathParams(40_000, 250, 2, True, 1400, 90_000)
    assert tuner.share(0) == 80 / 90
    tuner.set_limits(1, True, 2, 0.0, 1400, usable=True)
    assert tuner.sample({}, {}, NS_PER_S)[0][1].cap_permille == 1


def test_a_gap_is_held_as_long_as_a_copy_may_come() -> None:
    tuner = PathTuner(SETTINGS)
    tuner.add(0, 40_000)
    assert not tuner.sample({0: sample(10)}, {}, 0)[1].repair  # there is no other path
    tuner.add(1, 200_000)
    _, peer = tuner.sample({0: sample(10, 40), 1: sample(10, 200)}, {}, 0)
    assert peer.repair
    assert peer.repair_age_us == 1_000_000
    assert 40_000 < peer.loss_wait_us < 75_000
    paths, _ = tuner.sample({}, {}, 0)
    assert paths[0].rescue_us < paths[1].rescue_us <= 650_000


def test_a_path_that_was_never_used_with_another_repairs_nothing() -> None:
    """Losses on the only one are the inner flow's: a CUBIC that hears of none fills the link's
    queue for ever, and its packets wait for each other."""
    tuner = PathTuner(SETTINGS)
    tuner.add(0, 10_000)
    samples = {0: sample(10, 10), 1: sample(10, 80)}
    assert not tuner.sample(samples, {}, NS_PER_S)[1].repair
    tuner.set_limits(0, False, 0, 1.0, 1400, usable=False)
    tuner.add(1, 80_000)
    # What was in flight on it comes by the other.
    assert tuner.sample(samples, {}, 2 * NS_PER_S)[1].repair
    _, peer = tuner.sample(samples, {}, 4 * NS_PER_S)
    assert not peer.repair
    assert peer.loss_wait_us == 80_000


def test_what_is_shown() -> None:
    tuner = PathTuner(SETTINGS)
    tuner.add(0, 0)
    for tick in range(100):
        sent = tick * 100
        tuner.sample(
            {
                0: sample(
                    30,
                    acked_highest=sent,
                    acked_datagrams=sent * 9 // 10,
                    acked_bytes=sent * 1250,
                    last_ack_ns=NS_PER_S + tick * 20 * NS_PER_MS,
                )
            },
            {},
            NS_PER_S + tick * 20 * NS_PER_MS,
        )
    assert abs(tuner.loss(0) - 0.1) < 0.01
    assert tuner.rate_bps(0) == 30 * MBIT
    assert tuner.queue_us(0) == 7000
    assert abs(tuner.acked_bps(0) - 50 * MBIT) < 3 * MBIT
    assert (tuner.loss(5), tuner.rate_bps(5), tuner.acked_bps(5), tuner.queue_us(5)) == (0, 0, 0, 0)
    # Nothing more comes: what was is no queue of now.
    tuner.sample({}, {}, 5 * NS_PER_S)
    assert tuner.queue_us(0) == 0
    tuner.remove(0)
    assert tuner.share(0) == 0


def test_losses_of_a_silence_are_forgotten_when_the_path_is_back() -> None:
    tuner = PathTuner(SETTINGS)
    tuner.add(0, 40_000)
    tuner.sample({0: sample(30, acked_highest=10, acked_datagrams=10)}, {}, NS_PER_S)
    lost = sample(30, acked_highest=200, acked_datagrams=100)
    tuner.sample({0: lost}, {}, 2 * NS_PER_S)
    assert tuner.loss(0) > 0.5
    tuner.restart(0)
    tuner.sample({0: lost}, {}, 3 * NS_PER_S)
    assert tuner.loss(0) == 0


@pytest.mark.parametrize("srtt_ms", [1, 20, 200, 2000])
def test_a_path_is_silent_within_three_round_trips_and_a_little(srtt_ms: int) -> None:
    tuner = PathTuner(SETTINGS)
    tuner.add(0, 0)
    for var_ms in (0, srtt_ms // 8, srtt_ms):
        told = sample(10, srtt_ms, rttvar_us=var_ms * 1000)
        rescue_us = tuner.sample({0: told}, {}, 0)[0][0].rescue_us
        assert max(50, 1.5 * srtt_ms) <= rescue_us / 1000 <= 60 + 3 * srtt_ms


def test_a_fixed_depth_is_kept() -> None:
    tuner = PathTuner(MultipathSettings(reorder_depth=128))
    assert tuner.sample({}, {}, 0)[1].reorder_depth == 128
    assert PathTuner(SETTINGS).sample({}, {}, 0)[1].reorder_depth == 0


COUNTER = st.integers(0, 2**64 - 1)


@given(st.lists(st.tuples(st.integers(-NS_PER_S, NS_PER_S), *[COUNTER] * 4), max_size=30))
def test_what_a_hostile_peer_claims_drives_no_figure_out_of_bounds(
    steps: list[tuple[int, int, int, int, int]],
) -> None:
    tuner = PathTuner(SETTINGS)
    tuner.add(0, 0)
    now = NS_PER_S
    for step, count, highest, datagrams, rate in steps:
        now += step
        told = PathSample(
            acked_bytes=count,
            acked_datagrams=datagrams,
            acked_highest=highest,
            window_rate_bps=rate,
        )
        paths, peer = tuner.sample({0: told}, {0: 1 << 31}, now)
        assert 0 <= tuner.loss(0) <= 1
        assert 0 <= tuner.share(0) <= 1
        assert tuner.acked_bps(0) >= 0
        assert 0 < paths[0].rescue_us < 2**33
        assert peer.ack_interval_us <= 10_000
