"""Members that others count on to be found: which they are, how many live, what lacks.

An anchor says so in its endpoint record; it must be allowed to by its member record. It lives while
somebody has a session with it; we know of our own sessions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from whalescale.protocol.mesh.membership import Membership
from whalescale.protocol.mesh.records import EndpointRecord, MemberRecord
from whalescale.protocol.mesh.table import Table


class Advice(Enum):
    """What a person should know about the anchors."""

    NONE = "none"
    LAST = "last"
    ONE_NETWORK = "one network"


@dataclass(frozen=True, slots=True)
class Anchors:
    """`known` of the whole network, ours too if we are one; `alive` as far as we can tell."""

    known: tuple[bytes, ...]
    alive: tuple[bytes, ...]
    advice: Advice | None


def is_anchor(member: MemberRecord | None, endpoints: EndpointRecord | None) -> bool:
    """It may be one, says that it is one, and where."""
    return (
        member is not None
        and member.may_anchor
        and endpoints is not None
        and endpoints.anchor
        and bool(endpoints.places)
    )


def known_anchors(table: Table, membership: Membership) -> list[bytes]:
    return [m.node_id for m in membership.actives() if is_anchor(m, table.endpoints(m.node_id))]


def judge(
    ours: bytes,
    known: Iterable[bytes],
    sessions: Iterable[bytes],
    table: Table,
) -> Anchors:
    """`sessions`: whom we have one with."""
    anchors = tuple(known)
    have = {ours, *sessions}
    alive = tuple(a for a in anchors if a in have)
    advice = None
    if not alive:
        advice = Advice.NONE
    elif len(alive) == 1:
        advice = Advice.LAST
    elif len({n for a in alive for n in _networks(table.endpoints(a))}) == 1:
        advice = Advice.ONE_NETWORK
    return Anchors(anchors, alive, advice)


def _networks(record: EndpointRecord | None) -> set[IPv4Network | IPv6Network]:
    """Public networks that it is in, as providers give them out: /24 and /48."""
    found = set()
    for place in record.places if record else ():
        ip = ip_address(place.endpoint.ip)
        if ip.is_global:
            found.add(ip_network(f"{ip}/{24 if ip.version == 4 else 48}", strict=False))
    return found
