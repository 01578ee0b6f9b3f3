"""wg-quick files (wg-quick(8), wg(8)): text -> checked sections, and sections -> text.

configparser cannot read them: [Peer] stands there once a peer, and keys may repeat. What `wg` and
wg-quick take is taken (blanks anywhere, keys in any case, two [Interface] sections, a bare IPv6
endpoint); what is taken otherwise than it stands there, or not at all, is told in `WgConfig.words`.
"""

from __future__ import annotations

import codecs
import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from nacl import bindings

from whalescale import config, config_values, endpoints, identity, keyfiles
from whalescale.endpoints import is_host

#: commands of wg-quick, run by nobody here
HOOKS: Final = ("PreUp", "PostUp", "PreDown", "PostDown")
#: what wg-quick or an app does beside the tunnel
_BESIDE: Final = ("DNS", "SaveConfig", "IncludedApplications", "ExcludedApplications")
_WG_INTERFACE: Final = ("PrivateKey", "ListenPort", "FwMark")
_QUICK: Final = ("Address", "MTU", "Table", *HOOKS, *_BESIDE)
_PEER: Final = ("PublicKey", "PresharedKey", "AllowedIPs", "Endpoint", "PersistentKeepalive")
_KNOWN: Final = {"interface": (*_WG_INTERFACE, *_QUICK), "peer": _PEER}
_CANONICAL: Final = {k.lower(): k for k in (*_KNOWN["interface"], *_PEER)}
#: what `wg` drops wherever it stands, and what a copy from a web page or an editor leaves behind
_BLANKS: Final = " \t\n\v\f\r\u00a0\u200b\ufeff"
_NO_BLANKS: Final = str.maketrans("", "", _BLANKS)
_UTF16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
#: names of the main routing table
_MAIN_TABLES: Final = ("main", "254")
#: "local" goes before all rules, "default" after main: routes there could cut this host off
_KERNELS_TABLES: Final = ("253", "255")
#: keys of a program that hides its datagrams, and whose files look like these
_AMNEZIA: Final = re.compile(r"(?i)J(c|min|max)|[SHI][1-5]|Itime")
_PREFIX: Final = re.compile(r"[^/]+/[0-9]{1,3}")
#: of one kind, so many words are told one by one
_TOLD: Final = 3


