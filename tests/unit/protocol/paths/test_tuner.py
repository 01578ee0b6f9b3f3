"""What PathTuner makes of a path: rates that follow the link, short queues, and figures that a
hostile peer cannot drive out of bounds."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from fluid_path import FluidPath
from hypothesis import given
from hypothesis import strategies as st

from whalescale.protocol.paths.estimator import (
    MAX_DELAY_US,
    MAX_RATE_BPS,
    MIN_RATE_BPS,
    PathEstimator,
    signed_delay,
)
from whalescale.protocol.paths.rate import Mode, RateControl
from whalescale.protocol.paths.tuner import RING_PACKETS, PathTuner
from whalescale.protocol.paths.types import (
    MultipathSettings,
    PathParams,
    PathSample,
    PeerParams,
)

MS = 1_000_000
SECOND = 1000 * MS
MBIT = 1e6


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_a_new_path_reaches_100_mbit_in_400_ms() -> None:
    path = FluidPath(100 * MBIT, owd_ms=20)
    assert path.params.rate_bps < 8 * MBIT  # begins low
    path.run(400)
    assert path.run(50) > 97 * MBIT


@pytest.mark.parametrize(
    ("rate", "owd"), [(100, 20), (50, 5), (20, 80), (400, 8), (1000, 2), (5, 30)]
)
def test_a_greedy_flow_fills_the_link_with_a_short_queue(rate: int, owd: int) -> None:
    path = FluidPath(rate * MBIT, owd)
    path.run(3000)
    assert path.run(20_000) > 0.985 * rate * MBIT
    assert mean(path.queues_ms) < 6
    assert max(path.queues_ms) < 20


def test_a_rate_that_falls_to_a_tenth_is_followed_within_a_second() -> None:
    path = FluidPath(100 * MBIT, owd_ms=20, buffer_bytes=250_000)
    path.run(3000)
    path.rate_bps = 10 * MBIT
    path.run(300)
    assert path.params.rate_bps < 12 * MBIT
    path.run(400)
    assert path.run(1000) > 9.5 * MBIT
    assert mean(path.queues_ms) < 15


def test_a_rate_that_rises_again_is_found_within_a_second() -> None:
    path = FluidPath(10 * MBIT, owd_ms=20)
    path.run(3000)
    path.rate_bps = 100 * MBIT
    path.run(1000)
    assert path.run(500) > 96 * MBIT


def test_delays_of_a_path_that_hardly_carries_anything_are_no_full_link() -> None:
    """Jitter of 9 ms while one packet comes in each 40 ms: the ramp goes on."""
    est, rate = PathEstimator(), RateControl(60_000, SECOND)
    for i in range(1, 100):
        now, count = SECOND + i * 20 * MS, min(10 * i, 100) + max(i - 10, 0) // 2
        est.push(
            PathSample(
                acks=i,
                acked_bytes=1400 * count,
                acked_datagrams=count,
                acked_highest=count,
                acked_arrived_us=i * 20_000,
                tx_bytes=1400 * count,
                delay_us=30_000 + (9_000 if i > 8 else 0),
            ),
            now,
            rate.pace_bps,
        )
        rate.update(est, 60_000, 60_000, 1.0, now)
        if i == 10:
            before = rate.bw_bps
    assert rate.mode is Mode.RAMP
    assert rate.bw_bps >= before


@pytest.mark.parametrize("loss", [0.005, 0.05, 0.1])
def test_random_loss_takes_no_more_than_itself(loss: float) -> None:
    path = FluidPath(80 * MBIT, owd_ms=30, loss=loss)
    path.run(3000)
    assert path.run(10_000) > 0.97 * 80 * MBIT
    assert path.tuner.loss(0) == pytest.approx(loss, abs=0.01)


def test_a_buffer_too_short_to_see_costs_few_datagrams() -> None:
    path = FluidPath(100 * MBIT, owd_ms=20, buffer_bytes=12_000)
    path.run(5000)
    assert path.run(10_000) > 97 * MBIT
    assert path.tuner.loss(0) < 0.08


def test_another_ones_standing_queue_does_not_starve_us() -> None:
    path = FluidPath(50 * MBIT, owd_ms=10)
    path.run(3000)
    path.foreign_bytes = 50 * MBIT / 8 * 0.06  # 60 ms, whatever we do
    path.run(3000)
    assert path.run(3000) > 47 * MBIT


def test_a_source_that_wants_less_leaves_the_estimate_alone() -> None:
    path = FluidPath(100 * MBIT, owd_ms=20)
    path.run(3000)
    before = path.tuner.rate_bps(0)
    path.supply_bps = 5 * MBIT
    path.run(1000)
    assert path.run(10_000) == pytest.approx(5 * MBIT, rel=0.01)
    assert path.tuner.rate_bps(0) > 0.9 * before
    assert path.tuner.acked_bps(0) == pytest.approx(5 * MBIT, rel=0.05)


def test_a_rate_is_told_once_it_was_measured() -> None:
    """Before it is a guess, and stays one where nothing acknowledges what goes over the path."""
    path = FluidPath(100 * MBIT, owd_ms=20)
    assert path.tuner.rate_bps(0) == 0
    path.run(2000)
    assert path.tuner.rate_bps(0) > 50 * MBIT


def test_a_cap_is_kept_and_does_not_eat_into_itself() -> None:
    path = FluidPath(100 * MBIT, owd_ms=20)
    path.run(3000)
    path.tuner.set_limits(0, degraded=False, tier=0, cap=0.5, max_packet=1400, usable=True)
    path.run(2000)
    assert path.run(20_000) == pytest.approx(50 * MBIT, rel=0.1)
    assert path.params.max_packet == 1400


def test_a_restarted_path_ramps_from_the_least() -> None:
    path = FluidPath(100 * MBIT, owd_ms=20)
    path.run(3000)
    path.tuner.restart(0, path.now_ms * MS)
    assert path.tuner.rate_bps(0) < 5 * MBIT
    path.run(1500)
    assert path.run(500) > 96 * MBIT


def test_a_flow_that_begins_is_not_held_back_by_the_ramp() -> None:
    """What a TCP in slow start sends in a round trip goes at once; a flood still ramps."""
    path = FluidPath(100 * MBIT, owd_ms=20)
    path.supply_bps = 0
    path.run(100)
    burst = 64 * 1500 * 8
    assert path.params.rate_bps >= burst / 0.040
    assert path.params.window_bytes >= 64 * 1500
    path.supply_bps = 1e12
    path.run(60)
    assert path.params.rate_bps < burst / 0.040
    path.run(1000)
    assert path.run(500) > 96 * MBIT
    assert mean(path.queues_ms) < 6


def test_only_the_quickest_path_lets_a_flow_begin_freely() -> None:
    def idle(cap: float) -> tuple[dict[int, PathParams], PeerParams]:
        tuner = PathTuner(MultipathSettings())
        for path, rtt_us in ((0, 60_000), (1, 20_000)):
            tuner.add(path, rtt_us, SECOND)
            tuner.set_limits(path, False, 0, cap, 1420, usable=True)
        for i in range(3):
            found = tuner.sample({0: PathSample(), 1: PathSample()}, {}, SECOND + i * SECOND)
        return found

    params, peer = idle(1.0)
    burst = 64 * 1500 * 8
    assert params[1].rate_bps >= burst / 0.020
    assert params[0].rate_bps < burst / 0.060
    # What is let go at once is not let wait: the queue is as short as the paths are slow.
    assert peer.queue_bytes < 700_000
    params, _ = idle(0.5)  # the user said how much
    assert params[1].rate_bps < burst / 0.020


def test_a_path_that_has_failed_is_not_the_quickest() -> None:
    tuner = PathTuner(MultipathSettings())
    for path, rtt_us in ((0, 60_000), (1, 20_000)):
        tuner.add(path, rtt_us, SECOND)
        tuner.set_limits(path, False, 0, 1.0, 1420, usable=path == 0)
    for i in range(3):
        params, peer = tuner.sample({0: PathSample(), 1: PathSample()}, {}, SECOND * (1 + i))
    # Flows begin on the one that is left, and nothing is expected to come later.
    assert params[0].rate_bps >= 64 * 1500 * 8 / 0.060
    assert params[0].delay_us == 0
    assert peer.slack_us == 20_000


def sample(i: int, **more: int) -> PathSample:
    """A path that delivers 10 Mbit/s, 20 ms after 20 ms."""
    return replace(
        PathSample(
            tx_packets=20 * i,
            acked_bytes=25_000 * i,
            acked_datagrams=20 * i,
            acked_highest=20 * i,
            acked_arrived_us=20_000 * i,
            acks=i,
            rtt_us=40_000,
            srtt_us=40_000,
            rttvar_us=2_000,
            rtt_min_us=40_000,
            delay_us=1000,
        ),
        **more,
    )


def tuned(
    settings: MultipathSettings | None = None, *paths: dict[str, int]
) -> tuple[PathTuner, dict[int, PathParams], PeerParams]:
    """Two seconds of samples, each path with its own figures."""
    tuner = PathTuner(settings or MultipathSettings())
    for i in range(len(paths)):
        tuner.add(i, 40_000, SECOND)
    for i in range(1, 101):
        params, peer = tuner.sample(
            {p: sample(i, **more) for p, more in enumerate(paths)}, {}, SECOND + i * 20 * MS
        )
    return tuner, params, peer


def test_delays_are_relative_and_may_wrap() -> None:
    _, params, peer = tuned(
        None, {"delay_us": (1 << 24) - 5_000}, {"delay_us": 15_000}, {"delay_us": 65_000}
    )
    assert [params[i].delay_us for i in range(3)] == [0, 20_000, 70_000]
    # Those up to 50 ms slower are used at once, the one that is 70 ms slower is not.
    assert 20_000 <= peer.slack_us < 70_000


@pytest.mark.parametrize(("lag_ms", "waits"), [(45, True), (25, False)])
def test_a_path_much_slower_waits_until_the_nearer_ones_are_full(lag_ms: int, waits: bool) -> None:
    """A packet on it makes all that follow wait, and an inner slow start ends by that."""
    path = FluidPath(20 * MBIT, owd_ms=3)
    path.tuner.add(1, 6_000 + 2_000 * lag_ms, path.now_ms * MS)

    def at_once() -> bool:
        return path.peer.slack_us >= 1000 * lag_ms

    path.run(60)
    assert at_once() is not waits  # it ramps: nobody knows
    path.run(2000)
    assert at_once()
    path.supply_bps = 5 * MBIT
    path.run(1500)
    assert at_once() is not waits
    path.supply_bps = 1e12
    path.run(500)
    assert at_once()


def at(delay_us: int) -> dict[str, int]:
    return {"delay_us": 1000 + delay_us} | rtt(10_000 + delay_us)


def test_a_tcp_sees_a_round_trip_that_lets_a_bbr_start() -> None:
    def wait(*paths: dict[str, int], align: bool = True) -> int:
        _, _, peer = tuned(MultipathSettings(align=align), *paths)
        return peer.tcp_wait_us

    assert wait(at(0), at(15_000)) == 3_333  # a third of the quick one, though 3.4 ms lack
    assert 1_500 < wait(at(0), at(13_500)) < 2_500
    assert wait(at(0), at(5_000)) == 0  # no need
    assert wait(at(0), at(60_000)) == 0  # too far: not used at once
    assert wait(at(0)) == 0
    assert wait(at(0), at(15_000), align=False) == 0


def test_a_low_moment_does_not_undo_the_wait() -> None:
    """A TCP keeps the least that it saw for 10 s."""
    tuner, _, peer = tuned(None, at(0), at(15_000))
    waits = [peer.tcp_wait_us]
    for i in range(101, 121):
        close = {0: sample(i, **at(0)), 1: sample(i, **at(0))}
        _, peer = tuner.sample(close, {}, SECOND + i * 20 * MS)
        waits.append(peer.tcp_wait_us)
    assert waits == sorted(waits, reverse=True)
    assert 0.7 * waits[0] < waits[-1] < waits[0]


def test_a_link_below_the_first_guess_is_not_taken_for_it() -> None:
    """Nothing waits for it: a burst of an inner BBR's start is all that it shows."""
    path = FluidPath(5 * MBIT, owd_ms=5, buffer_bytes=50_000)
    path.supply_bps = 20 * MBIT
    path.run(60)
    path.supply_bps = 2 * MBIT
    path.run(1000)
    assert path.tuner.rate_bps(0) < 6 * MBIT


