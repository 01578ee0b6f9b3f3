"""Tickets, and how a machine joins with one (docs/mesh.md section 8).

The ticket holds the seed of a key that is used once: who is inviting lets this key in as a peer, so
joining is plain WireGuard on the wire. Inside, the new machine proves its own key and is told who
belongs.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from whalescale.identity import Identity, IdentityError, node_id_to_x25519
from whalescale.protocol.control import VERSION, ControlError
from whalescale.protocol.limits import NS_PER_S
from whalescale.protocol.mesh.frames import MESH, Sub
from whalescale.protocol.mesh.records import (
    NETWORK_ID_BYTES,
    SIGNATURE_BYTES,
    Network,
    sign,
    verify,
)
from whalescale.protocol.places import Endpoint

PREFIX: Final = "wsnet1"
SECRET_BYTES: Final = 16
CHECK_BYTES: Final = 4
PLACES_MAX: Final = 6
#: how long a ticket is good, unless it is told otherwise
LIFETIME: Final = 3600 * NS_PER_S
#: tickets that are out at one time
INVITES_MAX: Final = 64
#: after the new machine was let in, the one-time key may still ask for lost answers
LINGER: Final = 120 * NS_PER_S

_LABEL_CHECK: Final = b"whalescale ticket"
_LABEL_SEED: Final = b"whalescale ticket key"
_LABEL_JOIN: Final = b"whalescale join v1"
_TICKET: Final = struct.Struct(f"<B{NETWORK_ID_BYTES}s32s{SECRET_BYTES}sQB")
_JOIN: Final = struct.Struct(f"<BBBB32s{SIGNATURE_BYTES}s")
_REFUSED: Final = struct.Struct("<BBBB")


class TicketError(ValueError):
    """The text is no ticket of ours; written for a user."""


class Refusal(IntEnum):
    """Why a machine was not let in."""

    UNKNOWN = 1  # used by another machine, or withdrawn
    EXPIRED = 2
    NOT_ADMIN = 3
    REVOKED = 4  # this machine's key was revoked
    PROOF = 5
    FULL = 6


@dataclass(frozen=True, slots=True)
class Ticket:
    """`expires`: Unix seconds, by the inviter's clock; shown to a person, decides nothing."""

    network: bytes
    inviter: bytes
    secret: bytes = field(repr=False)
    expires: int
    places: tuple[Endpoint, ...]

    def one_time(self) -> Identity:
        """The key that this ticket lets in."""
        return one_time_identity(self.secret)


def one_time_identity(secret: bytes) -> Identity:
    return Identity(hashlib.blake2s(_LABEL_SEED + secret).digest())


def encode_ticket(ticket: Ticket) -> str:
    """Lower-case letters and digits, for a terminal, a mail or (in capitals) a QR code."""
    places = ticket.places[:PLACES_MAX]
    body = _TICKET.pack(
        VERSION, ticket.network, ticket.inviter, ticket.secret, ticket.expires, len(places)
    )
    for place in places:
        ip = ip_address(place.ip)
        body += struct.pack("<BH", ip.version, place.port) + ip.packed
    return PREFIX + base64.b32encode(body + _check(body)).decode().rstrip("=").lower()


def _check(body: bytes) -> bytes:
    return hashlib.blake2s(_LABEL_CHECK + body, digest_size=CHECK_BYTES).digest()


def decode_ticket(text: str) -> Ticket:
    """TicketError: a typo, another thing, or of a later version."""
    compact = "".join(text.split()).lower()
    if not compact.startswith(PREFIX):
        raise TicketError(
            f"this is no ticket: one begins with {PREFIX}; copy what `ws invite` said"
        )
    try:
        part = compact.removeprefix(PREFIX).upper()
        raw = base64.b32decode(part + "=" * (-len(part) % 8))
    except ValueError:  # binascii.Error is one
        raise TicketError("the ticket is damaged; copy it again, all of it") from None
    body, check = raw[:-CHECK_BYTES], raw[-CHECK_BYTES:]
    if len(body) < _TICKET.size or not hmac.compare_digest(_check(body), check):
        raise TicketError("the ticket is damaged or not whole; copy it again, all of it")
    version, network, inviter, secret, expires, count = _TICKET.unpack_from(body)
    if version != VERSION:
        raise TicketError("the ticket is of a later version; update this machine's whalescale")
    try:
        node_id_to_x25519(inviter)
        places = _decode_places(body[_TICKET.size :], count)
    except (IdentityError, ValueError, struct.error, IndexError):
        raise TicketError("the ticket says what cannot be; ask for another") from None
    return Ticket(network, inviter, secret, expires, places)


