"""Changes to the TOML file that keep its comments and layout (tomlkit), checked before written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import tomlkit
from tomlkit.items import AoT, Array, Item, String, StringType, Table, Trivia, Whitespace

from whalescale import config as configuration
from whalescale import keyfiles
from whalescale.cli import client
from whalescale.cli.common import note
from whalescale.cli.ending import UNREACHABLE, CliError
from whalescale.config import Config, PeerConfig

#: needs no escaping between quotes
_PLAIN: Final = re.compile(r"[A-Za-z0-9 .:/%\[\]_+-]*")


def peer_table(
    name: str,
    *,
    id: str | None = None,
    wireguard_public_key: str | None = None,
    endpoints: Sequence[str] = (),
    allowed_ips: Sequence[str] = (),
    preshared_key_file: str | None = None,
    persistent_keepalive: int = 0,
) -> Table:
    """One of [[peers]]; what is empty or off stays out."""
    table = tomlkit.table()
    values: dict[str, Any] = {
        "name": name,
        "id": id,
        "wireguard_public_key": wireguard_public_key,
        "endpoints": text_list(endpoints),
        "allowed_ips": text_list(allowed_ips),
        "preshared_key_file": preshared_key_file,
        "persistent_keepalive": persistent_keepalive,
    }
    for key, value in values.items():
        if value:
            table.add(key, value)
    return table


def text_list(texts: Sequence[str]) -> Array:
    """A list of texts, made in one go: tomlkit's `append` takes longer with each."""
    items: list[Item] = []
    for text in texts:
        if items:
            items.append(Whitespace(", "))
        if _PLAIN.fullmatch(text):
            items.append(String(StringType.SLB, text, text, Trivia()))
        else:
            items.append(tomlkit.string(text))
    return Array(items, Trivia())


def new_document(
    *,
    name: str,
    key_file: str,
    listen_port: int,
    addresses: Sequence[str],
    mtu: int = 1420,
    anchor: bool = False,
    plain: bool = False,
    extra: Iterable[tuple[str, object]] = (),
    peers: Iterable[Table] = (),
) -> str:
    """The text of a new configuration. `plain`: the key file holds a WireGuard key."""
    document = tomlkit.document()
    document.add(tomlkit.comment("Whalescale; `ws reload` takes over changes, see `man ws`"))
    interface = tomlkit.table()
    interface.add("name", name)
    key = "wireguard_private_key_file" if plain else "private_key_file"
    interface.add(key, key_file)
    one_path = "; no node ID belongs to it: one path to each peer" if plain else ""
    interface[key].comment(f"keep it secret: mode 0600{one_path}")
    interface.add("listen_port", listen_port)
    interface.add("addresses", text_list(addresses))
    if not plain:
        interface["addresses"].comment("beside the IPv6 address derived from the key")
    interface.add("mtu", mtu)
    interface.add("anchor", anchor)
    for key, value in extra:
        interface.add(key, value)
    document.add("interface", interface)
    array = tomlkit.aot()
    for peer in peers:
        array.append(peer)
    if len(array):
        document.add("peers", array)
    return tomlkit.dumps(document)


class Document:
    """An open configuration: `config` is what it says, `text` what it is written as."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = configuration.load(path)
        with path.open(encoding="utf-8", newline="") as f:
            self._document = tomlkit.parse(f.read())

    def add_peer(self, table: Table) -> None:
        peers = self._document.get("peers")
        if isinstance(peers, AoT):
            if not tomlkit.dumps(self._document).endswith("\n\n"):
                peers[-1].add(tomlkit.nl())
            peers.append(table)
            return
        if peers is not None:  # written as an inline array: turn it into [[peers]]
            inline = [dict(p) for p in peers]
            del self._document["peers"]
            array = tomlkit.aot()
            for old in inline:
                array.append(tomlkit.item(old))
        else:
            array = tomlkit.aot()
        array.append(table)
        if not tomlkit.dumps(self._document).endswith("\n\n"):
            self._document.add(tomlkit.nl())
        self._document.add("peers", array)

    def set_table(self, name: str, values: Mapping[str, object]) -> None:
        """Keys of a top-level table; None and [] take one away, and so a table that is empty."""
        table = self._document.get(name)
        if table is None:
            table = tomlkit.table()
            self._document.add(name, table)
        for key, value in values.items():
            if value is None or value == []:
                table.pop(key, None)
            else:
                table[key] = text_list(value) if isinstance(value, list) else value
        if not table:
            del self._document[name]

    def remove_peer(self, peer: PeerConfig) -> None:
        del self._peers()[self.config.peers.index(peer)]
        if not self._peers():
            del self._document["peers"]

    def set_peer(self, peer: PeerConfig, key: str, value: str) -> None:
        self._peers()[self.config.peers.index(peer)][key] = value

    def _peers(self) -> Any:
        return self._document["peers"]

    def checked(self) -> Config:
        """What the changed text means. Raises ConfigError: nothing was written."""
        return configuration.parse(tomlkit.dumps(self._document), self.path)

    def save(self) -> Config:
        """Check, then replace the file in one step, keeping its mode and owner."""
        config = self.checked()
        mode = self.path.stat().st_mode & 0o777
        keyfiles.write(self.path, tomlkit.dumps(self._document), mode, follow=True)
        self.config = config
        return config


def find_peer(config: Config, wanted: str) -> PeerConfig:
    """By name, or by the beginning (8 characters or more) of its ID or key."""
    for peer in config.peers:
        if peer.name == wanted:
            return peer
    if len(wanted) >= 8:
        found = [p for p in config.peers if any(k.startswith(wanted) for k in key_texts(p))]
        if len(found) == 1:
            return found[0]
    names = ", ".join(p.name for p in config.peers[:8]) or "none yet, `ws peer add` makes one"
    raise CliError(f"there is no peer {wanted!r} in {config.path}", f"peers there: {names}")


def key_texts(peer: PeerConfig) -> list[str]:
    """The text forms of the peer's key."""
    from whalescale import identity

    texts: list[str] = []
    if peer.node_id is not None:
        texts.append(identity.encode_node_id(peer.node_id))
        texts.append(identity.encode_fingerprint(identity.fingerprint_of(peer.node_id)))
    if peer.fingerprint is not None:
        texts.append(identity.encode_fingerprint(peer.fingerprint))
    if peer.wireguard_public_key is not None:
        texts.append(keyfiles.encode_wireguard_key(peer.wireguard_public_key))
    return texts


def reload_running(interface: str) -> None:
    """Tell a running agent; that none runs is fine, that it refuses is an error."""
    try:
        client.call(interface, "reload", {"check": False})
    except CliError as e:
        if e.exit_code == UNREACHABLE:
            # Not with the result: `ws export` writes a file there.
            note(f"the tunnel is not up yet; {client.up_command(interface)} starts it")
            return
        message = f"the file is changed, but the agent did not take it over: {e.message}"
        raise CliError(message, e.fix or "`ws reload` tries again", e.exit_code) from None
    note(f"the agent of {interface} has taken it over")
