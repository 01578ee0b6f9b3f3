"""A flow at full rate over the only link, of which a host knows several paths (IPv4, IPv6)."""

from __future__ import annotations

import pytest

from tests.netns.conftest import Two, multipath, used
from tools.netlab import wait_until

pytestmark = pytest.mark.netns


@pytest.mark.alone
def test_a_flow_stays_on_its_path_and_waits_for_nothing(two: Two) -> None:
    """What is not kept of a rush is not lost, and over one path jitter holds no TCP back."""
    two.start()
    two.b.ping(two.a, count=1)
    wait_until("a second path", lambda: len(multipath(two.a)["paths"]) > 1, 10)
    (before,) = wait_until("one path in use", lambda: (p := used(two.a)) and len(p) == 1 and p, 10)
    listener = two.b.host.spawn("iperf3", "-s", "-1", "-B", two.b.inside())
    two.b.host.wait_listening(5201)
    two.a.host.run("iperf3", "-c", two.b.inside(), "-t", "6", timeout=30)
    listener.wait(10)
    (after,) = used(two.a)
    assert after["id"] == before["id"]
    for end in (two.a, two.b):
        # A busy machine may answer late, and a path be degraded for that; it loses nothing.
        events = [e["event"] for e in end.status()["events"]]
        assert not [e for e in events if "% loss" in e], events
        assert multipath(end)["reordering"]["aligned"] == 0
