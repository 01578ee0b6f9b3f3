"""What a data plane must survive, each scenario run in a process of its own.

    python -m tests.netns.dataplane_scenarios '{"scenario": ..., "hosts": {...}, ...}'

`hosts` are the namespaces a and b with their addresses on the link; the other keys are the
scenario's arguments. The exit status is 0 when all held, else a traceback says what did not.
"""

from __future__ import annotations

import faulthandler
import inspect
import itertools
import json
import os
import socket
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from tests.netns import dataplane_changes as changes
from tests.netns import dataplane_inside as within
from tests.netns.dataplane_everything import everything
from tests.netns.dataplane_node import (
    Hosts,
    Netns,
    Node,
    Options,
    Tunnel,
    UpcallType,
    check_clean,
    hub,
    no_upcall_but,
    two_nodes,
    wait_for,
)
from tests.netns.dataplane_traffic import (
    SO_RCVBUFFORCE,
    Stream,
    connect,
    datagrams,
    in_threads,
    interesting_sizes,
    segment_runs,
    segment_sends,
    transfer,
    udp_pair,
    write_sizes,
)

MIB = 1 << 20
ECT0, CE = 2, 3


def finish(*nodes: Node) -> None:
    """All was delivered; nothing went up to Python but what a first contact brings."""
    check_clean(*nodes)
    for node in nodes:
        no_upcall_but(node, UpcallType.CONFIRMED, UpcallType.ROAMED)
        node.close()


# the same bytes, whatever the way


def tcp(hosts: Hosts, options: Options, size: int, outer: int = 4) -> None:
    """Both directions at once, IPv4 and IPv6 inside."""
    a, b = two_nodes(hosts, options)
    tunnel = Tunnel(a, b, outer=outer)
    transfer(tunnel, size, 4)
    transfer(tunnel, size // 4, 6)
    finish(a, b)


def sizes(hosts: Hosts, options: Options, step: int = 1, outer: int = 4) -> None:
    """Every size, as a plain datagram (in fragments), a UDP super-packet and a TCP one."""
    a, b = two_nodes(hosts, options)
    tunnel = Tunnel(a, b, outer=outer)
    for family in (4, 6):
        datagrams(tunnel, family, interesting_sizes(family)[::step])
        counters = ("tx_packets", "tun_reads", "tx_batches")
        before = [a.total(counter) for counter in counters]
        made = segment_sends(tunnel, family, itertools.islice(segment_runs(family), 0, None, step))
        packets, *calls = (a.total(c) - n for c, n in zip(counters, before, strict=True))
        if packets < made:
            raise AssertionError(f"{made} datagrams, but {packets} packets through the tunnel")
        if a.engine.chosen().offloads_off == 0 and max(calls) * 4 > packets:
            raise AssertionError(
                f"{packets} packets took {calls} reads and sends: no super-packets"
            )
        writes = [n for n in interesting_sizes(4) if n > 3000 or n % 7 == 0] + [65535]
        write_sizes(tunnel, writes[::step], family)
    finish(a, b)


def small_runs(hosts: Hosts, options: Options, outer: int = 4) -> None:
    """Small datagrams of one send: sealed many at a time where they go as frames."""
    a, b = two_nodes(hosts, options)
    tunnel = Tunnel(a, b, outer=outer)
    for family in (4, 6):
        before = a.engine.peer_stats(tunnel.a.peer).tx_counter
        packets = segment_sends(tunnel, family, [(64, 64 * 64), (100, 64 * 100 - 1)] * 20)
        sealed = a.engine.peer_stats(tunnel.a.peer).tx_counter - before
        if sealed * 6 > packets if options.frames else sealed < packets:
            raise AssertionError(f"{packets} packets were sealed as {sealed} messages")
    finish(a, b)


def every_udp_size(hosts: Hosts, options: Options, step: int = 1, outer: int = 4) -> None:
    """UDP_SEGMENT sends of every length there is, in segments of 1,200 bytes."""
    a, b = two_nodes(hosts, options)
    tunnel = Tunnel(a, b, outer=outer)
    segment_sends(tunnel, 4, ((1200, total) for total in range(1, 65508, step)))
    finish(a, b)


def every_tcp_size(hosts: Hosts, options: Options, step: int = 13, outer: int = 4) -> None:
    """TCP writes up to the longest super-packet: in pieces nowhere but on the wire."""
    a, b = two_nodes(hosts, options)
    tunnel = Tunnel(a, b, outer=outer)
    write_sizes(tunnel, range(1, 65536, step))
    sent, received = a.total("tx_packets"), b.total("rx_packets")
    for what, few, many in (
        ("TUN reads", a.total("tun_reads"), sent),
        ("sends", a.total("tx_batches"), sent),
        ("receives", b.total("rx_batches"), received),
        ("TUN writes", b.total("tun_writes"), received),
    ):
        if few * 4 > many:
            raise AssertionError(f"{many} packets took {few} {what}: no super-packets")
    finish(a, b)


def odd_pieces() -> Iterator[int]:
    """Small and odd writes, for as long as anybody asks."""
    yield from itertools.cycle((1, 2, 3, 17, 536, 1000, 1379, 1381, 4096, 7, 20011))


def tcp_shapes(hosts: Hosts, options: Options, size: int) -> None:
    """Odd MSS values, small writes, timestamps on and off."""
    a, b = two_nodes(hosts, options)
    tunnel = Tunnel(a, b)
    for timestamps in (1, 0):
        for node in (a, b):
            with node.netns.entered(), open("/proc/sys/net/ipv4/tcp_timestamps", "w") as f:
                f.write(str(timestamps))
        for family in (4, 6):
            for mss in (211, 536, 777, 1001, 1219, 1337):

                def prepare(sock: socket.socket, mss: int = mss) -> None:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, mss)

                transfer(tunnel, size, family, prepare=prepare)

            def nodelay(sock: socket.socket) -> None:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

            transfer(tunnel, size, family, prepare=nodelay, pieces=odd_pieces)
    finish(a, b)


