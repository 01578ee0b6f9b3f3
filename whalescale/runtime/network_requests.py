"""What a person asks of the agent's network: `ws invite`, `ws revoke` and the others."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Iterable
from typing import Any, Final

from whalescale.identity import encode_node_id
from whalescale.protocol.inside import Network, has_hosts
from whalescale.protocol.limits import NS_PER_S
from whalescale.protocol.mesh import invite
from whalescale.protocol.mesh.events import MeshError
from whalescale.protocol.mesh.membership import member_key
from whalescale.protocol.mesh.network import Mesh
from whalescale.protocol.mesh.records import RecordError
from whalescale.protocol.places import Endpoint
from whalescale.runtime.accepting import NOWHERE
from whalescale.runtime.errors import AgentError

#: the kernel may take a second to say that a link which has just come is up
PLACES_S: Final = 3.0
PLACES_LOOK_S: Final = 0.05
FIX_NETWORK: Final = "write a network as 192.168.7.0/24"


async def placed(mesh: Mesh, patience_s: float = PLACES_S) -> None:
    """Waits for an address of ours that others could reach: after a start there may be none yet."""
    for _ in range(round(patience_s / PLACES_LOOK_S)):
        if _own_places(mesh):
            return
        await asyncio.sleep(PLACES_LOOK_S)


def _own_places(mesh: Mesh) -> tuple[Endpoint, ...]:
    own = mesh.table.endpoints(mesh.node_id)
    return tuple(p.endpoint for p in own.places) if own else ()


def ask(mesh: Mesh, params: dict[str, Any], now: int) -> dict[str, Any]:
    """`op`: invite, withdraw, revoke, rename. AgentError: it cannot be done, and why."""
    op, name = params.get("op"), str(params.get("name", ""))
    try:
        if op == "invite":
            return _invite(mesh, name, params, now)
        if op == "withdraw":
            mesh.admission.withdraw(name)
            return {"withdrawn": name}
        if op == "revoke":
            own = mesh.membership.active(mesh.node_id)
            if own is not None and own.name == name:
                # Its sessions would end before anybody heard of it, and an only admin be lost.
                raise MeshError(
                    "this is this machine: `ws leave` forgets the network here, and another admin "
                    "revokes it"
                )
            record = mesh.admission.revoke(name, now)
            return {"revoked": record.name, "node_id": encode_node_id(record.node_id)}
        if op == "issued":
            issuer = bytes.fromhex(str(params.get("node_id", "")))
            kept = (
                mesh.table.get(member_key(r.node_id)) for r in mesh.membership.issued_by(issuer)
            )
            return {"records": [entry.raw.hex() for entry in kept if entry is not None]}
        if op == "record":
            return _record(mesh, params, now)
        if op == "routes":
            return _routes(mesh, name, params, now)
        if op == "rename":
            return {"name": mesh.admission.rename(name, str(params.get("new", "")), now).name}
    except MeshError as e:
        message, _, fix = str(e).partition("; ")
        raise AgentError(message, fix) from None
    raise AgentError(f"the agent knows no {op!r} of networks", "update it: ws down, ws up")


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


def _networks(texts: Iterable[object]) -> tuple[Network, ...]:
    try:
        return tuple(ipaddress.ip_network(str(text)) for text in texts)
    except ValueError as e:
        raise AgentError(str(e), FIX_NETWORK) from None


def _behind(texts: Iterable[object]) -> tuple[Network, ...]:
    """Those that may be behind a member."""
    networks = _networks(texts)
    for network in networks:
        if not has_hosts(network):
            raise AgentError(f"{network}: {NOWHERE}", FIX_NETWORK)
    return networks


def _routes(mesh: Mesh, name: str, params: dict[str, Any], now: int) -> dict[str, Any]:
    """What is behind a member, signed anew."""
    add = _behind(params.get("add", ()))
    remove = _networks(params.get("remove", ()))
    record = mesh.admission.set_routes(name, add, remove, now)
    return {"name": record.name, "routes": [str(r) for r in record.routes]}


def _invite(mesh: Mesh, name: str, params: dict[str, Any], now: int) -> dict[str, Any]:
    routes = _behind(params.get("routes", ()))
    lifetime = int(params.get("lifetime_s", invite.LIFETIME // NS_PER_S))
    places = _own_places(mesh)
    if not places:
        raise AgentError(
            "no address of this machine is known where others could reach it",
            "connect it to a network first",
        )
    _, secret = mesh.admission.invite(
        name,
        now,
        may_anchor=bool(params.get("may_anchor", True)),
        routes=routes,
        lifetime=max(60, min(lifetime, 7 * 86_400)) * NS_PER_S,
    )
    expires = int(time.time()) + lifetime
    ticket = invite.Ticket(mesh.network_id, mesh.node_id, secret, expires, places)
    return {"name": name, "ticket": invite.encode_ticket(ticket), "expires": expires}
