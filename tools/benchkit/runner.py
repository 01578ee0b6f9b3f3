"""Turns of contestants: round 1 has each of them, then comes round 2, so that what drifts in the
machine hits all of them alike.

What is up for a contestant stays up for its next turn. One that fails is taken down, reported with
its error, and started afresh; one that fails twice running is out of that scenario.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, Self, TypeVar

from tools.benchkit.model import Rounds, Sample, SkipError, Stored, Titled
from tools.netlab import LabError
from tools.peers import ROOT
from whalescale.bench.measure import MeasureError

#: what one measurement may end in, and the others go on
FAILURES = (LabError, MeasureError, OSError, ValueError, KeyError)
K = TypeVar("K")
U = TypeVar("U", bound="Closable")
C = TypeVar("C", bound=Titled)
S = TypeVar("S", bound=Sample)


class Closable(Protocol):
    """What is brought up for a contestant."""

    def close(self) -> None: ...


class Turns(ABC, Generic[K, U, C]):
    """Every scenario of a run, one after the other. A context manager: whatever was brought up, by
    its key, is taken down.
    """

    def __init__(
        self, run: Stored, scenarios: Sequence[C], after_each: Callable[[], None] = lambda: None
    ) -> None:
        """`after_each`: called after each scenario."""
        self._up: dict[K, U] = {}
        self._stored = run
        self._scenarios = scenarios
        self._after_each = after_each

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        while self._up:
            self._up.popitem()[1].close()

    @property
    def options(self) -> Any:
        return self._stored.options

    @abstractmethod
    def contestants(self, scenario: C) -> list[str]: ...

    @abstractmethod
    def estimate_s(self, scenario: C) -> float:
        """Seconds for the whole scenario, roughly."""

    @abstractmethod
    def _scenario(self, scenario: C) -> None:
        """All rounds of it."""

    @abstractmethod
    def _close_unneeded(self, later: Sequence[C]) -> None:
        """What these scenarios do not need is taken down."""

    def run(self) -> None:
        for number, scenario in enumerate(self._scenarios):
            if self.contestants(scenario):
                self._scenario(scenario)
            self._close_unneeded(self._scenarios[number + 1 :])
            self._after_each()
        self._stored.complete = True

    def _drop(self, key: K) -> None:
        up = self._up.pop(key, None)
        if up is not None:
            up.close()

    def _take(self, series: Rounds[S], sample: S, key: K, measure: Callable[[S], None]) -> None:
        """One turn: `measure` fills the sample, or what is up under this key is taken down."""
        sample.load = round(os.getloadavg()[0], 2)
        try:
            measure(sample)
        except SkipError as reason:
            series.skipped = str(reason)
            self._drop(key)
            return
        except FAILURES as error:
            sample.error = f"{type(error).__name__}: {error}"
            if isinstance(error, LabError | MeasureError):
                sample.error = str(error)
            # Results are published: where the tree lies is nobody's business.
            sample.error = sample.error.replace(f"{ROOT}/", "")
            self._drop(key)
        series.samples.append(sample)


def stamp() -> str:
    """Of a run; slow links can be measured several at a time, and those begin in one second."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
