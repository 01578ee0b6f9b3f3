"""docs/nat.md's table with agents: every pair of routers, each in namespaces of its own.

    core ─┬─ anchor
          ├─ router ── a                  20 ms from anybody to anybody one way
          └─ carrier ── router ── b

The routers are boxes of tools/natbox.py; those that map ports are the kernel's NAT with a real
miniupnpd. With IPv6 the homes have a firewall that lets in what answers, and nothing is translated.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

from tools.homes import Home, Internet, has_nft
from tools.natbench_hosts import DIRECT_S, LINE_MS, Meeting, meet_at
from tools.natkinds import IPV6, MAPPING, Cell, blocked, carrier, due, words
from tools.netlab import Host, Lab, LabError, terminate_as_exception, wait_until
from tools.peers import ROOT, Whalescale

TABLE = 100
BLOCK = """
table inet blocked {
  chain forward { type filter hook forward priority filter; meta l4proto udp drop; }
}
"""
FIREWALL = """
table ip6 home {{
  chain forward {{
    type filter hook forward priority filter; policy drop;
    ct state established,related accept
    iifname "{inner}" accept
  }}
}}
"""
#: miniupnpd's chains must be there beforehand
CHAINS = """
table inet miniupnpd {
  chain miniupnpd {}
  chain prerouting_miniupnpd {}
  chain postrouting_miniupnpd {}
  chain forward { type filter hook forward priority -5; jump miniupnpd; }
  chain prerouting { type nat hook prerouting priority dstnat - 5; jump prerouting_miniupnpd; }
  chain postrouting { type nat hook postrouting priority srcnat - 5; jump postrouting_miniupnpd; }
}
"""
MINIUPNPD = """
ext_ifname={outer}
listening_ip={inner}
enable_natpmp=yes
enable_upnp=no
secure_mode=yes
upnp_table_name=miniupnpd
upnp_nat_table_name=miniupnpd
lease_file={folder}/leases-{name}
allow 1024-65535 10.201.0.0/16 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
"""


def miniupnpd() -> str | None:
    return shutil.which("miniupnpd", path=f"{os.environ['PATH']}:/usr/sbin")


class Town(Internet):
    """Homes with boxes for routers."""

    def __init__(self, lab: Lab, ipv6: bool = False) -> None:
        super().__init__(lab, LINE_MS)
        self.ipv6 = ipv6
        if ipv6:
            self.core.sysctl("net.ipv6.conf.all.forwarding", 1)
        #: called when the two have met the anchor
        self.later: list[Callable[[Whalescale, Whalescale], None]] = []

    def place(self, name: str, kind: str) -> tuple[Host, str]:
        """A machine, and where it is seen from outside."""
        if kind == "public":
            host, wan = self.public(name)
            return host, self._six(host) if self.ipv6 else wan
        router = self.lab.host(f"{name}-carrier" if carrier(kind) else f"{name}-router")
        own, _ = self.line(router)
        number, seen = self.count, self._six(router) if self.ipv6 else ""
        nets = [f"5.8.{number}.1", f"100.64.{number}.2"] if carrier(kind) else [f"5.7.{number}.1"]
        before, towards = self.core, f"via {own} dev {self.lines[router].device(self.core)} onlink"
        for depth, wan in enumerate(nets):
            before.ip(f"route add {wan}/32 {towards}")
            last = depth == len(nets) - 1
            inside = self.lab.host(name if last else f"{name}-router")
            link = self.lab.link(router, inside)
            device, gateway = link.device(router), link.address(router)
            for end in (router, inside):
                end.ip(f"-6 address flush dev {link.device(end)}", check=False)
            inside.ip(f"route add default via {gateway}")
            self._box(router, wan, device, words(kind))
            if self.ipv6:
                subnet = f"2a00:1450:{number}:{depth + 1}"
                seen = f"{subnet}::"
                self.core.ip(f"-6 route add {seen}/64 via 2a00:1451:{number}::2")
                self._joined(router, device, inside, link.device(inside), subnet)
                if last:
                    router.run("nft", "-f", "-", stdin=FIREWALL.format(inner=device))
                else:
                    router.ip(f"-6 route add 2a00:1450:{number}:{depth + 2}::/64 via {subnet}::2")
            before, router = router, inside
            towards = f"via {link.address(inside)}"
        if blocked(kind):
            self.later.append(lambda *_: self._block(before))
        return router, seen if self.ipv6 else nets[0]

    def _box(self, router: Host, wan: str, device: str, told: tuple[str, str]) -> None:
        router.sysctl("net.ipv4.ip_forward", 1)
        for name in ("all", "default"):
            # What comes out of the box has other addresses than what went in.
            router.sysctl(f"net.ipv4.conf.{name}.rp_filter", 0)
        box = router.spawn(
            *(sys.executable, "-m", "tools.natbox", "nat0", wan, *told),
            env={"PYTHONPATH": str(ROOT)},
        )
        wait_until("the box", lambda: "ready" in box.log(), 20)
        router.ip("link set nat0 up")
        router.ip(f"route add {wan}/32 dev nat0")
        router.ip(f"route add default dev nat0 table {TABLE}")
        router.ip(f"rule add iif {device} lookup {TABLE}")

    @staticmethod
    def _block(router: Host) -> None:
        router.run("nft", "-f", "-", stdin=BLOCK)

    # IPv6: each line is 2a00:1451:N::/64, behind each router 2a00:1450:N:1::/64, 2::/64

    def _six(self, host: Host) -> str:
        """Its line has IPv6. The address."""
        subnet, link = f"2a00:1451:{self.count}", self.lines[host]
        self._joined(self.core, link.device(self.core), host, link.device(host), subnet)
        return f"{subnet}::2"

    @staticmethod
    def _joined(near: Host, device: str, far: Host, other: str, subnet: str) -> None:
        """The far one's way out is the near one."""
        for host, name, part in ((near, device, 1), (far, other, 2)):
            host.ip(f"-6 address replace {subnet}::{part}/64 dev {name} nodad")
            host.ip(f"-6 address replace fe80::{part}/64 dev {name} nodad")
        near.sysctl("net.ipv6.conf.all.forwarding", 1)
        far.ip(f"-6 route replace default via {subnet}::1 dev {other}")

    # a port mapping: the kernel's NAT

    def mapped(self, name: str, kind: str) -> tuple[Host, str]:
        """As `place`; the router maps ports, if it is the only one."""
        if kind not in ("port-restricted", "symmetric"):
            return self.place(name, kind)
        home: Home = self.home(name, kind)
        daemon = miniupnpd()
        assert daemon is not None
        home.router.run("nft", "-f", "-", stdin=CHAINS)
        file = self.lab.folder / f"miniupnpd-{name}.conf"
        inner = home.link.device(home.router)
        where = {"outer": home.device, "inner": inner, "folder": self.lab.folder, "name": name}
        file.write_text(MINIUPNPD.format(**where))
        pid = self.lab.folder / f"miniupnpd-{name}.pid"
        process = home.router.spawn(daemon, "-d", "-f", file, "-P", pid)
        wait_until("miniupnpd", lambda: "Listening for NAT-PMP" in process.log(), 10)

        def has(*ends: Whalescale) -> None:
            end = next(e for e in ends if e.host is home.host)

            def external() -> Any:
                status: Any = end.status()
                return any(g.get("external") for g in status["portmap"]["gateways"])

            wait_until(f"a mapping of {name}'s router", external, 20)

        self.later.append(has)
        return home.host, home.wan


