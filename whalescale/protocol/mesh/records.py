"""What a network tells of itself: records, signed by who may say so (docs/mesh.md section 2).

A record is kept, compared and passed on as the bytes that came. The signature covers them, so each
meaning has one encoding only: exact lengths, zeros where nothing is said, names in lower case.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
)
from typing import Final

from nacl import bindings
from nacl.exceptions import CryptoError

from whalescale.identity import OVERLAY_PREFIX, IdentityError, node_id_to_x25519
from whalescale.protocol.places import Endpoint

VERSION: Final = 1
KEY_BYTES: Final = 32
NETWORK_ID_BYTES: Final = 16
SIGNATURE_BYTES: Final = 64
NAME_MAX: Final = 63
ROUTES_MAX: Final = 8
ENDPOINTS_MAX: Final = 8
GENERATION_MAX: Final = (1 << 32) - 1
#: the longest record of all: a member with the longest name and every route
RECORD_MAX: Final = 94 + NAME_MAX + 18 * ROUTES_MAX + SIGNATURE_BYTES
#: "the network key itself", where an issuer's node ID would stand
ROOT: Final = bytes(KEY_BYTES)

_LABEL_ID: Final = b"whalescale network id"
_LABEL_SIGN: Final = b"whalescale record v1"

_HEAD: Final = struct.Struct("<BB16s")
_NETWORK: Final = struct.Struct("<32sI4sBB")
_ADMIN: Final = struct.Struct("<32sIB3x")
_MEMBER: Final = struct.Struct("<32s32sIBB4sBB")
_ENDPOINTS: Final = struct.Struct("<32sQBB")
_OBSERVED: Final = struct.Struct("<32s32sQ")
_ENTRY: Final = struct.Struct("<BBH16s")
_ROUTE: Final = struct.Struct("<BB16s")
PLACE_BYTES: Final = _ENTRY.size

_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")

Network = IPv4Network | IPv6Network


class RecordError(ValueError):
    """A record that is refused; the text is the reason it is counted under."""


class Kind(IntEnum):
    NETWORK = 1
    ADMIN = 2
    MEMBER = 3
    ENDPOINTS = 4
    OBSERVED = 5


class Status(IntEnum):
    ACTIVE = 1
    #: of a member: revoked, for ever; of an admin: no more
    REVOKED = 2


class MemberFlag(IntFlag):
    ANCHOR = 1  # may be an anchor


class EndpointFlag(IntFlag):
    ANCHOR = 1  # acts as one
    PROVED = 2  # others got in without being called first (docs/mesh.md section 7.1)


class PlaceKind(IntEnum):
    """How an endpoint is known to who tells of it."""

    INTERFACE = 1
    OBSERVED = 2
    MAPPED = 3
    LAN = 4


@dataclass(frozen=True, slots=True)
class Place:
    endpoint: Endpoint
    kind: PlaceKind = PlaceKind.INTERFACE


@dataclass(frozen=True, slots=True)
class NetworkRecord:
    """What the network is called. `key`: Ed25519; the network's ID is its hash."""

    network: bytes
    key: bytes
    generation: int
    name: str
    #: overlay IPv4 addresses come from here; None: no IPv4 inside
    prefix: IPv4Network | None

    kind = Kind.NETWORK


@dataclass(frozen=True, slots=True)
class AdminRecord:
    """Who may sign member records. Signed by the network key alone."""

    network: bytes
    node_id: bytes
    generation: int
    status: Status

    kind = Kind.ADMIN


@dataclass(frozen=True, slots=True)
class MemberRecord:
    """Who belongs. `issuer`: an admin's node ID, or ROOT."""

    network: bytes
    node_id: bytes
    issuer: bytes
    generation: int
    status: Status
    name: str
    may_anchor: bool = True
    address: IPv4Address | None = None
    routes: tuple[Network, ...] = ()

    kind = Kind.MEMBER


@dataclass(frozen=True, slots=True)
class EndpointRecord:
    """Where a member says that it is itself. The list replaces the last one whole.

    `anchor`: it acts as one; `proved`: others dialled it, and got in.
    """

    network: bytes
    node_id: bytes
    seq: int
    places: tuple[Place, ...]
    anchor: bool = False
    proved: bool = False

    kind = Kind.ENDPOINTS


@dataclass(frozen=True, slots=True)
class ObservedRecord:
    """Where `author` saw a member; a hint and no more. `seq` is the author's."""

    network: bytes
    node_id: bytes
    author: bytes
    seq: int
    place: Place

    kind = Kind.OBSERVED


Record = NetworkRecord | AdminRecord | MemberRecord | EndpointRecord | ObservedRecord


def network_id(key: bytes) -> bytes:
    """16 bytes of BLAKE2s: what a network is named by."""
    return hashlib.blake2s(_LABEL_ID + key, digest_size=NETWORK_ID_BYTES).digest()


def is_name(text: str) -> bool:
    """One label of a DNS name, lower case."""
    return _NAME.fullmatch(text) is not None


# signing


