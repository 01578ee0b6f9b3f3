"""The members of the network in `ws top`, `ws members --watch` and `ws status`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from picture import picture_of

from whalescale import status
from whalescale.tui import members, render, snapshot
from whalescale.tui.snapshot import View

RAW = (Path(__file__).parent / "status.json").read_text()


def network(count: int = 0) -> dict[str, Any]:
    """This machine, the two peers of the sample, and as many others as are asked for."""
    berlin, phone = (p["id"] or f"id-{p['name']}" for p in json.loads(RAW)["peers"])
    some = [
        {"name": "home", "id": "own", "here": True, "admin": True, "address": "10.99.0.1"},
        {"name": "berlin", "id": berlin, "anchor": True, "session": True, "reached": "dialled"},
        {"name": "phone\x1b", "id": phone, "address": "10.99.0.3"},
    ]
    some += [{"name": f"m{i:03}", "id": f"id{i}"} for i in range(count)]
    warnings = ["the last anchor: a second one on another network would outlive it"]
    return {"name": "hearth", "anchors_alive": 1, "warnings": warnings, "members": some}


def view(count: int = 0) -> View:
    raw = json.loads(RAW)
    raw["network"] = network(count)
    raw["events"] = [*raw.get("events", []), {"t": 60.0, "event": "berlin joined the network"}]
    return replace(snapshot.first(status.parse(raw)), members=True)


def draw(of: View, width: int = 120, height: int = 30) -> str:
    return picture_of(render.screen(of, width, height), width, height)


def test_who_in_which_role_reached_how_and_seen_when() -> None:
    lines = draw(view()).splitlines()
    (head,) = (line for line in lines if line.startswith("hearth: "))
    assert head.split(": ")[1].strip() == "3 members, 1 of 2 others reached, 1 anchor alive"
    rows = {line.split()[0]: line for line in lines if line.strip()}
    assert rows["home"].split()[:4] == ["home", "admin", "this", "machine"]
    assert rows["berlin"].split()[:3] == ["berlin", "anchor", "dialled"]
    assert "ago" in rows["berlin"]
    assert "192.0.2.7:51820" in rows["berlin"]
    assert "not now" in rows["phone?"]
    assert "the last anchor" in rows["warning"]
    assert any("00:01:00 UTC  berlin joined the network" in line for line in lines)
    # This machine first, then who is reached.
    assert [n for n in rows if n in {"home", "berlin", "phone?"}] == ["home", "berlin", "phone?"]


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
@pytest.mark.parametrize("height", [12, 24, 50])
@pytest.mark.parametrize("count", [0, 300])
def test_any_terminal(width: int, height: int, count: int) -> None:
    for show in (render.screen, render.members_screen):
        picture = picture_of(show(view(count), width, height), width, height)
        lines = picture.splitlines()
        assert len(lines) <= height
        assert max(map(len, lines)) <= width
        if count:
            assert "more: `ws members`" in picture
    if width >= 60:
        assert "dialled" in picture
        assert "last seen" in picture


def test_m_shows_them_and_goes_back() -> None:
    assert snapshot.keys(b"m") == ["m"]
    before = replace(view(), members=False)
    assert "this machine" not in draw(before)
    assert "m members" in draw(before, 60)
    shown = snapshot.press(before, "m")
    assert shown is not None
    assert "this machine" in draw(shown)
    assert snapshot.press(shown, "m") == before


def test_without_a_network_it_says_how_to_make_one() -> None:
    lone = replace(snapshot.first(status.parse(json.loads(RAW))), members=True)
    assert members.NO_NETWORK in draw(lone)
    assert "m members" not in draw(lone)
    assert "hearth" in picture_of(render.summary(view().current), 120, 40)
    assert "network" not in picture_of(render.summary(lone.current), 120, 40)


def test_a_warning_is_whole_where_there_is_room() -> None:
    narrow = draw(view(), 60, 30)
    assert "network would outlive it" in " ".join(narrow.split())
    low = draw(view(), 60, 16)
    assert "…" in next(line for line in low.splitlines() if line.startswith("warning"))


def test_60_columns_have_every_hint() -> None:
    hints = draw(view(), 60, 40).splitlines()[-1]
    for key in ("help", "members", "quit", "pause", "choose"):
        assert key in hints
    assert "…" not in hints
