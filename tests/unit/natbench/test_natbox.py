"""The box of `tools/natbox.py`, packet by packet: what RFC 4787 says of each kind."""

from __future__ import annotations

import socket
import struct

import pytest

from tools.nat64box import checksum, udp
from tools.natbox import MAPPINGS_MAX, Box, Depends, Nat

INSIDE, WAN, PEER, OTHER = ("10.0.0.2", 51820), "5.7.1.1", ("5.6.2.1", 4000), ("5.6.3.1", 4000)
SECOND = 10**9


def packet(source: tuple[str, int], to: tuple[str, int], data: bytes = b"x", part: int = 0):
    ends = [socket.inet_aton(ip) for ip, _ in (source, to)]
    inner = udp(*ends, (source[1], to[1]), data)
    head = struct.pack("!BBHHHBB", 0x45, 3, 20 + len(inner), 7, part, 64, 17)
    pair = b"".join(ends)
    return head + struct.pack("!H", checksum(head + bytes(2) + pair)) + pair + inner


def ends_of(raw: bytes):
    source, to = (socket.inet_ntoa(raw[at : at + 4]) for at in (12, 16))
    ports = struct.unpack_from("!HH", raw, 20)
    return (source, ports[0]), (to, ports[1])


def sent(box: Box, to: tuple[str, int], at: int = 0) -> tuple[str, int]:
    """Where the host's packet is seen to come from."""
    out = box.translate(packet(INSIDE, to), at)
    assert out is not None
    seen, there = ends_of(out)
    assert there == to
    return seen


def gets_in(box: Box, source: tuple[str, int], to: tuple[str, int], at: int = 0) -> bool:
    got = box.translate(packet(source, to), at)
    assert got is None or ends_of(got) == (source, INSIDE)
    return got is not None


@pytest.mark.parametrize(
    ("filters", "same_address", "another"),
    [(Depends.NOTHING, True, True), (Depends.ADDRESS, True, False), (Depends.PORT, False, False)],
)
def test_one_mapping_for_all_and_who_gets_in(filters, same_address, another):
    box = Box(Nat(WAN, filters=filters))
    seen = sent(box, PEER)
    assert seen[0] == WAN
    assert gets_in(box, PEER, seen)
    assert gets_in(box, (PEER[0], 4001), seen) is same_address
    assert gets_in(box, OTHER, seen) is another
    assert sent(box, OTHER) == seen
    assert not gets_in(box, PEER, (WAN, seen[1] + 1))


def test_a_mapping_for_each_destination():
    box = Box(Nat(WAN, Depends.PORT))
    seen = {to: sent(box, to) for to in (PEER, (PEER[0], 4001), OTHER)}
    assert len(set(seen.values())) == 3
    assert sent(box, PEER) == seen[PEER]
    assert gets_in(box, OTHER, seen[OTHER])
    assert not gets_in(box, OTHER, seen[PEER])


def test_it_forgets_after_a_silence():
    box = Box(Nat(WAN))
    seen = sent(box, PEER)
    assert gets_in(box, PEER, seen, 59 * SECOND)
    assert not gets_in(box, PEER, seen, 120 * SECOND)


def test_packets_are_whole():
    out = Box(Nat(WAN)).translate(packet(INSIDE, PEER, b"odd"), 0)
    assert out is not None
    assert out[28:] == b"odd"
    assert out[1:4] == packet(INSIDE, PEER, b"odd")[1:4]  # TOS with its ECN bits, length
    assert checksum(out[:20]) == 0
    pseudo = out[12:20] + struct.pack("!HH", 17, len(out) - 20)
    assert checksum(pseudo + out[20:]) == 0


def test_what_is_dropped():
    box = Box(Nat(WAN))
    whole = packet(INSIDE, PEER)
    tcp = whole[:9] + b"\x06" + whole[10:]
    for bad in (b"", whole[:27], whole + b"x", tcp, packet(INSIDE, PEER, part=0x2000)):
        assert box.translate(bad, 0) is None
    seen = sent(box, PEER)
    assert box.translate(packet(INSIDE, seen), 0) is None  # no hairpin


def test_mappings_are_bounded():
    box = Box(Nat(WAN, Depends.PORT))
    for port in range(2 * MAPPINGS_MAX):
        box.translate(packet(INSIDE, (PEER[0], 1024 + port)), 0)
    assert box.nat.size(0) == MAPPINGS_MAX
    assert sent(box, (PEER[0], 1024))  # what is there goes on
    assert box.translate(packet(INSIDE, OTHER), 0) is None
