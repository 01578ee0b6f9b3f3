"""Timers of sessions: keepalives, handshakes for want of answers, zeroed keys (whitepaper 6)."""

from __future__ import annotations

from whalescale.protocol.core import Core
from whalescale.protocol.handshake import Handshakes
from whalescale.protocol.peer import Peer
from whalescale.protocol.types import KeypairsExpired, SendKeepalive


class SessionTimers:
    """One for each node. It writes `peer.timing`."""

    def __init__(self, core: Core, handshakes: Handshakes) -> None:
        self._core = core
        self._handshakes = handshakes

    def expire(self, peer: Peer, now: int) -> None:
        """Zero keys that are too old, even if nobody uses them."""
        if peer.keypairs.zero_at is None or peer.keypairs.zero_at > now:
            return
        if peer.handshake.at is None:
            self._handshakes.drop_pending(peer)
        self._end(peer, now)

    def begin_anew(self, peer: Peer, now: int) -> None:
        """End its session, if there is one, and begin another."""
        self._handshakes.drop_pending(peer)
        if peer.keypairs:
            self._end(peer, now)
            self._handshakes.begin_anew(peer, now)

    def _end(self, peer: Peer, now: int) -> None:
        """Every key of it is zeroed."""
        peer.keypairs.zero_at = None
        self._core.indices.free(peer.keypairs.drop())
        self._core.events.append(KeypairsExpired(peer.handle))
        for guest in self._core.guests:
            guest.session_ended(peer.handle, now)

    def handle_timeout(self, peer: Peer, now: int) -> None:
        passive, new_handshake, persistent = peer.due(now)
        if passive:
            peer.timing.keepalive_sent = now
            self._keepalive(peer, now)
        if new_handshake:
            peer.timing.new_handshake_at = now
            self.draw_jitter(peer)
            peer.local = None  # the source address may be what is wrong
            self._handshakes.begin(peer, now)
        if persistent:
            self._persistent_keepalive(peer, now)
        if peer.renew(now):
            self._handshakes.begin(peer, now)
        if peer.take_over(now):
            self._handshakes.begin(peer, now)
            self._handshakes.renew(peer, now)  # where the one before was a moment ago

    def draw_jitter(self, peer: Peer) -> None:
        """Two ends that miss each other shall not begin at the same time."""
        peer.jitter = self._core.limits.jitter(self._core.random)

    def start_persistent_keepalive(self, peer: Peer, now: int) -> None:
        """The first at once; where it takes a handshake, by the timer."""
        if peer.has_usable_session(now):
            self._persistent_keepalive(peer, now)
            return
        peer.timing.persistent_fired = now
        self._handshakes.soon(peer, now)

    def _persistent_keepalive(self, peer: Peer, now: int) -> None:
        peer.timing.persistent_fired = now
        if peer.has_usable_session(now) and any(
            guest.keepalive(peer.handle, now) for guest in self._core.guests
        ):
            return
        self._keepalive(peer, now)

    def _keepalive(self, peer: Peer, now: int) -> None:
        if peer.has_usable_session(now):
            self._core.events.append(SendKeepalive(peer.handle))
        else:
            self._handshakes.begin(peer, now)
