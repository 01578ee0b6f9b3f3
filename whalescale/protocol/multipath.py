"""The paths of the node's peers: the guest that gives each peer that speaks multipath a manager.

Its public inputs are like the node's own: one that names a removed peer is ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from whalescale.protocol.control import ControlError, Feature, FrameType, Offer
from whalescale.protocol.guest import Arrival, Guest, Host, Observation
from whalescale.protocol.inside import Inside
from whalescale.protocol.limits import NS_PER_S
from whalescale.protocol.paths.manager import DEFAULT_MTU, PathManager, always
from whalescale.protocol.paths.pins import Pins
from whalescale.protocol.paths.probing import Buckets
from whalescale.protocol.paths.tuner import PathTuner
from whalescale.protocol.paths.types import (
    AskAnchors,
    MultipathSettings,
    PacketLimit,
    PathSample,
    PathStatus,
    Pin,
    SendPathControl,
    SetPaths,
)
from whalescale.protocol.places import Endpoint, LocalLink, PeerHandle
from whalescale.protocol.types import MultipathStarted, PathAction, PeerSeen

#: said of what names none
NO_PATH: Final = -1
#: an anchor is looked at so often at most, whatever the peers do that it relays for
LOOK_EACH: Final = NS_PER_S
FEATURES: Final = Feature.URGENT | Feature.AGAIN | Feature.MULTIPATH


class _State:
    """Of one peer. Pins and buckets outlive its managers."""

    __slots__ = ("buckets", "doubted", "look_at", "lost", "paths", "pins", "relays")

    def __init__(self) -> None:
        #: None until the peer says that it speaks multipath
        self.paths: PathManager | None = None
        self.pins = Pins()
        self.buckets = Buckets()
        #: as the others were told
        self.lost = False
        #: there was reason to think that it is gone, and no answer since
        self.doubted = False
        #: not looked into before
        self.look_at = 0
        #: (remote, local) of the ways that lead over anchors
        self.relays: tuple[tuple[Endpoint, Endpoint | None], ...] = ()


class Multipath(Guest):
    """Of all peers. Paths are not spoken before `set_settings`, or where those say so."""

    frames = (
        FrameType.PATH_ANNOUNCE,
        FrameType.PATH_PROBE,
        FrameType.PATH_PROBE_REPLY,
        FrameType.HEARTBEAT,
    )

    def __init__(self, host: Host) -> None:
        self._host = host
        self._settings: MultipathSettings | None = None
        #: of peers that have spoken of paths, or have pins
        self._states: dict[PeerHandle, _State] = {}
        self._links: tuple[LocalLink, ...] = ()
        self._port = 0
        self._mapped: tuple[tuple[str, Endpoint], ...] = ()
        self._mtu = DEFAULT_MTU
        self._inside = Inside()
        #: our addresses are others
        self._moving = False

    def features(self, peer: PeerHandle) -> Feature:
        enabled = self._settings is not None and self._settings.enabled
        return FEATURES if enabled else Feature(0)

    def _paths(self, peer: PeerHandle) -> PathManager | None:
        state = self._states.get(peer)
        return state.paths if state is not None else None

    def _state(self, peer: PeerHandle) -> _State:
        state = self._states.get(peer)
        if state is None:
            state = self._states[peer] = _State()
        return state

    # peers and sessions

    def peer_changed(self, peer: PeerHandle, now: int) -> None:
        paths = self._paths(peer)
        if paths is not None:
            paths.set_remotes(self._host.peer(peer).config.endpoints, now)
            self._drain(peer, paths, now)

    def peer_removed(self, peer: PeerHandle) -> None:
        self._states.pop(peer, None)

    def session_started(self, peer: PeerHandle, now: int) -> None:
        paths = self._paths(peer)
        if paths is not None and self._host.speaks(peer) and not self._host.settled(peer):
            paths.session_started(now)
            self._drain(peer, paths, now)

    def check_offer(self, peer: PeerHandle, offer: Offer, before: int | None, now: int) -> None:
        begins = self._paths(peer) is None or offer.epoch != before
        if begins and self._spoken(peer, offer) and not self._state(peer).buckets.starts.take(now):
            raise ControlError("offer_rate")

    def offered(
        self, peer: PeerHandle, offer: Offer, before: int | None, fresh: bool, now: int
    ) -> None:
        paths = self._paths(peer)
        if not self._spoken(peer, offer):
            self._stop(peer, now)
            return
        if paths is None:
            # The same one, who spoke of paths before, goes on counting where it was.
            paths = self._start(peer, offer.max_path, now, reset=before not in (None, offer.epoch))
            fresh = True
        elif offer.epoch != before:
            self._host.event(MultipathStarted(peer, reset=True))
            paths.peer_restarted(now)
        if paths is not None:
            if fresh:
                paths.session_started(now)
            self._drain(peer, paths, now)

    def _spoken(self, peer: PeerHandle, offer: Offer) -> bool:
        return bool(offer.features & self.features(peer) & Feature.MULTIPATH)

    def _start(
        self, peer: PeerHandle, max_path: int, now: int, *, reset: bool
    ) -> PathManager | None:
        view, state = self._host.peer(peer), self._state(peer)
        if self._settings is None or view.endpoint is None:
            return None
        state.paths = PathManager(
            self._settings,
            self._host.random,
            self._port,
            tuner=PathTuner,
            mtu=self._mtu,
            highest=max_path,
            pins=state.pins,
            drops=self._host.drops,
            buckets=state.buckets,
            inside=self._is_inside,
            relayed=partial(self._host.is_relay, peer),
            may_try=self._host.fresh.allow if view.config.told else always,
        )
        self._host.event(MultipathStarted(peer, reset))
        state.paths.set_locals(self._links, now)
        state.paths.set_mapped(self._mapped, now)
        state.paths.set_remotes(view.config.endpoints, now)
        state.paths.set_relays(state.relays, now)
        state.paths.primary(view.endpoint, view.local, now)
        return state.paths

    def _stop(self, peer: PeerHandle, now: int) -> None:
        """The peer, or we, speak of paths no more: path 0 alone."""
        paths = self._paths(peer)
        if paths is not None:
            self._end(peer, paths, now)
            self._states[peer].paths = None

    def became_plain(self, peer: PeerHandle, now: int) -> None:
        paths = self._paths(peer)
        if paths is None:
            return
        self._end(peer, paths, now)
        if self._host.peer(peer).has_usable_session(now):
            # A plain WireGuard now. Its replay window took counters with path numbers on this
            # keypair: it refuses all that we send with plain ones.
            self._host.renew(peer, now)

    def _end(self, peer: PeerHandle, paths: PathManager, now: int) -> None:
        """Path 0 will be alone: if it has failed, let it go where another worked."""
        if not paths.first_works and (routes := paths.routes()):
            self._host.move(peer, *routes[0])
        paths.session_ended(now)
        self._drain(peer, paths, now)

    # what arrives

    def receive_frame(self, peer: PeerHandle, frame: bytes, arrival: Arrival, now: int) -> None:
        paths = self._paths(peer)
        if paths is None or arrival.remote is None:
            raise ControlError("control_type")
        self._states[peer].doubted = False
        paths.receive(
            frame, arrival.path, arrival.remote, arrival.local, arrival.datagram_bytes, now
        )
        self._drain(peer, paths, now)

    # time

    def peer_deadline(self, peer: PeerHandle) -> int | None:
        paths = self._paths(peer)
        return paths.deadline() if paths is not None else None

    def peer_timeout(self, peer: PeerHandle, now: int) -> None:
        paths = self._paths(peer)
        at = paths.deadline() if paths is not None else None
        if paths is not None and at is not None and at <= now:
            paths.handle_timeout(now)
            self._drain(peer, paths, now)

    # places

    def locals_changed(self, links: Sequence[LocalLink], port: int, now: int) -> None:
        self._links, self._port = tuple(links), port
        self._relocate(now)

    def mapped_changed(self, mapped: Sequence[tuple[str, Endpoint]], now: int) -> None:
        self._mapped = tuple(mapped)
        for peer in tuple(self._states):
            paths = self._paths(peer)
            if paths is not None:
                paths.set_mapped(self._mapped, now)
                self._changed(peer, paths, now)

    def inside_changed(self, inside: Inside, now: int) -> None:
        """Paths to where no peer can be are left."""
        self._inside = inside
        self._relocate(now)

    def _relocate(self, now: int) -> None:
        # What fails now does so for our own addresses: nobody is in doubt.
        self._moving = True
        for peer in tuple(self._states):
            paths = self._paths(peer)
            if paths is not None:
                paths.set_locals(self._links, now, port=self._port)
                self._changed(peer, paths, now)
        self._moving = False

    def _is_inside(self, ip: str) -> bool:
        return self._inside.holds(ip)

    def endpoint_changed(self, peer: PeerHandle, now: int) -> None:
        paths, view = self._paths(peer), self._host.peer(peer)
        if paths is not None and view.endpoint is not None:
            paths.primary(view.endpoint, view.local, now)
            self._drain(peer, paths, now)

    def steers(self, peer: PeerHandle) -> bool:
        return self._paths(peer) is not None

    def knows(self, peer: PeerHandle, remote: Endpoint, local: Endpoint | None) -> bool:
        paths = self._paths(peer)
        return paths is not None and paths.knows(remote, local)

    def answer_there(self, peer: PeerHandle, frame: bytes, arrival: Arrival) -> None:
        paths = self._paths(peer)
        if paths is None or arrival.remote is None:
            return
        path = paths.aside(arrival.remote, arrival.local)
        if path is not None:
            self._host.event(PathAction(peer, SendPathControl(path, frame)))

    def heard_at(
        self, peer: PeerHandle, remote: Endpoint, local: Endpoint | None, now: int
    ) -> None:
        paths = self._paths(peer)
        if paths is not None:
            paths.path_moved(NO_PATH, remote, local, now)
            self._drain(peer, paths, now)

    def relays_changed(
        self, peer: PeerHandle, ways: Sequence[tuple[Endpoint, Endpoint | None]], now: int
    ) -> None:
        state = self._state(peer)
        state.relays = tuple(ways)
        if state.paths is not None:
            state.paths.set_relays(state.relays, now)
            self._changed(peer, state.paths, now)

    def proven(self, peer: PeerHandle) -> Sequence[tuple[Endpoint, Endpoint | None]]:
        paths = self._paths(peer)
        return paths.routes() if paths is not None else ()

    def lost(self, peer: PeerHandle) -> bool:
        paths = self._paths(peer)
        return paths is not None and bool(paths.paths) and not (paths.first_works or paths.routes())

    def doubted(self, peer: PeerHandle, now: int) -> None:
        state = self._states.get(peer)
        if self._moving or state is None or state.paths is None:
            return
        if now >= state.look_at:
            state.doubted, state.look_at = True, now + LOOK_EACH
            state.paths.look(now)
            self._drain(peer, state.paths, now)

    def narrow(self, peer: PeerHandle) -> int:
        paths = self._paths(peer)
        return paths.narrow if paths is not None else 0

    def routes(self, peer: PeerHandle) -> Sequence[tuple[Endpoint, Endpoint | None]]:
        """If path 0 has failed, the paths that work: no relays, for they know no handshakes."""
        paths = self._paths(peer)
        if paths is None or paths.first_works:
            return ()
        return [way for way in paths.routes() if not self._host.is_relay(peer, way[0])]

    # through NATs

    def punch(self, peer: PeerHandle, remotes: Sequence[tuple[Endpoint, bool]], now: int) -> bool:
        """Inside a session with paths a hole is punched by their probes. What the peer alone names
        it announces there, and it is a candidate without our doing."""
        paths = self._paths(peer)
        if paths is None or not self._host.speaks(peer):
            return False
        paths.punch([remote for remote, vouched in remotes if vouched], now)
        self._drain(peer, paths, now)
        return True

    def is_direct(self, peer: PeerHandle, now: int) -> bool | None:
        paths = self._paths(peer)
        if paths is None:
            return None
        working = [remote for remote, _ in paths.routes()]
        if not working:
            return None if paths.first_works else False
        return not all(self._host.is_relay(peer, remote) for remote in working)

    def observations(self) -> Sequence[Observation]:
        return [
            Observation(peer, path.local.ip if path.local else "", path.remote, path.seen)
            for peer, state in self._states.items()
            if state.paths is not None
            for path in state.paths.paths
            if path.seen is not None and not self._host.is_relay(peer, path.remote)
        ]

    # inputs

    def set_settings(self, settings: MultipathSettings | None, mtu: int, now: int) -> None:
        """The configuration's `[multipath]`, None where the data plane has no paths, and the
        tunnel's MTU as configured.

        Paths are left at once if it is off; peers are told at once where that changed.
        """
        self._settings, self._mtu = settings, mtu
        for peer in self._host.peers:
            if settings is None or not settings.enabled:
                self._stop(peer, now)
            self._host.offer(peer, now)
            paths = self._paths(peer)
            if paths is not None and settings is not None:
                paths.set_settings(settings, now, mtu=mtu)
                self._drain(peer, paths, now)
            self._host.rearm(peer)

    def path_samples(self, peer: PeerHandle, samples: dict[int, PathSample], now: int) -> None:
        """What the data plane counted on the peer's paths, by number; each tick."""
        paths = self._paths(peer)
        if paths is not None:
            paths.sample(samples, now)
            self._changed(peer, paths, now)

    def path_moved(
        self, peer: PeerHandle, path: int, remote: Endpoint, local: Endpoint | None, now: int
    ) -> None:
        """What has the peer's path number comes from elsewhere than before."""
        paths = self._paths(peer)
        if paths is not None:
            self._host.event(PeerSeen(peer, remote))
            paths.path_moved(path, remote, local, now)
            self._changed(peer, paths, now)

    def path_silent(self, peer: PeerHandle, path: int, now: int) -> None:
        """Data on our path was out for its rescue_us without a word."""
        paths = self._paths(peer)
        if paths is not None:
            paths.path_silent(path, now)
            self._changed(peer, paths, now)

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
        self._host.peer(peer)
        self._state(peer).pins.set(pin, local, remote, interface)
        paths = self._paths(peer)
        if paths is not None:
            paths.pinned(now)
            self._changed(peer, paths, now)

    def path_status(self, peer: PeerHandle) -> list[PathStatus]:
        """Empty while the peer speaks of no paths. KeyError: no such peer."""
        self._host.peer(peer)
        paths = self._paths(peer)
        return paths.status() if paths is not None else []

    # outputs

    def _changed(self, peer: PeerHandle, paths: PathManager, now: int) -> None:
        self._drain(peer, paths, now)
        self._host.rearm(peer)

    def _drain(self, peer: PeerHandle, paths: PathManager, now: int) -> None:
        moved = False
        while (action := paths.poll_action()) is not None:
            moved = moved or isinstance(action, SetPaths | PacketLimit)
            if isinstance(action, AskAnchors):
                for remote in {remote for remote, _ in self._state(peer).relays}:
                    self._host.doubt_relay(peer, remote, now)
                continue
            if isinstance(action, SetPaths):
                for spec in action.paths:
                    if spec.usable:
                        self._host.event(PeerSeen(peer, spec.remote))
            self._host.event(PathAction(peer, action))
        state = self._state(peer)
        if moved or state.lost != self.lost(peer):
            state.lost = self.lost(peer)
            self._host.ways_changed(peer, now)
            if state.lost and state.doubted:
                # No data would show it, nor a keepalive for minutes: a handshake does.
                self._host.renew(peer, now)
            state.doubted = state.doubted and not state.lost
