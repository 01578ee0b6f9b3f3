"""What the demo writes down while it runs: byte counters of devices, pings, and when what happened.

Times are seconds of CLOCK_MONOTONIC.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Self

from tools.mpbench import judge
from tools.netlab import LabError
from whalescale.bench import measure

SAMPLE_S = 0.02
_PING = re.compile(r"^\[(\d+\.\d+)\] .*icmp_seq=(\d+) .*time=([\d.]+) ms", re.MULTILINE)


class Sampler(threading.Thread):
    """Takes samples until it is left; a context manager."""

    def __init__(self, every: float) -> None:
        """`every`: seconds from one sample to the next."""
        super().__init__(daemon=True)
        self._every = every
        self._done = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join(5)

    def run(self) -> None:
        due = time.monotonic()
        while not self._done.is_set() and self.sample():
            due = max(due + self._every, time.monotonic())
            self._done.wait(max(0.0, due - time.monotonic()))
        self.ended()

    def sample(self) -> bool:
        """False: there is nothing more to be had."""
        raise NotImplementedError

    def ended(self) -> None:
        """Let go what samples needed."""


class Counters(Sampler):
    """Bytes received on devices of another namespace, every 20 ms."""

    def __init__(self, pid: int, devices: Sequence[str]) -> None:
        """`pid`: a process that lives in that namespace for as long as this runs."""
        super().__init__(SAMPLE_S)
        self.times: list[float] = []
        self.counts: dict[str, list[int]] = {name: [] for name in devices}
        self.error: OSError | None = None
        self._path = Path(f"/proc/{pid}/net/dev")

    def sample(self) -> bool:
        try:
            rows = received_bytes(self._path.read_text())
        except OSError as error:
            self.error = error
            return False
        for name, counts in self.counts.items():
            counts.append(rows.get(name, 0))
        # Last: who looks from the other thread finds a count for every time.
        self.times.append(time.monotonic())
        return True

    def rate_mbps(self, device: str, start: float, end: float = math.inf) -> float:
        """The mean between two times. LabError: the counters could not be read."""
        if self.error is not None:
            raise LabError(f"the counters of {device} could not be read: {self.error}")
        times = list(self.times)
        return judge.counted_mbps(times, self.counts[device][: len(times)], start, end)


def received_bytes(text: str) -> dict[str, int]:
    """Received bytes by device, of the content of /proc/net/dev."""
    rows = (line.partition(":") for line in text.splitlines()[2:])
    return {name.strip(): int(rest.split()[0]) for name, _, rest in rows}


def longest_stall_s(
    times: Sequence[float], counts: Sequence[int], start: float, end: float
) -> float:
    """The longest time in [start, end] in which a counter stood still, to one sample."""
    longest, since = 0.0, start
    inside = [(t, c) for t, c in zip(times, counts, strict=True) if start <= t <= end]
    for (_, before), (at, after) in pairwise(inside):
        if after > before:
            longest, since = max(longest, at - since), at
    return max(longest, end - since) if inside else end - start


@dataclass(frozen=True, slots=True)
class Pings:
    """Answers: (when it came, round trip in ms), and how many never came."""

    answers: tuple[tuple[float, float], ...] = ()
    lost: int = 0

    def percentile_ms(self, share: float) -> float:
        """ValueError: no answers."""
        return measure.percentile([ms for _, ms in self.answers], share)


def parse_pings(text: str, clock_offset: float) -> Pings:
    """The output of `ping -D`. `clock_offset`: CLOCK_MONOTONIC minus CLOCK_REALTIME, seconds.

    Lost is what later ones have overtaken: the last ones may still be on their way.
    """
    rows = [(float(t), int(seq), float(ms)) for t, seq, ms in _PING.findall(text)]
    answers = tuple((at + clock_offset, ms) for at, _, ms in rows)
    return Pings(answers, max((s for _, s, _ in rows), default=0) - len({s for _, s, _ in rows}))


@dataclass(slots=True)
class Record:
    """One download over both links, for the table and the plot."""

    #: names of the links, in their order; the tunnel's device and the links' devices
    names: tuple[str, ...]
    tunnel: str
    devices: tuple[str, ...]
    #: Mbit/s of each link alone, through the tunnel
    alone_mbps: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    counts: dict[str, list[int]] = field(default_factory=dict)
    pings: Pings = field(default_factory=Pings)
    began: float = 0.0
    cut: float = 0.0
    back: float = 0.0
    ended: float = 0.0

    def take(self, counters: Counters) -> None:
        """Keep what was counted during the download."""
        times = list(counters.times)
        kept = [i for i, t in enumerate(times) if self.began <= t <= self.ended]
        self.times = [times[i] for i in kept]
        self.counts = {n: [c[i] for i in kept] for n, c in counters.counts.items()}

    def mbps(self, device: str, start: float, end: float) -> float:
        return judge.counted_mbps(self.times, self.counts[device], start, end)

    def stall_s(self, start: float, end: float) -> float:
        """The longest time in which nothing came out of the tunnel."""
        return longest_stall_s(self.times, self.counts[self.tunnel], start, end)

    def used_again_s(self, link: int, rate_mbit: float) -> float | None:
        """Seconds from the link's return until it carries a quarter of its rate; None: never."""
        counts = self.counts[self.devices[link]]
        return judge.used_again_s(self.times, counts, self.back, rate_mbit)
