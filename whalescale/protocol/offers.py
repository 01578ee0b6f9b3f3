"""Extended mode of every peer: offers out and in, and who is told when frames begin and end.

The rules of one peer's mode are in extended.py; here is what follows from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from whalescale.protocol.control import (
    ANY_FEATURE,
    Feature,
    FrameType,
    Offer,
    decode_offer,
    encode_offer,
)
from whalescale.protocol.extended import ExtendedMode
from whalescale.protocol.guest import Arrival, Guest, Host
from whalescale.protocol.places import PeerHandle
from whalescale.protocol.types import ExtendedModeChanged, SendControl

#: what every peer may do
DATA_PLANE: Final = Feature.PARTIAL | Feature.BUNDLE | Feature.CONTINUE


class Offers(Guest):
    """The first guest of all: the others hear from it what a peer takes."""

    frames = (FrameType.OFFER,)

    def __init__(self, host: Host, guests: Sequence[Guest], *, plain: bool = False) -> None:
        """`plain`: we have no node ID, and are any WireGuard to our peers: nothing is offered."""
        self._plain = plain
        self._host = host
        self._guests = guests
        #: None until the first session
        self._modes: dict[PeerHandle, ExtendedMode] = {}
        #: what the data plane was told: frames, and several packets in one
        self._told: dict[PeerHandle, tuple[bool, bool]] = {}

    def speaks(self, peer: PeerHandle) -> bool:
        """It takes frames on the keypair in use."""
        mode = self._modes.get(peer)
        return mode is not None and mode.active

    def settled(self, peer: PeerHandle) -> bool:
        """See Host.settled."""
        mode = self._modes.get(peer)
        return mode is not None and mode.active and mode.heard

    def framed(self, peer: PeerHandle) -> bool:
        """The data plane was told so."""
        return self._told.get(peer, (False, False))[0]

    def _features(self, peer: PeerHandle) -> Feature:
        features = DATA_PLANE
        if self._host.peer(peer).config.persistent_keepalive:
            features |= Feature.KEPT
        for guest in self._guests:
            features |= guest.features(peer)
        return features

    def offer(self, peer: PeerHandle, now: int) -> None:
        """A guest's features may be others: the peer is told at once, if so, and answers."""
        mode = self._modes.get(peer)
        if mode is not None:
            self._follow(peer, mode, mode.speak(self._features(peer), now), now)

    # sessions

    def session_started(self, peer: PeerHandle, now: int) -> None:
        """A vanilla peer, known by its key alone, is offered nothing."""
        if self._plain or self._host.peer(peer).node_id is None:
            return
        mode = self._modes.get(peer)
        if mode is None:
            # An epoch of its own: a peer that was removed and added again has forgotten its seqs.
            epoch = int.from_bytes(self._host.random(8), "little")
            mode = self._modes[peer] = ExtendedMode(epoch, self._features(peer))
        same = bool(self._host.peer(peer).session_secret)
        self._follow(peer, mode, mode.session_started(now, same=same), now)

    def session_ended(self, peer: PeerHandle, now: int) -> None:
        mode = self._modes.get(peer)
        if mode is not None:
            mode.session_ended()
            self._follow(peer, mode, None, now)

    def peer_configured(self, peer: PeerHandle, now: int) -> None:
        self.offer(peer, now)

    def peer_removed(self, peer: PeerHandle) -> None:
        self._modes.pop(peer, None)
        self._told.pop(peer, None)

    # what arrives

    def receive_frame(self, peer: PeerHandle, frame: bytes, arrival: Arrival, now: int) -> None:
        offer = decode_offer(frame, ANY_FEATURE)
        mode = self._modes.get(peer)
        if mode is None:
            return
        before = mode.peer_epoch
        for guest in self._guests:
            guest.check_offer(peer, offer, before, now)
        fresh = not (mode.heard and mode.active) or (mode.continued and not offer.heard)
        answer = mode.received(offer, now)
        self._host.renewing(peer, bool(offer.features & Feature.KEPT))
        for guest in self._guests:
            guest.offered(peer, offer, before, fresh, now)
        self._follow(peer, mode, answer, now)
        # The way that data takes may lead to where the peer was before it slept or moved; without
        # our answer it takes no frames, and so no probes of the way that works.
        if answer is not None:
            for guest in self._guests:
                guest.answer_there(peer, encode_offer(answer), arrival)

    # time

    def peer_deadline(self, peer: PeerHandle) -> int | None:
        mode = self._modes.get(peer)
        return mode.deadline() if mode is not None else None

    def peer_timeout(self, peer: PeerHandle, now: int) -> None:
        mode = self._modes.get(peer)
        at = mode.deadline() if mode is not None else None
        if mode is None or at is None or at > now:
            return
        self._follow(peer, mode, mode.handle_timeout(now), now)

    # outputs

    def _follow(self, peer: PeerHandle, mode: ExtendedMode, offer: Offer | None, now: int) -> None:
        """Send the offer, and tell the data plane and the guests where the mode has changed."""
        if offer is not None:
            self._host.event(SendControl(peer, encode_offer(offer)))
        told = mode.active, mode.active and mode.bundles
        if told == self._told.get(peer, (False, False)):
            return
        self._told[peer] = told
        if not mode.active:
            for guest in self._guests:
                guest.became_plain(peer, now)
        self._host.event(ExtendedModeChanged(peer, *told))
