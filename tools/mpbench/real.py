"""Rows over links as they are: recorded radio, lumps, handovers, steps, a policer, the jitter of
another emulator. What counts is the first flow in fresh namespaces, from its first byte.

Recordings are files FOLDER/NAME.ms.gz (tools/recordings.py), of `--links FOLDER` or of
WHALESCALE_LINKS; NAME-up.ms.gz, where there is one, is the way back. Where they are missing the
rows over them are skipped.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tools import recordings
from tools.benchkit.model import SkipError
from tools.mpbench.model import ALONE, MPTCP, WS, Scenario
from tools.netlab import Shape

VARIABLE = "WHALESCALE_LINKS"
#: of bursts and of another emulator, seconds: what they do shows at once
SHORT_S = 10.0
#: of made links: all of it comes twice
STEPS_S = 20.0
#: of a bonded flow's payload in what its links carry: 1368 of 1502 bytes
PAYLOAD = 0.91

#: group -> what its rows are
GROUPS = {
    "radio": "recorded LTE, 5G and 3G",
    "lumps": "delivery in lumps",
    "handover": "handovers",
    "steps": "rates that step",
    "policed": "a policer of UDP",
    "wirefilter": "vde's wirefilter",
}

# One way; what goes back has the rate of the shape. Operators' buffers are deep.
_LTE = (Shape(20, 30, buffer_bytes=400_000), Shape(20, 35, buffer_bytes=400_000))
_5G = (Shape(100, 20, buffer_bytes=800_000), Shape(100, 25, buffer_bytes=800_000))
_3G = Shape(5, 40, buffer_bytes=400_000)
_STEADY = {20: Shape(20, 15), 60: Shape(60, 10)}


def group(scenario: Scenario) -> str:
    """Of GROUPS: "real-radio-..." is of radio."""
    return scenario.name.split("-")[1]


def _row(
    name: str,
    title: str,
    shapes: tuple[Shape, ...],
    recorded: tuple[str, ...] = (),
    *,
    seconds: float = 0.0,
    policed: tuple[float, ...] = (),
    backend: str = "linkemu",
) -> Scenario:
    alone = tuple(f"{ALONE}:{i}" for i in range(1, len(shapes) + 1))
    return Scenario(
        *(f"real-{name}", title, "first", shapes, (*alone, MPTCP, WS)),
        usual=False,
        own_s=seconds,
        recordings=recorded,
        policed_mbit=policed,
        backend=backend,
    )


def _radio(one: str, other: str | int) -> Scenario:
    """A recorded link beside another one, or beside a steady one of so many Mbit/s."""
    shapes = []
    for number, name in enumerate((one, other)):
        if isinstance(name, int):
            shapes.append(_STEADY[name])
        elif name.startswith("lte"):
            shapes.append(_LTE[number])
        else:
            shapes.append(_5G[number] if name.startswith("5g") else _3G)
    short = [str(n).replace("-driving", "") for n in (one, other)]
    steady = isinstance(other, int)
    title = f"{one} + {f'{other} Mbit/s' if steady else other}"
    recorded = (one, "" if steady else str(other))
    return _row(f"radio-{short[0]}+{short[1]}", title, tuple(shapes), recorded)


_CLEAN = (Shape(100, 20), Shape(50, 5))


def _lumps(milliseconds: int, links: tuple[int, ...]) -> Scenario:
    recorded = tuple(
        f"lumps={s.rate_mbit:g}/{milliseconds}" if i in links else ""
        for i, s in enumerate(_CLEAN, start=1)
    )
    where = "both" if len(links) > 1 else f"link {links[0]}"
    return _row(
        f"lumps-{milliseconds}ms-{where.replace(' ', '')}",
        f"100 Mbit/s 20 ms + 50 Mbit/s 5 ms, lumps each {milliseconds} ms on {where}",
        *(_CLEAN, recorded),
        seconds=SHORT_S,
    )


def _wirefilter(name: str, title: str, *shapes: Shape) -> Scenario:
    return _row(
        f"wirefilter-{name}",
        f"{title}, wirefilter",
        shapes,
        seconds=SHORT_S,
        backend="wirefilter",
    )


ROWS = (
    _radio("lte-att-driving", "lte-tmobile-driving"),
    _radio("lte-att-driving-2016", "lte-tmobile-driving"),
    _radio("5g-1", "5g-6"),
    _radio("5g-3", "5g-4"),
    _radio("5g-1", "lte-tmobile-driving"),
    _radio("5g-6", "lte-att-driving"),
    _radio("umts-tmobile-driving", "lte-att-driving"),
    _radio("evdo-verizon-driving", "lte-tmobile-driving"),
    _radio("lte-tmobile-driving", 20),
    _radio("lte-att-driving", 60),
    _radio("5g-4", 20),
    _radio("5g-1", 60),
    _radio("umts-tmobile-driving", 20),
    _lumps(2, (1, 2)),
    _lumps(5, (1,)),
    _lumps(10, (2,)),
    _lumps(10, (1, 2)),
    _row("handover-100+50", "100 Mbit/s 30 ms, silent for 0.5 s of 15 s, + 50 Mbit/s 5 ms",
         (Shape(100, 30), _CLEAN[1]), ("handovers=100/15/0.5@7", "")),
    _row("steps-100+20", "100 to 10 and back each 5 s, 20 ms, + 20 Mbit/s 15 ms",
         (_CLEAN[0], _STEADY[20]), ("steps=100/10@5", ""), seconds=STEPS_S),
    _row("steps-10+5", "10 to 1 and back each 5 s, 30 ms, + 5 Mbit/s 15 ms",
         (Shape(10, 30), Shape(5, 15)), ("steps=10/1@5", ""), seconds=STEPS_S),
    _row("policed-60+16", "60 Mbit/s 10 ms that lets 30 of UDP pass + 16 Mbit/s 15 ms",
         (Shape(60, 10), Shape(16, 15)), policed=(30, 0), seconds=SHORT_S),
    _wirefilter("clean", "100 Mbit/s 20 ms + 50 Mbit/s 5 ms", *_CLEAN),
    _wirefilter("dsl", "120 Mbit/s 25 ms + 45 Mbit/s 8 ms", Shape(120, 25), Shape(45, 8)),
    _wirefilter("even", "80 + 80 Mbit/s, 15 ms", Shape(80, 15), Shape(80, 15)),
    _wirefilter("lossy", "70 Mbit/s 35±12 ms 0.4 % + 30 Mbit/s 6±4 ms 0.3 %",
                Shape(70, 35, 12, 0.4), Shape(30, 6, 4, 0.3)),
)  # fmt: skip


def folder(given: Path | None) -> Path | None:
    """Of the recordings, as the option or the environment says."""
    named = os.environ.get(VARIABLE)
    return given or (Path(named) if named else None)


class Recorded:
    """What the links of one scenario may carry: for each its recording there and back, or None."""

    def __init__(self, scenario: Scenario, links: Path | None, seed: int) -> None:
        """SkipError: a file is missing."""
        self._scenario = scenario
        texts = scenario.recordings or ("",) * len(scenario.shapes)
        self.there = tuple(self._read(text, links, seed + i) for i, text in enumerate(texts))
        self.back = tuple(self._read_back(text, links) for text in texts)

    @staticmethod
    def _read(text: str, links: Path | None, seed: int) -> Sequence[int] | None:
        if not text:
            return None
        if "=" in text:
            return recordings.made(text, seed, 60)
        if links is None:
            raise SkipError(f"needs recordings: --links FOLDER or {VARIABLE}")
        path = links / f"{text}.ms.gz"
        if not path.exists():
            raise SkipError(f"the folder of recordings has no {path.name}")
        return recordings.read(path)

    @staticmethod
    def _read_back(text: str, links: Path | None) -> Sequence[int] | None:
        path = links / f"{text}-up.ms.gz" if links and text and "=" not in text else None
        return recordings.read(path) if path is not None and path.exists() else None

    def capacity_mbps(self, number: int, seconds: float, from_s: float = 0.0) -> float:
        """Of the link with this number (from 1), on average."""
        one, s = self.there[number - 1], self._scenario
        if one is not None:
            return recordings.capacity_mbps(one, seconds, from_s)
        limit = s.policed_mbit[number - 1] if s.policed_mbit else 0.0
        return limit or s.shapes[number - 1].rate_mbit

    def best(self, seconds: float) -> int:
        """The number of the link that may carry most."""
        numbers = range(1, len(self._scenario.shapes) + 1)
        return max(numbers, key=lambda n: self.capacity_mbps(n, seconds))
