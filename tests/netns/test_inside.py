"""What comes out of the tunnel at our own port: a peer, or a host behind one, sends a message of
ours as an inner packet. Taken, it would make the tunnel carry itself."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from tests.netns.conftest import Two, make_router, make_two, places
from tests.netns.dataplane_run import run_scenario
from tests.params import first
from tools.netlab import Lab, wait_until
from tools.peers import Whalescale

pytestmark = pytest.mark.netns

backends = pytest.mark.parametrize("backend", ["MMSG", "URING"])
shapes = pytest.mark.parametrize(
    ("workers", "sanitize"), [(1, True), (3, False)], ids=["1-sanitized", "3"]
)
outers = pytest.mark.parametrize("outer", [4, 6])


@pytest.mark.sampled(2)
@backends
@shapes
@outers
def test_nothing_is_taken_that_came_by_the_tunnels_device(
    lab: Lab, backend: str, workers: int, sanitize: bool, outer: int
) -> None:
    options = {"backend": backend, "workers": workers, "sanitize": sanitize}
    run_scenario(lab, "inside", **options, outer=outer)


@pytest.mark.sampled(2)
@backends
@shapes
@outers
def test_nothing_is_taken_from_an_address_inside_a_tunnel(
    lab: Lab, backend: str, workers: int, sanitize: bool, outer: int
) -> None:
    options = {"backend": backend, "workers": workers, "sanitize": sanitize}
    run_scenario(lab, "inside_networks", **options, outer=outer)


@pytest.mark.sampled(2)
@backends
@shapes
@outers
def test_an_endpoint_inside_the_tunnel_makes_no_loop(
    lab: Lab, backend: str, workers: int, sanitize: bool, outer: int
) -> None:
    options = {"backend": backend, "workers": workers, "sanitize": sanitize}
    run_scenario(lab, "loop", **options, outer=outer)


# agents


SEND = """
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
if len(sys.argv) > 3:
    s.bind((sys.argv[3], 0))
s.sendto(b"\\x01\\0\\0\\0" + bytes(144), (sys.argv[1], int(sys.argv[2])))
"""


def drops(end: Whalescale, reason: str) -> int:
    return int(end.status()["counters"]["drops"][reason])


@pytest.mark.parametrize(
    "dataplane", first(1, ['workers = 2\nbackend = "io_uring"', 'backend = "mmsg"'])
)
def test_a_host_behind_a_peer_needs_no_key_and_gets_nowhere(lab: Lab, dataplane: str) -> None:
    """Its packets come out of the tunnel at our port, whichever of our addresses it takes."""
    two = make_two(lab)
    two.a.dataplane = dataplane
    lan = lab.host("lan")
    behind = lab.link(two.b.host, lan)
    make_router(two.b.host)
    site = behind.address(lan).rsplit(".", 1)[0] + ".0/24"
    lan.ip(f"route add 10.77.0.0/24 via {behind.address(two.b.host)}")
    peer = two.peer_of(two.a)
    two.a.start(replace(peer, allowed_ips=(*peer.allowed_ips, site)))
    two.b.start(two.peer_of(two.b))
    two.a.ping(two.b, count=1)
    ways = [
        (lan, two.a.inside(4)),
        (two.b.host, two.a.inside(4)),
        (two.b.host, two.a.inside(6)),
    ]
    for sent, (host, to) in enumerate(ways, start=1):
        host.run(sys.executable, "-c", SEND, to, str(two.a.port))
        wait_until("the drop", lambda n=sent: drops(two.a, "tunnel") == n)
    inside = {behind.address(lan), *(end.inside(f) for end in (two.a, two.b) for f in (4, 6))}
    assert not any(at in place for place in places(two.a.status()["peers"][0]) for at in inside)
    two.a.ping(two.b)
    assert drops(two.a, "loop") == 0


def test_a_place_in_another_tunnel_is_no_place(two: Two) -> None:
    """Of this host: the other tunnel could lead back here. And so is any peer's allowed IP."""
    device = two.link.device(two.b.host)
    host = two.a.host
    host.ip("tuntap add other0 mode tun")
    host.ip("link set other0 up")
    host.ip("addr add 10.78.0.1/24 dev other0")
    host.ip("route add 10.79.0.0/16 dev other0")
    to, port = two.link.address(host), str(two.a.port)

    def sent_from(ip: str) -> None:
        two.b.run(sys.executable, "-c", SEND, to, port, ip)

    for ip in ("10.78.0.9", "10.79.9.9"):
        two.b.host.ip(f"addr add {ip}/32 dev {device}")

        def dropped(ip: str = ip, before: int = drops(two.a, "inside")) -> bool:
            sent_from(ip)  # until the agent has heard of the device
            return drops(two.a, "inside") > before

        wait_until("the agent to know of the other tunnel", dropped)
    before = drops(two.a, "inside")
    sent_from(two.b.inside(4))
    wait_until("the drop", lambda: drops(two.a, "inside") + drops(two.a, "tunnel") > before)
    before = drops(two.a, "mac1")
    sent_from(two.link.address(two.b.host))
    wait_until("what is outside", lambda: drops(two.a, "mac1") == before + 1)
    two.a.ping(two.b)
