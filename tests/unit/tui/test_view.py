"""Snapshots -> view -> picture: rates, keys, and what is drawn at any size."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from picture import picture_of
from rich.console import Console

from whalescale import status
from whalescale.tui import render, snapshot
from whalescale.tui.snapshot import Rate, View

RAW = (Path(__file__).parent / "status.json").read_text()


def raw() -> dict[str, Any]:
    return dict(json.loads(RAW))


def later(
    seconds: float = 2.0, tx: int = 0, rx: int = 0, pid: int = 4242, **agent: Any
) -> status.Status:
    value = raw()
    value["agent"] |= {"uptime_s": 100.0 + seconds, "pid": pid, **agent}
    for fields in (value["counters"], value["peers"][0]):
        fields["tx_bytes"] += tx
        fields["rx_bytes"] += rx
    return status.parse(value)


def first() -> View:
    return snapshot.first(status.parse(raw()))


def many(count: int) -> status.Status:
    value = raw()
    value["peers"] = [{**value["peers"][0], "name": f"p{i:03}"} for i in range(count)]
    return status.parse(value)


def draw(view: View, width: int = 110, height: int = 40, color: bool = False) -> str:
    return picture_of(render.screen(view, width, height), width, height, color)


# rates


def test_rates_are_bits_per_second_of_the_agents_own_clock() -> None:
    view = snapshot.advance(first(), later(2.0, tx=1000, rx=500))
    assert view.total == Rate(4000.0, 2000.0)
    assert view.rates["berlin"] == Rate(4000.0, 2000.0)
    assert view.rates["phone"] == Rate(0.0, 0.0)
    assert view.history["berlin"] == ((4000.0, 2000.0),)


def test_no_rate_before_the_second_snapshot() -> None:
    assert first().total == Rate(None, None)
    assert "sent -" in draw(first())


def test_a_restarted_agent_has_no_rate_yet() -> None:
    view = snapshot.advance(first(), later(5.0, tx=10**6, pid=1))
    assert view.total == Rate(None, None)
    assert view.rates["berlin"] == Rate(None, None)


def test_counters_that_went_back_are_no_negative_rate() -> None:
    view = snapshot.advance(first(), later(1.0, tx=-1000, rx=8))
    assert view.total == Rate(None, 64.0)


def test_the_same_snapshot_twice_changes_nothing() -> None:
    view = snapshot.advance(first(), later(2.0, tx=1000))
    assert snapshot.advance(view, view.current) == view


def test_history_is_bounded_and_forgets_removed_peers() -> None:
    view = first()
    for i in range(1, 400):
        view = snapshot.advance(view, later(float(i), tx=i))
    assert len(view.history["berlin"]) == snapshot.HISTORY
    value = raw()
    value["agent"]["uptime_s"] = 1000.0
    value["peers"] = value["peers"][1:]
    view = snapshot.advance(view, status.parse(value))
    assert set(view.history) == {"phone"}
    assert view.selected == "phone"


@given(st.lists(st.tuples(st.floats(-5, 1e6), st.integers(-(10**6), 2**62)), max_size=8))
def test_any_course_of_snapshots_draws(steps: list[tuple[float, int]]) -> None:
    view = first()
    for seconds, tx in steps:
        view = snapshot.advance(view, later(seconds, tx=tx))
        for rate in (*view.rates.values(), view.total):
            assert all(r is None or r >= 0 for r in rate)
    assert "berlin" in draw(view)


# keys


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"q", ["q"]),
        (b"jk", ["down", "up"]),
        (b"\x1b[A\x1bOB", ["up", "down"]),
        (b" ?", ["space", "?"]),
        (b"\x1b[5~\x1b[6~", ["pageup", "pagedown"]),
        (b"\x1b[15;2~q", ["q"]),  # F5 with shift: unknown as a whole
        (b"\x1bOQ", []),  # F2, its Q is no key
        (b"\x1b", []),
        (b"\x1b[", []),
        (b"xyz\xff\x00", []),
    ],
)
def test_keys(data: bytes, expected: list[str]) -> None:
    assert snapshot.keys(data) == expected


@given(st.binary(max_size=60))
def test_any_bytes_are_keys_or_nothing(data: bytes) -> None:
    view: View | None = first()
    for key in snapshot.keys(data):
        assert view is not None
        view = snapshot.press(view, key)
        if view is None:
            assert key == "q"
            return


def test_selection_stays_within_the_list() -> None:
    view: View | None = snapshot.first(many(25))
    for key, expected in [
        ("up", "p000"),
        ("down", "p001"),
        ("pagedown", "p011"),
        ("end", "p024"),
        ("down", "p024"),
        ("pageup", "p014"),
        ("home", "p000"),
    ]:
        assert view is not None
        view = snapshot.press(view, key)
        assert view is not None
        assert view.selected == expected


def test_press() -> None:
    view = first()
    assert snapshot.press(view, "q") is None
    paused = snapshot.press(view, "space")
    assert paused is not None
    assert paused.paused
    assert snapshot.press(paused, "space") == view
    helped = snapshot.press(view, "?")
    assert helped is not None
    assert helped.help
    assert snapshot.press(helped, "j") == view
    empty = snapshot.first(many(0))
    assert snapshot.press(empty, "down") == empty


# pictures


def test_screen() -> None:
    view = first()
    for i in range(1, 9):
        view = snapshot.advance(view, later(float(i), tx=i * i * 1000, rx=i * 10))
    picture = draw(view)
    for piece in (
        "whalescale ws0",
        "↑ sent 120 kbit/s",
        "peers up 1 of 2",
        "dropped no_key 12, replay 3, handshake mac1 1",
        "> berlin",
        "unreachable",
        "▁▂▃▄▅▆▇█",
        "192.0.2.1:51820 → 192.0.2.7:51820",
        "berlin.example:51820, 192.0.2.7:51820",
        "with preshared key, keepalive 25 s",
        "22:13:20 UTC",
        "session established",
        render.HINTS,
    ):
        assert piece in picture


def test_selected_peer_is_detailed() -> None:
    view = snapshot.press(first(), "down")
    assert view is not None
    picture = draw(view)
    assert "any → not known yet" in picture
    assert "never, 7 packets waiting" in picture


def test_paused_help_and_trouble_are_said_in_words() -> None:
    assert "paused: space goes on" in draw(replace(first(), paused=True))
    assert "trouble: no agent" in draw(replace(first(), trouble="no agent\x1b"))
    picture = draw(replace(first(), help=True))
    assert "any key closes it" in picture
    assert all(key in picture for key, _ in render.HELP)


def test_colour_only_beside_words() -> None:
    coloured, bare = draw(first(), color=True), draw(first())
    assert "\x1b[32mup" in coloured
    assert "\x1b" not in bare
    for word in ("up", "unreachable"):
        assert word in bare


@pytest.mark.parametrize("height", [8, 12, 24, 30, 50, 100])
@pytest.mark.parametrize("count", [0, 1, 2, 40, 400])
@pytest.mark.parametrize("help", [False, True])
def test_it_fits_the_terminal(height: int, count: int, help: bool) -> None:
    view = replace(snapshot.first(many(count)), help=help)
    if help and height < 24:
        return
    for selected in {p.name for p in view.current.peers[:: max(count // 3, 1)]} or {None}:
        lines = draw(replace(view, selected=selected), 100, height).splitlines()
        assert len(lines) <= max(height, 9)
        assert all(len(line) <= 100 for line in lines)
        if selected is not None and not help:
            assert any(f"> {selected}" in line for line in lines)


@given(st.integers(20, 250), st.integers(5, 80))
def test_any_size_draws(width: int, height: int) -> None:
    view = snapshot.advance(first(), later(1.0, tx=5))
    assert all(len(line) <= width for line in draw(view, width, height).splitlines())


def test_drops_none() -> None:
    assert render.drops(status.Counters(drops={"auth": 0})) == "none"


def test_offloads() -> None:
    agent = status.parse(raw()).agent
    assert render.offloads(agent) == "offloads but tun_uso"
    value = raw()
    value["agent"]["offloads"]["tun_uso"] = True
    assert render.offloads(status.parse(value).agent) == "all offloads"
    value["agent"]["offloads"] = {}
    assert render.offloads(status.parse(value).agent) == "no offloads"


@pytest.mark.parametrize(
    ("agent", "expected"),
    [
        ({}, "io_uring, ipsec-mb, 1 worker, offloads"),
        ({"workers": 2, "pin_cpus": True}, "2 workers, pinned to CPUs, offloads"),
        ({"busy_poll_us": 50}, "1 worker, busy polling 50 us, offloads"),
    ],
)
def test_how_the_workers_run(agent: dict[str, Any], expected: str) -> None:
    out = io.StringIO()
    Console(file=out, width=200).print(render.summary(later(**agent)))
    assert expected in out.getvalue()


def test_who_relays_what_is_said() -> None:
    value = raw()
    assert render.relayed(status.parse(value)) == ""
    value["counters"] |= {"relayed": 200, "relayed_bytes": 4096, "relayed_kernel": 150}
    assert "75 % by the kernel" in render.relayed(status.parse(value))
    value["counters"]["relayed_kernel"] = 0
    value["relay"] = {"kernel": {"state": "off", "reason": "[relay] kernel = false"}}
    assert "not by the kernel ([relay] kernel = false)" in render.relayed(status.parse(value))


# a phone's terminal


def test_60_columns_have_what_was_dropped() -> None:
    picture = draw(first(), 60, 40)
    assert "CPU 12.5 s " in picture
    assert "dropped no_key 12, replay 3" in picture


def test_what_is_wider_than_the_pane_goes_on_below_it() -> None:
    """Where there are lines to spare; otherwise it ends with an ellipsis, and nothing else goes."""
    high = draw(first(), 60, 60)
    assert "packets 900, 800" in high
    assert "khnpirirqho7ytkf4gbz4bu7vgqx3ziivxwk3o4rvqt2jtagwodhgzsa" in "".join(
        line.strip("│ \n").removeprefix("key").strip() for line in high.splitlines()
    )
    low = draw(first(), 60, 24)
    assert "packet…" in low
    assert "last seen" in low


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("short", ["short"]),
        ("one, two; three, four", ["one, two;", "three,", "four"]),
        ("abcdefghijklmno", ["abcdefghij", "klmno"]),
        ("", [""]),
    ],
)
def test_pieces(value: str, expected: list[str]) -> None:
    assert render._pieces(value, 10) == expected
