"""From a fingerprint to a key: bootstrap requests, asked and answered (docs/wire.md).

The messages themselves are in bootstrap.py.
"""

from __future__ import annotations

from typing import Final

from whalescale.identity import PlainIdentity
from whalescale.protocol import bootstrap
from whalescale.protocol.cookie import RateLimiter
from whalescale.protocol.guest import Guest, Host, Shape
from whalescale.protocol.limits import Limits
from whalescale.protocol.messages import (
    BOOTSTRAP_BYTES,
    BOOTSTRAP_REPLY,
    BOOTSTRAP_REQUEST,
    MessageError,
)
from whalescale.protocol.places import Endpoint, PeerHandle
from whalescale.protocol.types import RequestCame, Transmit

#: of so many initiations without an answer, one is followed by the question whether it is there
ASK_EVERY: Final = 4


class _Asked:
    """Of one peer. Times are ns."""

    __slots__ = ("answered_by", "due_at", "nonce", "observed")

    def __init__(self) -> None:
        #: of the request that is out
        self.nonce: bytes | None = None
        #: whether it is there at all is asked then: that needs no session
        self.due_at: int | None = None
        #: who told its node ID since the last session
        self.answered_by: Endpoint | None = None
        #: where the peer saw a request of ours come from
        self.observed: Endpoint | None = None


class Bootstrap(Guest):
    """Answers who knows our fingerprint, and asks peers for their node ID."""

    messages = (
        Shape(BOOTSTRAP_REQUEST, BOOTSTRAP_BYTES, BOOTSTRAP_BYTES),
        Shape(BOOTSTRAP_REPLY, BOOTSTRAP_BYTES, BOOTSTRAP_BYTES),
    )

    def __init__(self, host: Host, identity: PlainIdentity, limits: Limits) -> None:
        self._host = host
        self._node_id = identity.node_id
        self._key = bootstrap.own_mac_key(identity.fingerprint, host.random)
        self._limits = limits
        self._limiter = RateLimiter(limits)
        self._asked: dict[PeerHandle, _Asked] = {}
        #: whose request has this nonce
        self._by_nonce: dict[bytes, PeerHandle] = {}

    def observed(self, peer: PeerHandle) -> Endpoint | None:
        """Where the peer saw us; a hint."""
        asked = self._asked.get(peer)
        return asked.observed if asked is not None else None

    def answered_by(self, peer: PeerHandle) -> Endpoint | None:
        """Who told the peer's node ID, but opened no session since: it may not know ours."""
        asked = self._asked.get(peer)
        return asked.answered_by if asked is not None else None

    def _of(self, peer: PeerHandle) -> _Asked:
        asked = self._asked.get(peer)
        if asked is None:
            asked = self._asked[peer] = _Asked()
        return asked

    def _forget_nonce(self, peer: PeerHandle) -> None:
        asked = self._asked.get(peer)
        if asked is not None and asked.nonce is not None:
            del self._by_nonce[asked.nonce]
            asked.nonce = None

    # peers and sessions

    def peer_removed(self, peer: PeerHandle) -> None:
        self._forget_nonce(peer)
        self._asked.pop(peer, None)

    def peer_identified(self, peer: PeerHandle, now: int) -> None:
        self._forget_nonce(peer)

    def session_started(self, peer: PeerHandle, now: int) -> None:
        self._forget_nonce(peer)
        asked = self._asked.get(peer)
        if asked is not None:
            asked.due_at = asked.answered_by = None

    # asking

    def opening(self, peer: PeerHandle) -> bytes | None:
        fingerprint = self._host.peer(peer).fingerprint
        return self._request(peer, fingerprint) if fingerprint is not None else None

    def initiated(self, peer: PeerHandle, tries: int, now: int) -> None:
        view = self._host.peer(peer)
        if tries % ASK_EVERY == 1 and view.fingerprint and view.static_public:
            self._of(peer).due_at = now + self._limits.ask_after

    def gave_up(self, peer: PeerHandle, now: int) -> None:
        self._forget_nonce(peer)

    def peer_deadline(self, peer: PeerHandle) -> int | None:
        asked = self._asked.get(peer)
        return asked.due_at if asked is not None else None

    def peer_timeout(self, peer: PeerHandle, now: int) -> None:
        """No session came: is it there? A node tells that also to whom it does not know."""
        asked = self._asked.get(peer)
        if asked is None or asked.due_at is None or asked.due_at > now:
            return
        asked.due_at = None
        view = self._host.peer(peer)
        if asked.answered_by is not None or view.has_usable_session(now):
            return
        if view.endpoint is None or view.fingerprint is None:
            return
        if not view.config.told or self._host.fresh.allow(view.endpoint, now):
            self._host.transmit(Transmit(self._request(peer, view.fingerprint), view.endpoint))

    def _request(self, peer: PeerHandle, fingerprint: bytes) -> bytes:
        asked = self._of(peer)
        if asked.nonce is None:
            # One nonce for all attempts: a late reply to the first is as good.
            asked.nonce = bootstrap.new_nonce(self._host.random)
            self._by_nonce[asked.nonce] = peer
        return bootstrap.encode_request(fingerprint, asked.nonce)

    # what arrives

    def receive_message(
        self, data: bytes, remote: Endpoint, local: Endpoint | None, now: int
    ) -> None:
        if data[0] == BOOTSTRAP_REQUEST:
            if self._node_id is None:
                raise MessageError("bootstrap_mac")
            reply = bootstrap.answer_request(data, self._key, self._node_id, remote)
            if not self._limiter.allow(remote, now):
                raise MessageError("bootstrap_ratelimit")
            self._host.transmit(Transmit(reply, remote, local))
            self._host.event(RequestCame(bootstrap.nonce_of(data), remote))
        else:
            self._receive_reply(data, remote, local, now)

    def _receive_reply(
        self, data: bytes, remote: Endpoint, local: Endpoint | None, now: int
    ) -> None:
        peer = self._by_nonce.get(bootstrap.nonce_of(data))
        fingerprint = self._host.peer(peer).fingerprint if peer is not None else None
        if peer is None or fingerprint is None:
            raise MessageError("bootstrap_nonce")
        reply = bootstrap.decode_reply(data, fingerprint)
        asked = self._of(peer)
        known = self._host.peer(peer).static_public == reply.static_public
        if not known and self._host.taken(reply.static_public):
            raise MessageError("bootstrap_duplicate")
        asked.observed, asked.answered_by = reply.observed, remote
        if known:
            self._forget_nonce(peer)
        else:
            self._host.identify(peer, reply.static_public, reply.node_id, remote, local, now)
