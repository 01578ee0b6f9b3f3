"""What a terminal shows while the demo downloads: the bar, and below it `ws paths --watch`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from rich.console import Group, RenderableType
from rich.progress import Progress

from whalescale.cli.client import Connection
from whalescale.cli.ending import CliError
from whalescale.status import Status
from whalescale.tui import render, snapshot

#: between two looks; one costs the agent a few hundred microseconds
LOOK_S: Final = 0.25


class Bar(Progress):
    """A progress bar with something below it."""

    below: RenderableType = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bar first."""
        yield from super().get_renderables()
        yield self.below


class PathsView:
    """The paths of one agent's peers, as they are now."""

    def __init__(self, connection: Connection, title: str, names: Sequence[str] = ()) -> None:
        """`names`: of the peers that are shown; empty: all."""
        self._connection = connection
        self._title, self._names = title, names
        self._view = snapshot.first(self._status())
        self._due = time.monotonic() + LOOK_S

    def _status(self) -> Status:
        return self._connection.status()[0]

    def look(self, bar: Bar) -> None:
        """Show what is new, if it is time. An agent that does not answer keeps the last look."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + LOOK_S
        try:
            self._view = snapshot.advance(self._view, self._status())
        except CliError as e:
            bar.below = f"  {e}"
            return
        body = render.paths_of(self._view, self._names, bar.console.width)
        bar.below = Group(f"\n  {self._title}\n", body)


def connect(interface: str, runtime_dir: str) -> Connection:
    """To an agent that has its socket in `runtime_dir`. CliError: it is not there."""
    before = os.environ.get("WHALESCALE_RUNTIME_DIR")
    os.environ["WHALESCALE_RUNTIME_DIR"] = runtime_dir
    try:
        return Connection(interface)
    finally:
        if before is None:
            del os.environ["WHALESCALE_RUNTIME_DIR"]
        else:
            os.environ["WHALESCALE_RUNTIME_DIR"] = before


@contextmanager
def paths_view(
    interface: str, runtime_dir: str, title: str, names: Sequence[str] = ()
) -> Iterator[PathsView]:
    """CliError: the agent of `interface`, which has its socket in `runtime_dir`, is not there."""
    with connect(interface, runtime_dir) as connection:
        yield PathsView(connection, title, names)
