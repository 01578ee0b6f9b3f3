"""Runs joined to one table."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tools.soak import report
from tools.soak.conductor import Outcome
from tools.soak.hostile import Maker, mac1
from tools.soak.load import BLOCK, body


def outcome(seed: int, faults: list[str]) -> Outcome:
    counts = {"kills": 400, "cuts": 30, "sessions seen at a": 5, "sessions seen at b": 6}
    figures = {"longest_beyond_udp_s": seed / 10, "udp_received_by_a": 1000.0, "growth_kib_a": 7.0}
    return Outcome(seed, 600.0, counts, figures, faults)


def test_runs_are_summed_and_the_worst_is_told(tmp_path: Path) -> None:
    for seed, faults in ((1, []), (4, ["b ended"])):
        report.save(outcome(seed, faults), tmp_path)
    report.save_fuzz("receive", 60.0, 5_000, 120_000_000, False, tmp_path)
    total = report.joined(report.read(tmp_path.glob("*.json")))
    assert total["counts"]["kills"] == 800
    assert total["counts"]["sessions"] == 22
    assert total["figures"]["longest_beyond_udp_s"] == pytest.approx(0.4)
    assert total["figures"]["udp_received_by_a"] == 2000
    assert total["fuzzed_datagrams"] == 120_000_000
    assert total["faults"] == [f"{report.revision()}, seed 4: b ended"]
    text = report.table(total)
    assert "2 runs, 20 minutes, seeds 1, 4" in text
    assert "| 800 |" in text
    assert "1.2·10^8" in text
    assert "| **faults** | **1** |" in text


def test_a_fuzzer_that_failed_is_a_fault(tmp_path: Path) -> None:
    path = report.save_fuzz("paths", 1.0, 0, 0, True, tmp_path)
    assert report.joined(report.read([path]))["faults"] == ["fuzz_paths found a failing input"]


@pytest.mark.parametrize(("value", "said"), [(0, "0"), (1234.5, "1,234"), (2.5e9, "2.5·10^9")])
def test_numbers(value: float, said: str) -> None:
    assert report.number(value) == said


def test_records_are_the_same_at_both_ends_and_not_each_other() -> None:
    bodies = [body(n) for n in range(200)]
    assert bodies == [body(n) for n in range(200)]
    assert all(b and b in BLOCK for b in bodies)
    assert len(set(bodies)) == 200


def test_hostile_datagrams_are_of_many_kinds_and_fit_a_link() -> None:
    maker = Maker(random.Random(5), [b"corpus"])  # noqa: S311
    maker.captured.extend(bytes([4, 0, 0, 0]) + bytes(28 + n) for n in range(40))
    made = [maker.one(bytes(32)) for _ in range(3000)]
    assert max(map(len, made)) <= 1472
    assert {d[0] for d in made if d} >= {1, 2, 3, 4, 0x57, 0x58}
    assert b"corpus" in made
    right = mac1(b"\x01\0\0\0" + bytes(144), bytes(32))
    assert len(right) == 148
    assert right[-16:] == bytes(16)
    assert right[-32:-16] != bytes(16)