def sign(seed: bytes | bytearray, label: bytes, data: bytes) -> bytes:
    """64 bytes, Ed25519 (RFC 8032) over label and data, by the key with this seed."""
    _, secret = bindings.crypto_sign_seed_keypair(bytes(seed))
    return bytes(bindings.crypto_sign(label + data, secret)[:SIGNATURE_BYTES])


def verify(key: bytes, label: bytes, data: bytes, signature: bytes) -> bool:
    """libsodium refuses keys of low order and non-canonical signatures."""
    try:
        bindings.crypto_sign_open(signature + label + data, key)
    except (CryptoError, ValueError):
        return False
    return True


Verify = Callable[[bytes, bytes, bytes, bytes], bool]


def signer_of(record: Record, network_key: bytes | None) -> bytes | None:
    """The key that must have signed. None: the network key, and it is not known yet."""
    if isinstance(record, NetworkRecord):
        return record.key
    if isinstance(record, AdminRecord):
        return network_key
    if isinstance(record, MemberRecord):
        return network_key if record.issuer == ROOT else record.issuer
    return record.author if isinstance(record, ObservedRecord) else record.node_id


def is_signed(raw: bytes, signer: bytes, verifier: Verify = verify) -> bool:
    """Whether `signer` signed these bytes."""
    return verifier(signer, _LABEL_SIGN, raw[:-SIGNATURE_BYTES], raw[-SIGNATURE_BYTES:])


# encoding


def next_generation(generation: int) -> int:
    """Of a record that shall outrank one of that generation; there is none above the last."""
    return min(generation + 1, GENERATION_MAX)


def encode(record: Record, seed: bytes | bytearray) -> bytes:
    """The record, signed by the key with this seed.

    ValueError: a field that no record can have.
    """
    try:
        body = _HEAD.pack(record.kind, VERSION, record.network) + _body(record)
    except struct.error as e:
        raise ValueError(f"no record holds this: {e}") from None
    raw = body + sign(seed, _LABEL_SIGN, body)
    if decode(raw) != record:
        raise ValueError("this record would not be read as it was meant")
    return raw


def _body(record: Record) -> bytes:
    if isinstance(record, NetworkRecord):
        name = record.name.encode()
        prefix = record.prefix
        return (
            _NETWORK.pack(
                record.key,
                record.generation,
                prefix.network_address.packed if prefix else bytes(4),
                prefix.prefixlen if prefix else 0,
                len(name),
            )
            + name
        )
    if isinstance(record, AdminRecord):
        return _ADMIN.pack(record.node_id, record.generation, record.status)
    if isinstance(record, MemberRecord):
        name = record.name.encode()
        head = _MEMBER.pack(
            record.node_id,
            record.issuer,
            record.generation,
            record.status,
            MemberFlag.ANCHOR if record.may_anchor else 0,
            record.address.packed if record.address else bytes(4),
            len(name),
            len(record.routes),
        )
        routes = (
            _ROUTE.pack(r.version, r.prefixlen, r.network_address.packed.ljust(16, b"\0"))
            for r in record.routes
        )
        return head + name + b"".join(routes)
    if isinstance(record, EndpointRecord):
        flags = record.anchor * EndpointFlag.ANCHOR | record.proved * EndpointFlag.PROVED
        head = _ENDPOINTS.pack(record.node_id, record.seq, flags, len(record.places))
        return head + b"".join(map(encode_place, record.places))
    head = _OBSERVED.pack(record.node_id, record.author, record.seq)
    return head + encode_place(record.place)


def encode_place(place: Place) -> bytes:
    ip = ip_address(place.endpoint.ip.partition("%")[0])
    return _ENTRY.pack(ip.version, place.kind, place.endpoint.port, ip.packed.ljust(16, b"\0"))


# decoding


class _Reader:
    """Cuts fields from the front of a record's body."""

    def __init__(self, data: bytes, checked: bool = False) -> None:
        self._data, self._at = data, 0
        self.checked = checked

    def take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise RecordError("record_length")
        piece, self._at = self._data[self._at : end], end
        return piece

    def end(self) -> None:
        if self._at != len(self._data):
            raise RecordError("record_length")


def decode(raw: bytes, *, checked: bool = False) -> Record:
    """What the bytes say; whether it is true `is_signed` and the merge rules tell.
    `checked`: these bytes were decoded before, so that the keys in them are usable ones.

    RecordError: too short or too long (record_length), another version or kind (record_kind), or
    something that cannot be (record_claim).
    """
    if not _HEAD.size + SIGNATURE_BYTES <= len(raw) <= RECORD_MAX:
        raise RecordError("record_length")
    number, version, network = _HEAD.unpack_from(raw)
    if version != VERSION or number not in _DECODERS:
        raise RecordError("record_kind")
    reader = _Reader(raw[_HEAD.size : -SIGNATURE_BYTES], checked)
    record = _DECODERS[number](network, reader)
    reader.end()
    return record


def _claim(good: bool) -> None:
    if not good:
        raise RecordError("record_claim")


def _name(raw: bytes) -> str:
    text = raw.decode("ascii", "replace")
    _claim(is_name(text))
    return text


