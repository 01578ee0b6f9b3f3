"""Data frames and bundles as docs/multipath.md section 3 has them, sharing no code with csrc/.

A data packet never enters Python; this is the second reading that the C one is held against.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

FLAGS = {
    "PARTIAL": 0x01,
    "AGAIN": 0x04,
    "URGENT": 0x08,
    "FEEDBACK": 0x10,
    "BUNDLE": 0x20,
}
HEADER_BYTES = 8
BUNDLE_MAX_BYTES = 1192
CONTROL_MAX_BYTES = 1024
PATHS = 8
#: what a bundle has no use for
ALONE = {"AGAIN", "URGENT", "FEEDBACK"}


@dataclass
class Meaning:
    """What the receiver makes of a message's text."""

    kind: str = ""  # "plain", "data" or "control"; "": dropped as a whole
    flags: list[str] = field(default_factory=list)
    time_us: int = 0
    seq: int = 0
    packets: list[bytes] = field(default_factory=list)
    drops: list[str] = field(default_factory=list)
    #: of the seq awaited, how far it moved: also by packets that are dropped
    taken: int = 0


def packet_of(data: bytes) -> bytes | str:
    """The IP packet that `data` begins with, or why it is dropped. Peers have 10/8 and fd00::/8."""
    if data[0] >> 4 == 4 and len(data) >= 20:
        header, total, source = (data[0] & 15) * 4, int.from_bytes(data[2:4], "big"), data[12]
        if header < 20 or not header <= total <= len(data):
            return "malformed"
        return data[:total] if source == 10 else "source"
    if data[0] >> 4 == 6 and len(data) >= 40:
        total = 40 + int.from_bytes(data[4:6], "big")
        if total > len(data):
            return "malformed"
        return data[:total] if data[8] == 0xFD else "source"
    return "malformed"


def decode(text: bytes, path: int = 0) -> Meaning:
    if path >= PATHS:
        return Meaning(drops=["path"])
    if not text:
        return Meaning(kind="keepalive")
    if text[0] & 0x80:
        return _data(text)
    if text[0] >> 4 == 1:
        if len(text) > CONTROL_MAX_BYTES:
            return Meaning(drops=["frame"])
        return Meaning(kind="control")
    meaning = Meaning(kind="plain")
    _take(meaning, text)
    return meaning if meaning.packets else Meaning(drops=meaning.drops)


def completed_by_kernel(packet: bytes) -> bytes:
    """With the pseudo header's sum where its TCP or UDP checksum is (IPv4 without options)."""
    at = {6: 36, 17: 26}.get(packet[9])
    if packet[0] != 0x45 or at is None or (at == 26 and packet[26:28] == b"\0\0"):
        return packet
    pseudo = packet[12:20] + bytes([0, packet[9]]) + (len(packet) - 20).to_bytes(2, "big")
    total = sum(int.from_bytes(pseudo[n : n + 2], "big") for n in range(0, len(pseudo), 2))
    total = (total & 0xFFFF) + (total >> 16)
    return packet[:at] + total.to_bytes(2, "big") + packet[at + 2 :]


def _take(meaning: Meaning, data: bytes) -> None:
    found = packet_of(data)
    if isinstance(found, str):
        meaning.drops.append(found)
    else:
        meaning.packets.append(completed_by_kernel(found) if "PARTIAL" in meaning.flags else found)


def _data(text: bytes) -> Meaning:
    flags = [name for name, bit in FLAGS.items() if text[0] & bit]
    if text[0] & 0x42 or len(text) <= HEADER_BYTES:
        return Meaning(drops=["frame"])
    meaning = Meaning(
        "data", flags, int.from_bytes(text[1:4], "little"), int.from_bytes(text[4:8], "little")
    )
    body = text[HEADER_BYTES:]
    if "BUNDLE" not in flags:
        _take(meaning, body)
        meaning.taken = 1
        return meaning
    if ALONE & set(flags) or len(body) > BUNDLE_MAX_BYTES:
        return Meaning(drops=["frame"])
    whole = 0
    while len(body) >= 2 and (length := int.from_bytes(body[:2], "little")):
        if length > len(body) - 2:
            meaning.drops.append("frame")
            return meaning if whole else Meaning(drops=["frame"])
        _take(meaning, body[2 : 2 + length])
        body, whole = body[2 + length :], whole + 1
        meaning.taken = whole
    return meaning if whole else Meaning(drops=["frame"])


def padded(text: bytes, limit: int) -> bytes:
    """With zeros to a multiple of 16, but no longer than `limit` for that."""
    return text + bytes(max(0, min(-len(text) % 16, limit - len(text))))


def encode(
    flags: Sequence[str], time_us: int, seq: int, packets: Sequence[bytes], limit: int
) -> bytes:
    first = 0x80 | sum(FLAGS[name] for name in flags)
    head = bytes([first]) + time_us.to_bytes(3, "little") + seq.to_bytes(4, "little")
    if "BUNDLE" not in flags:
        return padded(head + packets[0], limit)
    body = b"".join(len(packet).to_bytes(2, "little") + packet for packet in packets)
    return padded(head + body, HEADER_BYTES + BUNDLE_MAX_BYTES)
