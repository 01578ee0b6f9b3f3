"""A gateway that speaks UPnP on loopback, as it is told to: well, badly, or to do harm."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

KIND = "urn:schemas-upnp-org:service:WANIPConnection:1"
ROOT = """<?xml version="1.0"?>
{doctype}<root xmlns="urn:schemas-upnp-org:device-1-0"><specVersion><major>1</major>
<minor>0</minor></specVersion><device>
<deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:1</deviceType>
<friendlyName>{name}</friendlyName><manufacturer>m</manufacturer><modelName>n</modelName>
<UDN>uuid:1</UDN><deviceList><device>
<deviceType>urn:schemas-upnp-org:device:WANDevice:1</deviceType><friendlyName>w</friendlyName>
<manufacturer>m</manufacturer><modelName>n</modelName><UDN>uuid:2</UDN><serviceList><service>
<serviceType>{kind}</serviceType><serviceId>urn:upnp-org:serviceId:WANIPConn1</serviceId>
<controlURL>{control}</controlURL><eventSubURL>/evt</eventSubURL><SCPDURL>{scpd}</SCPDURL>
</service></serviceList></device></deviceList></device></root>"""
ACTIONS = {
    "GetExternalIPAddress": ("", "NewExternalIPAddress"),
    "AddPortMapping": (
        "NewRemoteHost NewExternalPort NewProtocol NewInternalPort NewInternalClient NewEnabled"
        " NewPortMappingDescription NewLeaseDuration",
        "",
    ),
    "DeletePortMapping": ("NewRemoteHost NewExternalPort NewProtocol", ""),
    "GetSpecificPortMappingEntry": (
        "NewRemoteHost NewExternalPort NewProtocol",
        "NewInternalPort NewInternalClient NewEnabled NewPortMappingDescription NewLeaseDuration",
    ),
}
TYPES = {"Port": "ui2", "Enabled": "boolean", "Duration": "ui4"}


def scpd() -> str:
    names = sorted({n for a in ACTIONS.values() for words in a for n in words.split()})

    def argument(name: str, way: str) -> str:
        related = f"<relatedStateVariable>{name[3:]}</relatedStateVariable>"
        return f"<argument><name>{name}</name><direction>{way}</direction>{related}</argument>"

    def kind(name: str) -> str:
        return next((t for end, t in TYPES.items() if name.endswith(end)), "string")

    actions = "".join(
        f"<action><name>{name}</name><argumentList>"
        + "".join(argument(n, "in") for n in into.split())
        + "".join(argument(n, "out") for n in out.split())
        + "</argumentList></action>"
        for name, (into, out) in ACTIONS.items()
    )
    table = "".join(
        f'<stateVariable sendEvents="no"><name>{n[3:]}</name><dataType>{kind(n)}</dataType>'
        "</stateVariable>"
        for n in names
    )
    return (
        '<?xml version="1.0"?><scpd xmlns="urn:schemas-upnp-org:service-1-0"><specVersion><major>1'
        "</major><minor>0</minor></specVersion>"
        f"<actionList>{actions}</actionList><serviceStateTable>{table}</serviceStateTable></scpd>"
    )


class FakeIgd(asyncio.DatagramProtocol):
    """At `ip`. Mappings are in `mappings`: outside port to (host, port, lease)."""

    def __init__(self, ip: str) -> None:
        self.ip = ip
        self.external = "5.6.7.8"
        self.mappings: dict[int, tuple[str, int, int]] = {}
        self.permanent_only = False
        #: ports that are somebody else's
        self.taken: set[int] = set()
        #: it says yes and maps nothing
        self.lies = False
        self.doctype, self.name, self.control, self.scpd = "", "gateway", "/ctl", "/scpd.xml"
        #: where answers to searches lead, None: to us
        self.location: str | None = None
        self.searched = 0
        #: (method, path) of all that was asked
        self.asked: list[tuple[str, str]] = []
        #: in place of the answer: bytes of a whole response
        self.instead: Callable[[str, str], bytes | None] = lambda method, path: None
        #: seconds before each byte of an answer
        self.drip = 0.0

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await asyncio.start_server(self._serve, self.ip, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        self._ssdp, _ = await loop.create_datagram_endpoint(
            lambda: self, local_addr=(self.ip, 1900)
        )

    def stop(self) -> None:
        self._ssdp.close()
        self._server.close()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.searched += 1
        where = self.location or f"http://{self.ip}:{self.port}/root.xml"
        self.transport.sendto(
            f"HTTP/1.1 200 OK\r\nST: x\r\nLOCATION: {where}\r\n\r\n".encode(), addr
        )

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = re.search(r"(?i)content-length: (\d+)", head)
            body = (await reader.readexactly(int(length[1]))).decode() if length else ""
            method, path, _ = head.split(" ", 2)
            self.asked.append((method, path))
            answer = self.instead(method, path) or self._answer(path, head, body)
            for n in range(len(answer) if self.drip else 1):
                await asyncio.sleep(self.drip)
                writer.write(answer[n : n + 1] if self.drip else answer)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def _answer(self, path: str, head: str, body: str) -> bytes:
        if path == "/root.xml":
            words = {"control": self.control, "scpd": self.scpd, "kind": KIND, "name": self.name}
            return http(200, ROOT.format(doctype=self.doctype, **words))
        if path == "/scpd.xml":
            return http(200, scpd())
        found = re.search(r"(?i)soapaction: \"[^#]*#(\w+)\"", head)
        values = dict(re.findall(r"<(New\w+)>([^<]*)</", body))
        return self._act(found[1] if found else "", values)

    def _act(self, action: str, values: dict[str, str]) -> bytes:
        port = int(values.get("NewExternalPort") or 0)
        match action:
            case "GetExternalIPAddress":
                return done(action, NewExternalIPAddress=self.external)
            case "AddPortMapping":
                lease = int(values["NewLeaseDuration"])
                if lease and self.permanent_only:
                    return fault(725)
                if port in self.taken:
                    return fault(718)
                if not self.lies:
                    inside = values["NewInternalClient"], int(values["NewInternalPort"])
                    self.mappings[port] = (*inside, lease)
                return done(action)
            case "DeletePortMapping":
                return done(action) if self.mappings.pop(port, None) else fault(714)
            case "GetSpecificPortMappingEntry":
                if port not in self.mappings:
                    return fault(714)
                host, inner, lease = self.mappings[port]
                return done(
                    action,
                    NewInternalPort=inner,
                    NewInternalClient=host,
                    NewEnabled=1,
                    NewPortMappingDescription="x",
                    NewLeaseDuration=lease,
                )
        return fault(401)


def http(status: int, body: str, *headers: str) -> bytes:
    lines = (f"HTTP/1.1 {status} X", "Content-Type: text/xml", f"Content-Length: {len(body)}")
    return "\r\n".join((*lines, *headers, "", body)).encode()


def _soap(inside: str) -> str:
    where = "http://schemas.xmlsoap.org/soap/envelope/"
    return (
        f'<?xml version="1.0"?><s:Envelope xmlns:s="{where}"><s:Body>{inside}</s:Body></s:Envelope>'
    )


def done(action: str, **values: object) -> bytes:
    inside = "".join(f"<{n}>{v}</{n}>" for n, v in values.items())
    return http(200, _soap(f'<u:{action}Response xmlns:u="{KIND}">{inside}</u:{action}Response>'))


def fault(code: int) -> bytes:
    what = (
        f'<UPnPError xmlns="urn:schemas-upnp-org:control-1-0"><errorCode>{code}</errorCode>'
        "<errorDescription>no</errorDescription></UPnPError>"
    )
    return http(
        500,
        _soap(
            "<s:Fault><faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring>"
            f"<detail>{what}</detail></s:Fault>"
        ),
    )
