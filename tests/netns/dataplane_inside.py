"""A peer that sends from within the tunnel; run by `dataplane_scenarios.py`.

The hostile one is no engine: it seals by hand what it likes, sends it from the host b, and the
engine on a has a session with it and one with an honest peer.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import socket
import struct
from functools import partial
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from tests.netns.dataplane_node import (
    SECOND,
    Addr,
    Hosts,
    Node,
    Options,
    Tunnel,
    UpcallType,
    no_upcall_but,
    now,
    two_nodes,
    wait_for,
)
from tests.netns.dataplane_traffic import transfer

MIB = 1 << 20
INSIDE: Final = {4: "10.77.9.2", 6: "fd77:9::2"}
PORT: Final = 4711
#: enough that every worker's socket gets some
SOURCE_PORTS: Final = range(4800, 4812)


def checksum(data: bytes) -> int:
    data += bytes(len(data) % 2)
    total = int(sum(struct.unpack(f"!{len(data) // 2}H", data)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def udp_packet(source: tuple[str, int], to: tuple[str, int], payload: bytes) -> bytes:
    """An IP packet with a UDP datagram."""
    a, b = ipaddress.ip_address(source[0]).packed, ipaddress.ip_address(to[0]).packed
    udp = struct.pack("!HHHH", source[1], to[1], 8 + len(payload), 0) + payload
    pseudo = a + b + struct.pack("!IHBB", len(udp), 0, 0, 17)
    udp = udp[:6] + struct.pack("!H", checksum(pseudo + udp) or 0xFFFF) + udp[8:]
    if len(a) == 16:
        return struct.pack("!IHBB", 6 << 28, len(udp), 17, 64) + a + b + udp
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + a + b
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + udp


def with_mac1(message: bytes, public_key: bytes) -> bytes:
    key = hashlib.blake2s(b"mac1----" + public_key).digest()
    return message + hashlib.blake2s(message, key=key, digest_size=16).digest() + bytes(16)


#: one of every kind that goes up to Python, with a mac1 that is right where there is one
MESSAGES: Final = {
    "initiation": with_mac1(b"\x01\0\0\0" + os.urandom(112), bytes(32)),
    "response": with_mac1(b"\x02\0\0\0" + os.urandom(56), bytes(32)),
    "cookie reply": b"\x03\0\0\0" + os.urandom(60),
    "bootstrap request": b"\x57\0\0\0" + os.urandom(124),
    "bootstrap reply": b"\x58\0\0\0" + os.urandom(124),
}


class Hostile:
    """A peer of `node`, with its keys at hand."""

    def __init__(self, node: Node, home: Hosts, outer: int) -> None:
        self.node, self.outer = node, outer
        engine, workers = node.engine, node.options.workers
        self.peer = engine.add_peer()
        engine.set_allowed_ips(self.peer, [ipaddress.ip_network(ip) for ip in INSIDE.values()])
        for ip in INSIDE.values():
            node.netns.run(f"ip route add {ip} dev {node.device}")
        self.index = 0x4000 * workers + self.peer % workers
        self.key, self.counter = os.urandom(32), 0
        engine.install_keypair(
            self.peer,
            local_index=self.index,
            remote_index=1,
            send_key=bytearray(os.urandom(32)),
            receive_key=bytearray(self.key),
            initiator=False,
            created=now(),
            rekey_after=10**6 * SECOND,
            reject_after=10**6 * SECOND,
            rekey_after_messages=2**60,
            reject_after_messages=2**63,
        )
        family = socket.AF_INET if outer == 4 else socket.AF_INET6
        self.socket = home[1].socket(family, socket.SOCK_DGRAM)
        self.at = Addr(home[1].outside[outer], PORT)
        self.socket.bind((self.at.ip, PORT))
        self.send()
        wait_for("the session", lambda: self.endpoint() == self.at)

    def endpoint(self) -> Addr | None:
        return self.node.engine.endpoint(self.peer)[0]

    def sealed(self, text: bytes = b"") -> bytes:
        text += bytes(-len(text) % 16)
        nonce = struct.pack("<IQ", 0, self.counter)
        head = struct.pack("<IIQ", 4, self.index, self.counter)
        self.counter += 1
        return head + ChaCha20Poly1305(self.key).encrypt(nonce, text, None)

    def send(self, text: bytes = b"", sock: socket.socket | None = None) -> None:
        to = self.node.outside(self.outer)
        (sock or self.socket).sendto(self.sealed(text), to[:2])

    def send_inside(self, payload: bytes, to: str, port: int) -> None:
        """A datagram that comes out of the tunnel's device on the other side."""
        source = INSIDE[6 if ":" in to else 4]
        self.send(udp_packet((source, port), (to, self.node.port), payload))


def _dropped(node: Node, reason: str) -> int:
    return node.drops().get(reason, 0)


def _has_dropped(node: Node, reason: str, least: int) -> bool:
    return _dropped(node, reason) >= least


