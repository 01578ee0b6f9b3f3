"""Names of members: a small DNS server on this machine's own addresses inside, for itself alone.

NAME.NETWORK.internal, and NAME.internal. systemd-resolved is told of it for this link only; where
that is not there `ws hosts` prints lines for /etc/hosts. Nothing here is ever fatal.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import dns.exception
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

log = logging.getLogger(__name__)

PORT: Final = 53
SUFFIX: Final = "internal"
#: members move and go
TTL_S: Final = 10
QUERY_BYTES_MAX: Final = 512
RESOLVED: Final = Path("/run/systemd/resolve")
RESOLVECTL_S: Final = 3.0

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
    """`members`: asked for at each query."""

    def __init__(self, network: str, members: Callable[[], Members]) -> None:
        self._network, self._members = network, members
        self._sockets: list[socket.socket] = []
        self._own: set[str] = set()
        self._transports: list[asyncio.BaseTransport] = []

    def bind(self, addresses: Iterable[str]) -> None:
        """While the right to use port 53 is there. What cannot be bound is left out, and said."""
        for address in addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            try:
                sock.bind((address, PORT))
            except OSError as e:
                sock.close()
                log.info("no names at %s port %d: %s; `ws hosts` prints them", address, PORT, e)
                continue
            self._own.add(address)
            self._sockets.append(sock)

    def tell_resolved(self, interface: str) -> None:
        """For this link alone; it forgets when the link goes. Blocks for some milliseconds."""
        program = shutil.which("resolvectl")
        if not self._sockets or program is None or not RESOLVED.exists():
            return
        for words in (
            ("dns", interface, *sorted(self._own)),
            ("domain", interface, f"~{self._network}.{SUFFIX}", f"~{SUFFIX}"),
            ("default-route", interface, "no"),
        ):
            try:
                done = subprocess.run(
                    [program, *words], capture_output=True, timeout=RESOLVECTL_S, check=False
                )
            except (OSError, subprocess.TimeoutExpired) as e:
                log.info("systemd-resolved was not told of names: %s", e)
                return
            if done.returncode:
                log.info("resolvectl %s: %s", words[0], done.stderr.decode(errors="replace")[:200])
                return

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
