"""What a ping takes over recorded links by themselves, and what pings beside a flow are held to."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from tools.mpbench import __main__ as command
from tools.mpbench import idling, real, report, targets
from tools.mpbench.model import MPTCP, WS, Flow, Options, Run, Sample, Series
from tools.mpbench.scenarios import named

MACHINE = {
    **{"time": "now", "revision": "abc", "virtual": True, "cpus": 2, "cpu": "c", "kernel": "6"},
    **{"architecture": "x", "congestion_control": "bbr", "versions": {"python": "3.11"}},
}
#: link 1: 100 Mbit/s, 20 ms; link 2: 20 Mbit/s, 35 ms
(RADIO,) = named("real-radio-5g-1+lte-tmobile")
#: link 2: 20 Mbit/s, 15 ms, always there
(STEADY,) = named("real-radio-5g-4+20")
(LUMPS,) = named("real-lumps-10ms-link2")
#: a link that always has room: half a millisecond, there only
OPEN = [1500]


def recorded(
    folder: Path, one: list[int], two: list[int], *, up: list[int] | None = None
) -> real.Recorded:
    """RADIO's links; `up`: link 1's way back. A folder each: what was read is kept."""
    folder.mkdir(exist_ok=True)
    for name, lines in (("5g-1", one), ("lte-tmobile-driving", two), ("5g-1-up", up)):
        if lines is not None:
            with gzip.open(folder / f"{name}.ms.gz", "wt") as file:
                file.writelines(f"{line}\n" for line in lines)
    return real.Recorded(RADIO, folder, 1)


def back(mbit: float) -> float:
    """What a link of that rate takes for a ping."""
    return idling.PING_BYTES * 8 / mbit / 1000


def test_a_packet_waits_for_credit_and_a_recording_begins_again() -> None:
    assert idling.waits_ms((0, 0, 0, 1500, 0), 170) == [3, 2, 1, 0, 4]
    # What one millisecond brings is too little.
    assert idling.waits_ms((100, 100, 0), 170) == [1, 2, 2]
    assert idling.waits_ms((100,), 350) == [3]
    with pytest.raises(ValueError, match="nothing"):
        idling.waits_ms((0, 0), 170)


def test_a_ping_waits_for_its_link_there_and_back(tmp_path: Path) -> None:
    links = recorded(tmp_path, OPEN, OPEN)
    assert idling.pings_ms(RADIO, links, 1, 0, 0.01) == pytest.approx([40.5 + back(100)] * 10)
    # Nothing may leave from 0 to 100 of each 200 ms; at its end it begins again.
    half = [0] * 100 + OPEN * 100
    links = recorded(tmp_path / "half", half, OPEN)
    pings = idling.pings_ms(RADIO, links, 1, 0, 1.0)
    assert len(pings) == 1000
    assert pings[0] == pytest.approx(40 + 99.5 + back(100))
    assert pings[98] == pytest.approx(40 + 1.5 + back(100))
    assert pings[150] == pytest.approx(40 + 0.5 + back(100))
    assert pings[199] == pytest.approx(40 + 100.5 + back(100))
    assert pings[200:400] == pytest.approx(pings[:200])
    assert idling.pings_ms(RADIO, links, 1, 0.05, 0.06)[0] == pytest.approx(pings[50])


def test_the_way_back_has_its_own_recording(tmp_path: Path) -> None:
    links = recorded(tmp_path, OPEN, OPEN, up=[0] * 100 + OPEN * 100)
    pings = idling.pings_ms(RADIO, links, 1, 0, 0.2)
    # Sent at 0.5, there at 21; back may it go from 100 on.
    assert pings[0] == pytest.approx(100 - 0.5 + 20)
    # There at 101, back at 102; and there at 201 when it is silent again.
    assert pings[80] == pytest.approx(102 - 80.5 + 20)
    assert pings[180] == pytest.approx(300 - 180.5 + 20)


def test_a_link_without_a_recording_waits_for_nothing(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "5g-4.ms.gz", "wt") as file:
        file.write("0\n" * 500 + "1500\n" * 10)
    links = real.Recorded(STEADY, tmp_path, 1)
    assert idling.pings_ms(STEADY, links, 2, 0, 0.1) == pytest.approx([30 + 2 * back(20)] * 100)
    found = idling.figures(STEADY, links, (1, 2), 0, 10)
    assert found["link_idle_p95_ms"] == pytest.approx(30 + 2 * back(20))
    assert found[idling.SILENT] == 0


def test_each_share_has_the_link_that_is_best_at_it(tmp_path: Path) -> None:
    # Link 1 is quick, but silent for 200 of each 1000 ms; link 2 is slow, and hands out each 20 ms.
    links = recorded(tmp_path, OPEN * 800 + [0] * 200, [0] * 19 + [1500])
    both = idling.figures(RADIO, links, (1, 2), 0, 10)
    assert both["link_idle_p50_ms"] == pytest.approx(40.5 + back(100))
    # 19 of 20 of those that wait for 0.5, 1.5, ... 19.5
    assert both["link_idle_p95_ms"] == pytest.approx(70 + 18.5 + back(20))
    # 5 of 100 are 50 of the 200 that wait; of one link by itself
    alone = idling.figures(RADIO, links, (1,), 0, 10)
    assert alone["link_idle_p95_ms"] == pytest.approx(40 + 150.5 + back(100))
    assert idling.figures(RADIO, links, (2,), 0, 10)["link_idle_p50_ms"] > 79


def test_how_long_all_links_are_silent_together(tmp_path: Path) -> None:
    # In each second link 1 is silent from 500 to 900 and link 2 from 600 to 1000; what leaves
    # comes 20 and 35 ms later: from 635 to 920.
    links = recorded(
        *(tmp_path, OPEN * 500 + [0] * 400 + OPEN * 100),
        OPEN * 600 + [0] * 400,
    )
    assert idling.silent_ms(RADIO, links, (1, 2), 0.6) == 0
    assert idling.silent_ms(RADIO, links, (1, 2), 0.7) == 700 - 635
    assert idling.silent_ms(RADIO, links, (1, 2), 5) == 920 - 635
    assert idling.silent_ms(RADIO, links, (1,), 5) == 400


def test_what_comes_before_anything_did_is_no_silence(tmp_path: Path) -> None:
    links = recorded(tmp_path, [0] * 300 + OPEN * 600 + [0] * 100, [0] * 300 + OPEN * 700)
    assert idling.silent_ms(RADIO, links, (1, 2), 1) == 0
    # But where it begins again it is.
    assert idling.silent_ms(RADIO, links, (1, 2), 2) == 1320 - 1035


def run_of(scenario: str, parts: dict[str, dict[str, float]]) -> Run:
    options = Options(rounds=1, first_s=1, congestion=("bbr",))
    run = Run(options, MACHINE, "linkemu", complete=True)
    flow = Flow([10] * 100, 0.01, 1000.0)
    run.results[scenario] = {
        "bbr": {
            name: Series([Sample(1, {"mbps": 1.0, **values}, flow=flow)])
            for name, values in parts.items()
        }
    }
    return run


LOADED = {"idle_ms": 20.0, "ping_p50_ms": 100.0, "ping_p95_ms": 400.0}


def test_each_share_is_held_against_its_own() -> None:
    idle = {"link_idle_p50_ms": 70.0, "link_idle_p95_ms": 300.0}
    run = run_of(RADIO.name, {WS: LOADED | idle})
    said = {v.target.title: v.value for v in targets.summary(run)}
    assert said["worst pair's ping more than idle, median"] == pytest.approx(30)
    assert said["worst pair's ping more than idle, 95 of 100"] == pytest.approx(100)


def test_without_recordings_it_is_held_against_pings_before_the_flow() -> None:
    (policed,) = named("real-policed")
    run = run_of(policed.name, {WS: LOADED | {"link_idle_p95_ms": 300.0}})
    figure = targets.more_than_idle("ping_p95_ms")
    assert targets.value(run, policed, "bbr", WS, figure) == pytest.approx(380)


def test_an_older_run_gets_what_it_lacks_where_the_recordings_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded(tmp_path, OPEN * 800 + [0] * 200, OPEN * 800 + [0] * 200)
    run = run_of(RADIO.name, {"alone:2": LOADED, MPTCP: {}, WS: LOADED})
    run.results |= run_of(LUMPS.name, {WS: LOADED}).results
    run.results[RADIO.name]["bbr"]["plain"] = Series([Sample(1, error="no ping")])
    path = tmp_path / "run.json"
    path.write_text(json.dumps(run.as_json([])))
    p95 = targets.more_than_idle("ping_p95_ms")

    monkeypatch.delenv(real.VARIABLE, raising=False)
    older = command.load(path)
    assert targets.value(older, RADIO, "bbr", WS, p95) is None
    rows = [line for line in report.markdown(older, {}).splitlines() if "lte-tmobile" in line]
    assert rows
    # Made links need no files: lumps of 10 ms on the second, there 5 ms and back.
    assert targets.value(older, LUMPS, "bbr", WS, p95) == pytest.approx(400 - 19.5 - back(50))

    monkeypatch.setenv(real.VARIABLE, str(tmp_path))
    filled = command.load(path).results[RADIO.name]["bbr"]
    assert filled[WS].samples[0].values["link_idle_p95_ms"] == pytest.approx(190.5 + back(100))
    assert filled["alone:2"].samples[0].values["link_idle_p95_ms"] == pytest.approx(
        220.5 + back(20)
    )
    assert filled["plain"].samples[0].values == {}


def test_what_a_run_found_itself_stays() -> None:
    mine = {idling.SILENT: 7.0, "link_idle_p95_ms": 300.0}
    run = run_of(LUMPS.name, {WS: LOADED | mine})
    idling.fill_in(run, None)
    assert run.series(LUMPS.name, "bbr", WS).samples[0].values["link_idle_p95_ms"] == 300
