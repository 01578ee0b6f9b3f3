"""What is said to a gateway: PCP's MAP and ANNOUNCE (RFC 6887), NAT-PMP (RFC 6886, IPv4). UDP.

Both are big endian and go to port 5351; what a gateway tells all comes to port 5350. Decoders
raise AnswerError, whose text is what to count.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import Final

GATEWAY_PORT: Final = 5351
#: where gateways say to all that they began anew, or have another address
HEARD_PORT: Final = 5350
ALL_HOSTS: Final = {4: "224.0.0.1", 6: "ff02::1"}
NONCE_BYTES: Final = 12
#: RFC 6887 section 7: no PCP message is longer
ANSWER_MAX: Final = 1100

NATPMP_VERSION: Final = 0
PCP_VERSION: Final = 2
PCP_ANNOUNCE: Final = 0
PCP_MAP: Final = 1
NATPMP_ADDRESS: Final = 0
NATPMP_MAP_UDP: Final = 1
#: of an answer's opcode
ANSWER: Final = 128
UDP: Final = 17
#: as an address that is asked for: any
ANY: Final = str(ipaddress.IPv4Address(0))
ANY6: Final = str(ipaddress.IPv6Address(0))
#: of both protocols: the version is not spoken
UNSUPPORTED_VERSION: Final = 1

_PCP_REQUEST: Final = struct.Struct("!BBHI16s")
_PCP_ANSWER: Final = struct.Struct("!BBxBII12x")
_PCP_MAP: Final = struct.Struct(f"!{NONCE_BYTES}sB3xHH16s")
_NATPMP_REQUEST: Final = struct.Struct("!BBHHHI")
_NATPMP_ANSWER: Final = struct.Struct("!BBHI")
_NATPMP_MAPPED: Final = struct.Struct("!HHI")

PCP_RESULTS: Final = {
    1: "it does not speak this version",
    2: "it does not let us",
    3: "it calls the request malformed",
    4: "it makes no mappings",
    7: "it has no connection itself",
    8: "it has no room",
    9: "it maps no UDP",
    10: "it has made too many mappings for this host",
    12: "a NAT is between this host and it",
}
NATPMP_RESULTS: Final = {
    1: "it does not speak this version",
    2: "it does not let us",
    3: "it has no connection itself",
    4: "it has no room",
    5: "it makes no mappings",
}


class AnswerError(ValueError):
    """No answer to us; the text is a counter's name."""


@dataclass(frozen=True, slots=True)
class Pcp:
    """`lifetime`: s, of the mapping or of the refusal. `epoch`: s since the gateway's start.

    `nonce` and what follows are of a MAP: b"" and zeros elsewhere.
    """

    opcode: int
    result: int
    lifetime: int
    epoch: int
    nonce: bytes = b""
    port: int = 0
    external_port: int = 0
    external_ip: str = ""


@dataclass(frozen=True, slots=True)
class NatPmp:
    """`external_ip` is of an address answer, the ports and `lifetime` (s) of a mapping's."""

    opcode: int
    result: int
    epoch: int
    external_ip: str = ""
    port: int = 0
    external_port: int = 0
    lifetime: int = 0


def pcp_map(
    nonce: bytes, ip: str, port: int, lifetime: int, suggested: tuple[str, int] = (ANY, 0)
) -> bytes:
    """A MAP request of `ip`:`port`; `lifetime` 0 ends the mapping."""
    head = _PCP_REQUEST.pack(PCP_VERSION, PCP_MAP, 0, lifetime, _mapped(ip))
    return head + _PCP_MAP.pack(nonce, UDP, port, suggested[1], _mapped(suggested[0]))


def pcp_announce(ip: str) -> bytes:
    """Asks for nothing but the epoch."""
    return _PCP_REQUEST.pack(PCP_VERSION, PCP_ANNOUNCE, 0, 0, _mapped(ip))


def natpmp_address() -> bytes:
    return bytes((NATPMP_VERSION, NATPMP_ADDRESS))


def natpmp_map(port: int, lifetime: int, suggested_port: int = 0) -> bytes:
    """`lifetime` 0 ends the mapping."""
    return _NATPMP_REQUEST.pack(
        NATPMP_VERSION, NATPMP_MAP_UDP, 0, port, suggested_port if lifetime else 0, lifetime
    )


def is_word(data: bytes) -> bool:
    """Whether this is what a gateway tells everybody (RFC 6887 section 14.1.2, RFC 6886 section
    3.2.1): its epoch, and by NAT-PMP its address. AnswerError: no answer at all."""
    said = decode(data)
    return said.opcode == (PCP_ANNOUNCE if isinstance(said, Pcp) else NATPMP_ADDRESS)


def decode(data: bytes) -> Pcp | NatPmp:
    """AnswerError: "length", "version" or "opcode"."""
    if len(data) < _NATPMP_ANSWER.size or len(data) > ANSWER_MAX:
        raise AnswerError("length")
    if data[0] == NATPMP_VERSION:
        return _natpmp(data)
    if data[0] == PCP_VERSION:
        return _pcp(data)
    raise AnswerError("version")


def _pcp(data: bytes) -> Pcp:
    if len(data) < _PCP_ANSWER.size or len(data) % 4:
        raise AnswerError("length")
    _, opcode, result, lifetime, epoch = _PCP_ANSWER.unpack_from(data)
    if opcode not in (ANSWER | PCP_MAP, ANSWER | PCP_ANNOUNCE):
        raise AnswerError("opcode")
    opcode &= ~ANSWER
    if opcode == PCP_ANNOUNCE or (result == UNSUPPORTED_VERSION and len(data) < _MAP_BYTES):
        return Pcp(opcode, result, lifetime, epoch)
    if len(data) < _MAP_BYTES:
        raise AnswerError("length")
    nonce, protocol, port, external_port, packed = _PCP_MAP.unpack_from(data, _PCP_ANSWER.size)
    if protocol != UDP:
        raise AnswerError("opcode")
    external = ipaddress.IPv6Address(packed)
    ip = str(external.ipv4_mapped or external)
    return Pcp(opcode, result, lifetime, epoch, nonce, port, external_port, ip)


_MAP_BYTES: Final = _PCP_ANSWER.size + _PCP_MAP.size


def _natpmp(data: bytes) -> NatPmp:
    _, opcode, result, epoch = _NATPMP_ANSWER.unpack_from(data)
    if opcode not in (ANSWER | NATPMP_ADDRESS, ANSWER | NATPMP_MAP_UDP):
        raise AnswerError("opcode")
    opcode &= ~ANSWER
    rest = data[_NATPMP_ANSWER.size :]
    if result:
        return NatPmp(opcode, result, epoch)
    if opcode == NATPMP_ADDRESS:
        if len(rest) != 4:
            raise AnswerError("length")
        return NatPmp(opcode, 0, epoch, str(ipaddress.IPv4Address(rest)))
    if len(rest) != _NATPMP_MAPPED.size:
        raise AnswerError("length")
    port, external_port, lifetime = _NATPMP_MAPPED.unpack(rest)
    return NatPmp(opcode, 0, epoch, "", port, external_port, lifetime)


def _mapped(ip: str) -> bytes:
    address = ipaddress.ip_address(ip)
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed
