"""The tunnel's peers: what the file and `wg set` ask for, carried into the core and the engine."""

from __future__ import annotations

import ipaddress
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any, Final

from whalescale import identity
from whalescale.dataplane.engine import Engine
from whalescale.endpoints import HostPort
from whalescale.protocol.nat.nat64 import with_synthesized
from whalescale.protocol.node import Node
from whalescale.protocol.paths.types import MultipathSettings, PathEvent, PathState, Reason
from whalescale.protocol.places import Endpoint, PeerHandle
from whalescale.protocol.postquantum import PostQuantumChanged
from whalescale.protocol.types import (
    EndpointChanged,
    Event,
    HandshakeCompleted,
    HandshakeGaveUp,
    HandshakeUnanswered,
    KeypairsExpired,
    PathAction,
    PeerConfig,
    PeerIdentified,
    PostQuantum,
    Stranger,
)
from whalescale.runtime.driver import Driver
from whalescale.runtime.names import Names
from whalescale.runtime.notices import AddressesHeard, NetworksChanged, Notices, PeersChanged
from whalescale.runtime.part import Here, Part
from whalescale.runtime.resolve import Resolver, numeric_endpoints
from whalescale.runtime.strangers import Strangers

log = logging.getLogger(__name__)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: `ws status` shows the last of them
EVENTS_KEPT: Final = 200
#: events kept of one peer, or one that moves all the time would push out all others
EVENTS_PER_PEER: Final = 20
#: members that came together and are named one by one
NAMED: Final = 16
#: the engine's WS_MAX_PEERS
MAX_PEERS: Final = 65536


class Origin(Enum):
    """Who wants a peer: who may change it and take it away, and whether routes follow."""

    FILE = auto()
    #: `wg set`, which changes no routes
    UAPI = auto()
    #: a member of the network
    MESH = auto()
    #: came with a ticket: no address inside, not even its own
    GUEST = auto()

    @property
    def routed(self) -> bool:
        """Routes lead to its networks."""
        return self in (Origin.FILE, Origin.MESH)


@dataclass(frozen=True, slots=True)
class PeerSpec:
    """What is wanted of one peer. At least one of the three keys is set (raw bytes)."""

    name: str
    static_public: bytes | None = None
    node_id: bytes | None = None
    fingerprint: bytes | None = None
    preshared_key: bytes = field(default=bytes(32), repr=False)
    endpoints: tuple[HostPort, ...] = ()
    allowed_ips: Sequence[Network] = ()
    #: seconds, 0 off
    persistent_keepalive: int = 0
    #: None: as [interface] says
    post_quantum: PostQuantum | None = None
    origin: Origin = Origin.FILE

    def forms(self) -> frozenset[tuple[str, bytes]]:
        """Every form of the key; specs of one peer share at least one."""
        forms: set[tuple[str, bytes]] = set()
        if self.static_public is not None:
            forms.add(("x25519", self.static_public))
        if self.node_id is not None:
            forms.add(("x25519", identity.node_id_to_x25519(self.node_id)))
            forms.add(("fingerprint", identity.fingerprint_of(self.node_id)))
        if self.fingerprint is not None:
            forms.add(("fingerprint", self.fingerprint))
        return frozenset(forms)

    @property
    def x25519(self) -> bytes | None:
        """The Noise static key, None while only a fingerprint is known."""
        if self.static_public is not None or self.node_id is None:
            return self.static_public
        return identity.node_id_to_x25519(self.node_id)


