"""The order of the multipath bench's rounds, and what a failing contestant does to the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tools.benchkit.model import SkipError
from tools.mpbench import load
from tools.mpbench.__main__ import _arguments, chosen_scenarios
from tools.mpbench.model import MPTCP, WS, Options, Run, Scenario, Watcher
from tools.mpbench.runner import STAGES_MAX, Runner
from tools.mpbench.scenarios import SCENARIOS, named
from tools.netlab import LabError, Shape
from whalescale.bench.measure import MeasureError

TWO = Scenario("two", "two", "goodput", (Shape(10, 1),), ("bare:1", "alone:1", MPTCP, WS))


class FakeStage:
    open = 0

    def __init__(self, name: str, *_: object) -> None:
        self.name = name
        FakeStage.open += 1

    def target(self, _: str) -> str:
        return "there"

    def warm_up(self, _: str) -> None: ...

    def close(self) -> None:
        FakeStage.open -= 1


def run(
    carry: Any, *scenarios: Scenario, contestants: tuple[str, ...] = (), rounds: int = 2
) -> Run:
    made = Run(Options(rounds=rounds), {}, "linkemu")
    FakeStage.open = 0
    start: Any = FakeStage
    with Runner(
        *(made, scenarios, Watcher()),
        contestants=contestants,
        start=start,
        carry=carry,
        discovery_s=0,
    ) as runner:
        runner.run()
    assert FakeStage.open == 0
    assert made.complete
    return made


def test_rounds_are_interleaved() -> None:
    turns: list[tuple[str, str]] = []

    def carry(_: FakeStage, name: str, __: Scenario, ___: Options, cc: str) -> Any:
        turns.append((cc, name))
        return None, {"mbps": 1.0}

    run(carry, TWO)
    one_round = [(cc, name) for cc in ("bbr", "cubic") for name in TWO.contestants]
    assert turns == one_round * 2


def test_one_that_fails_twice_is_out_and_the_others_go_on() -> None:
    def carry(stage: FakeStage, name: str, *_: object) -> Any:
        if name == WS:
            raise LabError("it fell over")
        if name == MPTCP:
            raise SkipError("this kernel has none")
        return None, {"mbps": 2.0}

    results = run(carry, TWO, rounds=5).results["two"]["bbr"]
    assert len(results[WS].samples) == 2
    assert results[WS].reason == "it fell over"
    assert results[MPTCP].reason == "this kernel has none"
    assert len(results["alone:1"].samples) == 5
    assert results["bare:1"].median("mbps") == 2.0


def test_labs_are_kept_for_the_next_round_but_not_too_many() -> None:
    names = tuple(f"whalescale:reorder_depth={i}" for i in range(STAGES_MAX + 3))
    most = 0

    def carry(*_: object) -> Any:
        nonlocal most
        most = max(most, FakeStage.open)
        return None, {"mbps": 1.0}

    run(carry, Scenario("many", "many", "goodput", (Shape(10, 1),), names))
    assert most == STAGES_MAX


def chosen(*contestants: str) -> list[str]:
    made = Run(Options(), {}, "linkemu")
    (clean,) = named("clean")
    return Runner(made, [clean], Watcher(), contestants=contestants).contestants(clean)


def test_contestants_can_be_chosen_and_variants_added() -> None:
    assert chosen(WS, "alone") == ["alone:1", "alone:2", WS]
    assert chosen("bare", MPTCP) == ["bare:1", "bare:2", MPTCP]
    assert chosen("alone:2", "whalescale:late=drop") == ["alone:2", "whalescale:late=drop"]


def test_a_row_may_have_flows_of_its_own_length() -> None:
    (lan,), (clean,) = named("lan"), named("clean")
    assert (lan.warm_s(Options()), lan.length_s(Options())) == (1, 3)
    assert (clean.warm_s(Options()), clean.length_s(Options())) == (2, 10)
    short = Options(rounds=1, seconds=0.5, warm_s=1, quick=True)
    assert lan.length_s(short) == clean.length_s(short) == 1.5


def test_a_run_without_names_has_the_table_and_the_grid() -> None:
    usual = {s.name for s in chosen_scenarios([])}
    others = {s.name for s in SCENARIOS if s.name.startswith(("variants", "real"))}
    others |= {"lossy-later"}
    assert usual == {s.name for s in SCENARIOS} - others
    assert {s.name for s in chosen_scenarios(["silent", "clean"])} == {
        *("silent-1", "silent-2", "clean"),
    }
    with pytest.raises(ValueError, match="there is no scenario"):
        chosen_scenarios(["nonsense"])


def test_what_the_command_line_takes(tmp_path: Path) -> None:
    script = tmp_path / "tunnel"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    words = ["--quick", "--only", "clean", "--other", f"mine={script}", "--contestant", "alone"]
    parsed = _arguments(words)
    assert dict(parsed.other) == {"mine": script}
    assert parsed.command == "run"
    for wrong in (["--contestant", "nobody"], ["--other", "x=/nowhere"], ["--rounds", "0"]):
        with pytest.raises(SystemExit) as exit_:
            _arguments(wrong)
        assert exit_.value.code == 2


def test_a_noisy_scenario_has_more_rounds_unless_the_run_is_short() -> None:
    def rounds(wanted: int, of_run: int) -> int:
        runner = Runner(Run(Options(rounds=of_run), {}, "linkemu"), (), Watcher())
        return runner.rounds(replace(TWO, rounds=wanted))

    assert rounds(9, 3) == 9
    assert rounds(9, 2) == 2
    assert rounds(1, 3) == 1
    assert rounds(0, 3) == 3


PINGED = """\
PING 10.77.0.2 (10.77.0.2) 56(84) bytes of data.
[1000.010000] 64 bytes from 10.77.0.2: icmp_seq=1 ttl=64 time=10.0 ms
[1000.034000] 64 bytes from 10.77.0.2: icmp_seq=2 ttl=64 time=10.0 ms
[1000.148000] 64 bytes from 10.77.0.2: icmp_seq=3 ttl=64 time=100 ms
[1000.106000] 64 bytes from 10.77.0.2: icmp_seq=5 ttl=64 time=10.0 ms
[1000.220000] 64 bytes from 10.77.0.2: icmp_seq=6 ttl=64 time=100 ms

--- 10.77.0.2 ping statistics ---
6 packets transmitted, 5 received, 16.6667% packet loss, time 120ms
rtt min/avg/max/mdev = 10.000/46.000/100.000/1.000 ms
"""


def test_pings_count_while_the_flow_runs_by_when_they_were_sent() -> None:
    # Sent at 0, 24, 48, 72 (lost), 96 and 120 ms, each 24 ms though each 20 were asked for.
    assert load.pings_within(PINGED, 1000.0, 1000.12) == ([10, 10, 100, 10], 5)
    assert load.pings_within(PINGED, 1000.02, 1000.092) == ([10, 100], 3)
    assert load.pings_within(PINGED, 1000.1, 1000.148) == ([100], 2)
    with pytest.raises(MeasureError, match="0 received"):
        load.pings_within("3 packets transmitted, 0 received, 100% packet loss, time 46ms", 0, 1)
