"""What guests may use of their node (guest.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from whalescale.protocol.core import Core
from whalescale.protocol.guest import Observation, PeerView
from whalescale.protocol.handshake import Carried, Handshakes
from whalescale.protocol.messages import MessageError
from whalescale.protocol.noise import HandshakeError
from whalescale.protocol.offers import Offers
from whalescale.protocol.places import Endpoint, PeerHandle, Way
from whalescale.protocol.types import EndpointChanged, SendControl


class NodeHost:
    """The one host of all guests of a node."""

    def __init__(self, core: Core, handshakes: Handshakes, *, plain: bool = False) -> None:
        """`plain`: we have no node ID, and are any WireGuard to our peers."""
        self._core = core
        self._handshakes = handshakes
        self.drops = core.drops
        self.node_id = core.node_id
        self.random = core.random
        self.transmit = core.transmits.append
        self.event = core.events.append
        self.fresh = core.fresh
        self.offers = Offers(self, core.guests, plain=plain)

    @property
    def peers(self) -> tuple[PeerHandle, ...]:
        return tuple(self._core.peers)

    def peer(self, peer: PeerHandle) -> PeerView:
        return self._core.peers[peer]

    def find_peer(self, static_public: bytes) -> PeerHandle | None:
        found = self._core.registry.get(static_public)
        return found.handle if found is not None else None

    def find_node(self, node_id: bytes) -> PeerHandle | None:
        found = self._core.registry.of_node(node_id)
        return found.handle if found is not None else None

    def node_of(self, peer: PeerHandle) -> bytes | None:
        found = self._core.peers.get(peer)
        return found.node_id if found is not None else None

    def taken(self, static_public: bytes) -> bool:
        return self._core.registry.taken(static_public)

    def drop(self, reason: str) -> None:
        self.drops[reason] += 1

    def rearm(self, peer: PeerHandle) -> None:
        p = self._core.peers.get(peer)
        if p is not None:
            self._core.rearm(p)

    # relays

    def holder(self, index: int) -> PeerHandle | None:
        peer = self._core.indices.get(index)
        return peer.handle if peer is not None else None

    def indices(self, peer: PeerHandle) -> list[int]:
        return self._core.indices.of(peer)

    def ways(self, peer: PeerHandle) -> list[tuple[Endpoint, Endpoint | None]]:
        p = self._core.peers.get(peer)
        if p is None or p.endpoint is None or not self.speaks(peer):
            return []
        found = [way for guest in self._core.guests for way in guest.proven(peer)]
        found = [*found, (p.endpoint, p.local)]
        return [w for w in dict.fromkeys(found) if not self._core.relayed(peer, w[0])]

    def narrow(self, peer: PeerHandle) -> int:
        return max(guest.narrow(peer) for guest in self._core.guests)

    def lost(self, peer: PeerHandle) -> bool:
        return any(guest.lost(peer) for guest in self._core.guests)

    def ways_changed(self, peer: PeerHandle, now: int) -> None:
        for guest in self._core.guests:
            guest.ways_changed(peer, now)

    def doubt_relay(self, peer: PeerHandle, remote: Endpoint, now: int) -> None:
        anchor = self._core.anchors.get(remote, peer)
        if anchor != peer and anchor in self._core.peers:
            for guest in self._core.guests:
                guest.doubted(anchor, now)
            self.rearm(anchor)

    def relays(
        self, peer: PeerHandle, ways: Sequence[tuple[Endpoint, Endpoint | None]], now: int
    ) -> None:
        for guest in self._core.guests:
            guest.relays_changed(peer, ways, now)

    def anchors_are(self, places: Mapping[Endpoint, PeerHandle]) -> None:
        self._core.anchors = dict(places)

    # frames

    def frame(self, peer: PeerHandle, frame: bytes) -> None:
        self.event(SendControl(peer, frame))

    def speaks(self, peer: PeerHandle) -> bool:
        return self.offers.speaks(peer)

    def settled(self, peer: PeerHandle) -> bool:
        return self.offers.settled(peer)

    def renewing(self, peer: PeerHandle, kept: bool) -> None:
        p = self._core.peers.get(peer)
        if p is not None:
            p.timing.renewing, p.timing.kept = True, kept

    def hush(self, peer: PeerHandle, until: int) -> None:
        p = self._core.peers.get(peer)
        if p is not None:
            p.timing.hushed_until = until

    def unanswered(self, peer: PeerHandle, now: int) -> int:
        p = self._core.peers.get(peer)
        since = p.timing.activity.unanswered_since if p is not None else 0
        return now - since if since else 0

    def silent_since(self, peer: PeerHandle, at: int) -> bool:
        p = self._core.peers.get(peer)
        if p is None:
            return False
        return max(p.timing.activity.last_sent, p.handshake.sent or 0) <= at

    def offer(self, peer: PeerHandle, now: int) -> None:
        self.offers.offer(peer, now)

    # sessions

    def want(self, peer: PeerHandle, now: int) -> None:
        p = self._core.peers.get(peer)
        if p is not None and not p.has_usable_session(now):
            self._handshakes.begin(p, now)
            self._core.rearm(p)

    def renew(self, peer: PeerHandle, now: int, *, at: int | None = None) -> None:
        p = self._core.peers.get(peer)
        if p is not None:
            self._handshakes.renew(p, now, at)
            self._core.rearm(p)

    def identify(
        self,
        peer: PeerHandle,
        static_public: bytes,
        node_id: bytes,
        remote: Endpoint,
        local: Endpoint | None,
        now: int,
    ) -> None:
        p = self._core.peers.get(peer)
        if p is None:
            return
        way, _ = p.contacts.dialled(remote, local) or (Way(remote), now)
        self._core.identify(p, static_public, node_id, now)
        p.handshake.attempts = 0
        self._handshakes.initiate(p, now, to=way)
        self._core.rearm(p)

    def move(self, peer: PeerHandle, remote: Endpoint, local: Endpoint | None) -> None:
        p = self._core.peers.get(peer)
        if p is not None:
            p.endpoint, p.local = remote, local
            self.event(EndpointChanged(peer, remote, local))

    # through others

    def carried(
        self,
        peer: PeerHandle,
        carrier: PeerHandle,
        data: bytes,
        reply: Callable[[bytes], None],
        now: int,
    ) -> None:
        p = self._core.peers.get(peer)
        if p is None:
            return
        try:
            self._handshakes.receive_carried(data, Carried(p, carrier, reply), now)
        except MessageError as refusal:
            self.drops[refusal.reason] += 1
        except HandshakeError:
            self.drops["handshake"] += 1
        self._core.rearm(p)

    def punch(self, peer: PeerHandle, remotes: Sequence[tuple[Endpoint, bool]], now: int) -> None:
        p = self._core.peers.get(peer)
        if p is None or not remotes:
            return
        if not any(guest.punch(peer, remotes, now) for guest in self._core.guests):
            self._handshakes.punch(p, remotes, now)
        self._core.rearm(p)

    def is_relay(self, peer: PeerHandle, remote: Endpoint) -> bool:
        return any(guest.is_relay(peer, remote) for guest in self._core.guests)

    def is_direct(self, peer: PeerHandle, now: int) -> bool:
        p = self._core.peers.get(peer)
        if p is None or not p.has_usable_session(now) or p.endpoint is None:
            return False
        said = [guest.is_direct(peer, now) for guest in self._core.guests]
        if True in said or False in said:
            return True in said
        return not self.is_relay(peer, p.endpoint)

    def observations(self) -> Sequence[Observation]:
        return [seen for guest in self._core.guests for seen in guest.observations()]