def inside(hosts: Hosts, options: Options, outer: int = 4) -> None:
    """Whatever comes in by the tunnel's own device is dropped, and the honest notice nothing."""
    a, b = two_nodes(hosts, options)
    tunnel = Tunnel(a, b, outer=outer)
    hostile = Hostile(a, hosts, outer)
    no_upcall_but(a, UpcallType.CONFIRMED, UpcallType.ROAMED)
    # The address that the honest peer would take, and all sockets there are.
    targets = [tunnel.a.inside[4], tunnel.a.inside[6], a.outside(4).ip, a.outside(6).ip]
    for ip in targets[2:]:
        a.open_socket(ip)
    with a.netns.entered():
        eth0 = socket.if_nametoindex("eth0")
    with a.netns.entered():
        a.engine.open_socket(a.outside(6), eth0)
    expected = 0

    def attack() -> None:
        nonlocal expected
        for to in targets:
            for port in SOURCE_PORTS:
                hostile.send_inside(hostile.sealed(), to, port)
                source = INSIDE[6 if ":" in to else 4]
                data = udp_packet((source, 1), (to, 2), b"")
                hostile.send_inside(hostile.sealed(data), to, port)
                for message in MESSAGES.values():
                    hostile.send_inside(message, to, port)
                expected = want = expected + 2 + len(MESSAGES)
                wait_for("the drops", partial(_has_dropped, a, "TUNNEL", want))

    attack()
    if hostile.endpoint() != hostile.at:
        raise AssertionError(f"the endpoint moved to {hostile.endpoint()}")
    # Renamed, it is the same device.
    for line in (f"{a.device} down", f"{a.device} name ws9", "ws9 up"):
        a.netns.run(f"ip link set {line}")
    a.device = "ws9"
    for family, network in ((4, "10.77.0.0/24"), (6, "fd77:0::/64")):
        a.netns.run(f"ip -{family} route replace {network} dev ws9")
        a.netns.run(f"ip -{family} route replace {INSIDE[family]} dev ws9")
    a.netns.run(f"ip addr replace {tunnel.a.inside[6]}/64 dev ws9 nodad")
    attack()
    if a.drops() != {"TUNNEL": expected}:
        raise AssertionError(f"of {expected} from inside: {a.drops()}")
    no_upcall_but(a, UpcallType.CONFIRMED, UpcallType.ROAMED)
    transfer(tunnel, MIB, 4)
    transfer(tunnel, MIB, 6)
    if b.drops() or a.drops() != {"TUNNEL": expected}:
        raise AssertionError(f"drops were {a.drops()} and {b.drops()}")
    a.close()
    b.close()


def inside_networks(hosts: Hosts, options: Options, outer: int = 4) -> None:
    """Nothing is taken from an address that is inside a tunnel, whichever way it came."""
    a = Node(hosts[0], options)
    hostile = Hostile(a, hosts, outer)
    a.upcalls()
    elsewhere = "10.201.77.7" if outer == 4 else "fd00:201:77::7"
    hosts[1].run(f"ip addr add {elsewhere} dev eth0" + ("" if outer == 4 else " nodad"))
    a.netns.run(f"ip route add {elsewhere} dev eth0")
    family = socket.AF_INET if outer == 4 else socket.AF_INET6
    other = hosts[1].socket(family, socket.SOCK_DGRAM)
    other.bind((elsewhere, PORT))
    wide = ipaddress.ip_network("10.201.0.0/16" if outer == 4 else "fd00:201::/32")
    here = ipaddress.ip_network(hosts[1].outside[outer])

    # The longest match counts: the peer's own place is outside.
    a.engine.set_inside([wide], [here])
    to = a.outside(outer)[:2]
    hostile.send(sock=other)
    for message in MESSAGES.values():
        other.sendto(message, to)
    wait_for("the drops", lambda: _dropped(a, "INSIDE") == 1 + len(MESSAGES))
    hostile.send()
    wait_for("what is outside", lambda: a.total("keepalives_rx") == 2)
    if hostile.endpoint() != hostile.at:
        raise AssertionError(f"the endpoint moved to {hostile.endpoint()}")
    no_upcall_but(a)
    a.engine.set_inside([wide], [wide])
    hostile.send(sock=other)
    wait_for("the move", lambda: hostile.endpoint() == Addr(elsewhere, PORT))
    a.close()


def loop(hosts: Hosts, options: Options, outer: int = 4) -> None:
    """An endpoint that the routes lead into the tunnel: sealed once, and not again and again."""
    a = Node(hosts[0], options)
    hostile = Hostile(a, hosts, outer)
    own = "10.77.9.1/24" if outer == 4 else "fd77:9::1/64"
    a.netns.run(f"ip addr add {own} dev {a.device}" + ("" if outer == 4 else " nodad"))
    inside = INSIDE[outer]
    a.engine.set_endpoint(hostile.peer, Addr(inside, a.port))
    family = socket.AF_INET if outer == 4 else socket.AF_INET6
    sender = a.netns.socket(family, socket.SOCK_DGRAM)
    before = a.total("tun_reads")
    for size in (1, 600, 1370):  # the last is two fragments when sealed
        sender.sendto(bytes(size), (inside, 9))
    wait_for("what came back", lambda: _dropped(a, "LOOP") >= 3)
    reads = a.total("tun_reads")
    sender.sendto(b"", (inside, 9))
    wait_for("one more", lambda: a.total("tun_reads") > reads)
    if a.total("tun_reads") - before > 40:
        raise AssertionError(f"{a.total('tun_reads') - before} TUN reads of four packets")
    a.close()
