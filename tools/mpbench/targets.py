"""What has to be reached (must) and what is wanted (aim), and the figures held against it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tools.benchkit.model import Bounds
from tools.mpbench import idling, judge, real
from tools.mpbench.model import ALONE, BARE, CONGESTION, MPTCP, PLAIN, WS, Run, Sample, Scenario
from tools.mpbench.scenarios import SCENARIOS, each
from whalescale.bench.measure import median

BY_NAME = {s.name: s for s in SCENARIOS}
#: one round of one scenario with one congestion control: who did what
Round = Mapping[str, Sample]
#: the figure of one contestant in that round; None where something that it takes is missing
Figure = Callable[[Round, str, Scenario, Run], float | None]


def _mbps(samples: Round, name: str, metric: str = "mbps") -> float | None:
    sample = samples.get(name)
    return sample.values.get(metric) if sample is not None else None


def _all(samples: Round, kind: str, scenario: Scenario) -> list[float]:
    """The goodput of each link by itself; empty unless all were measured."""
    found = [_mbps(samples, name) for name in each(kind, scenario.shapes)]
    there = [v for v in found if v is not None]
    return there if len(there) == len(found) else []


def _over(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None


def over_sum(samples: Round, name: str, scenario: Scenario, _: Run) -> float | None:
    return _over(_mbps(samples, name), sum(_all(samples, ALONE, scenario)))


def over_best(samples: Round, name: str, scenario: Scenario, _: Run) -> float | None:
    if scenario.kind == "first":
        # A short run has the best one only.
        found = [_mbps(samples, alone) for alone in each(ALONE, scenario.shapes)]
        return _over(_mbps(samples, name), max((v for v in found if v is not None), default=None))
    return _over(_mbps(samples, name), max(_all(samples, ALONE, scenario), default=None))


def over_best_bare(samples: Round, name: str, scenario: Scenario, _: Run) -> float | None:
    return _over(_mbps(samples, name), max(_all(samples, BARE, scenario), default=None))


def over_mptcp(samples: Round, name: str, _: Scenario, __: Run) -> float | None:
    return _over(_mbps(samples, name), _mbps(samples, MPTCP))


def over_plain(samples: Round, name: str, _: Scenario, __: Run) -> float | None:
    return _over(_mbps(samples, name), _mbps(samples, PLAIN))


def over_capacity(samples: Round, name: str, _: Scenario, __: Run) -> float | None:
    """Of what its links might carry in that time, a tunnel's headers taken off."""
    share = _over(_mbps(samples, name), _mbps(samples, name, "capacity_mbps"))
    return share / real.PAYLOAD if share is not None else None


def over_second(samples: Round, name: str, _: Scenario, __: Run) -> float | None:
    """Of its own second flow."""
    return _over(_mbps(samples, name), _mbps(samples, name, "second_mbps"))


def over_mptcp_bound(samples: Round, name: str, scenario: Scenario, run: Run) -> float | None:
    """Of what is asked for beside MPTCP: 0.95 of it, 1.3 where it has less than 0.8 of the sum."""
    share, theirs = over_mptcp(samples, name, scenario, run), samples.get(MPTCP)
    total = theirs.values.get("capacity_mbps", 0.0) if theirs is not None else 0.0
    if share is None or theirs is None or not total:
        return None
    return share / (1.3 if theirs.values["mbps"] < 0.8 * total * MPTCP_PAYLOAD else 0.95)


def longest_stall_ms(samples: Round, name: str, _: Scenario, __: Run) -> float | None:
    return _mbps(samples, name, "stall_ms")


def more_than_idle(metric: str) -> Figure:
    """A ping's round trip beside the flow over those before it; over recordings, over the same
    share of those that its best link would have taken meanwhile with nothing else on it."""

    def figure(samples: Round, name: str, scenario: Scenario, _: Run) -> float | None:
        against = idling.IDLE_OF[metric][0] if scenario.recordings else "idle_ms"
        found, idle = _mbps(samples, name, metric), _mbps(samples, name, against)
        return found - idle if found is not None and idle is not None else None

    return figure


def _was_used(samples: Round, name: str) -> bool:
    """Whether the link that went silent carried something before: else its loss proves nothing."""
    return (_mbps(samples, name, "victim_share") or 0.0) >= judge.USED_SHARE


def stall_ms(samples: Round, name: str, _: Scenario, __: Run) -> float | None:
    return _mbps(samples, name, "stall_ms") if _was_used(samples, name) else None


def resets(samples: Round, name: str, _: Scenario, __: Run) -> float | None:
    return _mbps(samples, name, "broken")


def both_again_s(samples: Round, name: str, _: Scenario, __: Run) -> float | None:
    return _mbps(samples, name, "both_again_s")


def survivor(samples: Round, name: str, scenario: Scenario, _: Run) -> float | None:
    """The goodput from 1 s after the silence began to its end, over the survivor's alone."""
    if not _was_used(samples, name):
        return None
    alone = _mbps(samples, f"{ALONE}:{3 - scenario.victim}")
    return _over(_mbps(samples, name, "mbps_silent"), alone)


