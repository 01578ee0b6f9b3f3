"""The count of constants that steer rate, order and schedule."""

from __future__ import annotations

import re

from tools import constants

PYTHON = '''
from typing import Final

RAMP: Final = 2.5
SPAN_NS: Final = 3 * 1_000_000
TWICE_NS: Final = 2 * SPAN_NS
SECOND: Final = NS_PER_S
NAMES = ("a", "b")


def pace(rate: float) -> float:
    """No 77 here."""
    if rate > 0.85 * RAMP:
        return rate * 1000 / 8
    return rate + (1 if rate else 2) + 7
'''

C = r"""
#ifndef WS_X_H
#define WS_X_H
#define MS_NS UINT64_C(1000000)
#define SHARE 10 /* in 100 */
#define MORE (SHARE + 1)
#define OTHER (SHARE / 4)
#define LONG                                                                                       \
	20 /* in 100 */
#define ONE_NS MS_NS
#define FLAG UINT64_MAX
#define WS_LINE_BYTES 64
#define CALL(x) name(x)
static uint64_t a[16];
uint32_t f(uint32_t x)
{
	return (x & 0xff) + (x >> 24) * 3 / 4 + x * 1000; /* 5 */
}
#endif
"""


def test_python() -> None:
    found = [what for _, what in constants.python_constants(PYTHON)]
    assert sorted(found) == ["0.85", "7", "RAMP", "SECOND", "SPAN_NS"]


def test_c() -> None:
    found = list(constants.c_constants(C))
    assert sorted(what for _, what in found) == ["3", "4", "LONG", "ONE_NS", "OTHER", "SHARE"]
    line = next(line for line, what in found if what == "3")
    assert "* 3 / 4" in C.splitlines()[line - 1]


def test_each_has_a_reason() -> None:
    """In the table of docs/multipath.md, section 11; none is a bare number."""
    text = (constants.ROOT / "docs/multipath.md").read_text()
    section = text.partition("## 11. Constants")[2].partition("\n## ")[0]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("|")]
    known = {name for row in rows if row[3].strip() for name in re.findall(r"\w+", row[1])}
    for path, python in constants.sources():
        found = constants.python_constants if python else constants.c_constants
        names = {what.removeprefix("WS_") for _, what in found(path.read_text())}
        assert names <= known, path.name


def test_all_that_is_named_is_there() -> None:
    names = {path.name for path, _ in constants.sources()}
    assert {"tuner.py", "estimator.py", "hush.py", "window.c", "reorder.c", "scheduler.c"} <= names
    assert {path.suffix for path, python in constants.sources() if python} == {".py"}
