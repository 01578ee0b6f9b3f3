"""How seldom a kept session needs a keepalive: found out with the peer (docs/mesh.md section 7.3).

Routers forget a flow that is silent for 30 s, or for minutes. In place of a keepalive the peer is
asked to answer only after a while (ASK); an answer that comes (ECHO) shows that every router on the
way still knew us then, and the next ASK leaves. Longer silences are tried with one session at a
time, and only while another one is kept. What goes wrong, or changes, is answered by the configured
interval.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from whalescale.protocol.control import VERSION, ControlError, Feature, FrameType, Offer
from whalescale.protocol.guest import Arrival, Guest, Host
from whalescale.protocol.limits import NS_PER_S
from whalescale.protocol.places import Endpoint, LocalLink, PeerHandle

#: silences that are tried, seconds
STEPS: Final = (50, 100)
#: the longest that an answer is put off for, seconds
MOST: Final = 600
#: how much later than asked for an answer may come
GRACE: Final = 3 * NS_PER_S
#: until what failed is tried again, doubled each time
AGAIN: Final = 1800 * NS_PER_S
AGAIN_MOST: Final = 8 * 3600 * NS_PER_S
#: unanswered questions in a row until the configured interval holds again
MISSES: Final = 2

_FRAME = struct.Struct("<BBBBHH")


class What(IntEnum):
    """Byte 2 of a frame."""

    ASK = 1
    ECHO = 2


def encode(what: What, seconds: int, token: int) -> bytes:
    return _FRAME.pack(FrameType.KEEP, VERSION, what, 0, seconds, token)


def decode(data: bytes) -> tuple[What, int, int]:
    """(what, seconds, token). ControlError: too short, or a claim that cannot be."""
    if len(data) < _FRAME.size:
        raise ControlError("control_length")
    _, _, what, _, seconds, token = _FRAME.unpack_from(data)
    if what not in (What.ASK, What.ECHO) or not 0 < seconds <= MOST:
        raise ControlError("keep_claim")
    return What(what), seconds, token


@dataclass(slots=True)
class _Asked:
    """Our question that is out."""

    at: int
    seconds: int
    token: int


class _Kept:
    """A session that we keep open."""

    __slots__ = ("again", "asked", "good", "misses", "try_at", "way")

    def __init__(self) -> None:
        self.asked: _Asked | None = None
        #: the silence that was answered; 0: the configured interval holds
        self.good = 0
        self.misses = 0
        #: when a longer one may be tried, and how long to wait should it fail
        self.try_at, self.again = 0, AGAIN
        #: (remote, local) that all of this is about
        self.way: tuple[Endpoint | None, Endpoint | None] = None, None

    def begin(self) -> None:
        """Routers may be others."""
        self.asked = None
        self.good = self.misses = self.try_at = 0
        self.again = AGAIN

    def failed(self, now: int) -> None:
        self.try_at = now + self.again
        self.again = min(2 * self.again, AGAIN_MOST)


class Keeping(Guest):
    """Of all peers: both who asks and who answers."""

    frames = (FrameType.KEEP,)

    def __init__(self, host: Host) -> None:
        self._host = host
        self._speaking: set[PeerHandle] = set()
        self._kept: dict[PeerHandle, _Kept] = {}
        #: answers that are put off: when, and what
        self._owed: dict[PeerHandle, tuple[int, bytes]] = {}
        self._places: tuple[object, ...] = ()

    def interval(self, peer: PeerHandle) -> int:
        """Seconds of silence that were found to do no harm; 0: the configured interval holds."""
        kept = self._kept.get(peer)
        return kept.good if kept is not None else 0

    # peers and sessions

    def features(self, peer: PeerHandle) -> Feature:
        return Feature.ECHO

    def peer_removed(self, peer: PeerHandle) -> None:
        self._forget(peer)

    def offered(
        self, peer: PeerHandle, offer: Offer, before: int | None, fresh: bool, now: int
    ) -> None:
        if before is not None and before != offer.epoch:
            self._begin(peer)
        if offer.features & Feature.ECHO:
            self._speaking.add(peer)
        else:
            self._forget(peer)

    def became_plain(self, peer: PeerHandle, now: int) -> None:
        self._forget(peer)

    def _forget(self, peer: PeerHandle) -> None:
        self._begin(peer)
        self._speaking.discard(peer)
        self._kept.pop(peer, None)
        self._owed.pop(peer, None)

    # places

    def _begin(self, peer: PeerHandle) -> None:
        kept = self._kept.get(peer)
        if kept is not None:
            kept.begin()
            self._host.hush(peer, 0)

    def _all_anew(self) -> None:
        for peer in self._kept:
            self._begin(peer)
            self._host.rearm(peer)

    def endpoint_changed(self, peer: PeerHandle, now: int) -> None:
        kept, view = self._kept.get(peer), self._host.peer(peer)
        if kept is None:
            return
        remote, local = kept.way
        if remote != view.endpoint or (view.local and local and local != view.local):
            self._begin(peer)
        kept.way = view.endpoint, view.local or local

    def locals_changed(self, links: list[LocalLink], port: int, now: int) -> None:  # type: ignore[override]
        places = (tuple(links), port)
        if places != self._places:
            self._places = places
            self._all_anew()

    def woke(self, now: int) -> None:
        self._all_anew()

    # as who keeps the session

    def keepalive(self, peer: PeerHandle, now: int) -> bool:
        if peer not in self._speaking or not self._host.peer(peer).config.keepalive_adapts:
            return False
        kept = self._kept.get(peer)
        if kept is None:
            view, kept = self._host.peer(peer), _Kept()
            kept.way, self._kept[peer] = (view.endpoint, view.local), kept
        if kept.asked is not None:
            self._missed(peer, kept, now)
        seconds = self._next(peer, kept, now)
        if not seconds:
            return False
        self._ask(peer, kept, seconds, now)
        return True

    def _next(self, peer: PeerHandle, kept: _Kept, now: int) -> int:
        """The silence to ask for; 0: none, a keepalive will do."""
        longer = next((step for step in STEPS if step > kept.good), 0)
        if not longer or now < kept.try_at or kept.misses or not self._host.settled(peer):
            return kept.good
        others = [other for other in self._kept.items() if other[0] != peer]
        if not others or any(k.asked is not None and k.asked.seconds > k.good for _, k in others):
            return kept.good
        return longer

    def _ask(self, peer: PeerHandle, kept: _Kept, seconds: int, now: int) -> None:
        token = int.from_bytes(self._host.random(2), "little")
        kept.asked = _Asked(now, seconds, token)
        self._host.frame(peer, encode(What.ASK, seconds, token))
        self._host.hush(peer, now + seconds * NS_PER_S + GRACE)

    def _missed(self, peer: PeerHandle, kept: _Kept, now: int) -> None:
        assert kept.asked is not None
        tried, kept.asked = kept.asked.seconds, None
        if tried > kept.good:
            kept.failed(now)
            return
        kept.misses += 1
        if kept.misses >= MISSES:
            kept.good = kept.misses = 0
            kept.failed(now)
            self._host.renew(peer, now)  # or is it the peer that is gone?

    def _echoed(self, peer: PeerHandle, seconds: int, token: int, at: Arrival, now: int) -> None:
        kept = self._kept.get(peer)
        asked = kept.asked if kept is not None else None
        if kept is None or asked is None or (asked.seconds, asked.token) != (seconds, token):
            raise ControlError("keep_token")
        early = now < asked.at + seconds * NS_PER_S - GRACE
        kept.asked = None
        self._host.hush(peer, 0)
        if early or at.remote != self._host.peer(peer).endpoint:
            return  # it proves nothing
        kept.misses = 0
        if seconds > kept.good and self._host.silent_since(peer, asked.at + GRACE):
            kept.good, kept.again = seconds, AGAIN
        following = self._next(peer, kept, now)
        if following:
            self._ask(peer, kept, following, now)

    # what arrives

    def receive_frame(self, peer: PeerHandle, frame: bytes, arrival: Arrival, now: int) -> None:
        what, seconds, token = decode(frame)
        if what is What.ECHO:
            self._echoed(peer, seconds, token, arrival, now)
        else:
            self._owed[peer] = now + seconds * NS_PER_S, encode(What.ECHO, seconds, token)

    # time

    def peer_deadline(self, peer: PeerHandle) -> int | None:
        owed = self._owed.get(peer)
        return owed[0] if owed is not None else None

    def peer_timeout(self, peer: PeerHandle, now: int) -> None:
        owed = self._owed.get(peer)
        if owed is None or owed[0] > now:
            return
        del self._owed[peer]
        if self._host.speaks(peer):
            self._host.frame(peer, owed[1])