@dataclass(slots=True, eq=False)
class Peer:
    """A peer in operation. Times: `_ns` CLOCK_BOOTTIME, `_wall_ns` wall clock; 0: never.

    There may be ten thousand, most of them never called: what can be computed is not kept.
    """

    handle: PeerHandle
    spec: PeerSpec
    #: its endpoints by number
    fixed: tuple[Endpoint, ...]
    #: of who has names; None: its endpoints are all numbers
    resolver: Resolver | None
    node_id: bytes | None
    static_public: bytes | None
    last_handshake_ns: int = 0
    last_handshake_wall_ns: int = 0
    round_trip_ns: int | None = None
    #: the last attempt was given up
    unreachable: bool = False
    #: a session was wanted at the start, and no endpoint was known yet
    greet: bool = False

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """As the file, a person or its record says, as far as names are known."""
        return _known(self.fixed, self.resolver)

    @property
    def networks(self) -> tuple[Network, ...]:
        """What the engine sends it."""
        own = None if self.spec.origin is Origin.GUEST else self.overlay_network
        if own is None or own in self.spec.allowed_ips:
            return tuple(self.spec.allowed_ips)
        return (*self.spec.allowed_ips, own)

    @property
    def overlay_network(self) -> Network | None:
        """The /128 of the address derived from the node ID: implicitly one of the allowed IPs."""
        return None if self.node_id is None else overlay_network(self.node_id)


@dataclass(frozen=True, slots=True)
class Change:
    """A validated set of changes, carried out as one by `Tunnel.commit`."""

    add: Sequence[PeerSpec] = ()
    update: Sequence[tuple[Peer, PeerSpec]] = ()
    remove: Sequence[Peer] = ()


