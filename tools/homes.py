"""A small Internet in a lab: a core, machines with public addresses, and homes behind routers.

Addresses look public (5.6.0.0/16), for what is private is treated as such. Nothing leaves the lab.
Homes translate with the kernel's own NAT (nftables), of one kind:
 - "port-restricted": one outside port for the host's port, and only who was sent to gets in
 - "symmetric": another port for each destination
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass

from tools.netlab import Host, Lab, Link, Shape, run

#: The kernel gives all flows of one inner socket one port, if that is free towards each; a range of
#: one port would drop what a socket before it left behind.
_KINDS = {
    "port-restricted": "meta l4proto udp snat to {wan}:{first}-{last}",
    "symmetric": "meta l4proto udp masquerade fully-random",
}
#: what comes from outside and belongs to no flow is dropped, as routers do: one that takes it
#: gives our flow another port
_RULES = """
table ip home
delete table ip home
table ip home {{
  chain post {{
    type nat hook postrouting priority srcnat;
    oifname "{device}" {rule}
    oifname "{device}" masquerade
  }}
  chain input {{
    type filter hook input priority filter;
    iifname "{device}" ct state new drop
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
    ct state established,related accept
    ct status dnat accept
    iifname != "{device}" oifname "{device}" accept
  }}
}}
"""
#: what `conntrack -F` does, which is a package of its own
_FORGET = """
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTSocket
with NFCTSocket() as socket:
    socket.flush()
"""


def has_nft() -> bool:
    return shutil.which("nft") is not None or shutil.which("nft", path="/usr/sbin") is not None


@dataclass
class Home:
    """A host behind its router."""

    host: Host
    router: Host
    #: as seen from outside
    wan: str
    #: the router's, to the outside
    device: str
    #: between host and router
    link: Link
    kind: str
    #: of the outside ports
    first: int
    #: the router's own address; another than `wan` behind a carrier's NAT
    own: str

    def rules(self) -> None:
        rule = _KINDS[self.kind].format(wan=self.own, first=self.first, last=self.first + 49)
        text = _RULES.format(device=self.device, rule=rule)
        self.router.run("nft", "-f", "-", stdin=text)

    def forget(self) -> None:
        """The router's connections begin anew, as after a restart of it."""
        self.router.run(sys.executable, "-c", _FORGET)

    def rebind(self) -> None:
        """All that goes on gets another outside port, and nobody gets in by the old one."""
        self.first += 50 if self.first % 100 < 50 else -50
        self.rules()
        self.forget()


class Internet:
    """Everybody's router."""

    def __init__(self, lab: Lab, delay_ms: float = 0.0) -> None:
        """`delay_ms`: of each machine's line, one way."""
        self.lab = lab
        self.delay_ms = delay_ms
        self.core = lab.host("core")
        self.core.sysctl("net.ipv4.ip_forward", 1)
        #: of each machine that has one
        self.lines: dict[Host, Link] = {}
        #: of addresses given out
        self.count = 0

    def line(self, host: Host) -> tuple[str, str]:
        """Give it a public address and a way out. (address, device)"""
        self.count += 1
        link = self.lab.link(host, self.core, Shape(delay_ms=self.delay_ms))
        self.lines[host] = link
        ours, theirs = link.device(host), link.device(self.core)
        wan, gateway = f"5.6.{self.count}.1", "5.6.0.254"
        for end, device in link.ends.items():
            run("ip", "-n", end.netns, "address", "flush", "dev", device)
        self.core.ip(f"address add {gateway}/32 dev {theirs}")
        self.core.ip(f"route add {wan}/32 dev {theirs}")
        host.ip(f"address add {wan}/32 dev {ours}")
        host.ip(f"route add default via {gateway} dev {ours} onlink")
        return wan, ours

    def public(self, name: str) -> tuple[Host, str]:
        """A machine with a public address, and that."""
        host = self.lab.host(name)
        wan, _ = self.line(host)
        return host, wan

    def home(
        self,
        name: str,
        kind: str = "port-restricted",
        *,
        host: Host | None = None,
        behind: Home | None = None,
        shape: Shape | None = None,
        device: str = "",
    ) -> Home:
        """A router of that name and -router, and the host inside, a new one without `host`.

        `behind`: the router has no line of its own, it is what is inside of that one (a carrier's).
        `shape`, `device`: of the host's link to the router, and its name at the host.
        """
        if behind is None:
            router = self.lab.host(f"{name}-router")
            wan, outer = self.line(router)
            own = wan
        else:
            router, wan = behind.host, behind.wan
            outer, own = behind.link.device(router), behind.link.address(router)
            self.count += 1
        host = host or self.lab.host(name)
        router.sysctl("net.ipv4.ip_forward", 1)
        inner = self.lab.link(router, host, shape)
        for end in (router, host):
            end.ip(f"-6 address flush dev {inner.device(end)}", check=False)
        if device:
            host.ip(f"link set {inner.device(host)} down")
            host.ip(f"link set {inner.device(host)} name {device}")
            inner.ends[host] = device
            host.sysctl(f"net.ipv6.conf.{device}.disable_ipv6", 1)
            host.ip(f"link set {device} up")
        host.ip(f"route replace default via {inner.address(router)}")
        first = 20_000 + 100 * self.count
        home = Home(host, router, wan, outer, inner, kind, first, own)
        home.rules()
        return home
