#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A NAT64 for labs (RFC 6146, 7915): UDP alone, one IPv4 address, 64:ff9b::/96.

    python -m tools.nat64box DEVICE ADDRESS      (needs root)

Makes the TUN device, in the namespace that it runs in, and translates what the routing table sends
there: IPv6 for the prefix, IPv4 for ADDRESS. Says "ready" once it does. What it cannot translate it
drops: fragments, other protocols, ports that nobody sent from.
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys
from ipaddress import IPv4Address, IPv6Address

PREFIX = IPv6Address("64:ff9b::").packed[:12]
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000
UDP = 17
PACKET_MAX = 65536
FIRST_PORT, PORTS = 30_000, 10_000


def checksum(data: bytes) -> int:
    """RFC 1071."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def udp(source: bytes, to: bytes, ports: tuple[int, int], payload: bytes) -> bytes:
    """A UDP datagram with its checksum; addresses packed, of either version."""
    size = 8 + len(payload)
    pseudo = source + to + struct.pack("!IHH", size, 0, UDP)
    head = struct.pack("!HHH", *ports, size)
    right = checksum(pseudo + head + bytes(2) + payload) or 0xFFFF
    return head + struct.pack("!H", right) + payload


class Translator:
    def __init__(self, address: str) -> None:
        self.address = IPv4Address(address).packed
        self._ports: dict[tuple[bytes, int], int] = {}
        self._inside: dict[int, tuple[bytes, int]] = {}

    def translate(self, packet: bytes) -> bytes | None:
        """What becomes of an IP packet; None: it is dropped."""
        if len(packet) >= 48 and packet[0] >> 4 == 6:
            return self._out(packet)
        return self._in(packet) if len(packet) >= 28 and packet[0] == 0x45 else None

    def _out(self, packet: bytes) -> bytes | None:
        first, size, protocol, hops, source, to = struct.unpack_from("!IHBB16s16s", packet)
        if protocol != UDP or hops < 2 or to[:12] != PREFIX or size != len(packet) - 40:
            return None
        port, far = struct.unpack_from("!HH", packet, 40)
        ours = self._ports.get((source, port))
        if ours is None:
            if len(self._ports) == PORTS:
                return None
            ours = FIRST_PORT + len(self._ports)
            self._ports[source, port] = ours
            self._inside[ours] = source, port
        inner = udp(self.address, to[12:], (ours, far), packet[48:])
        tos = first >> 20 & 0xFF
        head = struct.pack("!BBHHHBB", 0x45, tos, 20 + len(inner), 0, 0x4000, hops - 1, UDP)
        ends: bytes = self.address + to[12:]
        return head + struct.pack("!H", checksum(head + bytes(2) + ends)) + ends + inner

    def _in(self, packet: bytes) -> bytes | None:
        _, tos, size, _, part, hops, protocol = struct.unpack_from("!BBHHHBB", packet)
        source, to = packet[12:16], packet[16:20]
        if protocol != UDP or hops < 2 or part & 0x3FFF or size != len(packet):
            return None
        far, port = struct.unpack_from("!HH", packet, 20)
        known = self._inside.get(port)
        if known is None or to != self.address:
            return None
        inner = udp(PREFIX + source, known[0], (far, known[1]), packet[28:])
        head = struct.pack("!IHBB", 6 << 28 | tos << 20, len(inner), UDP, hops - 1)
        whole: bytes = head + PREFIX + source + known[0] + inner
        return whole


def main() -> int:
    if len(sys.argv) != 3:
        print("nat64box: DEVICE ADDRESS", file=sys.stderr)
        return 2
    translator = Translator(sys.argv[2])
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", sys.argv[1].encode(), IFF_TUN | IFF_NO_PI))
    print("ready", flush=True)
    while True:
        packet = translator.translate(os.read(tun, PACKET_MAX))
        if packet is not None:
            os.write(tun, packet)


if __name__ == "__main__":
    sys.exit(main())
