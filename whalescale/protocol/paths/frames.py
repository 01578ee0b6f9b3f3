"""Control frames of paths: encode and decode (docs/multipath.md sections 4.2 to 4.5).

A decoder raises ControlError, whose text is the reason to count, if a frame is shorter than its
fields or says what it cannot. Bytes behind the fields are padding, or of a later version.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final

from whalescale.protocol.candidates import NO_LINK
from whalescale.protocol.control import VERSION, ControlError, FrameType
from whalescale.protocol.paths.types import MAX_PATHS
from whalescale.protocol.places import Endpoint

MAX_ENTRIES: Final = 16
TOKEN_BYTES: Final = 8
PROBE_BYTES: Final = 24
REPLY_BYTES: Final = 48
HEARTBEAT_BYTES: Final = 8

_ANNOUNCE: Final = struct.Struct("<BBBB")
_ENTRY: Final = struct.Struct("<BBH16s")
_PROBE: Final = struct.Struct("<BBBB8sQHBx")
_REPLY: Final = struct.Struct("<BBBB8sQHHB3x16sI")
_HEARTBEAT: Final = struct.Struct("<BBBxI")

_WRAP: Final = 1 << 32


class EntryKind(IntEnum):
    """How the announcer knows the address."""

    INTERFACE = 1  # it is on an interface
    OBSERVED = 2  # the peer saw it (a NAT's)
    MAPPED = 3  # a gateway was asked for it


_KINDS: Final = frozenset(int(kind) for kind in EntryKind)


class ProbeFlag(IntFlag):
    MTU = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """One announced address. `link`: the announcer's number of its interface, NO_LINK: unknown."""

    endpoint: Endpoint
    kind: EntryKind = EntryKind.INTERFACE
    link: int = NO_LINK


@dataclass(frozen=True, slots=True)
class Announce:
    serial: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Probe:
    path: int
    token: bytes
    #: ns of the sender's clock
    sent: int
    #: of the whole datagram, UDP payload
    size: int
    mtu: bool = False
    #: the sender's number of the interface it left by
    link: int = NO_LINK


@dataclass(frozen=True, slots=True)
class ProbeReply:
    path: int
    mtu: bool
    token: bytes
    sent: int
    #: UDP payload that arrived
    size: int
    #: where the probe came from
    observed: Endpoint | None
    #: between receipt and reply
    hold_us: int


@dataclass(frozen=True, slots=True)
class Heartbeat:
    path: int
    #: the sender's clock, low 32 bits
    time_us: int


def _pack_ip(ip: str) -> tuple[int, bytes]:
    address = ipaddress.ip_address(ip.partition("%")[0])
    return address.version, address.packed.ljust(16, b"\0")


def _unpack_ip(family: int, data: bytes) -> str | None:
    """None: no family that we know."""
    if family == 4:
        return str(ipaddress.IPv4Address(data[:4]))
    if family == 6:
        return str(ipaddress.IPv6Address(data))
    return None


def _need(data: bytes, length: int) -> None:
    if len(data) < length:
        raise ControlError("control_length")


def _path(number: int) -> int:
    if number >= MAX_PATHS:
        raise ControlError("control_path")
    return number


def encode_announce(announce: Announce) -> bytes:
    """ValueError: more than MAX_ENTRIES, or an address that is none."""
    if len(announce.entries) > MAX_ENTRIES:
        raise ValueError(f"at most {MAX_ENTRIES} addresses are announced")
    count = len(announce.entries)
    head = _ANNOUNCE.pack(FrameType.PATH_ANNOUNCE, VERSION, count, announce.serial % 256)
    entries = []
    for entry in announce.entries:
        family, packed = _pack_ip(entry.endpoint.ip)
        kind = int(entry.kind) | entry.link << 4
        entries.append(_ENTRY.pack(family, kind, entry.endpoint.port, packed))
    return head + b"".join(entries)


def announce_serial(data: bytes) -> int:
    """Of an announcement that is not decoded yet."""
    _need(data, _ANNOUNCE.size)
    serial: int = _ANNOUNCE.unpack_from(data)[3]
    return serial


def decode_announce(data: bytes) -> tuple[Announce, int]:
    """The announcement, and how many entries were left out.

    Left out is what is beyond the first 16, and what is of a family or kind of a later day.
    """
    _need(data, _ANNOUNCE.size)
    _, _, count, serial = _ANNOUNCE.unpack_from(data)
    _need(data, _ANNOUNCE.size + _ENTRY.size * count)
    entries: list[Entry] = []
    for k in range(min(count, MAX_ENTRIES)):
        family, kind, port, packed = _ENTRY.unpack_from(data, _ANNOUNCE.size + _ENTRY.size * k)
        ip = _unpack_ip(family, packed)
        if ip is None or kind & 15 not in _KINDS:
            continue
        entries.append(Entry(Endpoint(ip, port), EntryKind(kind & 15), kind >> 4))
    return Announce(serial, tuple(entries)), count - len(entries)


def encode_probe(probe: Probe) -> bytes:
    flags = ProbeFlag.MTU if probe.mtu else 0
    link = 0 if probe.link >= NO_LINK else probe.link + 1
    return _PROBE.pack(
        FrameType.PATH_PROBE, VERSION, probe.path, flags, probe.token, probe.sent, probe.size, link
    )


def decode_probe(data: bytes) -> Probe:
    _need(data, PROBE_BYTES)
    _, _, path, flags, token, sent, size, link = _PROBE.unpack_from(data)
    link = link - 1 if 0 < link <= NO_LINK else NO_LINK
    return Probe(_path(path), token, sent, size, bool(flags & ProbeFlag.MTU), link)


def encode_reply(reply: ProbeReply) -> bytes:
    family, packed = (0, bytes(16)) if reply.observed is None else _pack_ip(reply.observed.ip)
    return _REPLY.pack(
        FrameType.PATH_PROBE_REPLY,
        VERSION,
        reply.path,
        ProbeFlag.MTU if reply.mtu else 0,
        reply.token,
        reply.sent,
        reply.size,
        0 if reply.observed is None else reply.observed.port,
        family,
        packed,
        min(reply.hold_us, _WRAP - 1),
    )


def decode_reply(data: bytes) -> ProbeReply:
    _need(data, REPLY_BYTES)
    _, _, path, flags, token, sent, size, port, family, packed, hold = _REPLY.unpack_from(data)
    ip = _unpack_ip(family, packed)
    observed = None if ip is None else Endpoint(ip, port)
    return ProbeReply(_path(path), bool(flags & ProbeFlag.MTU), token, sent, size, observed, hold)


def encode_heartbeat(heartbeat: Heartbeat) -> bytes:
    return _HEARTBEAT.pack(FrameType.HEARTBEAT, VERSION, heartbeat.path, heartbeat.time_us % _WRAP)


def decode_heartbeat(data: bytes) -> Heartbeat:
    _need(data, HEARTBEAT_BYTES)
    _, _, path, time_us = _HEARTBEAT.unpack_from(data)
    return Heartbeat(_path(path), time_us)
