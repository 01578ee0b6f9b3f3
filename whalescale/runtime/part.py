"""The parts that an agent is made of, and what each of them is told.

agent.py makes them, has one list of them and calls them in its order; closing goes backwards. A
part that is new takes what it needs in its constructor and a line in that list.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from whalescale.config import Config
from whalescale.protocol.places import LocalLink
from whalescale.runtime.netlink import LocalAddress


class Here(NamedTuple):
    """Where this host stands."""

    #: of all interfaces but the tunnel's
    addresses: Sequence[LocalAddress]
    #: of uplinks that have a carrier
    links: Sequence[LocalLink]
    #: our UDP port
    port: int
    #: the addresses are others than when this was told before
    moved: bool = True


class Part:
    """Every method does nothing here. None of them raises."""

    #: the key of its `status` in `ws status --json`; empty: it has none
    name: ClassVar[str] = ""

    __slots__ = ()

    def started(self) -> None:
        """Everything runs: workers, peers, routes. Inside the event loop."""

    def follow(self, here: Here) -> None:
        """Addresses, links or routes of this host have changed, and first at the start."""

    async def apply(self, config: Config) -> None:
        """This configuration is in force now: a reload has ended."""

    def status(self) -> dict[str, Any]:
        return {}

    def warnings(self) -> list[str]:
        """What is wrong now and a person should see to; for `ws status`."""
        return []

    async def close(self) -> None:
        """The agent ends, or did not get started: let go of everything."""