def fallen_sum_mbps(samples: Round, scenario: Scenario) -> float | None:
    """What the links carry by themselves once one of them has fallen."""
    parts = [
        _mbps(samples, f"{ALONE}:{i}", "mbps_tenth" if i == scenario.victim else "mbps")
        for i in range(1, len(scenario.shapes) + 1)
    ]
    there = [p for p in parts if p is not None]
    return sum(there) if len(there) == len(parts) else None


def fallen_share(samples: Round, name: str, scenario: Scenario, _: Run) -> float | None:
    return _over(_mbps(samples, name, "mbps_tenth"), fallen_sum_mbps(samples, scenario))


def recover_s(samples: Round, name: str, scenario: Scenario, run: Run) -> float | None:
    """Until the flow is within 10 % of the new sum."""
    total, sample = fallen_sum_mbps(samples, scenario), samples.get(name)
    flow = sample.flow if sample is not None else None
    if total is None or flow is None or "tenth" not in flow.events:
        return None
    end = scenario.length_s(run.options)
    return judge.recovery_s(flow.bins, flow.bin_s, flow.since("tenth"), end, 0.9 * total)


def added(metric: str) -> Figure:
    """A ping's round trip over the idle one of the fastest link by itself, in the tunnel."""

    def figure(samples: Round, name: str, scenario: Scenario, _: Run) -> float | None:
        delays = [s.delay_ms for s in scenario.shapes]
        idle = _mbps(samples, f"{ALONE}:{delays.index(min(delays)) + 1}", "idle_ms")
        found = _mbps(samples, name, metric)
        return found - idle if found is not None and idle is not None else None

    return figure


@dataclass(frozen=True, slots=True)
class Target(Bounds):
    """One figure of `whalescale`; `must` or `aim` may be missing, not both."""

    scenario: str
    title: str
    figure: Figure
    must: float | None
    aim: float | None
    better: Literal["more", "less"] = "more"
    unit: str = "x"
    congestion: tuple[str, ...] = CONGESTION
    #: the worst round counts, not the median of all
    worst: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target, one congestion control, and what a run says of them."""

    target: Target
    congestion: str
    value: float | None
    reason: str = ""
    contestant: str = WS

    @property
    def text(self) -> str:
        return self.target.verdict(self.value)

    def as_json(self) -> dict[str, Any]:
        t = self.target
        return {
            "scenario": t.scenario,
            "title": t.title,
            "congestion": self.congestion,
            "contestant": self.contestant,
            "value": self.value,
            **t.as_json(),
            "verdict": self.text,
            "reason": self.reason,
        }


def _silent(name: str) -> tuple[Target, ...]:
    return (
        Target(name, "longest stall", stall_ms, 400, 150, "less", "ms"),
        Target(name, "after 1 s: the surviving link / alone", survivor, 0.95, 0.97),
        Target(name, "flows broken", resets, 0, 0, "less", "", worst=True),
        Target(name, "both used again after", both_again_s, 3, 1, "less", "s"),
    )


TARGETS = (
    Target("clean", "goodput / sum of the links alone", over_sum, 0.95, 0.99),
    Target("lossy", "goodput / MPTCP", over_mptcp, 0.92, 1.0, congestion=("bbr",)),
    Target("lossy", "goodput / better link, bare", over_best_bare, 2, 4, congestion=("cubic",)),
    Target("lossy-later", "goodput / MPTCP", over_mptcp, 0.92, 1.0, congestion=("bbr",)),
    Target("uneven", "worst round's goodput / best link alone", over_best, 0.97, None, worst=True),
    Target("uneven", "goodput / sum of the links alone", over_sum, None, 0.98),
    Target("fast", "goodput / sum of the links alone", over_sum, 0.90, 0.97),
    Target("three", "goodput / sum of the links alone", over_sum, 0.93, 0.98),
    *_silent("silent-1"),
    *_silent("silent-2"),
    Target("tenth", "within 10 % of the new sum after", recover_s, 2, 1, "less", "s"),
    Target("ping", "added delay, 95 of 100", added("ping_p95_ms"), 20, 8, "less", "ms"),
    Target("lan", "goodput / plain mode", over_plain, 0.97, 1.0),
)

#: a bare flow's payload in what its links carry
MPTCP_PAYLOAD = 0.95
#: by real.GROUPS; the row that is worst counts, each by the median of its rounds
GROUP_TARGETS = (
    Target("radio", "worst pair's goodput / best link alone", over_best, 0.98, None),
    Target("radio", "worst pair's goodput / MPTCP", over_mptcp, 0.95, 1.05),
    Target("radio", "worst pair's longest stall", longest_stall_ms, 500, 200, "less", "ms"),
    Target("radio", "worst pair's ping more than idle, median", more_than_idle("ping_p50_ms"),
           40, 15, "less", "ms"),
    Target("radio", "worst pair's ping more than idle, 95 of 100", more_than_idle("ping_p95_ms"),
           120, 60, "less", "ms"),
    Target("lumps", "worst goodput / what both carry", over_capacity, 0.90, 0.96),
    Target("handover", "goodput / what both carry", over_capacity, 0.90, 0.95),
    Target("steps", "worst goodput / what both carry", over_capacity, 0.85, 0.93),
    Target("policed", "goodput / what both carry", over_capacity, None, 0.90),
    Target("wirefilter", "worst goodput / what is asked for beside MPTCP", over_mptcp_bound,
           1.0, None),
    Target("wirefilter", "worst goodput / its own second flow", over_second, 0.95, 0.98),
)  # fmt: skip
#: over all rows and rounds
NEVER_WORSE = 0.97
NEVER = Target("all", f"rounds with {NEVER_WORSE:g} of the best link alone", over_best, 0.98, 1.0)
#: "never worse than the best single link", less what measuring it may be wrong by
GRID = Target("grid", "worst pair's goodput / best link alone", over_best, 0.97, 1.0, worst=True)


def rounds(run: Run, scenario: str, congestion: str) -> list[dict[str, Sample]]:
    """Who did what, round by round."""
    found: dict[int, dict[str, Sample]] = {}
    for name, series in run.results.get(scenario, {}).get(congestion, {}).items():
        for sample in series.samples:
            found.setdefault(sample.round, {})[name] = sample
    return [found[number] for number in sorted(found)]


def values(run: Run, scenario: Scenario, congestion: str, name: str, figure: Figure) -> list[float]:
    """A contestant's figure in each round that has it."""
    made = [figure(r, name, scenario, run) for r in rounds(run, scenario.name, congestion)]
    return [v for v in made if v is not None]


