"""Each datagram to the worker that owns its receiver index, each packet to its owner's queue."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tools.netlab import Lab
from tools.peers import ROOT

pytestmark = pytest.mark.netns

#: 66 indices, six messages each
SENT = 66 * 6


@pytest.fixture
def told(lab: Lab) -> Any:
    host = lab.host("a")
    script = Path(__file__).parent / "bpf_steer_node.py"
    out = host.run(ROOT / ".venv/bin/python", script, env={"PYTHONPATH": str(ROOT)})
    return json.loads(out.stdout)


def test_datagrams_and_packets_go_to_their_worker(told: Any) -> None:
    assert told["wrong"] == []
    for address in ("127.0.0.1", "0.0.0.0", "::1", "::"):  # noqa: S104
        by_worker = {w: told["right"][f"{address} {w}"] for w in range(4)}
        assert sum(by_worker.values()) == SENT, address
        assert all(n >= 16 * 3 for n in by_worker.values())
    assert told["udp_counts"] == [4 * SENT, 0]
    assert told["fallback"] == 50
    assert told["group_again"]
    assert told["tun"] == {target: [20, 0] for target in told["tun"]}
    assert len(told["tun"]) == 6
    steered, unknown = told["tun_counts"]
    assert steered >= 20 * 4
    assert unknown >= 20 * 2
