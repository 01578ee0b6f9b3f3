"""A table for pictures that are drawn each second: a cell is a word or two, cut where its column
ends. rich.table measures and wraps every one, which took 15 ms for twenty peers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Final, NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

ELLIPSIS: Final = "…"
RULE: Final = "─"
#: cells that a column whose text is folded keeps, if need be
FOLDED: Final = 12


class Column(NamedTuple):
    name: str = ""
    #: cells that it has at least, where there is any room
    least: int = 1
    right: bool = False
    #: over several lines, where it does not fit
    fold: bool = False
    style: str = ""


class Table:
    """Columns as wide as what is in them; where that is too much, the widest give way."""

    def __init__(
        self, columns: Iterable[Column], *, head: bool = True, gap: int = 2, margin: int = 0
    ) -> None:
        self._columns: Final = list(columns)
        self._head: Final = head
        self._gap: Final = gap
        self._margin: Final = margin
        self._rows: Final[list[tuple[list[Text], str]]] = []

    def add_row(self, *cells: str | Text, style: str = "") -> None:
        self._rows.append(([Text(c) if isinstance(c, str) else c for c in cells], style))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = self._widths(options.max_width)
        styles = [console.get_style(c.style) if c.style else None for c in self._columns]
        if self._head:
            names = (
                [[Segment(_fitted(c.name, w, c.right), Style(bold=True))]]
                for c, w in zip(self._columns, widths, strict=True)
            )
            yield from self._lines(names, widths, None)
            rule = sum(widths) + self._gap * len(widths) - 1
            yield Segment(RULE * min(rule, options.max_width))
            yield Segment.line()
        for row, name in self._rows:
            style = console.get_style(name) if name else None
            cells = (
                _cell(console, cell, width, column, _both(style, own))
                for cell, width, column, own in zip(row, widths, self._columns, styles, strict=True)
            )
            yield from self._lines(cells, widths, style)

    def _lines(
        self, cells: Iterable[list[list[Segment]]], widths: Sequence[int], style: Style | None
    ) -> Iterator[Segment]:
        blank = Segment(" " * self._gap, style)
        edge = Segment(" " * max(self._margin, 1), style)
        for line in zip_longest(*cells):
            if self._margin:
                yield edge
            for at, (segments, width) in enumerate(zip(line, widths, strict=True)):
                if at:
                    yield blank
                yield from segments or (Segment(" " * width, style),)
            yield edge
            yield Segment.line()

    def _widths(self, room: int) -> list[int]:
        found = []
        for at, column in enumerate(self._columns):
            least = max(column.least, cell_len(column.name) if self._head else 1)
            found.append(max((cell_len(r[at].plain) for r, _ in self._rows), default=0))
            found[at] = max(found[at], least)
        over = sum(found) + self._gap * (len(found) - 1) + self._margin - room
        folded = [FOLDED if c.fold else w for c, w in zip(self._columns, found, strict=True)]
        for floors in (folded, [c.least for c in self._columns], [1] * len(found)):
            while over > 0:
                at = max(range(len(found)), key=lambda n: (found[n] > floors[n], found[n]))
                if found[at] <= floors[at]:
                    break
                found[at] -= 1
                over -= 1
        return found


def _both(one: Style | None, other: Style | None) -> Style | None:
    return one + other if one is not None and other is not None else one or other


def _fitted(text: str, width: int, right: bool) -> str:
    size = cell_len(text)
    if size > width:
        return set_cell_size(text, width - 1) + ELLIPSIS
    blanks = " " * (width - size)
    return blanks + text if right else text + blanks


def _cell(
    console: Console, cell: Text, width: int, column: Column, base: Style | None
) -> list[list[Segment]]:
    """Its lines, each `width` cells wide."""
    own = console.get_style(cell.style) if cell.style else None
    style = _both(base, own)
    if not cell.spans and not (column.fold and cell_len(cell.plain) > width):
        return [[Segment(_fitted(cell.plain, width, column.right), style)]]
    if column.fold:
        parts = list(cell.wrap(console, width, overflow="fold"))
    else:
        parts = [cell.copy()]
        parts[0].truncate(width, overflow="ellipsis")
    lines = []
    for part in parts:
        blanks = Segment(" " * (width - part.cell_len), style)
        shown = [Segment(s.text, _both(base, s.style)) for s in part.render(console)]
        lines.append([blanks, *shown] if column.right else [*shown, blanks])
    return lines
