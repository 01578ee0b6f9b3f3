"""What others' words say of the NAT before us: a hint, never a condition for trying (docs/nat.md).

How ports are mapped takes two observers with different public addresses: one alone sees one port.
Observers on our side of the NAT, or behind the same public address, say nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from whalescale.protocol.candidates import parse, reachable
from whalescale.protocol.guest import Observation
from whalescale.protocol.places import Endpoint


class MappingKind(Enum):
    """As in RFC 4787 section 4.1."""

    NONE = "none"  # others see our own address
    SAME = "endpoint-independent"
    OTHER = "by destination"
    SEVERAL = "several addresses"  # a carrier's pool, or several uplinks
    UNKNOWN = "unknown"  # there is a NAT; one observer


@dataclass(frozen=True, slots=True)
class Mapping:
    """Of one local address. `seen`: (ip, port) that observers name, most of them first."""

    local: str
    kind: MappingKind
    observers: int
    seen: tuple[tuple[str, int], ...]


def _public(endpoint: Endpoint) -> bool:
    address = parse(endpoint.ip)
    return address is not None and address.is_global and reachable(endpoint)


def mappings(observations: Iterable[Observation]) -> tuple[Mapping, ...]:
    """One for each local address that anybody outside has seen."""
    by_local: dict[str, dict[str, tuple[str, int]]] = {}
    for seen in observations:
        outside = _public(seen.remote) and seen.remote.ip != seen.seen.ip
        if seen.local and outside and _public(seen.seen):
            # Of one observer's address the last word: others of its house see the same.
            by_local.setdefault(seen.local, {})[seen.remote.ip] = seen.seen.ip, seen.seen.port
    return tuple(_judge(local, said) for local, said in sorted(by_local.items()))


def _judge(local: str, said: dict[str, tuple[str, int]]) -> Mapping:
    places = list(said.values())
    ordered = tuple(sorted(set(places), key=lambda p: (-places.count(p), p)))
    if {ip for ip, _ in ordered} == {local}:
        kind = MappingKind.NONE
    elif len(said) < 2:
        kind = MappingKind.UNKNOWN
    elif len({ip for ip, _ in ordered}) > 1:
        kind = MappingKind.SEVERAL
    else:
        kind = MappingKind.SAME if len(ordered) == 1 else MappingKind.OTHER
    return Mapping(local, kind, len(said), ordered)
