"""The network as it is shown: `ws members`, `ws network show`, `ws status`, the live view."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from whalescale.identity import encode_node_id, overlay_address
from whalescale.protocol.inside import Network
from whalescale.protocol.mesh.anchors import STABLE, Advice
from whalescale.protocol.mesh.dialback import Proof
from whalescale.protocol.mesh.events import Notice, Word
from whalescale.protocol.mesh.guest import MeshGuest
from whalescale.protocol.mesh.network import Anchoring, Mesh
from whalescale.protocol.mesh.records import MemberRecord
from whalescale.protocol.places import PeerHandle
from whalescale.runtime.relay import Reach, Way
from whalescale.runtime.tunnel import Peer, Tunnel, format_endpoint

BELONGS_NO_MORE: Final = "this machine was revoked: `ws network leave` forgets the network"
ADVICE: Final = {
    Advice.NONE.value: "no anchor is alive: `[network] anchor = true` makes one of a machine that "
    "others reach",
    Advice.LAST.value: "the last anchor: a second one on another network would outlive it",
    Advice.ONE_NETWORK.value: "all anchors are on one network, which may fail as one",
}
_NOT_ALLOWED: Final = (
    "this machine may be no anchor: its member record says so; invite it anew without --no-anchor"
)
_UNPROVED: Final = (
    "nobody gets in here unasked, though this machine shall be an anchor: see that UDP to it is "
    "let through, or map its port at the router"
)
_PROOFS: Final = {Proof.NONE: "none", Proof.PORTS: "ports", Proof.ANYBODY: "anybody"}


def notice_text(notice: Notice) -> str:
    """For a person."""
    return {
        Word.JOINED: f"{notice.name} joined the network",
        Word.REVOKED: f"{notice.name} was revoked",
        Word.REVOKED_SELF: BELONGS_NO_MORE,
        Word.ANCHOR: "this machine is an anchor now: it was reached at one place for a day",
        Word.ANCHOR_NOT: "this machine is no anchor any more: nobody gets in unasked",
        Word.ANCHORS: ADVICE.get(notice.name, "anchors are as they should be"),
        Word.CLONED: "another machine uses this machine's key: make one of them a new one",
        Word.ADOPTED: "others know what this machine signed and knew no more: it is taken over "
        "(its disk was put back?)",
        Word.SIGNED_AGAIN: f"what this machine said of {notice.name} was signed again, above "
        "an older word of its own",
        Word.TICKET_USED: f"{notice.name} came with its ticket",
    }[notice.word]


class Shown:
    """Of one network."""

    def __init__(
        self,
        mesh: Mesh,
        guest: MeshGuest,
        tunnel: Tunnel,
        now: Callable[[], int],
        trouble: Callable[[], str | None],
        reach: Callable[[PeerHandle, Way], Reach],
        left_out: Callable[[Network], str],
    ) -> None:
        """`trouble`: why nothing is kept on the disk.
        `reach`: how a peer is reached.
        `left_out`: why a network behind a member does not lead there from here, "": it does."""
        self._mesh, self._guest, self._tunnel = mesh, guest, tunnel
        self._now, self._trouble = now, trouble
        self._reach, self._left_out = reach, left_out

    def _peer(self, node_id: bytes) -> Peer | None:
        handle = self._guest.handle_of(node_id)
        return None if handle is None else self._tunnel.peers.get(handle)

    def _warnings(self) -> list[str]:
        mesh = self._mesh
        if not mesh.belongs:
            return [BELONGS_NO_MORE]
        found = []
        advice = mesh.anchors().advice
        if advice is not None:
            found.append(ADVICE[advice.value])
        if mesh.settings.anchor is Anchoring.YES:
            tried = [s for s in mesh.duties.prover.standings.values() if s.at is not None]
            if not mesh.duties.may_be_one:
                found.append(_NOT_ALLOWED)
            elif tried and mesh.duties.prover.best is Proof.NONE:
                found.append(_UNPROVED)
        return found

    def status(self) -> dict[str, Any]:
        """For the live view: whalescale/status.py, Network."""
        mesh = self._mesh
        network, anchors = mesh.membership.network, mesh.anchors()
        known = frozenset(anchors.known)
        warnings = self._warnings()
        if trouble := self._trouble():
            warnings.append(f"what is known is not kept: {trouble}")
        members = []
        for record in mesh.membership.actives():
            node_id = record.node_id
            session = self._talks(node_id)
            address = mesh.membership.address_of(record)
            members.append(
                {
                    "name": record.name,
                    "id": encode_node_id(node_id),
                    "here": node_id == mesh.node_id,
                    "admin": mesh.membership.is_admin(node_id),
                    "anchor": node_id in known,
                    "proved": self._proved(node_id),
                    "address": str(address) if address else None,
                    "session": session,
                    "reached": self._reached(node_id) if session else "",
                }
            )
        return {
            "name": network.name if network else "",
            "anchors_alive": len(anchors.alive),
            "warnings": warnings,
            "members": members,
        }

    def _proved(self, node_id: bytes) -> bool:
        record = self._mesh.table.endpoints(node_id)
        return record is not None and record.proved

    def _reached(self, node_id: bytes) -> str:
        """How we know the place that a member is reached at."""
        peer = self._peer(node_id)
        if peer is None:
            return ""
        reach = self._reach_of(peer)
        if reach.relayed_by:
            return "relayed"
        at = format_endpoint(reach.way.remote)
        for place, how in self._mesh.directory.places(node_id, self._now()):
            if format_endpoint(place) == at:
                return how.name.lower()
        return ""

    def _talks(self, node_id: bytes) -> bool:
        """There is a session with that member, and we are one ourselves."""
        return self._mesh.belongs and node_id in self._mesh.sessions

    def _reach_of(self, peer: Peer) -> Reach:
        return self._reach(peer.handle, Way(self._tunnel.endpoint_of(peer)))

    def view(self) -> dict[str, Any]:
        """For `ws members` and `ws network show`."""
        mesh = self._mesh
        network, anchors = mesh.membership.network, mesh.anchors()
        known = frozenset(anchors.known)
        members = [
            self._member(record, record.node_id in known)
            for record in sorted(mesh.membership.actives(), key=lambda r: r.name)
        ]
        return {
            "network": {
                "name": network.name if network else None,
                "id": mesh.network_id.hex(),
                "prefix": str(network.prefix) if network and network.prefix else None,
                "belongs": mesh.belongs,
                "admin": mesh.is_admin,
                "role": "leaf" if mesh.settings.leaf else "member",
                "anchors_alive": len(anchors.alive),
                "advice": anchors.advice.value if anchors.advice else None,
                "warnings": self._warnings(),
                "anchor": self._own_anchor(),
                "tickets": [
                    {"name": t.name, "left_s": max(0, t.until - self._now()) // 1_000_000_000}
                    for t in mesh.admission.invites.by_key.values()
                    if t.used_by is None
                ],
                "records": mesh.table.count,
                "drops": dict(mesh.drops),
                "store": self._trouble(),
            },
            "members": members,
        }

    def _own_anchor(self) -> dict[str, Any]:
        """Whether this machine is one, and what was found out about its places."""
        duties = self._mesh.duties
        tenure = duties.tenure
        return {
            "wanted": self._mesh.settings.anchor.value,
            "allowed": duties.may_be_one,
            "is": duties.is_one,
            "places": [
                {
                    "endpoint": format_endpoint(endpoint),
                    "proof": _PROOFS[s.proof],
                    "tried": s.at is not None,
                }
                for endpoint, s in duties.prover.standings.items()
            ],
            "stable_place": format_endpoint(tenure.place) if tenure.place else None,
            "stable_s": tenure.seconds,
            "stable_needed_s": STABLE // 1_000_000_000,
        }

    def _member(self, record: MemberRecord, anchor: bool) -> dict[str, Any]:
        mesh, node_id = self._mesh, record.node_id
        peer = self._peer(node_id)
        address = mesh.membership.address_of(record)
        session = self._talks(node_id)
        endpoint: str | None = None
        relayed = ""
        if peer is not None and session:
            reach = self._reach_of(peer)
            endpoint, relayed = format_endpoint(reach.way.remote), reach.relayed_by
        return {
            "name": record.name,
            "node_id": encode_node_id(node_id),
            "self": node_id == mesh.node_id,
            "admin": mesh.membership.is_admin(node_id),
            "admin_generation": mesh.membership.admin_generation(node_id),
            "anchor": anchor,
            "proved": self._proved(node_id),
            "address": str(address) if address else None,
            "overlay": str(overlay_address(node_id)),
            "routes": [str(r) for r in record.routes],
            "routes_left": {
                str(r): why for r in record.routes if r.prefixlen and (why := self._left_out(r))
            },
            "session": session,
            "endpoint": endpoint,
            "relayed_by": relayed,
            "last_handshake": peer.last_handshake_wall_ns / 1e9 if peer else None,
            "places": [
                {"endpoint": format_endpoint(e), "how": how.name.lower()}
                for e, how in mesh.directory.places(node_id, self._now())
            ],
        }
