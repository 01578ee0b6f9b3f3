"""Post-quantum keys: in each session an ML-KEM-768 exchange makes what the next handshake mixes in
beside the configured preshared key (docs/wire.md has the bytes and the rules).

The node with the lesser ID asks with a public key, the other one answers with a ciphertext. Whoever
initiates afterwards names the secret in its timestamp; who does not hold it answers with the
configured key alone. Each session's secret gives way to its successor, a hash of it, so that none
opens what was said before; an exchange is made anew each hour. Encapsulation draws on the library's
random numbers: its API takes no others.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.hashes import BLAKE2s
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from whalescale.protocol.control import VERSION, ControlError, Feature, FrameType, Offer
from whalescale.protocol.guest import Arrival, Guest, Host, Secret
from whalescale.protocol.limits import NS_PER_MS, NS_PER_S
from whalescale.protocol.places import PeerHandle
from whalescale.protocol.types import GuestEvent, PostQuantum

KEY_BYTES: Final = 1184
CIPHERTEXT_BYTES: Final = 1088
SEED_BYTES: Final = 64
#: of a key or a ciphertext in a frame: the datagram fits a link of 576 bytes
PART_BYTES: Final = 400
PARTS: Final = 3
TAG_BYTES: Final = 3

#: sent again this long after the time before, and at the last interval without end
RETRY_AFTER: Final = (
    NS_PER_S // 4,
    NS_PER_S // 2,
    NS_PER_S,
    2 * NS_PER_S,
    4 * NS_PER_S,
    8 * NS_PER_S,
)
#: between two answers to copies of one request
ANSWER_INTERVAL: Final = 100 * NS_PER_MS
#: A secret is kept this long after a newer one was used: an initiation that names it may be on its
#: way, and its sender takes no answer so late (Limits.response_late, twice).
RETIRE_AFTER: Final = 20 * NS_PER_S
#: handshakes for the sake of a first secret: one in so long, so many at once
RENEW_INTERVAL: Final = 10 * NS_PER_S
RENEW_BURST: Final = 3
#: Until the next exchange, where the peer takes successors: what opens nothing of before needs new
#: randomness for the case alone that somebody read this machine's memory.
EXCHANGE_EVERY: Final = 3600 * NS_PER_S

_HEAD = struct.Struct("<BBBBI")


class Kind(IntEnum):
    """Byte 2 of a frame."""

    KEY = 1
    CIPHERTEXT = 2
    DONE = 3


_WHOLE: Final = {Kind.KEY: KEY_BYTES, Kind.CIPHERTEXT: CIPHERTEXT_BYTES}


@dataclass(frozen=True, slots=True)
class Frame:
    """`part`: which of PARTS pieces, 0 in DONE; `body`: that piece, or the secret's tag."""

    kind: Kind
    part: int
    exchange: int
    body: bytes


