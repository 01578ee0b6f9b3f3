"""Endpoints as users write them: "192.0.2.7:51820", "[2001:db8::7]:51820", "berlin.example:1"."""

from __future__ import annotations

import ipaddress
import re
from typing import Final, NamedTuple

_LABEL: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_RIGHT: Final = 'write "host:port", such as "192.0.2.7:51820" or "[2001:db8::7]:51820"'


class HostPort(NamedTuple):
    """`host`: canonical numeric text (with %zone for link-local IPv6), or a DNS name."""

    host: str
    port: int
    numeric: bool

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def is_host(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    """One address."""
    return network.prefixlen == network.max_prefixlen


def parse_endpoint(text: str) -> HostPort:
    """Raises ValueError with a message for a user."""
    bracketed = text.startswith("[")
    if bracketed:
        parts = re.fullmatch(r"\[([^][]*)\]:(.*)", text, re.DOTALL)
        if parts is None:
            raise ValueError(f"{text!r} is no endpoint; {_RIGHT}")
        host, port_text = parts[1], parts[2]
    else:
        host, colon, port_text = text.rpartition(":")
        if not colon:
            raise ValueError(f"{text!r} has no port; {_RIGHT}")
        if ":" in host:
            raise ValueError(f'{text!r}: IPv6 goes in brackets; write "[address]:port"')
    if not re.fullmatch(r"[0-9]{1,5}", port_text) or not 1 <= int(port_text) <= 65535:
        raise ValueError(
            f"{port_text!r} is no port; write a number from 1 to 65535 after the colon"
        )
    port = int(port_text)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if bracketed:
            raise ValueError(f"{host!r} is no IPv6 address; {_RIGHT}") from None
    else:
        if bracketed and address.version == 4:
            raise ValueError(f'{text!r}: IPv4 has no brackets; write "{host}:{port}"')
        if address.is_unspecified or address.is_multicast:
            raise ValueError(f"{text!r} cannot be the address of a peer; {_RIGHT}")
        return HostPort(str(address), port, True)
    name = host.removesuffix(".")
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"{host!r} is neither an address nor a host name; {_RIGHT}")
    if labels[-1].isdigit():
        raise ValueError(f"{host!r} is no IPv4 address; {_RIGHT}")
    return HostPort(name.lower(), port, False)
