"""One peer: its keys, candidates, handshake under way, keypairs and timers. It never sends."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Final

from whalescale.identity import (
    FINGERPRINT_BYTES,
    IdentityError,
    fingerprint_of,
    node_id_to_x25519,
    x25519_to_node_ids,
)
from whalescale.protocol.contacts import Contacts
from whalescale.protocol.cookie import CookieGenerator
from whalescale.protocol.limits import NS_PER_S, Limits
from whalescale.protocol.noise import PSK_BYTES, InitiatorHandshake, KeyPair
from whalescale.protocol.places import Endpoint, PeerHandle
from whalescale.protocol.types import Activity, PeerConfig, PeerStatus

_IDLE: Final = Activity()
MAX_PERSISTENT_KEEPALIVE: Final = 65535


@dataclass(frozen=True, slots=True)
class Keys:
    """What a PeerConfig says of a peer's identity, completed and checked."""

    static_public: bytes | None
    node_id: bytes | None
    fingerprint: bytes | None


def checked_keys(config: PeerConfig) -> Keys:
    """ValueError: a key is malformed, there is none, or two of them contradict each other."""
    static, node_id, fingerprint = config.static_public, config.node_id, config.fingerprint
    if len(config.preshared_key) != PSK_BYTES:
        raise ValueError(f"a preshared key has {PSK_BYTES} bytes, not {len(config.preshared_key)}")
    if not 0 <= config.persistent_keepalive <= MAX_PERSISTENT_KEEPALIVE:
        raise ValueError(f"persistent_keepalive is 0 to {MAX_PERSISTENT_KEEPALIVE} seconds")
    if node_id is not None:
        derived = node_id_to_x25519(node_id)
        if static not in (None, derived):
            raise ValueError("the WireGuard public key is not the one that belongs to the node ID")
        if fingerprint not in (None, fingerprint_of(node_id)):
            raise ValueError("the fingerprint is not the node ID's")
        return Keys(derived, node_id, fingerprint_of(node_id))
    if static is not None:
        if len(static) != 32:
            raise ValueError(f"a WireGuard public key has 32 bytes, not {len(static)}")
        if fingerprint is None:
            return Keys(static, None, None)
        with contextlib.suppress(IdentityError):
            for candidate in x25519_to_node_ids(static):
                if fingerprint_of(candidate) == fingerprint:
                    return Keys(static, candidate, fingerprint)
        raise ValueError("the WireGuard public key is not the one with this fingerprint")
    if fingerprint is None:
        raise ValueError("a peer needs a node ID, a fingerprint or a WireGuard public key")
    if len(fingerprint) != FINGERPRINT_BYTES:
        raise ValueError(f"a fingerprint has {FINGERPRINT_BYTES} bytes, not {len(fingerprint)}")
    return Keys(None, None, fingerprint)


class Session:
    """A keypair that the data plane holds; the core knows its index and age, not its keys."""

    __slots__ = ("created", "initiator", "local_index")

    def __init__(self, local_index: int, created: int, initiator: bool) -> None:
        self.local_index = local_index
        self.created = created
        self.initiator = initiator


class Pending:
    """An initiation of ours that is out."""

    __slots__ = ("handshake", "local_index", "sent")

    def __init__(self, handshake: InitiatorHandshake, local_index: int, sent: int) -> None:
        self.handshake = handshake
        self.local_index = local_index
        self.sent = sent


