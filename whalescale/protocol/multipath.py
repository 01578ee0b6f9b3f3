"""Extended mode and the paths of the node's peers: what `Node` leaves to it.

It changes peers and appends events; the node re-arms the peer's timer afterwards.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence

from whalescale.protocol.control import (
    ControlError,
    Feature,
    FrameType,
    Offer,
    decode_offer,
    encode_offer,
)
from whalescale.protocol.control import frame_type as control_type
from whalescale.protocol.extended import ExtendedMode
from whalescale.protocol.paths.manager import DEFAULT_MTU, PathManager
from whalescale.protocol.paths.tuner import PathTuner
from whalescale.protocol.paths.types import LocalLink, MultipathSettings, PathSample
from whalescale.protocol.peer import Peer
from whalescale.protocol.types import (
    Endpoint,
    EndpointChanged,
    Event,
    ExtendedModeChanged,
    MultipathStarted,
    PathAction,
    SendControl,
)


class Multipath:
    """Of all peers. `settings` None, or not enabled: paths are not spoken."""

    def __init__(
        self,
        settings: MultipathSettings | None,
        random: Callable[[int], bytes],
        events: deque[Event],
        drops: Counter[str],
    ) -> None:
        self._settings = settings
        self._random = random
        self._events = events
        self._drops = drops
        self._links: tuple[LocalLink, ...] = ()
        self._port = 0
        self._mtu = DEFAULT_MTU

    @property
    def _enabled(self) -> bool:
        return self._settings is not None and self._settings.enabled

    # sessions

    def session_started(self, peer: Peer, now: int) -> None:
        """A keypair is in use. A vanilla peer, known by its key alone, is offered nothing."""
        if peer.node_id is None:
            return
        if peer.extended is None:
            # An epoch of its own: a peer that was removed and added again has forgotten its seqs.
            epoch = int.from_bytes(self._random(8), "little")
            peer.extended = ExtendedMode(epoch, multipath=self._enabled)
        self._follow(peer, peer.extended.session_started(now), now)
        if peer.paths is not None and peer.extended.active:
            peer.paths.session_started(now)
            self._drain(peer)

    def session_ended(self, peer: Peer, now: int) -> None:
        """Its keys are gone."""
        if peer.extended is not None:
            peer.extended.session_ended()
            self._follow(peer, None, now)

    def handle_timeout(self, peer: Peer, now: int) -> None:
        if peer.extended is not None:
            at = peer.extended.deadline()
            if at is not None and at <= now:
                self._follow(peer, peer.extended.handle_timeout(now), now)
        if peer.paths is not None:
            at = peer.paths.deadline()
            if at is not None and at <= now:
                peer.paths.handle_timeout(now)
                self._drain(peer)

    # what arrives

    def receive(
        self,
        peer: Peer,
        frame: bytes,
        path: int,
        remote: Endpoint | None,
        local: Endpoint | None,
        datagram_bytes: int,
        now: int,
    ) -> None:
        """A control frame. What is refused is counted."""
        try:
            if control_type(frame) is not FrameType.OFFER:
                if peer.paths is None or remote is None:
                    raise ControlError("control_type")
                peer.paths.receive(frame, path, remote, local, datagram_bytes, now)
                self._drain(peer)
                return
            offer = decode_offer(frame)
        except ControlError as e:
            self._drops[str(e)] += 1
            return
        if peer.extended is not None:
            self._offered(peer, peer.extended, offer, now)

    def _offered(self, peer: Peer, extended: ExtendedMode, offer: Offer, now: int) -> None:
        before, was_active = extended.peer_epoch, extended.active
        fresh = not extended.heard
        answer = extended.received(offer, now)
        speaks = bool(offer.features & Feature.MULTIPATH) and self._enabled
        if not speaks:
            self._stop(peer, now)
        elif peer.paths is None:
            self._start(peer, offer.max_path, now, reset=before is not None)
        elif offer.epoch != before:
            self._events.append(MultipathStarted(peer.handle, reset=True))
            peer.paths.peer_restarted(now)
        if peer.paths is not None and (fresh or not was_active):
            peer.paths.session_started(now)
        self._drain(peer)
        self._follow(peer, answer, now)

    def _start(self, peer: Peer, max_path: int, now: int, *, reset: bool) -> None:
        if self._settings is None or peer.endpoint is None:
            return
        peer.paths = PathManager(
            self._settings,
            self._random,
            self._port,
            tuner=PathTuner,
            mtu=self._mtu,
            highest=max_path,
            pins=peer.pins,
            drops=self._drops,
        )
        self._events.append(MultipathStarted(peer.handle, reset))
        peer.paths.set_locals(self._links, now)
        peer.paths.set_remotes(peer.config.endpoints, now)
        peer.paths.primary(peer.endpoint, peer.local, now)

    def _stop(self, peer: Peer, now: int) -> None:
        """The peer, or we, speak of paths no more: path 0 alone."""
        if peer.paths is None:
            return
        self._keep_reachable(peer)
        peer.paths.session_ended(now)
        self._drain(peer)
        peer.paths = None

    # facts

    def set_locals(
        self, peers: Sequence[Peer], links: Sequence[LocalLink], port: int, now: int
    ) -> None:
        self._links, self._port = tuple(links), port
        for peer in peers:
            if peer.paths is not None:
                peer.paths.set_locals(links, now, port=port)
                self._drain(peer)

    def set_settings(
        self, peers: Sequence[Peer], settings: MultipathSettings | None, mtu: int, now: int
    ) -> None:
        """Peers hear of it with the next OFFER; paths are left at once if it is off."""
        self._settings, self._mtu = settings, mtu
        for peer in peers:
            if peer.extended is not None:
                peer.extended.multipath = self._enabled
            if peer.paths is None:
                continue
            if settings is None or not settings.enabled:
                self._stop(peer, now)
            else:
                peer.paths.set_settings(settings, now, mtu=mtu)
                self._drain(peer)

    def endpoint_changed(self, peer: Peer, now: int) -> None:
        """Path 0 goes elsewhere."""
        if peer.paths is not None and peer.endpoint is not None:
            peer.paths.primary(peer.endpoint, peer.local, now)
            self._drain(peer)

    def remotes_changed(self, peer: Peer, now: int) -> None:
        if peer.paths is not None:
            peer.paths.set_remotes(peer.config.endpoints, now)
            self._drain(peer)

    def path_moved(
        self, peer: Peer, path: int, remote: Endpoint, local: Endpoint | None, now: int
    ) -> None:
        if peer.paths is not None:
            peer.paths.path_moved(path, remote, local, now)
            self._drain(peer)

    def path_silent(self, peer: Peer, path: int, now: int) -> None:
        if peer.paths is not None:
            peer.paths.path_silent(path, now)
            self._drain(peer)

    def sample(self, peer: Peer, samples: dict[int, PathSample], now: int) -> None:
        if peer.paths is not None:
            peer.paths.sample(samples, now)
            self._drain(peer)

    def pinned(self, peer: Peer, now: int) -> None:
        """The user pinned, or took back."""
        if peer.paths is not None:
            peer.paths.pinned(now)
            self._drain(peer)

    # outputs

    def _drain(self, peer: Peer) -> None:
        if peer.paths is None:
            return
        while (action := peer.paths.poll_action()) is not None:
            self._events.append(PathAction(peer.handle, action))

    def _follow(self, peer: Peer, offer: Offer | None, now: int) -> None:
        """Send the offer, and tell the data plane where the mode has changed."""
        if offer is not None:
            self._events.append(SendControl(peer.handle, encode_offer(offer)))
        active = peer.extended is not None and peer.extended.active
        if active == peer.frames:
            return
        peer.frames = active
        if not active and peer.paths is not None:
            self._keep_reachable(peer)
            peer.paths.session_ended(now)
            self._drain(peer)
        self._events.append(ExtendedModeChanged(peer.handle, active))

    def _keep_reachable(self, peer: Peer) -> None:
        """Path 0 will be alone: if it has failed, let it go where another worked."""
        if peer.paths is None or peer.paths.first_works:
            return
        routes = peer.paths.routes()
        if routes:
            peer.endpoint, peer.local = routes[0]
            self._events.append(EndpointChanged(peer.handle, *routes[0]))
