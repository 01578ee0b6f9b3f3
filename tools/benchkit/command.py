"""A bench's command: its words (`run`, `docs`, `list`), how it measures, and how it ends."""

from __future__ import annotations

import argparse
import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from rich.console import Console
from rich.table import Table

from tools.benchkit.model import Stored, Titled
from tools.benchkit.page import Section
from tools.benchkit.progress import Turning
from tools.benchkit.report import machine_line
from tools.benchkit.runner import Turns, stamp
from tools.netlab import LabError, terminate_as_exception
from tools.peers import ROOT

R = TypeVar("R")
S = TypeVar("S", bound=Stored)
C = TypeVar("C", bound=Titled)


class within:
    """argparse's type: a number of [low, high]."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def __call__(self, text: str) -> float:
        value = float(text)
        if not self.low <= value <= self.high:
            raise argparse.ArgumentTypeError(f"{text}: from {self.low:g} to {self.high:g}")
        return value

    def __repr__(self) -> str:
        return "number"


class CommandLine:
    """The words that every bench takes; each adds its own to `run` and to `commands`."""

    def __init__(
        self, name: str, description: str, document: Path, *, quick: str, rounds: str, seconds: str
    ) -> None:
        """`quick`, `rounds`, `seconds`: the help of these options."""
        self._parser = argparse.ArgumentParser(prog=f"tools/{name}", description=description)
        self.commands = self._parser.add_subparsers(dest="command", required=True)
        self.run = run = self.commands.add_parser("run", help="measure (also without a word)")
        run.add_argument("--quick", action="store_true", help=quick)
        run.add_argument("--rounds", type=within(1, 100), help=rounds)
        run.add_argument("--seconds", type=within(1, 120), help=seconds)
        run.add_argument("--only", action="append", default=[], metavar="NAME",
                         help="this scenario, or those whose names begin so; "
                              "repeatable")  # fmt: skip
        run.add_argument("--docs", action="store_true", help=f"put it into docs/{document.name}")
        docs = self.commands.add_parser("docs", help=f"put a run's table into docs/{document.name}")
        docs.add_argument("runs", type=Path, nargs="+", metavar="RUN.json",
                          help="several: the scenarios of all of them, if they are of one "
                               "revision, machine and length")  # fmt: skip
        self.commands.add_parser("list", help="scenarios and contestants")

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        known = {*self.commands.choices, "-h", "--help"}
        return self._parser.parse_args(words if words and words[0] in known else ["run", *words])


def load(path: Path, from_json: Callable[[Any], R]) -> R:
    """A stored run. ValueError: it is none."""
    try:
        return from_json(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def write(stem: Path, figures: str, table: str) -> Path:
    """STEM.json, which is whole or as it was, and STEM.md."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    path = stem.with_name(f"{stem.name}.json")
    fresh = stem.with_name(f"{stem.name}.part")
    fresh.write_text(f"{figures}\n")
    fresh.replace(path)
    stem.with_name(f"{stem.name}.md").write_text(table)
    return path


def joined(runs: Sequence[S]) -> S:
    """The first one, with the scenarios of the others; of one that was measured twice the last.

    ValueError: figures that do not belong beside each other.
    """
    first = runs[0]
    for run in runs[1:]:
        # Documents and tests may have changed between two parts.
        same = {"time"} | ({"revision"} if first.machine.get("code") else set())
        keys = (first.machine.keys() | run.machine.keys()) - same
        told = {k for k in keys if first.machine.get(k) != run.machine.get(k)}
        if told or run.options != first.options:
            differ = ", ".join(sorted(told)) or "rounds or seconds"
            raise ValueError(f"these runs do not belong together: they differ in {differ}")
        first.results.update(run.results)
        first.complete = first.complete and run.complete
    return first


def stem_of(paths: Sequence[Path]) -> Path:
    """Where the plots of these runs go: beside the first."""
    stem = paths[0].with_suffix("")
    return stem if len(paths) == 1 else stem.with_name(f"{stem.name}-joined")


