"""No way round the shield: fragments, extension headers, priority tags, addresses of many."""

from __future__ import annotations

import json
import socket
import struct
import sys
from pathlib import Path

import pytest

from tests.netns.test_bpf import BAD, HOOKS, INITIATION, NO_LIMITS, PORT, Node, message
from tools.netlab import Lab

pytestmark = pytest.mark.netns

FRAMES = Path(__file__).parent / "bpf_frames.py"
#: 5,000 of what the limit lets 20 of through
MANY = 5000
LIMITED = (1, 20, 0, 0)
TAG = "810000000800"  # of VLAN 0, before an IPv4 header


class Wire:
    """Frames from host b to host a of a Node, made by hand."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.device = node.link.device(node.b)

        def mac(host: object, device: str) -> bytes:
            text = host.run("cat", f"/sys/class/net/{device}/address").stdout  # type: ignore[attr-defined]
            return bytes.fromhex(text.strip().replace(":", ""))

        self.macs = mac(node.a, node.link.device(node.a)) + mac(node.b, self.device)

    def udp(self, payload: bytes) -> bytes:
        return struct.pack("!HHHH", 1234, PORT, 8 + len(payload), 0) + payload

    def ipv4(self, body: bytes, *, offset: int = 0, more: bool = False, to: str = "") -> bytes:
        addresses = (self.node.link.address(self.node.b), to or self.node.link.address(self.node.a))
        fragment = offset // 8 | (0x2000 if more else 0)
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 77, fragment, 64, 17, 0)
        head += b"".join(socket.inet_aton(a) for a in addresses)
        total = sum(struct.unpack("!10H", head))
        total = (total & 0xFFFF) + (total >> 16)
        check = ~(total + (total >> 16)) & 0xFFFF
        return head[:10] + check.to_bytes(2, "big") + head[12:] + body

    def ipv6(self, payload: bytes, headers: bytes = b"", first: int = 17) -> bytes:
        """The UDP checksum is right: IPv6 has no 0 for none."""
        ends = [self.node.link.address(h, 6) for h in (self.node.b, self.node.a)]
        addresses = b"".join(socket.inet_pton(socket.AF_INET6, a) for a in ends)
        udp = bytearray(self.udp(payload))
        pseudo = addresses + struct.pack("!II", len(udp), 17) + udp
        total = sum(struct.unpack(f"!{len(pseudo) // 2}H", pseudo))
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        udp[6:8] = (~total & 0xFFFF or 0xFFFF).to_bytes(2, "big")
        body = headers + udp
        return struct.pack("!IHBB", 6 << 28, len(body), first, 64) + addresses + body

    def send(self, *packets: bytes, count: int = 1, tags: str = "", ethertype: str = "") -> None:
        kind = ethertype or ("0800" if packets[0][0] >> 4 == 4 else "86dd")
        frames = [(self.macs + bytes.fromhex(tags or kind) + p).hex() for p in packets]
        plan = self.node.lab.folder / f"frames{id(packets)}.json"
        plan.write_text(json.dumps([[f, 1] for f in frames] * count))
        self.node.b.run(sys.executable, FRAMES, self.device, plan)


def wire(lab: Lab, hook: str, rates: tuple[int, int, int, int] = LIMITED) -> Wire:
    return Wire(Node(lab, hook, rates=rates).start())


def limited(told: dict[str, int]) -> None:
    """Of MANY initiations the limit let some through."""
    assert told["handshake"] + told["source_limit"] == MANY
    assert 20 <= told["handshake"] <= 40


@pytest.mark.parametrize("hook", HOOKS)
def test_first_fragments_are_judged(lab: Lab, hook: str) -> None:
    w = wire(lab, hook)
    whole = w.udp(bytes.fromhex(INITIATION))
    first, rest = w.ipv4(whole[:24], more=True), w.ipv4(whole[24:], offset=24)
    w.send(first, rest, count=MANY)
    limited(w.node.shield())
    # Cut before the type: nobody sends such a thing.
    w.send(w.ipv4(whole[:8], more=True), w.ipv4(whole[8:], offset=8))
    assert w.node.shield()["short"] == 1
    # What is a transport message passes in pieces.
    long = w.udp(bytes.fromhex(message(4, 1000)))
    w.send(w.ipv4(long[:800], more=True), w.ipv4(long[800:], offset=800))
    told = w.node.ask()
    assert told["shield"]["transport"] == 1
    assert told["got"]["1000"] == 1


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize(
    ("first", "headers"),
    [
        (60, "110001040000" + "0000"),  # destination options
        (0, "110001040000" + "0000"),  # hop by hop
        (60, "3c0001040000" + "0000" + "110001040000" + "0000"),
        (44, "1100000000000009"),  # a fragment that is the whole
        (60, ("3c0001040000" + "0000") * 6 + "110001040000" + "0000"),
    ],
    ids=["options", "hop-by-hop", "two", "fragment", "seven"],
)
def test_extension_headers_are_walked(lab: Lab, hook: str, first: int, headers: str) -> None:
    w = wire(lab, hook)
    payload = bytes.fromhex(INITIATION)
    w.send(w.ipv6(payload, bytes.fromhex(headers), first), count=MANY)
    limited(w.node.shield())


@pytest.mark.parametrize("hook", HOOKS)
def test_more_headers_than_anybody_sends(lab: Lab, hook: str) -> None:
    w = wire(lab, hook, NO_LIMITS)
    chain = bytes.fromhex(("3c0001040000" + "0000") * 29 + "110001040000" + "0000")
    w.send(w.ipv6(bytes.fromhex(INITIATION), chain, 60), count=3)
    told = w.node.ask()
    assert told["shield"]["headers"] == 3
    assert not told["got"]


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("depth", [1, 2])
def test_priority_tags_are_no_way_round(lab: Lab, hook: str, depth: int) -> None:
    w = wire(lab, hook)
    tags = "81000000" * depth + "0800"
    w.send(w.ipv4(w.udp(bytes.fromhex(INITIATION))), count=MANY, tags=tags)
    limited(w.node.shield())
    # Another VLAN's are not for us: its own interface has a program.
    w.send(w.ipv4(w.udp(bytes.fromhex(BAD["type"][0]))), tags="81000005" + "0800")
    assert "type" not in w.node.shield()


@pytest.mark.parametrize("hook", HOOKS)
def test_addresses_of_many_reach_nobody(lab: Lab, hook: str) -> None:
    node = Node(lab, hook)
    network = node.link.address(node.a).rpartition(".")[0]
    node.broadcasts = (f"{network}.255",)
    w = Wire(node.start())
    payload = w.udp(bytes.fromhex(INITIATION))
    for to in (f"{network}.255", "255.255.255.255", "224.0.0.1"):
        w.send(w.ipv4(payload, to=to), count=10)
    node.b.run(
        sys.executable,
        "-c",
        "import socket,sys; s=socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\n"
        f"for _ in range(10): s.sendto(bytes.fromhex('{INITIATION}'),"
        f" ('ff02::1', {PORT}, 0, socket.if_nametoindex('{w.device}')))",
    )
    told = node.ask()
    assert told["shield"]["destination"] == 40
    assert not told["got"]
