"""`ws peer add|remove`: edits the file, keeps its comments, tells a running agent."""

from __future__ import annotations

import os
from typing import Annotated

from whalescale.cli.common import ConfigPath, Interface, PeerArgument, load_config
from whalescale.cli.ending import USAGE, CliError, plain
from whalescale.cli.options import Argument, Group, Option

app = Group(
    help="Add or remove a peer in the configuration; a running agent takes it over at once.",
)

Reload = Annotated[bool, Option("--reload/--no-reload", help="Tell a running agent.")]


@app.command()
def add(
    name: Annotated[str, Argument(metavar="NAME", help="What to call it.")],
    id: Annotated[
        str | None, Option("--id", metavar="ID", help="Its node ID or fingerprint.")
    ] = None,
    wireguard_public_key: Annotated[
        str | None,
        Option(
            "--wireguard-public-key",
            metavar="KEY",
            help="Instead of --id, for a plain WireGuard peer (base64).",
        ),
    ] = None,
    endpoint: Annotated[
        list[str] | None,
        Option("--endpoint", "-e", metavar="HOST:PORT", help="Where it is; repeatable."),
    ] = None,
    allowed_ip: Annotated[
        list[str] | None,
        Option("--allowed-ip", "-a", metavar="NETWORK", help="What is its; repeatable."),
    ] = None,
    preshared_key_file: Annotated[
        str | None, Option("--preshared-key-file", metavar="FILE", help="`wg genpsk`'s.")
    ] = None,
    persistent_keepalive: Annotated[
        int, Option(min=0, max=65535, metavar="SECONDS", help="0: off.")
    ] = 0,
    interface: Interface = None,
    config: ConfigPath = None,
    reload: Reload = True,
) -> None:
    """Add a peer: ws peer add berlin --id ID --endpoint berlin.example:51820"""
    from whalescale.cli import edit

    if (id is None) == (wireguard_public_key is None):
        fix = "give --id for a Whalescale peer, or --wireguard-public-key for a plain WireGuard one"
        raise CliError("a peer has exactly one key", fix, USAGE)
    if wireguard_public_key is not None and not allowed_ip:
        fix = "say with --allowed-ip which addresses are behind it"
        raise CliError("a WireGuard peer without allowed IPs gets no packets", fix, USAGE)
    loaded = load_config(interface, config)
    document = edit.Document(loaded.path)
    for peer in loaded.peers:
        if peer.name == name:
            fix = f"take another name, or `ws peer remove {plain(name)}` first"
            raise CliError(f"{loaded.path} has a peer {plain(name)} already", fix)
    document.add_peer(
        edit.peer_table(
            name,
            id=id,
            wireguard_public_key=wireguard_public_key,
            endpoints=endpoint or (),
            allowed_ips=allowed_ip or (),
            preshared_key_file=preshared_key_file,
            persistent_keepalive=persistent_keepalive,
        )
    )
    changed = document.checked()
    from whalescale import config_keys, doubts

    added = changed.peers[-1]
    config_keys.read_preshared_key(changed, added)
    if os.path.lexists(changed.interface.private_key_file):
        config_keys.refuse_own_key(changed)
    for doubt in doubts.of_peer(changed, added):
        raise CliError(doubt, "--allowed-ip is the address that the peer has in the tunnel", USAGE)
    document.save()
    print(f"added {name} to {loaded.path}")
    if reload:
        edit.reload_running(loaded.interface.name)


@app.command()
def remove(
    peer: PeerArgument,
    interface: Interface = None,
    config: ConfigPath = None,
    reload: Reload = True,
) -> None:
    """Remove a peer: ws peer remove berlin"""
    from whalescale.cli import edit

    loaded = load_config(interface, config)
    document = edit.Document(loaded.path)
    found = edit.find_peer(document.config, peer)
    document.remove_peer(found)
    document.save()
    print(f"removed {found.name} from {loaded.path}")
    if found.preshared_key_file is not None:
        print(f"its preshared key is still there: {found.preshared_key_file}")
    if reload:
        edit.reload_running(loaded.interface.name)
