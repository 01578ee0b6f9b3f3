"""What the eBPF programs counted, in the live view: paths of a peer, shield, strangers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from picture import picture_of

from whalescale import status
from whalescale.tui import paths, render, snapshot
from whalescale.tui.paths import Row
from whalescale.tui.snapshot import Rate, View

RAW = (Path(__file__).parent / "status.json").read_text()
IN_USE = ("192.0.2.1:51820", "192.0.2.7:51820")


def raw(**bpf: Any) -> dict[str, Any]:
    value = dict(json.loads(RAW))
    value["bpf"] |= bpf
    return value


def view_of(value: dict[str, Any], selected: str = "berlin") -> View:
    return replace(snapshot.first(status.parse(value)), selected=selected)


def later(value: dict[str, Any], tx: int, rx: int, **agent: Any) -> status.Status:
    """Two seconds after `value`, with more bytes on the path in use."""
    value = json.loads(json.dumps(value))
    value["agent"] |= {"uptime_s": value["agent"]["uptime_s"] + 2.0, **agent}
    value["bpf"]["paths"][1]["tx"]["bytes"] += tx
    value["bpf"]["paths"][1]["rx"]["bytes"] += rx
    value["bpf"]["shield"]["short"] += 9
    return status.parse(value)


def draw(view: View, width: int = 120, height: int = 45) -> str:
    return picture_of(render.screen(view, width, height), width, height)


def test_rates_of_each_path() -> None:
    view = snapshot.advance(view_of(raw()), later(raw(), 1000, 500))
    assert view.path_rates[IN_USE] == Rate(4000.0, 2000.0)
    assert view.path_rates["10.9.0.1:51820", "192.0.2.7:51820"] == Rate(0.0, 0.0)
    assert view.dropped_pps == 4.5


def test_a_new_path_has_a_rate_and_a_restarted_agent_none() -> None:
    fresh = view_of(raw(paths=[]))
    after = later(raw(), 0, 0)
    assert snapshot.advance(fresh, after).path_rates[IN_USE] == Rate(4e6, 8e6)
    view = snapshot.advance(view_of(raw()), later(raw(), 1, 1, pid=1))
    assert (view.path_rates, view.dropped_pps) == ({}, None)
    # The programs were loaded anew, and count from 0.
    view = snapshot.advance(view_of(raw()), later(raw(), -5, 0))
    assert view.path_rates[IN_USE] == Rate(None, 0.0)


def test_the_paths_of_the_chosen_peer() -> None:
    view = snapshot.advance(view_of(raw()), later(raw(), 10**6, 500))
    lines = draw(view).splitlines()
    at = next(i for i, line in enumerate(lines) if "local → remote" in line)
    for line, pieces in zip(
        lines[at + 1 :],
        (
            ("path", " → ".join(IN_USE), "4.00 Mbit/s", "2.00 kbit/s"),
            ("sent", "900 datagrams, 1.91 MiB: transport 896, initiation 3, cookie reply 1"),
            ("received", "793 datagrams, 1.91 MiB: transport 790, response 3"),
            ("path", "10.9.0.1:51820 → 192.0.2.7:51820", "0 bit/s"),
            ("sent", "1 datagram, 148 B: initiation 1"),
            ("received", "0 datagrams, 0 B"),
        ),
        strict=False,
    ):
        for piece in pieces:
            assert piece in line
    # Where no peer is: not this one's.
    assert "203.0.113.5:9" not in draw(view)


def test_without_traffic_without_programs_without_a_part() -> None:
    assert "counted       nothing on this path yet" in draw(view_of(raw(), "phone"))
    missing = raw(reason="paths: paths.bpf.o is missing", paths=[])
    assert "nothing on this path yet (paths: paths.bpf.o is missing)" in draw(view_of(missing))
    off = raw(state="off", reason="[dataplane] bpf = false", paths=[], hooks={}, shield={})
    picture = draw(view_of(off))
    assert "shield and path counters off, because [dataplane] bpf = false" in picture
    assert "not per path: the eBPF programs are off, because [dataplane] bpf = false" in picture
    assert "192.0.2.1:51820 → 192.0.2.7:51820" in picture
    old = json.loads(RAW)
    del old["bpf"]  # an agent that does not tell
    assert "shield and path counters off" in draw(view_of(old))


def test_shield_and_strangers() -> None:
    view = snapshot.advance(view_of(raw()), later(raw(), 0, 0))
    for piece in (
        "shield on eth0 (tc), dropped 51 (4/s)",
        "strangers 7 datagrams, 1.01 KiB: initiation 7",
        "paths of no peer 1",
        "dropped as: strangers' limit 40, too short 11",
    ):
        assert piece in draw(view, 180)
    calm = raw(strangers={}, shield={"transport": 5}, paths=[])
    assert paths.guard(view_of(calm)) == "shield on eth0 (tc), dropped 0   strangers none"
    assert "shield on eth0" not in draw(view, 100, render.LOW - 1)
    assert "shield on eth0" in draw(view, 100, render.LOW)


def test_a_zone_and_a_candidate_name_the_same_end() -> None:
    value = raw()
    value["peers"][0] |= {"endpoint": "[fe80::7%3]:51820", "local": "[fe80::1%3]:51820"}
    value["bpf"]["paths"].append({"local": "[fe80::1]:51820", "remote": "[fe80::7]:51820"})
    told = status.parse(value)
    assert [p.local for p in paths.of_peer(told.bpf, told.peers[0])] == [
        "[fe80::1]:51820",  # in use
        "192.0.2.1:51820",  # to a candidate, the most bytes first
        "10.9.0.1:51820",
    ]
    assert paths.of_peer(told.bpf, told.peers[1]) == []


def test_names_from_elsewhere_draw_as_text() -> None:
    hostile = raw(reason="\x1b[2J", hooks={"\x1b[1m": "[red]tc"})
    hostile["bpf"]["paths"][1]["tx"]["types"] = {"\x1b]0;x\x07": 3}
    picture = draw(view_of(hostile))
    assert "\x1b" not in picture
    assert "\x07" not in picture
    assert "[red]tc" in picture


def test_what_does_not_fit_goes_by_rank() -> None:
    found = [Row(0, "a", ""), Row(2, "b", ""), Row(1, "c", ""), Row(2, "d", "")]
    assert [r.name for r in paths.fitting(found, 3)] == ["a", "b", "c"]
    assert paths.fitting(found, None) == found


@pytest.mark.parametrize("height", range(8, 60))
def test_any_number_of_paths_fits(height: int) -> None:
    value = raw()
    path = value["bpf"]["paths"][1]
    value["bpf"]["paths"] += [{**path, "local": f"192.0.2.{n}:1"} for n in range(9, 20)]
    lines = draw(view_of(value), 100, height).splitlines()
    assert len(lines) <= max(height, 9)
    assert any("> berlin" in line for line in lines)
    if height >= 24:
        assert any(" → ".join(IN_USE) in line for line in lines)
        assert any("transport 896" in line for line in lines)


@given(st.integers(20, 250), st.integers(5, 80), st.booleans())
def test_any_size_draws(width: int, height: int, off: bool) -> None:
    view = view_of(raw(state="off" if off else "on"))
    assert all(len(line) <= width for line in draw(view, width, height).splitlines())
