"""What a run consists of: metrics, scenarios, samples, targets, and the figures made of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from tools.benchkit.model import Bounds, Rounds, Sample, Values
from whalescale.bench.measure import median, ratio_of_rounds

if TYPE_CHECKING:
    from tools.bench.contestants import Pair

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Metric:
    """One kind of figure."""

    key: str
    title: str
    unit: str
    better: Literal["more", "less"] = "more"
    digits: int = 2


@dataclass(frozen=True, slots=True)
class Options:
    """How long everything takes."""

    rounds: int = 5
    seconds: float = 5.0
    quick: bool = False

    @property
    def counts(self) -> bool:
        """Whether the figures are good enough for a verdict."""
        return not self.quick and self.rounds >= 5 and self.seconds >= 5

    def of(self, full: float, quick: float) -> float:
        return quick if self.quick else full


@dataclass(frozen=True, slots=True)
class Scenario:
    """One thing to measure on each contestant in turn, round by round.

    `measure` takes a running pair. Where `alone` is set it takes a contestant's name instead and
    brings up what it needs by itself (`measure_alone`).
    """

    name: str
    title: str
    contestants: tuple[str, ...]
    metrics: tuple[str, ...]
    measure: Callable[[Pair, Options], Values] | None = None
    measure_alone: Callable[[str, Options], Values] | None = None
    family: Literal[4, 6] = 4
    #: 0: as many as the run has
    rounds: int = 0
    #: seconds that one sample takes, for the estimate of the whole
    estimate: Callable[[Options], float] = lambda o: o.seconds + 1.5
    #: metric that the plot shows
    plotted: str = ""
    #: a row for each metric and a column for each contestant, instead of the other way round
    by_metric: bool = False


class Series(Rounds[Sample]):
    """Of this bench."""

    __slots__ = ()


@dataclass(slots=True)
class Run:
    """Everything that came of a run; `results[scenario][contestant]`."""

    options: Options
    machine: dict[str, Any]
    results: dict[str, dict[str, Series]] = field(default_factory=dict)
    complete: bool = False

    def series(self, scenario: str, contestant: str) -> Series:
        return self.results.get(scenario, {}).get(contestant, Series(skipped="not run"))

    def as_json(self) -> dict[str, Any]:
        o = self.options
        return {
            "schema": SCHEMA,
            "complete": self.complete,
            "options": {"rounds": o.rounds, "seconds": o.seconds, "quick": o.quick},
            "machine": self.machine,
            "results": {
                scenario: {name: _series_json(series) for name, series in by_name.items()}
                for scenario, by_name in self.results.items()
            },
            "figures": [f.as_json() for f in figures(self)],
        }

    @classmethod
    def from_json(cls, table: dict[str, Any]) -> Run:
        """ValueError: not a run of this schema."""
        if not isinstance(table, dict) or table.get("schema") != SCHEMA:
            found = table.get("schema") if isinstance(table, dict) else None
            raise ValueError(f"not a bench result of schema {SCHEMA} (schema: {found!r})")
        try:
            run = cls(Options(**table["options"]), table["machine"], complete=table["complete"])
            for scenario, by_name in table["results"].items():
                run.results[scenario] = {n: _series_of(s) for n, s in by_name.items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"a damaged bench result: {error}") from None
        return run


def _series_json(series: Series) -> dict[str, Any]:
    keys = dict.fromkeys(k for s in series.samples for k in s.values)
    return {
        "skipped": series.skipped,
        "medians": {k: series.median(k) for k in keys},
        "samples": [
            {"round": s.round, "values": s.values, "error": s.error, "load": s.load}
            for s in series.samples
        ],
    }


def _series_of(table: dict[str, Any]) -> Series:
    samples = [
        Sample(
            int(s["round"]),
            {str(k): float(v) for k, v in s["values"].items()},
            str(s["error"]),
            float(s["load"]),
        )
        for s in table["samples"]
    ]
    return Series(samples, str(table["skipped"]))


@dataclass(frozen=True, slots=True)
class Target(Bounds):
    """A figure that has to be reached. `under` None: the value itself, else a ratio to it."""

    name: str
    title: str
    scenario: str
    metric: str
    over: str
    under: str | None
    must: float | None
    aim: float | None
    better: Literal["more", "less"]
    unit: str = "x"
    #: a metric and what its median has to be at least, else the figure is of something else
    needs: tuple[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Figure:
    """A target and what a run says of it."""

    target: Target
    value: float | None
    reason: str
    rounds: int

    @property
    def verdict(self) -> str:
        return self.target.verdict(self.value)

    def as_json(self) -> dict[str, Any]:
        t = self.target
        return {
            "name": t.name,
            "title": t.title,
            "value": self.value,
            **t.as_json(),
            "verdict": self.verdict,
            "reason": self.reason,
            "rounds": self.rounds,
        }


def figures(run: Run) -> list[Figure]:
    """The targets that this run has something to say about."""
    from tools.bench.targets import TARGETS

    return [figure(run, target) for target in TARGETS if target.scenario in run.results]


def figure(run: Run, target: Target) -> Figure:
    over = run.series(target.scenario, target.over)
    reason = _reason(over, target.over)
    if target.under is None:
        values = over.of(target.metric)
        value = median(values)
    else:
        under = run.series(target.scenario, target.under)
        values = over.of(target.metric)
        value = ratio_of_rounds(values, under.of(target.metric))
        reason = reason or _reason(under, target.under)
    if value is None and not reason:
        reason = "no round in which both were measured"
    if value is not None and target.needs is not None:
        metric, least = target.needs
        found = over.median(metric) or 0.0
        if found < least:
            value, reason = None, f"needs {metric} of {least:,.0f}, there were {found:,.0f}"
    return Figure(target, value, reason, sum(v is not None for v in values))


def _reason(series: Series, name: str) -> str:
    if series.skipped:
        return f"{name}: {series.skipped}"
    return f"{name}: {series.error}" if series.error else ""
