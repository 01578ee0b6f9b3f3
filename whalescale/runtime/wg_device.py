"""What `wg show` sees and what `wg set` does, in terms of this agent's tunnel.

Peers added here stand beside the file's and are not written to it. As with every WireGuard,
`wg set` changes no routes.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from whalescale.dataplane.engine import Engine
from whalescale.endpoints import HostPort
from whalescale.identity import PlainIdentity
from whalescale.protocol.node import Node
from whalescale.protocol.places import Endpoint
from whalescale.runtime.driver import to_endpoint
from whalescale.runtime.errors import AgentError
from whalescale.runtime.resolve import numeric_endpoint
from whalescale.runtime.sockets import Sockets
from whalescale.runtime.tunnel import Change, Origin, Peer, PeerSpec, Tunnel, format_endpoint
from whalescale.runtime.wg_uapi import (
    DeviceView,
    PeerChange,
    PeerView,
    SetRequest,
    UapiError,
    same_private_key,
)

log = logging.getLogger(__name__)


class WgDevice:
    """`mark_held()`: the fwmark that the default route's rules need, 0 when none do.

    `changing` is held while something changes; a reload holds it, too.
    """

    def __init__(
        self,
        identity: PlainIdentity,
        node: Node,
        engine: Engine,
        tunnel: Tunnel,
        sockets: Sockets,
        fwmark: int,
        mark_held: Callable[[], int],
        changing: asyncio.Lock,
    ) -> None:
        self._identity = identity
        self._node = node
        self._engine = engine
        self._tunnel = tunnel
        self._sockets = sockets
        self.fwmark = fwmark
        self.mark_held = mark_held
        self._changing = changing

    # get

    def view(self) -> DeviceView:
        return DeviceView(
            bytes(self._identity.static_private), self._sockets.port, self.fwmark, self._peers()
        )

    def _peers(self) -> Iterator[PeerView]:
        for peer in list(self._tunnel.peers.values()):
            # `wg` knows peers by public key only: one that has not told its own is left out.
            if peer.static_public is None or peer.handle not in self._tunnel.peers:
                continue
            stats = self._tunnel.driver.stats(peer.handle)
            endpoint = to_endpoint(stats.endpoint) or self._node.peer_status(peer.handle).endpoint
            yield PeerView(
                peer.static_public,
                peer.spec.preshared_key,
                _without_zone(endpoint),
                peer.last_handshake_wall_ns,
                stats.tx_bytes,
                stats.rx_bytes,
                peer.spec.persistent_keepalive,
                peer.networks,
            )

    # set

    async def change(self, request: SetRequest) -> None:
        """Check all of it, then do all of it. UapiError: nothing has changed."""
        async with self._changing:
            self._change(request)

    def _change(self, request: SetRequest) -> None:
        if request.private_key is not None and not same_private_key(
            request.private_key, bytes(self._identity.static_private)
        ):
            raise UapiError(
                errno.EINVAL, "the private key is the file's; change it there and restart the agent"
            )
        held = self.mark_held()
        if held and request.fwmark not in (None, 0, held):
            raise UapiError(errno.EBUSY, f"the default route's rules need fwmark {held}")
        self._zoned(request)
        change = self._plan(request)
        points = _points(request)
        port, fwmark = self._sockets.port, self.fwmark
        try:
            if request.listen_port is not None:
                self._sockets.reopen(request.listen_port)
            if request.fwmark is not None:
                self.set_fwmark(request.fwmark or held)
            self._tunnel.commit(change)
        except (AgentError, ValueError, OSError) as e:
            self._put_back(port, fwmark)
            raise _as_uapi_error(e) from None
        self._point(points)

    def _put_back(self, port: int, fwmark: int) -> None:
        try:
            self.set_fwmark(fwmark)
            self._sockets.reopen(port)
        except (AgentError, OSError) as e:
            log.error("wg set: not put back: %s", e)

    def _point(self, points: Iterable[tuple[bytes, Endpoint]]) -> None:
        """An endpoint that is set again brings a peer back that has roamed since."""
        for key, endpoint in points:
            peer = self._tunnel.by_key(key)
            if peer is None:
                continue
            if self._node.peer_status(peer.handle).endpoint != endpoint:
                self._tunnel.driver.set_endpoint(peer.handle, endpoint)

    def set_fwmark(self, fwmark: int) -> None:
        """OSError: the old one stays."""
        if fwmark == self.fwmark:
            return
        try:
            self._engine.set_fwmark(fwmark)
        except OSError:
            # Some sockets may have the new one.
            with contextlib.suppress(OSError):
                self._engine.set_fwmark(self.fwmark)
            raise
        self.fwmark = fwmark

    def _plan(self, request: SetRequest) -> Change:
        """From the request's sections, in order, to what each peer shall be in the end."""
        before: dict[bytes, Peer] = {
            p.static_public: p for p in self._tunnel.peers.values() if p.static_public is not None
        }
        wanted: dict[bytes, PeerSpec] = {}
        if not request.replace_peers:
            wanted = {key: p.spec for key, p in before.items()}
        networks = _Owners(wanted)
        for section in request.peers:
            key = section.public_key
            if key == self._identity.static_public:
                continue  # as wireguard-go: a configuration shared by all hosts names us too
            if section.remove:
                wanted.pop(key, None)
                networks.clear(key)
                continue
            known = wanted.get(key)
            if known is None:
                if section.update_only:
                    continue
                known = self._fresh(key, before.get(key))
            wanted[key] = _changed(known, section)
            networks.change(key, section)
        wanted = {key: networks.given(key, spec) for key, spec in wanted.items()}
        return Change(
            add=[s for key, s in wanted.items() if key not in before],
            update=[
                (p, wanted[key])
                for key, p in before.items()
                if key in wanted and wanted[key] != p.spec
            ],
            remove=[p for key, p in before.items() if key not in wanted],
        )

    def _zoned(self, request: SetRequest) -> None:
        """A link-local endpoint without a zone is the one that the peer has, if that has one.

        `wg showconf` leaves zones out, and what it prints is often set again.
        """
        for section in request.peers:
            at = section.endpoint
            if at is None or not at.numeric or "%" in at.host:
                continue
            if not ipaddress.ip_address(at.host).is_link_local or ":" not in at.host:
                continue
            peer = self._tunnel.by_key(section.public_key)
            if peer is None:
                continue
            same = [
                e
                for e in peer.spec.endpoints
                if e.port == at.port and e.host.partition("%")[0] == at.host
            ]
            in_use = self._node.peer_status(peer.handle).endpoint
            if not same and in_use is not None and (in_use.ip, in_use.port) == (at.host, at.port):
                zone = f"%{in_use.scope_id}" if in_use.scope_id else ""
                same = [HostPort(at.host + zone, at.port, True)]
            section.endpoint = same[0] if same else at

    @staticmethod
    def _fresh(key: bytes, peer: Peer | None) -> PeerSpec:
        """A new peer; one that was removed and comes back keeps its name and its node ID."""
        if peer is None:
            return PeerSpec(f"wg-{key.hex()[:8]}", static_public=key, origin=Origin.UAPI)
        old = peer.spec
        return PeerSpec(
            old.name, old.static_public, old.node_id, old.fingerprint, origin=old.origin
        )


