"""What the machines of one node share: peers, keys, queues, timers. It decides nothing."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

from whalescale.identity import PlainIdentity
from whalescale.protocol.fresh import Fresh
from whalescale.protocol.guest import Guest
from whalescale.protocol.indices import IndexTable
from whalescale.protocol.limits import Limits
from whalescale.protocol.noise import KeyPair
from whalescale.protocol.peer import Peer
from whalescale.protocol.places import Endpoint, PeerHandle
from whalescale.protocol.registry import Registry
from whalescale.protocol.timers import TimerQueue
from whalescale.protocol.types import EndpointChanged, Event, PeerIdentified, Transmit


class Core:
    """One for each node."""

    def __init__(
        self,
        identity: PlainIdentity,
        limits: Limits,
        random: Callable[[int], bytes],
        wall_clock: Callable[[], int],
    ) -> None:
        self.limits = limits
        self.random = random
        self.wall_clock = wall_clock
        self.static = KeyPair.from_private(identity.static_private)
        self.static_public = identity.static_public
        self.node_id = identity.node_id
        self.peers: dict[PeerHandle, Peer] = {}
        self.registry = Registry(self.static, identity.static_public, identity.fingerprint)
        self.indices = IndexTable(random)
        self.timers = TimerQueue()
        self.events: deque[Event] = deque()
        self.transmits: deque[Transmit] = deque()
        #: every refused datagram and frame, by reason (docs/wire.md lists them)
        self.drops: Counter[str] = Counter()
        #: in the order in which they are asked; complete before the first peer is added
        self.guests: list[Guest] = []
        self.fresh = Fresh()
        #: where anchors are that relay to us (docs/nat.md)
        self.anchors: dict[Endpoint, PeerHandle] = {}

    def relayed(self, peer: PeerHandle, remote: Endpoint) -> bool:
        """An anchor is there, and not the peer: what the peer sends comes over it."""
        return self.anchors.get(remote, peer) != peer

    def seen(self, peer: Peer, remote: Endpoint, now: int) -> None:
        """An authentic message of the peer came from there; over an anchor it says nothing."""
        if not self.relayed(peer.handle, remote):
            peer.contacts.seen(remote, now)

    def rearm(self, peer: Peer) -> None:
        """Some timer of the peer may have moved."""
        at = peer.deadline()
        for guest in self.guests:
            own = guest.peer_deadline(peer.handle)
            if own is not None and (at is None or own < at):
                at = own
        self.timers.set(peer.handle, at)

    def identify(self, peer: Peer, static_public: bytes, node_id: bytes | None, now: int) -> None:
        """A peer known by fingerprint alone has a key from here on."""
        peer.contacts.hang_up()  # what opened the way for a handshake has done so
        peer.static_public, peer.node_id = static_public, node_id
        self.registry.add(peer)
        if node_id is not None:
            self.events.append(PeerIdentified(peer.handle, node_id))
        for guest in self.guests:
            guest.peer_identified(peer.handle, now)

    # where a peer is

    def point(
        self, peer: Peer, remote: Endpoint, local: Endpoint | None, now: int, ifindex: int = 0
    ) -> None:
        """Path 0 goes there."""
        self.events.append(EndpointChanged(peer.handle, remote, local, ifindex))
        self.pointed(peer, remote, local, now, ifindex)

    def pointed(
        self, peer: Peer, remote: Endpoint, local: Endpoint | None, now: int, ifindex: int = 0
    ) -> None:
        """Path 0 goes there already, as the data plane says."""
        peer.endpoint, peer.local = remote, local
        if ifindex or not peer.at_rest:
            peer.contacts.ifindex = ifindex
        for guest in self.guests:
            guest.endpoint_changed(peer.handle, now)

    def roam(
        self, peer: Peer, remote: Endpoint, local: Endpoint | None, now: int, ifindex: int = 0
    ) -> None:
        """An authentic message came from `remote`: that is where the peer is."""
        self.seen(peer, remote, now)
        if any(guest.knows(peer.handle, remote, local) for guest in self.guests):
            for guest in self.guests:
                guest.heard_at(peer.handle, remote, local, now)
            return  # another of its paths; path 0 stays where it is
        if (peer.endpoint, peer.local, peer.contacts.ifindex) != (remote, local, ifindex):
            self.point(peer, remote, local, now, ifindex)
