"""Figures with the bars that they are held against, for benches of one row a figure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Row:
    """`must` and `aim`: no more than that, unless `least`. None: nothing is asked."""

    what: str
    value: float
    unit: str
    must: float | None = None
    aim: float | None = None
    least: bool = False
    note: str = ""

    @property
    def verdict(self) -> str:
        def within(bar: float) -> bool:
            return self.value >= bar if self.least else self.value <= bar

        if self.must is None or self.aim is None:
            return "-"
        return "aim" if within(self.aim) else "must" if within(self.must) else "MISSED"


@dataclass
class Rows:
    """What a run found, from a seed. Rows are told as they come."""

    seed: int
    rows: list[Row] = field(default_factory=list, kw_only=True)

    def say(self, *values: object, **more: object) -> None:
        row = Row(*values, **more)  # type: ignore[arg-type]
        self.rows.append(row)
        print(f"{row.what}: {row.value:.4g} {row.unit} ({row.verdict}) {row.note}", flush=True)


def lines_of(rows: Iterable[Row]) -> list[str]:
    """The lines of a table in Markdown."""
    lines = ["| what | measured | must | aim | |", "|---|---|---|---|---|"]
    for r in rows:
        bars = ["" if bar is None else f"{bar:g}" for bar in (r.must, r.aim)]
        note = f" ({r.note})" if r.note else ""
        lines.append(
            f"| {r.what} | {r.value:.4g} {r.unit}{note} | {' | '.join(bars)} | {r.verdict} |"
        )
    return lines
