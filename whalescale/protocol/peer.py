"""One peer: who it is, where it is, and what the core's own machines keep of it.

`handshake` is written by handshake.py alone, `timing` by session_timers.py, `contacts` by
dialing.py; guests keep theirs themselves.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Final, NamedTuple

from whalescale.identity import (
    FINGERPRINT_BYTES,
    IdentityError,
    fingerprint_of,
    node_id_to_x25519,
    x25519_to_node_ids,
)
from whalescale.protocol.contacts import Contacts
from whalescale.protocol.cookie import CookieGenerator
from whalescale.protocol.keypairs import Keypairs
from whalescale.protocol.limits import NS_PER_S, Limits
from whalescale.protocol.noise import PSK_BYTES, InitiatorHandshake, KeyPair
from whalescale.protocol.places import Endpoint, PeerHandle
from whalescale.protocol.types import Activity, PeerConfig

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


class Pending:
    """An initiation of ours that is out."""

    __slots__ = ("handshake", "local_index", "secret", "sent")

    def __init__(
        self, handshake: InitiatorHandshake, local_index: int, sent: int, secret: int
    ) -> None:
        self.handshake = handshake
        #: the tag of the secret that it names, 0: none
        self.secret = secret
        self.local_index = local_index
        self.sent = sent


class Answer(NamedTuple):
    """Our response to an initiation that another member passed on."""

    timestamp: bytes
    local_index: int
    message: bytes


class Handshake:
    """Of one peer: attempts, and what was said last. Times are ns; None: never, or not armed."""

    __slots__ = (
        "answer",
        "at",
        "attempts",
        "completed_wall_ns",
        "consumed",
        "hurried",
        "pending",
        "received",
        "round_trip",
        "sent",
        "timestamp_received",
        "timestamp_sent",
        "unanswered",
        "unanswered_since",
        "wanted",
    )

    def __init__(self) -> None:
        #: when somebody wanted a session last
        self.wanted: int | None = None
        self.pending: Pending | None = None
        #: when an initiation, or what opens the way for one, is sent again
        self.at: int | None = None
        #: it is sent at `at`, however lately the last one was
        self.hurried = False
        self.attempts = 0
        #: initiations since the last session; `attempts` begins anew with packets
        self.unanswered = 0
        self.unanswered_since: int | None = None
        #: initiation or response of ours
        self.sent: int | None = None
        #: an authentic one of theirs
        self.received: int | None = None
        #: an initiation of theirs that was answered
        self.consumed: int | None = None
        #: until its keypair is in use
        self.answer: Answer | None = None
        self.timestamp_received = b""
        self.timestamp_sent = b""
        self.completed_wall_ns = 0
        self.round_trip: int | None = None


class Timing:
    """Of one peer: when who sent what (whitepaper sections 6.2 to 6.5). Times are ns."""

    __slots__ = (
        "activity",
        "hushed_until",
        "keepalive_sent",
        "kept",
        "new_handshake_at",
        "persistent_fired",
        "renewed",
        "renewing",
        "taken_over",
    )

    def __init__(self) -> None:
        self.activity = _IDLE
        self.keepalive_sent: int | None = None
        #: when the last one was begun because nothing came back
        self.new_handshake_at: int | None = None
        self.persistent_fired: int | None = None
        #: index of the peer's session that we set out to renew
        self.taken_over: int | None = None
        #: no persistent keepalive before
        self.hushed_until = 0
        #: the peer looks after sessions without data as we do, and is one of those that keep theirs
        self.renewing = self.kept = False
        #: index of the session that was to be renewed before it ends, though it carries no data
        self.renewed: int | None = None


class _State:
    """What a peer needs from the first packet, message or question on that concerns it."""

    __slots__ = ("contacts", "handshake", "keypairs", "timing")

    def __init__(self, config: PeerConfig) -> None:
        self.contacts = Contacts(config.endpoints)
        self.handshake = Handshake()
        self.keypairs = Keypairs()
        self.timing = Timing()


class Peer:
    """State of one peer. Of thousands of members most are never called: until something concerns
    one it is `at_rest`, a configuration and keys alone, and whatever asks for more ends that."""

    __slots__ = (
        "_generator",
        "_limits",
        "_remote_key",
        "_state",
        "config",
        "endpoint",
        "fingerprint",
        "handle",
        "index_modulus",
        "index_residue",
        "jitter",
        "local",
        "node_id",
        "static_public",
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

        self.index_modulus, self.index_residue = 1, 0  # what our receiver indices are congruent to
        self.jitter = 0
        self._state: _State | None = None

    @property
    def at_rest(self) -> bool:
        """Nothing concerned it yet: no session, no timer, no message."""
        return self._state is None

    @property
    def _awake(self) -> _State:
        if self._state is None:
            self._state = _State(self.config)
        return self._state

    @property
    def contacts(self) -> Contacts:
        return self._awake.contacts

    @property
    def handshake(self) -> Handshake:
        return self._awake.handshake

    @property
    def keypairs(self) -> Keypairs:
        return self._awake.keypairs

    @property
    def timing(self) -> Timing:
        return self._awake.timing

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

    def has_usable_session(self, now: int) -> bool:
        current = None if self._state is None else self._state.keypairs.current
        return current is not None and now - current.created < self._limits.reject_after_time

    @property
    def session_secret(self) -> int | None:
        """The tag of the secret in the keys in use, 0: none is. None: there is no session."""
        current = None if self._state is None else self._state.keypairs.current
        return None if current is None else current.secret

    # deadlines (whitepaper section 6.2 to 6.5)

    def _passive_keepalive_at(self) -> int | None:
        """KEEPALIVE_TIMEOUT after the first data that we have sent nothing after."""
        activity = self.timing.activity
        since = activity.unsent_since
        if not since:
            return None
        # A handshake message or a keepalive that this sample does not show answers as well; data
        # received after it counts anew, at the latest from there.
        sent = max(self.handshake.sent or 0, self.timing.keepalive_sent or 0)
        if sent >= since:
            if activity.last_received <= sent:
                return None
            since = sent
        return since + self._limits.keepalive_timeout

    def _new_handshake_at(self) -> int | None:
        """KEEPALIVE_TIMEOUT + REKEY_TIMEOUT after the first data that nothing has come back for."""
        activity, limits = self.timing.activity, self._limits
        since = activity.unanswered_since
        if not since or since <= (self.handshake.received or 0):
            return None
        fired = self.timing.new_handshake_at
        if fired is not None and fired >= since:
            # That handshake is under way or given up; only data sent after it asks for another.
            if activity.last_sent <= fired:
                return None
            since = fired
        return since + limits.keepalive_timeout + limits.rekey_timeout + self.jitter

    def _persistent_keepalive_at(self) -> int | None:
        """The interval after any authenticated message, ours or theirs; of ours alone where it is
        not WireGuard's: what comes in need not keep a router's mapping (RFC 4787, REQ-6)."""
        interval = self.config.persistent_keepalive * NS_PER_S
        if not interval:
            return None
        last = max(
            self.timing.activity.last_sent,
            self.handshake.sent or 0,
            self.timing.persistent_fired or 0,
        )
        if not self.config.keepalive_adapts:
            last = max(last, self.timing.activity.last_received, self.handshake.received or 0)
        return max(last + interval, self.timing.hushed_until)

    def _take_over_at(self) -> int | None:
        """Two attempts before the end of a session in use that the peer began and has not renewed.

        Not WireGuard's: a flood in the peer's name keeps its initiations from us, but not the
        answer to ours, which names our index.
        """
        session, limits = self.keypairs.current, self._limits
        if session is None or session.initiator or session.local_index == self.timing.taken_over:
            return None
        at = session.created + limits.reject_after_time - 2 * limits.rekey_timeout
        used = max(self.timing.activity.last_received, self.timing.activity.last_sent)
        return at if used > at - limits.rekey_after_time // 2 else None

    def _renew_at(self) -> int | None:
        """A session that one end keeps open is renewed before it ends, with data or without.

        By the other end, for then the answer is one of the keeper's keepalives; where both keep it,
        or that one does not begin, by the keeper. Not WireGuard's, which renews it on a keepalive.
        """
        session, keeping = self.keypairs.current, bool(self.config.persistent_keepalive)
        if session is None or not self.timing.renewing:
            return None
        if session.local_index == self.timing.renewed or not (keeping or self.timing.kept):
            return None
        before = (4 if keeping else 6) * self._limits.rekey_timeout
        before += self._limits.rekey_timeout_jitter_max
        return session.created + self._limits.reject_after_time - before + self.jitter // 2

    def renew(self, now: int) -> bool:
        """Whether a session that carries nothing is to be renewed now; True once for each."""
        at, session = self._renew_at(), self.keypairs.current
        if at is None or now < at or session is None:
            return False
        self.timing.renewed = session.local_index
        return True

    def take_over(self, now: int) -> bool:
        """Whether the session is to be renewed by us now; True once for each."""
        at, session = self._take_over_at(), self.keypairs.current
        if at is None or now < at:
            return False
        self.timing.taken_over = session.local_index if session is not None else None
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
        if self._state is None:
            return None
        armed = [
            at
            for at in (
                self.handshake.at,
                self.contacts.due_at,
                self.keypairs.zero_at,
                self._passive_keepalive_at(),
                self._new_handshake_at(),
                self._persistent_keepalive_at(),
                self._take_over_at(),
                self._renew_at(),
            )
            if at is not None
        ]
        return min(armed, default=None)
