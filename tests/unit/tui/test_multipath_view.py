"""A peer's paths in `ws paths`, `ws status` and `ws top`: three of them, one failed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multipath_sample import later, path, three
from picture import picture_of
from rich.console import RenderableType

from whalescale import status
from whalescale.tui import multipath, render, snapshot
from whalescale.tui.snapshot import Rate, View

MBIT = 125_000


def view_of(value: dict[str, Any]) -> View:
    return snapshot.first(status.parse(value))


def live(seconds: int = 20) -> View:
    """WiFi carries 32 Mbit/s all the time, 5G first nothing and then 8."""
    value = three()
    view = view_of(value)
    for i in range(seconds):
        mobile = MBIT * 8 if i >= seconds // 2 else 0
        value = later(value, 1.0, wlan0=(MBIT * 32, 1000), wwan0=(mobile, 0))
        view = snapshot.advance(view, status.parse(value))
    return view


def draw(what: RenderableType, width: int = 120, height: int = 60, color: bool = False) -> str:
    return picture_of(what, width, height, color)


def screen(view: View, width: int = 120, height: int = 60, color: bool = False) -> str:
    return draw(render.screen(view, width, height), width, height, color)


def line_with(picture: str, piece: str) -> str:
    return next(line for line in picture.splitlines() if piece in line)


# rates


def test_rates_and_history_of_each_path() -> None:
    view = live(20)
    _, wlan, wwan = view.current.peers[0].multipath.paths  # type: ignore[union-attr]
    key = snapshot.path_key("berlin", wlan)
    assert view.multipath_rates[key] == Rate(32e6, 8000.0)
    history = view.multipath_history[snapshot.path_key("berlin", wwan)]
    assert [tx for tx, _ in history] == [0.0] * 10 + [8e6] * 10


def test_a_path_that_moved_begins_anew() -> None:
    view = live(5)
    value = later(three(), 10.0)
    value["peers"][0]["multipath"]["paths"][1]["local"] = "10.9.0.2:51820"
    view = snapshot.advance(view, status.parse(value))
    moved = view.current.peers[0].multipath.paths[1]  # type: ignore[union-attr]
    key = snapshot.path_key("berlin", moved)
    assert view.multipath_rates[key] == Rate()
    assert len(view.multipath_history[key]) == 1
    assert len(view.multipath_history) == 3


def test_history_is_bounded_and_ends_with_its_path() -> None:
    view = live(snapshot.HISTORY + 5)
    assert {len(h) for h in view.multipath_history.values()} == {snapshot.HISTORY}
    value = later(three(), 1000.0)
    value["peers"][0]["multipath"] = None
    assert snapshot.advance(view, status.parse(value)).multipath_history == {}


# ws paths


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160, 250])
def test_every_figure_is_there_at_any_width(width: int) -> None:
    view = view_of(three())
    picture = draw(render.paths_of(view, ["berlin"], width), width)
    for piece in (
        *("eth0", "wlan0", "wwan0", "failed", "healthy", "degraded"),
        *("21.3 ms", "61.0 ms", "1.24 ms", "20.1 ms"),
        *("0.13 %", "8.1 %", "67 %", "33 %"),
        *("38.2 Mbit/s", "9.40 Mbit/s", "31.0 Mbit/s", "4.10 ms"),
        *("1.21 GiB", "381 MiB", "12.1 MiB", "120 KiB", "1,420"),
        "10.9.0.1:51820 → 192.0.2.7:51820",
        "tier 2, at most 50 %",
        "2 of 3 paths in use, edf",
        "gaps 120 (118 filled)",
        *("skipped 2", "late 1"),
    ):
        assert piece in picture
    # `reordering` and `queue` may fold; the paths' lines do not.
    table = picture[: picture.index("reordering")]
    assert all(len(line) <= width for line in table.splitlines())
    assert "phone" not in picture


def test_the_figures_stand_under_their_heads() -> None:
    lines = draw(render.paths_of(view_of(three()), ["berlin"], 100), 100).splitlines()
    head = lines[1]
    (wlan,) = [line for line in lines if "wlan0" in line]
    for title, value in (("RTT", "21.3 ms"), ("loss", "0.13 %"), ("rate", "38.2 Mbit/s")):
        assert head.index(title) + len(title) == wlan.index(value) + len(value)
    assert head.index("state") == wlan.index("healthy")


def test_what_nobody_pinned_takes_no_room() -> None:
    value = three()
    for p in value["peers"][0]["multipath"]["paths"]:
        p["pin"] = {}
    assert "pinned" not in draw(render.paths_of(view_of(value), [], 250), 250)


def test_rates_show_once_they_are_known() -> None:
    assert "now" not in draw(render.paths_of(view_of(three()), [], 250), 250)
    picture = draw(render.paths_of(live(), [], 250), 250)
    assert "↑ now" in picture
    assert "32.0 Mbit/s" in line_with(picture, "wlan0")


def test_why_there_are_no_paths() -> None:
    value = three()
    value["peers"][0]["multipath"] = None
    view = view_of(value)
    assert "berlin: one path only: [multipath] is off" in draw(render.paths_of(view, [], 200), 200)
    assert "phone: no session (unreachable)" in draw(render.paths_of(view, [], 120))
    value["peers"][0]["extended"] = False
    assert "plain WireGuard" in draw(render.paths_of(view_of(value), ["berlin"], 120))
    value["peers"] = []
    assert "no peers yet" in draw(render.paths_of(view_of(value), [], 120))


def test_the_watched_screen_says_what_is_wrong() -> None:
    view = live(2)
    assert "trouble" not in draw(render.paths_screen(view, [], 120, 40))
    for change, piece in (
        ({"trouble": "no agent\x1b"}, "trouble: no agent?"),
        ({"paused": True}, "paused: space goes on"),
        ({"help": True}, "any key closes it"),
    ):
        changed = replace(view, **change)  # type: ignore[arg-type]
        assert piece in draw(render.paths_screen(changed, [], 120, 40))


# ws status


def test_a_line_for_each_path() -> None:
    peers = view_of(three()).current.peers
    for width in (40, 80, 120, 200):
        brief = multipath.brief(peers, width)
        assert brief is not None
        lines = draw(brief, width).splitlines()
        assert len(lines) == 4
        assert all(len(line) <= width for line in lines)
    assert "berlin" in lines[1]
    assert "failed" in lines[1]
    assert multipath.brief(peers[1:], 120) is None


# ws top


def test_paths_of_the_chosen_peer() -> None:
    picture = screen(live(), 140, 60)
    assert "2 of 3 paths in use, edf" in picture
    for name, pieces in {
        "path 0 ": ("eth0", "failed", "0 %"),
        "path 1 ": ("wlan0", "healthy", "21.3 ms", "1.24 ms", "0.13 %", "38.2 Mbit/s", "67 %"),
        "path 2 ": ("wwan0", "degraded", "8.1 %", "33 %", "4.10 ms"),
    }.items():
        line = line_with(picture, f"│  {name}")
        for piece in pieces:
            assert piece in line
    assert "2 of 3" in line_with(picture, "> berlin")
    assert "depth 12 (most 128), gaps 120 (118 filled), skipped 2, late 1" in picture
    assert "ACKs 1,200 sent, 1,180 received" in picture
    # What the eBPF programs counted of the same path.
    assert "sent 900 datagrams" in picture


def test_sparklines_of_all_paths_have_one_scale() -> None:
    lines = screen(live(20), 140, 60).splitlines()
    at = {n: i for i, line in enumerate(lines) for n in (0, 1, 2) if f"path {n}  " in line}
    assert "▁" * 20 + " 0 bit/s (1.21 GiB)" in lines[at[0] + 1]
    assert "█" * 20 + " 32.0 Mbit/s" in lines[at[1] + 1]
    assert "▁" * 10 + "▃" * 10 + " 8.00 Mbit/s" in lines[at[2] + 1]


def test_states_and_events_have_a_colour_beside_their_word() -> None:
    picture = screen(live(), 140, 60, color=True)
    for piece in ("\x1b[32mhealthy", "\x1b[33mdegraded", "\x1b[31mfailed"):
        assert piece in picture
    assert "\x1b[32mup\x1b[0m: wlan0" in picture
    assert "\x1b[31mfailed\x1b[0m: eth0" in picture
    assert "\x1b" not in screen(live(), 140, 60)


@pytest.mark.parametrize(
    ("line", "style"),
    [
        ("path 1 up: wlan0 a to b", "green"),
        ("path 1 degraded: wlan0 a to b", "yellow"),
        ("path 1 failed: wlan0 a to b: silent", "red"),
        ("path 1 roamed: wlan0 a to b: moved to c", "cyan"),
        ("path 1 removed: wlan0 a to b", "dim"),
    ],
)
def test_words_of_events(line: str, style: str) -> None:
    told = multipath.event(line)
    assert not isinstance(told, str)
    assert told.plain == line
    assert [(str(s.style), line[s.start : s.end]) for s in told.spans] == [
        (style, line.split()[2].rstrip(":"))
    ]


@pytest.mark.parametrize("line", ["session", "path", "path 1", "endpoint 192.0.2.7:51820", ""])
def test_other_events_are_as_they_were(line: str) -> None:
    assert multipath.event(line) == line


def test_spares_and_disabled_ones_say_so() -> None:
    value = three()
    paths = value["peers"][0]["multipath"]["paths"]
    paths[1]["usable"] = False
    paths[2] |= {"usable": False, "pin": {"disabled": True}}
    picture = screen(view_of(value))
    assert "healthy, spare" in line_with(picture, "path 1  ")
    assert "disabled" in line_with(picture, "path 2  ")
    assert "0 of 3 paths in use" in picture


def test_a_link_local_spare_of_a_card_in_use_is_no_second_path() -> None:
    value = three()
    paths = value["peers"][0]["multipath"]["paths"]
    spare = path(3, paths[1]["interface"], "") | {"usable": False}
    paths.append(spare | {"local": "[fe80::1%2]:51820", "remote": "[fe80::2%2]:51820"})
    view = view_of(value)
    found = view.current.peers[0].multipath
    assert found is not None
    assert [p.id for p in multipath.shown(found)] == [0, 1, 2]
    assert "of 3 paths" in screen(view)
    # It is what is left when the other one is down.
    paths[1]["usable"] = False
    found = view_of(value).current.peers[0].multipath
    assert found is not None
    assert [p.id for p in multipath.shown(found)] == [0, 1, 2, 3]


@pytest.mark.parametrize("height", range(8, 60))
def test_many_paths_fit_any_height(height: int) -> None:
    value = three()
    value["peers"][0]["multipath"]["paths"] += [path(n, f"eth{n}", "10.0.0.1") for n in range(3, 8)]
    for width in (60, 100, 140):
        picture = screen(view_of(value), width, height)
        assert len(picture.splitlines()) <= max(height, 9)
        assert "> berlin" in picture
        if height >= 28:
            assert all(f"path {n} " in picture for n in range(8))


@given(st.integers(20, 250), st.integers(5, 80))
def test_any_size_draws(width: int, height: int) -> None:
    assert all(len(line) <= width for line in screen(live(2), width, height).splitlines())


def test_names_from_elsewhere_draw_as_text() -> None:
    value = three()
    value["peers"][0]["multipath"]["scheduler"] = "\x1b[2J"
    value["peers"][0]["multipath"]["paths"][1] |= {"interface": "\x1b[1m[red]w", "local": "\x07"}
    value["events"][-1]["event"] = "path 1 failed: \x1b]0;x\x07"
    view = view_of(value)
    brief = multipath.brief(view.current.peers, 120)
    assert brief is not None
    for picture in (screen(view), draw(render.paths_of(view, [], 120)), draw(brief)):
        assert "\x1b" not in picture
        assert "\x07" not in picture
        assert "[red]w" in picture


# words


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0, "0 %"),
        (-1, "0 %"),
        (1e-9, "0.01 %"),
        (0.0013, "0.13 %"),
        (0.01, "1.0 %"),
        (0.081, "8.1 %"),
        (0.0996, "10 %"),
        (1, "100 %"),
    ],
)
def test_percent(share: float, expected: str) -> None:
    assert multipath.percent(share) == expected


def test_pins_in_words() -> None:
    assert multipath.pin_words(status.Pin()) == ""
    whole = status.Pin(disabled=True, tier=0, weight_cap=0.25)
    assert multipath.pin_words(whole) == "disabled, tier 0, at most 25 %"


def test_the_buffer_in_words() -> None:
    r = status.Reordering
    assert multipath.reordering(status.Multipath()) == "nothing came yet"
    calm = status.Multipath(reordering=r(delivered=5, in_order=5))
    assert "0 of 5 waited 0.00 ms" in multipath.reordering(calm)
    bad = status.Multipath(reordering=r(refused=3, skipped_full=2, duplicates=1))
    assert multipath.reordering(bad).endswith("skipped as full 2, copies 1, refused 3")
    assert "refused 7" not in multipath.queue(status.Multipath())
    assert multipath.queue(status.Multipath(ack_refused=7)).endswith("7 refused")


def test_pieces_are_folded_whole() -> None:
    assert multipath.folded(["aa", "bb", "cccccc", "d"], 6) == ["aa, bb", "cccccc", "d"]
    assert multipath.folded([], 6) == []


def test_a_phones_terminal_is_not_cut_without_a_word() -> None:
    picture = screen(live(20), 60, 30)
    for line in picture.splitlines():
        if line.startswith("│"):
            assert line.endswith(" │"), line
    # Rates stay, in place of half of the totals.
    assert "↑ 32.0 Mbit/s  ↓ 8.00 kbit/s" in picture
    assert "GiB)" not in picture
    wide = screen(live(20), 200, 40)
    assert "32.0 Mbit/s (1.29 GiB)" in wide
    assert "…" not in wide


def test_the_chosen_peer_is_one_bar() -> None:
    """Not broken between its cells, and without a state's colour on the bar's."""
    line = line_with(screen(live(2), 60, 30, color=True), "> berlin")
    assert "\x1b[32m" not in line
    assert line.count("44m") >= 4  # each cell, and what is between two


def test_what_was_not_heard_for_long_is_not_called_healthy() -> None:
    value = three()
    value["peers"][0]["multipath"]["paths"] = [
        path(0, "lan0", "192.0.2.1", heard_s=40.2, usable=True),
        path(1, "wlan0", "10.9.0.1", heard_s=130.0, usable=False, relayed=True),
        path(2, "wwan0", "203.0.113.9", heard_s=20.0),
        path(3, "wwan1", "203.0.113.10", heard_s=90.0, state="failed", usable=False),
    ]
    for what in (
        multipath.of_peer(status.parse(value).peers[0], 120),
        multipath.brief(status.parse(value).peers, 120),
        render.screen(view_of(value), 120, 60),
    ):
        assert what is not None
        picture = draw(what)
        assert "idle 40 s" in line_with(picture, "lan0")
        assert "idle 2 min 10 s, spare, relay" in line_with(picture, "wlan0")
        assert "healthy" in line_with(picture, "wwan0")
        assert "failed" in line_with(picture, "wwan1")
        assert picture.count("healthy") == 1
