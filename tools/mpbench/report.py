"""A run for people: progress and tables in the terminal, Markdown for docs/multipath-results.md."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

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
from tools.mpbench import idling, real, targets
from tools.mpbench.contestants import label
from tools.mpbench.model import WS, Run, Scenario, Series, Watcher
from tools.mpbench.scenarios import LAN_ROUNDS, LAN_S, LAN_WARM_S, SCENARIOS
from tools.mpbench.targets import Verdict

HEADING = """# Multipath, measured

What [multipath.md](multipath.md) reaches, by `make bench-multipath`.
"""
REAL_HEADING = """# Multipath over links as they are

First flows over recorded radio links, lumps, handovers, steps, a policer and jitter
([multipath.md](multipath.md#12-test-bench)); the smooth rows and the grid are in
[multipath-results.md](multipath-results.md). A plot has what the links might carry, MPTCP and
Whalescale.
"""
SECTION = Section("mpbench", HEADING)
#: of a run that has rows over links as they are alone
REAL_SECTION = Section("mpbench", REAL_HEADING)
CAPTION = (
    '"More than idle" is, over recordings, the median and 95 of 100 of the pings beside the flow, '
    "less those that the best link by itself would have taken in the same seconds (computed; what "
    "hosts and tunnel take remains). "
    "No row's longest stall can be shorter than its links are silent together."
)
HEADS = ("links", "figure", "inner TCP", "measured", "must", "aim")

#: (metric, heading, digits) of a scenario's table
Column = tuple[str, str, int]
_GOODPUT: tuple[Column, ...] = (("mbps", "Mbit/s", 1),)
_TCP: tuple[Column, ...] = (
    ("retransmits", "retransmits", 0),
    ("reord_seen", "reordering seen", 0),
    ("dsack_dups", "DSACKs", 0),
    ("out_of_order", "out of order", 0),
    ("stall_ms", "longest stall, ms", 0),
)
_RATIOS = (
    ("/ sum alone", targets.over_sum),
    ("/ best alone", targets.over_best),
    ("/ MPTCP", targets.over_mptcp),
)
_FIRST = (
    *_RATIOS[1:],
    ("/ capacity", targets.over_capacity),
    ("/ its second flow", targets.over_second),
)
_FIRST_PINGS = (
    ("ping more than idle, ms", targets.more_than_idle("ping_p50_ms")),
    ("p95", targets.more_than_idle("ping_p95_ms")),
)


def columns(
    scenario: Scenario,
) -> tuple[tuple[Column, ...], tuple[tuple[str, targets.Figure], ...]]:
    """The plain metrics and the ratios that a scenario's table shows."""
    silent: tuple[Column, ...] = (
        ("mbps_before", "before, Mbit/s", 1),
        ("mbps_silent", "from 1 s of silence", 1),
        ("mbps_after", "from 1 s after", 1),
        ("both_again_s", "both again, s", 2),
    )
    tenth: tuple[Column, ...] = (
        ("mbps_before", "before, Mbit/s", 1),
        ("mbps_tenth", "from 2 s after the fall", 1),
    )
    pings: tuple[Column, ...] = (
        ("idle_ms", "idle ping, ms", 1),
        ("ping_p50_ms", "loaded p50", 1),
        ("ping_p95_ms", "p95", 1),
        ("ping_max_ms", "max", 1),
        ("ping_lost_percent", "lost, %", 1),
    )
    cpu: tuple[Column, ...] = (("cpu_percent", "CPU of the machine, %", 0),)
    match scenario.kind:
        case "silent":
            return (*silent, *_TCP), (("survivor / alone", targets.survivor),)
        case "tenth":
            ratios = (("/ new sum", targets.fallen_share), ("recovered, s", targets.recover_s))
            return (*tenth, *_TCP), ratios
        case "ping":
            return (*_GOODPUT, *pings), (("p95 added, ms", targets.added("ping_p95_ms")),)
        case "first":
            stall: tuple[Column, ...] = (_TCP[-1], (idling.SILENT, "links silent together, ms", 0))
            return (*_GOODPUT, *stall, *_TCP[:1], *pings[-1:], *cpu), (*_FIRST, *_FIRST_PINGS)
        case "lan":
            return (*_GOODPUT, *_TCP, *cpu), (("/ plain mode", targets.over_plain),)
        case _:
            return (*_GOODPUT, *_TCP, *cpu), _RATIOS


def table_of(run: Run, scenario: Scenario) -> tuple[list[str], list[list[str]], list[str]]:
    """Headings, rows, and remarks on what failed."""
    metrics, ratios = columns(scenario)
    heads = ["", "inner TCP", *(h for _, h, _ in metrics[:1]), *(h for h, _ in ratios),
             *(h for _, h, _ in metrics[1:])]  # fmt: skip
    rows, remarks = [], []
    for cc, by_name in run.results.get(scenario.name, {}).items():
        for name, series in by_name.items():
            shown = label(name, scenario.shapes)
            if series.reason:
                remarks.append(f"{shown}, {cc}: {series.reason}")
                continue
            if series.failures:
                last = next(s.error for s in reversed(series.samples) if s.error)
                remarks.append(f"{shown}, {cc}: {series.failures} rounds failed: {last}")
            plain = [number(series.median(m), d) for m, _, d in metrics]
            made = [number(targets.value(run, scenario, cc, name, figure)) for _, figure in ratios]
            rows.append([shown, cc, plain[0], *made, *plain[1:]])
    return heads, rows, remarks


def measured(v: Verdict) -> str:
    if v.value is None:
        return v.reason or "not measured"
    if v.target.unit == "x":
        return f"{v.value:.3f}x"
    return f"{v.value:.{0 if v.target.unit in ('', 'ms') else 2}f} {v.target.unit}".rstrip()


def _titles(v: Verdict) -> tuple[str, str]:
    if v.target.scenario in real.GROUPS or v.target is targets.NEVER:
        links = real.GROUPS.get(v.target.scenario, "all links")
        return f"{links}, {label(v.contestant)}: {v.reason}", v.target.title
    scenario = targets.BY_NAME.get(v.target.scenario)
    return (scenario.title if scenario else f"grid: {v.reason}"), v.target.title


def judged(run: Run) -> list[Judged]:
    """Each figure that has to be reached."""
    return [
        (
            verdict(v.text, measured=v.value is not None, counts=run.options.counts),
            (
                *_titles(v),
                v.congestion,
                measured(v),
                *v.target.said(),
            ),
        )
        for v in (*targets.verdicts(run), *targets.summary(run))
    ]


class Screen(Turning, Watcher):
    """Progress and a table for each scenario."""

    def __init__(self, console: Console, run: Run, total_seconds: float) -> None:
        super().__init__(console, total_seconds)
        self.run = run
        self._doing = ""

    def doing(self, scenario: Scenario, congestion: str, contestant: str, number: int) -> None:
        self._doing = f"round {number}, {congestion}: {label(contestant, scenario.shapes)}"
        self.begin(f"{scenario.name}, {self._doing}")

    def sampled(self, scenario: Scenario, contestant: str, series: Series) -> None:
        self.end(f"{self._doing:<52} {_last(scenario, series)}")

    def finished(self, scenario: Scenario) -> None:
        heads, rows, remarks = table_of(self.run, scenario)
        table = Table(box=None, padding=(0, 2, 0, 0))
        for at, head in enumerate(heads):
            side = "left" if at < 2 else "right"
            table.add_column(head, justify=side, no_wrap=at < 2)  # type: ignore[arg-type]
        for row in rows:
            table.add_row(*row)
        self.console.print(table)
        for remark in remarks:
            self.console.print(f"  {remark}")


def _last(scenario: Scenario, series: Series) -> str:
    if series.skipped:
        return f"skipped: {series.skipped}"
    sample = series.samples[-1]
    if sample.error:
        return f"FAILED: {sample.error}"
    shown = [(m, h, d) for m, h, d in columns(scenario)[0] if m in sample.values][:4]
    rate = f"{sample.values['mbps']:.1f} Mbit/s"
    rest = (f"{h} {sample.values[m]:.{d}f}" for m, h, d in shown if m != "mbps")
    broken = f"; BROKEN: {sample.flow.error}" if sample.flow and sample.flow.error else ""
    return ", ".join([rate, *rest]) + broken


def figures_table(run: Run) -> Table:
    return verdict_table(HEADS, 3, judged(run), run.options.counts)


def summary(run: Run) -> str:
    o = run.options
    text = (
        f"{machine_line(run.machine)} Links by {run.emulator}; "
        f"medians of {o.rounds} interleaved rounds of {o.seconds:g} s "
        f"after {o.warm_s:g} s of warm-up (grid: 1 round, lan: {LAN_ROUNDS} of {LAN_S:g} s "
        f"after {LAN_WARM_S:g} s); seed {o.seed}. Each link holds its delay line and a queue of "
        "50 ms of its rate (at least 64 KiB), then drops; the same for every contestant."
    )
    if not run.complete:
        text += " The run was broken off."
    if not o.counts:
        text += " **A short run: a verdict takes 3 rounds of 8 s.**"
    return text


def markdown(run: Run, images: dict[str, str]) -> str:
    """The generated part of docs/multipath-results.md. `images`: what each plot is, by its path."""
    lines = [summary(run), "", *verdict_markdown(HEADS, 3, judged(run))]
    lines += ["", *(f"![{what}]({path})" for path, what in images.items())]
    for scenario in SCENARIOS:
        if scenario.name in run.results and scenario.kind not in ("grid", "first"):
            head, rows, remarks = table_of(run, scenario)
            lines += ["", f"### {scenario.title[0].upper()}{scenario.title[1:]}", ""]
            lines += [table_row(head), "|---|---|" + "--:|" * (len(head) - 2)]
            lines += [table_row(r) for r in rows]
            lines += ["", *(f"- {r}" for r in remarks)] if remarks else []
    lines += _real_markdown(run)
    lines += _grid_markdown(run)
    return "\n".join(lines) + "\n"


def _real_markdown(run: Run) -> list[str]:
    """First flows, all rows in one table."""
    body, remarks = [], []
    for scenario in real.ROWS:
        if scenario.name in run.results:
            heads, rows, said = table_of(run, scenario)
            body += [[scenario.title, *r] for r in rows if not r[0].startswith("link ")]
            remarks += [f"{scenario.title}: {one}" for one in said]
    if not body and not remarks:
        return []
    lines = ["", "### First flows over links as they are", "", CAPTION, ""]
    if body:
        lines += [table_row(["links", *heads]), "|---|---|---|" + "--:|" * (len(heads) - 2)]
        lines += [table_row(row) for row in body]
    return [*lines, "", *(f"- {one}" for one in remarks)]


def _grid_markdown(run: Run) -> list[str]:
    cells = {cc: targets.grid_cells(run, cc) for cc in run.options.congestion}
    if not any(cells.values()):
        return []
    lines = ["", "### The grid: goodput over both / the better link alone", ""]
    lines += [table_row(("80 Mbit/s 20 ms beside", *cells)), "|---|" + "--:|" * len(cells)]
    for scenario in SCENARIOS:
        found = [number(c.get(scenario.name), 3) for c in cells.values()]
        if scenario.kind == "grid" and any(f != "-" for f in found):
            lines.append(table_row((scenario.title.partition("beside ")[2], *found)))
    return lines


def is_ours(name: str) -> bool:
    """Whether a contestant is the one that all this is about."""
    return name.partition(":")[0] == WS
