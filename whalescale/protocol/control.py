"""Control frames inside a session: encode and decode (docs/multipath.md section 4)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag

VERSION = 1
OFFER_BYTES = 32
_OFFER = struct.Struct("<BBBBIQQII")


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


class Feature(IntFlag):
    """What the sender of an OFFER takes."""

    PARTIAL = 1  # inner checksums left to the receiver's kernel
    RUN = 2  # hints that a packet continues the one before


@dataclass(frozen=True, slots=True)
class Offer:
    """ "I understand frames." `heard`: the sender has our OFFER of this keypair."""

    heard: bool
    max_path: int
    features: Feature
    epoch: int
    next_seq: int
    depth: int


def frame_type(data: bytes) -> FrameType:
    """ControlError: shorter than its head, or a type or version of a later day."""
    if len(data) < 2:
        raise ControlError("control_length")
    try:
        kind = FrameType(data[0])
    except ValueError:
        raise ControlError("control_type") from None
    if data[1] != VERSION:
        raise ControlError("control_version")
    return kind


def encode_offer(offer: Offer) -> bytes:
    return _OFFER.pack(
        FrameType.OFFER,
        VERSION,
        int(offer.heard),
        offer.max_path,
        int(offer.features),
        offer.epoch,
        offer.next_seq,
        offer.depth,
        0,
    )


def decode_offer(data: bytes) -> Offer:
    """Bytes behind the fields are padding, or of a later version. ControlError: too short."""
    if len(data) < OFFER_BYTES:
        raise ControlError("control_length")
    _, _, flags, max_path, features, epoch, next_seq, depth, _ = _OFFER.unpack_from(data)
    known = Feature(features & int(Feature.PARTIAL | Feature.RUN))
    return Offer(bool(flags & 1), max_path, known, epoch, next_seq, depth)
