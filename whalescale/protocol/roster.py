"""Which peers a node has: added, changed, removed, moved to other addresses, and what each is now.

It tells the guests; handshakes and timers of sessions are the other machines' business.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from whalescale.protocol.asking import Bootstrap
from whalescale.protocol.core import Core
from whalescale.protocol.dialing import Dialer
from whalescale.protocol.handshake import Handshakes
from whalescale.protocol.offers import Offers
from whalescale.protocol.peer import Handshake, Keys, Peer, checked_keys
from whalescale.protocol.places import LocalLink, PeerHandle
from whalescale.protocol.session_timers import SessionTimers
from whalescale.protocol.types import (
    EndpointChanged,
    KeypairsExpired,
    PeerConfig,
    PeerStatus,
    PostQuantum,
)


class Roster:
    """One for each node. Handles are never given twice."""

    def __init__(
        self, core: Core, handshakes: Handshakes, sessions: SessionTimers, dialer: Dialer
    ) -> None:
        self._core = core
        self._handshakes = handshakes
        self._sessions = sessions
        self._dialer = dialer
        self._last_handle = 0

    def add(self, config: PeerConfig, now: int, modulus: int, residue: int) -> PeerHandle:
        """`Node.add_peer`."""
        core = self._core
        keys = checked_keys(config)
        core.registry.refuse_unusable(keys)
        self._last_handle += 1
        peer = Peer(self._last_handle, config, keys, core.limits)
        peer.index_modulus, peer.index_residue = modulus, residue
        self._sessions.draw_jitter(peer)
        core.peers[peer.handle] = peer
        core.registry.add(peer)
        if peer.endpoint is not None:
            core.events.append(EndpointChanged(peer.handle, peer.endpoint))
        if config.persistent_keepalive:
            self._sessions.start_persistent_keepalive(peer, now)
        for guest in core.guests:
            guest.peer_added(peer.handle, now)
        core.rearm(peer)
        return peer.handle

    def update(self, peer: PeerHandle, config: PeerConfig, now: int) -> None:
        """`Node.update_peer`."""
        p = self._core.peers[peer]
        self._learn_keys(p, checked_keys(config), now)
        old, p.config = p.config, config
        if config.endpoints != old.endpoints and config.endpoints:
            if not p.at_rest:
                p.contacts.configure(config.endpoints, now)
            for guest in self._core.guests:
                guest.peer_changed(peer, now)
            # An endpoint that carries a session is worth more than a newly written one.
            if p.endpoint not in config.endpoints and not p.has_usable_session(now):
                self._handshakes.choose_endpoint(p, config.endpoints[0], now)
        if config.post_quantum is not old.post_quantum:
            self._guard(p, now)
        if config.persistent_keepalive and not old.persistent_keepalive:
            self._sessions.start_persistent_keepalive(p, now)
        if bool(config.persistent_keepalive) != bool(old.persistent_keepalive):
            for guest in self._core.guests:
                guest.peer_configured(peer, now)
        self._core.rearm(p)

    def _guard(self, p: Peer, now: int) -> None:
        """A post-quantum secret is wanted in its keys, or not any more."""
        for guest in self._core.guests:
            guest.peer_configured(p.handle, now)
        if p.session_secret == 0:
            if p.config.post_quantum is PostQuantum.REQUIRE:
                self._sessions.begin_anew(p, now)
            else:  # its keys may be held back
                self._handshakes.renew(p, now)

    def _learn_keys(self, p: Peer, keys: Keys, now: int) -> None:
        registry = self._core.registry
        for ours, theirs in (
            (p.static_public, keys.static_public),
            (p.node_id, keys.node_id),
            (p.fingerprint, keys.fingerprint),
        ):
            if ours is not None and theirs is not None and ours != theirs:
                raise ValueError("a peer's key cannot change; remove the peer and add the new one")
        if keys.static_public is not None and p.static_public is None:
            if keys.fingerprint != p.fingerprint:
                raise ValueError("this key is not the one with the peer's fingerprint")
            registry.refuse_unusable(keys, p)
            self._core.identify(p, keys.static_public, keys.node_id, now)
        elif keys.fingerprint is not None and p.fingerprint is None:
            registry.refuse_unusable(keys, p)
            p.node_id, p.fingerprint = keys.node_id, keys.fingerprint
            registry.add(p)

    def remove(self, peer: PeerHandle) -> None:
        """`Node.remove_peer`."""
        core = self._core
        p = core.peers.pop(peer)
        core.registry.remove(p)
        self._handshakes.drop_pending(p)
        core.indices.free(p.keypairs.drop())
        core.timers.set(peer, None)
        for guest in core.guests:
            guest.peer_removed(peer)
        core.events.append(KeypairsExpired(peer))

    def follow(self, links: Sequence[LocalLink], port: int, now: int) -> None:
        """Our own addresses: who was reached from one that is gone is reached some other way."""
        core = self._core
        peers = [p for p in core.peers.values() if not p.at_rest]
        if not self._dialer.set_locals(links, port):
            return
        for p in self._dialer.lost(peers):
            if p.endpoint is not None and not any(g.steers(p.handle) for g in core.guests):
                p.local, p.contacts.ifindex = None, 0
                core.events.append(EndpointChanged(p.handle, p.endpoint))
        for p in peers:
            if p.contacts.dialling:
                p.contacts.again(now)
                core.rearm(p)


#: of a peer that nothing concerned yet
_RESTING: Final = Handshake()


def status(p: Peer, offers: Offers, bootstrap: Bootstrap) -> PeerStatus:
    """To be looked at wakes nobody."""
    state = _RESTING if p.at_rest else p.handshake
    current = None if p.at_rest else p.keypairs.current
    return PeerStatus(
        static_public=p.static_public,
        node_id=p.node_id,
        fingerprint=p.fingerprint,
        endpoint=p.endpoint,
        local=p.local,
        last_handshake_wall_ns=state.completed_wall_ns,
        round_trip=state.round_trip,
        handshake_attempts=state.attempts if state.at is not None else 0,
        initiator=current.initiator if current else None,
        session_created=current.created if current else None,
        observed=bootstrap.observed(p.handle),
        persistent_keepalive=p.config.persistent_keepalive,
        extended=offers.framed(p.handle),
        unanswered=state.unanswered,
        unanswered_since=state.unanswered_since,
        answered_by=bootstrap.answered_by(p.handle),
    )
