#!/usr/bin/env python3
"""`make bench-multipath`: one TCP flow over several emulated links.

    python -m tools.mpbench [run] [--quick] [--only NAME]... [--contestant NAME]...
    python -m tools.mpbench run --only real --links FOLDER [--cc bbr --rounds 1 --seconds 12]
    python -m tools.mpbench docs RUN.json...   the table into docs/multipath-results.md
    python -m tools.mpbench list

A run writes build/mpbench/STAMP.json (with every time line), .md and -*.png. Exit status: 0 ok,
1 something failed, 2 usage, 4 no root.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

if __package__ is None or __package__ == "":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from rich.console import Console
from rich.table import Table

from tools.benchkit import command, machine
from tools.benchkit.progress import Turning
from tools.mpbench import idling, report, targets
from tools.mpbench.contestants import settings
from tools.mpbench.model import CONGESTION, MPTCP, PLAIN, WS, Options, Run, Scenario, Watcher
from tools.mpbench.real import VARIABLE, folder
from tools.mpbench.runner import Runner
from tools.mpbench.scenarios import SCENARIOS, VARIANTS, named
from tools.netlab import emulator
from tools.peers import ROOT

DOCUMENT = ROOT / "docs/multipath-results.md"
REAL_DOCUMENT = ROOT / "docs/multipath-real.md"
IMAGES = ROOT / "docs/images"
#: from there on others take the processors that links and agents need
BUSY_LOAD = 1.0


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    line = command.CommandLine(
        *("mpbench", "Measure multipath.", DOCUMENT),
        quick="1 round of 3 s: does it all work?",
        rounds="[3]",
        seconds="of each flow, after 2 s [8]",
    )
    run = line.run
    run.add_argument("--seed", type=int, default=1, help="of losses and jitter [1]")
    run.add_argument("--cc", action="append", default=[], choices=CONGESTION,
                     help="inner congestion control; repeatable [both]")  # fmt: skip
    run.add_argument("--links", type=Path, metavar="FOLDER",
                     help=f"recordings NAME.ms.gz, for real-radio [{VARIABLE}]")  # fmt: skip
    run.add_argument("--contestant", action="append", default=[], metavar="NAME", type=_contestant,
                     help="only these: bare, alone, mptcp, whalescale, whalescale:KEY=VALUE,... "
                          "with keys of [multipath]; repeatable")  # fmt: skip
    run.add_argument("--other", action="append", default=[], metavar="NAME=SCRIPT", type=_other,
                     help="another tunnel, by `SCRIPT NETNS_A NETNS_B LINK...`, LINK being "
                          "RATE,DELAY,ADDRESS_A,ADDRESS_B (Mbit/s, ms): it makes 10.77.0.1/24 and "
                          ".2/24 reach each other until SIGTERM; repeatable")  # fmt: skip
    return line.parse(words)


def _contestant(text: str) -> str:
    base = text.partition(":")[0]
    if base not in ("bare", "alone", "other", MPTCP, PLAIN, WS):
        raise argparse.ArgumentTypeError(f"{text}: there are bare, alone, {MPTCP}, {PLAIN}, {WS}")
    try:
        settings(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _other(text: str) -> tuple[str, Path]:
    name, _, script = text.partition("=")
    path = Path(script)
    if not name or not os.access(path, os.X_OK):
        raise argparse.ArgumentTypeError(f"{text}: NAME=SCRIPT, where SCRIPT can be executed")
    return name, path.resolve()


def chosen_scenarios(only: Sequence[str]) -> list[Scenario]:
    """Those named, or all but the variants. ValueError: there is none of a name."""
    if not only:
        return [s for s in SCENARIOS if s.usual]
    return list(dict.fromkeys(s for name in only for s in named(name)))


class SeveralPaths(command.Bench[Run, Scenario]):
    name = "mpbench"
    make = "make bench-multipath"
    width = 160
    section = report.SECTION

    def document(self) -> Path:
        return DOCUMENT

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        return _arguments(words)

    def begin(self, arguments: argparse.Namespace) -> tuple[Run, list[Scenario]]:
        quick: bool = arguments.quick
        options = Options(
            rounds=int(arguments.rounds or (1 if quick else 3)),
            seconds=arguments.seconds or (3.0 if quick else 8.0),
            warm_s=1.0 if quick else 2.0,
            quick=quick,
            seed=arguments.seed,
            congestion=tuple(dict.fromkeys(arguments.cc)) or CONGESTION,
            first_s=arguments.seconds or (3.0 if quick else Options().first_s),
        )
        scenarios = chosen_scenarios(arguments.only)
        return Run(options, machine.describe(), emulator()), scenarios

    def remarks(self, run: Run) -> list[str]:
        said = [f"links by {run.emulator}"]
        if (busy := os.getloadavg()[0]) > BUSY_LOAD:
            said.append(f"this machine is busy (load {busy:.1f}): the figures will be worth less")
        return said

    def runner(
        self,
        run: Run,
        scenarios: list[Scenario],
        screen: Turning | None,
        arguments: argparse.Namespace,
        after_each: Callable[[], None],
    ) -> Runner:
        return Runner(
            run,
            scenarios,
            screen if isinstance(screen, report.Screen) else Watcher(),
            contestants=arguments.contestant,
            scripts=dict(arguments.other),
            after_each=after_each,
            links=folder(arguments.links),
        )

    def screen(self, console: Console, run: Run, total_s: float) -> report.Screen:
        return report.Screen(console, run, total_s)

    def load(self, path: Path) -> Run:
        run = command.load(path, Run.from_json)
        idling.fill_in(run, folder(None))
        return run

    def save(self, run: Run, stem: Path) -> Path:
        said = (*targets.verdicts(run), *targets.summary(run))
        table = run.as_json([v.as_json() for v in said])
        text = json.dumps(table, separators=(",", ":"))
        return command.write(stem, text, report.markdown(run, {}))

    def draw(self, run: Run, stem: Path) -> Mapping[Path, str]:
        from tools.mpbench import plots

        return plots.draw(run, stem)

    def table(self, run: Run) -> Table:
        return report.figures_table(run)

    def publish(self, run: Run, stem: Path, drawn: Mapping[Path, str]) -> None:
        IMAGES.mkdir(exist_ok=True)
        shown = {}
        for path, what in drawn.items():
            target = IMAGES / f"multipath-{path.name.removeprefix(f'{stem.name}-')}"
            shutil.copyfile(path, target)
            shown[f"images/{target.name}"] = what
        section, page = report.SECTION, DOCUMENT
        if run.is_of_first_flows:
            section, page = report.REAL_SECTION, REAL_DOCUMENT
        section.put_into(page, report.markdown(run, shown))

    def failed(self, run: Run) -> list[str]:
        return [
            f"{scenario} {cc}: {name}"
            for scenario, by_cc in run.results.items()
            for cc, by_name in by_cc.items()
            for name, series in by_name.items()
            if series.failures
        ]

    def listed(self) -> list[str]:
        lines = [
            f"{s.name:<20} {s.title}{'' if s.usual else ' (only when named)'}" for s in SCENARIOS
        ]
        return [*lines, f"\nvariants: {', '.join(VARIANTS)}"]


BENCH = SeveralPaths()
load, save, main = BENCH.load, BENCH.save, BENCH.main

if __name__ == "__main__":
    sys.exit(main())
