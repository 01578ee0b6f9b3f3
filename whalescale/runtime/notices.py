"""What parts of the agent tell each other without knowing one another.

A part that wants to hear takes the one `Notices` in its constructor and says so there; who tells
does not know who hears. Calls are made at once, in the order of the subscriptions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from whalescale.protocol.places import Endpoint


@dataclass(frozen=True, slots=True)
class PeersChanged:
    """Peers, their networks or endpoints are others now, or the tunnel's own addresses."""


@dataclass(frozen=True, slots=True)
class NetworksChanged:
    """The tunnel's networks are others, and nobody who commits changes sees to the routes."""


@dataclass(frozen=True, slots=True)
class MembersChanged:
    """Who belongs to the network, or who is an anchor, may be another."""


@dataclass(frozen=True, slots=True)
class AddressesHeard:
    """Numeric addresses that a name has now, or that a peer has moved to."""

    ips: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PortChanged:
    """Our UDP port is another."""

    port: int


@dataclass(frozen=True, slots=True)
class MappingDialled:
    """Members dialled a place that a gateway maps for us: one got in, or nobody does."""

    place: Endpoint
    reached: bool


@dataclass(frozen=True, slots=True)
class LimitChanged:
    """The longest packet that some peer takes, None: no limit; or that another one takes."""

    limit: int | None


_N = TypeVar("_N")


class Notices:
    """One for each agent."""

    def __init__(self) -> None:
        self._calls: dict[type, list[Callable[[Any], object]]] = {}

    def on(self, kind: type[_N], call: Callable[[_N], object]) -> None:
        """Call this with every notice of the kind from now on."""
        self._calls.setdefault(kind, []).append(call)

    def tell(self, notice: object) -> None:
        for call in self._calls.get(type(notice), ()):
            call(notice)
