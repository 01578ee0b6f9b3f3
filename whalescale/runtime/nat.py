"""What is known of the NAT before this host, and how ways through it are looked for, as a part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final

from whalescale.endpoints import HostPort
from whalescale.protocol.mesh.dialback import Proof
from whalescale.protocol.mesh.network import Mesh
from whalescale.protocol.multipath import Multipath
from whalescale.protocol.nat.guest import Signalling
from whalescale.protocol.nat.mapping import mappings
from whalescale.protocol.node import Node
from whalescale.runtime.part import Part

_FILTERING: Final = {Proof.NONE: "strict", Proof.PORTS: "ports", Proof.ANYBODY: "anybody"}


class NatView(Part):
    """Looks at the guests; it decides nothing."""

    name: ClassVar[str] = "nat"

    __slots__ = ("_mesh", "_node")

    def __init__(self, node: Node, mesh: Callable[[], Mesh | None]) -> None:
        """`mesh`: the network, once we are in one."""
        self._node = node
        self._mesh = mesh

    def _filtering(self) -> tuple[str, bool]:
        """What the NAT lets in, asked by who is to be an anchor alone; whether it was seen to send
        back what comes from inside."""
        mesh = self._mesh()
        if mesh is None:
            return "unknown", False
        prover = mesh.duties.prover
        if all(standing.at is None for standing in prover.standings.values()):
            return "unknown", prover.hairpin
        return _FILTERING[prover.best], prover.hairpin

    def status(self) -> dict[str, Any]:
        """The shape of whalescale/status.py, Nat."""
        signalling = self._node.guest(Signalling)
        found = mappings(self._node.guest(Multipath).observations())
        filtering, hairpin = self._filtering()
        return {
            "filtering": filtering,
            "hairpin": hairpin,
            "mappings": [
                {
                    "local": m.local,
                    "kind": m.kind.value,
                    "observers": m.observers,
                    "seen": [str(HostPort(ip, port, True)) for ip, port in m.seen],
                }
                for m in found
            ],
            "looking_for": signalling.looking_for(),
            "met": signalling.counts["met"],
            "rounds": signalling.counts["rounds"],
            "destinations": signalling.fresh.allowed,
            "held_back": signalling.fresh.refused + signalling.budget.refused,
            "carried": {
                name: signalling.carrier.counts[name] for name in ("messages", "bytes", "refused")
            },
        }
