"""Machines beside the handshake: what they are asked, and what they may use.

A guest is a pure machine that a `Node` is given at its making (parts.py has the list). The node
hands it the messages and frames of the types that it takes, tells it of peers, sessions and
addresses, and watches its timers. What a guest wants done it says to its `Host` at once, in the
call that made it want it, so that nothing has to be polled out of it: `Node.poll_event` and
`poll_transmit` never ask a guest.

A guest keeps its own state of a peer, by handle, and forgets it at `peer_removed`. What it must be
told from outside (settings, samples) are methods of its own: `node.guest(Kind)` finds it. Those end
with `Host.rearm` where a peer's deadline may have moved. Times are ns of CLOCK_BOOTTIME.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from whalescale.protocol.control import Feature, Offer
from whalescale.protocol.fresh import Fresh
from whalescale.protocol.inside import Inside
from whalescale.protocol.places import Endpoint, LocalLink, PeerHandle
from whalescale.protocol.types import Event, PeerConfig, Transmit


class Shape(NamedTuple):
    """Of messages before a session: their first byte, least and greatest length."""

    type: int
    least: int
    most: int


class Arrival(NamedTuple):
    """How a control frame came."""

    #: the peer's number of the path
    path: int
    #: None: not known
    remote: Endpoint | None
    local: Endpoint | None
    #: UDP payload that it came in
    datagram_bytes: int


class Secret(NamedTuple):
    """Mixed into a handshake in place of the configured preshared key, which is mixed into it."""

    #: what an initiation calls it by: 1 to 2^24 - 1
    tag: int
    #: 32 bytes
    psk: bytes


class Observation(NamedTuple):
    """Where a peer sees us come from. `local`: our address on that path, "": not known."""

    peer: PeerHandle
    local: str
    #: where the peer is on that path
    remote: Endpoint
    seen: Endpoint


class PeerView(Protocol):
    """What guests see of a peer."""

    @property
    def handle(self) -> PeerHandle: ...
    @property
    def config(self) -> PeerConfig: ...
    @property
    def static_public(self) -> bytes | None:
        """None: only the fingerprint is known."""

    @property
    def node_id(self) -> bytes | None:
        """None: a vanilla WireGuard peer, or only the fingerprint is known."""

    @property
    def fingerprint(self) -> bytes | None:
        """None: a vanilla WireGuard peer."""

    @property
    def endpoint(self) -> Endpoint | None:
        """Where path 0 goes."""

    @property
    def local(self) -> Endpoint | None:
        """Where path 0 leaves from; None: the routing table says."""

    @property
    def session_secret(self) -> int | None:
        """The tag of the secret in the keys in use, 0: none is. None: there is no session."""

    def has_usable_session(self, now: int) -> bool: ...


class Host(Protocol):
    """What a guest may use. Naming a removed peer does nothing, unless said otherwise."""

    #: every refused datagram and frame, by reason
    drops: Counter[str]
    #: our own; None: a WireGuard key alone
    node_id: bytes | None
    #: destinations that the whole node tries
    fresh: Fresh

    @property
    def peers(self) -> tuple[PeerHandle, ...]: ...

    def peer(self, peer: PeerHandle) -> PeerView:
        """KeyError: no such peer."""

    def find_peer(self, static_public: bytes) -> PeerHandle | None: ...

    def find_node(self, node_id: bytes) -> PeerHandle | None: ...

    def node_of(self, peer: PeerHandle) -> bytes | None:
        """Its node ID. None: it has none, or there is no such peer."""

    def taken(self, static_public: bytes) -> bool:
        """The key is a peer's, or our own."""

    def random(self, count: int, /) -> bytes:
        """Fit for keys."""

    def transmit(self, message: Transmit, /) -> None:
        """A message outside any session."""

    def frame(self, peer: PeerHandle, frame: bytes) -> None:
        """A control frame inside the peer's session, over path 0. Only where it `speaks`."""

    def speaks(self, peer: PeerHandle) -> bool:
        """The peer takes frames on the keypair in use."""

    def settled(self, peer: PeerHandle) -> bool:
        """It `speaks`, and what it offered holds for the keypair in use."""

    def renewing(self, peer: PeerHandle, kept: bool) -> None:
        """The peer says whether it keeps its session open; if so, it is for us to renew it."""

    def hush(self, peer: PeerHandle, until: int) -> None:
        """No persistent keepalive is due before; 0: as configured."""

    def unanswered(self, peer: PeerHandle, now: int) -> int:
        """For how long what was sent in its session has waited for a word, ns."""

    def silent_since(self, peer: PeerHandle, at: int) -> bool:
        """Nothing was sent in its session since then, as far as we saw."""

    def offer(self, peer: PeerHandle, now: int) -> None:
        """What `features` says of the peer may be another now: it is told, if so."""

    def event(self, event: Event, /) -> None:
        """To the driver and its owner, in this order."""

    def want(self, peer: PeerHandle, now: int) -> None:
        """A session, if there is none."""

    def renew(self, peer: PeerHandle, now: int, *, at: int | None = None) -> None:
        """A new keypair soon, whether there is one or not. `at`: then, though REKEY_TIMEOUT has not
        passed since the last handshake."""

    def identify(
        self,
        peer: PeerHandle,
        static_public: bytes,
        node_id: bytes,
        remote: Endpoint,
        local: Endpoint | None,
        now: int,
    ) -> None:
        """A peer known by its fingerprint has told its keys, which fit and are not `taken`. A
        handshake goes the way that they came."""

    def move(self, peer: PeerHandle, remote: Endpoint, local: Endpoint | None) -> None:
        """Path 0 goes there from now on. `Guest.endpoint_changed` does not follow."""

    def carried(
        self,
        peer: PeerHandle,
        carrier: PeerHandle,
        data: bytes,
        reply: Callable[[bytes], None],
        now: int,
    ) -> None:
        """A handshake message of the peer's that the carrier passed on, of the right length; an
        answer is handed to `reply`. What is refused is counted."""

    def punch(self, peer: PeerHandle, remotes: Sequence[tuple[Endpoint, bool]], now: int) -> None:
        """Send the peer something there, at once: it does the same, so that routers on both sides
        let the other one in. With each place whether it is more than the peer's own word."""

    def is_relay(self, peer: PeerHandle, remote: Endpoint) -> bool:
        """A relay of the peer's datagrams is there."""

    def is_direct(self, peer: PeerHandle, now: int) -> bool:
        """There is a session, and it has a way that is no relay's."""

    def observations(self) -> Sequence[Observation]:
        """Where peers see us."""

    def rearm(self, peer: PeerHandle) -> None:
        """The peer's deadline may have moved. Not needed in what the node called for this peer."""

    def drop(self, reason: str) -> None:
        """Count a refusal."""

    # relays (docs/nat.md): what one guest tells the others

    def holder(self, index: int) -> PeerHandle | None:
        """Whose session, or handshake under way, has this receiver index of ours."""

    def indices(self, peer: PeerHandle) -> Collection[int]:
        """Our receiver indices that the peer may write to."""

    def ways(self, peer: PeerHandle) -> Sequence[tuple[Endpoint, Endpoint | None]]:
        """(remote, local) by which its session goes, best first; none over relays. Empty: there
        is no session."""

    def narrow(self, peer: PeerHandle) -> int:
        """The longest datagram that the first of `ways` carries, if that was found to be less than
        we need; else 0."""

    def lost(self, peer: PeerHandle) -> bool:
        """It has paths, and none of them works, relays' neither."""

    def ways_changed(self, peer: PeerHandle, now: int) -> None:
        """`ways`, or `narrow`, may be others now."""

    def doubt_relay(self, peer: PeerHandle, remote: Endpoint, now: int) -> None:
        """What goes to the peer by there is not answered any more. If an anchor is there, see
        whether that one still is, which an idle session with it does not show."""

    def relays(
        self, peer: PeerHandle, ways: Sequence[tuple[Endpoint, Endpoint | None]], now: int
    ) -> None:
        """(remote, local) by which the peer can be reached over anchors; replaces the last list."""

    def anchors_are(self, places: Mapping[Endpoint, PeerHandle]) -> None:
        """Where anchors are: what comes from there for another peer is relayed."""