def test_a_short_queue_that_stays_ends_a_ramp() -> None:
    """An inner BBR's: it never fills ours, and the pace of a ramp would keep all on this path."""
    path = FluidPath(20 * MBIT, owd_ms=3)

    def window() -> None:
        path.supply_bps = (20 if path.queue * 8e3 >= 9 * path.rate_bps else 30) * MBIT

    path.supply_bps = 20 * MBIT
    path.run(500, window)
    assert path.params.rate_bps < 30 * MBIT
    path.run(1000, window)
    assert 19 * MBIT < path.tuner.rate_bps(0) < 21 * MBIT


def test_what_a_path_took_with_a_queue_is_not_held_against_it_for_long() -> None:
    """Nothing goes over a path that seems slow, so nothing but its probes can say better."""
    tuner = PathTuner(MultipathSettings())
    for path in range(2):
        tuner.add(path, 20_000, SECOND)
    queued = {"delay_us": 71_000} | rtt(90_000)
    delays = []
    for i in range(1, 251):
        now = SECOND + i * 20 * MS
        sent = min(i, 150)  # after 3 s over path 0 alone, at its own delay all the while
        both = {0: sample(i, **rtt(20_000)), 1: sample(sent, **queued)}
        params, peer = tuner.sample(both, {0: 20_000, 1: 40_000}, now)
        delays.append(params[1].delay_us)
    assert delays[149] == delays[190] == 70_000
    assert delays[-1] == 20_000
    assert peer.slack_us >= 20_000
    # What is sent again says it better than any probe.
    params, _ = tuner.sample({0: sample(251), 1: sample(251, **queued)}, {}, now + 20 * MS)
    assert params[1].delay_us == 70_000


