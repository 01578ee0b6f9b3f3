"""Endpoint names, asked for past the tunnel that they are for.

getaddrinfo(3) sends from sockets of its own: with the default route, or the name server's address,
inside the tunnel they wait for it, and it for them. So questions go from sockets that carry the
tunnel's mark, as its datagrams do, and where that leads into the tunnel or nowhere, from sockets
bound to each uplink. getaddrinfo is asked only for what no name server is there for.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from whalescale.protocol.nat.nat64 import is_needed
from whalescale.protocol.places import Endpoint
from whalescale.runtime import outside
from whalescale.runtime.part import Here, Part

if TYPE_CHECKING:
    import dns.message

log = logging.getLogger(__name__)

RESOLV_CONF: Final = Path("/etc/resolv.conf")
#: the servers that systemd-resolved's stub (127.0.0.53) asks
RESOLVED_CONF: Final = Path("/run/systemd/resolve/resolv.conf")
HOSTS: Final = Path("/etc/hosts")
FILE_BYTES_MAX: Final = 1 << 20
#: for an answer of one server by one way
ANSWER_S: Final = 1.5
#: for IPv6 addresses once those of IPv4 are there (RFC 8305 section 3, "Resolution Delay")
RESOLUTION_S: Final = 0.05
#: for a look-up as a whole
LOOKUP_S: Final = 20.0
MAX_SERVERS: Final = 4
MAX_UPLINKS: Final = 8
#: DNS flag day 2020: what no link cuts up
UDP_BYTES: Final = 1232
DNS_PORT: Final = 53

Lookup = Callable[[str, int], Awaitable[list[Endpoint]]]


class NoSuchName(OSError):
    """A name server says that there is none."""


class CutOff(OSError):
    """A server says that its answer does not fit a datagram, and sent no part of it: some want all
    who ask to come by TCP."""


class Names:
    """Looks names up. Called on the loop's thread."""

    def __init__(
        self,
        *,
        mark: Callable[[], int],
        uplinks: Callable[[], Sequence[int]],
        own: Callable[[], frozenset[str]],
        fallback: Lookup,
        resolv_conf: Path = RESOLV_CONF,
        hosts: Path = HOSTS,
        port: int = DNS_PORT,
        patient: Callable[[], bool] = lambda: False,
    ) -> None:
        """`mark`: of the tunnel's datagrams, 0: none. `uplinks`: interface indices, best first.

        `own`: the tunnel's addresses. `fallback`: for names that are no business of DNS. `patient`:
        IPv6 is all that this host has, and a DNS64 takes its time.
        """
        self._mark = mark
        self._uplinks = uplinks
        self._own = own
        self._fallback = fallback
        self._resolv_conf = resolv_conf
        self._hosts = hosts
        self._port = port
        self._patient = patient

    async def lookup(self, host: str, port: int) -> list[Endpoint]:
        """All addresses of a name, IPv6 first. OSError: it does not resolve."""
        if found := self._in_hosts(host):
            return [Endpoint(ip, port) for ip in found]
        return await self._ask(host, port)

    def _in_hosts(self, host: str) -> list[str]:
        wanted, found = host.rstrip(".").lower(), []
        for line in _lines(self._hosts):
            address, *names = line.partition("#")[0].split()[:64] or [""]
            if wanted in (name.lower() for name in names):
                with contextlib.suppress(ValueError):
                    found.append(str(ipaddress.ip_address(address)))
        return sorted(found, key=lambda ip: ":" not in ip)

    async def _ask(self, host: str, port: int) -> list[Endpoint]:
        conf = Conf.read(self._resolv_conf)
        if host.rstrip(".").lower().endswith(".local") or not conf.servers:
            return await self._fallback(host, port)
        try:
            async with asyncio.timeout(LOOKUP_S):
                return [Endpoint(ip, port) for ip in await self._by_dns(host, conf)]
        except TimeoutError:
            raise OSError(errno.ETIMEDOUT, "no name server answers") from None
        except (NoSuchName, CutOff):
            # Another source may know it (nsswitch.conf): machines, a directory. And the resolver's
            # process may ask by TCP.
            return await self._fallback(host, port)

    async def _by_dns(self, host: str, conf: Conf) -> list[str]:
        problem: OSError = OSError(errno.ETIMEDOUT, "no name server answers")
        for name in conf.names(host):
            answered = False
            for server in conf.servers:
                for ifindex in self._ways(server):
                    try:
                        found = await self._both(name, server, ifindex)
                    except NoSuchName as e:
                        problem, answered = e, True
                        break
                    except OSError as e:
                        known = isinstance(problem, (NoSuchName, CutOff))
                        problem = problem if known else e
                        continue
                    return found
                if answered:
                    break
        raise problem

    def _ways(self, server: str) -> Iterator[int]:
        """Interfaces to ask by; 0: as the routing table says."""
        yield 0
        if not ipaddress.ip_address(server.partition("%")[0]).is_loopback:
            yield from self._uplinks()[:MAX_UPLINKS]

    async def _both(self, name: str, server: str, ifindex: int) -> list[str]:
        """Addresses of both kinds, IPv6 first. NoSuchName: neither."""
        six, four = (
            asyncio.ensure_future(self._query(name, kind, server, ifindex))
            for kind in ("AAAA", "A")
        )
        try:
            await asyncio.wait((six, four), return_when=asyncio.FIRST_COMPLETED)
            answered = four.done() and four.exception() is None and four.result()
            if answered and not six.done() and not self._patient():
                # IPv4 is there; a question for the other kind that was lost holds nothing up. The
                # next look-up has it.
                await asyncio.wait((six,), timeout=RESOLUTION_S)
                six.cancel()
            answers = await asyncio.gather(six, four, return_exceptions=True)
        finally:
            six.cancel()
            four.cancel()
        found = [ip for answer in answers if isinstance(answer, list) for ip in answer]
        if found:
            return found
        errors = [a for a in answers if isinstance(a, BaseException)]
        for error in errors:
            if not isinstance(error, NoSuchName):
                raise error
        raise errors[0] if errors else NoSuchName(errno.ENOENT, "it has no address")

    async def _query(self, name: str, kind: str, server: str, ifindex: int) -> list[str]:
        import dns.exception
        import dns.flags
        import dns.message
        import dns.rcode

        try:
            query = dns.message.make_query(name, kind, use_edns=0, payload=UDP_BYTES)
            wire = query.to_wire()
        except dns.exception.DNSException as e:
            raise OSError(errno.EINVAL, f"no name: {e}") from None
        loop = asyncio.get_running_loop()
        with self._socket(server, ifindex) as sock:
            await loop.sock_sendall(sock, wire)
            try:
                async with asyncio.timeout(ANSWER_S):
                    while True:
                        answer = _parse(await loop.sock_recv(sock, 65535), query)
                        if answer is not None:
                            break
            except TimeoutError:
                raise OSError(errno.ETIMEDOUT, "no answer of the name server") from None
        if answer.rcode() == dns.rcode.NXDOMAIN:
            raise NoSuchName(errno.ENOENT, "there is no such name")
        if answer.rcode() != dns.rcode.NOERROR:
            raise OSError(errno.EIO, f"name server: {dns.rcode.to_text(answer.rcode())}")
        try:
            rrset = answer.resolve_chaining().answer
        except dns.exception.DNSException as e:
            raise OSError(errno.EIO, f"name server: {e}") from None
        if rrset is None and answer.flags & dns.flags.TC:
            raise CutOff(errno.EMSGSIZE, "the name server's answer is cut off")
        return [str(record) for record in rrset or ()]

    @contextlib.contextmanager
    def _socket(self, server: str, ifindex: int) -> Iterator[socket.socket]:
        """Connected. OSError: no way there but the tunnel."""
        address, _, zone = server.partition("%")
        ip = ipaddress.ip_address(address)
        family = socket.AF_INET6 if ip.version == 6 else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)
            if not ip.is_loopback:
                if mark := self._mark():
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
                if ifindex:
                    option = getattr(socket, "SO_BINDTOIFINDEX", 62)
                    sock.setsockopt(socket.SOL_SOCKET, option, ifindex)
            where: Any = (address, self._port)
            if family == socket.AF_INET6:
                scope = 0
                if zone:
                    scope = int(zone) if zone.isdecimal() else socket.if_nametoindex(zone)
                where = (address, self._port, 0, scope)
            sock.connect(where)
            if sock.getsockname()[0].partition("%")[0] in self._own():
                raise OSError(errno.ENETUNREACH, "the name server is behind this tunnel")
            yield sock


class NameUplinks(Part):
    """Interfaces to ask name servers by, where the routing table does not lead there."""

    def __init__(self) -> None:
        #: best first
        self.indices: tuple[int, ...] = ()
        self.six_alone = False

    def follow(self, here: Here) -> None:
        best = sorted(here.links, key=lambda link: link.spare)
        self.indices = tuple(dict.fromkeys(link.ifindex for link in best))
        self.six_alone = is_needed(here.links)


class Conf:
    """What resolv.conf(5) says."""

    def __init__(self, servers: Sequence[str], search: Sequence[str], ndots: int) -> None:
        self.servers = tuple(dict.fromkeys(servers))[:MAX_SERVERS]
        self._search = tuple(search)[:6]
        self._ndots = ndots

    @classmethod
    def read(cls, path: Path) -> Conf:
        servers, search, ndots = _read(path)
        if servers and all(ipaddress.ip_address(s.partition("%")[0]).is_loopback for s in servers):
            # A stub asks by sockets without our mark: behind it stand those that it asks.
            servers += _read(RESOLVED_CONF)[0]
        return cls(servers, search, ndots)

    def names(self, host: str) -> list[str]:
        """Absolute names to try, in order."""
        bare = host.rstrip(".")
        if host.endswith("."):
            return [f"{bare}."]
        longer = [f"{bare}.{domain.strip('.')}." for domain in self._search if domain.strip(".")]
        alone = [f"{bare}."]
        return alone + longer if bare.count(".") >= self._ndots else longer + alone


