"""Which peer has which key."""

from __future__ import annotations

import contextlib
import hmac

from whalescale.identity import IdentityError, fingerprint_of, x25519_to_node_ids
from whalescale.protocol.noise import KeyPair
from whalescale.protocol.peer import Keys, Peer


class Registry:
    """Peers by static key, and by fingerprint where that is all that is known."""

    __slots__ = ("_by_fingerprint", "_by_static", "_fingerprint", "_static", "_static_public")

    def __init__(self, static: KeyPair, static_public: bytes, fingerprint: bytes | None) -> None:
        """Our own keys: no peer may have them."""
        self._static = static
        self._static_public = static_public
        self._fingerprint = fingerprint
        self._by_static: dict[bytes, Peer] = {}
        self._by_fingerprint: dict[bytes, Peer] = {}

    def get(self, static_public: bytes) -> Peer | None:
        return self._by_static.get(static_public)

    def of_node(self, node_id: bytes) -> Peer | None:
        """The peer that is known to be this node."""
        peer = self._by_fingerprint.get(fingerprint_of(node_id))
        return peer if peer is not None and peer.node_id == node_id else None

    def taken(self, static_public: bytes) -> bool:
        """Ours, or another peer's."""
        return static_public in self._by_static or hmac.compare_digest(
            static_public, self._static_public
        )

    def of_static(self, static_public: bytes) -> tuple[Peer, bytes | None] | None:
        """The peer with this proven key, and its node ID where the key was not known before."""
        peer = self._by_static.get(static_public)
        if peer is not None:
            return peer, None
        if len(self._by_fingerprint):
            with contextlib.suppress(IdentityError):
                for node_id in x25519_to_node_ids(static_public):
                    peer = self._by_fingerprint.get(fingerprint_of(node_id))
                    if peer is not None and peer.static_public is None:
                        return peer, node_id
        return None

    def refuse_unusable(self, keys: Keys, but: Peer | None = None) -> None:
        """ValueError where a peer (other than `but`) has one of the keys, or no handshake can."""
        static, fingerprint = keys.static_public, keys.fingerprint
        if static == self._static_public or (
            fingerprint is not None and fingerprint == self._fingerprint
        ):
            raise ValueError("this is the node's own key; a peer needs the other side's")
        holders = (
            self._by_static.get(static) if static is not None else None,
            self._by_fingerprint.get(fingerprint) if fingerprint is not None else None,
        )
        if any(holder is not None and holder is not but for holder in holders):
            raise ValueError("another peer has this key already")
        if static is None or keys.node_id is not None:
            return  # a node ID that has an X25519 key is of the main subgroup
        if not self._static.shares_secret_with(KeyPair.from_public(static)):
            raise ValueError("this public key is not usable: it is of low order")

    def add(self, peer: Peer) -> None:
        """Also when a key of the peer became known."""
        if peer.static_public is not None:
            self._by_static[peer.static_public] = peer
        if peer.fingerprint is not None:
            self._by_fingerprint[peer.fingerprint] = peer

    def remove(self, peer: Peer) -> None:
        if peer.static_public is not None:
            del self._by_static[peer.static_public]
        if peer.fingerprint is not None:
            del self._by_fingerprint[peer.fingerprint]
