"""Runs scenarios: a round has every contestant in turn, with each congestion control."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tools.benchkit.model import SkipError
from tools.benchkit.runner import Turns
from tools.mpbench import load
from tools.mpbench.contestants import Stage, lab_of
from tools.mpbench.model import ALONE, BARE, WS, Run, Sample, Scenario, Series, Watcher
from tools.mpbench.real import Recorded

#: labs kept for their next turn; each with Whalescale is two agents of some 50 MB
STAGES_MAX = 8
#: for the paths to be found, once for each lab: what is measured is their use
DISCOVERY_S = 2.0
#: for making a lab, in the estimate of the whole
START_S = 3.0


class Runner(Turns[str, Stage, Scenario]):
    """Round by round; labs are kept for their next turn."""

    def __init__(
        self,
        run: Run,
        scenarios: Sequence[Scenario],
        watcher: Watcher,
        *,
        contestants: Sequence[str] = (),
        scripts: Mapping[str, Path] | None = None,
        start: Callable[..., Stage] = Stage,
        carry: Callable[..., tuple[object, dict[str, float]]] = load.carry,
        after_each: Callable[[], None] = lambda: None,
        discovery_s: float = DISCOVERY_S,
        links: Path | None = None,
    ) -> None:
        """`contestants`: only these (all when empty), and the links alone that ratios need.
        `links`: the folder of recordings.
        """
        super().__init__(run, scenarios, after_each)
        self._run = run
        self._watcher = watcher
        self._only = tuple(contestants)
        self._scripts = dict(scripts or {})
        self._start = start
        self._carry = carry
        self._discovery_s = discovery_s
        self._links = links

    def contestants(self, scenario: Scenario) -> list[str]:
        """Those of the scenario that were asked for; a variant or a script may be asked for too."""
        if not self._only:
            others = [f"other:{name}" for name in self._scripts]
            return [*self._needed(scenario), *(others if scenario.kind != "lan" else [])]
        kinds = {c.partition(":")[0] for c in self._only if ":" not in c}
        chosen = [
            c
            for c in self._needed(scenario)
            if c in self._only or (c.partition(":")[0] in kinds & {ALONE, BARE})
        ]
        return [*chosen, *(c for c in self._only if ":" in c and c not in chosen
                           and c.partition(":")[0] not in (ALONE, BARE))]  # fmt: skip

    def _needed(self, scenario: Scenario) -> tuple[str, ...]:
        """All of the scenario's, but in a short run of first flows the best link alone only."""
        if scenario.kind != "first" or self.options.counts:
            return scenario.contestants
        try:
            recorded = Recorded(scenario, self._links, self.options.seed)
        except SkipError:
            return scenario.contestants
        best = f"{ALONE}:{recorded.best(scenario.length_s(self.options))}"
        return tuple(c for c in scenario.contestants if c == best or not c.startswith(ALONE))

    def rounds(self, scenario: Scenario) -> int:
        wanted = scenario.rounds or self.options.rounds
        return wanted if self.options.counts else min(wanted, self.options.rounds)

    def estimate_s(self, scenario: Scenario) -> float:
        names = self.contestants(scenario)
        times = self.rounds(scenario) * len(self.options.congestion)
        flows, labs = len(names) * times, len({lab_of(n) for n in names})
        if scenario.kind == "first":
            # A lab for each turn, and a second flow of Whalescale's.
            labs = len(names) * times
            if self.options.counts:
                flows += sum(n.partition(":")[0] == WS for n in names) * times
        return flows * scenario.estimate_s(self.options) + labs * START_S

    def _close_unneeded(self, later: Sequence[Scenario]) -> None:
        """Every scenario has links of its own."""
        self.close()

    def _scenario(self, scenario: Scenario) -> None:
        names = self.contestants(scenario)
        results = {cc: {name: Series() for name in names} for cc in self.options.congestion}
        self._run.results[scenario.name] = results
        rounds = self.rounds(scenario)
        self._watcher.scenario(scenario, rounds)
        for number in range(1, rounds + 1):
            # All with one congestion control stand side by side in time.
            for cc, by_name in results.items():
                for name, series in by_name.items():
                    if series.is_out:
                        continue
                    self._watcher.doing(scenario, cc, name, number)
                    self._turn(scenario, cc, name, number, series)
                    self._watcher.sampled(scenario, name, series)
        self._watcher.finished(scenario)

    def _turn(self, scenario: Scenario, cc: str, name: str, number: int, series: Series) -> None:
        def measure(sample: Sample) -> None:
            stage = self._stage(scenario, name)
            flow, values = self._carry(stage, name, scenario, self.options, cc)
            sample.flow, sample.values = flow, values  # type: ignore[assignment]
            if scenario.kind == "first":
                self._drop(lab_of(name))

        self._take(series, Sample(number), lab_of(name), measure)

    def _stage(self, scenario: Scenario, name: str) -> Stage:
        key = lab_of(name)
        stage = self._up.pop(key, None)
        if stage is None:
            while len(self._up) >= STAGES_MAX:
                self._drop(next(iter(self._up)))
            stage = self._start(name, scenario, self.options.seed, self._scripts, self._links)
            time.sleep(self._discovery_s if key != BARE else 0)
        # The one used last goes to the end: the one at the front is closed first.
        self._up[key] = stage
        stage.warm_up(stage.target(name))
        return stage
