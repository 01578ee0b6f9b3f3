"""First flows over links as they are: what stands in for a recording, and what is made of them."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import pytest

from tools import recordings
from tools.benchkit.model import SkipError
from tools.mpbench import plots, real, report, targets
from tools.mpbench.model import ALONE, MPTCP, WS, Flow, Options, Run, Sample, Series, Watcher
from tools.mpbench.runner import Runner
from tools.mpbench.scenarios import named

MACHINE = {
    **{"time": "now", "revision": "abc", "virtual": True, "cpus": 2, "cpu": "c", "kernel": "6"},
    **{"architecture": "x", "congestion_control": "bbr", "versions": {"python": "3.11"}},
}
SHORT = Options(rounds=1, seconds=12, first_s=12, congestion=("bbr",))
(RADIO,) = named("real-radio-5g-1+lte-tmobile")
(LUMPS,) = named("real-lumps-10ms-both")


def write(folder: Path, name: str, *lines: int) -> None:
    with gzip.open(folder / f"{name}.ms.gz", "wt") as file:
        file.writelines(f"{line}\n" for line in lines)


def test_a_row_over_recordings_is_skipped_where_they_are_missing(tmp_path: Path) -> None:
    with pytest.raises(SkipError, match=real.VARIABLE):
        real.Recorded(RADIO, None, 1)
    write(tmp_path, "5g-1", 1500)
    with pytest.raises(SkipError, match=r"lte-tmobile-driving\.ms\.gz"):
        real.Recorded(RADIO, tmp_path, 1)


def test_capacity_is_what_may_leave_in_that_time(tmp_path: Path) -> None:
    write(tmp_path, "5g-1", *([12_500] * 1000), *([0] * 1000))
    write(tmp_path, "lte-tmobile-driving", 2500)
    write(tmp_path, "lte-tmobile-driving-up", 125)
    both = real.Recorded(RADIO, tmp_path, 1)
    assert both.capacity_mbps(1, 1.0) == pytest.approx(100)
    assert both.capacity_mbps(1, 3.0) == pytest.approx(200 / 3)
    assert both.capacity_mbps(1, 0.5, from_s=0.75) == pytest.approx(50)
    assert both.capacity_mbps(2, 1.0) == pytest.approx(20)
    assert (both.back[0], both.back[1]) == (None, (125,))
    assert both.best(3.0) == 1
    assert both.best(36.0) == 1


def test_made_links_need_no_files() -> None:
    lumps = real.Recorded(LUMPS, None, 1)
    assert lumps.capacity_mbps(1, 1.0) == pytest.approx(100)
    assert lumps.capacity_mbps(2, 1.0) == pytest.approx(50)
    (policed,) = named("real-policed")
    assert real.Recorded(policed, None, 1).capacity_mbps(1, 1.0) == 30
    (handover,) = named("real-handover")
    there = real.Recorded(handover, None, 1).there[0]
    assert there is not None
    # So that a flow of 12 s meets one.
    assert [there[ms] > 0 for ms in (7499, 7500, 7999, 8000)] == [True, False, False, True]
    with pytest.raises(ValueError, match="waves"):
        recordings.made("waves=10", 1, 1)


def test_a_short_run_has_the_best_link_alone_only() -> None:
    def of(options: Options) -> list[str]:
        return Runner(Run(options, {}, "linkemu"), [LUMPS], Watcher()).contestants(LUMPS)

    assert of(SHORT) == ["alone:1", MPTCP, WS]
    assert of(Options()) == ["alone:1", "alone:2", MPTCP, WS]


def test_a_first_flow_counts_from_its_first_byte_and_has_its_own_length() -> None:
    assert (RADIO.warm_s(Options()), RADIO.length_s(Options())) == (0, 36)
    assert LUMPS.length_s(Options()) == real.SHORT_S
    assert RADIO.length_s(SHORT) == 12
    assert LUMPS.length_s(replace(SHORT, first_s=3)) == 3


def test_first_flows_each_have_fresh_namespaces() -> None:
    made: list[str] = []

    class FakeStage:
        def __init__(self, name: str, *_: object) -> None:
            made.append(name)

        def target(self, _: str) -> str:
            return ""

        def warm_up(self, _: str) -> None: ...

        def close(self) -> None: ...

    run = Run(replace(SHORT, rounds=2), {}, "linkemu")
    with Runner(
        *(run, [LUMPS], Watcher()),
        start=FakeStage,  # type: ignore[arg-type]
        carry=lambda *_: (None, {"mbps": 1.0}),
        discovery_s=0,
    ) as runner:
        runner.run()
    assert made == ["alone:1", MPTCP, WS] * 2


def first(mbps: float, **values: float) -> Series:
    flow = Flow([10] * 100, 0.01, 1000.0, capacity=[150.0] * 10)
    values = {"stall_ms": 100.0, "ping_p50_ms": 45.0, "ping_p95_ms": 90.0} | values
    values = {"link_idle_p50_ms": 30.0, "link_idle_p95_ms": 30.0} | values
    return Series([Sample(1, {"mbps": mbps, "capacity_mbps": 150.0, **values}, flow=flow)])


def run_of(rows: dict[str, dict[str, Series]]) -> Run:
    run = Run(SHORT, MACHINE, "linkemu", complete=True)
    run.results.update({name: {"bbr": by_name} for name, by_name in rows.items()})
    return run


def figure(run: Run, title: str) -> targets.Verdict:
    (found,) = [v for v in targets.summary(run) if title in v.target.title]
    return found


def test_the_worst_row_of_a_group_counts_and_the_others_are_told() -> None:
    row = {"alone:1": first(60), MPTCP: first(100)}
    rows = {s.name: {**row, WS: first(90)} for s in real.ROWS[:3]}
    rows[real.ROWS[1].name][WS] = first(50, ping_p95_ms=160)
    run = run_of(rows)
    assert figure(run, "goodput / best link").value == pytest.approx(50 / 60)
    assert figure(run, "/ MPTCP").value == pytest.approx(0.5)
    assert figure(run, "median").value == pytest.approx(15)
    assert figure(run, "95 of 100").text == "BELOW"
    assert "3 of 3 rows below" in figure(run, "/ MPTCP").reason
    assert "1 of 3 rows below" in figure(run, "goodput / best link").reason


def test_in_how_many_rounds_of_all_rows_it_was_below_the_best_link() -> None:
    row = {"alone:1": first(60), MPTCP: first(100), WS: first(90)}
    rows = {s.name: row for s in real.ROWS[:3]}
    rows["clean"] = {"alone:1": first(90), "alone:2": first(45), WS: first(80)}
    run = run_of(rows)
    never = figure(run, "of the best link alone")
    assert never.value == pytest.approx(3 / 4)
    assert "1 of 4 rounds of all rows below" in never.reason
    assert "1 of 4 rounds" in report.markdown(run, {})


def test_another_emulator_is_held_against_what_mptcp_leaves() -> None:
    (row,) = named("real-wirefilter-clean")
    run = run_of({row.name: {"alone:1": first(90), MPTCP: first(100), WS: first(120)}})
    assert figure(run, "beside MPTCP").value == pytest.approx(1.2 / 1.3)
    run = run_of({row.name: {"alone:1": first(90), MPTCP: first(130), WS: first(120)}})
    assert figure(run, "beside MPTCP").value == pytest.approx(120 / 130 / 0.95)
    run = run_of({row.name: {MPTCP: first(130), WS: first(120, second_mbps=130)}})
    assert figure(run, "second").value == pytest.approx(120 / 130)


def test_a_plot_shows_capacity_and_all_contestants(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    by_name = {f"{ALONE}:1": first(60), MPTCP: first(100), WS: first(90)}
    drawn = plots.draw(run_of({RADIO.name: by_name}), tmp_path / "run")
    assert [p.stat().st_size > 1000 for p in drawn] == [True]