def _read(path: Path) -> tuple[list[str], list[str], int]:
    servers: list[str] = []
    search: list[str] = []
    ndots = 1
    for line in _lines(path):
        words = line.split()
        if len(words) < 2 or words[0][0] in "#;":
            continue
        if words[0] == "nameserver":
            with contextlib.suppress(ValueError):
                ipaddress.ip_address(words[1])
                servers.append(words[1])
        elif words[0] in ("search", "domain"):
            search = words[1:]
        elif words[0] == "options":
            for word in words[1:]:
                if word.startswith("ndots:") and word[6:].isdecimal():
                    ndots = min(int(word[6:]), 15)
    return servers, search, ndots


def _lines(path: Path) -> list[str]:
    # A file that was replaced since the agent confined itself is out of its own reach.
    if (text := outside.read(path)) is not None:
        return text[:FILE_BYTES_MAX].split("\n")
    try:
        with path.open("rb") as f:
            return f.read(FILE_BYTES_MAX).decode(errors="replace").split("\n")
    except OSError:
        return []


def _parse(data: bytes, query: dns.message.Message) -> dns.message.QueryMessage | None:
    """None: not the answer to this."""
    import dns.exception
    import dns.message

    try:
        answer = dns.message.from_wire(data, ignore_trailing=True)
    except (dns.exception.DNSException, ValueError):
        return None
    ours = isinstance(answer, dns.message.QueryMessage) and query.is_response(answer)
    return answer if ours and isinstance(answer, dns.message.QueryMessage) else None
