"""PNG plots of a run: one a scenario, and one of the figures against what they must be."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from tools.bench.contestants import label
from tools.bench.model import Run, Scenario, Series, figures
from tools.bench.report import measured
from tools.bench.scenarios import SCENARIOS
from tools.bench.targets import METRICS, TARGETS, WS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHARE_MAX = 4.0
OURS, OTHERS = "#2563a8", "#a0a6ad"
MUST, AIM = "#c0392b", "#1e8449"


def draw(run: Run, stem: Path) -> list[Path]:
    """Writes STEM-<scenario>.png and STEM-figures.png; what has no figures is left out."""
    made = [
        path
        for scenario in SCENARIOS
        if scenario.name in run.results
        and (path := _scenario(run, scenario, stem.with_name(f"{stem.name}-{scenario.name}.png")))
    ]
    if path := _figures(run, stem.with_name(f"{stem.name}-figures.png")):
        made.append(path)
    return made


def use() -> ModuleType:
    """pyplot, for files."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    return pyplot


def plain(axes: Axes) -> None:
    """Without a frame."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def save(figure: Figure, path: Path) -> Path:
    figure.savefig(str(path), dpi=110)
    use().close("all")
    return path


def _axes(rows: int) -> Axes:
    axes: Axes = use().subplots(figsize=(9, 1.4 + 0.42 * rows), layout="constrained")[1]
    plain(axes)
    return axes


def _save(axes: Axes, path: Path) -> Path:
    return save(axes.get_figure(), path)  # type: ignore[arg-type]


def _metrics(run: Run, scenario: Scenario, path: Path) -> Path | None:
    """A bar for each metric of the plotted one's unit, beside those of the other contestants."""
    unit = METRICS[scenario.plotted].unit
    keys = [key for key in scenario.metrics if METRICS[key].unit == unit]
    there = [
        (name, series)
        for name, series in run.results[scenario.name].items()
        if series.median(scenario.plotted) is not None
    ]
    if not there:
        return None
    axes = _axes(len(keys) * len(there))
    height = 0.8 / len(there)
    for n, (name, series) in enumerate(there):
        for row, key in enumerate(keys):
            middle = series.median(key) or 0.0
            values = [v for v in series.of(key) if v is not None] or [middle]
            reach = [[middle - min(values)], [max(values) - middle]]
            y = row - 0.4 + (n + 0.5) * height
            colour = OURS if n == 0 else OTHERS
            axes.barh(y, middle, color=colour, xerr=reach, ecolor="#444444", capsize=3,
                      height=0.9 * height, label=label(name) if row == 0 else None)  # fmt: skip
            _write(axes, f"{middle:,.{METRICS[key].digits}f}", max(values), y)
    axes.set_yticks(range(len(keys)), [METRICS[key].title for key in keys])
    axes.invert_yaxis()
    axes.margins(x=0.14)
    axes.set_xlabel(f"{unit}; whiskers: all rounds")
    axes.set_title(scenario.title, loc="left")
    if len(there) > 1:
        axes.legend(loc="lower right", frameon=False, fontsize="small")
    return _save(axes, path)


def _scenario(run: Run, scenario: Scenario, path: Path) -> Path | None:
    if scenario.by_metric:
        return _metrics(run, scenario, path)
    key = scenario.plotted or scenario.metrics[0]
    metric = METRICS[key]
    rows: list[tuple[str, Series, float]] = []
    for name, series in run.results[scenario.name].items():
        middle = series.median(key)
        if middle is not None:
            rows.append((name, series, middle))
    if not rows:
        return None
    axes = _axes(len(rows))
    for y, (name, series, middle) in enumerate(rows):
        values = [v for v in series.of(key) if v is not None]
        reach = [[middle - min(values)], [max(values) - middle]]
        colour = OURS if WS in name or name.startswith("vanilla") else OTHERS
        axes.barh(y, middle, color=colour, xerr=reach, ecolor="#444444", capsize=3, height=0.6)
        _write(axes, f"{middle:,.{metric.digits}f}", max(values), y)
    axes.set_yticks(range(len(rows)), [label(name) for name, _, _ in rows])
    axes.invert_yaxis()
    axes.margins(x=0.14)
    for target in TARGETS:
        if target.scenario != scenario.name or target.metric != key:
            continue
        base = 1.0
        if target.under is not None:
            found = run.series(scenario.name, target.under).median(key)
            if found is None:
                continue
            base = found
        mine = [y for y, (name, _, _) in enumerate(rows) if name == target.over]
        for y in mine:
            # Only across the bar that it is meant for: each has a bound of its own.
            ends = (y - 0.42, y + 0.42)
            if target.must is not None:
                axes.vlines(target.must * base, *ends, MUST, "-", lw=2)
            if target.aim is not None:
                axes.vlines(target.aim * base, *ends, AIM, "--", lw=2)
    side = "more is better" if metric.better == "more" else "less is better"
    unit = f" ({metric.unit})" if metric.unit else ""
    axes.set_xlabel(f"{metric.title}{unit}; {side}; whiskers: all rounds")
    axes.set_title(scenario.title, loc="left")
    _legend(axes)
    return _save(axes, path)


def _figures(run: Run, path: Path) -> Path | None:
    """Each figure in units of its must; right of the line is good, whichever way it counts."""
    there = [f for f in figures(run) if f.value is not None]
    if not there:
        return None
    axes = _axes(len(there))
    for y, figure in enumerate(there):
        target, value = figure.target, figure.value
        assert value is not None
        assert target.must is not None
        more = target.better == "more"
        # A bar longer than that (or a cost of nothing) would only make the others short.
        share = value / target.must if more else target.must / max(value, target.must / SHARE_MAX)
        share = min(share, SHARE_MAX)
        axes.barh(y, share, color=OURS, height=0.6)
        if target.aim is not None:
            aim = target.aim / target.must if more else target.must / target.aim
            axes.vlines(aim, y - 0.42, y + 0.42, AIM, "--", lw=2)
        _write(axes, measured(figure), share, y)
    axes.axvline(1, color=MUST, lw=2)
    axes.set_yticks(range(len(there)), [f.target.title for f in there])
    axes.invert_yaxis()
    axes.margins(x=0.14)
    axes.set_xlabel("times what it must be; further right is better")
    _legend(axes)
    return _save(axes, path)


def _write(axes: Axes, text: str, x: float, y: float) -> None:
    """Beside a bar, readable over the lines too."""
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.0, "alpha": 0.8}
    axes.annotate(text, (x, y), (6, 0), textcoords="offset points", va="center", bbox=box, zorder=5)


def _legend(axes: Axes) -> None:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=MUST, lw=2), Line2D([], [], color=AIM, ls="--", lw=2)]
    axes.legend(lines, ["must", "aim"], loc="lower right", frameon=False, fontsize="small")
