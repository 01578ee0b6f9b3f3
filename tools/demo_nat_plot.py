"""The NAT demo's picture: throughput by way over time, and ping."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

from tools.demo_nat_record import DIRECT, Sample
from tools.demo_plot import AXIS, LARGE, LEFT, PING, SCALE, Panel
from tools.mpbench.plots import EVENT

TITLE: Final = "Two laptops behind NATs: one download, directly and over an anchor"
#: direct, then the relays in order: one colour in two shades
COLOR_DIRECT: Final = "#2e8b57"
COLORS_RELAY: Final = ("#d9822b", "#f0b97d", "#b5651d")
SIZE: Final = 1100, 620
UPPER, LOWER = (84, 410), (440, 570)
#: looks that make one column
COLUMN: Final = 2


def colors(ways: Sequence[str]) -> dict[str, str]:
    """By way, direct first."""
    relays = [way for way in ways if way != DIRECT]
    shades = [COLORS_RELAY[n % len(COLORS_RELAY)] for n in range(len(relays))]
    return {DIRECT: COLOR_DIRECT, **dict(zip(relays, shades, strict=True))}


def columns(
    samples: Sequence[Sample], ways: Sequence[str]
) -> list[tuple[float, float, dict[str, float]]]:
    """(from, until, Mbit/s by way) of every few looks."""
    found = []
    for first, last in pairwise(range(0, len(samples), COLUMN)):
        start, end = samples[first].at, samples[last].at
        inside = samples[first + 1 : last + 1]
        rates = {w: sum(s.went.get(w, 0) for s in inside) * 8e-6 / (end - start) for w in ways}
        found.append((start, end, rates))
    return found


def draw(
    samples: Sequence[Sample],
    pings: Sequence[tuple[float, float]],
    events: Sequence[tuple[float, str]],
    span: tuple[float, float],
    path: Path,
) -> None:
    """Write the PNG. `pings`: when each answer came, and ms; the span's begin is second 0.

    OSError: it cannot be written.
    """
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (SIZE[0] * SCALE, SIZE[1] * SCALE), "white")
    canvas = ImageDraw.Draw(image)
    began, seconds = span[0], max(span[1] - span[0], 1.0)
    inside = [s for s in samples if span[0] <= s.at <= span[1]]
    ways = sorted({way for s in inside for way in s.went} - {DIRECT})
    shades = colors(ways)
    rates = columns(inside, list(shades))
    highest = max((sum(r.values()) for *_, r in rates), default=0.0)
    upper = Panel(canvas, *UPPER, seconds, max(highest, 1.0) * 1.1)
    for start, end, by_way in rates:
        base = 0.0
        for way, color in shades.items():
            top = base + by_way[way]
            corners = (
                upper.x(start - began),
                upper.y(top),
                upper.x(end - began),
                upper.y(base),
            )
            if by_way[way] > 0:
                canvas.rectangle([c * SCALE for c in corners], color)
            base = top
    answers = [(at - began, ms) for at, ms in pings if span[0] <= at <= span[1]]
    lower = Panel(canvas, *LOWER, seconds, max([ms for _, ms in answers], default=1.0) * 1.1)
    lower.dots(answers, PING)
    upper.frame("Mbit/s", 6)
    lower.frame("ms ping", 4)
    lower.seconds_below()
    _events(Panel(canvas, UPPER[0], LOWER[1], seconds, 1.0), events, began)
    upper.text(SIZE[0] / 2, 18, TITLE, AXIS, "mm", LARGE)
    left = LEFT
    for way, color in shades.items():
        box = (left, 34, left + 16, 44)
        canvas.rectangle([c * SCALE for c in box], color)
        upper.text(left + 21, 39, way, AXIS, "lm")
        left += 50 + 7 * len(way)
    image.resize(SIZE, Image.Resampling.LANCZOS).save(path, "PNG")


def _events(panel: Panel, events: Sequence[tuple[float, str]], began: float) -> None:
    for number, (at, what) in enumerate(events):
        x = panel.x(at - began)
        for y in range(int(panel.top), int(panel.bottom), 7):
            panel.line([(x, y), (x, y + 3)], EVENT)
        panel.text(x, panel.top - 8 - 13 * (number % 2), what, EVENT, "mm", 12)
