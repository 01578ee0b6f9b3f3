"""From samples to figures, verdicts, tables, files and back; and the regression check."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
from fake import make_run, series, tcp

from tools.bench import __main__ as bench_main
from tools.bench import plots, report
from tools.bench.__main__ import load, main, save
from tools.bench.compare import compare, ratios
from tools.bench.model import Options, Run, Series, figures
from tools.bench.scenarios import SCENARIOS, named
from tools.bench.targets import METRICS, TARGETS
from tools.benchkit.command import joined
from tools.mpbench import __main__ as mpbench_main

KEY = ("tcp1", "whalescale", "gbps")


def verdicts(run: Run) -> dict[str, str]:
    return {f.target.name: f.verdict for f in figures(run)}


@pytest.mark.parametrize(
    ("gbps", "verdict"), [(3.9, "BELOW"), (4.0, "must reached"), (6.0, "aim reached")]
)
def test_verdict_of_more_is_better(gbps: float, verdict: str) -> None:
    assert verdicts(make_run(tcp(gbps)))["tcp-newest"] == verdict


@pytest.mark.parametrize(
    ("mb", "verdict"), [(80.1, "BELOW"), (80, "must reached"), (50, "aim reached")]
)
def test_verdict_of_less_is_better(mb: float, verdict: str) -> None:
    run = make_run({"rss": {"whalescale": series("rss_mb", mb)}})
    assert verdicts(run) == {"rss": verdict}


def test_a_failed_contestant_has_no_figure_but_its_error() -> None:
    results = tcp(9)
    results["tcp1"]["wireguard-go"] = series("gbps", None, None, error="it fell over")
    (figure,) = [f for f in figures(make_run(results)) if f.target.name == "tcp-newest"]
    assert figure.value is None
    assert figure.verdict == "not measured"
    assert "it fell over" in figure.reason


def test_what_was_skipped_says_why() -> None:
    results = tcp(9)
    results["tcp1"]["wireguard-go-debian"] = Series(skipped="not installed")
    text = report.markdown(make_run(results))
    assert "skipped: not installed" in text


def test_a_storm_without_an_end_is_below_what_it_must_be() -> None:
    run = make_run({"storm": {"whalescale": series("storm_complete", 998.0)}})
    assert verdicts(run) == {"storm": "BELOW"}


def test_half_a_flood_is_no_flood() -> None:
    def run(pps: float) -> Run:
        flood = series("cost_percent", 3.0)
        flood.samples[0].values["flood_pps"] = pps
        return make_run({"flood-junk": {"whalescale:bpf=true": flood}})

    assert verdicts(run(199_000)) == {"flood-junk": "must reached"}
    assert verdicts(run(90_000)) == {"flood-junk": "not measured"}


def test_a_short_run_gives_no_verdict() -> None:
    text = report.markdown(make_run(tcp(9), rounds=2, seconds=2))
    assert "(aim reached)" in text
    assert "short run" in text
    assert "| aim reached |" not in text
    full = report.markdown(make_run(tcp(9)))
    quick = make_run(tcp(9))
    quick.options = Options(5, 5.0, quick=True)
    assert "(aim reached)" in report.markdown(quick), "shorter in other ways too"
    assert "| aim reached |" in full
    assert "short run" not in full


def test_a_run_that_was_broken_off_says_so() -> None:
    run = make_run(tcp(9))
    run.complete = False
    assert "broken off" in report.markdown(run)


def test_markdown_rows_have_as_many_cells_as_their_head() -> None:
    results = tcp(9)
    results["tcp1"]["whalescale"].samples[0].error = "a | b\nc"
    head = 0
    for line in report.markdown(make_run(results)).splitlines():
        if not line.startswith("|"):
            head = 0
        elif head:
            assert line.count("|") == head
        else:
            head = line.count("|")


def test_the_table_goes_between_the_markers_and_nowhere_else(tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    section = report.SECTION
    document.write_text(f"before\n{section.begin}\nold\n{section.end}\nafter\n")
    section.put_into(document, "new")
    section.put_into(document, "newer")
    assert document.read_text() == f"before\n{section.begin}\nnewer\n{section.end}\nafter\n"
    document.write_text("no markers")
    with pytest.raises(ValueError, match="lacks the lines"):
        section.put_into(document, "x")


@pytest.mark.parametrize("bench", [bench_main, mpbench_main])
def test_the_documents_have_the_markers(bench: ModuleType) -> None:
    before, after = bench.report.SECTION.around(bench.DOCUMENT)
    assert before
    assert after


@pytest.mark.parametrize("bench", [bench_main, mpbench_main])
def test_nothing_is_measured_for_a_document_without_markers(
    bench: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    document = tmp_path / "results.md"
    document.write_text("written by hand")
    monkeypatch.setattr(bench, "DOCUMENT", document)
    monkeypatch.setattr(bench, "Runner", None)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert bench.main(["--quick", "--docs"]) == 1
    assert "results.md lacks the lines" in capsys.readouterr().out
    assert document.read_text() == "written by hand"


@pytest.mark.parametrize("row", ["real-handover-100+50", "clean"])
def test_rows_over_links_as_they_are_have_a_page_of_their_own(
    row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = {"real": tmp_path / "real.md", "all": tmp_path / "results.md"}
    monkeypatch.setattr(mpbench_main, "REAL_DOCUMENT", pages["real"])
    monkeypatch.setattr(mpbench_main, "DOCUMENT", pages["all"])
    monkeypatch.setattr(mpbench_main, "IMAGES", tmp_path / "images")
    run = mpbench_main.Run(mpbench_main.Options(), make_run({}).machine, "linkemu")
    run.results = {row: {}}
    mpbench_main.SeveralPaths().publish(run, tmp_path / "stem", {})
    assert pages["real"].exists() == (row != "clean")
    assert pages["all"].exists() == (row == "clean")


def test_runs_of_one_revision_make_one_table() -> None:
    first, second = make_run(tcp(5.0)), make_run({"ping": {}})
    second.machine = {**second.machine, "time": "2026-01-02 00:00:00 UTC"}
    second.complete = False
    both = joined([first, second])
    assert set(both.results) == {"tcp1", "ping"}
    assert not both.complete
    other = make_run({})
    other.machine = {**other.machine, "revision": "another"}
    with pytest.raises(ValueError, match="do not belong together: they differ in revision"):
        joined([first, other])
    with pytest.raises(ValueError, match="rounds or seconds"):
        joined([first, make_run({}, seconds=2.0)])


def test_runs_of_one_code_make_one_table_whatever_the_documents_say() -> None:
    runs = [make_run(tcp(5.0)), make_run({"ping": {}}), make_run({})]
    for run, code in zip(runs, ("c", "c", "another"), strict=True):
        run.machine = {**run.machine, "revision": f"r{id(run)}", "code": code}
    assert set(joined(runs[:2]).results) == {"tcp1", "ping"}
    with pytest.raises(ValueError, match="they differ in code"):
        joined([runs[0], runs[2]])
    with pytest.raises(ValueError, match="they differ in code"):
        joined([runs[0], make_run({})])  # one that tells none


def test_json_there_and_back(tmp_path: Path) -> None:
    results = tcp(5.0)
    results["tcp1"]["bare"] = Series(skipped="no veth")
    results["tcp1"]["vanilla-sends"] = series("gbps", 1.5, None)
    run = make_run(results)
    path = save(run, tmp_path / "x")
    stored = json.loads(path.read_text())
    assert stored["schema"] == 1
    assert stored["results"]["tcp1"]["whalescale"]["medians"] == {"gbps": 4.0}
    assert load(path).as_json() == run.as_json()
    assert (tmp_path / "x.md").read_text().startswith("2026-01-01")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"schema": 99}', '{"schema": 1}', '{"schema": 1, "options": 3}']
)
def test_json_that_is_no_run(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"x\.json"):
        load(path)


def test_plots_are_drawn(tmp_path: Path) -> None:
    results = tcp(5.0)
    results["tcp1"]["bare"] = series("gbps", None)
    results["ping"] = {"whalescale": series("rtt_ms", None)}
    made = plots.draw(make_run(results), tmp_path / "x")
    assert [p.name for p in made] == ["x-tcp1.png", "x-figures.png"]
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in made)


def test_a_slower_machine_is_no_regression() -> None:
    old, new = make_run(tcp(5.0, 2.0)), make_run(tcp(2.5, 1.0))
    (change,) = compare(old, new)
    assert change.key == KEY
    assert change.factor == pytest.approx(1.0)


@pytest.mark.parametrize(("gbps", "regression"), [(4.6, False), (4.4, True), (9.9, False)])
def test_a_worse_ratio_is_a_regression(gbps: float, regression: bool) -> None:
    (change,) = compare(make_run(tcp(5.0)), make_run(tcp(gbps)))
    assert change.is_regression(0.10) is regression


def test_less_is_better_is_compared_the_other_way() -> None:
    def run(ms: float) -> Run:
        other = series("rtt_ms", 1.0)
        return make_run({"ping": {"wireguard-go": other, "whalescale": series("rtt_ms", ms)}})

    (worse,) = compare(run(0.5), run(0.6))
    assert worse.is_regression(0.10)
    (better,) = compare(run(0.5), run(0.4))
    assert not better.is_regression(0.10)


def test_a_flood_is_compared_by_what_is_kept() -> None:
    def run(cost: float) -> Run:
        return make_run({"flood-junk": {"whalescale": series("cost_percent", cost)}})

    (change,) = compare(run(2), run(4))
    assert not change.is_regression(0.10)
    (change,) = compare(run(2), run(20))
    assert change.is_regression(0.10)


def test_what_fails_now_is_a_regression_and_what_is_skipped_is_not() -> None:
    broken, skipped = tcp(5.0), tcp(5.0)
    broken["tcp1"]["whalescale"] = series("gbps", None, error="dead")
    skipped["tcp1"]["whalescale"] = Series(skipped="no")
    (change,) = compare(make_run(tcp(5.0)), make_run(broken))
    assert change.is_regression(0.10)
    assert "dead" in str(change)
    (change,) = compare(make_run(tcp(5.0)), make_run(skipped))
    assert not change.is_regression(0.10)
    assert "only in the old run" in str(change)


def test_ratios_of_another_reference_are_not_compared() -> None:
    alone = {"tcp1": {"bare": series("gbps", 10), "whalescale": series("gbps", 5)}}
    assert ratios(make_run(alone)) == {KEY: ("bare", 0.5)}
    (change,) = compare(make_run(tcp(5.0)), make_run(alone))
    assert change.factor is None
    assert not change.is_regression(0.10)


def test_compare_says_it_by_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [
        str(save(make_run(results), tmp_path / name))
        for name, results in (
            ("old", tcp(5.0)),
            ("same", tcp(5.1)),
            ("worse", tcp(3.0)),
            ("other", {"rss": {"whalescale": series("rss_mb", 40)}}),
        )
    ]
    old, same, worse, other = paths
    assert main(["compare", old, same]) == 0
    assert main(["compare", old, worse]) == 1
    assert "WORSE" in capsys.readouterr().out
    assert main(["compare", old, worse, "--tolerance", "50"]) == 0
    assert main(["compare", old, other]) == 1
    assert main(["compare", old, str(tmp_path / "none.json")]) == 1
    assert "none.json" in capsys.readouterr().out


def test_scenarios_and_targets_belong_together() -> None:
    by_name = {s.name: s for s in SCENARIOS}
    assert len(by_name) == len(SCENARIOS)
    for scenario in SCENARIOS:
        assert (scenario.measure is None) != (scenario.measure_alone is None)
        assert set(scenario.metrics) <= set(METRICS)
        assert scenario.plotted in scenario.metrics
    for target in TARGETS:
        scenario = by_name[target.scenario]
        assert target.metric in scenario.metrics
        assert target.over in scenario.contestants
        assert target.under is None or target.under in scenario.contestants
        assert target.better == METRICS[target.metric].better


def test_scenarios_by_name() -> None:
    assert [s.name for s in named("tcp1")] == ["tcp1"]
    assert len(named("variants")) == 3
    with pytest.raises(ValueError, match="there is no scenario 'nonsense'"):
        named("nonsense")
