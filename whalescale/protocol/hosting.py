"""What guests may use of their node (guest.py)."""

from __future__ import annotations

from whalescale.protocol.core import Core
from whalescale.protocol.guest import PeerView
from whalescale.protocol.handshake import Handshakes
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
        self.offers = Offers(self, core.guests, plain=plain)

    @property
    def peers(self) -> tuple[PeerHandle, ...]:
        return tuple(self._core.peers)

    def peer(self, peer: PeerHandle) -> PeerView:
        return self._core.peers[peer]

    def find_peer(self, static_public: bytes) -> PeerHandle | None:
        found = self._core.registry.get(static_public)
        return found.handle if found is not None else None

    def taken(self, static_public: bytes) -> bool:
        return self._core.registry.taken(static_public)

    def drop(self, reason: str) -> None:
        self.drops[reason] += 1

    def rearm(self, peer: PeerHandle) -> None:
        p = self._core.peers.get(peer)
        if p is not None:
            self._core.rearm(p)

    # frames

    def frame(self, peer: PeerHandle, frame: bytes) -> None:
        self.event(SendControl(peer, frame))

    def speaks(self, peer: PeerHandle) -> bool:
        return self.offers.speaks(peer)

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
