"""The facade of the pure core: datagrams, facts and `now` in; events, transmits, a deadline out.

After every input drain `poll_event` first (a keypair must be installed before the response that
announces it is on its way), then `poll_transmit`, then re-arm one timer for `poll_timeout`. Before
`handle_timeout` pass a fresh `activity` of the peers that `due_peers` names.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

from whalescale.identity import PlainIdentity
from whalescale.protocol import bootstrap, messages, tai64n
from whalescale.protocol.control import ControlError
from whalescale.protocol.dialing import Dialer
from whalescale.protocol.gate import Gate
from whalescale.protocol.guest import Arrival, Guest, Part, PeerView
from whalescale.protocol.indices import IndexTable
from whalescale.protocol.inside import Inside
from whalescale.protocol.limits import Limits
from whalescale.protocol.messages import MessageError
from whalescale.protocol.noise import (
    HandshakeError,
    InitiatorHandshake,
    KeyPair,
    ResponderHandshake,
    TransportKeys,
)
from whalescale.protocol.offers import Offers
from whalescale.protocol.parts import PARTS
from whalescale.protocol.peer import Peer, Pending, Session, checked_keys
from whalescale.protocol.places import Endpoint, LocalLink, PeerHandle, Way
from whalescale.protocol.registry import Registry
from whalescale.protocol.takers import Takers
from whalescale.protocol.timers import TimerQueue
from whalescale.protocol.types import (
    Activity,
    EndpointChanged,
    Event,
    HandshakeCompleted,
    HandshakeGaveUp,
    HandshakeUnanswered,
    KeypairReady,
    KeypairsExpired,
    PeerConfig,
    PeerIdentified,
    PeerStatus,
    SendControl,
    SendKeepalive,
    Stranger,
    Transmit,
)

__all__ = ["Node", "PeerConfig", "PeerStatus"]

#: of so many initiations without an answer, one is followed by the question whether it is there
ASK_EVERY: Final = 4


_G = TypeVar("_G", bound=Guest)


class Node:
    """Every peer of one interface. Inputs naming a removed peer are ignored: they crossed it."""

    def __init__(
        self,
        identity: PlainIdentity,
        *,
        limits: Limits | None = None,
        random: Callable[[int], bytes],
        wall_clock: Callable[[], int],
        parts: Iterable[Part] = PARTS,
    ) -> None:
        """`random(n)`: n bytes fit for keys. `wall_clock()`: ns since 1970, for TAI64N.

        `parts`: make the guests, the machines beside the handshake (guest.py). ValueError: two of
        them take the same messages or frames, or what is the node's own.
        """
        self._limits = limits if limits is not None else Limits()
        self._random = random
        self._wall_clock = wall_clock
        self._static = KeyPair.from_private(identity.static_private)
        self._static_public = identity.static_public
        self._node_id = identity.node_id
        self._bootstrap_key = bootstrap.own_mac_key(identity.fingerprint, random)

        self._peers: dict[PeerHandle, Peer] = {}
        self._last_handle = 0
        self._registry = Registry(self._static, identity.static_public, identity.fingerprint)
        self._indices = IndexTable(random)
        self._by_nonce: dict[bytes, Peer] = {}

        self._timers = TimerQueue()
        self._events: deque[Event] = deque()
        self._transmits: deque[Transmit] = deque()
        self._gate = Gate(identity.static_public, self._limits, random, self._transmits)
        #: Every refused datagram, by reason (docs/wire.md lists them).
        self.drops: Counter[str] = Counter()
        self._inside = Inside()
        guests: list[Guest] = []
        self._dialer = Dialer(self._transmits, guests)
        host = _Host(self)
        self._offers = Offers(host, guests, plain=identity.node_id is None)
        guests.extend(part(host) for part in parts)
        self._guests: tuple[Guest, ...] = (self._offers, *guests)
        self._takers = Takers(self._guests, messages.LENGTHS)

    def guest(self, kind: type[_G]) -> _G:
        """The guest of this kind, for its own inputs. KeyError: the node has none."""
        for guest in self._guests:
            if isinstance(guest, kind):
                return guest
        raise KeyError(f"no {kind.__name__} among the parts")

    # peers

    def add_peer(
        self, config: PeerConfig, now: int, *, index_modulus: int = 1, index_residue: int = 0
    ) -> PeerHandle:
        """ValueError: a duplicate, our own or a low-order key, or a malformed config.

        Every receiver index of the peer will be congruent to `index_residue` modulo
        `index_modulus`: with several workers it says which one owns the session.
        """
        keys = checked_keys(config)
        self._registry.refuse_unusable(keys)
        self._last_handle += 1
        peer = Peer(self._last_handle, config, keys, self._limits)
        peer.index_modulus, peer.index_residue = index_modulus, index_residue
        peer.jitter = self._limits.jitter(self._random)
        self._peers[peer.handle] = peer
        self._registry.add(peer)
        if peer.endpoint is not None:
            self._events.append(EndpointChanged(peer.handle, peer.endpoint))
        if config.persistent_keepalive:
            self._start_persistent_keepalive(peer, now)
        for guest in self._guests:
            guest.peer_added(peer.handle, now)
        self._rearm(peer)
        return peer.handle

    def update_peer(self, peer: PeerHandle, config: PeerConfig, now: int) -> None:
        """Take a changed PSK, candidates or keepalive; sessions stay. KeyError: no such peer.

        ValueError: the config is malformed or of another key (remove and add the peer instead).
        """
        p = self._peers[peer]
        keys = checked_keys(config)
        for ours, theirs in (
            (p.static_public, keys.static_public),
            (p.node_id, keys.node_id),
            (p.fingerprint, keys.fingerprint),
        ):
            if ours is not None and theirs is not None and ours != theirs:
                raise ValueError("a peer's key cannot change; remove the peer and add the new one")
        old = p.config
        if keys.static_public is not None and p.static_public is None:
            if keys.fingerprint != p.fingerprint:
                raise ValueError("this key is not the one with the peer's fingerprint")
            self._registry.refuse_unusable(keys, p)
            self._identify(p, keys.static_public, keys.node_id)
        elif keys.fingerprint is not None and p.fingerprint is None:
            self._registry.refuse_unusable(keys, p)
            p.node_id, p.fingerprint = keys.node_id, keys.fingerprint
            self._registry.add(p)
        p.config = config
        if config.endpoints != old.endpoints and config.endpoints:
            p.contacts.configure(config.endpoints)
            for guest in self._guests:
                guest.peer_changed(peer, now)
            # An endpoint that carries a session is worth more than a newly written one.
            if p.endpoint not in config.endpoints and not p.has_usable_session(now):
                self._choose_endpoint(p, config.endpoints[0], now)
        if config.persistent_keepalive and not old.persistent_keepalive:
            self._start_persistent_keepalive(p, now)
        self._rearm(p)

    def remove_peer(self, peer: PeerHandle, now: int) -> None:
        """KeyError: no such peer."""
        p = self._peers.pop(peer)
        self._registry.remove(p)
        self._drop_pending(p)
        self._forget_nonce(p)
        self._indices.free(p.drop_sessions())
        self._timers.set(peer, None)
        for guest in self._guests:
            guest.peer_removed(peer)
        self._events.append(KeypairsExpired(peer))

    def set_endpoint(self, peer: PeerHandle, endpoint: Endpoint, now: int) -> None:
        """Where the user says the peer is. KeyError: no such peer."""
        p = self._peers[peer]
        self._choose_endpoint(p, endpoint, now)
        self._rearm(p)

    def set_inside(self, inside: Inside, now: int) -> None:
        """Where no peer can be, whoever says so; what the user says goes."""
        self._inside = inside
        for guest in self._guests:
            guest.inside_changed(inside, now)

    def peer_status(self, peer: PeerHandle) -> PeerStatus:
        """KeyError: no such peer."""
        return self._peers[peer].status(extended=self._offers.framed(peer))

    @property
    def peers(self) -> tuple[PeerHandle, ...]:
        return tuple(self._peers)

    def find_peer(self, static_public: bytes) -> PeerHandle | None:
        """The peer with this X25519 key, once it is known."""
        peer = self._registry.get(static_public)
        return peer.handle if peer is not None else None

    @property
    def under_load(self) -> bool:
        """As of the last input. Setting it overrides the rule of cookie.py."""
        return self._gate.under_load

    @under_load.setter
    def under_load(self, value: bool) -> None:
        self._gate.under_load = value

    # inputs

    def receive_datagram(
        self,
        data: bytes,
        remote: Endpoint,
        local: Endpoint | None,
        now: int,
        *,
        admitted: bool = False,
    ) -> bool:
        """A handshake, cookie or bootstrap message. What is refused is counted in `drops`.

        `admitted`: the data plane has checked mac1 and applied the under-load rule (packet/gate.h).
        Returns whether it was taken: it is a peer's.
        """
        if self._inside.holds(remote.ip):
            self.drops["inside"] += 1
            return False
        try:
            kind = messages.message_type(data, self._takers.lengths)
            guest = self._takers.of_message(kind)
            if guest is not None:
                guest.receive_message(data, remote, local, now)
                return True
            if not admitted and kind in (messages.INITIATION, messages.RESPONSE):
                self._gate.check_mac1(data)
            if kind == messages.INITIATION:
                if not admitted:
                    self._gate.admit(data, remote, local, now)
                self._receive_initiation(data, remote, local, now)
            elif kind == messages.RESPONSE:
                self._receive_response(data, remote, local, now, admitted=admitted)
            elif kind == messages.COOKIE_REPLY:
                self._receive_cookie_reply(data, remote, local, now)
            elif kind == messages.BOOTSTRAP_REQUEST:
                self._receive_bootstrap_request(data, remote, local, now)
            else:
                self._receive_bootstrap_reply(data, remote, local, now)
        except MessageError as refusal:
            self.drops[refusal.reason] += 1
            return False
        except HandshakeError:
            self.drops["handshake"] += 1
            return False
        return True

    def receive_control(
        self,
        peer: PeerHandle,
        frame: bytes,
        now: int,
        *,
        path: int = 0,
        remote: Endpoint | None = None,
        local: Endpoint | None = None,
        datagram_bytes: int = 0,
    ) -> None:
        """A control frame from inside the peer's session. Never raises on hostile bytes.

        `path`: the peer's number of the path that it came by, from `remote` to `local`.
        `datagram_bytes`: UDP payload that it came in.
        """
        p = self._peers.get(peer)
        if p is None:
            return
        at = (p.endpoint, p.local) if remote is None else (remote, local)
        try:
            guest = self._takers.of_frame(frame)
            guest.receive_frame(peer, frame, Arrival(path, *at, datagram_bytes), now)
        except ControlError as refusal:
            self.drops[str(refusal)] += 1
        self._rearm(p)

    def due_peers(self, now: int, most: int | None = None) -> tuple[PeerHandle, ...]:
        """Peers whose timers `handle_timeout` would look at: refresh their `activity` first.

        The earliest `most` of them, None: all.
        """
        due = self._timers.pop_due(now, most)
        for handle in due:
            self._rearm(self._peers[handle])
        return tuple(due)

    def handle_timeout(self, now: int, peers: Iterable[PeerHandle] | None = None) -> None:
        """Call when `poll_timeout` is up; too early or too late does no harm.

        Only of these `peers`, None: of all that are due. Those left stay due.
        """
        self._gate.handle_timeout(now)
        for guest in self._guests:
            at = guest.deadline()
            if at is not None and at <= now:
                guest.handle_timeout(now)
        for handle in self._timers.pop_due(now) if peers is None else peers:
            peer = self._peers[handle]
            self._run_timers(peer, now)
            self._rearm(peer)

    def want_handshake(self, peer: PeerHandle, now: int) -> None:
        """The data plane has packets but no usable key, or a key that is due for renewal."""
        p = self._peers.get(peer)
        if p is not None:
            self._begin(p, now)
            self._rearm(p)

    def begin_anew(self, now: int) -> None:
        """End all sessions and begin others: this machine was put back to an earlier state, where
        counters of theirs had been used already."""
        for peer in self._peers.values():
            self._drop_pending(peer)
            if peer.current is None and peer.next is None and peer.previous is None:
                continue
            self._end_session(peer, now)
            peer.attempts = 0
            peer.handshake_at = None
            self._begin(peer, now)
            self._rearm(peer)

    def keypair_confirmed(self, peer: PeerHandle, local_index: int, now: int) -> None:
        """The initiator has used the keypair that our response made."""
        p = self._peers.get(peer)
        if p is None or p.next is None or p.next.local_index != local_index:
            return
        self._indices.free(p.confirm())
        self._complete(p, None, now)
        self._rearm(p)

    def endpoint_observed(
        self, peer: PeerHandle, remote: Endpoint, local: Endpoint | None, now: int
    ) -> None:
        """The data plane followed an authenticated packet; it knows, so no event answers this."""
        p = self._peers.get(peer)
        if p is not None and not self._inside.holds(remote.ip):
            p.endpoint, p.local, p.contacts.ifindex = remote, local, 0
            p.contacts.seen(remote, now)
            self._endpoint_changed(p, now)
            self._rearm(p)

    def set_locals(self, links: Sequence[LocalLink], port: int, now: int) -> None:
        """Every address of this host that UDP may leave from, and our UDP port.

        Handshakes under way begin anew where they are others now.
        """
        peers = self._peers.values()
        if self._dialer.set_locals(links, port):
            for p in self._dialer.lost(peers):
                if p.endpoint is not None and not any(g.steers(p.handle) for g in self._guests):
                    p.local, p.contacts.ifindex = None, 0
                    self._events.append(EndpointChanged(p.handle, p.endpoint))
            for p in peers:
                if p.contacts.dialling:
                    p.contacts.again(now)
                    self._rearm(p)
        for guest in self._guests:
            guest.locals_changed(links, port, now)

    def activity(self, peer: PeerHandle, activity: Activity, now: int) -> None:
        """A newer sample of what the data plane saw."""
        p = self._peers.get(peer)
        if p is not None and p.activity != activity:
            p.activity = activity
            self._rearm(p)

    # outputs

    def poll_transmit(self) -> Transmit | None:
        return self._transmits.popleft() if self._transmits else None

    def poll_event(self) -> Event | None:
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> int | None:
        times = [self._timers.next(), *(guest.deadline() for guest in self._guests)]
        return min((at for at in times if at is not None), default=None)

    # timers

    def _rearm(self, peer: Peer) -> None:
        at = peer.deadline()
        for guest in self._guests:
            own = guest.peer_deadline(peer.handle)
            if own is not None and (at is None or own < at):
                at = own
        self._timers.set(peer.handle, at)

    def _run_timers(self, peer: Peer, now: int) -> None:
        if peer.zero_at is not None and peer.zero_at <= now:
            if peer.handshake_at is None:
                self._drop_pending(peer)
            self._end_session(peer, now)
        for guest in self._guests:
            guest.peer_timeout(peer.handle, now)
        passive, new_handshake, persistent = peer.due(now)
        if passive:
            peer.keepalive_sent = now
            self._keepalive(peer, now)
        if new_handshake:
            peer.last_new_handshake = now
            peer.jitter = self._limits.jitter(self._random)
            peer.local = None  # the source address may be what is wrong
            self._begin(peer, now)
        if persistent:
            self._persistent_keepalive(peer, now)
        if peer.take_over(now):
            self._begin(peer, now)
            self._renew(peer, now)  # where the one before was a moment ago
        if peer.handshake_at is not None and peer.handshake_at <= now:
            self._retransmit(peer, now)
        self._dialer.step(peer, now)
        if peer.ask_at is not None and peer.ask_at <= now:
            self._ask(peer, now)

    def _end_session(self, peer: Peer, now: int) -> None:
        """Every key of it is zeroed."""
        peer.zero_at = None
        self._indices.free(peer.drop_sessions())
        self._events.append(KeypairsExpired(peer.handle))
        for guest in self._guests:
            guest.session_ended(peer.handle, now)

    def _start_persistent_keepalive(self, peer: Peer, now: int) -> None:
        """A handshake is left to the timer: thousands may be added at once."""
        if peer.has_usable_session(now):
            self._persistent_keepalive(peer, now)
            return
        peer.persistent_fired = now
        if peer.handshake_at is None:
            peer.handshake_at = now

    def _persistent_keepalive(self, peer: Peer, now: int) -> None:
        peer.persistent_fired = now
        self._keepalive(peer, now)

    def _keepalive(self, peer: Peer, now: int) -> None:
        if peer.has_usable_session(now):
            self._events.append(SendKeepalive(peer.handle))
        else:
            self._begin(peer, now)

    # initiating

    def _begin(self, peer: Peer, now: int) -> None:
        """Something wants a handshake: a new count of attempts, at most one per REKEY_TIMEOUT."""
        if peer.attempts and peer.handshake_at is not None:
            # Already trying; WireGuard then counts its attempts from here.
            peer.attempts = 1
            return
        peer.attempts = 0
        sent = peer.handshake_sent
        if sent is not None and 0 <= now - sent < self._limits.rekey_timeout:
            if not peer.has_usable_session(now):
                peer.handshake_at = sent + self._retransmit_delay()
            return
        self._initiate(peer, now)

    def _renew(self, peer: Peer, now: int) -> None:
        """The keypair in use is of no use: another, as soon as REKEY_TIMEOUT allows."""
        if peer.handshake_at is None:
            peer.attempts = 0
            sent = peer.handshake_sent
            peer.handshake_at = now if sent is None else max(now, sent + self._retransmit_delay())

    def _retransmit(self, peer: Peer, now: int) -> None:
        if peer.attempts >= self._limits.max_handshake_attempts:
            self._give_up(peer, now)
            return
        sent = peer.handshake_sent
        if sent is not None and 0 <= now - sent < self._limits.rekey_timeout:
            # We answered the peer's own initiation meanwhile; give that one its time.
            peer.handshake_at = sent + self._retransmit_delay()
            return
        peer.local = None
        self._initiate(peer, now)

    def _give_up(self, peer: Peer, now: int) -> None:
        peer.attempts = 0
        peer.handshake_at = None
        self._drop_pending(peer)
        self._forget_nonce(peer)
        if peer.zero_at is None and (peer.current or peer.next or peer.previous):
            peer.zero_at = now + self._limits.zero_keys_after
        self._events.append(HandshakeGaveUp(peer.handle))

    def _retransmit_delay(self) -> int:
        return self._limits.rekey_timeout + self._limits.jitter(self._random)

    def _initiate(self, peer: Peer, now: int, to: Way | None = None) -> None:
        """Message 1 (or a bootstrap request) to the peer's contacts, `to` before all."""
        peer.attempts += 1
        peer.unanswered += 1
        if peer.unanswered % (self._limits.max_handshake_attempts + 1) == 0:
            self._events.append(HandshakeUnanswered(peer.handle))
        peer.handshake_at = now + self._retransmit_delay()
        if to is None and not self._dialer.ways(peer):
            return  # the attempts run out, unless an endpoint turns up
        peer.handshake_sent = now
        if peer.unanswered_since is None:
            peer.unanswered_since = now
        if peer.unanswered % ASK_EVERY == 1 and peer.fingerprint and peer.static_public:
            peer.ask_at = now + self._limits.ask_after
        if peer.static_public is None:
            data = self._bootstrap_request(peer)
        else:
            data = self._initiation(peer, now)
        self._dialer.dial(peer, data, now, to)

    def _initiation(self, peer: Peer, now: int) -> bytes:
        timestamp = tai64n.encode(self._wall_clock())
        if timestamp <= peer.timestamp_sent:
            timestamp = tai64n.after(peer.timestamp_sent)
        peer.timestamp_sent = timestamp
        handshake = InitiatorHandshake(
            self._static, peer.remote_key, peer.config.preshared_key, timestamp, self._random
        )
        self._drop_pending(peer)
        index = self._indices.new(peer)
        peer.pending = Pending(handshake, index, now)
        message = messages.encode_initiation(index, handshake.message)
        return peer.generator.add_macs(message, now, self._limits)

    def _receive_response(
        self, data: bytes, remote: Endpoint, local: Endpoint | None, now: int, *, admitted: bool
    ) -> None:
        response = messages.decode_response(data)
        peer = self._indices.get(response.receiver)
        pending = peer.pending if peer is not None else None
        if peer is None or pending is None or pending.local_index != response.receiver:
            raise MessageError("index")
        if now - pending.sent > self._limits.response_late:
            raise MessageError("late")
        if not admitted:
            self._gate.admit(data, remote, local, now)
        keys = pending.handshake.consume_response(response.noise)
        peer.pending = None  # its index lives on in the session
        peer.handshake_received = now
        way, sent = peer.contacts.dialled(remote, local) or (None, pending.sent)
        peer.contacts.hang_up()
        self._roam(peer, remote, local, now, way.ifindex if way is not None else 0)
        session = Session(pending.local_index, now, initiator=True)
        self._indices.free(peer.install_as_initiator(session))
        self._session_derived(peer, session, response.sender, keys, now)
        self._complete(peer, now - sent, now)
        # Shows the responder that we hold the key; what was staged does it as well.
        self._events.append(SendKeepalive(peer.handle))
        self._rearm(peer)

    def _receive_cookie_reply(
        self, data: bytes, remote: Endpoint, local: Endpoint | None, now: int
    ) -> None:
        reply = messages.decode_cookie_reply(data)
        peer = self._indices.get(reply.receiver)
        if peer is None:
            raise MessageError("index")
        # Kept for the next retransmission: the whitepaper forbids sending at once (5.4.7).
        if not peer.generator.consume_reply(reply, now):
            raise MessageError("cookie")
        peer.contacts.answered(remote, local)  # the cookie is good on this way only

    # responding

    def _receive_initiation(
        self, data: bytes, remote: Endpoint, local: Endpoint | None, now: int
    ) -> None:
        initiation = messages.decode_initiation(data)
        handshake = ResponderHandshake(self._static, initiation.noise, self._random)
        found = self._registry.of_static(handshake.remote_static)
        if found is None:
            self._events.append(Stranger(handshake.remote_static, remote))
            raise MessageError("unknown_peer")
        peer, identified = found
        if handshake.timestamp <= peer.timestamp_received:
            raise MessageError("replay")
        consumed = peer.initiation_consumed
        if consumed is not None and 0 <= now - consumed < self._limits.handshake_initiation_rate:
            raise MessageError("flood")
        noise, keys = handshake.create_response(peer.config.preshared_key)
        peer.timestamp_received = handshake.timestamp
        peer.initiation_consumed = now
        if identified is not None:
            self._identify(peer, handshake.remote_static, identified)
        # Both initiated at once. WireGuard drops its own attempt on either side, and both wait for
        # REKEY_TIMEOUT; here the side with the greater key keeps its own as well, and it wins.
        if peer.pending is not None and self._static_public < handshake.remote_static:
            self._drop_pending(peer)
        peer.handshake_received = peer.handshake_sent = now
        ifindex = 0
        if peer.next is not None and not peer.contacts.ifindex:
            # Our last answer made no session. Not where the routing table says, then: back by the
            # interface that this came in by.
            ifindex = self._dialer.interface_of(local)
        self._roam(peer, remote, local, now, ifindex)
        session = Session(self._indices.new(peer), now, initiator=False)
        self._indices.free(peer.install_as_responder(session))
        self._session_derived(peer, session, initiation.sender, keys, now)
        message = messages.encode_response(session.local_index, initiation.sender, noise)
        message = peer.generator.add_macs(message, now, self._limits)
        self._transmits.append(Transmit(message, remote, local, ifindex))
        self._rearm(peer)

    # bootstrap

    def _ask(self, peer: Peer, now: int) -> None:
        """No session came: is it there? A node tells that also to whom it does not know."""
        peer.ask_at = None
        wanted = peer.unanswered and peer.answered_by is None and not peer.has_usable_session(now)
        if wanted and peer.endpoint is not None and peer.static_public is not None:
            self._transmits.append(Transmit(self._bootstrap_request(peer), peer.endpoint))

    def _bootstrap_request(self, peer: Peer) -> bytes:
        assert peer.fingerprint is not None
        if peer.nonce is None:
            # One nonce for all attempts: a late reply to the first is as good.
            peer.nonce = bootstrap.new_nonce(self._random)
            self._by_nonce[peer.nonce] = peer
        return bootstrap.encode_request(peer.fingerprint, peer.nonce)

    def _receive_bootstrap_request(
        self, data: bytes, remote: Endpoint, local: Endpoint | None, now: int
    ) -> None:
        if self._node_id is None:
            raise MessageError("bootstrap_mac")
        reply = bootstrap.answer_request(data, self._bootstrap_key, self._node_id, remote)
        self._gate.admit_bootstrap(remote, now)
        self._transmits.append(Transmit(reply, remote, local))

    def _receive_bootstrap_reply(
        self, data: bytes, remote: Endpoint, local: Endpoint | None, now: int
    ) -> None:
        peer = self._by_nonce.get(bootstrap.nonce_of(data))
        if peer is None or peer.fingerprint is None:
            raise MessageError("bootstrap_nonce")
        reply = bootstrap.decode_reply(data, peer.fingerprint)
        if peer.static_public == reply.static_public:
            self._forget_nonce(peer)
            peer.observed, peer.answered_by = reply.observed, remote
            return
        if self._registry.taken(reply.static_public):
            raise MessageError("bootstrap_duplicate")
        peer.observed = reply.observed
        self._identify(peer, reply.static_public, reply.node_id)
        peer.answered_by = remote
        peer.attempts = 0
        way, _ = peer.contacts.dialled(remote, local) or (Way(remote), now)
        self._initiate(peer, now, to=way)
        self._rearm(peer)

    def _identify(self, peer: Peer, static_public: bytes, node_id: bytes | None) -> None:
        """A peer known by fingerprint alone has a key from here on."""
        self._forget_nonce(peer)
        peer.static_public, peer.node_id = static_public, node_id
        self._registry.add(peer)
        if node_id is not None:
            self._events.append(PeerIdentified(peer.handle, node_id))

    # what the ways above share

    def _session_derived(
        self, peer: Peer, session: Session, remote_index: int, keys: TransportKeys, now: int
    ) -> None:
        peer.zero_at = now + self._limits.zero_keys_after
        self._events.append(
            KeypairReady(
                peer=peer.handle,
                local_index=session.local_index,
                remote_index=remote_index,
                send_key=keys.send,
                receive_key=keys.receive,
                initiator=session.initiator,
                created=now,
            )
        )

    def _complete(self, peer: Peer, round_trip: int | None, now: int) -> None:
        peer.attempts = peer.unanswered = 0
        peer.handshake_at = peer.ask_at = peer.unanswered_since = peer.answered_by = None
        self._forget_nonce(peer)
        # One of ours that crossed the peer's: whoever held it back could complete it at any time.
        self._drop_pending(peer)
        peer.contacts.hang_up()
        peer.last_handshake_wall_ns = self._wall_clock()
        if round_trip is not None:
            peer.round_trip = round_trip
        initiator = round_trip is not None
        self._events.append(HandshakeCompleted(peer.handle, initiator, round_trip))
        for guest in self._guests:
            guest.session_started(peer.handle, now)

    def _roam(
        self, peer: Peer, remote: Endpoint, local: Endpoint | None, now: int, ifindex: int = 0
    ) -> None:
        """An authentic message came from `remote`: that is where the peer is."""
        peer.contacts.seen(remote, now)
        if any(guest.knows(peer.handle, remote, local) for guest in self._guests):
            return  # another of its paths; path 0 stays where it is
        if (peer.endpoint, peer.local, peer.contacts.ifindex) != (remote, local, ifindex):
            peer.endpoint, peer.local, peer.contacts.ifindex = remote, local, ifindex
            self._events.append(EndpointChanged(peer.handle, remote, local, ifindex))
            self._endpoint_changed(peer, now)

    def _endpoint_changed(self, peer: Peer, now: int) -> None:
        for guest in self._guests:
            guest.endpoint_changed(peer.handle, now)

    def _choose_endpoint(self, peer: Peer, endpoint: Endpoint, now: int) -> None:
        unreachable = peer.endpoint is None
        if peer.endpoint != endpoint:
            peer.endpoint, peer.local, peer.contacts.ifindex = endpoint, None, 0
            self._events.append(EndpointChanged(peer.handle, endpoint))
            self._endpoint_changed(peer, now)
        if unreachable and peer.handshake_at is not None:
            # A handshake was wanted while there was nowhere to send it.
            peer.attempts = 0
            self._initiate(peer, now)

    def _drop_pending(self, peer: Peer) -> None:
        if peer.pending is not None:
            self._indices.free([peer.pending.local_index])
            peer.pending = None
            peer.contacts.hang_up()

    def _forget_nonce(self, peer: Peer) -> None:
        if peer.nonce is not None:
            del self._by_nonce[peer.nonce]
            peer.nonce = None
            peer.contacts.hang_up()


