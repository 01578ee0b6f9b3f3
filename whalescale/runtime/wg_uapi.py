"""WireGuard's cross-platform UAPI socket (https://www.wireguard.com/xplatform/), for `wg`.

This file is the protocol: text in, a checked request out; figures in, text out. What a
request does is in wg_device.py. A set that cannot be carried out changes nothing; of one with a
faulty line, what stands before that line is done, as by every other WireGuard.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hmac
import ipaddress
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from whalescale.endpoints import HostPort
from whalescale.protocol.limits import NS_PER_S
from whalescale.runtime.control_socket import peer_uid, unix_server
from whalescale.runtime.errors import AgentError

log = logging.getLogger(__name__)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: `wg` and wireguard-go agree on this folder
DIRECTORY: Final = Path("/var/run/wireguard")
LINE_BYTES_MAX: Final = 1024
#: a set of 65,536 peers is about 20 MB
REQUEST_BYTES_MAX: Final = 64 << 20
CONNECTIONS_MAX: Final = 16
IDLE_S: Final = 60.0


class UapiError(Exception):
    """Answered as errno=-N."""

    def __init__(self, number: int, what: str) -> None:
        super().__init__(what)
        self.number = number


@dataclass(slots=True)
class PeerChange:
    """One `public_key=` section of a set; None: not mentioned."""

    public_key: bytes
    remove: bool = False
    update_only: bool = False
    preshared_key: bytes | None = field(default=None, repr=False)
    endpoint: HostPort | None = None
    persistent_keepalive: int | None = None
    replace_allowed_ips: bool = False
    #: (add, network), in order
    allowed_ips: list[tuple[bool, Network]] = field(default_factory=list)


@dataclass(slots=True)
class SetRequest:
    """A whole set; None: not mentioned."""

    private_key: bytes | None = field(default=None, repr=False)
    listen_port: int | None = None
    fwmark: int | None = None
    replace_peers: bool = False
    peers: list[PeerChange] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class PeerView:
    """What a get tells of one peer."""

    public_key: bytes
    preshared_key: bytes = field(repr=False)
    endpoint: str | None
    last_handshake_wall_ns: int
    tx_bytes: int
    rx_bytes: int
    persistent_keepalive: int
    allowed_ips: tuple[Network, ...]


@dataclass(frozen=True, slots=True)
class DeviceView:
    private_key: bytes = field(repr=False)
    listen_port: int
    fwmark: int
    peers: Iterable[PeerView]


def _key(value: str) -> bytes:
    try:
        key = bytes.fromhex(value)
    except ValueError:
        key = b""
    # fromhex skips blanks, so the text's length counts as well
    if len(key) != 32 or len(value) != 64:
        raise UapiError(errno.EINVAL, "a key is 64 hexadecimal digits")
    return key


def _number(value: str, largest: int) -> int:
    # wireguard-go takes an empty fwmark for 0, `wg` never sends one
    if not value.isascii() or not value.isdecimal() or len(value) > 10 or int(value) > largest:
        raise UapiError(errno.EINVAL, f"{value!r:.20} is no number up to {largest}")
    return int(value)


def _true(value: str) -> bool:
    if value != "true":
        raise UapiError(errno.EINVAL, f"{value!r:.20} is not true")
    return True


def _endpoint(value: str) -> HostPort:
    host, colon, port = value.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise UapiError(errno.EINVAL, "an IPv6 endpoint goes in brackets")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise UapiError(errno.EINVAL, "an endpoint is IP:port") from None
    number = _number(port, 0xFFFF)
    if not colon or address.is_unspecified or address.is_multicast:
        raise UapiError(errno.EINVAL, "an endpoint is IP:port")
    return HostPort(str(address), number, True)


def _network(value: str) -> Network:
    try:
        if "/" not in value or value.partition("/")[2] == "":
            raise ValueError
        prefix = value.partition("/")[2]
        _number(prefix, 128)
        return ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise UapiError(errno.EINVAL, "an allowed IP is IP/prefix length") from None


def parse_set(lines: Iterable[str], request: SetRequest) -> None:
    """The lines between `set=1` and the empty one, into an empty request.

    UapiError: a line is at fault, and the request holds what stood before it.
    """
    peer: PeerChange | None = None
    for line in lines:
        key, equals, value = line.partition("=")
        if not equals:
            raise UapiError(errno.EPROTO, "a line is key=value")
        if key == "public_key":
            peer = PeerChange(_key(value))
            request.peers.append(peer)
        elif peer is None:
            _device_line(request, key, value)
        else:
            _peer_line(peer, key, value)


def _device_line(request: SetRequest, key: str, value: str) -> None:
    match key:
        case "private_key":
            request.private_key = _key(value)
        case "listen_port":
            request.listen_port = _number(value, 0xFFFF)
        case "fwmark":
            request.fwmark = _number(value or "0", 0xFFFFFFFF)
        case "replace_peers":
            request.replace_peers = _true(value)
        case _:
            raise UapiError(errno.EINVAL, f"no such key {key!r:.40}")


def _peer_line(peer: PeerChange, key: str, value: str) -> None:
    match key:
        case "remove":
            peer.remove = _true(value)
        case "update_only":
            peer.update_only = _true(value)
        case "preshared_key":
            peer.preshared_key = _key(value)
        case "endpoint":
            peer.endpoint = _endpoint(value)
        case "persistent_keepalive_interval":
            peer.persistent_keepalive = _number(value, 0xFFFF)
        case "replace_allowed_ips":
            peer.replace_allowed_ips = _true(value)
            peer.allowed_ips.clear()
        case "allowed_ip":
            peer.allowed_ips.append((not value.startswith("-"), _network(value.lstrip("+-"))))
        case "protocol_version":
            if value != "1":
                raise UapiError(errno.EPROTONOSUPPORT, "the protocol has version 1")
        case _:
            raise UapiError(errno.EINVAL, f"no such key {key!r:.40}")


def clamp(private_key: bytes) -> bytes:
    """RFC 7748 section 5: the form in which two X25519 private keys can be compared."""
    key = bytearray(private_key)
    key[0] &= 248
    key[31] = (key[31] & 127) | 64
    return bytes(key)


def same_private_key(a: bytes, b: bytes) -> bool:
    return hmac.compare_digest(clamp(a), clamp(b))


def format_get(device: DeviceView) -> Iterator[str]:
    """The answer to get=1, without the closing errno, peer by peer."""
    head = f"private_key={device.private_key.hex()}\nlisten_port={device.listen_port}\n"
    # 0 is left out, as wireguard-go does; `wg` shows it as off
    yield head + (f"fwmark={device.fwmark}\n" if device.fwmark else "")
    for peer in device.peers:
        seconds, nanoseconds = divmod(peer.last_handshake_wall_ns, NS_PER_S)
        lines = [
            f"public_key={peer.public_key.hex()}",
            f"preshared_key={peer.preshared_key.hex()}",
            "protocol_version=1",
        ]
        if peer.endpoint is not None:
            lines.append(f"endpoint={peer.endpoint}")
        lines += [
            f"last_handshake_time_sec={seconds}",
            f"last_handshake_time_nsec={nanoseconds}",
            f"tx_bytes={peer.tx_bytes}",
            f"rx_bytes={peer.rx_bytes}",
            f"persistent_keepalive_interval={peer.persistent_keepalive}",
            *(f"allowed_ip={network}" for network in peer.allowed_ips),
        ]
        yield "\n".join(lines) + "\n"


def make_directory(path: Path) -> None:
    """OSError is left to who listens there."""
    with contextlib.suppress(OSError):
        os.makedirs(path, mode=0o755, exist_ok=True)


class UapiServer:
    """One interface's socket. `wg` opens and closes an empty connection first; that is no fault."""

    def __init__(
        self,
        path: Path,
        get: Callable[[], DeviceView],
        change: Callable[[SetRequest], Awaitable[None]],
    ) -> None:
        self.path = path
        self._get = get
        self._change = change
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """AgentError: another process answers at this path."""
        if _answers(self.path):
            raise AgentError(
                f"another process serves {self.path}",
                "WireGuard tools share this folder between network namespaces; "
                "use another interface name",
            )
        make_directory(self.path.parent)
        self._server = await unix_server(self.path, self._connected, LINE_BYTES_MAX)

    async def close(self) -> None:
        if self._server is None:
            return
        self._server.close()
        self._server = None
        with contextlib.suppress(OSError):
            os.unlink(self.path)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._tasks) < CONNECTIONS_MAX and (
            peer_uid(writer.get_extra_info("socket")) in (0, os.geteuid())
        ):
            self._tasks.add(task)
            try:
                while await self._serve(reader, writer):
                    pass
            except (ConnectionError, TimeoutError, asyncio.CancelledError):
                pass
            finally:
                self._tasks.discard(task)
        writer.close()

    async def _set(self, lines: list[str]) -> None:
        """As wireguard-go and the kernel: what stands before a fault is done."""
        request = SetRequest()
        try:
            parse_set(lines, request)
        except UapiError:
            await self._change(request)
            raise
        await self._change(request)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request. False: the connection is to be closed."""
        number, again = 0, True
        try:
            operation = await _line(reader)
            if operation is None:
                return False
            if operation == "get=1":
                if await _line(reader) != "":
                    raise UapiError(errno.EPROTO, "get=1 has no arguments")
                for part in format_get(self._get()):
                    writer.write(part.encode())
                    await asyncio.wait_for(writer.drain(), IDLE_S)
            elif operation == "set=1":
                await self._set(await _lines(reader))
            else:
                raise UapiError(errno.EPROTO, "no such operation")
        except UapiError as e:
            log.warning("wg set: %s", e)
            # What follows of a broken request cannot be told from the next one.
            number, again = e.number, False
        except (ConnectionError, TimeoutError):
            raise
        except Exception as e:  # a fault in one request must not end the agent
            log.error("wg request: %s: %s", type(e).__name__, e)
            number, again = errno.EIO, False
        writer.write(f"errno={-number}\n\n".encode())
        await asyncio.wait_for(writer.drain(), IDLE_S)
        return again


async def _line(reader: asyncio.StreamReader) -> str | None:
    """One line without its end; None at the end of the stream."""
    try:
        line = await asyncio.wait_for(reader.readline(), IDLE_S)
    except ValueError:
        raise UapiError(errno.E2BIG, "a line is too long") from None
    if not line.endswith(b"\n"):
        return None
    try:
        return line[:-1].decode("ascii")
    except UnicodeDecodeError:
        raise UapiError(errno.EINVAL, "a line is not ASCII") from None


async def _lines(reader: asyncio.StreamReader) -> list[str]:
    """Lines up to an empty one. ConnectionError: the stream ended in mid-request."""
    lines: list[str] = []
    size = 0
    while True:
        line = await _line(reader)
        if line is None:
            raise ConnectionResetError
        if line == "":
            return lines
        size += len(line)
        if size > REQUEST_BYTES_MAX:
            raise UapiError(errno.E2BIG, "the request is too long")
        lines.append(line)


def _answers(path: Path) -> bool:
    """Whether somebody listens at a UNIX socket's path."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as s:
        s.settimeout(1)
        try:
            s.connect(str(path))
        except OSError:
            return False
    return True
