"""Uplinks as the field has them: narrow, dead, two of one address, tunnels that look like one."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

from tests.netns.conftest import (
    known,
    make_end,
    make_router,
    make_two,
    multipath,
    route,
    sent_bytes,
    used,
)
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


MASQUERADE = """
table ip n {
  chain p {
    type nat hook postrouting priority 100;
    oifname "DEVICE" masquerade
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


def test_a_tunnel_is_no_uplink_unless_asked_for(lab: Lab) -> None:
    """Two Whalescale networks between the same hosts: each would be a path of the other."""
    two = make_two(lab)
    two.start()
    two.a.ping(two.b, count=1)
    inner = [
        Whalescale(end.host, end.interface + "i", (f"10.78.0.{n}/24",), 51900 + n)
        for n, end in enumerate((two.a, two.b), start=1)
    ]
    a, b = inner
    b.start(Peer(a.public_key, ("10.78.0.1/32",), node_id=a.node_id))
    at = outside(two.link.address(two.b.host), b.port)
    a.start(Peer(b.public_key, ("10.78.0.2/32",), at, node_id=b.node_id))
    a.ping(b, count=1)

    def by(end: Whalescale) -> set[str]:
        return {p["interface"] for p in multipath(end)["paths"]}

    for end in (a, two.a):
        # Of path 0 the interface is known after a moment.
        wait_until("the link as a path", lambda end=end: used(end) and "" not in by(end), 20)
        assert by(end) == {two.link.device(two.a.host)}


def test_two_modems_that_give_the_same_address(lab: Lab) -> None:
    """Both LTE sticks are 192.168.8.1 and call the host 192.168.8.100."""
    client, core, server = (lab.host(name) for name in ("client", "core", "server"))
    behind = lab.link(core, server)
    make_router(core)
    route(server, "default", behind, core)
    devices = set()
    for n in (1, 2):
        stick = lab.host(f"stick{n}")
        near, far = lab.link(client, stick), lab.link(stick, core)
        for host in near.ends:
            near.remove_address(host, 4)
            near.remove_address(host, 6)
        stick.ip(f"addr add 192.168.8.1/24 dev {near.device(stick)}")
        client.ip(f"addr add 192.168.8.100/24 dev {near.device(client)}")
        client.ip(f"route add default via 192.168.8.1 dev {near.device(client)} metric {n}")
        make_router(stick)
        route(stick, "default", far, core)
        stick.run("nft", "-f", "-", stdin=MASQUERADE.replace("DEVICE", far.device(stick)))
        devices.add(near.device(client))
    a, b = make_end(client, 1), make_end(server, 2)
    b.start(known(a))
    a.start(known(b, outside(behind.address(server), b.port)))
    a.ping(b, count=1)
    wait_until("both modems", lambda: {p["interface"] for p in used(a)} == devices, 30)
    before = {device: sent_bytes(client, device) for device in devices}
    name, digest = a.serve(5_000_000)
    assert b.fetch(http_url(a, name), timeout=30) == digest
    assert sum(sent_bytes(client, d) - before[d] for d in devices) > 5_000_000


DNS = r"""
import socket, struct, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 53))
print("ready", flush=True)
while True:
    q, who = s.recvfrom(512)
    end = q.index(b"\0", 12) + 5
    (kind,) = struct.unpack("!H", q[end - 4 : end - 2])
    answer = b""
    if kind == 1:
        answer = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + socket.inet_aton(sys.argv[2])
    head = q[:2] + b"\x85\x80\0\1" + struct.pack("!H", kind == 1) + bytes(4)
    s.sendto(head + q[12:end] + answer, who)
"""


@pytest.mark.parametrize("inside", ["0.0.0.0/0", ""], ids=["default", "server-inside"])
def test_a_name_is_not_asked_for_through_the_tunnel_it_is_for(lab: Lab, inside: str) -> None:
    """The network comes after the agent; the name server's address is routed into the tunnel."""
    client, router, server = (lab.host(name) for name in ("client", "router", "server"))
    near, far = lab.link(client, router), lab.link(router, server)
    make_router(router)
    route(server, "default", far, router)
    at, resolver = far.address(server), far.address(server).rpartition(".")[0] + ".53"
    server.ip(f"addr add {resolver}/24 dev {far.device(server)}")
    folder = Path("/etc/netns") / client.netns
    folder.mkdir(parents=True)
    try:
        (folder / "resolv.conf").write_text(f"nameserver {resolver}\n")
        dns = server.spawn("python3", "-c", DNS, resolver, at)
        wait_until("the name server", lambda: "ready" in dns.log(), 10)
        a, b = make_end(client, 1), make_end(server, 2)
        b.start(known(a))
        networks = ("10.77.0.2/32", inside or f"{resolver}/32")
        name = f"vpn.example:{b.port}"
        a.write_config(Peer(b.public_key, networks, name, node_id=b.node_id))
        a.launch()
        a.wait_for_uapi()
        time.sleep(3)
        route(client, "default", near, router)
        wait_until("a session", lambda: ping_once(a, b), 30)
    finally:
        shutil.rmtree(folder)


def ping_once(a: Whalescale, b: Whalescale) -> bool:
    return a.run("ping", "-c1", "-W1", b.inside(4), check=False).returncode == 0
