"""The demo's picture: throughput of each path and of the download, and ping, over time.

Drawn with Pillow alone: a demo is not worth the room that matplotlib and numpy take.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tools.demo_record import Record
from tools.mpbench import judge
from tools.mpbench.plots import EVENT, LINKS, smooth
from tools.netlab import LabError

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

FLOW, PING, AXIS, SHADE = "#222222", "#2563a8", "#444444", "#f6efdc"
#: samples of 20 ms that make one point: fewer are too restless to look at
SMOOTH = 10
#: drawn so many times larger and then shrunk, which smooths the lines
SCALE = 3
SIZE = 1100, 704
LEFT, RIGHT = 84, 1000
#: top and bottom of both panels
UPPER, LOWER = (56, 470), (500, 640)
SMALL, LARGE = 13, 18


def check(path: Path) -> None:
    """Fail before the work and not after it. LabError: the picture could not be drawn there."""
    try:
        import PIL.ImageDraw
        import PIL.ImageFont  # noqa: F401
    except ImportError as error:
        raise LabError(f"Pillow is not there ({error}); `make demo` installs it") from error
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()
    except OSError as error:
        what = f"the picture cannot be written: {error}; name another place with --png"
        raise LabError(what) from error


def step_of(highest: float, most: int) -> float:
    """The distance of ticks, 1, 2 or 5 times a power of ten, that makes at most so many."""
    power = 10.0**-3
    while True:
        for factor in (1, 2, 5):
            if highest / (factor * power) <= most:
                return factor * power
        power *= 10


@dataclass(frozen=True, slots=True)
class Panel:
    """Axes from 0 to `seconds` and to `highest`; pixels are those of the finished picture."""

    draw: ImageDraw
    top: int
    bottom: int
    seconds: float
    highest: float

    def x(self, at: float) -> float:
        return LEFT + (RIGHT - LEFT) * at / self.seconds

    def y(self, value: float) -> float:
        return self.bottom - (self.bottom - self.top) * min(value / self.highest, 1.0)

    def text(
        self,
        x: float,
        y: float,
        what: str,
        color: str = AXIS,
        anchor: str = "lm",
        size: int = SMALL,
    ) -> None:
        from PIL import ImageFont

        font = ImageFont.load_default(size * SCALE)
        self.draw.text((x * SCALE, y * SCALE), what, color, font, anchor)

    def line(self, points: Sequence[tuple[float, float]], color: str, width: float = 1.0) -> None:
        """`points` in pixels."""
        scaled = [(x * SCALE, y * SCALE) for x, y in points]
        self.draw.line(scaled, color, round(width * SCALE), "curve")

    def dots(self, points: Sequence[tuple[float, float]], color: str) -> None:
        """`points`: seconds and values."""
        for at, value in points:
            self.draw.circle((self.x(at) * SCALE, self.y(value) * SCALE), 1.3 * SCALE, color)

    def level(self, value: float, color: str, word: str) -> None:
        """A dotted line, and what it is at the right margin."""
        for x in range(LEFT, RIGHT, 6):
            self.line([(x, self.y(value)), (x + 2, self.y(value))], color, 1.3)
        self.text(RIGHT + 6, self.y(value), word, color)

    def shade(self, begin: float, end: float) -> None:
        corners = (self.x(begin), self.top, self.x(min(end, self.seconds)), self.bottom)
        self.draw.rectangle([c * SCALE for c in corners], SHADE)

    def frame(self, unit: str, most: int) -> None:
        """The axes left and below with their ticks, all but the seconds' numbers."""
        corner = (LEFT, self.bottom)
        self.line([(LEFT, self.top), corner, (RIGHT, self.bottom)], AXIS)
        self._ticks(self.highest, most, lambda v: (LEFT - 4, self.y(v), LEFT, self.y(v)), unit)

    def seconds_below(self) -> None:
        bottom = self.bottom
        self._ticks(self.seconds, 10, lambda v: (self.x(v), bottom + 4, self.x(v), bottom), "s")

    def _ticks(
        self,
        highest: float,
        most: int,
        place: Callable[[float], tuple[float, float, float, float]],
        unit: str,
    ) -> None:
        """Ticks from where `place` begins to where it ends; the topmost one says the unit."""
        step = step_of(highest, most)
        last = int(highest / step)
        for number in range(last + 1):
            x, y, to_x, to_y = place(number * step)
            self.line([(x, y), (to_x, to_y)], AXIS)
            word = f"{number * step:g}" + (f" {unit}" if number == last else "")
            sideways = y == to_y
            self.text(x - 3 if sideways else x, y if sideways else y + 3, word,
                      anchor="rm" if sideways else "mt")  # fmt: skip


def draw(record: Record, path: Path) -> None:
    """Write the PNG. OSError: it cannot be written."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (SIZE[0] * SCALE, SIZE[1] * SCALE), "white")
    canvas = ImageDraw.Draw(image)
    seconds = record.times[-1] - record.began
    pings = [(at - record.began, ms) for at, ms in record.pings.answers]
    upper = Panel(canvas, *UPPER, seconds, max(sum(record.alone_mbps), 1.0) * 1.3)
    lower = Panel(canvas, *LOWER, seconds, max([ms for _, ms in pings], default=1.0) * 1.1)
    for panel in (upper, lower):
        panel.shade(record.cut - record.began, record.back - record.began)
    _throughput(upper, record)
    lower.dots([point for point in pings if 0 <= point[0] <= seconds], PING)
    upper.frame("Mbit/s", 7)
    lower.frame("ms ping", 4)
    lower.seconds_below()
    title = "One download through one tunnel over two links; no rate configured"
    upper.text(SIZE[0] / 2, 20, title, FLOW, "mm", LARGE)
    image.resize(SIZE, Image.Resampling.LANCZOS).save(path, "PNG")


def _throughput(panel: Panel, record: Record) -> None:
    times = [t - record.began for t in record.times[1:]]
    legend = [(record.tunnel, FLOW, "the download (in the tunnel)", 1.6)]
    links = zip(record.names, record.devices, record.alone_mbps, LINKS, strict=False)
    for name, device, alone, color in links:
        panel.level(alone, color, f"{name} alone")
        legend.insert(-1, (device, color, f"{name} (on the wire)", 1.4))
    panel.level(sum(record.alone_mbps), FLOW, "the sum")
    for number, (device, color, label, width) in enumerate(legend):
        rates = smooth(judge.rates_mbps(record.times, record.counts[device]), SMOOTH)
        points = [
            (panel.x(t), panel.y(rate)) for t, rate in zip(times, rates, strict=True) if t >= 0
        ]
        panel.line(points, color, width)
        left = 480 + 160 * number
        panel.line([(left, panel.top + 4), (left + 22, panel.top + 4)], color, 2)
        panel.text(left + 28, panel.top + 4, label)
    for text, at in (("cut", record.cut), ("back", record.back)):
        x = panel.x(at - record.began) + 4
        panel.text(x, panel.top + 40, f"{record.names[0]} {text}", EVENT)
