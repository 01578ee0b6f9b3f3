"""Parameters of tests: what is in every run, and what is `long`."""

from __future__ import annotations

from collections.abc import Iterable

import pytest


def long(*values: object) -> object:
    """A set of parameters that only `-m long` runs."""
    return pytest.param(*values, marks=pytest.mark.long)


def first(count: int, values: Iterable[object]) -> list[object]:
    """The first `count` values stay in `make test`, the others are long."""
    return [
        value if n < count else pytest.param(value, marks=pytest.mark.long)
        for n, value in enumerate(values)
    ]
