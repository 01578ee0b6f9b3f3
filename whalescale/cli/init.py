"""`ws init`: a configuration and a key, ready to start."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from typing import Annotated

from whalescale.cli.common import ConfigPath, Interface, config_path, note
from whalescale.cli.common import interface_name as chosen_name
from whalescale.cli.ending import USAGE, CliError, plain
from whalescale.cli.options import Option


def init(
    interface: Interface = None,
    config: ConfigPath = None,
    address: Annotated[
        list[str] | None,
        Option("--address", "-a", metavar="IP/PREFIX", help="Own address; repeatable."),
    ] = None,
    listen_port: Annotated[
        int, Option("--listen-port", "-p", min=0, max=65535, help="UDP port.")
    ] = 51820,
    anchor: Annotated[bool, Option("--anchor", help="A node that others find.")] = False,
    force: Annotated[bool, Option("--force", help="Replace what is there (kept as .old).")] = False,
) -> None:
    """Make a configuration and a private key, and print the node ID for your peers."""
    from whalescale import config as configuration
    from whalescale import config_values, identity, keyfiles
    from whalescale.cli import client, edit

    name = chosen_name(interface)
    if not config_values.is_interface_name(name):
        fix = "take 1 to 15 of letters, digits and _=+.-, such as ws0"
        raise CliError(f"{plain(name)!r} cannot be an interface's name", fix, USAGE)
    path = config_path(interface, config).absolute()
    key_path = path.with_suffix(".key")
    for text in address or ():
        _check_address(text, name)
    text = edit.new_document(
        name=name,
        key_file=key_path.name,
        listen_port=listen_port,
        addresses=address or [],
        anchor=anchor,
    )
    configuration.parse(text, path)
    claim(path, key_path, force=force)
    own = identity.Identity.generate(os.urandom)
    keyfiles.write(key_path, identity.encode_seed(own.seed) + "\n", replace=False)
    keyfiles.write(path, text, replace=False)
    print(f"configuration  {path}")
    print(f"private key    {key_path}")
    print(f"node ID        {identity.encode_node_id(own.node_id)}")
    print(f"fingerprint    {identity.encode_fingerprint(own.fingerprint)}")
    print(f"address        {', '.join([*(address or []), f'{own.overlay_address}/128'])}")
    where = "" if config is None else f" --config {path}"
    print(f"\nnext: `ws peer add{where} NAME --id ITS_NODE_ID --endpoint HOST:PORT`, then", end=" ")
    print(client.up_command(name) if config is None else f"`sudo ws up{where}`")
    own.zero()


def _check_address(text: str, name: str) -> None:
    """CliError: not what `ip address add` on a host should get."""
    from whalescale import config_values, doubts

    try:
        parsed = config_values.parse_address(text)
    except ValueError as e:
        raise CliError(f"--address: {e}", "", USAGE) from None
    if "/" not in text:
        length = 24 if parsed.version == 4 else 64
        fix = f"write {text}/{length} for a network, {text}/{parsed.max_prefixlen} for it alone"
        raise CliError(f"--address {text} has no prefix", fix, USAGE)
    if doubt := doubts.of_address(parsed):
        raise CliError(f"--address: {doubt}", "", USAGE)
    family = socket.AF_INET if parsed.version == 4 else socket.AF_INET6
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.bind((str(parsed.ip), 0))  # only on the host that has it
        if not _is_up(name):
            note(f"{parsed.ip} is an address of another interface here; take another one")


def _is_up(name: str) -> bool:
    with contextlib.suppress(OSError):
        return bool(socket.if_nametoindex(name))
    return False


def claim(*files: Path, force: bool, other: str = "") -> None:
    """Make the folders (0700) and see that no file is there; with `force` move it to FILE.old.

    `other`: what else mends it, if not --force. WriteError: others can change what lies in a
    folder; nothing was moved.
    """
    from whalescale import keyfiles

    for file in files:
        if os.path.lexists(file) and not force:
            fix = "--force replaces it and keeps the old one as .old"
            if other:
                fix = f"{other}; {fix}"
            raise CliError(f"{file} is there already", fix)
    for file in files:
        if not file.parent.is_dir():
            file.parent.mkdir(parents=True, mode=0o700)
        keyfiles.check_folder(file)
    for file in files:
        if os.path.lexists(file):
            os.replace(file, file.with_name(f"{file.name}.old"))
