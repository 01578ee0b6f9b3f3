"""Names of peers and addresses: what every part of the core, sessions and paths, speaks in."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

#: Index of a peer in the node, stable until it is removed. Chosen by `Node.add_peer`; 0: none.
PeerHandle = int


class Endpoint(NamedTuple):
    """A UDP endpoint. `ip` is numeric text in canonical form, `scope_id` the zone of fe80::/10.

    Of a local address also where several interfaces have the same one.
    """

    ip: str
    port: int
    scope_id: int = 0


class Standing(IntEnum):
    """Of an IPv6 address: temporary ones (RFC 8981) are named after the others, deprecated ones
    (RFC 4862 section 5.5.4) to nobody: they end soon. What goes over them goes on."""

    STABLE = 0
    TEMPORARY = 1
    DEPRECATED = 2


class LocalLink(NamedTuple):
    """One address of this host that UDP may leave from."""

    ip: str
    ifindex: int
    interface: str
    mtu: int
    link_local: bool = False
    #: of the address's subnet, bits; 0: not known
    prefix_length: int = 0
    #: rarely leads anywhere (a bridge of virtual machines or containers): tried after the others
    spare: bool = False
    standing: Standing = Standing.STABLE


class Way(NamedTuple):
    """What a datagram goes over. `local` None: from where, and by which interface, the routing
    table says."""

    remote: Endpoint
    local: Endpoint | None = None
    ifindex: int = 0
