"""What the command lines of the benches have in common: `run`, `docs`, `list`, and how they end."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rich.console import Console

from tools.netlab import LabError, terminate_as_exception

R = TypeVar("R")


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


class Stored(Protocol):
    """A run of either bench."""

    options: Any
    machine: dict[str, Any]
    results: dict[str, Any]
    complete: bool


S = TypeVar("S", bound=Stored)


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


def carry_out(name: str, width: int, work: Callable[[Console], int]) -> int:
    """A command's exit status; `width`: of what is no terminal. What breaks it off is one line."""
    terminate_as_exception()
    console = Console(
        highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else width
    )
    try:
        return work(console)
    except KeyboardInterrupt:
        console.print(f"{name}: interrupted; everything is cleaned up")
        return 130
    except (LabError, OSError, ValueError) as error:
        console.print(f"{name}: {error}")
        return 1


def ending(name: str, failed: Sequence[str], console: Console) -> int:
    """The exit status of a run in which these failed."""
    if failed:
        console.print(f"{name}: failures in {'; '.join(failed)}")
    return 1 if failed else 0
