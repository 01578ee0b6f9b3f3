"""Runs scenarios: a contestant stays up from its first scenario to its last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from tools.bench.contestants import Pair, check
from tools.bench.model import Run, Scenario, Series
from tools.benchkit.model import Sample, SkipError, Values
from tools.benchkit.runner import Turns

Key = tuple[str, int]


class Watcher(Protocol):
    """Is told what happens."""

    def scenario(self, scenario: Scenario, rounds: int) -> None: ...

    def doing(self, scenario: Scenario, contestant: str, number: int) -> None: ...

    def sampled(self, scenario: Scenario, contestant: str, series: Series) -> None: ...

    def finished(self, scenario: Scenario, results: dict[str, Series]) -> None: ...


class Runner(Turns[Key, Pair, Scenario]):
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
        """`contestants`: only these (all when empty)."""
        super().__init__(run, scenarios, after_each)
        self._run = run
        self._watcher = watcher
        self._only = set(contestants)
        self._start = start

    def contestants(self, scenario: Scenario) -> list[str]:
        return [c for c in scenario.contestants if not self._only or c in self._only]

    def rounds(self, scenario: Scenario) -> int:
        most = self._run.options.rounds
        return min(scenario.rounds or most, most)

    def estimate_s(self, scenario: Scenario) -> float:
        turns = len(self.contestants(scenario)) * self.rounds(scenario)
        return turns * scenario.estimate(self.options)

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
