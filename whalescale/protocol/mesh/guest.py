"""The network as a guest of a node: peers and frames by handle there, by node ID here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Final

from whalescale.protocol.control import FrameType, Offer
from whalescale.protocol.guest import Arrival, Guest, Host, Shape
from whalescale.protocol.mesh import present
from whalescale.protocol.mesh.directory import How
from whalescale.protocol.mesh.frames import MESH
from whalescale.protocol.mesh.network import Mesh
from whalescale.protocol.mesh.records import Place, PlaceKind
from whalescale.protocol.messages import PRESENT, PRESENT_BYTES, MessageError
from whalescale.protocol.places import Endpoint, LocalLink, PeerHandle, Standing
from whalescale.protocol.types import MemberCame, Transmit

#: of so many initiations to a member that we never had a session with, one brings our record
PRESENT_EVERY: Final = 4
#: initiations without an answer, 5 s apart
TRIES_LOST: Final = 3


def _nobody() -> None:
    """Nobody waits for events."""


class MeshGuest(Guest):
    """Does nothing until it is given its network. What the mesh wants done waits in `Mesh`:
    who gives the network is called when something may, never to be carried out within the call.
    """

    frames = (FrameType.GOSSIP_UPDATE, MESH)
    messages = (Shape(PRESENT, PRESENT_BYTES, PRESENT_BYTES),)

    def __init__(self, host: Host) -> None:
        self._host = host
        self.mesh: Mesh | None = None
        self._on_events: Callable[[], None] = _nobody
        self._links: tuple[Sequence[LocalLink], int] | None = None
        self._mapped: Sequence[tuple[str, Endpoint]] = ()

    def give(self, mesh: Mesh, on_events: Callable[[], None], now: int) -> None:
        """From here on we are a member of this network."""
        self.mesh, self._on_events = mesh, on_events
        if self._links is not None:
            self.locals_changed(*self._links, now)

    def hush(self) -> None:
        """Nobody is called any more."""
        self._on_events = _nobody

    def handle_of(self, node_id: bytes) -> PeerHandle | None:
        return self._host.find_node(node_id)

    def send(self, node_id: bytes, frame: bytes) -> bool:
        """False: there is no session that takes frames."""
        handle = self._host.find_node(node_id)
        if handle is None or not self._host.speaks(handle):
            return False
        self._host.frame(handle, frame)
        return True

    # sessions

    def answered(self, peer: PeerHandle, now: int) -> None:
        """The peer answered our handshake: it can be dialled where it is."""
        node_id = self._host.node_of(peer)
        if node_id is not None:
            self._met(peer, node_id, How.DIALLED, now)

    def initiated(self, peer: PeerHandle, tries: int, now: int) -> None:
        """Its keys may be good for minutes yet, but nobody answers: it counts as lost."""
        node_id = self._host.node_of(peer)
        if self.mesh is not None and node_id is not None:
            self.mesh.called(node_id, self._host.peer(peer).endpoint, now)
            if tries % PRESENT_EVERY == 1:
                self._present(peer, node_id, now)
        if tries < TRIES_LOST:
            return
        if self.mesh is not None and node_id is not None and node_id in self.mesh.sessions:
            self.mesh.session_down(node_id, now)
            self._on_events()

    def _present(self, peer: PeerHandle, node_id: bytes, now: int) -> None:
        """Who never had a session with us may not know yet that we belong."""
        view = self._host.peer(peer)
        assert self.mesh is not None
        raws = self.mesh.presentation(node_id)
        if not (raws and view.endpoint and view.fingerprint and view.static_public):
            return
        if not view.config.told or self._host.fresh.allow(view.endpoint, now):
            data = present.encode(raws, view.fingerprint, view.static_public, self._host.random)
            self._host.transmit(Transmit(data, view.endpoint, view.local))

    def receive_message(
        self, data: bytes, remote: Endpoint, local: Endpoint | None, now: int
    ) -> None:
        """Never answered. What it may cost is bounded, whoever sends it: the data plane's limit for
        bootstrap requests, then `Mesh.presented`."""
        if self.mesh is None:
            raise MessageError("present_none")
        if self.mesh.presented(data, now):
            self._host.event(MemberCame())
            self._on_events()

    def offered(
        self, peer: PeerHandle, offer: Offer, before: int | None, fresh: bool, now: int
    ) -> None:
        """A session with whoever takes frames. One that goes on is none that begins."""
        node_id = self._host.node_of(peer)
        if self.mesh is None or node_id is None:
            return
        if fresh:
            self._met(peer, node_id, How.SEEN, now)
        if node_id not in self.mesh.sessions or (before is not None and before != offer.epoch):
            self.mesh.session_up(node_id, now)
        self._on_events()

    def became_plain(self, peer: PeerHandle, now: int) -> None:
        node_id = self._host.node_of(peer)
        if self.mesh is not None and node_id is not None:
            self.mesh.session_down(node_id, now)
            self._on_events()

    def endpoint_changed(self, peer: PeerHandle, now: int) -> None:
        node_id = self._host.node_of(peer)
        if node_id is not None and self._host.peer(peer).has_usable_session(now):
            self._met(peer, node_id, How.SEEN, now)
            self._on_events()

    def _met(self, peer: PeerHandle, node_id: bytes, how: How, now: int) -> None:
        endpoint = self._host.peer(peer).endpoint
        if endpoint is None or endpoint.scope_id or self._host.is_relay(peer, endpoint):
            return
        if self.mesh is not None:
            self.mesh.met(node_id, endpoint, how, now)

    # what arrives

    def receive_frame(self, peer: PeerHandle, frame: bytes, arrival: Arrival, now: int) -> None:
        node_id = self._host.node_of(peer)
        if self.mesh is None or node_id is None:
            self._host.drop("mesh_none")
            return
        self.mesh.receive(node_id, frame, now, arrival.remote)
        self._on_events()

    # time and places

    def deadline(self) -> int | None:
        return None if self.mesh is None else self.mesh.deadline()

    def handle_timeout(self, now: int) -> None:
        if self.mesh is not None:
            self.mesh.handle_timeout(now)
            self._on_events()

    def woke(self, now: int) -> None:
        if self.mesh is not None:
            self.mesh.host_changed(now)
            self._on_events()

    def locals_changed(self, links: Sequence[LocalLink], port: int, now: int) -> None:
        self._links = (links, port)
        if self.mesh is not None:
            self.mesh.directory.set_here(links, self._public)
            self.mesh.set_places(_places(links, port, self._mapped), now)
            self._on_events()

    def _public(self) -> frozenset[str]:
        """The addresses that we are seen at: by peers, or by the word of our routers."""
        mapped = (endpoint.ip for _, endpoint in self._mapped)
        return frozenset((*mapped, *(o.seen.ip for o in self._host.observations())))

    def mapped_changed(self, mapped: Sequence[tuple[str, Endpoint]], now: int) -> None:
        self._mapped = tuple(mapped)
        if self._links is not None:
            self.locals_changed(*self._links, now)


def _places(
    links: Sequence[LocalLink], port: int, mapped: Sequence[tuple[str, Endpoint]] = ()
) -> list[Place]:
    """Global addresses first, then what gateways map, bridges of containers last; what is no good
    elsewhere not at all."""
    usable = [link for link in links if not link.link_local and not ip_address(link.ip).is_loopback]
    usable = [link for link in usable if link.standing is not Standing.DEPRECATED]
    usable.sort(key=lambda n: (n.spare, not ip_address(n.ip).is_global, n.standing))
    if not port:
        return []
    good = [n for n in usable if not n.spare and ip_address(n.ip).is_global]
    places = [Place(Endpoint(link.ip, port)) for link in usable]
    own = {place.endpoint for place in places}
    found = [Place(e, PlaceKind.MAPPED) for _, e in mapped if e not in own]
    return places[: len(good)] + found + places[len(good) :]
