"""The regression check: two runs as ratios within each run, never as absolutes."""

from __future__ import annotations

from dataclasses import dataclass

from tools.bench.contestants import label
from tools.bench.model import Run
from tools.bench.scenarios import SCENARIOS
from tools.bench.targets import BARE, METRICS, NEW, WS
from whalescale.bench.measure import median, ratio_of_rounds

TOLERANCE = 0.10

#: (scenario, contestant, metric)
Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Change:
    """One ratio in both runs. `factor` > 1: better than before. None: only one run has it."""

    key: Key
    against: str
    old: float | None
    new: float | None
    problem: str = ""

    @property
    def factor(self) -> float | None:
        if self.old is None or self.new is None or self.old <= 0:
            return None
        if self.new <= 0:
            return 0.0
        more = METRICS[self.key[2]].better == "more" or self.against == "kept"
        return self.new / self.old if more else self.old / self.new

    def is_regression(self, tolerance: float) -> bool:
        factor = self.factor
        return bool(self.problem) or (factor is not None and factor < 1 - tolerance)

    def __str__(self) -> str:
        scenario, contestant, metric = self.key
        if self.against == "kept":
            what = f"{scenario}: {label(contestant)}: share of the flow kept"
        else:
            title = METRICS[metric].title
            what = f"{scenario}: {title}: {label(contestant)} / {label(self.against)}"
        if self.problem:
            return f"{what}: {self.problem}"
        if self.old is None or self.new is None:
            return f"{what}: only in the {'new' if self.old is None else 'old'} run"
        return f"{what}: {self.old:.3f} -> {self.new:.3f} ({100 * ((self.factor or 0) - 1):+.1f} %)"


def _reference(run: Run, scenario: str, contestant: str) -> str | None:
    """What a contestant is told against: the newest wireguard-go, else Whalescale as it comes,
    else no tunnel. Always in the same scenario of the same run."""
    for name in (NEW, WS, BARE):
        if name != contestant and name in run.results[scenario]:
            return name
    return None


def ratios(run: Run) -> dict[Key, tuple[str, float]]:
    """(what against, ratio) of everything of ours that a run has."""
    found: dict[Key, tuple[str, float]] = {}
    for scenario in SCENARIOS:
        if scenario.by_metric:
            continue  # shares: neither more nor less is better
        results = run.results.get(scenario.name, {})
        wanted = {scenario.plotted or scenario.metrics[0]} | (
            {"cpu_s_per_gb"} & set(scenario.metrics)
        )
        for name, series in results.items():
            if name != WS and not name.startswith((f"{WS}:", "vanilla")):
                continue
            for metric in sorted(wanted):
                key = (scenario.name, name, metric)
                if METRICS[metric].unit == "%":
                    # A cost is a ratio already; what is kept of the flow compares well.
                    kept = median([1 - v / 100 for v in series.of(metric) if v is not None])
                    if kept is not None:
                        found[key] = ("kept", kept)
                    continue
                against = _reference(run, scenario.name, name)
                if against is None:
                    continue
                ratio = ratio_of_rounds(series.of(metric), results[against].of(metric))
                if ratio is not None:
                    found[key] = (against, ratio)
    return found


def compare(old: Run, new: Run) -> list[Change]:
    """Every ratio that either run has; a contestant that fails now and did not is a regression."""
    before, after = ratios(old), ratios(new)
    changes = []
    for key in dict.fromkeys([*before, *after]):
        scenario, contestant, _ = key
        was, now = before.get(key), after.get(key)
        problem = ""
        if was is not None and now is None:
            series = new.series(scenario, contestant)
            if series.error:
                problem = f"fails now: {series.error}"
        against = (now or was or ("", 0.0))[0]
        if was is not None and now is not None and was[0] != now[0]:
            was = None  # another reference: not the same ratio
        changes.append(
            Change(key, against, was[1] if was else None, now[1] if now else None, problem)
        )
    return changes
