"""What goes into and comes out of the pure core. Times are ns of CLOCK_BOOTTIME."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from whalescale.protocol.paths.types import Action
from whalescale.protocol.places import Endpoint, PeerHandle


class PostQuantum(StrEnum):
    """Of a peer's keys: exchanged where the peer can, data waits until they are, or never."""

    AUTO = "auto"
    REQUIRE = "require"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class PeerConfig:
    """A peer as configured. One of the three keys is enough; what is known is derived from it."""

    #: X25519; None while only a fingerprint is known (or where node_id says it)
    static_public: bytes | None = None
    #: Ed25519; None for a vanilla WireGuard peer
    node_id: bytes | None = None
    fingerprint: bytes | None = None
    #: 32 bytes, zeros when there is none
    preshared_key: bytes = field(default=bytes(32), repr=False)
    #: candidates in order of preference, numeric
    endpoints: tuple[Endpoint, ...] = ()
    #: seconds, 0: off
    persistent_keepalive: int = 0
    #: a longer one will do, if it is found to
    keepalive_adapts: bool = False
    #: others say where it is, and it is tried there as the node's budget allows (fresh.py)
    told: bool = False
    post_quantum: PostQuantum = PostQuantum.AUTO


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """A view of one peer at one time."""

    static_public: bytes | None
    node_id: bytes | None
    fingerprint: bytes | None
    #: where the peer is, authenticated or (before the first handshake) chosen
    endpoint: Endpoint | None
    local: Endpoint | None
    #: ns since 1970, 0: never
    last_handshake_wall_ns: int
    #: of the last handshake that we initiated, ns
    round_trip: int | None
    #: initiations (or bootstrap requests) sent in the attempt under way, 0: none is
    handshake_attempts: int
    #: our role in the current keypair; None without one
    initiator: bool | None
    #: CLOCK_BOOTTIME ns at which the current keypair was made; None without one
    session_created: int | None
    #: where the peer saw our bootstrap request come from; a hint
    observed: Endpoint | None
    persistent_keepalive: int
    #: frames are spoken (docs/multipath.md)
    extended: bool
    #: initiations (or bootstrap requests) since the last session that none came of
    unanswered: int = 0
    #: when the first of them was sent, ns; None: none is
    unanswered_since: int | None = None
    #: who told a node ID since, but opened no session: it may not know ours
    answered_by: Endpoint | None = None


@dataclass(frozen=True, slots=True)
class Transmit:
    """A datagram to send. `local` None: let the routing table choose the source.

    `ifindex`: by this interface, 0: as the routing table says.
    """

    data: bytes
    remote: Endpoint
    local: Endpoint | None = None
    ifindex: int = 0


@dataclass(frozen=True, slots=True)
class Activity:
    """What the data plane saw of one peer; 0 means never (or: nothing outstanding)."""

    last_sent: int = 0
    last_received: int = 0
    #: first data message received since our last send: the passive keepalive counts from here
    unsent_since: int = 0
    #: first data message sent since the last receive: the new handshake counts from here
    unanswered_since: int = 0


@dataclass(frozen=True, slots=True)
class KeypairReady:
    """Install these transport keys. The receiver zeroes both bytearrays after copying."""

    peer: PeerHandle
    local_index: int
    remote_index: int
    send_key: bytearray = field(repr=False)
    receive_key: bytearray = field(repr=False)
    initiator: bool
    created: int
    #: no data is sent with it, control frames are
    held: bool = False


@dataclass(frozen=True, slots=True)
class KeypairsExpired:
    """Zero every keypair of the peer (REJECT_AFTER_TIME * 3 without a new one, or removal)."""

    peer: PeerHandle


@dataclass(frozen=True, slots=True)
class SendKeepalive:
    """Send an empty transport message with the current keypair."""

    peer: PeerHandle


@dataclass(frozen=True, slots=True)
class EndpointChanged:
    """The core learned (authenticated) or chose another endpoint for the peer.

    `ifindex`: reached by this interface, 0: as the routing table says.
    """

    peer: PeerHandle
    remote: Endpoint
    local: Endpoint | None = None
    ifindex: int = 0


@dataclass(frozen=True, slots=True)
class PeerSeen:
    """The peer is or was at this address, which was proved: beside what EndpointChanged says."""

    peer: PeerHandle
    remote: Endpoint


@dataclass(frozen=True, slots=True)
class HandshakeCompleted:
    peer: PeerHandle
    initiator: bool
    #: initiator only: time from our initiation to the response, ns
    round_trip: int | None


@dataclass(frozen=True, slots=True)
class HandshakeGaveUp:
    """REKEY_ATTEMPT_TIME is over: drop what was staged for the peer."""

    peer: PeerHandle


@dataclass(frozen=True, slots=True)
class HandshakeUnanswered:
    """As many initiations in a row as make a give-up had no answer, but packets keep coming."""

    peer: PeerHandle


@dataclass(frozen=True, slots=True)
class PeerIdentified:
    """A peer configured by fingerprint told its node ID and it matches."""

    peer: PeerHandle
    node_id: bytes


@dataclass(frozen=True, slots=True)
class SendControl:
    """Send a control frame inside the session (docs/multipath.md section 4)."""

    peer: PeerHandle
    frame: bytes


@dataclass(frozen=True, slots=True)
class ExtendedModeChanged:
    """Send data frames from here on, or plain packets again."""

    peer: PeerHandle
    active: bool
    #: the peer takes several small packets in one
    bundles: bool = False


@dataclass(frozen=True, slots=True)
class MultipathStarted:
    """Get ready for paths, before the first `PathAction` and before frames flow.

    `reset`: the peer restarted, its seqs and numbers begin anew; ours go on.
    """

    peer: PeerHandle
    reset: bool


@dataclass(frozen=True, slots=True)
class PathAction:
    """What the peer's path manager wants done, in this order (protocol/paths/types.py)."""

    peer: PeerHandle
    action: Action


@dataclass(frozen=True, slots=True)
class Stranger:
    """A right initiation by a key that no peer has. `peer` is 0: none."""

    static_public: bytes
    remote: Endpoint
    peer: PeerHandle = 0


@dataclass(frozen=True, slots=True)
class RequestCame:
    """A bootstrap request, which is answered. `peer` is 0: who asks is not known."""

    nonce: bytes
    remote: Endpoint
    peer: PeerHandle = 0


@dataclass(frozen=True, slots=True)
class MemberCame:
    """Somebody presented a member record that was new here: an initiation of its follows."""

    peer: PeerHandle = 0


@dataclass(frozen=True, slots=True)
class GuestEvent:
    """Of a machine beside the handshake (guest.py): it has subclasses of its own.

    `peer` 0: of none.
    """

    peer: PeerHandle


Event = (
    KeypairReady
    | KeypairsExpired
    | SendKeepalive
    | EndpointChanged
    | PeerSeen
    | HandshakeCompleted
    | HandshakeGaveUp
    | HandshakeUnanswered
    | PeerIdentified
    | SendControl
    | ExtendedModeChanged
    | MultipathStarted
    | PathAction
    | Stranger
    | RequestCame
    | MemberCame
    | GuestEvent
)