class WgQuickError(ValueError):
    """`line` counts from 1."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(f"line {line}: {text}")


@dataclass(slots=True)
class WgPeer:
    public_key: bytes
    line: int
    #: the text after the [Peer] line's # sign, or of a comment line just inside the section
    comment: str = ""
    preshared_key: bytes | None = field(default=None, repr=False)
    #: with the line of each
    allowed_ips: dict[str, int] = field(default_factory=dict)
    endpoint: str | None = None
    persistent_keepalive: int = 0


@dataclass(slots=True)
class WgConfig:
    private_key: bytes | None = field(default=None, repr=False)
    #: what belongs to the private key
    own_public: bytes | None = None
    listen_port: int | None = None
    addresses: list[str] = field(default_factory=list)
    mtu: int | None = None
    fwmark: int = 0
    table: int | str = "auto"
    #: what is not taken over, or not as it stands there; each names its line
    words: list[str] = field(default_factory=list)
    peers: list[WgPeer] = field(default_factory=list)


@dataclass(slots=True)
class _Section:
    name: str
    line: int
    comment: str
    #: by key: its line and its text, with blanks as they stand
    values: dict[str, list[tuple[int, str]]] = field(default_factory=dict)


def decode(data: bytes) -> str:
    """The text of a file: UTF-8 or UTF-16 with a mark, UTF-8, else Latin-1 (of comments: what
    means something is ASCII). ValueError: it is no text.
    """
    if data.startswith(_UTF16):
        return data.decode("utf-16")
    if b"\0" in data:
        raise ValueError("it holds zero bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def parse(text: str) -> WgConfig:
    """Raises WgQuickError, its message is for a user. Host bits of allowed IPs are cleared (wg)."""
    words: list[str] = []
    sections = _sections(text, words)
    interfaces = [s for s in sections if s.name == "interface"]
    if not interfaces:
        raise WgQuickError(1, "there is no section [Interface]")
    result = _interface(_joined(interfaces, words), words)
    masked: list[str] = []
    for section in (s for s in sections if s.name == "peer"):
        peer = _peer(section, words, masked)
        if peer.public_key == result.own_public:
            words.append(
                f"line {peer.line}: this peer is the file's own host; left out, as wg does"
            )
            continue
        result.peers.append(peer)
    words += masked[:_TOLD]
    if len(masked) > _TOLD:
        words.append(f"host bits are cleared in {len(masked) - _TOLD} more AllowedIPs")
    _refuse_duplicates(result.peers)
    result.words = words
    return result


def _refuse_duplicates(peers: Sequence[WgPeer]) -> None:
    keys: dict[bytes, int] = {}
    networks: dict[str, int] = {}
    for peer in peers:
        if (first := keys.setdefault(peer.public_key, peer.line)) != peer.line:
            raise WgQuickError(peer.line, f"the same PublicKey as the peer of line {first}")
        for network, line in peer.allowed_ips.items():
            if network in networks:
                raise WgQuickError(
                    line,
                    f"AllowedIPs: {network} belongs to the peer of line {networks[network]} "
                    "already; wg would give it to the last one alone, so keep it at one of them",
                )
            networks[network] = peer.line


def _lines(text: str) -> list[str]:
    """As wg: a line ends at a line feed and nowhere else. (Files of old Macs have none.)"""
    return text.split("\n" if "\n" in text else "\r")


def _sections(text: str, words: list[str]) -> list[_Section]:
    sections: list[_Section] = []
    for number, raw in enumerate(_lines(text), 1):
        line, _, comment = raw.partition("#")
        line, comment = line.strip(_BLANKS), comment.strip(_BLANKS)
        if not line:
            if sections and not sections[-1].values and comment and not sections[-1].comment:
                sections[-1].comment = comment
            continue
        if line.startswith("["):
            name = line.translate(_NO_BLANKS).lower()
            if name not in {"[interface]", "[peer]"}:
                raise WgQuickError(number, f"{line!r:.60} is neither [Interface] nor [Peer]")
            sections.append(_Section(name.strip("[]"), number, comment))
            continue
        _value(sections, number, line, raw)
    return sections


def _value(sections: list[_Section], number: int, line: str, raw: str) -> None:
    """One line Key = value, without its comment; `raw` has it."""
    key, equals, value = line.partition("=")
    key, value = key.translate(_NO_BLANKS), value.strip(_BLANKS)
    if not equals:
        fix = "a comment begins with #" if line[0] in ";/!" else "write it as Key = value"
        raise WgQuickError(number, f"{line!r:.60}: {fix}")
    if not sections:
        raise WgQuickError(number, f"{key:.40} stands before [Interface]")
    section = sections[-1]
    name = _CANONICAL.get(key.lower(), key)
    known = _KNOWN[section.name]
    if name not in known:
        if _AMNEZIA.fullmatch(key):
            what = f"{key} is AmneziaWG's, and makes what no WireGuard peer understands on the wire"
            raise WgQuickError(number, f"{what}: it takes a file for WireGuard")
        where = "[Interface]" if section.name == "interface" else "[Peer]"
        raise WgQuickError(number, f"{key!r:.40} is no key of {where}; known: {', '.join(known)}")
    if name in HOOKS:  # a # may be part of a command
        value = raw.partition("=")[2].strip(_BLANKS)
    elif name not in _QUICK:
        value = value.translate(_NO_BLANKS)
        if not value and name != "AllowedIPs":
            raise WgQuickError(number, f"{name} has no value")
    section.values.setdefault(name, []).append((number, value))


def _joined(sections: Sequence[_Section], words: list[str]) -> _Section:
    """wg reads every [Interface] as more of the first."""
    first = sections[0]
    for more in sections[1:]:
        words.append(f"line {more.line}: a second [Interface], read as more of the first")
        for key, values in more.values.items():
            first.values.setdefault(key, []).extend(values)
    return first


def _last(section: _Section, key: str) -> tuple[int, str] | None:
    values = section.values.get(key)
    return values[-1] if values else None


def _number(section: _Section, key: str, low: int, high: int, *, off: bool = False) -> int | None:
    """Decimal or 0x hexadecimal; with `off`, "off" is 0."""
    found = _last(section, key)
    if found is None or not found[1]:
        return None
    line, text = found
    value = -1
    if off and text.lower() == "off":
        value = 0
    elif re.fullmatch(r"[0-9]{1,12}", text):
        value = int(text)
    elif re.fullmatch(r"0[xX][0-9a-fA-F]{1,12}", text):
        value = int(text, 16)
    if not low <= value <= high:
        raise WgQuickError(line, f"{key} = {text:.40}: write a number from {low} to {high}")
    return value


def _port(text: str) -> int:
    """A number or the name of a service, as getaddrinfo takes it. ValueError: neither."""
    if re.fullmatch(r"[0-9]{1,7}", text):
        return int(text)
    try:
        return socket.getservbyname(text, "udp")
    except (OSError, UnicodeError):
        raise ValueError(f"{text!r:.40} is no port; write a number from 1 to 65535") from None


def _key(section: _Section, key: str) -> bytes | None:
    found = _last(section, key)
    if found is None:
        return None
    try:
        return keyfiles.decode_wireguard_key(found[1])
    except ValueError as e:
        raise WgQuickError(found[0], f"{key}: {e}") from None


def _interface(section: _Section, words: list[str]) -> WgConfig:
    private = _key(section, "PrivateKey")
    port: int | None = None
    if (found := _last(section, "ListenPort")) is not None:
        try:
            port = _port(found[1])
        except ValueError as e:
            raise WgQuickError(found[0], f"ListenPort: {e}") from None
        if port > 65535:
            what = f"ListenPort = {port}: write a number from 0 to 65535"
            raise WgQuickError(found[0], what)
    result = WgConfig(
        private_key=private,
        own_public=None if private is None else bindings.crypto_scalarmult_base(private),
        listen_port=port,
        mtu=_number(section, "MTU", config.MTU_MIN, config.MTU_MAX),
        fwmark=_number(section, "FwMark", 0, 0xFFFFFFFF, off=True) or 0,
    )
    for line, text in section.values.get("Address", ()):
        for one in _list(text):
            try:
                address = str(config_values.parse_address(one))
            except ValueError as e:
                raise WgQuickError(line, f"Address: {e}") from None
            if address not in result.addresses:
                result.addresses.append(address)
    result.table = _table(section, words)
    _tell_beside(section, words)
    return result


def _list(text: str) -> list[str]:
    """Of wg-quick: commas or blanks between. "10.9.0.0 /24", as wg takes it, is one."""
    joined = re.sub(rf"[{_BLANKS}]*/[{_BLANKS}]*", "/", text)
    return [part for part in re.split(rf"[,{_BLANKS}]+", joined) if part]


def _table(section: _Section, words: list[str]) -> int | str:
    """A number is kept. The name of a table that is not the main one is "off": its number is not
    known here, and in the main table the routes could cut this host off.
    """
    found = _last(section, "Table")
    if found is None or found[1].lower() in {"", "auto", *_MAIN_TABLES}:
        return "auto"
    line, text = found
    number = int(text) if re.fullmatch(r"[0-9]{1,10}", text) else 0
    if 0 < number <= 0xFFFFFFFF and str(number) not in _KERNELS_TABLES:
        words.append(
            f"line {line}: Table = {text}: the routes go to this table, and nothing leads there "
            "but rules of your own (`ip rule`); PostUp and the like make none here"
        )
        return number
    if text.lower() != "off":
        words.append(
            f'line {line}: Table = {text}: no routes are set (table = "off"); put them there '
            f"yourself, e.g. `ip route add NETWORK dev INTERFACE table {text}`"
        )
    return "off"


def _tell_beside(section: _Section, words: list[str]) -> None:
    for hook in HOOKS:
        words += [
            f"line {line}: {hook} is NOT run: {text}"
            for line, text in section.values.get(hook, ())
            if text
        ]
    for key in _BESIDE:
        for line, text in section.values.get(key, ()):
            if key == "DNS":
                words += _dns(line, _list(text))
            elif text and (key != "SaveConfig" or text.lower() == "true"):
                words.append(
                    f"line {line}: {key} = {text}: not taken over, nothing here is like it"
                )


def _dns(line: int, found: Sequence[str]) -> list[str]:
    servers = [s for s in found if re.fullmatch(r"[0-9.]+", s) or ":" in s]
    search = [s for s in found if s not in servers]
    words = []
    if servers:
        words.append(
            f"line {line}: DNS is not set: `resolvectl dns INTERFACE {' '.join(servers)}` does it"
        )
    if search:
        words.append(
            f"line {line}: search domains are not set: "
            f"`resolvectl domain INTERFACE {' '.join(search)}` does it"
        )
    return words


def _peer(section: _Section, words: list[str], masked: list[str]) -> WgPeer:
    public_key = _key(section, "PublicKey")
    if public_key is None:
        raise WgQuickError(section.line, "this [Peer] has no PublicKey")
    if identity.is_low_order(public_key):
        line = section.values["PublicKey"][-1][0]
        raise WgQuickError(line, "PublicKey: no handshake can be made with this key (low order)")
    psk = _key(section, "PresharedKey")
    peer = WgPeer(
        public_key=public_key,
        line=section.line,
        comment=section.comment,
        preshared_key=psk if psk is not None and any(psk) else None,  # zeros: none
        persistent_keepalive=_number(section, "PersistentKeepalive", 0, 65535, off=True) or 0,
    )
    for line, text in section.values.get("AllowedIPs", ()):
        for one in (part for part in text.split(",") if part):
            _allowed_ip(peer, line, one, masked)
    if (endpoint := _last(section, "Endpoint")) is not None:
        peer.endpoint = _endpoint(*endpoint, words)
    return peer


def _allowed_ip(peer: WgPeer, line: int, text: str, masked: list[str]) -> None:
    """ "+10.0.0.0/8" adds, "-10.0.0.0/8" takes away again (wg)."""
    sign, bare = (text[0], text[1:]) if text[0] in "+-" else ("", text)
    try:
        # Python takes netmasks and zones here, wg does not.
        if "%" in bare or ("/" in bare and not _PREFIX.fullmatch(bare)):
            raise ValueError
        network = ipaddress.ip_network(bare, strict=False)
    except ValueError:
        what = f'{bare!r:.60} is no IP network; write one such as "10.77.0.2/32"'
        raise WgQuickError(line, f"AllowedIPs: {what}") from None
    name = str(network)
    if sign == "-":
        peer.allowed_ips.pop(name, None)
        return
    peer.allowed_ips.setdefault(name, line)
    if name != bare and not is_host(network):
        address = bare.partition("/")[0]
        if ipaddress.ip_address(address) != network.network_address:
            masked.append(f"line {line}: AllowedIPs {bare} is {network}: host bits are cleared")


def _endpoint(line: int, text: str, words: list[str]) -> str:
    """As wg splits it: at the bracket, else at the last colon, which may follow a bare IPv6
    address; the port may be a service's name.
    """
    if found := re.fullmatch(r"\[([^]]*)]:(.+)", text):
        host, port = found[1], found[2]
    else:
        host, _, port = text.rpartition(":")
    try:
        if not host or not port:
            raise ValueError(f'{text!r:.80} has no port; write "host:port"')
        mapped = re.fullmatch(r"::ffff:([0-9.]+)", host, re.IGNORECASE)
        host = mapped[1] if mapped is not None else host
        shown = f"[{host}]" if ":" in host else host
        endpoint = endpoints.parse_endpoint(f"{shown}:{_port(port)}")
    except ValueError as e:
        raise WgQuickError(line, f"Endpoint: {e}") from None
    if ":" in host and not found:
        where = f"address {host}, port {endpoint.port}"
        words.append(f"line {line}: Endpoint {text} is taken as wg does: {where}")
    return str(endpoint)


def write(interface: Sequence[tuple[str, str]], peer: Sequence[tuple[str, str]]) -> str:
    """The text of a file with one peer. A key that starts with "#" makes a comment line."""

    def lines(values: Sequence[tuple[str, str]]) -> list[str]:
        return [f"{k} {v}" if k == "#" else f"{k} = {v}" for k, v in values]

    return "\n".join(["[Interface]", *lines(interface), "", "[Peer]", *lines(peer), ""])
