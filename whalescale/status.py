"""What an agent tells over its control socket: the shape of `ws status --json`, version 1.

Unknown fields are allowed (a newer agent), wrong types are not. Byte counts are of the wire
(UDP payload), times are seconds, `*_s` ones count backwards from now.
"""

from __future__ import annotations

from typing import Final, Literal

from whalescale.structs import Struct, msgspec

VERSION: Final = 1
#: a path with data is heard each second, a spare beside it each 25 s
QUIET_S: Final = 30.0

State = Literal["up", "handshaking", "idle", "unreachable"]
PathState = Literal["candidate", "probing", "healthy", "degraded", "failed"]


class Offloads(Struct, frozen=True, kw_only=True):
    tun_tso: bool = False
    tun_gro: bool = False
    udp_gso: bool = False
    udp_gro: bool = False
    tun_uso: bool = False


class Agent(Struct, frozen=True, kw_only=True):
    version: str
    pid: int
    uptime_s: float
    interface: str
    config: str
    #: "", as `fingerprint` and `overlay_address`: a WireGuard key alone, so one path to each peer
    node_id: str
    fingerprint: str
    wireguard_public_key: str
    overlay_address: str
    listen_port: int
    addresses: tuple[str, ...] = ()
    mtu: int = 0
    #: of our datagrams, 0: none
    fwmark: int = 0
    #: the routing table of our own, 0: all routes are in main
    table: int = 0
    anchor: bool = False
    backend: str = ""
    cipher: str = ""
    offloads: Offloads = Offloads()
    workers: int = 1
    pin_cpus: bool = False
    busy_poll_us: int = 0
    rss_bytes: int = 0
    cpu_seconds: float = 0.0
    #: what is likely wrong with the set-up, in words
    warnings: tuple[str, ...] = ()


class Counters(Struct, frozen=True, kw_only=True):
    tx_packets: int = 0
    tx_bytes: int = 0
    rx_packets: int = 0
    rx_bytes: int = 0
    handshake_rx: int = 0
    #: cookie replies: strangers, or who forges a peer's address, were asked to prove their own
    cookies_tx: int = 0
    keepalives_tx: int = 0
    keepalives_rx: int = 0
    control_rx: int = 0
    #: runs of datagrams as the kernel gives them
    rx_batches: int = 0
    #: packets or super-packets from the TUN device
    tun_reads: int = 0
    #: of these, came to another worker than the session's own
    foreign_rx: int = 0
    foreign_tx: int = 0
    #: datagrams between others (as an anchor)
    relayed: int = 0
    relayed_bytes: int = 0
    #: of these: by the kernel
    relayed_kernel: int = 0
    relayed_kernel_bytes: int = 0
    drops: dict[str, int] = {}
    handshake_drops: dict[str, int] = {}


class Pin(Struct, frozen=True, kw_only=True):
    """What `ws paths --set` said of a path. `tier` None: by kind of path."""

    disabled: bool = False
    tier: int | None = None
    weight_cap: float = 1.0


class Path(Struct, frozen=True, kw_only=True):
    """One path to a peer (docs/multipath.md sections 5 to 8). None: not known yet.

    `state`: as it was when it was last heard, `heard_s` ago. Where nothing is sent nothing is
    heard, and one that is silent may be gone: `is_idle`.
    """

    id: int
    remote: str
    state: PathState
    local: str | None = None
    interface: str = ""
    #: data goes over it; a spare waits until the path in use fails
    usable: bool = False
    rtt_ms: float | None = None
    rtt_min_ms: float | None = None
    jitter_ms: float | None = None
    #: share of datagrams lost over about a second, 0..1
    loss: float = 0.0
    #: what it is thought to carry; 0: not measured yet
    rate_bps: int = 0
    #: acknowledged over the last second
    acked_bps: int = 0
    #: share of the peer's traffic that it is given, 0..1
    weight: float = 0.0
    queue_ms: float = 0.0
    in_flight_bytes: int = 0
    #: the longest inner packet that it takes
    max_packet: int = 0
    tx_bytes: int = 0
    rx_bytes: int = 0
    pin: Pin = Pin()
    #: over an anchor (docs/nat.md)
    relayed: bool = False
    heard_s: float | None = None

    @property
    def is_idle(self) -> bool:
        """It worked when it was last heard, longer ago than any path in use is silent."""
        works = self.state in ("healthy", "degraded")
        return works and self.heard_s is not None and self.heard_s > QUIET_S


class Reordering(Struct, frozen=True, kw_only=True):
    """The buffer that puts the peer's packets in order. `depth`: waiting now; else since the start.

    `wait_us` is the sum over all that were `held`.
    """

    depth: int = 0
    depth_max: int = 0
    delivered: int = 0
    in_order: int = 0
    held: int = 0
    gaps: int = 0
    gaps_filled: int = 0
    #: packets given up, and those of them because the buffer was full
    skipped: int = 0
    skipped_full: int = 0
    #: came behind a skip
    late: int = 0
    duplicates: int = 0
    refused: int = 0
    wait_us: int = 0
    wait_max_us: int = 0
    #: held back to the slower paths' delay, before the buffer
    aligned: int = 0


