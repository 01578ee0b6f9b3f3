"""Markdown: the part of a page that a bench writes; what stands around it is written by hand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Section:
    """What stands between a bench's two markers."""

    #: by its module in tools/
    bench: str
    #: of a page that is not there yet; "": there must be one
    heading: str = ""
    #: with which the bench writes it
    docs: str = "docs"

    @property
    def begin(self) -> str:
        what = f"made by `python -m tools.{self.bench} {self.docs}`; do not edit"
        return f"<!-- {self.bench}: begin ({what}) -->"

    @property
    def end(self) -> str:
        return f"<!-- {self.bench}: end -->"

    def around(self, page: Path) -> tuple[str, str]:
        """What stands before and after it. ValueError: the page lacks the markers."""
        if self.heading and not page.exists():
            return f"{self.heading}\n", "\n"
        head, begin, rest = page.read_text().partition(self.begin)
        _, end, tail = rest.partition(self.end)
        if not begin or not end:
            raise ValueError(f"{page.name} lacks the lines {self.begin} and {self.end}")
        return head, tail

    def put_into(self, page: Path, text: str) -> None:
        """Replace what stands between the markers. ValueError: the page lacks them."""
        head, tail = self.around(page)
        page.write_text(f"{head}{self.begin}\n{text}\n{self.end}{tail}")


def table_row(cells: Iterable[str]) -> str:
    """Of a table. A cell that has a line break or a bar in it stays one cell."""
    return f"| {' | '.join(' '.join(c.split()).replace('|', '/') for c in cells)} |"
