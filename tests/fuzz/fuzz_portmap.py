"""libFuzzer (atheris) on what a gateway says of port mappings, and what is made of it.

Input: records of an operation byte, a length byte and that many bytes.
  op % 7 = 0: a datagram, as it stands
         = 1: the same, made to fit: our nonce and port, an opcode that is known
         = 2: the clock goes on by that many bytes' value in ms
         = 3: the kernel says that nobody listens
         = 4: the network may be another
         = 5: a datagram that it sends to all
         = 6: others dialled the place that it maps, and got in by an even first byte
The first byte of all, odd: a hole in an IPv6 firewall instead of an IPv4 mapping.
Invariants: nothing raises; what is refused is counted; a mapping stands at a public address and
ends; timers lie ahead; a gateway is asked a bounded number of times.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["whalescale"]):
    from whalescale.protocol.nat import portmap_codec as codec
    from whalescale.protocol.nat.portmap import MOST_LIFETIME_S, Mapping, State, no_good
from whalescale.protocol.limits import NS_PER_S

NONCE, PORT = bytes(range(12)), 51820


def fitted(piece: bytes, mapping: Mapping) -> bytes:
    """Past the checks that random bytes seldom pass."""
    data = bytearray(piece)
    if len(data) >= 8:
        data[0] &= 2
        data[1] = 128 | (data[1] & 1)
        if data[0] and len(data) >= 60:
            data[24:37] = NONCE + bytes((codec.UDP,))
            data[40:42] = PORT.to_bytes(2, "big")
            if mapping.version == 4:
                data[44:56] = bytes(10) + b"\xff\xff"
        elif not data[0] and len(data) >= 16:
            data[8:10] = PORT.to_bytes(2, "big")
            del data[16:]
    return bytes(data)


def sent(mapping: Mapping) -> int:
    count = 0
    while mapping.poll_transmit() is not None:
        count += 1
    return count


def one_input(data: bytes) -> None:
    six = bool(data) and data[0] & 1
    places = ("fe80::1", "2a00:1450::7") if six else ("192.168.1.1", "192.168.1.7")
    mapping = Mapping(*places, PORT, NONCE)
    now = 10**12
    mapping.begin(now)
    data = data[1:]
    while len(data) >= 2:
        op, size, piece = data[0] % 7, data[1], data[2 : 2 + data[1]]
        data = data[2 + size :]
        if op <= 1:
            before = sum(mapping.drops.values())
            mapping.receive(fitted(piece, mapping) if op else piece, mapping.gateway, now)
            assert sum(mapping.drops.values()) - before in (0, 1)
        elif op == 2:
            now += int.from_bytes(piece[:4], "little") * 1_000_000
            mapping.handle_timeout(now)
            at = mapping.deadline()
            assert at is not None
            assert at > now
        elif op == 3:
            mapping.unreachable(now)
        elif op == 4:
            mapping.begin(now)
        elif op == 5:
            before = sum(mapping.drops.values())
            mapping.word(piece, mapping.gateway, now)
            assert sum(mapping.drops.values()) - before in (0, 1)
        else:
            mapping.reached(reached=not (piece and piece[0] & 1), now=now)
        assert sent(mapping) <= 9
        external = mapping.external
        assert (external is not None) == (mapping.state is State.MAPPED)
        if external is not None:
            assert not no_good(external.ip, mapping.version)
            assert 0 < external.port < 65536
            assert mapping.lease_ends <= now + MOST_LIFETIME_S * NS_PER_S
    mapping.end()
    assert sent(mapping) <= 1
    assert mapping.deadline() is None


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