def encode(kind: Kind, exchange: int, whole: bytes) -> tuple[bytes, ...]:
    """A key or a ciphertext in PARTS frames, or a tag in one."""
    return tuple(
        _HEAD.pack(FrameType.POST_QUANTUM, VERSION, kind, part, exchange)
        + whole[part * PART_BYTES : (part + 1) * PART_BYTES]
        for part in range(-(-len(whole) // PART_BYTES))
    )


def decode(data: bytes) -> Frame:
    """Bytes behind the body are padding. ControlError: too short, or a claim that cannot be."""
    if len(data) < _HEAD.size:
        raise ControlError("control_length")
    _, _, number, part, exchange = _HEAD.unpack_from(data)
    if number not in (Kind.KEY, Kind.CIPHERTEXT, Kind.DONE):
        raise ControlError("pq_claim")
    kind = Kind(number)
    whole = _WHOLE.get(kind, TAG_BYTES)
    size = min(PART_BYTES, whole - part * PART_BYTES)
    if size <= 0:
        raise ControlError("pq_claim")
    if len(data) < _HEAD.size + size:
        raise ControlError("control_length")
    return Frame(kind, part, exchange, data[_HEAD.size : _HEAD.size + size])


def secret_key(
    shared: bytes, public: bytes, ciphertext: bytes, asker: bytes, answerer: bytes
) -> bytearray:
    """The 32 bytes that both ends keep of an exchange. `asker`, `answerer`: node IDs."""
    transcript = hashlib.blake2s(public + ciphertext).digest()
    parts = (b"whalescale post-quantum v1", shared, transcript, asker, answerer)
    return bytearray(hashlib.blake2s(b"".join(parts)).digest())


def successor_key(key: bytes | bytearray) -> bytearray:
    """What takes the place of a secret that a session was made with; there is no way back."""
    return bytearray(hashlib.blake2s(b"whalescale post-quantum next" + key).digest())


def tag_of(key: bytes | bytearray) -> int:
    """What an initiation calls it by; 0 cannot be used."""
    digest = hashlib.blake2s(b"whalescale post-quantum tag" + key).digest()
    return int.from_bytes(digest[:TAG_BYTES], "little")


def preshared(
    configured: bytes, key: bytes | bytearray, initiator: bytes, responder: bytes
) -> bytes:
    """What a handshake between these node IDs mixes in: 32 bytes."""
    kdf = HKDF(algorithm=BLAKE2s(32), length=32, salt=configured, info=b"")
    return kdf.derive(bytes(key) + initiator + responder)


@dataclass(frozen=True, slots=True)
class PostQuantumChanged(GuestEvent):
    """The session in use has an exchanged secret in its keys, or has none where the one before it
    had (the peer began anew)."""

    on: bool


class _Secret:
    """`sure`: the peer holds it too, or can make it; `used`: a session was made with it;
    `derived`: it is the successor of another."""

    __slots__ = ("derived", "key", "retire_at", "sure", "tag", "used")

    def __init__(self, key: bytearray, tag: int, sure: bool, derived: bool = False) -> None:
        self.key, self.tag, self.sure, self.derived = key, tag, sure, derived
        self.used = False
        self.retire_at: int | None = None

    def zero(self) -> None:
        self.key[:] = bytes(len(self.key))


class _State:
    """Of one peer."""

    __slots__ = (
        "answered_at",
        "before",
        "chain",
        "due",
        "exchange",
        "exchanged_at",
        "frames",
        "held",
        "on",
        "parts",
        "private",
        "public",
        "renewed",
        "speaks",
        "tries",
    )

    def __init__(self) -> None:
        #: oldest first: what sessions are or were made of, what follows on the last, and at most
        #: one of an exchange that none was made with yet
        self.held: list[_Secret] = []
        #: the peer takes successors
        self.chain = False
        #: when the asker had its last answer
        self.exchanged_at: int | None = None
        #: the peer takes our frames, on the keypair in use
        self.speaks = False
        #: None: there is no session
        self.on: bool | None = None
        # the exchange under way, or the last one
        self.exchange = -1
        #: the one before it: copies of its frames may still come
        self.before = -1
        self.private: MLKEM768PrivateKey | None = None
        self.public = b""
        self.parts: dict[int, bytes] = {}
        #: what the peer may ask for again
        self.frames: tuple[bytes, ...] = ()
        self.due: int | None = None
        self.tries = 0
        self.answered_at: int | None = None
        #: until when handshakes for the sake of a first secret have used up their share
        self.renewed = 0

    def fresh(self) -> _Secret | None:
        """The one of an exchange that no session was made with."""
        last = self.held[-1] if self.held else None
        return last if last is not None and not last.used and not last.derived else None

    def find(self, tag: int) -> _Secret | None:
        return next((s for s in self.held if s.tag == tag), None)

    def best(self) -> _Secret | None:
        """What an initiation of ours names: the newest that the peer holds for sure, else the
        newest of all: who lacks it has no other either."""
        some = [s for s in self.held if s.sure] or self.held
        return some[-1] if some else None

    def begin(self, exchange: int) -> None:
        """Another exchange in place of the one under way, -1: none."""
        if self.exchange >= 0:
            self.before = self.exchange
        self.exchange, self.private, self.public = exchange, None, b""
        self.parts, self.frames, self.due = {}, (), None

    def forget(self) -> None:
        for secret in self.held:
            secret.zero()
        self.held = []
        self.exchanged_at = None
        self.begin(-1)

    def succeed(self, secret: _Secret) -> _Secret | None:
        """The one after this, made now or before. None: its tag says nothing, or is taken."""
        at = self.held.index(secret) + 1
        if at < len(self.held) and self.held[at].derived:
            return self.held[at]
        key = successor_key(secret.key)
        tag = tag_of(key)
        if tag == 0 or self.find(tag) is not None:
            return None
        made = _Secret(key, tag, sure=True, derived=True)
        self.held.insert(at, made)
        return made

    def named(self, tag: int) -> _Secret | None:
        """What the peer calls so. It may be a step ahead: it has a session that we have not, for
        nothing came of it yet."""
        if (found := self.find(tag)) is not None:
            return found
        for secret in self.held:
            if tag_of(successor_key(secret.key)) == tag:
                return self.succeed(secret)
        return None

    def exchange_due(self, now: int) -> bool:
        """Another exchange is to be begun, or the one under way to go on."""
        if self.private is not None or not self.chain or self.exchanged_at is None:
            return True
        return self.fresh() is not None or now - self.exchanged_at >= EXCHANGE_EVERY

    def retire(self, now: int) -> None:
        gone = [s for s in self.held if s.retire_at is not None and s.retire_at <= now]
        for secret in gone:
            secret.zero()
            self.held.remove(secret)

    def deadline(self) -> int | None:
        times = [self.due, *(s.retire_at for s in self.held)]
        return min((at for at in times if at is not None), default=None)


def supported() -> bool:
    """The crypto library has ML-KEM-768."""
    try:
        MLKEM768PrivateKey.from_seed_bytes(bytes(SEED_BYTES))
    except UnsupportedAlgorithm:
        return False
    return True


class PostQuantumKeys(Guest):
    """Exchanges with all peers that offer them."""

    frames = (FrameType.POST_QUANTUM,)

    def __init__(self, host: Host) -> None:
        self._host = host
        self.usable = host.node_id is not None and supported()
        self._states: dict[PeerHandle, _State] = {}

    def state(self, peer: PeerHandle) -> str:
        """Of the session in use: "yes", "pending" (an exchange is under way), "no"; "": none."""
        s = self._states.get(peer)
        if s is None or s.on is None:
            return ""
        if s.on:
            return "yes"
        return "pending" if s.speaks else "no"

    def _of(self, peer: PeerHandle) -> _State:
        """Made when there is something to keep: most members of a large network have no session."""
        return self._states.setdefault(peer, _State())

    def _wanted(self, peer: PeerHandle) -> bool:
        view = self._host.peer(peer)
        return (
            self.usable
            and view.node_id is not None
            and view.config.post_quantum is not PostQuantum.OFF
        )

    def _asks(self, peer: PeerHandle) -> bool:
        own, theirs = self._host.node_id, self._host.peer(peer).node_id
        return own is not None and theirs is not None and own < theirs

    def features(self, peer: PeerHandle) -> Feature:
        return Feature.POST_QUANTUM if self._wanted(peer) else Feature(0)

    # peers

    def peer_removed(self, peer: PeerHandle) -> None:
        s = self._states.pop(peer, None)
        if s is not None:
            s.forget()

    def peer_configured(self, peer: PeerHandle, now: int) -> None:
        if peer in self._states and not self._wanted(peer):
            self._states[peer].forget()
        self._host.offer(peer, now)

    # handshakes

    def secret(self, peer: PeerHandle) -> Secret | None:
        s = self._states.get(peer)
        found = s.best() if s is not None and self._wanted(peer) else None
        return None if found is None else self._mixed(peer, found, ours=True)

    def secret_named(self, peer: PeerHandle, tag: int) -> Secret | None:
        s = self._states.get(peer)
        found = s.named(tag) if s is not None and self._wanted(peer) else None
        if s is None or found is None:
            return None
        self._settle(s, found)
        return self._mixed(peer, found, ours=False)

    def _mixed(self, peer: PeerHandle, secret: _Secret, *, ours: bool) -> Secret:
        """For a handshake that we initiate, or the peer."""
        view, own = self._host.peer(peer), self._host.node_id
        assert own is not None
        assert view.node_id is not None
        ends = (own, view.node_id) if ours else (view.node_id, own)
        return Secret(secret.tag, preshared(view.config.preshared_key, secret.key, *ends))

    @staticmethod
    def _settle(s: _State, secret: _Secret) -> None:
        """The peer holds it: nothing more need be said of it."""
        if not secret.sure:
            secret.sure = True
            s.due = None

    # sessions

    def session_started(self, peer: PeerHandle, now: int) -> None:
        s = self._of(peer)
        used = s.find(self._host.peer(peer).session_secret or 0)
        if used is None:
            # The peer holds nothing of ours: it began anew, or there is nothing yet.
            s.forget()
        else:
            used.used = True
            self._settle(s, used)
            for older in s.held[: s.held.index(used)]:
                older.retire_at = older.retire_at or now + RETIRE_AFTER
            if s.chain:
                s.succeed(used)
        on, before = used is not None, s.on
        s.on, s.speaks = on, s.speaks and self._host.settled(peer)
        if on != bool(before):
            self._host.event(PostQuantumChanged(peer, on))
        if s.speaks:
            self._go_on(peer, s, now)

    def session_ended(self, peer: PeerHandle, now: int) -> None:
        self._of(peer).on = None
        self.became_plain(peer, now)

    def became_plain(self, peer: PeerHandle, now: int) -> None:
        s = self._of(peer)
        s.speaks, s.due = False, None

    def offered(
        self, peer: PeerHandle, offer: Offer, before: int | None, fresh: bool, now: int
    ) -> None:
        s = self._of(peer)
        speaks = bool(offer.features & Feature.POST_QUANTUM) and self._wanted(peer)
        s.chain = bool(offer.features & Feature.CONTINUE)
        began, s.speaks = speaks and not s.speaks, speaks
        if not speaks:
            s.due = None
        elif began:
            self._go_on(peer, s, now)

    # the exchange

    def _go_on(self, peer: PeerHandle, s: _State, now: int) -> None:
        """A keypair that frames go under is in use."""
        if self._asks(peer):
            if s.exchange_due(now):
                self._ask(peer, s, now)
        elif (fresh := s.fresh()) is not None and not fresh.sure:
            self._again(s, now, first=True)  # our answer may have been lost with the session

    def _ask(self, peer: PeerHandle, s: _State, now: int) -> None:
        """Go on with what is under way, else begin another."""
        if s.fresh() is None and s.private is None:
            s.begin(int.from_bytes(self._host.random(4), "little"))
            seed = bytearray(self._host.random(SEED_BYTES))
            s.private = MLKEM768PrivateKey.from_seed_bytes(seed)
            seed[:] = bytes(SEED_BYTES)
            s.public = s.private.public_key().public_bytes_raw()
            s.frames = encode(Kind.KEY, s.exchange, s.public)
        self._send(peer, s)
        # DONE is said again when the peer asks.
        if s.private is not None:
            self._again(s, now, first=True)

    def _send(self, peer: PeerHandle, s: _State) -> None:
        for frame in s.frames:
            self._host.frame(peer, frame)

    @staticmethod
    def _again(s: _State, now: int, *, first: bool) -> None:
        """Send once more, if nothing comes of it."""
        s.tries = 0 if first else min(s.tries + 1, len(RETRY_AFTER) - 1)
        s.due = now + RETRY_AFTER[s.tries]

    def receive_frame(self, peer: PeerHandle, frame: bytes, arrival: Arrival, now: int) -> None:
        told, s = decode(frame), self._of(peer)
        if not self._wanted(peer):
            raise ControlError("pq_unwanted")
        if (told.kind is Kind.CIPHERTEXT) != self._asks(peer):
            raise ControlError("pq_claim")
        if told.exchange == s.before:
            return
        if told.kind is Kind.KEY:
            self._asked(peer, s, told, now)
        elif told.exchange != s.exchange:
            raise ControlError("pq_stale")
        elif told.kind is Kind.CIPHERTEXT:
            self._answered(peer, s, told, now)
        else:
            self._done(s, told)

    def _may_answer(self, s: _State, now: int) -> bool:
        if s.answered_at is not None and 0 <= now - s.answered_at < ANSWER_INTERVAL:
            return False
        s.answered_at = now
        return True

    def _asked(self, peer: PeerHandle, s: _State, told: Frame, now: int) -> None:
        """A piece of the peer's public key."""
        if told.exchange != s.exchange:
            s.begin(told.exchange)
        elif s.frames:  # answered: the answer was lost, if it is not on its way
            if self._may_answer(s, now):
                self._send(peer, s)
            return
        s.parts[told.part] = told.body
        if len(s.parts) < PARTS:
            return
        public = b"".join(s.parts[n] for n in range(PARTS))
        s.parts = {}
        try:
            theirs = MLKEM768PublicKey.from_public_bytes(public)
        except ValueError:
            s.begin(-1)
            raise ControlError("pq_claim") from None
        shared, ciphertext = theirs.encapsulate()
        if not self._keep(peer, s, shared, public, ciphertext, sure=False):
            return  # asked again, it makes another
        s.frames = encode(Kind.CIPHERTEXT, s.exchange, ciphertext)
        s.answered_at = now
        self._send(peer, s)
        self._again(s, now, first=True)

    def _answered(self, peer: PeerHandle, s: _State, told: Frame, now: int) -> None:
        """A piece of the ciphertext for our key."""
        if s.private is None:  # we have it all, and the peer does not know
            if self._may_answer(s, now):
                self._send(peer, s)
            return
        s.parts[told.part] = told.body
        if len(s.parts) < PARTS:
            return
        ciphertext = b"".join(s.parts[n] for n in range(PARTS))
        shared = s.private.decapsulate(ciphertext)
        s.private, s.parts, s.due = None, {}, None
        if not self._keep(peer, s, shared, s.public, ciphertext, sure=True):
            s.begin(-1)
            return
        s.public, s.exchanged_at = b"", now
        s.frames = encode(Kind.DONE, s.exchange, s.held[-1].tag.to_bytes(TAG_BYTES, "little"))
        s.answered_at = now
        self._send(peer, s)
        if s.on is False:
            self._renew(peer, s, now)

    def _renew(self, peer: PeerHandle, s: _State, now: int) -> None:
        """At once; who makes us do so again and again, by falling back each time, waits."""
        s.renewed = max(s.renewed, now) + RENEW_INTERVAL
        self._host.renew(peer, now, at=max(now, s.renewed - RENEW_BURST * RENEW_INTERVAL))

    def _done(self, s: _State, told: Frame) -> None:
        """The peer has the secret of our ciphertext."""
        fresh = s.fresh()
        if fresh is None:
            return  # a copy: a session was made with it meanwhile
        if not hmac.compare_digest(told.body, fresh.tag.to_bytes(TAG_BYTES, "little")):
            raise ControlError("pq_claim")
        self._settle(s, fresh)

    def _keep(
        self,
        peer: PeerHandle,
        s: _State,
        shared: bytes,
        public: bytes,
        ciphertext: bytes,
        *,
        sure: bool,
    ) -> bool:
        """In place of one that came to nothing. False: its tag says nothing, or is taken."""
        own, theirs = self._host.node_id, self._host.peer(peer).node_id
        assert own is not None
        assert theirs is not None
        key = secret_key(shared, public, ciphertext, min(own, theirs), max(own, theirs))
        tag = tag_of(key)
        if (stale := s.fresh()) is not None:
            stale.zero()
            s.held.remove(stale)
        if tag == 0 or s.find(tag) is not None:
            return False
        s.held.append(_Secret(key, tag, sure))
        return True

    # time

    def peer_deadline(self, peer: PeerHandle) -> int | None:
        s = self._states.get(peer)
        return s.deadline() if s is not None else None

    def peer_timeout(self, peer: PeerHandle, now: int) -> None:
        s = self._states.get(peer)
        if s is None:
            return
        s.retire(now)
        if s.due is not None and s.due <= now:
            self._again(s, now, first=False)
            self._send(peer, s)
