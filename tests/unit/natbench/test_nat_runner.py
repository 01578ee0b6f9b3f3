"""`make bench-nat`: parts of runs are joined, the latest of a name counts."""

from __future__ import annotations

import pytest

from tools import natbench
from tools.natbench import Bench, Cell, joined, markdown, save
from tools.natbench_flow import judge
from tools.natbench_real import ROWS
from tools.netlab import LabError


def test_runs_are_joined(tmp_path):
    files = [tmp_path / name for name in ("one.json", "two.json")]
    for file, direct in zip(files, (None, 0.3), strict=True):
        bench = Bench(1, 10)
        bench.cells.append(Cell("model", ("public", "symmetric"), 0.16, direct, True))
        bench.say("first ping answered", 160, "ms", 250, 120)
        save(bench, file)
    whole = joined(files)
    assert [c.direct for c in whole.cells] == [0.3]
    text = markdown(whole)
    assert "| public |  | 160 ms, direct 300 ms |" in text
    assert "| first ping answered | 160 ms | 250 | 120 | must |" in text


def test_cells_that_differ_from_the_model_are_told():
    bench, pair, other = Bench(1, 1), ("symmetric", "port-restricted"), ("public", "UDP blocked")
    bench.cells += [
        Cell("model", pair, 0.16, None, False),
        Cell("boxes", pair, 0.18, 0.4, False),
        Cell("model", other, None, None, False),
        Cell("boxes", other, None, None, False),
        Cell("model, IPv6", pair, 0.16, 0.36, True),
        Cell("boxes, IPv6", pair, 0.17, 0.37, True),
    ]
    (line,) = natbench.differing(bench.cells)
    assert line.startswith("symmetric - port-restricted (boxes): 180 ms, direct 400 ms; in the")
    text = markdown(bench)
    assert f"- {line}" in text
    alone, mapping, ipv6 = "180 ms, direct 400 ms", " |  |  | ", "170 ms, direct 370 ms | 160 ms"
    assert f"| symmetric - port-restricted | {alone}{mapping}{ipv6}, direct 360 ms |" in text
    bench.cells = [c for c in bench.cells if c.where != "boxes" or c.pair != pair]
    assert "than in the model: none" in markdown(bench)


def test_what_is_no_run_is_said(tmp_path):
    file = tmp_path / "x.json"
    file.write_text("[]")
    with pytest.raises(SystemExit, match="no run"):
        joined([file])
    assert natbench.behind("public", 1) is None


def test_one_pair_in_virtual_time():
    bench = Bench(1, 1)
    natbench.first(bench)
    assert [row.verdict for row in bench.rows] == ["must", "aim"]


def test_what_came_of_a_stream():
    # Numbers 3 and 6 are lost; 5 comes before 4; 7 comes twice.
    numbers = [0, 1, 2, 5, 4, 7, 7, 8]
    rows = [(10 * n, number, 10 * n - 5) for n, number in enumerate(numbers, 1)]
    found = judge(rows, 0, 200)
    assert (found.came, found.lost, found.reordered, found.again) == (8, 2, 1, 1)
    assert found.pause_s == 120e-9
    # Of those before the window none is missing, though none is in it.
    assert judge(rows, 45, 90).lost == 1
    assert judge([], 0, 100).pause_s == 100e-9


def test_a_row_that_fails_does_not_end_the_others(monkeypatch, capsys):
    def fails(_):
        raise LabError("no router")

    monkeypatch.setitem(natbench.PARTS, "homes", fails)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert natbench.main(["--only", "homes", "first"]) == 1
    said = capsys.readouterr().out
    assert "homes: FAILED: no router" in said
    assert "direct: 360 ms" in said


def test_the_rows_on_real_sockets_are_those_of_the_runner():
    assert set(natbench.REAL) == set(ROWS)
