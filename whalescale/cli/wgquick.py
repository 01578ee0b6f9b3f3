"""wg-quick files (wg-quick(8), wg(8)): text -> checked sections, and sections -> text.

configparser cannot read them: [Peer] stands there once a peer, and keys may repeat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from whalescale import config, endpoints, keyfiles

#: keys of [Interface] that name what wg-quick does beside the tunnel
NOT_CARRIED: Final = ("DNS", "PreUp", "PostUp", "PreDown", "PostDown", "SaveConfig")
_INTERFACE: Final = ("PrivateKey", "ListenPort", "Address", "MTU", "FwMark", "Table", *NOT_CARRIED)
_PEER: Final = ("PublicKey", "PresharedKey", "AllowedIPs", "Endpoint", "PersistentKeepalive")
_CANONICAL: Final = {k.lower(): k for k in (*_INTERFACE, *_PEER)}
_LISTS: Final = {"Address", "AllowedIPs", "DNS"}


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
    allowed_ips: list[str] = field(default_factory=list)
    endpoint: str | None = None
    persistent_keepalive: int = 0


@dataclass(slots=True)
class WgConfig:
    has_private_key: bool = False
    listen_port: int | None = None
    addresses: list[str] = field(default_factory=list)
    mtu: int | None = None
    fwmark: int = 0
    table: str = "auto"
    #: keys that stand there and mean nothing here
    not_carried: list[str] = field(default_factory=list)
    peers: list[WgPeer] = field(default_factory=list)


@dataclass(slots=True)
class _Section:
    name: str
    line: int
    comment: str
    values: dict[str, list[tuple[int, str]]] = field(default_factory=dict)


def parse(text: str) -> WgConfig:
    """Raises WgQuickError, its message is for a user. Host bits of allowed IPs are cleared (wg)."""
    sections = _sections(text)
    interfaces = [s for s in sections if s.name == "interface"]
    if len(interfaces) != 1:
        line = interfaces[1].line if len(interfaces) > 1 else 1
        raise WgQuickError(line, f"{len(interfaces)} sections [Interface]; there must be one")
    result = _interface(interfaces[0])
    for section in sections:
        if section.name == "peer":
            result.peers.append(_peer(section))
    seen: dict[bytes, int] = {}
    for peer in result.peers:
        if (first := seen.setdefault(peer.public_key, peer.line)) != peer.line:
            raise WgQuickError(peer.line, f"the same PublicKey as the peer of line {first}")
    return result


def _sections(text: str) -> list[_Section]:
    sections: list[_Section] = []
    for number, raw in enumerate(text.splitlines(), 1):
        line, _, comment = raw.partition("#")
        line, comment = line.strip(), comment.strip()
        if not line:
            if sections and not sections[-1].values and comment and not sections[-1].comment:
                sections[-1].comment = comment
            continue
        if line.startswith("["):
            name = line.strip("[]").strip().lower()
            if not line.endswith("]") or name not in {"interface", "peer"}:
                raise WgQuickError(number, f"{line!r} is neither [Interface] nor [Peer]")
            sections.append(_Section(name, number, comment))
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals:
            raise WgQuickError(number, f"{line!r}: write it as Key = value")
        if not sections:
            raise WgQuickError(number, f"{key} stands before [Interface]")
        section = sections[-1]
        known = _INTERFACE if section.name == "interface" else _PEER
        name = _CANONICAL.get(key.lower(), key)
        if name not in known:
            where = "[Interface]" if section.name == "interface" else "[Peer]"
            raise WgQuickError(number, f"{key!r} is no key of {where}; known: {', '.join(known)}")
        if not value and name != "AllowedIPs":
            raise WgQuickError(number, f"{name} has no value")
        parts = value.split(",") if name in _LISTS else [value]
        values = section.values.setdefault(name, [])
        values.extend((number, p.strip()) for p in parts if p.strip())
    return sections


def _last(section: _Section, key: str) -> tuple[int, str] | None:
    values = section.values.get(key)
    return values[-1] if values else None


def _number(section: _Section, key: str, low: int, high: int) -> int | None:
    """Decimal or 0x hexadecimal; "off" is 0."""
    found = _last(section, key)
    if found is None:
        return None
    line, text = found
    try:
        value = 0 if text.lower() == "off" else int(text, 16 if text.startswith("0x") else 10)
    except ValueError:
        value = -1
    if not low <= value <= high:
        raise WgQuickError(line, f"{key} = {text}: write a number from {low} to {high}")
    return value


def _key(section: _Section, key: str) -> bytes | None:
    found = _last(section, key)
    if found is None:
        return None
    try:
        return keyfiles.decode_wireguard_key(found[1])
    except ValueError as e:
        raise WgQuickError(found[0], f"{key}: {e}") from None


def _interface(section: _Section) -> WgConfig:
    result = WgConfig(
        has_private_key=_key(section, "PrivateKey") is not None,
        listen_port=_number(section, "ListenPort", 0, 65535),
        mtu=_number(section, "MTU", config.MTU_MIN, config.MTU_MAX),
        fwmark=_number(section, "FwMark", 0, 0xFFFFFFFF) or 0,
        not_carried=[k for k in NOT_CARRIED if k in section.values],
    )
    for line, text in section.values.get("Address", ()):
        try:
            result.addresses.append(str(config.parse_address(text)))
        except ValueError as e:
            raise WgQuickError(line, f"Address: {e}") from None
    table = _last(section, "Table")
    if table is not None and table[1].lower() == "off":
        result.table = "off"
    elif table is not None and table[1].lower() != "auto":
        result.not_carried.append(f"Table = {table[1]}")
    return result


def _peer(section: _Section) -> WgPeer:
    public_key = _key(section, "PublicKey")
    if public_key is None:
        raise WgQuickError(section.line, "this [Peer] has no PublicKey")
    peer = WgPeer(
        public_key=public_key,
        line=section.line,
        comment=section.comment,
        preshared_key=_key(section, "PresharedKey"),
        persistent_keepalive=_number(section, "PersistentKeepalive", 0, 65535) or 0,
    )
    for line, text in section.values.get("AllowedIPs", ()):
        try:
            network = str(config.masked_network(text))
        except ValueError as e:
            raise WgQuickError(line, f"AllowedIPs: {e}") from None
        if network not in peer.allowed_ips:
            peer.allowed_ips.append(network)
    if (endpoint := _last(section, "Endpoint")) is not None:
        try:
            peer.endpoint = str(endpoints.parse_endpoint(endpoint[1]))
        except ValueError as e:
            raise WgQuickError(endpoint[0], f"Endpoint: {e}") from None
    return peer


def write(interface: Sequence[tuple[str, str]], peer: Sequence[tuple[str, str]]) -> str:
    """The text of a file with one peer. A key that starts with "#" makes a comment line."""

    def lines(values: Sequence[tuple[str, str]]) -> list[str]:
        return [f"{k} {v}" if k == "#" else f"{k} = {v}" for k, v in values]

    return "\n".join(["[Interface]", *lines(interface), "", "[Peer]", *lines(peer), ""])
