"""The table of the live view: cut, folded, as wide as it may be; and what a picture costs."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from types import FrameType

import pytest
from picture import picture_of
from rich.cells import cell_len
from rich.text import Text

from whalescale import status
from whalescale.tui import render, snapshot
from whalescale.tui.table import Column, Table


def lines(table: Table, width: int) -> list[str]:
    return [line.rstrip() for line in picture_of(table, width, 40).splitlines()]


def test_columns_are_as_wide_as_what_is_in_them() -> None:
    table = Table((Column("peer", 8), Column("sent", right=True)))
    table.add_row("a", "1.00 KiB")
    table.add_row("b", Text("2 B"))
    assert lines(table, 40) == [
        "peer          sent",
        "───────────────────",
        "a         1.00 KiB",
        "b              2 B",
    ]


def test_the_widest_gives_way_and_says_so() -> None:
    table = Table((Column("peer", 6), Column("endpoint"), Column("RTT", 3, right=True)))
    table.add_row("berlin", "berlin.example.net:51820", "20")
    assert lines(table, 24)[2] == "berlin  berlin.exa…   20"
    assert all(cell_len(line) <= 12 for line in lines(table, 12))


@pytest.mark.parametrize("width", [1, 2, 5, 17, 40, 200])
def test_no_width_is_too_small(width: int) -> None:
    table = Table((Column(style="bold"), Column(fold=True)), head=False, margin=1)
    table.add_row("name", "some words, and a_word_that_is_longer_than_the_line_is")
    table.add_row("東京", Text("日本語"), style="reverse")
    assert all(cell_len(line) <= width for line in picture_of(table, width, 40).splitlines())


def test_what_is_folded_loses_nothing() -> None:
    table = Table((Column("a"), Column("b", fold=True)))
    table.add_row("x", "one two three four five six seven")
    said = " ".join(lines(table, 20)[2:]).split()
    assert said == ["x", "one", "two", "three", "four", "five", "six", "seven"]


def test_a_chosen_row_is_one_bar() -> None:
    table = Table((Column("a"), Column("b")))
    table.add_row("x", "y", style="reverse")
    row = picture_of(table, 20, 40, color=True).splitlines()[2]
    assert "\x1b[0m \x1b" not in row
    assert row.replace("\x1b[7m", "").replace("\x1b[0m", "").rstrip() == "x  y"


def test_a_picture_of_a_hundred_peers_costs_little() -> None:
    """In calls, which are the same on every machine; with rich.table five times as many."""
    value = json.loads(Path(__file__).with_name("status.json").read_text())
    value["peers"] = [copy.deepcopy(value["peers"][-1]) | {"name": f"p{n}"} for n in range(100)]
    found = status.parse(value)
    view = snapshot.advance(snapshot.first(found), found)
    picture_of(render.screen(view, 120, 40), 120, 40)  # fills rich's caches
    calls = 0

    def count(_frame: FrameType, event: str, _arg: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        picture_of(render.screen(view, 120, 40), 120, 40)
    finally:
        sys.setprofile(None)
    assert calls < 25_000
