"""What the demo shows below its bar while it downloads."""

from __future__ import annotations

import io
from typing import Any, cast

import pytest
from multipath_sample import later, three
from rich.console import Console

from tools import demo_view
from whalescale import status
from whalescale.cli.ending import CliError

MBIT = 125_000


class Agent:
    """A connection to an agent that ends after two answers."""

    def __init__(self) -> None:
        self.value = three()
        self.answers = 2

    def status(self) -> tuple[status.Status, dict[str, Any]]:
        if not self.answers:
            raise CliError("the agent is gone", "start it")
        self.answers -= 1
        self.value = later(self.value, 1.0, wlan0=(32 * MBIT, 1000), wwan0=(0, 0))
        return status.parse(self.value), {}


def test_the_paths_stand_below_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("tools.demo_view.time.monotonic", lambda: now[0])
    out = io.StringIO()
    bar = demo_view.Bar(console=Console(file=out, width=120, height=40, force_terminal=True))
    bar.add_task("60 MB over both", total=1)
    view = demo_view.PathsView(cast(Any, Agent()), "ws paths on the server")

    def shown() -> str:
        out.truncate(0)
        bar.console.print(bar.get_renderable())
        return out.getvalue()

    view.look(bar)
    assert "wlan0" not in shown()  # rates need two looks
    now[0] += demo_view.LOOK_S
    view.look(bar)
    text = shown()
    assert "60 MB over both" in text
    assert "ws paths on the server" in text
    for word in ("wlan0", "eth0", "failed", "32.0 Mbit/s"):
        assert word in text, text
    now[0] += demo_view.LOOK_S
    view.look(bar)
    assert "the agent is gone" in shown()
