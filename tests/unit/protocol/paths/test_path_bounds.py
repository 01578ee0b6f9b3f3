"""The constants of tuner.py, estimator.py and hush.py: half or double of each turns a test red."""

from __future__ import annotations

import pytest

from whalescale.protocol.limits import NS_PER_MS, NS_PER_S
from whalescale.protocol.paths.estimator import PathEstimator
from whalescale.protocol.paths.hush import Incoming
from whalescale.protocol.paths.tuner import PathTuner
from whalescale.protocol.paths.types import MultipathSettings, PathParams, PathSample, PeerParams


def params(srtt_ms: float, var_ms: float = 0) -> tuple[PathParams, PeerParams]:
    """Of one of two paths alike."""
    tuner = PathTuner(MultipathSettings())
    told = PathSample(srtt_us=int(srtt_ms * 1000), rttvar_us=int(var_ms * 1000))
    for path in (0, 1):
        tuner.add(path, 0)
    paths, peer = tuner.sample({0: told, 1: told} if srtt_ms else {}, {}, NS_PER_S)
    return paths[0], peer


@pytest.mark.parametrize(
    ("srtt_ms", "var_ms", "rescue_ms"),
    [
        (2, 0, 60),  # RESCUE_MIN_US: a host is busy for so long
        (200, 0, 330),  # half of RESCUE_RTTS, an ACK's interval, RESCUE_MARGIN_US
        (200, 10, 370),  # DEVIATIONS
        (20, 100, 120),  # RESCUE_RTTS and as long again
    ],
)
def test_silence(srtt_ms: float, var_ms: float, rescue_ms: float) -> None:
    assert params(srtt_ms, var_ms)[0].rescue_us == rescue_ms * 1000


def test_a_path_that_no_probe_has_measured() -> None:
    path, peer = params(0)
    assert path.srtt_us == 100_000
    assert peer.ack_interval_us == 10_000


@pytest.mark.parametrize(("srtt_ms", "interval_ms"), [(4, 2), (16, 8), (40, 10), (400, 10)])
def test_windows_are_moved_twice_in_a_round_trip(srtt_ms: int, interval_ms: int) -> None:
    assert params(srtt_ms)[1].ack_interval_us == interval_ms * 1000


def test_waits() -> None:
    quick, usual, slow = (params(ms)[1] for ms in (10, 40, 100))
    # Of a copy and its ACK.
    assert usual.loss_wait_us == 50_000
    # LOOSE_HOLD_US: as long as copies take over quick paths, and not as long as a talk bears.
    assert 4 * quick.loss_wait_us <= quick.loose_hold_us < 150_000
    # PATH_IDLE_US: a silent path still counts, one whose packets are worth nothing does not.
    assert params(150, 20)[0].rescue_us < slow.path_idle_us < slow.repair_age_us
    # REPAIR_AGE_US: copies of copies come in time over slow paths; a TCP has given up by then.
    assert slow.loss_wait_us * 8 < slow.repair_age_us < 2 * NS_PER_S // 1000


@pytest.mark.parametrize(("after_s", "repair"), [(1.5, True), (2.8, False)])
def test_what_a_path_that_failed_had_in_flight_may_come(after_s: float, repair: bool) -> None:
    """LEFT_FOR."""
    tuner = PathTuner(MultipathSettings())
    tuner.add(0, 40_000)
    tuner.sample({}, {}, NS_PER_S)
    tuner.set_limits(0, False, 0, 1.0, 1400, usable=False)
    tuner.add(1, 40_000)
    assert tuner.sample({}, {}, NS_PER_S + int(after_s * NS_PER_S))[1].repair == repair


@pytest.mark.parametrize(("after_s", "repair"), [(11, True), (13, False)])
def test_what_is_kept_in_order_is_repaired(after_s: int, repair: bool) -> None:
    """LINGER: else it waits for what a path that was left brings late, or never."""
    tuner = PathTuner(MultipathSettings())
    tuner.add(0, 40_000)
    tuner.add(1, 40_000)
    tuner.sample({}, {}, NS_PER_S)
    tuner.set_limits(1, False, 0, 1.0, 1400, usable=False)
    assert tuner.sample({}, {}, (1 + after_s) * NS_PER_S)[1].repair == repair


@pytest.mark.parametrize(("ago_s", "seen"), [(2.4, True), (3.8, False)])
def test_losses_of_a_path_with_little_traffic(ago_s: float, seen: bool) -> None:
    """HISTORY."""
    estimator = PathEstimator()
    for tick in range(100):
        lost = 3 if tick * 0.1 > 9.9 - ago_s else 0
        told = PathSample(acked_highest=4 * tick, acked_datagrams=4 * tick - lost)
        estimator.push(told, tick * NS_PER_S // 10)
    assert (estimator.loss() > 0) == seen


@pytest.mark.parametrize(("a_second", "all_of_it"), [(36, True), (70, False)])
def test_a_share_of_few_is_no_share(a_second: int, all_of_it: bool) -> None:
    """FEW: else all of the history counts."""
    estimator = PathEstimator()
    for tick in range(31):
        sent = a_second * tick // 10
        lost = 3 if tick > 5 else 0
        told = PathSample(acked_highest=sent, acked_datagrams=sent - lost)
        estimator.push(told, tick * NS_PER_S // 10)
    assert (estimator.loss() > 0) == all_of_it


def told_after(looks: list[int]) -> bool:
    """Whether at the next look the stream has stopped that brought so many packets at each."""
    incoming = Incoming()
    now = count = 0
    for came in looks:
        now += 100 * NS_PER_MS
        count += came
        assert not incoming.ended(count, now)
    return incoming.ended(count, now + 100 * NS_PER_MS)


@pytest.mark.parametrize(
    ("looks", "stopped"),
    [
        ([3] * 10, False),  # PACKETS
        ([6] * 10, True),
        ([20], False),  # LOOKS
        ([20] * 3, True),
    ],
)
def test_a_stream_stops(looks: list[int], stopped: bool) -> None:
    assert told_after(looks) == stopped


@pytest.mark.parametrize(("after_ms", "told"), [(700, False), (1400, True)])
def test_it_is_told_again(after_ms: int, told: bool) -> None:
    """AGAIN."""
    incoming = Incoming()
    count, now = 0, 0
    for gap_ms in (0, after_ms):
        now += gap_ms * NS_PER_MS
        for _ in range(4):
            count += 20
            assert not incoming.ended(count, now)
        ended = incoming.ended(count, now + 100 * NS_PER_MS)
        assert ended or gap_ms
    assert ended == told
