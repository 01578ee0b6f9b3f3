"""Sends a peer's handshake messages to the places of its contacts."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from whalescale.protocol.fresh import Fresh
from whalescale.protocol.guest import Guest
from whalescale.protocol.peer import Peer
from whalescale.protocol.places import Endpoint, LocalLink, Way
from whalescale.protocol.types import Transmit


class Dialer:
    """One for all peers. Messages are added to `transmits`. `guests` know of routes."""

    def __init__(
        self, transmits: deque[Transmit], guests: Sequence[Guest], fresh: Fresh | None = None
    ) -> None:
        self._fresh = fresh or Fresh()
        self._transmits = transmits
        self._guests = guests
        self._links: tuple[LocalLink, ...] = ()
        self._port = 0

    def set_locals(self, links: Sequence[LocalLink], port: int) -> bool:
        """Every address of this host that UDP may leave from. True: they are others now."""
        before, self._links, self._port = self._links, tuple(links), port
        return self._links != before

    def lost(self, peers: Iterable[Peer]) -> list[Peer]:
        """Those that are reached by an interface or from an address that is gone."""
        have = {(link.ip, link.ifindex) for link in self._links}
        return [
            p
            for p in peers
            if p.contacts.ifindex
            and p.local is not None
            and (p.local.ip, p.contacts.ifindex) not in have
        ]

    def interface_of(self, local: Endpoint | None) -> int:
        """0: not known."""
        if local is not None and local.scope_id:
            return local.scope_id
        found = [n.ifindex for n in self._links if local is not None and n.ip == local.ip]
        return found[0] if len(found) == 1 else 0

    def ways(self, peer: Peer) -> list[Way]:
        """The endpoint in use first; before it what guests know to be better."""
        first = [
            Way(remote, local, self.interface_of(local))
            for guest in self._guests
            for remote, local in guest.routes(peer.handle)
        ]
        if peer.endpoint is not None:
            bound = peer.contacts.ifindex if peer.local is not None else 0
            first.append(Way(peer.endpoint, peer.local, bound))
        found = peer.contacts.ways(self._links, self._port, first)
        relays = {
            way.remote
            for way in found
            if any(guest.is_relay(peer.handle, way.remote) for guest in self._guests)
        }
        return [way for way in found if way.remote not in relays] if relays else found

    def dial(self, peer: Peer, data: bytes, now: int, first: Way | None = None) -> None:
        """A new message for the peer. `first`: where it goes before all others."""
        peer.contacts.dial(data, now, first)
        self.step(peer, now)

    def step(self, peer: Peer, now: int) -> None:
        """The message goes to its next place, if that is due."""
        due = peer.contacts.due_at
        if due is None or due > now:
            return
        fresh = self._fresh if peer.config.told else None
        found = peer.contacts.next(self.ways(peer), now, peer.handshake.round_trip, fresh)
        if found is not None:
            data, way = found
            self._transmits.append(Transmit(data, way.remote, way.local, way.ifindex))