def _node_id(raw: bytes) -> bytes:
    """Only a member's key need be a usable one: all others are keys of members, or sign nothing."""
    try:
        node_id_to_x25519(raw)
    except IdentityError:
        raise RecordError("record_claim") from None
    return raw


def _status(value: int) -> Status:
    _claim(value in (Status.ACTIVE, Status.REVOKED))
    return Status(value)


def _decode_network(network: bytes, reader: _Reader) -> NetworkRecord:
    key, generation, address, length, name_bytes = _NETWORK.unpack(reader.take(_NETWORK.size))
    name = _name(reader.take(name_bytes))
    prefix = None
    if length:
        _claim(8 <= length <= 30)
        try:
            prefix = IPv4Network((address, length))
        except ValueError:
            raise RecordError("record_claim") from None
        _claim(not (prefix.is_multicast or prefix.is_loopback or prefix.is_link_local))
    else:
        _claim(address == bytes(4))
    _claim(network_id(key) == network and generation > 0)
    return NetworkRecord(network, key, generation, name, prefix)


def _decode_admin(network: bytes, reader: _Reader) -> AdminRecord:
    raw = reader.take(_ADMIN.size)
    node_id, generation, status = _ADMIN.unpack(raw)
    _claim(raw[-3:] == bytes(3) and generation > 0)
    return AdminRecord(network, node_id, generation, _status(status))


def _decode_member(network: bytes, reader: _Reader) -> MemberRecord:
    node_id, issuer, generation, status, flags, address, name_bytes, routes = _MEMBER.unpack(
        reader.take(_MEMBER.size)
    )
    name = _name(reader.take(name_bytes))
    _claim(flags in (0, 1) and routes <= ROUTES_MAX and generation > 0)
    found = tuple(_decode_route(reader.take(_ROUTE.size)) for _ in range(routes))
    _claim(len(set(found)) == len(found))
    return MemberRecord(
        network,
        node_id if reader.checked else _node_id(node_id),
        issuer,
        generation,
        _status(status),
        name,
        bool(flags & MemberFlag.ANCHOR),
        IPv4Address(address) if address != bytes(4) else None,
        found,
    )


def _decode_route(raw: bytes) -> Network:
    family, length, address = _ROUTE.unpack(raw)
    try:
        if family == 4:
            _claim(address[4:] == bytes(12))
            return IPv4Network((address[:4], length))
        _claim(family == 6)
        return IPv6Network((address, length))
    except ValueError:
        raise RecordError("record_claim") from None


def decode_place(raw: bytes) -> Place:
    """PLACE_BYTES of a record. RecordError: no place where a member could be (record_claim)."""
    family, kind, port, address = _ENTRY.unpack(raw)
    _claim(port > 0 and kind in PlaceKind.__members__.values())
    if family == 4:
        _claim(address[4:] == bytes(12))
        ip: IPv4Address | IPv6Address = IPv4Address(address[:4])
    else:
        _claim(family == 6)
        ip = IPv6Address(address)
        _claim(ip.ipv4_mapped is None and not ip.packed.startswith(OVERLAY_PREFIX))
    _claim(not (ip.is_multicast or ip.is_unspecified or ip.is_loopback or ip.is_link_local))
    _claim(ip.version == 6 or not (ip.is_reserved or int(ip) == 0xFFFFFFFF))
    return Place(Endpoint(str(ip), port), PlaceKind(kind))


def _decode_endpoints(network: bytes, reader: _Reader) -> EndpointRecord:
    node_id, seq, flags, count = _ENDPOINTS.unpack(reader.take(_ENDPOINTS.size))
    _claim(flags in (0, 1, 3) and count <= ENDPOINTS_MAX and 0 < seq < 1 << 63)
    places = tuple(decode_place(reader.take(_ENTRY.size)) for _ in range(count))
    _claim(len({p.endpoint for p in places}) == count)
    proved = bool(flags & EndpointFlag.PROVED)
    return EndpointRecord(network, node_id, seq, places, bool(flags), proved)


def _decode_observed(network: bytes, reader: _Reader) -> ObservedRecord:
    node_id, author, seq = _OBSERVED.unpack(reader.take(_OBSERVED.size))
    place = decode_place(reader.take(_ENTRY.size))
    _claim(0 < seq < 1 << 63 and node_id != author and place.kind is PlaceKind.OBSERVED)
    return ObservedRecord(network, node_id, author, seq, place)


_DECODERS: Final[dict[int, Callable[[bytes, _Reader], Record]]] = {
    Kind.NETWORK: _decode_network,
    Kind.ADMIN: _decode_admin,
    Kind.MEMBER: _decode_member,
    Kind.ENDPOINTS: _decode_endpoints,
    Kind.OBSERVED: _decode_observed,
}


def version_of(record: Record) -> int:
    """What grows when a record of the same kind and subject is replaced."""
    if isinstance(record, EndpointRecord | ObservedRecord):
        return record.seq
    return record.generation


def subject_of(record: Record) -> bytes:
    """Whom it is about; nobody, where it is about the network."""
    return b"" if isinstance(record, NetworkRecord) else record.node_id
