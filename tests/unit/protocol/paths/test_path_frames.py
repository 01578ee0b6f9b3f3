"""The path control frames, byte for byte (tests/vectors/paths.json)."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from whalescale.protocol.control import ControlError
from whalescale.protocol.paths import frames
from whalescale.protocol.places import Endpoint

VECTORS = json.loads(
    (Path(__file__).parents[3] / "vectors" / "paths.json").read_text(encoding="utf-8")
)


def decode(kind, data):
    if kind == "announce":
        announce, left_out = frames.decode_announce(data)
        assert left_out == 0
        return announce
    return {
        "probe": frames.decode_probe,
        "reply": frames.decode_reply,
        "heartbeat": frames.decode_heartbeat,
    }[kind](data)


def loosely(kind, data):
    return frames.decode_announce(data)[0] if kind == "announce" else decode(kind, data)


def encode(kind, value):
    return getattr(frames, f"encode_{kind}")(value)


def made(kind, v):
    if kind == "announce":
        entries = (
            frames.Entry(Endpoint(e["ip"], e["port"]), frames.EntryKind(e["kind"]), e["link"])
            for e in v["entries"]
        )
        return frames.Announce(v["serial"], tuple(entries))
    if kind == "heartbeat":
        return frames.Heartbeat(**v)
    token = bytes.fromhex(v["token"])
    if kind == "probe":
        return frames.Probe(v["path"], token, v["sent"], v["size"], v["mtu"], v["link"])
    at = Endpoint(v["ip"], v["port"])
    return frames.ProbeReply(v["path"], v["mtu"], token, v["sent"], v["size"], at, v["hold_us"])


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["name"])
def test_vectors(vector):
    kind, data = vector["type"], bytes.fromhex(vector["frame"])
    value = made(kind, vector["value"])
    assert encode(kind, value) == data
    assert decode(kind, data) == value
    assert decode(kind, data + bytes(13)) == value  # padding, or a later version's fields
    for length in range(len(data)):
        if length:
            with pytest.raises(ControlError, match="control_length"):
                decode(kind, data[:length])


@pytest.mark.parametrize("kind", ["probe", "reply", "heartbeat"])
def test_a_path_number_that_no_peer_has_is_refused(kind):
    data = bytearray(next(bytes.fromhex(v["frame"]) for v in VECTORS if v["type"] == kind))
    data[2] = 8
    with pytest.raises(ControlError, match="control_path"):
        decode(kind, bytes(data))


def test_what_is_announced_beyond_sixteen_or_of_a_later_day_is_left_out():
    entry = bytes.fromhex("04016cca0a000001000000000000000000000000")
    many = bytes([0x11, 1, 20, 7]) + entry * 20
    announce, left_out = frames.decode_announce(many)
    assert (len(announce.entries), left_out) == (16, 4)
    strange = bytes([0x11, 1, 3, 7]) + b"\x05" + entry[1:] + entry[:1] + b"\x0f" + entry[2:] + entry
    announce, left_out = frames.decode_announce(strange)
    assert (len(announce.entries), left_out) == (1, 2)
    with pytest.raises(ValueError, match="16"):
        frames.encode_announce(frames.Announce(0, announce.entries * 17))


def test_random_bytes_are_decoded_or_refused():
    rng = random.Random(7)  # noqa: S311
    for _ in range(5000):
        kind = rng.choice(["announce", "probe", "reply", "heartbeat"])
        data = rng.randbytes(rng.randint(2, 120))
        try:
            value = loosely(kind, data)
        except ControlError:
            continue
        assert loosely(kind, encode(kind, value)) == value