def _decode_places(data: bytes, count: int) -> tuple[Endpoint, ...]:
    found = []
    for _ in range(count):
        family, port = struct.unpack_from("<BH", data)
        size = {4: 4, 6: 16}[family] if family in (4, 6) else 0
        raw, data = data[3 : 3 + size], data[3 + size :]
        ip = IPv4Address(raw) if family == 4 else IPv6Address(raw)
        if not port or not size:
            raise ValueError("no place")
        found.append(Endpoint(str(ip), port))
    if data:
        raise ValueError("more than it says")
    return tuple(found)


# frames


def _statement(network: bytes, inviter: bytes, one_time: bytes) -> bytes:
    return network + inviter + one_time


def encode_join(seed: bytes | bytearray, node_id: bytes, ticket: Ticket) -> bytes:
    """ "This is my own key", signed by it, for this ticket only."""
    statement = _statement(ticket.network, ticket.inviter, ticket.one_time().node_id)
    return _JOIN.pack(MESH, VERSION, Sub.JOIN, 0, node_id, sign(seed, _LABEL_JOIN, statement))


def decode_join(data: bytes, network: bytes, inviter: bytes, one_time: bytes) -> bytes | None:
    """The node ID that asks. None: the proof is wrong. ControlError: too short."""
    if len(data) < _JOIN.size:
        raise ControlError("control_length")
    node_id, signature = _JOIN.unpack_from(data)[4:]
    try:
        node_id_to_x25519(node_id)
    except IdentityError:
        return None
    statement = _statement(network, inviter, one_time)
    return bytes(node_id) if verify(node_id, _LABEL_JOIN, statement, signature) else None


def encode_refused(reason: Refusal) -> bytes:
    return _REFUSED.pack(MESH, VERSION, Sub.REFUSED, reason)


def decode_refused(data: bytes) -> Refusal | None:
    """None: it is another frame."""
    if len(data) < _REFUSED.size or data[:3] != bytes((MESH, VERSION, Sub.REFUSED)):
        return None
    return Refusal(data[3]) if data[3] in Refusal.__members__.values() else Refusal.UNKNOWN


# the inviter's side


@dataclass(slots=True)
class Invite:
    """A ticket that is out. Times are ns of CLOCK_BOOTTIME."""

    one_time: bytes
    name: str
    may_anchor: bool
    routes: tuple[Network, ...]
    until: int
    #: who came with it
    used_by: bytes | None = None


class Invites:
    """Tickets that are out, by the node ID of their key."""

    __slots__ = ("_random", "by_key")

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random
        self.by_key: dict[bytes, Invite] = {}

    def make(
        self,
        name: str,
        may_anchor: bool,
        routes: tuple[Network, ...],
        now: int,
        lifetime: int = LIFETIME,
    ) -> tuple[Invite, bytes]:
        """The invite and its secret. ValueError: too many are out."""
        if len(self.by_key) >= INVITES_MAX:
            raise ValueError(f"{INVITES_MAX} tickets are out; wait until some are used or expire")
        secret = self._random(SECRET_BYTES)
        one_time = one_time_identity(secret).node_id
        invite = Invite(one_time, name, may_anchor, routes, now + lifetime)
        self.by_key[one_time] = invite
        return invite, secret

    def restore(self, kept: Iterable[Invite]) -> None:
        """Tickets from before this start; no more than may be out."""
        for invite in kept:
            if len(self.by_key) < INVITES_MAX:
                self.by_key[invite.one_time] = invite

    def withdraw(self, name: str) -> list[Invite]:
        """Tickets with this name that nobody has used yet: none of them is good any more."""
        found = [i for i in self.by_key.values() if i.name == name and i.used_by is None]
        for invite in found:
            del self.by_key[invite.one_time]
        return found

    def deadline(self) -> int | None:
        return min((i.until for i in self.by_key.values()), default=None)

    def expire(self, now: int) -> list[Invite]:
        """Those whose time is over; their keys are to be let in no more."""
        over = [i for i in self.by_key.values() if i.until <= now]
        for invite in over:
            del self.by_key[invite.one_time]
        return over