class _Host:
    """What guests may use of their node (guest.py)."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.drops = node.drops
        self.random = node._random
        self.transmit = node._transmits.append
        self.event = node._events.append
        self.find_peer = node.find_peer

    @property
    def peers(self) -> tuple[PeerHandle, ...]:
        return self._node.peers

    def peer(self, peer: PeerHandle) -> PeerView:
        return self._node._peers[peer]

    def frame(self, peer: PeerHandle, frame: bytes) -> None:
        self.event(SendControl(peer, frame))

    def speaks(self, peer: PeerHandle) -> bool:
        return self._node._offers.speaks(peer)

    def offer(self, peer: PeerHandle, now: int) -> None:
        self._node._offers.offer(peer, now)

    def want(self, peer: PeerHandle, now: int) -> None:
        p = self._node._peers.get(peer)
        if p is not None and not p.has_usable_session(now):
            self._node._begin(p, now)
            self._node._rearm(p)

    def renew(self, peer: PeerHandle, now: int) -> None:
        p = self._node._peers.get(peer)
        if p is not None:
            self._node._renew(p, now)
            self._node._rearm(p)

    def move(self, peer: PeerHandle, remote: Endpoint, local: Endpoint | None) -> None:
        p = self._node._peers.get(peer)
        if p is not None:
            p.endpoint, p.local = remote, local
            self.event(EndpointChanged(peer, remote, local))

    def rearm(self, peer: PeerHandle) -> None:
        p = self._node._peers.get(peer)
        if p is not None:
            self._node._rearm(p)

    def drop(self, reason: str) -> None:
        self.drops[reason] += 1
