"""The table, the plot and the tool: what they say of records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from records import FLOW, sample, trace
from rich.console import Console

from tools import tracing
from whalescale.trace import join, plot, render
from whalescale.trace.join import Joiner, Record

#: two losses of TCP's after the buffer gave up, one that it had nothing to do with
STEPS = [
    ({"total_retrans": 0, "bytes_acked": 0, "data_segs_out": 0}, {"delivered": 0}),
    ({"total_retrans": 0, "bytes_acked": 500_000, "data_segs_out": 400},
     {"delivered": 400, "held": 40, "gaps": 4, "gaps_filled": 3, "wait_us": 80_000, "skipped": 1,
      "depth": 7, "depth_max": 9}),
    ({"total_retrans": 2, "bytes_acked": 1_000_000, "data_segs_out": 800, "dsack_dups": 1},
     {"delivered": 800, "held": 40, "gaps": 4, "gaps_filled": 3, "wait_us": 80_000, "skipped": 1}),
    *[({"total_retrans": 2, "bytes_acked": 1_000_000, "data_segs_out": 800, "dsack_dups": 1},
       {"delivered": 800, "held": 40, "gaps": 4, "gaps_filled": 3, "wait_us": 80_000,
        "skipped": 1})] * 4,
    ({"total_retrans": 3, "bytes_acked": 1_500_000, "data_segs_out": 1_000, "dsack_dups": 1},
     {"delivered": 1_000, "held": 40, "gaps": 4, "gaps_filled": 3, "wait_us": 80_000,
      "skipped": 1, "depth_max": 9}),
]  # fmt: skip


def drawn(records: list[Record], width: int, height: int | None = None) -> str:
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(render.screen(records, width, height))
    return capture.get()


def test_tcp_and_the_buffer_stand_in_one_row() -> None:
    said = drawn(trace(STEPS), 160)  # type: ignore[arg-type]
    row = next(x for x in said.splitlines() if x.startswith("10.77.0.1:40052"))
    words = row.split()
    assert "berlin" in words
    assert "20.0±0.5" in words
    assert "3" in words[words.index("Mbit/s") :]
    assert "+3" in words
    assert "0/9" in words
    assert words[words.index("0/9") + 1] == "6"  # 4 gaps in 0.7 s
    assert "2.00 ms" in row
    assert "→ 10.77.0.2:5201" in said


@pytest.mark.parametrize("width", [66, 80, 100, 110, 120, 130, 140, 160, 200])
def test_it_fits_the_terminal(width: int) -> None:
    said = drawn(trace(STEPS), width)  # type: ignore[arg-type]
    lines = said.splitlines()
    assert all(len(line) <= width for line in lines)
    for word in ("RTT", "retrans", "reord", "DSACK", "│", "buffer"):
        assert word in lines[0]
    assert "…" not in said


def test_no_flow_no_buffer_and_what_could_not_be_seen() -> None:
    empty = Joiner("ws0").step(1.0, 1.0, [], {}, None, {"events": "no\x1b[31m bcc"})
    said = drawn([empty], 100)
    assert "no TCP flow of this host goes through ws0" in said
    assert "no events: no?[31m bcc" in said
    without = drawn(trace([({}, None)]), 160)
    assert "│ none" in without


def test_more_flows_than_lines() -> None:
    samples = [(sample(n), "berlin") for n in range(20)]
    record = Joiner("ws0").step(1.0, 1.0, samples, {}, None, {}, 5)
    said = drawn([record], 160, 24)
    assert said.count("10.77.0.2:5201") == 10
    assert "15 more flows" in said
    assert len(said.splitlines()) <= 24


def write(path: Path, records: list[Record], end: bytes = b"") -> Path:
    path.write_bytes(b"".join(join.encode(r) + b"\n" for r in records) + end)
    return path


def test_the_sum_of_a_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.jsonl", trace(STEPS), b'{"version":1,"t"')  # type: ignore[arg-type]
    assert tracing.main(["sum", str(path), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    flow = figures["flows"][str(FLOW)]
    assert flow["seconds"] == 0.7
    assert flow["goodput_mbps"] == pytest.approx(1_500_000 * 8 / 1e6 / 0.7, abs=0.01)
    assert (flow["retransmitted"], flow["dsack"]) == (3, 1)
    assert flow["needless_percent"] == 33.33
    assert flow["retransmitted_percent"] == 0.3
    assert flow["blame"] == {
        "retransmitted": 3, "after_given_up": 2, "after_given_up_percent": 66.67,
        # the interval with the skip and the one after it, of 7
        "by_chance_percent": 28.57,
    }  # fmt: skip
    buffer = figures["buffers"]["berlin"]
    assert buffer["delivered"] == 1000
    assert buffer["held_percent"] == 4.0
    assert buffer["gaps_filled_percent"] == 75.0
    assert buffer["wait_mean_ms"] == 2.0
    assert buffer["depth_seen"] == 7
    assert (buffer["late"], buffer["skipped"]) == (0, 1)
    assert tracing.main(["sum", str(path)]) == 0
    assert "goodput mbps" in capsys.readouterr().out


def test_the_other_end_lends_its_buffer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sender = write(tmp_path / "a.jsonl", trace([(info, None) for info, _ in STEPS]))
    receiver = write(tmp_path / "b.jsonl", trace([({}, buffer) for _, buffer in STEPS]))
    assert tracing.main(["sum", str(sender), "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert alone["buffers"] == {}
    assert "blame" not in alone["flows"][str(FLOW)]
    assert tracing.main(["sum", str(sender), "--other", str(receiver), "--json"]) == 0
    both = json.loads(capsys.readouterr().out)
    assert both["buffer_of"] == "other"
    assert both["flows"][str(FLOW)]["blame"]["after_given_up"] == 2


def test_a_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    path = write(tmp_path / "a.jsonl", trace(STEPS))  # type: ignore[arg-type]
    assert tracing.main(["plot", str(path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    target = tmp_path / "both.png"
    assert tracing.main(["plot", str(path), "--other", str(path), "-o", str(target)]) == 0
    assert target.stat().st_size > 20_000


def test_traces_that_are_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = trace(STEPS[:2])  # type: ignore[arg-type]
    empty = Joiner("ws0").step(1.0, 1.0, [], {}, None, {})
    for path, piece in (
        (tmp_path / "absent.jsonl", "No such file"),
        (write(tmp_path / "none.jsonl", []), "no record"),
        (write(tmp_path / "cut.jsonl", [], b"{"), "only a cut line"),
        (write(tmp_path / "bad.jsonl", good, b"garbage\n"), "line 3"),
        (write(tmp_path / "empty.jsonl", [empty]), "no flow and no buffer"),
    ):
        assert tracing.main(["plot", str(path)]) == 1
        said = capsys.readouterr()
        assert said.out == ""
        assert piece in said.err
        assert said.err.count("\n") == 1
    monkeypatch.setattr(plot, "available", lambda: False)
    assert tracing.main(["plot", str(write(tmp_path / "good.jsonl", good))]) == 1
    assert "matplotlib" in capsys.readouterr().err
