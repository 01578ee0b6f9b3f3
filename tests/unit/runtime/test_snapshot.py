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


def test_when_a_path_was_heard() -> None:
    """What came from the peer came by the path in use, if that is one."""
    one = path_status(0, heard_at=5)
    spare = path_status(1, usable=False, heard_at=7)
    silent = path_status(2, usable=False)
    assert [at for _, at in snapshot.heard([one, spare, silent], 9)] == [9, 7, 0]
    assert [at for _, at in snapshot.heard([one, path_status(1)], 9)] == [5, 0]


@pytest.mark.parametrize(
    ("attempts", "silent_s", "gone"), [(0, 600, False), (3, 10, False), (3, 16, True)]
)
def test_a_session_whose_handshakes_nobody_answers_is_not_up(
    attempts: int, silent_s: int, gone: bool
) -> None:
    now = 10**12
    assert snapshot.seems_gone(attempts, now - silent_s * 10**9, now) is gone
