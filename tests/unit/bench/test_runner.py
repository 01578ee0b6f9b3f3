"""The order of rounds, and what a failing contestant does to the others: nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tools.bench import contestants, crowds, runner
from tools.bench.contestants import OFFLOADS, VARIANTS
from tools.bench.model import Options, Run, Scenario, Series
from tools.bench.runner import Runner
from tools.benchkit.model import SkipError, Values
from tools.netlab import LabError
from tools.peers import ROOT
from whalescale.bench.measure import MeasureError
from whalescale.config import DataplaneConfig
from whalescale.identity import Identity
from whalescale.protocol.messages import INITIATION, INITIATION_BYTES
from whalescale.protocol.node import Node
from whalescale.protocol.places import Endpoint


class FakePair:
    """Counts how often it is brought up and taken down."""

    def __init__(self, log: list[str], name: str, family: int) -> None:
        self.log, self.name = log, name
        self.log.append(f"up {name}{family}")

    def warm_up(self) -> None: ...

    def close(self) -> None:
        self.log.append(f"down {self.name}")


class Silent:
    def scenario(self, *_: object) -> None: ...
    def doing(self, *_: object) -> None: ...
    def sampled(self, *_: object) -> None: ...
    def finished(self, *_: object) -> None: ...


@pytest.fixture(autouse=True)
def _everyone_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "check", lambda _: None)


def scenario(name: str, measure: Callable[[Any, Options], Values], *who: str) -> Scenario:
    return Scenario(name, name, who, ("gbps",), measure, plotted="gbps")


def run(
    log: list[str], *scenarios: Scenario, rounds: int = 3, only: tuple[str, ...] = ()
) -> dict[str, dict[str, Series]]:
    result = Run(Options(rounds, 1.0), {})
    start: Any = lambda name, family: FakePair(log, name, family)  # noqa: E731
    with Runner(result, scenarios, Silent(), contestants=only, start=start) as it:
        it.run()
    assert result.complete
    return result.results


def test_rounds_are_interleaved_and_pairs_stay_up() -> None:
    log: list[str] = []

    def measure(pair: Any, _: Options) -> Values:
        log.append(pair.name)
        return {"gbps": 1.0}

    run(log, scenario("one", measure, "a", "b"), scenario("two", measure, "b"), rounds=2)
    assert log == ["up a4", "a", "up b4", "b", "a", "b", "down a", "b", "b", "down b"]


def test_a_failure_is_kept_and_the_others_go_on() -> None:
    log: list[str] = []
    tries: list[int] = []

    def measure(pair: Any, _: Options) -> Values:
        if pair.name == "bad":
            tries.append(1)
            raise MeasureError(f"{ROOT}/ws says no")
        return {"gbps": 1.0}

    results = run(log, scenario("one", measure, "bad", "good"), rounds=5)["one"]
    assert [s.values for s in results["good"].samples] == [{"gbps": 1.0}] * 5
    assert len(tries) == 2, "twice running, and it is out"
    assert results["bad"].error == "ws says no", "without the place of the tree"
    assert results["bad"].median("gbps") is None
    assert log.count("up bad4") == 2, "started afresh"
    assert sorted(e for e in log if e.startswith("down")) == ["down bad", "down bad", "down good"]


def test_one_bad_round_does_not_spoil_the_rest() -> None:
    values = iter([1.0, None, 3.0, 5.0])

    def measure(_: Any, __: Options) -> Values:
        value = next(values)
        if value is None:
            raise LabError("once")
        return {"gbps": value}

    series = run([], scenario("one", measure, "a"), rounds=4)["one"]["a"]
    assert series.median("gbps") == 3.0
    assert series.failures == 1
    assert series.error == ""


def test_a_skip_is_tried_once() -> None:
    tries: list[int] = []

    def measure(_: Any, __: Options) -> Values:
        tries.append(1)
        raise SkipError("no such part")

    series = run([], scenario("one", measure, "a"))["one"]["a"]
    assert series.skipped == "no such part"
    assert tries == [1]


def test_only_some_contestants() -> None:
    measured = scenario("one", lambda *_: {"gbps": 1.0}, "a", "b")
    assert list(run([], measured, only=("b",))["one"]) == ["b"]


def test_an_interrupt_takes_everything_down() -> None:
    log: list[str] = []

    def measure(_: Any, __: Options) -> Values:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(log, scenario("one", measure, "a"))
    assert log == ["up a4", "down a"]


def test_variants_are_settings_of_the_data_plane() -> None:
    assert contestants.dataplane_toml("whalescale:backend=mmsg,workers=2,tun_tso=false") == (
        'backend = "mmsg"\nworkers = 2\ntun_tso = false'
    )
    assert contestants.dataplane_toml("whalescale") == ""
    for name in VARIANTS:
        known = set(DataplaneConfig.__struct_fields__) | {"bpf"}
        assert set(contestants.settings(name)) <= known
    assert set(OFFLOADS) <= set(DataplaneConfig.__struct_fields__)


def test_a_key_that_this_version_lacks_is_skipped() -> None:
    with pytest.raises(SkipError, match=r"has no \[dataplane\] warp"):
        contestants.check("whalescale:warp=true")


def test_an_agent_that_falls_back_is_not_the_variant() -> None:
    status = {
        "agent": {"backend": "mmsg", "workers": 1, "offloads": {"tun_tso": False}},
        "bpf": {"state": "off", "reason": "no BTF"},
    }
    agrees = {"backend": "mmsg", "workers": "1", "tun_tso": "false", "bpf": "false"}
    assert contestants.disagreement(status, agrees) == ""
    assert "runs mmsg" in contestants.disagreement(status, {"backend": "io_uring"})
    assert "no BTF" in contestants.disagreement(status, {"bpf": "true"})
    assert "runs false" in contestants.disagreement(status, {"tun_tso": "true"})


def test_forged_initiations_pass_mac1_and_no_more() -> None:
    """Else the flood would measure a compare of 16 bytes."""
    identity = Identity.from_seed(bytes(range(32)))
    records = crowds.forged_initiations(identity.static_public)
    assert len(records) == crowds.FLOOD_RECORDS * INITIATION_BYTES
    node = Node(identity, random=bytes, wall_clock=lambda: 0)
    first, second = records[:INITIATION_BYTES], records[INITIATION_BYTES : 2 * INITIATION_BYTES]
    assert first[0] == INITIATION
    assert first != second
    node.receive_datagram(first, Endpoint("198.18.0.1", 1), None, 0)
    assert dict(node.drops) == {"handshake": 1}
    junk = crowds.junk(b"")
    assert len(junk) % INITIATION_BYTES == 0
