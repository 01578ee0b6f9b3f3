"""How far a bench is: in a terminal a moving line, else a line for each turn."""

from __future__ import annotations

import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tools.benchkit.model import Titled


class Turning:
    """A context manager, and the half of a watcher that is the same for every bench."""

    def __init__(self, console: Console, total_seconds: float) -> None:
        self.console = console
        self._bar = Progress(
            TextColumn("  {task.description}"),
            BarColumn(24),
            TextColumn("{task.fields[left]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total_seconds, left="")
        self._turn = 0.0
        self._left = total_seconds

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def scenario(self, scenario: Titled, rounds: int) -> None:
        title = f"\n{scenario.title} ({scenario.name}, {rounds} rounds)"
        self.console.print(title, style="bold")

    def begin(self, what: str) -> None:
        """A turn."""
        self._turn = time.monotonic()
        self._bar.update(self._task, description=what, left=f"about {self._left / 60:.0f} min left")

    def end(self, said: str) -> None:
        """The turn; `said`: what came of it, for a log that shows how far it is."""
        took = time.monotonic() - self._turn
        self._left = max(0.0, self._left - took)
        self._bar.advance(self._task, took)
        if self._bar.disable:
            self.console.print(f"  {said}")
