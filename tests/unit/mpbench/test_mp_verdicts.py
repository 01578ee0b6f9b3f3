"""What the multipath bench makes of what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tools.benchkit.command import joined
from tools.mpbench import report, targets
from tools.mpbench.contestants import lab_of, label, links_of, multipath_toml, settings
from tools.mpbench.model import CONGESTION, MPTCP, WS, Flow, Options, Run, Sample, Series
from tools.mpbench.scenarios import SCENARIOS, VARIANTS, named

MACHINE = {
    **{"time": "now", "revision": "abc", "virtual": True, "cpus": 2, "cpu": "c", "kernel": "6"},
    **{"architecture": "x", "congestion_control": "bbr", "versions": {"python": "3.11"}},
}


def sample(number: int = 1, flow: Flow | None = None, **values: float) -> Sample:
    return Sample(number, {"mbps": 1.0, **values}, flow=flow)


def run_of(scenario: str, cc: str, parts: dict[str, list[Sample]], **options: Any) -> Run:
    run = Run(Options(congestion=(cc,), **options), MACHINE, "linkemu", complete=True)
    run.results[scenario] = {cc: {name: Series(samples) for name, samples in parts.items()}}
    return run


def rates(*values: float) -> list[Sample]:
    return [sample(i, mbps=v) for i, v in enumerate(values, start=1)]


def only(run: Run, title: str = "") -> targets.Verdict:
    (found,) = [v for v in targets.verdicts(run) if title in v.target.title]
    return found


@pytest.mark.parametrize(
    ("mbps", "text"), [(130, "BELOW"), (133.1, "must reached"), (138.7, "aim reached")]
)
def test_the_sum_of_the_links_alone_is_the_measure(mbps: float, text: str) -> None:
    run = run_of("clean", "bbr", {"alone:1": rates(94), "alone:2": rates(46), WS: rates(mbps)})
    assert only(run).text == text


def test_a_ratio_is_the_median_of_those_of_each_round() -> None:
    """A slow second round is slow for all."""
    parts = {"alone:1": rates(90, 45, 90), "alone:2": rates(50, 25, 50), WS: rates(140, 70, 133)}
    assert only(run_of("clean", "cubic", parts)).value == pytest.approx(1.0)


def test_never_worse_means_the_worst_round() -> None:
    parts = {"alone:1": rates(190, 190, 190), "alone:2": rates(19, 19, 19)}
    run = run_of("uneven", "bbr", {**parts, WS: rates(200, 180, 205)})
    worst = only(run, "worst")
    assert worst.value == pytest.approx(180 / 190)
    assert worst.text == "BELOW"
    total = only(run, "sum")
    assert total.target.must is None
    assert total.text == "below the aim"


def test_bbr_is_held_against_mptcp_and_cubic_against_the_better_bare_link() -> None:
    parts = {"bare:1": rates(3), "bare:2": rates(21), MPTCP: rates(100), WS: rates(63)}
    assert only(run_of("lossy", "bbr", parts)).value == pytest.approx(0.63)
    assert only(run_of("lossy", "cubic", parts)).value == pytest.approx(3)


def test_a_missing_link_is_no_figure_and_the_reason_is_told() -> None:
    run = run_of("clean", "bbr", {"alone:1": rates(94), WS: rates(140)})
    run.results["clean"]["bbr"]["alone:2"] = Series([Sample(1, error="no ping")])
    found = only(run)
    assert found.value is None
    assert found.text == "not measured"
    assert "alone:2: no ping" in found.reason


def test_a_link_that_was_never_used_proves_nothing_by_going_silent() -> None:

    def before(share: float) -> Sample:
        return sample(mbps_silent=90.0, stall_ms=30.0, both_again_s=4.0, victim_share=share)

    parts = {"alone:1": rates(92), WS: [before(0.0)]}
    run = run_of("silent-2", "bbr", parts)
    assert only(run, "stall").text == "not measured"
    assert "not in use" in only(run, "stall").reason
    assert only(run, "both").text == "BELOW"
    run.results["silent-2"]["bbr"][WS] = Series([before(0.9)])
    assert only(run, "stall").text == "aim reached"
    assert only(run, "surviving").value == pytest.approx(90 / 92)


def test_a_broken_flow_is_below_whatever_the_others_were() -> None:
    parts = {WS: [sample(1, broken=0.0), sample(2, broken=1.0), sample(3, broken=0.0)]}
    assert only(run_of("silent-1", "bbr", parts), "broken").text == "BELOW"


def fallen(after_s: float) -> Flow:
    """200 bytes a bin, nothing for so long after the fall at 5 s, then 60."""
    bins = [200] * 500 + [0] * round(after_s * 100)
    bins += [60] * (1100 - len(bins))
    return Flow(bins, 0.01, 1000.0, events={"tenth": 1005.0})


def test_recovery_after_a_fall_is_held_against_the_new_sum() -> None:
    # 60 bytes in 10 ms are 0.048 Mbit/s
    parts = {
        "alone:1": [sample(mbps_tenth=0.010)],
        "alone:2": rates(0.040),
        WS: [sample(flow=fallen(1.5), mbps_tenth=0.048)],
    }
    found = only(run_of("tenth", "bbr", parts))
    assert found.value == pytest.approx(1.5, abs=0.1)
    assert found.text == "must reached"


def test_the_ping_is_held_against_the_faster_links_idle_one() -> None:
    parts = {
        "alone:1": [sample(idle_ms=41.0, ping_p95_ms=60.0)],
        "alone:2": [sample(idle_ms=11.0, ping_p95_ms=30.0)],
        WS: [sample(idle_ms=12.0, ping_p95_ms=18.0)],
    }
    found = only(run_of("ping", "cubic", parts))
    assert found.value == pytest.approx(7)
    assert found.text == "aim reached"


def test_the_grid_is_as_good_as_its_worst_pair() -> None:
    run = Run(Options(congestion=("bbr",)), MACHINE, "linkemu")
    pairs = named("grid")
    assert len(pairs) >= 24
    for number, scenario in enumerate(pairs):
        parts = {"alone:1": rates(75), "alone:2": rates(40), WS: rates(100 if number else 70)}
        run.results[scenario.name] = {"bbr": {n: Series(s) for n, s in parts.items()}}
    (found,) = targets.verdicts(run)
    assert found.value == pytest.approx(70 / 75)
    assert found.text == "BELOW"
    assert "| 0.933 |" in report.markdown(run, {})


def test_a_run_goes_through_json_whole() -> None:
    parts = {"alone:1": rates(94), "alone:2": rates(46), WS: [sample(flow=fallen(1.0))]}
    run = run_of("clean", "bbr", parts)
    again = Run.from_json(json.loads(json.dumps(run.as_json([]))))
    assert again == run
    with pytest.raises(ValueError, match="schema"):
        Run.from_json({"schema": 0})
    with pytest.raises(ValueError, match="damaged"):
        Run.from_json({"schema": 1, "options": {}})


def test_parts_of_first_flows_are_joined_whatever_the_rest_is_long() -> None:
    runs = []
    for name, seconds in (("real-lumps-2ms-both", 8.0), ("real-steps-10+5", 36.0)):
        run = Run(Options(seconds=seconds), MACHINE, "linkemu")
        run.results[name] = {"bbr": {WS: Series(rates(10))}}
        runs.append(Run.from_json(json.loads(json.dumps(run.as_json([])))))
    assert set(joined(runs).results) == {"real-lumps-2ms-both", "real-steps-10+5"}
    other = run_of("clean", "bbr", {WS: rates(10)})
    other.machine = MACHINE
    with pytest.raises(ValueError, match="rounds or seconds"):
        joined([*runs, Run.from_json(json.loads(json.dumps(other.as_json([]))))])


def test_a_short_run_has_no_verdict() -> None:
    parts = {"alone:1": rates(94), "alone:2": rates(46), WS: rates(140)}
    assert "| aim reached |" in report.markdown(run_of("clean", "bbr", parts), {})
    short = run_of("clean", "bbr", parts, rounds=1)
    assert "| (aim reached) |" in report.markdown(short, {})
    assert "A short run" in report.summary(short)


def test_the_table_stands_in_the_document_and_the_rest_of_it_stays(tmp_path: Path) -> None:
    document = tmp_path / "multipath-results.md"
    end = report.SECTION.end
    report.SECTION.put_into(document, "first")
    text = document.read_text().replace(end, f"{end}\nwritten by hand")
    document.write_text(text)
    report.SECTION.put_into(document, "second")
    assert "second" in document.read_text()
    assert "first" not in document.read_text()
    assert "written by hand" in document.read_text()
    document.write_text("no markers")
    with pytest.raises(ValueError, match="lacks"):
        report.SECTION.put_into(document, "third")


def test_every_scenario_can_be_shown_and_every_target_has_its_scenario() -> None:
    assert len({s.name for s in SCENARIOS}) == len(SCENARIOS)
    for scenario in SCENARIOS:
        run = Run(Options(), MACHINE, "linkemu")
        run.results[scenario.name] = {
            cc: {name: Series([sample()]) for name in scenario.contestants} for cc in CONGESTION
        }
        heads, rows, remarks = report.table_of(run, scenario)
        assert len(rows) == 2 * len(scenario.contestants)
        assert all(len(row) == len(heads) for row in rows)
        assert remarks == []
        targets.verdicts(run)
    assert all(t.scenario in targets.BY_NAME for t in targets.TARGETS)
    assert all(t.must is not None or t.aim is not None for t in targets.TARGETS)


def test_variants_are_what_stands_in_the_configuration() -> None:
    keys = settings("whalescale:scheduler=wrr,reorder_depth=512,repair=true")
    assert multipath_toml(keys).splitlines() == [
        *("", "[multipath]", 'scheduler = "wrr"', "reorder_depth = 512", "repair = true"),
    ]
    assert multipath_toml(settings(WS)) == ""
    assert all(settings(v) for v in VARIANTS)
    with pytest.raises(ValueError, match="key=value"):
        settings("whalescale:fast")


def test_alone_means_that_there_is_one_link() -> None:
    (clean,) = named("clean")
    assert links_of("alone:2", clean) == [2]
    assert links_of(WS, clean) == links_of("bare:1", clean) == [1, 2]
    assert lab_of("bare:2") == lab_of(MPTCP) != lab_of("alone:2")
    assert label("alone:2", clean.shapes) == "link 2 alone, tunnel"