def value(run: Run, scenario: Scenario, congestion: str, name: str, figure: Figure) -> float | None:
    """The median over the rounds."""
    return median(values(run, scenario, congestion, name, figure))


def _worst(found: list[float], target: Target) -> float | None:
    return (min if target.better == "more" else max)(found, default=None)


def verdict(run: Run, target: Target, congestion: str) -> Verdict:
    scenario = BY_NAME[target.scenario]
    found = values(run, scenario, congestion, WS, target.figure)
    if found:
        return Verdict(target, congestion, _worst(found, target) if target.worst else median(found))
    series = run.results.get(target.scenario, {}).get(congestion, {})
    lacking = [f"{name}: {s.reason}" for name, s in series.items() if s.reason]
    if not lacking and scenario.kind == "silent" and WS in series:
        lacking = ["the link that went silent was not in use before"]
    return Verdict(target, congestion, None, "; ".join(lacking) or "not all of it was run")


def grid_cells(run: Run, congestion: str) -> dict[str, float]:
    """Goodput over both / best alone of each link pair that was measured, by scenario."""
    cells = {}
    for scenario in SCENARIOS:
        if scenario.kind == "grid":
            found = value(run, scenario, congestion, WS, over_best)
            if found is not None:
                cells[scenario.name] = found
    return cells


def verdicts(run: Run) -> list[Verdict]:
    """What this run has to say about each target."""
    made = [
        verdict(run, target, cc)
        for target in TARGETS
        if target.scenario in run.results
        for cc in run.results[target.scenario]
        if cc in target.congestion
    ]
    for cc in run.options.congestion:
        cells = grid_cells(run, cc)
        if cells:
            made.append(Verdict(GRID, cc, min(cells.values()), f"{len(cells)} pairs"))
    return made


def group_verdict(run: Run, target: Target, congestion: str, name: str) -> Verdict | None:
    """None: no row of the group was run."""
    rows = [s for s in real.ROWS if real.group(s) == target.scenario and s.name in run.results]
    if not rows:
        return None
    found = [
        middle
        for row in rows
        if (middle := value(run, row, congestion, name, target.figure)) is not None
    ]
    bound = target.must if target.must is not None else target.aim
    assert bound is not None
    below = sum(not target.reached(v, bound) for v in found)
    told = f"{below} of {len(found)} rows below"
    worst = _worst(found, target)
    return Verdict(target, congestion, worst, told, name)


def never_worse(run: Run, congestion: str, name: str) -> Verdict | None:
    """In how many rounds of all rows it had less than the best link alone. None: in none at all."""
    found = [
        v
        for s in SCENARIOS
        if s.kind in ("goodput", "grid", "first") and not s.name.startswith("variants")
        for v in values(run, s, congestion, name, over_best)
    ]
    if not found:
        return None
    below = sum(v < NEVER_WORSE for v in found)
    told = f"{below} of {len(found)} rounds of all rows below"
    return Verdict(NEVER, congestion, 1 - below / len(found), told, name)


def summary(run: Run) -> list[Verdict]:
    """Of first flows by their groups, and of all rows together."""
    made = []
    for cc in run.options.congestion:
        those = [group_verdict(run, t, cc, WS) for t in GROUP_TARGETS]
        those.append(never_worse(run, cc, WS))
        made += [v for v in those if v is not None and v.value is not None]
    return made
