"""Extended mode and the paths of the node's peers: what `Node` leaves to it.

Its public inputs are the node's own: like those, one that names a removed peer is ignored.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence

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
from whalescale.protocol.inside import Inside
from whalescale.protocol.paths.manager import DEFAULT_MTU, PathManager
from whalescale.protocol.paths.tuner import PathTuner
from whalescale.protocol.paths.types import (
    MultipathSettings,
    PathSample,
    PathStatus,
    Pin,
)
from whalescale.protocol.peer import Peer
from whalescale.protocol.places import Endpoint, LocalLink, PeerHandle
from whalescale.protocol.types import (
    EndpointChanged,
    Event,
    ExtendedModeChanged,
    MultipathStarted,
    PathAction,
    SendControl,
)


class Multipath:
    """Of all peers. `settings` None, or not enabled: paths are not spoken.

    `renew`: make a new keypair soon.
    """

    def __init__(
        self,
        settings: MultipathSettings | None,
        random: Callable[[int], bytes],
        peers: Mapping[PeerHandle, Peer],
        rearm: Callable[[Peer], None],
        renew: Callable[[Peer, int], None],
        events: deque[Event],
        drops: Counter[str],
    ) -> None:
        self._settings = settings
        self._random = random
        self._peers = peers
        self._rearm = rearm
        self._renew = renew
        self._events = events
        self._drops = drops
        self._links: tuple[LocalLink, ...] = ()
        self._port = 0
        self._mtu = DEFAULT_MTU
        self._inside = Inside()

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
                was_active = peer.extended.active
                self._follow(peer, peer.extended.handle_timeout(now), now)
                if was_active and not peer.extended.active and peer.paths is not None:
                    # A plain WireGuard now. Its replay window took counters with path numbers on
                    # this keypair: it refuses all that we send with plain ones.
                    self._renew(peer, now)
        if peer.paths is not None:
            at = peer.paths.deadline()
            if at is not None and at <= now:
                peer.paths.handle_timeout(now)
                self._drain(peer)

    # what arrives

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
        if p is not None:
            at = (p.endpoint, p.local) if remote is None else (remote, local)
            self._receive(p, frame, path, *at, datagram_bytes, now)
            self._rearm(p)

    def _receive(
        self,
        peer: Peer,
        frame: bytes,
        path: int,
        remote: Endpoint | None,
        local: Endpoint | None,
        datagram_bytes: int,
        now: int,
    ) -> None:
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
        begins = peer.paths is None or offer.epoch != before
        speaks = bool(offer.features & Feature.MULTIPATH) and self._enabled
        if speaks and begins and not peer.buckets.starts.take(now):
            self._drops["offer_rate"] += 1
            return  # unheard: the peer offers again
        fresh = not extended.heard
        answer = extended.received(offer, now)
        if not speaks:
            self._stop(peer, now)
        elif peer.paths is None:
            # The same one, who spoke of paths before, goes on counting where it was.
            self._start(peer, offer.max_path, now, reset=before not in (None, offer.epoch))
            fresh = True
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
            buckets=peer.buckets,
            inside=self._is_inside,
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

    def set_locals(self, links: Sequence[LocalLink], port: int, now: int) -> None:
        """Every address of this host that UDP may leave from, and our UDP port."""
        self._links, self._port = tuple(links), port
        for peer in self._peers.values():
            if peer.paths is not None:
                peer.paths.set_locals(links, now, port=port)
                self._changed(peer)

    def _is_inside(self, ip: str) -> bool:
        return self._inside.holds(ip)

    def set_inside(self, inside: Inside, now: int) -> None:
        """Where no peer can be: paths there are left."""
        self._inside = inside
        for peer in self._peers.values():
            if peer.paths is not None:
                peer.paths.set_locals(self._links, now, port=self._port)
                self._changed(peer)

    def set_settings(self, settings: MultipathSettings | None, mtu: int, now: int) -> None:
        """The configuration's `[multipath]`, and the tunnel's MTU as configured.

        Paths are left at once if it is off; peers are told at once where that changed.
        """
        self._settings, self._mtu = settings, mtu
        for peer in self._peers.values():
            if settings is None or not settings.enabled:
                self._stop(peer, now)
            if peer.extended is not None:
                self._follow(peer, peer.extended.speak(self._enabled, now), now)
            if peer.paths is not None and settings is not None:
                peer.paths.set_settings(settings, now, mtu=mtu)
                self._drain(peer)
            self._rearm(peer)

    def path_samples(self, peer: PeerHandle, samples: dict[int, PathSample], now: int) -> None:
        """What the data plane counted on the peer's paths, by number; each tick."""
        p = self._peers.get(peer)
        if p is not None and p.paths is not None:
            p.paths.sample(samples, now)
            self._changed(p)

    def path_moved(
        self, peer: PeerHandle, path: int, remote: Endpoint, local: Endpoint | None, now: int
    ) -> None:
        """What has the peer's path number comes from elsewhere than before."""
        p = self._peers.get(peer)
        if p is not None and p.paths is not None:
            p.paths.path_moved(path, remote, local, now)
            self._changed(p)

    def path_silent(self, peer: PeerHandle, path: int, now: int) -> None:
        """Data on our path was out for its rescue_us without a word."""
        p = self._peers.get(peer)
        if p is not None and p.paths is not None:
            p.paths.path_silent(path, now)
            self._changed(p)

    def pin_path(
        self,
        peer: PeerHandle,
        pin: Pin,
        now: int,
        *,
        local: str | None = None,
        remote: str | None = None,
        interface: str | None = None,
    ) -> None:
        """Of the peer's paths with these IPs and interface, now and later; None: any.

        KeyError: no such peer.
        """
        p = self._peers[peer]
        p.pins.set(pin, local, remote, interface)
        if p.paths is not None:
            p.paths.pinned(now)
            self._changed(p)

    def path_status(self, peer: PeerHandle) -> list[PathStatus]:
        """Empty while the peer speaks of no paths. KeyError: no such peer."""
        paths = self._peers[peer].paths
        return paths.status() if paths is not None else []

    # ... that the node has: it re-arms the peer

    def endpoint_changed(self, peer: Peer, now: int) -> None:
        """Path 0 goes elsewhere."""
        if peer.paths is not None and peer.endpoint is not None:
            peer.paths.primary(peer.endpoint, peer.local, now)
            self._drain(peer)

    def remotes_changed(self, peer: Peer, now: int) -> None:
        if peer.paths is not None:
            peer.paths.set_remotes(peer.config.endpoints, now)
            self._drain(peer)

    # outputs

    def _changed(self, peer: Peer) -> None:
        self._drain(peer)
        self._rearm(peer)

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
        bundles = active and peer.extended is not None and peer.extended.bundles
        if (active, bundles) == (peer.frames, peer.bundles):
            return
        peer.frames, peer.bundles = active, bundles
        if not active and peer.paths is not None:
            self._keep_reachable(peer)
            peer.paths.session_ended(now)
            self._drain(peer)
        self._events.append(ExtendedModeChanged(peer.handle, active, bundles))

    def _keep_reachable(self, peer: Peer) -> None:
        """Path 0 will be alone: if it has failed, let it go where another worked."""
        if peer.paths is None or peer.paths.first_works:
            return
        routes = peer.paths.routes()
        if routes:
            peer.endpoint, peer.local = routes[0]
            self._events.append(EndpointChanged(peer.handle, *routes[0]))
