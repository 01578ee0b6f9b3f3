"""What a `Mesh` wants carried out, in its order (network.py)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from whalescale.protocol.mesh.invite import Invite
from whalescale.protocol.places import Endpoint


class MeshError(ValueError):
    """What a person asked for cannot be done; says why and what to do instead."""


@dataclass(frozen=True, slots=True)
class SendFrame:
    node_id: bytes
    frame: bytes


@dataclass(frozen=True, slots=True)
class MemberChanged:
    """It belongs now, or no more, or is elsewhere: look it up."""

    node_id: bytes


@dataclass(frozen=True, slots=True)
class WantSession:
    """Call it; `places` are the best known, best first."""

    node_id: bytes
    places: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class RecordStored:
    """Keep this. `own`: it must be on the disk before anything else is done."""

    key: int
    raw: bytes
    own: bool = False


@dataclass(frozen=True, slots=True)
class RecordGone:
    key: int


@dataclass(frozen=True, slots=True)
class GuestAdmitted:
    """Let the one-time key of a ticket in as a peer, without any address."""

    node_id: bytes


@dataclass(frozen=True, slots=True)
class GuestGone:
    """Let it in no more, and forget its ticket."""

    node_id: bytes


@dataclass(frozen=True, slots=True)
class TicketKept:
    """Keep the ticket as it is now; on the disk before anything else is done."""

    invite: Invite


@dataclass(frozen=True, slots=True)
class DialPlace:
    """Send this member a bootstrap request with this nonce, from a socket that never sent there.

    Tell `Mesh.place_dialled` whether it answered, with `job`.
    """

    job: int
    node_id: bytes
    place: Endpoint
    nonce: bytes


@dataclass(frozen=True, slots=True)
class HeldStored:
    """Keep for how long we have been reached at this place, seconds of our running."""

    place: Endpoint
    seconds: int


@dataclass(frozen=True, slots=True)
class MappedDialled:
    """Others dialled a place that a gateway maps for us: one got in, or nobody does."""

    place: Endpoint
    reached: bool


class Word(Enum):
    """What a person may want to hear of."""

    JOINED = "joined"
    REVOKED = "revoked"
    REVOKED_SELF = "revoked here"
    CLONED = "cloned"
    TICKET_USED = "ticket used"
    ANCHOR = "anchor"  # we act as one
    ANCHOR_NOT = "no anchor"  # and no more
    ADOPTED = "adopted"  # others knew what we had signed, and we did not
    SIGNED_AGAIN = "signed again"  # our word of `name`, above an older one of ours
    ANCHORS = "anchors"  # `name`: what a person should know of them, or nothing


@dataclass(frozen=True, slots=True)
class Notice:
    word: Word
    node_id: bytes
    name: str = ""


MeshEvent = (
    SendFrame
    | MemberChanged
    | WantSession
    | RecordStored
    | RecordGone
    | GuestAdmitted
    | GuestGone
    | TicketKept
    | DialPlace
    | HeldStored
    | MappedDialled
    | Notice
)


class Anchoring(Enum):
    """Whether this member acts as an anchor."""

    NO = "no"
    YES = "yes"
    AUTO = "auto"  # once it was proved and has been at one public address for long


@dataclass(frozen=True, slots=True)
class MeshSettings:
    """`neighbours`: sessions to keep, 0: call nobody of our own accord.

    `leaf`: sessions with two anchors alone, where there are any, and no work for others.
    """

    neighbours: int = 4
    anchor: Anchoring = Anchoring.NO
    leaf: bool = False
