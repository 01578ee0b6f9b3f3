"""The shapes of a configuration: what TOML holds (`Raw...`) and what callers get (`...Config`).

Where the two differ, a shape without a name for others has the keys that are the same in both. What
the types alone cannot say, config.py checks on the way from the one to the other.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Final, Literal

from whalescale.config_values import Address, Network
from whalescale.endpoints import HostPort, parse_endpoint
from whalescale.structs import Meta, Struct

#: IPv4's least; 9216 is the largest frame that real links carry.
MTU_MIN: Final = 576
#: RFC 8200 section 5: where there is less the kernel takes IPv6 away
IPV6_MTU_MIN: Final = 1280
MTU_MAX: Final = 9216
WORKERS_MAX: Final = 16
#: nobody needs a session with all
NEIGHBOURS_MAX: Final = 32
#: Mbit/s, and members that an anchor relays to
RELAY_RATE_MAX: Final = 400_000
RELAY_MEMBERS_MAX: Final = 4096
#: polling longer than a millisecond costs a CPU and saves no more
BUSY_POLL_US_MAX: Final = 1000
#: packets that the reordering buffer of a peer can hold
REORDER_DEPTH_MAX: Final = 4096
#: peers with metrics of their own: some fifty series each, if they speak of paths
PEERS_TOLD_MAX: Final = 65536

#: keys that no quantum computer of a later day tells (docs/wire.md): where the peer can; data waits
#: until they are there; never
PostQuantumMode = Literal["auto", "require", "off"]


class _Interface(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    listen_port: Annotated[int, Meta(ge=0, le=65535)] = 51820
    mtu: Annotated[int, Meta(ge=MTU_MIN, le=MTU_MAX)] = 1420
    anchor: bool = False
    #: SO_MARK of the UDP sockets, 0 for none
    fwmark: Annotated[int, Meta(ge=0, le=0xFFFFFFFF)] = 0
    #: "auto": a route for each allowed IP, with rules where one is needed; "off": none; a number:
    #: routes in that table, and no rules
    table: Annotated[int, Meta(ge=1, le=0xFFFFFFFF)] | Literal["auto", "off"] = "auto"
    #: of every peer that says nothing else
    pq: PostQuantumMode = "auto"


class RawInterface(_Interface, frozen=True, kw_only=True, forbid_unknown_fields=True):
    private_key_file: str | None = None
    wireguard_private_key_file: str | None = None
    addresses: list[str] = []


class InterfaceConfig(_Interface, frozen=True, kw_only=True):
    """[interface], checked. `private_key_file` is absolute or relative to the working directory."""

    private_key_file: Path
    #: it holds a WireGuard key (wireguard_private_key_file): this host has no node ID
    plain: bool = False
    addresses: tuple[Address, ...] = ()


class _Peer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    #: seconds, 0 off
    persistent_keepalive: Annotated[int, Meta(ge=0, le=65535)] = 0
    #: None: as [interface] says
    pq: PostQuantumMode | None = None


class RawPeer(_Peer, frozen=True, kw_only=True, forbid_unknown_fields=True):
    id: str | None = None
    wireguard_public_key: str | None = None
    endpoints: list[str] = []
    allowed_ips: list[str] = []
    preshared_key_file: str | None = None


class PeerConfig(_Peer, frozen=True, kw_only=True):
    """One of [[peers]], checked. Exactly one of the three keys is set (raw bytes)."""

    node_id: bytes | None = None
    fingerprint: bytes | None = None
    wireguard_public_key: bytes | None = None
    endpoints: tuple[HostPort, ...] = ()
    allowed_ips: tuple[Network, ...] = ()
    preshared_key_file: Path | None = None


class DataplaneConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[dataplane]: which of the implementations to take, and switches for the offloads."""

    backend: Literal["auto", "io_uring", "mmsg"] = "auto"
    cipher: Literal["auto", "ipsec-mb", "openssl"] = "auto"
    tun_tso: bool = True
    tun_gro: bool = True
    udp_gso: bool = True
    udp_gro: bool = True
    tun_uso: bool = True
    workers: Annotated[int, Meta(ge=1, le=WORKERS_MAX)] = 1
    #: each worker stays on a CPU of its own
    pin_cpus: bool = False
    #: how long a worker looks for more after the last packet before it sleeps, 0 not at all
    busy_poll_us: Annotated[int, Meta(ge=0, le=BUSY_POLL_US_MAX)] = 0
    #: the eBPF programs, where the kernel and the libraries allow them
    bpf: bool = True
    #: the shield in the card's driver (XDP) instead of at tc, where the driver takes it
    xdp: bool = False


#: at most IFNAMSIZ - 1 characters of a name, and brackets
InterfacePattern = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[^\s/]+$")]


class MultipathConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[multipath]: how a peer's traffic is spread over its paths (docs/multipath.md)."""

    enabled: bool = True
    scheduler: Literal["edf", "wrr", "minrtt", "redundant", "backup"] = "edf"
    #: packets that wait for an earlier one at most; "adaptive": by rates and delays
    reorder_depth: Literal["adaptive"] | Annotated[int, Meta(ge=1, le=REORDER_DEPTH_MAX)] = (
        "adaptive"
    )
    #: what becomes of a packet that comes after its place was given up
    late: Literal["deliver", "drop"] = "deliver"
    #: send lost packets once more; "auto": where there is more than one path
    repair: Literal["auto"] | bool = "auto"
    align: bool = True
    #: this host's own TCPs are BBRs; "auto": as net.ipv4.tcp_congestion_control says
    bbr: Literal["auto"] | bool = "auto"
    #: names of the interfaces where paths may begin, with * ? [a-z]; empty: all but tunnels
    interfaces: tuple[InterfacePattern, ...] = ()
    #: names of the interfaces where none may begin, with * ? [a-z]
    exclude: tuple[InterfacePattern, ...] = ()


class MetricsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[metrics]: where Prometheus may ask, if anywhere."""

    #: "IP:PORT" of a loopback address or one inside the tunnel, "unix", or "": off
    listen: str = ""
    #: of more peers only sums are told
    peers_max: Annotated[int, Meta(ge=0, le=PEERS_TOLD_MAX)] = 1000

    @property
    def unix(self) -> bool:
        """By the socket beside the control socket (locations.metrics_socket)."""
        return self.listen == "unix"

    @property
    def address(self) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int] | None:
        """None: off, or the socket."""
        if not self.listen or self.unix:
            return None
        found = parse_endpoint(self.listen)
        return ipaddress.ip_address(found.host), found.port


class Accept(Struct, frozen=True):
    """What is taken of the networks that an admin signed for other members.

    "private": of private address space alone, so that a record by itself never draws this host's
    traffic to public addresses into the tunnel.
    """

    kind: Literal["private", "all", "none"] = "private"
    #: these and what is within them in any case
    networks: tuple[Network, ...] = ()


class _Network(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    #: "leaf": sessions with two anchors alone, and no work for others
    role: Literal["member", "leaf"] = "member"
    #: whether others may count on this machine; "auto": once it was proved, and stays where it is.
    #: Not given: as [interface] has it
    anchor: bool | Literal["auto"] | None = None
    #: members that a session is kept with
    neighbours: Annotated[int, Meta(ge=1, le=NEIGHBOURS_MAX)] = 4
    #: answer for NAME.NETWORK.internal
    names: bool = True
    #: find members on the same link, by multicast DNS
    lan: bool = True


class RawNetwork(_Network, frozen=True, kw_only=True, forbid_unknown_fields=True):
    accept: tuple[str, ...] = ("private",)


class NetworkConfig(_Network, frozen=True, kw_only=True):
    """[network]: our part in a network of one's own machines (docs/mesh.md)."""

    #: which of the networks that others advertise lead through the tunnel here
    accept: Accept = Accept()


class NatConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[nat]: what is done about routers between this host and the others (docs/nat.md)."""

    #: ask the gateways of uplinks with a private address to map our port
    portmap: bool = True


class RelayConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[relay]: datagrams between members over an anchor (docs/nat.md)."""

    #: what we make of anchors: while no direct path works, beside direct ones, nothing
    use: Literal["auto", "also", "never"] = "auto"
    #: as an anchor: relay for others
    serve: bool = True
    #: where the kernel can (bpf/relay.bpf.c), it does
    kernel: bool = True
    #: Mbit/s that each of them may send, 0: no limit
    rate: Annotated[int, Meta(ge=0, le=RELAY_RATE_MAX)] = 0
    #: how many of them may be sent to
    members: Annotated[int, Meta(ge=1, le=RELAY_MEMBERS_MAX)] = 64


class _Forward(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    #: anywhere: it is an exit
    exit: bool = False
    #: in this host's name, so that nobody there needs a route back
    masquerade: bool = True


class RawForward(_Forward, frozen=True, kw_only=True, forbid_unknown_fields=True):
    networks: list[str] = []


class ForwardConfig(_Forward, frozen=True, kw_only=True):
    """[forward]: where this host forwards its peers' packets to."""

    #: behind this host
    networks: tuple[Network, ...] = ()


class _Exit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    #: a peer's name; "": none
    use: str = ""
    #: private and link-local destinations are reached as before
    lan: bool = True
    #: nothing leaves past the tunnel, while the agent is down too
    kill_switch: bool = True


class RawExit(_Exit, frozen=True, kw_only=True, forbid_unknown_fields=True):
    dns: str = ""


class ExitConfig(_Exit, frozen=True, kw_only=True):
    """[exit]: all traffic of this host through one peer."""

    #: where this host's DNS questions go, whatever its resolvers are; None: as they are
    dns: ipaddress.IPv4Address | ipaddress.IPv6Address | None = None


class Raw(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What TOML holds."""

    interface: RawInterface
    peers: list[RawPeer] = []
    dataplane: DataplaneConfig = DataplaneConfig()
    multipath: MultipathConfig = MultipathConfig()
    metrics: MetricsConfig = MetricsConfig()
    network: RawNetwork = RawNetwork()
    nat: NatConfig = NatConfig()
    relay: RelayConfig = RelayConfig()
    forward: RawForward = RawForward()
    exit: RawExit = RawExit()


class Config(Struct, frozen=True, kw_only=True):
    """A whole configuration; `path` is the file that it came from."""

    path: Path
    interface: InterfaceConfig
    peers: tuple[PeerConfig, ...] = ()
    dataplane: DataplaneConfig = DataplaneConfig()
    multipath: MultipathConfig = MultipathConfig()
    metrics: MetricsConfig = MetricsConfig()
    network: NetworkConfig = NetworkConfig()
    nat: NatConfig = NatConfig()
    relay: RelayConfig = RelayConfig()
    forward: ForwardConfig = ForwardConfig()
    exit: ExitConfig = ExitConfig()
    #: keys in it that older versions knew
    past_keys: tuple[str, ...] = ()
