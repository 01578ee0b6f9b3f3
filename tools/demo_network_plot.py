"""The network demo's picture: who knew what when, and what the traffic did meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.demo_network_record import KNOWN, OFF, OUT, SELF, TALKS, Observer
from tools.demo_plot import AXIS, LARGE, LEFT, RIGHT, SCALE, Panel
from tools.mpbench.plots import EVENT, smooth

COLORS: Final = {
    TALKS: "#2e8b57",
    KNOWN: "#a9d8bd",
    SELF: "#777777",
    OFF: "#eeeeee",
    OUT: "#e8b5b5",
}
WORDS: Final = (
    (SELF, "itself"),
    (TALKS, "has a session with it"),
    (KNOWN, "knows it as a member"),
    (OUT, "was revoked"),
    (OFF, "no agent"),
)
FLOW, PING, MARK = "#222222", "#2563a8", "#d9822b"
WIDTH: Final = 1100
TOP, LANE, GAP = 84, 13, 12
TRAFFIC: Final = 80


@dataclass(frozen=True, slots=True)
class Traffic:
    """Points of seconds and Mbit/s; points of seconds and ms."""

    download: Sequence[tuple[float, float]]
    pings: Sequence[tuple[float, float]]


def draw(
    observers: Sequence[Observer],
    events: Sequence[tuple[float, str]],
    moved_to: tuple[str, str],
    traffic: Traffic,
    span: tuple[float, float],
    path: Path,
) -> None:
    """Write the PNG. Times as in the record, the span's begin is second 0.

    `moved_to`: the member that moved, and its new address. OSError: it cannot be written.
    """
    from PIL import Image, ImageDraw

    names = [o.name for o in observers]
    block = LANE * len(names)
    traffic_top = TOP + (block + GAP) * len(names) + 6
    size = WIDTH, traffic_top + 2 * TRAFFIC + GAP + 44
    image = Image.new("RGB", (size[0] * SCALE, size[1] * SCALE), "white")
    canvas = ImageDraw.Draw(image)
    began, seconds = span[0], span[1] - span[0]
    top = TOP
    for observer in observers:
        panel = Panel(canvas, top, top + block, seconds, 1.0)
        _observer(panel, observer, names, moved_to, began)
        top += block + GAP
    most = max([rate for _, rate in traffic.download], default=1.0)
    rates = Panel(canvas, traffic_top, traffic_top + TRAFFIC, seconds, max(most, 1.0) * 1.2)
    below = traffic_top + TRAFFIC + GAP
    highest = max([ms for _, ms in traffic.pings], default=1.0) * 1.2
    pings = Panel(canvas, below, below + TRAFFIC, seconds, highest)
    values = smooth([rate for _, rate in traffic.download], 10)
    times = [at - began for at, _ in traffic.download]
    points = [(rates.x(t), rates.y(v)) for t, v in zip(times, values, strict=True)]
    if points:
        rates.line(points, FLOW, 1.4)
    pings.dots([(at - began, ms) for at, ms in traffic.pings], PING)
    rates.frame("Mbit/s", 4)
    pings.frame("ms ping", 4)
    pings.seconds_below()
    rates.text(RIGHT + 6, rates.top + 10, "download", FLOW)
    pings.text(RIGHT + 6, pings.top + 10, "laptop's ping", PING)
    _events(Panel(canvas, TOP - 8, below + TRAFFIC, seconds, 1.0), events, began)
    head = Panel(canvas, 0, TOP, seconds, 1.0)
    head.text(WIDTH / 2, 18, "A network of five: who knew what when", FLOW, "mm", LARGE)
    _legend(head)
    image.resize(size, Image.Resampling.LANCZOS).save(path, "PNG")


def _box(panel: Panel, begin: float, end: float, top: float, color: str) -> None:
    corners = (panel.x(max(begin, 0.0)), top + 1, panel.x(max(end, 0.0)), top + LANE - 2)
    panel.draw.rectangle([c * SCALE for c in corners], color)


def _observer(
    panel: Panel, observer: Observer, names: list[str], moved_to: tuple[str, str], began: float
) -> None:
    """One agent's block: a lane for each member, in which its colour says what the agent said."""
    middle = (panel.top + panel.bottom) / 2
    panel.text(6, middle, observer.name, FLOW, "lm", LARGE - 2)
    for number, name in enumerate(names):
        top = panel.top + number * LANE
        for words in (observer.state, observer.members.get(name, [])):
            ends = [*(at for at, _ in words[1:]), began + panel.seconds]
            for (at, word), end in zip(words, ends, strict=False):
                if word in COLORS and end > began:
                    _box(panel, at - began, min(end - began, panel.seconds), top, COLORS[word])
        panel.text(RIGHT + 6, top + LANE / 2, name, AXIS, "lm", 10)
        known = observer.places.get(moved_to)
        if name == moved_to[0] and known is not None:
            x = panel.x(known - began)
            panel.line([(x, top - 1), (x, top + LANE - 1)], MARK, 3)
    panel.line([(LEFT, panel.top), (LEFT, panel.bottom)], AXIS)


def _events(panel: Panel, events: Sequence[tuple[float, str]], began: float) -> None:
    for number, (at, what) in enumerate(events):
        x = panel.x(at - began)
        for y in range(int(panel.top), int(panel.bottom), 7):
            panel.line([(x, y), (x, y + 3)], EVENT)
        panel.text(x, panel.top - 8 - 12 * (number % 2), what, EVENT, "mm", 11)


def _legend(panel: Panel) -> None:
    left = LEFT
    for word, text in WORDS:
        box = [c * SCALE for c in (left, 33, left + 16, 43)]
        panel.draw.rectangle(box, COLORS[word])
        panel.text(left + 21, 38, text, AXIS, "lm", 11)
        left += 36 + 6 * len(text)
    panel.line([(left, 33), (left, 43)], MARK, 3)
    panel.text(left + 7, 38, "has heard where the laptop is now", AXIS, "lm", 11)
