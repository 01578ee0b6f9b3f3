"""Samples, rounds, and bounds that a figure is held against, whatever is measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

from whalescale.bench.measure import median

#: running: then a contestant is out of its scenario
FAILURES_MAX = 2

#: what one measurement gave, by metric
Values = dict[str, float]


class SkipError(Exception):
    """This machine (or this version) cannot run it; the message is the reason."""


class Titled(Protocol):
    """A scenario of any bench."""

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str: ...


class Stored(Protocol):
    """A run of any bench."""

    options: Any
    machine: dict[str, Any]
    results: dict[str, Any]
    complete: bool


Named = TypeVar("Named", bound=Titled)


def by_name(scenarios: Sequence[Named], name: str, known: Iterable[str]) -> list[Named]:
    """The scenario of this name, or all whose name begins with it. ValueError: none does."""
    exact = [s for s in scenarios if s.name == name]
    found = exact or [s for s in scenarios if s.name.startswith(name)]
    if not found:
        raise ValueError(f"there is no scenario {name!r}; there are {', '.join(known)}")
    return found


@dataclass(slots=True)
class Sample:
    """One contestant in one round of one scenario. `values` is empty where `error` says why."""

    round: int
    values: Values = field(default_factory=dict)
    error: str = ""
    #: load average just before it: a figure of a busy machine is worth less
    load: float = 0.0


S = TypeVar("S", bound=Sample)


@dataclass(slots=True)
class Rounds(Generic[S]):
    """All rounds of one contestant in one scenario, whatever a sample is."""

    samples: list[S] = field(default_factory=list)
    skipped: str = ""

    def of(self, metric: str) -> list[float | None]:
        return [s.values.get(metric) for s in self.samples]

    def median(self, metric: str) -> float | None:
        return median(self.of(metric))

    @property
    def error(self) -> str:
        """The last one; "" if a round at least worked."""
        if any(s.values for s in self.samples):
            return ""
        return next((s.error for s in reversed(self.samples) if s.error), "")

    @property
    def failures(self) -> int:
        return sum(bool(s.error) for s in self.samples)

    @property
    def is_out(self) -> bool:
        """Skipped, or failed too often running: it gets no more turns."""
        last = self.samples[-FAILURES_MAX:]
        return bool(self.skipped) or (len(last) == FAILURES_MAX and all(s.error for s in last))


class Bounds:
    """What a figure has to be (must) and what is wanted (aim); one of them may be missing."""

    __slots__ = ()

    must: float | None
    aim: float | None
    better: Literal["more", "less"]
    unit: str

    def reached(self, value: float, bound: float) -> bool:
        return value >= bound if self.better == "more" else value <= bound

    def verdict(self, value: float | None) -> str:
        if value is None:
            return "not measured"
        if self.must is not None and not self.reached(value, self.must):
            return "BELOW"
        if self.aim is not None and self.reached(value, self.aim):
            return "aim reached"
        return "must reached" if self.must is not None else "below the aim"

    def said(self) -> tuple[str, str]:
        """Both bounds, for people: ">= 2x"."""
        sign = ">=" if self.better == "more" else "<="
        unit = "x" if self.unit == "x" else f" {self.unit}"
        must, aim = (
            "-" if bound is None else f"{sign} {bound:,g}{unit}".rstrip()
            for bound in (self.must, self.aim)
        )
        return must, aim

    def as_json(self) -> dict[str, Any]:
        return {"unit": self.unit, "better": self.better, "must": self.must, "aim": self.aim}
