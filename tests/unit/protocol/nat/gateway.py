"""A gateway that maps ports, for tests."""

from __future__ import annotations

import ipaddress
import struct

from whalescale.protocol.limits import NS_PER_S as S
from whalescale.protocol.nat.portmap import Protocol
from whalescale.protocol.places import Endpoint

HERE, PORT = "192.168.1.7", 51820
GATEWAY = Endpoint("192.168.1.1", 5351)
OUTSIDE = "5.6.7.8"


class Gateway:
    """Speaks what it is told to, counts what it is asked."""

    def __init__(self, *speaks: Protocol) -> None:
        self.speaks = speaks
        self.started = -1000 * S
        self.external = (OUTSIDE, PORT)
        self.lifetime = 7200
        self.result = 0
        self.asked: list[bytes] = []
        #: by port: whoever has a PCP mapping
        self.nonces: dict[bytes, bytes] = {}

    def epoch(self, now: int) -> int:
        return (now - self.started) // S

    def word(self, protocol: Protocol, now: int) -> bytes:
        """What it says to all when it begins anew."""
        if protocol is Protocol.PCP:
            return struct.pack("!BBxBII12x", 2, 128, 0, 0, self.epoch(now))
        ip = ipaddress.IPv4Address(self.external[0]).packed
        return struct.pack("!BBHI4s", 0, 128, 0, self.epoch(now), ip)

    def answer(self, request: bytes, now: int) -> bytes | None:
        self.asked.append(request)
        if not self.speaks:
            return None
        epoch = self.epoch(now)
        ip = ipaddress.ip_address(self.external[0]).packed
        if request[0] == 0:
            if Protocol.NATPMP not in self.speaks:
                return struct.pack("!BBxBII12x", 2, 128, 1, 0, epoch)
            op = 128 | request[1]
            if self.result:
                return struct.pack("!BBHI", 0, op, self.result, epoch)
            if request[1] == 0:
                return struct.pack("!BBHI4s", 0, op, 0, epoch, ip)
            port, lifetime = struct.unpack_from("!H2xI", request, 4)
            granted = min(lifetime, self.lifetime)
            return struct.pack("!BBHIHHI", 0, op, 0, epoch, port, self.external[1], granted)
        if Protocol.PCP not in self.speaks:
            return struct.pack("!BBHI", 0, 128 | request[1], 1, epoch)
        lifetime = min(int.from_bytes(request[4:8], "big"), self.lifetime)
        result = self.result
        if not result and request[1] == 1 and self.lifetime:
            # RFC 6887 section 11.3: the mapping is another's.
            result = 2 * (self.nonces.setdefault(request[40:42], request[24:36]) != request[24:36])
            if not result and not lifetime:
                del self.nonces[request[40:42]]
        if result:
            lifetime = 0
        head = struct.pack("!BBxBII12x", 2, 128 | request[1], result, lifetime, epoch)
        if request[1] == 0:
            return head
        mapped = ip if len(ip) == 16 else bytes(10) + b"\xff\xff" + ip
        return head + request[24:42] + struct.pack("!H16s", self.external[1], mapped)
