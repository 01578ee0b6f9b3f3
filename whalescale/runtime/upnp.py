"""A port mapped by a gateway's UPnP (IGD), for routers that speak neither PCP nor NAT-PMP.

async-upnp-client reads descriptions and speaks SOAP; sockets, bounds and the question who may be
asked are here. Whatever is on the LAN can answer a search and describe anything, so only the
gateway itself is heard, and nobody else is ever sent to: each URL must have its address. All is
bounded: requests, bytes, time. It happens in the process of outside.py, which holds no key, may
nothing, and may connect by TCP, what the agent may not; the library and its aiohttp (17 MB) are
imported there once a gateway has answered a search.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import urlsplit

from whalescale.protocol.nat.portmap import LIFETIME_S, no_good
from whalescale.protocol.places import Endpoint
from whalescale.runtime import outside

log = logging.getLogger(__name__)

SSDP: Final = ("239.255.255.250", 1900)
#: the version that a gateway has it says itself: one that has 2 answers for 1 too
SEARCHED: Final = tuple(
    f"urn:schemas-upnp-org:{what}:1"
    for what in ("device:InternetGatewayDevice", "service:WANIPConnection")
)
SERVICES: Final = tuple(
    f"urn:schemas-upnp-org:service:{what}"
    for what in ("WANIPConnection:2", "WANIPConnection:1", "WANPPPConnection:1")
)
#: a search is sent so often, s after the beginning, and answered within
SEARCH_AT: Final = (0.0, 0.5, 1.5)
SEARCH_S: Final = 3.0
#: descriptions that one gateway may offer
LOCATIONS: Final = 3
#: of one answer (descriptions of real gateways have 3 to 20 kB)
MOST_BYTES: Final = 128 * 1024
#: of one job: descriptions of services and calls
MOST_REQUESTS: Final = 32
REQUEST_S: Final = 4.0
JOB_S: Final = 20.0
#: for giving back at the end of the agent
END_S: Final = 2.0
#: another port is asked for so often, if ours is somebody else's outside
OTHER_PORTS: Final = 3

NOT_LISTED: Final = (713, 714)
CONFLICT: Final = 718
PERMANENT_ONLY: Final = 725
#: why, for a user, after "it "
ERRORS: Final = {
    402: "calls the request malformed",
    501: "could not do it",
    606: "does not let us",
    CONFLICT: "has given the port to somebody else",
    724: "maps a port to the same one alone",
    728: "has no room",
}


T = TypeVar("T")


class UpnpRefused(Exception):
    """The gateway said no, or nothing of use; the text is for a user. `answered` False: nobody
    there speaks UPnP."""

    def __init__(self, why: str, *, answered: bool = True) -> None:
        super().__init__(why)
        self.answered = answered


class Mapped(NamedTuple):
    external: Endpoint
    #: s
    lifetime: int


class At(NamedTuple):
    """Where the gateway is, and whom it shall map to."""

    gateway: str
    ip: str
    port: int
    ifindex: int = 0

    def socket(self, kind: socket.SocketKind) -> socket.socket:
        """By our uplink alone. OSError."""
        made = socket.socket(socket.AF_INET, kind | socket.SOCK_CLOEXEC)
        try:
            made.setblocking(False)
            if self.ifindex:
                option = getattr(socket, "SO_BINDTOIFINDEX", 62)
                made.setsockopt(socket.SOL_SOCKET, option, self.ifindex)
            if kind is socket.SOCK_DGRAM:
                made.bind((self.ip, 0))
        except OSError:
            made.close()
            raise
        return made

    def permits(self, url: str) -> bool:
        """It leads to the gateway and nowhere else."""
        try:
            parts = urlsplit(url)
            return (
                parts.scheme == "http"
                and parts.hostname == self.gateway
                and parts.username is None
                and parts.port != 0
                and url.isprintable()
            )
        except ValueError:
            return False


class Upnp:
    """What the agent has of a gateway's UPnP. One job at a time; each may be cancelled."""

    def __init__(self, at: At) -> None:
        self._at = at
        #: what was sent to us and was not taken, by reason
        self.drops: Counter[str] = Counter()
        #: it may have a mapping of ours, under this outside port
        self.asked = False
        self.outside = 0

    async def map(self) -> Mapped:
        """Ask for the mapping, again too. UpnpRefused; nothing else is raised."""
        self.asked = True
        told = await self._ask("map")
        external = Endpoint(str(told["ip"]), int(told["port"]))
        self.outside = external.port
        return Mapped(external, int(told["lifetime"]))

    async def listed(self) -> bool:
        """Whether the mapping is there still, and leads to us. UpnpRefused: no answer."""
        return (await self._ask("listed"))["listed"] is True

    async def give_back(self) -> None:
        """Never raises: what is not taken back ends with its lease."""
        try:
            async with asyncio.timeout(END_S):
                await self._ask("give_back")
            self.asked = False
        except (UpnpRefused, TimeoutError) as e:
            log.debug("UPnP: %s keeps its mapping: %s", self._at.gateway, e)

    async def _ask(self, job: str) -> dict[str, Any]:
        request = {"upnp": job, "at": list(self._at), "outside": self.outside}
        try:
            async with asyncio.timeout(JOB_S + REQUEST_S):
                told = await outside.ask(request)
                told = await answer(request) if told is None else told
            self.drops.update({str(k): int(v) for k, v in told["drops"].items()})
            if "refused" in told:
                raise UpnpRefused(str(told["refused"])[:200], answered=told["answered"] is True)
            return dict(told["said"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
            log.debug("UPnP: no answer of the process that asks: %r", e)
            raise UpnpRefused("cannot be asked by UPnP", answered=False) from None


async def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """What a request comes to: "said", or "refused" and "answered"; and "drops"."""
    gateway, ip, port, ifindex = request["at"]
    igd = Igd(At(str(gateway), str(ip), int(port), int(ifindex)), int(request["outside"]))
    told: dict[str, Any] = {}
    try:
        match request["upnp"]:
            case "map":
                external, lifetime = await igd.map()
                told["said"] = {"ip": external.ip, "port": external.port, "lifetime": lifetime}
            case "listed":
                told["said"] = {"listed": await igd.listed()}
            case _:
                await igd.give_back()
                told["said"] = {}
    except UpnpRefused as e:
        told |= {"refused": str(e), "answered": e.answered}
    return told | {"drops": dict(igd.drops)}


class Igd:
    """One gateway, for one job."""

    def __init__(self, at: At, outside_port: int = 0) -> None:
        self._at = at
        #: what was sent to us and was not taken, by reason
        self.drops: Counter[str] = Counter()
        #: its service that makes mappings, once found
        self._service: Any = None
        #: the outside port that was asked for last
        self._port = outside_port

    async def map(self) -> Mapped:
        return await self._bounded(self._map)

    async def listed(self) -> bool:
        return await self._bounded(self._listed)

    async def give_back(self) -> None:
        await self._bounded(self._give_back)

    async def _bounded(self, job: Callable[[], Awaitable[T]]) -> T:
        try:
            async with asyncio.timeout(JOB_S):
                return await job()
        except UpnpRefused:
            raise
        except TimeoutError:
            raise UpnpRefused("takes too long to answer (UPnP)") from None
        except Exception as e:
            # What a hostile description makes of a library is an answer of no use, whatever it is.
            code = getattr(e, "error_code", None)
            if code is None:
                self.drops["upnp"] += 1
            log.debug("UPnP: %s: %s: %s", self._at.gateway, type(e).__name__, e)
            why = ERRORS.get(code or 0, f"refuses (UPnP {code})" if code else "")
            raise UpnpRefused(why or "answers nonsense to UPnP") from None

    @property
    def _entry(self) -> dict[str, Any]:
        return {
            "NewRemoteHost": "",
            "NewExternalPort": self._port or self._at.port,
            "NewProtocol": "UDP",
        }

    async def _map(self) -> Mapped:
        await self._found()
        told = await self._call("GetExternalIPAddress")
        external = str(told.get("NewExternalIPAddress") or "")
        if why := no_good(external):
            raise UpnpRefused(f"has {why}")
        first = self._port or self._at.port
        for port in [first, *(p for p in self._others() if p != first)]:
            self._port = port
            if await self._add():
                break
        else:
            raise UpnpRefused(ERRORS[CONFLICT])
        if not await self._listed():
            raise UpnpRefused("says that it maps the port and has no such mapping")
        # One without an end is looked at and asked for as often.
        return Mapped(Endpoint(external, self._port), LIFETIME_S)

    def _others(self) -> list[int]:
        """Ports above ours, the same each time: one that we had is ours still."""
        return [1024 + (self._at.port + n * 1009) % 64_000 for n in range(1, OTHER_PORTS + 1)]

    async def _add(self) -> bool:
        """False: the port is another's."""
        at = self._at
        for lease in (LIFETIME_S, 0):
            try:
                await self._call(
                    "AddPortMapping",
                    **self._entry,
                    NewInternalPort=at.port,
                    NewInternalClient=at.ip,
                    NewEnabled=True,
                    NewPortMappingDescription=f"whalescale {at.port}",
                    NewLeaseDuration=lease,
                )
            except Exception as e:
                code = getattr(e, "error_code", None)
                if code == PERMANENT_ONLY and lease:
                    continue
                if code == CONFLICT:
                    return False
                raise
            return True
        return False

    async def _listed(self) -> bool:
        await self._found()
        try:
            entry = await self._call("GetSpecificPortMappingEntry", **self._entry)
        except Exception as e:
            if getattr(e, "error_code", None) in NOT_LISTED:
                return False
            raise
        return (
            str(entry.get("NewInternalClient")) == self._at.ip
            and entry.get("NewInternalPort") == self._at.port
            and entry.get("NewEnabled") is not False
        )

    async def _give_back(self) -> None:
        await self._found()
        try:
            await self._call("DeletePortMapping", **self._entry)
        except Exception as e:
            if getattr(e, "error_code", None) not in NOT_LISTED:
                raise

    async def _call(self, action: str, **arguments: Any) -> Mapping[str, Any]:
        found: Mapping[str, Any] = await self._service.action(action).async_call(**arguments)
        return found

    # finding it

    async def _found(self) -> None:
        if self._service is not None:
            self._service.requester.left = MOST_REQUESTS
            return
        locations = await search(self._at, self.drops)
        if not locations:
            raise UpnpRefused("no answer to UPnP", answered=False)
        factory = _library()
        problem: Exception = UpnpRefused("offers no port mapping by UPnP")
        for url in locations:
            try:
                made = factory.UpnpFactory(requester(self._at, self.drops), non_strict=True)
                device = await made.async_create_device(url)
            except Exception as e:
                problem = e
                continue
            offered = {
                s.service_type: s for d in (device, *_below(device)) for s in d.services.values()
            }
            for kind in SERVICES:
                if kind in offered and offered[kind].has_action("AddPortMapping"):
                    self._service = offered[kind]
                    return
        raise problem


def _below(device: Any) -> list[Any]:
    found = list(device.embedded_devices.values())
    return found + [d for e in found for d in _below(e)]


def _library() -> Any:
    logging.getLogger("async_upnp_client").setLevel(logging.CRITICAL)  # it logs what strangers say
    try:
        return importlib.import_module("async_upnp_client.client_factory")
    except ImportError as e:
        # Where this is a folder that user nobody may not read, say somebody's home.
        raise UpnpRefused(f"cannot be asked by UPnP: {e}", answered=False) from None


async def search(at: At, drops: Counter[str]) -> list[str]:
    """URLs of the gateway's descriptions (SSDP). OSError."""
    sock = at.socket(socket.SOCK_DGRAM)
    loop = asyncio.get_running_loop()
    found: list[str] = []
    done = asyncio.Event()

    def readable() -> None:
        for _ in range(16):
            try:
                data, source = sock.recvfrom(2048)
            except OSError:
                return
            if source[0] != at.gateway:
                drops["upnp_source"] += 1
                continue
            url = location(data)
            if url is None or not at.permits(url):
                drops["upnp_location"] += 1
            elif url not in found and len(found) < LOCATIONS:
                found.append(url)
                done.set()

    async def say() -> None:
        before = 0.0
        for when in SEARCH_AT:
            await asyncio.sleep(when - before)
            before = when
            for target in SEARCHED:
                for to in (SSDP, (at.gateway, SSDP[1])):
                    try:
                        sock.sendto(searching(target), to)
                    except OSError as e:
                        log.debug("UPnP: to %s: %s", to[0], e)

    try:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
        loop.add_reader(sock.fileno(), readable)
        saying = loop.create_task(say())
        try:
            async with asyncio.timeout(SEARCH_S):
                await done.wait()
                await asyncio.sleep(0.1)  # it may have more than one
        except TimeoutError:
            pass
        finally:
            saying.cancel()
        return found
    finally:
        loop.remove_reader(sock.fileno())
        sock.close()


def searching(target: str) -> bytes:
    lines = ("M-SEARCH * HTTP/1.1", f"HOST: {SSDP[0]}:{SSDP[1]}", 'MAN: "ssdp:discover"', "MX: 1")
    return "\r\n".join((*lines, f"ST: {target}", "", "")).encode()


def location(data: bytes) -> str | None:
    """Of an answer to a search."""
    status, *lines = data.decode("latin-1").split("\r\n")
    if not status.startswith("HTTP/1.1 200"):
        return None
    for line in lines:
        name, colon, value = line.partition(":")
        if colon and name.strip().lower() == "location":
            return value.strip()
    return None


def requester(at: At, drops: Counter[str]) -> Any:
    """What the library makes its requests by."""
    import aiohttp
    from async_upnp_client.client import UpnpRequester
    from async_upnp_client.const import HttpRequest, HttpResponse

    class Requester(UpnpRequester):
        left = MOST_REQUESTS

        async def async_http_request(self, http_request: HttpRequest) -> HttpResponse:
            if not at.permits(http_request.url):
                drops["upnp_url"] += 1
                raise UpnpRefused("names addresses that are not its own (UPnP)")
            if self.left <= 0:
                raise UpnpRefused("describes more than can be read (UPnP)")
            self.left -= 1
            connector = aiohttp.TCPConnector(
                force_close=True, limit=1, socket_factory=lambda _: at.socket(socket.SOCK_STREAM)
            )
            async with (
                asyncio.timeout(REQUEST_S),
                aiohttp.ClientSession(
                    connector=connector,
                    cookie_jar=aiohttp.DummyCookieJar(),
                    auto_decompress=False,
                    trust_env=False,
                    headers={"Accept-Encoding": "identity"},
                ) as session,
                session.request(
                    http_request.method,
                    http_request.url,
                    data=http_request.body,
                    headers=http_request.headers,
                    allow_redirects=False,
                ) as response,
            ):
                body = bytearray()
                async for part in response.content.iter_any():
                    body += part
                    if len(body) > MOST_BYTES:
                        drops["upnp_bytes"] += 1
                        raise UpnpRefused("describes more than can be read (UPnP)")
                text = body.decode("utf-8", "replace")
                return HttpResponse(response.status, dict(response.headers), text)

    return Requester()
