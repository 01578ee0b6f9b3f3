"""What a right configuration can still have wrong: taken as it is, but said."""

from __future__ import annotations

import ipaddress

from whalescale.config import Config, PeerConfig
from whalescale.config_values import Address
from whalescale.endpoints import is_host


def of(config: Config) -> list[str]:
    """One sentence each, for a user."""
    found = [
        f"{config.path}: {key} has no meaning any more: take it out" for key in config.past_keys
    ]
    found += [problem for a in config.interface.addresses if (problem := of_address(a))]
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
    """The own address as the peer's: nothing of the peer would come in, and nothing go there.

    And an endpoint in the tunnel's own network, by which its datagrams would go.
    """
    own = {a.ip for a in config.interface.addresses}
    inside = [
        f"the endpoint {endpoint} of {peer.name} lies in {a.network}, the tunnel's own network: "
        "what is sent there goes into the tunnel itself; give it another endpoint, or this host "
        "another address"
        for endpoint in peer.endpoints
        if (ip := _number(endpoint.host)) is not None
        for a in config.interface.addresses
        if ip in a.network and not is_host(a.network)
    ]
    return inside + [
        f"{n.network_address} is this host's own address, and allowed_ips of {peer.name} has it: "
        "are the two swapped?"
        for n in peer.allowed_ips
        if is_host(n) and n.network_address in own
    ]


def _number(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """None: a name, or an address of one link."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return None
    return None if ip.is_link_local else ip


def _host(address: Address) -> str:
    return f"{address.network.network_address + 1}/{address.network.prefixlen}"
