"""Names of members: a small DNS server on this machine's own addresses inside, for itself alone.

NAME.NETWORK.internal, and NAME.internal. systemd-resolved is told of it for this link only; where
that is not there `ws hosts` prints lines for /etc/hosts. Nothing here is ever fatal.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

import dns.exception
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from whalescale.runtime.zone import SUFFIX

log = logging.getLogger(__name__)

#: members move and go
TTL_S: Final = 10
QUERY_BYTES_MAX: Final = 512

#: addresses by member's name
Members = Mapping[str, Sequence[str]]


def answer(data: bytes, network: str, members: Members) -> bytes | None:
    """The reply to a query. None: it is none that deserves one."""
    if len(data) > QUERY_BYTES_MAX:
        return None
    try:
        query = dns.message.from_wire(data)
    except (dns.exception.DNSException, ValueError, IndexError):
        return None
    if query.flags & dns.flags.QR:
        return None
    reply = dns.message.make_response(query)
    reply.flags |= dns.flags.AA
    if query.opcode() != dns.opcode.QUERY or len(query.question) != 1:
        reply.set_rcode(dns.rcode.NOTIMP)
        return reply.to_wire()
    question = query.question[0]
    name = question.name.to_text(omit_final_dot=True).lower()
    member = member_of(name, network)
    if member is None or question.rdclass != dns.rdataclass.IN:
        reply.set_rcode(dns.rcode.REFUSED)
    elif member not in members:
        reply.set_rcode(dns.rcode.NXDOMAIN if member else dns.rcode.NOERROR)
    else:
        kinds = {4: "A", 6: "AAAA"}
        wanted = dns.rdatatype.to_text(question.rdtype)
        for version, kind in kinds.items():
            found = [a for a in members[member] if (":" in a) == (version == 6)]
            if found and wanted in (kind, "ANY"):
                reply.answer.append(dns.rrset.from_text(question.name, TTL_S, "IN", kind, *found))
    return reply.to_wire()


def member_of(name: str, network: str) -> str | None:
    """The member that a name means; "" for a zone itself; None: it is no name of ours."""
    for zone in (f"{network}.{SUFFIX}", SUFFIX):
        if name == zone:
            return ""
        if name.endswith(f".{zone}"):
            label = name.removesuffix(f".{zone}")
            # Below a member, and other networks' names, are not ours to deny.
            return label if "." not in label else None
    return None


class _Protocol(asyncio.DatagramProtocol):
    def __init__(self, responder: Responder) -> None:
        self._responder = responder
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # No subclass of it in Python 3.11, but one in all but name.
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        reply = self._responder.reply(data, str(addr[0]))
        if reply is not None and self._transport is not None:
            self._transport.sendto(reply, addr)

    def error_received(self, exc: Exception) -> None:
        pass


class Responder:
    """`sockets`: by the address of ours that each is bound to (zone.py), the responder's from now
    on. `members`: asked for at each query.
    """

    def __init__(
        self, network: str, sockets: Mapping[str, socket.socket], members: Callable[[], Members]
    ) -> None:
        self._network, self._members = network, members
        self._sockets = list(sockets.values())
        self._own = set(sockets)
        self._transports: list[asyncio.BaseTransport] = []

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                transport, _ = await loop.create_datagram_endpoint(
                    lambda: _Protocol(self), sock=sock
                )
                self._transports.append(transport)

    def reply(self, data: bytes, source: str) -> bytes | None:
        """Peers are not answered: what they should know the network tells them."""
        if source.partition("%")[0] not in self._own:
            return None
        try:
            return answer(data, self._network, self._members())
        except Exception as e:  # a library's fault on hostile bytes must not end the agent
            log.warning("names: %s: %s", type(e).__name__, e)
            return None

    def close(self) -> None:
        for transport in self._transports:
            transport.close()
        for sock in self._sockets:
            sock.close()
