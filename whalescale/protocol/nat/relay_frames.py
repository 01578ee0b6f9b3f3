"""Frames between a member and the anchor that relays to it: encode, decode (docs/nat.md, "Relay").

A decoder raises ControlError, whose text is the reason to count.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from whalescale.protocol.control import VERSION, ControlError

RELAY: Final = 0x19
NODE_ID_BYTES: Final = 32
#: granted at most; REJECT_AFTER_TIME, after which no index is of use
LIFETIME_MOST: Final = 180

_HEAD: Final = struct.Struct("<BBBBI")
_BIND: Final = struct.Struct("<H6x32s")
_BOUND: Final = struct.Struct("<H2x")


class Sub(IntEnum):
    BIND = 1
    BOUND = 2
    REFUSED = 3


class Refusal(IntEnum):
    """Why an anchor does not, or no longer, relay to an index."""

    OFF = 1
    UNKNOWN = 2
    TAKEN = 3
    ROOM = 4
    ENDED = 5


@dataclass(frozen=True, slots=True)
class Bind:
    """Datagrams for my `index` that come from where this member is are for me.

    `seconds`: for so long, 0: no longer.
    """

    index: int
    member: bytes
    seconds: int


@dataclass(frozen=True, slots=True)
class Bound:
    """So be it, for so many `seconds`; 0: it has ended."""

    index: int
    seconds: int


@dataclass(frozen=True, slots=True)
class Refused:
    index: int
    reason: Refusal


RelayFrame = Bind | Bound | Refused


def encode(frame: RelayFrame) -> bytes:
    """struct.error: a field out of range. ValueError: no node ID."""
    if isinstance(frame, Bind):
        if len(frame.member) != NODE_ID_BYTES:
            raise ValueError(f"a node ID has {NODE_ID_BYTES} bytes")
        head = _HEAD.pack(RELAY, VERSION, Sub.BIND, 0, frame.index)
        return head + _BIND.pack(frame.seconds, frame.member)
    if isinstance(frame, Bound):
        return _HEAD.pack(RELAY, VERSION, Sub.BOUND, 0, frame.index) + _BOUND.pack(frame.seconds)
    return _HEAD.pack(RELAY, VERSION, Sub.REFUSED, frame.reason, frame.index)


def decode(data: bytes) -> RelayFrame:
    """ControlError: too short (control_length), of a later day (control_version, control_type), or
    it cannot be (bind_claim).
    """
    if len(data) < _HEAD.size:
        raise ControlError("control_length")
    kind, version, sub, detail, index = _HEAD.unpack_from(data)
    if version != VERSION:
        raise ControlError("control_version")
    if kind != RELAY or sub not in Sub.__members__.values():
        raise ControlError("control_type")
    if not index:
        raise ControlError("bind_claim")
    if sub == Sub.REFUSED:
        if detail not in Refusal.__members__.values():
            raise ControlError("bind_claim")
        return Refused(index, Refusal(detail))
    body = _BIND if sub == Sub.BIND else _BOUND
    if len(data) < _HEAD.size + body.size:
        raise ControlError("control_length")
    if sub == Sub.BOUND:
        (seconds,) = _BOUND.unpack_from(data, _HEAD.size)
        if seconds > LIFETIME_MOST:
            raise ControlError("bind_claim")
        return Bound(index, seconds)
    seconds, member = _BIND.unpack_from(data, _HEAD.size)
    if len(set(member)) == 1:
        raise ControlError("bind_claim")
    return Bind(index, member, seconds)