def _points(request: SetRequest) -> list[tuple[bytes, Endpoint]]:
    """(public key, where the peer is said to be). UapiError: a zone is no interface of ours."""
    points: list[tuple[bytes, Endpoint]] = []
    for section in request.peers:
        if section.endpoint is not None:
            try:
                points.append((section.public_key, numeric_endpoint(section.endpoint)))
            except OSError as e:
                what = f"endpoint {section.endpoint}: {e.strerror or e}"
                raise UapiError(errno.EINVAL, what) from None
    return points


def _as_uapi_error(error: AgentError | ValueError | OSError) -> UapiError:
    match error:
        case AgentError():
            return UapiError(errno.EADDRINUSE, error.message)
        case OSError():
            return UapiError(error.errno or errno.EIO, str(error))
        case _:
            return UapiError(errno.EINVAL, str(error))


class _Owners:
    """Which peer has which network while a set is carried out: the last that was given it."""

    def __init__(self, specs: Mapping[bytes, PeerSpec]) -> None:
        #: in the order in which they were given
        self._of = {key: dict.fromkeys(spec.allowed_ips) for key, spec in specs.items()}
        self._owner = {n: key for key, found in self._of.items() for n in found}

    def clear(self, key: bytes) -> None:
        for network in self._of.pop(key, ()):
            self._owner.pop(network, None)

    def change(self, key: bytes, section: PeerChange) -> None:
        if section.replace_allowed_ips:
            self.clear(key)
        own = self._of.setdefault(key, {})
        for add, network in section.allowed_ips:
            if add:
                before = self._owner.get(network)
                if before is not None:
                    self._of[before].pop(network, None)
                self._owner[network] = key
                own[network] = None
            elif network in own:
                del own[network]
                self._owner.pop(network, None)

    def given(self, key: bytes, spec: PeerSpec) -> PeerSpec:
        allowed = tuple(self._of.get(key, ()))
        return spec if allowed == spec.allowed_ips else replace(spec, allowed_ips=allowed)


def _without_zone(endpoint: Endpoint | None) -> str | None:
    """As wireguard-go tells it, and `wg` of it."""
    return format_endpoint(endpoint and endpoint._replace(scope_id=0))


def _changed(spec: PeerSpec, section: PeerChange) -> PeerSpec:
    """All but the networks."""
    return replace(
        spec,
        preshared_key=spec.preshared_key
        if section.preshared_key is None
        else section.preshared_key,
        endpoints=spec.endpoints if section.endpoint is None else (section.endpoint,),
        persistent_keepalive=spec.persistent_keepalive
        if section.persistent_keepalive is None
        else section.persistent_keepalive,
    )
