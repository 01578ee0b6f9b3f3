"""What goes into and comes out of a peer's path manager. Times are ns of CLOCK_BOOTTIME."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import NamedTuple

from whalescale.protocol.places import Endpoint

#: of one peer and direction; our numbers of them are 0..MAX_PATHS-1
MAX_PATHS = 8


class Scheduler(StrEnum):
    EDF = "edf"
    WRR = "wrr"
    MINRTT = "minrtt"
    REDUNDANT = "redundant"
    BACKUP = "backup"


@dataclass(frozen=True, slots=True)
class MultipathSettings:
    """The `[multipath]` table of the configuration."""

    enabled: bool = True
    scheduler: Scheduler = Scheduler.EDF
    #: packets, or None: adaptive
    reorder_depth: int | None = None
    deliver_late: bool = True
    #: None: where there is more than one path
    repair: bool | None = None
    #: what is done for a TCP inside: hold what quick paths bring back to the slow ones' delay
    align: bool = True
    #: this host's own TCPs are BBRs; None: as it says
    bbr: bool | None = None
    #: data also goes over anchors while direct paths work
    relay_also: bool = False


class PathState(StrEnum):
    PROBING = "probing"
    HEALTHY = "healthy"
    DEGRADED = "degraded"
    FAILED = "failed"


class Pin(NamedTuple):
    """What `ws paths --set` says of a path; kept by its endpoints, so that it outlives the path."""

    disabled: bool = False
    #: lower is preferred (scheduler backup); None: by kind of path
    tier: int | None = None
    #: largest share of the rate that it may be given, 0..1
    weight_cap: float = 1.0


@dataclass(frozen=True, slots=True)
class PathSpec:
    """A path as the data plane is to have it (struct ws_path)."""

    id: int
    #: None: path 0 while our address is not known; as the routing table says
    local: Endpoint | None
    remote: Endpoint
    #: 0: as the routing table says
    ifindex: int
    usable: bool


@dataclass(frozen=True, slots=True)
class PathParams:
    """struct ws_path_params, same names and units."""

    srtt_us: int
    cap_permille: int
    tier: int
    degraded: bool
    max_packet: int
    rescue_us: int


@dataclass(frozen=True, slots=True)
class PeerParams:
    """struct ws_multipath_params, same names and units."""

    scheduler: Scheduler
    repair: bool
    repair_age_us: int
    reorder_depth: int
    loose_hold_us: int
    loss_wait_us: int
    path_idle_us: int
    deliver_late: bool
    ack_interval_us: int
    #: enum ws_align_for: 0 nobody, 1 a TCP, 2 a BBR
    align: int


@dataclass(frozen=True, slots=True)
class PathSample:
    """struct ws_path_stats at one time, same names and units (csrc/api/multipath.h)."""

    tx_bytes: int = 0
    tx_packets: int = 0
    in_flight_bytes: int = 0
    last_ack_ns: int = 0
    acked_datagrams: int = 0
    acked_bytes: int = 0
    acked_highest: int = 0
    srtt_us: int = 0
    rttvar_us: int = 0
    silent: int = 0
    rx_datagrams: int = 0
    rx_bytes: int = 0
    rx_packets: int = 0
    rx_highest: int = 0
    window_bytes: int = 0
    window_rate_bps: int = 0
    window_queue_us: int = 0


# actions: what the manager wants done


@dataclass(frozen=True, slots=True)
class SetPaths:
    #: all there are; what is not named is gone
    paths: tuple[PathSpec, ...]
    #: data is spread over the usable ones; False: it goes by the one that is, as WireGuard sends
    schedule: bool
    #: path 0 goes where we say alone, and not where the peer's packets come from: some come over
    #: anchors, some do not, and both ends would follow each other to and fro
    stay: bool = False
    #: another one could take over from the only usable one: what is sent is kept for that
    keep: bool = False


@dataclass(frozen=True, slots=True)
class TunePath:
    path: int
    params: PathParams


@dataclass(frozen=True, slots=True)
class TunePeer:
    params: PeerParams


@dataclass(frozen=True, slots=True)
class SendPathControl:
    """A control frame over one path; padded to `datagram_bytes` of UDP payload unless that is 0."""

    path: int
    frame: bytes
    datagram_bytes: int = 0


@dataclass(frozen=True, slots=True)
class RescuePath:
    """Send what is in flight on this path again elsewhere."""

    path: int


@dataclass(frozen=True, slots=True)
class AskAnchors:
    """What goes to the peer is not answered: routers may have forgotten us, and anchors may be gone
    or send to where we were. See whether they answer, which tells them where we are."""


class Reason(Enum):
    """Why a path's state is another."""

    UP = auto()
    UP_AGAIN = auto()
    WELL_AGAIN = auto()  # it loses no more than the others
    LOSS = auto()
    NO_ANSWER = auto()
    SILENT = auto()
    LOCAL_GONE = auto()
    REMOTE_GONE = auto()
    ANEW = auto()  # the session began anew
    MOVED = auto()


@dataclass(frozen=True, slots=True)
class PathEvent:
    """For the user: a path came up, degraded, failed, moved, was removed."""

    path: int
    #: None: removed
    state: PathState | None
    reason: Reason
    interface: str
    local: Endpoint | None
    remote: Endpoint
    #: LOSS: 0..1
    loss: float = 0.0
    #: MOVED: where to
    to: Endpoint | None = None


@dataclass(frozen=True, slots=True)
class PacketLimit:
    """The longest inner packet that every usable path takes, 1,280 at least; the tunnel's MTU
    follows. None: what is configured."""

    max_packet: int | None


Action = (
    SetPaths
    | TunePath
    | TunePeer
    | SendPathControl
    | RescuePath
    | PathEvent
    | PacketLimit
    | AskAnchors
)


@dataclass(frozen=True, slots=True)
class PathStatus:
    """A view of one path at one time. None: not known yet."""

    id: int
    local: Endpoint | None
    remote: Endpoint
    interface: str
    state: PathState
    usable: bool
    rtt_us: int | None
    rtt_min_us: int | None
    jitter_us: int | None
    #: share of datagrams lost over about a second, 0..1
    loss: float
    #: what it carries, as far as was seen
    rate_bps: int
    #: the design's estimate: acknowledged bytes over a rolling second
    acked_bps: int
    #: share of the peer's traffic that it is given, 0..1
    weight: float
    queue_us: int
    in_flight_bytes: int
    max_packet: int
    tx_bytes: int
    rx_bytes: int
    pin: Pin
    #: when something last came by it, or an ACK of what went by it; ns
    heard_at: int | None = None
    #: the peer's numbers of it: what comes is counted under these
    theirs: tuple[int, ...] = ()
