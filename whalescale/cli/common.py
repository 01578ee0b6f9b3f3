"""What every subcommand shares. Standard library only: every command is on its way."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from whalescale import locations
from whalescale.cli.ending import (
    USAGE,
    CliError,
    plain,
)
from whalescale.cli.options import Argument, Option

if TYPE_CHECKING:
    from rich.console import Console
    from typer import Context

    from whalescale.config import Config
    from whalescale.status import Peer, Status


class Chosen:
    """What `ws -i ws1 ...` before the subcommand chose, for a subcommand without its own -i."""

    interface: str | None = None


def interfaces(incomplete: str) -> list[str]:
    """For completion: those with a configuration or a running agent."""
    found: set[str] = set()
    for folder, ending in ((locations.CONFIG_DIR, "toml"), (locations.runtime_dir(), "sock")):
        with contextlib.suppress(OSError):
            found |= {p.stem for p in folder.glob(f"*.{ending}")}
    return sorted(n for n in found if n.startswith(incomplete) and n.isprintable())


def peer_names(context: Context, incomplete: str) -> list[str]:
    """For completion: the running agent's peers, and those of the file."""
    from whalescale import config as configuration
    from whalescale.cli import client

    name = interface_name(context.params.get("interface"))
    names: dict[str, None] = {}
    with contextlib.suppress(CliError):  # no agent, or not for us
        names |= dict.fromkeys(plain(p.name) for p in client.status(name)[0].peers)
    with contextlib.suppress(configuration.ConfigError):
        path = config_path(name, context.params.get("config"))
        names |= dict.fromkeys(p.name for p in configuration.load(path).peers)
    return [n for n in names if n.startswith(incomplete)]


def member_names(context: Context, incomplete: str) -> list[str]:
    """For completion: the network's members, this machine apart."""
    from whalescale.cli import client

    names: list[str] = []
    with contextlib.suppress(CliError):  # no agent, or not for us
        status = client.status(interface_name(context.params.get("interface")))[0]
        names = [plain(m.name) for m in status.network.members if not m.here]
    return [n for n in names if n.startswith(incomplete)]


def exit_names(context: Context, incomplete: str) -> list[str]:
    """For completion: who may be an exit by its name."""
    both = [*peer_names(context, incomplete), *member_names(context, incomplete)]
    return list(dict.fromkeys(both))


Interface = Annotated[
    str | None,
    Option(
        "--interface",
        "-i",
        metavar="NAME",
        help=f"Which one [{locations.DEFAULT_INTERFACE}].",
        autocompletion=interfaces,
    ),
]
ConfigPath = Annotated[
    Path | None,
    Option("--config", "-c", metavar="PATH", help="Its TOML file [/etc/whalescale/NAME.toml]."),
]
PeerArgument = Annotated[
    str,
    Argument(metavar="PEER", help="Its name, or how its key begins.", autocompletion=peer_names),
]
Json = Annotated[bool, Option("--json", help="JSON with a version, for programs.")]
Watch = Annotated[bool, Option("--watch", "-w", help="Again and again.")]
Interval = Annotated[
    float, Option("--interval", "-n", min=0.1, max=3600, help="Seconds between two.")
]
JsonLines = Annotated[bool, Option("--json", help="JSON with a version (--watch: a line each).")]


def interface_name(interface: str | None) -> str:
    """-i, else the one before the subcommand, else WS_INTERFACE, else ws0."""
    name = (
        interface
        or Chosen.interface
        or os.environ.get("WS_INTERFACE")
        or locations.DEFAULT_INTERFACE
    )
    if "/" in name or "\0" in name or name in {".", ".."} or len(os.fsencode(name)) > 15:
        fix = "an interface's name has at most 15 characters and no slash, such as ws0"
        raise CliError(f"{plain(name)!r} cannot be an interface's name", fix, USAGE)
    return name


def config_path(interface: str | None, config: Path | None) -> Path:
    return config if config is not None else locations.config_file(interface_name(interface))


def load_config(interface: str | None, config: Path | None) -> Config:
    """The configuration that -i and --config choose; a contradiction of the two is an error."""
    from whalescale import config as configuration

    path = config_path(interface, config)
    loaded = configuration.load(path)
    chosen = interface or Chosen.interface
    if chosen is not None and loaded.interface.name != chosen:
        raise CliError(
            f"{path} is for {loaded.interface.name}, not for {chosen}",
            "leave -i away, or name the other file with --config",
            USAGE,
        )
    return loaded


def find(status: Status, wanted: str, interface: str) -> Peer:
    """By name, also as DNS has it (`laptop.hearth.internal`), or by the beginning (8 characters or
    more) of its ID, fingerprint or key."""
    exact = [p for p in status.peers if p.name == wanted]
    label, _, zone = wanted.rstrip(".").partition(".")
    if not exact and zone in ("internal", f"{status.network.name}.internal"):
        exact = [p for p in status.peers if p.name == label]
    if not exact and len(wanted) >= 8:
        exact = [
            p
            for p in status.peers
            if any(
                k and k.startswith(wanted) for k in (p.id, p.fingerprint, p.wireguard_public_key)
            )
        ]
    if len(exact) == 1:
        return exact[0]
    # Who comes with a ticket is nobody yet.
    known = [p for p in status.peers if p.name != "ticket" or p.allowed_ips]
    names = ", ".join(plain(p.name) for p in known[:8]) or "none"
    raise CliError(f"{interface} has no peer {plain(wanted)!r}", f"its peers: {names}")


def note(text: str) -> None:
    """A remark beside the result: stderr."""
    print(f"ws: {plain(text)}", file=sys.stderr)


def note_loose_output() -> None:
    """Before a secret is printed: to a file that others may read?"""
    import stat

    with contextlib.suppress(OSError, ValueError):
        info = os.fstat(sys.stdout.fileno())
        if stat.S_ISREG(info.st_mode) and info.st_mode & 0o077:
            note("others may read this file: `chmod 600` it, or write it with `umask 077`")


def print_json(value: dict[str, Any]) -> None:
    import json

    print(json.dumps(value, indent=2 if sys.stdout.isatty() else None), flush=True)


def print_json_lines(
    fetch: Callable[[], dict[str, Any]], interval: float, *, once: bool = False
) -> None:
    """A line of what it gives each interval, until this is interrupted."""
    import json

    while True:
        print(json.dumps(fetch()), flush=True)
        if once:
            return
        time.sleep(interval)


def is_screen(out: Console) -> bool:
    """Whether a live view can be drawn there; else what is shown goes one below the other."""
    return sys.stdout.isatty() and not out.is_dumb_terminal


def console() -> Console:
    """For tables. rich honours NO_COLOR; a pipe gets plain text, as wide as it needs."""
    from rich.console import Console

    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else 120
    return Console(width=width, highlight=False, markup=False, emoji=False)
