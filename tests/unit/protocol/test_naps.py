"""Two clocks tell that the host slept."""

from __future__ import annotations

from whalescale.protocol.limits import NS_PER_S
from whalescale.protocol.naps import Naps


def test_the_boot_clock_ahead_of_the_monotonic_one_is_a_nap() -> None:
    naps = Naps(1_000 * NS_PER_S, 400 * NS_PER_S)
    assert naps.look(1_001 * NS_PER_S, 401 * NS_PER_S) == 0
    # A host that is merely busy loses time on both.
    assert naps.look(1_061 * NS_PER_S, 461 * NS_PER_S) == 0
    assert naps.look(1_362 * NS_PER_S, 462 * NS_PER_S) == 300 * NS_PER_S
    # It is told once.
    assert naps.look(1_363 * NS_PER_S, 463 * NS_PER_S) == 0


def test_what_passes_between_the_two_readings_is_none() -> None:
    naps = Naps(0, 0)
    assert naps.look(NS_PER_S // 2, 0) == 0
    assert naps.look(NS_PER_S, NS_PER_S) == 0
    assert naps.look(2 * NS_PER_S, 2 * NS_PER_S) == 0