class Bench(ABC, Generic[S, C]):
    """What every bench does; each says what it measures, and how that is told."""

    #: its folder in tools/ and build/
    name: str
    #: how people begin it
    make: str
    #: columns of what is no terminal
    width: int
    section: Section

    @abstractmethod
    def document(self) -> Path:
        """The page that a run's table goes into."""

    @abstractmethod
    def parse(self, words: Sequence[str]) -> argparse.Namespace: ...

    @abstractmethod
    def begin(self, arguments: argparse.Namespace) -> tuple[S, list[C]]:
        """An empty run, and its scenarios. ValueError: there is none of a name."""

    @abstractmethod
    def remarks(self, run: S) -> Iterable[str]:
        """What else is to be known before it begins."""

    @abstractmethod
    def runner(
        self,
        run: S,
        scenarios: list[C],
        screen: Turning | None,
        arguments: argparse.Namespace,
        after_each: Callable[[], None],
    ) -> Turns[Any, Any, C]:
        """`screen`: is told what happens; None: nobody is."""

    @abstractmethod
    def screen(self, console: Console, run: S, total_s: float) -> Turning: ...

    @abstractmethod
    def load(self, path: Path) -> S:
        """A stored run. ValueError: it is none."""

    @abstractmethod
    def save(self, run: S, stem: Path) -> Path:
        """Its figures as JSON, a table beside them."""

    @abstractmethod
    def draw(self, run: S, stem: Path) -> Mapping[Path, str]:
        """Plots, and what each of them is."""

    @abstractmethod
    def table(self, run: S) -> Table:
        """What had to be reached."""

    @abstractmethod
    def publish(self, run: S, stem: Path, drawn: Mapping[Path, str]) -> None:
        """Table and plots into the documentation."""

    @abstractmethod
    def failed(self, run: S) -> list[str]: ...

    @abstractmethod
    def listed(self) -> Iterable[str]:
        """Lines of `list`."""

    def other(self, arguments: argparse.Namespace, console: Console) -> int:
        """The words that only this bench has."""
        raise NotImplementedError

    # what they have in common

    def measure(self, arguments: argparse.Namespace, console: Console) -> int:
        if arguments.docs:
            # Not only after an hour of measuring.
            self.section.around(self.document())
        if os.geteuid() != 0:
            console.print(f"{self.name}: needs root (network namespaces): sudo {self.make}")
            return 4
        run, scenarios = self.begin(arguments)
        stem = ROOT / "build" / self.name / stamp()
        console.print(machine_line(run.machine))
        plan = self.runner(run, scenarios, None, arguments, lambda: None)
        total = sum(plan.estimate_s(s) for s in scenarios)
        console.print(f"{len(scenarios)} scenarios, about {total / 60:.0f} min")
        for remark in self.remarks(run):
            console.print(remark)

        def keep() -> None:
            if run.results:
                self.save(run, stem)

        interrupted = False
        with self.screen(console, run, total) as screen:
            try:
                with self.runner(run, scenarios, screen, arguments, keep) as runner:
                    runner.run()
            except (KeyboardInterrupt, SystemExit):
                interrupted = True
        path = self.save(run, stem)
        drawn: Mapping[Path, str] = {}
        if any(run.results.values()):
            drawn = self.draw(run, stem)
            console.print()
            console.print(self.table(run))
            shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
            console.print(f"\n{shown}, .md and {len(drawn)} plots beside it")
        if interrupted:
            console.print(f"{self.name}: broken off; what was measured is kept, all is cleaned up")
            return 130
        if arguments.docs:
            self.publish(run, stem, drawn)
        return self._ending(self.failed(run), console)

    def _ending(self, failed: Sequence[str], console: Console) -> int:
        if failed:
            console.print(f"{self.name}: failures in {'; '.join(failed)}")
        return 1 if failed else 0

    def _carry_out(self, arguments: argparse.Namespace, console: Console) -> int:
        match arguments.command:
            case "run":
                return self.measure(arguments, console)
            case "docs":
                self.section.around(self.document())
                run = joined([self.load(path) for path in arguments.runs])
                stem = stem_of(arguments.runs)
                self.publish(run, stem, self.draw(run, stem))
                return 0
            case "list":
                for line in self.listed():
                    console.print(line)
                return 0
        return self.other(arguments, console)

    def main(self, words: Sequence[str] | None = None) -> int:
        """The exit status. What breaks it off is one line."""
        arguments = self.parse(sys.argv[1:] if words is None else words)
        terminate_as_exception()
        width = None if sys.stdout.isatty() else self.width
        console = Console(highlight=False, markup=False, emoji=False, width=width)
        try:
            return self._carry_out(arguments, console)
        except KeyboardInterrupt:
            console.print(f"{self.name}: interrupted; everything is cleaned up")
            return 130
        except (LabError, OSError, ValueError) as error:
            console.print(f"{self.name}: {error}")
            return 1
