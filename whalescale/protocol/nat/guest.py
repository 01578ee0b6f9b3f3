"""Signalling and punching as a guest of a node (docs/nat.md).

As a carrier it passes members' messages on; as an end it calls a peer that has no direct way, and
both try each other's places at one time. Without a network (`give`) it takes part in nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

from whalescale.protocol import tai64n
from whalescale.protocol.buckets import Bucket
from whalescale.protocol.candidates import near, parse
from whalescale.protocol.control import ControlError, Offer
from whalescale.protocol.fresh import Fresh
from whalescale.protocol.guest import Arrival, Guest, Host
from whalescale.protocol.inside import Inside
from whalescale.protocol.limits import NS_PER_MS, NS_PER_S
from whalescale.protocol.nat import signalling
from whalescale.protocol.nat.carrying import Carrier
from whalescale.protocol.nat.meeting import LAST_BY, Meeting, Phase, begins_last
from whalescale.protocol.nat.punching import Budget
from whalescale.protocol.nat.signalling import (
    PLACES_MAX,
    RELAY_MESSAGE,
    TOKEN_BYTES,
    Call,
    Found,
    Kind,
    Message,
    Place,
    Refusal,
    Refused,
    Role,
    Sign,
    Verify,
    What,
)
from whalescale.protocol.places import Endpoint, LocalLink, PeerHandle, Standing

#: (a second, at once): from one carrier, from one sender
FROM_CARRIER: Final = (20, 60)
FROM_SENDER: Final = (5, 15)
#: calls of one peer that are answered: each has us send to where it says
CALLS: Final = (1 / 30, 3)
#: carriers that are tried for one peer
CARRIERS_MOST: Final = 4
#: carriers that one handshake message goes by at once
HANDSHAKE_CARRIERS: Final = 2
#: a carrier without a session with the peer is asked again so late
NO_WAY_FOR: Final = 10 * NS_PER_S
#: an answer of a carrier's is expected for so long
ASKED_FOR: Final = 5 * NS_PER_S
#: of one round
TRIED_MOST: Final = 6
#: between two attempts at anchors for the sake of others
HURRY_MOST: Final = NS_PER_S
#: what was just sent another way has its time for an answer
HURRY_AFTER: Final = 100 * NS_PER_MS
#: what waits for an answer for so long may have no way
SILENCE: Final = 2 * NS_PER_S
#: somebody wants a session: so long after the last initiation
WANTED_FOR: Final = 15 * NS_PER_S


@dataclass(frozen=True, slots=True)
class Membership:
    """What a network gives to signalling."""

    node_id: bytes
    #: of node IDs: an active member
    belongs: Callable[[bytes], bool]
    anchors: Callable[[], Collection[bytes]]
    sign: Sign
    verify: Verify
    #: ns since 1970, never before what it said last
    wall_clock: Callable[[], int]


class Signalling(Guest):
    """Of one node. `carrier.carries` and `handshakes` are settings."""

    frames = (RELAY_MESSAGE,)

    def __init__(self, host: Host) -> None:
        self._host = host
        self._network: Membership | None = None
        self.carrier = Carrier(host)
        #: handshake messages are carried: a relay will take the session's datagrams
        self.handshakes = False
        self.budget = Budget(self._may_punch)
        #: "rounds" of punching, and direct ways found: "met"
        self.counts: Counter[str] = Counter()
        #: those that take frames
        self._speaking: set[PeerHandle] = set()
        #: whose session was made by carried messages, and that were heard from nowhere since
        self._carried: set[PeerHandle] = set()
        #: members that there is a direct way to
        self._direct: set[PeerHandle] = set()
        #: initiations in a row without an answer
        self._tries: dict[PeerHandle, int] = {}
        #: when the last of them was sent, while there is no session from it
        self._calling: dict[PeerHandle, int] = {}
        self._meetings: dict[PeerHandle, Meeting] = {}
        self._from_carrier: dict[PeerHandle, Bucket] = {}
        self._from_sender: dict[PeerHandle, Bucket] = {}
        self._calls: dict[PeerHandle, Bucket] = {}
        #: (carrier, peer): when it was asked last, and until when it is known to have no way
        self._asked: dict[tuple[PeerHandle, PeerHandle], int] = {}
        self._no_way: dict[tuple[PeerHandle, PeerHandle], int] = {}
        self._links: tuple[LocalLink, ...] = ()
        self._port = 0
        self._mapped: tuple[tuple[str, Endpoint], ...] = ()
        self._inside = Inside()
        self._stamp = b""

    @property
    def fresh(self) -> Fresh:
        """Of the whole node."""
        return self._host.fresh

    def _may_punch(self, remote: Endpoint, now: int) -> bool:
        return self._host.fresh.allow(remote, now, punch=True)

    def give(self, network: Membership | None) -> None:
        """The network that we are a member of from here on."""
        self._network = network

    def looking_for(self) -> int:
        """Peers that a direct way is being looked for to."""
        busy = (Phase.CALLING, Phase.CALLED, Phase.PUNCHING)
        return sum(meeting.phase in busy for meeting in self._meetings.values())

    def phase_of(self, peer: PeerHandle) -> Phase:
        meeting = self._meetings.get(peer)
        return meeting.phase if meeting is not None else Phase.IDLE

    # peers

    def peer_changed(self, peer: PeerHandle, now: int) -> None:
        meeting = self._meetings.get(peer)
        if meeting is not None:
            meeting.anew()

    def peer_removed(self, peer: PeerHandle) -> None:
        self.carrier.forget(peer)
        self._speaking.discard(peer)
        self._carried.discard(peer)
        self._direct.discard(peer)
        for of in (
            self._meetings,
            self._from_carrier,
            self._from_sender,
            self._calls,
            self._tries,
            self._calling,
        ):
            of.pop(peer, None)
        for pairs in (self._asked, self._no_way):
            for pair in [p for p in pairs if peer in p]:
                del pairs[pair]

    def _member(self, node_id: bytes) -> PeerHandle | None:
        """The peer that is this active member."""
        if self._network is None or not self._network.belongs(node_id):
            return None
        return self._host.find_node(node_id)

    def _is_member(self, peer: PeerHandle) -> bool:
        node_id = self._host.node_of(peer)
        return node_id is not None and self._member(node_id) is not None

    # sessions

    def reaches(self, peer: PeerHandle) -> bool:
        return self._is_member(peer) and bool(self._carriers_of(peer, None))

    def initiated(self, peer: PeerHandle, tries: int, now: int) -> None:
        self._tries[peer], self._calling[peer] = tries, now
        if self._network is None or self._speaking or not self._is_member(peer):
            return
        # Nobody is there who could carry it: those that may are tried now too.
        anchors = self._network.anchors()
        for node_id in anchors if self._host.node_of(peer) not in anchors else ():
            anchor = self._host.find_node(node_id)
            if anchor is None or anchor == peer or now - self._calling.get(anchor, 0) < HURRY_MOST:
                continue
            if self._host.peer(anchor).config.persistent_keepalive:
                self._host.renew(anchor, now, at=now + HURRY_AFTER)

    def gave_up(self, peer: PeerHandle, now: int) -> None:
        self._calling.pop(peer, None)

    def carry(self, peer: PeerHandle, message: bytes, now: int) -> None:
        """A session with the peer is wanted: call it, beside dialling. One that has a direct way
        is renewed by that, unless nobody answers there."""
        if not self._is_member(peer):
            return
        heard = self._tries.get(peer) == 1 and self._host.unanswered(peer, now) < SILENCE
        if heard and self._host.is_direct(peer, now):
            return
        if self.handshakes:
            for carrier in self._carriers_of(peer, now)[:HANDSHAKE_CARRIERS]:
                self._send(carrier, peer, Kind.HANDSHAKE, message, now)
        meeting = self._meetings.setdefault(peer, Meeting())
        meeting.carry(message if self.handshakes else b"", now)
        meeting.wanted_at = now
        if meeting.may_call(now):
            self._call(peer, meeting, now)

    def session_carried(
        self, peer: PeerHandle, carrier: PeerHandle, local_index: int, now: int
    ) -> None:
        self._carried.add(peer)

    def endpoint_changed(self, peer: PeerHandle, now: int) -> None:
        """It was heard from there: a relay's place, or its own."""
        endpoint = self._host.peer(peer).endpoint
        if endpoint is not None and not self._host.is_relay(peer, endpoint):
            self._carried.discard(peer)
            self._look(peer, now)

    def is_direct(self, peer: PeerHandle, now: int) -> bool | None:
        return False if peer in self._carried else None

    def session_started(self, peer: PeerHandle, now: int) -> None:
        """The first, or a newer one: where a relay is all that it has, look for more."""
        self._calling.pop(peer, None)
        if peer in self._meetings:
            self._meetings[peer].carried = b""
        if self._look(peer, now) or not self._is_member(peer):
            return
        if self._host.is_direct(peer, now):
            return
        meeting = self._meetings.setdefault(peer, Meeting())
        if meeting.wanted_at is not None and meeting.may_call(now):
            self._call(peer, meeting, now)

    def ways_changed(self, peer: PeerHandle, now: int) -> None:
        """The last direct way may be gone: both look for another at once, and go on for as long as
        there is a session."""
        if self._host.is_direct(peer, now):
            self._direct.add(peer)
            return
        if peer not in self._direct or not self._host.peer(peer).has_usable_session(now):
            return
        self._direct.discard(peer)
        if not self._is_member(peer):
            return
        meeting = self._meetings.setdefault(peer, Meeting())
        meeting.worked = True
        if meeting.phase is Phase.IDLE:
            self._call(peer, meeting, now)
            self._host.rearm(peer)

    def session_ended(self, peer: PeerHandle, now: int) -> None:
        self._carried.discard(peer)
        self._direct.discard(peer)

    def offered(
        self, peer: PeerHandle, offer: Offer, before: int | None, fresh: bool, now: int
    ) -> None:
        if not self._host.speaks(peer) or peer in self._speaking:
            return
        self._speaking.add(peer)
        if not self._is_member(peer):
            return
        # Whoever is called in vain may be reached through this one.
        for other, tried in tuple(self._calling.items()):
            waits = now - tried < WANTED_FOR and not self._host.peer(other).has_usable_session(now)
            if other != peer and waits and self._is_member(other):
                self._host.renew(other, now, at=now + 1)

    def became_plain(self, peer: PeerHandle, now: int) -> None:
        self._speaking.discard(peer)

    def _look(self, peer: PeerHandle, now: int) -> bool:
        """Whether there is a direct way: then all is done."""
        meeting = self._meetings.get(peer)
        if meeting is None or not self._host.is_direct(peer, now):
            return False
        if meeting.phase in (Phase.CALLING, Phase.CALLED, Phase.PUNCHING):
            self.counts["met"] += 1
        meeting.met()
        return True

    # calling

    def _carriers_of(self, peer: PeerHandle, now: int | None) -> list[PeerHandle]:
        """Members with a session that may have one with the peer, anchors first. `now` None:
        those that said no, too."""
        network = self._network
        if network is None:
            return []
        anchors = network.anchors()
        found = [
            (self._host.node_of(handle) not in anchors, handle)
            for handle in self._speaking
            if handle != peer and network.belongs(self._host.node_of(handle) or b"")
        ]
        found.sort()
        chosen = [handle for _, handle in found]
        if now is not None:
            chosen = [h for h in chosen if self._no_way.get((h, peer), 0) <= now]
        return chosen[:CARRIERS_MOST]

    def _call(self, peer: PeerHandle, meeting: Meeting, now: int) -> None:
        carriers = self._carriers_of(peer, now)
        if not carriers or self._network is None:
            meeting.unanswered(now)
            return
        meeting.call(self._host.random(TOKEN_BYTES), carriers)
        meeting.answer = self._signed(peer, Role.CALL, meeting.token)
        self._call_again(peer, meeting, now)

    def _call_again(self, peer: PeerHandle, meeting: Meeting, now: int) -> None:
        carrier = meeting.next_carrier(now)
        if carrier is None:
            meeting.unanswered(now)
        else:
            self._send(carrier, peer, Kind.CALL, meeting.answer, now)

    def _signed(self, peer: PeerHandle, role: Role, token: bytes) -> bytes:
        assert self._network is not None
        stamp = tai64n.encode(self._network.wall_clock())
        self._stamp = stamp if stamp > self._stamp else tai64n.after(self._stamp)
        call = Call(role, self._stamp, token, self.places())
        receiver = self._host.node_of(peer)
        assert receiver is not None  # a member
        return signalling.encode_call(call, self._network.node_id, receiver, self._network.sign)

    def _send(
        self, carrier: PeerHandle, peer: PeerHandle, kind: Kind, payload: bytes, now: int
    ) -> None:
        node_id = self._host.node_of(peer)
        if node_id is None or not self._host.speaks(carrier):
            return
        self._asked[carrier, peer] = now
        frame = signalling.encode(Message(What.FORWARD, kind, node_id, payload))
        self._host.frame(carrier, frame)

    def places(self) -> tuple[Place, ...]:
        """Where we may be reached, best first: public and mapped ones, what others see, private
        ones, bridges of containers last."""
        found: dict[Endpoint, tuple[int, Place]] = {}
        spare = {link.ip for link in self._links if link.spare}
        links = [link for link in self._links if link.standing is not Standing.DEPRECATED]
        links.sort(key=lambda link: link.standing)
        told = [(Endpoint(link.ip, self._port), Found.INTERFACE) for link in links]
        told += [(endpoint, Found.MAPPED) for _, endpoint in self._mapped]
        told += [(seen.seen, Found.OBSERVED) for seen in self._host.observations()]
        for endpoint, kind in told:
            plain = Endpoint(endpoint.ip, endpoint.port)
            if endpoint.scope_id or not signalling.tellable(plain) or self._inside.holds(plain.ip):
                continue
            address = parse(plain.ip)
            public = address is not None and address.is_global
            worth = 4 if plain.ip in spare else kind - 1 if public else 3
            found.setdefault(plain, (worth, Place(plain, kind)))
        ordered = sorted(found.values(), key=lambda f: f[0])
        return tuple(place for _, place in ordered[:PLACES_MAX])

    # what arrives

    def receive_frame(self, peer: PeerHandle, frame: bytes, arrival: Arrival, now: int) -> None:
        message = signalling.decode(frame)
        if not self._is_member(peer):
            raise ControlError("relay_member")
        if isinstance(message, Refused):
            self._refused(peer, message, now)
        elif message.what is What.FORWARD:
            self.carrier.pass_on(peer, message, self._member, now)
        else:
            self._forwarded(peer, message, now)

    def _refused(self, carrier: PeerHandle, refused: Refused, now: int) -> None:
        peer = self._host.find_node(refused.node)
        asked = self._asked.pop((carrier, peer), None) if peer is not None else None
        if peer is None or asked is None or now - asked > ASKED_FOR:
            raise ControlError("relay_unasked")
        if refused.reason != Refusal.RATE:
            self._no_way[carrier, peer] = now + NO_WAY_FOR
        meeting = self._meetings.get(peer)
        if meeting is None or meeting.phase is not Phase.CALLING:
            return
        if carrier in meeting.carriers:
            meeting.carriers.remove(carrier)
        if meeting.carriers:
            self._call_again(peer, meeting, now)
        else:
            meeting.unanswered(now)
        self._host.rearm(peer)

    def _answering(self, carrier: PeerHandle, sender: PeerHandle, now: int) -> PeerHandle:
        """The carrier of our answer. The session's first packets come over the same anchor, so it
        has to be one that we have bound at: one that we have a direct way to."""
        if self._host.is_direct(carrier, now):
            return carrier
        others = self._carriers_of(sender, now)
        return next((other for other in others if self._host.is_direct(other, now)), carrier)

    def _forwarded(self, carrier: PeerHandle, message: Message, now: int) -> None:
        sender = self._member(message.node)
        if sender is None or sender == carrier:
            raise ControlError("relay_member")
        if not (
            self._from_carrier.setdefault(carrier, Bucket(*FROM_CARRIER)).take(now)
            and self._from_sender.setdefault(sender, Bucket(*FROM_SENDER)).take(now)
        ):
            raise ControlError("relay_rate")
        if message.kind == Kind.HANDSHAKE:
            signalling.check_handshake(message.payload)
            if not self.handshakes:
                raise ControlError("relay_none")

            def reply(data: bytes) -> None:
                over = self._answering(carrier, sender, now)
                self._send(over, sender, Kind.HANDSHAKE, data, now)

            self._host.carried(sender, carrier, message.payload, reply, now)
        elif message.kind == Kind.CALL:
            self._called(carrier, sender, message, now)
        elif message.kind == Kind.GO:
            self._go(sender, signalling.decode_go(message.payload), now)
        else:
            raise ControlError("relay_claim")
        self._host.rearm(sender)

    def _called(self, carrier: PeerHandle, sender: PeerHandle, message: Message, now: int) -> None:
        assert self._network is not None
        network = self._network
        call = signalling.decode_call(message.payload)
        known = self._meetings.get(sender)
        again = (
            known is not None
            and known.called
            and known.token == call.token
            and known.stamp == call.stamp
        )
        if again and known is not None and call.role is Role.CALL:
            # Our answer was lost, or it came by two carriers. Our round may have begun meanwhile.
            if known.phase in (Phase.CALLED, Phase.PUNCHING):
                self._send(carrier, sender, Kind.CALL, known.answer, now)
            return
        if known is not None and call.stamp <= known.stamp:
            raise ControlError("call_replay")
        if call.role is Role.ANSWER and (
            known is None or known.phase is not Phase.CALLING or known.token != call.token
        ):
            raise ControlError("call_token")
        if not signalling.is_signed(message.payload, message.node, network.node_id, network.verify):
            raise ControlError("call_signature")
        meeting = self._meetings.setdefault(sender, Meeting())
        meeting.stamp = call.stamp
        if call.role is Role.ANSWER:
            meeting.places, meeting.seen = call.places, message.seen
            self._send(carrier, sender, Kind.GO, meeting.token, now)
            self._begin(sender, meeting, meeting.answered(now))
            return
        if meeting.phase is Phase.CALLING and network.node_id < message.node:
            return  # both called: ours is the one that counts
        if not self._calls.setdefault(sender, Bucket(*CALLS)).take(now):
            raise ControlError("call_rate")
        meeting.places, meeting.seen = call.places, message.seen
        meeting.invited(call.token, self._signed(sender, Role.ANSWER, call.token), now)
        self._send(carrier, sender, Kind.CALL, meeting.answer, now)

    def _go(self, peer: PeerHandle, token: bytes, now: int) -> None:
        meeting = self._meetings.get(peer)
        if meeting is None or meeting.token != token:
            raise ControlError("call_token")
        if meeting.phase is Phase.CALLED or meeting.may_begin_again():
            self._begin(peer, meeting, now)
            self._punch(peer, meeting, now)

    def _tried(self, meeting: Meeting) -> tuple[tuple[Endpoint, bool], ...]:
        """(place, vouched) of a peer, best first."""
        seen = meeting.seen
        named = {place.endpoint.ip for place in meeting.places}
        public = {observed.seen.ip for observed in self._host.observations()}
        ours = {link.ip for link in self._links}
        neighbours = seen is not None and seen.ip in public | ours
        found: dict[Endpoint, tuple[int, bool]] = {}

        def add(endpoint: Endpoint, rank: int) -> None:
            if self._inside.holds(endpoint.ip) or endpoint.ip in ours:
                return
            vouched = seen is not None and endpoint == seen and seen.ip in named
            found.setdefault(endpoint, (rank, vouched))

        for place in meeting.places:
            address = parse(place.endpoint.ip)
            if address is None:
                continue
            if address.is_private:
                close = neighbours or any(near(ip, place.endpoint.ip) for ip in ours)
                add(place.endpoint, 0 if close else 4)
            elif place.endpoint == seen:
                add(place.endpoint, 1)
            else:
                add(place.endpoint, 2 if place.kind is Found.MAPPED else 3)
        if seen is not None:
            add(seen, 1)
        # IPv6 first of those that are as good.
        ordered = sorted(found.items(), key=lambda f: (f[1][0], ":" not in f[0].ip))
        return tuple((endpoint, vouched) for endpoint, (_, vouched) in ordered[:TRIED_MOST])

    # time

    def peer_deadline(self, peer: PeerHandle) -> int | None:
        meeting = self._meetings.get(peer)
        return meeting.at if meeting is not None else None

    def peer_timeout(self, peer: PeerHandle, now: int) -> None:
        meeting = self._meetings.get(peer)
        if meeting is None or meeting.at is None or meeting.at > now:
            return
        meeting.at = None
        if self._look(peer, now):
            return
        again = meeting.carry_again(now)
        for carrier in self._carriers_of(peer, now)[:1] if again else ():
            self._send(carrier, peer, Kind.HANDSHAKE, again, now)
        if meeting.phase is Phase.CALLING:
            self._call_again(peer, meeting, now)
        elif meeting.phase is Phase.CALLED:
            self._begin(peer, meeting, now)
            self._punch(peer, meeting, now)
        elif meeting.phase is Phase.PUNCHING:
            self._punch(peer, meeting, now)
        elif meeting.phase is Phase.RESTING and self._wanted(peer, meeting, now):
            self._call(peer, meeting, now)

    def _wanted(self, peer: PeerHandle, meeting: Meeting, now: int) -> bool:
        """Somebody waits for a session, or there is one by a relay alone."""
        if self._host.peer(peer).has_usable_session(now):
            return True
        return meeting.wanted_at is not None and now - meeting.wanted_at < WANTED_FOR

    def _begin(self, peer: PeerHandle, meeting: Meeting, start: int) -> None:
        other = self._host.node_of(peer)
        assert other is not None  # a member
        assert self._network is not None
        if begins_last(meeting.token, self._network.node_id < other):
            start += LAST_BY
        self.counts["rounds"] += meeting.phase is not Phase.PUNCHING
        meeting.begin(self._tried(meeting), start)

    def _punch(self, peer: PeerHandle, meeting: Meeting, now: int) -> None:
        if meeting.round is None:
            return
        self._host.punch(peer, meeting.round.take(self.budget, now), now)
        meeting.at = meeting.round.due_at
        if meeting.at is None:
            meeting.round_over(now)

    def woke(self, now: int) -> None:
        for meeting in self._meetings.values():
            meeting.anew()

    # places

    def locals_changed(self, links: Sequence[LocalLink], port: int, now: int) -> None:
        if (self._links, self._port) == (tuple(links), port):
            return
        self._links, self._port = tuple(links), port
        self._changed(now)

    def mapped_changed(self, mapped: Sequence[tuple[str, Endpoint]], now: int) -> None:
        if self._mapped != tuple(mapped):
            self._mapped = tuple(mapped)
            self._changed(now)

    def inside_changed(self, inside: Inside, now: int) -> None:
        self._inside = self.carrier.inside = inside

    def _changed(self, now: int) -> None:
        """What failed from where we were may work from here: call again who is wanted."""
        for peer, meeting in list(self._meetings.items()):
            meeting.anew()
            if meeting.phase is Phase.IDLE and self._wanted(peer, meeting, now):
                if not self._host.is_direct(peer, now):
                    self._call(peer, meeting, now)
                self._host.rearm(peer)
