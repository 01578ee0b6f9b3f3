#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A home router's NAT for labs, of each kind that RFC 4787 knows: UDP over IPv4 alone.

    python -m tools.natbox DEVICE ADDRESS MAPS FILTERS      (needs root)

Makes the TUN device, in the namespace that it runs in, and translates what the routing table sends
there: from inside, and from outside for ADDRESS. MAPS and FILTERS: "nothing", "address" or "port"
of the other end, that these depend on. Which mapping is whose, and whom it lets in, is decided by
the model that the simulation has (tests/sim/natmodel.py). Says "ready" once it does. What it cannot
translate it drops: fragments, other protocols, new mappings beyond so many.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "sim"))

from natmodel import Depends, Nat

from tools.nat64box import IFF_NO_PI, IFF_TUN, PACKET_MAX, TUNSETIFF, UDP, checksum, udp
from whalescale.protocol.places import Endpoint

MAPPINGS_MAX = 256


class Box:
    """Packets through a router of the model."""

    def __init__(self, nat: Nat) -> None:
        self.nat = nat

    def translate(self, packet: bytes, now: int) -> bytes | None:
        """What becomes of an IPv4 packet; None: it is dropped. `now`: ns."""
        if len(packet) < 28 or packet[0] != 0x45:
            return None
        size, part, protocol = struct.unpack_from("!2xH2xHxB", packet)
        if protocol != UDP or part & 0x3FFF or size != len(packet):
            return None
        ports = struct.unpack_from("!HH", packet, 20)
        source, to = (
            Endpoint(socket.inet_ntoa(packet[at : at + 4]), port)
            for at, port in zip((12, 16), ports, strict=True)
        )
        if to.ip != self.nat.ip:
            seen = self._seen(source, to, now)
            return None if seen is None else _between(packet, seen, to)
        if self.nat.inside(source):
            # From inside to our own address outside.
            if not self.nat.hairpin:
                return None
            seen = self._seen(source, to, now)
            if seen is None:
                return None
            source = seen
        inner = self.nat.into(source, to.port, now)
        return None if inner is None else _between(packet, source, inner)

    def _seen(self, source: Endpoint, to: Endpoint, now: int) -> Endpoint | None:
        """Where it comes from as seen from outside."""
        if self.nat.size(now) >= MAPPINGS_MAX and not self.nat.mapped(source, to):
            return None
        return self.nat.out(source, to, now)


def _between(packet: bytes, source: Endpoint, to: Endpoint) -> bytes:
    """The datagram, from and to elsewhere."""
    ends = socket.inet_aton(source.ip), socket.inet_aton(to.ip)
    head, pair = packet[:10], b"".join(ends)
    inner = udp(*ends, (source.port, to.port), packet[28:])
    return head + struct.pack("!H", checksum(head + bytes(2) + pair)) + pair + inner


def main() -> int:
    if len(sys.argv) != 5:
        print("natbox: DEVICE ADDRESS MAPS FILTERS", file=sys.stderr)
        return 2
    maps, filters = (Depends[word.upper()] for word in sys.argv[3:])
    box = Box(Nat(sys.argv[2], maps, filters))
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", sys.argv[1].encode(), IFF_TUN | IFF_NO_PI))
    print("ready", flush=True)
    while True:
        packet = box.translate(os.read(tun, PACKET_MAX), time.monotonic_ns())
        if packet is not None:
            os.write(tun, packet)


if __name__ == "__main__":
    sys.exit(main())
