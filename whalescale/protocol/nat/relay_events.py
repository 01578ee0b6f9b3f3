"""What the relay (relay.py) is told by its settings, and tells the data plane."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from whalescale.protocol.places import Endpoint, PeerHandle
from whalescale.protocol.types import GuestEvent


class Use(StrEnum):
    """What a member makes of relays."""

    AUTO = "auto"  # ready, and used while no direct path works
    ALSO = "also"  # used together with direct paths
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """The configuration's `[relay]`, as far as the core needs it."""

    use: Use = Use.AUTO
    serve: bool = True
    #: that may have bindings here
    members: int = 64


@dataclass(frozen=True, slots=True)
class RelaySet(GuestEvent):
    """As an anchor: datagrams for `index` from `places`, where `sender` is, go to `remote`, where
    `peer` is, from `local`. Replaces what was said of the index before.

    `most_bytes`: longer ones would be cut up on the way there, so they are dropped: probes of the
    MTU find out. 0: none are.
    """

    index: int
    sender: PeerHandle
    places: tuple[Endpoint, ...]
    remote: Endpoint
    local: Endpoint | None
    most_bytes: int = 0
    #: it ends then, unless it is said again
    until: int = 0


@dataclass(frozen=True, slots=True)
class RelayEnded(GuestEvent):
    """As an anchor: no more of this."""

    index: int
