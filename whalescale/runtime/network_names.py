"""Names of the network's members, answered on port 53 of this host's addresses inside."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING

from whalescale.identity import overlay_address
from whalescale.protocol.mesh.network import Mesh
from whalescale.runtime import zone

if TYPE_CHECKING:
    from whalescale.runtime.responder import Responder

log = logging.getLogger(__name__)


class MemberNames:
    """Sockets first, while the rights for them are there; answers once there is a network."""

    def __init__(self) -> None:
        #: bound to port 53, by address
        self._sockets: dict[str, socket.socket] = {}
        self._responder: Responder | None = None
        self._mesh: Mesh | None = None
        #: of which state of the records
        self._known: tuple[int, dict[str, list[str]]] = (-1, {})

    def bind(self, interface: str, addresses: Iterable[str], network: str | None) -> None:
        """`network`: its name. None: there is none yet, and nothing is said of what is taken."""
        self._sockets = zone.open_sockets(addresses, quiet=network is None)
        if network is not None:
            trouble = zone.tell_resolved(interface, network, self._sockets)
            if trouble is not None:
                log.info("%s", trouble)

    async def answer(self, mesh: Mesh) -> None:
        network = mesh.membership.network
        if network is None or not self._sockets:
            return
        # dnspython is a tenth of an agent's start; most have no network.
        from whalescale.runtime.responder import Responder

        self._mesh = mesh
        self._responder = Responder(network.name, self._sockets, self._members)
        await self._responder.start()

    def served_at(self) -> list[str]:
        return sorted(self._sockets) if self._responder is not None else []

    def close(self) -> None:
        if self._responder is not None:
            self._responder.close()
        for sock in self._sockets.values():
            sock.close()

    def _members(self) -> dict[str, list[str]]:
        """Addresses inside, by name; once for each state of the records."""
        mesh = self._mesh
        if mesh is None:
            return {}
        if self._known[0] != mesh.table.changes:
            found: dict[str, list[str]] = {}
            for record in sorted(mesh.membership.actives(), key=lambda r: r.node_id):
                address = mesh.membership.address_of(record)
                inside = [str(address)] if address is not None else []
                found.setdefault(record.name, [*inside, str(overlay_address(record.node_id))])
            self._known = mesh.table.changes, found
        return self._known[1]
