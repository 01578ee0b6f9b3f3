"""Rows of `make bench-network` that take agents: hosts in network namespaces of this machine."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from tools.netlab import Host, Lab, LabError, Shape, wait_until
from tools.peers import Peer, Whalescale, outside
from whalescale import identity
from whalescale.identity import Identity
from whalescale.protocol.mesh import records
from whalescale.protocol.mesh.entry import entry_of
from whalescale.protocol.mesh.records import (
    AdminRecord,
    EndpointRecord,
    MemberRecord,
    NetworkRecord,
    Place,
    Record,
    Status,
)
from whalescale.protocol.places import Endpoint
from whalescale.runtime.network_store import NETWORK, seal_key
from whalescale.runtime.store import Store

#: of a network that is on
MEMBERS = 1_000
ROUNDS, FLOW_S, IDLE_S = 5, 4, 20.0
LONGEST_S = 60.0
#: An agent is at rest when it takes less than this part of a core, LOOK_S long. What it takes
#: without members is a third of that.
REST, LOOK_S = 0.015, 2.0
#: asks the responder of that address for a name, and pings what it says
PING = """
import subprocess, sys, dns.message, dns.query
reply = dns.query.udp(dns.message.make_query(sys.argv[1], "A"), sys.argv[2], timeout=1)
found = [r.address for rrset in reply.answer for r in rrset]
sys.exit(subprocess.run(["ping", "-c1", "-W1", *found[:1]], capture_output=True).returncode)
"""


def end_of(host: Host, number: int, addresses: tuple[str, ...] = ()) -> Whalescale:
    end = Whalescale(host, f"wsb{number}n{os.getpid()}"[:15], addresses, 51819 + number)
    end.env["WHALESCALE_STATE_DIR"] = str(end.runtime.with_name(f"state{number}"))
    return end


def join_to_ping() -> float:
    """Seconds from `ws join` to a ping by name, less the service's own start."""
    with Lab() as lab:
        home, laptop = lab.host("home"), lab.host("laptop")
        lab.link(home, laptop, Shape(100, 10))
        a, b = end_of(home, 1), end_of(laptop, 2)
        for end in (a, b):
            end.write_config()
        where = ("-i", a.interface, "--config", str(a.config))
        a.ws("network", "create", "hearth", "--name", "home", *where)
        a.launch()
        a.wait_for_uapi()
        ticket = a.ws("invite", "laptop", "-i", a.interface).stdout.strip()
        began = time.monotonic()
        where = ("-i", b.interface, "--config", str(b.config))
        told = json.loads(b.ws("join", ticket, "--json", *where).stdout)
        joined = time.monotonic()
        b.launch()
        b.wait_for_uapi()
        up = time.monotonic()
        words = (sys.executable, "-c", PING, "home.hearth.internal", told["address"])
        wait_until("a ping by name", lambda: not laptop.run(*words, check=False).returncode, 30)
        return (joined - began) + (time.monotonic() - up)


def _network(
    ends: list[Whalescale],
    places: list[Endpoint],
    count: int = MEMBERS,
    others_at: IPv4Network | None = None,
) -> None:
    """They are members of one network of `count`; the other members are nowhere, or say that they
    are there."""
    root = Identity(os.urandom(32))
    net = records.network_id(root.node_id)
    prefix = IPv4Network("10.66.0.0/16")
    own = [Identity.from_seed(identity.decode_seed(e.key_file.read_text().strip())) for e in ends]
    admin = own[0]
    signed: list[tuple[Record, Identity]] = [
        (NetworkRecord(net, root.node_id, 1, "bench", prefix), root),
        (AdminRecord(net, admin.node_id, 1, Status.ACTIVE), root),
    ]
    others = [Identity(n.to_bytes(4, "big") * 8) for n in range(1, count - len(ends) + 1)]
    for n, who in enumerate([*own, *others]):
        address = IPv4Address(int(prefix.network_address) + n + 1)
        member = MemberRecord(
            net, who.node_id, admin.node_id, 1, Status.ACTIVE, f"m{n}", True, address
        )
        signed.append((member, admin))
    where = list(zip(own, places, strict=True))
    if others_at is not None:
        first = int(others_at.network_address)
        at = (Endpoint(str(IPv4Address(first + n)), 51_820) for n in range(1, count))
        where += zip(others, at, strict=False)
    for who, place in where:
        signed.append((EndpointRecord(net, who.node_id, 1, (Place(place),)), who))
    raws = [records.encode(record, by.seed) for record, by in signed]
    for end, who in zip(ends, own, strict=True):
        folder = Path(end.env["WHALESCALE_STATE_DIR"])
        folder.mkdir(mode=0o700, exist_ok=True)
        store = Store(folder / f"{end.interface}.db")
        store.seal_key = seal_key(who)  # as its agent does with what it has checked
        for raw in raws:
            entry = entry_of(raw)
            store.put(entry.key, raw)
        store.set_meta(NETWORK, net, durable=True)
        store.close()


def held_each(few: int, many: int) -> float:
    """Bytes of its own that an agent at rest holds more for each member more."""
    return (_held(many) - _held(few)) / (many - few)