class Queue(Struct, frozen=True, kw_only=True):
    """In front of all paths: packets and bytes that wait now, packets dropped as it was full."""

    packets: int = 0
    bytes: int = 0
    drops: int = 0
    #: times that a TCP inside was told to send less than its receiver would take
    narrowed: int = 0


class Multipath(Struct, frozen=True, kw_only=True):
    """`scheduling`: data goes over the paths; else over path 0 alone, as WireGuard does it."""

    scheduling: bool = False
    scheduler: str = ""
    paths: tuple[Path, ...] = ()
    reordering: Reordering = Reordering()
    queue: Queue = Queue()
    #: packets that took the best path at once; second copies sent
    urgent: int = 0
    again: int = 0
    acks_tx: int = 0
    acks_rx: int = 0
    #: malformed, or a false claim
    ack_refused: int = 0


class Peer(Struct, frozen=True, kw_only=True):
    name: str
    state: State
    id: str | None = None
    fingerprint: str | None = None
    wireguard_public_key: str | None = None
    endpoint: str | None = None
    local: str | None = None
    candidates: tuple[str, ...] = ()
    allowed_ips: tuple[str, ...] = ()
    overlay_address: str | None = None
    last_handshake_s: float | None = None
    handshake_rtt_ms: float | None = None
    last_received_s: float | None = None
    last_sent_s: float | None = None
    tx_bytes: int = 0
    rx_bytes: int = 0
    tx_packets: int = 0
    rx_packets: int = 0
    staged: int = 0
    #: packets of its own that were dropped: their source is not in its allowed IPs
    wrong_sources: int = 0
    persistent_keepalive: int = 0
    preshared_key: bool = False
    #: what is wanted of its keys, and what those in use are: "" where there is no session
    pq: Literal["auto", "require", "off"] = "auto"
    post_quantum: Literal["", "yes", "pending", "no"] = ""
    #: data frames go through the session (docs/multipath.md), not plain WireGuard packets
    extended: bool = False
    #: None: the peer speaks of no paths
    multipath: Multipath | None = None
    #: names of the anchors that relay to us what it sends
    relays: tuple[str, ...] = ()
    #: names of the anchors that all we send to it goes over now; empty: it is reached directly
    relayed_by: str = ""
    #: why there is no session, as far as it is known: sentences
    trouble: tuple[str, ...] = ()


class PeerEvent(Struct, frozen=True, kw_only=True):
    """`t`: UNIX seconds."""

    t: float
    event: str
    peer: str | None = None


class PathCounts(Struct, frozen=True, kw_only=True):
    """One direction: datagrams, UDP payload bytes, datagrams by message type (those above 0)."""

    packets: int = 0
    bytes: int = 0
    types: dict[str, int] = {}


class BpfPath(Struct, frozen=True, kw_only=True):
    local: str
    remote: str
    rx: PathCounts = PathCounts()
    tx: PathCounts = PathCounts()


class Bpf(Struct, frozen=True, kw_only=True):
    """`reason`: why it is off, or which part is; `hooks`: interface -> where the shield stands."""

    state: Literal["on", "off"] = "off"
    reason: str = ""
    hooks: dict[str, str] = {}
    #: datagrams let through (transport, handshake) and dropped (the rest)
    shield: dict[str, int] = {}
    paths: tuple[BpfPath, ...] = ()
    #: received from where nothing was ever sent to
    strangers: PathCounts = PathCounts()


class Member(Struct, frozen=True, kw_only=True):
    """One of the network; the peer with the same `id` has the rest. `here`: this machine.

    `reached`, while there is a session: relayed, near (on a link of ours), dialled (it answers
    where we called), seen (it came from there) or told.
    """

    name: str
    id: str
    here: bool = False
    admin: bool = False
    anchor: bool = False
    #: others dialled it, and got in
    proved: bool = False
    address: str | None = None
    session: bool = False
    reached: str = ""


class Network(Struct, frozen=True, kw_only=True):
    """The network that this machine is in; without a name and members: in none."""

    name: str = ""
    anchors_alive: int = 0
    #: what a person should do something about: sentences
    warnings: tuple[str, ...] = ()
    members: tuple[Member, ...] = ()


class Sandbox(Struct, frozen=True, kw_only=True):
    """What the agent may still do. `landlock`: its version, 0: none; `reason`: why a part lacks."""

    landlock: int = 0
    seccomp: bool = False
    reason: str = ""


class Gateway(Struct, frozen=True, kw_only=True):
    """A router that is asked to map our port, and what came of it."""

    gateway: str
    interface: str
    local: str
    state: Literal["asking", "mapped", "silent", "refused", "ended"]
    #: "PCP", "NAT-PMP" or "UPnP", "": none of them
    protocol: str = ""
    #: where we are reached by the gateway's word; None: nowhere
    external: str | None = None
    #: whether a member that it was told to got in there; None: not tried yet, or nobody could
    dialled: bool | None = None
    #: until the mapping ends, if it is not renewed
    lease_s: float | None = None
    #: why there is no mapping
    problem: str = ""
    #: how often it was found to have begun anew
    restarts: int = 0
    #: datagrams from there that were no answer to us
    drops: dict[str, int] = {}


