"""The multipath bench measures what its links are: short flows over slow links."""

from __future__ import annotations

import os

import pytest

from tools.mpbench import load
from tools.mpbench.contestants import Stage
from tools.mpbench.model import MPTCP, WS, Options, Scenario
from tools.netlab import Shape

pytestmark = [pytest.mark.netns, pytest.mark.alone]
SHAPES = (Shape(20, 5), Shape(10, 5))
OPTIONS = Options(seconds=1.5, warm_s=1.0, quick=True)


@pytest.fixture(autouse=True)
def _root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces")


def test_a_bare_link_and_mptcp_over_both() -> None:
    row = Scenario("test", "test", "goodput", SHAPES, ())
    with Stage("bare:1", row, 1, {}) as stage:
        flow, values = load.carry(stage, "bare:1", row, OPTIONS, "bbr")
        assert 16 < values["mbps"] < 20
        assert flow.error == ""
        assert len(flow.bins) == 250
        assert values["stall_ms"] < 500
        flow, values = load.carry(stage, MPTCP, row, OPTIONS, "cubic")
        assert 21 < values["mbps"] < 30
        assert flow.sender["subflows"] == 2
        carried = [counts[-1] - counts[0] for counts in flow.device_bytes.values()]
        assert min(carried) > 100_000


@pytest.mark.long
def test_a_link_that_goes_silent_is_seen_to() -> None:
    """One link, alone in the tunnel: the flow stalls as long as the silence, and is not broken."""
    row = Scenario("test", "test", "silent", SHAPES[:1], (), victim=1)
    with Stage(WS, row, 1, {}) as stage:
        flow, values = load.carry(stage, WS, row, OPTIONS, "bbr")
        assert flow.error == ""
        assert values["stall_ms"] > 4500
        assert values["victim_share"] > 0.7
        assert values["mbps_silent"] < 1
        assert flow.events["after"] - flow.events["silent"] == pytest.approx(5.0, abs=0.5)
        # And the link is as it was.
        _, values = load.carry(stage, WS, Scenario("t", "t", "goodput", SHAPES[:1], ()), OPTIONS,
                               "bbr")  # fmt: skip
        assert values["mbps"] > 14
