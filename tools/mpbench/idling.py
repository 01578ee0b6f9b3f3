"""What a ping takes over recorded links that carry nothing else, and how long they are silent
together: computed, as tools/linkemu.c would have it. A recording that is silent for a second makes
the ping wait, whoever measures it; what a tunnel adds is what is beyond that.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tools.benchkit.model import SkipError
from tools.mpbench import real
from tools.mpbench.contestants import links_of
from tools.mpbench.model import Run, Scenario
from whalescale.bench.measure import percentile

#: ping's 84 bytes as a frame of section 3 (96), WireGuard's 32, UDP and IPv4, Ethernet. Without a
#: tunnel 98; cells hand out 1504 at a time, so that it makes no difference.
PING_BYTES = 170
#: what pings beside a flow are held against: their figure -> ours, and its share
IDLE_OF = {"ping_p50_ms": ("link_idle_p50_ms", 0.5), "ping_p95_ms": ("link_idle_p95_ms", 0.95)}
SILENT = "links_silent_ms"


def waits_ms(recording: Sequence[int], size: int) -> list[int]:
    """For each millisecond of it: how many later a packet leaves that may begin to use credit then.

    What one millisecond brings is not enough: the next ones' is added, as linkemu does it.
    ValueError: it brings nothing at all.
    """
    if not any(recording):
        raise ValueError("a recording that brings nothing")
    made: list[int] = []
    last, credit = -1, 0
    for first in range(len(recording)):
        while credit < size:
            last += 1
            credit += recording[last % len(recording)]
        made.append(last - first)
        credit -= recording[first]
    return made


def _leaves_ms(waits: Sequence[int] | None, rate_mbit: float, now_ms: float) -> float:
    """When a bottleneck where nothing waits has sent it; `waits`: None is a steady rate."""
    if waits is None:
        return now_ms + (PING_BYTES * 8 / rate_mbit / 1000 if rate_mbit else 0.0)
    first = int(now_ms) + 1
    return first + waits[first % len(waits)]


def pings_ms(
    scenario: Scenario, recorded: real.Recorded, number: int, first_s: float, last_s: float
) -> list[float]:
    """Round trips over one link (from 1) by itself, sent each millisecond of that time: 20 apart
    they would meet lumps of 10 always at the same place."""
    shape = scenario.shapes[number - 1]
    there, back = (
        waits_ms(one, PING_BYTES) if one is not None else None
        for one in (recorded.there[number - 1], recorded.back[number - 1])
    )
    made = []
    for ms in range(round(first_s * 1000), round(last_s * 1000)):
        sent = ms + 0.5
        came = _leaves_ms(there, shape.rate_mbit, sent) + shape.delay_ms
        made.append(_leaves_ms(back, shape.rate_mbit, came) + shape.delay_ms - sent)
    return made


def silent_ms(
    scenario: Scenario, recorded: real.Recorded, numbers: Sequence[int], seconds: float
) -> int:
    """The longest time in which nothing can come by any of these links, after the first that did:
    as the receiver sees it, who counts stalls."""
    links = []
    for number in numbers:
        one = recorded.there[number - 1]
        if one is None:
            return 0
        links.append((one, round(scenario.shapes[number - 1].delay_ms)))
    longest = run = 0
    began = False
    for ms in range(max(delay for _, delay in links), round(seconds * 1000)):
        if any(one[(ms - delay) % len(one)] for one, delay in links):
            began, run = True, 0
        elif began:
            run += 1
            longest = max(longest, run)
    return longest


def figures(
    scenario: Scenario,
    recorded: real.Recorded,
    numbers: Sequence[int],
    first_s: float,
    last_s: float,
) -> dict[str, float]:
    """Of the best of these links, for each share by itself; the recordings began at 0."""
    each = [pings_ms(scenario, recorded, number, first_s, last_s) for number in numbers]
    best = {name: min(percentile(one, p) for one in each) for name, p in IDLE_OF.values()}
    return best | {SILENT: float(silent_ms(scenario, recorded, numbers, last_s))}


def fill_in(run: Run, links: Path | None) -> None:
    """What samples of before these figures lack, where the recordings are there to make them of."""
    rows = {row.name: row for row in real.ROWS if row.recordings}
    for row in (rows[name] for name in run.results if name in rows):
        try:
            recorded = real.Recorded(row, links, run.options.seed)
        except SkipError:
            continue
        known: dict[tuple[int, ...], dict[str, float]] = {}
        for by_name in run.results[row.name].values():
            for name, series in by_name.items():
                for sample in series.samples:
                    if not sample.values or SILENT in sample.values:
                        continue
                    numbers = tuple(links_of(name, row))
                    if numbers not in known:
                        times = row.warm_s(run.options), row.length_s(run.options)
                        known[numbers] = figures(row, recorded, numbers, *times)
                    sample.values |= known[numbers]
