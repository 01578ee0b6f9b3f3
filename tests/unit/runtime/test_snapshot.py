"""What is told of a path."""

from __future__ import annotations

import pytest

from tests.unit.runtime.fakes import path_status
from whalescale.runtime import snapshot


@pytest.mark.parametrize(
    ("newest_us", "kept_us", "shown_ms"),
    [
        (21_312, 20_050, 20.05),
        (19_000, 20_050, 19.0),  # came after the least was kept
        (21_312, None, None),
        (None, None, None),
    ],
)
def test_no_round_trip_is_shown_below_the_least(
    newest_us: int | None, kept_us: int | None, shown_ms: float | None
) -> None:
    told = snapshot.path(path_status(0, rtt_us=newest_us, rtt_min_us=kept_us))
    assert told["rtt_min_ms"] == shown_ms
