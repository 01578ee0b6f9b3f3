"""Which of the networks that members advertise lead through the tunnel on this host.

An admin signs them, and hosts differ: who sits in 192.168.1.0/24 itself (a cafe, or the very LAN
that is advertised) would lose it, its router too, to a member far away.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from whalescale.config import Accept
from whalescale.endpoints import is_host
from whalescale.protocol.inside import Network, has_hosts, is_private
from whalescale.runtime.netlink import LocalAddress

#: why one is left out, for `ws route show`
EXIT: Final = "an exit is used by `ws exit-node use`"
NOT_ACCEPTED: Final = "not accepted here: `ws route accept {}`"
NOWHERE: Final = "no host that is routed to has an address of it"
CONNECTED: Final = "this host is in it itself, by another interface"


@dataclass(frozen=True, slots=True)
class Accepting:
    """The rule in force: the file's word, and the networks that this host is in."""

    accept: Accept
    connected: tuple[Network, ...] = ()

    def refusal(self, network: Network) -> str:
        """Why `network` is left out; "": it is taken."""
        if not network.prefixlen:
            return EXIT
        if not has_hosts(network):
            return NOWHERE
        if _within(network, self.accept.networks):
            return ""
        kind = self.accept.kind
        if kind == "none" or (kind == "private" and not is_private(network)):
            return NOT_ACCEPTED.format(network)
        # A wider one leaves the LAN its own, more specific route.
        return CONNECTED if _within(network, self.connected) else ""

    def taken(self, networks: Iterable[Network]) -> list[Network]:
        return [n for n in networks if not self.refusal(n)]


def connected(addresses: Iterable[LocalAddress]) -> tuple[Network, ...]:
    """The subnets of this host's addresses, once each. An address by itself is no subnet."""
    found: set[Network] = set()
    for a in addresses:
        if not a.link_local and a.prefix_length:
            network = ipaddress.ip_network((a.ip, a.prefix_length), strict=False)
            if not is_host(network):
                found.add(network)
    return tuple(sorted(found, key=str))


def _within(network: Network, those: Sequence[Network]) -> bool:
    return any(
        network.version == n.version and network.subnet_of(n)  # type: ignore[arg-type]
        for n in those
    )
