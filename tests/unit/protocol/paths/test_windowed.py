"""What is left to Python where the data plane moves the windows."""

from __future__ import annotations

from whalescale.protocol.limits import NS_PER_MS, NS_PER_S
from whalescale.protocol.paths.types import MultipathSettings, PathSample
from whalescale.protocol.paths.windowed import WindowTuner

SETTINGS = MultipathSettings()
MBIT = 1_000_000


def sample(rate_mbps: int, srtt_ms: int = 40, **fields: int) -> PathSample:
    return PathSample(
        srtt_us=srtt_ms * 1000, window_rate_bps=rate_mbps * MBIT, window_queue_us=7000, **fields
    )


def test_paths_are_paced_only_by_a_cap() -> None:
    tuner = WindowTuner(SETTINGS)
    tuner.add(0, 40_000, 0)
    tuner.add(1, 40_000, 0)
    tuner.set_limits(1, False, 2, 0.25, 1400, usable=True)
    paths, peer = tuner.sample({0: sample(80), 1: sample(40)}, {}, NS_PER_S)
    assert peer.control == 1
    assert paths[0].rate_bps == 400_000 * MBIT
    assert (paths[1].rate_bps, paths[1].tier, paths[1].max_packet) == (10 * MBIT, 2, 1400)
    assert paths[0].weight == 8 * paths[1].weight
    assert tuner.share(0) == 80 / 90


def test_a_gap_is_held_as_long_as_a_copy_may_come() -> None:
    tuner = WindowTuner(SETTINGS)
    tuner.add(0, 40_000, 0)
    assert not tuner.sample({0: sample(10)}, {}, 0)[1].repair  # there is no other path
    tuner.add(1, 200_000, 0)
    _, peer = tuner.sample({0: sample(10, 40), 1: sample(10, 200)}, {}, 0)
    assert peer.repair
    assert peer.hold_us == peer.repair_age_us == 1_000_000
    assert 4 * 40_000 < peer.loss_wait_us < 300_000
    paths, _ = tuner.sample({}, {}, 0)
    assert paths[0].rescue_us < paths[1].rescue_us <= 650_000


def test_a_path_that_failed_is_none_to_send_again_on() -> None:
    """It is known of for minutes yet. Losses on the one that is left are the inner flow's: a CUBIC
    that hears of none fills the link's queue for ever, and its packets wait for each other."""
    tuner = WindowTuner(SETTINGS)
    tuner.add(0, 10_000, 0)
    tuner.add(1, 80_000, 0)
    samples = {0: sample(10, 10), 1: sample(10, 80)}
    assert tuner.sample(samples, {}, NS_PER_S)[1].repair
    tuner.set_limits(0, False, 0, 1.0, 1400, usable=False)
    # What was in flight on it comes by the other.
    assert tuner.sample(samples, {}, 2 * NS_PER_S)[1].repair
    _, peer = tuner.sample(samples, {}, 4 * NS_PER_S)
    assert not peer.repair
    assert peer.loss_wait_us == 80_000


def test_what_is_shown() -> None:
    tuner = WindowTuner(SETTINGS)
    tuner.add(0, 0, 0)
    for tick in range(100):
        sent = tick * 100
        tuner.sample(
            {
                0: sample(
                    30,
                    acks=tick,
                    acked_highest=sent,
                    acked_datagrams=sent * 9 // 10,
                    acked_bytes=sent * 1250,
                    acked_arrived_us=1 + tick * 20_000,
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
    tuner.remove(0)
    assert tuner.share(0) == 0