def _held(members: int) -> int:
    with Lab() as lab:
        host, other = lab.host("held1"), lab.host("held2")
        link = lab.link(host, other)
        end = end_of(host, 8)
        end.write_config()
        place = Endpoint(link.address(host), end.port)
        # Documentation's addresses: there is no way to them from this namespace.
        _network([end], [place], members, IPv4Network("198.18.0.0/15"))
        end.launch()
        end.wait_for_uapi()
        at_rest([end])
        assert end.process is not None
        rows = Path("/proc", str(end.process.pid), "smaps_rollup").read_text().splitlines()
        kib = {row.split(":")[0]: int(row.split()[1]) for row in rows[1:]}
        return 1024 * (kib["Private_Dirty"] + kib["Private_Clean"])


def agent_start(members: int) -> tuple[float, float]:
    """Seconds until an agent that has so many members stored has called one of them; and those
    until one without a network answers."""
    with Lab() as lab:
        one, other = lab.host("start1"), lab.host("start2")
        link = lab.link(one, other)
        plain = end_of(lab.host("start3"), 5, ("10.66.0.3/32",))
        plain.write_config()
        began = time.monotonic()
        plain.launch()
        plain.wait_for_uapi()
        without = time.monotonic() - began
        ends = [end_of(one, 6), end_of(other, 7)]
        for end in ends:
            end.write_config()
        places = [
            Endpoint(link.address(h), e.port) for h, e in zip((one, other), ends, strict=True)
        ]
        _network(ends, places, members)
        ends[1].launch()
        ends[1].wait_for_uapi()
        at_rest(ends[1:])
        began = time.monotonic()
        ends[0].launch()
        ping = ("ping", "-c1", "-W1", "10.66.0.2")
        wait_until("a ping", lambda: not one.run(*ping, check=False).returncode, LONGEST_S)
        return time.monotonic() - began, without


class _Pair:
    """Two agents on a link: `on`, members of a network; else peers by hand."""

    def __init__(self, lab: Lab, on: bool, first: int) -> None:
        one, other = (lab.host(f"{'on' if on else 'off'}{n}") for n in (1, 2))
        link, hosts = lab.link(one, other), (one, other)
        inside = ("10.66.0.1/16", "10.66.0.2/16")
        self.ends = [end_of(h, first + n, () if on else (inside[n],)) for n, h in enumerate(hosts)]
        self.hosts = hosts
        if on:
            for end in self.ends:
                end.write_config()
            places = [
                Endpoint(link.address(h), e.port) for h, e in zip(hosts, self.ends, strict=True)
            ]
            _network(self.ends, places)
        else:
            for n, end in enumerate(self.ends):
                far = self.ends[1 - n]
                at = outside(link.address(hosts[1 - n]), far.port)
                end.write_config(
                    Peer(far.public_key, (f"10.66.0.{2 - n}/32",), at, node_id=far.node_id)
                )
        for end in self.ends:
            end.launch()
            end.wait_for_uapi()
        ping = ("ping", "-c1", "-W1", "10.66.0.2")
        wait_until("a ping", lambda: not hosts[0].run(*ping, check=False).returncode, LONGEST_S)

    def flow(self) -> float:
        """Mbit/s of one TCP flow."""
        server = self.hosts[1].spawn("iperf3", "-s", "-1", "-B", "10.66.0.2")
        self.hosts[1].wait_listening(5201)
        words = ("iperf3", "-c", "10.66.0.2", "-J", "-t", str(FLOW_S), "-O", "1")
        said = json.loads(self.hosts[0].run(*words, timeout=LONGEST_S).stdout)
        with suppress(LabError):
            server.finish(10)
        return float(said["end"]["sum_received"]["bits_per_second"]) / 1e6


def cpu(end: Whalescale) -> float:
    """Seconds that the agent took so far. Asked of the kernel: to show a thousand peers is work,
    which would count as the agent's idle."""
    assert end.process is not None
    tasks = Path("/proc", str(end.process.pid), "task").iterdir()
    return sum(int((t / "schedstat").read_text().split()[0]) for t in tasks) / 1e9


def at_rest(ends: list[Whalescale]) -> float:
    """Wait until none of them does anything any more. Returns the seconds."""
    began = time.monotonic()
    while time.monotonic() - began < LONGEST_S:
        before = [cpu(end) for end in ends]
        time.sleep(LOOK_S)
        if all(cpu(e) - b < REST * LOOK_S for e, b in zip(ends, before, strict=True)):
            return time.monotonic() - began - LOOK_S
    raise LabError(f"the agents are not at rest after {LONGEST_S:.0f} s")


def on_against_off() -> tuple[float, float, float, str]:
    """(throughput as a ratio, idle CPU in % of a core more, seconds from the first ping until the
    agents were at rest, what was measured)."""
    with Lab() as lab:
        off, on = _Pair(lab, on=False, first=1), _Pair(lab, on=True, first=3)
        rest = at_rest(on.ends)
        ratios = []
        for number in range(ROUNDS):
            both = (off, on) if number % 2 else (on, off)
            found = {id(pair): pair.flow() for pair in both}
            ratios.append(found[id(on)] / found[id(off)])
        at_rest([*off.ends, *on.ends])
        before = [cpu(pair.ends[0]) for pair in (off, on)]
        time.sleep(IDLE_S)
        after = [cpu(pair.ends[0]) for pair in (off, on)]
        idle = [(a - b) / IDLE_S * 100 for a, b in zip(after, before, strict=True)]
    note = f"rounds {', '.join(f'{r:.3f}' for r in ratios)}; idle off {idle[0]:.2f} %"
    return statistics.median(ratios), idle[1] - idle[0], rest, note
