"""docs/nat.md by example: tests/vectors/signalling.json, for the code and for a second reading."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from whalescale.identity import Identity
from whalescale.protocol.control import ControlError
from whalescale.protocol.mesh import records
from whalescale.protocol.nat import signalling
from whalescale.protocol.nat.signalling import Message, Place, Refused
from whalescale.protocol.places import Endpoint

VECTORS = json.loads((Path(__file__).parents[3] / "vectors" / "signalling.json").read_text())


def named(key):
    return pytest.mark.parametrize("case", VECTORS[key], ids=lambda c: c["name"])


# a second reading, without the code's tables


def number(data):
    return int.from_bytes(data, "little")


def address(family, data):
    return str(ipaddress.ip_address(data[: {4: 4, 6: 16}[family]]))


def read_frame(raw):
    assert raw[:2] == b"\x18\x01"
    says = {"what": raw[2], "node": raw[4:36].hex()}
    if raw[2] == 3:
        assert len(raw) == 58
        return says | {"reason": raw[3]}
    seen = [address(raw[36], raw[40:56]), number(raw[38:40])] if raw[36] else None
    assert raw[37] == (2 if seen else 0)
    payload = raw[58 : 58 + number(raw[56:58])]
    return says | {"kind": raw[3], "payload": payload.hex(), "seen": seen}


def read_call(raw):
    entries = [raw[at : at + 20] for at in range(24, 24 + 20 * raw[1], 20)]
    assert len(raw) == 88 + 20 * len(entries)
    return {
        "role": raw[0],
        "stamp": raw[4:16].hex(),
        "token": raw[16:24].hex(),
        "places": [[address(e[0], e[4:]), number(e[2:4]), e[1]] for e in entries],
    }


@named("frames")
def test_a_frame_is_read_the_same_by_both(case):
    raw, says = bytes.fromhex(case["frame"]), case["says"]
    assert read_frame(raw) == says
    message = signalling.decode(raw + b"padding")
    assert message.node.hex() == says["node"]
    if isinstance(message, Refused):
        assert message.reason == says["reason"]
    else:
        assert (message.what, message.kind) == (says["what"], says["kind"])
        assert message.payload.hex() == says["payload"]
        assert message.seen == (Endpoint(*says["seen"]) if says["seen"] else None)
    assert signalling.encode(message) == raw


@named("refused_frames")
def test_a_frame_that_cannot_be_is_refused(case):
    with pytest.raises(ControlError, match=f"^{case['reason']}$"):
        signalling.decode(bytes.fromhex(case["frame"]))


@named("calls")
def test_a_call_is_read_the_same_by_both(case):
    raw, says = bytes.fromhex(case["payload"]), case["says"]
    sender, receiver = bytes.fromhex(case["sender"]), bytes.fromhex(case["receiver"])
    assert read_call(raw) == says
    call = signalling.decode_call(raw)
    assert (call.role, call.stamp.hex(), call.token.hex()) == (
        says["role"],
        says["stamp"],
        says["token"],
    )
    assert [[p.endpoint.ip, p.endpoint.port, p.kind] for p in call.places] == says["places"]
    said = b"whalescale call v1" + sender + receiver + raw[:-64]
    Ed25519PublicKey.from_public_bytes(sender).verify(raw[-64:], said)
    assert signalling.is_signed(raw, sender, receiver, records.verify)
    assert not signalling.is_signed(raw, receiver, sender, records.verify)
    assert not signalling.is_signed(raw[:20] + b"?" + raw[21:], sender, receiver, records.verify)


@named("refused_calls")
def test_a_call_that_cannot_be_is_refused(case):
    with pytest.raises(ControlError, match=f"^{case['reason']}$"):
        signalling.decode_call(bytes.fromhex(case["payload"]))


def test_what_cannot_be_said_is_an_error():
    us = Identity(b"\1" * 32).node_id
    for message in (
        Message(signalling.What.FORWARD, 1, us, b""),
        Message(signalling.What.FORWARD, 1, us, bytes(513)),
        Message(signalling.What.FORWARD, 1, us[:-1], b"?"),
        Message(signalling.What.FORWARDED, 1, us, b"?", Endpoint("fe80::1", 1, 2)),
    ):
        with pytest.raises(ValueError, match=r"bytes|address"):
            signalling.encode(message)
    places = tuple(Place(Endpoint("9.9.9.9", port)) for port in range(1, 10))
    call = signalling.Call(signalling.Role.CALL, bytes(12), bytes(8), places)
    with pytest.raises(ValueError, match="8 places"):
        signalling.encode_call(call, us, us, lambda *_: bytes(64))
