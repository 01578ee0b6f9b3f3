"""Runs scenarios: round 1 has every contestant in turn, then round 2, so that what drifts in the
machine hits all of them alike.

A contestant stays up from its first scenario to its last. One that fails is taken down, reported
with its error, and started afresh for its next turn; one that fails twice running is out of that
scenario.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, Self, TypeVar

from tools.bench.contestants import Pair, check
from tools.bench.model import Options, Rounds, Run, Sample, Scenario, Series, SkipError, Values
from tools.netlab import LabError
from tools.peers import ROOT
from whalescale.bench.measure import MeasureError

#: what one measurement may end in, and the others go on
FAILURES = (LabError, MeasureError, OSError, ValueError, KeyError)
K = TypeVar("K")
U = TypeVar("U", bound="Closable")
S = TypeVar("S", bound=Sample)
Key = tuple[str, int]


class Closable(Protocol):
    """What is brought up for a contestant."""

    def close(self) -> None: ...


class Watcher(Protocol):
    """Is told what happens."""

    def scenario(self, scenario: Scenario, rounds: int) -> None: ...

    def doing(self, scenario: Scenario, contestant: str, number: int) -> None: ...

    def sampled(self, scenario: Scenario, contestant: str, series: Series) -> None: ...

    def finished(self, scenario: Scenario, results: dict[str, Series]) -> None: ...


class Turns(Generic[K, U]):
    """What is up, by its key. A context manager: whatever was brought up is taken down."""

    def __init__(self) -> None:
        self._up: dict[K, U] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        while self._up:
            self._up.popitem()[1].close()

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


class Runner(Turns[Key, Pair]):
    """Round by round; pairs stay up as long as a scenario needs them."""

    def __init__(
        self,
        run: Run,
        scenarios: Sequence[Scenario],
        watcher: Watcher,
        *,
        contestants: Sequence[str] = (),
        start: Callable[[str, int], Pair] = Pair,
        after_each: Callable[[], None] = lambda: None,
    ) -> None:
        """`contestants`: only these (all when empty). `after_each`: called after each scenario."""
        super().__init__()
        self._run = run
        self._scenarios = scenarios
        self._watcher = watcher
        self._only = set(contestants)
        self._start = start
        self._after_each = after_each

    @property
    def options(self) -> Options:
        return self._run.options

    def contestants(self, scenario: Scenario) -> list[str]:
        return [c for c in scenario.contestants if not self._only or c in self._only]

    def rounds(self, scenario: Scenario) -> int:
        wanted = scenario.rounds or self.options.rounds
        return min(wanted, self.options.rounds)

    def estimate(self, scenario: Scenario) -> float:
        """Seconds for the whole scenario, roughly."""
        turns = len(self.contestants(scenario)) * self.rounds(scenario)
        return turns * scenario.estimate(self.options)

    def run(self) -> None:
        for number, scenario in enumerate(self._scenarios):
            if self.contestants(scenario):
                self._scenario(scenario)
            self._close_unneeded(self._scenarios[number + 1 :])
            self._after_each()
        self._run.complete = True

    def _scenario(self, scenario: Scenario) -> None:
        names = self.contestants(scenario)
        results = {name: Series() for name in names}
        self._run.results[scenario.name] = results
        rounds = self.rounds(scenario)
        self._watcher.scenario(scenario, rounds)
        for name, series in results.items():
            try:
                check(name)
            except SkipError as reason:
                series.skipped = str(reason)
        for number in range(1, rounds + 1):
            for name, series in results.items():
                if series.is_out:
                    continue
                self._watcher.doing(scenario, name, number)
                self._turn(scenario, name, number, series)
                self._watcher.sampled(scenario, name, series)
        self._watcher.finished(scenario, results)

    def _turn(self, scenario: Scenario, name: str, number: int, series: Series) -> None:
        def measure(sample: Sample) -> None:
            sample.values = self._measure(scenario, name)

        self._take(series, Sample(number), (name, scenario.family), measure)

    def _measure(self, scenario: Scenario, name: str) -> Values:
        if scenario.measure_alone is not None:
            return scenario.measure_alone(name, self.options)
        assert scenario.measure is not None, "a scenario has one of the two"
        key = (name, scenario.family)
        if key not in self._up:
            self._up[key] = self._start(name, scenario.family)
        pair = self._up[key]
        # A session that expired while others were measured is not part of the measurement.
        pair.warm_up()
        return scenario.measure(pair, self.options)

    def _close_unneeded(self, later: Sequence[Scenario]) -> None:
        needed = {(c, s.family) for s in later if s.measure for c in self.contestants(s)}
        for key in [k for k in self._up if k not in needed]:
            self._drop(key)


def stamp() -> str:
    return time.strftime("%Y%m%d-%H%M%S")
