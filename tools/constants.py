#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""How many constants steer rate, order and schedule over several paths.

    python -m tools.constants [--list]

Counted are names in capitals that are given a number or a unit (in C: #defines of one) and bare
numbers in the code. Not counted: what follows from a constant (the same, twice it, half of it, one
more), 0, 1 and 2, units (8 bits, powers of a thousand), what a machine is built like, hexadecimal
masks, shifts and sizes of fields.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: what decides; the formats (ack.py, frames) and the life of a path (manager.py) are others
PYTHON = ("tuner", "tuning", "estimator", "hush")
C_FILES = (
    "multipath.c", "multipath_send.c", "multipath_pump.c", "multipath_receive.c", "multipath_ack.c",
    "multipath_internal.h", "scheduler.c", "scheduler.h", "innertcp.c", "window.c", "window.h",
    "window_internal.h", "window_loss.c",
    "fairqueue.c", "fairqueue.h", "reorder.c", "reorder.h", "reorder_internal.h",
    "reorder_life.c", "align.c", "align.h", "multipath.h", "units.h",
)  # fmt: skip

_C_NUMBER = re.compile(
    r"(?<![\w.])(?:UINT64_C\()?(0x[0-9a-fA-F]+|\d+(?:\.\d+)?)[uUlL]*\)?(?![\w.])"
)
_DEFINE = re.compile(r"^#define\s+(\w+)\s+(.+)$")
#: not within a line that goes on in the next one
_LINE_END = re.compile(r"(?<!\\)\n")
#: of an expression that is no constant of its own
_NAME = re.compile(r"\b[A-Z][A-Z0-9_]+\b")
UNITS = {"US_NS", "MS_NS", "S_NS", "NS_PER_US", "NS_PER_MS", "NS_PER_S", "WS_PACKET_BYTES"}
#: units, and what a machine is built like: lines of caches, pages
NOT_CHOSEN = {"US_NS", "MS_NS", "S_NS", "WS_LINE_BYTES", "PAGE_MOST"}
_NOISE = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\])*"', re.DOTALL)


def is_unit(value: float) -> bool:
    """0, 1, 2, bits of a byte, or a power of ten that turns one unit into another."""
    value = abs(value)
    if value in (0, 1, 2, 8):
        return True
    for power in (3, 6, 9, 12):
        if value in (10.0**power, 10.0**-power, 8 * 10.0**power):
            return True
    return False


def is_own(names: set[str], numbers: list[float]) -> bool:
    """Whether a name that is given these is a constant of its own: by a number, or a unit alone."""
    if any(not is_unit(n) or abs(n) == 8 for n in numbers):
        return True
    return not names - UNITS and bool(numbers or names)


def python_constants(text: str) -> Iterator[tuple[int, str]]:
    tree = ast.parse(text)
    named: set[int] = set()
    for node in tree.body:
        target: ast.expr
        if isinstance(node, ast.AnnAssign) and node.value is not None:
            target, value = node.target, node.value
        elif isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
        else:
            continue
        if not isinstance(target, ast.Name) or not target.id.isupper():
            continue
        numbers = [n for n in ast.walk(value) if _number(n) is not None]
        named.update(id(n) for n in numbers)
        names = {n.id for n in ast.walk(value) if isinstance(n, ast.Name) and n.id.isupper()}
        if is_own(names, [_number(n) or 0.0 for n in numbers]):
            yield node.lineno, target.id
    for each in ast.walk(tree):
        number = _number(each)
        if number is None or id(each) in named or is_unit(number):
            continue
        assert isinstance(each, ast.Constant)
        yield each.lineno, str(each.value)


def _number(node: ast.AST) -> float | None:
    if not isinstance(node, ast.Constant) or isinstance(node.value, bool):
        return None
    return float(node.value) if isinstance(node.value, int | float) else None


def c_constants(text: str) -> Iterator[tuple[int, str]]:
    """Of hexadecimal numbers (masks) and shifts none."""
    text = _NOISE.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), text)
    number = 1
    for whole in _LINE_END.split(text):
        line, first = whole.replace("\\\n", " "), number
        number += whole.count("\n") + 1
        define = _DEFINE.match(line)
        if define:
            name, body = define[1], define[2]
            numbers = [
                float(int(n, 0) if n[:2] == "0x" else float(n)) for n in _C_NUMBER.findall(body)
            ]
            names = set(_NAME.findall(body)) - {"UINT64_C"}
            if name not in NOT_CHOSEN and is_own(names, numbers):
                yield first, name
            continue
        if line.startswith("#"):
            continue
        code = re.sub(r"(<<|>>)=?\s*\w+|u?int\d+_t|\[\w+\]", "", line)
        for found in _C_NUMBER.finditer(code):
            if not found[1].startswith("0x") and not is_unit(float(found[1])):
                yield first, found[1]


def sources() -> Iterator[tuple[Path, bool]]:
    for name in PYTHON:
        path = ROOT / "whalescale/protocol/paths" / f"{name}.py"
        if path.exists():
            yield path, True
    for name in C_FILES:
        for path in sorted((ROOT / "csrc").rglob(name)):
            yield path, False


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="each with its place")
    options = parser.parse_args()
    sums = {"named": 0, "bare": 0}
    for path, python in sources():
        count = {"named": 0, "bare": 0}
        text = path.read_text()
        for line, what in python_constants(text) if python else c_constants(text):
            count["named" if what[0].isalpha() or what[0] == "_" else "bare"] += 1
            if options.list:
                print(f"{path.relative_to(ROOT)}:{line}: {what}")
        print(f"{count['named']:5} named {count['bare']:5} bare  {path.relative_to(ROOT)}")
        for kind, n in count.items():
            sums[kind] += n
    print(f"{sums['named']:5} named {sums['bare']:5} bare  {sum(sums.values())} in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
