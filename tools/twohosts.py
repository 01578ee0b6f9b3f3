"""Two hosts with several links between them ("5G" and "WiFi", say): what multipath is tried on.

with Lab() as lab:
    two = two_hosts(lab, [Shape(100, 20), Shape(50, 5)])
    two.links[0].silence(True)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tools.netlab import Host, Lab, Link, Shape, emulator

#: the most that one TCP socket may buffer: 700 Mbit/s over 0.38 s
TCP_BUFFER_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class TwoHosts:
    """Two hosts and their links; link i (from 1) has the addresses 10.201.i.1 and 10.201.i.2."""

    lab: Lab
    a: Host
    b: Host
    links: tuple[Link, ...]


def two_hosts(
    lab: Lab, shapes: Sequence[Shape], names: tuple[str, str] = ("a", "b"), backend: str = ""
) -> TwoHosts:
    """Join two new hosts by as many links as there are shapes.

    Each link can be reshaped or silenced while it runs; one without any properties is bare veth
    (and cannot). TCP in these hosts may buffer enough to fill all links, and forgets what it learnt
    of earlier flows, so that one flow does not help the next.
    """
    a, b = (lab.host(name) for name in names)
    kinds = [backend or ("" if shape == Shape() else emulator()) for shape in shapes]
    links = tuple(lab.link(a, b, s, backend=k) for s, k in zip(shapes, kinds, strict=True))
    for host in (a, b):
        host.sysctl("net.ipv4.tcp_no_metrics_save", 1)
        host.sysctl("net.ipv4.tcp_rmem", f"4096 131072 {TCP_BUFFER_BYTES}")
        host.sysctl("net.ipv4.tcp_wmem", f"4096 65536 {TCP_BUFFER_BYTES}")
    return TwoHosts(lab, a, b, links)
