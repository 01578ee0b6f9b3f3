"""PNG plots of a run: bars for each table, time lines for what happens to links, a heat map."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tools.bench.plots import AIM, MUST, OTHERS, OURS, plain, save, use
from tools.mpbench import judge, real, targets
from tools.mpbench.contestants import label
from tools.mpbench.load import CAPACITY_S
from tools.mpbench.model import ALONE, Flow, Run, Sample, Scenario
from tools.mpbench.report import is_ours
from tools.mpbench.scenarios import (
    GRID_DELAYS,
    GRID_LOSSES,
    GRID_RATES,
    SCENARIOS,
    grid_name,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EVENT = "#b8860b"
LINKS = ("#e07b39", "#3a9d8f", "#8e5ea2")
#: of a time line: the device counters of 20 ms are too restless to look at
SMOOTH_S = 0.1
#: of a recording: what a fade of half a second does is to be seen
CAPACITY_SMOOTH_S = 0.5


def draw(run: Run, stem: Path) -> dict[Path, str]:
    """Writes STEM-<scenario>.png and STEM-grid.png; what each shows, by its path."""
    made: dict[Path, str] = {}
    for scenario in SCENARIOS:
        if scenario.name not in run.results or scenario.kind == "grid":
            continue
        path = stem.with_name(f"{stem.name}-{scenario.name}.png")
        timed = scenario.kind in ("silent", "tenth")
        drawn = _time_lines if timed else _capacity if any(scenario.recordings) else _bars
        if drawn(run, scenario, path):
            made[path] = scenario.title
    path = stem.with_name(f"{stem.name}-grid.png")
    if _heat(run, path):
        made[path] = "goodput over both links / the better one alone, over the grid"
    return made


def _figure(rows: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    figure, axes = use().subplots(
        rows, columns, figsize=(width, height), layout="constrained", squeeze=False
    )
    return figure, list(itertools.chain.from_iterable(axes))


def _bars(run: Run, scenario: Scenario, path: Path) -> Path | None:
    """Goodput of each contestant, a panel for each congestion control."""
    by_cc = {
        cc: [(n, s) for n, s in by_name.items() if s.median("mbps") is not None]
        for cc, by_name in run.results[scenario.name].items()
    }
    by_cc = {cc: rows for cc, rows in by_cc.items() if rows}
    if not by_cc:
        return None
    longest = max(len(rows) for rows in by_cc.values())
    figure, panels = _figure(1, len(by_cc), 6.2 * len(by_cc), 1.4 + 0.42 * longest)
    for axes, (cc, rows) in zip(panels, by_cc.items(), strict=True):
        for y, (name, series) in enumerate(rows):
            there = [v for v in series.of("mbps") if v is not None]
            middle = series.median("mbps") or 0.0
            reach = [[middle - min(there)], [max(there) - middle]]
            axes.barh(
                *(y, middle, 0.6),
                color=OURS if is_ours(name) else OTHERS,
                xerr=reach,
                ecolor="#444444",
                capsize=3,
            )
            axes.annotate(f"{middle:,.1f}", (max(there), y), (6, 0), textcoords="offset points",
                          va="center")  # fmt: skip
        alone = [s.median("mbps") or 0.0 for n, s in rows if n.startswith(ALONE)]
        if len(alone) == len(scenario.shapes) > 1:
            axes.axvline(sum(alone), color=AIM, ls="--", lw=1.5)
            axes.axvline(max(alone), color=MUST, ls=":", lw=1.5)
        axes.set_yticks(range(len(rows)), [label(name, scenario.shapes) for name, _ in rows])
        axes.invert_yaxis()
        axes.margins(x=0.16)
        axes.set_xlabel("Mbit/s; dashed: sum of the links alone, dotted: the best of them")
        axes.set_title(f"inner TCP: {cc}", loc="left", fontsize="medium")
        plain(axes)
    figure.suptitle(scenario.title)
    return save(figure, path)


def _time_lines(run: Run, scenario: Scenario, path: Path) -> Path | None:
    """Throughput of each link and of the flow over time, in the round nearest the median."""
    shown = [
        (cc, name, sample)
        for cc, by_name in run.results[scenario.name].items()
        for name, series in by_name.items()
        if not name.startswith(ALONE)
        and (sample := next((s for s in series.samples if s.flow and s.flow.events), None))
    ]
    if not shown:
        return None
    columns = len({cc for cc, _, _ in shown})
    rows = -(-len(shown) // columns)
    figure, panels = _figure(rows, columns, 7.0 * columns, 2.8 * rows + 0.5)
    # Column by column: one congestion control below the other's title.
    ordered = [panels[r * columns + c] for c in range(columns) for r in range(rows)]
    top = sum(s.rate_mbit for s in scenario.shapes) * 1.15
    for axes, (cc, name, sample) in zip(ordered, shown, strict=False):
        _time_line(axes, sample, scenario)
        axes.set_ylim(0, top)
        axes.set_title(f"{label(name, scenario.shapes)}, {cc}", loc="left", fontsize="medium")
        plain(axes)
    for axes in ordered[len(shown) :]:
        axes.set_visible(False)
    ordered[0].legend(loc="lower right", framealpha=0.8, fontsize="small")
    figure.suptitle(scenario.title)
    return save(figure, path)


def _capacity(run: Run, scenario: Scenario, path: Path) -> Path | None:
    """What the links might carry over time and what each carried over all of them, first round."""
    by_cc: dict[str, list[tuple[str, Flow]]] = {}
    for cc, by_name in run.results[scenario.name].items():
        for name, series in by_name.items():
            flow = next((s.flow for s in series.samples if s.flow is not None), None)
            if flow is not None and not name.startswith(ALONE):
                by_cc.setdefault(cc, []).append((name, flow))
    if not by_cc:
        return None
    figure, panels = _figure(len(by_cc), 1, 11.0, 3.2 * len(by_cc) + 0.4)
    for axes, (cc, flows) in zip(panels, by_cc.items(), strict=True):
        capacity = [real.PAYLOAD * c for c in flows[0][1].capacity]
        times = [i * CAPACITY_S for i in range(len(capacity))]
        width = round(CAPACITY_SMOOTH_S / CAPACITY_S)
        axes.fill_between(times, smooth(capacity, width), color="#dddddd", label="capacity")
        for (name, flow), color in zip(flows, itertools.cycle((*LINKS, OURS)), strict=False):
            rates = [size * 8 / flow.bin_s / 1e6 for size in flow.bins]
            width = round(CAPACITY_SMOOTH_S / flow.bin_s)
            lengths = [i * flow.bin_s for i in range(len(rates))]
            axes.plot(lengths, smooth(rates, width), color=color, lw=1.1,
                      label=label(name, scenario.shapes))  # fmt: skip
        axes.set_ylim(0, None)
        axes.set_xlabel("s")
        axes.set_ylabel("Mbit/s")
        axes.set_title(f"inner TCP: {cc}", loc="left", fontsize="medium")
        plain(axes)
    panels[0].legend(loc="upper right", framealpha=0.8, fontsize="small", ncols=4)
    figure.suptitle(scenario.title)
    return save(figure, path)


def _time_line(axes: Axes, sample: Sample, scenario: Scenario) -> None:
    flow = sample.flow
    assert flow is not None
    counters = zip(flow.device_bytes.items(), scenario.shapes, strict=False)
    for number, ((_, counts), shape) in enumerate(counters):
        rates = judge.rates_mbps(flow.device_times, counts)
        times = [t - flow.began for t in flow.device_times[1:]]
        about = f"link {number + 1}: {shape.rate_mbit:g} Mbit/s {shape.delay_ms:g} ms"
        axes.plot(times, smooth(rates, 5), color=LINKS[number % 3], lw=1.2, label=about)
    width = max(1, round(SMOOTH_S / flow.bin_s))
    rates = [size * 8 / flow.bin_s / 1e6 for size in flow.bins]
    times = [i * flow.bin_s for i in range(len(rates))]
    axes.plot(times, smooth(rates, width), color="#222222", lw=1.0, alpha=0.75, label="the flow")
    for name, at in flow.events.items():
        axes.axvline(at - flow.began, color=EVENT, ls="--", lw=1)
        axes.annotate(name, (at - flow.began, 1), (3, -10), xycoords=("data", "axes fraction"),
                      textcoords="offset points", fontsize="small", color=EVENT)  # fmt: skip
    axes.set_xlabel("s")
    axes.set_ylabel("Mbit/s")


def smooth(values: Sequence[float], width: int) -> list[float]:
    """The mean of each `width` values that end there."""
    sums = [0.0, *itertools.accumulate(values)]
    return [
        (sums[i + 1] - sums[max(0, i + 1 - width)]) / min(i + 1, width) for i in range(len(values))
    ]


def _heat(run: Run, path: Path) -> Path | None:
    """A cell a link pair: goodput over both / the better one alone."""
    cells = {cc: targets.grid_cells(run, cc) for cc in run.options.congestion}
    cells = {cc: found for cc, found in cells.items() if found}
    if not cells:
        return None
    from matplotlib.colors import TwoSlopeNorm

    figure, panels = _figure(
        len(cells), len(GRID_LOSSES), 5.0 * len(GRID_LOSSES), 3.4 * len(cells) + 0.6
    )
    norm = TwoSlopeNorm(1.0, 0.4, 2.0)
    pairs = itertools.product(cells, GRID_LOSSES)
    for axes, (cc, loss) in zip(panels, pairs, strict=True):
        grid = [
            [cells[cc].get(grid_name(r, d, loss), float("nan")) for r in GRID_RATES]
            for d in GRID_DELAYS
        ]
        image = axes.imshow(grid, cmap="RdYlGn", norm=norm, aspect="auto")
        for y, row in enumerate(grid):
            for x, found in enumerate(row):
                if not math.isnan(found):
                    axes.annotate(f"{found:.2f}", (x, y), ha="center", va="center")
        axes.set_xticks(range(len(GRID_RATES)), [f"{r:g}" for r in GRID_RATES])
        axes.set_yticks(range(len(GRID_DELAYS)), [f"{d:g}" for d in GRID_DELAYS])
        axes.set_xlabel("second link's rate, Mbit/s")
        axes.set_ylabel("its delay, ms")
        axes.set_title(f"{cc}, its loss {loss:g} %", loc="left", fontsize="medium")
    figure.colorbar(image, ax=panels, shrink=0.8)
    figure.suptitle("80 Mbit/s 20 ms beside a second link: goodput over both / the better alone")
    return save(figure, path)
