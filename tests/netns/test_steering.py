"""Several workers in an agent: each session stays with the worker that owns it."""

from __future__ import annotations

import pytest

from tests.netns.conftest import make_end
from tools.netlab import Lab
from tools.peers import Peer, Whalescale, http_url, outside

pytestmark = pytest.mark.netns

MIB = 1 << 20
SPOKES = 3
SIZE = 4 * MIB


def hub_and_spokes(lab: Lab, dataplane: str) -> tuple[Whalescale, list[Whalescale]]:
    """One agent with several workers and a peer on each of its links, all up."""
    hub_host = lab.host("hub")
    hub = make_end(hub_host, 1, dataplane=dataplane)
    spokes, peers = [], []
    for n in range(SPOKES):
        host = lab.host(f"spoke{n}")
        link = lab.link(hub_host, host)
        spoke = make_end(host, n + 2)
        at = outside(link.address(host), spoke.port)
        networks = tuple(f"{spoke.inside(f)}/{32 if f == 4 else 128}" for f in (4, 6))
        peers.append(Peer(spoke.public_key, networks, at, node_id=spoke.node_id))
        networks = tuple(f"{hub.inside(f)}/{32 if f == 4 else 128}" for f in (4, 6))
        at = outside(link.address(hub_host), hub.port)
        spoke.start(Peer(hub.public_key, networks, at, node_id=hub.node_id))
        spokes.append(spoke)
    hub.write_config(*peers)
    hub.launch()
    hub.wait_for_uapi()
    return hub, spokes


@pytest.mark.sampled(1)
@pytest.mark.parametrize("backend", ["mmsg", "io_uring"])
@pytest.mark.parametrize("bpf", ["true", "false"])
def test_no_packet_of_a_session_on_a_foreign_worker(lab: Lab, backend: str, bpf: str) -> None:
    dataplane = f'workers = 2\nbackend = "{backend}"\nbpf = {bpf}'
    hub, spokes = hub_and_spokes(lab, dataplane)
    for spoke in spokes:
        spoke.ping(hub)
        name, digest = spoke.serve(SIZE)
        for family in (4, 6):
            assert hub.fetch(http_url(spoke, name, family)) == digest
        name, digest = hub.serve(SIZE)
        assert spoke.fetch(http_url(hub, name)) == digest
    status = hub.status()
    assert status["agent"]["workers"] == 2
    counters = status["counters"]
    assert counters["rx_packets"] > SPOKES * 2 * SIZE // 1420
    foreign = counters["foreign_rx"] + counters["foreign_tx"]
    if bpf == "true":
        assert status["bpf"]["state"] == "on"
        assert foreign == 0
    else:
        assert foreign > 0, "without steering something must have been handed over"
    assert not counters["drops"]["auth"]
    assert not counters["drops"]["replay"]
