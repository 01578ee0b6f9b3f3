"""`ws paths [PEER]`: every path with its figures; `--set` pins what is done with one."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

from whalescale.cli.common import (
    Interface,
    Interval,
    JsonLines,
    Watch,
    console,
    find,
    interface_name,
    is_screen,
    peer_names,
    print_json,
    print_json_lines,
)
from whalescale.cli.ending import USAGE, CliError, plain
from whalescale.cli.options import Argument, Option

if TYPE_CHECKING:
    from typer import Context

    from whalescale.status import Peer
    from whalescale.tui.snapshot import View


def _known(context: Context) -> tuple[Peer, ...]:
    from whalescale.cli import client

    try:
        return client.status(interface_name(context.params.get("interface")))[0].peers
    except CliError:
        return ()  # no agent, or not for us: nothing to complete with


def _path_names(context: Context, incomplete: str) -> list[str]:
    """Numbers and interfaces, of all peers: the word before is not parsed while this one lacks."""
    found: dict[str, None] = {}
    for peer in _known(context):
        if peer.multipath is not None:
            found |= dict.fromkeys(str(p.id) for p in peer.multipath.paths)
            found |= dict.fromkeys(plain(p.interface) for p in peer.multipath.paths)
    return [name for name in found if name and name.startswith(incomplete)]


def paths(
    peer: Annotated[
        str | None,
        Argument(
            metavar="PEER",
            help="Its name, or how its key begins [all].",
            autocompletion=peer_names,
        ),
    ] = None,
    pinned: Annotated[
        str | None,
        Option(
            "--set",
            metavar="PATH",
            help="Pin a path: its number, or all of an interface or local address.",
            autocompletion=_path_names,
        ),
    ] = None,
    tier: Annotated[
        str | None,
        Option(metavar="N|auto", help="Backup: lower goes first [by kind of interface]."),
    ] = None,
    weight_cap: Annotated[
        float | None,
        Option(min=0, max=1, metavar="0..1", help="Its share of the traffic at most."),
    ] = None,
    disable: Annotated[
        bool | None, Option("--disable/--enable", help="Send nothing over it.")
    ] = None,
    reset: Annotated[bool, Option("--reset", help="Take back what was pinned.")] = False,
    watch: Watch = False,
    interval: Interval = 1.0,
    interface: Interface = None,
    json: JsonLines = False,
) -> None:
    """Show the paths to the peers: ws paths berlin --set wwan0 --tier 1"""
    name = interface_name(interface)
    asked = {"tier": tier, "weight_cap": weight_cap, "disabled": disable}
    wanted: dict[str, Any] = {k: v for k, v in asked.items() if v is not None}
    if pinned is None:
        if wanted or reset:
            raise CliError("which path?", "name it with --set PATH; `ws paths` shows them", USAGE)
        _show(name, peer, watch=watch, interval=interval, json=json)
        return
    if peer is None:
        raise CliError("whose path?", "ws paths PEER --set PATH", USAGE)
    if watch:
        raise CliError("--set and --watch exclude each other", "leave one away", USAGE)
    if reset == bool(wanted):
        fix = "give --tier, --weight-cap, --disable or --enable; or --reset alone"
        what = "--reset takes all of it back" if reset else "--set needs something to set"
        raise CliError(what, fix, USAGE)
    if tier is not None:
        wanted["tier"] = _tier(tier)
    _set(name, peer, {"path": pinned, **({"reset": True} if reset else wanted)}, json=json)


def _tier(text: str) -> int | None:
    """None: as the kind of interface has it."""
    if text == "auto":
        return None
    if text.isascii() and text.isdecimal() and int(text[:9]) <= 255:
        return int(text)
    fix = "write a number from 0 (goes first) to 255, or auto"
    raise CliError(f"--tier {plain(text)!r:.40}", fix, USAGE)


def _set(interface: str, peer: str, request: dict[str, Any], *, json: bool) -> None:
    from whalescale import status
    from whalescale.cli import client
    from whalescale.structs import msgspec
    from whalescale.tui import multipath, text

    with client.Connection(interface) as connection:
        name = find(connection.status()[0], peer, interface).name
        answer = connection.call("pin_path", {"peer": name, **request})
    try:
        changed = msgspec.convert(answer.get("paths"), list[status.Path])
    except msgspec.ValidationError as e:
        raise CliError(
            f"the answer of the agent of {interface} cannot be understood: {plain(str(e))}",
            "restart the agent, so that it has the version of this `ws`",
        ) from None
    if json:
        print_json({"version": 1, **answer})
        return
    for path in changed:
        said = multipath.pin_words(path.pin) or "nothing pinned"
        where = f"{path.interface} {multipath.both(path)}".strip()
        print(text.plain(f"{name}: path {path.id}, {where}: {said}"))


def _show(interface: str, peer: str | None, *, watch: bool, interval: float, json: bool) -> None:
    from whalescale.cli import client

    def fetch_raw() -> dict[str, Any]:
        found, raw = client.status(interface)
        name = find(found, peer, interface).name if peer is not None else None
        return {
            "version": 1,
            "peers": [
                {"name": p["name"], "multipath": p.get("multipath")}
                for p in raw.get("peers", [])
                if name in (None, p["name"])
            ],
        }

    if json and watch:
        print_json_lines(fetch_raw, interval)
        return
    if json:
        print_json(fetch_raw())
        return
    from whalescale.tui import render, snapshot

    first = client.status(interface)[0]
    names = [find(first, peer, interface).name] if peer is not None else []
    out = console()
    if not watch:
        out.print(render.paths_of(snapshot.first(first), names, out.width))
        return

    def draw(view: View, width: int, height: int) -> Any:
        return render.paths_screen(view, names, width, height)

    if is_screen(out):
        from whalescale.tui import app

        app.run(out, lambda: client.status(interface)[0], interval, draw)
        return
    view = snapshot.first(first)
    while True:
        out.print(render.paths_of(view, names, out.width))
        sys.stdout.flush()
        time.sleep(interval)
        view = snapshot.advance(view, client.status(interface)[0])