class Peer:
    """State of one peer. Times are ns; None: never, or not armed."""

    __slots__ = (
        "_generator",
        "_limits",
        "_remote_key",
        "activity",
        "answered_by",
        "ask_at",
        "attempts",
        "config",
        "contacts",
        "current",
        "endpoint",
        "fingerprint",
        "handle",
        "handshake_at",
        "handshake_received",
        "handshake_sent",
        "index_modulus",
        "index_residue",
        "initiation_consumed",
        "jitter",
        "keepalive_sent",
        "last_handshake_wall_ns",
        "last_new_handshake",
        "local",
        "next",
        "node_id",
        "nonce",
        "observed",
        "pending",
        "persistent_fired",
        "previous",
        "round_trip",
        "static_public",
        "taken_over",
        "timestamp_received",
        "timestamp_sent",
        "unanswered",
        "unanswered_since",
        "zero_at",
    )

    def __init__(self, handle: PeerHandle, config: PeerConfig, keys: Keys, limits: Limits) -> None:
        self.handle = handle
        self.config = config
        self._limits = limits
        self.static_public = keys.static_public
        self.node_id = keys.node_id
        self.fingerprint = keys.fingerprint
        self._generator: CookieGenerator | None = None
        self._remote_key: KeyPair | None = None

        self.endpoint: Endpoint | None = config.endpoints[0] if config.endpoints else None
        self.local: Endpoint | None = None
        self.contacts = Contacts(config.endpoints)
        self.observed: Endpoint | None = None

        self.index_modulus, self.index_residue = 1, 0  # what our receiver indices are congruent to

        # Handshakes. `handshake_at` is the retransmission of an initiation or bootstrap request.
        self.pending: Pending | None = None
        self.nonce: bytes | None = None  # of a bootstrap request that is out
        self.attempts = 0
        self.unanswered = (
            0  # initiations since the last session; `attempts` begins anew with packets
        )
        self.unanswered_since: int | None = None
        # Whether it is there at all: asked by a bootstrap request, which needs no session.
        self.ask_at: int | None = None
        self.answered_by: Endpoint | None = None
        self.handshake_at: int | None = None
        self.handshake_sent: int | None = None  # initiation or response of ours
        self.handshake_received: int | None = None  # an authentic one of theirs
        self.initiation_consumed: int | None = None
        self.timestamp_received = b""
        self.timestamp_sent = b""
        self.last_handshake_wall_ns = 0
        self.round_trip: int | None = None

        # Keypairs, rotated as the data plane does.
        self.previous: Session | None = None
        self.current: Session | None = None
        self.next: Session | None = None
        self.zero_at: int | None = None

        self.activity = _IDLE
        self.keepalive_sent: int | None = None
        self.last_new_handshake: int | None = None
        self.persistent_fired: int | None = None
        self.taken_over: int | None = None  # index of the peer's session that we set out to renew
        self.jitter = 0

    # keys

    @property
    def generator(self) -> CookieGenerator:
        """Made when first needed, as is `remote_key`: an idle peer costs neither."""
        if self._generator is None:
            assert self.static_public is not None
            self._generator = CookieGenerator(self.static_public)
        return self._generator

    @property
    def remote_key(self) -> KeyPair:
        if self._remote_key is None:
            assert self.static_public is not None
            self._remote_key = KeyPair.from_public(self.static_public)
        return self._remote_key

    # keypairs: each returns the local indices that are free again

    def install_as_initiator(self, session: Session) -> list[int]:
        """wireguard-go BeginSymmetricSession: the response has confirmed it, so it is current."""
        dropped = [self.previous]
        if self.next is not None:
            self.previous, self.next = self.next, None
            dropped.append(self.current)
        else:
            self.previous = self.current
        self.current = session
        return [s.local_index for s in dropped if s is not None]

    def install_as_responder(self, session: Session) -> list[int]:
        """Not ours to use before the initiator has."""
        dropped = [self.next, self.previous]
        self.next, self.previous = session, None
        return [s.local_index for s in dropped if s is not None]

    def confirm(self) -> list[int]:
        """wireguard-go ReceivedWithKeypair: next becomes current."""
        dropped = self.previous
        self.previous, self.current, self.next = self.current, self.next, None
        return [dropped.local_index] if dropped is not None else []

    def drop_sessions(self) -> list[int]:
        held = [s.local_index for s in (self.previous, self.current, self.next) if s is not None]
        self.previous = self.current = self.next = None
        return held

    def has_usable_session(self, now: int) -> bool:
        return self.current is not None and now - self.current.created < (
            self._limits.reject_after_time
        )

    # deadlines (whitepaper section 6.2 to 6.5)

    def _passive_keepalive_at(self) -> int | None:
        """KEEPALIVE_TIMEOUT after the first data that we have sent nothing after."""
        since = self.activity.unsent_since
        if not since:
            return None
        # A handshake message or a keepalive that this sample does not show answers as well; data
        # received after it counts anew, at the latest from there.
        sent = max(self.handshake_sent or 0, self.keepalive_sent or 0)
        if sent >= since:
            if self.activity.last_received <= sent:
                return None
            since = sent
        return since + self._limits.keepalive_timeout

    def _new_handshake_at(self) -> int | None:
        """KEEPALIVE_TIMEOUT + REKEY_TIMEOUT after the first data that nothing has come back for."""
        since = self.activity.unanswered_since
        if not since or since <= (self.handshake_received or 0):
            return None
        fired = self.last_new_handshake
        if fired is not None and fired >= since:
            # That handshake is under way or given up; only data sent after it asks for another.
            if self.activity.last_sent <= fired:
                return None
            since = fired
        return since + self._limits.keepalive_timeout + self._limits.rekey_timeout + self.jitter

    def _persistent_keepalive_at(self) -> int | None:
        """The interval after any authenticated message, ours or theirs."""
        interval = self.config.persistent_keepalive * NS_PER_S
        if not interval:
            return None
        return interval + max(
            self.activity.last_sent,
            self.activity.last_received,
            self.handshake_sent or 0,
            self.handshake_received or 0,
            self.persistent_fired or 0,
        )

    def _take_over_at(self) -> int | None:
        """Two attempts before the end of a session in use that the peer began and has not renewed.

        Not WireGuard's: a flood in the peer's name keeps its initiations from us, but not the
        answer to ours, which names our index.
        """
        session, limits = self.current, self._limits
        if session is None or session.initiator or session.local_index == self.taken_over:
            return None
        at = session.created + limits.reject_after_time - 2 * limits.rekey_timeout
        used = max(self.activity.last_received, self.activity.last_sent)
        return at if used > at - limits.rekey_after_time // 2 else None

    def take_over(self, now: int) -> bool:
        """Whether the session is to be renewed by us now; True once for each."""
        at = self._take_over_at()
        if at is None or now < at:
            return False
        self.taken_over = self.current.local_index if self.current is not None else None
        return True

    def due(self, now: int) -> tuple[bool, bool, bool]:
        """Which of (passive keepalive, new handshake, persistent keepalive) are up."""
        passive, new, persistent = (
            self._passive_keepalive_at(),
            self._new_handshake_at(),
            self._persistent_keepalive_at(),
        )
        return (
            passive is not None and passive <= now,
            new is not None and new <= now,
            persistent is not None and persistent <= now,
        )

    def deadline(self) -> int | None:
        """The earliest of the session's timers."""
        armed = [
            at
            for at in (
                self.handshake_at,
                self.contacts.due_at,
                self.ask_at,
                self.zero_at,
                self._passive_keepalive_at(),
                self._new_handshake_at(),
                self._persistent_keepalive_at(),
                self._take_over_at(),
            )
            if at is not None
        ]
        return min(armed, default=None)

    def status(self, *, extended: bool) -> PeerStatus:
        """`extended`: frames are spoken."""
        current = self.current
        return PeerStatus(
            static_public=self.static_public,
            node_id=self.node_id,
            fingerprint=self.fingerprint,
            endpoint=self.endpoint,
            local=self.local,
            last_handshake_wall_ns=self.last_handshake_wall_ns,
            round_trip=self.round_trip,
            handshake_attempts=self.attempts if self.handshake_at is not None else 0,
            initiator=current.initiator if current else None,
            session_created=current.created if current else None,
            observed=self.observed,
            persistent_keepalive=self.config.persistent_keepalive,
            extended=extended,
            unanswered=self.unanswered,
            unanswered_since=self.unanswered_since,
            answered_by=self.answered_by,
        )
