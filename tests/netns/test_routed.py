"""A server with one address behind a router, a client with two uplinks to it.

client 10.201.1.1 ── 30 Mbit/s 10 ms ── 10.201.1.2 router 10.201.3.1 ── 10.201.3.2 server
       10.201.2.1 ── 20 Mbit/s  3 ms ── 10.201.2.2
       10.77.0.1 ════════════════════ tunnel ═══════════════════════════ 10.77.0.2

The client's routing table prefers the first uplink; the server has but one way to everywhere.
"""

from __future__ import annotations

import ipaddress

import pytest

from tests.netns.conftest import (
    known,
    make_end,
    make_router,
    multipath,
    route,
    sent_bytes,
    used,
)
from tools.netlab import Host, Lab, Shape, emulator, wait_until
from tools.peers import Whalescale, http_url, outside

pytestmark = pytest.mark.netns
SHAPES = Shape(30, 10), Shape(20, 3)
#: of a transfer: long beside the ramp of the second path
SIZE = 10_000_000
#: what a datagram has beside UDP's payload: Ethernet, IP and UDP headers
HEADERS = {4: 14 + 20 + 8, 6: 14 + 40 + 8}


class Routed:
    """Both agents up, with a session and two paths in use at each end."""

    def __init__(self, lab: Lab, family: int, dataplane: str) -> None:
        self.family = family
        hosts = [lab.host(name) for name in ("client", "router", "server")]
        client, self.router, server = hosts
        self.uplinks = [lab.link(client, self.router, s, backend=emulator()) for s in SHAPES]
        self.behind = lab.link(self.router, server)
        make_router(self.router)
        for metric, link in enumerate(self.uplinks, start=1):
            route(client, "default", link, self.router, family, metric)
        route(server, "default", self.behind, self.router, family)
        self.client = make_end(client, 1, dataplane=dataplane)
        self.server = make_end(server, 2, dataplane=dataplane)
        at = outside(self.behind.address(server, family), self.server.port)
        self.server.start(known(self.client))
        self.client.start(known(self.server, at))
        self.client.ping(self.server, count=1)
        for end in (self.client, self.server):
            wait_until(f"two paths at {end.host.name}", lambda end=end: len(used(end)) == 2, 20)

    def left(self, host: Host) -> list[int]:
        """Bytes that left the host by the first and the second uplink's device."""
        return [sent_bytes(host, link.device(host)) for link in self.uplinks]

    def sent(self, end: Whalescale) -> list[int]:
        """UDP payload that went over the paths by the first and the second uplink."""
        sums = []
        for link in self.uplinks:
            at = outside(link.address(self.client.host, self.family), self.client.port)
            side = "local" if end is self.client else "remote"
            sums.append(sum(p["tx_bytes"] for p in multipath(end)["paths"] if p[side] == at))
        return sums


def difference(now: list[int], then: list[int]) -> list[int]:
    return [a - b for a, b in zip(now, then, strict=True)]


@pytest.mark.parametrize(("family", "backend"), [(4, "mmsg"), (6, "io_uring")], ids=str)
def test_each_path_takes_its_own_uplink(lab: Lab, family: int, backend: str) -> None:
    routed = Routed(lab, family, f'backend = "{backend}"')
    client, server, router = routed.client, routed.server, routed.router
    ours = {
        outside(link.address(client.host, family), client.port): link.device(client.host)
        for link in routed.uplinks
    }

    def each_by_its_own() -> bool:
        at_client, at_server = used(client), used(server)
        return (
            {p["local"]: p["interface"] for p in at_client} == ours
            and {p["remote"] for p in at_server} == ours.keys()
            and len({p["remote"] for p in at_client}) == 1
            and len({p["local"] for p in at_server}) == 1
        )

    # A path may fail for a moment on a busy machine.
    wait_until("a path by each uplink", each_by_its_own, 20)

    # Up, then down: by the client's own interfaces, then by the router's behind the server's one.
    for sender, receiver, at in ((client, server, client.host), (server, client, router)):
        name, digest = sender.serve(SIZE)
        before = routed.sent(sender), routed.left(at)
        assert receiver.fetch(http_url(sender, name)) == digest
        paths = difference(routed.sent(sender), before[0])
        devices = difference(routed.left(at), before[1])
        assert min(paths) > SIZE * 0.15, paths
        for of_path, of_device in zip(paths, devices, strict=True):
            # Counted some moments apart: probes and ACKs of the other direction go on.
            least = of_path * (1 + HEADERS[family] / 1500)
            assert 0.98 * least < of_device < 1.1 * least + 20_000, (paths, devices)


def test_addresses_of_interfaces_that_lead_nowhere(lab: Lab) -> None:
    """On a router: its uplink has a link-local address alone, its others are its two networks'.

    A socket bound to the device of such an address finds no route.
    """
    names = ("client", "router", "server", "left", "right")
    client, router, server, *inner = (lab.host(name) for name in names)
    uplink, behind = lab.link(client, router), lab.link(router, server)
    networks = [lab.link(client, host) for host in inner]
    for host in (client, router):
        make_router(host)
    mine = uplink.address(client, 6)
    (found,) = client.ip_json(f"-6 addr show dev {uplink.device(client)}")
    of_link = next(a["local"] for a in found["addr_info"] if a["scope"] == "link")
    client.ip(f"-6 addr del {mine}/64 dev {uplink.device(client)}")
    client.ip(f"-6 route add {uplink.address(router, 6)} dev {uplink.device(client)}")
    route(client, "default", uplink, router, 6)
    route(server, "default", behind, router, 6)
    for link in networks:
        network = ipaddress.ip_interface(f"{link.address(client, 6)}/64").network
        router.ip(f"-6 route add {network} via {of_link} dev {uplink.device(router)}")
    ends = make_end(client, 1), make_end(server, 2)
    at = outside(behind.address(server, 6), ends[1].port)
    ends[1].start(known(ends[0]))
    ends[0].start(known(ends[1], at))
    ends[0].ping(ends[1], count=1)
    for sender, receiver in (ends, ends[::-1]):
        name, digest = sender.serve(SIZE)
        assert receiver.fetch(http_url(sender, name)) == digest

    def answered() -> bool:
        return bool(used(ends[0])) and all(p["rtt_ms"] for p in used(ends[0]))

    wait_until("probes to be answered", answered, 20)
