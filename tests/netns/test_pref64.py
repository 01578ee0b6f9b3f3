"""A NAT64's prefix from a router's advertisement (RFC 8781), as the kernel passes it on."""

from __future__ import annotations

import sys

import pytest

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
