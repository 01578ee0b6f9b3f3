"""A run for people: the terminal's tables and progress, and Markdown for docs/performance.md."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from tools.bench.contestants import label
from tools.bench.model import Figure, Run, Scenario, Series, figures
from tools.bench.scenarios import SCENARIOS
from tools.bench.targets import METRICS, NEW, WS
from tools.benchkit.page import Section, table_row
from tools.benchkit.progress import Turning
from tools.benchkit.report import (
    Judged,
    machine_line,
    number,
    verdict,
    verdict_markdown,
    verdict_table,
)
from whalescale.bench.measure import ratio_of_rounds

SECTION = Section("bench")
HEADS = ("figure", "measured", "must", "aim")


def measured(figure: Figure) -> str:
    if figure.value is None:
        return figure.reason or "not measured"
    unit = figure.target.unit
    text = number(figure.value, 0 if unit == "" else 1 if unit != "x" else 2)
    return f"{text}x" if unit == "x" else f"{text} {unit}".rstrip()


def cell(series: Series, metric: str) -> str:
    """One figure of a table: the median, or why there is none."""
    if series.skipped:
        return f"skipped: {series.skipped}"
    if series.error:
        return f"failed: {series.error}"
    return number(series.median(metric), METRICS[metric].digits)


class Screen(Turning):
    """Progress and a table for each scenario."""

    def doing(self, scenario: Scenario, contestant: str, number: int) -> None:
        self.begin(f"{scenario.name}, round {number}: {label(contestant)}")

    def sampled(self, scenario: Scenario, contestant: str, series: Series) -> None:
        self.end(f"{label(contestant):<34} {self._said(scenario, series)}")

    @staticmethod
    def _said(scenario: Scenario, series: Series) -> str:
        if series.skipped:
            return f"skipped: {series.skipped}"
        last = series.samples[-1]
        if last.error:
            return f"round {last.round} FAILED: {last.error}"
        shown = [m for m in scenario.metrics if m in last.values][:3]
        values = (
            f"{number(last.values[m], METRICS[m].digits)} {METRICS[m].unit}".rstrip() for m in shown
        )
        return f"round {last.round}: {', '.join(values)}"

    def finished(self, scenario: Scenario, results: dict[str, Series]) -> None:
        self.console.print(scenario_table(scenario, results))


def heading(metric: str) -> str:
    """ "throughput (Gbit/s)"."""
    m = METRICS[metric]
    return f"{m.title}{f' ({m.unit})' if m.unit else ''}"


def _metrics_table(scenario: Scenario, results: dict[str, Series]) -> Table:
    """A row for each metric; what did not come about is its column's remark."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    remarks = []
    for name, series in results.items():
        table.add_column(label(name), justify="right")
        if series.skipped or series.error:
            remarks.append(f"{label(name)}: {cell(series, scenario.metrics[0])}")
    for metric in scenario.metrics:
        values = (number(s.median(metric), METRICS[metric].digits) for s in results.values())
        table.add_row(heading(metric), *values)
    if remarks:
        table.caption = Text("\n".join(remarks))
        table.caption_justify = "left"
    return table


def scenario_table(scenario: Scenario, results: dict[str, Series]) -> Table:
    if scenario.by_metric:
        return _metrics_table(scenario, results)
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    for key in scenario.metrics:
        table.add_column(heading(key), justify="right")
    table.add_column("rounds", justify="right")
    remarks: list[str] = []
    for name, series in results.items():
        there = sum(bool(s.values) for s in series.samples)
        tried = len(series.samples)
        if series.skipped or series.error:
            remarks.append(f"{label(name)}: {cell(series, scenario.metrics[0])}")
            cells = ["-" for _ in scenario.metrics]
        else:
            cells = [cell(series, m) for m in scenario.metrics]
            if series.failures:
                last = next(s.error for s in reversed(series.samples) if s.error)
                remarks.append(f"{label(name)}: {series.failures} rounds failed: {last}")
        table.add_row(label(name), *cells, f"{there}/{tried}")
    if remarks:
        table.caption = Text("\n".join(remarks))
        table.caption_justify = "left"
    return table


def judged(run: Run) -> list[Judged]:
    """Each figure that has to be reached."""
    return [
        (
            verdict(f.verdict, measured=f.value is not None, counts=run.options.counts),
            (
                f.target.title,
                measured(f),
                *f.target.said(),
            ),
        )
        for f in figures(run)
    ]


def figures_table(run: Run) -> Table:
    return verdict_table(HEADS, 3, judged(run), run.options.counts)


def summary(run: Run) -> str:
    """How the figures came about, and what they are worth."""
    o = run.options
    rounds = f"{o.rounds} interleaved rounds" if o.rounds > 1 else "1 round"
    text = f"{machine_line(run.machine)} Medians of {rounds} of {o.seconds:g} s."
    if not run.complete:
        text += " The run was broken off."
    if o.quick:
        text += " Memory after 10 s of load instead of a minute, 50 pings instead of 200."
    if not o.counts:
        text += (
            " **A short run: its figures only show that everything works; a verdict takes 5"
            " rounds of 5 s.**"
        )
    return text


def markdown(run: Run) -> str:
    """The generated part of docs/performance.md."""
    lines = [summary(run), "", *verdict_markdown(HEADS, 3, judged(run))]
    for scenario in SCENARIOS:
        if scenario.name in run.results:
            lines += ["", f"### {scenario.title[0].upper()}{scenario.title[1:]}", ""]
            lines += _scenario_markdown(scenario, run.results[scenario.name])
    return "\n".join(lines) + "\n"


def _metrics_markdown(scenario: Scenario, results: dict[str, Series]) -> list[str]:
    """A row for each metric, a column for each contestant that has figures."""
    there = {n: s for n, s in results.items() if not (s.skipped or s.error)}
    lines = []
    if there:
        lines = [table_row(("", *map(label, there))), "|---" + "|--:" * len(there) + "|"]
        for metric in scenario.metrics:
            cells = (cell(series, metric) for series in there.values())
            lines.append(table_row((heading(metric), *cells)))
        lines.append("")
    missing = (n for n in results if n not in there)
    return lines + [f"- {label(n)}: {cell(results[n], scenario.metrics[0])}" for n in missing]


def _scenario_markdown(scenario: Scenario, results: dict[str, Series]) -> list[str]:
    if scenario.by_metric:
        return _metrics_markdown(scenario, results)
    heads = [heading(m) for m in scenario.metrics]
    first = next(iter(results), "")
    against = next(c for c in (NEW, WS, first) if c in results)
    plotted = scenario.plotted or scenario.metrics[0]
    heads.append(f"{METRICS[plotted].title} / {label(against)}")
    lines = [table_row(("", *heads)), "|---" + "|--:" * len(heads) + "|"]
    reasons = []
    for name, series in results.items():
        if series.skipped or series.error:
            reasons.append(f"- {label(name)}: {cell(series, scenario.metrics[0])}")
            continue
        ratio = ratio_of_rounds(series.of(plotted), results[against].of(plotted))
        # A percentage of a percentage says nothing.
        shown = "-" if METRICS[plotted].unit == "%" or ratio is None else f"{ratio:.2f}x"
        lines.append(table_row((label(name), *(cell(series, m) for m in scenario.metrics), shown)))
    return [*lines, "", *reasons] if reasons else lines
