"""The one door of what is tuned for a TCP inside: opened, and shut."""

from __future__ import annotations

import pytest

from whalescale.protocol.paths.estimator import PathEstimator
from whalescale.protocol.paths.innertcp import (
    PULSE_NOISE_US,
    QUEUE_RAMP_US,
    QUEUE_US,
    Asked,
    InnerTcp,
    Used,
    free_start,
    pulses,
    queue_us,
)

NOW = 10**12
USED = {0: Used(10_000, 0, 80e6, PathEstimator()), 1: Used(25_000, 15_000, 40e6, PathEstimator())}


def test_two_paths_make_acknowledgements_wait() -> None:
    asked = InnerTcp(align=True).update(USED, 50_000, NOW)
    assert asked.align
    assert 0 < asked.tcp_wait_us <= 5_000


@pytest.mark.parametrize("used", [USED, {0: USED[0]}, {}])
def test_shut_it_asks_for_nothing(used: dict[int, Used]) -> None:
    asked = InnerTcp(align=False).update(used, 50_000, NOW)
    assert asked == Asked(False, 0, asked.bunch_every_us, 0)


def test_one_path_has_nothing_to_wait_for() -> None:
    assert InnerTcp(align=True).update({0: USED[0]}, 50_000, NOW).tcp_wait_us == 0


def test_the_rest_follows_from_the_link_alone() -> None:
    assert queue_us(True, 30_000) == QUEUE_RAMP_US
    assert queue_us(False, 30_000) == QUEUE_US + 30_000
    assert free_start(10_000) == (64 * 1500 * 8e6 / 10_000, 64 * 1500)
    assert pulses(PULSE_NOISE_US + 1, limited=False, first=False)
    assert not pulses(PULSE_NOISE_US + 1, limited=True, first=False)
