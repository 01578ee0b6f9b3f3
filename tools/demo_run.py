"""How each demo begins and ends: as root, cleaned up whatever happens, its exit status true."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tools import demo_plot
from tools.netlab import Lab, LabError, terminate_as_exception
from whalescale.cli.ending import CliError


def run(
    target: str, png: Path, begin: Callable[[Console, Lab], None], needs: Mapping[str, bool]
) -> int:
    """`target`: of make. `needs`: what is wanted beside root, and whether it is there."""
    terminate_as_exception()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 100)
    if os.geteuid() != 0:
        console.print(f"demo: needs root (network namespaces): sudo make {target}")
        return 4
    for what, there in needs.items():
        if not there:
            console.print(f"demo: needs {what}", markup=False)
            return 1
    try:
        demo_plot.check(png)
        with Lab() as lab:
            begin(console, lab)
    except KeyboardInterrupt:
        console.print("\ndemo: interrupted; everything is cleaned up")
        return 130
    except (LabError, CliError, OSError, ValueError, KeyError) as error:
        console.print(f"\ndemo: FAILED: {error}", markup=False)
        return 1
    console.print("  everything worked, and is cleaned up")
    return 0


def show(console: Console, title: str, figures: Sequence[tuple[str, str]]) -> None:
    table = Table(title=title, title_justify="left")
    table.add_column("what")
    table.add_column("figure", justify="right")
    for row in figures:
        table.add_row(*row)
    console.print()
    console.print(table)


def show_said(console: Console, command: str, where: str, said: str) -> None:
    """What a command of ours said."""
    console.print(f"\n[bold]{command}[/] {where}\n")
    console.print(said.rstrip(), markup=False, highlight=False)


def show_picture(console: Console, what: str, png: Path) -> None:
    console.print(f"\n{what}:")
    # In one line, whatever the width: so that it can be copied.
    console.print(str(png), markup=False, highlight=False, soft_wrap=True)
