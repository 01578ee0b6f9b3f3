"""Recordings of links (the bytes that may leave in each millisecond), read or made from numbers.

The file is text (gzip if it ends in .gz) with a line for each millisecond; at its end it begins
again. For tools/linkemu.c on real sockets and for the simulation in virtual time alike.
"""

from __future__ import annotations

import gzip
import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path


@cache
def read(path: Path) -> tuple[int, ...]:
    """ValueError: a line is no number."""
    if path.suffix == ".gz":
        with gzip.open(path, "rt") as lines:
            return tuple(int(line) for line in lines)
    return tuple(int(line) for line in path.read_text().split())


def fading(
    mean_mbps: float, seconds: float, seed: int, *, depth: float = 0.9, lump_ms: int = 1
) -> tuple[int, ...]:
    """A link that fades: its rate walks between (1 - depth) and (1 + depth) of the mean, a new goal
    each 0.1 to 2 s, one in ten of them an outage; what may leave comes in lumps of `lump_ms`, as a
    cell's scheduler hands it out."""
    rng = random.Random(seed)  # noqa: S311
    made: list[int] = []
    rate = goal = mean_mbps
    left, owed = 0, 0.0
    for ms in range(int(seconds * 1000)):
        if left == 0:
            left = rng.randint(100, 2000)
            out = rng.random() < 0.1
            goal = 0.0 if out else mean_mbps * rng.uniform(1 - depth, 1 + depth)
        left -= 1
        rate += (goal - rate) / 50
        owed += rate * 125
        lump = int(owed) if ms % lump_ms == 0 else 0
        owed -= lump
        made.append(lump)
    return tuple(made)


def lumps(mbps: float, each_ms: int) -> tuple[int, ...]:
    """A steady rate, handed out once in so long: Wi-Fi's aggregates, DOCSIS, a cell's scheduler."""
    return (*(0,) * (each_ms - 1), int(mbps * 125 * each_ms))


def steps(rates_mbps: Sequence[float], each_s: float) -> tuple[int, ...]:
    """One rate after the other."""
    return tuple(int(rate * 125) for rate in rates_mbps for _ in range(int(each_s * 1000)))


def handovers(mbps: float, each_s: float, silent_s: float, from_s: float = 0.0) -> tuple[int, ...]:
    """A satellite link: silent for a while, at the end of each so long; it begins `from_s` in."""
    talking, silent = int((each_s - silent_s) * 1000), int(silent_s * 1000)
    whole = (int(mbps * 125),) * talking + (0,) * silent
    begin = int(from_s * 1000)
    return whole[begin:] + whole[:begin]


def made(text: str, seed: int, seconds: float) -> tuple[int, ...]:
    """By its description: fading=MBPS, lumps=MBPS/EACH_MS, steps=MBPS/MBPS/...@EACH_S or
    handovers=MBPS/EACH_S/SILENT_S[@FROM_S]. `seed` and `seconds` are of a fading one.

    ValueError, IndexError: it is not written so.
    """
    kind, _, values = text.partition("=")
    values, _, extra = values.partition("@")
    numbers = [float(one) for one in values.split("/")]
    match kind:
        case "fading":
            return fading(numbers[0], seconds, seed, lump_ms=5)
        case "lumps":
            return lumps(numbers[0], int(numbers[1]))
        case "steps":
            return steps(numbers, float(extra))
        case "handovers":
            return handovers(numbers[0], numbers[1], numbers[2], float(extra or 0))
    raise ValueError(f"{kind}: no such recording can be made")


def capacity_mbps(recording: Sequence[int], seconds: float, from_s: float = 0.0) -> float:
    """What may leave in that part of it, on average; at its end it begins again."""
    first, last = round(from_s * 1000), round((from_s + seconds) * 1000)
    size = len(recording)
    return sum(recording[ms % size] for ms in range(first, last)) / 125 / max(1, last - first)


def write(path: Path, recording: Sequence[int]) -> Path:
    """Not compressed, as linkemu reads it."""
    path.write_text("".join(f"{each}\n" for each in recording))
    return path
