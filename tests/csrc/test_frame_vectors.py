"""tests/vectors/frames.json against csrc/session, and a second reading in Python.

`received`: `text` is what a message holds when it is opened, `path` the number in its counter.
`value`: what is made of it, with `next_seq`, the data seq awaited afterwards. `up`: control frames
go up to Python as they are. `packets`: what it holds; with PARTIAL their checksum is finished
on the way to the TUN device, unless `partial` is false: then there is none to finish. `drops`: what
is counted, with the names of `ws status`; without a `value` the text is dropped as a whole. `odd`:
no encoder makes it like that.

`sent`: the TUN device gave `packet` (super-packets with `gso`); `texts` are what goes into
messages.
"""

from __future__ import annotations

import json
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
from frame_model import FLAGS, HEADER_BYTES, decode, encode
from test_csrc import HERE, build

from whalescale.dataplane.engine import Drop

FOLDER = HERE.parents[0] / "vectors"
VECTORS = json.loads((FOLDER / "frames.json").read_text(encoding="utf-8"))
OFFERS = json.loads((FOLDER / "offer.json").read_text(encoding="utf-8"))
GSO = {"": 0, "tcp4": 1, "tcp6": 4, "udp": 5}
MTU = 1420


def hexed(text: str) -> bytes:
    """Fields are set apart by spaces; `00*9` stands for nine of these bytes."""
    words = (word.partition("*") for word in text.split())
    return b"".join(bytes.fromhex(data) * int(count or 1) for data, _, count in words)


@pytest.fixture(scope="module")
def binary() -> Path:
    return build("test_receive")


def answer(binary: Path, line: str) -> str:
    run = subprocess.run(
        [binary, "vectors"],
        input=line + "\n",
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.rstrip("\n")


def in_c(binary: Path, text: bytes, path: int) -> dict[str, Any]:
    parts = answer(binary, f"recv {path} {text.hex()}").split(" | ")
    told = {words[0]: words[1:] for words in (part.split(" ") for part in parts)}
    drops = [word.split(":") for word in told["drops"]]
    return {
        "drops": sorted(Drop(int(n)).name.lower() for n, count in drops for _ in range(int(count))),
        "up": told["up"],
        "packets": [word.split(":")[1] for word in told["tun"]],
        "partial": [word.startswith("1") for word in told["tun"]],
        "next_seq": int(told["next"][0]),
        "time_us": None if told["time"] == ["-"] else int(told["time"][0]),
    }


def ids(vector: dict[str, Any]) -> str:
    return str(vector["name"])


def finished(packet: bytes) -> bytes:
    """A UDP packet over IPv4 with the checksum of RFC 768."""
    head = (packet[0] & 15) * 4
    assert packet[0] >> 4 == 4
    assert packet[9] == 17
    at, l4 = head + 6, packet[head:]
    data = packet[12:20] + struct.pack("!HH", 17, len(l4)) + l4[:6] + b"\0\0" + l4[8:]
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return packet[:at] + ((~total & 0xFFFF) or 0xFFFF).to_bytes(2, "big") + packet[at + 2 :]


@pytest.mark.parametrize("vector", VECTORS["received"], ids=ids)
def test_received_in_c(vector: dict[str, Any], binary: Path) -> None:
    text, value = hexed(vector["text"]), vector.get("value", {})
    got = in_c(binary, text, vector.get("path", 0))
    flags = value.get("flags", [])
    assert got["drops"] == sorted(vector.get("drops", []))
    assert got["up"] == ([text.hex()] if vector.get("up") else [])
    packets = [hexed(packet) for packet in vector.get("packets", [])]
    if vector.get("partial", "PARTIAL" in flags):
        packets = [finished(packet) for packet in packets]
    next_seq = value.get("next_seq", 0)
    if "AGAIN" in flags and "URGENT" not in flags:
        # The first that ever comes is a copy: nobody knows whether its original came.
        packets, next_seq = [], 0
    assert got["packets"] == [packet.hex() for packet in packets]
    assert not any(got["partial"])
    assert got["next_seq"] == next_seq
    # The delay is measured, and the time echoed, where ACKs are asked for.
    assert got["time_us"] == (value["time_us"] if "FEEDBACK" in flags else None)


@pytest.mark.parametrize("vector", VECTORS["received"], ids=ids)
def test_received_in_the_model(vector: dict[str, Any]) -> None:
    text, value = hexed(vector["text"]), vector.get("value")
    got = decode(text, vector.get("path", 0))
    packets = [hexed(packet) for packet in vector.get("packets", [])]
    assert got.drops == vector.get("drops", [])
    assert (got.kind == "control") == vector.get("up", False)
    assert got.packets == packets
    assert (got.kind == "data") == (value is not None)
    if value is None:
        return
    assert (got.flags, got.time_us, got.seq) == (value["flags"], value["time_us"], value["seq"])
    moved = got.taken and "URGENT" not in got.flags
    assert value["next_seq"] == ((got.seq + got.taken) % 2**32 if moved else 0)
    if not vector.get("odd"):
        made = encode(got.flags, got.time_us, got.seq, packets, len(text))
        assert made == text or text.startswith(made + b"\0")


@pytest.mark.parametrize("vector", VECTORS["sent"], ids=ids)
def test_sent(vector: dict[str, Any], binary: Path) -> None:
    packet, checksum = hexed(vector["packet"]), vector.get("checksum", [0, 0])
    kind, size = vector.get("gso", ["", 0])
    numbers = [vector["time_us"], vector["seq"], *checksum, GSO[kind], size]
    line = f"send {' '.join(map(str, numbers))} {packet.hex()}"
    texts = [hexed(text) for text in vector["texts"]]
    assert [bytes.fromhex(word) for word in answer(binary, line).split()] == texts
    seq = vector["seq"]
    for text in texts:
        meaning = decode(text)
        assert (meaning.time_us, meaning.seq) == (vector["time_us"] % 2**24, seq % 2**32)
        assert meaning.drops == []
        made = encode(
            meaning.flags, meaning.time_us, meaning.seq, meaning.packets, MTU + HEADER_BYTES
        )
        # What a sender leaves in the field of a checksum that is not made is its own affair.
        assert len(text) == len(made)
        assert text == made or "PARTIAL" in meaning.flags
        seq += len(meaning.packets)


@pytest.mark.parametrize("vector", OFFERS, ids=ids)
def test_offers_go_up_as_they_are(vector: dict[str, Any], binary: Path) -> None:
    """Taken or not: Python decides (tests/unit/protocol/test_offer_vectors.py)."""
    frame = hexed(vector["frame"])
    got = in_c(binary, frame, 0)
    assert (got["up"], got["drops"], got["packets"]) == ([frame.hex()], [], [])


def test_every_flag_and_counter_has_vectors() -> None:
    received = VECTORS["received"]
    flags = {name for vector in received for name in vector.get("value", {}).get("flags", [])}
    assert flags == set(FLAGS)
    counted = {name for vector in received for name in vector.get("drops", [])}
    assert counted == {"frame", "path", "malformed", "source"}