def meet(
    lab: Lab, pair: tuple[str, str], helped: str = "", patience_s: float = DIRECT_S
) -> Meeting:
    """LabError: something is not installed, or no network came about."""
    if not has_nft():
        raise LabError("no nft: apt-get install nftables")
    if helped == MAPPING and miniupnpd() is None:
        raise LabError("no miniupnpd: apt-get install miniupnpd-nftables")
    town = Town(lab, helped == IPV6)
    hub, _ = town.place("anchor", "public")
    make = town.mapped if helped == MAPPING else town.place
    places = [make(name, kind) for name, kind in zip("ab", pair, strict=True)]

    def ready(a: Whalescale, b: Whalescale) -> None:
        for call in town.later:
            call(a, b)

    return meet_at(hub, places, ready, patience_s)


def cell(pair: tuple[str, str], helped: str = "") -> Cell:
    with Lab() as lab:
        met = meet(lab, pair, helped)
    return Cell(f"boxes, {helped}" if helped else "boxes", pair, *met, due(pair, helped))


def cells(wanted: Sequence[tuple[tuple[str, str], str]], at_once: int) -> Iterator[Cell | str]:
    """Each as it comes about, so many at a time; or why it did not."""
    with ProcessPoolExecutor(at_once, initializer=terminate_as_exception) as pool:
        asked = {pool.submit(cell, *one): one for one in wanted}
        for done in as_completed(asked):
            try:
                yield done.result()
            except (LabError, OSError, ValueError) as e:
                pair, helped = asked[done]
                yield f"{' - '.join(pair)}{', ' if helped else ''}{helped}: {e}"
