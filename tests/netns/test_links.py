"""The emulated links of tools/: what they are told is what packets meet.

a eth0 10.201.1.1 ── 10.201.1.2 eth0 b
a eth1 10.201.2.1 ── 10.201.2.2 eth1 b
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tools.linkemu import LinkEmu
from tools.netlab import Lab, LabError, Link, Shape
from tools.twohosts import TwoHosts, two_hosts

pytestmark = pytest.mark.netns
BACKENDS = ("linkemu", "wirefilter")


def pings(two: TwoHosts, link: Link, count: int, interval_s: float = 0.02) -> list[float]:
    """Round trips in ms of those of `count` pings that came back."""
    words = ("-c", str(count), "-i", f"{interval_s:g}", "-W1", link.address(two.b))
    done = two.a.run("ping", "-n", *words, check=False)
    return [float(t) for t in re.findall(r"time=([\d.]+)", done.stdout)]


@pytest.mark.alone
@pytest.mark.parametrize("backend", BACKENDS)
def test_each_link_has_its_own_delay(lab: Lab, backend: str) -> None:
    two = two_hosts(lab, [Shape(100, 20), Shape(50, 5)], backend=backend)
    for link in two.links:
        times = sorted(pings(two, link, 20))
        assert len(times) == 20
        # wirefilter rounds to its millisecond.
        assert 2 * link.shape.delay_ms - 1 <= times[0] < 2 * link.shape.delay_ms + 5


@pytest.mark.alone
def test_the_queue_is_as_long_as_it_was_said_to_be(lab: Lab) -> None:
    """1,000 packets of 1,014 bytes at once into 50 packets' worth of queue."""
    shape = Shape(rate_mbit=10, delay_ms=5, buffer_bytes=50 * 1014)
    two = two_hosts(lab, [shape], backend="linkemu")
    link = two.links[0]
    assert pings(two, link, 3)  # the neighbours know each other
    before = counters(link)
    words = ("-f", "-c", "1000", "-l", "1000", "-s", "972", "-W1", link.address(two.b))
    two.a.run("ping", "-n", "-q", *words, check=False)
    after = counters(link)
    out, dropped = (after[k][0] - before[k][0] for k in ("out", "dropped"))
    # What leaves while the burst comes in makes room for a few more.
    assert 50 <= out < 400
    assert dropped >= 600
    assert after["lost"] == before["lost"] == (0, 0)


def test_a_silent_link_stays_up_and_comes_back(lab: Lab) -> None:
    two = two_hosts(lab, [Shape(100, 5), Shape(50, 5)])
    one, other = two.links
    one.silence(True)
    assert pings(two, one, 5) == []
    assert len(pings(two, other, 5)) == 5
    for host in (two.a, two.b):
        (row,) = host.ip_json(f"link show dev {one.device(host)}")
        assert "LOWER_UP" in row["flags"]
    one.silence(False)
    assert len(pings(two, one, 5)) == 5


def test_loss_is_what_it_was_told_and_the_same_for_a_seed(lab: Lab) -> None:
    gone = []
    for _ in range(2):
        with Lab(seed=7) as again:
            two = two_hosts(again, [Shape(loss_percent=10, delay_ms=1)], backend="linkemu")
            pings(two, two.links[0], 3)
            link = two.links[0]
            lost = counters(link)["lost"][0]
            words = ("-q", "-f", "-l", "50", "-c", "2000", "-W1", link.address(two.b))
            two.a.run("ping", *words, check=False)
            gone.append(counters(link)["lost"][0] - lost)
    assert 140 <= gone[0] <= 260
    assert abs(gone[0] - gone[1]) <= 20  # a neighbour's question more or less shifts the draws


@pytest.mark.alone
def test_a_recording_says_what_may_leave(lab: Lab, tmp_path: Path) -> None:
    """100 packets of 1,014 bytes at once, ten of them each 20 ms."""
    recording = tmp_path / "lumps.ms"
    recording.write_text("0\n" * 19 + "10140\n")
    shape = Shape(rate_mbit=100, delay_ms=1, buffer_bytes=200_000)
    two = two_hosts(lab, [shape], backend="linkemu")
    link = two.links[0]
    assert pings(two, link, 3)
    emulator(link).record(recording)
    words = ("-c", "100", "-l", "100", "-s", "972", "-W1", link.address(two.b))
    done = two.a.run("ping", "-n", *words, check=False)
    times = sorted(float(t) for t in re.findall(r"time=([\d.]+)", done.stdout))
    assert len(times) == 100
    assert 170 < times[-1] - times[0] < 260
    emulator(link).record(None)
    assert max(pings(two, link, 5)) < 50


def test_a_policer_drops_udp_above_its_rate(lab: Lab) -> None:
    two = two_hosts(lab, [Shape(delay_ms=1)], backend="linkemu")
    link = two.links[0]
    assert pings(two, link, 3)
    emulator(link).police(1, 30_000)
    before = counters(link)["dropped"][0]
    script = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        f"for _ in range(100): s.sendto(bytes(1000), ('{link.address(two.b)}', 9))"
    )
    two.a.run(sys.executable, "-c", script)
    assert len(pings(two, link, 20)) == 20  # no UDP
    # 30 pass at once; for each 8 ms that a busy machine takes to send them one more.
    assert 40 <= counters(link)["dropped"][0] - before <= 72


def test_what_makes_no_sense_is_refused(lab: Lab, tmp_path: Path) -> None:
    link = two_hosts(lab, [Shape(delay_ms=1)], backend="linkemu").links[0]
    for text in ("", "0\n0\n", "12\nmany\n", "-1\n" * 2, "99999999999\n"):
        (tmp_path / "bad.ms").write_text(text)
        with pytest.raises(LabError, match="linkemu refused"):
            emulator(link).record(tmp_path / "bad.ms")
    with pytest.raises(LabError, match="linkemu refused"):
        emulator(link).record(tmp_path / "none.ms", back=True)
    with pytest.raises(LabError, match="linkemu refused"):
        link.reshape(loss_percent=101.0)
    link.reshape(loss_percent=0.0)


def test_a_bare_link_says_that_it_cannot_go_silent(lab: Lab) -> None:
    link = two_hosts(lab, [Shape()]).links[0]
    with pytest.raises(LabError, match="cannot go silent"):
        link.silence(True)


def emulator(link: Link) -> LinkEmu:
    assert isinstance(link._linkemu, LinkEmu)
    return link._linkemu


def counters(link: Link) -> dict[str, tuple[int, int]]:
    return emulator(link).set(link.shape)