def test_before_any_ack_the_probe_says_the_delay() -> None:
    tuner = PathTuner(MultipathSettings())
    tuner.add(0, 20_000, SECOND)
    tuner.add(1, 60_000, SECOND)
    params, _ = tuner.sample({0: PathSample(), 1: PathSample()}, {1: 80_000}, SECOND)
    assert (params[0].delay_us, params[1].delay_us) == (0, 30_000)
    assert params[0].srtt_us == 20_000


@pytest.mark.parametrize(
    ("repair", "least", "most"), [(False, 150_000, 180_000), (None, 180_000, 220_000)]
)
def test_the_hold_covers_the_skew_of_what_arrives(
    repair: bool | None, least: int, most: int
) -> None:
    tuner = PathTuner(MultipathSettings(repair=repair))
    tuner.add(0, 2_000, SECOND)
    tuner.add(1, 3_000, SECOND)
    for i in range(1, 200):
        rx = [
            PathSample(
                rx_packets=20 * i,
                rx_bytes=25_000 * i,
                rx_delay_us=(delay - 3000) % (1 << 24),
                rx_jitter_us=500,
            )
            for delay in (0, 100_000)
        ]
        _, peer = tuner.sample(dict(enumerate(rx)), {}, SECOND + i * 20 * MS)
    assert least <= peer.hold_us <= most
    assert 64 <= peer.reorder_depth <= 4096