# ECN (RFC 6040)


class OuterEcn:
    """Counts the ECN field of the tunnel's datagrams as they arrive at a host."""

    def __init__(self, netns: Netns, outer: int, port: int = 51820) -> None:
        ethertype = 0x0800 if outer == 4 else 0x86DD
        self.outer, self.port = outer, port
        with netns.entered():
            self.socket = socket.socket(
                socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ethertype)
            )
            self.socket.bind(("eth0", ethertype))
        self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        self.socket.setblocking(False)

    def count(self, in_bytes: bool = False) -> Counter[int]:
        """ECN values of what arrived since the last time (perhaps in super-packets), data alone."""
        seen: Counter[int] = Counter()
        while True:
            try:
                data, address = self.socket.recvfrom(65536)
            except BlockingIOError:
                return seen
            if address[2] == socket.PACKET_OUTGOING:
                continue
            if self.outer == 4:
                protocol, udp, ecn = data[9], (data[0] & 15) * 4, data[1] & 3
            else:
                protocol, udp, ecn = data[6], 40, data[1] >> 4 & 3
            if protocol == socket.IPPROTO_UDP and len(data) > udp + 8 + 32:
                (port,) = struct.unpack_from("!H", data, udp + 2)
                seen[ecn] += (len(data) if in_bytes else 1) * (port == self.port)


def _with_ecn(tunnel: Tunnel, family: int, ecn: int, patience: float = 2.0) -> Counter[int]:
    """ECN values that five datagrams sent with `ecn` arrive with, one after the other."""
    sender, receiver = udp_pair(tunnel, family)
    level = socket.IPPROTO_IP if family == 4 else socket.IPPROTO_IPV6
    option = socket.IP_TOS if family == 4 else socket.IPV6_TCLASS
    told = socket.IP_RECVTOS if family == 4 else socket.IPV6_RECVTCLASS
    seen: Counter[int] = Counter()
    with sender, receiver:
        sender.setsockopt(level, option, ecn)
        receiver.setsockopt(level, told, 1)
        receiver.setblocking(True)
        receiver.settimeout(patience)
        for number in range(5):
            sender.send(struct.pack("=I", number))
            try:
                data, control, _, _ = receiver.recvmsg(64, 256)
            except TimeoutError:
                continue
            if data != struct.pack("=I", number):
                raise AssertionError("another datagram came than was sent")
            seen.update(
                value[0] & 3 for lv, kind, value in control if (lv, kind) == (level, option)
            )
    return seen


def ecn(hosts: Hosts, options: Options, outer: int) -> None:
    """Inner ECN shows outside; CE marked outside reaches the inside, or it is a drop."""
    a, b = two_nodes(hosts, options)
    tunnel = Tunnel(a, b, outer=outer)
    for node in (a, b):
        with node.netns.entered(), open("/proc/sys/net/ipv4/tcp_ecn", "w") as f:
            f.write("1")
    capture = OuterEcn(b.netns, outer)
    transfer(tunnel, 4 * MIB)
    seen = capture.count(in_bytes=True)
    # The acknowledgements of the other direction are not ECN-capable.
    if seen[ECT0] < 4 * MIB or seen[ECT0] < 10 * seen[0]:
        raise AssertionError(f"TCP with ECN: outer ECN fields were {dict(seen)}")
    for family in (4, 6):
        for value in range(4):
            came = _with_ecn(tunnel, family, value)
            if came != {value: 5}:
                raise AssertionError(f"inner ECN {value} arrived as {dict(came)}")
        if capture.count() != {0: 5, 1: 5, 2: 5, 3: 5}:
            raise AssertionError("inner ECN did not show outside")
    check_clean(a, b)
    word = "ip ecn" if outer == 4 else "ip6 ecn"
    b.netns.run("nft add table netdev t")
    b.netns.run("nft add chain netdev t c { type filter hook ingress device eth0 priority 0 ; }")
    b.netns.run(f"nft add rule netdev t c udp dport 51820 {word} set ce")
    for family in (4, 6):
        for value, expected in ((0, {}), (1, {CE: 5}), (2, {CE: 5}), (3, {CE: 5})):
            came = _with_ecn(tunnel, family, value, 2.0 if expected else 0.05)
            if came != expected:
                raise AssertionError(f"inner ECN {value} marked CE outside arrived as {dict(came)}")
    wait_for("the drops", lambda: b.drops().get("ECN", 0) >= 10)
    if b.drops() != {"ECN": 10} or a.drops():
        raise AssertionError(f"drops were {b.drops()} and {a.drops()}")
    # TCP carries on when all that it sends is marked. Not ECN-capable (SYN, pure
    # acknowledgements) may be lost: not in the marked direction but for the first SYN.
    b.netns.run("nft flush chain netdev t c")
    client, server = connect(tunnel)
    rule = f"udp dport 51820 {word} ect0 {word} set ce"
    b.netns.run(f"nft add rule netdev t c {rule}")
    with client, server:
        data = os.urandom(64 << 10)
        client.sendall(data)
        got = b""
        while len(got) < len(data):
            got += server.recv(65536)
        if got != data:
            raise AssertionError("a marked TCP stream arrived with other bytes")
        info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        # struct tcp_info, tcpi_delivered_ce: what the receiver told of marks.
        (marked,) = struct.unpack_from("=I", info, 196)
        if not marked:
            raise AssertionError("the TCP sender was not told of any mark")
    a.close()
    b.close()


