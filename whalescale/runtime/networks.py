"""Networks of one peer, packed: ten thousand members have one or two each, for life."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import Final, overload

from whalescale.protocol.inside import Network

#: added to the length of an IPv6 prefix, so that the first byte tells the version
_V6: Final = 64


class Networks(Sequence[Network]):
    """As a tuple of them, which it is equal to. An `ipaddress` network takes 400 bytes, here 5
    or 17."""

    __slots__ = ("_packed",)

    def __init__(self, networks: Iterable[Network] = ()) -> None:
        self._packed = b"".join(
            bytes((n.prefixlen + (_V6 if n.version == 6 else 0),)) + n.network_address.packed
            for n in networks
        )

    def __iter__(self) -> Iterator[Network]:
        packed, at = self._packed, 0
        while at < len(packed):
            length, first = packed[at], at + 1
            if length < _V6:
                at = first + 4
                yield IPv4Network((packed[first:at], length))
            else:
                at = first + 16
                yield IPv6Network((packed[first:at], length - _V6))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @overload
    def __getitem__(self, index: int) -> Network: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Network, ...]: ...

    def __getitem__(self, index: int | slice) -> Network | tuple[Network, ...]:
        return tuple(self)[index]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Networks):
            return self._packed == other._packed
        return tuple(self) == other

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"Networks({', '.join(map(str, self))})"
