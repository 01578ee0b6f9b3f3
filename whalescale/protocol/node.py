"""The facade of the pure core: datagrams, facts and `now` in; events, transmits, a deadline out.

After every input drain `poll_event` first (a keypair must be installed before the response that
announces it is on its way), then `poll_transmit`, then re-arm one timer for `poll_timeout`. Before
`handle_timeout` pass a fresh `activity` of the peers that `due_peers` names.

A switchboard: each input goes to the machine that it concerns. roster.py knows the peers,
handshake.py makes sessions, session_timers.py keeps them, guests (guest.py) do all else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from whalescale.identity import PlainIdentity
from whalescale.protocol import messages
from whalescale.protocol.asking import Bootstrap
from whalescale.protocol.control import ControlError
from whalescale.protocol.core import Core
from whalescale.protocol.dialing import Dialer
from whalescale.protocol.gate import Gate
from whalescale.protocol.guest import Arrival, Guest, Part
from whalescale.protocol.handshake import Handshakes
from whalescale.protocol.hosting import NodeHost
from whalescale.protocol.inside import Inside
from whalescale.protocol.limits import Limits
from whalescale.protocol.messages import MessageError
from whalescale.protocol.noise import HandshakeError
from whalescale.protocol.parts import PARTS
from whalescale.protocol.places import Endpoint, LocalLink, PeerHandle
from whalescale.protocol.roster import Roster, status
from whalescale.protocol.session_timers import SessionTimers
from whalescale.protocol.takers import Takers
from whalescale.protocol.types import (
    Activity,
    Event,
    PeerConfig,
    PeerSeen,
    PeerStatus,
    Transmit,
)

__all__ = ["Node", "PeerConfig", "PeerStatus"]

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
        limits = limits if limits is not None else Limits()
        self._core = core = Core(identity, limits, random, wall_clock)
        self._peers, self._registry, self._indices = core.peers, core.registry, core.indices
        #: Every refused datagram, by reason (docs/wire.md lists them).
        self.drops = core.drops
        self._inside = Inside()
        self._gate = Gate(identity.static_public, limits, random, core.transmits)
        self._dialer = Dialer(core.transmits, core.guests, core.fresh)
        self._handshakes = Handshakes(core, self._gate, self._dialer)
        self._sessions = SessionTimers(core, self._handshakes)
        self._roster = Roster(core, self._handshakes, self._sessions, self._dialer)
        host = NodeHost(core, self._handshakes, plain=identity.node_id is None)
        self._offers = host.offers
        self._bootstrap = Bootstrap(host, identity, limits)
        core.guests += [self._offers, self._bootstrap, *(part(host) for part in parts)]
        self._takers = Takers(core.guests, messages.OWN)

    def guest(self, kind: type[_G]) -> _G:
        """The guest of this kind, for its own inputs. KeyError: the node has none."""
        for guest in self._core.guests:
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
        return self._roster.add(config, now, index_modulus, index_residue)

    def update_peer(self, peer: PeerHandle, config: PeerConfig, now: int) -> None:
        """Take a changed PSK, candidates or keepalive; sessions stay. KeyError: no such peer.

        ValueError: the config is malformed or of another key (remove and add the peer instead).
        """
        self._roster.update(peer, config, now)

    def remove_peer(self, peer: PeerHandle, now: int) -> None:
        """KeyError: no such peer."""
        for guest in self._core.guests:
            guest.peer_removing(self._peers[peer].handle, now)
        self._roster.remove(peer)

    def set_endpoint(self, peer: PeerHandle, endpoint: Endpoint, now: int) -> None:
        """Where the user says the peer is. KeyError: no such peer."""
        p = self._peers[peer]
        self._handshakes.choose_endpoint(p, endpoint, now)
        self._core.rearm(p)

    def peer_status(self, peer: PeerHandle) -> PeerStatus:
        """KeyError: no such peer."""
        return status(self._peers[peer], self._offers, self._bootstrap)

    def peer_endpoint(self, peer: PeerHandle) -> Endpoint | None:
        """Where it is, as far as is known: of `peer_status`. KeyError: no such peer."""
        return self._peers[peer].endpoint

    def configured_endpoints(self, peer: PeerHandle) -> tuple[Endpoint, ...]:
        """Of its configuration. KeyError: no such peer."""
        return self._peers[peer].config.endpoints

    @property
    def peers(self) -> tuple[PeerHandle, ...]:
        return tuple(self._peers)

    def find_peer(self, static_public: bytes) -> PeerHandle | None:
        """The peer with this X25519 key, once it is known."""
        peer = self._registry.get(static_public)
        return peer.handle if peer is not None else None

    # what arrives

    @property
    def under_load(self) -> bool:
        """As of the last input. Setting it overrides the rule of cookie.py."""
        return self._gate.under_load

    @under_load.setter
    def under_load(self, value: bool) -> None:
        self._gate.under_load = value

    def receive_datagram(
        self,
        data: bytes,
        remote: Endpoint,
        local: Endpoint | None,
        now: int,
        *,
        admitted: bool = False,
    ) -> bool:
        """A message from outside any session. What is refused is counted in `drops`.

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
            if not admitted and kind != messages.COOKIE_REPLY:
                self._gate.check_mac1(data)
            if kind == messages.INITIATION:
                if not admitted:
                    self._gate.admit(data, remote, local, now)
                self._handshakes.receive_initiation(data, remote, local, now)
            elif kind == messages.RESPONSE:
                self._handshakes.receive_response(data, remote, local, now, admitted=admitted)
            else:
                self._handshakes.receive_cookie_reply(data, remote, local, now)
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
        self._core.rearm(p)

    # facts

    def want_handshake(self, peer: PeerHandle, now: int) -> None:
        """The data plane has packets but no usable key, or a key that is due for renewal."""
        p = self._peers.get(peer)
        if p is not None:
            self._handshakes.begin(p, now)
            self._core.rearm(p)

    def begin_anew(self, now: int) -> None:
        """End all sessions and begin others: this machine was put back to an earlier state, where
        counters of theirs had been used already."""
        for peer in [p for p in self._peers.values() if not p.at_rest]:
            self._sessions.begin_anew(peer, now)
            self._core.rearm(peer)

    def woke(self, now: int) -> None:
        """The host slept and is awake: whom it wants to reach is called at once."""
        for peer in [p for p in self._peers.values() if not p.at_rest]:
            self._handshakes.woke(peer, now)
            self._core.rearm(peer)
        for guest in self._core.guests:
            guest.woke(now)

    def keypair_confirmed(self, peer: PeerHandle, local_index: int, now: int) -> None:
        """The initiator has used the keypair that our response made."""
        p = self._peers.get(peer)
        if p is not None:
            self._handshakes.confirmed(p, local_index, now)

    def activity(self, peer: PeerHandle, activity: Activity, now: int) -> None:
        """A newer sample of what the data plane saw."""
        p = self._peers.get(peer)
        if p is not None and p.timing.activity != activity:
            p.timing.activity = activity
            self._core.rearm(p)

    def endpoint_observed(
        self, peer: PeerHandle, remote: Endpoint, local: Endpoint | None, now: int
    ) -> None:
        """The data plane followed an authenticated packet there by itself."""
        p = self._peers.get(peer)
        if p is not None and not self._inside.holds(remote.ip):
            self._core.seen(p, remote, now)
            self._core.events.append(PeerSeen(peer, remote))
            self._core.pointed(p, remote, local, now)
            self._core.rearm(p)

    def set_locals(self, links: Sequence[LocalLink], port: int, now: int) -> None:
        """Every address of this host that UDP may leave from, and our UDP port.

        Handshakes under way begin anew where they are others now.
        """
        self._roster.follow(links, port, now)
        for guest in self._core.guests:
            guest.locals_changed(links, port, now)

    def set_mapped(self, mapped: Sequence[tuple[str, Endpoint]], now: int) -> None:
        """(interface, where its gateway maps our port); replaces the last list."""
        for guest in self._core.guests:
            guest.mapped_changed(mapped, now)

    def set_inside(self, inside: Inside, now: int) -> None:
        """Where no peer can be, whoever says so; what the user says goes."""
        self._inside = inside
        for guest in self._core.guests:
            guest.inside_changed(inside, now)

    # time

    def due_peers(self, now: int, most: int | None = None) -> tuple[PeerHandle, ...]:
        """Peers whose timers `handle_timeout` would look at: refresh their `activity` first.

        The earliest `most` of them, None: all.
        """
        due = self._core.timers.pop_due(now, most)
        for handle in due:
            self._core.rearm(self._peers[handle])
        return tuple(due)

    def handle_timeout(self, now: int, peers: Iterable[PeerHandle] | None = None) -> None:
        """Call when `poll_timeout` is up; too early or too late does no harm.

        Only of these `peers`, None: of all that are due. Those left stay due.
        """
        self._gate.handle_timeout(now)
        for guest in self._core.guests:
            at = guest.deadline()
            if at is not None and at <= now:
                guest.handle_timeout(now)
        for handle in self._core.timers.pop_due(now) if peers is None else peers:
            peer = self._peers[handle]
            self._sessions.expire(peer, now)
            for guest in self._core.guests:
                guest.peer_timeout(handle, now)
            self._sessions.handle_timeout(peer, now)
            self._handshakes.handle_timeout(peer, now)
            self._core.rearm(peer)

    # outputs

    def poll_transmit(self) -> Transmit | None:
        return self._core.transmits.popleft() if self._core.transmits else None

    def poll_event(self) -> Event | None:
        return self._core.events.popleft() if self._core.events else None

    def poll_timeout(self) -> int | None:
        times = [self._core.timers.next(), *(guest.deadline() for guest in self._core.guests)]
        return min((at for at in times if at is not None), default=None)
