"""`ws import wg0.conf`: a wg-quick file becomes a configuration, its key or a new one with it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from whalescale.cli.common import ConfigPath, Interface, config_path, interface_name, note
from whalescale.cli.ending import USAGE, CliError
from whalescale.cli.options import Argument, Option

if TYPE_CHECKING:
    from whalescale.cli import wgquick

FILE_BYTES_MAX: Final = 16 << 20


def import_(
    file: Annotated[Path, Argument(metavar="FILE", help="What wg-quick uses.")],
    interface: Interface = None,
    config: ConfigPath = None,
    new_key: Annotated[
        bool,
        Option("--new-key", help="Not its private key: one with a node ID."),
    ] = False,
    force: Annotated[bool, Option("--force", help="Replace what is there (kept as .old).")] = False,
) -> None:
    """Take over a wg-quick file: ws import /etc/wireguard/wg0.conf

    Its private key is kept, for a provider knows this host by it. Such a key has no node ID, so
    there is one path to each peer, as with WireGuard. With --new-key this host becomes a Whalescale
    node, and the peers have to be told its new public key.
    """
    from whalescale import config as configuration
    from whalescale import config_values, doubts, identity, keyfiles
    from whalescale.cli import edit, wgquick
    from whalescale.cli.init import claim

    name = interface_name(interface)
    if not config_values.is_interface_name(name):
        fix = "take 1 to 15 of letters, digits and _=+.-, such as ws0"
        raise CliError(f"{name!r} cannot be an interface's name", fix, USAGE)
    path = config_path(interface, config).absolute()
    key_path = path.with_suffix(".key")
    try:
        found = wgquick.parse(_read(file))
    except wgquick.WgQuickError as e:
        raise CliError(f"{file}: {e}", "mend this line") from None
    tables = []
    psks: dict[Path, bytes] = {}
    for peer, peer_name in zip(found.peers, peer_names(found.peers), strict=True):
        psk_path: Path | None = None
        if peer.preshared_key is not None:
            psk_path = path.with_name(f"{path.stem}-{peer_name}.psk")
            psks[psk_path] = peer.preshared_key
        tables.append(
            edit.peer_table(
                peer_name,
                wireguard_public_key=keyfiles.encode_wireguard_key(peer.public_key),
                endpoints=[peer.endpoint] if peer.endpoint else [],
                allowed_ips=list(peer.allowed_ips),
                preshared_key_file=psk_path.name if psk_path is not None else None,
                persistent_keepalive=peer.persistent_keepalive,
            )
        )
    extra: list[tuple[str, object]] = []
    if found.fwmark:
        extra.append(("fwmark", found.fwmark))
    if found.table != "auto":
        extra.append(("table", found.table))
    text = edit.new_document(
        name=name,
        key_file=key_path.name,
        listen_port=found.listen_port or 0,
        addresses=found.addresses,
        mtu=found.mtu or 1420,
        plain=found.private_key is not None and not new_key,
        extra=extra,
        peers=tables,
    )
    try:
        parsed = configuration.parse(text, path)
    except configuration.ConfigError as e:
        # The file that it names is not there yet.
        raise CliError(f"{file}: {e.key}: {e.problem}", e.fix) from None
    claim(path, key_path, *psks, force=force, other=_other_name(interface, config, file))
    own: identity.PlainIdentity
    if found.private_key is not None and not new_key:
        own = identity.PlainIdentity(found.private_key)
        key_text = keyfiles.encode_wireguard_key(found.private_key)
    else:
        own = identity.Identity.generate(os.urandom)
        key_text = identity.encode_seed(own.seed)
    keyfiles.write(key_path, key_text + "\n", replace=False)
    for psk_path, psk in psks.items():
        keyfiles.write(psk_path, keyfiles.encode_wireguard_key(psk) + "\n", replace=False)
    keyfiles.write(path, text, replace=False)
    print(f"{file} -> {path}, {len(tables)} peer{'s' if len(tables) != 1 else ''}")
    for word in found.words:
        note(word.replace("INTERFACE", name))
    for doubt in doubts.of(parsed):
        note(doubt)
    public = keyfiles.encode_wireguard_key(own.static_public)
    if own.node_id is None:
        print(f"\nthis host keeps its key; to its peers it is still {public}")
        print("a plain WireGuard key has no node ID, so there is one path to each peer;")
        print("`ws import --new-key` makes a Whalescale node of it, which its peers must be told")
    else:
        print("\nthis host has a new key. In the configuration of every peer, its [Peer] becomes:")
        print(f"  PublicKey = {public}")
        print(f"as a Whalescale peer it is: {identity.encode_node_id(own.node_id)}")
    own.zero()


def _read(file: Path) -> str:
    from whalescale.cli import wgquick

    try:
        with file.open("rb") as f:
            data = f.read(FILE_BYTES_MAX + 1)
        if len(data) > FILE_BYTES_MAX:
            raise ValueError(f"it is longer than {FILE_BYTES_MAX >> 20} MiB")
        return wgquick.decode(data)
    except FileNotFoundError:
        raise CliError(f"{file}: no such file", "name a wg-quick file, e.g. wg0.conf") from None
    except IsADirectoryError:
        raise CliError(f"{file} is a folder", "name a wg-quick file, e.g. wg0.conf") from None
    except ValueError as e:
        raise CliError(f"{file} is no wg-quick file: {e}", "name a wg-quick file") from None


def _other_name(interface: str | None, config: Path | None, file: Path) -> str:
    """What to say instead of --force: an interface's name that is free."""
    from whalescale.config_values import is_interface_name

    if config is not None:
        return "name another file with -c"
    taken = interface_name(interface)
    names = [file.stem, *(f"ws{n}" for n in range(100))]
    free = next(
        n
        for n in names
        if is_interface_name(n) and n != taken and not os.path.lexists(config_path(n, None))
    )
    return f"make it another one's with `-i {free}`"


def peer_names(peers: list[wgquick.WgPeer]) -> list[str]:
    """From the comments where they make a name ("# berlin"), else peer1, ...; no two alike."""
    from whalescale.config_values import is_peer_name

    names: list[str] = []
    for number, peer in enumerate(peers, 1):
        words = re.sub(r"^(friendly_)?name\s*[=:]\s*", "", peer.comment, flags=re.IGNORECASE)
        name = re.sub(r"\s+", "-", words.strip())
        if not is_peer_name(name) or name in names or len(name) > 40:
            name = f"peer{number}"
        while name in names:
            name += "x"
        names.append(name)
    return names
