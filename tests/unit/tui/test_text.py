"""Figures as people read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whalescale.tui import text


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.98 KiB"),
        (1024, "1.00 KiB"),
        (10240, "10.0 KiB"),
        (102400, "100 KiB"),
        (5 * 2**30, "5.00 GiB"),
        (2**64, "16384 PiB"),
    ],
)
def test_bytes(count: int, expected: str) -> None:
    assert text.human_bytes(count) == expected


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        (None, "-"),
        (0, "0 bit/s"),
        (999, "999 bit/s"),
        (999.6, "1.00 kbit/s"),
        (94_100_000, "94.1 Mbit/s"),
        (5.25e9, "5.25 Gbit/s"),
    ],
)
def test_rates(rate: float | None, expected: str) -> None:
    assert text.human_rate(rate) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (None, "-"),
        (-3, "0 s"),
        (0.9, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (125, "2 min 5 s"),
        (3600, "1 h"),
        (3665, "1 h 1 min"),
        (90000, "1 d 1 h"),
        (86400 + 59, "1 d"),
    ],
)
def test_durations(seconds: float | None, expected: str) -> None:
    assert text.human_duration(seconds) == expected


def test_ago_and_ms() -> None:
    assert text.human_ago(None) == "never"
    assert text.human_ago(3) == "3 s ago"
    assert [text.human_ms(v) for v in (None, 0.031, 12.34, 1234.5)] == [
        "-",
        "0.03 ms",
        "12.3 ms",
        "1234 ms",
    ]


def test_sparkline() -> None:
    assert text.sparkline([], 3) == "   "
    assert text.sparkline([0, 0], 3) == " ▁▁"
    assert text.sparkline([0, 7, 14], 3) == "▁▅█"
    assert text.sparkline([1, 2, 3, 4], 2) == "▆█"
    assert text.sparkline([1], 0) == ""


@given(st.lists(st.floats(0, 1e18), max_size=50), st.integers(0, 60))
def test_sparkline_fits(values: list[float], width: int) -> None:
    line = text.sparkline(values, width)
    assert len(line) == width
    assert set(line) <= set(text.BARS + " ")
    if values and width and max(values[-width:]) > 0:
        assert "█" in line


@given(st.integers(0, 2**70))
def test_bytes_are_short(count: int) -> None:
    assert len(text.human_bytes(min(count, 2**63))) <= 9


@given(st.text())
def test_plain_is_one_printable_line(value: str) -> None:
    assert text.plain(value).isprintable()
    assert len(text.plain(value)) == len(value)
