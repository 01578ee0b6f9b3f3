"""What a single text of the configuration means: names, addresses, networks, node IDs.

A ValueError has a message for a user.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from whalescale import identity

Address = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_INTERFACE_NAME: Final = re.compile(r"[A-Za-z0-9_=+.-]{1,15}")
_PEER_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def is_interface_name(name: str) -> bool:
    """IFNAMSIZ and the characters that wg-quick takes; "." and "all" mean other things in /proc."""
    reserved = name in {".", "..", "all", "default", "lo"}
    return bool(_INTERFACE_NAME.fullmatch(name)) and not reserved


def is_peer_name(name: str) -> bool:
    return bool(_PEER_NAME.fullmatch(name))


def parse_id(text: str) -> tuple[bytes | None, bytes | None]:
    """(node ID, None) or (None, fingerprint), told apart by length. Raises ValueError."""
    bare = re.sub(r"[\s-]", "", text)
    if len(bare) == 56:
        return identity.decode_node_id(text), None
    if len(bare) == 40:
        return None, identity.decode_fingerprint(text)
    if len(bare) == 44 and bare.endswith("="):
        raise ValueError("this is a WireGuard public key; its place is wireguard_public_key")
    raise ValueError(f"{len(bare)} characters are neither a node ID (56) nor a fingerprint (40)")


def parse_address(text: str) -> Address:
    """ "10.77.0.1/24" -> interface address. Raises ValueError with a message for a user."""
    right = 'write an address with its prefix, such as "10.77.0.1/24"'
    try:
        address = ipaddress.ip_interface(text)
    except ValueError:
        raise ValueError(f"{text!r} is no IP address; {right}") from None
    if address.ip.is_multicast or address.ip.is_unspecified or address.ip.is_loopback:
        raise ValueError(f"{text!r} cannot be the address of an interface; {right}")
    if "%" in text:
        raise ValueError(f"{text!r} has a zone (%); {right}")
    return address


def parse_network(text: str) -> Network:
    """ "10.77.0.2/32" -> network; host bits must be zero. Raises ValueError, message for a user."""
    try:
        if "%" not in text:
            return ipaddress.ip_network(text)
    except ValueError:
        pass
    masked = masked_network(text)
    host = text.partition("/")[0]
    if ipaddress.ip_address(host) == masked.network_address:
        return masked
    alone = f"{host}/{masked.max_prefixlen}"
    raise ValueError(f'{text!r} has host bits set; write "{masked}", or "{alone}" for the one host')


def masked_network(text: str) -> Network:
    """As `parse_network`, but host bits are cleared, as `wg` does."""
    try:
        if "%" not in text:
            return ipaddress.ip_network(text, strict=False)
    except ValueError:
        pass
    raise ValueError(f'{text!r} is no IP network; write one such as "10.77.0.2/32"')
