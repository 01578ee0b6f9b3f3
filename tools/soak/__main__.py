"""Two agents beside everything that hosts and networks do to them, for minutes or hours.

    make soak SOAK_MINUTES=20
    python -m tools.soak --seconds 60 --seed 7 [--dataplane 'workers = 2']
    python -m tools.soak --fuzz 600        the fuzzers of the receive path, each so many seconds
    python -m tools.soak --storm 600       the same without libFuzzer: a hundred times as many
    python -m tools.soak --join            every result in build/soak as one table (--json: as JSON)

Exit status 1: there was a fault. A run's seed decides what is done and in which order.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from rich.console import Console

from tools.netlab import LabError, terminate_as_exception
from tools.soak import fuzzers, report
from tools.soak.conductor import soak

SHOWN = ("kills", "cuts", "readdressings", "suspends", "reloads", "hostile datagrams")
TELL_S = 10.0


class Teller:
    """How far it is: in a terminal a line that changes, else one each ten seconds."""

    def __init__(self, console: Console, seconds: float) -> None:
        self.console, self.seconds = console, seconds
        self.last = -TELL_S
        self.faults = 0

    def __call__(self, so_far: float, counts: dict[str, int], faults: list[str]) -> None:
        for fault in faults[self.faults :]:
            self.console.print(f"  fault: {fault}", markup=False)
        self.faults = len(faults)
        if not self.console.is_terminal and so_far - self.last < TELL_S:
            return
        self.last = so_far
        done = ", ".join(f"{counts.get(name, 0):,} {name}" for name in SHOWN)
        line = f"  {so_far:.0f} of {self.seconds:.0f} s: {done}, {len(faults)} faults"
        self.console.print(line, end="\r" if self.console.is_terminal else "\n", markup=False)


def run(options: argparse.Namespace, console: Console) -> int:
    seed = options.seed if options.seed is not None else int(time.time())
    console.print(f"soak: {options.seconds:.0f} s, seed {seed}", markup=False)
    try:
        outcome = soak(seed, options.seconds, options.dataplane, Teller(console, options.seconds))
    except LabError as error:
        print(f"soak: {error}", file=sys.stderr)
        return 1
    path = report.save(outcome)
    total = report.joined(report.read([path]))
    console.print(json.dumps(total) if options.json else report.table(total), markup=False)
    for fault in outcome.faults:
        console.print(f"fault: {fault}", markup=False)
    console.print(f"kept as {path}", markup=False)
    return 1 if outcome.faults else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seconds", type=float, help="instead of minutes")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--dataplane", default="", help="lines of [dataplane] for both agents")
    parser.add_argument("--fuzz", type=int, metavar="SECONDS")
    parser.add_argument("--storm", type=int, metavar="SECONDS")
    parser.add_argument("--join", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.dataplane = options.dataplane.replace("\\n", "\n")
    options.seconds = options.seconds or 60 * options.minutes
    terminate_as_exception()
    console = Console(highlight=False, soft_wrap=True)
    if options.join is not None:
        found = options.join or sorted(report.FOLDER.glob("*.json"))
        total = report.joined(report.read(found))
        print(json.dumps(total, indent=1) if options.json else report.table(total))
        return 1 if total["faults"] else 0
    if options.fuzz is not None or options.storm is not None:
        seed = options.seed if options.seed is not None else int(time.time())
        paths = [fuzzers.fuzz(name, options.fuzz) for name in fuzzers.NAMES if options.fuzz]
        if options.storm:
            paths += [fuzzers.storm(name, options.storm, seed) for name in fuzzers.NAMES]
        results = report.read(paths)
        for result in results:
            print(
                f"fuzz_{result['name']}: {result['runs']:,} runs, {result['datagrams']:,} "
                f"datagrams{', FAILED' if result['failed'] else ''}"
            )
        return 1 if any(r["failed"] for r in results) else 0
    return run(options, console)


if __name__ == "__main__":
    sys.exit(main())
