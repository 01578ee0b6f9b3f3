"""What a run consists of: scenarios, contestants' names, samples with their time lines."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from tools.benchkit import model as kit
from tools.netlab import Shape

SCHEMA = 1
CONGESTION = ("bbr", "cubic")
#: the contestants that are not of one link; of one link: "bare:1", "alone:2"
WS, MPTCP, PLAIN = "whalescale", "mptcp", "plain"
BARE, ALONE = "bare", "alone"
Kind = Literal["goodput", "silent", "tenth", "ping", "lan", "grid", "first"]


@dataclass(frozen=True, slots=True)
class Options:
    """How long everything takes."""

    rounds: int = 3
    seconds: float = 8.0
    warm_s: float = 2.0
    quick: bool = False
    seed: int = 1
    congestion: tuple[str, ...] = CONGESTION
    #: of a first flow, at most
    first_s: float = 36.0

    @property
    def counts(self) -> bool:
        """Whether the figures are good enough for a verdict."""
        return not self.quick and self.rounds >= 3 and self.seconds >= 8


@dataclass(frozen=True, slots=True)
class Scenario:
    """One row of the table: links, and what happens on them."""

    name: str
    title: str
    kind: Kind
    shapes: tuple[Shape, ...]
    contestants: tuple[str, ...]
    #: silent, tenth: the link (from 1) that it happens to
    victim: int = 0
    #: 0: as many as the run has; a run too short for verdicts has no more than its own
    rounds: int = 0
    #: part of a run that names no scenarios
    usual: bool = True
    #: seconds that do not count at first; 0: the run's
    own_warm_s: float = 0.0
    #: seconds that count, of a goodput or lan flow; 0: the run's
    own_s: float = 0.0
    #: first: of each link a recording's name or description (recordings.made); "": its rate
    recordings: tuple[str, ...] = ()
    #: first: of each link, Mbit/s of UDP that it lets through; 0: all
    policed_mbit: tuple[float, ...] = ()
    #: how the links are emulated; "": as all are
    backend: str = ""

    def length_s(self, options: Options) -> float:
        """Seconds of one flow, from its first byte."""
        return self.warm_s(options) + sum(s for _, s in self.phases(options))

    def warm_s(self, options: Options) -> float:
        """Seconds that do not count, from the flow's first byte."""
        if self.kind == "first":
            return 0.0
        return self.own_warm_s or options.warm_s

    def phases(self, options: Options) -> list[tuple[str, float]]:
        """The phases after the warm-up, and how long each takes."""
        before = 1.5 if options.quick else 3.0
        if self.kind == "silent":
            return [("before", before), ("silent", 5.0), ("after", 4.0)]
        if self.kind == "tenth":
            return [("before", before), ("tenth", 6.0)]
        if self.kind == "first":
            return [("flow", min(self.own_s or options.first_s, options.first_s))]
        return [("flow", min(self.own_s or options.seconds, options.seconds))]

    @property
    def pings(self) -> bool:
        """Whether there are pings beside its flows."""
        return self.kind in ("ping", "first")

    def estimate_s(self, options: Options) -> float:
        """Seconds for one contestant's turn, roughly."""
        return self.length_s(options) + 1.2


@dataclass(slots=True)
class Flow:
    """One TCP flow as its receiver and its sender saw it."""

    bins: list[int]
    bin_s: float
    #: CLOCK_MONOTONIC seconds of the first byte
    began: float
    device_times: list[float] = field(default_factory=list)
    #: bytes received by each of the receiver's devices, at those times
    device_bytes: dict[str, list[int]] = field(default_factory=dict)
    #: tcp_info at the end, by `flow.TCP_INFO`'s names
    sender: dict[str, int] = field(default_factory=dict)
    receiver: dict[str, int] = field(default_factory=dict)
    #: (time, rtt_us, cwnd, retransmits) of the sender, every 100 ms
    infos: list[list[float]] = field(default_factory=list)
    error: str = ""
    #: what was done to the links: name -> CLOCK_MONOTONIC seconds
    events: dict[str, float] = field(default_factory=dict)
    #: round trips in ms of the pings beside it
    pings: list[float] = field(default_factory=list)
    #: how many of them were sent
    pings_sent: int = 0
    #: Mbit/s that all its links might carry, each 0.1 s from its first byte; of recordings
    capacity: list[float] = field(default_factory=list)

    def since(self, event: str) -> float:
        """The event's time on the flow's own clock."""
        return self.events[event] - self.began


@dataclass(slots=True)
class Sample(kit.Sample):
    """One flow of one contestant."""

    flow: Flow | None = None


class Series(kit.Rounds[Sample]):
    """Of one contestant with one congestion control."""

    __slots__ = ()

    @property
    def reason(self) -> str:
        """Why there are no values; "" if there are."""
        if self.skipped or any(s.values for s in self.samples):
            return self.skipped
        return self.error or "not run"


#: by congestion control, then contestant
Results = dict[str, dict[str, Series]]


@dataclass(slots=True)
class Run:
    """Everything that came of a run; `results[scenario][congestion][contestant]`."""

    options: Options
    machine: dict[str, Any]
    emulator: str
    results: dict[str, Results] = field(default_factory=dict)
    complete: bool = False

    @property
    def is_of_first_flows(self) -> bool:
        """Of the rows of `real.py` and no others."""
        return bool(self.results) and all(name.startswith("real-") for name in self.results)

    def series(self, scenario: str, congestion: str, contestant: str) -> Series:
        by_name = self.results.get(scenario, {}).get(congestion, {})
        return by_name.get(contestant, Series(skipped="not run"))

    def as_json(self, verdicts: list[dict[str, Any]]) -> dict[str, Any]:
        """With every series; `verdicts` beside them, for whoever reads no code."""
        return {
            "schema": SCHEMA,
            "complete": self.complete,
            "options": asdict(self.options),
            "machine": self.machine,
            "emulator": self.emulator,
            "verdicts": verdicts,
            "results": {
                scenario: {
                    cc: {name: asdict(series) for name, series in by_name.items()}
                    for cc, by_name in by_cc.items()
                }
                for scenario, by_cc in self.results.items()
            },
        }

    @classmethod
    def from_json(cls, table: Any) -> Run:
        """ValueError: not a run of this schema."""
        if not isinstance(table, dict) or table.get("schema") != SCHEMA:
            raise ValueError(f"not a multipath bench result of schema {SCHEMA}")
        try:
            options = {**table["options"], "congestion": tuple(table["options"]["congestion"])}
            run = cls(Options(**options), table["machine"], table["emulator"])
            run.complete = bool(table["complete"])
            for scenario, by_cc in table["results"].items():
                run.results[scenario] = {
                    cc: {name: _series_of(s) for name, s in by_name.items()}
                    for cc, by_name in by_cc.items()
                }
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"a damaged multipath bench result: {error}") from None
        if run.is_of_first_flows:
            # First flows have a length of their own: parts where the rest has another join.
            run.options = replace(run.options, seconds=run.options.first_s)
        return run


def _series_of(table: dict[str, Any]) -> Series:
    samples = [
        Sample(**{**s, "flow": Flow(**s["flow"]) if s["flow"] else None}) for s in table["samples"]
    ]
    return Series(samples, str(table["skipped"]))


class Watcher:
    """Is told what happens; by itself it does nothing with it."""

    def scenario(self, scenario: Scenario, rounds: int) -> None: ...

    def doing(self, scenario: Scenario, congestion: str, contestant: str, number: int) -> None: ...

    def sampled(self, scenario: Scenario, contestant: str, series: Series) -> None: ...

    def finished(self, scenario: Scenario) -> None: ...