def test_one_path_holds_hardly_at_all() -> None:
    _, _, peer = tuned(None, {"rx_bytes": 1000})
    assert peer.hold_us <= 10_000


@pytest.mark.parametrize(("setting", "wanted"), [(True, True), (False, False), (None, True)])
def test_repair_goes_on_where_a_path_loses(setting: bool | None, wanted: bool) -> None:
    tuner = PathTuner(MultipathSettings(repair=setting))
    tuner.add(0, 40_000, SECOND)
    tuner.add(1, 40_000, SECOND)
    for i in range(1, 101):
        lossy = sample(i, acked_datagrams=20 * i - i // 5)  # 1 %
        _, peer = tuner.sample({0: lossy, 1: sample(i)}, {}, SECOND + i * 20 * MS)
    assert peer.repair is wanted


def test_repair_is_ready_from_the_first_loss_on_full_paths_too() -> None:
    _, _, peer = tuned(None, {}, {})
    assert peer.repair
    _, _, peer = tuned(None, {})
    assert not peer.repair  # there is no other path
    tuner = PathTuner(MultipathSettings())
    tuner.add(0, 40_000, SECOND)
    tuner.add(1, 40_000, SECOND)
    for i in range(1, 71):
        full = sample(i)
        if i > 50:
            full = replace(full, delay_us=81_000, acked_datagrams=20 * i - (i - 50) // 2)
        _, peer = tuner.sample({0: full, 1: sample(i)}, {}, SECOND + i * 20 * MS)
        assert peer.repair


def rtt(us: int) -> dict[str, int]:
    return {"rtt_us": us, "srtt_us": us, "rtt_min_us": us}


def bulk(settings: MultipathSettings | None, *paths: dict[str, int], idle_s: int = 0) -> PeerParams:
    """A flow that knew better times and leaves its paths unfilled now, for 3 s."""
    tuner = PathTuner(settings or MultipathSettings())
    for i in range(len(paths)):
        tuner.add(i, 40_000, SECOND)
    moved = 0
    for tick in range(1, 50 * (4 + idle_s)):
        moved += 25_000 if tick <= 50 else 20_000 if tick <= 200 else 0
        now = SECOND + tick * 20 * MS
        samples = {p: sample(tick, **{"acked_bytes": moved} | own) for p, own in enumerate(paths)}
        _, peer = tuner.sample(samples, {}, now)
    return peer


def test_acks_of_a_bulk_flow_come_in_bunches() -> None:
    """When exactly: test_bunches.py."""
    peer = bulk(None, rtt(10_000), rtt(30_000))
    assert (peer.bunch_us, peer.bunch_every_us) == (25_000, 240_000)
    assert bulk(None, rtt(10_000), rtt(30_000), idle_s=2).bunch_us == 0  # it has ended
    # On the quick path alone, which it fills: it lacks the window for the other one.
    assert bulk(None, rtt(10_000), rtt(30_000) | {"acked_bytes": 1000}).bunch_us == 25_000
    assert bulk(MultipathSettings(align=False), rtt(10_000), rtt(30_000)).bunch_us == 0
    assert bulk(None, rtt(10_000)).bunch_us == 0


@pytest.mark.parametrize("quick", [2, 4])
def test_acks_come_in_bunches_when_the_quick_path_has_failed(quick: int) -> None:
    """An inner BBR remembers its round trip for 10 s, also of a path that carried more."""
    tuner = PathTuner(MultipathSettings())
    tuner.add(0, 10_000, SECOND)
    tuner.add(1, 30_000, SECOND)
    asked = []
    for tick in range(1, 50 * 14):
        moved = quick * 25_000 * min(tick, 100)
        samples = {
            0: sample(tick, **{"acked_bytes": moved} | rtt(10_000)),
            1: sample(tick, **{"acked_bytes": 25_000 * tick} | rtt(30_000)),
        }
        if tick == 100:
            tuner.set_limits(0, degraded=False, tier=0, cap=1.0, max_packet=1400, usable=False)
        _, peer = tuner.sample(samples, {}, SECOND + tick * 20 * MS)
        asked.append(peer.bunch_us)
    assert not any(asked[:99])
    assert asked[100] == 25_000
    assert all(asked[100:120])
    assert not any(asked[650:])


def test_fixed_depth_is_kept() -> None:
    _, _, peer = tuned(MultipathSettings(reorder_depth=128, deliver_late=False), {}, {})
    assert (peer.reorder_depth, peer.deliver_late) == (128, False)


def test_rescue_is_within_three_round_trips_and_a_little() -> None:
    _, params, _ = tuned(None, {"srtt_us": 10_000, "rttvar_us": 500}, {"rttvar_us": 40_000})
    assert 50_000 <= params[0].rescue_us <= 80_000
    assert params[1].rescue_us == 3 * 40_000 + 50_000


def test_packets_are_held_until_a_silent_path_is_made_up_for() -> None:
    _, params, peer = tuned(None, {"srtt_us": 10_000}, {"srtt_us": 40_000})
    rescue = max(each.rescue_us for each in params.values())
    assert 2 * rescue < peer.hold_us <= 250_000


def test_the_peers_paths_count_where_ours_are_gone() -> None:
    """It learns later than we that one of our addresses is gone."""
    tuner = PathTuner(MultipathSettings())
    tuner.add(0, 40_000, SECOND)
    for i in range(1, 100):
        rx = {n: PathSample(rx_packets=20 * i, rx_bytes=25_000 * i) for n in (0, 1)}
        _, peer = tuner.sample(rx, {}, SECOND + i * 20 * MS)
    assert peer.hold_us > 100_000


def test_what_was_sent_is_known_whatever_the_ticks() -> None:
    est = PathEstimator()
    for i in range(1, 50):
        est.push(PathSample(tx_bytes=50_000 * i, limited_us=40_000 * i), SECOND + i * 40 * MS, 1e6)
    now = SECOND + 49 * 40 * MS
    assert est.sent_bps(20_000, 10_000, now) == pytest.approx(10e6)
    assert est.limited(20_000, 10_000, now) == pytest.approx(1)


def test_shares_add_up_and_a_degraded_path_counts_a_quarter() -> None:
    tuner, _, _ = tuned(None, {}, {})
    assert tuner.share(0) == pytest.approx(0.5)
    tuner.set_limits(1, degraded=True, tier=0, cap=1.0, max_packet=1400, usable=True)
    assert tuner.share(0) == pytest.approx(0.8)
    tuner.remove(1)
    assert tuner.share(0) == 1.0
    assert tuner.share(1) == 0.0
    assert tuner.rate_bps(1) == tuner.acked_bps(1) == tuner.queue_us(1) == 0


def test_counters_that_run_backwards_begin_the_history_anew() -> None:
    est = PathEstimator()
    for i in range(1, 10):
        est.push(sample(i), SECOND + i * 20 * MS, 1e6)
    assert est.delivery_bps(50_000) == pytest.approx(10 * MBIT)
    est.push(sample(1), SECOND + 200 * MS, 1e6)
    assert est.delivery_bps(50_000) is None
    assert est.losses(1e6) == (0, 0)


def test_signed_delay_is_the_nearest() -> None:
    assert signed_delay(5) == 5
    assert signed_delay((1 << 24) - 5) == -5
    assert signed_delay(-((1 << 24) + 7)) == -7


wild = st.one_of(
    st.integers(0, 1 << 20),
    st.integers(0, (1 << 64) - 1),
    st.sampled_from([0, 1, (1 << 24) - 1, 1 << 24, (1 << 32) - 1, 1 << 63, (1 << 64) - 1]),
)
COUNTERS = [
    "in_flight_bytes",
    "acked_datagrams",
    "acked_bytes",
    "acked_highest",
    "acked_arrived_us",
    "acks",
    "rtt_us",
    "srtt_us",
    "rttvar_us",
    "rtt_min_us",
    "delay_us",
    "limited_us",
    "rx_datagrams",
    "rx_bytes",
    "rx_highest",
    "rx_delay_us",
    "rx_jitter_us",
]


def judge(tuner: PathTuner, params: dict[int, PathParams], peer: PeerParams) -> None:
    for path_id, each in params.items():
        assert MIN_RATE_BPS <= each.rate_bps <= MAX_RATE_BPS
        assert 3_000 <= each.window_bytes < 1 << 48
        assert 0 < each.srtt_us <= MAX_DELAY_US
        assert 0 < each.weight < 1 << 32
        assert 0 <= each.delay_us <= MAX_DELAY_US
        assert 0 < each.rescue_us < 1 << 32
        assert 0 <= tuner.loss(path_id) <= 1
        assert math.isfinite(tuner.share(path_id))
        assert 0 <= tuner.share(path_id) <= 1
        assert 0 <= tuner.acked_bps(path_id) <= MAX_RATE_BPS
        assert 0 <= tuner.queue_us(path_id) <= MAX_DELAY_US
    assert min(each.delay_us for each in params.values()) == 0
    assert 0 < peer.queue_bytes <= RING_PACKETS * 1500
    assert 2_000 <= peer.hold_us <= 250_000
    assert 1 <= peer.reorder_depth <= 4096
    assert 0 <= peer.loss_wait_us <= MAX_DELAY_US * 2
    assert 1_000 <= peer.ack_interval_us <= 20_000
    assert 0 < peer.slack_us < 1 << 32
    assert 0 < peer.path_idle_us < 1 << 32


@given(
    st.lists(
        st.tuples(
            st.integers(-5_000_000, 3 * SECOND),
            st.dictionaries(st.sampled_from(COUNTERS), wild, max_size=8),
            st.dictionaries(st.sampled_from(COUNTERS), wild, max_size=8),
            st.booleans(),
        ),
        max_size=40,
    )
)
def test_a_hostile_peer_drives_no_figure_out_of_bounds(
    steps: list[tuple[int, dict[str, int], dict[str, int], bool]],
) -> None:
    tuner = PathTuner(MultipathSettings())
    now = SECOND
    tuner.add(0, 0, now)
    tuner.add(5, 1 << 62, now)
    one, two = PathSample(), PathSample()
    for step, first, second, fresh in steps:
        now = max(0, now + step)
        one = replace(PathSample() if fresh else one, **first)
        two = replace(PathSample() if fresh else two, **second)
        params, peer = tuner.sample({0: one, 5: two}, {0: 1 << 63, 5: -4}, now)
        judge(tuner, params, peer)
