"""The demo's figures and its picture, of counters and pings made up here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import demo_plot
from tools.demo_record import Pings, Record, longest_stall_s, parse_pings, received_bytes
from tools.netlab import LabError

MBIT = 1_000_000 // 8

PROC_NET_DEV = """Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop
    lo:       0       0    0    0    0     0          0         0        0       0    0    0
 wwan0:123456789  99999    0    0    0     0          0         0   654321    4321    0    0
ws0d1: 42 1    0    0    0     0          0         0   7    1    0    0
"""


def test_counters_are_those_of_received_bytes() -> None:
    assert received_bytes(PROC_NET_DEV) == {"lo": 0, "wwan0": 123456789, "ws0d1": 42}


def test_pings_that_later_ones_overtook_are_lost() -> None:
    text = (
        "PING 10.77.0.2 (10.77.0.2) 56(84) bytes of data.\n"
        "[1000.500000] 64 bytes from 10.77.0.2: icmp_seq=1 ttl=64 time=12.5 ms\n"
        "[1000.700000] 64 bytes from 10.77.0.2: icmp_seq=3 ttl=64 time=40 ms\n"
        "[1000.710000] 64 bytes from 10.77.0.2: icmp_seq=3 ttl=64 time=50 ms (DUP!)\n"
        "[1000.900000] From 10.77.0.1 icmp_seq=4 Destination Host Unreachable\n"
    )
    pings = parse_pings(text, -900.0)
    assert pings.lost == 1
    assert pings.answers[0] == pytest.approx((100.5, 12.5))
    assert pings.percentile_ms(1.0) == 50
    assert parse_pings("", 0.0) == Pings()


def test_the_longest_stall_reaches_to_both_ends() -> None:
    times = [0.0, 1.0, 2.0, 3.0, 4.0]
    assert longest_stall_s(times, [0, 5, 5, 5, 9], 0.0, 4.0) == 3.0
    assert longest_stall_s(times, [0, 5, 9, 9, 9], 0.0, 5.0) == 3.0
    assert longest_stall_s(times, [7, 7, 7, 7, 7], 0.5, 4.0) == 3.5
    assert longest_stall_s([], [], 1.0, 3.0) == 2.0


def example() -> Record:
    """10 s at 100 + 50 Mbit/s; the first link is away from 4 s to 6 s."""
    record = Record(("5G", "WiFi"), "ws0", ("wwan0", "wlan0"), [100.0, 50.0])
    record.began, record.cut, record.back, record.ended = 0.0, 4.0, 6.0, 10.0
    record.times = [i / 50 for i in range(501)]
    first = [100 * MBIT * (t if t < 4 else max(4.0, t - 2)) for t in record.times]
    second = [50 * MBIT * t for t in record.times]
    record.counts = {
        "wwan0": [round(n) for n in first],
        "wlan0": [round(n) for n in second],
        "ws0": [round(a + b) for a, b in zip(first, second, strict=True)],
    }
    record.pings = Pings(tuple((t / 10, 12.0) for t in range(100)))
    return record


def test_rates_before_the_cut_and_in_it() -> None:
    record = example()
    assert record.mbps("ws0", 0.5, 4.0) == pytest.approx(150, rel=0.01)
    assert record.mbps("ws0", 4.1, 6.0) == pytest.approx(50, rel=0.01)
    again = record.used_again_s(0, 100)
    assert again is not None
    assert again < 0.05
    assert record.stall_s(4.0, 6.0) < 0.05


def test_the_picture_is_a_png(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "demo.png"
    demo_plot.check(path)
    demo_plot.draw(example(), path)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(content) > 10_000


def test_a_place_that_takes_no_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LabError, match=r"file.*--png"):
        demo_plot.check(tmp_path / "file" / "demo.png")
