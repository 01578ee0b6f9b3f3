"""`make bench-nat`: parts of runs are joined, the latest of a name counts."""

from __future__ import annotations

import pytest

from tools import natbench
from tools.natbench import Bench, Cell, joined, markdown, save


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
