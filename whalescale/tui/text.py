"""Figures as people read them, and the sparkline. Pure functions of their arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

BARS: Final = "▁▂▃▄▅▆▇█"
NONE: Final = "-"


def plain(text: str) -> str:
    """One line without control characters: names come from elsewhere."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else "?" for c in text)


def human_bytes(count: int) -> str:
    """Binary units, three digits: 512 B, 1.21 GiB."""
    value, unit = _scaled(float(count), 1024, ("B", "KiB", "MiB", "GiB", "TiB", "PiB"))
    return f"{count} B" if unit == "B" else f"{_three(value)} {unit}"


def human_rate(bits_per_second: float | None) -> str:
    """Decimal units, as links are sold: 94.1 Mbit/s."""
    if bits_per_second is None:
        return NONE
    units = ("bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s")
    value, unit = _scaled(bits_per_second, 1000, units)
    return f"{value:.0f} {unit}" if unit == "bit/s" else f"{_three(value)} {unit}"


def human_count(count: int) -> str:
    """Groups of three: 1,234,567."""
    return f"{count:,}"


def human_duration(seconds: float | None) -> str:
    """The two largest units: 12 s, 3 min 4 s, 2 h 5 min, 4 d 3 h."""
    if seconds is None:
        return NONE
    left = max(int(seconds), 0)
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    for i, (unit, size) in enumerate(units):
        if left >= size:
            whole, rest = divmod(left, size)
            if i + 1 < len(units) and rest // units[i + 1][1]:
                return f"{whole} {unit} {rest // units[i + 1][1]} {units[i + 1][0]}"
            return f"{whole} {unit}"
    return "0 s"


def human_ago(seconds: float | None) -> str:
    return "never" if seconds is None else f"{human_duration(seconds)} ago"


def human_ms(milliseconds: float | None) -> str:
    if milliseconds is None:
        return NONE
    return f"{_three(milliseconds)} ms" if milliseconds < 1000 else f"{milliseconds:.0f} ms"


def sparkline(values: Sequence[float], width: int, top: float = 0.0) -> str:
    """The last `width` values as bars, scaled to the largest of them and `top`; shorter histories
    start at right."""
    shown = list(values)[-width:] if width > 0 else []
    top = max(shown, default=0.0) if top <= 0 else top
    if top <= 0:
        return (BARS[0] * len(shown)).rjust(width)
    steps = len(BARS) - 1
    bars = (BARS[min(round(max(v, 0.0) / top * steps), steps)] for v in shown)
    return "".join(bars).rjust(width)


def _scaled(value: float, step: int, units: Sequence[str]) -> tuple[float, str]:
    at = 0
    while value >= 999.5 and at + 1 < len(units):
        value /= step
        at += 1
    return value, units[at]


def _three(value: float) -> str:
    if value < 9.995:
        return f"{value:.2f}"
    return f"{value:.1f}" if value < 99.95 else f"{value:.0f}"
