"""Control frames inside a session: encode and decode (docs/multipath.md section 4)."""

from __future__ import annotations

import struct
from collections.abc import Container
from dataclasses import dataclass
from enum import IntEnum, IntFlag

VERSION = 1
OFFER_BYTES = 16
_OFFER = struct.Struct("<BBBBIQ")


class ControlError(ValueError):
    """A frame that is refused; the text is the reason it is counted under."""


class FrameType(IntEnum):
    OFFER = 0x10
    PATH_ANNOUNCE = 0x11
    PATH_PROBE = 0x12
    PATH_PROBE_REPLY = 0x13
    HEARTBEAT = 0x14
    ACK = 0x15
    GOSSIP_UPDATE = 0x16
    POST_QUANTUM = 0x1A
    KEEP = 0x1B


_TYPES = frozenset(int(kind) for kind in FrameType)


class Feature(IntFlag):
    """What the sender of an OFFER takes."""

    PARTIAL = 1  # inner checksums left to the receiver's kernel
    URGENT = 4  # packets ahead of their turn
    AGAIN = 8  # second copies
    MULTIPATH = 16  # I keep order, send ACKs and answer probes
    BUNDLE = 32  # several small packets in one data frame
    POST_QUANTUM = 64  # exchanges of post-quantum keys
    CONTINUE = 128  # a keypair with a shared secret in it goes on where the last one was
    KEPT = 256  # I keep the session open: renew it, if you do not
    ECHO = 512  # I answer as late as I am asked to


#: all bits that an OFFER has room for, those of a later day too
ANY_FEATURE = Feature((1 << 32) - 1)
_KNOWN = Feature(sum(Feature))


@dataclass(frozen=True, slots=True)
class Offer:
    """ "I understand frames." `heard`: the sender has our OFFER of this keypair."""

    heard: bool
    max_path: int
    features: Feature
    epoch: int


def frame_type(data: bytes) -> FrameType:
    """ControlError: shorter than its head, or a type or version of a later day."""
    return FrameType(head_type(data, _TYPES))


def head_type(data: bytes, known: Container[int]) -> int:
    """The type of a frame, one of the known ones. ControlError: as frame_type."""
    if len(data) < 2:
        raise ControlError("control_length")
    if data[0] not in known:
        raise ControlError("control_type")
    if data[1] != VERSION:
        raise ControlError("control_version")
    return data[0]


def encode_offer(offer: Offer) -> bytes:
    return _OFFER.pack(
        FrameType.OFFER,
        VERSION,
        int(offer.heard),
        offer.max_path,
        int(offer.features),
        offer.epoch,
    )


def decode_offer(data: bytes, known: Feature = _KNOWN) -> Offer:
    """Bytes behind the fields are padding, or of a later version. ControlError: too short.

    `known`: the features that the caller has a use for; others are left out.
    """
    if len(data) < OFFER_BYTES:
        raise ControlError("control_length")
    _, _, flags, max_path, features, epoch = _OFFER.unpack_from(data)
    return Offer(bool(flags & 1), max_path, Feature(features) & known, epoch)


ACK_MAX_PATHS = 8
ACK_MAX_GAPS = 32
_ACK = struct.Struct("<BBBBII")
_ACK_PATH = struct.Struct("<IIIIQH6s")
_ACK_GAP = struct.Struct("<IH")


@dataclass(frozen=True, slots=True)
class AckPath:
    """What came over one path. Clocks are the receiver's, but for `echo_us`, the sender's."""

    path: int  # the sender's number of it
    hold_16us: int  # from the last data frame's arrival to the ACK, capped
    highest: int  # number, low 32 bits
    datagrams: int  # low 32 bits
    bytes: int  # UDP payload
    arrived_us: int  # last arrival, low 32 bits
    echo_us: int  # 24 bits: time field of the last data frame
    delay_us: int  # 24 bits, smoothed: only differences mean something
    delay_min_us: int  # 24 bits, least of the last 10 s


@dataclass(frozen=True, slots=True)
class AckGap:
    """Seqs that are missing: `count` from `first` (low 32 bits) on."""

    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Ack:
    """Feedback (docs/multipath.md section 4.6). Made and taken in C: multipath/ack.c."""

    time_us: int
    next_seq: int
    paths: tuple[AckPath, ...] = ()
    gaps: tuple[AckGap, ...] = ()


def encode_ack(ack: Ack) -> bytes:
    """ValueError: more paths or gaps than a frame takes, or a path that cannot be.
    struct.error, OverflowError: a field out of range.
    """
    if len(ack.paths) > ACK_MAX_PATHS or len(ack.gaps) > ACK_MAX_GAPS:
        raise ValueError(f"an ACK takes {ACK_MAX_PATHS} paths and {ACK_MAX_GAPS} gaps at most")
    if any(not 0 <= path.path < ACK_MAX_PATHS for path in ack.paths):
        raise ValueError(f"an ACK names paths 0 to {ACK_MAX_PATHS - 1}")
    out = [
        _ACK.pack(
            FrameType.ACK,
            VERSION,
            len(ack.paths),
            len(ack.gaps),
            ack.time_us,
            ack.next_seq,
        )
    ]
    for path in ack.paths:
        out.append(
            _ACK_PATH.pack(
                path.path | path.echo_us << 8,
                path.highest,
                path.datagrams,
                path.arrived_us,
                path.bytes,
                path.hold_16us,
                path.delay_us.to_bytes(3, "little") + path.delay_min_us.to_bytes(3, "little"),
            )
        )
    out += [_ACK_GAP.pack(gap.first, gap.count) for gap in ack.gaps]
    return b"".join(out)


def decode_ack(data: bytes) -> Ack:
    """Bytes behind the gaps are padding, or of a later version.

    ControlError: too short for its counts (control_length), or a claim that cannot be (ack_claim):
    counts or path numbers above the limits, a path twice.
    """
    if len(data) < _ACK.size:
        raise ControlError("control_length")
    _, _, path_count, gap_count, time_us, next_seq = _ACK.unpack_from(data)
    if path_count > ACK_MAX_PATHS or gap_count > ACK_MAX_GAPS:
        raise ControlError("ack_claim")
    gaps_at = _ACK.size + path_count * _ACK_PATH.size
    if len(data) < gaps_at + gap_count * _ACK_GAP.size:
        raise ControlError("control_length")
    paths = []
    for at in range(_ACK.size, gaps_at, _ACK_PATH.size):
        first, highest, datagrams, arrived_us, total, hold, delays = _ACK_PATH.unpack_from(data, at)
        paths.append(
            AckPath(
                first & 0xFF,
                hold,
                highest,
                datagrams,
                total,
                arrived_us,
                first >> 8,
                int.from_bytes(delays[:3], "little"),
                int.from_bytes(delays[3:], "little"),
            )
        )
    numbers = {path.path for path in paths}
    if len(numbers) < path_count or any(number >= ACK_MAX_PATHS for number in numbers):
        raise ControlError("ack_claim")
    found = tuple(
        AckGap(*_ACK_GAP.unpack_from(data, gaps_at + n * _ACK_GAP.size)) for n in range(gap_count)
    )
    return Ack(time_us, next_seq, tuple(paths), found)
