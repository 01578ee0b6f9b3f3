"""A port mapped by a real miniupnpd, announced, dialled from outside, and given back.

a 10.201.1.1 ── 10.201.1.2 router 5.6.7.8 ── 5.6.7.9 b      (public-looking: it maps no others)
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.netns.conftest import known, make_end, make_router, places
from tools.natcells import CHAINS
from tools.netlab import Host, Lab, Process, wait_until
from tools.peers import Whalescale

pytestmark = pytest.mark.netns

RULES = f"""{CHAINS}table ip home {{
  chain postrouting {{
    type nat hook postrouting priority srcnat;
    oifname "eth1" masquerade fully-random
  }}
}}
"""
CONFIG = """
ext_ifname=eth1
listening_ip=eth0
enable_natpmp={pcp}
enable_upnp={upnp}
secure_mode=yes
upnp_table_name=miniupnpd
upnp_nat_table_name=miniupnpd
lease_file={folder}/leases
allow 1024-65535 10.201.1.0/24 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
"""


def gateway_of(end: Whalescale) -> dict[str, Any]:
    status: dict[str, Any] = end.status()
    found = status["portmap"]["gateways"]
    return found[0] if found else {}


def rules(router: Host) -> str:
    return router.run("nft", "list", "chain", "inet", "miniupnpd", "prerouting_miniupnpd").stdout


class Routed(NamedTuple):
    home: Host
    router: Host
    world: Host
    #: the router's address inside
    gateway: str
    #: starts its miniupnpd
    serve: Callable[[], Process]


def routed(lab: Lab, *, upnp: bool) -> Routed:
    """Its miniupnpd speaks that or PCP."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    daemon = shutil.which("miniupnpd", path=path)
    if daemon is None or shutil.which("nft", path=path) is None:
        pytest.skip("needs miniupnpd and nft: apt-get install miniupnpd-nftables nftables")
    home, router, world = (lab.host(name) for name in ("a", "router", "b"))
    inner, outer = lab.link(home, router), lab.link(router, world)
    make_router(router)
    router.ip("address add 5.6.7.8/24 dev eth1")
    world.ip("address add 5.6.7.9/24 dev eth0")
    home.ip(f"route add default via {inner.address(router)}")
    router.ip(f"address del {outer.address(router)}/24 dev eth1", check=False)
    router.run("nft", "-f", "-", stdin=RULES)
    file = lab.folder / "miniupnpd.conf"
    words = {"pcp": "no" if upnp else "yes", "upnp": "yes" if upnp else "no"}
    file.write_text(CONFIG.format(folder=lab.folder, **words))
    pid = lab.folder / "miniupnpd.pid"
    ready = "HTTP listening" if upnp else "Listening for NAT-PMP"

    def serve() -> Process:
        process = router.spawn(daemon, "-d", "-f", file, "-P", pid)
        wait_until("miniupnpd", lambda: ready in process.log(), 10)
        return process

    return Routed(home, router, world, inner.address(router), serve)


def test_mapped_announced_dialled_and_given_back(lab: Lab) -> None:
    home, router, world, gateway, serve = routed(lab, upnp=False)
    serve()
    a, b = (make_end(host, n) for n, host in enumerate((home, world), start=1))
    b.start(known(a))
    a.start(known(b, f"5.6.7.9:{b.port}"))
    wait_until("a mapping", lambda: gateway_of(a).get("external"), 10)
    found = gateway_of(a)
    assert found["external"] == f"5.6.7.8:{a.port}"
    assert (found["protocol"], found["gateway"]) == ("PCP", gateway)
    assert str(a.port) in rules(router)
    doctor = a.ws("doctor", "-i", a.interface, "--config", a.config, "--json", check=False).stdout
    assert f"sends 5.6.7.8:{a.port} on to us (PCP)" in doctor

    # The home's NAT gives every flow another port: what b is told it could not have seen.
    def dialled() -> bool:
        (peer,) = b.status()["peers"]
        return f"5.6.7.8:{a.port}" in places(peer)

    a.ping(b, count=1)
    wait_until("b reaches a by the mapping", dialled, 15)

    a.stop()
    wait_until("the mapping is gone", lambda: str(a.port) not in rules(router), 10)


def test_mapped_by_upnp_where_the_router_speaks_nothing_else(lab: Lab) -> None:
    """By a confined agent: what it needs for it is loaded when the router has answered."""
    if not all(folder.stat().st_mode & 1 for folder in Path(__file__).resolve().parents):
        pytest.skip("user nobody, who asks by UPnP, may not read this checkout")
    home, router, _, gateway, serve = routed(lab, upnp=True)
    serve()
    a = make_end(home, 1)
    a.start(known(make_end(home, 2)))
    wait_until("a mapping", lambda: gateway_of(a).get("external"), 40)
    found = gateway_of(a)
    assert found["external"] == f"5.6.7.8:{a.port}"
    assert (found["protocol"], found["gateway"], found["drops"]) == ("UPnP", gateway, {})
    assert str(a.port) in rules(router)
    a.stop()
    wait_until("the mapping is gone", lambda: str(a.port) not in rules(router), 10)


#: as nft shows an address by offset and length
HERE6, SHOWN6 = "2a00:1450:1::7", "2a001450000100000000000000000007"


def test_a_hole_in_an_ipv6_firewall_and_a_router_that_says_that_it_began_anew(lab: Lab) -> None:
    home, router, _, gateway, serve = routed(lab, upnp=False)
    home.ip(f"address add {HERE6}/64 dev eth0 nodad")
    router.ip("address add 2a00:1450:1::1/64 dev eth0 nodad")
    # As routers advertise themselves, and speak to all.
    (shown,) = [row for row in router.ip_json("-6 address show dev eth0 scope link") if row]
    inside6 = next(a["local"] for a in shown["addr_info"] if a)
    home.ip(f"-6 route add default via {inside6} dev eth0")
    process, begun = serve(), time.monotonic()
    a = make_end(home, 1)
    a.start(known(make_end(home, 2)))

    def found() -> dict[str, dict[str, Any]]:
        status: dict[str, Any] = a.status()
        return {g["gateway"]: g for g in status["portmap"]["gateways"]}

    def both() -> bool:
        return [g["state"] for g in found().values()] == ["mapped", "mapped"]

    def walls() -> tuple[bool, bool]:
        """Whether the firewall lets in by IPv4 and IPv6."""
        shown = router.run("nft", "list", "chain", "inet", "miniupnpd", "miniupnpd").stdout
        shown = shown.replace(HERE6, SHOWN6)
        return str(a.port) in rules(router), SHOWN6 in shown

    wait_until("a mapping and a hole", both, 10)
    hole = found()[inside6]
    assert hole["external"] == hole["local"] == f"[{HERE6}]:{a.port}"
    assert hole["protocol"] == "PCP"
    assert walls() == (True, True)

    # Its epoch, in seconds, is what tells a second start from the first one.
    wait_until("it has run for some seconds", lambda: time.monotonic() - begun > 4, 10)
    process.kill()
    for chain in ("miniupnpd", "prerouting_miniupnpd"):
        router.run("nft", "flush", "chain", "inet", "miniupnpd", chain)
    (lab.folder / "leases").unlink(missing_ok=True)
    assert walls() == (False, False)
    serve()
    # Without its word it would be looked at after five minutes.
    wait_until("what it forgot is there again", lambda: walls() == (True, True), 60)
    assert found()[gateway]["restarts"] == 1

    a.stop()
    wait_until("both are gone", lambda: walls() == (False, False), 10)
