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
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ is None or __package__ == "":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from rich.console import Console

from tools.bench import command, machine, report
from tools.bench import compare as comparison
from tools.bench.model import Options, Run, Scenario
from tools.bench.runner import Runner, stamp
from tools.bench.scenarios import CONTESTANTS, SCENARIOS, named
from tools.peers import ROOT

FOLDER = ROOT / "build/bench"
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


def load(path: Path) -> Run:
    """A stored run. ValueError: it is none."""
    return command.load(path, Run.from_json)


def save(run: Run, stem: Path) -> Path:
    stem.parent.mkdir(parents=True, exist_ok=True)
    path = stem.with_name(f"{stem.name}.json")
    path.write_text(json.dumps(run.as_json(), indent=1) + "\n")
    stem.with_name(f"{stem.name}.md").write_text(report.markdown(run))
    return path


def publish(run: Run, stem: Path) -> None:
    """Table and plot into the documentation."""
    drawn = stem.with_name(f"{stem.name}-figures.png")
    if drawn.exists():
        shutil.copyfile(drawn, PICTURE)
    report.SECTION.put_into(DOCUMENT, report.markdown(run))


def measure(arguments: argparse.Namespace, console: Console) -> int:
    if arguments.docs:
        # Not only after an hour of measuring.
        report.SECTION.around(DOCUMENT)
    if os.geteuid() != 0:
        console.print("bench: needs root (network namespaces): sudo make bench")
        return 4
    quick: bool = arguments.quick
    options = Options(
        rounds=int(arguments.rounds or (2 if quick else 5)),
        seconds=arguments.seconds or (2.0 if quick else 5.0),
        quick=quick,
    )
    chosen = [s for name in arguments.only for s in named(name)] or list(SCENARIOS)
    scenarios: list[Scenario] = list(dict.fromkeys(chosen))
    run = Run(options, machine.describe())
    stem = FOLDER / stamp()
    interrupted = False
    console.print(report.machine_line(run.machine))
    plan = Runner(run, scenarios, _Silent(), contestants=arguments.contestant)
    total = sum(plan.estimate(s) for s in scenarios)
    console.print(f"{len(scenarios)} scenarios, about {total / 60:.0f} min")
    with report.Screen(console, total) as screen:
        runner = Runner(
            *(run, scenarios, screen),
            contestants=arguments.contestant,
            after_each=lambda: _keep(run, stem),
        )
        try:
            with runner:
                runner.run()
        except (KeyboardInterrupt, SystemExit):
            interrupted = True
    path = save(run, stem)
    if any(run.results.values()):
        from tools.bench import plots

        drawn = plots.draw(run, stem)
        console.print()
        console.print(report.figures_table(run))
        console.print(f"\n{_shown(path)}, .md and {len(drawn)} plots beside it")
    if interrupted:
        console.print("bench: broken off; what was measured is kept, everything is cleaned up")
        return 130
    if arguments.docs:
        publish(run, stem)
    failed = [
        f"{scenario}: {name}"
        for scenario, by_name in run.results.items()
        for name, series in by_name.items()
        if series.failures
    ]
    return command.ending("bench", failed, console)


class _Silent:
    """Watches nothing: for the estimate."""

    def scenario(self, *_: object) -> None: ...

    def doing(self, *_: object) -> None: ...

    def sampled(self, *_: object) -> None: ...

    def finished(self, *_: object) -> None: ...


def _keep(run: Run, stem: Path) -> None:
    if run.results:
        save(run, stem)


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def compare(arguments: argparse.Namespace, console: Console) -> int:
    changes = comparison.compare(load(arguments.old), load(arguments.new))
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


def _carry_out(arguments: argparse.Namespace, console: Console) -> int:
    if arguments.command == "compare":
        return compare(arguments, console)
    if arguments.command == "docs":
        from tools.bench import plots

        run = command.joined([load(path) for path in arguments.runs])
        stem = command.stem_of(arguments.runs)
        plots.draw(run, stem)
        publish(run, stem)
        return 0
    if arguments.command == "list":
        for scenario in SCENARIOS:
            console.print(f"{scenario.name:<16} {scenario.title}")
        console.print(f"\ncontestants: {', '.join(CONTESTANTS)}")
        return 0
    return measure(arguments, console)


def main(words: Sequence[str] | None = None) -> int:
    arguments = _arguments(sys.argv[1:] if words is None else words)
    return command.carry_out("bench", 140, lambda console: _carry_out(arguments, console))


if __name__ == "__main__":
    sys.exit(main())
