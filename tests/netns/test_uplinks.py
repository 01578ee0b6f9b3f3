"""Uplinks as the field has them: narrow, dead, two of one address, tunnels that look like one."""

from __future__ import annotations

import json

import pytest

from tests.netns.conftest import known, make_end, make_router, make_two, route
from tools.netlab import Lab, Link, wait_until
from tools.peers import Peer, Whalescale, http_url, outside

pytestmark = pytest.mark.netns

SILENT = """
table inet filter {
  chain out {
    type filter hook output priority 0;
    icmp type destination-unreachable counter drop;
    icmpv6 type packet-too-big counter drop;
  }
}
"""


PORTAL = """
table ip portal {
  chain forward {
    type filter hook forward priority 0;
    iifname "DEVICE" drop
    oifname "DEVICE" drop
  }
}
"""


def plain(end: Whalescale, at: str | None = None) -> Peer:
    """`end` as a peer of which its WireGuard key alone is known: nothing is said but packets."""
    networks = (f"{end.inside(4)}/32", f"{end.inside(6)}/128")
    return Peer(end.public_key, networks, at)


def test_a_plain_peer_behind_a_narrow_link_whose_routers_say_nothing(lab: Lab) -> None:
    """The kernel's WireGuard sends without DF, so that routers may cut datagrams up."""
    client, router, server = (lab.host(name) for name in ("client", "router", "server"))
    near, far = lab.link(client, router), lab.link(router, server, mtu=1400)
    make_router(router)
    router.run("nft", "-f", "-", stdin=SILENT)
    route(client, "default", near, router)
    route(server, "default", far, router)
    a, b = make_end(client, 1), make_end(server, 2)
    b.start(plain(a))
    a.start(plain(b, outside(far.address(server), b.port)))
    a.ping(b, count=1)
    file, digest = a.serve(1_000_000)
    assert b.fetch(http_url(a, file), timeout=20) == digest


SNIFF = r"""
import json, socket, struct, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
s.bind((sys.argv[1], 0))
s.settimeout(20)
print("ready", flush=True)
found = {"right": 0, "wrong": 0}
while found["right"] + found["wrong"] < int(sys.argv[2]):
    ip = s.recv(70000)
    if ip[0] >> 4 != 4 or ip[9] != 17:
        continue
    head = (ip[0] & 15) * 4
    l4 = ip[head:]
    data = ip[12:20] + struct.pack("!HH", 17, len(l4)) + l4 + b"\0" * (len(l4) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    found["right" if total == 0xFFFF else "wrong"] += 1
print(json.dumps(found), flush=True)
"""

SEND = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for i in range(60):
    s.sendto(bytes([i]) * (i * 20 + 1), (sys.argv[1], 9999))
    time.sleep(0.005)
"""


def test_what_reads_the_device_raw_sees_finished_checksums(lab: Lab) -> None:
    two = make_two(lab)
    two.start()
    two.a.ping(two.b, count=1)
    wait_until("frames", lambda: '"extended": true' in json.dumps(two.a.status()), 10)
    reader = two.b.host.spawn("python3", "-c", SNIFF, two.b.interface, "50")
    wait_until("the reader", lambda: "ready" in reader.log(), 10)
    two.a.run("python3", "-c", SEND, two.b.inside(4))
    reader.wait(30)
    found = json.loads(reader.log().strip().splitlines()[-1])
    assert found == {"right": 50, "wrong": 0}


class Uplinks:
    """client with several uplinks to one router, the first one preferred; server behind it."""

    def __init__(self, lab: Lab, count: int = 2) -> None:
        self.client, self.router, self.server = (
            lab.host(n) for n in ("client", "router", "server")
        )
        self.links = [lab.link(self.client, self.router) for _ in range(count)]
        self.behind = lab.link(self.router, self.server)
        make_router(self.router)
        for metric, link in enumerate(self.links, start=1):
            route(self.client, "default", link, self.router, metric=metric)
        route(self.server, "default", self.behind, self.router)
        self.a, self.b = make_end(self.client, 1), make_end(self.server, 2)
        self.at = outside(self.behind.address(self.server), self.b.port)

    def portal(self, link: Link) -> None:
        """It has an address, a carrier and a router, and nothing gets through."""
        device = link.device(self.router)
        self.router.run("nft", "-f", "-", stdin=PORTAL.replace("DEVICE", device))


@pytest.mark.parametrize("extended", [True, False], ids=["whalescale", "plain"])
def test_the_preferred_uplink_is_dead_at_the_start(lab: Lab, extended: bool) -> None:
    net = Uplinks(lab)
    net.portal(net.links[0])
    describe = known if extended else plain
    net.b.start(describe(net.a))
    net.a.start(describe(net.b, net.at))
    # Three messages of 5 s would be 15; a busy machine gets some of it.
    net.a.ping(net.b, count=1, seconds=10)
    name, digest = net.a.serve(1_000_000)
    assert net.b.fetch(http_url(net.a, name), timeout=20) == digest
