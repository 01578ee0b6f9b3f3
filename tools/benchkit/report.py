"""What the reports of all benches say alike: figures, verdicts, the machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from rich.table import Table
from rich.text import Text

from tools.benchkit.page import table_row

STYLES = {"aim reached": "green", "must reached": "yellow", "BELOW": "bold red"}
#: (verdict, cells of the row before it)
Judged = tuple[str, Sequence[str]]


def number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def verdict(text: str, *, measured: bool, counts: bool) -> str:
    """A run that is too short has no verdict, whatever its figures say."""
    return text if counts or not measured else f"({text.lower()})"


def verdict_table(
    heads: Sequence[str], numbers: int, rows: Iterable[Judged], counts: bool
) -> Table:
    """`numbers`: so many of the last columns are figures. The verdict is a column after them."""
    table = Table(title="What has to be reached", title_justify="left")
    for at, head in enumerate(heads):
        side: Literal["left", "right"] = "right" if at >= len(heads) - numbers else "left"
        table.add_column(head, justify=side)
    table.add_column("verdict")
    for said, cells in rows:
        style = STYLES.get(said, "dim") if counts else "dim"
        table.add_row(*cells, Text(said, style=style))
    return table


def verdict_markdown(heads: Sequence[str], numbers: int, rows: Iterable[Judged]) -> list[str]:
    """The same, for a page."""
    rule = "|---" * (len(heads) - numbers) + "|--:" * numbers + "|---|"
    return [table_row((*heads, "verdict")), rule, *(table_row((*c, said)) for said, c in rows)]


def machine_line(machine: Mapping[str, Any]) -> str:
    """What the figures were measured on."""
    m = machine
    versions = ", ".join(f"{k} {v}" for k, v in m["versions"].items() if v)
    kind = "virtual machine, " if m.get("virtual") else ""
    return (
        f"{m['time']}, revision {m['revision'] or 'unknown'}; {kind}{m['cpus']} CPUs "
        f"({m['cpu'] or m['architecture']}), Linux {m['kernel']}, TCP "
        f"{m['congestion_control']}; {versions}."
    )
