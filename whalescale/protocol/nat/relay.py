"""The relay as a guest of a node (docs/nat.md, "Relay"): as an anchor, and as who uses one.

As an anchor it keeps `Bindings` and says what the data plane is to do with them (`RelaySet`,
`RelayEnded`). As a member it binds its receiver indices at two anchors for every peer that it
speaks of paths with, and tells the peer's paths which ways lead over them (`Host.relays`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from whalescale.protocol.control import ControlError, Feature, Offer
from whalescale.protocol.guest import Arrival, Guest, Host
from whalescale.protocol.limits import NS_PER_MS, NS_PER_S
from whalescale.protocol.nat.bindings import Binding, Bindings
from whalescale.protocol.nat.relay_events import RelayEnded, RelaySet, RelaySettings, Use
from whalescale.protocol.nat.relay_frames import (
    LIFETIME_MOST,
    RELAY,
    Bind,
    Bound,
    Refusal,
    Refused,
    RelayFrame,
    decode,
    encode,
)
from whalescale.protocol.places import Endpoint, PeerHandle

#: bound at so many anchors at a time
ANCHORS: Final = 2
#: BINDs of one member that are looked at
BINDS_PER_S: Final = 20
BINDS_BURST: Final = 100
#: places of a member that its datagrams may come from
PLACES_MOST: Final = 8
#: without an answer
AGAIN: Final = 500 * NS_PER_MS
AGAIN_MOST: Final = 4 * NS_PER_S
TRIES: Final = 6
SILENT_FOR: Final = 60 * NS_PER_S
OFF_FOR: Final = 300 * NS_PER_S
ROOM_FOR: Final = 60 * NS_PER_S
#: an anchor loses sight for a moment when one of both has moved
UNKNOWN_FIRST: Final = NS_PER_S
UNKNOWN_MOST: Final = 120 * NS_PER_S
RESERVE_FIRST: Final = 10 * NS_PER_S
RESERVE_MOST: Final = 1800 * NS_PER_S
_CONTEXT: Final = b"whalescale relay"


class _Bucket:
    __slots__ = ("at", "tokens")

    def __init__(self, now: int) -> None:
        self.at, self.tokens = now, float(BINDS_BURST)

    def take(self, now: int) -> bool:
        grown = self.tokens + (now - self.at) * BINDS_PER_S / NS_PER_S
        self.tokens, self.at = min(grown, BINDS_BURST), now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


@dataclass(slots=True)
class _Asked:
    """One of our indices at one anchor."""

    due: int
    tries: int = 0
    #: None: not bound
    ends: int | None = None


@dataclass(slots=True)
class _At:
    """One anchor for one peer."""

    asked: dict[int, _Asked] = field(default_factory=dict)
    #: not asked before
    shut_until: int = 0
    #: times in a row that it knew the peer not
    unknown: int = 0

    @property
    def bound(self) -> bool:
        return any(k.ends is not None for k in self.asked.values())


@dataclass(slots=True)
class _Peer:
    """Whom we want to be able to hear over relays."""

    at: dict[PeerHandle, _At] = field(default_factory=dict)
    #: our receiver indices that it may write to
    indices: dict[int, None] = field(default_factory=dict)
    #: anchors that are asked, or bound
    chosen: tuple[PeerHandle, ...] = ()
    told: frozenset[tuple[Endpoint, Endpoint | None]] = frozenset()


def _nobody(_: bytes) -> bool:
    return False


class Relay(Guest):
    """Does nothing before `set_settings`."""

    frames = (RELAY,)

    def __init__(self, host: Host) -> None:
        self._host = host
        self._settings = RelaySettings(Use.NEVER, serve=False)
        self._bindings = Bindings(lambda index: host.holder(index) is not None, 0)
        self._buckets: dict[PeerHandle, _Bucket] = {}
        #: of node IDs: they belong to our network
        self._belongs: Callable[[bytes], bool] = _nobody
        self._ours = b""
        #: node IDs
        self._anchors: frozenset[bytes] = frozenset()
        #: by node ID: those with a session that takes frames
        self._here: dict[bytes, PeerHandle] = {}
        #: where anchors are
        self._places: dict[Endpoint, PeerHandle] = {}
        #: anchors that are asked nothing for a while
        self._shut: dict[PeerHandle, int] = {}
        #: those of them that answered nothing
        self._mute: set[PeerHandle] = set()
        #: peers that speak of paths
        self._spoken: set[PeerHandle] = set()
        #: anchors that were last seen reached directly
        self._serving: set[PeerHandle] = set()
        self._peers: dict[PeerHandle, _Peer] = {}

    # inputs

    def set_settings(self, settings: RelaySettings, now: int) -> None:
        """`[relay]`, also when it changes: what it no longer allows ends at once."""
        self._settings = settings
        self._bindings.members = settings.members
        if not settings.serve:
            for binding in self._bindings:
                self._ended(self._bindings.unbind(binding.index, binding.owner), Refusal.OFF)
        if settings.use is Use.NEVER:
            for peer in tuple(self._peers):
                self._forget(peer, now)
        else:
            for peer in self._spoken | self._peers.keys():
                self._consider(peer, now)

    def set_network(
        self,
        ours: bytes,
        belongs: Callable[[bytes], bool],
        anchors: Iterable[bytes],
        now: int,
    ) -> None:
        """Our node ID, who belongs to our network, and who are anchors; when it changes too."""
        self._ours, self._belongs = ours, belongs
        self._anchors = frozenset(anchors)
        for peer in self._spoken | self._peers.keys():
            self._consider(peer, now)
        for peer in tuple(self._peers):
            self._choose(peer, now)
        self._tell_places(now)

    def anchors_of(self, peer: PeerHandle) -> list[PeerHandle]:
        """Anchors that relay to us from the peer."""
        state = self._peers.get(peer)
        if state is None:
            return []
        return [a for a, at in state.at.items() if at.bound]

    def anchor_at(self, peer: PeerHandle, remote: Endpoint) -> PeerHandle | None:
        """The anchor that a path of the peer's with this far end leads over; None: none."""
        found = self._places.get(remote)
        return found if found != peer else None

    @property
    def bindings(self) -> tuple[Binding, ...]:
        """As an anchor: what is relayed."""
        return tuple(self._bindings)

    # peers and sessions

    def peer_removing(self, peer: PeerHandle, now: int) -> None:
        self._gone(peer, now)
        self._buckets.pop(peer, None)
        self._shut.pop(peer, None)
        self._mute.discard(peer)
        self._serving.discard(peer)

    def offered(
        self, peer: PeerHandle, offer: Offer, before: int | None, fresh: bool, now: int
    ) -> None:
        node_id = self._host.peer(peer).node_id
        if node_id is None:
            return
        self._here[node_id] = peer
        if fresh and peer in self._mute:
            # It was out of reach, or we were: it is asked again at once.
            self._mute.discard(peer)
            self._shut.pop(peer, None)
        if before is not None and before != offer.epoch:
            self._began_anew(peer, now)
        if offer.features & Feature.MULTIPATH:
            self._spoken.add(peer)
        self._consider(peer, now)
        if node_id in self._anchors:
            for other in tuple(self._peers):
                self._choose(other, now)
            self._tell_places(now)

    def became_plain(self, peer: PeerHandle, now: int) -> None:
        self._gone(peer, now)

    def _gone(self, peer: PeerHandle, now: int) -> None:
        """It has no session, or takes no frames any more."""
        node_id = self._host.peer(peer).node_id
        if node_id is not None:
            self._here.pop(node_id, None)
        self._spoken.discard(peer)
        self._ended(self._bindings.end(peer), Refusal.ENDED)
        self._forget(peer, now)
        for other in tuple(self._peers):
            if self._peers[other].at.pop(peer, None) is not None:
                self._choose(other, now)
        self._tell_places(now)

    def _began_anew(self, peer: PeerHandle, now: int) -> None:
        """The other agent is another one: it remembers no binding, and wants none of before."""
        self._ended(self._bindings.end(peer), None)
        self._shut.pop(peer, None)
        for other, state in self._peers.items():
            at = state.at.get(peer)
            if at is not None:
                at.shut_until = at.unknown = 0
                for index in at.asked:
                    at.asked[index] = _Asked(now)
                self._speak(other, now)

    def indexed(self, peer: PeerHandle, index: int, now: int) -> None:
        state = self._peers.get(peer)
        if state is not None:
            self._prune(state)
            state.indices[index] = None
            for at in state.at.values():
                if (
                    at.unknown and self._host.peer(peer).node_id not in self._anchors
                ):  # whoever makes a session now may have one there as well
                    at.shut_until = 0
            self._choose(peer, now)

    def session_started(self, peer: PeerHandle, now: int) -> None:
        if peer in self._peers:
            self._speak(peer, now)

    # handshakes that others carry: what they make needs bindings, and a place to send to

    def is_relay(self, peer: PeerHandle, remote: Endpoint) -> bool:
        return self.anchor_at(peer, remote) is not None

    def carry(self, peer: PeerHandle, message: bytes, now: int) -> None:
        self._consider(peer, now, called=True)

    def session_carried(
        self, peer: PeerHandle, carrier: PeerHandle, local_index: int, now: int
    ) -> None:
        """The datagrams go over who carried it, for there the peer has bound; else over the first
        anchor, which is the same for both ends. Where there are paths, those know better."""
        self._consider(peer, now, called=True)
        state = self._peers.get(peer)
        if state is None or peer in self._spoken:
            return
        bound = [a for a in state.chosen if state.at[a].bound]
        carried = [a for a in state.chosen if a == carrier]
        for anchor in (*carried, *bound, *state.chosen):
            for remote, local in self._host.ways(anchor)[:1]:
                self._host.move(peer, remote, local)
                return

    def _consider(self, peer: PeerHandle, now: int, *, called: bool = False) -> None:
        """Whether the peer is worth binding for."""
        view = self._host.peer(peer)
        node_id = view.node_id
        wanted = (
            self._settings.use is not Use.NEVER
            and node_id is not None
            and self._belongs(node_id)
            and (called or peer in self._peers or peer in self._spoken)
            and (node_id not in self._anchors or called or not self._reached(peer, now))
        )
        if not wanted:
            if peer in self._peers:
                self._forget(peer, now)
            return
        if peer not in self._peers:
            self._peers[peer] = _Peer(indices=dict.fromkeys(self._host.indices(peer)))
            self._choose(peer, now)

    def _reached(self, peer: PeerHandle, now: int) -> bool:
        """Directly, as far as we know: what is asked of anchors alone, which all others need."""
        return self._host.is_direct(peer, now) and not self._host.lost(peer)

    def _serves(self, peer: PeerHandle, now: int) -> bool:
        """There is a session to relay in. Who is reached over a relay alone has none: nothing goes
        over two."""
        return self._host.speaks(peer) and self._host.is_direct(peer, now)

    def _look(self, anchor: PeerHandle, now: int) -> None:
        """It is relayed by another one while no direct way to it works."""
        if self._serves(anchor, now) != (anchor in self._serving):
            self._serving ^= {anchor}
            for other in tuple(self._peers):
                self._choose(other, now)
        if self._reached(anchor, now):
            if anchor in self._peers:
                self._forget(anchor, now)
            return
        others = (h for n, h in self._here.items() if n in self._anchors and h != anchor)
        if anchor not in self._peers and any(self._reached(h, now) for h in others):
            self._consider(anchor, now, called=True)

    def _forget(self, peer: PeerHandle, now: int) -> None:
        state = self._peers.pop(peer, None)
        if state is None:
            return
        for anchor, at in state.at.items():
            self._release(anchor, at.asked)
        if state.told:
            self._host.relays(peer, (), now)

    # as a member: which anchors, and what they are asked

    def _choose(self, peer: PeerHandle, now: int) -> None:
        """In the order of the rank: until two are bound, two are asked at a time."""
        state, node_id = self._peers[peer], self._host.peer(peer).node_id
        assert node_id is not None
        chosen: list[PeerHandle] = []
        bound = asked = 0
        here = set()
        for anchor in sorted(self._anchors - {node_id, self._ours}, key=self._rank(node_id)):
            handle = self._here.get(anchor)
            if handle is None or not self._serves(handle, now):
                continue
            here.add(handle)
            at = state.at.setdefault(handle, _At())
            if max(at.shut_until, self._shut.get(handle, 0)) > now:
                continue
            if bound < ANCHORS and at.bound:
                bound += 1
                chosen.append(handle)
            elif bound < ANCHORS and asked < ANCHORS:
                asked += 1
                chosen.append(handle)
            else:
                self._release(handle, at.asked)
                at.asked = {}
        for handle in [a for a in state.at if a not in here]:
            self._release(handle, state.at.pop(handle).asked)
        state.chosen = tuple(chosen)
        self._speak(peer, now)

    def _rank(self, node_id: bytes) -> Callable[[bytes], bytes]:
        """By anchor, the same at both ends, another one for each pair."""
        ends = b"".join(sorted((self._ours, node_id)))
        return lambda anchor: hashlib.blake2s(_CONTEXT + ends + anchor, digest_size=8).digest()

    def _prune(self, state: _Peer) -> None:
        """Keypairs that are gone need nothing."""
        gone = {i for i in state.indices if self._host.holder(i) is None}
        for index in gone:
            del state.indices[index]
        for anchor, at in state.at.items():
            self._release(anchor, {i: at.asked.pop(i) for i in gone & at.asked.keys()})

    def _release(self, anchor: PeerHandle, asked: dict[int, _Asked]) -> None:
        node_id = b"\0" * 31 + b"\1"  # who it was bound for does not matter any more
        for index, known in asked.items():
            if known.ends is not None and self._host.speaks(anchor):
                self._host.frame(anchor, encode(Bind(index, node_id, 0)))

    def _speak(self, peer: PeerHandle, now: int) -> None:
        """Ask what is due of the anchors in use, in the order of the indices' making."""
        state, node_id = self._peers[peer], self._host.peer(peer).node_id
        assert node_id is not None
        for anchor in state.chosen:
            at = state.at[anchor]
            for index in state.indices:
                asked = at.asked.setdefault(index, _Asked(now))
                if asked.due > now:
                    continue
                if asked.tries >= TRIES:
                    self._silent(anchor, now)
                    return
                asked.due = now + min(AGAIN << asked.tries, AGAIN_MOST)
                asked.tries += 1
                self._host.frame(anchor, encode(Bind(index, node_id, LIFETIME_MOST)))
        self._tell(peer, now)
        self._host.rearm(peer)

    def _silent(self, anchor: PeerHandle, now: int, span: int = SILENT_FOR) -> None:
        """It is asked nothing for a while, by any peer's indices."""
        self._shut[anchor] = now + span
        if span == SILENT_FOR:
            self._mute.add(anchor)
        for peer, state in tuple(self._peers.items()):
            at = state.at.get(anchor)
            if at is not None:
                at.asked.clear()
                self._choose(peer, now)

    def _tell(self, peer: PeerHandle, now: int) -> None:
        """The ways to the peer that lead over anchors, where they are others now."""
        state = self._peers[peer]
        ways = frozenset(
            way for anchor, at in state.at.items() if at.bound for way in self._host.ways(anchor)
        )
        if ways != state.told:
            state.told = ways
            self._host.relays(peer, tuple(sorted(ways, key=str)), now)

    def _tell_places(self, now: int) -> None:
        """Which endpoints are anchors', and so nobody else's."""
        found = {
            remote: handle
            for node_id, handle in self._here.items()
            if node_id in self._anchors
            for remote, _ in self._host.ways(handle)
        }
        self._places = found
        self._host.anchors_are(found)

    # what arrives

    def receive_frame(self, peer: PeerHandle, frame: bytes, arrival: Arrival, now: int) -> None:
        found = decode(frame)
        if isinstance(found, Bind):
            self._asked(peer, found, now)
        else:
            self._answered(peer, found, now)

    def _asked(self, peer: PeerHandle, bind: Bind, now: int) -> None:
        """As an anchor."""
        bucket = self._buckets.setdefault(peer, _Bucket(now))
        if not bucket.take(now):
            raise ControlError("bind_rate")
        answer: RelayFrame
        node_id = self._host.peer(peer).node_id
        serves = self._settings.serve and node_id is not None and self._belongs(node_id)
        if not bind.seconds:
            self._ended(self._bindings.unbind(bind.index, peer), None)
            answer = Bound(bind.index, 0)
        elif not serves:
            answer = Refused(bind.index, Refusal.OFF)
        else:
            answer = self._bind(peer, bind, now)
        self._host.frame(peer, encode(answer))

    def _bind(self, peer: PeerHandle, bind: Bind, now: int) -> RelayFrame:
        sender = self._here.get(bind.member)
        if sender is None or sender == peer or not self._belongs(bind.member):
            return Refused(bind.index, Refusal.UNKNOWN)
        if not (self._serves(sender, now) and self._serves(peer, now)):
            return Refused(bind.index, Refusal.UNKNOWN)
        made = self._bindings.bind(bind.index, peer, sender, bind.seconds, now)
        if isinstance(made, Refusal):
            return Refused(bind.index, made)
        self._carry_out(made, now)
        return Bound(bind.index, (made.ends - now) // NS_PER_S)

    def _carry_out(self, binding: Binding, now: int) -> None:
        places = tuple(dict.fromkeys(r for r, _ in self._host.ways(binding.sender)))[:PLACES_MOST]
        ways = self._host.ways(binding.owner)
        if places and ways:
            remote, local = ways[0]
            most = self._host.narrow(binding.owner)
            self._host.event(
                RelaySet(
                    binding.owner,
                    binding.index,
                    binding.sender,
                    places,
                    remote,
                    local,
                    most,
                    binding.ends,
                )
            )

    def _ended(self, bindings: Iterable[Binding], why: Refusal | None) -> None:
        """`why`: the one who bound is told."""
        for binding in bindings:
            self._host.event(RelayEnded(binding.owner, binding.index))
            if why is not None and self._host.speaks(binding.owner):
                self._host.frame(binding.owner, encode(Refused(binding.index, why)))

    def ways_changed(self, peer: PeerHandle, now: int) -> None:
        """The peer is elsewhere, or also elsewhere."""
        if peer in self._here.values():
            self._tell_places(now)
        for binding in self._bindings.of(peer):
            self._carry_out(binding, now)
        if peer in self._here.values():
            for other, state in tuple(self._peers.items()):
                if peer in state.at:
                    self._tell(other, now)
            if self._host.peer(peer).node_id in self._anchors:
                self._look(peer, now)

    endpoint_changed = ways_changed

    def _answered(self, anchor: PeerHandle, answer: Bound | Refused, now: int) -> None:
        """As a member. What answers nothing that we asked is counted."""
        found = self._find(anchor, answer.index)
        if found is None:
            if isinstance(answer, Bound) and not answer.seconds:
                return
            raise ControlError("bind_unasked")
        peer, at, asked = found
        if isinstance(answer, Bound):
            if answer.seconds:
                span = answer.seconds * NS_PER_S
                asked.ends, asked.tries = now + span, 0
                asked.due = now + span // 2
                at.unknown = 0
            self._choose(peer, now)
        else:
            self._refused(peer, anchor, at, answer.index, answer.reason, now)
        self._host.rearm(peer)

    def _find(self, anchor: PeerHandle, index: int) -> tuple[PeerHandle, _At, _Asked] | None:
        peer = self._host.holder(index)
        state = self._peers.get(peer) if peer is not None else None
        at = state.at.get(anchor) if state is not None else None
        asked = at.asked.get(index) if at is not None else None
        return None if peer is None or at is None or asked is None else (peer, at, asked)

    def _refused(
        self, peer: PeerHandle, anchor: PeerHandle, at: _At, index: int, why: Refusal, now: int
    ) -> None:
        del at.asked[index]
        if why is Refusal.OFF:
            self._silent(anchor, now, OFF_FOR)
            return
        if why is Refusal.TAKEN:
            # Of this index alone: it is tried elsewhere, and the next one here again.
            at.asked[index] = _Asked(now + LIFETIME_MOST * NS_PER_S)
            self._tell(peer, now)
            return
        if why is Refusal.ROOM:
            at.shut_until = now + ROOM_FOR
        else:
            # Between anchors it is a way in reserve, and not worth asking for again and again.
            reserve = self._host.peer(peer).node_id in self._anchors
            first, most = (
                (RESERVE_FIRST, RESERVE_MOST) if reserve else (UNKNOWN_FIRST, UNKNOWN_MOST)
            )
            at.shut_until = now + min(first << at.unknown, most)
            at.unknown = min(at.unknown + 1, 8)
        at.asked.clear()
        self._choose(peer, now)

    # time

    def deadline(self) -> int | None:
        return self._bindings.deadline()

    def handle_timeout(self, now: int) -> None:
        self._ended(self._bindings.expire(now), None)

    def peer_deadline(self, peer: PeerHandle) -> int | None:
        state = self._peers.get(peer)
        if state is None or not state.indices:
            return None
        times = []
        for anchor, at in state.at.items():
            shut = max(at.shut_until, self._shut.get(anchor, 0))
            if at.asked:
                times += [max(k.due, shut) for k in at.asked.values()]
            elif shut:
                times.append(shut)
        return min(times, default=None)

    def peer_timeout(self, peer: PeerHandle, now: int) -> None:
        state = self._peers.get(peer)
        at = self.peer_deadline(peer)
        if state is None or at is None or at > now:
            return
        self._prune(state)
        for found in state.at.values():
            for index, asked in found.asked.items():
                if asked.ends is not None and asked.ends <= now:
                    found.asked[index] = _Asked(now)
        self._choose(peer, now)
