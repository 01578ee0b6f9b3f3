#!/usr/bin/env python3
"""`make bench-multipath`: one TCP flow over several emulated links.

    python -m tools.mpbench [run] [--quick] [--only NAME]... [--contestant NAME]...
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
from collections.abc import Sequence
from pathlib import Path

if __package__ is None or __package__ == "":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from rich.console import Console

from tools.bench import command, machine
from tools.bench import report as bench_report
from tools.bench.runner import stamp
from tools.mpbench import report, targets
from tools.mpbench.contestants import settings
from tools.mpbench.model import CONGESTION, MPTCP, PLAIN, WS, Options, Run, Scenario, Watcher
from tools.mpbench.runner import Runner
from tools.mpbench.scenarios import SCENARIOS, VARIANTS, named
from tools.netlab import emulator
from tools.peers import ROOT

FOLDER = ROOT / "build/mpbench"
DOCUMENT = ROOT / "docs/multipath-results.md"
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


def load(path: Path) -> Run:
    """A stored run. ValueError: it is none."""
    return command.load(path, Run.from_json)


def save(run: Run, stem: Path) -> Path:
    stem.parent.mkdir(parents=True, exist_ok=True)
    path = stem.with_name(f"{stem.name}.json")
    table = run.as_json([v.as_json() for v in targets.verdicts(run)])
    fresh = stem.with_name(f"{stem.name}.part")
    fresh.write_text(json.dumps(table, separators=(",", ":")) + "\n")
    fresh.replace(path)
    stem.with_name(f"{stem.name}.md").write_text(report.markdown(run, {}))
    return path


def publish(run: Run, stem: Path, plots: dict[Path, str]) -> None:
    """Table and plots into the documentation."""
    IMAGES.mkdir(exist_ok=True)
    shown = {}
    for path, what in plots.items():
        target = IMAGES / f"multipath-{path.name.removeprefix(f'{stem.name}-')}"
        shutil.copyfile(path, target)
        shown[f"images/{target.name}"] = what
    report.SECTION.put_into(DOCUMENT, report.markdown(run, shown))


def chosen_scenarios(only: Sequence[str]) -> list[Scenario]:
    """Those named, or all but the variants. ValueError: there is none of a name."""
    if not only:
        return [s for s in SCENARIOS if s.usual]
    return list(dict.fromkeys(s for name in only for s in named(name)))


def measure(arguments: argparse.Namespace, console: Console) -> int:
    if arguments.docs:
        # Not only after an hour of measuring.
        report.SECTION.around(DOCUMENT)
    if os.geteuid() != 0:
        console.print("mpbench: needs root (network namespaces): sudo make bench-multipath")
        return 4
    quick: bool = arguments.quick
    options = Options(
        rounds=int(arguments.rounds or (1 if quick else 3)),
        seconds=arguments.seconds or (3.0 if quick else 8.0),
        warm_s=1.0 if quick else 2.0,
        quick=quick,
        seed=arguments.seed,
        congestion=tuple(dict.fromkeys(arguments.cc)) or CONGESTION,
    )
    scenarios = chosen_scenarios(arguments.only)
    run = Run(options, machine.describe(), emulator())
    stem = FOLDER / stamp()
    console.print(bench_report.machine_line(run.machine))
    wanted = {"contestants": arguments.contestant, "scripts": dict(arguments.other)}
    plan = Runner(run, scenarios, Watcher(), **wanted)
    total = sum(plan.estimate_s(s) for s in scenarios)
    console.print(
        f"{len(scenarios)} scenarios, links by {run.emulator}, about {total / 60:.0f} min"
    )
    if (busy := os.getloadavg()[0]) > BUSY_LOAD:
        console.print(f"this machine is busy (load {busy:.1f}): the figures will be worth less")
    interrupted = False
    with report.Screen(console, run, total) as screen:
        try:
            with Runner(
                *(run, scenarios, screen), **wanted, after_each=lambda: _keep(run, stem)
            ) as runner:
                runner.run()
        except (KeyboardInterrupt, SystemExit):
            interrupted = True
    path = save(run, stem)
    drawn: dict[Path, str] = {}
    if run.results:
        from tools.mpbench import plots

        drawn = plots.draw(run, stem)
        console.print()
        console.print(report.verdict_table(run))
        console.print(f"\n{path.relative_to(ROOT)}, .md and {len(drawn)} plots beside it")
    if interrupted:
        console.print("mpbench: broken off; what was measured is kept, everything is cleaned up")
        return 130
    if arguments.docs:
        publish(run, stem, drawn)
    failed = [
        f"{scenario} {cc}: {name}"
        for scenario, by_cc in run.results.items()
        for cc, by_name in by_cc.items()
        for name, series in by_name.items()
        if series.failures
    ]
    return command.ending("mpbench", failed, console)


def _keep(run: Run, stem: Path) -> None:
    if run.results:
        save(run, stem)


def _carry_out(arguments: argparse.Namespace, console: Console) -> int:
    if arguments.command == "docs":
        run = command.joined([load(path) for path in arguments.runs])
        report.SECTION.around(DOCUMENT)
        from tools.mpbench import plots

        stem = command.stem_of(arguments.runs)
        publish(run, stem, plots.draw(run, stem))
        return 0
    if arguments.command == "list":
        for scenario in SCENARIOS:
            extra = "" if scenario.usual else " (only when named)"
            console.print(f"{scenario.name:<20} {scenario.title}{extra}")
        console.print(f"\nvariants: {', '.join(VARIANTS)}")
        return 0
    return measure(arguments, console)


def main(words: Sequence[str] | None = None) -> int:
    arguments = _arguments(sys.argv[1:] if words is None else words)
    return command.carry_out("mpbench", 160, lambda console: _carry_out(arguments, console))


if __name__ == "__main__":
    sys.exit(main())
