"""Handshakes of all peers: initiating, responding, sending again, giving up (whitepaper 5.4, 6).

What it decides falls out as events and messages in the core's queues; `at` of each peer's
`handshake` is its timer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from whalescale.protocol import messages, tai64n
from whalescale.protocol.core import Core
from whalescale.protocol.dialing import Dialer
from whalescale.protocol.gate import Gate
from whalescale.protocol.guest import Secret
from whalescale.protocol.keypairs import Session
from whalescale.protocol.limits import NS_PER_MS
from whalescale.protocol.messages import MessageError
from whalescale.protocol.noise import (
    HandshakeError,
    InitiatorHandshake,
    ResponderHandshake,
    TransportKeys,
)
from whalescale.protocol.peer import Answer, Peer, Pending
from whalescale.protocol.places import Endpoint, PeerHandle, Way
from whalescale.protocol.types import (
    HandshakeCompleted,
    HandshakeGaveUp,
    HandshakeUnanswered,
    KeypairReady,
    PostQuantum,
    SendKeepalive,
    Stranger,
    Transmit,
)

#: until an attempt that was wanted out of turn
ANEW_DELAY: Final = 100 * NS_PER_MS


class Carried(NamedTuple):
    """How a message came that another peer passed on: it has no address."""

    #: who sent it, as the carrier says
    peer: Peer
    carrier: PeerHandle
    reply: Callable[[bytes], None]


class Handshakes:
    """One for each node. It writes `peer.handshake` and `peer.keypairs`."""

    def __init__(self, core: Core, gate: Gate, dialer: Dialer) -> None:
        self._core = core
        self._gate = gate
        self._dialer = dialer

    # wanted

    def begin(self, peer: Peer, now: int) -> None:
        """Something wants a handshake: a new count of attempts, at most one per REKEY_TIMEOUT."""
        state = peer.handshake
        wanted, state.wanted = state.wanted, now
        if state.attempts and state.at is not None:
            # Already trying; WireGuard then counts its attempts from here.
            state.attempts = 1
            limits = self._core.limits
            anew = wanted is None or now - wanted > 2 * limits.rekey_timeout
            rested = now - (state.sent or 0) >= limits.anew_after
            if anew and rested and peer.node_id is not None:
                # Whoever wants it now shall not wait for what was in vain; what was just sent from
                # another address has its time for an answer.
                state.at, state.hurried = min(state.at, now + ANEW_DELAY), True
            return
        state.attempts = 0
        sent = state.sent
        if sent is not None and 0 <= now - sent < self._core.limits.rekey_timeout:
            if not peer.has_usable_session(now):
                state.at = sent + self._retransmit_delay()
            return
        self.initiate(peer, now)

    def renew(self, peer: Peer, now: int, at: int | None = None) -> None:
        """The keypair in use is of no use: another, as soon as REKEY_TIMEOUT allows, or then."""
        state = peer.handshake
        if at is not None:
            # Three times what the peer would take for a flood.
            last = max(state.sent or 0, state.consumed or 0, state.received or 0)
            state.attempts = 0
            state.at = max(at, last + 3 * self._core.limits.handshake_initiation_rate)
            state.hurried = True
        elif state.at is None:
            state.attempts = 0
            sent = state.sent
            state.at = now if sent is None else max(now, sent + self._retransmit_delay())

    def woke(self, peer: Peer, now: int) -> None:
        """The host slept, and routers on the way may have forgotten it: what was under way is
        begun anew, and a session that is kept open is proved by a new keypair.
        """
        state = peer.handshake
        if state.at is not None:
            state.attempts = 0
            state.at = min(state.at, now)
        elif peer.keypairs and peer.config.persistent_keepalive:
            self.renew(peer, now)

    def begin_anew(self, peer: Peer, now: int) -> None:
        """Whatever was under way is void."""
        peer.handshake.attempts = 0
        peer.handshake.at = None
        self.begin(peer, now)

    def soon(self, peer: Peer, now: int) -> None:
        """Left to the timer: thousands may be added at once."""
        if peer.handshake.at is None:
            peer.handshake.at = now

    def choose_endpoint(self, peer: Peer, endpoint: Endpoint, now: int) -> None:
        """Where the user says that the peer is."""
        unreachable = peer.endpoint is None
        if peer.endpoint != endpoint:
            self._core.point(peer, endpoint, None, now)
        if unreachable and not peer.at_rest and peer.handshake.at is not None:
            # A handshake was wanted while there was nowhere to send it.
            peer.handshake.attempts = 0
            self.initiate(peer, now)

    # time

    def handle_timeout(self, peer: Peer, now: int) -> None:
        if peer.handshake.at is not None and peer.handshake.at <= now:
            self._retransmit(peer, now)
        self._dialer.step(peer, now)

    def _retransmit(self, peer: Peer, now: int) -> None:
        state, limits = peer.handshake, self._core.limits
        if state.attempts >= limits.max_handshake_attempts:
            self._give_up(peer, now)
            return
        sent = state.sent
        if sent is not None and 0 <= now - sent < limits.rekey_timeout and not state.hurried:
            # We answered the peer's own initiation meanwhile; give that one its time.
            state.at = sent + self._retransmit_delay()
            return
        peer.local = None
        self.initiate(peer, now)

    def _give_up(self, peer: Peer, now: int) -> None:
        peer.handshake.attempts = 0
        peer.handshake.at = None
        self.drop_pending(peer)
        peer.contacts.hang_up()
        if peer.keypairs.zero_at is None and peer.keypairs:
            peer.keypairs.zero_at = now + self._core.limits.zero_keys_after
        self._core.events.append(HandshakeGaveUp(peer.handle))
        for guest in self._core.guests:
            guest.gave_up(peer.handle, now)

    def _retransmit_delay(self) -> int:
        return self._core.limits.rekey_timeout + self._core.limits.jitter(self._core.random)

    def drop_pending(self, peer: Peer) -> None:
        """No answer to our initiation counts any more."""
        if peer.handshake.pending is not None:
            self._core.indices.free([peer.handshake.pending.local_index])
            peer.handshake.pending = None
            peer.contacts.hang_up()

    # initiating

    def initiate(self, peer: Peer, now: int, to: Way | None = None) -> None:
        """Message 1, or what opens the way for one, to the peer's contacts, `to` before all."""
        state, limits = peer.handshake, self._core.limits
        state.hurried = False
        state.attempts += 1
        state.unanswered += 1
        if state.unanswered % (limits.max_handshake_attempts + 1) == 0:
            self._core.events.append(HandshakeUnanswered(peer.handle))
        state.at = now + self._retransmit_delay()
        carried = any(guest.reaches(peer.handle) for guest in self._core.guests)
        if to is None and not carried and not self._dialer.ways(peer):
            return  # the attempts run out, unless an endpoint turns up
        state.sent = now
        if state.unanswered_since is None:
            state.unanswered_since = now
        for guest in self._core.guests:
            guest.initiated(peer.handle, state.unanswered, now)
        data = (
            self._initiation(peer, now) if peer.static_public is not None else self._opening(peer)
        )
        if data is None:
            return
        self._dialer.dial(peer, data, now, to)
        for way in peer.contacts.punched(now):
            peer.contacts.also(way, now)
            self._core.transmits.append(Transmit(data, way.remote))
        if carried and peer.static_public is not None:
            for guest in self._core.guests:
                guest.carry(peer.handle, data, now)

    def punch(self, peer: Peer, remotes: Sequence[tuple[Endpoint, bool]], now: int) -> None:
        """The initiation under way goes there as well; another begins, if none is. With each place
        whether it may go there often."""
        if not peer.contacts.dialling:
            self.begin(peer, now)
        for remote, often in remotes:
            data = peer.contacts.also(Way(remote), now, again=often)
            if data is not None:
                self._core.transmits.append(Transmit(data, remote))

    def _opening(self, peer: Peer) -> bytes | None:
        """The key is not known yet."""
        said = (guest.opening(peer.handle) for guest in self._core.guests)
        return next((message for message in said if message is not None), None)

    def _initiation(self, peer: Peer, now: int) -> bytes:
        core, state = self._core, peer.handshake
        timestamp = tai64n.encode(core.wall_clock())
        if timestamp <= state.timestamp_sent:
            timestamp = tai64n.after(state.timestamp_sent)
        state.timestamp_sent = timestamp
        said = (guest.secret(peer.handle) for guest in core.guests)
        psk, tag = peer.config.preshared_key, 0
        if (secret := next((s for s in said if s is not None), None)) is not None:
            psk, tag = secret.psk, secret.tag
        handshake = InitiatorHandshake(
            core.static, peer.remote_key, psk, tai64n.mark(timestamp, tag), core.random
        )
        self.drop_pending(peer)
        index = core.indices.new(peer)
        state.pending = Pending(handshake, index, now, tag)
        self._indexed(peer, index, now)
        message = messages.encode_initiation(index, handshake.message)
        return peer.generator.add_macs(message, now, core.limits)

    def receive_carried(self, data: bytes, carried: Carried, now: int) -> None:
        """A message of the peer's that another one passed on, of the right length.

        MessageError, HandshakeError: refused. Who passed it on bounds how many there are: the
        gate's rules for strangers' addresses have no address to look at.
        """
        if data[0] == messages.COOKIE_REPLY:
            reply = messages.decode_cookie_reply(data)
            if self._core.indices.get(reply.receiver) is not carried.peer:
                raise MessageError("index")
            if not carried.peer.generator.consume_reply(reply, now):
                raise MessageError("cookie")
            return
        self._gate.check_mac1(data)
        if data[0] == messages.INITIATION:
            self._consume_initiation(data, None, carried, now)
        else:
            self._consume_response(data, None, carried, now, admitted=True)

    def receive_response(
        self, data: bytes, remote: Endpoint, local: Endpoint | None, now: int, *, admitted: bool
    ) -> None:
        """MessageError, HandshakeError: refused. `admitted`: the gate has been passed."""
        self._consume_response(data, (remote, local), None, now, admitted=admitted)

    def _consume_response(
        self,
        data: bytes,
        at: tuple[Endpoint, Endpoint | None] | None,
        carried: Carried | None,
        now: int,
        *,
        admitted: bool,
    ) -> None:
        """It came from `at`, or was carried."""
        response = messages.decode_response(data)
        peer = self._core.indices.get(response.receiver)
        pending = peer.handshake.pending if peer is not None else None
        if peer is None or pending is None or pending.local_index != response.receiver:
            raise MessageError("index")
        if carried is not None and carried.peer is not peer:
            raise MessageError("relay_source")
        if now - pending.sent > self._core.limits.response_late:
            raise MessageError("late")
        if at is not None and not admitted:
            self._gate.admit(data, *at, now)
        keys, tag = self._consume(peer, pending, response.noise)
        peer.handshake.pending = None  # its index lives on in the session
        peer.handshake.received = now
        sent = pending.sent
        if at is not None:
            way, sent = peer.contacts.dialled(*at) or (None, sent)
            self._core.roam(peer, *at, now, way.ifindex if way is not None else 0)
        peer.contacts.hang_up()
        session = Session(pending.local_index, now, True, tag)
        self._core.indices.free(peer.keypairs.install_as_initiator(session))
        self._tell_carried(peer, carried, session, now)
        self._derived(peer, session, response.sender, keys, now)
        self._complete(peer, now - sent, now)
        # Shows the responder that we hold the key; what was staged does it as well.
        self._core.events.append(SendKeepalive(peer.handle))
        self._core.rearm(peer)

    @staticmethod
    def _consume(peer: Peer, pending: Pending, message: bytes) -> tuple[TransportKeys, int]:
        """The keys, and the tag of the secret in them. HandshakeError: not authentic."""
        try:
            return pending.handshake.consume_response(message), pending.secret
        except HandshakeError:
            if not pending.secret:
                raise
        # The peer has begun anew, and says so in the only way that it can.
        configured = peer.config.preshared_key
        return pending.handshake.consume_response(message, configured), 0

    def receive_cookie_reply(
        self, data: bytes, remote: Endpoint, local: Endpoint | None, now: int
    ) -> None:
        """MessageError: refused."""
        reply = messages.decode_cookie_reply(data)
        peer = self._core.indices.get(reply.receiver)
        if peer is None:
            raise MessageError("index")
        # Kept for the next retransmission: the whitepaper forbids sending at once (5.4.7).
        if not peer.generator.consume_reply(reply, now):
            raise MessageError("cookie")
        peer.contacts.answered(remote, local)  # the cookie is good on this way only

    # responding

    def receive_initiation(
        self, data: bytes, remote: Endpoint, local: Endpoint | None, now: int
    ) -> None:
        """MessageError, HandshakeError: refused. The gate has been passed."""
        self._consume_initiation(data, (remote, local), None, now)

    def _consume_initiation(
        self,
        data: bytes,
        at: tuple[Endpoint, Endpoint | None] | None,
        carried: Carried | None,
        now: int,
    ) -> None:
        """It came from `at`, or was carried."""
        core = self._core
        initiation = messages.decode_initiation(data)
        handshake = ResponderHandshake(core.static, initiation.noise, core.random)
        found = core.registry.of_static(handshake.remote_static)
        if found is None:
            if at is not None:
                core.events.append(Stranger(handshake.remote_static, at[0]))
            raise MessageError("unknown_peer")
        peer, identified = found
        if carried is not None and carried.peer is not peer:
            raise MessageError("relay_source")
        state = peer.handshake
        if handshake.timestamp <= state.timestamp_received:
            if self._answered_again(peer, handshake.timestamp, at, carried, now):
                return
            raise MessageError("replay")
        consumed = state.consumed
        if consumed is not None and 0 <= now - consumed < core.limits.handshake_initiation_rate:
            raise MessageError("flood")
        secret = self._named(peer, tai64n.tag_of(handshake.timestamp))
        psk, tag = (secret.psk, secret.tag) if secret else (peer.config.preshared_key, 0)
        noise, keys = handshake.create_response(psk)
        state.timestamp_received = handshake.timestamp
        state.consumed = now
        if identified is not None:
            core.identify(peer, handshake.remote_static, identified, now)
        # Both initiated at once. WireGuard drops its own attempt on either side, and both wait for
        # REKEY_TIMEOUT; here the side with the greater key keeps its own as well, and it wins.
        if state.pending is not None and core.static_public < handshake.remote_static:
            self.drop_pending(peer)
        state.received = state.sent = now
        ifindex = 0
        if at is not None:
            if peer.keypairs.next is not None and not peer.contacts.ifindex:
                # Our last answer made no session. Not where the routing table says, then: back by
                # the interface that this came in by.
                ifindex = self._dialer.interface_of(at[1])
            core.roam(peer, *at, now, ifindex)
        session = Session(core.indices.new(peer), now, False, tag)
        core.indices.free(peer.keypairs.install_as_responder(session))
        self._indexed(peer, session.local_index, now)
        self._tell_carried(peer, carried, session, now)
        self._derived(peer, session, initiation.sender, keys, now)
        message = messages.encode_response(session.local_index, initiation.sender, noise)
        message = peer.generator.add_macs(message, now, core.limits)
        if at is not None:
            core.transmits.append(Transmit(message, *at, ifindex))
        state.answer = None
        if carried is not None:
            state.answer = Answer(handshake.timestamp, session.local_index, message)
            carried.reply(message)
        core.rearm(peer)

    def _answered_again(
        self,
        peer: Peer,
        timestamp: bytes,
        at: tuple[Endpoint, Endpoint | None] | None,
        carried: Carried | None,
        now: int,
    ) -> bool:
        """A copy of a carried initiation came, by the carrier or as a punch: the answer may be
        lost, and is sent once more, the same bytes. Nobody roams by it, and it is shorter than what
        it answers."""
        state, following = peer.handshake, peer.keypairs.next
        answer = state.answer
        if answer is None or answer.timestamp != timestamp:
            return False
        if following is None or following.local_index != answer.local_index:
            return False
        sent, rate = state.sent or 0, self._core.limits.handshake_initiation_rate
        if 0 <= now - sent < rate or now - (state.consumed or 0) > self._core.limits.response_late:
            return False
        state.sent = now
        if carried is not None:
            carried.reply(answer.message)
        elif at is not None:
            self._core.transmits.append(Transmit(answer.message, *at))
        return True

    def _named(self, peer: Peer, tag: int) -> Secret | None:
        if not tag:
            return None
        said = (guest.secret_named(peer.handle, tag) for guest in self._core.guests)
        return next((secret for secret in said if secret is not None), None)

    def confirmed(self, peer: Peer, local_index: int, now: int) -> None:
        """The initiator has used the keypair that our response made."""
        following = peer.keypairs.next
        if following is not None and following.local_index == local_index:
            peer.handshake.answer = None
            self._core.indices.free(peer.keypairs.confirm())
            self._complete(peer, None, now)
            self._core.rearm(peer)

    # what the ways above share

    def _tell_carried(
        self, peer: Peer, carried: Carried | None, session: Session, now: int
    ) -> None:
        """Before the keys are handed out: what waits for them leaves at once, and where to is said
        here."""
        if carried is not None:
            for guest in self._core.guests:
                guest.session_carried(peer.handle, carried.carrier, session.local_index, now)

    def _indexed(self, peer: Peer, index: int, now: int) -> None:
        for guest in self._core.guests:
            guest.indexed(peer.handle, index, now)

    def _derived(
        self, peer: Peer, session: Session, remote_index: int, keys: TransportKeys, now: int
    ) -> None:
        peer.keypairs.zero_at = now + self._core.limits.zero_keys_after
        self._core.events.append(
            KeypairReady(
                peer=peer.handle,
                local_index=session.local_index,
                remote_index=remote_index,
                send_key=keys.send,
                receive_key=keys.receive,
                initiator=session.initiator,
                created=now,
                held=not session.secret and peer.config.post_quantum is PostQuantum.REQUIRE,
            )
        )

    def _complete(self, peer: Peer, round_trip: int | None, now: int) -> None:
        state = peer.handshake
        state.attempts = state.unanswered = 0
        state.at = state.unanswered_since = None
        state.hurried = False
        # One of ours that crossed the peer's: whoever held it back could complete it at any time.
        self.drop_pending(peer)
        peer.contacts.hang_up()
        state.completed_wall_ns = self._core.wall_clock()
        if round_trip is not None:
            state.round_trip = round_trip
        initiator = round_trip is not None
        self._core.events.append(HandshakeCompleted(peer.handle, initiator, round_trip))
        for guest in self._core.guests:
            guest.session_started(peer.handle, now)
