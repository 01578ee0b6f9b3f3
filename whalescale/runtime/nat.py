"""What is known of the NAT before this host, and how ways through it are looked for, as a part."""

from __future__ import annotations

from typing import Any, ClassVar

from whalescale.endpoints import HostPort
from whalescale.protocol.multipath import Multipath
from whalescale.protocol.nat.guest import Signalling
from whalescale.protocol.nat.mapping import mappings
from whalescale.protocol.node import Node
from whalescale.runtime.part import Part


class NatView(Part):
    """Looks at the guests; it decides nothing."""

    name: ClassVar[str] = "nat"

    __slots__ = ("_node",)

    def __init__(self, node: Node) -> None:
        self._node = node

    def status(self) -> dict[str, Any]:
        """The shape of whalescale/status.py, Nat."""
        signalling = self._node.guest(Signalling)
        found = mappings(self._node.guest(Multipath).observations())
        return {
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
            "destinations": signalling.budget.fresh,
            "held_back": signalling.budget.refused,
            "carried": {
                name: signalling.carrier.counts[name] for name in ("messages", "bytes", "refused")
            },
        }
