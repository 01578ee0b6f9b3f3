"""What the NAT demo writes down, and that its picture can be drawn of it."""

from __future__ import annotations

from pathlib import Path

from tools import demo_nat_plot
from tools.demo_nat_record import DIRECT, Ways, by
from whalescale import status

HUB = {"5.6.1.1": "cloud", "fd00::1": "office"}


def peer(*paths: status.Path) -> status.Peer:
    return status.Peer(name="desk", state="up", multipath=status.Multipath(paths=paths))


def path(number: int, remote: str, went: int, *, usable: bool = True) -> status.Path:
    return status.Path(
        id=number,
        remote=remote,
        state="healthy",
        usable=usable,
        tx_bytes=went,
        relayed=remote.startswith(("5.6.1.1:", "[fd00::1]:")),
    )


def seen() -> Ways:
    ways = Ways(HUB)
    ways.take(1.0, None)
    ways.take(2.0, peer(path(0, "5.6.1.1:7", 100)))
    ways.take(3.0, peer(path(0, "5.6.1.1:7", 150, usable=False), path(1, "5.6.4.1:9", 1000)))
    # Given up and found again: its count begins anew.
    ways.take(4.0, peer(path(0, "5.6.1.1:7", 30), path(1, "5.6.4.1:9", 3000)))
    ways.take(5.0, peer(path(2, "[fd00::1]:7", 5)))
    return ways


def test_bytes_are_told_by_way() -> None:
    ways = seen()
    assert ways.samples[0].went == {}
    assert ways.samples[2].went == {by("cloud"): 50, DIRECT: 1000}
    assert ways.total(by("cloud"), 0.0, 9.0) == 180
    assert ways.total(DIRECT, 3.0, 9.0) == 2000
    assert ways.total(by("office"), 0.0, 9.0) == 5


def test_usable_ways_are_those_of_the_last_look() -> None:
    ways = Ways(HUB)
    assert ways.usable() == frozenset()
    ways = seen()
    assert ways.samples[2].usable == {DIRECT}
    assert ways.usable() == {by("office")}


def test_the_picture(tmp_path: Path) -> None:
    png = tmp_path / "ways.png"
    ways = Ways(HUB)
    for n in range(60):
        ways.take(
            1.0 + n / 10, peer(path(n // 30, "5.6.1.1:7" if n < 30 else "5.6.4.1:9", n * 1000))
        )
    events = [(1.5, "moves"), (4.0, "home again")]
    demo_nat_plot.draw(ways.samples, [(2.0, 21.0)], events, (1.0, 7.0), png)
    assert png.read_bytes().startswith(b"\x89PNG")
    demo_nat_plot.draw([], [], events, (1.0, 7.0), png)
