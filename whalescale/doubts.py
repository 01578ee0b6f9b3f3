"""What a right configuration can still have wrong: taken as it is, but said."""

from __future__ import annotations

from whalescale.config import Config, PeerConfig
from whalescale.config_values import Address


def of(config: Config) -> list[str]:
    """One sentence each, for a user."""
    found = [problem for a in config.interface.addresses if (problem := of_address(a))]
    for peer in config.peers:
        found += of_peer(config, peer)
    return found


def of_address(address: Address) -> str:
    """ "" for an address that a host can have."""
    network = address.network
    if network.prefixlen >= network.max_prefixlen - 1:
        return ""
    if address.ip == network.network_address:
        return f"{address} is the network itself and not a host's address, such as {_host(address)}"
    if network.version == 4 and address.ip == network.broadcast_address:
        return f"{address} is the broadcast address of {network}, take one such as {_host(address)}"
    return ""


def of_peer(config: Config, peer: PeerConfig) -> list[str]:
    """The own address as the peer's: nothing of the peer would come in, and nothing go there."""
    own = {a.ip for a in config.interface.addresses}
    return [
        f"{n.network_address} is this host's own address, and allowed_ips of {peer.name} has it: "
        "are the two swapped?"
        for n in peer.allowed_ips
        if n.prefixlen == n.max_prefixlen and n.network_address in own
    ]


def _host(address: Address) -> str:
    return f"{address.network.network_address + 1}/{address.network.prefixlen}"