# several workers


def check_handed_over(sender: Node, receiver: Node) -> None:
    for node, counter in ((sender, "foreign_tx"), (receiver, "foreign_rx")):
        if not node.total(counter):
            raise AssertionError(f"{node.netns.name}: nothing was handed over between workers")


def workers(hosts: Hosts, options: Options, size: int) -> None:
    """Four peers at once: TCP both ways, datagrams of all sizes, then paced ones, none lost."""
    a, b, c, tunnels = hub(hosts, options)
    in_threads([partial(transfer, t, size) for t in tunnels])
    in_threads([partial(transfer, t, size // 4, 6) for t in tunnels])
    streams = [
        Stream(tunnel, family, end)
        for tunnel in tunnels
        for family in (4, 6)
        for end in (tunnel.a, tunnel.b)
    ]
    before = [node.drops() for node in (a, b, c)]

    def stop() -> None:
        for stream in streams:
            stream.stop()

    stopper = threading.Timer(2.0, stop)
    stopper.start()
    in_threads([partial(s.run, 0.004) for s in streams])
    for stream in streams:
        stream.check()
    if [node.drops() for node in (a, b, c)] != before:
        raise AssertionError(f"dropped at a moderate rate: {[n.drops() for n in (a, b, c)]}")
    # TCP at full speed may outrun an owner that the scheduler keeps waiting, nothing else.
    for node in (a, b, c):
        if set(node.drops()) - {"HANDOFF_FULL"}:
            raise AssertionError(f"{node.netns.name} {node.device} dropped {node.drops()}")
    check_handed_over(a, b)
    check_handed_over(b, a)
    for node in (a, b, c):
        no_upcall_but(node, UpcallType.CONFIRMED, UpcallType.ROAMED)
        node.close()


def bursts(hosts: Hosts, options: Options, step: int) -> None:
    """Bursts of fragments and super-packets across workers: none lost."""
    a, b, c, tunnels = hub(hosts, options)
    for tunnel in tunnels:
        datagrams(tunnel, 4, interesting_sizes(4)[:: step * 3])
        datagrams(tunnel, 6, interesting_sizes(6)[:: step * 3])
        for family in (4, 6):
            runs = itertools.islice(segment_runs(family), 0, None, step * 3)
            segment_sends(tunnel, family, runs)
    check_handed_over(a, b)
    finish(a, b, c)


SCENARIOS: dict[str, Callable[..., None]] = {
    scenario.__name__: scenario
    for scenario in (
        *(tcp, sizes, small_runs, every_udp_size, every_tcp_size, tcp_shapes, ecn, workers, bursts),
        *(changes.rotation, changes.peers_come_and_go, changes.sockets_come_and_go),
        changes.port_stays_ours,
        *(changes.statistics, changes.commands, changes.cycles, changes.never_started),
        *(changes.device_deleted, changes.device_gone_unheard, changes.close_under_load),
        *(changes.busy_poll, changes.source_address_gone, changes.busy_peer),
        changes.held_back,
        everything,
        *(within.inside, within.inside_networks, within.loop),
    )
}


def main(plan: dict[str, Any]) -> None:
    faulthandler.enable()
    given = plan.pop("hosts")
    hosts = Netns(*given["a"]), Netns(*given["b"])
    scenario = SCENARIOS[plan.pop("scenario")]
    names = ("backend", "cipher", "off", "workers", "frames", "busy_poll_us")
    keys = [key for key in names if key in plan]
    options = Options.parse({key: plan.pop(key) for key in keys})
    inspect.signature(scenario).bind(hosts, options, **plan)
    scenario(hosts, options, **plan)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