class Guest:
    """Every method does nothing here: a machine has those that it needs.

    The node calls in the order of its list. Peers that it names are there.
    """

    #: messages before a session that it takes
    messages: Collection[Shape] = ()
    #: types of control frames inside a session that it takes
    frames: Collection[int] = ()

    def features(self, peer: PeerHandle) -> Feature:
        """What our OFFER to the peer says on this machine's behalf."""
        return Feature(0)

    # peers

    def peer_added(self, peer: PeerHandle, now: int) -> None:
        pass

    def peer_changed(self, peer: PeerHandle, now: int) -> None:
        """Its configured endpoints are others."""

    def peer_configured(self, peer: PeerHandle, now: int) -> None:
        """What is configured of its security is another, or whether we keep its session."""

    def peer_identified(self, peer: PeerHandle, now: int) -> None:
        """A key that it was configured without is known."""

    def peer_removing(self, peer: PeerHandle, now: int) -> None:
        """It is about to be removed, and its session with it; `Host.peer` knows it still."""

    def peer_removed(self, peer: PeerHandle) -> None:
        """`Host.peer` does not know it any more."""

    # sessions

    def secret(self, peer: PeerHandle) -> Secret | None:
        """Named in an initiation of ours. The peer may lack it, and answer without."""
        return None

    def secret_named(self, peer: PeerHandle, tag: int) -> Secret | None:
        """The authentic initiation that is answered names it. None: we lack it."""
        return None

    def opening(self, peer: PeerHandle) -> bytes | None:
        """A message that finds out the peer's key, which is not known; sent in place of an
        initiation. None: another machine may know one."""
        return None

    def keepalive(self, peer: PeerHandle, now: int) -> bool:
        """A persistent keepalive is due. True: this machine has sent something in its place."""
        return False

    def initiated(self, peer: PeerHandle, tries: int, now: int) -> None:
        """An initiation, or an opening, is sent. `tries`: how many since the last session."""

    def reaches(self, peer: PeerHandle) -> bool:
        """Messages for the peer can be carried by another one, so that it may be called though no
        address of it is known."""
        return False

    def carry(self, peer: PeerHandle, message: bytes, now: int) -> None:
        """An initiation is made for the peer: it may go other ways too."""

    def session_carried(
        self, peer: PeerHandle, carrier: PeerHandle, local_index: int, now: int
    ) -> None:
        """Keys were made by messages that the carrier passed on: where their datagrams go is for a
        relay to say. Before anything is sent with them."""

    def gave_up(self, peer: PeerHandle, now: int) -> None:
        """REKEY_ATTEMPT_TIME is over; the next is sent when a packet or a guest wants it."""

    def indexed(self, peer: PeerHandle, index: int, now: int) -> None:
        """A message that names this receiver index of ours to the peer is about to be sent."""

    def session_started(self, peer: PeerHandle, now: int) -> None:
        """A keypair is in use: the first, or a newer one. The peer may be a plain WireGuard."""

    def session_ended(self, peer: PeerHandle, now: int) -> None:
        """The last keypair is gone."""

    def check_offer(self, peer: PeerHandle, offer: Offer, before: int | None, now: int) -> None:
        """ControlError: the offer goes unheard, by all; the peer offers again.

        `before`: the epoch of the offer before, None: this is the first.
        """

    def offered(
        self, peer: PeerHandle, offer: Offer, before: int | None, fresh: bool, now: int
    ) -> None:
        """The peer takes frames, and says which. `fresh`: the first offer of this keypair."""

    def became_plain(self, peer: PeerHandle, now: int) -> None:
        """It takes frames no longer: the session is over, or it is a plain WireGuard now."""

    # what arrives

    def receive_message(
        self, data: bytes, remote: Endpoint, local: Endpoint | None, now: int
    ) -> None:
        """A message before a session: of our type, its length checked, nothing else.

        MessageError: refused, and why. It is a stranger's: bound what it may cost.
        """

    def receive_frame(self, peer: PeerHandle, frame: bytes, arrival: Arrival, now: int) -> None:
        """A control frame from the peer's session: of our type and this version.

        ControlError: refused, and why. It is authentic, and may be hostile all the same.
        """

    # time

    def deadline(self) -> int | None:
        """Of the machine as a whole."""
        return None

    def handle_timeout(self, now: int) -> None:
        """Too early or too late does no harm."""

    def woke(self, now: int) -> None:
        """The host slept, for a second at least."""

    def peer_deadline(self, peer: PeerHandle) -> int | None:
        """Asked after all that concerned the peer. Idle peers, by the thousand, have none."""
        return None

    def peer_timeout(self, peer: PeerHandle, now: int) -> None:
        """Some timer of the peer is up, maybe not this machine's."""

    # places

    def locals_changed(self, links: Sequence[LocalLink], port: int, now: int) -> None:
        """Every address of this host that UDP may leave from, and our UDP port."""

    def mapped_changed(self, mapped: Sequence[tuple[str, Endpoint]], now: int) -> None:
        """(interface, where its gateway maps our port): a gateway's claim, for others to try."""

    def inside_changed(self, inside: Inside, now: int) -> None:
        """Where no peer can be: addresses inside tunnels are others now."""

    def endpoint_changed(self, peer: PeerHandle, now: int) -> None:
        """Path 0 goes elsewhere."""

    def ways_changed(self, peer: PeerHandle, now: int) -> None:
        """`Host.ways` of the peer may be others now."""

    def doubted(self, peer: PeerHandle, now: int) -> None:
        """There is reason to think that nothing gets to the peer, an anchor: look."""

    def relays_changed(
        self, peer: PeerHandle, ways: Sequence[tuple[Endpoint, Endpoint | None]], now: int
    ) -> None:
        """The ways to the peer that lead over anchors are these now."""

    def steers(self, peer: PeerHandle) -> bool:
        """It looks after path 0 itself where a local address goes away."""
        return False

    def knows(self, peer: PeerHandle, remote: Endpoint, local: Endpoint | None) -> bool:
        """What comes from there came by another path of the peer's: it has not roamed."""
        return False

    def answer_there(self, peer: PeerHandle, frame: bytes, arrival: Arrival) -> None:
        """Send this frame by the way of `arrival` as well, if data takes another one."""

    def heard_at(
        self, peer: PeerHandle, remote: Endpoint, local: Endpoint | None, now: int
    ) -> None:
        """A handshake message came from there, and a guest that `knows` kept path 0 where it is."""

    def proven(self, peer: PeerHandle) -> Sequence[tuple[Endpoint, Endpoint | None]]:
        """(remote, local) of the peer's paths that answer, best first."""
        return ()

    def lost(self, peer: PeerHandle) -> bool:
        """See Host.lost."""
        return False

    def narrow(self, peer: PeerHandle) -> int:
        """See Host.narrow."""
        return 0

    def routes(self, peer: PeerHandle) -> Sequence[tuple[Endpoint, Endpoint | None]]:
        """(remote, local) that a handshake should try before the endpoint in use, best first."""
        return ()

    def is_relay(self, peer: PeerHandle, remote: Endpoint) -> bool:
        """A relay of the peer's datagrams is there, which takes no handshake messages."""
        return False

    def punch(self, peer: PeerHandle, remotes: Sequence[tuple[Endpoint, bool]], now: int) -> bool:
        """See Host.punch. True: it is done, by probes inside the session."""
        return False

    def is_direct(self, peer: PeerHandle, now: int) -> bool | None:
        """The peer's session has a way that works and is no relay's. None: no word on that."""
        return None

    def observations(self) -> Sequence[Observation]:
        """Where peers see us, as far as this machine knows."""
        return ()


#: makes a guest for the host that it will live in
Part = Callable[[Host], Guest]
