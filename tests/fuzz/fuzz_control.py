"""libFuzzer (atheris) on the decoders that face hostile bytes in Python, and the core behind them.

Input: records of an operation byte, a length byte and that many bytes.
  op % 3 = 0: a control frame from inside a session (an authenticated, hostile peer)
         = 1: a datagram from anywhere
         = 2: the clock goes on by that many bytes' value in ms
Invariants: nothing raises; what is refused is counted; a decoded offer encodes to the bytes it came
from, but for flags and features of a later day; no reply is longer than what asked for it.
"""

from __future__ import annotations

import itertools
import sys

import atheris

with atheris.instrument_imports(include=["whalescale"]):
    from whalescale.identity import Identity
    from whalescale.protocol import control
    from whalescale.protocol.nat import relay_frames
    from whalescale.protocol.nat.relay import Relay
    from whalescale.protocol.nat.relay_events import RelaySettings
    from whalescale.protocol.node import Node, PeerConfig
    from whalescale.protocol.parts import PARTS
    from whalescale.protocol.places import Endpoint
from whalescale.protocol.types import SendControl

NOW = 10**12
ALICE, BOB = (Identity(bytes([n]) * 32) for n in (1, 2))
AT = Endpoint("192.0.2.1", 51820)

_counts = itertools.count(1)


def rand(size: int) -> bytes:
    return next(_counts).to_bytes(8, "little").ljust(size, b"\1")[:size]


def session() -> tuple[Node, int]:
    """A node with one peer and a session with it, made by a real handshake."""
    a = Node(ALICE, random=rand, wall_clock=lambda: NOW, parts=(*PARTS, Relay))
    a.guest(Relay).set_settings(RelaySettings(), NOW)
    a.guest(Relay).set_network(ALICE.node_id, lambda _: True, (), NOW)
    b = Node(BOB, random=rand, wall_clock=lambda: NOW)
    peer = a.add_peer(PeerConfig(node_id=BOB.node_id, endpoints=(AT,)), NOW)
    b.add_peer(PeerConfig(node_id=ALICE.node_id), NOW)
    a.want_handshake(peer, NOW)
    initiation = a.poll_transmit()
    assert initiation is not None
    b.receive_datagram(initiation.data, AT, None, NOW)
    response = b.poll_transmit()
    assert response is not None
    a.receive_datagram(response.data, AT, None, NOW)
    while a.poll_event() is not None:
        pass
    return a, peer


def check_codec(frame: bytes) -> None:
    try:
        if control.frame_type(frame) is not control.FrameType.OFFER:
            return
        offer = control.decode_offer(frame)
    except control.ControlError:
        return
    again = control.encode_offer(offer)
    assert control.decode_offer(again) == offer
    assert again[8:] == frame[8 : control.OFFER_BYTES]


def check_relay(frame: bytes) -> None:
    try:
        told = relay_frames.decode(frame)
    except control.ControlError:
        return
    again = relay_frames.encode(told)
    assert relay_frames.decode(again) == told
    assert len(again) <= len(frame)


def one_input(data: bytes) -> None:
    node, peer = session()
    now = NOW
    while len(data) >= 2:
        op, size, piece = data[0], data[1], data[2 : 2 + data[1]]
        data = data[2 + size :]
        if op % 3 == 0:
            check_codec(piece)
            check_relay(piece)
            before = sum(node.drops.values())
            node.receive_control(peer, piece, now)
            answers = 0
            while (event := node.poll_event()) is not None:
                answers += isinstance(event, SendControl)
            refused = sum(node.drops.values()) - before
            assert refused in (0, 1)
            assert answers <= 1 - refused
        elif op % 3 == 1:
            node.receive_datagram(piece, AT, None, now)
            while (reply := node.poll_transmit()) is not None:
                assert len(reply.data) <= len(piece)
            while node.poll_event() is not None:
                pass
        else:
            now += int.from_bytes(piece[:4], "little") * 1_000_000
            node.handle_timeout(now)
            while node.poll_event() is not None or node.poll_transmit() is not None:
                pass


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
