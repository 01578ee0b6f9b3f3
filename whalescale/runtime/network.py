"""The agent's network: members become peers, records go to the disk, frames into sessions.

`protocol/mesh/network.py` decides; here is what it wants carried out, in its order.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from whalescale import locations
from whalescale.endpoints import HostPort
from whalescale.identity import Identity, PlainIdentity, encode_node_id, overlay_address
from whalescale.protocol.limits import NS_PER_S
from whalescale.protocol.mesh import invite
from whalescale.protocol.mesh.anchors import Advice
from whalescale.protocol.mesh.directory import How
from whalescale.protocol.mesh.guest import MeshGuest
from whalescale.protocol.mesh.membership import member_key
from whalescale.protocol.mesh.network import (
    GuestAdmitted,
    GuestGone,
    MemberChanged,
    Mesh,
    MeshError,
    MeshEvent,
    MeshSettings,
    Notice,
    RecordGone,
    RecordStored,
    SendFrame,
    WantSession,
    Word,
)
from whalescale.protocol.mesh.records import MemberRecord, RecordError
from whalescale.protocol.places import Endpoint
from whalescale.protocol.types import Event, HandshakeCompleted, Stranger
from whalescale.runtime.control_socket import private_directory
from whalescale.runtime.driver import Driver
from whalescale.runtime.errors import AgentError
from whalescale.runtime.notices import NetworksChanged, Notices
from whalescale.runtime.part import Part
from whalescale.runtime.store import MetPlace, Store, StoreError, Timestamps
from whalescale.runtime.tunnel import (
    Change,
    Network,
    Origin,
    Peer,
    PeerSpec,
    Tunnel,
    format_endpoint,
)

if TYPE_CHECKING:
    from whalescale.runtime.responder import Responder

log = logging.getLogger(__name__)

#: what need not be on the disk at once is written together
FLUSH_S: Final = 1.0
#: events carried out before the loop gets to its other work
EVENTS_PER_TURN: Final = 64
#: below the time-out of nearly every NAT
KEEPALIVE_S: Final = 25
NETWORK: Final = "network"
_BELONGS_NO_MORE: Final = "this machine was revoked: `ws network leave` forgets the network"
_ADVICE: Final = {
    Advice.NONE: "no anchor is alive: `anchor = true` makes one of a machine that others reach",
    Advice.LAST: "the last anchor: a second one on another network would outlive it",
    Advice.ONE_NETWORK: "all anchors are on one network, which may fail as one",
}


def store_file(interface: str) -> Path:
    return locations.state_dir() / f"{interface}.db"


def open_store(interface: str) -> Store:
    """AgentError: another agent has it, or it cannot be written."""
    path = store_file(interface)
    private_directory(path.parent)
    try:
        return Store(path)
    except StoreError as e:
        raise AgentError(str(e), "") from None


def has_network(interface: str) -> bool:
    return store_file(interface).exists()


class NetworkKeeper(Part):
    """One agent's network, or none: then every method does nothing."""

    name: ClassVar[str] = NETWORK

    def __init__(
        self, interface: str, identity: PlainIdentity, settings: MeshSettings, notices: Notices
    ) -> None:
        """Without a node ID there is no network."""
        self._interface = interface
        self._identity = identity
        self._settings = settings
        self._store: Store | None = None
        self.network_id: bytes | None = None
        #: for handshakes
        self.wall_clock: Callable[[], int] = time.time_ns
        self.mesh: Mesh | None = None
        self._notices = notices
        self._driver: Driver | None = None
        self._guest: MeshGuest | None = None
        self._tunnel: Tunnel | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turn: asyncio.Handle | None = None
        self._flush: asyncio.TimerHandle | None = None
        self._noted = 0
        self._addresses: tuple[int, dict[ipaddress.IPv4Address, bytes]] = (-1, {})
        self._names: tuple[int, dict[str, list[str]]] = (-1, {})
        self._responder: Responder | None = None
        #: what the routes were made of
        self._networks: set[Network] = set()

    # life

    def open(self) -> None:
        """AgentError: the store is another agent's, or cannot be written."""
        if isinstance(self._identity, Identity) and has_network(self._interface):
            self._store = open_store(self._interface)
            self.network_id = self._store.meta(NETWORK)
            self.wall_clock = Timestamps(self._store)

    def begin(self, guest: MeshGuest, now: int) -> None:
        """Read what is kept, before the interface gets its addresses."""
        if self._store is None or self.network_id is None:
            return
        assert isinstance(self._identity, Identity)
        self.mesh = Mesh(
            self._identity,
            self.network_id,
            random=os.urandom,
            now=now,
            settings=self._settings,
            seq=self._store.seq,
        )
        taken = self.mesh.restore(self._store.records(), now)
        for met in self._store.met_places():
            if self.mesh.membership.active(met.node_id) is not None:
                how = How(met.how) if met.how in How.__members__.values() else How.SEEN
                self.mesh.directory.met(met.node_id, Endpoint(met.ip, met.port), how, 0)
        self._guest = guest
        log.info("network: %d records kept", taken)
        self._tell_notes()

    @property
    def driver(self) -> Driver:
        assert self._driver is not None
        return self._driver

    async def start(self, tunnel: Tunnel, driver: Driver) -> None:
        """Members become peers. The driver runs."""
        if self.mesh is None or self._guest is None:
            return
        self._tunnel, self._driver = tunnel, driver
        self._loop = asyncio.get_running_loop()
        self._networks = tunnel.networks()
        self._guest.on_events = self._soon
        self._guest.give(self.mesh, self.driver.now())
        self._soon()
        if self._responder is not None:
            await self._responder.start()

    async def close(self) -> None:
        self._loop = None
        for handle in (self._turn, self._flush):
            if handle is not None:
                handle.cancel()
        if self._responder is not None:
            self._responder.close()
        if self._guest is not None:
            self._guest.on_events = lambda: None
        if self._store is not None:
            self._keep_met()
            self._store.close()
            self._store = None

    def _keep_met(self) -> None:
        if self.mesh is None or self._store is None:
            return
        wall = int(time.time())
        for member in self.mesh.membership.actives():
            places = self.mesh.directory.met_places(member.node_id)
            self._store.met(
                MetPlace(member.node_id, m.endpoint.ip, m.endpoint.port, m.how, wall)
                for m in places
                if m.when
            )

    def _tell_notes(self) -> None:
        if self._store is not None:
            for note in self._store.notes[self._noted :]:
                log.warning("%s", note)
            self._noted = len(self._store.notes)

    def on_event(self, event: Event) -> None:
        """What the core tells of handshakes."""
        if self.mesh is None or self._tunnel is None or self._guest is None:
            return
        now = self.driver.now()
        match event:
            case Stranger():
                self.mesh.stranger(now)  # another member may have let it in
            case HandshakeCompleted(initiator=True):
                self._guest.answered(event.peer, now)
            case _:
                pass

    # addresses

    def addresses(self) -> list[ipaddress.IPv4Interface]:
        """Ours inside, beside the derived one."""
        mesh = self.mesh
        own = mesh.membership.active(mesh.node_id) if mesh is not None else None
        network = mesh.membership.network if mesh is not None else None
        if mesh is None or own is None or network is None or network.prefix is None:
            return []
        address = mesh.membership.address_of(own, mesh.membership.addresses())
        if address is None:
            return []
        return [ipaddress.IPv4Interface(f"{address}/{network.prefix.prefixlen}")]

    # names

    def bind_names(self, interface: str, addresses: Iterable[str]) -> None:
        """While the rights for it are there: port 53, and a program of systemd's."""
        network = self.mesh.membership.network if self.mesh is not None else None
        if network is None:
            return
        # dnspython is a tenth of an agent's start; most have no network.
        from whalescale.runtime.responder import Responder

        self._responder = Responder(network.name, self._members)
        self._responder.bind(addresses)
        self._responder.tell_resolved(interface)

    def _members(self) -> dict[str, list[str]]:
        """Addresses inside, by name; once for each state of the records."""
        mesh = self.mesh
        if mesh is None:
            return {}
        if self._names[0] != mesh.table.changes:
            holders = self._holders(mesh)
            found: dict[str, list[str]] = {}
            for record in sorted(mesh.membership.actives(), key=lambda r: r.node_id):
                address = mesh.membership.address_of(record, holders)
                inside = [str(address)] if address is not None else []
                found.setdefault(record.name, [*inside, str(overlay_address(record.node_id))])
            self._names = mesh.table.changes, found
        return self._names[1]

    # carrying out

    def _soon(self) -> None:
        if self._loop is not None and self._turn is None:
            self._turn = self._loop.call_soon(self._carry_out)

    def _carry_out(self) -> None:
        self._turn = None
        mesh, tunnel = self.mesh, self._tunnel
        if self._loop is None or mesh is None or tunnel is None:
            return
        for _ in range(EVENTS_PER_TURN):
            event = mesh.poll_event()
            if event is None:
                self._follow_networks(tunnel)
                break
            try:
                self._event(mesh, tunnel, event)
            except (ValueError, OSError) as e:
                log.error("network: %s: %s", type(event).__name__, e)
        else:
            self._soon()
        self.driver.drain()
        if self._flush is None:
            self._flush = self._loop.call_later(FLUSH_S, self._write)

    def _follow_networks(self, tunnel: Tunnel) -> None:
        """Routes, once for all the members that changed together."""
        networks = tunnel.networks()
        if networks != self._networks:
            self._networks = networks
            self._notices.tell(NetworksChanged())

    def _write(self) -> None:
        self._flush = None
        if self._store is not None:
            self._store.flush()
            self._tell_notes()

    def _event(self, mesh: Mesh, tunnel: Tunnel, event: MeshEvent) -> None:
        store, guest = self._store, self._guest
        if store is None or guest is None:
            return
        match event:
            case RecordStored():
                seq = mesh.directory.seq if event.own else None
                store.put(event.key, event.raw, durable=event.own, seq=seq)
            case RecordGone():
                store.remove(event.key)
            case SendFrame():
                guest.send(event.node_id, event.frame)
            case MemberChanged():
                self._follow(mesh, tunnel, event.node_id)
            case WantSession():
                peer = self._peer(tunnel, event.node_id)
                if peer is not None:
                    self._follow(mesh, tunnel, event.node_id)
                    self.driver.want_handshake(peer.handle)
            case GuestAdmitted():
                spec = PeerSpec("ticket", node_id=event.node_id, origin=Origin.GUEST)
                tunnel.commit(Change(add=[spec]))
            case GuestGone():
                peer = self._peer(tunnel, event.node_id)
                if peer is not None:
                    tunnel.commit(Change(remove=[peer]))
            case Notice():
                self._notice(tunnel, event)

    def _notice(self, tunnel: Tunnel, notice: Notice) -> None:
        text = {
            Word.JOINED: f"{notice.name} joined the network",
            Word.REVOKED: f"{notice.name} was revoked",
            Word.REVOKED_SELF: _BELONGS_NO_MORE,
            Word.CLONED: "another machine uses this machine's key: make one of them a new one",
            Word.TICKET_USED: f"{notice.name} came with its ticket",
        }[notice.word]
        log.info("network: %s", text)
        tunnel.tell(text)

    def _peer(self, tunnel: Tunnel, node_id: bytes) -> Peer | None:
        handle = self._guest.handle_of(node_id) if self._guest is not None else None
        return None if handle is None else tunnel.peers.get(handle)

    def _holders(self, mesh: Mesh) -> dict[ipaddress.IPv4Address, bytes]:
        """Who has which address; asked for thousands of members in turn."""
        if self._addresses[0] != mesh.table.changes:
            self._addresses = mesh.table.changes, mesh.membership.addresses()
        return self._addresses[1]

    def _follow(self, mesh: Mesh, tunnel: Tunnel, node_id: bytes) -> None:
        """The peer is what the records say. One of the file's is left as it is."""
        if node_id == mesh.node_id:
            if not mesh.belongs:
                members = [p for p in tunnel.peers.values() if p.spec.origin is Origin.MESH]
                tunnel.commit(Change(remove=members))
            return
        peer = self._peer(tunnel, node_id)
        if peer is not None and peer.spec.origin not in (Origin.MESH, Origin.GUEST):
            return
        record = mesh.membership.active(node_id) if mesh.belongs else None
        if record is None:
            if peer is not None:
                tunnel.commit(Change(remove=[peer]))
            return
        spec = self._spec(mesh, record, self.driver.now())
        if peer is None:
            tunnel.commit(Change(add=[spec]))
        elif peer.spec != spec:
            tunnel.commit(Change(update=[(peer, spec)]))

    def _spec(self, mesh: Mesh, record: MemberRecord, now: int) -> PeerSpec:
        address = mesh.membership.address_of(record, self._holders(mesh))
        networks: list[Network] = list(record.routes)
        if address is not None:
            networks.insert(0, ipaddress.IPv4Network(address))
        places = mesh.places(record.node_id, now)
        return PeerSpec(
            name=record.name,
            node_id=record.node_id,
            endpoints=tuple(HostPort(p.ip, p.port, True) for p in places),
            allowed_ips=tuple(networks),
            persistent_keepalive=KEEPALIVE_S if record.node_id in mesh.chosen else 0,
            origin=Origin.MESH,
        )

    # what a person asks

    def _mesh_or_error(self) -> Mesh:
        if self.mesh is None:
            raise AgentError(
                "this machine is in no network",
                "`ws network create NAME` makes one, `ws join TICKET` joins one",
            )
        return self.mesh

    def status(self) -> dict[str, Any]:
        """The members for the live view: whalescale/status.py, Network."""
        mesh, tunnel = self.mesh, self._tunnel
        if mesh is None or tunnel is None:
            return {}
        network, anchors, holders = mesh.membership.network, mesh.anchors(), self._holders(mesh)
        known = frozenset(anchors.known)
        warnings = [] if mesh.belongs else [_BELONGS_NO_MORE]
        if anchors.advice is not None and mesh.belongs:
            warnings.append(_ADVICE[anchors.advice])
        if self._store is not None and self._store.trouble:
            warnings.append(f"what is known is not kept: {self._store.trouble}")
        members = []
        for record in mesh.membership.actives():
            node_id = record.node_id
            session = node_id in mesh.sessions
            address = mesh.membership.address_of(record, holders)
            members.append(
                {
                    "name": record.name,
                    "id": encode_node_id(node_id),
                    "here": node_id == mesh.node_id,
                    "admin": mesh.membership.is_admin(node_id),
                    "anchor": node_id in known,
                    "address": str(address) if address else None,
                    "session": session,
                    "reached": self._reached(mesh, tunnel, node_id) if session else "",
                }
            )
        return {
            "name": network.name if network else "",
            "anchors_alive": len(anchors.alive),
            "warnings": warnings,
            "members": members,
        }

    def _reached(self, mesh: Mesh, tunnel: Tunnel, node_id: bytes) -> str:
        """How we know the place that a member is reached at."""
        peer = self._peer(tunnel, node_id)
        at = format_endpoint(tunnel.endpoint_of(peer)) if peer is not None else None
        for place, how in mesh.directory.places(node_id, self.driver.now()):
            if format_endpoint(place) == at:
                return how.name.lower()
        return ""

    def view(self) -> dict[str, Any]:
        """The network and its members, for `ws members` and `ws network show`. AgentError: none."""
        mesh = self._mesh_or_error()
        network = mesh.membership.network
        holders = self._holders(mesh)
        anchors = mesh.anchors()
        now = self.driver.now() if self._tunnel is not None else 0
        members = []
        for record in sorted(mesh.membership.actives(), key=lambda r: r.name):
            node_id = record.node_id
            here = node_id == mesh.node_id
            peer = self._peer(self._tunnel, node_id) if self._tunnel is not None else None
            address = mesh.membership.address_of(record, holders)
            up = mesh.sessions.get(node_id)
            endpoint = None
            if peer is not None and self._tunnel is not None and up is not None:
                endpoint = format_endpoint(self._tunnel.endpoint_of(peer))
            members.append(
                {
                    "name": record.name,
                    "node_id": encode_node_id(node_id),
                    "self": here,
                    "admin": mesh.membership.is_admin(node_id),
                    "admin_generation": mesh.membership.admin_generation(node_id),
                    "anchor": node_id in anchors.known,
                    "address": str(address) if address else None,
                    "overlay": str(overlay_address(node_id)),
                    "routes": [str(r) for r in record.routes],
                    "session": up is not None,
                    "endpoint": endpoint,
                    "last_handshake": peer.last_handshake_wall_ns / 1e9 if peer else None,
                    "places": [
                        {"endpoint": format_endpoint(e), "how": how.name.lower()}
                        for e, how in mesh.directory.places(node_id, now)
                    ],
                }
            )
        return {
            "network": {
                "name": network.name if network else None,
                "id": mesh.network_id.hex(),
                "prefix": str(network.prefix) if network and network.prefix else None,
                "belongs": mesh.belongs,
                "admin": mesh.is_admin,
                "anchors_alive": len(anchors.alive),
                "advice": anchors.advice.value if anchors.advice else None,
                "records": mesh.table.count,
                "drops": dict(mesh.drops),
                "store": self._store.trouble if self._store is not None else None,
            },
            "members": members,
        }

    def ask(self, params: dict[str, Any]) -> dict[str, Any]:
        """`op`: view, invite, revoke or rename. AgentError: it cannot be done, and why."""
        mesh = self._mesh_or_error()
        tunnel = self._tunnel
        if tunnel is None:
            raise AgentError("the agent is starting", "try again")
        now = self.driver.now()
        op, name = params.get("op"), str(params.get("name", ""))
        try:
            if op == "view":
                return self.view()
            if op == "invite":
                return self._invite(mesh, name, params, now)
            if op == "revoke":
                record = mesh.revoke(name, now)
                return {"revoked": record.name, "node_id": encode_node_id(record.node_id)}
            if op == "issued":
                issuer = bytes.fromhex(str(params.get("node_id", "")))
                kept = (
                    mesh.table.get(member_key(r.node_id)) for r in mesh.membership.issued_by(issuer)
                )
                return {"records": [entry.raw.hex() for entry in kept if entry is not None]}
            if op == "record":
                return self._record(mesh, params, now)
            if op == "rename":
                return {"name": mesh.rename(name, str(params.get("new", "")), now).name}
        except MeshError as e:
            message, _, fix = str(e).partition("; ")
            raise AgentError(message, fix) from None
        finally:
            self._soon()
        raise AgentError(f"the agent knows no {op!r} of networks", "update it: ws down, ws up")

    @staticmethod
    def _record(mesh: Mesh, params: dict[str, Any], now: int) -> dict[str, Any]:
        """Take records that the network key signed, as if we had."""
        try:
            raws = [bytes.fromhex(str(raw)) for raw in params.get("records", ())]
            for raw in raws:
                mesh.publish(raw, now)
        except (RecordError, ValueError) as e:
            raise AgentError(
                f"the record is refused: {e}", "see that the key is this network's"
            ) from None
        return {"taken": len(raws)}

    def _invite(self, mesh: Mesh, name: str, params: dict[str, Any], now: int) -> dict[str, Any]:
        try:
            routes = tuple(ipaddress.ip_network(r) for r in params.get("routes", ()))
        except ValueError as e:
            raise AgentError(str(e), "write a network as 192.168.7.0/24") from None
        lifetime = int(params.get("lifetime_s", invite.LIFETIME // NS_PER_S))
        own = mesh.table.endpoints(mesh.node_id)
        places = tuple(p.endpoint for p in own.places) if own else ()
        if not places:
            raise AgentError(
                "no address of this machine is known where others could reach it",
                "connect it to a network first",
            )
        _, secret = mesh.invite(
            name,
            now,
            may_anchor=bool(params.get("may_anchor", True)),
            routes=routes,
            lifetime=max(60, min(lifetime, 7 * 86_400)) * NS_PER_S,
        )
        expires = int(time.time()) + lifetime
        ticket = invite.Ticket(mesh.network_id, mesh.node_id, secret, expires, places)
        return {"name": name, "ticket": invite.encode_ticket(ticket), "expires": expires}
