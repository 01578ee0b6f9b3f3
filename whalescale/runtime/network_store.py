"""What a member has on its disk: which file it is, and what it is read back as."""

from __future__ import annotations

import hashlib
import ipaddress
import struct
import time
from pathlib import Path
from typing import Final

from whalescale import locations
from whalescale.identity import Identity
from whalescale.protocol.limits import NS_PER_S
from whalescale.protocol.mesh.anchors import Tenure
from whalescale.protocol.mesh.events import HeldStored
from whalescale.protocol.mesh.invite import Invite
from whalescale.protocol.mesh.network import Mesh
from whalescale.protocol.places import Endpoint
from whalescale.runtime.control_socket import private_directory
from whalescale.runtime.errors import AgentError
from whalescale.runtime.store import KeptTicket, MetPlace, Store, StoreError

NETWORK: Final = "network"
#: in the store's small things: at which place we were reached, and how long
HELD: Final = "held"
SEAL_LABEL: Final = b"whalescale store seal v1"
_HELD: Final = struct.Struct(">QHB")


def open_store(interface: str, *, made: bool = False) -> Store:
    """AgentError: another agent has it, or it cannot be written. `made`: its folder is there and
    ours, which the sandbox does not let us try again."""
    path = locations.store_file(interface)
    if not made:
        private_directory(path.parent)
    try:
        return Store(path)
    except StoreError as e:
        message, _, fix = str(e).partition("; ")
        raise AgentError(message, fix) from None


def seal_key(identity: Identity) -> bytes:
    """32 bytes that only this node can make; what they seal is on its own disk alone."""
    return hashlib.blake2s(SEAL_LABEL, key=bytes(identity.seed), digest_size=32).digest()


def has_network(interface: str) -> bool:
    return locations.store_file(interface).exists()


def tenure(store: Store, now: int) -> Tenure | None:
    """At which place we were reached, and how long."""
    kept = store.meta(HELD)
    if kept is None or len(kept) <= _HELD.size:
        return None
    seconds, port, version = _HELD.unpack_from(kept)
    try:
        ip = ipaddress.ip_address(kept[_HELD.size :])
    except ValueError:
        return None
    return Tenure(Endpoint(str(ip), port), seconds, now) if ip.version == version else None


def keep_held(store: Store, held: HeldStored) -> None:
    ip = ipaddress.ip_address(held.place.ip)
    store.set_meta(HELD, _HELD.pack(held.seconds, held.place.port, ip.version) + ip.packed)


def invites(store: Store, boot: str, now: int) -> list[Invite]:
    """Tickets from before. After another boot the wall clock can make them shorter, and never
    longer than they were."""
    found = []
    for kept in store.tickets():
        until = kept.until
        if kept.boot != boot:
            passed = max(0, int(time.time()) - kept.at)
            until = now + max(0, kept.left_s - passed) * NS_PER_S
        routes = tuple(ipaddress.ip_network(r) for r in kept.routes.split(",") if r)
        found.append(
            Invite(kept.one_time, kept.name, bool(kept.may_anchor), routes, until, kept.used_by)
        )
    return found


def keep_ticket(store: Store, boot: str, invite: Invite, now: int) -> None:
    left_s = max(0, invite.until - now) // NS_PER_S
    routes = ",".join(map(str, invite.routes))
    store.put_ticket(
        KeptTicket(
            invite.one_time,
            invite.name,
            int(invite.may_anchor),
            routes,
            invite.until,
            boot,
            left_s,
            int(time.time()),
            invite.used_by,
        )
    )


def keep_met(store: Store, mesh: Mesh, since: int = 0) -> None:
    """Where members were met after that time of this run (ns of the boot clock)."""
    wall = int(time.time())
    for node_id, met in mesh.directory.all_met():
        if any(m.when > since for m in met) and mesh.membership.is_active(node_id):
            store.met(
                MetPlace(node_id, m.endpoint.ip, m.endpoint.port, m.how, wall)
                for m in met
                if m.when > since
            )


def boot_id() -> str:
    """Another one after each boot; nothing where the kernel does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
