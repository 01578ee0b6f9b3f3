"""The agent's network: members become peers, records go to the disk, frames into sessions.

`protocol/mesh/network.py` decides; here is what it wants carried out, in its order.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Final

from whalescale import locations
from whalescale.config import Accept, Config, NetworkConfig
from whalescale.endpoints import HostPort
from whalescale.identity import Identity, PlainIdentity
from whalescale.protocol.limits import NS_PER_S
from whalescale.protocol.mesh import records
from whalescale.protocol.mesh.anchors import known_anchors
from whalescale.protocol.mesh.directory import How
from whalescale.protocol.mesh.entry import Entry
from whalescale.protocol.mesh.guest import MeshGuest
from whalescale.protocol.mesh.network import (
    Anchoring,
    DialPlace,
    GuestAdmitted,
    GuestGone,
    HeldStored,
    MappedDialled,
    MemberChanged,
    Mesh,
    MeshEvent,
    MeshSettings,
    Notice,
    RecordGone,
    RecordStored,
    SendFrame,
    TicketKept,
    WantSession,
)
from whalescale.protocol.mesh.records import MemberRecord
from whalescale.protocol.nat.guest import Membership, Signalling
from whalescale.protocol.places import Endpoint, PeerHandle
from whalescale.protocol.types import (
    Event,
    HandshakeCompleted,
    MemberCame,
    RequestCame,
    Stranger,
)
from whalescale.runtime import network_requests, network_store
from whalescale.runtime.accepting import Accepting, connected
from whalescale.runtime.control_socket import private_directory
from whalescale.runtime.dialling import PlaceDialler
from whalescale.runtime.driver import Driver
from whalescale.runtime.errors import AgentError
from whalescale.runtime.network_names import MemberNames
from whalescale.runtime.network_store import NETWORK, has_network, open_store
from whalescale.runtime.network_view import Shown, notice_text
from whalescale.runtime.networks import Networks
from whalescale.runtime.notices import (
    MappingDialled,
    MembersChanged,
    NetworksChanged,
    Notices,
    PeersChanged,
)
from whalescale.runtime.part import Here, Part
from whalescale.runtime.relay import Reach, Way
from whalescale.runtime.reload import EVERYWHERE
from whalescale.runtime.store import Store, Timestamps
from whalescale.runtime.tunnel import (
    Change,
    Network,
    Origin,
    Peer,
    PeerSpec,
    Tunnel,
)

log = logging.getLogger(__name__)

#: what need not be on the disk at once is written together
FLUSH_S: Final = 1.0
#: places where members were met are written so often at most
MET_NS: Final = 30 * NS_PER_S
#: events carried out before the loop gets to its other work
EVENTS_PER_TURN: Final = 64
#: below the time-out of nearly every NAT
KEEPALIVE_S: Final = 25


def settings_of(config: NetworkConfig) -> MeshSettings:
    """[network], as the core takes it."""
    anchor = {True: Anchoring.YES, "auto": Anchoring.AUTO}.get(config.anchor or "", Anchoring.NO)
    return MeshSettings(config.neighbours, anchor, config.role == "leaf")


class NetworkKeeper(Part):
    """One agent's network, or none: then every method does nothing."""

    name: ClassVar[str] = NETWORK

    def __init__(
        self, interface: str, identity: PlainIdentity, config: NetworkConfig, notices: Notices
    ) -> None:
        """Without a node ID there is no network."""
        self._interface = interface
        self._identity = identity
        self._config = config
        #: the name of the member that all traffic goes to
        self._exit = ""
        #: what is taken of the networks behind members; nothing until it is known where we are
        self._accepting = Accepting(Accept("none"))
        self._store: Store | None = None
        self.network_id: bytes | None = None
        self._wall_clock: Callable[[], int] = time.time_ns
        self.mesh: Mesh | None = None
        self._notices = notices
        self._driver: Driver | None = None
        self._guest: MeshGuest | None = None
        self._tunnel: Tunnel | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turn: asyncio.Handle | None = None
        self._flush: asyncio.TimerHandle | None = None
        self._noted = 0
        self._names = MemberNames()
        self._anchors: tuple[int, frozenset[bytes]] = (-1, frozenset())
        self._signalling: Signalling | None = None
        self._dialler: PlaceDialler | None = None
        self._shown: Shown | None = None
        self._mark: Callable[[], int] = lambda: 0
        #: which run of this machine a time of its boot clock is of
        self._boot = ""
        #: how a peer is reached
        self.reach: Callable[[PeerHandle, Way], Reach] = lambda _, at: Reach(at, "")
        #: of which state of the peers the routes were made
        self._followed = -1
        #: when places of members were written last, ns
        self._met_kept = 0
        #: since it was told last
        self._peers_changed = False

    # life

    def open(self) -> None:
        """AgentError: the store is another agent's, or cannot be written."""
        if not isinstance(self._identity, Identity):
            return
        self._boot = network_store.boot_id()
        with contextlib.suppress(OSError, AgentError):
            # The sandbox lets only folders in that are there: a network may be joined later.
            private_directory(locations.state_dir())
        if has_network(self._interface):
            self._open(open_store(self._interface))

    def _open(self, store: Store) -> None:
        self._store = store
        if isinstance(self._identity, Identity):
            store.seal_key = network_store.seal_key(self._identity)
        self.network_id = store.meta(NETWORK)
        self._wall_clock = Timestamps(store)

    def wall_clock(self) -> int:
        """For handshakes, ns since 1970."""
        return self._wall_clock()

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
            settings=settings_of(self._config),
            seq=self._store.seq,
            tenure=network_store.tenure(self._store, now),
        )
        sealed, bare = list[bytes](), list[bytes]()
        for kept in self._store.records():
            (sealed if kept.sealed else bare).append(kept.raw)
        taken = self.mesh.restore(bare, now, checked=sealed)
        for raw in bare:
            if (entry := self.mesh.table.known(raw)) is not None:
                self._store.put(entry.key, raw)  # sealed from here on
        for met in self._store.met_places():
            if self.mesh.membership.is_active(met.node_id):
                how = How(met.how) if met.how in How.__members__.values() else How.SEEN
                self.mesh.directory.met(met.node_id, Endpoint(met.ip, met.port), how, 0)
        self.mesh.admission.restore_tickets(network_store.invites(self._store, self._boot, now))
        self._guest = guest
        if self._signalling is not None:
            self.signal(self._signalling)
        log.info("network: %d records kept", taken)
        self._tell_notes()

    def signal(self, signalling: Signalling) -> None:
        """Members carry each other's messages, from when there is a network on."""
        self._signalling = signalling
        mesh, identity = self.mesh, self._identity
        if mesh is None or not isinstance(identity, Identity):
            return
        signalling.give(
            Membership(
                node_id=mesh.node_id,
                belongs=lambda n: mesh.belongs and mesh.membership.is_active(n),
                anchors=lambda: self._known_anchors(mesh),
                sign=lambda label, data: records.sign(identity.seed, label, data),
                verify=records.verify,
                wall_clock=self.wall_clock,
            )
        )

    def _known_anchors(self, mesh: Mesh) -> frozenset[bytes]:
        """Asked for at each call; made once for each state of the records."""
        if self._anchors[0] != mesh.table.changes:
            found = frozenset(known_anchors(mesh.table, mesh.membership))
            self._anchors = mesh.table.changes, found
        return self._anchors[1]

    @property
    def driver(self) -> Driver:
        assert self._driver is not None
        return self._driver

    async def start(self, tunnel: Tunnel, driver: Driver, mark: Callable[[], int]) -> None:
        """Members become peers. The driver runs. `mark`: of the tunnel's sockets."""
        self._tunnel, self._driver, self._mark = tunnel, driver, mark
        if self.mesh is not None and self._guest is not None:
            await self._begin(self.mesh, self._guest, tunnel)

    async def enter(self, guest: MeshGuest) -> dict[str, Any]:
        """This machine has come into a network while the agent runs. AgentError: it cannot."""
        tunnel = self._tunnel
        if tunnel is None:
            raise AgentError("the agent is starting", "try again")
        if self.mesh is not None:
            raise AgentError("this agent is in a network already", "see `ws network show`")
        if not isinstance(self._identity, Identity):
            raise AgentError("a WireGuard key has no node ID", "`ws init --force` makes one")
        if has_network(self._interface):
            self._open(open_store(self._interface, made=True))
        self.begin(guest, self.driver.now())
        if self.mesh is None:
            if self._store is not None:
                self._store.close()
                self._store = None
            raise AgentError("there is no network in the state folder", "`ws join` makes it")
        await self._begin(self.mesh, guest, tunnel)
        self._notices.tell(PeersChanged())
        network = self.mesh.membership.network
        return {
            "entered": self.mesh.network_id.hex(),
            "network": network.name if network is not None else "",
            "names_at": self._names.served_at(),
        }

    async def _begin(self, mesh: Mesh, guest: MeshGuest, tunnel: Tunnel) -> None:
        self._loop = asyncio.get_running_loop()
        self._dialler = PlaceDialler(self._mark, self._place_dialled)
        self._shown = Shown(
            mesh,
            guest,
            tunnel,
            self.driver.now,
            self._trouble,
            self.reach,
            self._refusal,
        )
        self._followed = tunnel.changes
        guest.give(mesh, self._soon, self.driver.now())
        self._soon()
        await self._names.answer(mesh)

    def _trouble(self) -> str | None:
        """Why nothing is kept; None: it is."""
        return self._store.trouble if self._store is not None else None

    def _place_dialled(self, job: int, answered: bool) -> None:
        if self.mesh is not None and self._loop is not None:
            self.mesh.place_dialled(job, answered, self.driver.now())
            self._soon()

    def set_near(self, near: Mapping[bytes, tuple[Endpoint, ...]]) -> None:
        """Who is on a link of ours, and where (lan.py)."""
        if self.mesh is not None and self._loop is not None:
            self.mesh.set_near(near, self.driver.now())
            self._soon()

    def use_exit(self, name: str) -> None:
        """All traffic goes to the member of this name; "": to none."""
        if name == self._exit:
            return
        changed, self._exit = {name, self._exit}, name
        names = {n.encode() for n in changed}
        self._follow_again(lambda entry: entry.name in names)

    def _accept(self, accepting: Accepting) -> None:
        if accepting != self._accepting:
            self._accepting = accepting
            self._follow_again(lambda entry: entry.has_routes)

    def _follow_again(self, those: Callable[[Entry], bool]) -> None:
        mesh, tunnel = self.mesh, self._tunnel
        if mesh is None or tunnel is None:
            return
        for node_id in [e.subject for e in mesh.membership.members() if those(e)]:
            self._follow(mesh, tunnel, node_id)
        self._follow_networks(tunnel)

    def _refusal(self, network: Network) -> str:
        return self._accepting.refusal(network)

    def follow(self, here: Here) -> None:
        self._accept(Accepting(self._config.accept, connected(here.addresses)))

    async def apply(self, config: Config) -> None:
        self._config = config.network
        self._accept(Accepting(config.network.accept, self._accepting.connected))
        self.use_exit(config.exit.use)
        if self.mesh is not None and self._driver is not None:
            self.mesh.configure(settings_of(config.network), self.driver.now())
            self._soon()

    async def close(self) -> None:
        self._loop = None
        if self._dialler is not None:
            await self._dialler.close()
        for handle in (self._turn, self._flush):
            if handle is not None:
                handle.cancel()
        self._names.close()
        if self._guest is not None:
            self._guest.hush()
        if self._store is not None:
            if self.mesh is not None:
                network_store.keep_met(self._store, self.mesh, self._met_kept)
            self._store.close()
            self._store = None

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
            case MemberCame():
                self._carry_out()  # at once: its initiation may be the next message
            case RequestCame():
                self.mesh.request_came(event.nonce, event.remote, now)
                self._soon()
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
        address = mesh.membership.address_of(own)
        if address is None:
            return []
        return [ipaddress.IPv4Interface(f"{address}/{network.prefix.prefixlen}")]

    # names

    def bind_names(self, interface: str, addresses: Iterable[str]) -> None:
        """While the rights for it are there: port 53, and a program of systemd's. In no network
        yet, for one that is joined while the agent runs: then `ws join` tells systemd-resolved.
        """
        if self._config.names:
            network = self.mesh.membership.network if self.mesh is not None else None
            self._names.bind(interface, addresses, network.name if network is not None else None)

    # carrying out

    def _soon(self) -> None:
        if self._loop is not None and self._turn is None:
            self._turn = self._loop.call_soon(self._carry_out)

    def _carry_out(self) -> None:
        if self._turn is not None:
            self._turn.cancel()
        self._turn = None
        mesh, tunnel = self.mesh, self._tunnel
        if self._loop is None or mesh is None or tunnel is None:
            return
        changed: list[bytes] = []
        for _ in range(EVENTS_PER_TURN):
            event = mesh.poll_event()
            if isinstance(event, MemberChanged):
                changed.append(event.node_id)
                continue
            self._follow_all(mesh, tunnel, changed)
            changed.clear()
            if event is None:
                if self._peers_changed:
                    self._peers_changed = False
                    self._notices.tell(PeersChanged())
                self._follow_networks(tunnel)
                self._notices.tell(MembersChanged())
                break
            try:
                self._event(mesh, tunnel, event)
            except (ValueError, OSError) as e:
                log.error("network: %s: %s", type(event).__name__, e)
        else:
            self._follow_all(mesh, tunnel, changed)
            self._soon()
        self.driver.drain()
        if self._flush is None:
            self._flush = self._loop.call_later(FLUSH_S, self._write)

    def _follow_networks(self, tunnel: Tunnel) -> None:
        """Routes, once for all the members that changed together."""
        if tunnel.changes != self._followed:
            self._followed = tunnel.changes
            self._notices.tell(NetworksChanged())

    def _write(self) -> None:
        self._flush = None
        if self._store is not None:
            # Not at the end alone: a power cut would take what an agent learnt in months.
            if self.mesh is not None and (now := self.driver.now()) - self._met_kept >= MET_NS:
                network_store.keep_met(self._store, self.mesh, self._met_kept)
                self._met_kept = now
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
            case WantSession():
                peer = self._peer(tunnel, event.node_id)
                if peer is not None:
                    self._follow(mesh, tunnel, event.node_id)
                    self.driver.want_handshake(peer.handle)
            case GuestAdmitted():
                spec = PeerSpec("ticket", node_id=event.node_id, origin=Origin.GUEST)
                tunnel.commit(Change(add=[spec]))
            case TicketKept():
                network_store.keep_ticket(store, self._boot, event.invite, self.driver.now())
            case DialPlace():
                if self._dialler is not None:
                    self._dialler.begin(event)
            case HeldStored():
                network_store.keep_held(store, event)
            case MappedDialled():
                self._notices.tell(MappingDialled(event.place, event.reached))
            case GuestGone():
                store.remove_ticket(event.node_id)
                peer = self._peer(tunnel, event.node_id)
                if peer is not None:
                    tunnel.commit(Change(remove=[peer]))
            case Notice():
                self._notice(tunnel, event)

    def _notice(self, tunnel: Tunnel, notice: Notice) -> None:
        text = notice_text(notice)
        log.info("network: %s", text)
        tunnel.tell(text)

    def _peer(self, tunnel: Tunnel, node_id: bytes) -> Peer | None:
        handle = self._guest.handle_of(node_id) if self._guest is not None else None
        return None if handle is None else tunnel.peers.get(handle)

    def _follow_all(self, mesh: Mesh, tunnel: Tunnel, changed: Iterable[bytes]) -> None:
        """Together: each change of the peers has all that hear of it look at all peers."""
        nodes = list(dict.fromkeys(changed))
        try:
            each = [self._change(mesh, tunnel, n) for n in nodes if n != mesh.node_id]
            whole = Change(
                add=tuple(spec for c in each for spec in c.add),
                update=tuple(pair for c in each for pair in c.update),
                remove=tuple(peer for c in each for peer in c.remove),
            )
            if mesh.belongs:
                if whole != Change():
                    tunnel.commit(whole, more=True)
                    self._peers_changed = True
                return
        except (ValueError, OSError):
            pass  # one of them cannot be, the others can
        for node_id in nodes:
            try:
                self._follow(mesh, tunnel, node_id)
            except (ValueError, OSError) as e:
                log.error("network: a member: %s", e)

    def _follow(self, mesh: Mesh, tunnel: Tunnel, node_id: bytes) -> None:
        if node_id != mesh.node_id:
            change = self._change(mesh, tunnel, node_id)
            if change != Change():
                tunnel.commit(change)
        elif not mesh.belongs:
            members = [p for p in tunnel.peers.values() if p.spec.origin is Origin.MESH]
            tunnel.commit(Change(remove=members))

    def _change(self, mesh: Mesh, tunnel: Tunnel, node_id: bytes) -> Change:
        """What makes the peer what the records say. One of the file's is left as it is."""
        peer = self._peer(tunnel, node_id)
        if peer is not None and peer.spec.origin not in (Origin.MESH, Origin.GUEST):
            return Change()
        record = mesh.membership.active(node_id) if mesh.belongs else None
        if record is None:
            return Change(remove=[peer]) if peer is not None else Change()
        spec = self._spec(mesh, record, self.driver.now())
        if peer is None:
            return Change(add=[spec])
        return Change(update=[(peer, spec)]) if peer.spec != spec else Change()

    def _spec(self, mesh: Mesh, record: MemberRecord, now: int) -> PeerSpec:
        address = mesh.membership.address_of(record)
        networks: list[Network] = self._accepting.taken(record.routes)
        if record.name == self._exit:
            networks += [*EVERYWHERE]
        if address is not None:
            networks.insert(0, ipaddress.IPv4Network(address))
        places = mesh.places(record.node_id, now)
        return PeerSpec(
            name=record.name,
            node_id=record.node_id,
            endpoints=tuple(HostPort(p.ip, p.port, True) for p in places),
            allowed_ips=Networks(networks),
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
        return {} if self._shown is None else self._shown.status()

    def warnings(self) -> list[str]:
        found = []
        if isinstance(self._wall_clock, Timestamps) and (late := self._wall_clock.late):
            found.append(late)
        if trouble := self._trouble():
            found.append(f"what is new of the network is not kept on the disk: {trouble}")
        return found

    def view(self) -> dict[str, Any]:
        """The network and its members, for `ws members` and `ws network show`. AgentError: none."""
        self._mesh_or_error()
        if self._shown is None:
            raise AgentError("the agent is starting", "try again")
        return self._shown.view()

    def ask(self, params: dict[str, Any]) -> dict[str, Any]:
        """`op`: view, or one of network_requests.py. AgentError: it cannot be done, and why."""
        mesh = self._mesh_or_error()
        if self._tunnel is None:
            raise AgentError("the agent is starting", "try again")
        if params.get("op") == "view":
            return self.view()
        try:
            return network_requests.ask(mesh, params, self.driver.now())
        finally:
            self._soon()
