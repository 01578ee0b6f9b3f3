"""A small Internet in a lab: a core, machines with public addresses, and homes behind routers.

Addresses look public (5.6.0.0/16), for what is private is treated as such. Nothing leaves the lab.
Homes translate with the kernel's own NAT (nftables), of one kind:
 - "port-restricted": one outside port for the host's port, and only who was sent to gets in
 - "symmetric": another port for each destination
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from tools.netlab import Host, Lab, Shape, run

#: The kernel gives all flows of one inner socket one port, if that is free towards each; a range of
#: one port would drop what a socket before it left behind.
_KINDS = {
    "port-restricted": "meta l4proto udp snat to {wan}:{first}-{last}",
    "symmetric": "meta l4proto udp masquerade fully-random",
}
#: what comes from outside and belongs to no flow is dropped, as routers do: one that takes it
#: gives our flow another port
_RULES = """
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
    iifname != "{device}" oifname "{device}" accept
  }}
}}
"""


def has_nft() -> bool:
    return shutil.which("nft") is not None or shutil.which("nft", path="/usr/sbin") is not None


@dataclass
class Home:
    """A host behind its router."""

    host: Host
    router: Host
    #: outside
    wan: str
    device: str

    def forget(self) -> None:
        """The router's connections begin anew, as after a restart of it."""
        self.router.run("conntrack", "-F")


class Internet:
    """Everybody's router."""

    def __init__(self, lab: Lab, delay_ms: float = 0.0) -> None:
        """`delay_ms`: of each machine's line, one way."""
        self.lab = lab
        self.delay_ms = delay_ms
        self.core = lab.host("core")
        self.core.sysctl("net.ipv4.ip_forward", 1)
        self._count = 0

    def _line(self, host: Host) -> tuple[str, str]:
        """Give it a public address and a way out. (address, device)"""
        self._count += 1
        link = self.lab.link(host, self.core, Shape(delay_ms=self.delay_ms))
        ours, theirs = link.device(host), link.device(self.core)
        wan, gateway = f"5.6.{self._count}.1", "5.6.0.254"
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
        wan, _ = self._line(host)
        return host, wan

    def home(self, name: str, kind: str = "port-restricted") -> Home:
        router, host = self.lab.host(f"{name}-router"), self.lab.host(name)
        wan, device = self._line(router)
        router.sysctl("net.ipv4.ip_forward", 1)
        inner = self.lab.link(router, host)
        for end in (router, host):
            end.ip(f"-6 address flush dev {inner.device(end)}", check=False)
        host.ip(f"route add default via {inner.address(router)}")
        first = 20_000 + 100 * self._count
        rule = _KINDS[kind].format(wan=wan, first=first, last=first + 49)
        router.run("nft", "-f", "-", stdin=_RULES.format(device=device, rule=rule))
        return Home(host, router, wan, device)
