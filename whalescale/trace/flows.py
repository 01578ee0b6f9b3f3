"""TCP flows as this host sees them, the filter of `--flow`, and whose address is whose. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

ANY: Final = "*"
OWNERS_KEPT: Final = 4096


def address_of(text: str) -> Address:
    """IPv4 in IPv6's clothes (::ffff:10.0.0.1, what a dual-stack socket has) is IPv4.

    ValueError: no address.
    """
    address = ipaddress.ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address


@dataclass(frozen=True, slots=True)
class Flow:
    """`source` is this host's end, whichever side opened the connection."""

    source: Address
    source_port: int
    destination: Address
    destination_port: int

    def __str__(self) -> str:
        return "-".join(self.ends)

    @property
    def ends(self) -> tuple[str, str]:
        """ "10.77.0.1:40052", "[fd77::2]:5201" """
        return (
            _end(self.source, self.source_port),
            _end(self.destination, self.destination_port),
        )


def _end(address: Address, port: int) -> str:
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


@dataclass(frozen=True, slots=True)
class Pattern:
    """Which flows; None: any."""

    source: Address | None = None
    source_port: int | None = None
    destination: Address | None = None
    destination_port: int | None = None

    def matches(self, flow: Flow) -> bool:
        return (
            self.source in (None, flow.source)
            and self.source_port in (None, flow.source_port)
            and self.destination in (None, flow.destination)
            and self.destination_port in (None, flow.destination_port)
        )


def parse_pattern(text: str) -> Pattern:
    """SRC:PORT-DST:PORT; each part may be *, IPv6 in brackets. ValueError: what is wrong."""
    source, hyphen, destination = text.partition("-")
    if not hyphen:
        raise ValueError("it has no hyphen between its two ends")
    return Pattern(*_half(source), *_half(destination))


def _half(text: str) -> tuple[Address | None, int | None]:
    host, colon, port = text.strip().rpartition(":")
    if not colon:
        raise ValueError(f"{text!r} has no port")
    if port != ANY and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"{port!r} is no port")
    number = None if port == ANY else int(port)
    if host == ANY:
        return None, number
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = address_of(host[1:-1] if bracketed else host)
    except ValueError:
        raise ValueError(f"{host!r} is no address") from None
    if ":" in host and not bracketed:
        raise ValueError(f"{host!r} is IPv6 and wants brackets")
    return address, number


class Owners:
    """Whose address it is: the longest of the peers' allowed networks wins, as in the tunnel."""

    def __init__(self, peers: Iterable[tuple[str, Iterable[str]]]) -> None:
        """(name, networks); what is no network is left out."""
        self._networks: list[tuple[Network, str]] = []
        for name, networks in peers:
            for text in networks:
                try:
                    self._networks.append((ipaddress.ip_network(text, strict=False), name))
                except ValueError:
                    continue
        self._networks.sort(key=lambda one: -one[0].prefixlen)
        self._known: dict[Address, str | None] = {}

    def of(self, address: Address) -> str | None:
        if address not in self._known:
            if len(self._known) >= OWNERS_KEPT:
                self._known.clear()
            found = (name for network, name in self._networks if address in network)
            self._known[address] = next(found, None)
        return self._known[address]
