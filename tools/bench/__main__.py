#!/usr/bin/env python3
"""`make bench`: measure, and tell.

    python -m tools.bench [run] [--quick] [--only NAME]... [--contestant NAME]...
    python -m tools.bench compare OLD.json NEW.json [--tolerance 10]
    python -m tools.bench docs RUN.json...     the table into docs/performance.md
    python -m tools.bench list

A run writes build/bench/STAMP.json, .md and -*.png. Exit status: 0 ok, 1 something failed (or, for
compare, is worse), 2 usage, 4 no root.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

if __package__ is None or __package__ == "":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from rich.console import Console
from rich.table import Table

from tools.bench import compare as comparison
from tools.bench import report
from tools.bench.model import Options, Run, Scenario
from tools.bench.runner import Runner
from tools.bench.scenarios import CONTESTANTS, SCENARIOS, named
from tools.benchkit import command, machine
from tools.benchkit.progress import Turning
from tools.peers import ROOT

DOCUMENT = ROOT / "docs/performance.md"
PICTURE = ROOT / "docs/performance-figures.png"


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    line = command.CommandLine(
        *("bench", "Measure Whalescale.", DOCUMENT),
        quick="2 rounds of 2 s: does it all work?",
        rounds="[5]",
        seconds="of each sample [5]",
    )
    line.run.add_argument("--contestant", action="append", default=[], metavar="NAME",
                          choices=CONTESTANTS,
                          help="only these; may be repeated")  # fmt: skip
    compare = line.commands.add_parser(
        "compare", help="two runs as ratios; 1 if the new one is worse"
    )
    compare.add_argument("old", type=Path)
    compare.add_argument("new", type=Path)
    compare.add_argument("--tolerance", type=command.within(0, 100), metavar="PERCENT",
                         default=100 * comparison.TOLERANCE, help="of noise [10]")  # fmt: skip
    return line.parse(words)


class _Nobody:
    """Watches nothing: for the estimate."""

    def scenario(self, *_: object) -> None: ...

    def doing(self, *_: object) -> None: ...

    def sampled(self, *_: object) -> None: ...

    def finished(self, *_: object) -> None: ...


class OnePath(command.Bench[Run, Scenario]):
    name = "bench"
    make = "make bench"
    width = 140
    section = report.SECTION

    def document(self) -> Path:
        return DOCUMENT

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        return _arguments(words)

    def begin(self, arguments: argparse.Namespace) -> tuple[Run, list[Scenario]]:
        quick: bool = arguments.quick
        options = Options(
            rounds=int(arguments.rounds or (2 if quick else 5)),
            seconds=arguments.seconds or (2.0 if quick else 5.0),
            quick=quick,
        )
        chosen = [s for name in arguments.only for s in named(name)] or SCENARIOS
        return Run(options, machine.describe()), list(dict.fromkeys(chosen))

    def remarks(self, run: Run) -> tuple[str, ...]:
        return ()

    def runner(
        self,
        run: Run,
        scenarios: list[Scenario],
        screen: Turning | None,
        arguments: argparse.Namespace,
        after_each: Callable[[], None],
    ) -> Runner:
        watcher = screen if isinstance(screen, report.Screen) else _Nobody()
        contestants = arguments.contestant
        return Runner(run, scenarios, watcher, contestants=contestants, after_each=after_each)

    def screen(self, console: Console, run: Run, total_s: float) -> report.Screen:
        return report.Screen(console, total_s)

    def load(self, path: Path) -> Run:
        return command.load(path, Run.from_json)

    def save(self, run: Run, stem: Path) -> Path:
        return command.write(stem, json.dumps(run.as_json(), indent=1), report.markdown(run))

    def draw(self, run: Run, stem: Path) -> Mapping[Path, str]:
        from tools.bench import plots

        return dict.fromkeys(plots.draw(run, stem), "")

    def table(self, run: Run) -> Table:
        return report.figures_table(run)

    def publish(self, run: Run, stem: Path, drawn: Mapping[Path, str]) -> None:
        figures = stem.with_name(f"{stem.name}-figures.png")
        if figures.exists():
            shutil.copyfile(figures, PICTURE)
        report.SECTION.put_into(DOCUMENT, report.markdown(run))

    def failed(self, run: Run) -> list[str]:
        return [
            f"{scenario}: {name}"
            for scenario, by_name in run.results.items()
            for name, series in by_name.items()
            if series.failures
        ]

    def listed(self) -> list[str]:
        lines = [f"{scenario.name:<16} {scenario.title}" for scenario in SCENARIOS]
        return [*lines, f"\ncontestants: {', '.join(CONTESTANTS)}"]

    def other(self, arguments: argparse.Namespace, console: Console) -> int:
        old, new = self.load(arguments.old), self.load(arguments.new)
        changes = comparison.compare(old, new)
        both = [c for c in changes if c.factor is not None]
        worse = [c for c in changes if c.is_regression(arguments.tolerance / 100)]
        for change in changes:
            mark = "WORSE " if change in worse else "      "
            console.print(f"{mark}{change}")
        console.print(
            f"\n{len(both)} ratios in both runs, {len(worse)} worse by more than "
            f"{arguments.tolerance:g} %"
        )
        if not both and not worse:
            console.print("bench: the two runs have nothing in common to compare")
            return 1
        return 1 if worse else 0


BENCH = OnePath()
load, save, main = BENCH.load, BENCH.save, BENCH.main

if __name__ == "__main__":
    sys.exit(main())
