"""Two hosts with two uplinks each, and the internet between them: one namespace, `r`.

a eth0 10.201.1.1 ── .2 eth0 r eth1 10.201.2.1 ── .2 eth0 b      a is behind NAT here (IPv4)
  eth1 10.201.3.1 ── .2 eth2 r eth3 10.201.4.1 ── .2 eth1
  10.77.0.1 ═════════════════ tunnel ═════════════ 10.77.0.2

b is a server: a knows its first address, b knows none of a's. The hosts' routes and addresses are
kept as a network manager would.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from dataclasses import dataclass, field

from tools.netlab import Host, Lab, LabError, Link, Process, wait_until
from tools.peers import Peer, Whalescale, outside

#: shorter than WireGuard's, so that a run sees hundreds of renewals; ms
LIMITS_MS = {
    "rekey_after_time": 2500,
    "reject_after_time": 4500,
    "rekey_timeout": 500,
    "keepalive_timeout": 500,
}
#: a suspend is longer than a key lives
SUSPEND_S = LIMITS_MS["reject_after_time"] / 1000 + 0.5
PORTS = {"a": 51820, "b": 51821}
START_S = 120.0
NAT = """
table ip nat {
  chain out {
    type nat hook postrouting priority srcnat
    ip saddr 10.201.1.0/24 oifname { "eth1", "eth3" } masquerade random
  }
}
table inet cut {
  set links { type ifname; }
  chain pass {
    type filter hook forward priority filter
    iifname @links drop
    oifname @links drop
    ip daddr 10.201.1.0/24 ct state new drop
  }
}
"""
#: Deletes what the router's NAT remembers: one netlink message.
FORGET = """
import socket, struct
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
s.sendto(struct.pack("=IHHIIBBH", 20, 1 << 8 | 2, 5, 1, 0, 2, 0, 0), (0, 0))
code = struct.unpack_from("=i", s.recv(4096), 16)[0]
raise SystemExit(0 if code == 0 else -code)
"""


@dataclass(frozen=True, slots=True)
class Window:
    """A time in which packets may have been lost, and for whose reason."""

    kind: str
    began: float
    ended: float


@dataclass
class Seat:
    """A host and its agent, which is killed and started over and over."""

    name: str
    host: Host
    end: Whalescale
    peer: Peer
    lock: threading.Lock = field(default_factory=threading.Lock)
    #: grows when the agent is stopped, starts or is resumed: who asked it meanwhile may be refused
    generation: int = 0
    up: bool = False
    born: float = 0.0
    old_logs: list[str] = field(default_factory=list)

    def launch(self) -> None:
        self.end.launch()

    def wait_until_up(self) -> None:
        """LabError: it did not come up."""
        process = self.process
        deadline = time.monotonic() + START_S
        # Its own word, and not `wg show`: two processes each time would cost more than the start.
        while "is up, UDP port" not in process.log():
            if process.poll() is not None:
                raise LabError(f"{self.name} ended with {process.poll()}:\n{process.log()[-2000:]}")
            if time.monotonic() > deadline:
                raise LabError(f"{self.name} is not up after {START_S:g} s:\n{process.log()}")
            time.sleep(0.02)
        self.born = time.monotonic()
        self.up = True
        self.generation += 1

    def kill(self) -> None:
        """SIGKILL; its log is kept for the judge."""
        self.up = False
        self.generation += 1
        process = self.end.process
        assert process is not None
        self.end.kill()
        self.old_logs.append(process.log())
        process.log_path.unlink()
        self.host.lab.processes.remove(process)

    @property
    def process(self) -> Process:
        assert self.end.process is not None
        return self.end.process


class World:
    """The lab with everything in it but the agents started."""

    def __init__(self, lab: Lab, dataplane: str = "") -> None:
        self.lab = lab
        a, r, b = (lab.host(name) for name in "arb")
        self.router = r
        #: by side, then link
        self.links: dict[str, list[Link]] = {"a": [], "b": []}
        for _ in range(2):
            self.links["a"].append(lab.link(a, r))
            self.links["b"].append(lab.link(r, b))
        r.sysctl("net.ipv4.ip_forward", 1)
        r.sysctl("net.ipv6.conf.all.forwarding", 1)
        r.run("nft", "-f", "-", stdin=NAT)
        self.hosts = {"a": a, "b": b}
        #: TCP's longest wait between two tries, seconds; 0: the kernel's two minutes
        self.tcp_rto_s = 1.0
        for host in self.hosts.values():
            # It would double its wait with each try that a cut swallows, and sleep on afterwards.
            if host.sysctl("net.ipv4.tcp_rto_max_ms", 1000, check=False):
                host.sysctl("net.ipv4.tcp_retries2", 255)
            else:
                self.tcp_rto_s = 0.0
            # With so short a wait five tries of a handshake end within a cut, too.
            names = ("tcp_syn_retries", "tcp_synack_retries", "tcp_orphan_retries")
            for name in names:
                host.sysctl(f"net.ipv4.{name}", 120)
        self.parts = {
            (side, link, family): 1 if side == "a" else 2
            for side in "ab"
            for link in range(2)
            for family in (4, 6)
        }
        for side in "ab":
            for link in range(2):
                self.restore(side, link)
        self.clean = {side: state(host) for side, host in self.hosts.items()}
        ends = {}
        for number, (side, host) in enumerate(self.hosts.items(), start=1):
            name = f"wsk{os.getpid() % 100000}{side}"
            addresses = (f"10.77.0.{number}/24", f"fd77::{number}/64")
            ends[side] = Whalescale(
                host, name, addresses, PORTS[side], limits_ms=LIMITS_MS, dataplane=dataplane
            )
        at = outside(self.address("b", 0), PORTS["b"])
        self.seats = {}
        for side, other, endpoint in (("a", "b", at), ("b", "a", None)):
            end = ends[other]
            networks = (f"{end.inside(4)}/32", f"{end.inside(6)}/128")
            peer = Peer(end.public_key, networks, endpoint, node_id=end.node_id, keepalive=5)
            self.seats[side] = Seat(side, self.hosts[side], ends[side], peer)
            ends[side].write_config(peer)

    def address(self, side: str, link: int, family: int = 4) -> str:
        part = self.parts[side, link, family]
        return self.links[side][link].address(self.hosts[side], family, part)

    def device(self, side: str, link: int) -> str:
        return self.links[side][link].device(self.hosts[side])

    def restore(self, side: str, link: int) -> None:
        """Addresses and default routes of an uplink, as they are to be."""
        host, device = self.hosts[side], self.device(side, link)
        host.ip(f"link set {device} up")
        for family, bits in ((4, "24"), (6, "64")):
            router = self.links[side][link].address(self.router, family)
            nodad = " nodad" if family == 6 else ""
            host.ip(f"addr replace {self.address(side, link, family)}/{bits} dev {device}{nodad}")
            host.ip(f"-{family} route replace default via {router} dev {device} metric {link + 1}")

    def down(self, side: str, link: int) -> None:
        self.hosts[side].ip(f"link set {self.device(side, link)} down")

    def silence(self, link: int, silent: bool) -> None:
        """Everything that crosses the router by this uplink is lost, or no longer."""
        word = "add" if silent else "delete"
        device = self.links["a"][link].device(self.router)
        self.router.run("nft", f'{word} element inet cut links {{ "{device}" }}')

    def readdress(self, side: str, link: int, family: int, part: int) -> None:
        where = self.links[side][link]
        old = self.parts[side, link, family]
        self.parts[side, link, family] = part
        where.remove_address(self.hosts[side], family, old)
        self.restore(side, link)

    def rebind_nat(self) -> None:
        """The router forgets its mappings: what comes next gets another port."""
        self.router.run(sys.executable, "-c", FORGET)

    def targets(self) -> list[tuple[str, int, str]]:
        """Where hostile datagrams go: every address of both ends that the router reaches."""
        found = []
        for side, seat in self.seats.items():
            for link in range(2):
                for family in (4, 6):
                    at = self.address(side, link, family)
                    found.append((at, seat.end.port, key_hex(seat.end)))
        return found

    def wait_for_tunnel(self, seconds: float = 20.0) -> None:
        a, b = self.seats["a"].end, self.seats["b"].end

        def answered() -> bool:
            done = a.run("ping", "-c1", "-W1", b.inside(4), check=False)
            return done.returncode == 0

        wait_until("a ping through the tunnel", answered, seconds)


def key_hex(end: Whalescale) -> str:
    import base64

    return base64.b64decode(end.public_key).hex()


def state(host: Host) -> dict[str, list[str]]:
    """What an agent that has gone must not have left behind: devices, routes, rules, filters."""
    found: dict[str, list[str]] = {"links": sorted(host.link_names())}
    for family in (4, 6):
        for what, line in (("routes", "route show table all"), ("rules", "rule show")):
            rows = host.ip_json(f"-{family} {line}")
            # Addresses come and go in a run, and with them what the kernel keeps beside them.
            words = [
                f"{row.get('dst', '')} {row.get('dev', '')} {row.get('table', '')} "
                f"{row.get('priority', '')} {row.get('gateway', '')}"
                for row in rows
                if row.get("protocol") != "kernel" and row.get("type") not in ("local", "multicast")
            ]
            found[f"IPv{family} {what}"] = sorted(words)
    found["nft"] = host.run("nft", "list", "ruleset").stdout.splitlines()
    return found
