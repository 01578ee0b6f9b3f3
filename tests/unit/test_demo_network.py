"""What the network's demo writes down, and that its picture can be drawn of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tools import demo_network_plot
from tools.demo_network_plot import Traffic
from tools.demo_network_record import KNOWN, OFF, OUT, SELF, TALKS, UNKNOWN, Observer


def view(belongs: bool = True, **sessions: bool | None) -> dict[str, Any]:
    """What home is told: by member whether there is a session; None: itself."""
    rows = [
        {
            "name": name,
            "self": session is None,
            "session": bool(session),
            "places": [{"endpoint": "10.0.0.7:51820", "how": "told"}],
        }
        for name, session in sessions.items()
    ]
    return {"network": {"belongs": belongs, "anchors_alive": 1}, "members": rows}


def seen() -> Observer:
    observer = Observer("home")
    observer.take(1.0, None)
    observer.take(2.0, view(home=None, phone=False))
    observer.take(3.0, view(home=None, phone=True))
    observer.take(3.5, view(home=None, phone=True))
    observer.take(4.0, view(home=None))
    observer.take(5.0, view(belongs=False, home=None))
    observer.take(6.0, None)
    return observer


def test_only_changes_are_written_down() -> None:
    observer = seen()
    assert observer.state == [(0.0, OFF), (2.0, "on"), (5.0, OUT), (6.0, OFF)]
    assert observer.members["phone"] == [(2.0, KNOWN), (3.0, TALKS), (4.0, UNKNOWN)]
    assert observer.members["home"] == [(2.0, SELF), (5.0, UNKNOWN)]
    assert observer.alive == [(2.0, 1)]
    assert observer.places["phone", "10.0.0.7"] == 2.0


def test_when_something_was_said_first() -> None:
    observer = seen()
    assert observer.first("phone", (TALKS,)) == 3.0
    assert observer.first("phone", (UNKNOWN,), since=2.5) == 4.0
    assert observer.first("phone", (KNOWN, TALKS), since=2.5) == 2.5
    assert observer.first("phone", (TALKS,), since=4.5) is None
    assert observer.first("nobody", (KNOWN,)) is None
    assert observer.now("nobody") == UNKNOWN


def test_the_picture(tmp_path: Path) -> None:
    png = tmp_path / "who.png"
    traffic = Traffic([(1.0 + n / 50, 8.0) for n in range(200)], [(2.0, 21.0)])
    moved = ("phone", "10.0.0.7")
    observers = [seen(), Observer("phone")]
    demo_network_plot.draw(observers, [(2.0, "joins")], moved, traffic, (0.5, 7.0), png)
    assert png.read_bytes().startswith(b"\x89PNG")
    empty = Traffic([], [])
    demo_network_plot.draw([Observer("home")], [], moved, empty, (0.5, 7.0), png)
