"""`ws export --wireguard PEER`: the wg-quick file that the other side needs."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from whalescale import config_keys, config_values, identity, keyfiles
from whalescale.cli import client, edit, qr, wgquick
from whalescale.cli.common import load_config, note, note_loose_output
from whalescale.cli.ending import USAGE, CliError, plain
from whalescale.config import Config, PeerConfig
from whalescale.config_values import Network
from whalescale.endpoints import is_host

EVERYTHING: Final = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))


@dataclass(frozen=True, slots=True)
class _Wishes:
    """What the caller wants in the file, checked."""

    endpoint: str | None
    #: what the other side sends here; empty: this host's own addresses
    routes: tuple[Network, ...]
    dns: tuple[str, ...]


def export(
    peer: str,
    *,
    new_key: bool,
    endpoint: str | None,
    addresses: list[str],
    allowed_ips: list[str],
    full_tunnel: bool,
    dns: list[str],
    output: Path | None,
    qr_code: bool,
    qr_file: Path | None,
    interface: str | None,
    config: Path | None,
    force: bool,
) -> None:
    """`ws export --wireguard`; export.py says what the options mean."""
    if qr_code or qr_file is not None:
        qr.load()
        if not new_key:
            fix = "--new-key makes it (and --force lets it replace the peer's key)"
            raise CliError("a QR code without the private key is of no use", fix, USAGE)
    if qr_file is not None:
        qr.check_kind(qr_file)
    for file in (output, qr_file):
        if file is None:
            continue
        # A dangling link is there too.
        if os.path.lexists(file) and not force:
            raise CliError(f"{file} is there already", "--force replaces it")
        keyfiles.check_folder(file)
    wishes = _Wishes(
        _checked_endpoint(endpoint) if endpoint is not None else None,
        _checked_routes(allowed_ips, full_tunnel),
        _checked_dns(dns),
    )
    loaded = load_config(interface, config)
    own = config_keys.read_identity(loaded)
    public, overlay = own.static_public, own.overlay_address
    own.zero()
    private: str | None = None
    document: edit.Document | None = None
    if new_key:
        document, found, private = _with_new_key(loaded, peer, addresses, force)
        loaded = document.checked()
    else:
        found = edit.find_peer(loaded, peer)
        if addresses:
            raise CliError("--address is for a new peer", "say --new-key too", USAGE)
    text = _text(loaded, found, public, overlay, private, wishes)
    if qr_file is not None:
        keyfiles.write(qr_file, qr.picture(_bare(text), qr_file), replace=force)
        print(f"wrote {qr_file}")
    if output is not None:
        keyfiles.write(output, text, replace=force)
        print(f"wrote {output}")
    if qr_code:
        qr.show(_bare(text))
    elif output is None and qr_file is None:
        note_loose_output()
        print(text, end="")
    if any(n.prefixlen == 0 for n in wishes.routes):
        note(
            f"{found.name} will send everything here: this host has to forward and masquerade it "
            "(docs/deploy.md, exit node)"
        )
    if document is not None:
        # Last, so that no peer is noted here whose private key nobody got to see.
        document.save()
        note(f"{found.name}'s public key is in {loaded.path}")
        edit.reload_running(loaded.interface.name)


def _checked_endpoint(text: str) -> str:
    from whalescale.endpoints import parse_endpoint

    try:
        return str(parse_endpoint(text))
    except ValueError as e:
        raise CliError(f"--endpoint: {e}", "", USAGE) from None


def _words(texts: Iterable[str]) -> list[str]:
    return [word for text in texts for word in text.replace(",", " ").split()]


def _checked_routes(texts: Iterable[str], everything: bool) -> tuple[Network, ...]:
    routes = dict.fromkeys(EVERYTHING if everything else ())
    for word in _words(texts):
        try:
            routes[config_values.parse_network(word)] = None
        except ValueError as e:
            raise CliError(f"--allowed-ips: {e}", "", USAGE) from None
    return tuple(routes)


def _checked_dns(texts: Iterable[str]) -> tuple[str, ...]:
    """As wg-quick takes them: addresses, and search domains after them."""
    servers: list[str] = []
    domains: list[str] = []
    for word in _words(texts):
        try:
            servers.append(str(ipaddress.ip_address(word)))
        except ValueError:
            if not re.fullmatch(r"(?=.*[A-Za-z])[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?", word):
                what = f"--dns: {word!r} is neither an address nor a domain"
                raise CliError(what, "write --dns 10.77.0.1", USAGE) from None
            domains.append(word)
    return (*servers, *domains)


def _bare(text: str) -> str:
    """Without comments and empty lines: fewer and so larger modules."""
    return "".join(f"{x}\n" for x in text.splitlines() if x and not x.startswith("#"))


def _with_new_key(
    loaded: Config, name: str, allowed_ips: list[str], force: bool
) -> tuple[edit.Document, PeerConfig, str]:
    from nacl.public import PrivateKey

    key = PrivateKey.generate()
    public = keyfiles.encode_wireguard_key(bytes(key.public_key))
    document = edit.Document(loaded.path)
    at = next((i for i, p in enumerate(loaded.peers) if p.name == name), None)
    if at is None:
        networks = allowed_ips or [str(n) for n in free_addresses(loaded)]
        table = edit.peer_table(name, wireguard_public_key=public, allowed_ips=networks)
        document.add_peer(table)
        at = len(loaded.peers)
    else:
        old = loaded.peers[at]
        if old.wireguard_public_key is None:
            fix = f"it needs no wg-quick file; or `ws peer remove {name}` first"
            raise CliError(f"{name} is a Whalescale peer, its key is its identity", fix)
        if allowed_ips:
            fix = "leave --address away, or edit the file"
            raise CliError(f"{name} is there already, with its allowed IPs", fix, USAGE)
        if not force:
            fix = "--force replaces it, and cuts off who has the old one"
            raise CliError(f"{name} has a key already", fix)
        document.set_peer(old, "wireguard_public_key", public)
    return document, document.checked().peers[at], keyfiles.encode_wireguard_key(bytes(key))


def free_addresses(loaded: Config) -> list[Network]:
    """Of each family that we have a network of, the first address that neither we nor a peer have.

    CliError: there is none at all.
    """
    taken = [n for p in loaded.peers for n in p.allowed_ips]
    own = {a.ip for a in loaded.interface.addresses}
    found: dict[int, Network] = {}
    for address in loaded.interface.addresses:
        if address.version in found:
            continue
        for tried, host in enumerate(address.network.hosts()):
            if tried > 1 << 16:
                break
            if host not in own and not any(host in n for n in taken):
                found[address.version] = config_values.parse_network(str(host))
                break
    if not found:
        fix = "say with --address which one it gets"
        raise CliError(f"no address is free in the networks of {loaded.path}", fix)
    return list(found.values())


def _text(
    loaded: Config,
    peer: PeerConfig,
    public: bytes,
    overlay: ipaddress.IPv6Address | None,
    private: str | None,
    wishes: _Wishes,
) -> str:
    name = loaded.interface.name
    lines: list[tuple[str, str]] = [("#", f"{peer.name}: the other side of {name}")]
    if private is not None:
        lines.append(("PrivateKey", private))
    else:
        lines.append(("#", f"only {peer.name} has this one; {_key_words(peer)}"))
        lines.append(("PrivateKey", "PRIVATE_KEY"))
    addresses = [str(n) for n in peer.allowed_ips if is_host(n)]
    if peer.node_id is not None:
        addresses.append(f"{identity.overlay_address(peer.node_id)}/128")
    if addresses:
        lines.append(("Address", ", ".join(addresses)))
    if wishes.dns:
        lines.append(("DNS", ", ".join(wishes.dns)))
    if peer.endpoints:
        lines.append(("ListenPort", str(peer.endpoints[0].port)))
    lines.append(("MTU", str(loaded.interface.mtu)))
    ours = [ipaddress.ip_network(a.ip) for a in loaded.interface.addresses]
    if overlay is not None:
        ours.append(ipaddress.ip_network(overlay))
    # Without an address of a family it could not send from there.
    families = {n.version for n in peer.allowed_ips} or {4, 6}
    if peer.node_id is not None:
        families.add(6)
    # Routes in both families: where it has no address, its packets shall not go past the tunnel.
    networks = wishes.routes or [n for n in ours if n.version in families]
    reached = ", ".join(str(n) for n in networks)
    section: list[tuple[str, str]] = [
        ("#", f"{name} on this host"),
        ("PublicKey", keyfiles.encode_wireguard_key(public)),
    ]
    if peer.preshared_key_file is not None:
        psk = config_keys.read_preshared_key(loaded, peer)
        section.append(("PresharedKey", keyfiles.encode_wireguard_key(psk)))
    section.append(("AllowedIPs", reached))
    where = wishes.endpoint or own_endpoint(loaded, peer)
    if where is None and loaded.interface.listen_port and (ip := _default_address()) is not None:
        where = f"[{ip}]" if ":" in ip else ip
        where += f":{loaded.interface.listen_port}"
        section.append(("#", "the address that this host has; behind a NAT it is another one"))
        note(f"Endpoint = {where} is a guess; if {name} is seen elsewhere, say it with --endpoint")
    if where is not None:
        section.append(("Endpoint", where))
    else:
        port = loaded.interface.listen_port or "PORT"
        section.append(("#", "where this host can be reached is not known here:"))
        section.append(("#", f"Endpoint = THIS_HOST:{port}"))
        note(f"put in where {name} can be reached, or say it with --endpoint HOST:{port}")
    if not peer.endpoints:
        # We cannot call a peer whose endpoint is unknown, so it has to keep the way open.
        section.append(("PersistentKeepalive", "25"))
    return wgquick.write(lines, section)


def _key_words(peer: PeerConfig) -> str:
    key = peer.wireguard_public_key
    if peer.node_id is not None:
        key = identity.node_id_to_x25519(peer.node_id)
    if key is not None:
        return f"its public key here: {keyfiles.encode_wireguard_key(key)}"
    return f"its fingerprint here: {edit.key_texts(peer)[-1]}"


def _default_address() -> str | None:
    """Where this host's packets to the world leave from; no packet is sent."""
    for family, anywhere in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((anywhere, 9))
            return str(probe.getsockname()[0])
    return None


def own_endpoint(loaded: Config, peer: PeerConfig) -> str | None:
    """Where the peer sees us, as far as it can be known here: the address that the running agent
    speaks to it from, or that the kernel would take towards its endpoint (no packet is sent).
    """
    port = loaded.interface.listen_port
    try:
        status = client.status(loaded.interface.name)[0]
    except CliError:
        status = None
    if status is not None:
        port = status.agent.listen_port or port
        local = next((p.local for p in status.peers if p.name == peer.name), None)
        if local and not local.startswith(("0.0.0.0:", "[::]:")):
            return plain(local)
    if not port:
        return None
    for candidate in peer.endpoints:
        if not candidate.numeric:
            continue
        family = socket.AF_INET6 if ":" in candidate.host else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((candidate.host, candidate.port))
                ip = str(probe.getsockname()[0])
        except OSError:
            continue
        return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
    return None