class Portmap(Struct, frozen=True, kw_only=True):
    enabled: bool = False
    gateways: tuple[Gateway, ...] = ()


class NatMapping(Struct, frozen=True, kw_only=True):
    """How others see one of our addresses: a hint. `observers`: those on other networks."""

    local: str
    kind: Literal["none", "endpoint-independent", "by destination", "several addresses", "unknown"]
    observers: int
    seen: tuple[str, ...] = ()


class Carried(Struct, frozen=True, kw_only=True):
    """Of other members' messages to each other."""

    messages: int = 0
    bytes: int = 0
    refused: int = 0


class Nat(Struct, frozen=True, kw_only=True):
    """What is known of the NAT before us, and direct ways that were looked for since the start."""

    mappings: tuple[NatMapping, ...] = ()
    #: whose datagrams were seen to get in: of who was never sent to; of other ports of addresses
    #: that were sent to; of none of these. Asked by who is to be an anchor
    filtering: Literal["unknown", "anybody", "ports", "strict"] = "unknown"
    #: the router was seen to send back what came from inside
    hairpin: bool = False
    #: peers that a direct way is being looked for to, now
    looking_for: int = 0
    #: direct ways found after a call, rounds of trying, places tried that were new
    met: int = 0
    rounds: int = 0
    destinations: int = 0
    #: datagrams that were not sent, because too much was tried already
    held_back: int = 0
    carried: Carried = Carried()


class Lan(Struct, frozen=True, kw_only=True):
    """Members on the same link. `interfaces`: where we say that we are there."""

    enabled: bool = False
    interfaces: tuple[str, ...] = ()
    #: by interface: why nothing is said there
    problems: dict[str, str] = {}
    #: members that say that they are there
    near: int = 0
    #: what was said and not taken, by reason
    drops: dict[str, int] = {}


class Nat64(Struct, frozen=True, kw_only=True):
    """On a host with IPv6 alone: by which prefixes IPv4 endpoints are reached."""

    prefixes: tuple[str, ...] = ()


class RelayPair(Struct, frozen=True, kw_only=True):
    """As an anchor: what a member sent another one over us. `bound`: it may go on."""

    sender: str
    receiver: str
    bound: bool = False
    datagrams: int = 0
    bytes: int = 0
    #: dropped: not from where the sender is; over its rate, or too long
    elsewhere: int = 0
    over: int = 0
    #: of those sent on: by the kernel
    kernel_datagrams: int = 0
    kernel_bytes: int = 0


class RelayKernel(Struct, frozen=True, kw_only=True):
    """bpf/relay.bpf.c. What it does not have, the workers relay."""

    state: Literal["on", "off"] = "off"
    #: why it is off, or why a binding is not there
    reason: str = ""
    bindings: int = 0
    datagrams: int = 0
    bytes: int = 0
    #: left to the workers: runs of several indices, long or odd datagrams
    up: int = 0
    #: without memory; over too many routers
    lost: int = 0
    hops: int = 0


class Relay(Struct, frozen=True, kw_only=True):
    use: Literal["auto", "also", "never"] = "auto"
    serve: bool = False
    #: what a member may send, 0: no limit
    rate_bps: int = 0
    #: receiver indices that are relayed to, and members that have them
    bindings: int = 0
    members: int = 0
    pairs: tuple[RelayPair, ...] = ()
    kernel: RelayKernel = RelayKernel()


class Forwarding(Struct, frozen=True, kw_only=True):
    """What is forwarded for peers, and whom this host's own traffic goes by."""

    networks: tuple[str, ...] = ()
    #: it is an exit
    serves: bool = False
    #: the name of the peer that is ours
    exit: str = ""
    kill_switch: bool = False
    #: why a part of it does not stand
    problem: str = ""


class Status(Struct, frozen=True, kw_only=True):
    version: int
    agent: Agent
    #: None: an agent that does not tell
    sandbox: Sandbox | None = None
    counters: Counters = Counters()
    bpf: Bpf = Bpf()
    portmap: Portmap = Portmap()
    nat: Nat = Nat()
    lan: Lan = Lan()
    nat64: Nat64 = Nat64()
    relay: Relay = Relay()
    forwarding: Forwarding = Forwarding()
    network: Network = Network()
    peers: tuple[Peer, ...] = ()
    events: tuple[PeerEvent, ...] = ()


def parse(result: object) -> Status:
    """Raises ValueError: not a status of a version that is known here."""
    if isinstance(result, dict) and result.get("version") != VERSION:
        raise ValueError(f"status version {result.get('version')!r:.40}, known here: {VERSION}")
    try:
        return msgspec.convert(result, Status)
    except msgspec.ValidationError as e:
        raise ValueError(str(e)) from None