class Tunnel(Part):
    """All peers."""

    def __init__(
        self,
        node: Node,
        engine: Engine,
        driver: Driver,
        notices: Notices,
        *,
        names: Names | None = None,
        wall: Callable[[], int] = time.time_ns,
    ) -> None:
        """`names`: who looks endpoint names up; None: getaddrinfo(3)."""
        self._node = node
        self._engine = engine
        self.driver = driver
        self._notices = notices
        self._names = names
        self._wall = wall
        #: where a NAT64 takes IPv4 (protocol/nat/nat64.py); nothing: there is none, or no need
        self._nat64: Sequence[ipaddress.IPv6Network] = ()
        #: [interface] pq
        self.post_quantum = PostQuantum.AUTO
        self.peers: dict[PeerHandle, Peer] = {}
        #: grows with every change of what routes lead to
        self.changes = 0
        self.events: deque[dict[str, Any]] = deque(maxlen=EVENTS_KEPT)
        self._strangers = Strangers(
            lambda text: self.events.append({"t": self._wall() / 1e9, "peer": None, "event": text})
        )

    # views

    def by_key(self, static_public: bytes) -> Peer | None:
        handle = self._node.find_peer(static_public)
        return None if handle is None else self.peers.get(handle)

    def name_of(self, handle: PeerHandle) -> str:
        """Empty: there is no such peer."""
        peer = self.peers.get(handle)
        return peer.spec.name if peer is not None else ""

    def index(self) -> dict[tuple[str, bytes], Peer]:
        """Every peer under every form of its key."""
        found: dict[tuple[str, bytes], Peer] = {}
        for peer in self.peers.values():
            spec = peer.spec
            if peer.node_id is not None:
                spec = replace(spec, node_id=peer.node_id)
            for form in spec.forms():
                found[form] = peer
        return found

    def networks(self) -> set[Network]:
        """What the routing table should send here, beside `member_networks`."""
        found: set[Network] = set()
        for peer in self.peers.values():
            if peer.spec.origin is Origin.FILE:
                found.update(peer.networks)
        return found

    def member_networks(self) -> Iterator[Network]:
        """Members' addresses and what is behind them; a set of ten thousand's is megabytes."""
        for peer in self.peers.values():
            if peer.spec.origin is Origin.MESH:
                yield from peer.networks

    @property
    def has_members(self) -> bool:
        return any(peer.spec.origin is Origin.MESH for peer in self.peers.values())

    def endpoint_of(self, peer: Peer) -> Endpoint | None:
        """Where the peer is, as far as is known."""
        return self._node.peer_endpoint(peer.handle)

    def endpoint_addresses(self) -> set[str]:
        """Where peers are said to be or are, without zones."""
        found: set[str] = set()
        for peer in self.peers.values():
            found |= {e.ip for e in self._reached(peer.endpoints)}
            in_use = self._node.peer_endpoint(peer.handle)
            if in_use is not None:
                found.add(in_use.ip)
        return found

    # changes

    def commit(self, change: Change, *, more: bool = False) -> None:
        """Carry out `change`: all of it, or on ValueError or OSError nothing.

        ValueError: a key that cannot be (low order, our own), or too many peers. `more`: others
        follow at once, and then the caller tells that peers have changed.
        """
        if len(self.peers) + len(change.add) - len(change.remove) > MAX_PEERS:
            raise ValueError(f"more than {MAX_PEERS} peers")
        added: list[Peer] = []
        updated: list[tuple[Peer, PeerSpec]] = []
        routed = [_routed(peer) for peer, _ in change.update]
        try:
            for spec in change.add:
                added.append(self._add(spec))
            for peer, spec in change.update:
                updated.append((peer, peer.spec))
                self._update(peer, spec)
        except (ValueError, OSError):
            for peer, old in updated:
                self._update(peer, old)
            for peer in added:
                self._drop(peer)
            raise
        self._note_added(added)
        for peer in change.remove:
            self._note(peer, "removed")
            self._drop(peer)
        # Networks last, and from the losers to the winners: a network has one owner.
        for peer in (*added, *(peer for peer, _ in updated)):
            self._engine.set_allowed_ips(self.driver.number(peer.handle), peer.networks)
        moved = any(_routed(p) for p in (*added, *change.remove))
        if moved or routed != [_routed(peer) for peer, _ in updated]:
            self.changes += 1
        if not more:
            self._notices.tell(PeersChanged())

    def _note_added(self, added: Sequence[Peer]) -> None:
        members = [p for p in added if p.spec.origin is Origin.MESH]
        if len(members) > NAMED:
            text = f"{len(members)} members added"
            log.info("network: %s", text)
            self.tell(text)
        for peer in added:
            if len(members) <= NAMED or peer.spec.origin is not Origin.MESH:
                self._note(peer, "added")

    def greet(self) -> None:
        """Ask all peers whose endpoint is known, or once a name gives one, for a session."""
        for peer in self.peers.values():
            if peer.endpoints:
                self.driver.want_handshake(peer.handle)
            else:
                peer.greet = peer.resolver is not None

    def set_multipath(self, settings: MultipathSettings, mtu: int) -> None:
        """The file's [multipath] and MTU from now on, for every peer there is and comes."""
        self.driver.set_multipath(settings, mtu)

    def set_post_quantum(self, mode: PostQuantum) -> None:
        """The file's [interface] pq from now on, for every peer that says nothing else."""
        if mode is self.post_quantum:
            return
        self.post_quantum = mode
        for peer in self.peers.values():
            config = self._config(peer.spec, peer.endpoints)
            self.driver.update_peer(peer.handle, config)

    def set_nat64(self, prefixes: Sequence[ipaddress.IPv6Network]) -> None:
        """Every peer's IPv4 endpoints are reached by these too, from now on."""
        self._nat64 = tuple(prefixes)
        for peer in list(self.peers.values()):
            if endpoints := peer.endpoints:
                self._resolved(peer, endpoints)

    def _reached(self, endpoints: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
        return with_synthesized(endpoints, self._nat64) if self._nat64 else endpoints

    def follow(self, here: Here) -> None:
        """Names may resolve that did not."""
        for peer in self.peers.values():
            if peer.resolver is not None:
                peer.resolver.network_changed()

    def _config(self, spec: PeerSpec, endpoints: tuple[Endpoint, ...]) -> PeerConfig:
        return PeerConfig(
            static_public=spec.x25519,
            node_id=spec.node_id,
            fingerprint=spec.fingerprint,
            preshared_key=spec.preshared_key,
            endpoints=self._reached(endpoints),
            persistent_keepalive=spec.persistent_keepalive,
            keepalive_adapts=spec.origin is Origin.MESH,
            told=spec.origin is Origin.MESH,
            post_quantum=spec.post_quantum or self.post_quantum,
        )

    def _add(self, spec: PeerSpec) -> Peer:
        fixed, resolver = self._places(spec)
        endpoints = _known(fixed, resolver)
        handle = self.driver.add_peer(self._config(spec, endpoints))
        peer = Peer(handle, spec, fixed, None, spec.node_id, spec.x25519)
        self.peers[handle] = peer
        self._watch(peer, resolver)
        return peer

    def _places(self, spec: PeerSpec) -> tuple[tuple[Endpoint, ...], Resolver | None]:
        """Its endpoints by number, or who looks its names up."""
        if all(e.numeric for e in spec.endpoints):
            return numeric_endpoints(spec.name, spec.endpoints), None
        return (), Resolver(spec.name, spec.endpoints, names=self._names)

    def _watch(self, peer: Peer, resolver: Resolver | None) -> None:
        peer.resolver = resolver
        if resolver is not None:
            resolver.found = lambda endpoints: self._resolved(peer, endpoints)
            resolver.start()

    def _resolved(self, peer: Peer, endpoints: tuple[Endpoint, ...]) -> None:
        """A name has (other) addresses: candidates, tried when the endpoint in use is silent."""
        self._notices.tell(AddressesHeard(tuple(e.ip for e in self._reached(endpoints))))
        try:
            self.driver.update_peer(peer.handle, self._config(peer.spec, endpoints))
        except ValueError as e:
            log.error("peer %s: %s", peer.spec.name, e)
            return
        self._notices.tell(PeersChanged())
        if peer.greet:
            peer.greet = False
            self.driver.want_handshake(peer.handle)

    def _update(self, peer: Peer, spec: PeerSpec) -> None:
        old, before = peer.spec, peer.endpoints
        fixed, resolver = peer.fixed, peer.resolver
        if spec.endpoints != old.endpoints or spec.name != old.name:
            fixed, resolver = self._places(spec)
        endpoints = _known(fixed, resolver)
        if (config := self._config(spec, endpoints)) != self._config(old, before):
            self.driver.update_peer(peer.handle, config)
        peer.spec, peer.fixed = spec, fixed
        peer.node_id = peer.node_id or spec.node_id
        peer.static_public = peer.static_public or spec.x25519
        if resolver is not peer.resolver:
            if peer.resolver is not None:
                peer.resolver.close()
            self._watch(peer, resolver)
        endpoints = self._reached(endpoints)
        # A record is worth less than paths, which may lead through a hole or over an anchor.
        told = spec.origin is not Origin.MESH or not self.driver.paths.has_paths(peer.handle)
        if told and spec.endpoints != old.endpoints and endpoints:
            # Someone said where the peer is now; a roam since then may say otherwise again.
            in_use = self._node.peer_status(peer.handle).endpoint
            if in_use not in endpoints:
                self.driver.set_endpoint(peer.handle, endpoints[0])

    def _drop(self, peer: Peer) -> None:
        if peer.resolver is not None:
            peer.resolver.close()
        del self.peers[peer.handle]
        self.driver.remove_peer(peer.handle)

    # what the core tells

    def on_event(self, event: Event) -> None:
        """The driver's hook: bookkeeping for status, look-ups, identified peers."""
        if isinstance(event, Stranger):
            where = format_endpoint(event.remote) or ""
            self._strangers.note(event.static_public, where, self.driver.now())
            return
        peer = self.peers.get(event.peer)
        if peer is None:
            return
        match event:
            case HandshakeCompleted():
                # A rekey every two minutes is an event, not a line in the log.
                quiet = bool(peer.last_handshake_ns) and not peer.unreachable
                peer.last_handshake_ns = self.driver.now()
                peer.last_handshake_wall_ns = self._wall()
                peer.round_trip_ns = event.round_trip or peer.round_trip_ns
                if peer.unreachable:
                    self._note(peer, "reachable again")
                peer.unreachable = False
                if peer.resolver is not None:
                    peer.resolver.handshake_completed()
                self._note(peer, "session (initiator)" if event.initiator else "session", quiet)
            case HandshakeGaveUp() | HandshakeUnanswered():
                if not peer.unreachable:
                    self._note(peer, "unreachable: no answer to the handshake")
                peer.unreachable = True
                if peer.resolver is not None:
                    peer.resolver.handshake_gave_up()
            case KeypairsExpired():
                self._note(peer, "keys expired")
            case EndpointChanged():
                self._note(peer, f"endpoint {format_endpoint(event.remote)}")
                self._notices.tell(AddressesHeard((event.remote.ip,)))
            case PostQuantumChanged():
                lost = "its post-quantum keys are lost: it began anew"
                self._note(peer, "post-quantum keys" if event.on else lost)
            case PeerIdentified():
                self._identified(peer, event.node_id)
            case PathAction(action=PathEvent() as told):
                self._note(peer, path_event(told))
            case _:
                pass

    def _identified(self, peer: Peer, node_id: bytes) -> None:
        peer.node_id = node_id
        peer.static_public = identity.node_id_to_x25519(node_id)
        self._engine.set_allowed_ips(self.driver.number(peer.handle), peer.networks)
        self.changes += 1
        self._note(peer, "identified")
        self._notices.tell(PeersChanged())
        self._notices.tell(NetworksChanged())

    def _note(self, peer: Peer, what: str, quiet: bool = False) -> None:
        name = peer.spec.name
        own = [i for i, event in enumerate(self.events) if event.get("peer") == name]
        if len(own) >= EVENTS_PER_PEER:
            del self.events[own[0]]
        self.events.append({"t": round(self._wall() / 1e9, 3), "peer": name, "event": what})
        if not quiet:
            log.info("peer %s: %s", name, what, extra={"subject": name})

    def tell(self, what: str) -> None:
        """An event that is no peer's; the log has it already."""
        own = [i for i, event in enumerate(self.events) if "peer" not in event]
        if len(own) >= EVENTS_PER_PEER:
            del self.events[own[0]]
        self.events.append({"t": round(self._wall() / 1e9, 3), "event": what})

    async def close(self) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop look-ups. Sessions end with the engine."""
        for peer in self.peers.values():
            if peer.resolver is not None:
                peer.resolver.close()


#: what is said of a change beside the word for it
_WHY: Final = {
    Reason.WELL_AGAIN: "well again",
    Reason.NO_ANSWER: "no answer",
    Reason.SILENT: "silent",
    Reason.LOCAL_GONE: "its local address is gone",
    Reason.REMOTE_GONE: "the peer no longer has this address",
    Reason.ANEW: "the session began anew",
}


def path_event(event: PathEvent) -> str:
    """ "path 1 failed: wlan0 192.0.2.1 to 198.51.100.7:51820: silent"

    The third word is one of up, degraded, failed, roamed, removed.
    """
    if event.state is None:
        word = "roamed" if event.reason is Reason.MOVED else "removed"
    else:
        word = "up" if event.state is PathState.HEALTHY else str(event.state)
    ip = event.remote.ip
    local = event.local.ip if event.local is not None else ""
    remote = f"{f'[{ip}]' if ':' in ip else ip}:{event.remote.port}"
    why = _WHY.get(event.reason, "")
    if event.reason is Reason.LOSS:
        why = f"{event.loss:.0%} loss"
    elif event.to is not None:
        why = f"moved to {event.to.ip}"
    where = " ".join([*filter(None, (event.interface, local)), "to", remote])
    return ": ".join([f"path {event.path} {word}", where, *filter(None, (why,))])


def _known(fixed: tuple[Endpoint, ...], resolver: Resolver | None) -> tuple[Endpoint, ...]:
    return fixed if resolver is None else resolver.current()


def _routed(peer: Peer) -> tuple[Network, ...]:
    """What routes lead to because of it."""
    return peer.networks if peer.spec.origin.routed else ()


def overlay_network(node_id: bytes) -> Network:
    return ipaddress.IPv6Network(identity.overlay_address(node_id))


def format_endpoint(endpoint: Endpoint | None) -> str | None:
    """ "192.0.2.7:51820", "[2001:db8::7]:51820", "[fe80::1%3]:51820"."""
    if endpoint is None:
        return None
    if ":" not in endpoint.ip:
        return f"{endpoint.ip}:{endpoint.port}"
    zone = f"%{endpoint.scope_id}" if endpoint.scope_id else ""
    return f"[{endpoint.ip}{zone}]:{endpoint.port}"
