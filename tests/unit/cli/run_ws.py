"""What a run of `ws` gave (a module of its own: `conftest` is many modules' name)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Done:
    code: int
    out: str
    err: str


Ws = Callable[..., Done]
