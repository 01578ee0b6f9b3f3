"""A host with IPv6 alone: the prefix of a NAT64 by a router's advertisement (RFC 8781), as the
kernel passes it on, and a session with an IPv4 host through the translator (tools/nat64box.py)."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from tests.netns.conftest import known, make_end, make_router
from tools.netlab import Lab, wait_until
from tools.peers import ROOT

pytestmark = pytest.mark.netns

#: 134: router advertisement, for 0 s no router; a prefix 64:ff9b::/96 for 1,800 s, RFC 8781
ADVERTISE = """
import socket, struct, sys
s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
index = socket.if_nametoindex(sys.argv[1])
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
option = struct.pack("!BBH12s", 38, 2, 225 << 3, bytes.fromhex("0064ff9b") + bytes(8))
s.sendto(struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 0, 0, 0) + option, ("ff02::1", 0, 0, index))
"""
LISTEN = """
import asyncio
from whalescale.protocol.nat import nat64
from whalescale.runtime.nat64 import listen
def heard(ifindex, options):
    print(ifindex, nat64.advertised(options), flush=True)
print("ready", flush=True)
asyncio.run(listen(heard))
"""


def test_the_kernel_passes_the_prefix_on(lab: Lab) -> None:
    host, router = lab.host("a"), lab.host("router")
    link = lab.link(host, router)
    host.sysctl("net.ipv6.conf.all.forwarding", 0)
    listener = host.spawn(sys.executable, "-c", LISTEN, env={"PYTHONPATH": str(ROOT)})
    wait_until("the listener", lambda: "ready" in listener.log(), 20)

    def heard() -> bool:
        # Its link-local address may still be tentative.
        router.run(sys.executable, "-c", ADVERTISE, link.device(router), check=False)
        return "64:ff9b::/96" in listener.log()

    wait_until("the prefix", heard, 20, 0.5)
    assert "(IPv6Network('64:ff9b::/96'), 1800)" in listener.log()
    listener.stop()


def test_a_session_through_a_nat64(lab: Lab) -> None:
    """a (IPv6 alone) ── router, NAT64 5.6.7.10 ── 5.6.7.9 b (IPv4 alone)"""
    home, router, world = (lab.host(name) for name in ("a", "router", "b"))
    inner, outer = lab.link(home, router), lab.link(router, world)
    make_router(router)
    home.ip(f"-4 address flush dev {inner.device(home)}")
    home.ip(f"-6 route add default via {inner.address(router, 6)} dev {inner.device(home)}")
    world.ip(f"-6 address flush dev {outer.device(world)}")
    router.ip(f"address add 5.6.7.8/24 dev {outer.device(router)}")
    world.ip(f"address add 5.6.7.9/24 dev {outer.device(world)}")
    world.ip("route add 5.6.7.10 via 5.6.7.8")
    box = router.spawn(
        *(sys.executable, "-m", "tools.nat64box", "nat64", "5.6.7.10"),
        env={"PYTHONPATH": str(ROOT)},
    )
    wait_until("the translator", lambda: "ready" in box.log(), 20)
    router.ip("link set nat64 up")
    router.ip("route add 5.6.7.10 dev nat64")
    router.ip("-6 route add 64:ff9b::/96 dev nat64")

    a, b = (make_end(host, n) for n, host in enumerate((home, world), start=1))
    b.start(known(a))
    a.start(known(b, f"5.6.7.9:{b.port}"))

    def prefix() -> bool:
        router.run(sys.executable, "-c", ADVERTISE, inner.device(router), check=False)
        status: Any = a.status()
        return "64:ff9b::/96" in status["nat64"]["prefixes"]

    wait_until("the prefix", prefix, 30, 0.5)

    def reached() -> bool:
        return a.run("ping", "-c1", "-W2", b.inside(4), check=False).returncode == 0

    wait_until("a packet and its answer", reached, 60)
    through: Any = a.status()
    (peer,) = through["peers"]
    assert peer["endpoint"] == f"[64:ff9b::506:709]:{b.port}"
    (seen,) = b.status()["peers"]  # type: ignore[misc]
    assert str(seen["endpoint"]).startswith("5.6.7.10:")  # type: ignore[index]
    a.run("ping", "-c3", "-i0.2", "-s1300", "-W5", b.inside(4))
